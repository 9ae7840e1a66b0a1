/* sandbox.c - has the kernel refuse system calls that a server never makes, before the model is
 * read.
 *
 * An attacker able to run code in this process would go on by starting programs, by reading other
 * processes, or through a flaw in a rarely used part of the kernel. A kernel filter (seccomp)
 * answers those calls with EPERM, in all threads and for good. It lists the refused calls instead
 * of the allowed ones, so a new C library or GPU driver keeps working. Access to files and
 * addresses is left to the service manager. */
#include "server/server_internal.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define ARCH AUDIT_ARCH_AARCH64
#elif defined(__riscv) && __riscv_xlen == 64
#define ARCH AUDIT_ARCH_RISCV64
#endif

#ifdef ARCH

enum {
    NAMESPACES = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                 CLONE_NEWPID | CLONE_NEWNET,
    X32_BIT = 0x40000000, /* marks the second numbering of calls on x86-64 */
    MOST_CALLS = 80,
};

static const long starts[] = {SYS_execve, SYS_execveat};

/* Access to other processes, administration of the kernel, and calls with a history of kernel
 * flaws. */
static const long never[] = {
#ifndef FATHOM_SAN /* LeakSanitizer stops threads with it */
    SYS_ptrace,
#endif
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_setns,
    SYS_unshare,
    SYS_open_by_handle_at,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_kexec_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_swapon,
    SYS_swapoff,
    SYS_reboot,
    SYS_acct,
    SYS_quotactl,
    SYS_syslog,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_vhangup,
#ifdef SYS_iopl
    SYS_iopl,
    SYS_ioperm,
    SYS_modify_ldt,
#endif
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_io_uring_setup
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
#endif
#ifdef SYS_open_tree
    SYS_open_tree,
    SYS_move_mount,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
#endif
#ifdef SYS_pidfd_getfd
    SYS_pidfd_getfd,
#endif
};

#define FIELD(name) ((uint32_t)offsetof(struct seccomp_data, name))
#define LOAD(offset) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset)
#define GIVE(what) BPF_STMT(BPF_RET | BPF_K, what)
#define REFUSE(error) GIVE(SECCOMP_RET_ERRNO | (error))
/* Runs the next instruction if the test holds, else skips it. */
#define IF(test, value) BPF_JUMP(BPF_JMP | (test) | BPF_K, (uint32_t)(value), 0, 1)

static unsigned add_calls(struct sock_filter *to, const long *calls, size_t n) {
    unsigned k = 0;
    for (size_t i = 0; i < n; i++) {
        to[k++] = (struct sock_filter)IF(BPF_JEQ, calls[i]);
        to[k++] = (struct sock_filter)REFUSE(EPERM);
    }
    return k;
}

/* Fills `to` and returns its length. */
static unsigned program(struct sock_filter *to, bool forbid_programs) {
    const struct sock_filter head[] = {
        LOAD(FIELD(arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        REFUSE(EPERM), /* 32-bit calls have other numbers */
        LOAD(FIELD(nr)),
#if defined(__x86_64__)
        IF(BPF_JGE, X32_BIT),
        REFUSE(EPERM),
#endif
        /* A filter cannot read the flags of clone3, which lie in memory; C libraries fall back to
         * clone. */
        IF(BPF_JEQ, SYS_clone3),
        REFUSE(ENOSYS),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 4),
        LOAD(FIELD(args[0])),
        IF(BPF_JSET, NAMESPACES),
        REFUSE(EPERM),
        GIVE(SECCOMP_RET_ALLOW),
    };
    unsigned k = 0;
    for (; k < ARRAY_LEN(head); k++)
        to[k] = head[k];
    k += add_calls(to + k, never, ARRAY_LEN(never));
    if (forbid_programs) k += add_calls(to + k, starts, ARRAY_LEN(starts));
    to[k++] = (struct sock_filter)GIVE(SECCOMP_RET_ALLOW);
    return k;
}

/* Returns 0 or an errno. A positive result of the call is the id of a thread that could not
 * join. */
static int install(const struct sock_fprog *filter, unsigned flags) {
    long rc = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, filter);
    return rc == 0 ? 0 : rc > 0 ? EBUSY : errno;
}

int srv_sandbox(bool forbid_programs) {
    struct sock_filter code[2 * MOST_CALLS];
    _Static_assert(ARRAY_LEN(never) + ARRAY_LEN(starts) + 8 <= MOST_CALLS, "the filter's room");
    struct sock_fprog filter = {.filter = code};
    filter.len = (unsigned short)program(code, forbid_programs);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
    unsigned flags = SECCOMP_FILTER_FLAG_TSYNC; /* also for threads that already run */
#ifdef SECCOMP_FILTER_FLAG_SPEC_ALLOW
    /* Kernels before 5.16 slow filtered processes down as a protection from speculation attacks,
     * meant for interpreters of foreign code. */
    if (install(&filter, flags | SECCOMP_FILTER_FLAG_SPEC_ALLOW) == 0) return 0;
#endif
    return install(&filter, flags);
}

#else

int srv_sandbox(bool forbid_programs) {
    (void)forbid_programs;
    return ENOSYS;
}

#endif

/* A driver may start a helper program while a device is opened. */
static bool may_need_programs(const srv *server) {
    const char *device = server->opts.run.device;
    return device == NULL || strcmp(device, "auto") == 0 || strcmp(device, "cuda") == 0;
}

void srv_sandbox_open(const srv *server) {
    if (server->opts.no_sandbox) return;
    int why = srv_sandbox(!may_need_programs(server));
    if (why == 0) {
        log_line(LOG_INFO, "sandbox: system calls that a server never makes are refused");
    } else {
        log_line(LOG_WARN, "no sandbox: the kernel accepts no filter of system calls: %s",
                 strerror(why));
    }
}

void srv_sandbox_loaded(const srv *server) {
    if (server->opts.no_sandbox || !may_need_programs(server)) return;
    int why = srv_sandbox(true);
    if (why && why != ENOSYS) {
        log_line(LOG_WARN, "sandbox: the start of programs could not be refused: %s",
                 strerror(why));
    }
}

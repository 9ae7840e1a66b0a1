/* System calls refused to a server, and calls still allowed. Each test runs in a process of its
 * own, because a filter stays until its process ends. */
#include "server/server_internal.h"
#include "tests/lib/files.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(srv_sandbox, .fini = fail_on_leaks, .timeout = HANGS_S);

static void must_install(bool forbid_programs) {
    int why = srv_sandbox(forbid_programs);
    if (why == ENOSYS || why == EINVAL) cr_skip_test("no filters of system calls here");
    cr_assert_eq(why, 0, "%s", strerror(why));
}

#define REFUSED(call)                                                                              \
    do {                                                                                           \
        errno = 0;                                                                                 \
        cr_assert_eq((long)(call), -1, "%s was allowed", #call);                                   \
        cr_assert_eq(errno, EPERM, "%s: %s", #call, strerror(errno));                              \
    } while (0)

static int run_true(void) {
    char *const argv[] = {(char[]){"true"}, NULL};
    pid_t child = fork();
    if (child == 0) {
        execv("/bin/true", argv);
        _exit(errno == EPERM ? 77 : 78);
    }
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    return WEXITSTATUS(status);
}

Test(srv_sandbox, programs_namespaces_and_kernel_administration_are_refused) {
    must_install(true);
    char *const argv[] = {(char[]){"true"}, NULL};
    REFUSED(execv("/bin/true", argv));
    REFUSED(syscall(SYS_execveat, AT_FDCWD, "/bin/true", argv, NULL, 0));
    cr_assert_eq(run_true(), 77);
#ifndef FATHOM_SAN
    REFUSED(ptrace(PTRACE_TRACEME, 0, NULL, NULL));
#endif
    REFUSED(process_vm_readv(getpid(), NULL, 0, NULL, 0, 0));
    REFUSED(unshare(CLONE_NEWUSER));
    REFUSED(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL));
    REFUSED(syscall(SYS_bpf, 0, NULL, 0));
    REFUSED(syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0));
    REFUSED(syscall(SYS_userfaultfd, 0));
    REFUSED(syscall(SYS_keyctl, 0, 0, 0, 0, 0));
    REFUSED(syscall(SYS_mount, "none", "/", "tmpfs", 0, NULL));
    REFUSED(syscall(SYS_init_module, NULL, 0, ""));
    REFUSED(syscall(SYS_kexec_load, 0, 0, NULL, 0));
#ifdef SYS_io_uring_setup
    REFUSED(syscall(SYS_io_uring_setup, 1, NULL));
#endif
#if defined(__x86_64__)
    long rc; /* the 32-bit way in: getpid there */
    __asm__ volatile("int $0x80" : "=a"(rc) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
    cr_assert(rc == -EPERM || rc == -ENOSYS, "%ld", rc);
#endif
}

static atomic_int stage;

static void *early_thread(void *said) {
    while (atomic_load(&stage) == 0)
        usleep(1000);
    *(long *)said = syscall(SYS_bpf, 0, NULL, 0) == -1 ? errno : 0;
    return NULL;
}

Test(srv_sandbox, threads_that_ran_before_are_held_to_it) {
    pthread_t thread;
    long said = 0;
    cr_assert_eq(pthread_create(&thread, NULL, early_thread, &said), 0);
    must_install(true);
    atomic_store(&stage, 1);
    pthread_join(thread, NULL);
    cr_assert_eq(said, EPERM);
}

Test(srv_sandbox, programs_may_be_refused_later_than_the_rest) {
    must_install(false);
    cr_assert_eq(run_true(), 0);
    REFUSED(syscall(SYS_bpf, 0, NULL, 0));
    must_install(true);
    cr_assert_eq(run_true(), 77);
}

static void *give_back(void *arg) {
    return arg;
}

Test(srv_sandbox, files_memory_sockets_and_threads_are_as_before) {
    must_install(true);
    pthread_t thread;
    void *back;
    cr_assert_eq(pthread_create(&thread, NULL, give_back, &back), 0);
    pthread_join(thread, &back);
    cr_assert_eq(back, (void *)&back);
    tmp_dir d = tmp_dir_create();
    file_put(d.path, "a", "text", 4);
    free(file_get(d.path, "a", NULL));
    tmp_dir_remove(&d);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_geq(fd, 0);
    close(fd);
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_eq(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0, "compiled patterns need this");
    munmap(page, 4096);
    cr_assert_eq(kill(getpid(), 0), 0);
}

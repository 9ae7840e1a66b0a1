/* test_cgroup.c - the limits of control groups, read from folders built like /proc and /sys, and
 * the threads and memory that follow from the limits. */
#include "base/cgroup.h"
#include "base/machine.h"
#include "tests/lib/files.h"
#include "tests/lib/oom.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

TestSuite(cgroup, .fini = fail_on_leaks);

enum { MAX_FILES = 8 };

typedef struct {
    const char *path, *text;
} fake_file;

typedef struct {
    const char *what;
    const char *group, *mounts; /* /proc/self/cgroup and mountinfo; NULL = no such file */
    fake_file files[MAX_FILES];
    double cpus;
    uint64_t memory;
} fake;

#define MB (UINT64_C(1) << 20)
#define V2_TOP "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1(top, root, name)                                                                        \
    "33 30 0:29 " root " " top "/" name " rw,nosuid shared:9 master:2 - cgroup cgroup rw," name "\n"
#define V1_BOTH(top, root) V1(top, root, "cpu,cpuacct") V1(top, root, "memory")
#define CG "/sys/fs/cgroup"

static const fake rows[] = {
    /* version 2 */
    {"v2: a quota and a limit of the group itself",
     "0::/app\n",
     V2_TOP,
     {{CG "/app/cpu.max", "250000 100000\n"}, {CG "/app/memory.max", "314572800\n"}},
     2.5,
     300 * MB},
    {"v2: \"max\" is no limit",
     "0::/app\n",
     V2_TOP,
     {{CG "/app/cpu.max", "max 100000\n"}, {CG "/app/memory.max", "max\n"}},
     0,
     0},
    {"v2: the tightest ancestor binds",
     "0::/pod/app\n",
     V2_TOP,
     {{CG "/pod/app/cpu.max", "400000 100000\n"},
      {CG "/pod/cpu.max", "150000 100000\n"},
      {CG "/pod/app/memory.max", "max\n"},
      {CG "/pod/memory.max", "536870912\n"}},
     1.5,
     512 * MB},
    {"v2: the root of a cgroup namespace is the container's own group",
     "0::/\n",
     V2_TOP,
     {{CG "/cpu.max", "50000 100000\n"}, {CG "/memory.max", "104857600\n"}},
     0.5,
     100 * MB},
    {"v2: memory.high slows a process down to a halt, so it counts",
     "0::/app\n",
     V2_TOP,
     {{CG "/app/memory.max", "314572800\n"}, {CG "/app/memory.high", "209715200\n"}},
     0,
     200 * MB},
    {"v2: a bind mount that begins at the container's group",
     "0::/docker/abc\n",
     "30 20 0:26 /docker/abc " CG " ro - cgroup2 cgroup rw\n",
     {{CG "/cpu.max", "100000 100000\n"}, {CG "/memory.max", "1048576000\n"}},
     1,
     1000 * MB},
    {"v2: a group below a bind mount",
     "0::/docker/abc/inner\n",
     "30 20 0:26 /docker/abc " CG " ro - cgroup2 cgroup rw\n",
     {{CG "/inner/cpu.max", "300000 100000\n"}, {CG "/cpu.max", "200000 100000\n"}},
     2,
     0},
    {"v2: a name that leads out of the namespace leaves the mount's root",
     "0::/../sibling\n",
     V2_TOP,
     {{CG "/cpu.max", "200000 100000\n"}, {"/sys/fs/sibling/cpu.max", "100000 100000\n"}},
     2,
     0},
    {"v2: a group that is gone leaves its ancestors",
     "0::/pod/gone\n",
     V2_TOP,
     {{CG "/pod/memory.max", "104857600\n"}},
     0,
     100 * MB},
    {"v2: a name that only begins like the mount's root is not below it",
     "0::/docker/abcdef\n",
     "30 20 0:26 /docker/abc " CG " ro - cgroup2 cgroup rw\n",
     {{CG "/def/cpu.max", "100000 100000\n"}, {CG "/cpu.max", "300000 100000\n"}},
     3,
     0},
    {"v2: a mount that shows every ancestor goes before one that shows a part",
     "0::/pod/app\n",
     V2_TOP "31 20 0:26 /pod/app /mnt/part rw - cgroup2 cgroup2 rw\n",
     {{CG "/pod/cpu.max", "100000 100000\n"}, {"/mnt/part/cpu.max", "200000 100000\n"}},
     1,
     0},
    {"a mount point with a space in its name",
     "0::/app\n",
     "30 20 0:26 / /sys/fs/c\\040group rw - cgroup2 cgroup2 rw\n",
     {{"/sys/fs/c group/app/cpu.max", "100000 100000\n"}},
     1,
     0},
    /* version 1 */
    {"v1: a quota and a limit of the group itself",
     "7:cpu,cpuacct:/app\n6:memory:/app\n",
     V1_BOTH(CG, "/"),
     {{CG "/cpu,cpuacct/app/cpu.cfs_quota_us", "250000\n"},
      {CG "/cpu,cpuacct/app/cpu.cfs_period_us", "100000\n"},
      {CG "/memory/app/memory.limit_in_bytes", "314572800\n"}},
     2.5,
     300 * MB},
    {"v1: -1 and the counter's end are no limit",
     "7:cpu,cpuacct:/app\n6:memory:/app\n",
     V1_BOTH(CG, "/"),
     {{CG "/cpu,cpuacct/app/cpu.cfs_quota_us", "-1\n"},
      {CG "/cpu,cpuacct/app/cpu.cfs_period_us", "100000\n"},
      {CG "/memory/app/memory.limit_in_bytes", "9223372036854771712\n"}},
     0,
     0},
    {"v1: the tightest ancestor binds",
     "7:cpu,cpuacct:/pod/app\n6:memory:/pod/app\n",
     V1_BOTH(CG, "/"),
     {{CG "/cpu,cpuacct/pod/app/cpu.cfs_quota_us", "-1\n"},
      {CG "/cpu,cpuacct/pod/app/cpu.cfs_period_us", "100000\n"},
      {CG "/cpu,cpuacct/pod/cpu.cfs_quota_us", "75000\n"},
      {CG "/cpu,cpuacct/pod/cpu.cfs_period_us", "50000\n"},
      {CG "/memory/pod/app/memory.limit_in_bytes", "314572800\n"},
      {CG "/memory/pod/memory.limit_in_bytes", "104857600\n"}},
     1.5,
     100 * MB},
    {"v1: a bind mount hides the ancestors, and memory.stat still knows of them",
     "7:cpu,cpuacct:/docker/abc\n6:memory:/docker/abc\n",
     V1_BOTH(CG, "/docker/abc"),
     {{CG "/cpu,cpuacct/cpu.cfs_quota_us", "100000\n"},
      {CG "/cpu,cpuacct/cpu.cfs_period_us", "100000\n"},
      {CG "/memory/memory.limit_in_bytes", "314572800\n"},
      {CG "/memory/memory.stat", "cache 1\nhierarchical_memory_limit 104857600\ntotal_rss 5\n"}},
     1,
     100 * MB},
    {"v1: a mount of another part of the hierarchy is the container's root",
     "7:cpu,cpuacct:/\n6:memory:/\n",
     V1_BOTH(CG, "/docker/abc"),
     {{CG "/cpu,cpuacct/cpu.cfs_quota_us", "100000\n"},
      {CG "/cpu,cpuacct/cpu.cfs_period_us", "50000\n"},
      {CG "/memory/memory.limit_in_bytes", "104857600\n"}},
     2,
     100 * MB},
    {"v1: a controller is a whole word of its list",
     "7:cpuset,cpuacct:/app\n6:name=memory:/app\n",
     V1(CG, "/", "cpuset,cpuacct") V1(CG, "/", "memory"),
     {{CG "/cpuset,cpuacct/app/cpu.cfs_quota_us", "100000\n"},
      {CG "/cpuset,cpuacct/app/cpu.cfs_period_us", "100000\n"},
      {CG "/memory/app/memory.limit_in_bytes", "104857600\n"}},
     0,
     0},
    /* both */
    {"hybrid: version 2 without controllers beside version 1",
     "7:cpu,cpuacct:/app\n6:memory:/app\n0::/app\n",
     V1_BOTH(CG, "/") "40 30 0:38 / " CG "/unified rw - cgroup2 cgroup2 rw\n",
     {{CG "/cpu,cpuacct/app/cpu.cfs_quota_us", "200000\n"},
      {CG "/cpu,cpuacct/app/cpu.cfs_period_us", "100000\n"},
      {CG "/memory/app/memory.limit_in_bytes", "104857600\n"},
      {CG "/unified/app/cgroup.procs", "1\n"}},
     2,
     100 * MB},
    {"hybrid: processors by version 1, memory by version 2",
     "7:cpu,cpuacct:/app\n0::/app\n",
     V1(CG, "/", "cpu,cpuacct") "40 30 0:38 / " CG "/unified rw - cgroup2 cgroup2 rw\n",
     {{CG "/cpu,cpuacct/app/cpu.cfs_quota_us", "200000\n"},
      {CG "/cpu,cpuacct/app/cpu.cfs_period_us", "100000\n"},
      {CG "/unified/app/memory.max", "104857600\n"}},
     2,
     100 * MB},
    /* an unreadable file limits nothing */
    {"no /proc at all", NULL, NULL, {{NULL, NULL}}, 0, 0},
    {"a group but no mounts", "0::/app\n", NULL, {{CG "/app/cpu.max", "1 100000\n"}}, 0, 0},
    {"mounts but no group", "", V2_TOP, {{CG "/cpu.max", "100000 100000\n"}}, 0, 0},
    {"a hierarchy that is not mounted",
     "0::/app\n",
     "22 27 0:21 / /proc rw - proc proc rw\n",
     {{"/app/cpu.max", "100000 100000\n"}},
     0,
     0},
    {"broken lines beside a good one",
     "\n:\n::\n0:/x\n5\n9:memory\n0::/app\n0::relative\n",
     "\n - \nx - cgroup2\n1 2 3 - cgroup2 a b\n" V2_TOP " - cgroup cgroup rw,memory\nlast",
     {{CG "/app/cpu.max", "100000 100000\n"}},
     1,
     0},
    {"values that are no numbers",
     "0::/app\n",
     V2_TOP,
     {{CG "/app/cpu.max", "12x 100000\n"}, {CG "/app/memory.max", "lots\n"}, {CG "/cpu.max", ""}},
     0,
     0},
    {"a quota without its period, and a period of 0",
     "0::/pod/app\n",
     V2_TOP,
     {{CG "/pod/app/cpu.max", "100000\n"}, {CG "/pod/cpu.max", "100000 0\n"}},
     0,
     0},
    {"numbers beyond 64 bits, below 0, and 0",
     "0::/a/b\n",
     V2_TOP,
     {{CG "/a/b/cpu.max", "99999999999999999999999 100000\n"},
      {CG "/a/b/memory.max", "99999999999999999999999\n"},
      {CG "/a/cpu.max", "-5 100000\n"},
      {CG "/a/memory.max", "0\n"},
      {CG "/cpu.max", "0 100000\n"}},
     0,
     0},
    {"a quota of thousands of processors is one",
     "0::/app\n",
     V2_TOP,
     {{CG "/app/cpu.max", "4611686018427387904 1000\n"}},
     4611686018427387.904,
     0},
};

static void make_folders(char *path) {
    for (char *at = path + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = 0;
        (void)mkdir(path, 0777);
        *at = '/';
    }
}

static void put(const tmp_dir *root, const char *path, const char *text) {
    char full[512];
    (void)snprintf(full, sizeof full, "%s%s", root->path, path);
    make_folders(full);
    file_put(root->path, path + 1, text, strlen(text));
}

static tmp_dir build(const fake *row) {
    tmp_dir root = tmp_dir_create();
    if (row->group) put(&root, "/proc/self/cgroup", row->group);
    if (row->mounts) put(&root, "/proc/self/mountinfo", row->mounts);
    for (size_t i = 0; i < MAX_FILES && row->files[i].path; i++)
        put(&root, row->files[i].path, row->files[i].text);
    return root;
}

Test(cgroup, each_arrangement_gives_the_limits_it_holds) {
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const fake *row = &rows[i];
        tmp_dir root = build(row);
        cgroup_limits limits;
        cgroup_read(&limits, root.path);
        cr_expect(fabs(limits.cpus - row->cpus) <= 1e-9 * row->cpus,
                  "%s: %g processors, expected %g", row->what, limits.cpus, row->cpus);
        cr_expect_eq(limits.memory, row->memory, "%s: %llu bytes, expected %llu", row->what,
                     (unsigned long long)limits.memory, (unsigned long long)row->memory);
        tmp_dir_remove(&root);
    }
}

Test(cgroup, groups_nested_hundreds_deep_are_all_read) {
    char name[1200] = "", file[1400], group[1300];
    for (int i = 0; i < 500; i++)
        memcpy(name + 2 * i, "/a", 3);
    tmp_dir root = tmp_dir_create();
    (void)snprintf(group, sizeof group, "0::%s\n", name);
    put(&root, "/proc/self/cgroup", group);
    put(&root, "/proc/self/mountinfo", "30 20 0:26 / / rw - cgroup2 cgroup2 rw\n");
    name[2 * 150] = 0; /* file_put's paths are shorter */
    (void)snprintf(file, sizeof file, "%s/cpu.max", name);
    put(&root, file, "300000 100000\n");
    put(&root, "/a/cpu.max", "700000 100000\n");
    cgroup_limits limits;
    cgroup_read(&limits, root.path);
    cr_assert_eq(limits.cpus, 3);
    tmp_dir_remove(&root);
}

Test(cgroup, names_longer_than_a_path_limit_nothing) {
    tmp_dir root = tmp_dir_create();
    size_t n = 10000;
    char *group = malloc(n + 8);
    cr_assert_not_null(group);
    memcpy(group, "0::/", 4);
    memset(group + 4, 'a', n);
    memcpy(group + n, "\n", 2);
    put(&root, "/proc/self/cgroup", group);
    put(&root, "/proc/self/mountinfo", V2_TOP);
    put(&root, CG "/cpu.max", "100000 100000\n");
    cgroup_limits limits;
    cgroup_read(&limits, root.path);
    cr_assert_eq(limits.cpus, 0);
    free(group);
    tmp_dir_remove(&root);
}

Test(cgroup, memory_running_out_leaves_no_leak_and_no_made_up_limit) {
    tmp_dir root = build(&rows[0]);
    bool refused = true;
    for (int for_ever = 0; for_ever < 2; for_ever++) {
        long n = 0;
        do {
            cgroup_limits limits;
            oom_after(n++, for_ever);
            cgroup_read(&limits, root.path);
            refused = oom_stop();
            cr_assert(limits.cpus == 0 || limits.cpus == 2.5, "%g", limits.cpus);
            cr_assert(limits.memory == 0 || limits.memory == 300 * MB);
            cr_assert(refused || limits.cpus == 2.5);
        } while (refused);
        cr_assert_gt(n, 3);
    }
    tmp_dir_remove(&root);
}

/* ---- threads and memory from the limits ---- */

Test(cgroup, threads_are_the_smaller_of_cores_and_quota_rounded_down_and_at_least_one) {
    static const struct {
        uint32_t cores;
        double quota;
        uint32_t threads;
        const char *why;
    } cases[] = {
        {4, 0, 4, "4 cores"},
        {4, 2.5, 2, "4 cores, cgroup quota 2.5"},
        {4, 4, 4, "4 cores, cgroup quota 4"},
        {2, 7.9, 2, "2 cores, cgroup quota 7.9"},
        {8, 0.25, 1, "8 cores, cgroup quota 0.25"},
        {1, 1e-9, 1, "1 core, cgroup quota 1e-09"},
        {64, 4.6e15, 64, "64 cores, cgroup quota 4.6e+15"},
        {64, 1.999999, 1, "64 cores, cgroup quota 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        machine host = {.cores = cases[i].cores, .cgroup.cpus = cases[i].quota};
        char why[64];
        cr_expect_eq(machine_threads(&host), cases[i].threads, "%s: %u", cases[i].why,
                     machine_threads(&host));
        cr_expect_str_eq(machine_why_threads(&host, why), cases[i].why);
    }
}

Test(cgroup, memory_is_the_smaller_of_the_host_and_the_limit) {
    const machine none = {.memory = 8000}, tight = {.memory = 8000, .cgroup.memory = 300},
                  wide = {.memory = 8000, .cgroup.memory = 9000}, blind = {.cgroup.memory = 300};
    cr_assert_eq(machine_memory(&none), 8000);
    cr_assert_eq(machine_memory(&tight), 300);
    cr_assert_eq(machine_memory(&wide), 8000);
    cr_assert_eq(machine_memory(&blind), 300);
}

Test(cgroup, this_machine_has_a_core_and_memory) {
    machine host;
    machine_read(&host);
    cr_assert(host.cores >= 1 && host.memory > 0);
    cr_assert(machine_threads(&host) >= 1 && machine_threads(&host) <= host.cores);
}

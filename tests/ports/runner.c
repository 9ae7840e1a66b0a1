/* runner.c - runs the tests of build/MODE/unit without Criterion's library: a fork for each test.
 *
 * Criterion starts every test as a new program, and qemu's user mode starts no program of another
 * architecture unless the kernel is told to. So the tests are linked with this file instead, and it
 * defines the functions that Criterion's macros call. Options: --filter PATTERN, -jN,
 * --slow SECONDS, --patience TIMES.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <fnmatch.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STATUS_FAILED = 97, STATUS_SKIPPED = 98, MAX_JOBS = 64 };

/* Test and TestSuite leave their pointers in sections, and the linker names the ends of these. */
extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[], *__stop_cr_sts[];

struct criterion_options criterion_options;

/* In the process of a test. */
static const struct criterion_test *current;
static void *parameter; /* NULL: the test has none */
static bool failed;

/* ---- the functions of Criterion's macros ---- */

int cr_asprintf(char **out, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vasprintf(out, fmt, args);
    va_end(args);
    return n;
}

void cr_asprintf_free(char *text) {
    free(text);
}

char *cr_translate_assert_msg(int kind, ...) {
    va_list args;
    va_start(args, kind);
    const char *what = kind == CRITERION_ASSERT_MSG_FAIL ? "" : va_arg(args, const char *);
    va_end(args);
    char *text = NULL;
    return asprintf(&text, "the assertion does not hold: %s", what) < 0 ? NULL : text;
}

void cri_asserts_passed_incr(void) {}

void criterion_send_assert(struct criterion_assert_stats *assertion) {
    if (assertion->passed) return;
    failed = true;
    fprintf(stderr, "[----] %s:%u: %s/%s: %s\n", assertion->file, assertion->line,
            current->category, current->name, assertion->message ? assertion->message : "");
}

void criterion_abort_test(void) {
    fflush(NULL);
    _exit(STATUS_FAILED);
}

void criterion_continue_test(void) {}

void criterion_skip_test(const char *fmt, ...) {
    (void)fmt;
    _exit(STATUS_SKIPPED);
}

void cr_log(enum criterion_severity severity, const char *msg, ...) {
    (void)severity, (void)msg;
}

static const struct criterion_test_extra_data *suite_data(const struct criterion_test *test) {
    for (struct criterion_suite **s = __start_cr_sts; s < __stop_cr_sts; s++)
        if (strcmp((*s)->name, test->category) == 0) return (*s)->data;
    return NULL;
}

void criterion_internal_test_setup(void) {
    const struct criterion_test_extra_data *suite = suite_data(current);
    if (suite && suite->init) suite->init();
    if (current->data->init) current->data->init();
}

void criterion_internal_test_main(void (*run)(void)) {
    if (parameter) ((void (*)(void *))run)(parameter);
    else run();
}

void criterion_internal_test_teardown(void) {
    const struct criterion_test_extra_data *suite = suite_data(current);
    if (current->data->fini) current->data->fini();
    if (suite && suite->fini) suite->fini();
}

/* ---- the runner ---- */

typedef struct {
    pid_t pid; /* 0: free */
    const struct criterion_test *test;
    struct timespec started;
} job;

static struct {
    job jobs[MAX_JOBS];
    int n_jobs;
    double slow_s;   /* longer tests are named; 0: no test is */
    double patience; /* times the limits of the tests */
    unsigned tested, passed, failed, crashed, skipped;
} runner = {.n_jobs = 1, .patience = 1};

static double seconds_since(const struct timespec *from) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - from->tv_sec) + (double)(now.tv_nsec - from->tv_nsec) / 1e9;
}

static _Noreturn void run_here(const struct criterion_test *test, void *with) {
    const struct criterion_test_extra_data *suite = suite_data(test);
    double limit = test->data->timeout > 0 ? test->data->timeout : suite ? suite->timeout : 0;
    if (limit > 0) alarm((unsigned)ceil(limit * runner.patience));
    current = test;
    parameter = with;
    test->test();
    fflush(NULL);
    _exit(failed ? STATUS_FAILED : 0);
}

static void judge(const job *done, int status) {
    const struct criterion_test_extra_data *data = done->test->data;
    double took = seconds_since(&done->started);
    const char *verdict = NULL;
    if (WIFEXITED(status) && WEXITSTATUS(status) == STATUS_SKIPPED) {
        runner.skipped++;
        return;
    }
    runner.tested++;
    if (WIFSIGNALED(status)) {
        if (WTERMSIG(status) == data->signal) runner.passed++;
        else runner.crashed++, verdict = WTERMSIG(status) == SIGALRM ? "TIMEOUT" : "CRASH";
    } else if (WEXITSTATUS(status) == data->exit_code && data->signal == 0) {
        runner.passed++;
    } else {
        runner.failed++, verdict = "FAIL";
    }
    if (verdict)
        fprintf(stderr, "[%s] %s/%s: %s %d, %.1f s\n", verdict, done->test->category,
                done->test->name, WIFSIGNALED(status) ? "signal" : "exit status",
                WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), took);
    if (runner.slow_s > 0 && took > runner.slow_s)
        printf("%6.1f s  %s/%s\n", took, done->test->category, done->test->name);
}

/* Waits for a job to end, and returns it free. NULL: no job runs. */
static job *wait_for_job(void) {
    int status;
    pid_t pid = wait(&status);
    for (int i = 0; i < runner.n_jobs && pid > 0; i++) {
        if (runner.jobs[i].pid != pid) continue;
        judge(&runner.jobs[i], status);
        runner.jobs[i].pid = 0;
        return &runner.jobs[i];
    }
    return NULL;
}

static void start(const struct criterion_test *test, void *with) {
    job *slot = NULL;
    for (int i = 0; i < runner.n_jobs; i++)
        if (runner.jobs[i].pid == 0) slot = &runner.jobs[i];
    if (slot == NULL) slot = wait_for_job();
    fflush(NULL);
    slot->test = test;
    clock_gettime(CLOCK_MONOTONIC, &slot->started);
    slot->pid = fork();
    if (slot->pid == 0) run_here(test, with);
    if (slot->pid < 0) {
        perror("fork");
        exit(1);
    }
}

static void start_all(const struct criterion_test *test) {
    if (test->data->kind_ != CR_TEST_PARAMETERIZED) {
        start(test, NULL);
        return;
    }
    struct criterion_test_params list = test->data->param_();
    for (size_t i = 0; i < list.length; i++)
        start(test, (char *)list.params + i * list.size);
}

static bool wanted(const struct criterion_test *test, int argc, char **argv) {
    char name[512];
    bool any = false;
    snprintf(name, sizeof name, "%s/%s", test->category, test->name);
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], "--filter") != 0) continue;
        any = true;
        if (fnmatch(argv[i + 1], name, 0) == 0) return true;
    }
    return !any;
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "-j", 2) == 0) runner.n_jobs = atoi(argv[i] + 2);
        else if (strcmp(argv[i], "--slow") == 0 && i + 1 < argc) runner.slow_s = atof(argv[++i]);
        else if (strcmp(argv[i], "--patience") == 0 && i + 1 < argc)
            runner.patience = atof(argv[++i]);
        else if (strcmp(argv[i], "--filter") == 0) i++;
        else {
            fprintf(
                stderr,
                "usage: %s [-jN] [--slow SECONDS] [--patience TIMES] [--filter SUITE/TEST]...\n",
                argv[0]);
            return 2;
        }
    }
    if (runner.n_jobs < 1 || runner.n_jobs > MAX_JOBS) runner.n_jobs = 1;
    for (struct criterion_test **t = __start_cr_tst; t < __stop_cr_tst; t++) {
        if (!(*t)->data->disabled && wanted(*t, argc, argv)) start_all(*t);
    }
    while (wait_for_job() != NULL) {
    }
    printf(
        "[====] Synthesis: Tested: %u | Passing: %u | Failing: %u | Crashing: %u | Skipped: %u\n",
        runner.tested, runner.passed, runner.failed, runner.crashed, runner.skipped);
    return runner.tested == 0 || runner.failed + runner.crashed > 0;
}

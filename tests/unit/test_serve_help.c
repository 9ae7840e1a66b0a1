/* `fathom serve --help`: every default it names is in force. */
#include "cli/cli.h"
#include "scheduler/scheduler_internal.h"
#include "server/server.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(serve_help, .fini = fail_on_leaks);

static void drop_event(void *ud, const sched_event *ev) {
    (void)ud, (void)ev;
}

/* The value that an absent option gets in the runtime and the scheduler. */
static double resolved(const char *name) {
    runtime rt;
    scheduler *sched;
    err e = {0};
    const runtime_opts opts = {.model = "models/demo", .device = "fake"};
    double value = -1;
    cr_assert_eq(runtime_open(&rt, &opts, &e), 0, "%s", e.msg);
    cr_assert_eq(sched_create(&sched, rt.backend, &rt.sched, drop_event, NULL, &e), 0, "%s", e.msg);
    const sched_opts *in = &sched->limits.opts;
    const struct {
        const char *name;
        double value;
    } known[] = {
        {"--max-rows", in->max_rows},
        {"--max-running", in->max_running},
        {"--wait-bound", in->wait_bound},
        {"--chunk", in->chunk ? in->chunk : SCHED_CHUNK},
        {"--max-queue", in->max_queue},
        {"--max-queue-tokens", (double)in->max_queue_tokens},
        {"--fake-us-per-token", 0},
        {"--lame-duck-seconds", 0},
        {"--draft-loops", in->draft_loops},
        {"--speculate", in->drafts},
        {"--rank-seconds", ENG_RANKS_PATIENCE_S},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(known[i].name, name) == 0) value = known[i].value;
    }
    sched_destroy(sched);
    runtime_close(&rt);
    cr_assert_geq(value, 0, "%s: add its default to this table", name);
    return value;
}

static double number(const char *text) {
    char *end;
    double value = strtod(text, &end);
    return *end == 'K'   ? value * 1024
           : *end == 'M' ? value * 1048576
           : *end == 'G' ? value * 1073741824
                         : value;
}

static double in_force(const opt_row *opt) {
    double value = opt->type == OPT_REAL ? *(double *)opt->out : (double)*(uint64_t *)opt->out;
    return value == 0 || value == SERVER_UNSET ? resolved(opt->name) : value;
}

static bool is_number(const opt_row *opt) {
    return opt->type == OPT_UINT || opt->type == OPT_BYTES || opt->type == OPT_REAL;
}

static void check_row(const opt_row *opt) {
    const char *at = strstr(opt->help, "(default ");
    if (at == NULL) return;
    at += strlen("(default ");
    if (is_number(opt)) {
        cr_assert_eq(number(at), in_force(opt), "%s: help says %s, in force is %g", opt->name, at,
                     in_force(opt));
    } else if (opt->type == OPT_TEXT || opt->type == OPT_CHOICE) {
        const char *have = *(const char **)opt->out;
        size_t n = strcspn(at, "):");
        if (have) {
            cr_assert(strlen(have) == n && memcmp(have, at, n) == 0,
                      "%s: help says %s, in force %s", opt->name, at, have);
        } else {
            cr_assert_eq(opt->type, OPT_CHOICE, "%s names a default that nothing sets", opt->name);
            char word[32];
            snprintf(word, sizeof word, "%.*s", (int)n, at);
            cr_assert_not_null(strstr(opt->meta, word), "%s: %s is no choice", opt->name, word);
            if (strcmp(opt->name, "--speculate") == 0)
                cr_assert_eq(resolved(opt->name), SCHED_DRAFTS_AUTO, "help says %s", word);
        }
    }
}

static size_t n_checked;

static void check_all(void *ud, const opt_command *command) {
    (void)ud;
    for (size_t i = 0; i < command->n_options; i++) {
        const opt_row *opt = &command->options[i];
        if (opt->type == OPT_MARK) continue;
        check_row(opt);
        n_checked++;
        /* Every number has a default, which the help gives. */
        if (is_number(opt)) {
            cr_assert(strstr(opt->help, "default"), "%s: no default", opt->name);
        }
    }
}

Test(serve_help, every_default_that_it_names_is_in_force) {
    opt_args args = {.show = check_all};
    cr_assert_eq(cmd_serve(&args), 0);
    cr_assert_gt(n_checked, 40);
}

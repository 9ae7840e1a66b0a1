/* `fathom serve --help`: every default it names is in force. */
#include "cli/serve.h"
#include "scheduler/scheduler_internal.h"
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
    runtime r;
    scheduler *s;
    err e = {0};
    const runtime_opts o = {.model = "models/demo", .device = "fake"};
    double value = -1;
    cr_assert_eq(runtime_open(&r, &o, &e), 0, "%s", e.msg);
    cr_assert_eq(sched_create(&s, r.backend, &r.sched, drop_event, NULL, &e), 0, "%s", e.msg);
    const sched_opts *in = &s->limits.opts;
    const struct {
        const char *name;
        double value;
    } known[] = {
        {"--max-rows", in->max_rows},     {"--max-running", in->max_running},
        {"--wait-bound", in->wait_bound}, {"--chunk", in->chunk ? in->chunk : SCHED_CHUNK},
        {"--max-queue", in->max_queue},   {"--max-queue-tokens", (double)in->max_queue_tokens},
        {"--fake-us-per-token", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (strcmp(known[i].name, name) == 0) value = known[i].value;
    }
    sched_destroy(s);
    runtime_close(&r);
    cr_assert_geq(value, 0, "%s: add what it stands for when it is not given to this table", name);
    return value;
}

static double number(const char *text) {
    char *end;
    double v = strtod(text, &end);
    return *end == 'K' ? v * 1024 : *end == 'M' ? v * 1048576 : *end == 'G' ? v * 1073741824 : v;
}

static double in_force(const opt_row *o) {
    double v = o->type == OPT_REAL ? *(double *)o->out : (double)*(uint64_t *)o->out;
    return v == 0 || v == SERVER_UNSET ? resolved(o->name) : v;
}

static bool is_number(const opt_row *o) {
    return o->type == OPT_UINT || o->type == OPT_BYTES || o->type == OPT_REAL;
}

static void check_row(const opt_row *o) {
    const char *at = strstr(o->help, "(default ");
    if (at == NULL) return;
    at += strlen("(default ");
    if (is_number(o)) {
        cr_assert_eq(number(at), in_force(o), "%s: help says %s, in force is %g", o->name, at,
                     in_force(o));
    } else if (o->type == OPT_TEXT || o->type == OPT_CHOICE) {
        const char *have = *(const char **)o->out;
        size_t n = strcspn(at, "):");
        if (have) {
            cr_assert(strlen(have) == n && memcmp(have, at, n) == 0,
                      "%s: help says %s, in force %s", o->name, at, have);
        } else {
            cr_assert_eq(o->type, OPT_CHOICE, "%s names a default that nothing sets", o->name);
            char word[32];
            snprintf(word, sizeof word, "%.*s", (int)n, at);
            cr_assert_not_null(strstr(o->meta, word), "%s: %s is no choice", o->name, word);
        }
    }
}

static size_t n_checked;

static int check_all(const opt_command *c, int argc, char **argv) {
    (void)argc, (void)argv;
    for (size_t i = 0; i < c->n_options; i++) {
        const opt_row *o = &c->options[i];
        check_row(o);
        n_checked++;
        /* Every number has a default: the help gives it, or calls the option an older name. */
        if (is_number(o)) {
            cr_assert(strstr(o->help, "default") || strstr(o->help, "older name"), "%s: no default",
                      o->name);
        }
    }
    return 0;
}

Test(serve_help, every_default_that_it_names_is_in_force) {
    server_opts o = server_opts_default();
    cr_assert_eq(serve_options(&o, 0, NULL, check_all), 0);
    cr_assert_gt(n_checked, 40);
}

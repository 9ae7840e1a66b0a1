/* `fathom bench --help`: every default in the help is the one in force. */
#include "loadgen/flags_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(bench_help, .fini = fail_on_leaks);

static double in_force(const opt_row *o) {
    if (o->type == OPT_REAL) return *(double *)o->out;
    return o->type == OPT_INT ? (double)*(int64_t *)o->out : (double)*(uint64_t *)o->out;
}

static bool is_number(const opt_row *o) {
    return o->type == OPT_UINT || o->type == OPT_INT || o->type == OPT_REAL;
}

/* The number for "not given" is outside the range of the option. */
static void check_number(const opt_row *o, const char *says) {
    char *end;
    double told = strtod(says, &end), have = in_force(o);
    if (end != says) {
        cr_assert_eq(told, have, "%s: help says %g, in force is %g", o->name, told, have);
    } else {
        cr_assert(have < o->min || have > o->max || have == 0, "%s: %g is in force, help says %s",
                  o->name, have, says);
    }
}

static void check_text(const opt_row *o, const char *says) {
    const char *have = *(const char **)o->out;
    if (have == NULL) return; /* "the first of /v1/models": in words */
    size_t n = strcspn(says, "):");
    cr_assert(strlen(have) == n && memcmp(have, says, n) == 0, "%s: help says %s, in force %s",
              o->name, says, have);
}

static int check_all(const opt_command *c, int argc, char **argv) {
    (void)argc, (void)argv;
    for (size_t i = 0; i < c->n_options; i++) {
        const opt_row *o = &c->options[i];
        const char *at = strstr(o->help, "(default ");
        if (at && is_number(o)) check_number(o, at + strlen("(default "));
        if (at && (o->type == OPT_TEXT || o->type == OPT_CHOICE))
            check_text(o, at + strlen("(default "));
        /* A number always has a default: the help gives it, or names the option it comes from. */
        if (is_number(o)) {
            cr_assert(strstr(o->help, "default") || strstr(o->help, "other name of"),
                      "%s: no default", o->name);
        }
    }
    return (int)c->n_options;
}

Test(bench_help, every_default_that_it_names_is_in_force) {
    bench_flags f = bench_flags_default();
    cr_assert_gt(bench_flags_read(&f, 0, NULL, check_all), 60);
}

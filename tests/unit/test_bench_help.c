/* `fathom bench --help`: every default in the help is the one in force. */
#include "loadgen/flags_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(bench_help, .fini = fail_on_leaks);

static double in_force(const opt_row *opt) {
    if (opt->type == OPT_REAL) return *(double *)opt->out;
    return opt->type == OPT_INT ? (double)*(int64_t *)opt->out : (double)*(uint64_t *)opt->out;
}

static bool is_number(const opt_row *opt) {
    return opt->type == OPT_UINT || opt->type == OPT_INT || opt->type == OPT_REAL;
}

/* The number for "not given" is outside the range of the option. */
static void check_number(const opt_row *opt, const char *says) {
    char *end;
    double told = strtod(says, &end), have = in_force(opt);
    if (end != says) {
        cr_assert_eq(told, have, "%s: help says %g, in force is %g", opt->name, told, have);
    } else {
        cr_assert(have < opt->min || have > opt->max || have == 0,
                  "%s: %g is in force, help says %s", opt->name, have, says);
    }
}

static void check_text(const opt_row *opt, const char *says) {
    const char *have = *(const char **)opt->out;
    if (have == NULL) return; /* "the first of /v1/models": in words */
    size_t n = strcspn(says, "):");
    cr_assert(strlen(have) == n && memcmp(have, says, n) == 0, "%s: help says %s, in force %s",
              opt->name, says, have);
}

static size_t n_rows;

static void check_all(void *ud, const opt_command *cmd) {
    (void)ud;
    for (size_t i = 0; i < cmd->n_options; i++) {
        const opt_row *opt = &cmd->options[i];
        if (opt->type == OPT_MARK) continue;
        const char *at = strstr(opt->help, "(default ");
        if (at && is_number(opt)) check_number(opt, at + strlen("(default "));
        if (at && (opt->type == OPT_TEXT || opt->type == OPT_CHOICE))
            check_text(opt, at + strlen("(default "));
        /* Every number has a default, which the help gives. */
        if (is_number(opt)) {
            cr_assert(strstr(opt->help, "default"), "%s: no default", opt->name);
        }
    }
    n_rows = cmd->n_options;
}

Test(bench_help, every_default_that_it_names_is_in_force) {
    bench_flags flags = bench_flags_default();
    opt_args args = {.show = check_all};
    cr_assert_eq(bench_flags_read(&flags, &args), 1);
    cr_assert_gt(n_rows, 60);
}

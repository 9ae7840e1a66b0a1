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

static int check_all(const opt_command *cmd, int argc, char **argv) {
    (void)argc, (void)argv;
    for (size_t i = 0; i < cmd->n_options; i++) {
        const opt_row *opt = &cmd->options[i];
        const char *at = strstr(opt->help, "(default ");
        if (at && is_number(opt)) check_number(opt, at + strlen("(default "));
        if (at && (opt->type == OPT_TEXT || opt->type == OPT_CHOICE))
            check_text(opt, at + strlen("(default "));
        /* A number always has a default: the help gives it, or names the option it comes from. */
        if (is_number(opt)) {
            cr_assert(strstr(opt->help, "default") || strstr(opt->help, "other name of"),
                      "%s: no default", opt->name);
        }
    }
    return (int)cmd->n_options;
}

Test(bench_help, every_default_that_it_names_is_in_force) {
    bench_flags flags = bench_flags_default();
    cr_assert_gt(bench_flags_read(&flags, 0, NULL, check_all), 60);
}

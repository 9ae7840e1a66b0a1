/* --speculate and --draft-loops: what they set in the scheduler, and where they are refused. */
#include "runtime/runtime.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(speculate, .fini = fail_on_leaks);

Test(speculate, each_value_becomes_a_setting_of_the_scheduler) {
    static const struct {
        runtime_opts opts;
        uint32_t drafts, loops;
    } rows[] = {
        {{.speculate = NULL}, SCHED_DRAFTS_AUTO, 0},
        {{.speculate = "auto", .draft_loops = 2}, SCHED_DRAFTS_AUTO, 2},
        {{.speculate = "off"}, 0, 0},
        {{.speculate = "off", .batching = "full"}, 0, 0},
        {{.speculate = "1"}, 1, 0},
        {{.speculate = "64", .halted_kv = "last"}, 64, 0},
        {{.speculate = "7", .halted_kv = "exact", .max_loops = 4, .draft_loops = 4}, 7, 4},
        /* These never guess. */
        {{.halted_kv = "collapse"}, 0, 0},
        {{.speculate = "auto", .batching = "lockstep"}, 0, 0},
        {{.speculate = "auto", .batching = "full"}, 0, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        runtime rt;
        err e = {0};
        runtime_opts opts = rows[i].opts;
        opts.model = "models/demo";
        opts.device = "fake";
        cr_assert_eq(runtime_open(&rt, &opts, &e), 0, "row %zu: %s", i, e.msg);
        cr_assert_eq(rt.sched.drafts, rows[i].drafts, "row %zu", i);
        cr_assert_eq(rt.sched.draft_loops, rows[i].loops, "row %zu", i);
        runtime_close(&rt);
    }
}

Test(speculate, a_number_is_refused_where_no_token_is_ever_guessed) {
    static const struct {
        runtime_opts opts;
        const char *param, *says;
    } rows[] = {
        {{.speculate = "3", .halted_kv = "collapse"},
         "--speculate",
         "--speculate 3 does not go with --halted-kv collapse"},
        {{.speculate = "3", .batching = "lockstep"},
         "--speculate",
         "does not go with --batching lockstep"},
        {{.speculate = "3", .batching = "full"},
         "--speculate",
         "does not go with --batching full, which never guesses tokens ahead; give --speculate "
         "auto or off"},
        {{.draft_loops = 200}, "--draft-loops", "--draft-loops 200: a token of this model runs at"},
        {{.speculate = "2", .draft_loops = 200}, "--draft-loops", "at most"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        runtime rt;
        err e = {0};
        runtime_opts opts = rows[i].opts;
        opts.model = "models/demo";
        opts.device = "fake";
        cr_assert_neq(runtime_open(&rt, &opts, &e), 0, "row %zu was accepted", i);
        cr_assert_eq(e.code, ERR_USAGE);
        cr_assert_str_eq(e.param, rows[i].param);
        cr_assert_not_null(strstr(e.msg, rows[i].says), "row %zu: %s", i, e.msg);
    }
}

/* rules.c - from mode and policy to rules. */
#include "scheduler/rules.h"

int sched__rules_init(rule_set *out, const sched_opts *opts, err *e) {
    bool depthwise = opts->batching == SCHED_DEPTHWISE, full = opts->batching == SCHED_FULL;
    bool exact = opts->halted_kv == KV_EXACT;
    if (full && !exact) {
        return err_set(e, ERR_BAD_PARAM, "batching",
                       "full computes every loop of every row, which is what policy exact means; "
                       "it does not go with last");
    }
    *out = (rule_set){.flush = depthwise ? FLUSH_BY_COST
                               : full    ? FLUSH_WHEN_NONE_LOOPS
                                         : FLUSH_WHEN_ALL_HALTED,
                      .tails = exact,
                      .tails_park = depthwise && exact,
                      /* A block in the prefix cache must hold every loop. */
                      .prompt_tails_park = depthwise && exact && !opts->prefix_cache,
                      .tails_end_early = !full,
                      .last_stands_in = !exact,
                      .prelude_at_once = depthwise,
                      .batch_stays_whole = !depthwise};
    return 0;
}

/* rules.c - from mode and policy to rules. */
#include "scheduler/rules.h"

int sched__rules_init(rule_set *out, const sched_opts *opts, err *e) {
    bool depthwise = opts->batching == SCHED_DEPTHWISE, full = opts->batching == SCHED_FULL;
    bool last = opts->halted_kv == KV_LAST, collapse = opts->halted_kv == KV_COLLAPSE;
    if (full && (last || collapse)) {
        return err_set(e, ERR_BAD_PARAM, "batching",
                       "full computes every loop of every row, which is what policy exact means; "
                       "it does not go with %s",
                       kv_policy_name(opts->halted_kv));
    }
    if (collapse && !depthwise) {
        return err_set(e, ERR_BAD_PARAM, "batching",
                       "policy collapse goes with depthwise batching only");
    }
    *out = (rule_set){.flush = depthwise ? FLUSH_BY_COST
                               : full    ? FLUSH_WHEN_NONE_LOOPS
                                         : FLUSH_WHEN_ALL_HALTED,
                      .tails = !last,
                      .tails_park = depthwise && !last,
                      /* A block in the prefix cache must hold every loop. Under collapse the rows
                       * of parked prompt tails would never come back. */
                      .prompt_tails_park = depthwise && !last && !collapse && !opts->prefix_cache,
                      .tails_end_early = !full,
                      .last_stands_in = last,
                      .collapses = collapse,
                      .drafts = depthwise && !collapse && opts->drafts > 0,
                      .prelude_at_once = depthwise,
                      .batch_stays_whole = !depthwise};
    return 0;
}

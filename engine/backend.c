/* backend.c - what all backends share: their options, ending one, and the launch that waits. */
#include "engine/backend_internal.h"

enum { MOST_ROWS = 1 << 24 };

int eng__check_opts(eng_backend_opts *o, const model_plan *c, const eng__limits *most, err *e) {
    if (o->max_loops == 0) o->max_loops = c->max_loop_iters;
    if (o->max_positions == 0) o->max_positions = c->max_seq_len;
    if (o->n_rows == 0) o->n_rows = most->default_rows;
    if (o->max_launch == 0 || o->max_launch > o->n_rows) o->max_launch = o->n_rows;
    if (o->max_launch > most->launch) o->max_launch = most->launch;
    if (o->max_logits == 0 || o->max_logits > o->max_launch) o->max_logits = o->max_launch;
    if (o->max_loops > PLAN_MAX_LOOPS) {
        return err_set(e, ERR_USAGE, "max_loops", "%u loops asked for; at most %d", o->max_loops,
                       PLAN_MAX_LOOPS);
    }
    if (o->cache_dtype != DTYPE_F32 && o->cache_dtype != DTYPE_BF16) {
        return err_set(e, ERR_USAGE, "cache_dtype", "the cache holds float32 or bfloat16");
    }
    if (o->weights != ENG_WEIGHTS_AS_STORED && o->weights != ENG_WEIGHTS_INT8) {
        return err_set(e, ERR_USAGE, "weights", "weights are kept as stored or in int8");
    }
    if (o->n_rows > MOST_ROWS) {
        return err_set(e, ERR_USAGE, "n_rows", "%u row states asked for; at most %d", o->n_rows,
                       MOST_ROWS);
    }
    if (o->max_positions > most->positions) {
        return err_set(e, ERR_USAGE, "max_positions", "%u positions asked for; at most %u",
                       o->max_positions, most->positions);
    }
    return 0;
}

void eng_backend_close(eng_backend *b) {
    if (b) b->ops->close(b);
}

int eng_run(eng_backend *b, const eng_launch *l, eng_result *r, err *e) {
    if (b->ops->launch(b, l, e) != 0) return -1;
    return b->ops->wait(b, r, e);
}

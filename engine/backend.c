/* backend.c - what all backends share: options, the division of the cache, checks of plans and
 * launches, and the launch that waits. */
#include "engine/backend_internal.h"

#include <string.h>

enum { MOST_ROWS = 1 << 24, MIN_BLOCKS = 16 };

static int check_choices(const eng_backend_opts *o, const model_plan *p, err *e) {
    if (o->cache_dtype != DTYPE_F32 && o->cache_dtype != DTYPE_BF16) {
        return err_set(e, ERR_USAGE, "cache_dtype", "the cache holds float32 or bfloat16");
    }
    if (o->weights != ENG_WEIGHTS_AS_STORED && o->weights != ENG_WEIGHTS_INT8) {
        return err_set(e, ERR_USAGE, "weights", "weights are kept as stored or in int8");
    }
    if (!plan_allows_exit(p, o->exit)) {
        return err_set(e, ERR_USAGE, "exit-rule", "%s models cannot leave the loop by %s",
                       plan_family_name(p), exit_rule_name(o->exit));
    }
    if (o->own_state0 && (p->state0 == STATE_EMBEDDING || o->state0 == STATE_EMBEDDING)) {
        return err_set(e, ERR_USAGE, "initial-state",
                       "%s models start from the embedding; there is no other state to choose",
                       plan_family_name(p));
    }
    return 0;
}

int eng__check_opts(eng_backend_opts *o, const model_plan *p, const eng__limits *most, err *e) {
    if (o->max_loops == 0) o->max_loops = p->loops_default;
    if (o->max_positions == 0) o->max_positions = p->max_seq_len;
    if (o->n_rows == 0) o->n_rows = most->default_rows;
    if (o->max_launch == 0 || o->max_launch > o->n_rows) o->max_launch = o->n_rows;
    if (o->max_launch > most->launch) o->max_launch = most->launch;
    if (o->max_logits == 0 || o->max_logits > o->max_launch) o->max_logits = o->max_launch;
    if (!o->own_exit) o->exit = p->exit;
    if (!o->own_state0) o->state0 = p->state0;
    if (o->max_loops > PLAN_MAX_LOOPS) {
        return err_set(e, ERR_USAGE, "max_loops", "%u loops asked for; at most %d", o->max_loops,
                       PLAN_MAX_LOOPS);
    }
    if (o->n_rows > MOST_ROWS) {
        return err_set(e, ERR_USAGE, "n_rows", "%u row states asked for; at most %d", o->n_rows,
                       MOST_ROWS);
    }
    if (o->max_positions > most->positions) {
        return err_set(e, ERR_USAGE, "max_positions", "%u positions asked for; at most %u",
                       o->max_positions, most->positions);
    }
    return check_choices(o, p, e);
}

int eng__check_plan(const model_plan *p, err *e) {
    static const uint8_t no_layer[sizeof p->value_embeds] = {0};
    const struct {
        bool has;
        const char *what;
    } parts[] = {
        {p->norms == NORM_AFTER || p->norms == NORM_POST, "norms after the sum"},
        {p->norms == NORM_SANDWICH && p->core_ffn == FFN_MOE, "experts between two norms"},
        {p->core_ffn == FFN_HALF_RELU2 || p->end_ffn == FFN_HALF_RELU2, "a squared ReLU"},
        {p->end_ffn == FFN_MOE, "experts outside the loop"},
        {p->qk_bias, "biases of queries and keys"},
        {p->qk_norm != QK_NORM_NONE, "norms of queries and keys"},
        {p->scaling.factor != 0, "RoPE scaling"},
        {memcmp(p->value_embeds, no_layer, sizeof no_layer) != 0, "value embeddings"},
        {p->input_norm, "a norm of the loop's input"},
        {p->inject == INJECT_LINEAR || p->inject == INJECT_DIAGONAL, "this injection"},
        {p->inject == INJECT_MYTHOS && p->n_core != 1, "a MYTHOS core of several layers"},
        {p->coda_in != CODA_IN_NONE, "a coda with a layer of its own before it"},
    };
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        if (!parts[i].has) continue;
        return err_set(e, ERR_UNSUPPORTED, NULL, "no engine runs %s of %s models yet",
                       parts[i].what, plan_family_name(p));
    }
    return 0;
}

/* Enough maps for positions that all leave after one loop, but at most about 4 % of the bytes,
 * and never so few that positions at full depth could not use every slot. */
int eng__size_cache(eng_backend_info *info, const model_plan *p, const eng_backend_opts *o,
                    uint64_t bytes, err *e) {
    uint32_t planes = plan_planes(p, o->max_loops), shallow = plan_planes(p, 1);
    uint64_t slot = (uint64_t)p->slot_values * model_dtype_bytes(o->cache_dtype);
    uint64_t map = (uint64_t)planes * ENG_BLOCK * sizeof(uint32_t);
    uint64_t deep = bytes / (ENG_BLOCK * planes * slot + map);
    uint64_t wide = bytes / (ENG_BLOCK * shallow * slot + map);
    uint64_t blocks = bytes / 25 / map;
    if (blocks > wide) blocks = wide;
    if (blocks < deep) blocks = deep;
    if (blocks < MIN_BLOCKS) blocks = MIN_BLOCKS;
    uint64_t slots = bytes > blocks * map ? (bytes - blocks * map) / slot : 0;
    if (slots < (uint64_t)ENG_BLOCK * planes) {
        return err_set(e, ERR_USAGE, "kv-memory",
                       "a cache of %llu bytes is too small: one block of %d positions needs %llu",
                       (unsigned long long)bytes, ENG_BLOCK,
                       (unsigned long long)(MIN_BLOCKS * map + ENG_BLOCK * planes * slot));
    }
    if (slots > ENG_NO_SLOT - 1) slots = ENG_NO_SLOT - 1;
    if (blocks > UINT32_MAX) blocks = UINT32_MAX;
    info->n_planes = planes;
    info->n_slots = (uint32_t)slots;
    info->n_blocks = (uint32_t)blocks;
    info->slot_bytes = (size_t)slot;
    info->block_map_bytes = (size_t)map;
    return 0;
}

/* ---- launches ---- */

static int check_edits(const eng_backend_info *info, const eng_backend_opts *o, const eng_launch *l,
                       err *e) {
    for (uint32_t i = 0; i < l->n_edits; i++) {
        const eng_edit *d = &l->edits[i];
        if (d->block < info->n_blocks && d->off < ENG_BLOCK &&
            (uint32_t)d->plane + d->n_planes <= info->n_planes &&
            (d->slot < info->n_slots || d->slot == ENG_NO_SLOT) &&
            (!d->guarded || d->guard < o->n_rows)) {
            continue;
        }
        return err_set(e, ERR_INTERNAL, NULL, "cache edit %u is out of range", i);
    }
    return 0;
}

static bool row_fits(const eng_backend_info *info, const model_plan *p, const eng_backend_opts *o,
                     eng__stamps *stamps, eng_stage stage, const eng_row *r) {
    if (r->row >= o->n_rows || r->pos >= o->max_positions || r->blocks == NULL) return false;
    if (stamps->last[r->row] == stamps->now) return false; /* twice in one launch */
    stamps->last[r->row] = stamps->now;
    if (stage == ENG_STAGE_PRELUDE && r->token >= p->vocab_size) return false;
    if (stage == ENG_STAGE_RECURRENT) {
        if (r->loop >= o->max_loops) return false;
        if (r->flags & ENG_ROW_GUARDED && r->guard >= o->n_rows) return false;
    }
    for (uint32_t b = 0; b <= r->pos / ENG_BLOCK; b++) {
        if (r->blocks[b] >= info->n_blocks) return false;
    }
    return true;
}

int eng__check_launch(const eng_backend_info *info, const model_plan *p, const eng_backend_opts *o,
                      eng__stamps *stamps, const eng_launch *l, err *e) {
    uint32_t heads = 0;
    if (l->n_rows > o->max_launch) {
        return err_set(e, ERR_INTERNAL, NULL, "%u rows in a launch of at most %u", l->n_rows,
                       o->max_launch);
    }
    if (check_edits(info, o, l, e) != 0) return -1;
    if (++stamps->now == 0) { /* wrapped: old stamps must not match */
        memset(stamps->last, 0, o->n_rows * sizeof *stamps->last);
        stamps->now = 1;
    }
    for (uint32_t i = 0; i < l->n_rows; i++) {
        if (!row_fits(info, p, o, stamps, l->stage, &l->rows[i])) {
            return err_set(e, ERR_INTERNAL, NULL, "row %u of the launch is out of range", i);
        }
        heads += (l->rows[i].flags & (ENG_ROW_LOGITS | ENG_ROW_SAMPLE)) != 0;
    }
    if (l->stage == ENG_STAGE_CODA && heads > o->max_logits) {
        return err_set(e, ERR_INTERNAL, NULL, "%u rows ask for the head; at most %u may", heads,
                       o->max_logits);
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

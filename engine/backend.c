/* backend.c - shared by all backends: options, the division of the cache, checks of plans and
 * launches, and eng_run. */
#include "engine/backend_internal.h"

#include <string.h>

enum { MOST_ROWS = 1 << 24, MIN_BLOCKS = 16 };

static int check_choices(const eng_backend_opts *opts, const model_plan *plan, err *e) {
    if (opts->cache_dtype != DTYPE_F32 && opts->cache_dtype != DTYPE_BF16) {
        return err_set(e, ERR_USAGE, "cache_dtype", "cache_dtype must be float32 or bfloat16");
    }
    if ((unsigned)opts->weights >= ENG_WEIGHTS_KINDS) {
        return err_set(e, ERR_USAGE, "weights", "weights must be as stored, bf16 or int8");
    }
    if (!plan_allows_exit(plan, opts->exit)) {
        return err_set(e, ERR_USAGE, "exit-rule", "%s models cannot leave the loop by %s",
                       plan_family_name(plan), exit_rule_name(opts->exit));
    }
    if (opts->own_state0 && (plan->state0 == STATE_EMBEDDING || opts->state0 == STATE_EMBEDDING)) {
        return err_set(e, ERR_USAGE, "initial-state",
                       "%s models start from the embedding and allow no other state",
                       plan_family_name(plan));
    }
    return 0;
}

int eng__check_opts(eng_backend_opts *opts, const model_plan *plan, const eng__limits *most,
                    err *e) {
    if (opts->max_loops == 0) opts->max_loops = plan->loops_default;
    if (opts->max_positions == 0) opts->max_positions = plan->max_seq_len;
    if (opts->n_rows == 0) opts->n_rows = most->default_rows;
    if (opts->max_launch == 0 || opts->max_launch > opts->n_rows) opts->max_launch = opts->n_rows;
    if (opts->max_launch > most->launch) opts->max_launch = most->launch;
    if (opts->max_logits == 0 || opts->max_logits > opts->max_launch)
        opts->max_logits = opts->max_launch;
    if (!opts->own_exit) opts->exit = plan->exit;
    if (!opts->own_state0) opts->state0 = plan->state0;
    if (opts->max_loops > PLAN_MAX_LOOPS) {
        return err_set(e, ERR_USAGE, "max_loops", "%u loops requested; the most is %d",
                       opts->max_loops, PLAN_MAX_LOOPS);
    }
    if (opts->n_rows > MOST_ROWS) {
        return err_set(e, ERR_USAGE, "n_rows", "%u row states requested; the most is %d",
                       opts->n_rows, MOST_ROWS);
    }
    if (opts->max_positions > most->positions) {
        return err_set(e, ERR_USAGE, "max_positions", "%u positions requested; the most is %u",
                       opts->max_positions, most->positions);
    }
    return check_choices(opts, plan, e);
}

int eng__refuse_parts(const model_plan *plan, const eng__part *parts, size_t n, err *e) {
    for (size_t i = 0; i < n; i++) {
        if (!parts[i].has) continue;
        return err_set(e, ERR_UNSUPPORTED, NULL, "%s in %s models is not supported yet",
                       parts[i].what, plan_family_name(plan));
    }
    return 0;
}

bool eng__has_value_embeds(const model_plan *plan) {
    static const uint8_t none[sizeof plan->value_embeds] = {0};
    return memcmp(plan->value_embeds, none, sizeof none) != 0;
}

int eng__check_plan(const model_plan *plan, err *e) {
    bool mla = plan->attn == ATTN_MLA, values = eng__has_value_embeds(plan);
    const eng__part parts[] = {
        {plan->norms != NORM_PRE && plan->core_ffn == FFN_MOE,
         "a mixture of experts with norms of outputs"},
        {plan->end_ffn == FFN_MOE, "a mixture of experts outside the loop"},
        {plan->inject == INJECT_MYTHOS && plan->n_core != 1, "a MYTHOS core of several layers"},
        {mla && plan->qk_bias, "a bias of queries and keys in MLA"},
        {mla && plan->qk_norm != QK_NORM_NONE, "a norm of queries and keys in MLA"},
        {mla && values, "a value embedding in MLA"},
        {values && plan->dim < PLAN_VALUE_GATE, "a value embedding of so few channels"},
    };
    return eng__refuse_parts(plan, parts, ARRAY_LEN(parts), e);
}

/* Block maps for positions that all leave after one loop, but at most about 4 % of the bytes, and
 * never so few that positions at full depth could not use every slot. */
int eng__size_cache(eng_backend_info *info, const model_plan *plan, const eng_backend_opts *opts,
                    uint64_t bytes, err *e) {
    uint32_t planes = plan_planes(plan, opts->max_loops), shallow = plan_planes(plan, 1);
    uint64_t slot = (uint64_t)plan->slot_values * model_dtype_bytes(opts->cache_dtype);
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

static bool is_home(const eng_backend_info *info, uint32_t home) {
    return home == 0 || home < info->n_homes;
}

static int check_edits(const eng_backend_info *info, const eng_backend_opts *opts,
                       const eng_launch *launch, err *e) {
    for (uint32_t i = 0; i < launch->n_edits; i++) {
        const eng_edit *edit = &launch->edits[i];
        if (edit->block < info->n_blocks && edit->off < ENG_BLOCK &&
            (uint32_t)edit->plane + edit->n_planes <= info->n_planes &&
            (edit->slot < info->n_slots || edit->slot == ENG_NO_SLOT) &&
            is_home(info, edit->home) && (!edit->guarded || edit->guard < opts->n_rows)) {
            continue;
        }
        return err_set(e, ERR_INTERNAL, NULL, "cache edit %u is out of range", i);
    }
    return 0;
}

static bool row_fits(const eng_backend_info *info, const model_plan *plan,
                     const eng_backend_opts *opts, eng__stamps *stamps, eng_stage stage,
                     const eng_row *row) {
    if (row->row >= opts->n_rows || row->pos >= opts->max_positions || row->blocks == NULL)
        return false;
    if (stamps->last[row->row] == stamps->now) return false; /* twice in one launch */
    stamps->last[row->row] = stamps->now;
    if (row->token >= plan->vocab_size) return false;
    if (!is_home(info, row->home)) return false;
    if (stage == ENG_STAGE_RECURRENT) {
        if (row->loop >= opts->max_loops) return false;
        if (row->flags & ENG_ROW_GUARDED && row->guard >= opts->n_rows) return false;
    }
    for (uint32_t block = 0; block <= row->pos / ENG_BLOCK; block++) {
        if (row->blocks[block] >= info->n_blocks) return false;
    }
    return true;
}

int eng__check_launch(const eng_backend_info *info, const model_plan *plan,
                      const eng_backend_opts *opts, eng__stamps *stamps, const eng_launch *launch,
                      err *e) {
    uint32_t heads = 0;
    if (launch->n_rows > opts->max_launch) {
        return err_set(e, ERR_INTERNAL, NULL, "the launch has %u rows; the most is %u",
                       launch->n_rows, opts->max_launch);
    }
    if (check_edits(info, opts, launch, e) != 0) return -1;
    if (++stamps->now == 0) { /* wrapped: old stamps must not match */
        memset(stamps->last, 0, opts->n_rows * sizeof *stamps->last);
        stamps->now = 1;
    }
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        if (!row_fits(info, plan, opts, stamps, launch->stage, &launch->rows[i])) {
            return err_set(e, ERR_INTERNAL, NULL, "row %u of the launch is out of range", i);
        }
        heads += (launch->rows[i].flags & (ENG_ROW_LOGITS | ENG_ROW_SAMPLE)) != 0;
    }
    if (launch->stage == ENG_STAGE_CODA && heads > opts->max_logits) {
        return err_set(e, ERR_INTERNAL, NULL, "%u rows of the launch need the head; the most is %u",
                       heads, opts->max_logits);
    }
    return 0;
}

eng_weights eng_weights_named(const char *name) {
    if (name && strcmp(name, "bf16") == 0) return ENG_WEIGHTS_BF16;
    return name && strcmp(name, "int8") == 0 ? ENG_WEIGHTS_INT8 : ENG_WEIGHTS_AS_STORED;
}

void eng_backend_close(eng_backend *backend) {
    if (backend) backend->ops->close(backend);
}

int eng_run(eng_backend *backend, const eng_launch *launch, eng_result *result, err *e) {
    if (backend->ops->launch(backend, launch, e) != 0) return -1;
    return backend->ops->wait(backend, result, e);
}

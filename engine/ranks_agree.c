/* ranks_agree.c - what all ranks decide together while a backend opens. */
#include "base/hash.h"
#include "engine/ranks_internal.h"

#include <string.h>

int eng_ranks_broadcast(eng_ranks *ranks, void *data, size_t bytes, err *e) {
    return bytes ? ranks->ops->broadcast(ranks, data, bytes, e) : 0;
}

/* Gathers `bytes` bytes of each rank; returns them in rank order. NULL: see *e. */
static const uint8_t *gather_equal(eng_ranks *ranks, const void *own, size_t bytes, err *e) {
    struct eng__ranks_state *state = ranks->state;
    if (eng_ranks_reserve(ranks, bytes * ranks->n, e) != 0) return NULL;
    for (uint32_t rank = 0; rank < ranks->n; rank++)
        state->bytes[rank] = bytes;
    memcpy(state->staged + bytes * ranks->rank, own, bytes);
    return ranks->ops->gather(ranks, state->staged, state->bytes, e) == 0 ? state->staged : NULL;
}

int eng_ranks_least(eng_ranks *ranks, uint64_t *value, err *e) {
    const uint8_t *all = gather_equal(ranks, value, sizeof *value, e);
    if (all == NULL) return -1;
    for (uint32_t rank = 0; rank < ranks->n; rank++) {
        uint64_t other;
        memcpy(&other, all + rank * sizeof other, sizeof other);
        if (other < *value) *value = other;
    }
    return 0;
}

int eng_ranks_alike(eng_ranks *ranks, uint64_t value, uint32_t *n, err *e) {
    const uint8_t *all = gather_equal(ranks, &value, sizeof value, e);
    if (all == NULL) return -1;
    *n = 0;
    for (uint32_t rank = 0; rank < ranks->n; rank++)
        *n += memcmp(all + rank * sizeof value, &value, sizeof value) == 0;
    return 0;
}

int eng_ranks_agree(eng_ranks *ranks, const eng_fact *facts, uint32_t n, err *e) {
    uint64_t first[ENG_MAX_FACTS] = {0}, other[ENG_MAX_FACTS];
    for (uint32_t i = 0; i < n; i++)
        first[i] = facts[i].hash;
    const uint8_t *all = gather_equal(ranks, first, sizeof first, e);
    if (all == NULL) return -1;
    memcpy(first, all, sizeof first);
    for (uint32_t rank = 1; rank < ranks->n; rank++) {
        memcpy(other, all + rank * sizeof other, sizeof other);
        for (uint32_t i = 0; i < n; i++) {
            if (other[i] == first[i]) continue;
            return err_set(e, ERR_USAGE, NULL,
                           "rank %u and rank 0 differ in %s; all ranks need the same program, "
                           "model and options",
                           rank, facts[i].what);
        }
    }
    return 0;
}

/* ---- the model and the options ---- */

static uint64_t text_hash(const char *text) {
    return hash_seeded(0, text, strlen(text));
}

static uint64_t number_hash(uint64_t one, uint64_t other) {
    const uint64_t both[] = {one, other};
    return hash_seeded(0, both, sizeof both);
}

static int plan_hash(const model_plan *plan, uint64_t *hash, err *e) {
    buf text = {0};
    plan_write_fields(&text, plan);
    int rc = text.failed ? err_set(e, ERR_NO_MEMORY, NULL, "out of memory comparing ranks") : 0;
    if (rc == 0) *hash = hash_seeded(text_hash(plan_family_name(plan)), text.data, text.len);
    buf_deinit(&text);
    return rc;
}

int eng_ranks_agree_model(eng_ranks *ranks, const model_folder *model, const eng_backend_opts *opts,
                          const char *device, err *e) {
    if (ranks == NULL) return 0;
    uint64_t config;
    if (plan_hash(model_plan_of(model), &config, e) != 0) return -1;
    const eng_fact facts[] = {
        {"the version of the program", text_hash(FATHOM_VERSION)},
        {"the device", text_hash(device)},
        {"the configuration of the model", config},
        {"the weights", model_fingerprint(model)},
        {"the format of the weights (--weights)", number_hash(opts->weights, 0)},
        {"the most loops of a token (--max-loops)", number_hash(opts->max_loops, 0)},
        {"the rows of a launch (--max-rows)", number_hash(opts->max_launch, opts->max_logits)},
        {"the number of row states (--max-running)", number_hash(opts->n_rows, 0)},
        {"the size of the cache (--kv-memory)", number_hash(opts->cache_bytes, 0)},
        {"the format of the cache (--kv-dtype)", number_hash(opts->cache_dtype, 0)},
        {"the length of a sequence", number_hash(opts->max_positions, 0)},
        {"the prompt chunk (--chunk)", number_hash(opts->prompt_chunk, 0)},
        {"the exit rule (--exit-rule)", number_hash(opts->exit, 0)},
        {"the initial state (--initial-state)", number_hash(opts->state0, 0)},
        {"the way to divide the model (--rank-split)", number_hash(opts->homes, 0)},
    };
    return eng_ranks_agree(ranks, facts, ARRAY_LEN(facts), e);
}

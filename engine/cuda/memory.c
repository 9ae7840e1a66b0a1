/* memory.c - the backend's memory besides weights: the rows' states, working memory, descriptors
 * and results on their way, the cache. */
#include "base/size.h"
#include "engine/cuda/cuda_internal.h"

#include <string.h>

enum { N_STATE = 6 }; /* states: what lives from launch to launch */

static uint64_t most(uint64_t left, uint64_t right) {
    return left > right ? left : right;
}

/* Values of the split attention's parts, the most any capacity needs. */
static uint64_t part_rows(const cu_backend *cuda) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < cuda->n_buckets; i++) {
        uint64_t parts = eng__cuda_parts(cuda, cuda->bucket[i]).most;
        if (parts > 1) n = most(n, cuda->bucket[i] * parts); /* one part is never put away */
    }
    return n * cuda->plan.n_heads;
}

int eng__cuda_take_scratch(cu_backend *cuda, err *e) {
    const model_plan *plan = &cuda->plan;
    cu_scratch *work = &cuda->work;
    bool mla = plan->attn == ATTN_MLA;
    uint64_t n = cuda->opts.max_launch, dim = plan->dim, heads = plan->n_heads, flt = sizeof(float);
    uint64_t act = cu_act_bytes(cuda), parts = plan->n_experts_per_tok + cuda->groups_shared;
    uint64_t in = mla ? (uint64_t)plan->q_lora_rank + plan->kv_lora_rank + plan->qk_rope_head_dim
                      : (uint64_t)cuda->o_values + 2u * plan->n_kv_heads * plan->head_dim +
                            (cuda->embeds_values ? plan->n_kv_heads : 0);
    uint64_t q_up = mla ? heads * (plan->qk_nope_head_dim + plan->qk_rope_head_dim) : 1;
    uint64_t ctx = mla ? heads * cu_round(plan->kv_lora_rank, CU_K_STEP) : 1;
    uint64_t hidden = most(eng__cuda_expert_lines(cuda) * cuda->expert_ld, cuda->dense_ld);
    uint64_t wide = cuda->f32 || cuda->invariant
                        ? 1
                        : 2 * most(cuda->groups_shared * cuda->expert_ld, cuda->dense_ld);
    uint64_t keys = cuda->flash.max_runs ? cuda->flash.keys : 0;
    uint64_t flash_parts = keys ? n * CU_FLASH_SPLITS * heads : 0;
    work->moe.max_tiles =
        (uint32_t)(n * parts / CU_TILE_ROWS + plan->n_experts + cuda->groups_shared);
    const struct {
        void *at;
        uint64_t rows, ld, bytes;
    } wanted[] = {
        {&cuda->state.h, cuda->opts.n_rows, dim, flt},
        {&cuda->state.e, plan->inject == INJECT_NONE ? 0 : cuda->opts.n_rows, dim, flt},
        {&cuda->state.out, cuda->opts.n_rows, dim, flt},
        {&cuda->state.cum, cuda->opts.n_rows, 1, flt},
        {&cuda->state.halted, cuda->opts.n_rows, 1, 1},
        {&cuda->arrived, n, heads, sizeof(uint32_t)},
        {&work->x, n, dim, flt},
        {&work->delta, n, dim, flt},
        {&work->in, n, in + 3, flt}, /* rounded up to fours */
        {&work->q_up, n, q_up, flt},
        {&work->part_o, part_rows(cuda), cuda->dv, flt},
        {&work->part_ml, part_rows(cuda), 2, flt},
        {&work->router, n, plan->n_experts, flt},
        {&work->parts, n * parts, dim, flt},
        {&work->loop_sums, plan->inject == INJECT_MYTHOS ? n : 0,
         cu_loop_sums(plan->dim, plan->lora_rank), flt},
        {&work->logits, cuda->opts.max_logits, plan->vocab_size, flt},
        {&work->act, n, cuda->dim_ld, act},
        {&work->cq, n, mla ? cu_round(plan->q_lora_rank, CU_K_STEP) : 1, act},
        {&work->q_nope, n, mla ? heads * cu_round(plan->qk_nope_head_dim, CU_K_STEP) : 1, act},
        {&work->q, n, heads * cuda->dk, act},
        {&work->ctx, n, ctx, act},
        {&work->o, n, cuda->o_ld, act},
        {&work->hidden, n, hidden, act},
        {&work->wide, n, wide, act},
        {&work->head, cuda->opts.max_logits, cuda->dim_ld, act},
        {&work->keys, keys * heads, cu_round(plan->qk_nope_head_dim, 16), 2},
        {&work->values, keys * heads, cu_round(plan->v_head_dim, 16), 2},
        {&work->keys_rope, keys, cu_round(plan->qk_rope_head_dim, 16), 2},
        {&work->flash_o, flash_parts, plan->v_head_dim, flt},
        {&work->flash_ml, flash_parts, 2, flt},
        {&work->parcels, eng__cuda_parcels_bytes(cuda), 1, 1},
        {&work->moe.pick, n, plan->n_experts_per_tok, sizeof(uint32_t)},
        {&work->moe.weight, n, plan->n_experts_per_tok, flt},
        {&work->moe.order, n, parts, sizeof(uint32_t)},
        {&work->moe.tiles, work->moe.max_tiles, 1, sizeof(cu_moe_tile)},
        {&work->moe.n_tiles, 1, 1, sizeof(uint32_t)},
    };
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        size_t bytes;
        if (wanted[i].rows == 0 || wanted[i].ld == 0) continue; /* this model has no such thing */
        if (!size_mul(wanted[i].ld, wanted[i].bytes, &bytes)) bytes = SIZE_MAX;
        if (eng__cuda_alloc(cuda, wanted[i].at, wanted[i].rows, bytes, "working memory", e) != 0)
            return -1;
        if (i < N_STATE) continue;
        void *mem;
        memcpy(&mem, wanted[i].at, sizeof mem);
        cuda->scratch[cuda->n_scratch++] = (cu_span){mem, wanted[i].rows * bytes};
    }
    cudaError_t rc = cudaMemset(cuda->state.halted, 0, cuda->opts.n_rows);
    if (rc == cudaSuccess) rc = cudaMemset(cuda->arrived, 0, n * heads * sizeof(uint32_t));
    return eng__cuda_check(cuda, rc, "clearing memory", e);
}

int eng__cuda_poison(cu_backend *cuda, err *e) {
    for (uint32_t i = 0; i < cuda->n_scratch; i++) {
        cudaError_t rc =
            cudaMemsetAsync(cuda->scratch[i].data, 0xff, cuda->scratch[i].bytes, cuda->stream);
        if (eng__cuda_check(cuda, rc, "poisoning memory", e) != 0) return -1;
    }
    return 0;
}

static int take_flight(cu_backend *cuda, cu_flight *flight, err *e) {
    size_t flags = CU_HALTED + (size_t)cuda->opts.max_launch;
    size_t logits = (size_t)cuda->opts.max_logits * cuda->plan.vocab_size * sizeof(float);
    const struct {
        void *at;
        size_t bytes;
    } wanted[] = {{&flight->flags, flags},
                  {&flight->logits, logits},
                  {&flight->choices, cuda->opts.max_logits * sizeof(cu_choice)}};
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        void *mem = NULL;
        if (eng__cuda_check(cuda, cudaMallocHost(&mem, wanted[i].bytes), "pinning memory", e) != 0)
            return -1;
        memcpy(wanted[i].at, &mem, sizeof mem);
    }
    return eng__cuda_check(cuda, cudaEventCreate(&flight->began), "opening an event", e);
}

/* Memory for descriptors on their way to the device, empty so far, and the device's count of
 * descriptors taken. */
static int take_sent(cu_backend *cuda, err *e) {
    for (size_t i = 0; i < ARRAY_LEN(cuda->sent); i++) {
        void *mem = NULL;
        if (eng__cuda_check(cuda, cudaMallocHost(&mem, cuda->desc_bytes), "pinning memory", e) != 0)
            return -1;
        cuda->sent[i] = mem;
        if (eng__cuda_alloc(cuda, &cuda->came[i], cuda->desc_bytes, 1, "launch descriptors", e) !=
                0 ||
            eng__cuda_check(cuda, cudaMemset(cuda->came[i], 0, CU_FRONT), "clearing memory", e) !=
                0 ||
            eng__cuda_check(cuda,
                            cudaEventCreateWithFlags(&cuda->copied[i], cudaEventDisableTiming),
                            "opening an event", e) != 0) {
            return -1;
        }
    }
    if (eng__cuda_check(cuda, cudaStreamCreateWithFlags(&cuda->copies, cudaStreamNonBlocking),
                        "opening a stream", e) != 0) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(cuda->ended); i++) {
        if (eng__cuda_check(cuda, cudaEventCreate(&cuda->ended[i]), "opening an event", e) != 0)
            return -1;
    }
    if (eng__cuda_alloc(cuda, &cuda->dev_turn, 2, sizeof *cuda->dev_turn, "launch descriptors",
                        e) != 0)
        return -1;
    return eng__cuda_check(cuda, cudaMemset(cuda->dev_turn, 0, 2 * sizeof *cuda->dev_turn),
                           "clearing memory", e);
}

/* Memory for a launch's descriptor and its results. A descriptor has room for the edits of a full
 * launch: a slot for every plane of a position outside the loop, two for its loop, and one if its
 * loops then share a slot. */
int eng__cuda_take_exchange(cu_backend *cuda, err *e) {
    uint64_t blocks = (cuda->opts.max_positions + ENG_BLOCK - 1) / ENG_BLOCK;
    uint64_t edits = (uint64_t)cuda->opts.max_launch * (plan_planes(&cuda->plan, 0) + 3);
    size_t table = (size_t)most(blocks * cuda->opts.max_launch, 1);
    cuda->edit_cap = (uint32_t)most(edits, CU_EDITS);
    cuda->desc_bytes =
        sizeof(cu_head) + _Alignof(cu_draw) +
        cuda->opts.max_launch * (sizeof(cu_row) + sizeof(cu_tile) + sizeof(cu_draw)) +
        cuda->edit_cap * sizeof(cu_edit) + table * sizeof(uint32_t) + eng__cuda_runs_bytes(cuda) +
        4 * 16; /* its parts begin at multiples of 16 */
    if (cuda->desc_bytes < CU_FRONT) cuda->desc_bytes = CU_FRONT;
    if (cuda->desc_bytes > UINT32_MAX / 2) {
        return err_set(e, ERR_USAGE, NULL, "too many positions for launches of %u rows",
                       cuda->opts.max_launch);
    }
    if (eng__cuda_alloc(cuda, &cuda->desc, cuda->desc_bytes, 1, "launch descriptors", e) != 0)
        return -1;
    if (take_sent(cuda, e) != 0) return -1;
    cuda->stamps.last = array_new(cuda->opts.n_rows, sizeof *cuda->stamps.last);
    if (cuda->stamps.last == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (int i = 0; i < CU_FLIGHTS; i++) {
        if (take_flight(cuda, &cuda->flight[i], e) != 0) return -1;
    }
    return 0;
}

int eng__cuda_take_cache(cu_backend *cuda, err *e) {
    eng_backend_info *info = &cuda->base.info;
    size_t room = 0, all = 0;
    if (eng__cuda_check(cuda, cudaMemGetInfo(&room, &all), "asking for free memory", e) != 0)
        return -1;
    uint64_t bytes = cuda->opts.cache_bytes;
    if (bytes == 0) {
        bytes = room - room / 10; /* the rest for graphs and the driver */
        if (eng__cuda_ranks_room(cuda, &bytes, e) != 0) return -1;
    }
    if (eng__size_cache(info, &cuda->plan, &cuda->opts, bytes, e) != 0) return -1;
    cuda->cache.n_planes = info->n_planes;
    cuda->cache.n_slots = info->n_slots;
    cuda->cache.n_blocks = info->n_blocks;
    cuda->edited = array_new(info->n_blocks, sizeof *cuda->edited);
    if (cuda->edited == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    size_t map = info->block_map_bytes;
    if (eng__cuda_alloc(cuda, &cuda->cache.slots, info->n_slots, info->slot_bytes, "the cache",
                        e) != 0 ||
        eng__cuda_alloc(cuda, &cuda->cache.maps, info->n_blocks, map, "the cache's maps", e) != 0) {
        return -1;
    }
    return eng__cuda_check(cuda, cudaMemset(cuda->cache.maps, 0xff, info->n_blocks * map),
                           "clearing the maps", e);
}

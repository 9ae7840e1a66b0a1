/* backend.c - opening the CUDA backend: sizes, memory, weights, graphs. Everything is
 * allocated here, by plain cudaMalloc; nothing is after. */
#include "base/log.h"
#include "base/size.h"
#include "engine/cuda/cuda_internal.h"
#include "engine/rowmath.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef CU_TARGETS /* the build's CUDA_ARCHS */
#define CU_TARGETS "other devices"
#endif

enum { BLAS_WORKSPACE = 32 << 20, N_STATE = 6 };

/* ---- errors ---- */

/* True if the device is in an error that fails every later call too. */
static bool device_is_lost(const cu_backend *cuda) {
    (void)cudaGetLastError(); /* forgets an error that does not stay */
    cudaError_t rc = cudaStreamQuery(cuda->stream);
    return rc != cudaSuccess && rc != cudaErrorNotReady;
}

int eng__cuda_check(cu_backend *cuda, cudaError_t rc, const char *what, err *e) {
    if (rc == cudaSuccess) return 0;
    const char *kernel = cu_failed_kernel(), *product = cuda->blas_product;
    bool gone = device_is_lost(cuda);
    cuda->blas_product = NULL;
    cuda->lost = cuda->lost || gone;
    err_code code = cuda->lost                        ? ERR_DEVICE
                    : rc == cudaErrorMemoryAllocation ? ERR_NO_MEMORY
                                                      : ERR_INTERNAL;
    if (product) {
        return err_set(e, code, NULL, "%s: %s failed: cuBLAS refused product %s: %s",
                       cuda->device_name, what, product, cublasGetStatusName(cuda->blas_status));
    }
    const char *why = cudaGetErrorString(rc);
    if (kernel == NULL)
        return err_set(e, code, NULL, "%s: %s failed: %s", cuda->device_name, what, why);
    /* A start also reports errors of the kernels before it. */
    return err_set(e, code, NULL,
                   gone ? "%s: %s failed: %s, found at the start of kernel %s"
                        : "%s: %s failed: %s: kernel %s cannot be started",
                   cuda->device_name, what, why, kernel);
}

/* ---- memory ---- */

int eng__cuda_alloc(cu_backend *cuda, void *out, size_t n, size_t item_bytes, const char *what,
                    err *e) {
    cu_allocs *mem = &cuda->mem;
    size_t bytes, room = 0, all = 0;
    void *got = NULL;
    if (!size_mul(n ? n : 1, item_bytes, &bytes)) {
        return err_set(e, ERR_NO_MEMORY, NULL, "the %s are larger than memory can be", what);
    }
    if (mem->n == mem->cap) {
        uint32_t cap = mem->cap ? mem->cap * 2 : 128;
        void **items = realloc(mem->items, cap * sizeof *items);
        if (items == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
        mem->items = items;
        mem->cap = cap;
    }
    cudaError_t rc = cudaMalloc(&got, bytes);
    if (rc == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* it is not sticky, and the backend goes away */
        (void)cudaMemGetInfo(&room, &all);
        return err_set(e, ERR_NO_MEMORY, NULL,
                       "%s: %.2f GB needed for %s beside %.2f GB taken, %.2f of %.2f GB free",
                       cuda->device_name, (double)bytes * 1e-9, what, (double)mem->bytes * 1e-9,
                       (double)room * 1e-9, (double)all * 1e-9);
    }
    if (eng__cuda_check(cuda, rc, "allocating memory", e) != 0) return -1;
    mem->items[mem->n++] = got;
    mem->bytes += bytes;
    memcpy(out, &got, sizeof got);
    return 0;
}

/* ---- options and shapes ---- */

static int set_kernels(cu_backend *cuda, const char *name, err *e) {
    static const struct {
        const char *name;
        bool f32, graphs, expand_early, invariant;
    } modes[] = {{"bf16", false, true, false, false},
                 {"f32", true, true, false, false},
                 {"bf16-invariant", false, true, false, true},
                 {"bf16-stream", false, false, false, false},
                 {"f32-stream", true, false, false, false},
                 {"bf16-invariant-stream", false, false, false, true},
                 {"bf16-expand", false, true, true, false},
                 {"bf16-expand-stream", false, false, true, false}};
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        if (strcmp(name ? name : "bf16", modes[i].name) != 0) continue;
        cuda->f32 = modes[i].f32;
        cuda->graphs = modes[i].graphs;
        cuda->expand_early = modes[i].expand_early;
        cuda->invariant = modes[i].invariant;
        uint32_t from = cuda->plan.n_experts ? CU_BLAS_ROWS : CU_BLAS_ROWS_DENSE;
        cuda->blas_rows = cuda->f32 || cuda->invariant ? UINT32_MAX : from;
        (void)snprintf(cuda->kernels_name, sizeof cuda->kernels_name, "%s", modes[i].name);
        return 0;
    }
    return err_set(e, ERR_USAGE, "kernels",
                   "kernels for CUDA are bf16, bf16-invariant (a sequence's bits depend on itself "
                   "alone), f32 (parity), each with -stream (without graphs), and for tests "
                   "bf16-expand and bf16-expand-stream, not '%s'",
                   name);
}

/* Parts missing on CUDA only. */
static int check_parts(const model_plan *plan, err *e) {
    const eng__part parts[] = {
        {plan->norms == NORM_AFTER || plan->norms == NORM_POST, "a norm after the sum"},
        {plan->core_ffn == FFN_HALF_RELU2 || plan->end_ffn == FFN_HALF_RELU2, "a squared ReLU"},
        {plan->qk_bias, "a bias of queries and keys"},
        {plan->qk_norm != QK_NORM_NONE, "a norm of queries and keys"},
        {plan->scaling.factor != 0, "RoPE scaling"},
        {eng__has_value_embeds(plan), "a value embedding"},
        {plan->input_norm, "a norm of the loop's input"},
        {plan->inject == INJECT_LINEAR || plan->inject == INJECT_DIAGONAL, "this injection"},
        {plan->coda_in != CODA_IN_NONE, "a layer between loop and coda"},
    };
    return eng__refuse_parts(plan, parts, ARRAY_LEN(parts), e);
}

static int check_opts(cu_backend *cuda, const eng_backend_opts *in, err *e) {
    static const eng__limits limits = {
        .default_rows = 1024, .launch = CU_MAX_LAUNCH, .positions = 1u << 24};
    const model_plan *plan = &cuda->plan;
    cuda->opts = *in;
    if (eng__check_plan(plan, e) != 0 || check_parts(plan, e) != 0 ||
        eng__check_opts(&cuda->opts, plan, &limits, e) != 0)
        return -1;
    if (in->weights == ENG_WEIGHTS_INT8) {
        return err_set(e, ERR_USAGE, "weights",
                       "weights in int8 are not there on CUDA, which holds them in bfloat16: leave "
                       "--weights out, or run int8 with --device cpu");
    }
    if (plan->n_experts + plan->n_shared_experts * plan->n_experts_per_tok > CU_MAX_EXPERTS) {
        return err_set(e, ERR_UNSUPPORTED, NULL, "more than %d experts", CU_MAX_EXPERTS);
    }
    if (plan->dim > CU_MAX_DIM) {
        return err_set(e, ERR_UNSUPPORTED, NULL, "a residual stream of %u channels; at most %d",
                       plan->dim, CU_MAX_DIM);
    }
    if (plan->attn == ATTN_MLA &&
        (plan->q_lora_rank > CU_MAX_LATENT || plan->kv_lora_rank > CU_MAX_LATENT ||
         2 * plan->qk_rope_head_dim > CU_MAX_LATENT)) {
        return err_set(
            e, ERR_UNSUPPORTED, NULL,
            "latents of %u and %u values and a rotated part of %u; at most %d, %d and %d",
            plan->q_lora_rank, plan->kv_lora_rank, plan->qk_rope_head_dim, CU_MAX_LATENT,
            CU_MAX_LATENT, CU_MAX_LATENT / 2);
    }
    if (plan->core_ffn == FFN_MOE && plan->n_core != 1) {
        return err_set(e, ERR_UNSUPPORTED, NULL, "experts in a core of several layers");
    }
    if (plan->output == OUTPUT_WEIGHTED_SUM && cuda->opts.exit != EXIT_ACT) {
        return err_set(e, ERR_UNSUPPORTED, NULL, "a weighted output needs the exit rule act");
    }
    return set_kernels(cuda, in->kernels, e);
}

/* A vector computed from the weights once: see cu_loop_gate. */
static int take_gate(cu_backend *cuda, err *e) {
    const model_plan *plan = &cuda->plan;
    if (plan->inject != INJECT_MYTHOS || plan->lora_rank == 0 || cuda->halt_w == NULL) return 0;
    if (eng__cuda_alloc(cuda, &cuda->lora_gate, plan->lora_rank, sizeof(float), "weights", e) != 0)
        return -1;
    return eng__cuda_check(cuda,
                           cu_loop_gate(cuda->stream, cuda->lora_b, cuda->halt_w, plan->dim,
                                        plan->lora_rank, cuda->lora_gate),
                           "preparing the gate", e);
}

/* Sizes that depend on the shared memory of a block, known once the device is open. A prompt is
 * expanded or not by the size of its chunks, so never if a row's bits may depend on its history
 * alone. */
static void size_tiles(cu_backend *cuda) {
    cu_flash_args args;
    cu_attn_args tiles;
    eng__cuda_attn_shape(cuda, &tiles);
    cuda->tile_rows = cu_attn_tile_rows(&tiles, cuda->f32);
    cuda->flash = (cu_flash_plan){.rows = UINT32_MAX};
    eng__cuda_flash_shape(cuda, &args);
    if (cuda->f32 || cuda->invariant || cuda->plan.attn != ATTN_MLA ||
        !cu_flash_fits(&args, (uint32_t)cuda->shared_bytes)) {
        return;
    }
    eng__cuda_size_runs(cuda, cuda->expand_early ? 2 : cu_flash_crossover(&args),
                        cuda->expand_early ? CU_FLASH_KEYS : 0, cu_flash_key_bytes(&args));
}

static void set_shapes(cu_backend *cuda) {
    const model_plan *plan = &cuda->plan;
    bool mla = plan->attn == ATTN_MLA;
    cuda->dim_ld = cu_round(plan->dim, CU_K_STEP);
    cuda->dk = mla ? plan->kv_lora_rank + plan->qk_rope_head_dim : plan->head_dim;
    cuda->dv = mla ? plan->kv_lora_rank : plan->head_dim;
    cuda->o_values = plan->n_heads * (mla ? plan->v_head_dim : plan->head_dim);
    cuda->o_ld = cu_round(cuda->o_values, CU_K_STEP);
    cuda->expert_ld = cu_round(plan->expert_dim, CU_K_STEP);
    cuda->dense_ld = cu_round(plan->ffn_dim, CU_K_STEP);
    cuda->groups_shared = plan->n_shared_experts * plan->n_experts_per_tok;
    cuda->loop_width = plan->inject == INJECT_MYTHOS ? plan->dim / 8 : 0;
    cuda->cache.f32 = cuda->opts.cache_dtype == DTYPE_F32;
    cuda->cache.slot_values = plan->slot_values;
    for (uint32_t n = 1; n < cuda->opts.max_launch && cuda->n_buckets + 1 < CU_BUCKETS; n *= 2) {
        cuda->bucket[cuda->n_buckets++] = n;
    }
    cuda->bucket[cuda->n_buckets++] = cuda->opts.max_launch;
}

/* ---- scratch, state, cache ---- */

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

static int take_scratch(cu_backend *cuda, err *e) {
    const model_plan *plan = &cuda->plan;
    cu_scratch *work = &cuda->work;
    bool mla = plan->attn == ATTN_MLA;
    uint64_t n = cuda->opts.max_launch, dim = plan->dim, heads = plan->n_heads, flt = sizeof(float);
    uint64_t act = cu_act_bytes(cuda), parts = plan->n_experts_per_tok + cuda->groups_shared;
    uint64_t in = mla ? (uint64_t)plan->q_lora_rank + plan->kv_lora_rank + plan->qk_rope_head_dim
                      : (uint64_t)cuda->o_values + 2u * plan->n_kv_heads * plan->head_dim;
    uint64_t q_up = mla ? heads * (plan->qk_nope_head_dim + plan->qk_rope_head_dim) : 1;
    uint64_t ctx = mla ? heads * cu_round(plan->kv_lora_rank, CU_K_STEP) : 1;
    uint64_t hidden =
        most(most(parts * cuda->expert_ld, cuda->dense_ld), cuda->groups_shared * cuda->expert_ld);
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
        {&work->in, n, in, flt},
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
 * launch: a slot for every plane of a position outside the loop and two for its loop. */
static int take_exchange(cu_backend *cuda, err *e) {
    uint64_t blocks = (cuda->opts.max_positions + ENG_BLOCK - 1) / ENG_BLOCK;
    uint64_t edits = (uint64_t)cuda->opts.max_launch * (plan_planes(&cuda->plan, 0) + 2);
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

static int size_cache(cu_backend *cuda, err *e) {
    eng_backend_info *info = &cuda->base.info;
    size_t room = 0, all = 0;
    if (eng__cuda_check(cuda, cudaMemGetInfo(&room, &all), "asking for free memory", e) != 0)
        return -1;
    uint64_t bytes = cuda->opts.cache_bytes;
    if (bytes == 0) bytes = room - room / 10; /* the rest for graphs and the driver */
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

/* ---- graphs ---- */

static cudaError_t enqueue(cu_backend *cuda, int stage, uint32_t rows, cu_path path) {
    return stage < CU_STAGES ? eng__cuda_stage(cuda, (eng_stage)stage, rows, path)
                             : eng__cuda_head(cuda, rows);
}

/* Captures one stage, or the head, for a capacity; run once before, on no rows, because CUDA and
 * cuBLAS load code at a kernel's first use, and cannot while a stream is captured. */
static int capture(cu_backend *cuda, int stage, uint32_t rows, cu_mode mode, cudaGraphExec_t *out,
                   err *e) {
    cudaGraph_t graph = NULL;
    cu_path path = {mode, 1};
    size_t nodes = 0;
    cudaError_t rc = enqueue(cuda, stage, rows, path);
    if (rc == cudaSuccess) rc = cudaStreamSynchronize(cuda->stream);
    if (rc == cudaSuccess)
        rc = cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal);
    if (rc == cudaSuccess) {
        rc = enqueue(cuda, stage, rows, path);
        cudaError_t ended = cudaStreamEndCapture(cuda->stream, &graph);
        if (rc == cudaSuccess) rc = ended;
    }
    if (rc == cudaSuccess) rc = cudaGraphGetNodes(graph, NULL, &nodes);
    if (rc == cudaSuccess) rc = cudaGraphInstantiate(out, graph, 0);
    if (rc == cudaSuccess) rc = cudaGraphUpload(*out, cuda->stream); /* not at the first replay */
    if (graph) (void)cudaGraphDestroy(graph);
    cuda->n_graphs++;
    cuda->graph_nodes += nodes;
    return eng__cuda_check(cuda, rc, "capturing a graph", e);
}

/* True if launches of a stage and capacity can be of this mode. Modes differ in attention: a stage
 * without layers has one graph for all (see run_stage). */
static bool launches_so(const cu_backend *cuda, eng_stage stage, cu_mode mode, uint32_t rows) {
    if (mode == CU_ONE_ROW) return true;
    if (eng__cuda_layers(cuda, stage) == 0) return false;
    if (mode == CU_SHARED_TILES) return cuda->tile_rows > 1 && rows > 1;
    return cuda->flash.max_runs && rows >= cuda->flash.rows;
}

static int capture_stages(cu_backend *cuda, uint32_t bucket, err *e) {
    uint32_t rows = cuda->bucket[bucket];
    for (int stage = 0; stage < CU_STAGES; stage++) {
        for (int mode = 0; mode < CU_MODES; mode++) {
            if (!launches_so(cuda, (eng_stage)stage, (cu_mode)mode, rows)) continue;
            if (capture(cuda, stage, rows, (cu_mode)mode, &cuda->graph[stage][bucket][mode], e) !=
                0)
                return -1;
        }
    }
    return 0;
}

static int capture_graphs(cu_backend *cuda, err *e) {
    for (uint32_t i = 0; i < cuda->n_buckets; i++) {
        if (capture_stages(cuda, i, e) != 0) return -1;
        if (i && cuda->bucket[i - 1] >= cuda->opts.max_logits) continue;
        uint32_t rows =
            cuda->bucket[i] < cuda->opts.max_logits ? cuda->bucket[i] : cuda->opts.max_logits;
        if (capture(cuda, CU_STAGES, rows, CU_ONE_ROW, &cuda->head_graph[i], e) != 0) return -1;
    }
    return 0;
}

/* The driver keeps graphs on the device; their size is measured, as it cannot be computed. */
static int capture_all(cu_backend *cuda, err *e) {
    size_t before = 0, after = 0, all = 0;
    if (eng__cuda_check(cuda, cudaMemset(cuda->desc, 0, sizeof(cu_head)), "clearing memory", e) !=
            0 ||
        eng__cuda_check(cuda, cudaDeviceSynchronize(), "clearing memory", e) != 0) {
        return -1; /* an empty descriptor */
    }
    if (!cuda->graphs) return 0;
    if (eng__cuda_check(cuda, cudaMemGetInfo(&before, &all), "asking for free memory", e) != 0 ||
        capture_graphs(cuda, e) != 0 ||
        eng__cuda_check(cuda, cudaMemGetInfo(&after, &all), "asking for free memory", e) != 0) {
        return -1;
    }
    size_t took = before > after ? before - after : 0;
    log_line(LOG_DEBUG, "%s: %u graphs, %llu nodes, %.1f MB", cuda->device_name, cuda->n_graphs,
             (unsigned long long)cuda->graph_nodes, (double)took * 1e-6);
    return 0;
}

/* ---- open ---- */

/* A plug-in may hold kernels for some devices only. */
static int setup_kernels(cu_backend *cuda, const struct cudaDeviceProp *prop, err *e) {
    cudaError_t rc = cu_kernels_setup(cuda->device, cuda->plan.dim);
    if (rc != cudaErrorNoKernelImageForDevice && rc != cudaErrorInvalidDeviceFunction)
        return eng__cuda_check(cuda, rc, "sizing shared memory", e);
    (void)cudaGetLastError();
    return err_set(e, ERR_NOT_FOUND, NULL,
                   "no CUDA: %s has compute capability %d.%d, and the plug-in was built for %s "
                   "(CUDA_ARCHS)",
                   cuda->device_name, prop->major, prop->minor, CU_TARGETS);
}

static int open_device(cu_backend *cuda, int device, err *e) {
    struct cudaDeviceProp prop;
    cuda->device = device;
    cudaError_t rc = cudaSetDevice(device);
    if (rc == cudaSuccess) rc = cudaGetDeviceProperties(&prop, device);
    if (rc != cudaSuccess) {
        return err_set(e, ERR_NOT_FOUND, NULL, "no CUDA: device %d: %s", device,
                       cudaGetErrorString(rc));
    }
    (void)snprintf(cuda->device_name, sizeof cuda->device_name, "cuda:%d %.100s", device,
                   prop.name);
    cuda->sms = prop.multiProcessorCount;
    if (prop.major < 8) {
        return err_set(e, ERR_NOT_FOUND, NULL,
                       "no CUDA: %s has compute capability %d.%d; 8.0 is needed", prop.name,
                       prop.major, prop.minor);
    }
    if (eng__cuda_check(cuda,
                        cudaDeviceGetAttribute(&cuda->shared_bytes,
                                               cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                        "asking for shared memory", e) != 0 ||
        eng__cuda_check(cuda,
                        cudaDeviceGetAttribute(&cuda->l2_bytes, cudaDevAttrL2CacheSize, device),
                        "asking for the cache's size", e) != 0 ||
        eng__cuda_check(cuda, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking),
                        "opening a stream", e) != 0) {
        return -1;
    }
    return setup_kernels(cuda, &prop, e);
}

static int open_blas(cu_backend *cuda, err *e) {
    void *workspace;
    if (cuda->f32 || cuda->invariant) return 0;
    if (eng__cuda_alloc(cuda, &workspace, BLAS_WORKSPACE, 1, "cuBLAS", e) != 0) return -1;
    cublasStatus_t rc = cublasCreate(&cuda->blas);
    if (rc == CUBLAS_STATUS_SUCCESS) rc = cublasSetStream(cuda->blas, cuda->stream);
    if (rc == CUBLAS_STATUS_SUCCESS) rc = cublasSetWorkspace(cuda->blas, workspace, BLAS_WORKSPACE);
    /* Sums split over blocks stay float32 until they are whole. */
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasSetMathMode(cuda->blas, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    if (rc == CUBLAS_STATUS_SUCCESS) return 0;
    return err_set(e, ERR_DEVICE, NULL, "%s: cuBLAS does not start: %s", cuda->device_name,
                   cublasGetStatusName(rc));
}

static void fill_info(cu_backend *cuda) {
    eng_backend_info *info = &cuda->base.info;
    info->device = cuda->device_name;
    info->kernels = cuda->kernels_name;
    info->threads = 1;
    info->n_rows = cuda->opts.n_rows;
    info->max_launch = cuda->opts.max_launch;
    info->max_flights = CU_FLIGHTS;
    info->samples = true;
    info->exit = cuda->opts.exit;
    info->max_logits = cuda->opts.max_logits;
    info->weight_bytes = cuda->weight_bytes;
    info->memory_bytes = cuda->mem.bytes;
}

int eng__cuda_open_device(eng_backend **out, const model_folder *model,
                          const eng_backend_opts *opts, int device, err *e) {
    *out = NULL;
    cu_backend *cuda = array_new(1, sizeof *cuda);
    if (cuda == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory opening the CUDA backend");
    cuda->base.ops = &eng__cuda_ops;
    cuda->base.plan = model_plan_of(model);
    cuda->model = model;
    cuda->plan = *cuda->base.plan;
    if (check_opts(cuda, opts, e) != 0) goto fail;
    set_shapes(cuda);
    if (open_device(cuda, device, e) != 0) goto fail;
    size_tiles(cuda);
    if (open_blas(cuda, e) != 0) goto fail;
    if (eng__cuda_upload(cuda, e) != 0) goto fail;
    eng__cuda_plan_l2(cuda, (uint64_t)cuda->l2_bytes);
    if (take_gate(cuda, e) != 0) goto fail;
    if (take_scratch(cuda, e) != 0) goto fail;
    if (take_exchange(cuda, e) != 0) goto fail;
    if (size_cache(cuda, e) != 0) goto fail;
    if (eng__cuda_clock_open(cuda, e) != 0 || capture_all(cuda, e) != 0) goto fail;
    if (eng__cuda_clock_start(cuda, e) != 0) goto fail;
    if (eng__cuda_check(cuda, cudaDeviceSynchronize(), "opening", e) != 0) goto fail;
    fill_info(cuda);
    *out = &cuda->base;
    return 0;
fail:
    eng__cuda_ops.close(&cuda->base);
    return -1;
}

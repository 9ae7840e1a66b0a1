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

/* True if the device is in an error that every later call would meet too. */
static bool device_is_lost(const cu_backend *b) {
    (void)cudaGetLastError(); /* forgets an error that does not stay */
    cudaError_t rc = cudaStreamQuery(b->stream);
    return rc != cudaSuccess && rc != cudaErrorNotReady;
}

int eng__cuda_check(cu_backend *b, cudaError_t rc, const char *what, err *e) {
    if (rc == cudaSuccess) return 0;
    const char *kernel = cu_failed_kernel(), *product = b->blas_product;
    bool gone = device_is_lost(b);
    b->blas_product = NULL;
    b->lost = b->lost || gone;
    err_code code = b->lost                           ? ERR_DEVICE
                    : rc == cudaErrorMemoryAllocation ? ERR_NO_MEMORY
                                                      : ERR_INTERNAL;
    if (product) {
        return err_set(e, code, NULL, "%s: %s failed: cuBLAS refused product %s: %s",
                       b->device_name, what, product, cublasGetStatusName(b->blas_status));
    }
    const char *why = cudaGetErrorString(rc);
    if (kernel == NULL)
        return err_set(e, code, NULL, "%s: %s failed: %s", b->device_name, what, why);
    /* A start also reports what kernels before it have done. */
    return err_set(e, code, NULL,
                   gone ? "%s: %s failed: %s, found at the start of kernel %s"
                        : "%s: %s failed: %s: kernel %s cannot be started",
                   b->device_name, what, why, kernel);
}

/* ---- memory ---- */

int eng__cuda_alloc(cu_backend *b, void *out, size_t n, size_t item_bytes, const char *what,
                    err *e) {
    cu_allocs *m = &b->mem;
    size_t bytes, room = 0, all = 0;
    void *p = NULL;
    if (!size_mul(n ? n : 1, item_bytes, &bytes)) {
        return err_set(e, ERR_NO_MEMORY, NULL, "the %s are larger than memory can be", what);
    }
    if (m->n == m->cap) {
        uint32_t cap = m->cap ? m->cap * 2 : 128;
        void **items = realloc(m->items, cap * sizeof *items);
        if (items == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
        m->items = items;
        m->cap = cap;
    }
    cudaError_t rc = cudaMalloc(&p, bytes);
    if (rc == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError(); /* it is not sticky, and the backend goes away */
        (void)cudaMemGetInfo(&room, &all);
        return err_set(e, ERR_NO_MEMORY, NULL,
                       "%s: %.2f GB needed for %s beside %.2f GB taken, %.2f of %.2f GB free",
                       b->device_name, (double)bytes * 1e-9, what, (double)m->bytes * 1e-9,
                       (double)room * 1e-9, (double)all * 1e-9);
    }
    if (eng__cuda_check(b, rc, "allocating memory", e) != 0) return -1;
    m->items[m->n++] = p;
    m->bytes += bytes;
    memcpy(out, &p, sizeof p);
    return 0;
}

/* ---- options and shapes ---- */

static int set_kernels(cu_backend *b, const char *name, err *e) {
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
        b->f32 = modes[i].f32;
        b->graphs = modes[i].graphs;
        b->expand_early = modes[i].expand_early;
        b->invariant = modes[i].invariant;
        uint32_t from = b->plan.n_experts ? CU_BLAS_ROWS : CU_BLAS_ROWS_DENSE;
        b->blas_rows = b->f32 || b->invariant ? UINT32_MAX : from;
        (void)snprintf(b->kernels_name, sizeof b->kernels_name, "%s", modes[i].name);
        return 0;
    }
    return err_set(e, ERR_USAGE, "kernels",
                   "kernels for CUDA are bf16, bf16-invariant (a sequence's bits depend on itself "
                   "alone), f32 (parity), each with -stream (without graphs), and for tests "
                   "bf16-expand and bf16-expand-stream, not '%s'",
                   name);
}

static int check_opts(cu_backend *b, const eng_backend_opts *in, err *e) {
    static const eng__limits limits = {
        .default_rows = 1024, .launch = CU_MAX_LAUNCH, .positions = 1u << 24};
    const model_plan *c = &b->plan;
    b->opts = *in;
    if (eng__check_plan(c, e) != 0 || eng__check_opts(&b->opts, c, &limits, e) != 0) return -1;
    if (in->weights == ENG_WEIGHTS_INT8) {
        return err_set(e, ERR_USAGE, "weights",
                       "weights in int8 are not there on CUDA, which holds them in bfloat16: leave "
                       "--weights out, or run int8 with --device cpu");
    }
    if (c->n_experts + c->n_shared_experts * c->n_experts_per_tok > CU_MAX_EXPERTS) {
        return err_set(e, ERR_UNSUPPORTED, NULL, "more than %d experts", CU_MAX_EXPERTS);
    }
    if (c->dim > CU_MAX_DIM) {
        return err_set(e, ERR_UNSUPPORTED, NULL, "a residual stream of %u channels; at most %d",
                       c->dim, CU_MAX_DIM);
    }
    if (c->attn == ATTN_MLA && (c->q_lora_rank > CU_MAX_LATENT || c->kv_lora_rank > CU_MAX_LATENT ||
                                2 * c->qk_rope_head_dim > CU_MAX_LATENT)) {
        return err_set(
            e, ERR_UNSUPPORTED, NULL,
            "latents of %u and %u values and a rotated part of %u; at most %d, %d and %d",
            c->q_lora_rank, c->kv_lora_rank, c->qk_rope_head_dim, CU_MAX_LATENT, CU_MAX_LATENT,
            CU_MAX_LATENT / 2);
    }
    if (c->core_ffn == FFN_MOE && c->n_core != 1) {
        return err_set(e, ERR_UNSUPPORTED, NULL, "experts in a core of several layers");
    }
    if (c->output == OUTPUT_WEIGHTED_SUM && b->opts.exit != EXIT_ACT) {
        return err_set(e, ERR_UNSUPPORTED, NULL, "a weighted output needs the exit rule act");
    }
    return set_kernels(b, in->kernels, e);
}

/* What no weight says but all weights of it do: see cu_loop_gate. */
static int take_gate(cu_backend *b, err *e) {
    const model_plan *c = &b->plan;
    if (c->inject != INJECT_MYTHOS || c->lora_rank == 0 || b->halt_w == NULL) return 0;
    if (eng__cuda_alloc(b, &b->lora_gate, c->lora_rank, sizeof(float), "weights", e) != 0)
        return -1;
    return eng__cuda_check(
        b, cu_loop_gate(b->stream, b->lora_b, b->halt_w, c->dim, c->lora_rank, b->lora_gate),
        "preparing the gate", e);
}

/* What hangs on the shared memory a block may have, which is known once the device is. Whether a
 * prompt is expanded follows from its chunks: not where a row's bits may depend on its history
 * alone. */
static void size_tiles(cu_backend *b) {
    cu_flash_args a;
    cu_attn_args tiles;
    eng__cuda_attn_shape(b, &tiles);
    b->tile_rows = cu_attn_tile_rows(&tiles, b->f32);
    b->flash = (cu_flash_plan){.rows = UINT32_MAX};
    eng__cuda_flash_shape(b, &a);
    if (b->f32 || b->invariant || b->plan.attn != ATTN_MLA ||
        !cu_flash_fits(&a, (uint32_t)b->shared_bytes)) {
        return;
    }
    eng__cuda_size_runs(b, b->expand_early ? 2 : cu_flash_crossover(&a),
                        b->expand_early ? CU_FLASH_KEYS : 0, cu_flash_key_bytes(&a));
}

static void set_shapes(cu_backend *b) {
    const model_plan *c = &b->plan;
    bool mla = c->attn == ATTN_MLA;
    b->dim_ld = cu_round(c->dim, CU_K_STEP);
    b->dk = mla ? c->kv_lora_rank + c->qk_rope_head_dim : c->head_dim;
    b->dv = mla ? c->kv_lora_rank : c->head_dim;
    b->o_values = c->n_heads * (mla ? c->v_head_dim : c->head_dim);
    b->o_ld = cu_round(b->o_values, CU_K_STEP);
    b->expert_ld = cu_round(c->expert_dim, CU_K_STEP);
    b->dense_ld = cu_round(c->ffn_dim, CU_K_STEP);
    b->groups_shared = c->n_shared_experts * c->n_experts_per_tok;
    b->loop_width = c->inject == INJECT_MYTHOS ? c->dim / 8 : 0;
    b->cache.f32 = b->opts.cache_dtype == DTYPE_F32;
    b->cache.slot_values = c->slot_values;
    for (uint32_t n = 1; n < b->opts.max_launch && b->n_buckets + 1 < CU_BUCKETS; n *= 2) {
        b->bucket[b->n_buckets++] = n;
    }
    b->bucket[b->n_buckets++] = b->opts.max_launch;
}

/* ---- scratch, state, cache ---- */

static uint64_t most(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* Values of the split attention's parts, the most any capacity needs. */
static uint64_t part_rows(const cu_backend *b) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < b->n_buckets; i++) {
        uint64_t parts = eng__cuda_parts(b, b->bucket[i]).most;
        if (parts > 1) n = most(n, b->bucket[i] * parts); /* one part is never put away */
    }
    return n * b->plan.n_heads;
}

static int take_scratch(cu_backend *b, err *e) {
    const model_plan *c = &b->plan;
    cu_scratch *s = &b->work;
    bool mla = c->attn == ATTN_MLA;
    uint64_t n = b->opts.max_launch, d = c->dim, h = c->n_heads, f = sizeof(float);
    uint64_t act = cu_act_bytes(b), parts = c->n_experts_per_tok + b->groups_shared;
    uint64_t in = mla ? (uint64_t)c->q_lora_rank + c->kv_lora_rank + c->qk_rope_head_dim
                      : (uint64_t)b->o_values + 2u * c->n_kv_heads * c->head_dim;
    uint64_t q_up = mla ? h * (c->qk_nope_head_dim + c->qk_rope_head_dim) : 1;
    uint64_t ctx = mla ? h * cu_round(c->kv_lora_rank, CU_K_STEP) : 1;
    uint64_t hidden =
        most(most(parts * b->expert_ld, b->dense_ld), b->groups_shared * b->expert_ld);
    uint64_t wide =
        b->f32 || b->invariant ? 1 : 2 * most(b->groups_shared * b->expert_ld, b->dense_ld);
    uint64_t keys = b->flash.max_runs ? b->flash.keys : 0;
    uint64_t flash_parts = keys ? n * CU_FLASH_SPLITS * h : 0;
    s->moe.max_tiles = (uint32_t)(n * parts / CU_TILE_ROWS + c->n_experts + b->groups_shared);
    const struct {
        void *at;
        uint64_t rows, ld, bytes;
    } wanted[] = {
        {&b->state.h, b->opts.n_rows, d, f},
        {&b->state.e, c->inject == INJECT_NONE ? 0 : b->opts.n_rows, d, f},
        {&b->state.out, b->opts.n_rows, d, f},
        {&b->state.cum, b->opts.n_rows, 1, f},
        {&b->state.halted, b->opts.n_rows, 1, 1},
        {&b->arrived, n, h, sizeof(uint32_t)},
        {&s->x, n, d, f},
        {&s->delta, n, d, f},
        {&s->in, n, in, f},
        {&s->q_up, n, q_up, f},
        {&s->part_o, part_rows(b), b->dv, f},
        {&s->part_ml, part_rows(b), 2, f},
        {&s->router, n, c->n_experts, f},
        {&s->parts, n * parts, d, f},
        {&s->loop_sums, c->inject == INJECT_MYTHOS ? n : 0, cu_loop_sums(c->dim, c->lora_rank), f},
        {&s->logits, b->opts.max_logits, c->vocab_size, f},
        {&s->act, n, b->dim_ld, act},
        {&s->cq, n, mla ? cu_round(c->q_lora_rank, CU_K_STEP) : 1, act},
        {&s->q_nope, n, mla ? h * cu_round(c->qk_nope_head_dim, CU_K_STEP) : 1, act},
        {&s->q, n, h * b->dk, act},
        {&s->ctx, n, ctx, act},
        {&s->o, n, b->o_ld, act},
        {&s->hidden, n, hidden, act},
        {&s->wide, n, wide, act},
        {&s->head, b->opts.max_logits, b->dim_ld, act},
        {&s->keys, keys * h, cu_round(c->qk_nope_head_dim, 16), 2},
        {&s->values, keys * h, cu_round(c->v_head_dim, 16), 2},
        {&s->keys_rope, keys, cu_round(c->qk_rope_head_dim, 16), 2},
        {&s->flash_o, flash_parts, c->v_head_dim, f},
        {&s->flash_ml, flash_parts, 2, f},
        {&s->moe.pick, n, c->n_experts_per_tok, sizeof(uint32_t)},
        {&s->moe.weight, n, c->n_experts_per_tok, f},
        {&s->moe.order, n, parts, sizeof(uint32_t)},
        {&s->moe.tiles, s->moe.max_tiles, 1, sizeof(cu_moe_tile)},
        {&s->moe.n_tiles, 1, 1, sizeof(uint32_t)},
    };
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        size_t bytes;
        if (wanted[i].rows == 0 || wanted[i].ld == 0) continue; /* this model has no such thing */
        if (!size_mul(wanted[i].ld, wanted[i].bytes, &bytes)) bytes = SIZE_MAX;
        if (eng__cuda_alloc(b, wanted[i].at, wanted[i].rows, bytes, "working memory", e) != 0)
            return -1;
        if (i < N_STATE) continue;
        void *p;
        memcpy(&p, wanted[i].at, sizeof p);
        b->scratch[b->n_scratch++] = (cu_span){p, wanted[i].rows * bytes};
    }
    cudaError_t rc = cudaMemset(b->state.halted, 0, b->opts.n_rows);
    if (rc == cudaSuccess) rc = cudaMemset(b->arrived, 0, n * h * sizeof(uint32_t));
    return eng__cuda_check(b, rc, "clearing memory", e);
}

int eng__cuda_poison(cu_backend *b, err *e) {
    for (uint32_t i = 0; i < b->n_scratch; i++) {
        cudaError_t rc = cudaMemsetAsync(b->scratch[i].data, 0xff, b->scratch[i].bytes, b->stream);
        if (eng__cuda_check(b, rc, "poisoning memory", e) != 0) return -1;
    }
    return 0;
}

static int take_flight(cu_backend *b, cu_flight *f, err *e) {
    size_t flags = CU_HALTED + (size_t)b->opts.max_launch;
    size_t logits = (size_t)b->opts.max_logits * b->plan.vocab_size * sizeof(float);
    const struct {
        void *at;
        size_t bytes;
    } wanted[] = {{&f->flags, flags},
                  {&f->logits, logits},
                  {&f->choices, b->opts.max_logits * sizeof(cu_choice)}};
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        void *p = NULL;
        if (eng__cuda_check(b, cudaMallocHost(&p, wanted[i].bytes), "pinning memory", e) != 0)
            return -1;
        memcpy(wanted[i].at, &p, sizeof p);
    }
    return eng__cuda_check(b, cudaEventCreate(&f->began), "opening an event", e);
}

/* Where descriptors wait for the device, none as yet, and the count of those it took. */
static int take_sent(cu_backend *b, err *e) {
    for (size_t i = 0; i < ARRAY_LEN(b->sent); i++) {
        void *p = NULL;
        if (eng__cuda_check(b, cudaMallocHost(&p, b->desc_bytes), "pinning memory", e) != 0)
            return -1;
        b->sent[i] = p;
        if (eng__cuda_alloc(b, &b->came[i], b->desc_bytes, 1, "launch descriptors", e) != 0 ||
            eng__cuda_check(b, cudaMemset(b->came[i], 0, CU_FRONT), "clearing memory", e) != 0 ||
            eng__cuda_check(b, cudaEventCreateWithFlags(&b->copied[i], cudaEventDisableTiming),
                            "opening an event", e) != 0) {
            return -1;
        }
    }
    if (eng__cuda_check(b, cudaStreamCreateWithFlags(&b->copies, cudaStreamNonBlocking),
                        "opening a stream", e) != 0) {
        return -1;
    }
    for (size_t i = 0; i < ARRAY_LEN(b->ended); i++) {
        if (eng__cuda_check(b, cudaEventCreate(&b->ended[i]), "opening an event", e) != 0)
            return -1;
    }
    if (eng__cuda_alloc(b, &b->dev_turn, 2, sizeof *b->dev_turn, "launch descriptors", e) != 0)
        return -1;
    return eng__cuda_check(b, cudaMemset(b->dev_turn, 0, 2 * sizeof *b->dev_turn),
                           "clearing memory", e);
}

/* What a launch says and what comes back. A descriptor has room for the edits of a full launch:
 * a slot for every plane of a position outside the loop and two for its loop. */
static int take_exchange(cu_backend *b, err *e) {
    uint64_t blocks = (b->opts.max_positions + ENG_BLOCK - 1) / ENG_BLOCK;
    uint64_t edits = (uint64_t)b->opts.max_launch * (plan_planes(&b->plan, 0) + 2);
    size_t table = (size_t)most(blocks * b->opts.max_launch, 1);
    b->edit_cap = (uint32_t)most(edits, CU_EDITS);
    b->desc_bytes = sizeof(cu_head) + _Alignof(cu_draw) +
                    b->opts.max_launch * (sizeof(cu_row) + sizeof(cu_tile) + sizeof(cu_draw)) +
                    b->edit_cap * sizeof(cu_edit) + table * sizeof(uint32_t) +
                    eng__cuda_runs_bytes(b) + 4 * 16; /* its parts begin at multiples of 16 */
    if (b->desc_bytes < CU_FRONT) b->desc_bytes = CU_FRONT;
    if (b->desc_bytes > UINT32_MAX / 2) {
        return err_set(e, ERR_USAGE, NULL, "too many positions for launches of %u rows",
                       b->opts.max_launch);
    }
    if (eng__cuda_alloc(b, &b->desc, b->desc_bytes, 1, "launch descriptors", e) != 0) return -1;
    if (take_sent(b, e) != 0) return -1;
    b->stamps.last = array_new(b->opts.n_rows, sizeof *b->stamps.last);
    if (b->stamps.last == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    for (int i = 0; i < CU_FLIGHTS; i++) {
        if (take_flight(b, &b->flight[i], e) != 0) return -1;
    }
    return 0;
}

static int size_cache(cu_backend *b, err *e) {
    eng_backend_info *info = &b->base.info;
    size_t room = 0, all = 0;
    if (eng__cuda_check(b, cudaMemGetInfo(&room, &all), "asking for free memory", e) != 0)
        return -1;
    uint64_t bytes = b->opts.cache_bytes;
    if (bytes == 0) bytes = room - room / 10; /* the rest for graphs and the driver */
    if (eng__size_cache(info, &b->plan, &b->opts, bytes, e) != 0) return -1;
    b->cache.n_planes = info->n_planes;
    b->cache.n_slots = info->n_slots;
    b->cache.n_blocks = info->n_blocks;
    b->edited = array_new(info->n_blocks, sizeof *b->edited);
    if (b->edited == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    size_t map = info->block_map_bytes;
    if (eng__cuda_alloc(b, &b->cache.slots, info->n_slots, info->slot_bytes, "the cache", e) != 0 ||
        eng__cuda_alloc(b, &b->cache.maps, info->n_blocks, map, "the cache's maps", e) != 0) {
        return -1;
    }
    return eng__cuda_check(b, cudaMemset(b->cache.maps, 0xff, info->n_blocks * map),
                           "clearing the maps", e);
}

/* ---- graphs ---- */

static cudaError_t enqueue(cu_backend *b, int stage, uint32_t rows, cu_path path) {
    return stage < CU_STAGES ? eng__cuda_stage(b, (eng_stage)stage, rows, path)
                             : eng__cuda_head(b, rows);
}

/* Captures one stage, or the head, for a capacity; run once before, on no rows, because what
 * CUDA and cuBLAS load at a kernel's first use cannot be loaded while a stream is captured. */
static int capture(cu_backend *b, int stage, uint32_t rows, cu_mode mode, cudaGraphExec_t *out,
                   err *e) {
    cudaGraph_t graph = NULL;
    cu_path path = {mode, 1};
    size_t nodes = 0;
    cudaError_t rc = enqueue(b, stage, rows, path);
    if (rc == cudaSuccess) rc = cudaStreamSynchronize(b->stream);
    if (rc == cudaSuccess) rc = cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal);
    if (rc == cudaSuccess) {
        rc = enqueue(b, stage, rows, path);
        cudaError_t ended = cudaStreamEndCapture(b->stream, &graph);
        if (rc == cudaSuccess) rc = ended;
    }
    if (rc == cudaSuccess) rc = cudaGraphGetNodes(graph, NULL, &nodes);
    if (rc == cudaSuccess) rc = cudaGraphInstantiate(out, graph, 0);
    if (rc == cudaSuccess) rc = cudaGraphUpload(*out, b->stream); /* not at the first replay */
    if (graph) (void)cudaGraphDestroy(graph);
    b->n_graphs++;
    b->graph_nodes += nodes;
    return eng__cuda_check(b, rc, "capturing a graph", e);
}

/* True if launches of a stage and capacity can be of this mode. Modes differ in attention: a stage
 * without layers has one graph for all (see run_stage). */
static bool launches_so(const cu_backend *b, eng_stage stage, cu_mode mode, uint32_t rows) {
    if (mode == CU_ONE_ROW) return true;
    if (eng__cuda_layers(b, stage) == 0) return false;
    if (mode == CU_SHARED_TILES) return b->tile_rows > 1 && rows > 1;
    return b->flash.max_runs && rows >= b->flash.rows;
}

static int capture_stages(cu_backend *b, uint32_t bucket, err *e) {
    uint32_t rows = b->bucket[bucket];
    for (int s = 0; s < CU_STAGES; s++) {
        for (int m = 0; m < CU_MODES; m++) {
            if (!launches_so(b, (eng_stage)s, (cu_mode)m, rows)) continue;
            if (capture(b, s, rows, (cu_mode)m, &b->graph[s][bucket][m], e) != 0) return -1;
        }
    }
    return 0;
}

static int capture_graphs(cu_backend *b, err *e) {
    for (uint32_t i = 0; i < b->n_buckets; i++) {
        if (capture_stages(b, i, e) != 0) return -1;
        if (i && b->bucket[i - 1] >= b->opts.max_logits) continue;
        uint32_t rows = b->bucket[i] < b->opts.max_logits ? b->bucket[i] : b->opts.max_logits;
        if (capture(b, CU_STAGES, rows, CU_ONE_ROW, &b->head_graph[i], e) != 0) return -1;
    }
    return 0;
}

/* The driver keeps graphs on the device; how much that is only a device can say. */
static int capture_all(cu_backend *b, err *e) {
    size_t before = 0, after = 0, all = 0;
    if (eng__cuda_check(b, cudaMemset(b->desc, 0, sizeof(cu_head)), "clearing memory", e) != 0 ||
        eng__cuda_check(b, cudaDeviceSynchronize(), "clearing memory", e) != 0) {
        return -1; /* an empty descriptor */
    }
    if (!b->graphs) return 0;
    if (eng__cuda_check(b, cudaMemGetInfo(&before, &all), "asking for free memory", e) != 0 ||
        capture_graphs(b, e) != 0 ||
        eng__cuda_check(b, cudaMemGetInfo(&after, &all), "asking for free memory", e) != 0) {
        return -1;
    }
    size_t took = before > after ? before - after : 0;
    log_line(LOG_DEBUG, "%s: %u graphs, %llu nodes, %.1f MB", b->device_name, b->n_graphs,
             (unsigned long long)b->graph_nodes, (double)took * 1e-6);
    return 0;
}

/* ---- open ---- */

/* A plug-in may hold kernels for some devices only. */
static int setup_kernels(cu_backend *b, const struct cudaDeviceProp *prop, err *e) {
    cudaError_t rc = cu_kernels_setup(b->device, b->plan.dim);
    if (rc != cudaErrorNoKernelImageForDevice && rc != cudaErrorInvalidDeviceFunction)
        return eng__cuda_check(b, rc, "sizing shared memory", e);
    (void)cudaGetLastError();
    return err_set(e, ERR_NOT_FOUND, NULL,
                   "no CUDA: %s has compute capability %d.%d, and the plug-in was built for %s "
                   "(CUDA_ARCHS)",
                   b->device_name, prop->major, prop->minor, CU_TARGETS);
}

static int open_device(cu_backend *b, int device, err *e) {
    struct cudaDeviceProp prop;
    b->device = device;
    cudaError_t rc = cudaSetDevice(device);
    if (rc == cudaSuccess) rc = cudaGetDeviceProperties(&prop, device);
    if (rc != cudaSuccess) {
        return err_set(e, ERR_NOT_FOUND, NULL, "no CUDA: device %d: %s", device,
                       cudaGetErrorString(rc));
    }
    (void)snprintf(b->device_name, sizeof b->device_name, "cuda:%d %.100s", device, prop.name);
    b->sms = prop.multiProcessorCount;
    if (prop.major < 8) {
        return err_set(e, ERR_NOT_FOUND, NULL,
                       "no CUDA: %s has compute capability %d.%d; 8.0 is needed", prop.name,
                       prop.major, prop.minor);
    }
    if (eng__cuda_check(b,
                        cudaDeviceGetAttribute(&b->shared_bytes,
                                               cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
                        "asking for shared memory", e) != 0 ||
        eng__cuda_check(b, cudaDeviceGetAttribute(&b->l2_bytes, cudaDevAttrL2CacheSize, device),
                        "asking for the cache's size", e) != 0 ||
        eng__cuda_check(b, cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking),
                        "opening a stream", e) != 0) {
        return -1;
    }
    return setup_kernels(b, &prop, e);
}

static int open_blas(cu_backend *b, err *e) {
    void *workspace;
    if (b->f32 || b->invariant) return 0;
    if (eng__cuda_alloc(b, &workspace, BLAS_WORKSPACE, 1, "cuBLAS", e) != 0) return -1;
    cublasStatus_t rc = cublasCreate(&b->blas);
    if (rc == CUBLAS_STATUS_SUCCESS) rc = cublasSetStream(b->blas, b->stream);
    if (rc == CUBLAS_STATUS_SUCCESS) rc = cublasSetWorkspace(b->blas, workspace, BLAS_WORKSPACE);
    /* Sums that are split over blocks stay float32 until they are whole. */
    if (rc == CUBLAS_STATUS_SUCCESS)
        rc = cublasSetMathMode(b->blas, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
    if (rc == CUBLAS_STATUS_SUCCESS) return 0;
    return err_set(e, ERR_DEVICE, NULL, "%s: cuBLAS does not start: %s", b->device_name,
                   cublasGetStatusName(rc));
}

static void fill_info(cu_backend *b) {
    eng_backend_info *info = &b->base.info;
    info->device = b->device_name;
    info->kernels = b->kernels_name;
    info->threads = 1;
    info->n_rows = b->opts.n_rows;
    info->max_launch = b->opts.max_launch;
    info->max_flights = CU_FLIGHTS;
    info->samples = true;
    info->exit = b->opts.exit;
    info->max_logits = b->opts.max_logits;
    info->weight_bytes = b->weight_bytes;
    info->memory_bytes = b->mem.bytes;
}

int eng__cuda_open_device(eng_backend **out, const model_folder *m, const eng_backend_opts *opts,
                          int device, err *e) {
    *out = NULL;
    cu_backend *b = array_new(1, sizeof *b);
    if (b == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory opening the CUDA backend");
    b->base.ops = &eng__cuda_ops;
    b->base.plan = model_plan_of(m);
    b->model = m;
    b->plan = *b->base.plan;
    if (check_opts(b, opts, e) != 0) goto fail;
    set_shapes(b);
    if (open_device(b, device, e) != 0) goto fail;
    size_tiles(b);
    if (open_blas(b, e) != 0) goto fail;
    if (eng__cuda_upload(b, e) != 0) goto fail;
    eng__cuda_plan_l2(b, (uint64_t)b->l2_bytes);
    if (take_gate(b, e) != 0) goto fail;
    if (take_scratch(b, e) != 0) goto fail;
    if (take_exchange(b, e) != 0) goto fail;
    if (size_cache(b, e) != 0) goto fail;
    if (eng__cuda_clock_open(b, e) != 0 || capture_all(b, e) != 0) goto fail;
    if (eng__cuda_clock_start(b, e) != 0) goto fail;
    if (eng__cuda_check(b, cudaDeviceSynchronize(), "opening", e) != 0) goto fail;
    fill_info(b);
    *out = &b->base;
    return 0;
fail:
    eng__cuda_ops.close(&b->base);
    return -1;
}

/* backend.c - opening the CUDA backend: options, sizes, graphs. All memory is allocated here, by
 * plain cudaMalloc; nothing is after. */
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

enum { BLAS_WORKSPACE = 32 << 20 };

/* ---- errors ---- */

/* True if the device is in an error that fails every later call too. */
static bool device_is_lost(const cu_backend *cuda) {
    (void)cudaGetLastError(); /* forgets an error that does not stay */
    cudaError_t rc = cudaStreamQuery(cuda->stream);
    return rc != cudaSuccess && rc != cudaErrorNotReady;
}

int eng__cuda_check(cu_backend *cuda, cudaError_t rc, const char *what, err *e) {
    if (rc == cudaSuccess) return 0;
    if (eng__cuda_ranks_fault(cuda, e)) return -1;
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

static int check_opts(cu_backend *cuda, const eng_backend_opts *in, err *e) {
    static const eng__limits limits = {
        .default_rows = 1024, .launch = CU_MAX_LAUNCH, .positions = 1u << 24};
    const model_plan *plan = &cuda->plan;
    cuda->opts = *in;
    if (eng__check_plan(plan, e) != 0 || eng__check_opts(&cuda->opts, plan, &limits, e) != 0)
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
    cuda->embeds_values = eng__has_value_embeds(plan);
    cuda->loop_width = plan->inject == INJECT_MYTHOS ? plan->dim / 8 : 0;
    cuda->cache.f32 = cuda->opts.cache_dtype == DTYPE_F32;
    cuda->cache.slot_values = plan->slot_values;
    for (uint32_t n = 1; n < cuda->opts.max_launch && cuda->n_buckets + 1 < CU_BUCKETS; n *= 2) {
        cuda->bucket[cuda->n_buckets++] = n;
    }
    cuda->bucket[cuda->n_buckets++] = cuda->opts.max_launch;
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
        eng__cuda_ranks_begin(cuda);
        rc = enqueue(cuda, stage, rows, path);
        eng__cuda_ranks_captured(cuda, stage, rows);
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
    if (eng__cuda_ranks_open(cuda, e) != 0) goto fail;
    if (eng__cuda_upload(cuda, e) != 0) goto fail;
    eng__cuda_plan_l2(cuda, (uint64_t)cuda->l2_bytes);
    if (take_gate(cuda, e) != 0) goto fail;
    if (eng__cuda_take_scratch(cuda, e) != 0) goto fail;
    if (eng__cuda_take_exchange(cuda, e) != 0) goto fail;
    if (eng__cuda_take_cache(cuda, e) != 0) goto fail;
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

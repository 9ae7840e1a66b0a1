/* test_errors.c - the message and the effects of an error: a message names the failed call only, a
 * refused launch changes nothing, and a backend serves threads other than its opener. */
#include "tests/cuda/selftest/driver.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum { ROWS = 64 }; /* from here on cuBLAS takes the products */
static const eng_backend_opts wide = {.max_loops = 2,
                                      .n_rows = ROWS,
                                      .max_launch = ROWS,
                                      .max_logits = 2,
                                      .cache_bytes = 4 << 20,
                                      .max_positions = 64,
                                      .cache_dtype = DTYPE_BF16,
                                      .kernels = "bf16"};

static eng_backend *open_on(const model_folder *model, int device, const char *kernels) {
    err e = {0};
    eng_backend *eng = NULL;
    eng_backend_opts opts = wide;
    opts.kernels = kernels;
    check(eng__cuda_open_device(&eng, model, &opts, device, &e) == 0, "open: %s", e.msg);
    return eng;
}

/* The first n positions of n sequences through the prelude. */
static int prelude(eng_backend *eng, uint32_t n, err *e) {
    static uint32_t blocks[ROWS];
    eng_edit edits[ROWS];
    eng_row rows[ROWS];
    for (uint32_t i = 0; i < n; i++) {
        blocks[i] = i;
        edits[i] = (eng_edit){.block = i, .slot = i, .n_planes = 4};
        rows[i] = (eng_row){.row = i, .token = 3 + i, .blocks = &blocks[i]};
    }
    eng_launch launch = {ENG_STAGE_PRELUDE, rows, n, edits, n};
    eng_result result;
    return eng_run(eng, &launch, &result, e);
}

/* ---- threads ---- */

typedef struct {
    eng_backend *eng;
    err why;
    int rc;
} thread_visit;

static void *launch_and_close(void *ud) {
    thread_visit *visit = ud;
    visit->rc = prelude(visit->eng, ROWS, &visit->why);
    eng_backend_close(visit->eng);
    return NULL;
}

static void another_thread_runs_what_this_one_opened(const model_folder *model) {
    thread_visit visit = {.eng = open_on(model, on_shim ? 1 : 0, "bf16")};
    pthread_t other;
    if (visit.eng == NULL ||
        !check(pthread_create(&other, NULL, launch_and_close, &visit) == 0, "a thread"))
        return;
    pthread_join(other, NULL);
    must(cudaSetDevice(0), "choosing a device");
    check(visit.rc == 0, "another thread, a device that is not the first: %s", visit.why.msg);
}

/* ---- cuBLAS ---- */

static void sums_stay_float32(const model_folder *model) {
    eng_backend *eng = open_on(model, 0, "bf16");
    cublasMath_t mode = CUBLAS_DEFAULT_MATH;
    if (eng == NULL) return;
    check(cublasGetMathMode(((cu_backend *)eng)->blas, &mode) == CUBLAS_STATUS_SUCCESS &&
              mode & CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION,
          "cuBLAS may join split sums in bfloat16");
    eng_backend_close(eng);
}

#ifdef FATHOM_CUDA_SHIM

/* ---- messages ---- */

typedef struct {
    uint32_t kernels, products, others;
} told;

static void count_message(told *said, const char *msg, long n) {
    bool kernel = strstr(msg, "kernel ") != NULL, product = strstr(msg, "product ") != NULL;
    said->kernels += kernel;
    said->products += product;
    said->others += !kernel && !product;
    check(!(kernel && product), "call %ld blames two: %s", n, msg);
    check(product == (strstr(msg, "CUBLAS_STATUS_INVALID_VALUE") != NULL), "call %ld: %s", n, msg);
}

/* Every call of a launch without graphs fails once: kernels, products, copies, events. */
static void a_message_names_the_kernel_or_product(const model_folder *model) {
    told said = {0};
    for (long n = 0;; n++) {
        err e = {0};
        eng_backend *eng = open_on(model, 0, "bf16-stream");
        if (eng == NULL) return;
        shim_fail_at(n, 0);
        int rc = prelude(eng, ROWS, &e);
        shim_fail_at(-1, 0);
        eng_backend_close(eng);
        if (rc == 0) break;
        count_message(&said, e.msg, n);
    }
    check(said.kernels >= 8 && said.products >= 5 && said.others >= 5,
          "%u messages name a kernel, %u a product, %u neither", said.kernels, said.products,
          said.others);
}

/* A kernel that breaks off is found at the wait, by any thread. */
static void a_broken_kernel_is_not_blamed_on_another(const model_folder *model) {
    err e = {0}, later = {0};
    eng_backend *eng = open_on(model, 0, "bf16-stream");
    if (eng == NULL) return;
    shim_break_at(3);
    check(prelude(eng, 1, &e) != 0 && e.code == ERR_DEVICE &&
              strstr(e.msg, "illegal memory access") && strstr(e.msg, "kernel ") == NULL,
          "a kernel broke off: %s", e.msg);
    check(prelude(eng, 1, &later) != 0 && later.code == ERR_DEVICE, "a lost device works");
    eng_backend_close(eng);
    shim_break_at(-1);
    shim_fail_at(-1, 0);
}

/* A start that finds the device lost does not blame its own kernel. */
static void a_start_tells_of_kernels_before_it(const model_folder *model) {
    err e = {0};
    eng_backend *eng = open_on(model, 0, "bf16-stream");
    if (eng == NULL) return;
    cu_backend *cuda = (cu_backend *)eng;
    shim_break_at(0);
    must(eng__cuda_begin(cuda), "a kernel");
    (void)cudaStreamSynchronize(cuda->stream);
    cudaError_t rc = eng__cuda_begin(cuda);
    check(eng__cuda_check(cuda, rc, "a start", &e) != 0 && e.code == ERR_DEVICE && cuda->lost &&
              strstr(e.msg, "found at the start of kernel"),
          "a start after a loss: %s", e.msg);
    eng_backend_close(eng);
    shim_break_at(-1);
    shim_fail_at(-1, 0);
}

/* A refused kernel is told once. */
static void an_old_failure_is_not_told_again(const model_folder *model) {
    err e = {0}, next = {0};
    eng_backend *eng = open_on(model, 0, "bf16");
    if (eng == NULL) return;
    cu_backend *cuda = (cu_backend *)eng;
    shim_fail_at(0, 0);
    cudaError_t rc = eng__cuda_begin(cuda);
    check(eng__cuda_check(cuda, rc, "a start", &e) != 0 && e.code == ERR_INTERNAL &&
              strstr(e.msg, "kernel begin cannot be started"),
          "a refused kernel: %s", e.msg);
    check(!cuda->lost && eng__cuda_check(cuda, cudaErrorInvalidValue, "a copy", &next) != 0 &&
              strstr(next.msg, "kernel") == NULL,
          "a copy is blamed on a kernel: %s", next.msg);
    check(eng__cuda_check(cuda, cudaErrorMemoryAllocation, "pinning", &(err){0}) != 0 &&
              !cuda->lost,
          "a device without memory counts as lost");
    eng_backend_close(eng);
}

static void a_plugin_without_kernels_says_which_it_has(const model_folder *model) {
    static const cudaError_t said[] = {cudaErrorNoKernelImageForDevice,
                                       cudaErrorInvalidDeviceFunction};
    struct cudaDeviceProp prop;
    char cc[32];
    must(cudaGetDeviceProperties(&prop, 0), "asking");
    (void)snprintf(cc, sizeof cc, "compute capability %d.%d", prop.major, prop.minor);
    for (size_t i = 0; i < ARRAY_LEN(said); i++) {
        err e = {0};
        eng_backend *eng = NULL;
        shim_no_image(said[i]);
        check(eng__cuda_open_device(&eng, model, &wide, 0, &e) != 0 && e.code == ERR_NOT_FOUND &&
                  strstr(e.msg, cc) && strstr(e.msg, "built for the shim"),
              "no kernels for the device: %s", e.msg);
        shim_no_image(cudaSuccess);
    }
}

/* ---- graphs and refused launches ---- */

static void graphs_are_there_before_the_first_launch(const model_folder *model) {
    err e = {0};
    uint64_t before = shim_cold_graphs();
    eng_backend *eng = open_on(model, 0, "bf16");
    if (eng == NULL) return;
    check(prelude(eng, 1, &e) == 0 && prelude(eng, ROWS, &e) == 0, "%s", e.msg);
    check(shim_cold_graphs() == before, "%llu graphs are uploaded at their first launch",
          (unsigned long long)(shim_cold_graphs() - before));
    eng_backend_close(eng);
}

/* More edits than a descriptor holds go ahead of the launch, but not ahead of its refusal. */
static void a_refused_launch_edits_nothing(const model_folder *model) {
    enum { N = 2 * CU_EDITS + 9 };
    static eng_edit edits[N];
    static uint32_t map[ENG_BLOCK * 64];
    static const uint32_t block[1] = {0};
    err e = {0};
    eng_backend *eng = open_on(model, 0, "bf16");
    if (eng == NULL) return;
    const cu_cache *cache = &((cu_backend *)eng)->cache;
    for (uint32_t i = 0; i < N; i++)
        edits[i] =
            (eng_edit){.block = 2, .slot = 1, .n_planes = (uint16_t)cache->n_planes, .off = 3};
    check(((cu_backend *)eng)->edit_cap < N, "a descriptor holds %u edits", N);
    eng_row row = {.row = 1, .flags = ENG_ROW_SAMPLE, .blocks = block};
    eng_launch launch = {ENG_STAGE_CODA, &row, 1, edits, N};
    check(eng->ops->launch(eng, &launch, &e) != 0 && strstr(e.msg, "cannot be sampled"),
          "a row that cannot be sampled: %s", e.msg);
    size_t words = (size_t)cache->n_planes * ENG_BLOCK, changed = 0;
    must(cudaDeviceSynchronize(), "waiting");
    must(cudaMemcpy(map, cache->maps + 2 * words, words * 4, cudaMemcpyDeviceToHost), "copying");
    for (size_t i = 0; i < words; i++)
        changed += map[i] != ENG_NO_SLOT;
    check(changed == 0, "a refused launch set %zu entries of a map", changed);
    eng_backend_close(eng);
}

/* The shim itself: a kernel with more shared memory than allowed is refused, and does not run. */
static void too_much_shared_memory_is_refused(void) {
    cu_attn_args args = {.n_heads = 16, .n_kv_heads = 1, .dk = 640, .dv = 512, .splits = 1};
    args.cache.slot_values = 640; /* needs over 128 KB for tiles of two rows */
    uint64_t before = shim_launched();
    if (shared_bytes > 99 << 10) return;
    check(cu_attn_mma(test_stream, &args, 1, false) == cudaErrorInvalidValue,
          "128 KB of shared memory where there are 99");
    check(cudaGetLastError() == cudaErrorInvalidValue && cudaGetLastError() == cudaSuccess,
          "an error is told once");
    must(cudaStreamSynchronize(test_stream), "waiting");
    check(shim_launched() == before, "a refused kernel ran");
    (void)cu_failed_kernel();
}

/* The byte test_stream finds at dev. */
static uint8_t seen(const uint8_t *dev, uint8_t *pinned) {
    must(cudaMemcpyAsync(pinned, dev, 1, cudaMemcpyDeviceToHost, test_stream), "copying");
    must(cudaStreamSynchronize(test_stream), "waiting");
    return *pinned;
}

/* The shim itself: a non-blocking stream does not wait for the legacy stream. */
static void copies_of_pageable_memory_come_late(void) {
    uint8_t from = 7, *dev = dev_poison(1), *pinned;
    must(cudaMallocHost((void **)&pinned, 1), "pinning");
    must(cudaMemcpy(dev, &from, 1, cudaMemcpyHostToDevice), "copying");
    from = 8; /* the call has read it */
    check(seen(dev, pinned) == 0xff, "a copy of pageable memory is there at once");
    must(cudaDeviceSynchronize(), "waiting");
    check(seen(dev, pinned) == 7, "a copy of pageable memory is not there after a wait");
    must(cudaMemset(dev, 5, 1), "clearing");
    check(seen(dev, pinned) == 7, "cudaMemset is there at once");
    *pinned = 9;
    must(cudaMemcpy(dev, pinned, 1, cudaMemcpyHostToDevice), "copying");
    check(seen(dev, pinned) == 9, "a copy of pinned memory comes late");
    must(cudaMemcpyAsync(dev, &from, 1, cudaMemcpyHostToDevice, test_stream), "copying");
    from = 1;
    check(seen(dev, pinned) == 8, "a copy in a stream's order reads pageable memory late");
    must(cudaFreeHost(pinned), "freeing");
}

static void only_the_shim(const model_folder *model) {
    copies_of_pageable_memory_come_late();
    a_message_names_the_kernel_or_product(model);
    a_broken_kernel_is_not_blamed_on_another(model);
    a_start_tells_of_kernels_before_it(model);
    an_old_failure_is_not_told_again(model);
    a_plugin_without_kernels_says_which_it_has(model);
    graphs_are_there_before_the_first_launch(model);
    a_refused_launch_edits_nothing(model);
    too_much_shared_memory_is_refused();
}
#else
static void only_the_shim(const model_folder *m) {
    (void)m;
}
#endif

void test_errors(void) {
    err e = {0};
    model_folder *model;
    if (!check(model_open(&model, "tests/golden/cases/mla", &e) == 0, "model: %s", e.msg)) return;
    another_thread_runs_what_this_one_opened(model);
    sums_stay_float32(model);
    only_the_shim(model);
    model_close(model);
}

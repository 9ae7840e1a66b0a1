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

static eng_backend *open_on(const model_folder *m, int device, const char *kernels) {
    err e = {0};
    eng_backend *b = NULL;
    eng_backend_opts o = wide;
    o.kernels = kernels;
    check(eng__cuda_open_device(&b, m, &o, device, &e) == 0, "open: %s", e.msg);
    return b;
}

/* The first n positions of n sequences through the prelude. */
static int prelude(eng_backend *b, uint32_t n, err *e) {
    static uint32_t blocks[ROWS];
    eng_edit edits[ROWS];
    eng_row rows[ROWS];
    for (uint32_t i = 0; i < n; i++) {
        blocks[i] = i;
        edits[i] = (eng_edit){.block = i, .slot = i, .n_planes = 4};
        rows[i] = (eng_row){.row = i, .token = 3 + i, .blocks = &blocks[i]};
    }
    eng_launch l = {ENG_STAGE_PRELUDE, rows, n, edits, n};
    eng_result r;
    return eng_run(b, &l, &r, e);
}

/* ---- threads ---- */

typedef struct {
    eng_backend *b;
    err e;
    int rc;
} visit;

static void *launch_and_close(void *ud) {
    visit *v = ud;
    v->rc = prelude(v->b, ROWS, &v->e);
    eng_backend_close(v->b);
    return NULL;
}

static void another_thread_runs_what_this_one_opened(const model_folder *m) {
    visit v = {.b = open_on(m, on_shim ? 1 : 0, "bf16")};
    pthread_t other;
    if (v.b == NULL || !check(pthread_create(&other, NULL, launch_and_close, &v) == 0, "a thread"))
        return;
    pthread_join(other, NULL);
    must(cudaSetDevice(0), "choosing a device");
    check(v.rc == 0, "another thread, a device that is not the first: %s", v.e.msg);
}

/* ---- cuBLAS ---- */

static void sums_stay_float32(const model_folder *m) {
    eng_backend *b = open_on(m, 0, "bf16");
    cublasMath_t mode = CUBLAS_DEFAULT_MATH;
    if (b == NULL) return;
    check(cublasGetMathMode(((cu_backend *)b)->blas, &mode) == CUBLAS_STATUS_SUCCESS &&
              mode & CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION,
          "cuBLAS may join split sums in bfloat16");
    eng_backend_close(b);
}

#ifdef FATHOM_CUDA_SHIM

/* ---- messages ---- */

typedef struct {
    uint32_t kernels, products, others;
} told;

static void count_message(told *t, const char *msg, long n) {
    bool kernel = strstr(msg, "kernel ") != NULL, product = strstr(msg, "product ") != NULL;
    t->kernels += kernel;
    t->products += product;
    t->others += !kernel && !product;
    check(!(kernel && product), "call %ld blames two: %s", n, msg);
    check(product == (strstr(msg, "CUBLAS_STATUS_INVALID_VALUE") != NULL), "call %ld: %s", n, msg);
}

/* Every call of a launch without graphs fails once: kernels, products, copies, events. */
static void a_message_names_the_kernel_or_product(const model_folder *m) {
    told t = {0};
    for (long n = 0;; n++) {
        err e = {0};
        eng_backend *b = open_on(m, 0, "bf16-stream");
        if (b == NULL) return;
        shim_fail_at(n, 0);
        int rc = prelude(b, ROWS, &e);
        shim_fail_at(-1, 0);
        eng_backend_close(b);
        if (rc == 0) break;
        count_message(&t, e.msg, n);
    }
    check(t.kernels >= 8 && t.products >= 5 && t.others >= 5,
          "%u messages name a kernel, %u a product, %u neither", t.kernels, t.products, t.others);
}

/* A kernel that breaks off is found at the wait, by any thread. */
static void a_kernel_that_breaks_is_nobody_elses_fault(const model_folder *m) {
    err e = {0}, later = {0};
    eng_backend *b = open_on(m, 0, "bf16-stream");
    if (b == NULL) return;
    shim_break_at(3);
    check(prelude(b, 1, &e) != 0 && e.code == ERR_DEVICE &&
              strstr(e.msg, "illegal memory access") && strstr(e.msg, "kernel ") == NULL,
          "a kernel broke off: %s", e.msg);
    check(prelude(b, 1, &later) != 0 && later.code == ERR_DEVICE, "a lost device works");
    eng_backend_close(b);
    shim_break_at(-1);
    shim_fail_at(-1, 0);
}

/* A start that finds the device lost does not blame its own kernel. */
static void a_start_tells_of_kernels_before_it(const model_folder *m) {
    err e = {0};
    eng_backend *b = open_on(m, 0, "bf16-stream");
    if (b == NULL) return;
    cu_backend *c = (cu_backend *)b;
    shim_break_at(0);
    must(eng__cuda_begin(c), "a kernel");
    (void)cudaStreamSynchronize(c->stream);
    cudaError_t rc = eng__cuda_begin(c);
    check(eng__cuda_check(c, rc, "a start", &e) != 0 && e.code == ERR_DEVICE && c->lost &&
              strstr(e.msg, "found at the start of kernel"),
          "a start after a loss: %s", e.msg);
    eng_backend_close(b);
    shim_break_at(-1);
    shim_fail_at(-1, 0);
}

/* A refused kernel is told once. */
static void an_old_failure_is_not_told_again(const model_folder *m) {
    err e = {0}, next = {0};
    eng_backend *b = open_on(m, 0, "bf16");
    if (b == NULL) return;
    cu_backend *c = (cu_backend *)b;
    shim_fail_at(0, 0);
    cudaError_t rc = eng__cuda_begin(c);
    check(eng__cuda_check(c, rc, "a start", &e) != 0 && e.code == ERR_INTERNAL &&
              strstr(e.msg, "kernel begin cannot be started"),
          "a refused kernel: %s", e.msg);
    check(!c->lost && eng__cuda_check(c, cudaErrorInvalidValue, "a copy", &next) != 0 &&
              strstr(next.msg, "kernel") == NULL,
          "a copy is blamed on a kernel: %s", next.msg);
    check(eng__cuda_check(c, cudaErrorMemoryAllocation, "pinning", &(err){0}) != 0 && !c->lost,
          "a device without memory counts as lost");
    eng_backend_close(b);
}

static void a_plugin_without_kernels_says_which_it_has(const model_folder *m) {
    static const cudaError_t said[] = {cudaErrorNoKernelImageForDevice,
                                       cudaErrorInvalidDeviceFunction};
    struct cudaDeviceProp prop;
    char cc[32];
    must(cudaGetDeviceProperties(&prop, 0), "asking");
    (void)snprintf(cc, sizeof cc, "compute capability %d.%d", prop.major, prop.minor);
    for (size_t i = 0; i < ARRAY_LEN(said); i++) {
        err e = {0};
        eng_backend *b = NULL;
        shim_no_image(said[i]);
        check(eng__cuda_open_device(&b, m, &wide, 0, &e) != 0 && e.code == ERR_NOT_FOUND &&
                  strstr(e.msg, cc) && strstr(e.msg, "built for the shim"),
              "no kernels for the device: %s", e.msg);
        shim_no_image(cudaSuccess);
    }
}

/* ---- graphs and refused launches ---- */

static void graphs_are_there_before_the_first_launch(const model_folder *m) {
    err e = {0};
    uint64_t before = shim_cold_graphs();
    eng_backend *b = open_on(m, 0, "bf16");
    if (b == NULL) return;
    check(prelude(b, 1, &e) == 0 && prelude(b, ROWS, &e) == 0, "%s", e.msg);
    check(shim_cold_graphs() == before, "%llu graphs are uploaded at their first launch",
          (unsigned long long)(shim_cold_graphs() - before));
    eng_backend_close(b);
}

/* More edits than a descriptor holds go ahead of the launch, but not ahead of its refusal. */
static void a_refused_launch_edits_nothing(const model_folder *m) {
    enum { N = 2 * CU_EDITS + 9 };
    static eng_edit edits[N];
    static uint32_t map[ENG_BLOCK * 64];
    static const uint32_t block[1] = {0};
    err e = {0};
    eng_backend *b = open_on(m, 0, "bf16");
    if (b == NULL) return;
    const cu_cache *c = &((cu_backend *)b)->cache;
    for (uint32_t i = 0; i < N; i++)
        edits[i] = (eng_edit){.block = 2, .slot = 1, .n_planes = (uint16_t)c->n_planes, .off = 3};
    check(((cu_backend *)b)->edit_cap < N, "a descriptor holds %u edits", N);
    eng_row row = {.row = 1, .flags = ENG_ROW_SAMPLE, .blocks = block};
    eng_launch l = {ENG_STAGE_CODA, &row, 1, edits, N};
    check(b->ops->launch(b, &l, &e) != 0 && strstr(e.msg, "cannot be sampled"),
          "a row that cannot be sampled: %s", e.msg);
    size_t words = (size_t)c->n_planes * ENG_BLOCK, changed = 0;
    must(cudaDeviceSynchronize(), "waiting");
    must(cudaMemcpy(map, c->maps + 2 * words, words * 4, cudaMemcpyDeviceToHost), "copying");
    for (size_t i = 0; i < words; i++)
        changed += map[i] != ENG_NO_SLOT;
    check(changed == 0, "a refused launch set %zu entries of a map", changed);
    eng_backend_close(b);
}

/* The shim itself: a kernel with more shared memory than allowed is refused, and does not run. */
static void too_much_shared_memory_is_refused(void) {
    cu_attn_args a = {.n_heads = 16, .n_kv_heads = 1, .dk = 640, .dv = 512, .splits = 1};
    a.cache.slot_values = 640; /* needs over 128 KB for tiles of two rows */
    uint64_t before = shim_launched();
    if (shared_bytes > 99 << 10) return;
    check(cu_attn_mma(test_stream, &a, 1, false) == cudaErrorInvalidValue,
          "128 KB of shared memory where there are 99");
    check(cudaGetLastError() == cudaErrorInvalidValue && cudaGetLastError() == cudaSuccess,
          "an error is told once");
    must(cudaStreamSynchronize(test_stream), "waiting");
    check(shim_launched() == before, "a refused kernel ran");
    (void)cu_failed_kernel();
}

/* What test_stream finds at p. */
static uint8_t seen(const uint8_t *p, uint8_t *pinned) {
    must(cudaMemcpyAsync(pinned, p, 1, cudaMemcpyDeviceToHost, test_stream), "copying");
    must(cudaStreamSynchronize(test_stream), "waiting");
    return *pinned;
}

/* The shim itself: a non-blocking stream does not wait for the legacy stream. */
static void copies_of_pageable_memory_come_late(void) {
    uint8_t from = 7, *p = dev_poison(1), *pinned;
    must(cudaMallocHost((void **)&pinned, 1), "pinning");
    must(cudaMemcpy(p, &from, 1, cudaMemcpyHostToDevice), "copying");
    from = 8; /* the call has read it */
    check(seen(p, pinned) == 0xff, "a copy of pageable memory is there at once");
    must(cudaDeviceSynchronize(), "waiting");
    check(seen(p, pinned) == 7, "a copy of pageable memory is not there after a wait");
    must(cudaMemset(p, 5, 1), "clearing");
    check(seen(p, pinned) == 7, "cudaMemset is there at once");
    *pinned = 9;
    must(cudaMemcpy(p, pinned, 1, cudaMemcpyHostToDevice), "copying");
    check(seen(p, pinned) == 9, "a copy of pinned memory comes late");
    must(cudaMemcpyAsync(p, &from, 1, cudaMemcpyHostToDevice, test_stream), "copying");
    from = 1;
    check(seen(p, pinned) == 8, "a copy in a stream's order reads pageable memory late");
    must(cudaFreeHost(pinned), "freeing");
}

static void only_the_shim(const model_folder *m) {
    copies_of_pageable_memory_come_late();
    a_message_names_the_kernel_or_product(m);
    a_kernel_that_breaks_is_nobody_elses_fault(m);
    a_start_tells_of_kernels_before_it(m);
    an_old_failure_is_not_told_again(m);
    a_plugin_without_kernels_says_which_it_has(m);
    graphs_are_there_before_the_first_launch(m);
    a_refused_launch_edits_nothing(m);
    too_much_shared_memory_is_refused();
}
#else
static void only_the_shim(const model_folder *m) {
    (void)m;
}
#endif

void test_errors(void) {
    err e = {0};
    model_folder *m;
    if (!check(model_open(&m, "tests/golden/cases/mla", &e) == 0, "model: %s", e.msg)) return;
    another_thread_runs_what_this_one_opened(m);
    sums_stay_float32(m);
    only_the_shim(m);
    model_close(m);
}

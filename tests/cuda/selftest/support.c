/* support.c - checks, random numbers and device buffers of the self-test. */
#include "tests/cuda/selftest/selftest.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint32_t checks_done, checks_failed;
static void **given;
static size_t n_given, cap_given;

bool check(bool ok, const char *fmt, ...) {
    checks_done++;
    if (ok) return true;
    if (checks_failed++ < 40) {
        va_list args;
        va_start(args, fmt);
        printf("FAIL: ");
        vprintf(fmt, args);
        printf("\n");
        va_end(args);
    }
    return false;
}

void must(cudaError_t rc, const char *what) {
    if (rc == cudaSuccess) return;
    printf("FAIL: %s: %s\n", what, cudaGetErrorString(rc));
    exit(1);
}

uint32_t rng_next(rng *rnd) {
    rnd->state = rnd->state * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = rnd->state ^ (rnd->state >> 29);
    return (uint32_t)((x * 0x9e3779b97f4a7c15u) >> 32);
}
uint32_t rng_below(rng *rnd, uint32_t n) {
    return (uint32_t)(((uint64_t)rng_next(rnd) * n) >> 32);
}
float rng_float(rng *rnd) {
    return (float)rng_next(rnd) * (2.0f / 4294967296.0f) - 1.0f;
}

static void *take(size_t n) {
    void *mem = malloc(n ? n : 1);
    if (mem) return mem;
    printf("FAIL: out of memory\n");
    exit(1);
}

static void *dev_new(size_t bytes) {
    void *dev;
    must(cudaMalloc(&dev, bytes ? bytes : 1), "allocating");
    if (n_given == cap_given) {
        cap_given = cap_given ? cap_given * 2 : 64;
        void **more = realloc(given, cap_given * sizeof *given);
        if (more == NULL) exit(1);
        given = more;
    }
    given[n_given++] = dev;
    return dev;
}

void *dev_poison(size_t bytes) {
    void *dev = dev_new(bytes);
    must(cudaMemset(dev, 0xff, bytes), "poisoning");
    must(cudaDeviceSynchronize(), "poisoning");
    return dev;
}

/* The call is back before the device has the bytes, and test_stream would not wait for them. */
void *dev_bytes(const void *host, size_t bytes) {
    void *dev = dev_new(bytes);
    must(cudaMemcpy(dev, host, bytes, cudaMemcpyHostToDevice), "copying");
    must(cudaDeviceSynchronize(), "copying");
    return dev;
}

float *dev_floats(const float *values, size_t n) {
    return dev_bytes(values, n * sizeof *values);
}

void *dev_act(float *values, size_t n, bool f32) {
    if (values == NULL) return dev_poison(n * (f32 ? 4 : 2));
    if (f32) return dev_floats(values, n);
    uint16_t *half = take(n * 2);
    for (size_t i = 0; i < n; i++) {
        half[i] = rm_bf16_narrow(values[i]);
        values[i] = rm_bf16_widen(half[i]);
    }
    void *dev = dev_bytes(half, n * 2);
    free(half);
    return dev;
}

void host_bytes(void *out, const void *dev, size_t bytes) {
    must(cudaStreamSynchronize(test_stream), "waiting");
    must(cudaMemcpy(out, dev, bytes, cudaMemcpyDeviceToHost), "copying");
}

void host_act(float *out, const void *dev, size_t n, bool f32) {
    if (f32) {
        host_bytes(out, dev, n * 4);
        return;
    }
    uint16_t *half = take(n * 2);
    host_bytes(half, dev, n * 2);
    for (size_t i = 0; i < n; i++)
        out[i] = rm_bf16_widen(half[i]);
    free(half);
}

void dev_free_all(void) {
    must(cudaDeviceSynchronize(), "waiting");
    for (size_t i = 0; i < n_given; i++)
        (void)cudaFree(given[i]);
    free(given);
    given = NULL;
    n_given = cap_given = 0;
}

float *random_floats(rng *rnd, size_t n, float scale) {
    float *out = take(n * sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[i] = rng_float(rnd) * scale;
    return out;
}

double worst(const float *got, const float *want, size_t n) {
    double top = 0, bad = 0;
    for (size_t i = 0; i < n; i++) {
        double off = fabs((double)got[i] - (double)want[i]);
        if (!(off <= 1e30)) return INFINITY;
        if (off > bad) bad = off;
        if (fabs((double)want[i]) > top) top = fabs((double)want[i]);
    }
    return bad / (top > 0 ? top : 1);
}

enum { SPARE_ROWS = 8 };

void *dev_desc(const desc_spec *spec) {
    cu_head head = {.n_rows = spec->n_rows,
                    .n_tiles = spec->n_tiles,
                    .n_edits = spec->n_edits,
                    .n_logits = spec->n_logits,
                    .n_draws = spec->n_draws,
                    .rows = sizeof head,
                    .n_runs = spec->n_runs,
                    .ahead = spec->ahead,
                    .in_order = spec->in_order,
                    .bad = spec->bad,
                    .halted = spec->halted,
                    .choices = spec->choices};
    head.tiles = head.rows + spec->n_rows * (uint32_t)sizeof(cu_row);
    head.edits = cu_round(head.tiles + spec->n_tiles * (uint32_t)sizeof(cu_tile), 16);
    head.draws = head.edits + spec->n_edits * (uint32_t)sizeof(cu_edit);
    head.tables = head.draws + spec->n_draws * (uint32_t)sizeof(cu_draw);
    head.runs = cu_round(head.tables + spec->n_tables * (uint32_t)sizeof(uint32_t), 16);
    head.pieces = head.bytes = cu_round(head.runs + spec->n_runs * (uint32_t)sizeof(cu_run), 16);
    size_t bytes = head.bytes;
    bytes += SPARE_ROWS * sizeof(cu_row); /* of the capacity: kernels may read them */
    uint8_t *host = take(bytes);
    memcpy(host, &head, sizeof head);
    if (spec->n_rows) memcpy(host + head.rows, spec->rows, spec->n_rows * sizeof(cu_row));
    if (spec->n_tiles) memcpy(host + head.tiles, spec->tiles, spec->n_tiles * sizeof(cu_tile));
    if (spec->n_edits) memcpy(host + head.edits, spec->edits, spec->n_edits * sizeof(cu_edit));
    if (spec->n_draws) memcpy(host + head.draws, spec->draws, spec->n_draws * sizeof(cu_draw));
    if (spec->n_tables) memcpy(host + head.tables, spec->tables, spec->n_tables * sizeof(uint32_t));
    if (spec->n_runs) memcpy(host + head.runs, spec->runs, spec->n_runs * sizeof(cu_run));
    void *dev = dev_bytes(host, bytes);
    free(host);
    return dev;
}

/* The two places of waiting descriptors take turns; the other one holds garbage. */
void dev_begin(void *desc, const cu_cache *cache, const uint8_t *halted) {
    static uint32_t turn;
    cu_head head;
    host_bytes(&head, desc, sizeof head);
    size_t bytes = head.bytes < CU_FRONT ? CU_FRONT : head.bytes;
    uint32_t turns[2] = {turn, 0}, after[2];
    void *sent[2];
    for (int i = 0; i < 2; i++) {
        must(cudaMallocHost(&sent[i], bytes), "pinning");
        memset(sent[i], 0xa5, bytes);
    }
    host_bytes(sent[turn & 1], desc, head.bytes);
    must(cudaMemset(desc, 0xff, head.bytes), "poisoning");
    cu_begin_args args = {.desc = desc,
                          .came = {sent[0], sent[1]},
                          .turn = dev_bytes(turns, sizeof turns),
                          .cache = *cache,
                          .halted = halted};
    must(cudaDeviceSynchronize(), "poisoning");
    must(cu_begin(test_stream, &args), "beginning");
    host_bytes(after, args.turn, sizeof after);
    check(after[0] == turn + 1 && after[1] == 0, "the turn after %u is %u, %u", turn, after[0],
          after[1]);
    turn++;
    for (int i = 0; i < 2; i++)
        (void)cudaFreeHost(sent[i]);
}

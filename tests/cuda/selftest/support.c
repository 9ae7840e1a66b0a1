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

uint32_t rng_next(rng *r) {
    r->s = r->s * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = r->s ^ (r->s >> 29);
    return (uint32_t)((x * 0x9e3779b97f4a7c15u) >> 32);
}
uint32_t rng_below(rng *r, uint32_t n) {
    return (uint32_t)(((uint64_t)rng_next(r) * n) >> 32);
}
float rng_float(rng *r) {
    return (float)rng_next(r) * (2.0f / 4294967296.0f) - 1.0f;
}

static void *take(size_t n) {
    void *p = malloc(n ? n : 1);
    if (p) return p;
    printf("FAIL: out of memory\n");
    exit(1);
}

static void *dev_new(size_t bytes) {
    void *p;
    must(cudaMalloc(&p, bytes ? bytes : 1), "allocating");
    if (n_given == cap_given) {
        cap_given = cap_given ? cap_given * 2 : 64;
        void **more = realloc(given, cap_given * sizeof *given);
        if (more == NULL) exit(1);
        given = more;
    }
    given[n_given++] = p;
    return p;
}

void *dev_poison(size_t bytes) {
    void *p = dev_new(bytes);
    must(cudaMemset(p, 0xff, bytes), "poisoning");
    must(cudaDeviceSynchronize(), "poisoning");
    return p;
}

/* The call is back before the device has the bytes, and test_stream would not wait for them. */
void *dev_bytes(const void *v, size_t bytes) {
    void *p = dev_new(bytes);
    must(cudaMemcpy(p, v, bytes, cudaMemcpyHostToDevice), "copying");
    must(cudaDeviceSynchronize(), "copying");
    return p;
}

float *dev_floats(const float *v, size_t n) {
    return dev_bytes(v, n * sizeof *v);
}

void *dev_act(float *v, size_t n, bool f32) {
    if (v == NULL) return dev_poison(n * (f32 ? 4 : 2));
    if (f32) return dev_floats(v, n);
    uint16_t *half = take(n * 2);
    for (size_t i = 0; i < n; i++) {
        half[i] = rm_bf16_narrow(v[i]);
        v[i] = rm_bf16_widen(half[i]);
    }
    void *p = dev_bytes(half, n * 2);
    free(half);
    return p;
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

float *random_floats(rng *r, size_t n, float scale) {
    float *v = take(n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = rng_float(r) * scale;
    return v;
}

double worst(const float *a, const float *b, size_t n) {
    double top = 0, bad = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= 1e30)) return INFINITY;
        if (d > bad) bad = d;
        if (fabs((double)b[i]) > top) top = fabs((double)b[i]);
    }
    return bad / (top > 0 ? top : 1);
}

enum { SPARE_ROWS = 8 };

void *dev_desc(const desc_spec *d) {
    cu_head h = {.n_rows = d->n_rows,
                 .n_tiles = d->n_tiles,
                 .n_edits = d->n_edits,
                 .n_logits = d->n_logits,
                 .n_draws = d->n_draws,
                 .rows = sizeof h,
                 .n_runs = d->n_runs,
                 .ahead = d->ahead,
                 .in_order = d->in_order,
                 .bad = d->bad,
                 .halted = d->halted,
                 .choices = d->choices};
    h.tiles = h.rows + d->n_rows * (uint32_t)sizeof(cu_row);
    h.edits = cu_round(h.tiles + d->n_tiles * (uint32_t)sizeof(cu_tile), 16);
    h.draws = h.edits + d->n_edits * (uint32_t)sizeof(cu_edit);
    h.tables = h.draws + d->n_draws * (uint32_t)sizeof(cu_draw);
    h.runs = cu_round(h.tables + d->n_tables * (uint32_t)sizeof(uint32_t), 16);
    h.pieces = h.bytes = cu_round(h.runs + d->n_runs * (uint32_t)sizeof(cu_run), 16);
    size_t bytes = h.bytes;
    bytes += SPARE_ROWS * sizeof(cu_row); /* of the capacity: kernels may read them */
    uint8_t *p = take(bytes);
    memcpy(p, &h, sizeof h);
    if (d->n_rows) memcpy(p + h.rows, d->rows, d->n_rows * sizeof(cu_row));
    if (d->n_tiles) memcpy(p + h.tiles, d->tiles, d->n_tiles * sizeof(cu_tile));
    if (d->n_edits) memcpy(p + h.edits, d->edits, d->n_edits * sizeof(cu_edit));
    if (d->n_draws) memcpy(p + h.draws, d->draws, d->n_draws * sizeof(cu_draw));
    if (d->n_tables) memcpy(p + h.tables, d->tables, d->n_tables * sizeof(uint32_t));
    if (d->n_runs) memcpy(p + h.runs, d->runs, d->n_runs * sizeof(cu_run));
    void *dev = dev_bytes(p, bytes);
    free(p);
    return dev;
}

/* The two places of waiting descriptors take turns; the other one holds garbage. */
void dev_begin(void *desc, const cu_cache *c, const uint8_t *halted) {
    static uint32_t turn;
    cu_head h;
    host_bytes(&h, desc, sizeof h);
    size_t bytes = h.bytes < CU_FRONT ? CU_FRONT : h.bytes;
    uint32_t turns[2] = {turn, 0}, after[2];
    void *sent[2];
    for (int i = 0; i < 2; i++) {
        must(cudaMallocHost(&sent[i], bytes), "pinning");
        memset(sent[i], 0xa5, bytes);
    }
    host_bytes(sent[turn & 1], desc, h.bytes);
    must(cudaMemset(desc, 0xff, h.bytes), "poisoning");
    cu_begin_args a = {.desc = desc,
                       .came = {sent[0], sent[1]},
                       .turn = dev_bytes(turns, sizeof turns),
                       .cache = *c,
                       .halted = halted};
    must(cudaDeviceSynchronize(), "poisoning");
    must(cu_begin(test_stream, &a), "beginning");
    host_bytes(after, a.turn, sizeof after);
    check(after[0] == turn + 1 && after[1] == 0, "the turn after %u is %u, %u", turn, after[0],
          after[1]);
    turn++;
    for (int i = 0; i < 2; i++)
        (void)cudaFreeHost(sent[i]);
}

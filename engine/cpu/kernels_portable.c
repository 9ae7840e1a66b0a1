/* kernels_portable.c - the kernels for any processor, on four-float vectors. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

typedef float vec __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(16)));
typedef uint32_t uvec __attribute__((vector_size(16)));

typedef vec nvec;
#define NVL 4
#define n_load v_load
#define n_store v_store
#define n_set1 v_set1
#define n_fma v_fma

#define VL 4
#define TILE_ROWS 6
#define KERNELS eng__kernels_portable
#define KERNELS_NAME "portable"
#if defined(__x86_64__)
#define V_KEEP(v) __asm__ volatile("" : "+x"(v))
#elif defined(__aarch64__)
#define V_KEEP(v) __asm__ volatile("" : "+w"(v))
#else
#define V_KEEP(v) __asm__ volatile("" : "+m"(v))
#endif

static inline vec v_load(const float *p) {
    vec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void v_store(float *p, vec v) {
    memcpy(p, &v, sizeof v);
}
static inline vec v_set1(float f) {
    return (vec){f, f, f, f};
}
static inline vec v_fma(vec a, vec b, vec c) {
    return a * b + c;
}
static inline uvec pairs(const uint16_t *p) {
    uvec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline vec v_bf16_low(const uint16_t *p) {
    return (vec)(pairs(p) << 16);
}
static inline vec v_bf16_high(const uint16_t *p) {
    return (vec)(pairs(p) & 0xffff0000u);
}

static inline vec v_widen(const uint16_t *p) {
    return (vec)(uvec){(uint32_t)p[0] << 16, (uint32_t)p[1] << 16, (uint32_t)p[2] << 16,
                       (uint32_t)p[3] << 16};
}
static inline ivec iv_load(const void *p) {
    ivec v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline ivec iv_set1(int32_t i) {
    return (ivec){i, i, i, i};
}
static inline ivec v_dot4(ivec acc, ivec w, int32_t four) {
    for (int b = 0; b < 4; b++) {
        int8_t x;
        memcpy(&x, (const char *)&four + b, 1);
        acc += ((w >> (8 * b)) & 0xff) * x;
    }
    return acc;
}

#include "kernels_body.h"

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

static inline vec v_load(const float *from) {
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}
static inline void v_store(float *to, vec v) {
    memcpy(to, &v, sizeof v);
}
static inline vec v_set1(float value) {
    return (vec){value, value, value, value};
}
static inline vec v_fma(vec left, vec right, vec add) {
    return left * right + add;
}
static inline uvec pairs(const uint16_t *from) {
    uvec v;
    memcpy(&v, from, sizeof v);
    return v;
}
static inline vec v_bf16_low(const uint16_t *from) {
    return (vec)(pairs(from) << 16);
}
static inline vec v_bf16_high(const uint16_t *from) {
    return (vec)(pairs(from) & 0xffff0000u);
}

static inline vec v_widen(const uint16_t *from) {
    return (vec)(uvec){(uint32_t)from[0] << 16, (uint32_t)from[1] << 16, (uint32_t)from[2] << 16,
                       (uint32_t)from[3] << 16};
}
static inline ivec iv_load(const void *from) {
    ivec v;
    memcpy(&v, from, sizeof v);
    return v;
}
static inline ivec iv_set1(int32_t i) {
    return (ivec){i, i, i, i};
}
static inline ivec v_dot4(ivec acc, ivec weights, int32_t four) {
    for (int byte = 0; byte < 4; byte++) {
        int8_t x;
        memcpy(&x, (const char *)&four + byte, 1);
        acc += ((weights >> (8 * byte)) & 0xff) * x;
    }
    return acc;
}

#include "kernels_body.h"

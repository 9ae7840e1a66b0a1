/* kernels_avx2.c - the kernels for x86-64 with AVX2 and FMA. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#include <immintrin.h>

typedef __m256 vec;
typedef int32_t ivec __attribute__((vector_size(32)));

#define VL 8
#define TILE_ROWS 6
#define KERNELS eng__kernels_avx2
#define KERNELS_NAME "avx2"
#define V_KEEP(v) __asm__ volatile("" : "+x"(v))

static inline vec v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vec v) {
    _mm256_storeu_ps(p, v);
}
static inline vec v_set1(float f) {
    return _mm256_set1_ps(f);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline vec v_bf16_low(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)p), 16));
}
static inline vec v_bf16_high(const uint16_t *p) {
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256((const __m256i *)p),
                                                _mm256_set1_epi32((int)0xffff0000u)));
}

#include "kernels_body.h"
#endif

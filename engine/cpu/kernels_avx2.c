/* kernels_avx2.c - the kernels for x86-64 with AVX2 and FMA. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#include <immintrin.h>

typedef __m256 vec;
typedef int32_t ivec __attribute__((vector_size(32)));

typedef __m256 nvec;
#define NVL 8
#define n_load _mm256_loadu_ps
#define n_store _mm256_storeu_ps
#define n_set1 _mm256_set1_ps
#define n_fma _mm256_fmadd_ps

#define VL 8
#define TILE_ROWS 6
#define KERNELS eng__kernels_avx2
#define KERNELS_NAME "avx2"
#define V_KEEP(v) __asm__ volatile("" : "+x"(v))

static inline vec v_load(const float *from) {
    return _mm256_loadu_ps(from);
}
static inline void v_store(float *to, vec v) {
    _mm256_storeu_ps(to, v);
}
static inline vec v_set1(float value) {
    return _mm256_set1_ps(value);
}
static inline vec v_fma(vec left, vec right, vec add) {
    return _mm256_fmadd_ps(left, right, add);
}
static inline vec v_bf16_low(const uint16_t *from) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_loadu_si256((const __m256i *)from), 16));
}
static inline vec v_bf16_high(const uint16_t *from) {
    return _mm256_castsi256_ps(_mm256_and_si256(_mm256_loadu_si256((const __m256i *)from),
                                                _mm256_set1_epi32((int)0xffff0000u)));
}

static inline vec v_widen(const uint16_t *from) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline ivec iv_load(const void *from) {
    return (ivec)_mm256_loadu_si256((const __m256i *)from);
}
static inline ivec iv_set1(int32_t i) {
    return (ivec)_mm256_set1_epi32(i);
}
/* Even and odd bytes as 16-bit values: exact, no saturation. */
static inline ivec v_dot4(ivec acc, ivec weights, int32_t four) {
    __m256i x = _mm256_set1_epi32(four), bytes = (__m256i)weights;
    __m256i x_even = _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), x_odd = _mm256_srai_epi16(x, 8);
    __m256i w_even = _mm256_and_si256(bytes, _mm256_set1_epi16(0xff)),
            w_odd = _mm256_srli_epi16(bytes, 8);
    return acc + (ivec)_mm256_madd_epi16(w_even, x_even) + (ivec)_mm256_madd_epi16(w_odd, x_odd);
}

#include "kernels_body.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif

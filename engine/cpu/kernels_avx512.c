/* kernels_avx512.c - the kernels for x86-64 with AVX-512. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#include <immintrin.h>

typedef __m512 vec;
typedef int32_t ivec __attribute__((vector_size(64)));

typedef __m256 nvec;
#define NVL 8
#define n_load _mm256_loadu_ps
#define n_store _mm256_storeu_ps
#define n_set1 _mm256_set1_ps
#define n_fma _mm256_fmadd_ps

#define VL 16
#define TILE_ROWS 12
#define KERNELS eng__kernels_avx512
#define KERNELS_NAME "avx512"
#define V_KEEP(v) __asm__ volatile("" : "+v"(v))

static inline vec v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vec v) {
    _mm512_storeu_ps(p, v);
}
static inline vec v_set1(float f) {
    return _mm512_set1_ps(f);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline vec v_bf16_low(const uint16_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
static inline vec v_bf16_high(const uint16_t *p) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_loadu_si512(p), _mm512_set1_epi32((int)0xffff0000u)));
}

static inline vec v_widen(const uint16_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline ivec iv_load(const void *p) {
    return (ivec)_mm512_loadu_si512(p);
}
static inline ivec iv_set1(int32_t i) {
    return (ivec)_mm512_set1_epi32(i);
}
/* Bytes of even and of odd place as 16-bit values: exact, no saturation. */
static inline ivec v_dot4(ivec acc, ivec w, int32_t four) {
    __m512i x = _mm512_set1_epi32(four), wv = (__m512i)w;
    __m512i x_even = _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), x_odd = _mm512_srai_epi16(x, 8);
    __m512i w_even = _mm512_and_si512(wv, _mm512_set1_epi16(0xff)),
            w_odd = _mm512_srli_epi16(wv, 8);
    return acc + (ivec)_mm512_madd_epi16(w_even, x_even) + (ivec)_mm512_madd_epi16(w_odd, x_odd);
}

#include "kernels_body.h"
#endif

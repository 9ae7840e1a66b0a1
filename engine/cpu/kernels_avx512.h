/* kernels_avx512.h - vectors of AVX-512, with and without its int8 dot product.
 * Include it after the target pragma, which must come before all intrinsics. */
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
#define KERNELS_NAME "avx512"
#define V_KEEP(v) __asm__ volatile("" : "+v"(v))

static inline vec v_load(const float *from) {
    return _mm512_loadu_ps(from);
}
static inline void v_store(float *to, vec v) {
    _mm512_storeu_ps(to, v);
}
static inline vec v_set1(float value) {
    return _mm512_set1_ps(value);
}
static inline vec v_fma(vec left, vec right, vec add) {
    return _mm512_fmadd_ps(left, right, add);
}
static inline vec v_bf16_low(const uint16_t *from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(from), 16));
}
static inline vec v_bf16_high(const uint16_t *from) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(_mm512_loadu_si512(from), _mm512_set1_epi32((int)0xffff0000u)));
}

static inline vec v_widen(const uint16_t *from) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline ivec iv_load(const void *from) {
    return (ivec)_mm512_loadu_si512(from);
}
static inline ivec iv_set1(int32_t i) {
    return (ivec)_mm512_set1_epi32(i);
}

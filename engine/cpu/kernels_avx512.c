/* kernels_avx512.c - the kernels for x86-64 with AVX-512. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#ifdef __clang__
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#endif
#include "kernels_avx512.h"

#define KERNELS eng__kernels_avx512

/* Even and odd bytes as 16-bit values: exact, no saturation. */
static inline ivec v_dot4(ivec acc, ivec weights, int32_t four) {
    __m512i x = _mm512_set1_epi32(four), bytes = (__m512i)weights;
    __m512i x_even = _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), x_odd = _mm512_srai_epi16(x, 8);
    __m512i w_even = _mm512_and_si512(bytes, _mm512_set1_epi16(0xff)),
            w_odd = _mm512_srli_epi16(bytes, 8);
    return acc + (ivec)_mm512_madd_epi16(w_even, x_even) + (ivec)_mm512_madd_epi16(w_odd, x_odd);
}

#include "kernels_body.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif

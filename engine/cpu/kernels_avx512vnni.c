/* kernels_avx512vnni.c - the int8 kernels for x86-64 with AVX-512 and its int8 dot product. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#ifdef __clang__
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))),             \
    apply_to = function)
#else
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
#endif
#include "kernels_avx512.h"

static inline ivec v_dot4(ivec acc, ivec weights, int32_t four) {
    return (ivec)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)weights, _mm512_set1_epi32(four));
}

#include "kernels_int8.h"

void eng__use_vnni(eng__kernels *kern) {
    kern->tile_i8 = tile_i8;
    kern->dot_probe = dot_probe;
}
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif

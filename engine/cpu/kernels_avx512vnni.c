/* kernels_avx512vnni.c - the kernels for x86-64 with AVX-512 and its int8 dot product. */
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
#include "kernels_avx512.h"

#define KERNELS eng__kernels_avx512vnni

static inline ivec v_dot4(ivec acc, ivec w, int32_t four) {
    return (ivec)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, _mm512_set1_epi32(four));
}

#include "kernels_body.h"
#endif

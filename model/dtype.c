/* dtype.c - conversion between float and the three number formats of weights. */
#include "model/model_internal.h"

#include <string.h>

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

const char *model_dtype_name(model_dtype dtype) {
    switch (dtype) {
    case DTYPE_F32: return "F32";
    case DTYPE_F16: return "F16";
    case DTYPE_BF16: return "BF16";
    }
    return "?";
}

size_t model_dtype_bytes(model_dtype dtype) {
    return dtype == DTYPE_F32 ? 4 : 2;
}

float model__f16_widen(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, magnitude = half & 0x7fff;
    if (magnitude >= 0x7c00) return from_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    /* Subnormals go through an integer, so the thread's flush-to-zero mode has no effect. */
    if (magnitude < 0x400) return from_bits(sign | to_bits((float)magnitude * 0x1p-24f));
    return from_bits(sign | ((magnitude << 13) + (112u << 23)));
}

uint16_t model__f16_narrow(float value) {
    uint32_t bits = to_bits(value), magnitude = bits & 0x7fffffff;
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00); /* 65536 and above */
    if (magnitude < 0x38800000) { /* below 2^-14: adding 0.5 rounds to multiples of 2^-24 */
        float steps = from_bits(magnitude) + 0.5f;
        return (uint16_t)(sign | (uint16_t)(to_bits(steps) - to_bits(0.5f)));
    }
    uint32_t rounded = magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (uint16_t)(rounded >> 13));
}

uint16_t model__bf16_narrow(float value) {
    uint32_t bits = to_bits(value);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void model_tensor_read(const model_tensor *tensor, size_t first, size_t n, float *out) {
    const unsigned char *from =
        (const unsigned char *)tensor->data + first * model_dtype_bytes(tensor->dtype);
    if (tensor->dtype == DTYPE_F32) {
        memcpy(out, from, n * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, from + 2 * i, sizeof half);
        out[i] =
            tensor->dtype == DTYPE_BF16 ? from_bits((uint32_t)half << 16) : model__f16_widen(half);
    }
}

/* msgpack.c - see msgpack.h. */
#include "base/msgpack.h"

#include <string.h>

/* The first byte of each form in the specification of MessagePack. */
enum {
    NIL = 0xc0,
    FLOAT_64 = 0xcb,
    UINT_8 = 0xcc,
    UINT_16 = 0xcd,
    UINT_32 = 0xce,
    UINT_64 = 0xcf,
    STR_8 = 0xd9,
    STR_16 = 0xda,
    STR_32 = 0xdb,
    ARRAY_16 = 0xdc,
    ARRAY_32 = 0xdd,
    FIX_ARRAY = 0x90,
    FIX_STR = 0xa0,
    FIX_INT_END = 0x80,
    FIX_ARRAY_END = 16,
    FIX_STR_END = 32,
};

/* A first byte, and the n low bytes of a value, highest first. */
static void put(buf *out, unsigned first, uint64_t value, size_t n) {
    unsigned char bytes[9] = {(unsigned char)first};
    for (size_t i = 0; i < n; i++)
        bytes[1 + i] = (unsigned char)(value >> 8 * (n - 1 - i));
    buf_append(out, bytes, 1 + n);
}

void msgpack_nil(buf *out) {
    put(out, NIL, 0, 0);
}

void msgpack_uint(buf *out, uint64_t value) {
    if (value < FIX_INT_END) put(out, (unsigned)value, 0, 0);
    else if (value <= UINT8_MAX) put(out, UINT_8, value, 1);
    else if (value <= UINT16_MAX) put(out, UINT_16, value, 2);
    else if (value <= UINT32_MAX) put(out, UINT_32, value, 4);
    else put(out, UINT_64, value, 8);
}

void msgpack_uint64(buf *out, uint64_t value) {
    put(out, UINT_64, value, 8);
}

void msgpack_double(buf *out, double value) {
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put(out, FLOAT_64, bits, 8);
}

void msgpack_text(buf *out, const char *text) {
    size_t n = strlen(text);
    if (n < FIX_STR_END) put(out, FIX_STR | (unsigned)n, 0, 0);
    else if (n <= UINT8_MAX) put(out, STR_8, n, 1);
    else if (n <= UINT16_MAX) put(out, STR_16, n, 2);
    else put(out, STR_32, n, 4);
    buf_append(out, text, n);
}

void msgpack_array(buf *out, uint32_t n) {
    if (n < FIX_ARRAY_END) put(out, FIX_ARRAY | n, 0, 0);
    else if (n <= UINT16_MAX) put(out, ARRAY_16, n, 2);
    else put(out, ARRAY_32, n, 4);
}

/* hash.c - SipHash and FNV-1a. */
#include "base/hash.h"

static uint64_t rotate(uint64_t x, unsigned by) {
    return x << by | x >> (64 - by);
}

static void rounds(uint64_t v[4], int n) {
    for (int i = 0; i < n; i++) {
        v[0] += v[1], v[2] += v[3];
        v[1] = rotate(v[1], 13) ^ v[0], v[3] = rotate(v[3], 16) ^ v[2];
        v[0] = rotate(v[0], 32);
        v[2] += v[1], v[0] += v[3];
        v[1] = rotate(v[1], 17) ^ v[2], v[3] = rotate(v[3], 21) ^ v[0];
        v[2] = rotate(v[2], 32);
    }
}

static void start(uint64_t v[4], const uint64_t key[2]) {
    v[0] = key[0] ^ UINT64_C(0x736f6d6570736575);
    v[1] = key[1] ^ UINT64_C(0x646f72616e646f6d);
    v[2] = key[0] ^ UINT64_C(0x6c7967656e657261);
    v[3] = key[1] ^ UINT64_C(0x7465646279746573);
}

static void take(uint64_t v[4], uint64_t word) {
    v[3] ^= word;
    rounds(v, 2);
    v[0] ^= word;
}

uint64_t hash_sip64(const uint64_t key[2], const void *bytes, size_t n) {
    const unsigned char *from = bytes;
    uint64_t v[4], last = (uint64_t)n << 56; /* the bytes of the last word, and n mod 256 */
    start(v, key);
    size_t at = 0;
    for (; at + 8 <= n; at += 8) {
        uint64_t word = 0;
        for (unsigned i = 0; i < 8; i++)
            word |= (uint64_t)from[at + i] << (8 * i);
        take(v, word);
    }
    for (unsigned i = 0; at + i < n; i++)
        last |= (uint64_t)from[at + i] << (8 * i);
    take(v, last);
    v[2] ^= 0xff;
    rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void hash_sip_begin(hash_sip *sip, const uint64_t key[2]) {
    start(sip->v, key);
    sip->v[1] ^= 0xee; /* the mark of the 128-bit form */
    sip->words = 0;
}

void hash_sip_word(hash_sip *sip, uint64_t word) {
    take(sip->v, word);
    sip->words++;
}

void hash_sip_end(hash_sip *sip, uint64_t out[2]) {
    uint64_t *v = sip->v;
    take(v, sip->words << 59); /* the length in bytes, mod 256, in the top byte */
    v[2] ^= 0xee;
    rounds(v, 4);
    out[0] = v[0] ^ v[1] ^ v[2] ^ v[3];
    v[1] ^= 0xdd;
    rounds(v, 4);
    out[1] = v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t hash_fnv(uint64_t hash, const void *bytes, size_t n) {
    const unsigned char *from = bytes;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ from[i]) * UINT64_C(0x100000001b3);
    return hash;
}

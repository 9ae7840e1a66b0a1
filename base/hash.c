/* hash.c - SipHash and FNV-1a. */
#include "base/hash.h"

static uint64_t rotate(uint64_t x, unsigned by) {
    return x << by | x >> (64 - by);
}

static void rounds(uint64_t state[4], int n) {
    for (int i = 0; i < n; i++) {
        state[0] += state[1], state[2] += state[3];
        state[1] = rotate(state[1], 13) ^ state[0], state[3] = rotate(state[3], 16) ^ state[2];
        state[0] = rotate(state[0], 32);
        state[2] += state[1], state[0] += state[3];
        state[1] = rotate(state[1], 17) ^ state[2], state[3] = rotate(state[3], 21) ^ state[0];
        state[2] = rotate(state[2], 32);
    }
}

static void start(uint64_t state[4], const uint64_t key[2]) {
    state[0] = key[0] ^ UINT64_C(0x736f6d6570736575);
    state[1] = key[1] ^ UINT64_C(0x646f72616e646f6d);
    state[2] = key[0] ^ UINT64_C(0x6c7967656e657261);
    state[3] = key[1] ^ UINT64_C(0x7465646279746573);
}

static void take(uint64_t state[4], uint64_t word) {
    state[3] ^= word;
    rounds(state, 2);
    state[0] ^= word;
}

uint64_t hash_sip64(const uint64_t key[2], const void *bytes, size_t n) {
    const unsigned char *from = bytes;
    uint64_t state[4], last = (uint64_t)n << 56; /* the bytes of the last word, and n mod 256 */
    start(state, key);
    size_t at = 0;
    for (; at + 8 <= n; at += 8) {
        uint64_t word = 0;
        for (unsigned i = 0; i < 8; i++)
            word |= (uint64_t)from[at + i] << (8 * i);
        take(state, word);
    }
    for (unsigned i = 0; at + i < n; i++)
        last |= (uint64_t)from[at + i] << (8 * i);
    take(state, last);
    state[2] ^= 0xff;
    rounds(state, 4);
    return state[0] ^ state[1] ^ state[2] ^ state[3];
}

void hash_sip_begin(hash_sip *sip, const uint64_t key[2]) {
    start(sip->state, key);
    sip->state[1] ^= 0xee; /* the mark of the 128-bit form */
    sip->words = 0;
}

void hash_sip_word(hash_sip *sip, uint64_t word) {
    take(sip->state, word);
    sip->words++;
}

void hash_sip_end(hash_sip *sip, uint64_t out[2]) {
    uint64_t *state = sip->state;
    take(state, sip->words << 59); /* the length in bytes, mod 256, in the top byte */
    state[2] ^= 0xee;
    rounds(state, 4);
    out[0] = state[0] ^ state[1] ^ state[2] ^ state[3];
    state[1] ^= 0xdd;
    rounds(state, 4);
    out[1] = state[0] ^ state[1] ^ state[2] ^ state[3];
}

uint64_t hash_fnv(uint64_t hash, const void *bytes, size_t n) {
    const unsigned char *from = bytes;
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ from[i]) * UINT64_C(0x100000001b3);
    return hash;
}

uint64_t hash_seeded(uint64_t seed, const void *bytes, size_t n) {
    uint64_t hash = hash_fnv(seed ^ HASH_FNV_START, bytes, n);
    hash ^= hash >> 32;
    return hash * HASH_STEP;
}

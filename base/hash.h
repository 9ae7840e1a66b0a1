/* hash.h - keyed hashes, mixing, and a hash of names. Values are part of seeds, keys and files:
 * they never change. Any thread. */
#ifndef FATHOM_HASH_H
#define FATHOM_HASH_H

#include "base/lang.h"

/* ---- SipHash-2-4 (Aumasson and Bernstein 2012): without the key nobody can choose inputs that
 * meet ---- */

uint64_t hash_sip64(const uint64_t key[2], const void *bytes, size_t n);

/* The 128-bit form, fed by 64-bit words. */
typedef struct {
    uint64_t v[4], words;
} hash_sip;
void hash_sip_begin(hash_sip *sip, const uint64_t key[2]);
void hash_sip_word(hash_sip *sip, uint64_t word);
void hash_sip_end(hash_sip *sip, uint64_t out[2]);

/* ---- splitmix64 (Steele, Lea and Flood 2014): number i of seed s is hash_mix(s + i * step) ----
 */

#define HASH_STEP UINT64_C(0x9e3779b97f4a7c15)

/* Neighbours become unrelated; one to one, and 0 stays 0. */
static inline uint64_t hash_mix(uint64_t x) {
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* One multiplication, for places in a table: the low bits are the good ones. */
static inline uint64_t hash_spread(uint64_t x) {
    x *= HASH_STEP;
    return x ^ x >> 29;
}

/* ---- FNV-1a, 64 bits: short names, and bytes that nobody chooses to collide ---- */

#define HASH_FNV_START UINT64_C(0xcbf29ce484222325)
uint64_t hash_fnv(uint64_t start, const void *bytes, size_t n); /* start: HASH_FNV_START, or a hash
                                                                   to go on from */

#endif

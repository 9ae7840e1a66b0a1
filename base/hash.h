/* hash.h - keyed hashes, mixing, and a hash of names. Values are part of seeds, keys and files:
 * they never change. Any thread. */
#ifndef FATHOM_HASH_H
#define FATHOM_HASH_H

#include "base/lang.h"

/* ---- SipHash-2-4 (Aumasson and Bernstein 2012): collisions cannot be made without the key ---- */

uint64_t hash_sip64(const uint64_t key[2], const void *bytes, size_t n);

/* The 128-bit form, fed by 64-bit words. */
typedef struct {
    uint64_t state[4], words;
} hash_sip;
void hash_sip_begin(hash_sip *sip, const uint64_t key[2]);
void hash_sip_word(hash_sip *sip, uint64_t word);
void hash_sip_end(hash_sip *sip, uint64_t out[2]);

/* ---- splitmix64 (Steele, Lea and Flood 2014): number i of seed s is hash_mix(s + i * step) ----
 */

#define HASH_STEP UINT64_C(0x9e3779b97f4a7c15)

/* Makes neighbouring numbers unrelated. One to one; 0 stays 0. */
static inline uint64_t hash_mix(uint64_t x) {
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* One multiplication, for places in a table: use the low bits. */
static inline uint64_t hash_spread(uint64_t x) {
    x *= HASH_STEP;
    return x ^ x >> 29;
}

/* ---- FNV-1a, 64 bits: short names and other input without an attacker ---- */

#define HASH_FNV_START UINT64_C(0xcbf29ce484222325)
/* start: HASH_FNV_START, or an earlier hash to continue. */
uint64_t hash_fnv(uint64_t start, const void *bytes, size_t n);
/* The same, mixed at the end; seed: any number, or an earlier hash to continue. */
uint64_t hash_seeded(uint64_t seed, const void *bytes, size_t n);

#endif

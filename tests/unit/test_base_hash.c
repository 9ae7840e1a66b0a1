/* test_base_hash.c - hashes against their published values: seeds and files depend on them. */
#include "base/hash.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>

TestSuite(base_hash, .fini = fail_on_leaks);

static const uint64_t key[2] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};

Test(base_hash, siphash_gives_the_values_of_its_authors) {
    /* vectors_sip64 of the reference implementation: input 00 01 02 … of n bytes. */
    static const struct {
        size_t n;
        uint64_t hash;
    } known[] = {{0, UINT64_C(0x726fdb47dd0e0e31)},
                 {1, UINT64_C(0x74f839c593dc67fd)},
                 {8, UINT64_C(0x93f5f5799a932462)},
                 {15, UINT64_C(0xa129ca6149be45e5)}};
    unsigned char bytes[16];
    for (unsigned i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)i;
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        cr_expect_eq(hash_sip64(key, bytes, known[i].n), known[i].hash, "%zu bytes", known[i].n);
}

Test(base_hash, siphash_of_128_bits_gives_the_values_of_its_authors) {
    uint64_t out[2];
    hash_sip sip;
    hash_sip_begin(&sip, key); /* vectors_sip128[0]: no input */
    hash_sip_end(&sip, out);
    cr_expect_eq(out[0], UINT64_C(0xe6a825ba047f81a3));
    cr_expect_eq(out[1], UINT64_C(0x930255c71472f66d));
    hash_sip_begin(&sip, key); /* vectors_sip128[16]: bytes 0 to 15 */
    hash_sip_word(&sip, UINT64_C(0x0706050403020100));
    hash_sip_word(&sip, UINT64_C(0x0f0e0d0c0b0a0908));
    hash_sip_end(&sip, out);
    cr_expect_eq(out[0], UINT64_C(0xbb54b067caa4e26e), "%llx", (unsigned long long)out[0]);
    cr_expect_eq(out[1], UINT64_C(0x77052385bf1533fd), "%llx", (unsigned long long)out[1]);
}

Test(base_hash, another_key_gives_another_hash) {
    const uint64_t other[2] = {key[0] ^ 1, key[1]};
    cr_expect_neq(hash_sip64(key, "salt", 4), hash_sip64(other, "salt", 4));
}

Test(base_hash, mixing_gives_the_stream_of_splitmix64) {
    /* Seed 1234567, from the table of Rosetta Code. */
    const uint64_t known[] = {UINT64_C(6457827717110365317), UINT64_C(3203168211198807973),
                              UINT64_C(9817491932198370423), UINT64_C(4593380528125082431),
                              UINT64_C(16408922859458223821)};
    uint64_t state = 1234567;
    for (size_t i = 0; i < ARRAY_LEN(known); i++)
        cr_expect_eq(hash_mix(state += HASH_STEP), known[i], "number %zu", i);
}

Test(base_hash, fnv_gives_its_published_values_and_goes_on_from_a_hash) {
    cr_expect_eq(hash_fnv(HASH_FNV_START, "", 0), UINT64_C(0xcbf29ce484222325));
    cr_expect_eq(hash_fnv(HASH_FNV_START, "a", 1), UINT64_C(0xaf63dc4c8601ec8c));
    cr_expect_eq(hash_fnv(HASH_FNV_START, "foobar", 6), UINT64_C(0x85944171f73967e8));
    cr_expect_eq(hash_fnv(hash_fnv(HASH_FNV_START, "foo", 3), "bar", 3),
                 UINT64_C(0x85944171f73967e8));
}

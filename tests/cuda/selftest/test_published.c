/* test_published.c - the published answers of the families with prelude and coda, or with a fixed
 * number of loops, over the CUDA backend. */
#include "tests/cuda/selftest/families.h"

static const struct {
    const char *name;
    uint32_t cases; /* in scope */
} published[] = {
    {"huginn", 6}, {"nanbeige", 1}, {"parcae", 3}, {"retro_llama", 3}, {"retro_olmo", 3}};

void test_published(void) {
    for (size_t i = 0; i < ARRAY_LEN(published); i++) {
        family_golden family;
        if (!family_open(&family, published[i].name)) continue;
        check(family.n_cases == published[i].cases, "%s: %u cases", family.name, family.n_cases);
        family_ways(&family);
        family_half_precision(&family);
        family_poisoned(&family);
        family_graphs(&family);
        family_mixes(family.model, on_shim ? 2 : 12, 1, family.name);
        family_mixes(family.model, on_shim ? 2 : 12, 2, family.name);
        family_close(&family);
    }
}

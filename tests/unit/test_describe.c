/* test_describe.c - a plan in words, and the size of its cache beside other kinds of attention. */
#include "base/json.h"
#include "cli/describe.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

static model_plan variant(const char *name) {
    model_plan plan;
    err e = {0};
    json_setup();
    cr_assert_eq(plan_variant(&plan, name, &e), 0, "%s", e.msg);
    return plan;
}

static const struct {
    const char *variant;
    uint32_t own, full, grouped, slot;
    const char *full_ratio;
} caches[] = {
    {"mythos_1b", 288, 4096, 1024, 288, "14.2 times smaller"},
    {"tiny", 40, 128, 64, 40, "3.2 times smaller"},
    {"ouro_1.4b", 4096, 4096, 4096, 98304, "as large"},
    {"ouro_2.6b", 4096, 4096, 4096, 196608, "as large"},
    {"huginn_0125", 10560, 10560, 10560, 42240, "as large"},
    {"nanbeige_3b", 2048, 12288, 2048, 45056, "6.0 times smaller"},
    {"retro_llama_1b", 1024, 4096, 1024, 6144, "4.0 times smaller"},
};

Test(describe, keys_and_values_of_a_layer_stand_beside_those_of_plain_attention) {
    for (size_t i = 0; i < ARRAY_LEN(caches); i++) {
        model_plan plan = variant(caches[i].variant);
        layer_cache cache = describe_layer_cache(&plan);
        char text[32];
        cr_expect_eq(cache.own, caches[i].own, "%s: %u", caches[i].variant, cache.own);
        cr_expect_eq(cache.full, caches[i].full, "%s: %u", caches[i].variant, cache.full);
        cr_expect_eq(cache.grouped, caches[i].grouped, "%s: %u", caches[i].variant, cache.grouped);
        cr_expect_eq(plan.slot_values, caches[i].slot, "%s: %u", caches[i].variant,
                     plan.slot_values);
        cr_expect_str_eq(describe_ratio(text, cache.own, cache.full), caches[i].full_ratio, "%s",
                         caches[i].variant);
    }
}

Test(describe, a_token_of_ouro_at_all_loops_takes_what_its_sizes_say) {
    model_plan small = variant("ouro_1.4b"), large = variant("ouro_2.6b");
    cr_expect_eq(2ull * small.slot_values * plan_planes(&small, 4), 786432ull);
    cr_expect_eq(2ull * large.slot_values * plan_planes(&large, 4), 1572864ull);
    cr_expect_eq((2 * plan_params(&small) + 5000000) / 10000000, 287); /* 2.87 GB in bfloat16 */
}

/* Each part of each family that is no default of another one. */
static const struct {
    const char *variant, *says;
} parts[] = {
    {"tiny", "  experts              8 of width"},
    {"tiny", "hidden width 85, outside the loop"},
    {"tiny", "state and input, normed together (the prelude's output)"},
    {"ouro_tiny", "of a sublayer's input and output, eps 1e-06; of the state after each loop"},
    {"ouro_tiny", "loop's input         the state alone\n"},
    {"ouro_tiny", "first state          the embedding\n"},
    {"huginn_0125", "of the sum with its output"},
    {"huginn_0125", "4 core (once per loop)"},
    {"huginn_0125", "scaled by 72.6636"},
    {"huginn_0125", "the state after the final norm"},
    {"retro_llama_1b", "RoPE                 base 500000, llama3 scaling by 32 beyond 8192"},
    {"retro_olmo_1b", "norms                of a sublayer's output, eps 1e-06"},
    {"retro_olmo_1b", "128, a norm of queries and keys"},
    {"parcae_1.3b", "each head's query and key normed (eps 1.19209e-07)"},
    {"parcae_1.3b", "squared ReLU, hidden width 6,144"},
    {"parcae_1.3b", "a table in 12 of 24 layers"},
    {"parcae_1.3b", "the state, decayed per channel, plus a matrix of the input (the prelude's "
                    "output, normed)"},
    {"parcae_1.3b", "drawn by position, std 0.01614"},
    {"parcae_1.3b", "coda's input         a matrix of the state\n"},
};

Test(describe, every_part_of_a_plan_has_its_words) {
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        model_plan plan = variant(parts[i].variant);
        buf text = {0};
        describe_parts(&text, &plan);
        cr_expect(strstr(text.data, parts[i].says), "row %zu: \"%s\" is not in\n%s", i,
                  parts[i].says, text.data);
        buf_deinit(&text);
    }
}

Test(describe, a_plan_reads_the_same_as_text_and_as_json) {
    model_plan plan = variant("ouro_1.4b");
    buf text = {0};
    describe_plan(&text, &plan, EXIT_HAZARD, 0.5f);
    cr_expect_str_eq(text.data, "ouro, 24 core layers, exit by hazard at 0.5");
    buf_clear(&text);
    describe_plan(&text, &plan, EXIT_FIXED, 0);
    cr_expect_str_eq(text.data, "ouro, 24 core layers, a fixed number of loops");
    buf_clear(&text);
    describe_plan_json(&text, &plan, EXIT_FIXED, 0);
    cr_expect_str_eq(text.data,
                     "\"family\":\"ouro\",\"core_layers\":24,\"exit\":{\"rule\":\"fixed\","
                     "\"threshold\":null}");
    buf_deinit(&text);
}

Test(describe, numbers_are_grouped_by_threes_and_ratios_say_which_is_larger) {
    char out[32];
    cr_expect_str_eq(describe_number(out, 0), "0");
    cr_expect_str_eq(describe_number(out, 999), "999");
    cr_expect_str_eq(describe_number(out, 98304), "98,304");
    cr_expect_str_eq(describe_number(out, UINT64_MAX), "18,446,744,073,709,551,615");
    cr_expect_str_eq(describe_ratio(out, 200, 100), "2.0 times larger");
}

/* The arithmetic of one row, shared by the CUDA kernels and the host. */
#include "engine/rowmath.h"
#include "model/plan.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(rowmath, .fini = fail_on_leaks);

Test(rowmath, bfloat16_rounds_to_nearest_even_and_keeps_specials) {
    static const struct {
        uint32_t in;
        uint16_t out;
    } rows[] = {
        {0x00000000, 0x0000}, {0x80000000, 0x8000}, {0x3f800000, 0x3f80}, {0x3f808000, 0x3f80},
        {0x3f818000, 0x3f82}, {0x3f808001, 0x3f81}, {0x3f80ffff, 0x3f81}, {0x7f800000, 0x7f80},
        {0xff800000, 0xff80}, {0x7f7fffff, 0x7f80}, {0x00000001, 0x0000}, {0x00018000, 0x0002},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_expect_eq(rm_bf16_narrow(rm_float_of(rows[i].in)), rows[i].out, "%08x", rows[i].in);
    }
    static const uint32_t nans[] = {0x7f800001, 0x7fc00000, 0xffffffff, 0x7f80ffff};
    for (size_t i = 0; i < sizeof nans / sizeof nans[0]; i++) {
        cr_expect(isnan(rm_bf16_widen(rm_bf16_narrow(rm_float_of(nans[i])))), "%08x", nans[i]);
    }
    for (uint32_t half = 0; half < 65536; half++) {
        float wide = rm_bf16_widen((uint16_t)half);
        if (!isnan(wide)) cr_assert_eq(rm_bf16_narrow(wide), half);
    }
    cr_expect_eq(rm_bf16_pair(1.0f, -2.0f), 0xc0003f80u);
}

Test(rowmath, rotation_keeps_length_and_turns_by_the_angle) {
    float x0 = 3, x1 = 4;
    rm_rotate(&x0, &x1, cosf(0.5f), sinf(0.5f));
    cr_expect_float_eq(x0 * x0 + x1 * x1, 25, 1e-4);
    cr_expect_float_eq(atan2f(x1, x0) - atan2f(4, 3), 0.5f, 1e-5);
    cr_expect_float_eq(rm_rope_frequency(10000, 0, 16), 1, 0);
    cr_expect_float_eq(rm_rope_frequency(10000, 4, 16), 0.01f, 1e-7);
}

Test(rowmath, the_loop_embedding_has_all_sines_first_and_zeros_after) {
    uint32_t width = 16;
    for (uint32_t loop = 0; loop < 9; loop++) {
        for (uint32_t j = 0; j < 8; j++) {
            double angle = loop * pow(10000, -2.0 * j / width);
            cr_expect_float_eq(rm_loop_embedding(loop, j, width), sin(angle), 1e-5);
            cr_expect_float_eq(rm_loop_embedding(loop, 8 + j, width), cos(angle), 1e-5);
        }
        cr_expect_eq(rm_loop_embedding(loop, 16, width), 0);
    }
}

Test(rowmath, a_loop_embedding_of_odd_width_has_one_more_sine_than_cosines) {
    for (uint32_t j = 0; j < 5; j++) {
        double angle = 3 * pow(10000, -2.0 * j / 9);
        cr_expect_float_eq(rm_loop_embedding(3, j, 9), sin(angle), 1e-5);
        if (j < 4) cr_expect_float_eq(rm_loop_embedding(3, 5 + j, 9), cos(angle), 1e-5);
    }
    cr_expect_eq(rm_loop_embedding(3, 9, 9), 0);
    cr_expect_float_eq(rm_loop_embedding(3, 0, 1), sinf(3), 1e-6);
    cr_expect_eq(rm_loop_embedding(3, 0, 0), 0);
}

Test(rowmath, a_norm_of_zeros_stays_finite) {
    cr_expect_float_eq(rm_rms_scale(0, 64, 1e-6f), 1000, 0.1);
    cr_expect_float_eq(rm_rms_scale(4 * 64, 64, 1e-6f), 0.5, 1e-6);
}

Test(rowmath, the_decay_is_clamped_on_both_sides) {
    cr_expect_float_eq(rm_lti_decay(0, 0), expf(-1), 1e-6);
    cr_expect_eq(rm_lti_decay(100, 0), rm_lti_decay(20, 0));
    cr_expect_eq(rm_lti_decay(-100, 0), rm_lti_decay(0, -20));
    cr_expect_eq(rm_lora_row(2, 6), 2);
    cr_expect_eq(rm_lora_row(6, 6), 5);
    cr_expect_eq(rm_lora_row(200, 6), 5);
}

Test(rowmath, halting_follows_threshold_and_bounds) {
    static const struct {
        float cum, probability, threshold;
        uint32_t done, min, max;
        float weight, new_cum;
        uint32_t halted;
    } rows[] = {
        {0.0f, 0.5f, 0.99f, 1, 0, 8, 0.5f, 0.5f, 0},    /* runs on */
        {0.5f, 0.5f, 0.99f, 2, 0, 8, 0.5f, 1.0f, 1},    /* reached: the rest */
        {0.75f, 0.5f, 0.99f, 2, 0, 8, 0.25f, 1.25f, 1}, /* reached with more than the rest */
        {0.5f, 0.25f, 0.99f, 8, 0, 8, 0.25f, 0.75f, 1}, /* out of loops: keeps its sum */
        {0.5f, 0.5f, 0.99f, 2, 3, 8, 0.5f, 1.0f, 0},    /* too early to leave */
        {0.75f, 0.5f, 0.99f, 2, 3, 8, 0.25f, 1.0f, 0},  /* too early: at most the rest */
        {1.0f, 0.5f, 0.99f, 3, 3, 8, 0.0f, 1.5f, 1},    /* may leave now */
        {0.0f, 0.5f, 0.5f, 1, 1, 8, 1.0f, 0.5f, 1},     /* exactly the threshold */
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rm_act_step step = rm_act(rows[i].cum, rows[i].probability, rows[i].threshold, rows[i].done,
                                  rows[i].min, rows[i].max);
        cr_expect_float_eq(step.weight, rows[i].weight, 1e-6, "row %zu", i);
        cr_expect_float_eq(step.cum, rows[i].new_cum, 1e-6, "row %zu", i);
        cr_expect_eq(step.halted, rows[i].halted, "row %zu", i);
    }
}

Test(rowmath, the_order_of_experts_is_total_and_ties_go_low) {
    cr_expect(rm_expert_before(2, 9, 1, 0));
    cr_expect(rm_expert_before(1, 3, 1, 4));
    cr_expect_not(rm_expert_before(1, 4, 1, 3));
    cr_expect(rm_expert_before(-1e30f, 9, NAN, 0));
    cr_expect_not(rm_expert_before(NAN, 0, -INFINITY, 9));
    cr_expect(rm_expert_before(NAN, 1, NAN, 2));
}

Test(rowmath, parts_of_a_context_join_and_empty_ones_count_nothing) {
    cr_expect_eq(rm_part_scale(-INFINITY, -INFINITY), 0);
    cr_expect_eq(rm_part_scale(-INFINITY, 3), 0);
    cr_expect_eq(rm_part_scale(3, 3), 1);
    cr_expect_float_eq(rm_part_scale(1, 3), expf(-2), 1e-7);
}

Test(rowmath, splits_cover_every_tile_once) {
    for (uint32_t tiles = 0; tiles <= 70; tiles++) {
        for (uint32_t splits = 1; splits <= 64; splits++) {
            uint32_t per = rm_tiles_per_split(tiles, splits), used = rm_splits_used(tiles, splits);
            cr_assert_leq(used, splits);
            cr_assert_geq((uint64_t)used * per, tiles);
            if (used) cr_assert_lt((used - 1) * per, tiles, "the last of %u has none", used);
        }
    }
}

Test(rowmath, a_slot_is_found_through_table_plane_and_offset) {
    static uint32_t maps[4][5][32];
    for (uint32_t block = 0; block < 4; block++) {
        for (uint32_t plane = 0; plane < 5; plane++) {
            for (uint32_t off = 0; off < 32; off++)
                maps[block][plane][off] = block * 1000 + plane * 100 + off;
        }
    }
    static const uint32_t table[] = {3, 0, 2};
    cr_expect_eq(rm_slot(&maps[0][0][0], table, 5, 4, 0), 3400);
    cr_expect_eq(rm_slot(&maps[0][0][0], table, 5, 1, 31), 3131);
    cr_expect_eq(rm_slot(&maps[0][0][0], table, 5, 1, 32), 100);
    cr_expect_eq(rm_slot(&maps[0][0][0], table, 5, 0, 95), 2031);
}

Test(rowmath, never_is_never_even_for_a_state_that_no_longer_changes) {
    /* A state equal to the one before it; rounding makes its cosine 1 or a little more. */
    float never = exit_rule_never(EXIT_LATENT_DIFF), usual = exit_rule_default(EXIT_LATENT_DIFF);
    cr_assert(rm_latent_diff(0, 4, usual, 1, 1, 8));
    cr_assert_not(rm_latent_diff(0, 4, never, 1, 1, 8));
    cr_assert(rm_latent_diff(0, 4, never, 8, 1, 8));
    never = exit_rule_never(EXIT_COSINE), usual = exit_rule_default(EXIT_COSINE);
    cr_assert(rm_cosine(4.000001f, 4, 4, usual, 1, 1, 8));
    cr_assert_not(rm_cosine(4.000001f, 4, 4, never, 1, 1, 8));
    cr_assert(rm_cosine(4.000001f, 4, 4, never, 8, 1, 8));
}

/* test_bench_stats.c - the load generator's arithmetic: percentiles, overlaps, random
 * numbers, plans, and the reader of chunks. */
#include "loadgen/loadgen_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TestSuite(bench_stats, .fini = fail_on_leaks);

/* numpy.percentile(v, p) with its default method: index p/100 (n-1), linear between. */
Test(bench_stats, percentiles_are_numpys_linear_ones) {
    static const double values[] = {1, 2, 3, 4, 10, 20, 35.5, 100};
    static const struct {
        double percent, want;
    } rows[] = {{0, 1},      {1, 1.07},    {25, 2.75},   {50, 7},         {75, 23.875},
                {90, 54.85}, {95, 77.425}, {99, 95.485}, {99.9, 99.5485}, {100, 100}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        double got = bench_percentile(values, ARRAY_LEN(values), rows[i].percent);
        cr_assert_float_eq(got, rows[i].want, 1e-9, "p%g is %.17g", rows[i].percent, got);
    }
    cr_assert_float_eq(bench_percentile(values, 1, 99), 1, 0);
    cr_assert(isnan(bench_percentile(values, 0, 50)));
}

Test(bench_stats, mean_and_population_deviation) {
    static const double values[] = {2, 4, 4, 4, 5, 5, 7, 9};
    cr_assert_float_eq(bench_mean(values, 8), 5, 1e-12);
    cr_assert_float_eq(bench_std(values, 8), 2, 1e-12);
    cr_assert(isnan(bench_mean(values, 0)) && isnan(bench_std(values, 0)));
}

Test(bench_stats, peak_overlap_treats_intervals_as_half_open) {
    uint64_t s1[] = {0, 10, 20}, e1[] = {10, 20, 30};
    cr_assert_eq(bench_peak_overlap(s1, e1, 3), 1);
    uint64_t s2[] = {5, 0, 9, 30}, e2[] = {40, 10, 11, 31};
    cr_assert_eq(bench_peak_overlap(s2, e2, 4), 3);
    cr_assert_eq(bench_peak_overlap(NULL, NULL, 0), 0);
}

Test(bench_stats, gamma_gaps_have_the_mean_and_spread_of_their_shape) {
    static const double shapes[] = {0.2, 0.5, 1, 2, 30};
    for (size_t k = 0; k < ARRAY_LEN(shapes); k++) {
        bench_rng rng;
        bench_rng_seed(&rng, 7);
        enum { N = 200000 };
        double sum = 0, squares = 0;
        for (int i = 0; i < N; i++) {
            double x = bench_rng_gamma(&rng, shapes[k]);
            cr_assert(x >= 0 && isfinite(x));
            sum += x;
            squares += x * x;
        }
        double mean = sum / N, var = squares / N - mean * mean;
        /* Both are the shape. Five standard errors of the worst row are about 5 %. */
        cr_assert_float_eq(mean / shapes[k], 1, 0.05, "shape %g: mean %g", shapes[k], mean);
        cr_assert_float_eq(var / shapes[k], 1, 0.1, "shape %g: variance %g", shapes[k], var);
    }
}

Test(bench_stats, numbers_below_n_stay_below_it_and_reach_all) {
    bench_rng rng;
    bench_rng_seed(&rng, 1);
    unsigned seen[7] = {0};
    for (int i = 0; i < 7000; i++)
        seen[bench_rng_below(&rng, 7)]++;
    for (int i = 0; i < 7; i++)
        cr_assert(seen[i] > 800 && seen[i] < 1200, "%d: %u", i, seen[i]);
    for (int i = 0; i < 1000; i++) {
        double unit = bench_rng_unit(&rng);
        cr_assert(unit > 0 && unit < 1);
    }
}

static bench_opts some_opts(void) {
    return (bench_opts){.model = "m",
                        .dataset = "random",
                        .n_prompts = 50,
                        .input_len = 8,
                        .output_len = 16,
                        .vocab_size = 100,
                        .seed = 3,
                        .range_ratio = 0.5,
                        .rate = 10,
                        .burstiness = 1,
                        .cancel_rate = 0.3,
                        .temperature = NAN,
                        .top_p = NAN,
                        .min_p = NAN,
                        .repetition_penalty = NAN};
}

Test(bench_stats, the_same_seed_plans_the_same_requests) {
    bench_opts opts = some_opts();
    bench_plan plan, again;
    err e = {0};
    cr_assert_eq(bench_plan_create(&plan, &opts, &e), 0);
    cr_assert_eq(bench_plan_create(&again, &opts, &e), 0);
    size_t leaving = 0;
    for (size_t i = 0; i < plan.n_reqs; i++) {
        cr_assert_eq(plan.reqs[i].input_len, again.reqs[i].input_len);
        cr_assert_arr_eq(plan.reqs[i].ids, again.reqs[i].ids,
                         plan.reqs[i].input_len * sizeof(uint32_t));
        cr_assert_float_eq(plan.reqs[i].at_s, again.reqs[i].at_s, 0);
        cr_assert_eq(plan.reqs[i].cancel_after, again.reqs[i].cancel_after);
        cr_assert(plan.reqs[i].cancel_after < plan.reqs[i].output_len);
        leaving += plan.reqs[i].cancel_after > 0;
    }
    cr_assert(leaving > 4 && leaving < 30);
    cr_assert_float_eq(plan.reqs[49].at_s, 5, 1e-9);
    bench_plan_destroy(&plan);
    bench_plan_destroy(&again);
}

Test(bench_stats, every_body_is_json_without_repeated_keys) {
    bench_opts opts = some_opts();
    json_error_t why;
    opts.extra_body = json_loads("{\"depth\":{\"max_loops\":2},\"max_tokens\":1}", 0, &why);
    opts.ignore_eos = opts.return_depth = opts.want_logprobs = true;
    opts.temperature = 0.5;
    for (int chat = 0; chat < 2; chat++) {
        opts.chat = chat;
        bench_plan plan;
        err e = {0};
        buf out = {0};
        cr_assert_eq(bench_plan_create(&plan, &opts, &e), 0);
        cr_assert_eq(bench_plan_body(&opts, &plan.reqs[3], &out, &e), 0);
        json_t *body = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES, &why);
        cr_assert_not_null(body, "%s", out.data);
        cr_assert_eq(json_integer_value(json_object_get(body, "max_tokens")), 1);
        json_decref(body);
        buf_deinit(&out);
        bench_plan_destroy(&plan);
    }
    json_decref(opts.extra_body);
}

/* ---- chunks ---- */

Test(bench_stats, a_chunk_gives_its_figures_wherever_they_stand) {
    static const char *const texts[] = {
        "{\"choices\":[{\"text\":\"a\\\"]}\",\"depths\":[3,7]}],\"usage\":{\"prompt_tokens\":5,"
        "\"completion_tokens\":2,"
        "\"completion_tokens_details\":{\"loops\":10}}}",
        " { \"usage\" : { \"completion_tokens_details\" : { \"x\":{\"loops\":1}, \"loops\" : 10 } "
        ", \"completion_tokens\":2,"
        "\"prompt_tokens\" : 5 }, \"x\":[{\"choices\":[]},\"}\",null,-1.5e3,[[]]], "
        "\"error\":null,\n"
        "\"choices\" : [ { \"logprobs\":{\"text\":[\"no\"]}, \"depths\" : [ 3 , 7 ] , \"text\" : "
        "\"a\\\"]}\" } ] } ",
        "{\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"completion_tokens_details\":{"
        "\"loops\":10}},"
        "\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"a\\\"]}\"},\"depths\":[3,7]}"
        "]}",
    };
    static bench_chunk chunk;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        cr_assert_eq(bench_chunk_read(&chunk, texts[i], strlen(texts[i])), 0, "%zu", i);
        cr_assert(chunk.has_choice && chunk.has_usage && !chunk.is_error, "%zu", i);
        cr_assert_eq(chunk.n_depths, 2);
        cr_assert_eq(chunk.depths[0], 3);
        cr_assert_eq(chunk.depths[1], 7);
        cr_assert_eq(chunk.depth_sum, 10);
        cr_assert_eq(chunk.usage_input, 5);
        cr_assert_eq(chunk.usage_output, 2);
        cr_assert_eq(chunk.usage_loops, 10);
        cr_assert_eq(chunk.text_len, 5);
        cr_assert_eq(memcmp(chunk.text, "a\\\"]}", 5), 0);
    }
}

/* Every prefix of a good payload stands at the end of a heap block of its own size: ASan sees a
 * byte read too far. */
Test(bench_stats, a_chunk_is_a_token_if_it_has_text_ids_depths_or_a_call) {
    static const struct {
        const char *choice;
        bool token;
    } rows[] = {
        {"{\"text\":\"a\"}", true},
        {"{\"text\":\"\",\"finish_reason\":\"stop\"}", false},
        {"{\"text\":\"\",\"token_ids\":[ 7]}", true},
        {"{\"text\":\"\",\"token_ids\":[ ]}", false},
        {"{\"text\":\"\",\"depths\":[3]}", true},
        {"{\"text\":\"\",\"depths\":[]}", false},
        {"{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}", false},
        {"{\"delta\":{\"role\":\"assistant\",\"content\":null}}", false},
        {"{\"delta\":{\"content\":\"a\"}}", true},
        {"{\"delta\":{\"reasoning_content\":\"a\"}}", true},
        {"{\"delta\":{\"tool_calls\":[{\"index\":0}]}}", true},
        {"{\"delta\":{\"tool_calls\":[]},\"finish_reason\":\"length\"}", false},
        {"{\"delta\":{}}", false},
        {"{\"text\":\"\"},{\"text\":\"a\"}", true},
    };
    static bench_chunk chunk;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char text[200];
        int n = snprintf(text, sizeof text, "{\"choices\":[%s]}", rows[i].choice);
        cr_assert_eq(bench_chunk_read(&chunk, text, (size_t)n), 0, "%s", text);
        cr_assert(chunk.has_choice, "%s", text);
        cr_assert_eq(chunk.has_token, rows[i].token, "%s", text);
    }
}

Test(bench_stats, no_prefix_of_a_payload_is_taken_for_whole_or_read_past) {
    static const char text[] =
        "{\"choices\":[{\"index\":0,\"text\":\"a\\u00e9\\\\\",\"depths\":[3,7]},null],"
        "\"usage\":{\"prompt_tokens\":5},\"error\":{\"message\":\"x\"}}";
    static bench_chunk chunk;
    for (size_t n = 0; n < sizeof text; n++) {
        char *copy = malloc(n ? n : 1);
        memcpy(copy, text, n);
        int rc = bench_chunk_read(&chunk, copy, n);
        cr_assert_eq(rc, n == sizeof text - 1 ? 0 : -1, "%zu bytes", n);
        free(copy);
        if (n == sizeof text - 1) break;
    }
}

Test(bench_stats, what_is_no_chunk_is_refused) {
    static const char *const bad[] = {"",
                                      "[]",
                                      "1",
                                      "null",
                                      "{",
                                      "{}x",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{a:1}",
                                      "{\"a\":1,}",
                                      "{\"choices\":[{]}",
                                      "{\"choices\":[{\"depths\":[}]}",
                                      "{\"a\":]}",
                                      "{\"usage\":{\"prompt_tokens\"}}",
                                      "{\"a\":\"x}",
                                      "{\"a\":\"\\"};
    static bench_chunk chunk;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        cr_assert_eq(bench_chunk_read(&chunk, bad[i], strlen(bad[i])), -1, "%s", bad[i]);
    }
}

static int count(void *ud, const char *json, size_t n) {
    (void)json;
    (void)n;
    ++*(int *)ud;
    return 0;
}

Test(bench_stats, a_line_without_end_is_cut_off_at_its_limit) {
    bench_sse sse = {{0}, false};
    char *block = malloc(1 << 16);
    memset(block, 'x', 1 << 16);
    int events = 0, rc = 0;
    for (int i = 0; i < 100 && rc == 0; i++)
        rc = bench_sse_feed(&sse, block, 1 << 16, count, &events);
    cr_assert_eq(rc, -1);
    cr_assert(sse.held.cap <= 2 * BENCH_SSE_HELD);
    cr_assert_eq(events, 0);
    buf_deinit(&sse.held);
    free(block);
}

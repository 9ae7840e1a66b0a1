/* test_api_numbers.c - the table of fields and the sampler agree on every number: the sampler takes
 * each value a body may hold, after its conversion to float. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <string.h>

API_SUITE(api_numbers);

enum { VOCAB = 64 };

static bool in_range(const api__field *field, double value) {
    return value <= field->max && (field->above ? value > field->min : value >= field->min);
}

/* Samples once, from logits of a wide range. */
static void sample_with(const eng_sampling *params, err *e) {
    float logits[VOCAB];
    uint32_t seen[VOCAB];
    for (uint32_t i = 0; i < VOCAB; i++) {
        seen[i] = i;
        logits[i] = (float)i * 1000.0f - 30000.0f;
    }
    eng_history history = {
        .prompt = seen, .n_prompt = VOCAB, .output = seen, .n_output = VOCAB / 2};
    eng_sampler *sampler;
    eng_choice out;
    cr_assert_eq(eng_sampler_create(&sampler, VOCAB, e), 0);
    cr_expect_eq(eng_sample(sampler, params, &history, NULL, logits, 0, 2, &out, e) == 0,
                 e->code == ERR_NONE);
    eng_sampler_destroy(sampler);
}

static void check_value(const api__field *field, double value) {
    api_request *req;
    err e = {0};
    buf body = {0};
    buf_printf(&body, "{\"prompt\":\"a\",\"seed\":1,\"%s\":%.17g}", field->name, value);
    int rc = api_parse(&req, fixture.ctx, &api_dialect_completion, body.data, body.len, &e);
    if (in_range(field, value)) {
        cr_assert_eq(rc, 0, "%s: %s", body.data, e.msg);
        sample_with(&req->sampling, &e);
        cr_expect_eq(e.code, ERR_NONE, "%s: the sampler says %s", body.data, e.msg);
    } else {
        cr_expect_eq(rc, -1, "%s", body.data);
        cr_expect_str_eq(e.param, field->name);
    }
    api_request_destroy(req);
    buf_deinit(&body);
}

Test(api_numbers, the_sampler_takes_every_number_that_a_body_may_hold) {
    size_t checked = 0;
    for (size_t i = 0; i < api__n_shared_fields; i++) {
        const api__field *field = &api__shared_fields[i];
        if (field->type != API__NUM) continue;
        const double ends[] = {field->min, field->max};
        for (size_t k = 0; k < ARRAY_LEN(ends); k++) {
            check_value(field, ends[k]);
            check_value(field, nextafter(ends[k], INFINITY));
            check_value(field, nextafter(ends[k], -INFINITY));
            check_value(field, (double)nextafterf((float)ends[k], INFINITY));
            check_value(field, (double)nextafterf((float)ends[k], -INFINITY));
        }
        /* Doubles too small for a float, the smallest floats, and values that count as greedy. */
        static const double small[] = {0,     DBL_TRUE_MIN, 1e-46,     1e-39, FLT_MIN,
                                       1e-30, 1e-7,         9.9999e-7, 1e-6,  1e-5};
        for (size_t k = 0; k < ARRAY_LEN(small); k++) {
            check_value(field, small[k]);
            check_value(field, -small[k]);
        }
        checked++;
    }
    cr_expect_geq(checked, 6);
}

Test(api_numbers, the_sampler_takes_all_extremes_at_once) {
    static const char *const bodies[] = {
        "{\"prompt\":\"a\",\"temperature\":1.1e-5,\"top_p\":1e-320,\"min_p\":1,\"top_k\":1,"
        "\"frequency_penalty\":2,\"presence_penalty\":2,\"repetition_penalty\":1e-6,"
        "\"logit_bias\":{\"1\":-100,\"2\":100}}",
        "{\"prompt\":\"a\",\"temperature\":2,\"top_p\":1,\"min_p\":1e-320,\"top_k\":0,"
        "\"frequency_penalty\":-2,\"presence_penalty\":-2,\"repetition_penalty\":10,"
        "\"logit_bias\":{\"1\":1e-320,\"2\":-1e-46}}",
    };
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        err e = {0};
        api_request *req = api_must_parse(&fixture, &api_dialect_completion, bodies[i]);
        sample_with(&req->sampling, &e);
        cr_expect_eq(e.code, ERR_NONE, "%s: %s", bodies[i], e.msg);
        api_request_destroy(req);
    }
}

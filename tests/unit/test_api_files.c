/* test_api_files.c - faulty files beside the model: the server warns, leaves the faulty part out,
 * and never stops. Also the answers of a model without a usable tokenizer. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/files.h"
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

API_SUITE(api_files);

static const struct {
    const char *file, *text;
    const char *says; /* in a warning; NULL: no warning */
} advice[] = {
    {"generation_config.json", "{\"temperature\":-1}", "temperature must be between 0 and 2"},
    {"generation_config.json", "{\"temperature\":\"hot\"}", "temperature must be a number"},
    {"generation_config.json", "{\"top_p\":-0.5}", "top_p must be between 0 and 1"},
    {"generation_config.json", "{\"min_p\":[]}", "min_p must be a number"},
    {"generation_config.json", "{\"repetition_penalty\":1e9}", "repetition_penalty"},
    {"generation_config.json", "{\"top_k\":1.5}", "top_k must be an integer"},
    {"generation_config.json", "{\"top_k\":-2}", "top_k must be at least -1"},
    {"generation_config.json", "{\"top_k\":-1}", NULL},
    {"generation_config.json", "{\"top_k\":1000000}", NULL},
    {"generation_config.json", "{\"top_k\":null,\"temperature\":null,\"do_sample\":7}", NULL},
    {"generation_config.json", "{\"eos_token_id\":\"2\"}", "eos_token_id must be a token id"},
    {"generation_config.json", "{\"eos_token_id\":[1,\"x\"]}", "eos_token_id must be a token id"},
    {"generation_config.json", "{\"eos_token_id\":{}}", "eos_token_id must be a token id"},
    {"generation_config.json", "{\"temperature\":1,\"temperature\":1}", "a key appears twice"},
    {"generation_config.json", "nonsense", "generation_config.json: not valid JSON"},
    {"generation_config.json", "[]", "must be a JSON object"},
    {"tokenizer_config.json", "{", "tokenizer_config.json: not valid JSON"},
    {"tokenizer_config.json", "7", "tokenizer_config.json"},
    {"tokenizer_config.json", "\"x\"", "tokenizer_config.json"},
    {"tokenizer_config.json",
     "{\"eos_token\":7,\"bos_token\":[],\"add_bos_token\":\"yes\",\"pad_token\":{\"content\":5},"
     "\"model_max_length\":1000000000000000019884624838656,\"chat_template\":null}",
     NULL},
    {"tokenizer_config.json", "{\"eos_token\":\"no such token\",\"add_bos_token\":true}", NULL},
};

Test(api_files, what_is_wrong_beside_the_model_is_warned_of_and_left_out) {
    for (size_t i = 0; i < ARRAY_LEN(advice); i++) {
        tmp_dir dir = tmp_dir_create();
        char said[2000];
        api_context *ctx = NULL;
        err e = {0};
        file_put(dir.path, advice[i].file, advice[i].text, strlen(advice[i].text));
        api_opts opts = {
            .model_dir = dir.path, .model = fixture.model, .tokenizer = fixture.tokenizer};
        int kept = stderr_catch();
        int rc = api_context_open(&ctx, &opts, &e);
        stderr_release(kept, said, sizeof said);
        cr_assert_eq(rc, 0, "row %zu: %s", i, e.msg);
        if (advice[i].says)
            cr_expect_not_null(strstr(said, advice[i].says), "row %zu: %s", i, said);
        else cr_expect_str_eq(said, "", "row %zu: %s", i, said);
        cr_expect_float_eq(ctx->defaults.temperature, 1, 1e-6f, "row %zu", i);
        cr_expect_float_eq(ctx->defaults.top_p, 1, 1e-6f, "row %zu", i);
        cr_expect_eq(ctx->defaults.top_k, 0, "row %zu", i);
        api_context_close(ctx);
        tmp_dir_remove(&dir);
    }
}

Test(api_files, a_list_of_more_end_tokens_than_there_is_room_for_is_cut_with_a_warning) {
    tmp_dir dir = tmp_dir_create();
    char said[4000];
    api_context *ctx = NULL;
    err e = {0};
    buf text = {0};
    uint32_t n;
    buf_puts(&text, "{\"eos_token_id\":[");
    for (uint32_t i = 0; i < 1000; i++)
        buf_printf(&text, "%s%u", i ? "," : "", i);
    buf_puts(&text, "]}");
    file_put(dir.path, "generation_config.json", text.data, text.len);
    file_put(dir.path, "tokenizer_config.json", "{\"eos_token\":\"<|end|>\"}", 23);
    api_opts opts = {.model_dir = dir.path, .model = fixture.model, .tokenizer = fixture.tokenizer};
    int kept = stderr_catch();
    int rc = api_context_open(&ctx, &opts, &e);
    stderr_release(kept, said, sizeof said);
    cr_assert_eq(rc, 0, "%s", e.msg);
    (void)api_stop_ids(ctx, &n);
    cr_expect_eq(n, API__MAX_ENDS);
    cr_expect_not_null(strstr(said, "1000 entries"), "%s", said);
    cr_expect_not_null(strstr(said, "more than 64 end tokens"), "%s", said);
    buf_deinit(&text);
    api_context_close(ctx);
    tmp_dir_remove(&dir);
}

Test(api_files, top_k_0_and_minus_1_turn_a_default_off) {
    tmp_dir dir = tmp_dir_create();
    api_context *ctx = NULL;
    err e = {0};
    file_put(dir.path, "generation_config.json", "{\"top_k\":7}", 11);
    api_opts opts = {.model_dir = dir.path,
                     .model = fixture.model,
                     .tokenizer = fixture.tokenizer,
                     .served_name = "m"};
    cr_assert_eq(api_context_open(&ctx, &opts, &e), 0, "%s", e.msg);
    static const struct {
        const char *fields;
        uint32_t top_k;
    } rows[] = {{"", 7}, {",\"top_k\":0", 0}, {",\"top_k\":-1", 0}, {",\"top_k\":3", 3}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        api_request *req = NULL;
        buf body = {0};
        buf_printf(&body, "{\"prompt\":\"x\"%s}", rows[i].fields);
        cr_assert_eq(api_parse(&req, ctx, &api_dialect_completion, body.data, body.len, &e), 0,
                     "%s", e.msg);
        cr_expect_eq(req->sampling.top_k, rows[i].top_k, "row %zu", i);
        api_request_destroy(req);
        buf_deinit(&body);
    }
    api_context_close(ctx);
    tmp_dir_remove(&dir);
}

/* ---- text without a tokenizer ---- */

static const struct {
    const api_dialect *dialect;
    const char *body;
} texts[] = {
    {&api_dialect_completion, "{\"prompt\":\"x\"}"},
    {&api_dialect_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"},
    {&api_dialect_responses, "{\"input\":\"x\"}"},
};

Test(api_files, a_model_with_an_unusable_tokenizer_takes_ids_and_says_why_it_takes_no_text) {
    api_context *ctx = NULL;
    err e = {0};
    api_opts opts = {.model_dir = "models/demo",
                     .model = fixture.model,
                     .no_tokenizer = "tokenizer.json: model.type is 'WordPiece'"};
    cr_assert_eq(api_context_open(&ctx, &opts, &e), 0, "%s", e.msg);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        api_request *req = NULL;
        err why = {0};
        cr_expect_eq(
            api_parse(&req, ctx, texts[i].dialect, texts[i].body, strlen(texts[i].body), &why), -1);
        cr_expect_eq(api_status(&why), 400);
        cr_expect_not_null(strstr(why.msg, "no tokenizer (tokenizer.json: model.type is 'Word"),
                           "%s", why.msg);
    }
    api_request *req = NULL;
    static const char ids[] = "{\"prompt\":[1,2]}";
    cr_expect_eq(api_parse(&req, ctx, &api_dialect_completion, ids, sizeof ids - 1, &e), 0, "%s",
                 e.msg);
    api_request_destroy(req);
    api_context_close(ctx);
}

/* ---- special tokens, and U+0000 ---- */

static size_t prompt_of(const api_context *ctx, const char *body, uint32_t out[32]) {
    api_request *req = NULL;
    err e = {0};
    cr_assert_eq(api_parse(&req, ctx, &api_dialect_completion, body, strlen(body), &e), 0, "%s",
                 e.msg);
    size_t n = req->prompts[0].n_ids;
    cr_assert_leq(n, 32);
    memcpy(out, req->prompts[0].ids, n * sizeof *out);
    api_request_destroy(req);
    return n;
}

Test(api_files, special_tokens_of_a_text_prompt_are_text_unless_the_server_reads_them) {
    static const char body[] = "{\"prompt\":\"<|user|>x<|end|>\"}";
    uint32_t plain[32], read[32];
    api_context *ctx = NULL;
    err e = {0};
    api_opts opts = {.model_dir = "models/demo",
                     .model = fixture.model,
                     .tokenizer = fixture.tokenizer,
                     .special_tokens = true};
    cr_assert_eq(api_context_open(&ctx, &opts, &e), 0, "%s", e.msg);
    size_t n = prompt_of(fixture.ctx, body, plain), k = prompt_of(ctx, body, read);
    for (size_t i = 0; i < n; i++)
        cr_expect_not(tokenizer_is_special(fixture.tokenizer, plain[i]));
    cr_assert_eq(k, 3);
    cr_expect(read[0] == 2045 && read[2] == 2047);
    buf out = {0};
    static const char same[] = "{\"prompt\":\"<|user|>x<|end|>\"}";
    cr_assert_eq(api_list(api_tokenize, ctx, same, sizeof same - 1, SIZE_MAX, &out, &e), 0);
    cr_expect_not_null(strstr(out.data, "\"count\":3"), "%s", out.data);
    buf_deinit(&out);
    api_context_close(ctx);
}

Test(api_files, u0000_is_a_character_of_prompts_and_messages) {
    uint32_t ids[32];
    size_t n = prompt_of(fixture.ctx, "{\"prompt\":\"a\\u0000b\"}", ids);
    buf text = {0};
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *bytes = tokenizer_bytes(fixture.tokenizer, ids[i], &len);
        buf_append(&text, bytes, len);
    }
    cr_assert_eq(text.len, 3);
    cr_expect_arr_eq(text.data, "a\0b", 3);
    buf_deinit(&text);
    static const struct {
        const api_dialect *dialect;
        const char *with, *without;
    } rows[] = {
        {&api_dialect_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b\"}]}",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}"},
        {&api_dialect_chat,
         "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\\u0000b\"}"
         "]}]}",
         "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}"},
        {&api_dialect_responses, "{\"input\":\"a\\u0000b\"}", "{\"input\":\"a\"}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        api_request *req = api_must_parse(&fixture, rows[i].dialect, rows[i].with);
        api_request *plain = api_must_parse(&fixture, rows[i].dialect, rows[i].without);
        cr_expect_eq(api_prompt_tokens(req), api_prompt_tokens(plain) + 2, "row %zu", i);
        api_request_destroy(req);
        api_request_destroy(plain);
    }
}

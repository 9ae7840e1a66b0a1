/* test_api_routes.c - models, tokenize, detokenize, the OpenAPI document. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

API_SUITE(api_routes);

static json_t *parsed(const buf *text) {
    json_error_t why;
    json_t *root = json_loadb(text->data, text->len, JSON_REJECT_DUPLICATES, &why);
    cr_assert_not_null(root, "%s: %s", why.text, text->data);
    return root;
}

Test(api_routes, the_model_list_has_what_clients_read) {
    buf out = {0};
    err e = {0};
    api_models(fixture.ctx, &out);
    json_t *root = parsed(&out), *model = json_array_get(json_object_get(root, "data"), 0);
    static const char *const strings[] = {"id", "object", "owned_by", "root"};
    for (size_t i = 0; i < ARRAY_LEN(strings); i++)
        cr_expect(json_is_string(json_object_get(model, strings[i])), "%s", strings[i]);
    cr_expect(json_is_integer(json_object_get(model, "created")));
    cr_expect_eq(json_integer_value(json_object_get(model, "max_model_len")), 1024);
    json_decref(root);
    buf_clear(&out);
    cr_assert_eq(api_model(fixture.ctx, "demo", &out, &e), 0);
    json_decref(parsed(&out));
    cr_assert_eq(api_model(fixture.ctx, "other", &out, &e), -1);
    cr_assert_eq(api_status(&e), 404);
    buf_deinit(&out);
}

static const struct {
    const char *body, *want;
} tokenized[] = {
    {"{\"prompt\":\"In the\"}",
     "{\"tokens\":[1142,258],\"count\":2,\"max_model_len\":1024,\"token_strs\":null}"},
    {"{\"model\":\"demo\",\"prompt\":\"In the\",\"return_token_strs\":true}",
     "{\"tokens\":[1142,258],\"count\":2,\"max_model_len\":1024,\"token_strs\":[\"In\",\" the\"]}"},
    {"{\"content\":\"In the\",\"with_pieces\":true}",
     "{\"tokens\":[{\"id\":1142,\"piece\":\"In\"},{\"id\":258,\"piece\":\" "
     "the\"}],\"count\":2,\"max_model_len\":1024,"
     "\"token_strs\":null}"},
    {"{\"prompt\":[\"In\",\" the\",\"\"]}",
     "{\"tokens\":[[1142],[258],[]],\"count\":[1,1,0],\"max_model_len\":1024,\"token_strs\":null}"},
    {"{\"messages\":[{\"role\":\"user\",\"content\":\"In\"}]}",
     "{\"tokens\":[2045,1142,2047,2046],\"count\":4,\"max_model_len\":1024,\"token_strs\":null}"},
    {"{\"prompt\":\"\"}", "{\"tokens\":[],\"count\":0,\"max_model_len\":1024,\"token_strs\":null}"},
};

Test(api_routes, tokenize_speaks_the_shape_of_every_server) {
    for (size_t i = 0; i < ARRAY_LEN(tokenized); i++) {
        buf out = {0};
        err e = {0};
        cr_assert_eq(api_list(api_tokenize, fixture.ctx, tokenized[i].body,
                              strlen(tokenized[i].body), SIZE_MAX, &out, &e),
                     0, "%s", e.msg);
        cr_expect_str_eq(out.data, tokenized[i].want);
        buf_deinit(&out);
    }
}

static const struct {
    const char *body, *want;
} detokenized[] = {
    {"{\"tokens\":[1142,258]}",
     "{\"prompt\":\"In the\",\"content\":\"In the\",\"text\":\"In the\"}"},
    {"{\"tokens\":[[1142],[258]]}",
     "{\"prompt\":[\"In\",\" the\"],\"content\":[\"In\",\" the\"],\"text\":[\"In\",\" the\"]}"},
    {"{\"tokens\":[2045,1142]}",
     "{\"prompt\":\"<|user|>In\",\"content\":\"<|user|>In\",\"text\":\"<|user|>In\"}"},
    {"{\"tokens\":[2045,1142],\"skip_special_tokens\":true}",
     "{\"prompt\":\"In\",\"content\":\"In\",\"text\":\"In\"}"},
    {"{\"tokens\":[]}", "{\"prompt\":\"\",\"content\":\"\",\"text\":\"\"}"},
};

Test(api_routes, detokenize_speaks_the_shape_of_every_server) {
    for (size_t i = 0; i < ARRAY_LEN(detokenized); i++) {
        buf out = {0};
        err e = {0};
        cr_assert_eq(api_list(api_detokenize, fixture.ctx, detokenized[i].body,
                              strlen(detokenized[i].body), SIZE_MAX, &out, &e),
                     0, "%s", e.msg);
        cr_expect_str_eq(out.data, detokenized[i].want);
        buf_deinit(&out);
    }
}

/* SentencePiece's way: a text loses the space the encoder put before it, and bytes join to
 * characters. */
Test(api_routes, detokenize_makes_text_as_the_files_decoder_does) {
    static const char file[] =
        "{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
        "\"String\":\"_\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{"
        "\"type\":\"Strip\",\"content\":\" "
        "\",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\","
        "\"byte_fallback\":true,\"merges\":[],\"vocab\":{\"_the\":1,\"<0xC3>\":2,\"<0xA9>\":3,"
        "\"\\\"\":4}}}";
    static const char want[] = "[\"the the\",\"\u00e9\\\"\",\"\ufffd the\"]";
    tokenizer *tok = NULL;
    tokenizer *demo = fixture.ctx->opts.tokenizer;
    err e = {0};
    cr_assert_eq(tokenizer_parse(&tok, file, sizeof file - 1, 2048, "test", &e), 0, "%s", e.msg);
    fixture.ctx->opts.tokenizer = tok;
    for (size_t slice = 1; slice < 100; slice += 49) {
        static const char body[] = "{\"tokens\":[[1,1],[2,3,4],[2,1]]}";
        buf out = {0}, all = {0};
        cr_assert_eq(api_list(api_detokenize, fixture.ctx, body, sizeof body - 1, slice, &out, &e),
                     0, "%s", e.msg);
        buf_printf(&all, "{\"prompt\":%s,\"content\":%s,\"text\":%s}", want, want, want);
        cr_expect_str_eq(out.data, all.data);
        buf_deinit(&out);
        buf_deinit(&all);
    }
    fixture.ctx->opts.tokenizer = demo;
    tokenizer_close(tok);
}

static const struct {
    api_lister route;
    const char *body, *want; /* its list, without the random request_id */
} rendered[] = {
    {api__render_completion, "{\"prompt\":\"In the\"}", "[{token_ids:1142,258 max_tokens:16}]"},
    {api__render_completion, "{\"prompt\":[\"In\",\" the\"],\"max_tokens\":3}",
     "[{token_ids:1142 max_tokens:3}{token_ids:258 max_tokens:3}]"},
    {api__render_completion, "{\"prompt\":[[7,9],[8]],\"max_tokens\":2000,\"stream\":true}",
     "[{token_ids:7,9 max_tokens:1022}{token_ids:8 max_tokens:1023}]"},
    {api__render_completion, "{\"prompt\":[7],\"max_tokens\":1,\"seed\":-5}",
     "[{token_ids:7 max_tokens:1 seed:-5}]"},
    {api__render_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"In\"}],\"max_tokens\":5}",
     "{token_ids:2045,1142,2047,2046 max_tokens:5}"},
};

static void describe_rendered(const json_t *one, buf *out) {
    const json_t *ids = json_object_get(one, "token_ids"),
                 *sampling = json_object_get(one, "sampling_params");
    cr_expect_not_null(strstr(json_string_value(json_object_get(one, "request_id")), "cmpl-"));
    cr_expect_str_eq(json_string_value(json_object_get(one, "model")), "demo");
    buf_puts(out, "{token_ids:");
    for (size_t i = 0; i < json_array_size(ids); i++)
        buf_printf(out, "%s%lld", i ? "," : "", json_integer_value(json_array_get(ids, i)));
    buf_printf(out, " max_tokens:%lld",
               json_integer_value(json_object_get(sampling, "max_tokens")));
    const json_t *seed = json_object_get(sampling, "seed");
    if (json_is_integer(seed)) buf_printf(out, " seed:%lld", json_integer_value(seed));
    buf_puts(out, "}");
}

Test(api_routes, render_tells_the_token_ids_that_a_request_would_be_run_with) {
    for (size_t i = 0; i < ARRAY_LEN(rendered); i++) {
        for (size_t slice = 1; slice < 100; slice += 49) {
            buf out = {0}, told = {0};
            err e = {0};
            cr_assert_eq(api_list(rendered[i].route, fixture.ctx, rendered[i].body,
                                  strlen(rendered[i].body), slice, &out, &e),
                         0, "%s", e.msg);
            json_t *root = parsed(&out);
            if (json_is_array(root)) buf_puts(&told, "[");
            for (size_t j = 0; j < json_array_size(root); j++)
                describe_rendered(json_array_get(root, j), &told);
            if (json_is_array(root)) buf_puts(&told, "]");
            else describe_rendered(root, &told);
            cr_expect_str_eq(told.data, rendered[i].want);
            json_decref(root);
            buf_deinit(&out);
            buf_deinit(&told);
        }
    }
}

/* True if a field of this dialect has the name, and is not refused. */
static bool reads(const api_dialect *dialect, const char *name) {
    const api__field *field;
    for (size_t at = 0; (field = api__next_field(dialect, &at)) != NULL;) {
        if (field->type != API__REFUSED && strcmp(field->name, name) == 0) return true;
    }
    return false;
}

static void check_schema(const json_t *schema, const api_dialect *dialect) {
    const json_t *properties = json_object_get(schema, "properties"),
                 *needed = json_object_get(schema, "required");
    const api__field *field;
    const char *name;
    json_t *value;
    cr_expect_eq(json_array_size(needed), 1, "one model is served, so its name is optional");
    cr_expect_str_eq(json_string_value(json_array_get(needed, 0)), dialect->input);
    for (size_t at = 0; (field = api__next_field(dialect, &at)) != NULL;) {
        const json_t *one = json_object_get(properties, field->name);
        if (field->type == API__REFUSED) continue;
        cr_assert_not_null(one, "%s in %s", field->name, dialect->schema);
        cr_expect_gt(json_string_length(json_object_get(one, "description")), 10, "%s",
                     field->name);
        if (field->type != API__JSON) continue;
        cr_expect_eq(json_array_size(json_object_get(one, "anyOf")), 2, "%s has no shape",
                     field->name);
    }
    json_object_foreach((json_t *)(uintptr_t)properties, name, value)
        cr_expect(reads(dialect, name), "%s is documented and not read", name);
}

Test(api_routes, the_openapi_document_is_in_step_with_the_tables) {
    buf out = {0};
    size_t n;
    const api_endpoint *endpoints = api_endpoints(&n);
    api_openapi(&out);
    cr_expect_str_eq(api_openapi_kept()->data, out.data);
    cr_expect_eq(api_openapi_kept(), api_openapi_kept(), "made once");
    json_t *root = parsed(&out);
    const json_t *schemas = json_object_get(json_object_get(root, "components"), "schemas");
    for (size_t i = 0; i < n; i++) {
        const char *request = endpoints[i].request, *answer = endpoints[i].answer;
        cr_expect_not_null(json_object_get(json_object_get(root, "paths"), endpoints[i].path), "%s",
                           endpoints[i].path);
        if (endpoints[i].read == NULL) {
            const api_dialect *dialect = endpoints[i].dialect;
            check_schema(json_object_get(schemas, dialect->schema), dialect);
            continue;
        }
        cr_expect_not_null(json_object_get(schemas, request), "%s", request);
        cr_expect_not_null(json_object_get(schemas, answer), "%s", answer);
    }
    json_decref(root);
    buf_deinit(&out);
}

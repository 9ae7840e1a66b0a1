/* test_api_templates.c - conversations to token ids, and files beside the model. */
#include "api/api_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"
#include "tests/lib/tokens.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

TestSuite(api_templates, .fini = fail_on_leaks);

/* A vocabulary of the 256 bytes, with control tokens from 300. */
static tokenizer *byte_tokenizer(const char *const *controls, size_t n) {
    buf json = {0};
    tokenizer *t;
    err e = {0};
    buf_puts(&json, "{\"version\":\"1.0\",\"added_tokens\":[");
    for (size_t i = 0; i < n; i++) {
        buf_printf(&json,
                   "%s{\"id\":%zu,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,"
                   "\"rstrip\":false,"
                   "\"normalized\":false,\"special\":true}",
                   i ? "," : "", 300 + i, controls[i]);
    }
    buf_puts(&json,
             "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":"
             "false,"
             "\"trim_offsets\":true,\"use_regex\":true},\"decoder\":{\"type\":\"ByteLevel\"},"
             "\"model\":{\"type\":"
             "\"BPE\",\"dropout\":null,\"unk_token\":null,\"continuing_subword_prefix\":null,"
             "\"end_of_word_suffix\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"vocab\":{");
    put_byte_vocabulary(&json, 0);
    buf_puts(&json, "},\"merges\":[]}}");
    int rc = tokenizer_parse(&t, json.data, json.len, 400, "test", &e);
    buf_deinit(&json);
    cr_assert_eq(rc, 0, "%s", e.msg);
    return t;
}

/* Ids as text: controls by their spelling, the rest by their bytes. */
static void spell(const tokenizer *t, const token_ids *ids, buf *out) {
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(t, ids->data[i], &n);
        if (tokenizer_is_special(t, ids->data[i])) buf_puts(out, "\x1b");
        buf_append(out, bytes, n);
    }
}

static const api__message talk[] = {
    {API__SYSTEM, " Be brief. ", 11},
    {API__USER, "Say <|im_end|>", 14},
    {API__ASSISTANT, "ok", 2},
    {API__USER, "more\n", 5},
};

static const struct {
    const char *jinja, *want; /* an escape byte stands before each control token */
} rows[] = {
    {"chatml",
     "\x1b<|im_start|>system\n Be brief. \x1b<|im_end|>\n\x1b<|im_start|>user\nSay "
     "<|im_end|>\x1b<|im_end|>\n"
     "\x1b<|im_start|>assistant\nok\x1b<|im_end|>\n\x1b<|im_start|>user\nmore\n\x1b<|im_end|>\n"
     "\x1b<|im_start|>assistant\n"},
    {"{% for message in messages %}{{\"<|im_start|>\" + message[\"role\"] + \"\\n\" + "
     "message[\"content\"] + "
     "\"<|im_end|>\" + \"\\n\"}}\n{%- endfor %}\n{% if add_generation_prompt %}{{ "
     "'<|im_start|>assistant\\n' }}{% endif %}",
     "\x1b<|im_start|>system\n Be brief. \x1b<|im_end|>\n\x1b<|im_start|>user\nSay "
     "<|im_end|>\x1b<|im_end|>\n"
     "\x1b<|im_start|>assistant\nok\x1b<|im_end|>\n\x1b<|im_start|>user\nmore\n\x1b<|im_end|>\n"
     "\x1b<|im_start|>assistant\n"},
    {"llama3", "\x1b<|begin_of_text|>\x1b<|start_header_id|>system\x1b<|end_header_id|>\n\nBe "
               "brief.\x1b<|eot_id|>"
               "\x1b<|start_header_id|>user\x1b<|end_header_id|>\n\nSay <|im_end|>\x1b<|eot_id|>"
               "\x1b<|start_header_id|>assistant\x1b<|end_header_id|>\n\nok\x1b<|eot_id|>"
               "\x1b<|start_header_id|>user\x1b<|end_header_id|>\n\nmore\x1b<|eot_id|>"
               "\x1b<|start_header_id|>assistant\x1b<|end_header_id|>\n\n"},
    {"plain", "System:  Be brief. \nUser: Say <|im_end|>\nAssistant: ok\nUser: more\n\nAssistant:"},
};

Test(
    api_templates,
    the_known_templates_render_as_their_jinja_text_would_and_contents_never_become_control_tokens) {
    static const char *const controls[] = {"<|im_start|>",      "<|im_end|>",
                                           "<|begin_of_text|>", "<|start_header_id|>",
                                           "<|end_header_id|>", "<|eot_id|>"};
    tokenizer *tok = byte_tokenizer(controls, ARRAY_LEN(controls));
    const api__answer opens = {.generation = true};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        api__template *t;
        err e = {0};
        token_ids ids = {0};
        buf text = {0};
        cr_assert_eq(api__template_open(&t, "no/such/folder", rows[i].jinja, tok, &e), 0,
                     "row %zu: %s", i, e.msg);
        cr_assert_eq(api__template_render(t, tok, talk, ARRAY_LEN(talk), &opens, &ids, &e), 0);
        spell(tok, &ids, &text);
        cr_expect_str_eq(text.data, rows[i].want, "row %zu", i);
        api__template_close(t);
        token_ids_deinit(&ids);
        buf_deinit(&text);
    }
    tokenizer_close(tok);
}

Test(api_templates, the_demo_has_its_form_and_its_stop_tokens) {
    api_fixture f;
    api_fixture_open(&f, NULL, false);
    uint32_t n;
    const uint32_t *stops = api_stop_ids(f.c, &n);
    cr_assert_eq(n, 2);
    cr_assert_eq(stops[0], 2044);
    cr_assert_eq(stops[1], 2047);
    api_request *r = api_must_parse(
        &f, API_CHAT,
        "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
        "\"text\":\"In the <|end|>\"},{\"type\":\"text\",\"text\":\"b\"}]}]}");
    uint32_t want[64];
    size_t k = api_ids(&f, "In the <|end|>\nb", want, 64);
    const api__prompt *p = &r->prompts[0];
    cr_assert_eq(p->n, k + 3);
    cr_assert_eq(p->ids[0], 2045);
    cr_assert_arr_eq(p->ids + 1, want, k * sizeof *want);
    cr_assert_eq(p->ids[k + 1], 2047);
    cr_assert_eq(p->ids[k + 2], 2046);
    cr_assert_float_eq(r->sampling.temperature, 0.7f, 1e-6f);
    cr_assert_float_eq(r->sampling.top_p, 0.95f, 1e-6f);
    api_request_destroy(r);
    api_fixture_close(&f);
}

Test(api_templates, a_last_answer_can_be_continued) {
    api_fixture f;
    api_fixture_open(&f, NULL, false);
    api_request *r = api_must_parse(
        &f, API_CHAT,
        "{\"model\":\"demo\",\"continue_final_message\":true,\"messages\":[{\"role\":\"user\","
        "\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"And\"}]}");
    uint32_t want[8];
    size_t k = api_ids(&f, "And", want, 8);
    const api__prompt *p = &r->prompts[0];
    cr_assert_arr_eq(p->ids + p->n - k, want, k * sizeof *want);
    cr_assert_eq(p->ids[p->n - k - 1], 2046);
    api_request_destroy(r);
    api_fixture_close(&f);
}

/* ---- files that are refused ---- */

#define TALKS "{\"roles\":{\"user\":{},\"assistant\":{}},"

static const struct {
    const char *file, *text, *want;
} bad_files[] = {
    {"tokenizer_config.json", "{\"chat_template\":\"chatml\"}", "<|im_start|>"},
    {"chat_template.fathom.json", "{}", "roles"},
    {"chat_template.fathom.json", "{\"roles\":{\"king\":{}}}", "roles"},
    {"chat_template.fathom.json", "{\"roles\":{\"user\":{}}}", "roles"},
    {"chat_template.fathom.json",
     "{\"roles\":{\"user\":{\"before\":[{\"control\":\"<|no|>\"}]},\"assistant\":{}}}", "<|no|>"},
    {"chat_template.fathom.json", "{\"roles\":{\"user\":{\"before\":[7]},\"assistant\":{}}}",
     "before"},
    {"chat_template.fathom.json", "{\"roles\":{\"user\":{},\"assistant\":{}},\"end\":5}", "end"},
    {"chat_template.fathom.json", TALKS "\"end\":[\"<|end|>\",7]}", "end"},
    {"chat_template.fathom.json", TALKS "\"end\":[\"<|no|>\",\"<|end|>\"]}", "<|no|>"},
    {"chat_template.fathom.json",
     TALKS "\"end\":[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\"]}", "at most 8"},
    {"chat_template.fathom.json", TALKS "\"default_system\":5}", "default_system"},
    {"chat_template.fathom.json", TALKS "\"default_system\":\"x\"}", "needs a system role"},
    {"chat_template.fathom.json", TALKS "\"thinking\":true}", "thinking"},
    {"chat_template.fathom.json", TALKS "\"thinking\":{\"default\":1}}", "thinking"},
    {"chat_template.fathom.json", TALKS "\"thinking\":{\"on\":\"x\"}}", "on"},
    {"chat_template.fathom.json", TALKS "\"thinking\":{\"off\":[{\"token\":3}]}}", "token"},
    {"chat_template.fathom.json", "nonsense", "JSON"},
};

static void write_file(const char *dir, const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    cr_assert_not_null(file);
    fputs(text, file);
    fclose(file);
}

static void remove_files(const char *dir) {
    static const char *const names[] = {"tokenizer_config.json", "generation_config.json",
                                        "chat_template.fathom.json"};
    char path[256];
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    rmdir(dir);
}

Test(api_templates, a_file_beside_the_model_that_is_wrong_is_refused_by_name) {
    api_fixture f;
    api_fixture_open(&f, NULL, false);
    for (size_t i = 0; i < ARRAY_LEN(bad_files); i++) {
        char dir[] = "/tmp/fathom-test-XXXXXX";
        api_context *c = NULL;
        err e = {0};
        cr_assert_not_null(mkdtemp(dir));
        write_file(dir, bad_files[i].file, bad_files[i].text);
        api_opts o = {.model_dir = dir, .model = f.model, .tokenizer = f.tokenizer};
        cr_expect_eq(api_context_open(&c, &o, &e), -1, "row %zu", i);
        cr_expect_null(c);
        cr_expect_eq(e.code, ERR_BAD_FILE, "row %zu: %s", i, err_name(e.code));
        cr_expect_not_null(strstr(e.msg, bad_files[i].want), "row %zu: %s", i, e.msg);
        remove_files(dir);
    }
    api_fixture_close(&f);
}

Test(api_templates, a_model_without_a_template_refuses_chat_and_says_what_to_use) {
    api_fixture f;
    char dir[] = "/tmp/fathom-test-XXXXXX";
    cr_assert_not_null(mkdtemp(dir));
    api_opts o = {.model_dir = dir, .served_name = "m"};
    api_fixture_open(&f, &o, false);
    static const char body[] =
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    api_request *r;
    err e = {0};
    cr_assert_eq(api_parse(&r, f.c, API_CHAT, body, sizeof body - 1, &e), -1);
    cr_assert_eq(e.code, ERR_UNSUPPORTED);
    cr_assert_not_null(strstr(e.msg, "/v1/completions"));
    api_fixture_close(&f);
    remove_files(dir);
}

Test(api_templates, an_unknown_template_is_warned_of_and_refuses_chat_alone) {
    api_fixture f;
    char dir[] = "/tmp/fathom-test-XXXXXX", said[2000];
    cr_assert_not_null(mkdtemp(dir));
    write_file(dir, "tokenizer_config.json", "{\"chat_template\":\"{{ strange() }}\"}");
    api_opts o = {.model_dir = dir, .served_name = "m"};
    int kept = stderr_catch();
    api_fixture_open(&f, &o, false);
    stderr_release(kept, said, sizeof said);
    cr_expect_not_null(strstr(said, "chat_template.fathom.json"), "%s", said);
    static const char chat[] =
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    api_request *r;
    err e = {0};
    cr_assert_eq(api_parse(&r, f.c, API_CHAT, chat, sizeof chat - 1, &e), -1);
    cr_expect_eq(api_status(&e), 400);
    cr_expect_not_null(strstr(e.msg, "chat_template.fathom.json"), "%s", e.msg);
    api_request_destroy(
        api_must_parse(&f, API_COMPLETION, "{\"model\":\"m\",\"prompt\":\"In the\"}"));
    api_fixture_close(&f);
    remove_files(dir);
}

/* The demo's tokenizer, with a template that puts <|endoftext|> before every text. */
static tokenizer *with_first_token(void) {
    json_t *file = json_load_file("models/demo/tokenizer.json", 0, NULL);
    json_object_set_new(file, "post_processor",
                        json_pack("{s:s, s:[{s:{s:s}}, {s:{s:s}}]}", "type", "TemplateProcessing",
                                  "single", "SpecialToken", "id", "<|endoftext|>", "Sequence", "id",
                                  "A"));
    char *text = json_dumps(file, JSON_COMPACT);
    tokenizer *t = NULL;
    err e = {0};
    cr_assert_not_null(text);
    cr_assert_eq(tokenizer_parse(&t, text, strlen(text), 2048, "test", &e), 0, "%s", e.msg);
    free(text);
    json_decref(file);
    return t;
}

static const struct {
    const char *config; /* tokenizer_config.json; NULL: there is none */
    const char *first;  /* token before the text; NULL: none */
} first_tokens[] = {
    {NULL, "<|endoftext|>"},
    {"{\"bos_token\":\"<|user|>\"}", "<|endoftext|>"},
    {"{\"add_bos_token\":null}", "<|endoftext|>"},
    {"{\"add_bos_token\":false,\"bos_token\":\"<|user|>\"}", NULL},
    {"{\"add_bos_token\":true,\"bos_token\":\"<|user|>\"}", "<|user|>"},
};

Test(api_templates, texts_begin_as_the_config_says_or_else_the_tokenizers_template) {
    api_fixture f;
    api_fixture_open(&f, NULL, false);
    tokenizer *t = with_first_token();
    static const char body[] = "{\"prompt\":\"In the beginning\"}";
    for (size_t i = 0; i < ARRAY_LEN(first_tokens); i++) {
        char dir[] = "/tmp/fathom-test-XXXXXX", want[64];
        api_context *c = NULL;
        err e = {0};
        cr_assert_not_null(mkdtemp(dir));
        if (first_tokens[i].config)
            write_file(dir, "tokenizer_config.json", first_tokens[i].config);
        api_opts o = {.model_dir = dir, .model = f.model, .tokenizer = t};
        cr_assert_eq(api_context_open(&c, &o, &e), 0, "row %zu: %s", i, e.msg);
        uint32_t first = 0;
        bool has = first_tokens[i].first && tokenizer_find(t, first_tokens[i].first, &first);
        if (has) snprintf(want, sizeof want, "\"tokens\":[%u,1142,", first);
        else snprintf(want, sizeof want, "\"tokens\":[1142,");
        buf out = {0};
        cr_assert_eq(api_list(api_tokenize, c, body, sizeof body - 1, SIZE_MAX, &out, &e), 0,
                     "row %zu: %s", i, e.msg);
        cr_expect_not_null(strstr(out.data, want), "row %zu: %s lacks %s", i, out.data, want);
        buf_deinit(&out);
        api_context_close(c);
        remove_files(dir);
    }
    tokenizer_close(t);
    api_fixture_close(&f);
}

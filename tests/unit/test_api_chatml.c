/* test_api_chatml.c - ChatML as Ouro, SmolLM2 and their kin write it: default system turns,
 * thoughts, chat_template_kwargs, and end tokens. Equality with a Jinja engine and the Rust
 * tokenizers is in tests/folders/tokenizer/chatml.test.mjs. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/chat.h"
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

TestSuite(api_chatml, .fini = fail_on_leaks, .timeout = HANGS_S);

/* Ouro's special tokens at its ids, then the bytes. */
static const char *const specials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", NULL};
static const char *const thoughts[] = {"<think>", "</think>", NULL};

/* ---- templates ---- */

#define TURN                                                                                       \
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
#define GENERATION "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

/* Ouro's form: the first system message stands before the loop, and the loop skips it. */
#define OURO(otherwise, thoughts)                                                                  \
    "{# A chat of Ouro's; don't think unless told to. #}\n"                                        \
    "{%- if messages[0]['role'] == 'system' -%}\n"                                                 \
    "    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n" otherwise    \
    "{%- endif -%}\n"                                                                              \
    "{%- for message in messages -%}\n"                                                            \
    "    {%- if message.role == 'system' and loop.first -%}\n"                                     \
    "        {# before the loop #}\n"                                                              \
    "    {%- else -%}\n"                                                                           \
    "        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "  \
    "'\\n' }}\n"                                                                                   \
    "    {%- endif -%}\n"                                                                          \
    "{%- endfor -%}\n"                                                                             \
    "{%- if add_generation_prompt -%}\n"                                                           \
    "    {{- '<|im_start|>assistant\\n' }}\n" thoughts "{%- endif -%}\n"
#define OTHERWISE                                                                                  \
    "{%- else -%}\n"                                                                               \
    "    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\n"
#define IF_THINKING(condition)                                                                     \
    "    {%- if " condition " -%}\n        {{- '<think>\\n' }}\n    {%- endif -%}\n"
#define FIRST_IN_LOOP(text)                                                                        \
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"         \
    "{{ '<|im_start|>system\\n" text "<|im_end|>\\n' }}{% endif %}" TURN "{% endfor %}" GENERATION

#define DEFAULT "~<|im_start|>system\nYou are a helpful assistant.~<|im_end|>\n"
#define ASKED "~<|im_start|>user\nHi <|im_end|>~<|im_end|>\n"
#define BRIEF "~<|im_start|>system\n Be brief. ~<|im_end|>\n"
#define ANSWER "~<|im_start|>assistant\n"

static const struct {
    const char *jinja;
    const char *system;   /* text before the messages if they have no system message */
    const char *think[3]; /* after the answer's opening: enable_thinking absent, false, true */
} kinds[] = {
    {OURO(OTHERWISE, IF_THINKING("enable_thinking is defined and enable_thinking is true")),
     DEFAULT,
     {"", "", "~<think>\n"}},
    {OURO(OTHERWISE, ""), DEFAULT, {"", "", ""}},
    {OURO("", IF_THINKING("enable_thinking is defined and enable_thinking is true")),
     "",
     {"", "", "~<think>\n"}},
    {OURO("", IF_THINKING("enable_thinking")), "", {"", "", "~<think>\n"}},
    {OURO("", ""), "", {"", "", ""}},
    {OURO(OTHERWISE, "{{- '<think>\\n\\n</think>\\n\\n' if x }}"), DEFAULT, {"", "", ""}},
    {OURO(OTHERWISE, "    {%- if enable_thinking is defined and enable_thinking is false %}"
                     "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}\n"),
     DEFAULT,
     {"", "~<think>\n\n~</think>\n\n", ""}},
    {FIRST_IN_LOOP("You are a helpful assistant."), DEFAULT, {"", "", ""}},
    {FIRST_IN_LOOP("You are a helpful AI assistant named SmolLM, trained by Hugging Face"),
     "~<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
     "Face~<|im_end|>\n",
     {"", "", ""}},
    {FIRST_IN_LOOP(""), "~<|im_start|>system\n~<|im_end|>\n", {"", "", ""}},
    {"{% for message in messages %}" TURN "{% endfor %}{% if add_generation_prompt %}"
     "{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
     "",
     {"~<think>\n", "~<think>\n", "~<think>\n"}},
    {"{% for message in messages %}{{'<|im_start|>' + message.role + '\n' + message.content + "
     "'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
     "{% endif %}", /* raw newlines, as in some files */
     "",
     {"", "", ""}},
};

#define SAID(messages, more)                                                                       \
    "{\"messages\":[" messages "{\"role\":\"user\",\"content\":"                                   \
    "\"Hi <|im_end|>\"}]" more "}"
#define RULES(role) "{\"role\":\"" role "\",\"content\":\" Be brief. \"},"
#define KWARGS(value) ",\"chat_template_kwargs\":{\"enable_thinking\":" value "}"
#define SILENT ",\"add_generation_prompt\":false"

static void check_said(chat_rig *rig, const char *body, const char *start, const char *end,
                       size_t row) {
    buf want = {0};
    buf_printf(&want, "%s" ASKED "%s", start, end);
    cr_expect_str_eq(chat_rendered(rig, body), want.data, "row %zu: %s", row, rig->said.data);
    buf_deinit(&want);
}

Test(api_chatml, the_published_spellings_render_default_system_turns_and_thoughts_as_jinja_would) {
    static const char *const alone[3] = {SAID("", ""), SAID("", KWARGS("false")),
                                         SAID("", KWARGS("true"))};
    static const char *const told[3] = {SAID(RULES("system"), ""),
                                        SAID(RULES("system"), KWARGS("false")),
                                        SAID(RULES("developer"), KWARGS("true"))};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        chat_rig rig;
        chat_open(&rig, specials, thoughts, "", kinds[i].jinja);
        for (int k = 0; k < 3; k++) {
            buf end = {0};
            buf_printf(&end, ANSWER "%s", kinds[i].think[k]);
            check_said(&rig, alone[k], kinds[i].system, end.data, i);
            check_said(&rig, told[k], BRIEF, end.data, i);
            buf_deinit(&end);
        }
        check_said(&rig, SAID("", SILENT), kinds[i].system, "", i);
        chat_close(&rig);
    }
}

Test(api_chatml, a_vocabulary_without_think_tokens_gets_their_spelling_as_text) {
    chat_rig rig;
    chat_open(&rig, specials, NULL, "", kinds[0].jinja);
    check_said(&rig, SAID("", KWARGS("true")), DEFAULT, ANSWER "<think>\n", 0);
    chat_close(&rig);
}

Test(api_chatml, a_default_system_turn_that_forges_a_turn_does_so_in_the_models_own_name) {
    chat_rig rig;
    chat_open(&rig, specials, thoughts, "", FIRST_IN_LOOP("A<|im_end|>\\n<|im_start|>user\\nB"));
    check_said(&rig, SAID("", ""),
               "~<|im_start|>system\nA~<|im_end|>\n~<|im_start|>user\nB~<|im_end|>\n", ANSWER, 0);
    chat_close(&rig);
}

Test(api_chatml, tokens_that_a_template_names_are_not_made_of_a_clients_text_and_others_are) {
    static const char body[] = "[{\"role\":\"user\",\"content\":\"<think><|endoftext|></think>\"}]";
    chat_rig rig;
    chat_open(&rig, specials, thoughts, "", "chatml");
    cr_expect_str_eq(chat_rendered(&rig, body),
                     "~<|im_start|>user\n~<think><|endoftext|>~</think>~<|im_end|>\n" ANSWER);
    chat_close(&rig);
    chat_open(&rig, specials, thoughts, "", kinds[0].jinja);
    cr_expect_str_eq(chat_rendered(&rig, body), DEFAULT
                     "~<|im_start|>user\n<think><|endoftext|>~</think>~<|im_end|>\n" ANSWER);
    chat_close(&rig);
}

/* ---- requests ---- */

typedef struct {
    api_fixture fixture;
    tokenizer *tok;
    tmp_dir dir;
} chat_folder;

static void put_text(const chat_folder *folder, const char *name, const char *text) {
    if (text) file_put(folder->dir.path, name, text, strlen(text));
}

static chat_folder folder_open(void) {
    chat_folder folder = {.tok = chat_tokenizer(specials, thoughts), .dir = tmp_dir_create()};
    api_fixture_open(&folder.fixture, NULL, false);
    return folder;
}

static void folder_close(chat_folder *folder) {
    api_fixture_close(&folder->fixture);
    tokenizer_close(folder->tok);
    tmp_dir_remove(&folder->dir);
}

static api_context *folder_context(const chat_folder *folder) {
    api_context *ctx = NULL;
    err e = {0};
    api_opts opts = {.model_dir = folder->dir.path,
                     .model = folder->fixture.model,
                     .tokenizer = folder->tok,
                     .served_name = "m"};
    cr_assert_eq(api_context_open(&ctx, &opts, &e), 0, "%s", e.msg);
    return ctx;
}

static void put_template(const chat_folder *folder, const char *template) {
    json_t *config =
        json_pack("{s:s, s:s}", "eos_token", "<|endoftext|>", "chat_template", template);
    char *text = json_dumps(config, JSON_COMPACT);
    put_text(folder, "tokenizer_config.json", text);
    free(text);
    json_decref(config);
}

static const struct {
    const char *kwargs, *want; /* want: after the answer's opening; NULL: status 400 with `says` */
    const char *says;
} asked[] = {
    {"{\"enable_thinking\":true}", "~<think>\n", NULL},
    {"{\"enable_thinking\":false}", "", NULL},
    {"{\"enable_thinking\":null}", "", NULL},
    {"{}", "", NULL},
    {"null", "", NULL},
    {"{\"enable_thinking\":1}", "", NULL}, /* Jinja's own `is true` */
    {"{\"enable_thinking\":\"true\"}", "", NULL},
    {"{\"thinking\":true,\"deep\":{\"a\":[1,{}]}}", "", NULL},
    {"{\"enable_thinking\":true,\"x\\u0001\":{}}", "~<think>\n", NULL},
    {"{\"messages\":[]}", NULL, "chat_template_kwargs: messages is set by the server"},
    {"{\"add_generation_prompt\":false}", NULL, "add_generation_prompt is set by the server"},
    {"{\"eos_token\":\"x\"}", NULL, "eos_token is set by the server"},
    {"{\"raise_exception\":1}", NULL, "raise_exception is set by the server"},
    {"[]", NULL, "chat_template_kwargs must be an object"},
    {"true", NULL, "chat_template_kwargs must be an object"},
    {"\"enable_thinking\"", NULL, "chat_template_kwargs must be an object"},
};

static void check_asked(const chat_folder *folder, const api_context *ctx,
                        const api_dialect *dialect, size_t row, bool thinks) {
    api_request *req = NULL;
    err e = {0};
    buf body = {0}, got = {0}, want = {0};
    buf_printf(&body,
               "{\"model\":\"m\",\"%s\":[{\"role\":\"user\",\"content\":\"Hi <|im_end|>\"}],"
               "\"chat_template_kwargs\":%s}",
               dialect->input, asked[row].kwargs);
    int rc = api_parse(&req, ctx, dialect, body.data, body.len, &e);
    cr_expect_eq(rc, asked[row].want ? 0 : -1, "row %zu: %s", row, e.msg);
    if (rc == 0 && asked[row].want) {
        chat_spell(folder->tok, req->prompts[0].ids, req->prompts[0].n_ids, &got);
        buf_printf(&want, "%s" ASKED ANSWER "%s", thinks ? DEFAULT : "",
                   thinks ? asked[row].want : "");
        cr_expect_str_eq(got.data, want.data, "row %zu: %s", row, got.data);
    }
    if (rc != 0 && asked[row].says) {
        cr_expect_eq(api_status(&e), 400, "row %zu", row);
        cr_expect_eq(strncmp(e.param, "chat_template_kwargs", 20), 0, "row %zu: %s", row, e.param);
        cr_expect_not_null(strstr(e.msg, asked[row].says), "row %zu: %s", row, e.msg);
    }
    api_request_destroy(req);
    buf_deinit(&body);
    buf_deinit(&got);
    buf_deinit(&want);
}

Test(api_chatml, a_request_says_to_the_template_what_it_likes_but_not_what_the_server_says) {
    chat_folder folder = folder_open();
    put_template(&folder, kinds[0].jinja);
    api_context *ctx = folder_context(&folder);
    for (size_t i = 0; i < ARRAY_LEN(asked); i++) {
        check_asked(&folder, ctx, &api_dialect_chat, i, true);
        check_asked(&folder, ctx, &api_dialect_responses, i, true);
    }
    api_context_close(ctx);
    folder_close(&folder);
}

Test(api_chatml, a_template_without_thoughts_ignores_them) {
    chat_folder folder = folder_open();
    put_template(&folder, "chatml");
    api_context *ctx = folder_context(&folder);
    for (size_t i = 0; i < ARRAY_LEN(asked); i++)
        check_asked(&folder, ctx, &api_dialect_chat, i, false);
    api_context_close(ctx);
    folder_close(&folder);
}

Test(api_chatml, tokenize_takes_the_arguments_of_the_template_too) {
    chat_folder folder = folder_open();
    put_template(&folder, kinds[0].jinja);
    api_context *ctx = folder_context(&folder);
    static const char body[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                               "\"chat_template_kwargs\":{\"enable_thinking\":true}}";
    static const char bad[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                              "\"chat_template_kwargs\":{\"tools\":true}}";
    buf out = {0};
    err e = {0};
    cr_assert_eq(api_list(api_tokenize, ctx, body, sizeof body - 1, SIZE_MAX, &out, &e), 0, "%s",
                 e.msg);
    cr_expect_not_null(strstr(out.data, ",3,15],\"count\""), "%s", out.data); /* <think> \n */
    cr_expect_eq(api_list(api_tokenize, ctx, bad, sizeof bad - 1, SIZE_MAX, &out, &e), -1);
    cr_expect_str_eq(e.param, "chat_template_kwargs");
    buf_deinit(&out);
    api_context_close(ctx);
    folder_close(&folder);
}

Test(api_chatml, a_token_that_the_template_names_is_no_id_of_a_clients_prompt_either) {
    static const char think[] = "{\"prompt\":[70,3]}", end[] = "{\"prompt\":[70,2]}";
    const char *const templates[] = {"chatml", kinds[0].jinja};
    for (size_t i = 0; i < 2; i++) {
        chat_folder folder = folder_open();
        put_template(&folder, templates[i]);
        api_context *ctx = folder_context(&folder);
        api_request *req = NULL;
        err e = {0};
        int rc = api_parse(&req, ctx, &api_dialect_completion, think, sizeof think - 1, &e);
        cr_expect_eq(rc, i == 0 ? 0 : -1, "row %zu: %s", i, e.msg);
        if (rc != 0) cr_expect_not_null(strstr(e.msg, "token 3 is a control token"), "%s", e.msg);
        api_request_destroy(req);
        cr_expect_eq(api_parse(&req, ctx, &api_dialect_completion, end, sizeof end - 1, &(err){0}),
                     -1);
        api_context_close(ctx);
        folder_close(&folder);
    }
}

/* ---- end tokens ---- */

#define CONFIG(eos) "{\"eos_token_id\":" eos "}"
#define TOKENS(eos)                                                                                \
    "{\"eos_token\":\"" eos "\",\"model_max_length\":1000000000000000019884624838656"
#define CHATML ",\"chat_template\":\"chatml\"}"

static const struct {
    const char *config, *generation, *tokens, *want;
    const char *warns; /* NULL: nothing is said */
} ends[] = {
    /* Ouro's base, its Thinking, and Thinking with the end token mended. */
    {CONFIG("0"), NULL, TOKENS("<|endoftext|>") CHATML, "0,2", NULL},
    {CONFIG("2"), NULL, TOKENS("<|endoftext|>") CHATML, "0,2", NULL},
    {CONFIG("2"), NULL, TOKENS("<|im_end|>") CHATML, "2,0", NULL},
    {CONFIG("0"), NULL,
     "{"
     "\"chat_template\":\"chatml\"}",
     "0,2", NULL},
    /* The union of all, each once. */
    {CONFIG("4"), "{\"eos_token_id\":[2,2,7]}", TOKENS("<|endoftext|>") "}", "2,7,0",
     "config.json: eos_token_id 4 is not a control token"},
    {CONFIG("0"), "{\"eos_token_id\":null}", TOKENS("<|im_end|>") "}", "2", NULL},
    {CONFIG("0"), "{}", "{}", "0", NULL},
    {CONFIG("[0,2]"), NULL, NULL, "0,2", NULL},
    {CONFIG("null"), NULL, NULL, "", NULL},
    {"{}", NULL, NULL, "", NULL},
    {NULL, NULL, NULL, "", NULL},
    /* An id beyond the model's vocabulary is left out. */
    {CONFIG("2048"), NULL, NULL, "",
     "config.json: eos_token_id 2048 is outside the model's vocabulary of 2048 tokens"},
    {CONFIG("[65505,2]"), NULL, NULL, "2", "config.json: eos_token_id 65505 is outside"},
    {NULL, "{\"eos_token_id\":[99999,2]}", NULL, "2",
     "generation_config.json: eos_token_id 99999 is outside the model's vocabulary of 2048 tokens"},
    {NULL, "{\"eos_token_id\":-1}", NULL, "", "eos_token_id -1 is outside"},
    {NULL, "{\"eos_token_id\":99999999999999999999}", NULL, "", "eos_token_id 1e+20 is outside"},
    {CONFIG("0"), "{\"eos_token_id\":99999}", NULL, "0", "eos_token_id 99999"},
    /* An ordinary word gives a warning. It counts only as the sole end token. */
    {CONFIG("70"), NULL, TOKENS("<|im_end|>") "}", "2", "eos_token_id 70 is not a control token"},
    {CONFIG("70"), NULL, NULL, "70", "eos_token_id 70 is not a control token"},
};

/* Makes the folder the demo model with the keys of `extra` in its config.json. Returns 0 or -1. */
static int folder_model(chat_folder *folder, const char *extra, err *e) {
    char *text = file_get("models/demo", "config.json", NULL), link[160], target[4096];
    json_t *config = json_loads(text, 0, NULL), *keys = json_loads(extra ? extra : "{}", 0, NULL);
    free(text);
    json_object_update(config, keys);
    text = json_dumps(config, 0);
    put_text(folder, "config.json", text);
    free(text);
    json_decref(config);
    json_decref(keys);
    (void)snprintf(link, sizeof link, "%s/model.safetensors", folder->dir.path);
    cr_assert(realpath("models/demo/model.safetensors", target));
    (void)unlink(link);
    cr_assert_eq(symlink(target, link), 0);
    model_close(folder->fixture.model);
    folder->fixture.model = NULL;
    return model_open(&folder->fixture.model, folder->dir.path, e);
}

Test(api_chatml, an_answer_ends_at_any_token_that_a_file_beside_the_model_calls_the_end) {
    chat_folder folder = folder_open();
    err e = {0};
    static const char *const names[] = {"generation_config.json", "tokenizer_config.json"};
    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        const char *texts[] = {ends[i].generation, ends[i].tokens};
        tmp_dir_remove(&folder.dir);
        folder.dir = tmp_dir_create();
        for (size_t k = 0; k < 2; k++)
            put_text(&folder, names[k], texts[k]);
        char said[2000];
        int kept = stderr_catch();
        int opened = folder_model(&folder, ends[i].config, &e);
        cr_assert_eq(opened, 0, "%s", e.msg);
        api_context *ctx = folder_context(&folder);
        stderr_release(kept, said, sizeof said);
        uint32_t n;
        const uint32_t *ids = api_stop_ids(ctx, &n);
        buf got = {0};
        buf_puts(&got, "");
        for (uint32_t k = 0; k < n; k++)
            buf_printf(&got, "%s%u", k ? "," : "", ids[k]);
        cr_expect_str_eq(got.data ? got.data : "", ends[i].want, "row %zu", i);
        if (ends[i].warns) cr_expect_not_null(strstr(said, ends[i].warns), "row %zu: %s", i, said);
        else cr_expect_str_eq(said, "", "row %zu: %s", i, said);
        buf_deinit(&got);
        api_context_close(ctx);
    }
    folder_close(&folder);
}

Test(api_chatml, a_model_without_a_tokenizer_ends_where_its_config_says) {
    chat_folder folder = folder_open();
    api_context *ctx = NULL;
    err e = {0};
    cr_assert_eq(folder_model(&folder, CONFIG("[0,2]"), &e), 0, "%s", e.msg);
    api_opts opts = {.model_dir = folder.dir.path, .model = folder.fixture.model};
    cr_assert_eq(api_context_open(&ctx, &opts, &e), 0, "%s", e.msg);
    uint32_t n;
    const uint32_t *ids = api_stop_ids(ctx, &n);
    cr_assert_eq(n, 2);
    cr_expect(ids[0] == 0 && ids[1] == 2);
    api_context_close(ctx);
    cr_expect_eq(folder_model(&folder, CONFIG("\"2\""), &e), -1);
    cr_expect_not_null(
        strstr(e.msg, "config.json: eos_token_id holds a string, expected token ids"), "%s", e.msg);
    folder_close(&folder);
}

/* test_api_memory.c - every allocation of a request fails once, and once for good. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/files.h"
#include "tests/lib/oom.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

API_SUITE(api_memory);

static const struct {
    const api_dialect *dialect;
    const char *body;
} rows[] = {
    {&api_dialect_completion,
     "{\"model\":\"demo\",\"prompt\":[\"In "
     "the\",\"beginning\"],\"n\":2,\"stop\":[\"x\"],\"stop_token_ids\":[1],"
     "\"logit_bias\":{\"1\":2},\"request_id\":\"abc\",\"logprobs\":2,\"max_tokens\":3}"},
    {&api_dialect_chat,
     "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":"
     "\"text\",\"text\":\"a b\"}]}],"
     "\"stream\":true,\"return_depth\":true,\"max_tokens\":3}"},
    {&api_dialect_chat,
     "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"n\":2,\"stream\":"
     "true,\"stream_options\":{\"include_drafts\":true},\"max_tokens\":3}"},
    {&api_dialect_completion, "{\"model\":\"demo\",\"prompt\":[1,2],\"echo\":true,\"max_tokens\":0,"
                              "\"logprobs\":1,\"cache_salt\":\"s\"}"},
    {&api_dialect_chat,
     "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":"
     "\"tool\",\"content\":\"y\"}],"
     "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{"
     "\"type\":\"object\"}}}],"
     "\"tool_choice\":\"required\",\"max_tokens\":3}"},
    {&api_dialect_completion,
     "{\"model\":\"demo\",\"prompt\":[1,2,3],\"prompt_logprobs\":2,\"n\":2,"
     "\"logprobs\":3,\"return_depth\":true,\"max_tokens\":3}"},
    {&api_dialect_responses,
     "{\"model\":\"demo\",\"input\":\"x\",\"stream\":true,\"metadata\":{\"a\":\"b\"}"
     ",\"text\":{\"format\":{\"type\":"
     "\"json_schema\",\"name\":\"n\",\"schema\":{\"type\":\"integer\"}}},\"top_"
     "logprobs\":1,\"max_output_tokens\":3}"},
};

/* A template that prints every variable it gets. */
#define GIVEN                                                                                      \
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% for c in m.tool_calls %}"     \
    "{{ c.function.name }}{{ c.function.arguments | tojson }}{% endfor %}<|end|>{% endfor %}"      \
    "{% if tools %}{{ tools | tojson }}{% endif %}{{ bos_token }}{{ x }}"

/* Writes one whole answer. Returns 0, or -1 with the reason in e. */
static int whole_answer(size_t row, buf *out, err *e) {
    api_request *req;
    api_reply *reply;
    if (api_parse(&req, fixture.ctx, rows[row].dialect, rows[row].body, strlen(rows[row].body),
                  e) != 0)
        return -1;
    if (api_reply_create(&reply, fixture.ctx, req, NULL, e) != 0) return -1;
    unsigned bits = 0;
    for (uint32_t i = 0; i < api_reply_sequences(reply) && !(bits & API_FAILED); i++) {
        static const uint32_t ids[] = {300, 301, 302};
        sched_request seq_req;
        api_reply_request(reply, i, &seq_req);
        for (uint32_t k = 0; seq_req.prompt_logprobs && k < seq_req.n_prompt; k++) {
            sched_event ev = {
                .kind = SCHED_PROMPT, .token = seq_req.prompt[k], .pos = k, .logprob = -1};
            bits |= api_event(reply, i, &ev, out, e);
        }
        for (uint32_t k = 0; k < seq_req.max_tokens && !(bits & API_FAILED); k++) {
            sched_event draft = {.kind = SCHED_DRAFT, .token = 302, .pos = seq_req.n_prompt + k};
            if (seq_req.tell_drafts) bits |= api_event(reply, i, &draft, out, e);
            sched_event ev = ev_token(ids[k % 3], 1, -1);
            bits |= api_event(reply, i, &ev, out, e);
        }
        sched_event end = ev_end(SCHED_LENGTH, seq_req.n_prompt, seq_req.max_tokens);
        bits |= api_event(reply, i, &end, out, e);
    }
    api_reply_destroy(reply);
    return bits & API_FAILED ? -1 : 0;
}

Test(api_memory, a_request_that_runs_out_of_memory_is_503_and_leaves_nothing_behind) {
    for (size_t row = 0; row < ARRAY_LEN(rows); row++) {
        buf clean = {0};
        err none = {0};
        cr_assert_eq(whole_answer(row, &clean, &none), 0, "%s", none.msg);
        for (int sticky = 0; sticky < 2; sticky++) {
            for (long n = 0;; n++) {
                err e = {0};
                buf out = {0};
                cr_assert_lt(n, 5000);
                oom_after(n, sticky);
                int rc = whole_answer(row, &out, &e);
                bool reached = oom_stop();
                /* If the caller's own buffer failed, out.failed says so. A failed shrink does no
                 * harm: the answer stays whole. */
                if (rc != 0)
                    cr_assert_eq(api_status(&e), 503, "row %zu, allocation %ld: %s", row, n, e.msg);
                else if (reached && !out.failed)
                    cr_assert_eq(out.len, clean.len, "row %zu: allocation %ld failed unnoticed",
                                 row, n);
                buf_deinit(&out);
                if (!reached) break;
            }
        }
        buf_deinit(&clean);
    }
}

static const struct {
    api_lister route;
    const char *body;
} listings[] = {
    {api_tokenize, "{\"prompt\":[\"In the\",\"beginning\"],\"with_pieces\":true}"},
    {api_tokenize, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
                   "\"return_token_strs\":true}"},
    {api_detokenize, "{\"tokens\":[[300,301],[2047,200]]}"},
    {api__render_chat, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"},
};

/* Each answer has an id of its own. */
static void drop_id(buf *answer) {
    char *id = answer->data ? strstr(answer->data, "cmpl-") : NULL;
    if (id && strlen(id) > 21) memset(id + 5, '0', 16);
}

Test(api_memory, a_listing_that_runs_out_of_memory_says_so) {
    for (size_t row = 0; row < ARRAY_LEN(listings); row++) {
        const char *body = listings[row].body;
        buf clean = {0};
        err none = {0};
        cr_assert_eq(
            api_list(listings[row].route, fixture.ctx, body, strlen(body), SIZE_MAX, &clean, &none),
            0);
        drop_id(&clean);
        for (int sticky = 0; sticky < 2; sticky++) {
            for (long n = 0;; n++) {
                err e = {0};
                buf out = {0};
                cr_assert_lt(n, 5000);
                oom_after(n, sticky);
                int rc =
                    api_list(listings[row].route, fixture.ctx, body, strlen(body), 10, &out, &e);
                bool reached = oom_stop();
                if (rc != 0) cr_assert_eq(api_status(&e), 503, "row %zu: %s", row, e.msg);
                drop_id(&out);
                if (rc == 0 && !out.failed) cr_assert_str_eq(out.data, clean.data);
                buf_deinit(&out);
                if (!reached) break;
            }
        }
        buf_deinit(&clean);
    }
}

/* The chat template files of a folder; each dialect of request renders with them. */
static const struct {
    const char *name, *text;
} folders[] = {
    {"tokenizer_config.json", "{\"bos_token\":{\"content\":\"<|end|>\"},\"eos_token\":\"<|end|>\","
                              "\"chat_template\":[{\"name\":"
                              "\"default\",\"template\":\"" GIVEN
                              "\"},{\"name\":\"tool_use\",\"template\":\"" GIVEN "\"}]}"},
    {"chat_template.jinja", GIVEN},
    {"chat_template.jinja", "{% broken"},
    {"chat_template.fathom.json",
     "{\"roles\":{\"user\":{\"before\":[{\"control\":\"<|user|>\"}]},\"assistant\":{\"after\":"
     "[{\"control\":\"<|end|>\"}]},\"system\":{}},\"end\":\"<|end|>\",\"default_system\":\"x\","
     "\"thinking\":{\"default\":true}}"},
};

static const char conversation[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"tool_calls\":[{"
    "\"id\":\"a\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}}]},{\"role\":"
    "\"tool\","
    "\"content\":[{\"type\":\"text\",\"text\":\"y\"}],\"tool_call_id\":\"a\"},{\"role\":"
    "\"assistant\","
    "\"content\":\"z\"}],\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],"
    "\"continue_final_message\":true,\"chat_template_kwargs\":{\"x\":[1,{}]}}";

static int open_and_say(const char *dir, buf *said, err *e) {
    jinja_output text = {0};
    token_ids ids = {0};
    api_chat *chat;
    int rc = api_chat_open(&chat, dir, NULL, fixture.tokenizer, e);
    if (rc != 0) return -1;
    rc = api_chat_render(chat, conversation, sizeof conversation - 1, &text, &ids, e);
    *said = text.text; /* the caller's now */
    text.text = (buf){0};
    jinja_output_deinit(&text);
    token_ids_deinit(&ids);
    api_chat_close(chat);
    return rc;
}

Test(api_memory, a_chat_template_and_a_conversation_survive_every_failed_allocation,
     .timeout = HANGS_S) {
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        tmp_dir dir = tmp_dir_create();
        err clean = {0};
        buf whole = {0};
        file_put(dir.path, folders[i].name, folders[i].text, strlen(folders[i].text));
        int want = open_and_say(dir.path, &whole, &clean);
        for (int sticky = 0; sticky < 2; sticky++) {
            for (long n = 0;; n++) {
                err e = {0};
                buf said = {0};
                cr_assert_lt(n, 20000);
                oom_after(n, sticky);
                int rc = open_and_say(dir.path, &said, &e);
                bool reached = oom_stop();
                if (rc == 0)
                    cr_expect_str_eq(said.data, whole.data, "row %zu, allocation %ld", i, n);
                buf_deinit(&said);
                if (rc != 0 && reached)
                    cr_expect(e.code == ERR_NO_MEMORY || e.code == clean.code,
                              "row %zu, allocation %ld: %s: %s", i, n, err_name(e.code), e.msg);
                if (reached) continue;
                cr_expect_eq(rc, want, "row %zu: %s", i, e.msg);
                break;
            }
        }
        buf_deinit(&whole);
        tmp_dir_remove(&dir);
    }
}

Test(api_memory, opening_a_context_survives_every_failed_allocation) {
    for (int sticky = 0; sticky < 2; sticky++) {
        for (long n = 0;; n++) {
            err e = {0};
            api_context *ctx;
            api_opts opts = {.model_dir = "models/demo",
                             .served_name = "demo",
                             .model = fixture.model,
                             .tokenizer = fixture.tokenizer};
            oom_after(n, sticky);
            int rc = api_context_open(&ctx, &opts, &e);
            bool reached = oom_stop();
            if (rc == 0) api_context_close(ctx);
            else cr_assert_null(ctx);
            if (rc != 0)
                cr_assert_eq(e.code, ERR_NO_MEMORY, "allocation %ld: %s %s", n, err_name(e.code),
                             e.msg);
            if (!reached) break;
        }
    }
}

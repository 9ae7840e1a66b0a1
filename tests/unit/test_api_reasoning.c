/* test_api_reasoning.c - the reasoning of a model: which marks a chat template has, whether a
 * prompt opens or closes the reasoning, and the split of an answer in every cut of its text. */
#include "api/dialect_internal.h"
#include "base/clock.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/chat.h"
#include "tests/lib/oom.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>

TestSuite(api_reasoning, .fini = fail_on_leaks, .timeout = HANGS_S);

/* ---- the split of an answer ---- */

static const api__marks think = {"<think>", "</think>"}, tools_like = {"[T]", "[/T]"},
                        stutter = {"aab", "aac"};

static const struct {
    const api__marks *marks;
    bool first; /* the prompt opened the reasoning */
    const char *text, *thought, *content;
} splits[] = {
    /* The model opens the reasoning itself. */
    {&think, false, "<think>\nOne. Two.\n</think>\n\nFour.", "One. Two.", "Four."},
    {&think, false, "\n <think>a</think>b", "a", "b"},
    {&think, false, "<think> a\n\n b </think> b \n", "a\n\n b", "b \n"},
    {&think, false, "<think>a<b</thin</think>b", "a<b</thin", "b"},
    {&think, false, "<think>a</think>b</think>c<think>d</think>", "a",
     "b</think>c<think>d</think>"},
    {&tools_like, false, "[T][[/[/T]b", "[[/", "b"},
    {&stutter, false, "aabaaaacaaaac", "aa", "aaaac"},
    /* The prompt did. */
    {&think, true, "One.\n</think>\n\nFour.", "One.", "Four."},
    {&think, true, "\nOne.</think>Four.", "One.", "Four."},
    {&think, true, "<think>\nOne.</think>Four.", "One.", "Four."},
    {&think, true, "</think>Four.", "", "Four."},
    {&think, true, "<thinly put</think>Four.", "<thinly put", "Four."},
    /* Empty reasoning. */
    {&think, false, "<think></think>b", "", "b"},
    {&think, false, "<think>\n\n</think>\n\nb", "", "b"},
    {&think, false, "<think></think>", "", ""},
    /* Not closed: the answer was cut off. */
    {&think, false, "<think>One.", "One.", ""},
    {&think, true, "One.\n", "One.", ""},
    {&think, true, "One. </thi", "One. </thi", ""},
    {&think, true, "", "", ""},
    {&think, false, "<think>a</think>\n\n", "a", ""},
    /* No reasoning. */
    {&think, false, "", "", ""},
    {&think, false, "Four.", "", "Four."},
    {&think, false, " \n Four.", "", " \n Four."},
    {&think, false, "<thi", "", "<thi"},
    {&think, false, " <thinking>", "", " <thinking>"},
    {&think, false, "Say <think>a</think>.", "", "Say <think>a</think>."},
    {&think, false, "a</think>b", "", "a</think>b"},
    {NULL, false, "<think>a</think>b", "", "<think>a</think>b"},
};

/* Reads the first bytes of a text. Content that is known may not change or lose bytes. */
static size_t read_to(api__thinker *thinker, const api_request *req, api__answer *answer,
                      const char *text, size_t n, bool last) {
    char *part = malloc(n + 1); /* reads beyond its end are found */
    cr_assert_not_null(part);
    memcpy(part, text, n);
    part[n] = 0;
    size_t content = api__read_thought(thinker, req, answer, part, n, last);
    cr_expect(content == SIZE_MAX || content <= n);
    free(part);
    return content;
}

static void expect_split(size_t row, const size_t *cuts, size_t n_cuts) {
    api_request req = {
        .marks = splits[row].marks, .show_thought = true, .thinks_first = splits[row].first};
    api__thinker thinker = {0};
    api__answer answer = {0};
    const char *text = splits[row].text;
    size_t n = strlen(text), known = SIZE_MAX;
    for (size_t i = 0; i < n_cuts; i++) {
        size_t content = read_to(&thinker, &req, &answer, text, cuts[i], false);
        cr_expect(known == SIZE_MAX || content == known, "row %zu", row);
        known = content;
    }
    size_t content = read_to(&thinker, &req, &answer, text, n, true);
    cr_expect(known == SIZE_MAX || content == known, "row %zu", row);
    cr_assert_leq(content, n, "row %zu", row);
    cr_expect_str_eq(text + content, splits[row].content, "row %zu", row);
    cr_expect_str_eq(answer.thought.data ? answer.thought.data : "", splits[row].thought, "row %zu",
                     row);
    bool reasoned = thinker.content > 0 && thinker.content == n;
    cr_expect_eq(api__is_thinking(&thinker, &req), reasoned || (n == 0 && req.thinks_first),
                 "row %zu", row);
    api__answer_deinit(&answer);
}

Test(api_reasoning, every_cut_of_a_text_into_three_gives_the_same_reasoning_and_content) {
    for (size_t row = 0; row < ARRAY_LEN(splits); row++) {
        size_t n = strlen(splits[row].text);
        for (size_t i = 0; i <= n; i++) {
            for (size_t j = i; j <= n; j++)
                expect_split(row, (size_t[]){i, j}, 2);
        }
    }
}

Test(api_reasoning, a_text_that_comes_byte_by_byte_gives_the_same_reasoning_and_content) {
    size_t cuts[100];
    for (size_t row = 0; row < ARRAY_LEN(splits); row++) {
        size_t n = strlen(splits[row].text);
        cr_assert_lt(n, ARRAY_LEN(cuts));
        for (size_t i = 0; i < n; i++)
            cuts[i] = i;
        expect_split(row, cuts, n);
    }
}

Test(api_reasoning, reasoning_that_is_not_shown_is_left_out) {
    static const char text[] = "<think>One.</think>Two.";
    api_request req = {.marks = &think};
    api__thinker thinker = {0};
    api__answer answer = {0};
    cr_expect_eq(read_to(&thinker, &req, &answer, text, 10, false), SIZE_MAX);
    cr_expect(api__is_thinking(&thinker, &req));
    size_t content = read_to(&thinker, &req, &answer, text, sizeof text - 1, true);
    cr_expect_str_eq(text + content, "Two.");
    cr_expect_eq(answer.thought.len, 0);
    api__answer_deinit(&answer);
}

Test(api_reasoning,
     reasoning_is_given_out_as_it_comes_except_what_may_be_a_mark_or_trailing_blanks) {
    api_request req = {.marks = &think, .show_thought = true};
    api__thinker thinker = {0};
    api__answer answer = {0};
    static const struct {
        const char *text, *given;
    } steps[] = {
        {"<think>\nOne", "One"},
        {"<think>\nOne two \n", "One two"},
        {"<think>\nOne two \n<", "One two"},
        {"<think>\nOne two \n</thin", "One two"},
        {"<think>\nOne two \n</thing", "One two \n</thing"},
    };
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        size_t content =
            read_to(&thinker, &req, &answer, steps[i].text, strlen(steps[i].text), false);
        cr_expect_eq(content, SIZE_MAX);
        cr_expect(api__is_thinking(&thinker, &req));
        cr_expect_str_eq(answer.thought.data, steps[i].given, "step %zu", i);
    }
    api__answer_deinit(&answer);
}

/* A text of a megabyte of blanks, one more byte for each call. Reading the whole text each time
 * would take hours; 20 s of processor time end the test. */
Test(api_reasoning, a_long_text_is_read_in_linear_time) {
    enum { N = 1 << 20 };
    static char text[N];
    const uint64_t most_ns = 20 * UINT64_C(1000000000), began = clock_thread_ns();
    api_request req = {.marks = &think, .show_thought = true, .thinks_first = true};
    for (int kind = 0; kind < 3; kind++) { /* before any reasoning, within it, after it */
        api__thinker thinker = {0};
        api__answer answer = {0};
        memset(text, ' ', N);
        if (kind == 1) text[0] = 'a';
        if (kind == 2) memcpy(text, "</think>", 8);
        for (size_t i = 8; i < N; i++) {
            cr_assert_eq(api__read_thought(&thinker, &req, &answer, text, i, false), SIZE_MAX);
            if (i % 4096 == 0) cr_assert_lt(clock_thread_ns() - began, most_ns, "at %zu", i);
        }
        api__answer_deinit(&answer);
    }
}

Test(api_reasoning, a_control_token_that_is_a_mark_is_spelled_until_the_content_begins) {
    api_request req = {.marks = &tools_like, .show_thought = true, .open_id = 7, .close_id = 9};
    api__thinker thinker = {0};
    api__answer answer = {0};
    cr_expect_str_eq(api__spelled_mark(&thinker, &req, 7), "[T]");
    cr_expect_str_eq(api__spelled_mark(&thinker, &req, 9), "[/T]");
    cr_expect_null(api__spelled_mark(&thinker, &req, 8));
    cr_expect_eq(api__read_thought(&thinker, &req, &answer, "[T]a[/T]b", 9, false), 8);
    cr_expect_null(api__spelled_mark(&thinker, &req, 7));
    cr_expect_null(api__spelled_mark(&thinker, &req, 9));
    req.open_id = req.close_id = UINT32_MAX;
    thinker = (api__thinker){0};
    cr_expect_null(api__spelled_mark(&thinker, &req, UINT32_MAX));
    api__answer_deinit(&answer);
}

Test(api_reasoning, an_open_mark_counts_as_reasoning_only_once_it_is_known) {
    api_request req = {.marks = &think, .show_thought = true};
    api__thinker thinker = {0};
    api__answer answer = {0};
    cr_expect(!api__is_thinking(&thinker, &req));
    (void)api__read_thought(&thinker, &req, &answer, "<thi", 4, false);
    cr_expect(!api__is_thinking(&thinker, &req));
    (void)api__read_thought(&thinker, &req, &answer, "<think>", 7, false);
    cr_expect(api__is_thinking(&thinker, &req));
    req.thinks_first = true;
    thinker = (api__thinker){0};
    cr_expect(api__is_thinking(&thinker, &req));
    api__answer_deinit(&answer);
}

/* ---- templates ---- */

static const char *const specials[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>",
                                       "[THINK]",       "[/THINK]",     NULL};
static const char *const others[] = {"<think>", "</think>", NULL};

#define TURNS                                                                                      \
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
#define ASSISTANT "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
#define THEN(text) "{% if add_generation_prompt %}" text "{% endif %}"
/* Qwen3's form of an earlier answer. */
#define SHOWS(open, close)                                                                         \
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}{{ '" open       \
    "\\n' + m.reasoning_content + '\\n" close "\\n\\n' }}{% endif %}{{ m.content }}<|im_end|>\n"   \
    "{% endfor %}" ASSISTANT
#define QUIET "{% if enable_thinking is defined and not enable_thinking %}"
#define SAYS_SO "\"chat_template_kwargs\":{\"enable_thinking\":false},"
#define USER "\"messages\":[{\"role\":\"user\",\"content\":\"Why <think>?\"}]"
#define LAST(text)                                                                                 \
    "\"continue_final_message\":true,\"add_generation_prompt\":false,\"messages\":[{\"role\":"     \
    "\"user\",\"content\":\"Why <think>?\"},{\"role\":\"assistant\",\"content\":\"" text "\"}]"

static const struct {
    const char *template, *body;
    const char *open; /* of the marks; NULL: the answer is not split */
    bool first;
} prompts[] = {
    {TURNS ASSISTANT, USER, NULL, false},
    {SHOWS("<think>", "</think>"), USER, "<think>", false},
    {SHOWS("<seed:think>", "</seed:think>"), USER, "<seed:think>", false},
    {SHOWS("[THINK]", "[/THINK]"), USER, "[THINK]", false},
    /* The mark is made of parts, so only the printed text shows it. */
    {SHOWS("<' + 'reasoning>", "</' + 'reasoning>"), USER, "<reasoning>", false},
    /* The marks that the prompt ends in count before others that the template names. */
    {"{# #}{{ '' if true else '<think>' }}" TURNS ASSISTANT THEN("<thought>\n"), USER, "<thought>",
     true},
    {TURNS ASSISTANT THEN("<think>\n"), USER, "<think>", true},
    {TURNS ASSISTANT THEN("<think>\n\n</think>\n\n"), USER, NULL, false},
    {TURNS ASSISTANT THEN(QUIET "<think>\n\n</think>\n\n{% endif %}"), USER, "<think>", false},
    {TURNS ASSISTANT THEN(QUIET "<think>\n\n</think>\n\n{% endif %}"), SAYS_SO USER, NULL, false},
    {TURNS ASSISTANT THEN(QUIET "</think>{% else %}<think>{% endif %}"), USER, "<think>", true},
    {TURNS ASSISTANT THEN(QUIET "</think>{% else %}<think>{% endif %}"), SAYS_SO USER, NULL, false},
    {TURNS ASSISTANT THEN("\xe2\x97\x81think\xe2\x96\xb7"), USER, "\xe2\x97\x81think\xe2\x96\xb7",
     true},
    /* A template that only cuts the reasoning of earlier answers off. */
    {"{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}"
     "<|im_end|>\n{% endfor %}" ASSISTANT,
     USER, "<think>", false},
    /* The client continues the reasoning, or the content after it, or content without any. */
    {SHOWS("<think>", "</think>"), LAST("<think>One. "), "<think>", true},
    {SHOWS("<think>", "</think>"), LAST("<think>"), "<think>", true},
    {SHOWS("<think>", "</think>"), LAST("<think>One.</think>Fo"), NULL, false},
    {SHOWS("<think>", "</think>"), LAST("<think>One.</think>"), NULL, false},
    {SHOWS("<think>", "</think>"), LAST("Fo"), NULL, false},
    /* Text of a client does not open the reasoning. */
    {"{{ '' if true else '<think>' }}{% for m in messages %}{{ m.content }}{% endfor %}",
     "\"messages\":[{\"role\":\"user\",\"content\":\"Why <think>\"}]", "<think>", false},
};

typedef struct {
    api_fixture fixture;
    tokenizer *tok;
    tmp_dir dir;
    api_context *ctx;
} chat_model;

static chat_model open_model(const char *template) {
    chat_model model = {.tok = chat_tokenizer(specials, others), .dir = tmp_dir_create()};
    err e = {0};
    api_fixture_open(&model.fixture, NULL, false);
    json_t *config =
        json_pack("{s:s, s:s}", "eos_token", "<|endoftext|>", "chat_template", template);
    char *text = json_dumps(config, JSON_COMPACT);
    file_put(model.dir.path, "tokenizer_config.json", text, strlen(text));
    free(text);
    json_decref(config);
    api_opts opts = {.model_dir = model.dir.path,
                     .model = model.fixture.model,
                     .tokenizer = model.tok,
                     .served_name = "m"};
    cr_assert_eq(api_context_open(&model.ctx, &opts, &e), 0, "%s", e.msg);
    return model;
}

static void close_model(chat_model *model) {
    api_context_close(model->ctx);
    api_fixture_close(&model->fixture);
    tokenizer_close(model->tok);
    tmp_dir_remove(&model->dir);
}

static api_request *must_parse(const chat_model *model, const api_dialect *dialect,
                               const char *members) {
    api_request *req = NULL;
    err e = {0};
    buf body = {0};
    buf_printf(&body, "{%s,\"max_%s\":16}", members,
               dialect == &api_dialect_responses ? "output_tokens" : "tokens");
    cr_assert_eq(api_parse(&req, model->ctx, dialect, body.data, body.len, &e), 0, "%s: %s",
                 body.data, e.msg);
    buf_deinit(&body);
    return req;
}

Test(api_reasoning, a_template_tells_the_marks_and_a_prompt_tells_whether_it_opened_the_reasoning) {
    for (size_t i = 0; i < ARRAY_LEN(prompts); i++) {
        chat_model model = open_model(prompts[i].template);
        api_request *req = must_parse(&model, &api_dialect_chat, prompts[i].body);
        const char *open = req->marks ? req->marks->open : NULL;
        if (prompts[i].open == NULL) cr_expect_null(open, "row %zu: %s", i, open);
        else cr_expect_str_eq(open ? open : "none", prompts[i].open, "row %zu", i);
        cr_expect_eq(req->thinks_first, prompts[i].first, "row %zu", i);
        cr_expect(req->show_thought);
        api_request_destroy(req);
        close_model(&model);
    }
}

Test(api_reasoning, only_marks_that_print_nothing_have_token_ids) {
    chat_model model = open_model(SHOWS("[THINK]", "[/THINK]"));
    api_request *req = must_parse(&model, &api_dialect_chat, USER);
    cr_expect_eq(req->open_id, 3);
    cr_expect_eq(req->close_id, 4);
    api_request_destroy(req);
    close_model(&model);
    model = open_model(SHOWS("<think>", "</think>"));
    req = must_parse(&model, &api_dialect_chat, USER);
    cr_expect_eq(req->open_id, UINT32_MAX);
    cr_expect_eq(req->close_id, UINT32_MAX);
    api_request_destroy(req);
    close_model(&model);
}

/* Marks that are control tokens, and single bytes. */
static const struct {
    const char *tokens; /* "<" and ">" stand for the marks */
    sched_finish why;
    const char *says[3];
} counted[] = {
    {"<One>Two", SCHED_STOP, {"\"content\":\"Two\"", "\"One\"", "\"reasoning_tokens\":5,"}},
    {"<O>\n\nT", SCHED_STOP, {"\"content\":\"T\"", "\"O\"", "\"reasoning_tokens\":5,"}},
    {"<One", SCHED_LENGTH, {"\"content\":null", "\"One\"", "\"reasoning_tokens\":4,"}},
    {"<One>", SCHED_LENGTH, {"\"content\":null", "\"One\"", "\"reasoning_tokens\":5,"}},
    {"One>Two", SCHED_STOP, {"\"content\":\"OneTwo\"", "\"reasoning_tokens\":0,", ""}},
};

Test(api_reasoning, an_answer_with_control_tokens_as_marks_is_split_and_its_tokens_are_counted) {
    chat_model model = open_model(SHOWS("[THINK]", "[/THINK]"));
    for (size_t i = 0; i < ARRAY_LEN(counted); i++) {
        uint32_t ids[32], bytes = tokenizer_size(model.tok) - 256;
        size_t n = strlen(counted[i].tokens);
        for (size_t k = 0; k < n; k++) {
            char byte[2] = {counted[i].tokens[k], 0};
            const char *name = byte[0] == '<' ? "[THINK]" : byte[0] == '>' ? "[/THINK]" : byte;
            if (byte[0] == '\n') ids[k] = bytes + '\n';
            else cr_assert(tokenizer_find(model.tok, name, &ids[k]));
        }
        buf body = {0}, out = {0};
        err e = {0};
        api_request *req = NULL;
        api_reply *reply = NULL;
        buf_printf(&body, "{" USER ",\"max_tokens\":%zu}",
                   n + (counted[i].why == SCHED_STOP ? 1 : 0));
        cr_assert_eq(api_parse(&req, model.ctx, &api_dialect_chat, body.data, body.len, &e), 0);
        cr_assert_eq(api_reply_create(&reply, model.ctx, req, NULL, &e), 0);
        api_feed(reply, 0, ids, n, counted[i].why, &out);
        for (int k = 0; k < 3; k++)
            cr_expect(strstr(out.data, counted[i].says[k]), "row %zu: %s", i, out.data);
        api_reply_destroy(reply);
        buf_deinit(&body);
        buf_deinit(&out);
    }
    close_model(&model);
}

Test(api_reasoning, every_dialect_of_conversations_reads_the_marks_and_completions_do_not) {
    chat_model model = open_model(TURNS ASSISTANT THEN("<think>\n"));
    api_request *req =
        must_parse(&model, &api_dialect_responses, "\"input\":\"Hi\",\"include_reasoning\":false");
    cr_expect_str_eq(req->marks ? req->marks->open : "none", "<think>");
    cr_expect(req->thinks_first);
    cr_expect(!req->show_thought);
    api_request_destroy(req);
    req = must_parse(&model, &api_dialect_completion, "\"prompt\":\"<think>\"");
    cr_expect_null(req->marks);
    cr_expect_eq(req->open_id, UINT32_MAX);
    api_request_destroy(req);
    close_model(&model);
}

/* Parses a request with a schema, and makes its reply and the constraints. */
static int make_reply(const chat_model *model, err *e) {
    static const char body[] = "{" USER ",\"n\":2,\"max_tokens\":9,\"response_format\":{\"type\":"
                               "\"json_object\"}}";
    api_request *req;
    api_reply *reply;
    sched_request seq;
    if (api_parse(&req, model->ctx, &api_dialect_chat, body, sizeof body - 1, e) != 0) return -1;
    if (api_reply_create(&reply, model->ctx, req, NULL, e) != 0) return -1;
    api_reply_request(reply, 1, &seq);
    cr_expect_eq(seq.constraint, &api__after_thought_calls);
    api_reply_destroy(reply);
    return 0;
}

Test(api_reasoning, a_constrained_answer_with_reasoning_that_runs_out_of_memory_is_503) {
    chat_model model = open_model(TURNS ASSISTANT THEN("<think>\n"));
    long n = 0;
    for (bool reached = true; reached; n++) {
        err e = {0};
        cr_assert_lt(n, 5000);
        oom_after(n, false);
        int rc = make_reply(&model, &e);
        reached = oom_stop();
        cr_expect(reached || rc == 0);
        if (rc != 0) cr_expect_eq(api_status(&e), 503, "allocation %ld: %s", n, e.msg);
    }
    cr_expect_gt(n, 20);
    close_model(&model);
}

Test(api_reasoning, the_reasoning_of_earlier_answers_reaches_the_template_under_either_name) {
    static const char *const names[] = {"reasoning_content", "reasoning"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        chat_rig rig;
        buf body = {0};
        buf_printf(
            &body,
            "[{\"role\":\"user\",\"content\":\"Hi\"},{\"role\":\"assistant\",\"%s\":\"One.\","
            "\"content\":\"Two.\"},{\"role\":\"user\",\"content\":\"So?\"}]",
            names[i]);
        chat_open(&rig, specials, others, "", SHOWS("<think>", "</think>"));
        cr_expect_str_eq(
            chat_rendered(&rig, body.data),
            "~<|im_start|>user\nHi~<|im_end|>\n~<|im_start|>assistant\n~<think>\nOne.\n"
            "~</think>\n\nTwo.~<|im_end|>\n~<|im_start|>user\nSo?~<|im_end|>\n"
            "~<|im_start|>assistant\n");
        chat_close(&rig);
        buf_deinit(&body);
    }
}

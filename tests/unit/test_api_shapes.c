/* test_api_shapes.c - the many shapes in which clients write the same request. */
#include "api/request_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

API_SUITE(api_shapes);

#define DEMO "{\"model\":\"demo\","
#define U "{\"role\":\"user\",\"content\":\"q\"}"
#define CHAT(rest) DEMO "\"messages\":[" U "]" rest "}"
#define TALK(messages) DEMO "\"messages\":[" messages "]}"
#define PROMPT(rest) DEMO "\"prompt\":\"x\"" rest "}"
#define INPUT(rest) DEMO "\"input\":\"q\"" rest "}"
#define CALL(content, arguments)                                                                   \
    "{\"role\":\"assistant\"," content "\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\","      \
    "\"function\":{\"name\":\"f\",\"arguments\":" arguments "}}]}"
#define GAVE(content) "{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":" content "}"
#define F "{\"type\":\"function\",\"function\":{\"name\":\"f\"}}"

static api_request *parsed(const api_dialect *dialect, const char *body) {
    api_request *req = NULL;
    err e = {0};
    cr_assert_eq(api_parse(&req, fixture.ctx, dialect, body, strlen(body), &e), 0, "%s: %s", body,
                 e.msg);
    return req;
}

static void told(const api_request *req, buf *out) {
    for (uint32_t i = 0; i < req->prompts[0].n_ids; i++) {
        size_t n;
        const char *bytes = tokenizer_bytes(fixture.tokenizer, req->prompts[0].ids[i], &n);
        buf_append(out, bytes, n);
    }
}

/* ---- conversations ---- */

static const struct {
    const api_dialect *dialect;
    const char *body, *want; /* a part of the prompt */
} talks[] = {
    /* Contents that may be empty, absent, or lists. */
    {&api_dialect_chat, TALK(U "," CALL("\"content\":[],", "\"{}\"") "," GAVE("\"4\"")),
     "<|assistant|>{\"name\":\"f\",\"arguments\":{}}<|end|><|user|>Result: 4<|end|>"},
    {&api_dialect_chat, TALK(U "," CALL("\"content\":null,", "\"{}\"") "," GAVE("[]")),
     "<|assistant|>{\"name\":\"f\",\"arguments\":{}}<|end|><|user|>Result: <|end|>"},
    {&api_dialect_chat,
     TALK(U "," CALL("", "\"{}\"") "," GAVE(
         "[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]")),
     "<|user|>Result: a\nb<|end|>"},
    {&api_dialect_chat, TALK(U ",{\"role\":\"assistant\",\"content\":null}," U),
     "<|user|>q<|end|><|assistant|><|end|><|user|>q<|end|>"},
    {&api_dialect_chat, TALK(U ",{\"role\":\"assistant\",\"content\":null,\"refusal\":\"no\"}," U),
     "<|assistant|>no<|end|>"},
    {&api_dialect_chat,
     TALK(U ",{\"role\":\"assistant\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"no\"}]}," U),
     "<|assistant|>no<|end|>"},
    {&api_dialect_chat, TALK(U ",{\"role\":\"assistant\",\"content\":\"a\",\"tool_calls\":[]}," U),
     "<|assistant|>a<|end|>"},
    /* Arguments of earlier calls. */
    {&api_dialect_chat, TALK(U "," CALL("", "\"\"")), "{\"name\":\"f\",\"arguments\":{}}<|end|>"},
    {&api_dialect_chat, TALK(U "," CALL("", "\" \\n\\t\"")),
     "{\"name\":\"f\",\"arguments\":{}}<|end|>"},
    {&api_dialect_chat, TALK(U "," CALL("", "null")), "{\"name\":\"f\",\"arguments\":{}}<|end|>"},
    {&api_dialect_chat, TALK(U "," CALL("", "{\"a\":[1]}")),
     "{\"name\":\"f\",\"arguments\":{\"a\":[1]}}<|end|>"},
    {&api_dialect_chat, TALK(U "," CALL("", "\"{\\\"a\\\"\"")),
     "{\"name\":\"f\",\"arguments\":\"{\\\"a\\\"\"}<|end|>"},
    {&api_dialect_chat, TALK(U "," CALL("", "\"[1, 2]\"")),
     "{\"name\":\"f\",\"arguments\":[1, 2]}<|end|>"},
    /* System messages. */
    {&api_dialect_chat, TALK("{\"role\":\"system\",\"content\":\"s\"}," U),
     "<|user|>s\n\nq<|end|>"},
    {&api_dialect_chat,
     TALK(U
          ",{\"role\":\"assistant\",\"content\":\"a\"},{\"role\":\"developer\",\"content\":\"s\"},"
          "{\"role\":\"system\",\"content\":\"t\"}," U),
     "<|user|>s\n\nt\n\nq<|end|><|assistant|>a<|end|><|user|>q<|end|><|assistant|>"},
    {&api_dialect_responses, INPUT(",\"instructions\":\"s\""),
     "<|user|>s\n\nq<|end|><|assistant|>"},
    {&api_dialect_responses,
     DEMO "\"instructions\":\"s\",\"input\":[{\"role\":\"developer\",\"content\":\"t\"}," U "]}",
     "<|user|>s\n\nt\n\nq<|end|><|assistant|>"},
    /* Lists without a function are as good as no list. */
    {&api_dialect_chat, CHAT(",\"tools\":[]"), "<|user|>q<|end|>"},
    {&api_dialect_chat, CHAT(",\"tools\":[],\"tool_choice\":\"auto\""), "<|user|>q<|end|>"},
    {&api_dialect_chat, CHAT(",\"tools\":[{\"type\":\"web_search\"}]"), "<|user|>q<|end|>"},
    {&api_dialect_responses,
     INPUT(",\"tools\":[{\"type\":\"web_search\"},{\"type\":\"custom\",\"name\":"
           "\"g\"},{\"type\":\"mcp\",\"server_label\":\"m\"}],\"tool_choice\":"
           "\"auto\""),
     "<|user|>q<|end|>"},
    {&api_dialect_chat,
     CHAT(",\"tools\":[{\"type\":\"custom\",\"custom\":{\"name\":\"g\"}}," F "]"),
     "described as JSON:\n{\"name\":\"f\"}\nTo call"},
};

Test(api_shapes, a_conversation_may_be_written_as_any_client_writes_it) {
    for (size_t i = 0; i < ARRAY_LEN(talks); i++) {
        api_request *req = parsed(talks[i].dialect, talks[i].body);
        buf text = {0};
        told(req, &text);
        cr_expect_not_null(strstr(text.data, talks[i].want), "row %zu: %s", i, text.data);
        buf_deinit(&text);
        api_request_destroy(req);
    }
}

/* ---- fields that are accepted ---- */

static const struct {
    const api_dialect *dialect;
    const char *body;
} accepted[] = {
    {&api_dialect_chat, CHAT(",\"modalities\":[\"text\"]")},
    {&api_dialect_chat, CHAT(",\"modalities\":null")},
    {&api_dialect_chat, CHAT(",\"function_call\":\"none\"")},
    {&api_dialect_chat, CHAT(",\"function_call\":null")},
    {&api_dialect_responses, INPUT(",\"max_tool_calls\":3")},
    {&api_dialect_completion, PROMPT(",\"logprobs\":20")},
    {&api_dialect_completion, DEMO "\"prompt\":[1.0,2.0]}"},
    {&api_dialect_chat, CHAT(",\"reasoning_effort\":null")},
    {&api_dialect_responses, INPUT(",\"reasoning\":{\"effort\":null}")},
    {&api_dialect_chat, CHAT(",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\","
                             "\"parameters\":true}}]")},
};

Test(api_shapes, what_says_nothing_new_is_accepted) {
    for (size_t i = 0; i < ARRAY_LEN(accepted); i++)
        api_request_destroy(parsed(accepted[i].dialect, accepted[i].body));
}

Test(api_shapes, a_number_without_a_fraction_is_an_integer) {
    api_request *req = parsed(&api_dialect_completion,
                              PROMPT(",\"seed\":42.0,\"max_tokens\":1.6e1,\"n\":2.0,\"top_k\":-1.0,"
                                     "\"min_tokens\":3.0,\"depth\":{\"max_loops\":2.0}"));
    cr_expect(req->seeded);
    cr_expect_eq(req->sampling.seed, 42);
    cr_expect_eq(req->prompts[0].max_tokens, 16);
    cr_expect_eq(req->n_per_prompt, 2);
    cr_expect_eq(req->min_tokens, 3);
    cr_expect_eq(req->depth.max_loops, 2);
    api_request_destroy(req);
}

Test(api_shapes, top_p_0_takes_the_most_likely_token) {
    api_request *req = parsed(&api_dialect_chat, CHAT(",\"top_p\":0,\"top_k\":50"));
    cr_expect_eq(req->sampling.top_k, 1);
    cr_expect_float_eq(req->sampling.top_p, 1, 1e-9f);
    api_request_destroy(req);
}

/* ---- limits ---- */

static const struct {
    const api_dialect *dialect;
    const char *body;
    uint32_t want; /* of a context of 1024 tokens, less the prompt */
} limits[] = {
    {&api_dialect_completion, PROMPT(",\"max_tokens\":-1"), 16},
    {&api_dialect_completion, PROMPT(",\"max_tokens\":100000"), 1023},
    {&api_dialect_completion, PROMPT(",\"max_tokens\":9007199254740991"), 1023},
    {&api_dialect_completion, PROMPT(",\"max_tokens\":1e15,\"min_tokens\":2000"), 1023},
    {&api_dialect_chat, CHAT(",\"max_tokens\":-1,\"max_completion_tokens\":7"), 7},
    {&api_dialect_responses, INPUT(",\"max_output_tokens\":9"), 9},
};

Test(api_shapes, a_limit_above_the_room_is_cut_and_minus_1_is_none) {
    for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
        api_request *req = parsed(limits[i].dialect, limits[i].body);
        cr_expect_eq(req->prompts[0].max_tokens, limits[i].want, "row %zu: %u", i,
                     req->prompts[0].max_tokens);
        api_request_destroy(req);
    }
}

Test(api_shapes, a_least_number_of_tokens_is_cut_like_the_limit) {
    api_reply *reply = api_must_reply(&fixture, &api_dialect_completion,
                                      PROMPT(",\"max_tokens\":1e15,\"min_tokens\":2000"));
    sched_request req;
    api_reply_request(reply, 0, &req);
    cr_expect_eq(req.min_tokens, 1023);
    cr_expect_eq(req.max_tokens, 1023);
    api_reply_destroy(reply);
}

Test(api_shapes, a_server_may_refuse_a_limit_above_the_room) {
    static const char *const bodies[][2] = {
        {PROMPT(",\"max_tokens\":100000"), "asks for 100000 more"},
        {PROMPT(",\"max_tokens\":1024"), "asks for 1024 more"},
        {PROMPT(""), NULL},
        {PROMPT(",\"max_tokens\":1023"), NULL},
    };
    api_fixture strict;
    api_opts opts = {.refuse_long = true, .served_name = "demo"};
    api_fixture_open(&strict, &opts, false);
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        api_request *req = NULL;
        err e = {0};
        const char *body = bodies[i][0], *says = bodies[i][1];
        int rc = api_parse(&req, strict.ctx, &api_dialect_completion, body, strlen(body), &e);
        cr_expect_eq(rc, says ? -1 : 0, "row %zu: %s", i, e.msg);
        if (says) cr_expect_not_null(strstr(e.msg, says), "row %zu: %s", i, e.msg);
        if (says) cr_expect_str_eq(e.param, "max_tokens");
        api_request_destroy(req);
    }
    api_fixture_close(&strict);
}

Test(api_shapes, a_prompt_that_is_too_long_is_not_said_to_ask_for_more) {
    buf body = {0};
    for (int n = 1024; n <= 1030; n += 6) {
        api_request *req = NULL;
        err e = {0};
        buf_clear(&body);
        buf_puts(&body, DEMO "\"prompt\":[1");
        for (int i = 1; i < n; i++)
            buf_puts(&body, ",1");
        buf_puts(&body, "]}");
        cr_expect_eq(api_parse(&req, fixture.ctx, &api_dialect_completion, body.data, body.len, &e),
                     -1);
        cr_expect_eq(e.code, ERR_TOO_LONG);
        cr_expect_null(strstr(e.msg, "more"), "%s", e.msg);
        cr_expect_eq(strstr(e.msg, "no room for an answer") != NULL, n == 1024, "%s", e.msg);
    }
    buf_deinit(&body);
}

Test(api_shapes, an_answer_may_have_16_stop_strings_of_256_bytes_and_empty_ones_have_no_effect) {
    buf body = {0};
    buf_puts(&body, DEMO "\"prompt\":\"x\",\"stop\":[\"\"");
    for (int i = 0; i < 15; i++) {
        buf_puts(&body, ",\"");
        for (int k = 0; k < 255; k++)
            buf_puts(&body, "a");
        buf_printf(&body, "%c\"", 'b' + i);
    }
    buf_puts(&body, "]}");
    api_request *req = parsed(&api_dialect_completion, body.data);
    cr_expect_eq(req->n_stops, 15);
    api__matcher matcher = {.stops = req->stops, .n_stops = req->n_stops};
    char text[600];
    int hit;
    memset(text, 'a', sizeof text);
    cr_expect_eq(api__stop_feed(&matcher, text, sizeof text, &hit), sizeof text);
    cr_expect_eq(hit, -1);
    cr_expect_eq(api__stop_held(&matcher), 255);
    cr_expect_eq(api__stop_feed(&matcher, "paz", 3, &hit), 1);
    cr_expect_eq(hit, 14);
    cr_expect_leq(sizeof(api__matcher), 32, "one of these stands in every choice");
    api_request_destroy(req);
    buf_deinit(&body);
}

/* ---- effort ---- */

Test(api_shapes, every_word_of_the_clients_type_for_effort_is_a_number_of_loops) {
    static const struct {
        const char *word;
        uint32_t quarters;
    } words[] = {{"none", 0}, {"minimal", 1}, {"low", 2}, {"medium", 3},
                 {"high", 4}, {"xhigh", 4},   {"max", 4}};
    uint32_t trained = fixture.ctx->plan->loops_default,
             least = plan_loops_least(fixture.ctx->plan);
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        char body[200];
        uint32_t want = (trained * words[i].quarters + 3) / 4;
        (void)snprintf(body, sizeof body, CHAT(",\"reasoning_effort\":\"%s\""), words[i].word);
        api_request *req = parsed(&api_dialect_chat, body);
        cr_expect_eq(req->depth.max_loops, want > least ? want : least, "%s", words[i].word);
        api_request_destroy(req);
    }
}

/* ---- unknown fields ---- */

#define UNKNOWN(name) "the field '" name "' is unknown and has no effect"
#define MEANT(name, meant) UNKNOWN(name) "; did you mean '" meant "'?"

static const struct {
    const api_dialect *dialect;
    const char *body, *want; /* the sentence; NULL: none */
} unknown[] = {
    {&api_dialect_chat, CHAT(",\"max_token\":5"), MEANT("max_token", "max_tokens")},
    {&api_dialect_chat, CHAT(",\"maxTokens\":5"), MEANT("maxTokens", "max_tokens")},
    {&api_dialect_chat, CHAT(",\"tempreature\":1"), MEANT("tempreature", "temperature")},
    {&api_dialect_chat, CHAT(",\"mirostat\":1"), UNKNOWN("mirostat")},
    {&api_dialect_chat, CHAT(",\"a\\u0001'\\u00e9b\":1"), UNKNOWN("a?\?\?\?b")},
    {&api_dialect_chat, CHAT(",\"depth\":{\"max_loop\":2}"), MEANT("depth.max_loop", "max_loops")},
    {&api_dialect_chat, CHAT(",\"response_format\":{\"type\":\"text\",\"shema\":{}}"),
     MEANT("response_format.shema", "schema")},
    {&api_dialect_chat, CHAT(",\"stream\":true,\"stream_options\":{\"usage\":true}"),
     UNKNOWN("stream_options.usage")},
    {&api_dialect_responses, INPUT(",\"text\":{\"format\":{\"type\":\"text\",\"nam\":1}}"),
     MEANT("text.format.nam", "name")},
    {&api_dialect_chat, CHAT(",\"max_output_tokens\":5"), UNKNOWN("max_output_tokens")},
    {&api_dialect_chat, CHAT(",\"store\":false,\"metadata\":{},\"service_tier\":\"auto\""), NULL},
    {&api_dialect_chat, CHAT(",\"whatever\":null"), NULL},
    {&api_dialect_responses, INPUT(",\"text\":{\"verbosity\":\"low\"}"), NULL},
};

Test(api_shapes, a_field_without_effect_is_told_with_the_name_that_may_be_meant) {
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++) {
        api_request *req = parsed(unknown[i].dialect, unknown[i].body);
        cr_expect_eq(req->n_warnings, unknown[i].want ? 1 : 0, "row %zu", i);
        if (req->n_warnings == 1 && unknown[i].want)
            cr_expect_str_eq(req->warnings[0], unknown[i].want, "row %zu: %s", i, req->warnings[0]);
        api_request_destroy(req);
    }
}

Test(api_shapes, the_log_names_a_field_without_effect_once_and_no_request_has_more_than_16) {
    buf body = {0};
    char said[8000];
    buf_puts(&body, DEMO "\"prompt\":\"x\"");
    for (int i = 0; i < 40; i++)
        buf_printf(&body, ",\"odd_%02d\":1", i);
    buf_puts(&body, "}");
    int kept = stderr_catch();
    for (int k = 0; k < 3; k++) {
        api_request *req = parsed(&api_dialect_completion, body.data);
        cr_expect_eq(req->n_warnings, 16);
        api_request_destroy(req);
    }
    stderr_release(kept, said, sizeof said);
    size_t lines = 0;
    for (const char *at = said; (at = strchr(at, '\n')); at++)
        lines++;
    cr_expect_eq(lines, 16, "%s", said);
    buf_deinit(&body);
}

/* test_api_reply.c - events to JSON and to server-sent events. */
#include "api/dialect_internal.h"
#include "base/utf8.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

API_SUITE(api_reply);

/* Timestamps differ from run to run: every "created":N becomes "created":0. */
static char *stampless(buf *text) {
    static const char key[] = "\"created\":";
    buf out = {0};
    const char *at = text->data ? text->data : "";
    for (const char *hit; (hit = strstr(at, key)); at = hit + strspn(hit, "0123456789")) {
        buf_append(&out, at, (size_t)(hit - at) + sizeof key - 1);
        buf_puts(&out, "0");
        hit += sizeof key - 1;
    }
    buf_puts(&out, at);
    buf_deinit(text);
    *text = out;
    return out.data;
}

/* One answer to `text`, with all tokens fed. */
static unsigned answer(const api_dialect *dialect, const char *body, const char *text,
                       sched_finish why, buf *out) {
    uint32_t ids[256];
    size_t n = api_ids(&fixture, text, ids, 256);
    api_reply *reply = api_must_reply(&fixture, dialect, body);
    unsigned bits = api_feed(reply, 0, ids, n, why, out);
    api_reply_destroy(reply);
    return bits;
}

static json_t *parsed(const buf *text) {
    json_error_t why;
    json_t *root = json_loadb(text->data, text->len, JSON_REJECT_DUPLICATES, &why);
    cr_assert_not_null(root, "%s in %s", why.text, text->data);
    return root;
}

#define USAGE(p, c, t, pl, cl)                                                                     \
    "\"usage\":{\"prompt_tokens\":" p ",\"completion_tokens\":" c ",\"total_tokens\":" t           \
    ",\"prompt_tokens_details\":{\"cached_tokens\":0,\"loops\":" pl                                \
    "},\"completion_tokens_details\":{\"reasoning_tokens\":0,\"loops\":" cl "}}"

/* ---- golden shapes ---- */

Test(api_reply, a_completion_has_the_shape_of_the_openai_api) {
    buf out = {0};
    cr_assert_eq(answer(&api_dialect_completion,
                        "{\"model\":\"demo\",\"prompt\":\"In\",\"request_id\":\"r\"}", " the",
                        SCHED_STOP, &out),
                 API_DONE);
    cr_assert_str_eq(
        stampless(&out),
        "{\"id\":\"cmpl-r-0000000000000000\",\"object\":\"text_completion\",\"created\":0,"
        "\"model\":\"demo\","
        "\"system_fingerprint\":\"fp\",\"choices\":["
        "{\"index\":0,\"text\":\" "
        "the\",\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null}]," USAGE(
            "1", "1", "2", "8", "3") "}");
    buf_deinit(&out);
}

Test(api_reply, a_chat_answer_has_the_shape_of_the_openai_api) {
    buf out = {0};
    answer(&api_dialect_chat,
           "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"In\"}],\"request_"
           "id\":\"r\",\"max_tokens\":1}",
           " the", SCHED_LENGTH, &out);
    cr_assert_str_eq(
        stampless(&out),
        "{\"id\":\"chatcmpl-r-0000000000000000\",\"object\":\"chat.completion\",\"created\":0,"
        "\"model\":\"demo\","
        "\"system_fingerprint\":\"fp\",\"choices\":["
        "{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\" the\",\"refusal\":null},"
        "\"logprobs\":null,\"finish_reason\":\"length\",\"stop_reason\":null}]," USAGE(
            "4", "1", "5", "8", "3") "}");
    buf_deinit(&out);
}

#define CHUNK(inner)                                                                               \
    "data: "                                                                                       \
    "{\"id\":\"chatcmpl-r-0000000000000000\",\"object\":\"chat.completion.chunk\",\"created\":0,"  \
    "\"model\":"                                                                                   \
    "\"demo\","                                                                                    \
    "\"system_fingerprint\":\"fp\",\"choices\":[" inner "]"

Test(api_reply, a_chat_stream_opens_with_role_and_first_token_and_ends_with_usage_only_if_asked) {
    buf out = {0};
    answer(&api_dialect_chat,
           "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"In\"}],\"request_"
           "id\":\"r\",\"stream\":true,"
           "\"stream_options\":{\"include_usage\":true}}",
           "In the", SCHED_STOP, &out);
    cr_assert_str_eq(
        stampless(&out),
        CHUNK(
            "{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"In\"},\"logprobs\":"
            "null,\"finish_reason\":null}") "}\n\n" CHUNK("{\"index\":0,\"delta\":{\"content\":"
                                                          "\" "
                                                          "the\"},\"logprobs\":null,\"finish_"
                                                          "reason\":null}") "}\n\n" CHUNK("{\"ind"
                                                                                          "ex"
                                                                                          "\":0,"
                                                                                          "\"delt"
                                                                                          "a"
                                                                                          "\":{},"
                                                                                          "\"logp"
                                                                                          "ro"
                                                                                          "bs\":"
                                                                                          "null,"
                                                                                          "\"fini"
                                                                                          "sh"
                                                                                          "_reaso"
                                                                                          "n"
                                                                                          "\":"
                                                                                          "\"stop"
                                                                                          "\""
                                                                                          ",\"sto"
                                                                                          "p_"
                                                                                          "reason"
                                                                                          "\""
                                                                                          ":null"
                                                                                          "}") "}"
                                                                                               "\n"
                                                                                               "\n" CHUNK("") "," USAGE(
                                                                                                   "4",
                                                                                                   "2",
                                                                                                   "6",
                                                                                                   "8",
                                                                                                   "6") "}\n\ndata: [DONE]\n\n");
    buf_clear(&out);
    answer(&api_dialect_chat,
           "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"In\"}],\"request_"
           "id\":\"r\",\"stream\":true}",
           "In", SCHED_STOP, &out);
    cr_assert_null(strstr(out.data, "usage"));
    buf_deinit(&out);
}

Test(api_reply, the_last_token_of_a_length_limited_stream_carries_the_finish_reason) {
    buf out = {0};
    answer(&api_dialect_completion,
           "{\"model\":\"demo\",\"prompt\":\"In\",\"request_id\":\"r\",\"stream\":true,\"max_"
           "tokens\":1,\"return_depth\":true,"
           "\"return_token_ids\":true}",
           " the", SCHED_LENGTH, &out);
    uint32_t id;
    api_ids(&fixture, " the", &id, 1);
    char want[512];
    snprintf(
        want, sizeof want,
        "data: "
        "{\"id\":\"cmpl-r-0000000000000000\",\"object\":\"text_completion\",\"created\":0,"
        "\"model\":\"demo\","
        "\"system_fingerprint\":\"fp\",\"choices\":[{\"index\":0,"
        "\"text\":\" "
        "the\",\"logprobs\":null,\"token_ids\":[%u],\"depths\":[1],\"finish_reason\":\"length\","
        "\"stop_reason\":null}]}\n\ndata: [DONE]\n\n",
        id);
    cr_assert_str_eq(stampless(&out), want);
    buf_deinit(&out);
}

/* ---- streams and whole answers have the same content ---- */

/* Returns the number of chunks with text; gathers the text of choice 0 in a stream and its token
 * strings. */
static size_t gather(const buf *sse, buf *text, buf *tokens) {
    size_t bearing = 0;
    for (const char *at = sse->data; at && *at; at = strstr(at, "\n\n") + 2) {
        cr_assert_eq(strncmp(at, "data: ", 6), 0);
        if (strncmp(at + 6, "[DONE]", 6) == 0) break;
        json_error_t why;
        json_t *root =
            json_loadb(at + 6, (size_t)(strstr(at, "\n\n") - at) - 6, JSON_REJECT_DUPLICATES, &why);
        cr_assert_not_null(root, "%s", why.text);
        const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
        const json_t *delta = json_object_get(choice, "delta"),
                     *logprobs = json_object_get(choice, "logprobs");
        const json_t *piece =
            delta ? json_object_get(delta, "content") : json_object_get(choice, "text");
        if (piece) {
            bearing += json_string_length(piece) > 0;
            if (bearing > 1 && delta) cr_assert_gt(json_string_length(piece), 0, "an empty delta");
            buf_append(text, json_string_value(piece), json_string_length(piece));
        }
        const json_t *list = json_object_get(logprobs, delta ? "content" : "tokens");
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *value = json_array_get(list, i);
            if (json_is_object(value)) value = json_object_get(value, "token");
            buf_append(tokens, json_string_value(value), json_string_length(value));
        }
        json_decref(root);
    }
    return bearing;
}

static const char *const texts[] = {"In the beginning God created",
                                    "\xf0\x9f\x98\x80 caf\xc3\xa9 \xe2\x82\xac\xe2\x82\xac",
                                    "a \"quoted\"\n\tline\\ \xe2\x80\xa8 end", "x"};

Test(api_reply, deltas_and_token_strings_both_join_to_the_text_of_the_whole_answer) {
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        for (int kind = 0; kind < 2; kind++) {
            char body[300];
            buf out = {0}, text = {0}, tokens = {0};
            snprintf(body, sizeof body, "{\"model\":\"demo\",%s,\"stream\":true,\"max_tokens\":99}",
                     kind ? "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"logprobs\":"
                            "true,\"top_logprobs\":2"
                          : "\"prompt\":\"x\",\"logprobs\":2");
            answer(kind ? &api_dialect_chat : &api_dialect_completion, body, texts[i], SCHED_STOP,
                   &out);
            gather(&out, &text, &tokens);
            cr_expect_str_eq(text.data, texts[i]);
            cr_expect_str_eq(tokens.data, texts[i]);
            for (const char *s = out.data; (s = strchr(s, '\n')); s++)
                cr_assert_eq(*++s, '\n', "one line per event");
            buf_deinit(&out);
            buf_deinit(&text);
            buf_deinit(&tokens);
        }
    }
}

Test(api_reply, bytes_that_never_become_a_character_end_as_one_replacement) {
    uint32_t ids[8];
    size_t n = api_ids(&fixture, "\xf0\x9f", ids, 8);
    api_reply *reply = api_must_reply(&fixture, &api_dialect_completion,
                                      "{\"model\":\"demo\",\"prompt\":\"x\",\"logprobs\":1}");
    buf out = {0};
    api_feed(reply, 0, ids, n, SCHED_STOP, &out);
    cr_assert_not_null(strstr(out.data, "\"text\":\"\xef\xbf\xbd\""), "%s", out.data);
    json_decref(parsed(&out));
    api_reply_destroy(reply);
    buf_deinit(&out);
}

Test(api_reply, a_limit_inside_a_character_leaves_nothing_of_it) {
    static const char *const bodies[] = {"{\"model\":\"demo\",\"prompt\":\"x\",\"max_tokens\":3}",
                                         "{\"model\":\"demo\",\"prompt\":\"x\",\"max_tokens\":3,"
                                         "\"stream\":true,\"logprobs\":1}"};
    uint32_t ids[8];
    size_t n = api_ids(&fixture, "a\xf0\x9f\x98\x80", ids, 8);
    cr_assert_gt(n, 3, "the tokenizer splits the character");
    for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
        api_reply *reply = api_must_reply(&fixture, &api_dialect_completion, bodies[i]);
        buf out = {0};
        api_feed(reply, 0, ids, 3, SCHED_LENGTH, &out);
        cr_expect_null(strstr(out.data, "\"text\":\"\xef\xbf\xbd"), "%s", out.data);
        cr_expect_not_null(strstr(out.data, "\"text\":\"a\""), "%s", out.data);
        cr_expect_not_null(strstr(out.data, "\"finish_reason\":\"length\""), "%s", out.data);
        api_reply_destroy(reply);
        buf_deinit(&out);
    }
}

/* ---- stop strings ---- */

Test(api_reply, a_stop_string_over_token_bounds_never_leaks_and_cancels) {
    static const char *const stops[] = {"begin", "the beg", "nning God", "created", "d c", "h"};
    const char *text = texts[0];
    for (size_t i = 0; i < ARRAY_LEN(stops); i++) {
        for (int stream = 0; stream < 2; stream++) {
            char body[200], want[64];
            buf out = {0}, got = {0}, tokens = {0};
            snprintf(body, sizeof body,
                     "{\"model\":\"demo\",\"prompt\":\"x\",\"max_tokens\":99,\"logprobs\":0,"
                     "\"stop\":[\"%s\",\"zz\"]%s}",
                     stops[i], stream ? ",\"stream\":true" : "");
            snprintf(want, sizeof want, "%.*s", (int)(strstr(text, stops[i]) - text), text);
            unsigned bits = answer(&api_dialect_completion, body, text, SCHED_LENGTH, &out);
            cr_expect_eq(bits, API_CANCEL | API_DONE);
            if (stream) {
                gather(&out, &got, &tokens);
                cr_expect_str_eq(got.data ? got.data : "", want);
                cr_expect_str_eq(tokens.data ? tokens.data : "", want);
            } else {
                json_t *root = parsed(&out),
                       *choice = json_array_get(json_object_get(root, "choices"), 0);
                cr_expect_str_eq(json_string_value(json_object_get(choice, "text")), want);
                cr_expect_str_eq(json_string_value(json_object_get(choice, "stop_reason")),
                                 stops[i]);
                cr_expect_str_eq(json_string_value(json_object_get(choice, "finish_reason")),
                                 "stop");
                json_decref(root);
            }
            buf_deinit(&out);
            buf_deinit(&got);
            buf_deinit(&tokens);
        }
    }
}

Test(api_reply, what_looked_like_a_stop_string_comes_out_when_the_answer_ends) {
    buf out = {0};
    answer(&api_dialect_completion,
           "{\"model\":\"demo\",\"prompt\":\"x\",\"stop\":[\"created them\"]}", texts[0],
           SCHED_STOP, &out);
    cr_assert_not_null(strstr(out.data, "\"text\":\"In the beginning God created\""), "%s",
                       out.data);
    buf_clear(&out);
    answer(&api_dialect_completion,
           "{\"model\":\"demo\",\"prompt\":\"x\",\"stop\":[\"God\"],\"include_stop_str_in_output\":"
           "true}",
           texts[0], SCHED_STOP, &out);
    cr_assert_not_null(strstr(out.data, "\"text\":\"In the beginning God\""), "%s", out.data);
    buf_deinit(&out);
}

Test(api_reply, a_stop_token_of_the_request_is_named_and_the_models_own_is_not) {
    static const struct {
        uint32_t id;
        const char *want;
    } rows[] = {{77, "\"stop_reason\":77"}, {2047, "\"stop_reason\":null"}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        api_reply *reply =
            api_must_reply(&fixture, &api_dialect_completion,
                           "{\"model\":\"demo\",\"prompt\":\"x\",\"stop_token_ids\":[77]}");
        sched_request req;
        api_reply_request(reply, 0, &req);
        cr_assert_eq(req.n_stop_ids, 3);
        sched_event ev = ev_end(SCHED_STOP, 1, 0);
        ev.stop_id = rows[i].id;
        buf out = {0};
        err e = {0};
        cr_assert_eq(api_event(reply, 0, &ev, &out, &e), API_DONE);
        cr_expect_not_null(strstr(out.data, rows[i].want), "%s", out.data);
        cr_expect_not_null(strstr(out.data, "\"text\":\"\""));
        cr_expect_not_null(strstr(out.data, "\"completion_tokens\":0"));
        api_reply_destroy(reply);
        buf_deinit(&out);
    }
}

/* ---- choices, echo, logprobs ---- */

Test(api_reply, choices_are_numbered_over_prompts_and_n_and_have_seeds_of_their_own) {
    api_reply *reply = api_must_reply(
        &fixture, &api_dialect_completion,
        "{\"model\":\"demo\",\"prompt\":[[1,2],[3]],\"n\":2,\"seed\":5,\"max_tokens\":1}");
    cr_assert_eq(api_reply_sequences(reply), 4);
    sched_request req[4];
    for (uint32_t i = 0; i < 4; i++)
        api_reply_request(reply, i, &req[i]);
    cr_assert_eq(req[0].sampling.seed, 5);
    cr_assert_neq(req[1].sampling.seed, 5);
    cr_assert_eq(req[2].sampling.seed, 5,
                 "a prompt's answer does not depend on the prompts beside it");
    cr_assert_eq(req[3].sampling.seed, req[1].sampling.seed);
    cr_assert_eq(req[1].n_prompt, 2);
    cr_assert_eq(req[3].n_prompt, 1);
    buf out = {0};
    uint32_t ids[4];
    for (uint32_t i = 0; i < 4; i++) {
        char text[2] = {(char)('a' + i), 0};
        api_ids(&fixture, text, &ids[i], 1);
    }
    for (uint32_t i = 4; i-- > 0;) {
        cr_assert_eq(out.len, 0);
        api_feed(reply, i, &ids[i], 1, SCHED_LENGTH, &out);
    }
    json_t *root = parsed(&out), *choices = json_object_get(root, "choices");
    for (size_t i = 0; i < 4; i++) {
        char want[2] = {(char)('a' + i), 0};
        const json_t *ch = json_array_get(choices, i);
        cr_expect_eq(json_integer_value(json_object_get(ch, "index")), (json_int_t)i);
        cr_expect_str_eq(json_string_value(json_object_get(ch, "text")), want);
    }
    const json_t *usage = json_object_get(root, "usage");
    cr_expect_eq(json_integer_value(json_object_get(usage, "prompt_tokens")), 3,
                 "a prompt counts once, whatever n");
    cr_expect_eq(json_integer_value(json_object_get(usage, "completion_tokens")), 4);
    json_decref(root);
    api_reply_destroy(reply);
    buf_deinit(&out);
}

Test(api_reply, without_a_seed_every_sequence_has_another) {
    api_reply *reply = api_must_reply(&fixture, &api_dialect_completion,
                                      "{\"model\":\"demo\",\"prompt\":[[1],[1]],\"n\":2}");
    sched_request first, third;
    api_reply_request(reply, 0, &first);
    api_reply_request(reply, 2, &third);
    cr_assert_neq(first.sampling.seed, third.sampling.seed);
    api_reply_destroy(reply);
}

static sched_event ev_prompt(uint32_t id, uint32_t pos) {
    return (sched_event){.kind = SCHED_PROMPT,
                         .token = id,
                         .pos = pos,
                         .depth = 3,
                         .logprob = pos ? -1.25f : NAN,
                         .n_top = pos ? 1 : 0,
                         .top = {{7, -0.25f}}};
}

Test(api_reply, echo_with_no_tokens_scores_the_prompt) {
    api_reply *reply = api_must_reply(
        &fixture, &api_dialect_completion,
        "{\"model\":\"demo\",\"prompt\":\"caf\xc3\xa9 God\",\"echo\":true,\"max_tokens\":0,"
        "\"logprobs\":1,\"return_depth\":true}");
    sched_request req;
    api_reply_request(reply, 0, &req);
    cr_assert_eq(req.max_tokens, 0);
    cr_assert(req.prompt_logprobs);
    cr_assert_eq(req.n_top, 1);
    buf out = {0};
    err e = {0};
    for (uint32_t i = 0; i < req.n_prompt; i++) {
        sched_event ev = ev_prompt(req.prompt[i], i);
        api_event(reply, 0, &ev, &out, &e);
    }
    sched_event end = ev_end(SCHED_LENGTH, req.n_prompt, 0);
    cr_assert_eq(api_event(reply, 0, &end, &out, &e), API_DONE);
    json_t *root = parsed(&out), *ch = json_array_get(json_object_get(root, "choices"), 0);
    const json_t *lp = json_object_get(ch, "logprobs");
    cr_expect_str_eq(json_string_value(json_object_get(ch, "text")), "caf\xc3\xa9 God");
    cr_expect_eq(json_array_size(json_object_get(lp, "tokens")), req.n_prompt);
    cr_expect(json_is_null(json_array_get(json_object_get(lp, "token_logprobs"), 0)));
    cr_expect(json_is_null(json_array_get(json_object_get(lp, "top_logprobs"), 0)));
    cr_expect_eq(json_object_size(json_array_get(json_object_get(lp, "top_logprobs"), 1)), 2);
    const json_t *offsets = json_object_get(lp, "text_offset"),
                 *tokens = json_object_get(lp, "tokens");
    size_t chars = 0;
    for (size_t i = 0; i < req.n_prompt; i++) {
        const json_t *entry = json_array_get(tokens, i);
        cr_expect_eq((size_t)json_integer_value(json_array_get(offsets, i)), chars);
        chars += utf8_count(json_string_value(entry), json_string_length(entry));
    }
    cr_expect_eq(chars, 8);
    cr_expect_eq(json_array_size(json_object_get(ch, "depths")), req.n_prompt);
    cr_expect_str_eq(json_string_value(json_object_get(ch, "finish_reason")), "length");
    json_decref(root);
    api_reply_destroy(reply);
    buf_deinit(&out);
}

Test(api_reply, a_stream_with_echo_begins_with_prompt_and_first_token_together) {
    buf out = {0};
    answer(&api_dialect_completion,
           "{\"model\":\"demo\",\"prompt\":\"In\",\"echo\":true,\"stream\":true,\"stop\":\"In\"}",
           " the", SCHED_STOP, &out);
    cr_assert_not_null(strstr(out.data, "\"text\":\"In the\""), "%s", out.data);
    buf_deinit(&out);
}

Test(api_reply, prompt_logprobs_have_vllms_shape_and_leave_the_text_alone) {
    api_reply *reply = api_must_reply(
        &fixture, &api_dialect_completion,
        "{\"model\":\"demo\",\"prompt\":[1,7,9],\"prompt_logprobs\":1,\"max_tokens\":1}");
    buf out = {0};
    err e = {0};
    static const uint32_t ids[] = {1, 7, 9};
    for (uint32_t i = 0; i < 3; i++) {
        sched_event ev = ev_prompt(ids[i], i);
        api_event(reply, 0, &ev, &out, &e);
    }
    uint32_t id;
    api_ids(&fixture, "x", &id, 1);
    api_feed(reply, 0, &id, 1, SCHED_LENGTH, &out);
    json_t *root = parsed(&out), *ch = json_array_get(json_object_get(root, "choices"), 0);
    const json_t *list = json_object_get(ch, "prompt_logprobs");
    cr_assert_eq(json_array_size(list), 3);
    cr_assert(json_is_null(json_array_get(list, 0)));
    cr_assert_eq(json_object_size(json_array_get(list, 1)), 1,
                 "token 7 is the best one and itself");
    cr_assert_eq(json_object_size(json_array_get(list, 2)), 2);
    cr_assert_not_null(json_object_get(json_array_get(list, 2), "9"));
    cr_assert_str_eq(json_string_value(json_object_get(ch, "text")), "x");
    json_decref(root);
    api_reply_destroy(reply);
    buf_deinit(&out);
}

Test(api_reply, chat_logprobs_have_all_four_keys_and_the_depth_if_asked) {
    api_reply *reply = api_must_reply(&fixture, &api_dialect_chat,
                                      "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\","
                                      "\"content\":\"x\"}],\"logprobs\":true,"
                                      "\"top_logprobs\":2,\"return_depth\":true}");
    uint32_t id;
    api_ids(&fixture, "x", &id, 1);
    sched_event ev = ev_token(id, 5, -INFINITY);
    ev.n_top = 2;
    ev.top[0] = (eng_top){id, -0.125f};
    ev.top[1] = (eng_top){2047, -3};
    buf out = {0};
    err e = {0};
    api_event(reply, 0, &ev, &out, &e);
    ev = ev_end(SCHED_STOP, 1, 1);
    cr_assert_eq(api_event(reply, 0, &ev, &out, &e), API_DONE);
    cr_assert_not_null(
        strstr(out.data,
               "\"logprobs\":{\"content\":[{\"token\":\"x\",\"logprob\":-9999,\"bytes\":[120],"
               "\"top_logprobs\":[{\"token\":\"x\",\"logprob\":-0.125,\"bytes\":[120]},"
               "{\"token\":\"<|end|>\",\"logprob\":-3,\"bytes\":[60,124,101,110,100,124,62]}],"
               "\"depth\":5}],\"refusal\":null},\"depths\":[5]"),
        "%s", out.data);
    api_reply_destroy(reply);
    buf_deinit(&out);
}

Test(api_reply, special_tokens_give_no_text) {
    static const uint32_t ids[] = {2047, 2044};
    api_reply *reply = api_must_reply(&fixture, &api_dialect_completion,
                                      "{\"model\":\"demo\",\"prompt\":\"x\",\"ignore_eos\":true}");
    sched_request req;
    api_reply_request(reply, 0, &req);
    cr_assert_eq(req.n_stop_ids, 0);
    buf out = {0};
    api_feed(reply, 0, ids, 2, SCHED_LENGTH, &out);
    cr_assert_not_null(strstr(out.data, "\"text\":\"\""));
    cr_assert_not_null(strstr(out.data, "\"completion_tokens\":2"));
    api_reply_destroy(reply);
    buf_deinit(&out);
}

/* ---- failures ---- */

Test(api_reply, a_failure_before_the_first_byte_is_told_and_after_it_is_an_event_without_done) {
    sched_event end = ev_end(SCHED_FAILED, 1, 0);
    end.why = ERR_NUMERIC;
    for (int started = 0; started < 2; started++) {
        api_reply *reply =
            api_must_reply(&fixture, &api_dialect_completion,
                           "{\"model\":\"demo\",\"prompt\":\"x\",\"stream\":true,\"n\":2}");
        buf out = {0};
        err e = {0};
        uint32_t id;
        api_ids(&fixture, "x", &id, 1);
        sched_event ev = ev_token(id, 1, 0);
        if (started) api_event(reply, 0, &ev, &out, &e);
        buf_clear(&out);
        cr_assert_eq(api_event(reply, 1, &end, &out, &e), API_FAILED);
        cr_assert_eq(e.code, ERR_NUMERIC);
        cr_assert_eq(api_status(&e), 500);
        if (started) {
            cr_assert_eq(strncmp(out.data, "data: {\"error\":{", 16), 0);
            cr_assert_null(strstr(out.data, "[DONE]"));
        } else {
            cr_assert_eq(out.len, 0);
        }
        buf_clear(&out);
        cr_assert_eq(api_event(reply, 0, &ev, &out, &e), 0, "nothing follows a failure");
        cr_assert_eq(out.len, 0);
        api_reply_destroy(reply);
        buf_deinit(&out);
    }
}

Test(api_reply, late_events_of_a_stopped_sequence_are_ignored) {
    api_reply *reply =
        api_must_reply(&fixture, &api_dialect_completion,
                       "{\"model\":\"demo\",\"prompt\":\"x\",\"stream\":true,\"stop\":\"God\"}");
    uint32_t ids[4];
    buf out = {0};
    err e = {0};
    size_t n = api_ids(&fixture, " God", ids, 4);
    unsigned bits = 0;
    for (size_t i = 0; i < n; i++) {
        sched_event ev = ev_token(ids[i], 1, 0);
        bits |= api_event(reply, 0, &ev, &out, &e);
    }
    cr_assert_eq(bits, API_CANCEL);
    size_t len = out.len;
    for (size_t i = 0; i < 3; i++) {
        sched_event ev = ev_token(ids[0], 1, 0);
        cr_assert_eq(api_event(reply, 0, &ev, &out, &e), 0);
    }
    cr_assert_eq(out.len, len);
    sched_event end = ev_end(SCHED_CANCELLED, 1, 4);
    cr_assert_eq(api_event(reply, 0, &end, &out, &e), API_DONE);
    uint64_t prompt, output;
    api_reply_usage(reply, &prompt, &output);
    cr_assert_eq(output, n);
    api_reply_destroy(reply);
    buf_deinit(&out);
}

Test(api_reply, the_token_path_of_a_stream_allocates_nothing_once_it_runs) {
    api_reply *reply = api_must_reply(
        &fixture, &api_dialect_chat,
        "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"stream\":true,"
        "\"logprobs\":true,\"return_depth\":true,\"max_tokens\":900,\"stop\":\"zz\"}");
    uint32_t ids[4];
    buf out = {0};
    err e = {0};
    api_ids(&fixture, " God", ids, 4);
    sched_event ev = ev_token(ids[0], 1, 0);
    for (int i = 0; i < 20; i++)
        buf_clear(&out), api_event(reply, 0, &ev, &out, &e);
    size_t cap = out.cap, text = reply->choices[0].text.cap, tokens = reply->choices[0].cap_tokens;
    for (int i = 0; i < 800; i++)
        buf_clear(&out), api_event(reply, 0, &ev, &out, &e);
    cr_assert_eq(out.cap, cap);
    cr_assert_eq(reply->choices[0].text.cap, text);
    cr_assert_eq(reply->choices[0].cap_tokens, tokens);
    cr_assert_leq(cap, 1024);
    api_reply_destroy(reply);
    buf_deinit(&out);
}

/* ---- a model without a tokenizer ---- */

Test(api_reply, a_model_without_a_tokenizer_takes_ids_and_answers_with_ids) {
    api_fixture bare;
    api_fixture_open(&bare, NULL, true);
    api_request *req;
    err e = {0};
    static const char text[] = "{\"model\":\"demo\",\"prompt\":\"x\"}";
    cr_assert_eq(api_parse(&req, bare.ctx, &api_dialect_completion, text, sizeof text - 1, &e), -1);
    cr_assert_eq(e.code, ERR_UNSUPPORTED);
    api_reply *reply =
        api_must_reply(&bare, &api_dialect_completion,
                       "{\"model\":\"demo\",\"prompt\":[1,2047],\"stream\":true,\"max_tokens\":2}");
    static const uint32_t ids[] = {5, 6};
    buf out = {0};
    api_feed(reply, 0, ids, 2, SCHED_LENGTH, &out);
    cr_assert_not_null(strstr(out.data, "\"text\":\"\",\"logprobs\":null,\"token_ids\":[5],"), "%s",
                       out.data);
    cr_assert_not_null(strstr(out.data, "\"token_ids\":[6],"));
    api_reply_destroy(reply);
    buf_deinit(&out);
    api_fixture_close(&bare);
}

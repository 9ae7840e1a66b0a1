/* test_api_slices.c - answers written in slices: the same bytes for any size of slice, bounded time
 * for each slice, and bounded memory in a reply. */
#include "api/dialect_internal.h"
#include "base/hash.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

API_SUITE(api_slices);

/* Text in which tokens split characters, with every character JSON escapes. */
#define TEXT                                                                                       \
    "In the \xf0\x9f\x98\x80\xf0\x9f\xa4\x96 caf\xc3\xa9 \"q\"\\\n\t\x7f\x01 \xe2\x80\xa8\xc2\x85" \
    " God created \xe2\x82\xac and it came to pass"
#define TOOLS                                                                                      \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":"     \
    "\"object\"}}}]"
#define CALL " {\"name\": \"f\", \"arguments\": {\"a\": \"caf\xc3\xa9 \\\" }\", \"b\": [1, {}]}} x"
#define TELL "\"return_depth\":true,\"return_token_ids\":true"
#define USER "\"messages\":[{\"role\":\"user\",\"content\":\"caf\xc3\xa9 \xf0\x9f\x98\x80\"}]"

typedef struct {
    const api_dialect *dialect;
    const char *text, *body; /* without the fields common to all bodies */
    size_t len;              /* of the answer, as recorded from the writer of whole answers */
    uint64_t hash;
} row;

static const row rows[] = {
    {&api_dialect_completion, TEXT, "\"prompt\":\"In\",\"max_tokens\":99", 493,
     UINT64_C(0x2b6d1645be923d84)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":[\"In\",\"caf\xc3\xa9\"],\"n\":2,\"max_tokens\":99,\"stop\":\"came\"", 1005,
     UINT64_C(0x351f7ef343dbac77)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"a caf\xc3\xa9 "
     "\xf0\x9f\x98\x80\",\"n\":2,\"echo\":true,\"logprobs\":3,\"max_tokens\":99," TELL,
     9472, UINT64_C(0xba87e8c0ef17c35d)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"a caf\xc3\xa9 \xf0\x9f\x98\x80\",\"echo\":true,\"logprobs\":2,\"max_tokens\":0",
     976, UINT64_C(0xb09729a94156c7ef)},
    {&api_dialect_completion, TEXT, "\"prompt\":\"a b\",\"echo\":true,\"max_tokens\":9," TELL, 501,
     UINT64_C(0x0c4d2a57db8bafda)},
    {&api_dialect_completion, TEXT, "\"prompt\":\"a b\",\"echo\":true,\"max_tokens\":99", 496,
     UINT64_C(0x342ac0784c744193)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":[1,7,9],\"prompt_logprobs\":3,\"logprobs\":1,\"max_tokens\":99," TELL, 3525,
     UINT64_C(0x39ee6b88c5c03278)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":[1,7,9],\"prompt_logprobs\":0,\"logprobs\":5,\"max_tokens\":99", 5153,
     UINT64_C(0x0a3caa390e106615)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":[[1,7,9],[3]],\"prompt_logprobs\":2,\"max_tokens\":9", 830,
     UINT64_C(0x50ff1a0f1fddcee1)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":[[1,7,9],[3]],\"prompt_logprobs\":2,\"echo\":true,\"logprobs\":4,\"max_tokens\":9",
     2807, UINT64_C(0x4ad5dadf14df5fac)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"x\",\"logprobs\":0,\"max_tokens\":99,\"stop_token_ids\":[77]", 1451,
     UINT64_C(0xda3f0e08db7bdb68)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"x\",\"max_tokens\":99,\"stop\":\"God\",\"include_stop_str_in_output\":"
     "true," TELL,
     666, UINT64_C(0xdd492f5ec06f3f60)},
    {&api_dialect_chat, TEXT, USER ",\"max_tokens\":99", 548, UINT64_C(0xfa0b1beef3dc676e)},
    {&api_dialect_chat, TEXT,
     USER ",\"n\":3,\"logprobs\":true,\"top_logprobs\":5,\"max_tokens\":99," TELL, 50372,
     UINT64_C(0xea23f381aec6716a)},
    {&api_dialect_chat, TEXT,
     USER ",\"n\":2,\"logprobs\":true,\"prompt_logprobs\":4,\"max_tokens\":99", 12966,
     UINT64_C(0x77d75066960febaa)},
    {&api_dialect_chat, TEXT,
     USER ",\"prompt_logprobs\":1,\"max_tokens\":9,\"return_token_ids\":true", 1836,
     UINT64_C(0x52e884f93002a255)},
    {&api_dialect_chat, CALL, USER "," TOOLS ",\"max_tokens\":99,\"logprobs\":true," TELL, 5096,
     UINT64_C(0x00ee5cc242dbd449)},
    {&api_dialect_chat, CALL,
     USER
     "," TOOLS
     ",\"max_tokens\":99,\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}}",
     525, UINT64_C(0x40f3033690c373d0)},
    {&api_dialect_chat, TEXT,
     USER "," TOOLS ",\"n\":2,\"max_tokens\":99,\"top_logprobs\":2,\"logprobs\":true", 16411,
     UINT64_C(0xdac3395c3be8dcbc)},
    {&api_dialect_responses, TEXT, "\"input\":\"x\",\"max_output_tokens\":99", 924,
     UINT64_C(0xad49ae8a25e6d1da)},
    {&api_dialect_responses, TEXT,
     "\"input\":\"x\",\"user\":\"be "
     "caf\xc3\xa9\",\"metadata\":{\"a\":\"b\"},\"max_output_tokens\":99,\"top_logprobs\":3," TELL,
     12056, UINT64_C(0xcbdf559e1f79745a)},
    {&api_dialect_responses, TEXT, "\"input\":\"x\",\"max_output_tokens\":5," TELL, 912,
     UINT64_C(0x80ce7bd59d9a59b7)},
    {&api_dialect_responses, CALL,
     "\"input\":\"x\",\"max_output_tokens\":99,\"top_logprobs\":3,\"tools\":[{\"type\":"
     "\"function\",\"name\":\"f\"}]",
     14408, UINT64_C(0xae807280ce4c4ef2)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"In\",\"max_tokens\":99,\"stream\":true,\"stream_options\":{\"include_usage\":"
     "true,\"continuous_usage_stats\":true}",
     13197, UINT64_C(0x74de7a400b4904c6)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":[\"In\",\"caf\xc3\xa9\"],\"n\":2,\"max_tokens\":99,\"stop\":\"came\",\"stream\":"
     "true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}",
     47667, UINT64_C(0x3cb1a54a95ee369c)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"a caf\xc3\xa9 "
     "\xf0\x9f\x98\x80\",\"n\":2,\"echo\":true,\"logprobs\":3,\"max_tokens\":99," TELL
     ",\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}",
     41328, UINT64_C(0x66e0ecf334db3f8e)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"a caf\xc3\xa9 "
     "\xf0\x9f\x98\x80\",\"echo\":true,\"logprobs\":2,\"max_tokens\":0,\"stream\":true,\"stream_"
     "options\":{\"include_usage\":true,\"continuous_usage_stats\":true}",
     1316, UINT64_C(0x9cb92d7076cd2c2a)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"a b\",\"echo\":true,\"max_tokens\":9," TELL
     ",\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}",
     3227, UINT64_C(0x8d527dc22687bacf)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"a "
     "b\",\"echo\":true,\"max_tokens\":99,\"stream\":true,\"stream_options\":{\"include_usage\":"
     "true,\"continuous_usage_stats\":true}",
     13200, UINT64_C(0xdd1bb2640eda42aa)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"x\",\"logprobs\":0,\"max_tokens\":99,\"stop_token_ids\":[77],\"stream\":true,"
     "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}",
     16139, UINT64_C(0xd61cfa2d7829b6b4)},
    {&api_dialect_completion, TEXT,
     "\"prompt\":\"x\",\"max_tokens\":99,\"stop\":\"God\",\"include_stop_str_in_output\":true," TELL
     ",\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}",
     9793, UINT64_C(0x9cd8a5086df5bc19)},
    {&api_dialect_chat, TEXT,
     USER ",\"max_tokens\":99,\"stream\":true,\"stream_options\":{\"include_usage\":true,"
          "\"continuous_usage_stats\":true}",
     14039, UINT64_C(0xf565ba701dca9421)},
    {&api_dialect_chat, TEXT,
     USER
     ",\"n\":3,\"logprobs\":true,\"top_logprobs\":5,\"max_tokens\":99," TELL
     ",\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}",
     95916, UINT64_C(0x35c3034deb1e008b)},
    {&api_dialect_chat, CALL,
     USER
     "," TOOLS ",\"max_tokens\":99,\"logprobs\":true," TELL
     ",\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}",
     23879, UINT64_C(0xfc5c48683ef40081)},
    {&api_dialect_chat, CALL,
     USER
     "," TOOLS
     ",\"max_tokens\":99,\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"f\"}},"
     "\"stream\":true,\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}",
     17296, UINT64_C(0x04a71217773b7229)},
    {&api_dialect_chat, TEXT,
     USER "," TOOLS
          ",\"n\":2,\"max_tokens\":99,\"top_logprobs\":2,\"logprobs\":true,\"stream\":true,"
          "\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}",
     40103, UINT64_C(0x21a0162439b577e7)},
    {&api_dialect_responses, TEXT, "\"input\":\"x\",\"max_output_tokens\":99,\"stream\":true",
     10258, UINT64_C(0x3382389fc2b0f4eb)},
    {&api_dialect_responses, TEXT,
     "\"input\":\"x\",\"user\":\"be "
     "caf\xc3\xa9\",\"metadata\":{\"a\":\"b\"},\"max_output_tokens\":99,\"top_logprobs\":3," TELL
     ",\"stream\":true",
     66383, UINT64_C(0xaa3114c425459432)},
    {&api_dialect_responses, TEXT,
     "\"input\":\"x\",\"max_output_tokens\":5," TELL ",\"stream\":true", 4408,
     UINT64_C(0xc87213292e1af4a4)},
    {&api_dialect_responses, CALL,
     "\"input\":\"x\",\"max_output_tokens\":99,\"top_logprobs\":3,\"tools\":[{\"type\":"
     "\"function\",\"name\":\"f\"}],\"stream\":true",
     79138, UINT64_C(0xa6cb71b6e119a039)},
};

/* Alternatives of all kinds: words, halves of characters, control tokens, ids beyond. */
static void fill(sched_event *ev, uint32_t n_top, uint64_t *state) {
    static const float odd[] = {-1e-7f, -9999.5f, -0.0f, -12.5f, -0.333333f, -1e4f, -99999.5f};
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    ev->logprob =
        *state % 3 == 0 ? odd[*state / 64 % ARRAY_LEN(odd)] : -(float)(*state >> 44) / 60000.0f;
    ev->depth = (uint16_t)(1 + *state % 9);
    ev->n_top = n_top;
    for (uint32_t k = 0; k < n_top; k++) {
        uint32_t id = (uint32_t)((*state >> (k % 30)) % 2100);
        ev->top[k] = (eng_top){k == 1 && *state % 2 ? ev->token : id, ev->logprob - (float)k};
    }
}

static unsigned feed_sequence(api_reply *reply, uint32_t i, const row *spec, size_t want,
                              buf *out) {
    sched_request req;
    uint32_t ids[256];
    uint64_t state = 7 + i;
    unsigned bits = 0;
    err e = {0};
    api_reply_request(reply, i, &req);
    for (uint32_t k = 0; req.prompt_logprobs && k < req.n_prompt; k++) {
        sched_event ev = {.kind = SCHED_PROMPT, .token = req.prompt[k], .pos = k};
        fill(&ev, k ? req.n_top : 0, &state);
        if (k == 0) ev.logprob = NAN;
        bits |= api_feed_event(reply, i, &ev, want, out, &e);
    }
    size_t n = api_ids(&fixture, spec->text, ids, ARRAY_LEN(ids)), fed = 0;
    while (fed < n && fed < req.max_tokens && !(bits & API_CANCEL)) {
        sched_event ev = {.kind = SCHED_TOKEN, .token = fed == 3 ? 2045 : ids[fed]};
        fill(&ev, req.n_top, &state);
        fed++;
        bits |= api_feed_event(reply, i, &ev, want, out, &e);
    }
    sched_event end = ev_end(bits & API_CANCEL ? SCHED_CANCELLED
                             : i % 2           ? SCHED_LENGTH
                                               : SCHED_STOP,
                             req.n_prompt, (uint32_t)fed);
    end.stop_id = 77;
    end.n_cached = 1;
    return bits | api_feed_event(reply, i, &end, want, out, &e);
}

/* Writes one answer in slices of `want` bytes. */
static void answer(const row *spec, size_t want, buf *out) {
    char body[2000];
    snprintf(body, sizeof body, "{\"model\":\"demo\",\"request_id\":\"r\",\"seed\":1,%s}",
             spec->body);
    api_reply *reply = api_must_reply(&fixture, spec->dialect, body);
    unsigned bits = 0;
    for (uint32_t i = api_reply_sequences(reply); i-- > 0;)
        bits |= feed_sequence(reply, i, spec, want, out);
    cr_assert_eq(bits & (API_DONE | API_FAILED), API_DONE, "%s", body);
    api_reply_destroy(reply);
    api_stampless(out);
}

Test(api_slices, answers_are_the_bytes_that_the_writer_of_whole_answers_recorded) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        buf out = {0};
        answer(&rows[i], SIZE_MAX, &out);
        uint64_t hash = hash_fnv(HASH_FNV_START, out.data, out.len);
        cr_expect_eq(out.len, rows[i].len, "row %zu: %zu bytes: %s", i, out.len, out.data);
        cr_expect_eq(hash, rows[i].hash, "row %zu", i);
        if (getenv("RECORD"))
            printf("RECORD %zu %zu 0x%016llx\n", i, out.len, (unsigned long long)hash);
        buf_deinit(&out);
    }
}

/* ---- slices ---- */

static const size_t wants[] = {1, 7, 100, 4096, 1 << 20};

/* Bytes of the longest piece in the rows above: an entry with five alternatives. */
enum { LONGEST_PIECE = 900 };

Test(api_slices, slices_of_every_size_join_to_the_same_answer_and_keep_to_their_size) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        for (size_t k = 0; k < ARRAY_LEN(wants); k++) {
            buf out = {0};
            answer(&rows[i], wants[k], &out);
            cr_expect_eq(hash_fnv(HASH_FNV_START, out.data, out.len), rows[i].hash,
                         "row %zu by %zu: %s", i, wants[k], out.data);
            buf_deinit(&out);
        }
    }
}

Test(api_slices, a_whole_answer_appends_nothing_until_it_is_asked_for) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char body[2000];
        buf out = {0};
        unsigned bits = 0;
        snprintf(body, sizeof body, "{\"model\":\"demo\",\"request_id\":\"r\",%s}", rows[i].body);
        if (strstr(body, "\"stream\":true")) continue;
        api_reply *reply = api_must_reply(&fixture, rows[i].dialect, body);
        for (uint32_t seq = 0; seq < api_reply_sequences(reply); seq++) {
            err e = {0};
            sched_event end = ev_end(SCHED_STOP, 1, 0);
            cr_expect_not(api_reply_more(reply, &out, 100), "no output is due yet");
            bits |= api_reply_event(reply, seq, &end, &out, &e);
        }
        cr_expect_eq(bits, API_DONE | API_MORE);
        cr_expect_eq(out.len, 0);
        for (bool more = true; more;) {
            size_t before = out.len;
            more = api_reply_more(reply, &out, 50);
            cr_expect_gt(out.len, before);
            cr_expect_leq(out.len - before, 50 + LONGEST_PIECE);
        }
        json_t *root = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES, NULL);
        cr_expect_not_null(root, "%s", out.data);
        json_decref(root);
        cr_expect_not(api_reply_more(reply, &out, 50));
        api_reply_destroy(reply);
        buf_deinit(&out);
    }
}

Test(api_slices, a_long_string_is_cut_between_characters_wherever_the_slices_end) {
    static const char unit[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\x80\xe2\x82\"\n\xff";
    buf text = {0}, want = {0};
    while (text.len < 5000)
        buf_append(&text, unit, sizeof unit - 1);
    for (size_t skip = 0; skip < sizeof unit; skip++) {
        buf got = {0};
        api__cursor k = {0};
        buf_clear(&want);
        buf_json_string(&want, text.data + skip, text.len - skip);
        while (!api__write_string(&got, &k, text.data + skip, text.len - skip, got.len + 1)) {
        }
        cr_expect_str_eq(got.data, want.data);
        buf_deinit(&got);
    }
    memset(text.data, 0x80, text.len);
    api__cursor k = {0};
    buf got = {0};
    buf_clear(&want);
    buf_json_string(&want, text.data, text.len);
    while (!api__write_string(&got, &k, text.data, text.len, got.len + 1)) {
    }
    cr_expect_str_eq(got.data, want.data);
    buf_deinit(&got);
    buf_deinit(&text);
    buf_deinit(&want);
}

Test(api_slices, log_probabilities_are_written_as_printf_would) {
    uint64_t state = 1;
    buf got = {0};
    for (uint32_t i = 0; i < 2000000; i++) {
        char want[40];
        union {
            uint32_t bits;
            float f;
        } v;
        state = state * 6364136223846793005u + 1442695040888963407u;
        v.bits = (uint32_t)(state >> 32);
        if (i % 2) v.f = -(float)(v.bits % 2000003) / (float)(1 + (state >> 20) % 4096);
        double x = isnan(v.f) || v.f < -9999.0f ? -9999.0 : v.f < 0 ? (double)v.f : 0.0;
        snprintf(want, sizeof want, "%.6g", x);
        buf_clear(&got);
        api__write_logprob(&got, v.f);
        if (strcmp(got.data, want) != 0) cr_assert_str_eq(got.data, want, "%.9g", (double)v.f);
    }
    buf_deinit(&got);
}

/* ---- streams ---- */

/* Joins the text of choice 0's deltas. */
static void gather(const buf *sse, const char *end, buf *text) {
    for (const char *at = sse->data; at && *at; at = strstr(at, "\n\n") + 2) {
        if (strncmp(at, "event: ", 7) == 0) at = strchr(at, '\n') + 1;
        cr_assert_eq(strncmp(at, "data: ", 6), 0, "%.200s", at);
        if (strncmp(at + 6, "[DONE]", 6) == 0) break;
        size_t n = (size_t)(strstr(at, "\n\n") - at) - 6;
        json_t *root = json_loadb(at + 6, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        cr_assert_not_null(root, "%.*s", (int)n, at + 6);
        const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
        const json_t *delta = json_object_get(choice, "delta");
        const json_t *piece = choice ? json_object_get(choice, "text") : NULL;
        if (delta) piece = json_object_get(delta, "content");
        if (choice == NULL) piece = json_object_get(root, "delta");
        if (piece && json_integer_value(json_object_get(choice, "index")) == 0)
            buf_append(text, json_string_value(piece), json_string_length(piece));
        json_decref(root);
    }
    cr_expect_not_null(strstr(sse->data, end));
}

/* A stream with a slow reader: it takes nothing until all events are fed, then a few bytes at a
 * time. */
static void slow_stream(const api_dialect *dialect, const char *body, const char *text,
                        const char *end) {
    uint32_t ids[256];
    buf out = {0}, joined = {0};
    err e = {0};
    unsigned bits = 0;
    size_t n = api_ids(&fixture, text, ids, ARRAY_LEN(ids));
    api_reply *reply = api_must_reply(&fixture, dialect, body);
    for (uint32_t seq = 0; seq < api_reply_sequences(reply); seq++) {
        sched_request req;
        api_reply_request(reply, seq, &req);
        for (uint32_t k = 0; req.prompt_logprobs && k < req.n_prompt; k++) {
            sched_event ev = {.kind = SCHED_PROMPT, .token = req.prompt[k], .pos = k, .n_top = 20};
            for (uint32_t rank = 0; rank < 20; rank++)
                ev.top[rank] = (eng_top){rank + 300, -1};
            bits |= api_reply_event(reply, seq, &ev, &out, &e);
        }
    }
    for (size_t k = 0; k < n; k++) {
        for (uint32_t seq = 0; seq < api_reply_sequences(reply); seq++) {
            sched_event ev = ev_token(ids[k], 1, -1);
            bits |= api_reply_event(reply, seq, &ev, &out, &e);
            if (k == 0 && seq == 0)
                cr_assert(bits & API_MORE, "the first event is longer than a slice");
        }
    }
    cr_expect_leq(out.len, (size_t)API__SLICE + 4096, "what waits is not in the buffer");
    for (uint32_t seq = 0; seq < api_reply_sequences(reply); seq++) {
        sched_event ev = ev_end(SCHED_STOP, 1, 1);
        bits |= api_reply_event(reply, seq, &ev, &out, &e);
    }
    cr_assert_eq(bits, API_MORE | API_DONE);
    while (api_reply_more(reply, &out, 333)) {
    }
    gather(&out, end, &joined);
    cr_expect_not_null(strstr(joined.data, text), "%s", joined.data);
    api_reply_destroy(reply);
    buf_deinit(&out);
    buf_deinit(&joined);
}

/* A request with `n` bytes of text in the middle. */
static char *long_body(const char *before, size_t n, const char *after) {
    buf body = {0};
    buf_puts(&body, before);
    for (size_t i = 0; i < n; i++)
        buf_append(&body, i % 8 ? "x" : " ", 1);
    buf_puts(&body, after);
    return body.data;
}

Test(api_slices, a_stream_that_echoes_much_goes_on_in_slices_and_loses_nothing) {
    char *body =
        long_body("{\"model\":\"demo\",\"echo\":true,\"logprobs\":5,\"stream\":true,\"n\":3,"
                  "\"max_tokens\":20,\"prompt\":\"",
                  1000, "\"}");
    slow_stream(&api_dialect_completion, body, " In the beginning God created", "data: [DONE]\n\n");
    free(body);
    /* The first two events and the last repeat the request: thirty kilobytes each time. */
    body = long_body(
        "{\"model\":\"demo\",\"input\":\"x\",\"stream\":true,\"max_output_tokens\":200,\"top_"
        "logprobs\":3,\"tool_choice\":\"none\",\"tools\":[{\"type\":\"function\",\"name\":\"f\","
        "\"description\":\"",
        30000, "\"}]}");
    slow_stream(&api_dialect_responses, body, "In the beginning God created",
                "event: response.completed\n");
    free(body);
}

Test(api_slices, a_stream_that_fails_within_an_event_ends_there) {
    char *body = long_body("{\"model\":\"demo\",\"echo\":true,\"logprobs\":5,\"stream\":true,"
                           "\"prompt\":\"",
                           1000, "\"}");
    api_reply *reply = api_must_reply(&fixture, &api_dialect_completion, body);
    sched_request req;
    buf out = {0};
    err e = {0}, why = {.code = ERR_STOPPING};
    api_reply_request(reply, 0, &req);
    for (uint32_t k = 0; k < req.n_prompt; k++) {
        sched_event ev = {.kind = SCHED_PROMPT, .token = req.prompt[k], .pos = k, .n_top = 5};
        api_reply_event(reply, 0, &ev, &out, &e);
    }
    sched_event ev = ev_token(300, 1, -1);
    cr_assert_eq(api_reply_event(reply, 0, &ev, &out, &e), API_MORE);
    size_t len = out.len;
    cr_expect_eq(api_reply_fail(reply, &why, &out), API_FAILED);
    cr_expect_eq(out.len, len);
    cr_expect_not(api_reply_more(reply, &out, 100));
    cr_expect_eq(out.len, len);
    api_reply_destroy(reply);
    buf_deinit(&out);
    free(body);
}

/* ---- costs ---- */

static double cpu_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

/* An answer of n choices of 128 tokens with five alternatives each. */
static api_reply *scored(uint32_t n_prompts, uint32_t tokens) {
    buf body = {0}, out = {0};
    err e = {0};
    buf_printf(&body,
               "{\"model\":\"demo\",\"n\":8,\"logprobs\":5,%s,\"max_tokens\":128,"
               "\"prompt\":[",
               TELL);
    for (uint32_t i = 0; i < n_prompts; i++)
        buf_puts(&body, i ? ",\"In\"" : "\"In\"");
    buf_puts(&body, "]}");
    api_reply *reply = api_must_reply(&fixture, &api_dialect_completion, body.data);
    buf_deinit(&body);
    uint64_t state = 1;
    for (uint32_t i = 0; i < api_reply_sequences(reply); i++) {
        for (uint32_t k = 0; k < tokens; k++) {
            sched_event ev = {.kind = SCHED_TOKEN, .token = 300 + k};
            fill(&ev, 20, &state);
            api_reply_event(reply, i, &ev, &out, &e);
        }
        sched_event end = ev_end(SCHED_LENGTH, 1, tokens);
        api_reply_event(reply, i, &end, &out, &e);
    }
    cr_assert_eq(out.len, 0);
    return reply;
}

/* Takes the answer by 16 KB. Returns its bytes; adds up the CPU time in *all, and keeps the longest
 * call's in *worst. */
static size_t take(api_reply *reply, double *all, double *worst) {
    buf out = {0};
    size_t bytes = 0;
    bool more = true;
    while (more) {
        double from = cpu_us();
        more = api_reply_more(reply, &out, 16 << 10);
        double took = cpu_us() - from;
        cr_assert_leq(out.len, (16 << 10) + 4096);
        bytes += out.len;
        buf_clear(&out);
        *all += took;
        if (took > *worst) *worst = took;
    }
    buf_deinit(&out);
    return bytes;
}

/* A slice takes about 0.1 ms, and five megabytes in one piece 40 ms: the margins are for sanitizers
 * and busy machines. */
Test(api_slices, a_slice_of_sixteen_kilobytes_takes_a_small_part_of_a_millisecond) {
    double all[2] = {0}, worst = 0;
    size_t bytes[2];
    for (uint32_t big = 0; big < 2; big++) {
        api_reply *reply = scored(big ? 64 : 8, 128);
        bytes[big] = take(reply, &all[big], &worst);
        api_reply_destroy(reply);
    }
    cr_expect_gt(bytes[1], (size_t)4 << 20);
    double each = all[1] / ((double)bytes[1] / (16 << 10));
    cr_expect_lt(each, 2500, "%.0f us a slice", each);
    cr_expect_lt(all[1] / (double)bytes[1], 4 * all[0] / (double)bytes[0], "not linear");
}

Test(api_slices, of_single_tokens_a_reply_holds_what_will_be_told_and_gives_it_back_as_it_goes) {
    static const struct {
        const char *body;
        size_t per_token;
    } kept[] = {
        {"\"max_tokens\":900,\"prompt\":\"x\"", 0},
        {"\"max_tokens\":900,\"prompt\":\"x\"," TELL, sizeof(api__token)},
        {"\"max_tokens\":900,\"prompt\":\"x\",\"logprobs\":0", sizeof(api__token)},
        {"\"max_tokens\":900,\"prompt\":\"x\",\"logprobs\":5",
         sizeof(api__token) + 5 * sizeof(eng_top)},
        {"\"max_tokens\":900,\"prompt\":\"x\",\"prompt_logprobs\":20", 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        char body[300];
        buf out = {0};
        err e = {0};
        uint64_t state = 1;
        snprintf(body, sizeof body, "{\"model\":\"demo\",%s}", kept[i].body);
        api_reply *reply = api_must_reply(&fixture, &api_dialect_completion, body);
        size_t before = api_reply_bytes(reply), text = 0;
        for (uint32_t k = 0; k < 900; k++) {
            sched_event ev = {.kind = SCHED_TOKEN, .token = 300};
            fill(&ev, 20, &state);
            api_reply_event(reply, 0, &ev, &out, &e);
            text = reply->choices[0].text.cap;
        }
        size_t grown = api_reply_bytes(reply) - before;
        cr_expect_eq(grown, text + 900 * kept[i].per_token, "row %zu: %zu", i, grown);
        sched_event end = ev_end(SCHED_LENGTH, 1, 900);
        api_reply_event(reply, 0, &end, &out, &e);
        cr_expect_eq(api_reply_bytes(reply) - before,
                     reply->choices[0].text.len + 1 + 900 * kept[i].per_token);
        while (api_reply_more(reply, &out, 1 << 14)) {
        }
        cr_expect_eq(api_reply_bytes(reply), before);
        api_reply_destroy(reply);
        buf_deinit(&out);
    }
}

Test(api_slices, bytes_of_a_request_are_those_of_its_prompt_and_of_what_it_echoes) {
    char *small =
        long_body("{\"model\":\"demo\",\"input\":\"x\",\"tool_choice\":\"none\",\"tools\":[{"
                  "\"type\":\"function\",\"name\":\"f\",\"description\":\"",
                  10, "\"}]}");
    char *large =
        long_body("{\"model\":\"demo\",\"input\":\"x\",\"tool_choice\":\"none\",\"tools\":[{"
                  "\"type\":\"function\",\"name\":\"f\",\"description\":\"",
                  100000, "\"}]}");
    api_request *req = api_must_parse(&fixture, &api_dialect_responses, small),
                *big = api_must_parse(&fixture, &api_dialect_responses, large);
    cr_expect_geq(api_request_bytes(big) - api_request_bytes(req), 99900);
    cr_expect_leq(api_request_bytes(big), 120000);
    cr_expect_leq(api_request_bytes(req), 20000);
    api_request_destroy(req);
    api_request_destroy(big);
    free(small);
    free(large);
}

/* ---- /tokenize and /detokenize ---- */

static void expect_too_long(api_lister route, const char *body, uint64_t least) {
    buf out = {0};
    err e = {0};
    cr_expect_eq(api_list(route, fixture.ctx, body, strlen(body), 100, &out, &e), -1);
    cr_expect_eq(e.code, ERR_TOO_LONG, "%s", e.msg);
    cr_expect_eq(e.have, least);
    cr_expect_eq(e.limit, 1024);
    buf_clear(&out);
    api_error_body(&out, NULL, &e);
    cr_expect_not_null(strstr(out.data, "\"code\":\"context_length_exceeded\""));
    buf_deinit(&out);
}

Test(api_slices, a_text_that_could_be_no_prompt_is_refused_by_both_routes) {
    char *body = long_body("{\"prompt\":\"", 1000000, "\"}");
    /* The number of bytes alone refuses a million. A text near the limit is counted to the end of
     * the context. */
    double from = cpu_us();
    size_t n_longest = 1000000 / tokenizer_fewest(fixture.tokenizer, 1000000);
    expect_too_long(api_tokenize, body, tokenizer_fewest(fixture.tokenizer, 1000000));
    cr_expect_lt(cpu_us() - from, 1e6);
    free(body);
    cr_expect_gt(n_longest, 4);
    body = long_body("{\"prompt\":[\"a\",\"", 1025 * 2, "\"]}");
    expect_too_long(api_tokenize, body, 1025);
    free(body);
    buf ids = {0};
    buf_puts(&ids, "{\"tokens\":[300");
    for (int i = 0; i < 1024; i++)
        buf_puts(&ids, ",301");
    buf_puts(&ids, "]}");
    expect_too_long(api_detokenize, ids.data, 1025);
    buf_deinit(&ids);
}

Test(api_slices, listings_are_the_same_in_slices_of_every_size_and_hold_ids_only) {
    static const struct {
        api_lister route;
        const char *body;
    } listed[] = {
        {api_tokenize,
         "{\"prompt\":\"caf\xc3\xa9 \xf0\x9f\xa4\x96 x\",\"return_token_strs\":true}"},
        {api_tokenize, "{\"content\":\"caf\xc3\xa9 \xf0\x9f\xa4\x96 x\",\"with_pieces\":true}"},
        {api_tokenize,
         "{\"prompt\":[\"\",\"a b\",\"\",\"\xf0\x9f\xa4\x96\"],\"with_pieces\":true}"},
        {api_tokenize, "{\"prompt\":[]}"},
        {api_tokenize, "{\"messages\":[{\"role\":\"user\",\"content\":\"In the\"}]}"},
        {api_detokenize, "{\"tokens\":[[0,1,2,200,201],[],[240,159,2045,258]]}"},
        {api_detokenize, "{\"tokens\":[300,200,2047,258],\"skip_special_tokens\":true}"},
    };
    for (size_t i = 0; i < ARRAY_LEN(listed); i++) {
        buf whole = {0};
        err e = {0};
        size_t n = strlen(listed[i].body);
        cr_assert_eq(
            api_list(listed[i].route, fixture.ctx, listed[i].body, n, SIZE_MAX, &whole, &e), 0,
            "%s", e.msg);
        json_t *root =
            json_loadb(whole.data, whole.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
        cr_expect_not_null(root, "%s", whole.data);
        json_decref(root);
        for (size_t k = 0; k < ARRAY_LEN(wants); k++) {
            buf out = {0};
            cr_assert_eq(
                api_list(listed[i].route, fixture.ctx, listed[i].body, n, wants[k], &out, &e), 0);
            cr_expect_str_eq(out.data, whole.data);
            buf_deinit(&out);
        }
        buf_deinit(&whole);
    }
    buf body = {0}, out = {0};
    err e = {0};
    api_listing *listing;
    buf_puts(&body, "{\"with_pieces\":true,\"prompt\":[\"\"");
    for (int i = 0; i < 60; i++)
        buf_puts(&body, ",\"a b c d e f g h i j k l m n o p q r s t u v w x y z a b c d e f\"");
    buf_puts(&body, "]}");
    cr_assert_eq(api_tokenize(&listing, fixture.ctx, body.data, body.len, false, &e), 0, "%s",
                 e.msg);
    size_t held = api_listing_bytes(listing);
    for (bool more = true; more;) {
        size_t before = out.len;
        more = api_listing_more(listing, &out, 1000);
        cr_expect_gt(out.len, before);
        cr_expect_leq(out.len, before + 1100);
    }
    cr_expect_lt(held * 3, out.len, "%zu held for %zu bytes", held, out.len);
    api_listing_destroy(listing);
    buf_deinit(&out);
    buf_deinit(&body);
}

Test(api_slices, the_texts_of_one_call_hold_no_more_tokens_than_the_prompts_of_a_request) {
    buf body = {0}, out = {0};
    err e = {0};
    buf_puts(&body, "{\"tokens\":[[300]");
    for (int i = 0; i < 70; i++) {
        buf_puts(&body, ",[300");
        for (int k = 1; k < 1000; k++)
            buf_puts(&body, ",301");
        buf_puts(&body, "]");
    }
    buf_puts(&body, "]}");
    cr_expect_eq(api_list(api_detokenize, fixture.ctx, body.data, body.len, 100, &out, &e), -1);
    cr_expect_eq(api_status(&e), 400);
    cr_expect_not_null(strstr(e.msg, "65536 tokens"), "%s", e.msg);
    buf_deinit(&out);
    buf_deinit(&body);
}

/* test_api_slices.c - answers written in slices: the same bytes whatever the slice, each slice in
 * bounded time, and what a reply holds. */
#include "api/api_internal.h"
#include "base/hash.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

API_SUITE(api_slices);

/* A text whose tokens split characters, with all that JSON escapes. */
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
    api_kind kind;
    const char *text, *body; /* of the body, what is its own */
    size_t len;              /* of the answer, as the writer of whole answers recorded it */
    uint64_t hash;
} row;

static const row rows[] = {
#include "rows.inc"
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

static unsigned feed_sequence(api_reply *r, uint32_t i, const row *w, size_t want, buf *out) {
    sched_request q;
    uint32_t ids[256];
    uint64_t state = 7 + i;
    unsigned bits = 0;
    err e = {0};
    api_reply_request(r, i, &q);
    for (uint32_t k = 0; q.prompt_logprobs && k < q.n_prompt; k++) {
        sched_event ev = {.kind = SCHED_PROMPT, .token = q.prompt[k], .pos = k};
        fill(&ev, k ? q.n_top : 0, &state);
        if (k == 0) ev.logprob = NAN;
        bits |= api_feed_event(r, i, &ev, want, out, &e);
    }
    size_t n = api_ids(&f, w->text, ids, ARRAY_LEN(ids)), fed = 0;
    while (fed < n && fed < q.max_tokens && !(bits & API_CANCEL)) {
        sched_event ev = {.kind = SCHED_TOKEN, .token = fed == 3 ? 2045 : ids[fed]};
        fill(&ev, q.n_top, &state);
        fed++;
        bits |= api_feed_event(r, i, &ev, want, out, &e);
    }
    sched_event end = ev_end(bits & API_CANCEL ? SCHED_CANCELLED
                             : i % 2           ? SCHED_LENGTH
                                               : SCHED_STOP,
                             q.n_prompt, (uint32_t)fed);
    end.stop_id = 77;
    end.n_cached = 1;
    return bits | api_feed_event(r, i, &end, want, out, &e);
}

/* One answer, `want` bytes at a time. */
static void answer(const row *w, size_t want, buf *out) {
    char body[2000];
    snprintf(body, sizeof body, "{\"model\":\"demo\",\"request_id\":\"r\",\"seed\":1,%s}", w->body);
    api_reply *r = api_must_reply(&f, w->kind, body);
    unsigned bits = 0;
    for (uint32_t i = api_reply_sequences(r); i-- > 0;)
        bits |= feed_sequence(r, i, w, want, out);
    cr_assert_eq(bits & (API_DONE | API_FAILED), API_DONE, "%s", body);
    api_reply_destroy(r);
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

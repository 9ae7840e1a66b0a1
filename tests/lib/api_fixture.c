/* api_fixture.c - see api_fixture.h. */
#include "tests/lib/api_fixture.h"
#include "api/dialect_internal.h"

#include <criterion/criterion.h>
#include <string.h>

void api_fixture_open(api_fixture *fixture, const api_opts *opts, bool without_tokenizer) {
    err e = {0};
    api_opts own = opts ? *opts : (api_opts){.served_name = "demo"};
    json_setup();
    *fixture = (api_fixture){0};
    cr_assert_eq(model_open(&fixture->model, "models/demo", &e), 0, "%s", e.msg);
    uint32_t vocab = model_plan_of(fixture->model)->vocab_size;
    if (!without_tokenizer) {
        cr_assert_eq(tokenizer_open(&fixture->tokenizer, "models/demo", vocab, &e), 0, "%s", e.msg);
    }
    if (own.model_dir == NULL) own.model_dir = "models/demo";
    own.model = fixture->model;
    own.tokenizer = fixture->tokenizer;
    cr_assert_eq(api_context_open(&fixture->ctx, &own, &e), 0, "%s", e.msg);
    strcpy(fixture->ctx->fingerprint, "fp"); /* the same for every version */
}

void api_fixture_close(api_fixture *fixture) {
    api_context_close(fixture->ctx);
    tokenizer_close(fixture->tokenizer);
    model_close(fixture->model);
}

api_request *api_must_parse(const api_fixture *fixture, const api_dialect *dialect,
                            const char *body) {
    api_request *req;
    err e = {0};
    cr_assert_eq(api_parse(&req, fixture->ctx, dialect, body, strlen(body), &e), 0, "%s: %s",
                 e.param, e.msg);
    return req;
}

/* Replaces the random part of a reply's ids, so that answers can be compared byte by byte. */
static void fix_ids(api_reply *reply) {
    char random[17];
    snprintf(random, sizeof random, "%016llx", (unsigned long long)reply->unique);
    char *const places[] = {strstr(reply->id, random),
                            reply->prefix.data ? strstr(reply->prefix.data, random) : NULL};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (places[i]) memset(places[i], '0', 16);
    }
    reply->unique = 0;
}

api_reply *api_must_reply(const api_fixture *fixture, const api_dialect *dialect,
                          const char *body) {
    api_reply *reply;
    err e = {0};
    api_request *req = api_must_parse(fixture, dialect, body);
    cr_assert_eq(api_reply_create(&reply, fixture->ctx, req, NULL, &e), 0, "%s", e.msg);
    fix_ids(reply);
    return reply;
}

int api_list(api_lister route, const api_context *ctx, const char *body, size_t n, size_t want,
             buf *out, err *e) {
    api_listing *listing;
    if (route(&listing, ctx, body, n, false, e) != 0) return -1;
    while (api_listing_more(listing, out, want)) {
    }
    api_listing_destroy(listing);
    return 0;
}

sched_event ev_token(uint32_t id, uint16_t depth, float logprob) {
    return (sched_event){.kind = SCHED_TOKEN, .token = id, .depth = depth, .logprob = logprob};
}

sched_event ev_end(sched_finish why, uint32_t n_prompt, uint32_t n_output) {
    return (sched_event){.kind = SCHED_END,
                         .finish = why,
                         .n_prompt = n_prompt,
                         .n_output = n_output,
                         .prompt_loops = 2 * (uint64_t)n_prompt,
                         .output_loops = 3 * (uint64_t)n_output};
}

unsigned api_feed_event(api_reply *reply, uint32_t i, const sched_event *ev, size_t want, buf *out,
                        err *e) {
    unsigned bits = api_reply_event(reply, i, ev, out, e);
    while ((bits & API_MORE) && api_reply_more(reply, out, want)) {
    }
    return bits & ~(unsigned)API_MORE;
}

unsigned api_event(api_reply *reply, uint32_t i, const sched_event *ev, buf *out, err *e) {
    return api_feed_event(reply, i, ev, SIZE_MAX, out, e);
}

char *api_stampless(buf *text) {
    static const char key[] = "\"created"; /* or created_at */
    buf out = {0};
    const char *at = text->data ? text->data : "";
    for (const char *hit; (hit = strstr(at, key)); at = hit + strspn(hit, "0123456789")) {
        hit = strchr(hit, ':') + 1;
        buf_append(&out, at, (size_t)(hit - at));
        buf_puts(&out, "0");
    }
    buf_puts(&out, at);
    buf_deinit(text);
    *text = out;
    return out.data;
}

unsigned api_feed(api_reply *reply, uint32_t i, const uint32_t *ids, size_t n, sched_finish why,
                  buf *out) {
    unsigned bits = 0;
    size_t fed = 0;
    err e = {0};
    while (fed < n && !(bits & (API_CANCEL | API_FAILED))) {
        sched_event ev = ev_token(ids[fed], (uint16_t)(1 + fed % 4), -0.5f);
        bits |= api_event(reply, i, &ev, out, &e);
        fed++;
    }
    sched_event end = ev_end(bits & API_CANCEL ? SCHED_CANCELLED : why, 4, (uint32_t)fed);
    return bits | api_event(reply, i, &end, out, &e);
}

size_t api_ids(const api_fixture *fixture, const char *text, uint32_t *ids, size_t cap) {
    token_ids out = {0};
    err e = {0};
    cr_assert_eq(tokenizer_encode(fixture->tokenizer, text, strlen(text), false, cap, &out, &e), 0,
                 "%s", e.msg);
    size_t n = out.n;
    if (n > 0) memcpy(ids, out.data, n * sizeof *ids); /* no memory for an empty text */
    token_ids_deinit(&out);
    return n;
}

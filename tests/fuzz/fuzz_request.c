/* fuzz_request.c - a request body through parsing, and an accepted request through a whole answer
 * with made-up events.
 *
 * The first byte picks the route, the second the events: the tokens, and an end by stop, limit or
 * failure. The output must be valid JSON, or events of valid JSON. A chat template that prints no
 * control token never yields one, whatever the request. */
#include "api/api.h"
#include "base/json.h"
#include "tests/fuzz/cost.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static model_folder *model;
static tokenizer *words;
static api_context *with_text, *with_all, *ids_only;

static void need(int rc, const err *e) {
    if (rc == 0) return;
    fprintf(stderr, "fuzz_request: %s\n", e->msg);
    exit(2);
}

static void open_all(void) {
    /* From the repository's root or from the build folder. */
    static const char *const dirs[] = {"models/demo", "../../models/demo"};
    err e = {0};
    int rc = -1;
    json_setup();
    const char *dir = dirs[0];
    for (size_t i = 0; i < ARRAY_LEN(dirs) && rc != 0; i++) {
        e = (err){0};
        dir = dirs[i];
        rc = model_open(&model, dir, &e);
    }
    need(rc, &e);
    need(tokenizer_open(&words, dir, model_plan_of(model)->vocab_size, &e), &e);
    api_opts own = {.model_dir = dir,
                    .served_name = "m",
                    .model = model,
                    .tokenizer = words,
                    .max_context = 256};
    need(api_context_open(&with_text, &own, &e), &e);
    /* The template's path, seen from the same folder as the model. */
    own.chat_template =
        dir == dirs[0] ? "tests/fuzz/request.jinja" : "../../tests/fuzz/request.jinja";
    need(api_context_open(&with_all, &own, &e), &e);
    own.chat_template = NULL;
    own.tokenizer = NULL;
    need(api_context_open(&ids_only, &own, &e), &e);
}

static void must_be_json(const char *text, size_t n) {
    json_error_t why;
    json_t *root = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (root == NULL) {
        fprintf(stderr, "not JSON: %s\n%.*s\n", why.text, (int)n, text);
        abort();
    }
    json_decref(root);
}

static void check_out(const buf *out, bool stream) {
    const char *at = out->data ? out->data : "";
    if (!stream) {
        if (out->len) must_be_json(at, out->len);
        return;
    }
    while (*at) {
        const char *end = strstr(at, "\n\n");
        if (strncmp(at, "event: ", 7) == 0) at = strchr(at, '\n') + 1;
        if (end == NULL || strncmp(at, "data: ", 6) != 0) abort();
        if (strncmp(at + 6, "[DONE]", 6) != 0) must_be_json(at + 6, (size_t)(end - at) - 6);
        at = end + 2;
    }
}

/* One event, and its output in slices of a few bytes. */
static unsigned feed(api_reply *reply, uint32_t i, const sched_event *ev, uint32_t seed, buf *out,
                     err *e) {
    unsigned bits = api_reply_event(reply, i, ev, out, e);
    while ((bits & API_MORE) && api_reply_more(reply, out, 1 + seed * 16)) {
        if (api_reply_bytes(reply) > 64 << 20) abort();
    }
    return bits;
}

/* Tokens of one sequence; the seed decides ids, depths and the end. */
static unsigned run_sequence(api_reply *reply, uint32_t i, uint32_t seed, bool plain, buf *out,
                             err *e) {
    sched_request req;
    unsigned bits = 0;
    uint64_t state = seed;
    api_reply_request(reply, i, &req);
    for (uint32_t k = 0; plain && k < req.n_prompt; k++) {
        if (tokenizer_is_control(words, req.prompt[k])) abort(); /* forged by a client */
    }
    for (uint32_t k = 0; req.prompt_logprobs && k < req.n_prompt; k++) {
        sched_event ev = {.kind = SCHED_PROMPT, .token = req.prompt[k], .pos = k, .depth = 1};
        ev.logprob = k ? -1.0f : 0.0f / 0.0f;
        bits |= feed(reply, i, &ev, seed, out, e);
    }
    for (uint32_t k = 0; k < req.max_tokens && k < 40 && !(bits & (API_CANCEL | API_FAILED)); k++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sched_event ev = {.kind = SCHED_TOKEN,
                          .token = (uint32_t)(state >> 33) % 2048,
                          .depth = 3,
                          .n_top = req.n_top};
        ev.logprob = (float)(state >> 40) * -1e-3f;
        for (uint32_t top = 0; top < req.n_top; top++)
            ev.top[top] = (eng_top){(ev.token + top) % 2048, -(float)top};
        bits |= feed(reply, i, &ev, seed, out, e);
    }
    sched_event end = {.kind = SCHED_END,
                       .finish = bits & API_CANCEL ? SCHED_CANCELLED : (sched_finish)(seed % 4)};
    end.stop_id = seed % 2048;
    return bits | feed(reply, i, &end, seed, out, e);
}

static void run_reply(const api_context *ctx, api_request *request, uint32_t seed) {
    api_reply *reply;
    err e = {0};
    buf out = {0};
    bool stream = api_wants_stream(request);
    if (api_reply_create(&reply, ctx, request, NULL, &e) != 0) abort();
    unsigned bits = 0;
    for (uint32_t i = 0; i < api_reply_sequences(reply) && !(bits & API_FAILED); i++) {
        bits |= run_sequence(reply, i, seed + i, ctx == with_all, &out, &e);
    }
    if (!(bits & (API_DONE | API_FAILED))) abort();
    check_out(&out, stream);
    api_reply_destroy(reply);
    buf_deinit(&out);
}

static void run_listing(api_listing *listing, uint32_t seed) {
    buf out = {0};
    while (api_listing_more(listing, &out, 1 + seed * 16)) {
    }
    check_out(&out, false);
    api_listing_destroy(listing);
    buf_deinit(&out);
}

static void check_refusal(const api_dialect *dialect, const err *e) {
    buf out = {0};
    unsigned status = api_status(e);
    if (status != 400 && status != 404) {
        fprintf(stderr, "status %u: %s\n", status, e->msg);
        abort();
    }
    api_error_body(&out, dialect, e);
    must_be_json(out.data, out.len);
    buf_deinit(&out);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    open_all();
    return 0;
}

static void one_input(const uint8_t *data, size_t size) {
    if (size < 2) return;
    const char *body = (const char *)data + 2;
    const api_context *ctx = data[0] & 8 ? ids_only : data[0] & 16 ? with_all : with_text;
    api_request *req = NULL;
    api_listing *listing = NULL;
    err e = {0};
    size_t n;
    const api_endpoint *endpoints = api_endpoints(&n);
    const api_endpoint *endpoint = &endpoints[data[0] % 8 % n];
    int rc = api_read(endpoint, ctx, body, size - 2, false, &req, &listing, &e);
    if (rc != 0) check_refusal(endpoint->dialect, &e);
    else if (req) run_reply(ctx, req, data[1]);
    else run_listing(listing, data[1]);
}

FUZZ_TARGET(one_input, 1500, 8000)

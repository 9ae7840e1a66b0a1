/* fuzz_request.c - a body through parsing, and whatever is accepted through a whole answer
 * with made-up events.
 *
 * The first byte picks the route, the second the events: which tokens come, whether the
 * end is a stop, a limit, a failure. What comes out must be valid JSON, or events of it. A chat
 * template that prints no control token never leads to one, whatever it is given. */
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
    api_opts o = {.model_dir = dir,
                  .served_name = "m",
                  .model = model,
                  .tokenizer = words,
                  .max_context = 256};
    need(api_context_open(&with_text, &o, &e), &e);
    /* As it lies beside the model's folder. */
    o.chat_template =
        dir == dirs[0] ? "tests/fuzz/request.jinja" : "../../tests/fuzz/request.jinja";
    need(api_context_open(&with_all, &o, &e), &e);
    o.chat_template = NULL;
    o.tokenizer = NULL;
    need(api_context_open(&ids_only, &o, &e), &e);
}

static void must_be_json(const char *s, size_t n) {
    json_error_t why;
    json_t *root = json_loadb(s, n, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (root == NULL) {
        fprintf(stderr, "not JSON: %s\n%.*s\n", why.text, (int)n, s);
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

/* One event, and all it brings in slices of a few bytes. */
static unsigned feed(api_reply *r, uint32_t i, const sched_event *ev, uint32_t seed, buf *out,
                     err *e) {
    unsigned bits = api_reply_event(r, i, ev, out, e);
    while ((bits & API_MORE) && api_reply_more(r, out, 1 + seed * 16)) {
        if (api_reply_bytes(r) > 64 << 20) abort();
    }
    return bits;
}

/* Tokens of one sequence; the seed decides ids, depths and the end. */
static unsigned run_sequence(api_reply *r, uint32_t i, uint32_t seed, bool plain, buf *out,
                             err *e) {
    sched_request q;
    unsigned bits = 0;
    uint64_t state = seed;
    api_reply_request(r, i, &q);
    for (uint32_t k = 0; plain && k < q.n_prompt; k++) {
        if (tokenizer_is_control(words, q.prompt[k])) abort(); /* forged by a client */
    }
    for (uint32_t k = 0; q.prompt_logprobs && k < q.n_prompt; k++) {
        sched_event ev = {.kind = SCHED_PROMPT, .token = q.prompt[k], .pos = k, .depth = 1};
        ev.logprob = k ? -1.0f : 0.0f / 0.0f;
        bits |= feed(r, i, &ev, seed, out, e);
    }
    for (uint32_t k = 0; k < q.max_tokens && k < 40 && !(bits & (API_CANCEL | API_FAILED)); k++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        sched_event ev = {.kind = SCHED_TOKEN,
                          .token = (uint32_t)(state >> 33) % 2048,
                          .depth = 3,
                          .n_top = q.n_top};
        ev.logprob = (float)(state >> 40) * -1e-3f;
        for (uint32_t t = 0; t < q.n_top; t++)
            ev.top[t] = (eng_top){(ev.token + t) % 2048, -(float)t};
        bits |= feed(r, i, &ev, seed, out, e);
    }
    sched_event end = {.kind = SCHED_END,
                       .finish = bits & API_CANCEL ? SCHED_CANCELLED : (sched_finish)(seed % 4)};
    end.stop_id = seed % 2048;
    return bits | feed(r, i, &end, seed, out, e);
}

static void run_reply(const api_context *c, api_request *request, uint32_t seed) {
    api_reply *r;
    err e = {0};
    buf out = {0};
    bool stream = api_wants_stream(request);
    if (api_reply_create(&r, c, request, NULL, &e) != 0) abort();
    unsigned bits = 0;
    for (uint32_t i = 0; i < api_reply_sequences(r) && !(bits & API_FAILED); i++) {
        bits |= run_sequence(r, i, seed + i, c == with_all, &out, &e);
    }
    if (!(bits & (API_DONE | API_FAILED))) abort();
    check_out(&out, stream);
    api_reply_destroy(r);
    buf_deinit(&out);
}

static void run_listing(api_listing *l, uint32_t seed) {
    buf out = {0};
    while (api_listing_more(l, &out, 1 + seed * 16)) {
    }
    check_out(&out, false);
    api_listing_destroy(l);
    buf_deinit(&out);
}

static void check_refusal(const err *e) {
    buf out = {0};
    unsigned status = api_status(e);
    if (status != 400 && status != 404) {
        fprintf(stderr, "status %u: %s\n", status, e->msg);
        abort();
    }
    api_error_body(&out, e);
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
    const api_context *c = data[0] & 8 ? ids_only : data[0] & 16 ? with_all : with_text;
    api_request *r = NULL;
    api_listing *l = NULL;
    err e = {0};
    int rc;
    switch (data[0] % 8 % 5) {
    case 0: rc = api_parse(&r, c, API_COMPLETION, body, size - 2, &e); break;
    case 1: rc = api_parse(&r, c, API_CHAT, body, size - 2, &e); break;
    case 2: rc = api_tokenize(&l, c, body, size - 2, &e); break;
    case 3: rc = api_parse(&r, c, API_RESPONSES, body, size - 2, &e); break;
    default: rc = api_detokenize(&l, c, body, size - 2, &e); break;
    }
    if (rc != 0) check_refusal(&e);
    else if (r) run_reply(c, r, data[1]);
    else run_listing(l, data[1]);
}

FUZZ_TARGET(one_input, 1500, 8000)

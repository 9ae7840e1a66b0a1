/* listing.c - /tokenize and /detokenize, in the shapes of several servers at once: `prompt` and
 * `messages` of vLLM and SGLang, `content` and `with_pieces` of llama.cpp; and the two /render
 * endpoints of vLLM.
 *
 * A listing holds token ids only. Texts and JSON are made while they are written, one slice at a
 * time, so a slow reader costs four bytes a token. */
#include "api/dialect_internal.h"
#include "base/size.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <sys/random.h>

typedef bool (*step)(buf *out, api_listing *listing, size_t end);

struct api_listing {
    const api_context *ctx;
    token_ids ids;  /* of all texts, one after the other */
    uint32_t *ends; /* [n_texts] end of each text in ids */
    size_t n_texts;
    bool many; /* a list of texts, not one text */
    bool strs, pieces, skip_special, soon;
    api_request *rendered; /* the request to write the prompts of; NULL: write the texts above */
    uint64_t unique;       /* random; of the ids of rendered prompts */
    /* The position of the writer: a step, a text within the step, an id within the text. */
    const step *steps; /* ends with NULL */
    size_t at, text, id;
    bool begun, open;
    api_utf8 utf8;
    buf bytes, scratch; /* of the tokens being decoded */
};

/* ---- reading: shared by both routes ---- */

static int needs_tokenizer(const api_context *ctx, err *e) {
    if (ctx->opts.tokenizer) return 0;
    return api__no_tokenizer(ctx, NULL, "it only accepts and returns token ids", e);
}

static int make_texts(api_listing *listing, const json_t *list, err *e) {
    listing->many = list != NULL;
    listing->ends = array_new(listing->many ? json_array_size(list) : 1, sizeof *listing->ends);
    return listing->ends ? 0 : api__out_of_memory(e);
}

/* Refuses a text as too long for a prompt. Tokens are counted up to the context only, so the
 * message says "at least". */
static int too_long(const api_context *ctx, uint64_t least, const char *param, err *e) {
    if (e && e->code == ERR_NONE) {
        e->have = least;
        e->limit = ctx->opts.max_context;
    }
    return err_set(e, ERR_TOO_LONG, param,
                   "the maximum context length is %u tokens, but this text has at least %llu: it "
                   "exceeds the available context size",
                   ctx->opts.max_context, (unsigned long long)least);
}

/* Ends one text. All texts together may have as many tokens as the prompts of one request. */
static int end_text(api_listing *listing, const char *param, err *e) {
    const api_opts *opts = &listing->ctx->opts;
    uint64_t most = (uint64_t)opts->max_prompts * opts->max_context;
    if (listing->ids.n > most || listing->ids.n > UINT32_MAX) {
        return err_set(e, ERR_BAD_PARAM, param,
                       "%s: the texts of one request may have at most %llu tokens together", param,
                       (unsigned long long)most);
    }
    listing->ends[listing->n_texts++] = (uint32_t)listing->ids.n;
    return 0;
}

/* ---- reading: tokenize ---- */

static int add_text(api_listing *listing, const json_t *text, bool bos, const char *param, err *e) {
    const api_context *ctx = listing->ctx;
    uint64_t most = ctx->opts.max_context, least;
    err why = {0};
    if (!json_is_string(text))
        return err_set(e, ERR_BAD_PARAM, param, "%s must be a string or a list of strings", param);
    least = tokenizer_fewest(ctx->opts.tokenizer, json_string_length(text)) + bos;
    if (least > most) return too_long(ctx, least, param, e);
    if (api__encode(ctx, json_string_value(text), json_string_length(text), bos,
                    ctx->opts.special_tokens, most, &listing->ids, &why) == 0) {
        return end_text(listing, param, e);
    }
    if (why.code == ERR_TOO_LONG) return too_long(ctx, most + 1, param, e);
    return err_set(e, why.code, param, "%s", why.msg);
}

static int add_texts(api_listing *listing, const json_t *text, bool bos, const char *param,
                     err *e) {
    bool many = json_is_array(text);
    if (make_texts(listing, many ? text : NULL, e) != 0) return -1;
    if (!many) return add_text(listing, text, bos, param, e);
    listing->strs = false;
    for (size_t i = 0; i < json_array_size(text); i++) {
        if (add_text(listing, json_array_get(text, i), bos, param, e) != 0) return -1;
    }
    return 0;
}

/* 1: the template takes too much work for the loop thread. */
static int add_messages(api_listing *listing, const json_t *root, err *e) {
    const api_context *ctx = listing->ctx;
    int rc = api__body_to_ids(ctx, root, listing->soon, NULL, &listing->ids, e);
    if (rc != 0) return rc;
    if (make_texts(listing, NULL, e) != 0) return -1;
    if (listing->ids.n > ctx->opts.max_context)
        return api__too_long(ctx, listing->ids.n, 0, "messages", e);
    return end_text(listing, "messages", e);
}

static int read_tokenize(api_listing *listing, const json_t *root, err *e) {
    const api_context *ctx = listing->ctx;
    const char *model = NULL;
    if (needs_tokenizer(ctx, e) != 0 || api__read_model(ctx, root, &model, e) != 0) return -1;
    const json_t *prompt = api__member(root, "prompt"), *content = api__member(root, "content");
    const json_t *messages = api__member(root, "messages");
    bool special = ctx->add_bos, llama = false;
    if (api__read_bool(api__member(root, "add_special_tokens"), "add_special_tokens", &special,
                       e) != 0)
        return -1;
    if (api__read_bool(api__member(root, "add_special"), "add_special", &llama, e) != 0) return -1;
    bool bos = ctx->add_bos && (content && !prompt ? llama : special);
    if (api__read_bool(api__member(root, "return_token_strs"), "return_token_strs", &listing->strs,
                       e) != 0)
        return -1;
    if (api__read_bool(api__member(root, "with_pieces"), "with_pieces", &listing->pieces, e) != 0)
        return -1;
    if (messages) return add_messages(listing, root, e);
    if (prompt) return add_texts(listing, prompt, bos, "prompt", e);
    if (content) return add_texts(listing, content, bos, "content", e);
    return err_set(e, ERR_BAD_PARAM, "prompt", "one of prompt, content and messages is required");
}

/* ---- reading: detokenize ---- */

static int add_ids(api_listing *listing, const json_t *ids, err *e) {
    size_t n = json_array_size(ids);
    if (!json_is_array(ids))
        return err_set(e, ERR_BAD_PARAM, "tokens", "tokens may not mix token ids and lists");
    if (n > listing->ctx->opts.max_context) return api__too_long(listing->ctx, n, 0, "tokens", e);
    for (size_t i = 0; i < n; i++) {
        uint32_t id;
        if (api__check_id(listing->ctx, json_array_get(ids, i), "tokens", &id, e) != 0) return -1;
        if (api__push_id(&listing->ids, id, e) != 0) return -1;
    }
    return end_text(listing, "tokens", e);
}

static int read_detokenize(api_listing *listing, const json_t *root, err *e) {
    const char *model;
    const json_t *tokens = api__member(root, "tokens");
    if (needs_tokenizer(listing->ctx, e) != 0 ||
        api__read_model(listing->ctx, root, &model, e) != 0)
        return -1;
    if (!json_is_array(tokens)) {
        return err_set(e, ERR_BAD_PARAM, "tokens", "tokens %s",
                       tokens ? "must be a list of token ids" : "is missing");
    }
    if (api__read_bool(api__member(root, "skip_special_tokens"), "skip_special_tokens",
                       &listing->skip_special, e) != 0) {
        return -1;
    }
    bool many = json_is_array(json_array_get(tokens, 0));
    if (make_texts(listing, many ? tokens : NULL, e) != 0) return -1;
    if (!many) return add_ids(listing, tokens, e);
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        if (add_ids(listing, json_array_get(tokens, i), e) != 0) return -1;
    }
    return 0;
}

/* ---- writing: texts, and ids in them ---- */

static bool full(const buf *out, size_t end) {
    return out->failed || out->len >= end;
}

typedef struct {
    const char *open, *close; /* written around one text */
    /* Writes one id; first: it is the first of its text. */
    void (*id)(buf *out, api_listing *listing, uint32_t id, bool first);
    /* Or writes several ids at once, within first..end, and advances listing->id. */
    void (*some)(buf *out, api_listing *listing, size_t first, size_t end);
    void (*finish)(buf *out, api_listing *listing); /* called before close; may be NULL */
} shape;

/* Writes all texts in one shape; several texts stand in brackets. */
static bool write_texts(buf *out, api_listing *listing, const shape *form, size_t end) {
    if (!listing->begun && listing->many) buf_puts(out, "[");
    listing->begun = true;
    for (; listing->text < listing->n_texts; listing->text++) {
        if (full(out, end)) return false;
        size_t first = listing->text ? listing->ends[listing->text - 1] : 0;
        if (!listing->open) {
            if (listing->text) buf_puts(out, ",");
            buf_puts(out, form->open);
            listing->id = first;
            listing->open = true;
        }
        while (listing->id < listing->ends[listing->text]) {
            if (full(out, end)) return false;
            if (form->some) form->some(out, listing, first, listing->ends[listing->text]);
            else form->id(out, listing, listing->ids.data[listing->id], listing->id == first);
            listing->id += form->some == NULL;
        }
        if (form->finish) form->finish(out, listing);
        buf_puts(out, form->close);
        listing->open = false;
    }
    if (listing->many) buf_puts(out, "]");
    return true;
}

static void put_id(buf *out, api_listing *listing, uint32_t id, bool first) {
    (void)listing;
    if (!first) buf_puts(out, ",");
    api__write_uint(out, id);
}

/* A piece that is not valid UTF-8 on its own is written as its bytes. */
static void write_piece(buf *out, const api_listing *listing, uint32_t id, bool or_bytes) {
    size_t n = 0;
    const char *bytes = tokenizer_bytes(listing->ctx->opts.tokenizer, id, &n);
    if (bytes == NULL) n = 0;
    if (n == 0 || !or_bytes || utf8_valid(bytes, n)) {
        buf_json_string(out, n ? bytes : "", n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "%s%u", i ? "," : "[", (unsigned char)bytes[i]);
    buf_puts(out, "]");
}

static void put_piece(buf *out, api_listing *listing, uint32_t id, bool first) {
    buf_puts(out, first ? "{\"id\":" : ",{\"id\":");
    api__write_uint(out, id);
    buf_puts(out, ",\"piece\":");
    write_piece(out, listing, id, true);
    buf_puts(out, "}");
}

static void put_string(buf *out, api_listing *listing, uint32_t id, bool first) {
    if (!first) buf_puts(out, ",");
    write_piece(out, listing, id, false);
}

/* Writes the text of some tokens. Bytes of an unfinished character wait for the next call. */
static void put_text(buf *out, api_listing *listing, size_t first, size_t end) {
    size_t at = listing->id - first;
    buf_clear(&listing->bytes);
    buf_clear(&listing->scratch);
    if (tokenizer_decode_some(listing->ctx->opts.tokenizer, listing->ids.data + first, end - first,
                              &at, listing->skip_special, &listing->bytes, NULL) != 0) {
        out->failed = true;
        return;
    }
    listing->id = first + at;
    api__utf8_bytes(&listing->utf8, listing->bytes.data, listing->bytes.len, &listing->scratch);
    buf_json_escaped(out, listing->scratch.data, listing->scratch.len);
    if (listing->scratch.failed) out->failed = true;
}

static void finish_text(buf *out, api_listing *listing) {
    api_utf8_finish(&listing->utf8, out);
}

/* ---- writing: steps ---- */

static bool tokens_key(buf *out, api_listing *listing, size_t end) {
    (void)listing, (void)end;
    buf_puts(out, "{\"tokens\":");
    return true;
}

static bool tokens(buf *out, api_listing *listing, size_t end) {
    static const shape ids = {"[", "]", put_id, NULL, NULL},
                       pieces = {"[", "]", put_piece, NULL, NULL};
    return write_texts(out, listing, listing->pieces ? &pieces : &ids, end);
}

static bool count(buf *out, api_listing *listing, size_t end) {
    if (!listing->begun) buf_puts(out, listing->many ? ",\"count\":[" : ",\"count\":");
    listing->begun = true;
    for (; listing->text < listing->n_texts; listing->text++) {
        if (full(out, end)) return false;
        if (listing->text) buf_puts(out, ",");
        api__write_uint(out, listing->ends[listing->text] -
                                 (listing->text ? listing->ends[listing->text - 1] : 0));
    }
    if (listing->many) buf_puts(out, "]");
    return true;
}

static bool strings_key(buf *out, api_listing *listing, size_t end) {
    (void)end;
    buf_printf(out, ",\"max_model_len\":%u,\"token_strs\":", listing->ctx->opts.max_context);
    return true;
}

static bool strings(buf *out, api_listing *listing, size_t end) {
    static const shape list = {"[", "]", put_string, NULL, NULL};
    if (listing->strs) return write_texts(out, listing, &list, end);
    buf_puts(out, "null");
    return true;
}

static bool prompt_key(buf *out, api_listing *listing, size_t end) {
    (void)listing, (void)end;
    buf_puts(out, "{\"prompt\":");
    return true;
}

static bool content_key(buf *out, api_listing *listing, size_t end) {
    (void)listing, (void)end;
    buf_puts(out, ",\"content\":");
    return true;
}

static bool text_key(buf *out, api_listing *listing, size_t end) {
    (void)listing, (void)end;
    buf_puts(out, ",\"text\":");
    return true;
}

static bool texts(buf *out, api_listing *listing, size_t end) {
    static const shape text = {"\"", "\"", NULL, put_text, finish_text};
    return write_texts(out, listing, &text, end);
}

static bool close_object(buf *out, api_listing *listing, size_t end) {
    (void)listing, (void)end;
    buf_puts(out, "}");
    return true;
}

/* ---- writing: a rendered request ---- */

static void open_rendered(buf *out, const api_listing *listing) {
    buf_printf(out, "%s{\"request_id\":\"%s%016llx-%zu\",\"token_ids\":[", listing->text ? "," : "",
               listing->rendered->dialect->id_head, (unsigned long long)listing->unique,
               listing->text);
}

static void close_rendered(buf *out, const api_listing *listing) {
    const api_request *req = listing->rendered;
    const eng_sampling *sampling = &req->sampling;
    buf_printf(out,
               "],\"features\":null,\"sampling_params\":{\"n\":%u,\"temperature\":%.9g,"
               "\"top_p\":%.9g,\"top_k\":%u,\"min_p\":%.9g,\"presence_penalty\":%.9g,"
               "\"frequency_penalty\":%.9g,\"repetition_penalty\":%.9g,\"seed\":",
               req->n_per_prompt, (double)sampling->temperature, (double)sampling->top_p,
               sampling->top_k, (double)sampling->min_p, (double)sampling->presence_penalty,
               (double)sampling->frequency_penalty, (double)sampling->repetition_penalty);
    if (req->seeded) buf_printf(out, "%lld", (long long)sampling->seed);
    else buf_puts(out, "null");
    buf_printf(out, ",\"max_tokens\":%u,\"min_tokens\":%u},\"model\":",
               req->prompts[listing->text].max_tokens, req->min_tokens);
    buf_json_text(out, listing->ctx->name);
    buf_printf(out, ",\"stream\":%s,\"priority\":%d}", req->stream ? "true" : "false",
               req->priority);
}

static bool rendered(buf *out, api_listing *listing, size_t end) {
    const api_request *req = listing->rendered;
    if (!listing->begun && listing->many) buf_puts(out, "[");
    listing->begun = true;
    for (; listing->text < req->n_prompts; listing->text++) {
        const api__prompt *prompt = &req->prompts[listing->text];
        if (!listing->open) open_rendered(out, listing);
        listing->open = true;
        for (; listing->id < prompt->n_ids; listing->id++) {
            if (full(out, end)) return false;
            put_id(out, listing, prompt->ids[listing->id], listing->id == 0);
        }
        close_rendered(out, listing);
        listing->open = false;
        listing->id = 0;
    }
    if (listing->many) buf_puts(out, "]");
    return true;
}

bool api_listing_more(api_listing *listing, buf *out, size_t want) {
    size_t room = SIZE_MAX - out->len;
    if (want == 0) want = 1;
    size_t end = out->len + (want < room ? want : room);
    while (listing->steps[listing->at]) {
        if (full(out, end) || !listing->steps[listing->at](out, listing, end)) return !out->failed;
        listing->at++;
        listing->text = listing->id = 0;
        listing->begun = listing->open = false;
    }
    return false;
}

/* ---- the routes ---- */

static int make(api_listing **out, const api_context *ctx, const char *body, size_t n, bool soon,
                const step *steps, int (*read)(api_listing *, const json_t *, err *), err *e) {
    json_t *root = NULL;
    *out = NULL;
    if (api__body(&root, ctx, body, n, e) != 0) return -1;
    api_listing *listing = calloc(1, sizeof *listing);
    int rc = listing ? 0 : api__out_of_memory(e);
    if (listing) {
        listing->ctx = ctx;
        listing->steps = steps;
        listing->soon = soon;
        rc = read(listing, root, e);
    }
    json_decref(root);
    if (rc == 0) *out = listing;
    else api_listing_destroy(listing);
    return rc;
}

static bool known_text(buf *out, api_listing *listing, size_t end) {
    (void)end;
    buf_append(out, listing->bytes.data, listing->bytes.len);
    return true;
}

int api__listing_of(api_listing **out, const api_context *ctx, buf *steal_text, err *e) {
    static const step steps[] = {known_text, NULL};
    api_listing *listing = steal_text->failed ? NULL : calloc(1, sizeof *listing);
    if (listing == NULL) {
        buf_deinit(steal_text);
        return api__out_of_memory(e);
    }
    listing->ctx = ctx;
    listing->steps = steps;
    listing->bytes = *steal_text;
    *steal_text = (buf){0};
    *out = listing;
    return 0;
}

int api_tokenize(api_listing **out, const api_context *ctx, const char *body, size_t n, bool soon,
                 err *e) {
    static const step steps[] = {tokens_key, tokens,       count, strings_key,
                                 strings,    close_object, NULL};
    return make(out, ctx, body, n, soon, steps, read_tokenize, e);
}

int api_detokenize(api_listing **out, const api_context *ctx, const char *body, size_t n, bool soon,
                   err *e) {
    static const step steps[] = {prompt_key, texts, content_key,  texts,
                                 text_key,   texts, close_object, NULL};
    return make(out, ctx, body, n, soon, steps, read_detokenize, e);
}

int api__render(api_listing **out, const api_context *ctx, const api_dialect *dialect, bool many,
                const char *body, size_t n, bool soon, err *e) {
    static const step steps[] = {rendered, NULL};
    api_request *req;
    *out = NULL;
    int rc = (soon ? api_parse_soon : api_parse)(&req, ctx, dialect, body, n, e);
    if (rc != 0) return rc;
    api_listing *listing = calloc(1, sizeof *listing);
    if (listing == NULL) {
        api_request_destroy(req);
        return api__out_of_memory(e);
    }
    listing->ctx = ctx;
    listing->steps = steps;
    listing->many = many;
    listing->rendered = req;
    if (getrandom(&listing->unique, sizeof listing->unique, 0) != (ssize_t)sizeof listing->unique) {
        api_listing_destroy(listing);
        return err_set(e, ERR_IO, NULL, "the system provides no random bytes");
    }
    *out = listing;
    return 0;
}

size_t api_listing_bytes(const api_listing *listing) {
    return sizeof *listing + (listing->rendered ? api_request_bytes(listing->rendered) : 0) +
           listing->ids.cap * sizeof *listing->ids.data + listing->n_texts * sizeof *listing->ends +
           listing->bytes.cap + listing->scratch.cap;
}

void api_listing_destroy(api_listing *listing) {
    if (listing == NULL) return;
    token_ids_deinit(&listing->ids);
    free(listing->ends);
    api_request_destroy(listing->rendered);
    buf_deinit(&listing->bytes);
    buf_deinit(&listing->scratch);
    free(listing);
}

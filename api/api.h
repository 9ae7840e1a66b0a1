/* api.h - the OpenAI-style API: request bodies in, JSON or server-sent events out.
 *
 * Parses and validates bodies, applies the chat template, tokenises, and turns the scheduler's
 * events into JSON. No sockets, no threads; the clock is read for time stamps only. Only this
 * folder knows HTTP status numbers.
 *
 * Every request field is a row of the table in fields.c. GET /openapi.json is made from the same
 * table. Depth is an addition to OpenAI's fields: "depths" lists the loops of each token of a
 * choice, a part or a delta; "depth" is the number of loops of one entry of logprobs. "token_ids"
 * works like "depths". A model without a tokenizer takes token ids and answers with an empty text
 * and "token_ids". Concatenating the token strings of `logprobs` gives the text. A token that ends
 * inside a UTF-8 character, or is a control token, has the empty string.
 *
 * Threads: an api_context is read-only once it is open and shared by all threads. A request and its
 * reply belong to one thread at a time: a worker may parse, the loop thread does the rest. */
#ifndef FATHOM_API_H
#define FATHOM_API_H

#include "model/model.h"
#include "scheduler/scheduler.h"
#include "text/jinja.h"
#include "text/tokenizer.h"

/* ---- options and context ---- */

typedef struct {
    const char *model_dir;
    const char *chat_template;   /* a name or a file in place of the folder's; NULL: none */
    const char *served_name;     /* id in /v1/models; NULL: the last name of model_dir */
    const model_folder *model;   /* borrowed for the context's life, like the tokenizer */
    tokenizer *tokenizer;        /* NULL: prompts must be token ids. Opening marks control tokens */
    const char *no_tokenizer;    /* the reason, quoted when a client sends text; may be NULL */
    uint32_t max_context;        /* prompt + output tokens */
    uint32_t default_max_tokens; /* chat and responses without a limit; completions use 16 */
    uint32_t max_n, max_prompts; /* choices per prompt, prompts per request */
    uint32_t ceiling_loops;      /* most loops a request may ask for */
    uint64_t max_request_tokens; /* limit of prompts * n * max_tokens */
    size_t max_body_bytes;
    bool warn_unknown; /* answers name the request's fields without effect in "warnings" */
    bool refuse_long;  /* refuse a token limit above the room in the context, instead of cutting */
    bool control_ids;  /* allow control tokens in prompts of token ids */
    bool special_tokens; /* read control tokens spelled out in text prompts */
    /* How the model runs: loops of a token without a depth in its request, cache policy for halted
     * tokens, exit rule. false: as the model's plan says. */
    bool own_run;
    uint32_t default_loops;
    kv_policy halted_kv;
    exit_rule exit;
    float threshold; /* of the exit rule */
} api_opts;          /* zero means the default of each */

typedef struct api_context api_context;
/* Reads generation_config.json, tokenizer_config.json and config.json from the model's folder: end
 * tokens, sampling defaults, chat template. Logs a warning for each part it cannot use. ERR_USAGE
 * if chat_template is wrong. */
int api_context_open(api_context **out, const api_opts *opts, err *e) WARN_UNUSED;
void api_context_close(api_context *ctx);
const char *api_model_name(const api_context *ctx);
/* End tokens of the model from all these files, for commands with a scheduler of their own. */
const uint32_t *api_stop_ids(const api_context *ctx, uint32_t *n);
/* The sampling of requests that name none. False: no file of the model names any, and *out is
 * neutral. */
bool api_sampling(const api_context *ctx, eng_sampling *out);
/* The name of the model's chat template. NULL: there is none, or *why tells why it cannot be used.
 */
const char *api_chat_template(const api_context *ctx, const char **why);
/* Token ids of a text prompt, with the model's first token (BOS) if it has one. Control tokens
 * spelled out in the text are read as such. Needs a tokenizer. */
int api_prompt_ids(const api_context *ctx, const char *text, size_t n, token_ids *out,
                   err *e) WARN_UNUSED;

/* ---- requests ---- */

/* The wire format of a request and its answer: one file in dialects/. */
typedef struct api_dialect api_dialect;

typedef struct api_request api_request;
/* Makes every check that can refuse a request before its first byte is sent: JSON, types, ranges,
 * model name, template, tokens, context. On failure e->param names the field. May run on a worker
 * thread; takes at most a few ms per 100 KB of prompt. */
int api_parse(api_request **out, const api_context *ctx, const api_dialect *dialect,
              const char *body, size_t n, err *e) WARN_UNUSED;
/* The same on the loop thread, for short bodies. Returns 1 and does nothing if a worker must parse:
 * the chat template takes much work, or a schema has yet to be compiled. */
int api_parse_soon(api_request **out, const api_context *ctx, const api_dialect *dialect,
                   const char *body, size_t n, err *e) WARN_UNUSED;
void api_request_destroy(api_request *req);
bool api_wants_stream(const api_request *req);
uint64_t api_prompt_tokens(const api_request *req);
size_t api_request_bytes(const api_request *req); /* memory held by prompts, texts and grammar */
bool api_wants_priority(const api_request *req, int32_t *priority); /* false: it has none */

/* ---- replies: one per request, holding its choices ---- */

typedef struct api_reply api_reply;
/* request_id: the client's checked X-Request-Id, or NULL for a random id. */
int api_reply_create(api_reply **out, const api_context *ctx, api_request *steal_request,
                     const char *request_id, err *e) WARN_UNUSED;
void api_reply_destroy(api_reply *reply);
const char *api_reply_id(const api_reply *reply);     /* "cmpl-…", "chatcmpl-…", "resp_…" */
uint32_t api_reply_sequences(const api_reply *reply); /* sequences to submit: prompts * n */
/* Fills the scheduler's request for sequence i. Its pointers live as long as the reply. */
void api_reply_request(const api_reply *reply, uint32_t i, sched_request *out);

enum {
    API_CANCEL = 1, /* a stop string or a call ended this sequence: cancel it in the scheduler */
    API_DONE = 2,   /* every choice has ended: feed no more events */
    API_FAILED = 4, /* the answer ends with an error: close a stream without its last chunk */
    API_MORE = 8,   /* the reply has more bytes: call api_reply_more until it returns false */
};
/* Feeds one event of sequence i. Returns API_* bits. Loop thread.
 * - After API_CANCEL go on feeding: SCHED_END still has to bring the counts of executed loops.
 * - An answer that is not streamed appends nothing to out. API_DONE comes with API_MORE, and
 *   api_reply_more writes the whole body.
 * - A stream appends whole server-sent events. An event longer than a slice (an echoed prompt with
 *   log-probabilities, megabytes of instructions, the last events of a long response) is cut: the
 *   call appends one slice and returns API_MORE. More events may be fed before the rest is written;
 *   the reply keeps them and writes them afterwards. While api_reply_more returns true, write
 *   nothing else into the stream, because an event may be half written.
 * - Drafts are written with a token, or by api_reply_more: call it once the reader has taken what
 *   there was. Then those that came together make one chunk.
 * - With API_FAILED before anything was streamed, answer with *e. A stream that fails within an
 *   event ends there.
 * - Events of a choice that has ended are ignored. */
unsigned api_reply_event(api_reply *reply, uint32_t i, const sched_event *ev, buf *out, err *e);
/* Writes what is ready. Appends about `want` bytes to out: at least one piece if there is one, and
 * at most one piece more than `want`. A piece is one token's entry or a few hundred bytes of text,
 * so the loop thread is never held up. Returns true while more is ready. False with out->failed
 * means out of memory: the answer is incomplete. Loop thread. */
bool api_reply_more(api_reply *reply, buf *out, size_t want);
/* Bytes this reply holds now: request, texts, tokens, alternatives. A running total, not a walk. */
size_t api_reply_bytes(const api_reply *reply);
/* Ends an answer because the server must (drain, deadline). A stream that has begun gets the error
 * as its last event. Returns API_FAILED, or 0 if the answer was complete. */
unsigned api_reply_fail(api_reply *reply, const err *why, buf *out);
void api_reply_usage(const api_reply *reply, uint64_t *prompt, uint64_t *output);

/* ---- errors ---- */
unsigned api_status(const err *e); /* HTTP status of an error */
/* An error in the shape of a dialect. NULL: OpenAI's {"error":{"message","type","param","code"}} */
void api_error_body(buf *out, const api_dialect *dialect, const err *e);
/* The same for errors of HTTP itself (401, 404, 405, 411, 413, 415, 431, …). code may be NULL. */
void api_http_error_body(buf *out, const api_dialect *dialect, unsigned status, const char *message,
                         const char *code);

/* ---- the small routes; models append a JSON body ---- */
void api_models(const api_context *ctx, buf *out); /* GET /v1/models */
int api_model(const api_context *ctx, const char *id, buf *out, err *e) WARN_UNUSED;

/* Answers of small endpoints. In /tokenize and /detokenize a text or list of ids longer than the
 * context is refused with ERR_TOO_LONG, like a prompt. All texts of one call may hold as many
 * tokens as max_prompts full contexts. Any thread may make a listing; it belongs to one thread at a
 * time. */
typedef struct api_listing api_listing;
/* soon: as api_parse_soon. */
int api_tokenize(api_listing **out, const api_context *ctx, const char *body, size_t n, bool soon,
                 err *e) WARN_UNUSED;
int api_detokenize(api_listing **out, const api_context *ctx, const char *body, size_t n, bool soon,
                   err *e) WARN_UNUSED;
bool api_listing_more(api_listing *listing, buf *out, size_t want); /* as api_reply_more */
size_t api_listing_bytes(const api_listing *listing);
void api_listing_destroy(api_listing *listing);

/* ---- endpoints: the routes that take a JSON body by POST ---- */

typedef struct {
    const char *path;    /* as documented; a path under /v1 exists without it too, and vice versa */
    const char *summary; /* for GET /openapi.json */
    /* The shape of requests, answers and errors. NULL: errors are OpenAI's. */
    const api_dialect *dialect;
    /* Answers at once, without the engine. NULL: the endpoint makes requests of its dialect. */
    int (*read)(api_listing **out, const api_context *ctx, const char *body, size_t n, bool soon,
                err *e);
    const char *request, *answer; /* schemas in api/openapi/document.json, with `read` */
    bool renders; /* the body may be a conversation, which takes more memory to read */
} api_endpoint;
const api_endpoint *api_endpoints(size_t *n);
/* Reads the body of an endpoint: into *request, or into *listing if endpoint->read is set. soon: as
 * api_parse_soon. */
int api_read(const api_endpoint *endpoint, const api_context *ctx, const char *body, size_t n,
             bool soon, api_request **request, api_listing **listing, err *e) WARN_UNUSED;

void api_openapi(buf *out); /* GET /openapi.json */
/* The same document, made by the first call and kept for the life of the process. NULL: out of
 * memory. Loop thread. */
const buf *api_openapi_kept(void);

/* ---- chat templates without a model ---- */

typedef struct api_chat api_chat;
/* The chat template of a folder, found as api_context_open finds it. Borrows tok. ERR_NOT_FOUND:
 * the folder has no template. ERR_BAD_FILE: its template cannot be used. */
int api_chat_open(api_chat **out, const char *dir, const char *chat_template, tokenizer *tok,
                  err *e) WARN_UNUSED;
void api_chat_close(api_chat *chat);
/* Text and ids of a conversation: a list of messages, or a body of /tokenize. */
int api_chat_render(const api_chat *chat, const char *body, size_t n, jinja_output *text,
                    token_ids *ids, err *e) WARN_UNUSED;

/* ---- text pieces shared by commands ---- */

/* Turns token ids into whole UTF-8 characters. The bytes of an unfinished character wait for the
 * next token. Invalid bytes become U+FFFD. Special tokens give nothing. */
typedef struct {
    unsigned char pending[4];
    uint8_t n_pending;
} api_utf8;
void api_utf8_token(api_utf8 *utf8, const tokenizer *tok, uint32_t id, buf *out);
void api_utf8_finish(api_utf8 *utf8, buf *out); /* an unfinished character becomes U+FFFD */

#endif

/* api.h - the OpenAI surface as bytes to requests and events to bytes.
 *
 * Parses and validates bodies, applies the chat template, tokenises, and turns the
 * scheduler's events back into JSON or server-sent events. No sockets, no threads, no
 * clock but stamps. This folder is the only one that knows HTTP status numbers.
 *
 * Every field stands in the table of fields.c, the document of GET /openapi.json is made
 * from it. Depth is an extra beside the standard fields: "depths" of a choice (or a part, or
 * a delta) are the loops of its tokens, "depth" that of one logprobs entry; "token_ids"
 * likewise. A model without a tokenizer takes token ids, and answers with text "" and
 * "token_ids". In the log-probabilities the tokens' strings join to the text, so a token that
 * ends inside a character, or is a control token, has an empty one.
 *
 * Threading: an api_context is read-only after open and shared by threads; a request and
 * its reply belong to one thread at a time (parsing may happen on a worker, the rest on
 * the loop). */
#ifndef FATHOM_API_H
#define FATHOM_API_H

#include "model/model.h"
#include "scheduler/scheduler.h"
#include "text/jinja.h"
#include "text/tokenizer.h"

/* ---- what is served ---- */

typedef struct {
    const char *model_dir;
    const char *chat_template;   /* a name or a file, instead of the folder's; NULL: none */
    const char *served_name;     /* id in /v1/models; NULL = the folder's last name */
    const model_folder *model;   /* borrowed, as is the tokenizer, for the context's life */
    tokenizer *tokenizer;        /* NULL: token-id prompts only; opening marks control tokens */
    const char *no_tokenizer;    /* why there is none, for those who send text; NULL: no reason */
    uint32_t max_context;        /* prompt + output tokens */
    uint32_t default_max_tokens; /* when a request names none (completions: 16, chat: this) */
    uint32_t max_n, max_prompts; /* choices per prompt, prompts per request */
    uint32_t ceiling_loops;      /* most loops a request may ask for */
    uint64_t max_request_tokens; /* prompts x n x max_tokens together */
    size_t max_body_bytes;
    bool control_ids;    /* token-id prompts may hold control tokens */
    bool special_tokens; /* text prompts that spell one have it */
    /* How the model runs: loops of a token that asks for none, what halted positions are to
     * deeper loops, and when a token leaves. false: as its plan says. */
    bool own_run;
    uint32_t default_loops;
    kv_policy halted_kv;
    exit_rule exit;
    float threshold; /* of `exit` */
} api_opts;          /* zero = the default of each */

typedef struct api_context api_context;
/* Reads generation_config.json, tokenizer_config.json and config.json (end tokens, default
 * sampling, chat template) beside the model. What cannot be used is warned of. ERR_USAGE where
 * chat_template is at fault. */
int api_context_open(api_context **out, const api_opts *opts, err *e) WARN_UNUSED;
void api_context_close(api_context *ctx);
const char *api_model_name(const api_context *ctx);
/* End tokens of the model, from all those files, for commands that drive the scheduler. */
const uint32_t *api_stop_ids(const api_context *ctx, uint32_t *n);
/* The ids of a text prompt: the model's first token, if it has one, then those of the text,
 * with special tokens read as such. Needs a tokenizer. */
int api_prompt_ids(const api_context *ctx, const char *text, size_t n, token_ids *out,
                   err *e) WARN_UNUSED;

/* ---- requests ---- */

typedef enum { API_COMPLETION, API_CHAT, API_RESPONSES } api_kind;

typedef struct api_request api_request;
/* Checks everything that can be refused before the first byte goes out: JSON, types,
 * ranges, model name, template, tokens, context. On failure e->param names the field.
 * May be called on a worker thread; takes at most a few ms per 100 KB of prompt. */
int api_parse(api_request **out, const api_context *ctx, api_kind kind, const char *body, size_t n,
              err *e) WARN_UNUSED;
/* The same of a short body on the loop: 1, and nothing else happened, where the chat template
 * takes so much work that it belongs on a worker. */
int api_parse_soon(api_request **out, const api_context *ctx, api_kind kind, const char *body,
                   size_t n, err *e) WARN_UNUSED;
void api_request_destroy(api_request *req);
bool api_wants_stream(const api_request *req);
uint64_t api_prompt_tokens(const api_request *req);
size_t api_request_bytes(const api_request *req); /* held: prompts' ids, texts, grammar */
bool api_wants_priority(const api_request *req, int32_t *priority); /* false: it names none */

/* ---- replies: one per request, holding its choices ---- */

typedef struct api_reply api_reply;
/* request_id: X-Request-Id of the client, already checked, or NULL for a new one. */
int api_reply_create(api_reply **out, const api_context *ctx, api_request *steal_request,
                     const char *request_id, err *e) WARN_UNUSED;
void api_reply_destroy(api_reply *reply);
const char *api_reply_id(const api_reply *reply);     /* "cmpl-…", "chatcmpl-…", "resp_…" */
uint32_t api_reply_sequences(const api_reply *reply); /* to submit: prompts × n */
/* Fills what to submit for sequence i; pointers live as long as the reply. */
void api_reply_request(const api_reply *reply, uint32_t i, sched_request *out);

enum {
    API_CANCEL = 1, /* this sequence hit a stop string: cancel it in the scheduler */
    API_DONE = 2,   /* every choice has ended: nothing more is fed */
    API_FAILED = 4, /* the answer ends with an error: a stream must be cut without its last chunk */
    API_MORE = 8,   /* bytes wait in the reply: call api_reply_more until it returns false */
};
/* Feeds an event of sequence i. A sequence that hit a stop string still has to bring its
 * SCHED_END (what it executed is told there), so cancel it and go on feeding. Returns API_* bits.
 * - An answer that does not stream appends nothing to out: API_DONE comes with API_MORE, and
 *   api_reply_more writes the whole body.
 * - A stream appends whole SSE events, unless one is longer than a slice (an echoed prompt with
 *   log-probabilities, instructions of megabytes, the last events of a long response): then it
 *   appends a slice and returns API_MORE. Further events may be fed before the rest is taken:
 *   they are kept and written behind it. Nothing else may be put into the stream while
 *   api_reply_more returns true, for an event may be half written.
 * - With API_FAILED before anything was streamed, *e says what to answer instead; a stream that
 *   fails within an event ends there.
 * Late events of a sequence that ended here are ignored. Loop thread. */
unsigned api_reply_event(api_reply *reply, uint32_t i, const sched_event *ev, buf *out, err *e);
/* Writes what waits. Appends about `want` bytes to out: at least one piece where any waits, at
 * most one piece more than `want`; a piece is one token's entry or a few hundred bytes of text,
 * so that the loop is never held. Returns true while more is to come. False with out->failed:
 * memory ran out and the answer is not whole. Loop thread. */
bool api_reply_more(api_reply *reply, buf *out, size_t want);
/* Bytes this reply holds now: its request, texts, tokens, alternatives. Kept, not summed. */
size_t api_reply_bytes(const api_reply *reply);
/* Ends an answer for a reason of the server's own (drain, deadline). A stream that has begun
 * gets the error as its last event. Returns API_FAILED, or 0 if the answer was over. */
unsigned api_reply_fail(api_reply *reply, const err *why, buf *out);
void api_reply_usage(const api_reply *reply, uint64_t *prompt, uint64_t *output);

/* ---- errors ---- */
unsigned api_status(const err *e); /* HTTP status of a failure */
/* {"error":{"message","type","param","code"}} */
void api_error_body(buf *out, const err *e);
/* The same for failures that only HTTP knows (404, 405, 401, 411, 413, 415, 431, …).
 * code may be NULL. */
void api_http_error_body(buf *out, unsigned status, const char *message, const char *code);

/* ---- the small routes; models append a JSON body ---- */
void api_models(const api_context *ctx, buf *out); /* GET /v1/models */
int api_model(const api_context *ctx, const char *id, buf *out, err *e) WARN_UNUSED;

/* Answers of /tokenize and /detokenize. A text or list of ids longer than the context is refused
 * as a prompt would be (ERR_TOO_LONG), and all those of one call may not hold more than max_prompts
 * such texts. Any thread makes one; it belongs to one thread at a time. */
typedef struct api_listing api_listing;
int api_tokenize(api_listing **out, const api_context *ctx, const char *body, size_t n,
                 err *e) WARN_UNUSED;
int api_tokenize_soon(api_listing **out, const api_context *ctx, const char *body, size_t n,
                      err *e) WARN_UNUSED; /* as api_parse_soon */
int api_detokenize(api_listing **out, const api_context *ctx, const char *body, size_t n,
                   err *e) WARN_UNUSED;
bool api_listing_more(api_listing *listing, buf *out, size_t want); /* as api_reply_more */
size_t api_listing_bytes(const api_listing *listing);
void api_listing_destroy(api_listing *listing);

void api_openapi(buf *out); /* GET /openapi.json */
/* The same, made by the first call and kept for the process's life; NULL when memory ran out.
 * Loop thread. */
const buf *api_openapi_kept(void);

/* ---- chat templates without a model ---- */

typedef struct api_chat api_chat;
/* The chat template of a folder, found as api_context_open finds it. Borrows t. ERR_NOT_FOUND where
 * there is none, ERR_BAD_FILE for one that cannot be used. */
int api_chat_open(api_chat **out, const char *dir, const char *chat_template, tokenizer *tok,
                  err *e) WARN_UNUSED;
void api_chat_close(api_chat *chat);
/* The text and the ids of a conversation: a list of messages, or a body as /tokenize takes it. */
int api_chat_render(const api_chat *chat, const char *body, size_t n, jinja_output *text,
                    token_ids *ids, err *e) WARN_UNUSED;

/* ---- text pieces that commands share ---- */

/* Turns token ids into whole UTF-8: bytes of an unfinished character wait for the next
 * token; bytes that can never become one turn into U+FFFD. Special tokens give nothing. */
typedef struct {
    unsigned char pending[4];
    uint8_t n_pending;
} api_utf8;
void api_utf8_token(api_utf8 *utf8, const tokenizer *tok, uint32_t id, buf *out);
void api_utf8_finish(api_utf8 *utf8, buf *out); /* what is pending becomes U+FFFD */

#endif

/* dialect_internal.h - a dialect: the wire format of a request and its answer.
 *
 * A dialect is one file in dialects/ and a row in endpoints.c. It says which fields it has, brings
 * its own fields into the common form of api__values, and writes answers and errors in its shape.
 * parse.c and reply.c do everything else for all dialects alike. */
#ifndef FATHOM_API_DIALECT_INTERNAL_H
#define FATHOM_API_DIALECT_INTERNAL_H

#include "api/reply_internal.h"

/* An error as a client sees it. */
typedef struct {
    unsigned status;
    const char *message, *type, *param, *code; /* param and code may be NULL */
    uint64_t have, limit;                      /* tokens of a prompt that is too long; 0: none */
} api__fault;

struct api_dialect {
    const char *schema;  /* name of its request in GET /openapi.json: "ChatRequest" */
    const char *input;   /* the required field: "messages" */
    const char *id_head; /* of the answer's id: "chatcmpl-" */
    const char *object,
        *chunk_object;        /* of answers that are a list of choices; NULL: they are not */
    unsigned groups;          /* of shared fields: API__EVERY, ... */
    const api__field *fields; /* its own */
    size_t n_fields;
    size_t values_bytes; /* of its struct of values; it begins with api__values */
    bool flat;           /* members of a function or a schema stand beside its type */
    bool keeps_tokens;   /* the end of a stream repeats data of single tokens */
    uint32_t max_tokens; /* default limit of an answer; 0: the server's */

    /* Reading. `prepare` checks the dialect's own fields and brings them into the common form.
     * `read_input` makes the prompts; 1: a template takes too much work for the loop thread.
     * `finish` may be NULL; it is called last. */
    int (*prepare)(api_request *req, const api_context *ctx, api__values *values, err *e);
    int (*read_input)(api_request *req, const api_context *ctx, const api__values *values, err *e);
    int (*finish)(api_request *req, const api__values *values, err *e);

    /* Writing. Each `begin_` function points reply->cursor at steps: for a chunk of one choice
     * (false: the choice has no new data), for the end of a stream, for a whole answer. */
    bool (*begin_chunk)(api_reply *reply, api__choice *choice);
    void (*begin_end)(api_reply *reply);
    void (*begin_body)(api_reply *reply);
    /* An error as the body of an answer, and as the last event of a stream. */
    void (*error_body)(buf *out, const api__fault *fault);
    void (*error_event)(buf *out, api_reply *reply, const api__fault *fault);
};

/* The token limit of completion and chat, from its two names. */
void api__take_limit(api__values *values);

/* ---- answers that are a list of choices: completion and chat ---- */

/* The index of the step that opens a choice in the steps of a whole answer. */
enum { API__CHOICE_OPEN = 1 };
void api__write_finish(buf *out, const api_reply *reply, const api__choice *choice, bool finished);
void api__write_usage(buf *out, const api_reply *reply);
void api__open_chunk(buf *out, const api_reply *reply); /* up to the choice's "index" */
/* Opens a choice of a whole answer, up to its index, and points the cursor at all of its text. */
void api__open_choice(buf *out, api_reply *reply);
/* Number of tokens with their text completely ready; all of them at the end. */
uint32_t api__tokens_due(const api__choice *choice, bool finished);
/* Drops the first n tokens, and text once it is sent and belongs to no kept token. */
void api__drop_written(const api_reply *reply, api__choice *choice, uint32_t n);
/* False: the lists about single tokens are left out, and their steps need not be called. */
static inline bool api__lists_tokens(const api_request *req) {
    return req->logprobs || req->return_ids || req->return_depth;
}
/* Steps. */
bool api__step_chunk_close(buf *out, api_reply *reply, size_t end);
bool api__step_body_open(buf *out, api_reply *reply, size_t end);
bool api__step_choice_close(buf *out, api_reply *reply, size_t end);
bool api__step_body_close(buf *out, api_reply *reply, size_t end);
void api__begin_done(api_reply *reply); /* the end of a stream: usage if asked for, "[DONE]" */

/* ---- answers with events for their parts: responses and messages ---- */

/* Steps of the events: the first of the stream; a part opens, grows, closes. */
typedef struct {
    const api__step *start, *opens, *grows, *closes;
} api__part_events;
/* Begins the next event. False: no part has anything new. */
bool api__begin_part_event(api_reply *reply, api__choice *choice, const api__part_events *events);
/* Steps: the end of an event, and of one with a part's new bytes. */
bool api__step_event_close(buf *out, api_reply *reply, size_t end);
bool api__step_delta_close(buf *out, api_reply *reply, size_t end);

/* ---- Anthropic's content blocks ---- */

bool api__is_type(const json_t *object, const char *type); /* its "type" is this */
/* Messages with content blocks as messages of chat completions, behind the system message (NULL:
 * none): a new reference. *open_last: the last message is the assistant's and waits for nothing.
 * NULL: see e. */
json_t *api__chat_messages(const json_t *messages, const json_t *system, bool *open_last, err *e);

/* ---- the small endpoints of a dialect ---- */

/* An answer of a small endpoint with a known text. Frees the text in any case. */
int api__listing_of(api_listing **out, const api_context *ctx, buf *steal_text, err *e) WARN_UNUSED;
int api__count_tokens(api_listing **out, const api_context *ctx, const char *body, size_t n,
                      bool soon, err *e) WARN_UNUSED; /* POST /v1/messages/count_tokens */
/* POST /v1/completions/render and /v1/chat/completions/render: the token ids of each prompt. The
 * dialect reads and checks the body as for a run. many: the answer is a list. */
int api__render(api_listing **out, const api_context *ctx, const api_dialect *dialect, bool many,
                const char *body, size_t n, bool soon, err *e) WARN_UNUSED;
int api__render_completion(api_listing **out, const api_context *ctx, const char *body, size_t n,
                           bool soon, err *e) WARN_UNUSED;
int api__render_chat(api_listing **out, const api_context *ctx, const char *body, size_t n,
                     bool soon, err *e) WARN_UNUSED;

/* ---- errors ---- */

/* OpenAI's {"error": {"message", "type", "param", "code"}}, and the same as an event of data. */
void api__openai_error(buf *out, const api__fault *fault);
void api__openai_error_event(buf *out, api_reply *reply, const api__fault *fault);
/* The fault that shows an error to clients. It borrows from e. */
api__fault api__fault_of(const err *e);

#endif

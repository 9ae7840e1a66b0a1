/* reply_internal.h - replies: the choices of an answer, and the steps that write them. */
#ifndef FATHOM_API_REPLY_INTERNAL_H
#define FATHOM_API_REPLY_INTERNAL_H

#include "api/request_internal.h"

/* ---- replies ---- */

typedef struct {
    uint32_t id;
    uint32_t text_end; /* in the choice's text; the next token's text begins here */
    float logprob;
    uint16_t depth;
    uint8_t n_top;
} api__token;

typedef enum { API__RUNNING, API__FINISHED, API__ENDED } api__state;

/* Output is written by a list of steps that ends with NULL. A step appends pieces until it is
 * complete (returns true) or out->len has reached `end` (returns false and is called again with the
 * cursor as it left it). */
typedef bool (*api__step)(buf *out, api_reply *reply, size_t end);

typedef struct {
    const api__step *steps; /* the current list; NULL: nothing is being written */
    uint32_t step;
    /* State within one step; zero when a step begins. */
    bool open, comma; /* the list or string is open; the next entry needs a comma */
    uint32_t token;   /* index of the next entry */
    size_t byte;      /* offset of the next byte in the string */
    uint64_t chars;   /* characters before the next entry */
    /* The part of the choice to write. Fixed at the start, because events may arrive meanwhile. */
    uint32_t choice;
    uint32_t from_token, to_token; /* tokens [from_token, to_token) */
    size_t from, to;               /* bytes [from, to) of the content or of the calls' arguments */
    bool call, finished, mute;     /* mute: write no text, not even an empty one */
    uint32_t n_call;               /* the call to write, if `call` */
    uint32_t item;                 /* responses: the item to write */
} api__cursor;

typedef struct {
    uint32_t index;
    const api__prompt *prompt;
    api__state state; /* FINISHED: the reason is known; ENDED: the scheduler has released it too */
    api_utf8 utf8;
    api__matcher stop;
    api__constraint *constraint; /* makes masks for the scheduler; NULL: none */
    buf text;           /* a stream drops bytes once they are sent and belong to no kept token */
    size_t scanned;     /* bytes seen by the stop matcher */
    size_t ready;       /* bytes that can no longer become a stop string */
    size_t sent;        /* bytes of the content already written; 0 unless streaming */
    size_t tokens_at;   /* start of the text of tokens[0] */
    uint64_t chars;     /* characters before tokens_at, for text_offset */
    api__token *tokens; /* kept but not written yet; NULL: not asked for */
    eng_top *tops;      /* [cap_tokens][n_top] */
    uint32_t n_tokens, cap_tokens, cap_tops;
    uint32_t n_scored;  /* how many of the first tokens belong to the prompt */
    uint32_t n_written; /* responses keep written tokens */
    uint64_t n_output;
    api__answer answer;  /* used if the request has tools */
    uint32_t sent_calls; /* calls already written completely */
    size_t sent_args;    /* bytes written of the next call's arguments, from the start of args */
    bool call_opened;    /* the next call's name was written */
    bool message_opened; /* responses: the message's first events were written */
    bool echoed;         /* the prompt's text was added */
    bool opened, closed; /* streams: the first chunk, and the chunk with the reason, were written */
    sched_finish finish;
    int stop_hit; /* index of the stop string, or -1 */
    bool has_stop_id;
    uint32_t stop_id; /* one of the request's own */
} api__choice;

struct api_reply {
    const api_context *ctx;
    api_request *req;
    char *id;
    int64_t created;
    buf prefix; /* of every chunk, up to "index": */
    api__choice *choices;
    api__workspace *workspace; /* shared by the constraints; NULL: none */
    uint32_t n_choices, n_ended;
    bool keeps_prompt, keeps_output;  /* data of single tokens was asked for */
    uint8_t prompt_tops, output_tops; /* alternatives kept with each token */
    uint64_t n_output, n_cached, prompt_loops, output_loops; /* sums over the choices */
    size_t bytes;                                            /* held now */
    api__cursor cursor;
    uint32_t current;  /* index of the choice to look at next */
    bool behind;       /* other choices may have data too, from events during a long write */
    uint64_t n_events; /* responses: the next sequence_number */
    bool begun;        /* responses: response.created was written */
    bool started, failed, done, closed; /* closed: the end is written or being written */
};

/* The answer's text without calls, and how much of it is certain. */
static inline const buf *api__content(const api_reply *reply, const api__choice *choice) {
    return reply->req->calls == API__CALLS_NONE ? &choice->text : &choice->answer.said;
}
static inline size_t api__content_end(const api_reply *reply, const api__choice *choice) {
    return reply->req->calls == API__CALLS_NONE ? choice->ready : choice->answer.said.len;
}
/* The first call that a stream has not written completely, or NULL. */
static inline const api__call *api__next_call(const api__choice *choice) {
    if (choice->sent_calls == choice->answer.n_calls) return NULL;
    const api__call *call = &choice->answer.calls[choice->sent_calls];
    return choice->call_opened && choice->sent_args == call->args_end ? NULL : call;
}
/* The cursor has written the next call up to cursor.to. */
void api__call_sent(api_reply *reply, api__choice *choice);
/* Points the cursor at the answer's text, or at the arguments of one of its calls. */
void api__at_content(api_reply *reply, const api__choice *choice);
void api__at_call(api_reply *reply, const api__choice *choice, uint32_t n_call);
/* Writes HEAD and an id of the choice's call as a JSON string, such as "call_…". */
void api__write_call_id(buf *out, const api_reply *reply, const api__choice *choice,
                        uint32_t n_call, const char *head);
void api__write_call_name(buf *out, const api_reply *reply, const api__choice *choice,
                          uint32_t n_call);

static inline api__choice *api__chosen(api_reply *reply) { /* the choice at the cursor */
    return &reply->choices[reply->cursor.choice];
}
/* Frees the tokens and text of a choice after it is written. */
void api__forget_choice(api_reply *reply, api__choice *choice);
size_t api__choice_bytes(const api__choice *choice); /* of its growing parts */
/* Index in choice->tops of the alternatives of token i. */
static inline size_t api__tops_at(const api_reply *reply, const api__choice *choice, uint32_t i) {
    uint32_t prompt = i < choice->n_scored ? i : choice->n_scored;
    return (size_t)prompt * reply->prompt_tops + (size_t)(i - prompt) * reply->output_tops;
}

/* The cursor's text as a JSON string. */
bool api__step_text(buf *out, api_reply *reply, size_t end);
/* Lists about the cursor's tokens, with their keys. Without a request for it a list is left out. */
bool api__step_chat_logprobs(buf *out, api_reply *reply, size_t end);
/* From here to api__step_logprob_depths: the members of a completion's logprobs. */
bool api__step_texts(buf *out, api_reply *reply, size_t end);
bool api__step_logprobs(buf *out, api_reply *reply, size_t end);
bool api__step_tops(buf *out, api_reply *reply, size_t end);
bool api__step_offsets(buf *out, api_reply *reply, size_t end);
bool api__step_logprob_depths(buf *out, api_reply *reply, size_t end);
bool api__step_ids(buf *out, api_reply *reply, size_t end);
bool api__step_depths(buf *out, api_reply *reply, size_t end);
bool api__step_prompt_logprobs(buf *out, api_reply *reply, size_t end);

/* Parts of steps. */
/* A JSON string of any length; bytes copied as they are. */
bool api__write_string(buf *out, api__cursor *cursor, const char *text, size_t n, size_t end);
bool api__write_raw(buf *out, api__cursor *cursor, const char *text, size_t n, size_t end);
/* `key` (it opens a list), the entries of the cursor's tokens, and "]". */
typedef void (*api__entry)(buf *out, api_reply *reply, const api__choice *choice, uint32_t i);
bool api__write_list(buf *out, api_reply *reply, const char *key, api__entry entry, size_t end);
bool api__write_no_list(buf *out, const char *key);
void api__entry_chat(buf *out, api_reply *reply, const api__choice *choice, uint32_t i);

void api__write_prefix(buf *out, const api_reply *reply);
void api__write_uint(buf *out, uint64_t value);
void api__write_logprob(buf *out, float value);

#endif

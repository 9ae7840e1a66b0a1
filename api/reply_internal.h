/* reply_internal.h - replies: the choices of an answer, and the steps that write them. */
#ifndef FATHOM_API_REPLY_INTERNAL_H
#define FATHOM_API_REPLY_INTERNAL_H

#include "api/grammar/after_thought_internal.h"

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
    uint8_t kind;                  /* api__part_kind: where the bytes are */
    uint32_t part, n_call;         /* index of the part; of its call, if it is one */
    size_t from, to;     /* bytes [from, to) of the text, the reasoning or the arguments */
    bool finished, mute; /* mute: write no text, not even an empty one */
    bool raw;            /* messages: the bytes are JSON, and not the text of a string */
} api__cursor;

/* The drafted tokens of a choice. ids[0] follows the newest token. */
typedef struct {
    uint32_t ids[SCHED_MAX_DRAFTS], n;
    bool fresh; /* the last chunk does not show them as they are now */
} api__drafts;

typedef struct {
    uint32_t index;
    const api__prompt *prompt;
    api__state state; /* FINISHED: the reason is known; ENDED: the scheduler has released it too */
    api_utf8 utf8;
    api__matcher stop;
    api__constraint *constraint;       /* makes masks for the scheduler; NULL: none */
    api__after_thought *after_thought; /* stands around the constraint; NULL: no marks */
    buf text;           /* a stream drops bytes once they are sent and belong to no kept token */
    size_t scanned;     /* bytes seen by the stop matcher */
    size_t ready;       /* bytes that can no longer become a stop string */
    uint32_t part;      /* streams: index of the part being written */
    bool part_opened;   /* streams: the beginning of that part was written */
    size_t sent;        /* streams: how far that part was written */
    size_t tokens_at;   /* start of the text of tokens[0] */
    uint64_t chars;     /* characters before tokens_at, for text_offset */
    api__token *tokens; /* kept but not written yet; NULL: not asked for */
    eng_top *tops;      /* [cap_tokens][n_top] */
    uint32_t n_tokens, cap_tokens, cap_tops;
    uint32_t n_scored;  /* how many of the first tokens belong to the prompt */
    uint32_t n_written; /* responses keep written tokens */
    uint64_t n_output;
    api__answer answer; /* used if the answer is taken apart */
    api__thinker thinker;
    api__drafts *drafts; /* NULL: the client asked for none */
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
    uint64_t unique; /* random: makes the ids of the answer and its items unique */
    int64_t created;
    buf prefix; /* of every chunk, up to "index": */
    api__choice *choices;
    api__workspace *workspace; /* shared by the constraints; NULL: none */
    uint32_t n_choices, n_ended;
    bool keeps_prompt, keeps_output;  /* data of single tokens was asked for */
    uint8_t prompt_tops, output_tops; /* alternatives kept with each token */
    /* Sums over the choices. n_thought: tokens of reasoning. */
    uint64_t n_output, n_thought, n_cached, prompt_loops, output_loops;
    size_t bytes; /* held now */
    api__cursor cursor;
    uint32_t current; /* index of the choice to look at next */
    bool behind; /* other choices may have data too: drafts, or from events during a long write */
    bool pulled; /* the caller asks for more, so its reader has taken what it got before */
    uint64_t n_events;                  /* responses: the next sequence_number */
    bool begun;                         /* responses: response.created was written */
    bool started, failed, done, closed; /* closed: the end is written or being written */
};

/* ---- the parts of an answer ---- */

/* Whether answers to this request are taken apart. Otherwise an answer is one part: its text. */
static inline bool api__splits(const api_request *req) {
    return req->calls != API__CALLS_NONE || req->marks;
}
uint32_t api__n_parts(const api_reply *reply, const api__choice *choice);
/* Points the cursor at one part as it stands now, or at all text or all reasoning. */
void api__at_part(api_reply *reply, const api__choice *choice, uint32_t i);
void api__at_all(api_reply *reply, const api__choice *choice, api__part_kind kind);
/* What a stream writes next of a choice's parts. A part opens, grows and closes before the next one
 * opens. Points the cursor at the part; for API__GROWS at its bytes that were not written yet. */
typedef enum { API__NOTHING, API__OPENS, API__GROWS, API__CLOSES } api__phase;
api__phase api__next_phase(api_reply *reply, api__choice *choice);
void api__part_opened(api__choice *choice); /* call after API__OPENS was written */
void api__part_closed(api__choice *choice); /* call after API__CLOSES was written */
/* True if a running choice has data that a stream has not written. */
bool api__has_fresh(const api_reply *reply, const api__choice *choice);
size_t api__answer_bytes(const api__answer *answer); /* held by its buffers and lists */
/* Bytes of a choice's growing parts. */
static inline size_t api__choice_bytes(const api__choice *choice) {
    size_t bytes = choice->text.cap + choice->cap_tokens * sizeof *choice->tokens +
                   choice->cap_tops * sizeof *choice->tops;
    return choice->answer.cap_parts ? bytes + api__answer_bytes(&choice->answer) : bytes;
}

/* Appends the text of a token, as the answer shows it. */
void api__token_text(const api_reply *reply, const api__choice *choice, uint32_t id, api_utf8 *utf8,
                     buf *out);

/* ---- drafted tokens ---- */

int api__drafts_create(api_reply *reply, err *e) WARN_UNUSED; /* where the request asks for them */
void api__draft_named(api__choice *choice, const sched_event *ev); /* a SCHED_DRAFT event */
/* A token came: confirms the first drafted token, or drops all. Call before it is counted. */
void api__draft_judged(api__choice *choice, uint32_t token);
/* True if a stream has to show other drafts than it does, or none any more. */
static inline bool api__draft_due(const api__choice *choice) {
    return choice->drafts && choice->drafts->fresh && choice->opened &&
           choice->state == API__RUNNING;
}
/* The member "draft" of a chunk, or "draft_token_ids" without a tokenizer, with a comma before it;
 * nothing without drafts. A reader that has much to read still gets none for now, so that drafts
 * take no memory. */
void api__write_draft(buf *out, const api_reply *reply, api__choice *choice);

/* Writes an id as a JSON string: HEAD, the answer's own random part, the choice and `i`, such as
 * "call_9f86d081884c7d65_0_1". */
void api__write_item_id(buf *out, const api_reply *reply, const api__choice *choice, uint32_t i,
                        const char *head);
void api__write_call_name(buf *out, const api_reply *reply, const api__choice *choice,
                          uint32_t n_call);

static inline api__choice *api__chosen(api_reply *reply) { /* the choice at the cursor */
    return &reply->choices[reply->cursor.choice];
}
/* slices.c: api_reply_more, but without chunks that only show drafts unless reply->pulled. */
bool api__write_more(api_reply *reply, buf *out, size_t want);
/* Frees the tokens and text of a choice after it is written. */
void api__forget_choice(api_reply *reply, api__choice *choice);
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
/* The member "warnings", with a comma before it; nothing unless the server tells them. */
void api__write_warnings(buf *out, const api_reply *reply);
void api__write_uint(buf *out, uint64_t value);
void api__write_logprob(buf *out, float value);

#endif

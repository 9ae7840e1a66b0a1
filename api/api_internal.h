/* api_internal.h - what the files of api/ share; nobody else includes it but tests. */
#ifndef FATHOM_API_INTERNAL_H
#define FATHOM_API_INTERNAL_H

#include "api/api.h"
#include "api/grammar/constrain_internal.h"
#include "text/jinja.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Ceilings of one request that no option changes (reliability.md, rows P and J). */
enum {
    API__MAX_STOPS = 4,
    API__MAX_STOP_BYTES = 64,
    API__MAX_STOP_IDS = 16,
    API__MAX_BIAS = 300,
    API__MAX_MESSAGES = 1000,
    API__MAX_NAME_BYTES = 128, /* model, user */
    API__MAX_LABEL_BYTES = 64, /* request_id, cache_salt */
    API__MAX_ENDS = 64,        /* end tokens of a model */
    API__MAX_KWARGS = 64,      /* of chat_template_kwargs */
    API__MAX_SCORED = 1 << 21, /* tokens and alternatives kept until one answer is written */
    API__SLICE = 16 << 10,     /* bytes that one event adds to a stream; more waits */
    API__MAX_DEPTH = 64,       /* nesting of a body */
    API__MAX_STRUCTURAL = 200000,
};

/* ---- chat templates ---- */

typedef enum {
    API__SYSTEM,
    API__DEVELOPER,
    API__USER,
    API__ASSISTANT,
    API__TOOL,
    API__ROLES
} api__role;
extern const char *const api__role_names[API__ROLES + 1]; /* NULL at the end */

/* One turn of a conversation as it was read. */
typedef struct {
    api__role role;
    const char *text; /* content; borrowed */
    size_t len;
    const json_t *content; /* the same, where a client's string is all of it; NULL: text */
    const json_t *said;    /* what else the client wrote: name, tool_call_id, …; NULL: nothing */
    const json_t *calls;   /* of functions, as templates want them; NULL: none */
} api__message;

/* What a template does with a conversation: found by rendering some, when it is opened. */
typedef struct {
    bool system;        /* it prints a system message */
    bool refuses;       /* it refuses one in words of its own */
    bool developer;     /* it knows this role; else it is system's new name */
    bool parts;         /* contents must be lists of parts */
    bool tools;         /* it tells the model of the functions */
    bool calls, result; /* it prints calls; what a function gave back */
    bool text_calls;    /* arguments must be the text of an object, not the object */
    bool null_content;  /* an answer that is a call must have no content at all */
} api__traits;

typedef struct api__template api__template;

/* What is rendered. */
typedef struct {
    const json_t *messages; /* as templates want them */
    const json_t *tools;    /* in chat's shape; NULL: none */
    const json_t *kwargs;   /* the client's, checked; NULL: none */
    bool generation;        /* the opening of an answer follows */
    bool open_last;         /* the last content ends in API__OPEN_END, and the text is cut there */
    bool soon;              /* on the loop: little work, or it is given up */
    size_t max_memory;      /* bytes that rendering may take; 0: the default */
} api__talk;
#define API__OPEN_END "CONTINUE_FINAL_MESSAGE_TAG " /* its blank tells who trims */

/* Finds the model's template: `chosen` (--chat-template: a name or a file; may be NULL), else
 * chat_template.fathom.json, chat_template.jinja and additional_chat_templates in the folder, else
 * what tokenizer_config.json (config, may be NULL) has. Marks the control tokens that it names.
 * *out is NULL, and the call succeeds, for a model without any. One that cannot be used is warned
 * of; api__template_broken then says why. ERR_USAGE where `chosen` is at fault. */
int api__template_open(api__template **out, const char *dir, const char *chosen,
                       const json_t *config, tokenizer *tok, err *e) WARN_UNUSED;
void api__template_close(api__template *tmpl);
const char *api__template_name(const api__template *tmpl);   /* "chatml", "chat_template.jinja" */
const char *api__template_broken(const api__template *tmpl); /* NULL: it can be used */
/* Of conversations with functions, and of those without. */
const api__traits *api__template_traits(const api__template *tmpl, bool tools);
/* Ids that end an answer in this template. */
const uint32_t *api__template_stops(const api__template *tmpl, uint32_t *n);
/* The name of a variable that clients may not set. */
bool api__template_reserves(const api__template *tmpl, const char *name);
/* The text of a conversation, and whose each byte is. 1: not that soon. ERR_BAD_PARAM. */
int api__template_render(const api__template *tmpl, const api__talk *talk, jinja_output *out,
                         err *e) WARN_UNUSED;
/* Appends its ids: control ids come from the template's own text alone. */
int api__template_ids(const tokenizer *tok, const jinja_output *text, token_ids *out,
                      err *e) WARN_UNUSED;

/* Appends the Jinja text that a description in chat_template.fathom.json means, and its ends.
 * ERR_BAD_FILE. */
int api__template_describe(buf *out, const char *json, size_t n, const tokenizer *tok,
                           const char *what, token_ids *ends, err *e) WARN_UNUSED;
/* A template inside the binary; NULL if none has this name. */
const char *api__template_named(const char *name, size_t *n);
void api__template_names(buf *out); /* "turns, chatml, llama3, plain" */

/* The messages as a template of these traits wants them: a new reference, or NULL (no memory). */
json_t *api__talk_messages(const api__traits *traits, const api__message *msgs, size_t n,
                           bool open_last);
/* [{"type": "text", "text": content}]; takes over content. NULL: no memory. */
json_t *api__talk_parts(json_t *content);
/* A call as templates want it: arguments as an object where they are the text of one. NULL: no
 * memory, or nobody waits any more. */
json_t *api__talk_call(const api__traits *traits, const json_t *id, const json_t *name,
                       const json_t *arguments, err *e);

/* ---- context ---- */

struct api_context {
    api_opts opts; /* zeros replaced by defaults; strings below, not the caller's */
    char *name, *no_tokenizer;
    const model_plan *plan;
    api__template *template; /* NULL: no chat */
    uint32_t *stop_ids;
    uint32_t n_stop_ids;
    bool add_bos;
    uint32_t bos_id;
    eng_sampling defaults; /* generation_config.json over the neutral values */
    uint64_t hash_key[4];  /* random; for cache_salt */
    int64_t created;
    api__vocab *vocab; /* NULL: answers cannot be constrained (no tokenizer, or no end token) */
};

/* Adds one end token of the model, once. `file` named it, and is named in a warning. */
void api__add_end(api_context *ctx, uint32_t id, const char *file);
/* Adds the end tokens that a file names: an id or a list of them. */
void api__read_ends(api_context *ctx, const json_t *eos, const char *file);
/* Adds the end tokens of the plan (config.json), which count only if no other file named one. */
void api__add_config_ends(api_context *ctx);

/* ---- stop strings ---- */

typedef struct {
    const char *text;
    uint8_t len;
    uint8_t fail[API__MAX_STOP_BYTES]; /* longest border of each prefix, as in Knuth-Morris-Pratt */
} api__stop;

typedef struct {
    const api__stop *stops; /* borrowed */
    uint8_t n_stops;
    uint8_t state[API__MAX_STOPS]; /* bytes of each stop string that the text's end matches */
} api__matcher;

void api__stop_init(api__stop *stop, const char *text,
                    size_t n); /* 1 <= n <= API__MAX_STOP_BYTES */
/* Feeds bytes up to and including the first that completes a stop string. Returns the
 * number of bytes eaten; *hit is that stop (the longest, if several end there) or -1. */
size_t api__stop_feed(api__matcher *matcher, const char *bytes, size_t n, int *hit);
size_t api__stop_held(const api__matcher *matcher); /* bytes at the end that may still become one */

/* ---- calls of functions in an answer ---- */

/* Whether answers may be calls: never, if the model likes, always. */
typedef enum { API__CALLS_NONE, API__CALLS_AUTO, API__CALLS_FORCED } api__calls;
/* What an answer is so far: perhaps a call, no call, a call with arguments under way, whole. */
typedef enum { API__CALL_HEAD, API__CALL_NONE, API__CALL_ARGS, API__CALL_WHOLE } api__call_phase;

typedef struct {
    api__call_phase phase;
    size_t at;           /* bytes of the text that were looked at */
    size_t string;       /* the string under way began here */
    size_t name, n_name; /* all are places in the choice's text, which is kept */
    size_t args, args_end;
    uint32_t depth;
    uint8_t step; /* of what stands before the arguments */
    uint8_t tag;  /* bytes of a tag that stands before it all */
    bool in_string, escaped;
    bool told; /* a stream has said which function */
} api__call;

/* ---- requests ---- */

typedef struct {
    uint32_t *ids; /* in the request's arena, as is everything below */
    uint32_t n_ids;
    uint32_t max_tokens;
} api__prompt;

struct api_request {
    api_kind kind;
    arena mem;
    api__prompt *prompts;
    uint32_t n_prompts, n_per_prompt; /* choices for each prompt */
    uint64_t prompt_tokens;
    eng_sampling sampling;
    bool seeded;
    uint32_t min_tokens;
    uint32_t *stop_ids; /* of the request, then of the model unless ignore_eos */
    uint32_t n_stop_ids, n_own_stop_ids;
    api__stop *stops;
    uint8_t n_stops;
    bool include_stop; /* the stop string stays in the text */
    sched_depth depth;
    bool stream, include_usage, continuous_usage;
    bool echo, logprobs, return_depth, return_ids;
    bool prompt_logprobs; /* vLLM's field, besides echo's */
    uint32_t n_top, n_prompt_top;
    int32_t priority;
    bool has_priority;
    uint64_t salt[2];
    const char *request_id; /* NULL or checked */
    api__grammar *grammar;  /* what the answer must fit; NULL: anything */
    const char *form_field; /* of the request, that the grammar is from; static */
    const char **tools;     /* names of the functions that may be called */
    uint32_t n_tools;
    api__calls calls;
    const char *named;  /* the one function that must be called, or NULL */
    bool soon;          /* parsed on the loop */
    const char *echoed; /* responses: fields given back, as JSON text with commas before each */
    size_t n_echoed;
};

/* ---- the field table ---- */

typedef enum { API__BOOL, API__INT, API__NUM, API__STR, API__OTHER } api__type;
enum {
    API__IN_COMPLETION = 1 << API_COMPLETION,
    API__IN_CHAT = 1 << API_CHAT,
    API__IN_RESPONSES = 1 << API_RESPONSES,
};

#define API__NO_INT INT64_MIN /* absent; numbers: NaN; strings: NULL; bools: the default */

/* Values as read; what needs the model or another field is checked afterwards. */
typedef struct {
    const char *model, *user, *suffix, *reasoning_effort, *request_id, *cache_salt, *truncation;
    int64_t max_tokens, max_completion_tokens, min_tokens, n_choices, best_of, seed, top_k,
        logprobs, top_logprobs, prompt_logprobs, priority;
    double temperature, top_p, min_p, frequency_penalty, presence_penalty, repetition_penalty;
    bool seeded, stream, echo, ignore_eos, chat_logprobs, return_depth, return_token_ids,
        include_stop, add_generation_prompt, continue_final_message, parallel_tool_calls;
    const json_t *prompt, *messages, *stop, *stop_token_ids, *logit_bias, *stream_options, *depth,
        *response_format, *tools, *tool_choice, *input, *text, *reasoning, *metadata, *include,
        *chat_template_kwargs, *instructions;
} api__values;

typedef struct {
    const char *name;
    uint8_t kinds; /* API__IN_* */
    uint8_t type;
    bool above;       /* min itself is refused */
    bool unsupported; /* any value but null, false, "" and {} is refused */
    uint16_t offset;  /* in api__values */
    double min, max;  /* numbers: the range; strings: bytes */
} api__field;

extern const api__field api__fields[];
extern const size_t api__n_fields;

/* A field that breaks a rule: "PARAM RULE". Returns -1, for `return api__bad_param(...)`. */
int api__bad_param(err *e, const char *param, const char *rule);
/* Reads every known field of one kind; strings and json_t borrow from root. */
int api__read_fields(api__values *out, api_kind kind, json_t *root, err *e) WARN_UNUSED;
/* One value of an object inside the body; `param` is its full name. Absent or null leaves
 * *out as it is. */
int api__read_bool(const json_t *value, const char *param, bool *out, err *e) WARN_UNUSED;
int api__read_int(const json_t *value, const char *param, int64_t min, int64_t max, int64_t *out,
                  err *e) WARN_UNUSED;
int api__read_num(const json_t *value, const char *param, double min, bool above, double max,
                  double *out, err *e) WARN_UNUSED;
bool api__file_exists(const char *path);
/* *out is NULL if the folder has no such file, or one that holds no JSON object: these files are
 * advice, so what is wrong with them is warned of. Fails for memory, and for what is no readable
 * file. */
int api__read_config(json_t **out, const char *dir, const char *file, err *e) WARN_UNUSED;
/* Parses a body into a JSON object within the limits of every request. */
int api__body(json_t **out, const api_context *ctx, const char *body, size_t n, err *e) WARN_UNUSED;
int api__check_model(const api_context *ctx, const char *model, err *e) WARN_UNUSED;
/* The optional model of a small route. */
int api__read_model(const api_context *ctx, const json_t *root, const char **out,
                    err *e) WARN_UNUSED;
/* Parts of api_parse that live in files of their own. */
int api__read_prompts(api_request *req, const api_context *ctx, const json_t *prompt,
                      err *e) WARN_UNUSED;
int api__keep_ids(api_request *req, const api_context *ctx, const token_ids *ids,
                  api__prompt *prompt, const char *param, err *e) WARN_UNUSED;

/* A conversation: chat's messages, or the input of /v1/responses (items). */
typedef struct {
    bool items, generation, open_last, soon;
    const json_t *instructions; /* the system's turn, before all; NULL = none */
    const json_t *tools;        /* in chat's shape; NULL = none */
    const json_t *kwargs;       /* chat_template_kwargs */
} api__turns;
/* 1: not that soon, by t->soon. text: also what is rendered; NULL: not wanted. */
int api__turns_to_ids(const api_context *ctx, const json_t *list, const api__turns *turns,
                      arena *mem, jinja_output *text, token_ids *out, err *e) WARN_UNUSED;
/* The same of a body that asks for nothing else, as /tokenize takes it. */
int api__body_to_ids(const api_context *ctx, const json_t *root, bool soon, jinja_output *text,
                     token_ids *out, err *e) WARN_UNUSED;
int api__read_turns(api_request *req, const api_context *ctx, const api__values *fields,
                    const json_t *tools, err *e) WARN_UNUSED;
/* After api__read_format: a forced call is a form of the answer too. */
/* *tools are those that the model is told of, in chat's shape; NULL: none. A new reference. */
int api__read_tools(api_request *req, const api_context *ctx, const api__values *fields,
                    json_t **tools, err *e) WARN_UNUSED;
/* The same list of a body that needs the names alone. */
int api__list_tools(const json_t *tools, bool responses, arena *mem, const char ***names,
                    json_t **out, err *e) WARN_UNUSED;
/* The functions as a model is told of them whose template does not: text of the arena, or NULL. */
const char *api__tools_lead(const json_t *tools, arena *mem, err *e);
bool api__name_ok(const json_t *name); /* a string of 1 to 64 letters, digits, '_' or '-' */
int api__can_constrain(const api_context *ctx, const api__values *fields, const char *param,
                       err *e) WARN_UNUSED;
int api__read_format(api_request *req, const api_context *ctx, const api__values *fields,
                     err *e) WARN_UNUSED;
/* Appends the ids of a text, at most max_ids, after the token that begins every text if bos.
 * special: control tokens that the text spells are read as such, the first of them too. */
int api__encode(const api_context *ctx, const char *text, size_t n, bool bos, bool special,
                size_t max_ids, token_ids *out, err *e) WARN_UNUSED;
int api__push_id(token_ids *ids, uint32_t id, err *e) WARN_UNUSED;
/* Refuses text; `use` says what to send instead. */
int api__no_tokenizer(const api_context *ctx, const char *param, const char *use, err *e);
/* Checks one token id of a prompt against the model. */
int api__check_id(const api_context *ctx, const json_t *value, const char *param, uint32_t *out,
                  err *e) WARN_UNUSED;
int api__too_long(const api_context *ctx, uint64_t n_prompt, uint64_t max_tokens, const char *param,
                  err *e);
int api__out_of_memory(err *e);

/* ---- replies ---- */

typedef struct {
    uint32_t id;
    uint32_t
        text_end; /* its text ends here in the choice's text; it begins where the one before ends */
    float logprob;
    uint16_t depth;
    uint8_t n_top;
} api__token;

typedef enum { API__RUNNING, API__FINISHED, API__ENDED } api__state;

/* What is written is a list of steps, NULL at its end. A step appends pieces until it is over
 * (true) or out->len has reached `end` (false: it is called again, the cursor as it left it). */
typedef bool (*api__step)(buf *out, api_reply *reply, size_t end);

typedef struct {
    const api__step *steps; /* being written; NULL: nothing is */
    uint32_t step;
    /* Within one step, zero at its beginning. */
    bool open, comma; /* the list or string is open; its next entry needs a comma */
    uint32_t token;   /* the next entry */
    size_t byte;      /* the next byte, counted from the string's first */
    uint64_t chars;   /* before the next entry */
    /* What is told of which choice: fixed at the beginning, for events go on meanwhile. */
    uint32_t choice;
    uint32_t from_token, to_token; /* [from, to), as is: */
    size_t from, to;               /* bytes of the choice's text; a call's arguments */
    bool call, finished, mute;     /* mute: no text at all, not even an empty one */
} api__cursor;

typedef struct {
    uint32_t index;
    const api__prompt *prompt;
    api__state state; /* FINISHED: the reason is known; ENDED: the scheduler let go of it too */
    api_utf8 utf8;
    api__matcher stop;
    api__constraint *constraint; /* what the scheduler asks for masks; NULL: none */
    buf text;                    /* a stream drops what it has sent and no token waits for */
    size_t scanned;              /* bytes of text the matcher has seen */
    size_t ready;                /* bytes that can no longer become a stop string */
    size_t sent;                 /* bytes already written; 0 unless streaming */
    size_t tokens_at;            /* text begins here for the first of tokens */
    uint64_t chars;              /* characters before tokens_at, for text_offset */
    api__token *tokens;          /* wanted ones not yet written; NULL if nobody asks */
    eng_top *tops;               /* [cap_tokens][n_top] */
    uint32_t n_tokens, cap_tokens, cap_tops;
    uint32_t n_scored;  /* the first of tokens are the prompt's */
    uint32_t n_written; /* responses keep what they wrote */
    uint64_t n_output;
    api__call call;
    bool echoed;         /* prompt text is in */
    bool opened, closed; /* of a stream: its first chunk was written, and the one with the reason */
    sched_finish finish;
    int stop_hit; /* stop string, or -1 */
    bool has_stop_id;
    uint32_t stop_id; /* of the request's own */
} api__choice;

struct api_reply {
    const api_context *ctx;
    api_request *req;
    char *id;
    int64_t created;
    buf prefix; /* of every chunk, up to "index": */
    api__choice *choices;
    api__workspace *workspace; /* of the choices' constraints; NULL without */
    uint32_t n_choices, n_ended;
    bool keeps_prompt, keeps_output;                         /* single tokens are asked for */
    uint8_t prompt_tops, output_tops;                        /* alternatives kept with each */
    uint64_t n_output, n_cached, prompt_loops, output_loops; /* of all choices */
    size_t bytes;                                            /* held */
    api__cursor cursor;
    uint32_t current;  /* the choice to look at next */
    bool behind;       /* others may have news too, from events that came within a text */
    uint64_t n_events; /* responses: the next sequence_number */
    bool item_open;    /* responses: the answer's item was announced */
    bool started, failed, done, closed; /* closed: the end is written, or under way */
};

/* Reads text [k->at, ready); k->phase and its places tell what was found. */
void api__call_scan(const api_request *req, api__call *call, const char *text, size_t ready);
void api__call_finish(api__call *call); /* no more text will come */
/* The answer is a call, whole or under way. */
static inline bool api__is_call(const api__choice *choice) {
    return choice->call.phase == API__CALL_ARGS || choice->call.phase == API__CALL_WHOLE;
}
/* Arguments not yet sent: text [from, ch->call.args_end). */
static inline size_t api__args_from(const api__choice *choice) {
    return choice->sent > choice->call.args ? choice->sent : choice->call.args;
}
/* "call_" and what is the answer's own, quoted. */
void api__write_call_id(buf *out, const api_reply *reply, const api__choice *choice,
                        const char *head);

static inline api__choice *api__chosen(api_reply *reply) { /* whom the cursor is at */
    return &reply->choices[reply->cursor.choice];
}
/* Begins what the events so far call for: a chunk of one choice (false: it has nothing to say
 * after all), the end of a stream, a whole answer. */
bool api__begin_chunk(api_reply *reply, api__choice *choice) WARN_UNUSED;
void api__begin_end(api_reply *reply);
void api__begin_body(api_reply *reply);
/* The same of /v1/responses. */
bool api__responses_begin_chunk(api_reply *reply, api__choice *choice) WARN_UNUSED;
void api__responses_begin_end(api_reply *reply);
void api__responses_begin_body(api_reply *reply);
/* The choice's tokens and text are written, and nobody needs them any more. */
void api__forget_choice(api_reply *reply, api__choice *choice);
size_t api__choice_bytes(const api__choice *choice); /* that grow */
/* Where the alternatives of token i stand in ch->tops. */
static inline size_t api__tops_at(const api_reply *reply, const api__choice *choice, uint32_t i) {
    uint32_t prompt = i < choice->n_scored ? i : choice->n_scored;
    return (size_t)prompt * reply->prompt_tops + (size_t)(i - prompt) * reply->output_tops;
}

bool api__step_text(buf *out, api_reply *reply, size_t end); /* the cursor's bytes, quoted */
/* Lists of the cursor's tokens, with their keys; what was not asked for is no list. */
bool api__step_chat_logprobs(buf *out, api_reply *reply, size_t end);
bool api__step_texts(buf *out, api_reply *reply, size_t end); /* to api__step_logprob_depths: the */
bool api__step_logprobs(buf *out, api_reply *reply,
                        size_t end); /* object of a completion's logprobs */
bool api__step_tops(buf *out, api_reply *reply, size_t end);
bool api__step_offsets(buf *out, api_reply *reply, size_t end);
bool api__step_logprob_depths(buf *out, api_reply *reply, size_t end);
bool api__step_ids(buf *out, api_reply *reply, size_t end);
bool api__step_depths(buf *out, api_reply *reply, size_t end);
bool api__step_prompt_logprobs(buf *out, api_reply *reply, size_t end);

/* What a step consists of. */
/* A string of any length; of bytes as they are. */
bool api__write_string(buf *out, api__cursor *cursor, const char *text, size_t n, size_t end);
bool api__write_raw(buf *out, api__cursor *cursor, const char *text, size_t n, size_t end);
/* A list with its key before and "]" behind, of the cursor's tokens. */
typedef void (*api__entry)(buf *out, api_reply *reply, const api__choice *choice, uint32_t i);
bool api__write_list(buf *out, api_reply *reply, const char *key, api__entry entry, size_t end);
bool api__write_no_list(buf *out, const char *key);
void api__entry_chat(buf *out, api_reply *reply, const api__choice *choice, uint32_t i);

void api__write_prefix(buf *out, const api_reply *reply);
void api__write_uint(buf *out, uint64_t value);
void api__write_logprob(buf *out, float value);

/* As api_utf8_token, for bytes that are at hand. */
void api__utf8_bytes(api_utf8 *utf8, const char *bytes, size_t n, buf *out);
/* The same of /v1/responses. */
int api__read_response_fields(api_request *req, api__values *fields, err *e) WARN_UNUSED;
int api__keep_echoed(api_request *req, const api__values *fields, err *e) WARN_UNUSED;
void api__responses_error(buf *out, api_reply *reply, const err *why);

void api__dump(buf *out, const json_t *value); /* compact JSON text */

/* The document has a word for this field, and a schema if the table cannot give one. */
bool api__openapi_knows(const char *name, bool needs_schema);

#endif

/* api_internal.h - shared by the files of api/; included by them and by tests only. */
#ifndef FATHOM_API_INTERNAL_H
#define FATHOM_API_INTERNAL_H

#include "api/api.h"
#include "api/grammar/constrain_internal.h"
#include "text/jinja.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Limits of one request; no option changes them. */
enum {
    API__MAX_STOPS = 4,
    API__MAX_STOP_BYTES = 64,
    API__MAX_STOP_IDS = 16,
    API__MAX_BIAS = 300,
    API__MAX_MESSAGES = 1000,
    API__MAX_NAME_BYTES = 128, /* bytes of model and user */
    API__MAX_LABEL_BYTES = 64, /* bytes of request_id and cache_salt */
    API__MAX_ENDS = 64,        /* end tokens of a model */
    API__MAX_KWARGS = 64,      /* entries of chat_template_kwargs */
    API__MAX_SCORED = 1 << 21, /* log-probabilities kept until an answer is written */
    API__SLICE = 16 << 10,     /* bytes added to a stream by one event; the rest waits */
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
extern const char *const api__role_names[API__ROLES + 1]; /* ends with NULL */

/* One message of a conversation, as read. */
typedef struct {
    api__role role;
    const char *text; /* the content; borrowed */
    size_t len;
    const json_t *content;  /* the content as the client's own JSON string; NULL: use text */
    const json_t *original; /* the client's message, for name, tool_call_id, …; NULL: none */
    const json_t *calls;    /* function calls in the shape of templates; NULL: none */
} api__message;

/* Features of a template, found by rendering test conversations when it is opened. */
typedef struct {
    bool system;        /* prints a system message */
    bool refuses;       /* raises an error of its own for a system message */
    bool developer;     /* knows this role; otherwise developer messages are printed as system */
    bool parts;         /* contents must be lists of parts */
    bool tools;         /* prints the list of functions */
    bool calls, result; /* prints calls of functions; prints their results */
    bool text_calls;    /* arguments of calls must be JSON text, not an object */
    bool null_content;  /* a message with calls needs a null content */
    const struct api__notation *notation; /* of its calls */
} api__traits;

typedef struct api__template api__template;

/* The input of one rendering. */
typedef struct {
    const json_t *messages; /* in the shape of templates */
    const json_t *tools;    /* in the shape of chat completions; NULL: none */
    const json_t *kwargs;   /* of the client, checked; NULL: none */
    bool generation;        /* open the assistant's turn at the end */
    bool open_last;         /* the last content ends in API__OPEN_END; cut the text there */
    bool soon;              /* on the loop thread: give up if it takes much work */
    size_t max_memory;      /* memory limit of rendering in bytes; 0: the default */
} api__talk;
/* A template that trims contents removes the trailing space. */
#define API__OPEN_END "CONTINUE_FINAL_MESSAGE_TAG "

/* Finds the model's template. The sources, first to last: `chosen` (--chat-template: a name or a
 * file; may be NULL); in the folder chat_template.fathom.json, chat_template.jinja and
 * additional_chat_templates; tokenizer_config.json (config; may be NULL). Marks the control tokens
 * that the template names. A model without a template succeeds with *out NULL. A template that
 * cannot be used is logged as a warning, and api__template_broken gives the reason. ERR_USAGE if
 * `chosen` is wrong. */
int api__template_open(api__template **out, const char *dir, const char *chosen,
                       const json_t *config, tokenizer *tok, err *e) WARN_UNUSED;
void api__template_close(api__template *tmpl);
const char *api__template_name(const api__template *tmpl); /* "chatml", "chat_template.jinja" */
/* Why the template cannot be used; NULL: it can. */
const char *api__template_broken(const api__template *tmpl);
/* Traits for conversations with functions (tools) or without. */
const api__traits *api__template_traits(const api__template *tmpl, bool tools);
/* Ids that end an answer in this template. */
const uint32_t *api__template_stops(const api__template *tmpl, uint32_t *n);
/* True for a variable name reserved for the server. */
bool api__template_reserves(const api__template *tmpl, const char *name);
/* Renders a conversation and records which bytes come from the template. 1: talk->soon is set and
 * it takes too much work. ERR_BAD_PARAM. */
int api__template_render(const api__template *tmpl, const api__talk *talk, jinja_output *out,
                         err *e) WARN_UNUSED;
/* Appends the ids of a rendered text. Control tokens are read in the template's own bytes only. */
int api__template_ids(const tokenizer *tok, const jinja_output *text, token_ids *out,
                      err *e) WARN_UNUSED;

/* Appends the Jinja text equivalent to a chat_template.fathom.json, and its end tokens.
 * ERR_BAD_FILE. */
int api__template_describe(buf *out, const char *json, size_t n, const tokenizer *tok,
                           const char *what, token_ids *ends, err *e) WARN_UNUSED;
/* A template built into the binary; NULL: no such name. */
const char *api__template_named(const char *name, size_t *n);
void api__template_names(buf *out); /* "turns, chatml, llama3, plain" */

/* The messages in the shape needed by these traits: a new reference. NULL: out of memory. */
json_t *api__talk_messages(const api__traits *traits, const api__message *msgs, size_t n,
                           bool open_last);
/* [{"type": "text", "text": content}]. Takes over content. NULL: out of memory. */
json_t *api__talk_parts(json_t *content);
/* A call in the shape of templates: arguments become an object if they are JSON text of one. NULL:
 * out of memory, or the request was cancelled. */
json_t *api__talk_call(const api__traits *traits, const json_t *id, const json_t *name,
                       const json_t *arguments, err *e);

/* ---- context ---- */

struct api_context {
    api_opts opts; /* zeros replaced by defaults; strings are copies below */
    char *name, *no_tokenizer;
    const model_plan *plan;
    api__template *template; /* NULL: no chat */
    uint32_t *stop_ids;
    uint32_t n_stop_ids;
    bool add_bos;
    uint32_t bos_id;
    eng_sampling defaults; /* from generation_config.json; otherwise neutral */
    uint64_t hash_key[4];  /* random; hashes cache_salt */
    int64_t created;
    api__vocab *vocab; /* NULL: answers cannot be constrained (no tokenizer or no end token) */
};

/* Adds an end token of the model unless it is there. `file` is named in warnings. */
void api__add_end(api_context *ctx, uint32_t id, const char *file);
/* Adds the end tokens of a file: one id or a list of ids. */
void api__read_ends(api_context *ctx, const json_t *eos, const char *file);
/* Adds the end tokens of config.json, if no other file has any. */
void api__add_config_ends(api_context *ctx);

/* ---- stop strings ---- */

typedef struct {
    const char *text;
    uint8_t len;
    uint8_t fail[API__MAX_STOP_BYTES]; /* Knuth-Morris-Pratt: longest border of each prefix */
} api__stop;

typedef struct {
    const api__stop *stops; /* borrowed */
    uint8_t n_stops;
    uint8_t state[API__MAX_STOPS]; /* for each stop string: bytes matched at the end of the text */
} api__matcher;

void api__stop_init(api__stop *stop, const char *text,
                    size_t n); /* 1 <= n <= API__MAX_STOP_BYTES */
/* Feeds bytes up to and including the first that completes a stop string. Returns the number of
 * bytes taken. *hit is the stop string (the longest, if several end there) or -1. */
size_t api__stop_feed(api__matcher *matcher, const char *bytes, size_t n, int *hit);
/* Bytes at the end of the text that may still become a stop string. */
size_t api__stop_held(const api__matcher *matcher);

/* ---- calls of functions in an answer ---- */

/* Whether the answer may be a call: never, if the model writes one, always. */
typedef enum { API__CALLS_NONE, API__CALLS_AUTO, API__CALLS_FORCED } api__calls;

/* A parameter of a function: its name and the JSON types that its schema names (API__TYPE_*). */
typedef struct {
    const char *name;
    uint8_t types;
} api__param;

/* A function of the request. */
typedef struct {
    const char *name;
    api__param *params; /* sorted by name */
    uint32_t n_params;
} api__tool;

/* A call in an answer: its function and its arguments, JSON text in api__answer.args. */
typedef struct {
    uint32_t tool; /* index in the request's tools */
    size_t args, args_end;
    bool whole; /* the arguments are complete */
} api__call;

/* State of a notation within the text. Each notation uses its own part. */
typedef struct {
    size_t at;           /* bytes of the text read so far */
    size_t said;         /* bytes of the text already in `said`, in a call, or dropped */
    uint8_t state;       /* 0 at the start of a text */
    size_t string, name; /* start of the current string or tag; start of the function's name */
    uint32_t depth, tool;
    uint8_t step; /* JSON: index into the parts before the arguments */
    uint8_t tag;  /* bytes matched of a tag */
    bool in_string, escaped;
    size_t solid;    /* tags: end of the last byte that is not blank */
    uint32_t params; /* tags: parameters so far */
    bool after_call; /* tags: no text since the last call */
} api__reader;

/* An answer with its calls taken out. */
typedef struct {
    buf said; /* the text beside the calls */
    buf args; /* the arguments of all calls, one behind the other */
    api__call *calls;
    uint32_t n_calls, cap_calls;
    uint32_t said_after; /* how many calls stand before the first text */
    bool ended;          /* text after this point is not read */
    api__reader reader;
} api__answer;

/* A form in which models write calls. */
typedef struct api__notation {
    const char *mark; /* a template with this text uses the notation; NULL: any other template */
    /* Reads text[reader.at, ready) into the answer. last: no more text follows. Running out of
     * memory sets answer->said.failed. */
    void (*read)(const api_request *req, api__answer *answer, const char *text, size_t ready,
                 bool last);
    /* Makes the grammar of a forced call; see api__grammar_compile_tools. */
    int (*grammar)(api__grammar **out, const json_t *tools, const char *only, const char *param,
                   err *e);
} api__notation;
/* {"name": NAME, "arguments": {…}}; and <function=NAME><parameter=KEY>VALUE</parameter></function>,
 * as written by Qwen3-Coder and Nanbeige. */
extern const api__notation api__notation_json, api__notation_tags;

/* Adds text, or a call without arguments yet (NULL: out of memory). */
void api__say(api__answer *answer, const char *text, size_t n);
api__call *api__add_call(api__answer *answer, uint32_t tool);
void api__answer_deinit(api__answer *answer);
/* The index of a function of the request, or UINT32_MAX. */
uint32_t api__find_tool(const api_request *req, const char *name, size_t n);
/* The JSON types of a parameter (API__TYPE_*); 0: none are known. */
uint8_t api__param_types(const api__tool *tool, const char *name, size_t n);

/* ---- requests ---- */

typedef struct {
    uint32_t *ids; /* in the request's arena, like everything below */
    uint32_t n_ids;
    uint32_t max_tokens;
} api__prompt;

struct api_request {
    api_kind kind;
    arena mem;
    api__prompt *prompts;
    uint32_t n_prompts, n_per_prompt; /* n_per_prompt: choices for each prompt */
    uint64_t prompt_tokens;
    eng_sampling sampling;
    bool seeded;
    uint32_t min_tokens;
    uint32_t *stop_ids; /* the request's, then the model's unless ignore_eos */
    uint32_t n_stop_ids, n_own_stop_ids;
    api__stop *stops;
    uint8_t n_stops;
    bool include_stop; /* keep the stop string in the text */
    sched_depth depth;
    bool stream, include_usage, continuous_usage;
    bool echo, logprobs, return_depth, return_ids;
    bool prompt_logprobs; /* vLLM's field; echo has its own */
    uint32_t n_top, n_prompt_top;
    int32_t priority;
    bool has_priority;
    uint64_t salt[2];
    const char *request_id; /* NULL or checked */
    api__grammar *grammar;  /* constrains the answer; NULL: no constraint */
    const char *form_field; /* static name of the field with the grammar */
    api__tool *tools;       /* the functions */
    uint32_t n_tools;
    api__calls calls;
    const api__notation *notation; /* of calls in the answer; NULL without tools */
    bool one_call;                 /* parallel_tool_calls is false: the answer ends after a call */
    const char *named;             /* the function named by tool_choice, or NULL */
    bool soon;                     /* parsed on the loop thread */
    /* Responses: fields returned unchanged, as JSON members with a comma before each. */
    const char *echoed;
    size_t n_echoed;
};

/* ---- the field table ---- */

typedef enum { API__BOOL, API__INT, API__NUM, API__STR, API__OTHER } api__type;
enum {
    API__IN_COMPLETION = 1 << API_COMPLETION,
    API__IN_CHAT = 1 << API_CHAT,
    API__IN_RESPONSES = 1 << API_RESPONSES,
};

#define API__NO_INT INT64_MIN

/* Values as read. Checks that need the model or another field come later. An absent integer is
 * API__NO_INT, an absent number NaN, an absent string NULL, an absent bool its default. */
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
    bool above;       /* exclusive minimum */
    bool unsupported; /* refused, except null, false, "", [] and {} */
    uint16_t offset;  /* of its member in api__values */
    double min, max;  /* range of a number; max: bytes of a string */
} api__field;

extern const api__field api__fields[];
extern const size_t api__n_fields;

/* Refuses a field with the message "PARAM RULE". Returns -1. */
int api__bad_param(err *e, const char *param, const char *rule);
/* Reads the known fields of one kind. Strings and json_t are borrowed from root. */
int api__read_fields(api__values *out, api_kind kind, json_t *root, err *e) WARN_UNUSED;
const json_t *api__member(const json_t *root, const char *key); /* NULL: absent or null */
/* Read a member of an object inside the body; `param` is its full name. An absent or null member
 * leaves *out unchanged. */
int api__read_bool(const json_t *value, const char *param, bool *out, err *e) WARN_UNUSED;
int api__read_int(const json_t *value, const char *param, int64_t min, int64_t max, int64_t *out,
                  err *e) WARN_UNUSED;
int api__read_num(const json_t *value, const char *param, double min, bool above, double max,
                  double *out, err *e) WARN_UNUSED;
bool api__file_exists(const char *path);
/* Reads an optional file of the model's folder. *out is NULL if the folder lacks it. A file that
 * holds no JSON object is logged as a warning and gives NULL too. Fails if memory runs out or the
 * file cannot be read. */
int api__read_config(json_t **out, const char *dir, const char *file, err *e) WARN_UNUSED;
/* Parses a body into a JSON object within the limits of every request. */
int api__body(json_t **out, const api_context *ctx, const char *body, size_t n, err *e) WARN_UNUSED;
int api__check_model(const api_context *ctx, const char *model, err *e) WARN_UNUSED;
/* The optional model of a small route. */
int api__read_model(const api_context *ctx, const json_t *root, const char **out,
                    err *e) WARN_UNUSED;
/* Parts of api_parse in files of their own. */
int api__read_prompts(api_request *req, const api_context *ctx, const json_t *prompt,
                      err *e) WARN_UNUSED;
int api__keep_ids(api_request *req, const api_context *ctx, const token_ids *ids,
                  api__prompt *prompt, const char *param, err *e) WARN_UNUSED;

/* A conversation: messages of chat, or input of responses (items). */
typedef struct {
    bool items, generation, open_last, soon;
    const json_t *instructions; /* goes into the system message; NULL: none */
    const json_t *tools;        /* in the shape of chat completions; NULL: none */
    const json_t *kwargs;       /* chat_template_kwargs */
} api__turns;
/* 1: turns->soon is set and rendering takes too much work. text: also receives the rendered text;
 * NULL: not wanted. */
int api__turns_to_ids(const api_context *ctx, const json_t *list, const api__turns *turns,
                      arena *mem, jinja_output *text, token_ids *out, err *e) WARN_UNUSED;
/* The same for a body of /tokenize. */
int api__body_to_ids(const api_context *ctx, const json_t *root, bool soon, jinja_output *text,
                     token_ids *out, err *e) WARN_UNUSED;
int api__read_turns(api_request *req, const api_context *ctx, const api__values *fields,
                    const json_t *tools, err *e) WARN_UNUSED;
/* Called after api__read_format, because a forced call is a form of the answer too. *tools are the
 * functions shown to the model, in the shape of chat completions: a new reference, or NULL. */
int api__read_tools(api_request *req, const api_context *ctx, const api__values *fields,
                    json_t **tools, err *e) WARN_UNUSED;
/* Checks a list of tools. *functions are in mem; *out is a new reference. */
int api__list_tools(const json_t *tools, bool responses, arena *mem, api__tool **functions,
                    json_t **out, err *e) WARN_UNUSED;
/* A text describing the functions, for a model without tools in its template. In mem. NULL: out of
 * memory. */
const char *api__tools_lead(const json_t *tools, arena *mem, err *e);
bool api__name_ok(const json_t *name); /* a string of 1 to 64 letters, digits, '_' or '-' */
int api__can_constrain(const api_context *ctx, const api__values *fields, const char *param,
                       err *e) WARN_UNUSED;
int api__read_format(api_request *req, const api_context *ctx, const api__values *fields,
                     err *e) WARN_UNUSED;
/* Appends the ids of a text, at most max_ids. bos: put the first token before them. special: read
 * control tokens spelled out in the text, the first token too. */
int api__encode(const api_context *ctx, const char *text, size_t n, bool bos, bool special,
                size_t max_ids, token_ids *out, err *e) WARN_UNUSED;
int api__push_id(token_ids *ids, uint32_t id, err *e) WARN_UNUSED;
/* Refuses text; `use` tells the client what to send instead. */
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
/* Begin to write: a chunk of one choice (false: it has no new data), the end of a stream, a whole
 * answer. */
bool api__begin_chunk(api_reply *reply, api__choice *choice) WARN_UNUSED;
void api__begin_end(api_reply *reply);
void api__begin_body(api_reply *reply);
/* The same for /v1/responses. */
bool api__responses_begin_chunk(api_reply *reply, api__choice *choice) WARN_UNUSED;
void api__responses_begin_end(api_reply *reply);
void api__responses_begin_body(api_reply *reply);
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

/* Like api_utf8_token, for bytes. */
void api__utf8_bytes(api_utf8 *utf8, const char *bytes, size_t n, buf *out);
/* Fields of /v1/responses. */
int api__read_response_fields(api_request *req, api__values *fields, err *e) WARN_UNUSED;
int api__keep_echoed(api_request *req, const api__values *fields, err *e) WARN_UNUSED;
void api__responses_error(buf *out, api_reply *reply, const err *why);

void api__dump(buf *out, const json_t *value); /* compact JSON text */

/* True if the document describes this field, and has a schema for it exactly if needs_schema. */
bool api__openapi_knows(const char *name, bool needs_schema);

#endif

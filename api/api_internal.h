/* api_internal.h - shared by the files of api/; included by them and by tests only. */
#ifndef FATHOM_API_INTERNAL_H
#define FATHOM_API_INTERNAL_H

#include "api/api.h"
#include "api/grammar/cache_internal.h"
#include "api/grammar/constrain_internal.h"
#include "text/jinja.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Limits of one request; no option changes them. */
enum {
    API__MAX_STOPS = 16,
    API__MAX_STOP_BYTES = 256,
    API__MAX_STOP_IDS = 16,
    API__MAX_BIAS = 300,
    API__MAX_MESSAGES = 1000,
    API__MAX_NAME_BYTES = 128, /* bytes of model and user */
    API__MAX_LABEL_BYTES = 64, /* bytes of request_id and cache_salt */
    API__MAX_ENDS = 64,        /* end tokens of a model */
    API__MAX_WARNINGS = 16,    /* sentences about fields without effect */
    API__MAX_KWARGS = 64,      /* entries of chat_template_kwargs */
    API__MAX_SCORED = 1 << 21, /* log-probabilities kept until an answer is written */
    API__SLICE = 16 << 10,     /* bytes added to a stream by one event; the rest waits */
    API__MAX_DEPTH = 64,       /* nesting of a body */
    API__MAX_STRUCTURAL = 200000,
};

/* ---- helpers ---- */

/* The blanks of JSON. */
static inline bool api__is_blank(char byte) {
    return byte == ' ' || byte == '\n' || byte == '\t' || byte == '\r';
}

int api__out_of_memory(err *e);
int api__push_id(token_ids *ids, uint32_t id, err *e) WARN_UNUSED;
bool api__file_exists(const char *path);
/* Reads an optional file of the model's folder. *out is NULL if the folder lacks it. A file that
 * holds no JSON object is logged as a warning and gives NULL too. Fails if memory runs out or the
 * file cannot be read. */
int api__read_config(json_t **out, const char *dir, const char *file, err *e) WARN_UNUSED;
/* Like api_utf8_token, for bytes. */
void api__utf8_bytes(api_utf8 *utf8, const char *bytes, size_t n, buf *out);
void api__dump(buf *out, const json_t *value); /* compact JSON text */

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

/* How arguments that are no JSON object reach a template that prints objects: as a string that the
 * template writes as JSON; as JSON text that it prints as it is; or in an object, because the
 * template prints members. */
typedef enum { API__ODD_STRING, API__ODD_TEXT, API__ODD_OBJECT } api__odd;

/* The texts around a model's reasoning: "<think>" and "</think>". */
typedef struct {
    const char *open, *close;
} api__marks;

/* Features of a template, found by rendering test conversations when it is opened. */
typedef struct {
    bool system;        /* prints a system message at the beginning */
    bool later_systems; /* prints system messages anywhere */
    bool developer;     /* knows this role; otherwise developer messages are printed as system */
    bool parts;         /* contents must be lists of parts */
    bool tools;         /* prints the list of functions */
    bool calls, result; /* prints calls of functions; prints their results */
    bool text_calls;    /* arguments of calls must be JSON text, not an object */
    bool null_content;  /* a message with calls needs a null content */
    api__odd odd;       /* arguments that are no JSON object */
    const struct api__notation *notation; /* of its calls */
    const api__marks *marks;              /* NULL: the template shows no reasoning */
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
/* The arguments of a call from a client, as JSON text: blank ones become {}, and what is no JSON
 * becomes a string. A new reference. NULL: out of memory, or the request was cancelled. */
json_t *api__talk_arguments(const json_t *given, err *e);
/* A call in the shape of templates: arguments become an object if they are JSON text of one. NULL:
 * like api__talk_arguments. */
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
    bool own_sampling;     /* the file names at least one of them */
    uint64_t hash_key[4];  /* random; hashes cache_salt */
    int64_t created;
    char fingerprint[24]; /* of the program and the model, for system_fingerprint */
    /* Both NULL: answers cannot be constrained (no tokenizer or no end token). */
    api__vocab *vocab;
    api__grammar_cache *grammars;
    buf examples; /* JSON of meta.examples; empty: none */
};

/* Reads examples.json. Leaves *out empty if the folder has no such file, or a wrong one, which
 * causes a warning. */
int api__read_examples(buf *out, const char *dir, err *e) WARN_UNUSED;
/* Adds an end token of the model unless it is there. `file` is named in warnings. */
void api__add_end(api_context *ctx, uint32_t id, const char *file);
/* Adds the end tokens of a file: one id or a list of ids. */
void api__read_ends(api_context *ctx, const json_t *eos, const char *file);
/* Adds the end tokens of config.json, if no other file has any. */
void api__add_config_ends(api_context *ctx);

/* ---- stop strings ---- */

typedef struct {
    const char *text;
    uint16_t len;
    uint8_t fail[API__MAX_STOP_BYTES]; /* Knuth-Morris-Pratt: longest border of each prefix */
} api__stop;

typedef struct {
    const api__stop *stops; /* borrowed */
    uint8_t n_stops;
    /* For each stop string: bytes matched at the end of the text, fewer than its length. */
    uint8_t state[API__MAX_STOPS];
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
    size_t at;     /* bytes of the text read so far */
    size_t said;   /* bytes of the text already in `said`, in a call, or dropped */
    size_t solid;  /* end of the last byte of text that is not blank */
    size_t string; /* start of the current string or tag */
    uint8_t state; /* 0 at the start of a text */
    uint32_t depth, tool;
    bool in_string, escaped;
    /* JSON. */
    size_t start, tag_end; /* of what may be a call; of the last tag before a call */
    uint8_t key;           /* of the current member */
    char quote;            /* of a Python string */
    bool named;            /* the function is known */
    bool tail;             /* the call's object ends behind its arguments */
    bool list;             /* within a list of calls */
    bool tagged;           /* the answer has tags of calls */
    bool talking;          /* the answer has begun as a text */
    /* Tags. */
    size_t name, value; /* start of the function's name and of a parameter's value */
    uint32_t params;    /* parameters so far */
    uint8_t tag;        /* bytes matched of a tag */
    bool json, loose;   /* the value is JSON; it turned out not to be */
    bool after_call;    /* no text since the last call */
} api__reader;

typedef enum { API__PART_TEXT, API__PART_THOUGHT, API__PART_CALL } api__part_kind;

/* A stretch of an answer. */
typedef struct {
    uint8_t kind;    /* api__part_kind */
    uint32_t n_call; /* of a call: its index in `calls` */
    size_t from, to; /* of text and reasoning: bytes of `said` and `thought` */
} api__part;

/* An answer taken apart into text, reasoning and calls. */
typedef struct {
    buf said;    /* the text beside reasoning and calls */
    buf thought; /* the reasoning */
    buf args;    /* the arguments of all calls, one behind the other */
    api__call *calls;
    uint32_t n_calls, cap_calls;
    api__part *parts; /* in the order of the answer */
    uint32_t n_parts, cap_parts;
    bool ended; /* text after this point is not read */
    api__reader reader;
} api__answer;

/* A form in which models write calls. */
typedef struct api__notation {
    const char *mark; /* a template with this text uses the notation; NULL: any other template */
    const char *open, *close; /* JSON: stand before and behind a call; may be missing. NULL: none */
    bool names, python;       /* JSON: calls NAME{…}; NAME.call(…) */
    const char *shown[3];     /* special tokens that are a part of the text for this reader */
    /* Reads text[reader.at, ready) into the answer. last: no more text follows. Running out of
     * memory sets answer->said.failed. */
    void (*read)(const api_request *req, api__answer *answer, const char *text, size_t ready,
                 bool last);
    bool tags;                                /* calls are tags, not JSON */
    api__compile_calls grammar, grammar_many; /* of a forced call, of one or more */
} api__notation;
/* {"name": NAME, "arguments": {…}}, with the tags of Hermes, of Mistral, of Llama; and
 * <function=NAME><parameter=KEY>VALUE</parameter></function>, as written by Qwen3-Coder and
 * Nanbeige. */
extern const api__notation api__notation_json, api__notation_mistral, api__notation_llama,
    api__notation_tags;
/* An answer without calls. */
extern const api__notation api__notation_text;

/* call_python.c: the arguments of a call written in Python. Reads a byte behind "(", with
 * reader->depth 1: true at the ")" that ends them. */
bool api__python_byte(api__reader *reader, char byte);
/* Appends KEY=VALUE, … as a JSON object. False: they are malformed, or memory ran out
 * (out->failed).
 */
bool api__python_arguments(buf *out, const char *text, size_t n);
bool api__is_number(const char *text, size_t n); /* a JSON number */

/* Adds text, reasoning, or a call without arguments yet (NULL: out of memory). Running out of
 * memory sets answer->said.failed. */
void api__say(api__answer *answer, const char *text, size_t n);
void api__think(api__answer *answer, const char *text, size_t n);
void api__end_answer(api__answer *answer); /* an answer has at least one part, an empty text */
api__call *api__add_call(api__answer *answer, uint32_t tool);
void api__answer_deinit(api__answer *answer);
/* The index of a function of the request, or UINT32_MAX. */
uint32_t api__find_tool(const api_request *req, const char *name, size_t n);
/* The JSON types of a parameter (API__TYPE_*); 0: none are known. */
uint8_t api__param_types(const api__tool *tool, const char *name, size_t n);

/* ---- reasoning ---- */

/* All pairs of marks. The first counts if a template names several. */
extern const api__marks api__all_marks[];
extern const size_t api__n_marks;
/* The text without the blanks at its end. */
size_t api__without_blanks(const char *text, size_t n);
/* The marks of a text that ends in one of them, blanks aside; NULL: no such pair. *closed: it ends
 * in the close mark. */
const api__marks *api__marks_at_end(const char *text, size_t n, bool *closed);

/* State of the split within one answer, zero at the start. Offsets are into the answer's text. */
typedef struct {
    uint8_t state;
    bool begun;     /* some reasoning has been given out */
    bool bare;      /* the answer ended before any content */
    size_t at;      /* no mark begins before this offset */
    size_t given;   /* reasoning up to here has been given out, or left out */
    size_t solid;   /* end of the reasoning so far, without blanks at its end */
    size_t content; /* start of the content, once it is known */
} api__thinker;
/* Reads text[thinker->at, ready). If the request shows reasoning, gives it to api__think, without
 * the blanks around it and except what may become a mark. Returns the offset of the answer's
 * content, blanks after the close mark left out; SIZE_MAX while the reasoning goes on or the answer
 * may still begin with a mark. last: no more text follows. The time is linear in the text over all
 * calls. */
size_t api__read_thought(api__thinker *thinker, const api_request *req, api__answer *answer,
                         const char *text, size_t ready, bool last);
/* Where the text begins that follows what was given out. False: it is not known what follows, or
 * nobody is to see it. */
bool api__tail_at(const api__thinker *thinker, const api_request *req, size_t ready,
                  size_t *from) WARN_UNUSED;
/* How many of the n bytes that follow come before the mark that ends the reasoning, or what may
 * become it. */
size_t api__before_mark(const api__thinker *thinker, const api_request *req, const char *tail,
                        size_t n);
/* The text read so far ends in the reasoning, its marks and the blanks after it included. */
bool api__is_thinking(const api__thinker *thinker, const api_request *req);
/* The text of an answer takes this spelling of a mark in place of a control token, because such a
 * token prints nothing. NULL: the token is no mark, or the reasoning has ended. */
const char *api__spelled_mark(const api__thinker *thinker, const api_request *req, uint32_t token);

#endif

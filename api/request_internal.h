/* request_internal.h - requests as read: the field table, and the parts of api_parse. */
#ifndef FATHOM_API_REQUEST_INTERNAL_H
#define FATHOM_API_REQUEST_INTERNAL_H

#include "api/api_internal.h"

/* ---- requests ---- */

typedef struct {
    uint32_t *ids; /* in the request's arena, like everything below */
    uint32_t n_ids;
    uint32_t max_tokens;
} api__prompt;

struct api_request {
    const api_dialect *dialect;
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
    bool stream, include_usage, continuous_usage, include_drafts;
    bool echo, logprobs, return_depth, return_ids;
    bool prompt_logprobs; /* vLLM's field; echo has its own */
    uint32_t n_top, n_prompt_top;
    int32_t priority;
    bool has_priority;
    uint64_t salt[2];
    const char *request_id; /* NULL or checked */
    api__grammar *grammar;  /* constrains the answer; NULL: no constraint */
    json_t *form;           /* while it is read: the schema of the answer's text; NULL: none */
    bool form_strict;       /* the client asked that every keyword of it holds */
    const char *form_field; /* static name of the field with the grammar */
    api__tool *tools;       /* the functions */
    uint32_t n_tools;
    api__calls calls;
    const api__notation *notation; /* of calls in the answer; NULL without tools */
    bool one_call;                 /* parallel_tool_calls is false: the answer ends after a call */
    const char *named;             /* the function named by tool_choice, or NULL */
    const api__marks *marks;       /* of reasoning; NULL: the answer is not split */
    bool thinks_first; /* the prompt opened the reasoning: the answer begins inside it */
    bool show_thought; /* include_reasoning */
    /* The marks, if they are control tokens and so print nothing; UINT32_MAX: they are not. */
    uint32_t open_id, close_id;
    bool soon;             /* parsed on the loop thread */
    bool open_last;        /* the answer continues the last message */
    json_t *made;          /* while it is read: owns values that the dialect made, or NULL */
    const char **warnings; /* sentences about fields without effect */
    uint32_t n_warnings;   /* at most API__MAX_WARNINGS */
    /* Responses: fields returned unchanged, as JSON members with a comma before each. */
    const char *echoed;
    size_t n_echoed;
};

/* It ends the request's answers. */
static inline bool api__is_stop_id(const api_request *req, uint32_t id) {
    for (uint32_t i = 0; i < req->n_stop_ids; i++) {
        if (req->stop_ids[i] == id) return true;
    }
    return false;
}

/* ---- the field table ---- */

typedef enum { API__BOOL, API__INT, API__NUM, API__STR, API__JSON, API__REFUSED } api__type;

/* Groups of the shared fields (fields.def). */
enum {
    API__EVERY = 1,     /* of every dialect */
    API__OPENAI = 2,    /* completion, chat and responses */
    API__CHOICES = 4,   /* completion and chat */
    API__FUNCTIONS = 8, /* chat and responses */
    API__TALK = 16,     /* every dialect with conversations */
};

#define API__NO_INT INT64_MIN
/* The largest number of tokens that may be asked for: a limit above the room in the context means
 * "as many as possible". Exact as a double. */
#define API__ANY_TOKENS (1LL << 53)

/* Values of the shared fields. Checks that need the model or another field come later. An absent
 * integer is API__NO_INT, an absent number NaN, an absent string or JSON value NULL, an absent bool
 * its default. A dialect with fields of its own puts this at the start of a larger struct. */
typedef struct {
#define BOOL(name, ...) bool name;
#define INT(name, ...) int64_t name;
#define NUM(name, ...) double name;
#define ABOVE(name, ...) double name;
#define STR(name, ...) const char *name;
#define JSON(name, ...) const json_t *name;
#define REFUSED(name, ...)
#include "api/fields.def"
#undef BOOL
#undef INT
#undef NUM
#undef ABOVE
#undef STR
#undef JSON
#undef REFUSED
    /* Not from rows: set by parse.c, then by the dialect's `prepare`, because dialects have fields
     * of their own for these. */
    int64_t limit;           /* tokens to generate; API__NO_INT: absent */
    const char *limit_field; /* its name in errors */
    const char *stop_field, *format_field, *effort_field; /* the names of stop, response_format and
                                                             reasoning_effort in this dialect */
    bool seeded, logprobs;
    int64_t n_top; /* alternatives of each token */
} api__values;

typedef struct {
    const char *name, *about; /* about: its description; NULL for refused fields */
    uint8_t groups;           /* of a shared field; 0 in a dialect's own table */
    uint8_t type;             /* api__type */
    bool above;               /* exclusive minimum */
    bool on;                  /* default of a bool */
    uint16_t offset;          /* of its member in the dialect's values */
    double min, max;          /* range of a number; max: bytes of a string */
} api__field;

/* Rows of a dialect's own table; `member` is that of its struct of values. */
#define API__OWN_BOOL(values, member, default_on, text)                                            \
    {                                                                                              \
        .name = #member, .about = text, .type = API__BOOL, .on = default_on,                       \
        .offset = offsetof(values, member)                                                         \
    }
#define API__OWN_INT(values, member, least, most, text)                                            \
    {                                                                                              \
        .name = #member, .about = text, .type = API__INT, .min = least, .max = most,               \
        .offset = offsetof(values, member)                                                         \
    }
#define API__OWN_STR(values, member, most, text)                                                   \
    {                                                                                              \
        .name = #member, .about = text, .type = API__STR, .max = most,                             \
        .offset = offsetof(values, member)                                                         \
    }
#define API__OWN_JSON(values, member, text)                                                        \
    { .name = #member, .about = text, .type = API__JSON, .offset = offsetof(values, member) }
#define API__OWN_REFUSED(field)                                                                    \
    { .name = #field, .type = API__REFUSED }

extern const api__field api__shared_fields[];
extern const size_t api__n_shared_fields;
/* The fields of a dialect, one after the other from *at = 0 on: its own, then the shared ones. NULL
 * at the end. */
const api__field *api__next_field(const api_dialect *dialect, size_t *at);

/* Refuses a field with the message "PARAM RULE". Returns -1. */
int api__bad_param(err *e, const char *param, const char *rule);
/* Reads the fields of a dialect into its struct of values. Strings and json_t are borrowed from
 * root. */
int api__read_fields(api__values *out, const api_dialect *dialect, const json_t *root,
                     err *e) WARN_UNUSED;
const json_t *api__member(const json_t *root, const char *key); /* NULL: absent or null */
/* The value of a JSON number without a fraction: as JSON Schema has it, 42.0 is an integer. */
bool api__integer(const json_t *value, int64_t *out);
/* Read a member of an object inside the body; `param` is its full name. An absent or null member
 * leaves *out unchanged. */
int api__read_bool(const json_t *value, const char *param, bool *out, err *e) WARN_UNUSED;
int api__read_int(const json_t *value, const char *param, int64_t min, int64_t max, int64_t *out,
                  err *e) WARN_UNUSED;
int api__read_num(const json_t *value, const char *param, double min, bool above, double max,
                  double *out, err *e) WARN_UNUSED;
/* Parses a body into a JSON object within the limits of every request. */
int api__body(json_t **out, const api_context *ctx, const char *body, size_t n, err *e) WARN_UNUSED;
int api__check_model(const api_context *ctx, const char *model, err *e) WARN_UNUSED;
/* The optional model of a small route. */
int api__read_model(const api_context *ctx, const json_t *root, const char **out,
                    err *e) WARN_UNUSED;
/* top_p 0 leaves the most likely token alone, which the sampler knows as top_k 1. */
void api__settle_top_p(eng_sampling *sampling);
/* Parts of api_parse in files of their own. */
/* Fills req->warnings, and logs each field once in the process. */
int api__collect_warnings(api_request *req, const json_t *root, err *e) WARN_UNUSED;
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
/* Sets the members about reasoning, from the prompt as rendered. */
void api__expect_thought(api_request *req, const api_context *ctx, const api__turns *turns,
                         const jinja_output *prompt);
/* The same as api__turns_to_ids for a body of /tokenize. */
int api__body_to_ids(const api_context *ctx, const json_t *root, bool soon, jinja_output *text,
                     token_ids *out, err *e) WARN_UNUSED;
/* Reads the functions and the conversation, and makes the prompt. The dialect sets the items,
 * generation, open_last and instructions of turns. 1: the template takes too much work for the loop
 * thread. */
int api__read_conversation(api_request *req, const api_context *ctx, const api__values *fields,
                           const json_t *list, api__turns *turns, err *e) WARN_UNUSED;
/* Called after api__read_format, because a forced call is a form of the answer too. *tools are the
 * functions shown to the model, in the shape of chat completions: a new reference, or NULL. */
int api__read_tools(api_request *req, const api_context *ctx, const api__values *fields,
                    json_t **tools, err *e) WARN_UNUSED;
/* Checks a list of tools. *functions are in mem; *out is a new reference, or NULL if no tool is a
 * function. */
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
/* Refuses text; `use` tells the client what to send instead. */
int api__no_tokenizer(const api_context *ctx, const char *param, const char *use, err *e);
/* Checks one token id of a prompt against the model. */
int api__check_id(const api_context *ctx, const json_t *value, const char *param, uint32_t *out,
                  err *e) WARN_UNUSED;
int api__too_long(const api_context *ctx, uint64_t n_prompt, uint64_t max_tokens, const char *param,
                  err *e);

#endif

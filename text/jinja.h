/* jinja.h - chat templates: the part of Jinja they use, with the meaning it has in transformers.
 *
 * A template is a program from a model's folder; a conversation comes from a client. Both have
 * bounds: steps, nesting, bytes of output, bytes of memory. The origin of every printed byte,
 * template or client, is tracked through every filter and method. So a control token differs from
 * text with the same spelling (tokenizer_encode_runs).
 *
 * Threading: a template is read-only once parsed and may be shared by threads. */
#ifndef FATHOM_JINJA_H
#define FATHOM_JINJA_H

#include "base/json.h"
#include "text/tokenizer.h"

typedef struct jinja jinja;

/* Parses n bytes of UTF-8, with trim_blocks and lstrip_blocks set as in transformers. `what` is the
 * name for messages, such as "tokenizer_config.json". ERR_BAD_FILE with the line and the invalid or
 * unsupported construct; ERR_NO_MEMORY. */
int jinja_parse(jinja **out, const char *text, size_t n, const char *what, err *e) WARN_UNUSED;
void jinja_close(jinja *t);
/* The template reads a variable of this name. */
bool jinja_uses(const jinja *t, const char *name);
/* Calls fn with every text and string constant of the template, in order. */
void jinja_each_text(const jinja *t, void (*fn)(void *ud, const char *text, size_t n), void *ud);

/* A variable of the template. */
typedef struct {
    const char *name;
    const json_t *value; /* borrowed for the call */
    bool trusted;        /* its strings come from the model's files, such as bos_token */
} jinja_var;

typedef struct {
    const jinja_var *vars;
    size_t n_vars;
    /* Role names checked by the caller, NULL at the end: a client's string in the member "role" of
     * an object counts as the template's own if it equals one of these names. May be NULL. */
    const char *const *roles;
    int64_t now; /* for strftime_now: seconds since 1970, shown in the local time zone */
    /* Bounds; 0 means the default. */
    uint64_t max_steps;
    size_t max_output, max_memory; /* bytes */
} jinja_input;

/* The text and its origins. Starts as zero; the caller frees it with jinja_output_deinit. */
typedef struct {
    buf text;
    text_run *runs;
    size_t n_runs;
} jinja_output;

/* ERR_BAD_PARAM if the template refuses the conversation (with its words from raise_exception) or
 * fails on it (with the line and the reason); ERR_COSTLY beyond a bound; ERR_NO_MEMORY;
 * ERR_CANCELLED. On failure *out is empty. Any thread. */
int jinja_render(const jinja *t, const jinja_input *in, jinja_output *out, err *e) WARN_UNUSED;
void jinja_output_deinit(jinja_output *o);

#endif

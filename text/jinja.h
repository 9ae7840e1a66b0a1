/* jinja.h - chat templates: the part of Jinja they use, with the meaning transformers gives it.
 *
 * A template is a program from a model's folder, and a conversation comes from a client. Both are
 * bounded: steps, nesting, bytes of output, bytes of memory. Every byte of output carries its
 * origin (the template or the client) through every filter and method, so a control token differs
 * from client text that only spells one (tokenizer_encode_runs).
 *
 * Threading: a template is read-only once parsed and may be shared by threads. */
#ifndef FATHOM_JINJA_H
#define FATHOM_JINJA_H

#include "base/json.h"
#include "text/tokenizer.h"

typedef struct jinja jinja;

/* Parses n bytes of UTF-8, with trim_blocks and lstrip_blocks as transformers sets them. `what`
 * names the file in messages: "tokenizer_config.json". ERR_BAD_FILE with the line and the
 * construct that is wrong or not supported; ERR_NO_MEMORY. */
int jinja_parse(jinja **out, const char *text, size_t n, const char *source, err *e) WARN_UNUSED;
void jinja_close(jinja *tmpl);
/* The template reads a variable of this name somewhere. */
bool jinja_uses(const jinja *tmpl, const char *name);
/* Calls fn with every text and string constant of the template, in order. */
void jinja_each_text(const jinja *tmpl, void (*fn)(void *ud, const char *text, size_t n), void *ud);

/* A variable of a template. */
typedef struct {
    const char *name;
    const json_t *value; /* borrowed for the call */
    bool trusted;        /* its strings are the model's own, such as bos_token */
} jinja_var;

typedef struct {
    const jinja_var *vars;
    size_t n_vars;
    /* Role names the caller has checked, NULL at the end. A client's string counts as the
     * template's own if it is the member "role" of an object and equals one. May be NULL. */
    const char *const *roles;
    int64_t now; /* strftime_now: seconds since 1970, printed in the local time zone */
    /* Bounds; 0: the default. */
    uint64_t max_steps;
    size_t max_output, max_memory; /* bytes */
} jinja_input;

/* The text, and the origin of its bytes. Starts as zero; the caller frees it with
 * jinja_output_deinit. */
typedef struct {
    buf text;
    text_run *runs;
    size_t n_runs;
} jinja_output;

/* ERR_BAD_PARAM if the template refuses the conversation (raise_exception, with the template's own
 * message) or fails on it (with the fault and the line); ERR_COSTLY beyond a bound; ERR_NO_MEMORY;
 * ERR_CANCELLED. On failure *out is empty. Any thread. */
int jinja_render(const jinja *tmpl, const jinja_input *input, jinja_output *out,
                 err *e) WARN_UNUSED;
void jinja_output_deinit(jinja_output *out);

#endif

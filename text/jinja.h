/* jinja.h - chat templates: the part of Jinja that they use, read as transformers reads it.
 *
 * A template is a program from a model's folder, and a conversation comes from a client. Each has
 * bounds: steps, nesting, bytes of output, bytes of memory. Every byte that a template prints is
 * known to be the template's own or the client's, through every filter and method, so a control
 * token can be told from text that only spells one (tokenizer_encode_runs).
 *
 * Threading: a template is read-only once parsed and may be shared by threads. */
#ifndef FATHOM_JINJA_H
#define FATHOM_JINJA_H

#include "base/json.h"
#include "text/tokenizer.h"

typedef struct jinja jinja;

/* Parses n bytes of UTF-8, with trim_blocks and lstrip_blocks as transformers sets them. `what`
 * names the text in messages: "tokenizer_config.json". ERR_BAD_FILE with the line and the
 * construct that is wrong or not supported; ERR_NO_MEMORY. */
int jinja_parse(jinja **out, const char *text, size_t n, const char *what, err *e) WARN_UNUSED;
void jinja_close(jinja *t);
/* The template reads a variable of this name somewhere. */
bool jinja_uses(const jinja *t, const char *name);
/* Calls fn with every text and string constant of the template, in order. */
void jinja_each_text(const jinja *t, void (*fn)(void *ud, const char *text, size_t n), void *ud);

/* What a template finds under a name. */
typedef struct {
    const char *name;
    const json_t *value; /* borrowed for the call */
    bool trusted;        /* its strings are the model's own, such as bos_token */
} jinja_var;

typedef struct {
    const jinja_var *vars;
    size_t n_vars;
    /* Names that the caller checked, NULL at the end: a string of a client that is the member
     * "role" of an object and equals one of them counts as the template's own. May be NULL. */
    const char *const *roles;
    int64_t now; /* strftime_now: seconds since 1970, told in the local time zone */
    /* Bounds; 0 means the default of each. */
    uint64_t max_steps;
    size_t max_output, max_memory; /* bytes */
} jinja_input;

/* The text, and whose it is. Starts as zero; the caller frees it with jinja_output_deinit. */
typedef struct {
    buf text;
    text_run *runs;
    size_t n_runs;
} jinja_output;

/* ERR_BAD_PARAM where the template refuses the conversation (raise_exception: its own words) or
 * cannot make sense of it (what is wrong, with the line); ERR_COSTLY beyond a bound; ERR_NO_MEMORY;
 * ERR_CANCELLED. On failure *out is empty. Any thread. */
int jinja_render(const jinja *t, const jinja_input *in, jinja_output *out, err *e) WARN_UNUSED;
void jinja_output_deinit(jinja_output *o);

#endif

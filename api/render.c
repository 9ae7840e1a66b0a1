/* render.c - renders a conversation: variables in, text with its origins out, then ids. */
#include "api/template_internal.h"
#include "base/clock.h"

/* Limits of a rendering on the loop thread, where no callback may run for a millisecond. */
enum { SOON_STEPS = 4000, SOON_OUTPUT = 8 << 10, SOON_MEMORY = 1 << 20 };

enum { N_OWN = 3 };

/* Names of the template language, and variables set by the server. */
static const char *const reserved[] = {
    "messages", "tools",           "documents",    "add_generation_prompt",
    "loop",     "raise_exception", "strftime_now", "continue_final_message",
    "range",    "namespace",       "dict",         "lipsum",
    "cycler",   "joiner",          "caller",       "self",
    "true",     "false",           "none",         "chat_template",
};

bool api__template_reserves(const api__template *tmpl, const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(reserved); i++) {
        if (strcmp(reserved[i], name) == 0) return true;
    }
    return json_object_get(tmpl->tokens, name) != NULL;
}

int api__template_render(const api__template *tmpl, const api__talk *talk, jinja_output *out,
                         err *e) {
    const api__variant *variant = talk->tools && tmpl->tools.jinja ? &tmpl->tools : &tmpl->plain;
    return api__variant_render(tmpl, variant, talk, out, e);
}

/* Position of the last API__OPEN_END without its space, or SIZE_MAX. */
static size_t find_open_end(const buf *text, size_t n) {
    for (size_t at = text->len >= n ? text->len - n + 1 : 0; at > 0; at--) {
        if (memcmp(text->data + at - 1, API__OPEN_END, n) == 0) return at - 1;
    }
    return SIZE_MAX;
}

/* Cuts the text at the end of the last content. */
static int cut_open_end(jinja_output *out, err *e) {
    size_t n = sizeof API__OPEN_END - 2; /* without the trailing space */
    size_t at = find_open_end(&out->text, n);
    const char *text = out->text.data;
    if (at == SIZE_MAX) {
        return err_set(e, ERR_BAD_PARAM, "continue_final_message",
                       "continue_final_message: the chat template does not print the last message, "
                       "so it cannot be continued");
    }
    if (at + n >= out->text.len || text[at + n] != ' ') { /* the template trims contents */
        while (at > 0 && strchr(" \t\r\n\v\f", text[at - 1]))
            at--;
    }
    out->text.len = at;
    out->text.data[at] = 0;
    while (out->n_runs > 1 && out->runs[out->n_runs - 2].end >= at)
        out->n_runs--;
    if (out->n_runs) out->runs[out->n_runs - 1].end = at;
    return 0;
}

int api__variant_render(const api__template *tmpl, const api__variant *variant,
                        const api__talk *talk, jinja_output *out, err *e) {
    jinja_var vars[N_OWN + API__TOKEN_NAMES + API__MAX_KWARGS];
    size_t n = 0;
    const char *key;
    json_t *value;
    vars[n++] = (jinja_var){"messages", talk->messages, false};
    vars[n++] =
        (jinja_var){"add_generation_prompt", talk->generation ? json_true() : json_false(), true};
    if (talk->tools) vars[n++] = (jinja_var){"tools", talk->tools, false};
    json_object_foreach(tmpl->tokens, key, value) vars[n++] = (jinja_var){key, value, true};
    json_object_foreach((json_t *)(uintptr_t)talk->kwargs, key, value) {
        if (n == ARRAY_LEN(vars)) break; /* cannot happen: the counts were checked */
        if (!json_is_null(value)) vars[n++] = (jinja_var){key, value, false};
    }
    jinja_input in = {.vars = vars, .n_vars = n, .roles = api__role_names, .now = clock_unix_s()};
    in.max_output = talk->max_memory / 4;
    in.max_memory = talk->max_memory;
    if (talk->soon) {
        in.max_steps = SOON_STEPS;
        in.max_output = SOON_OUTPUT;
        in.max_memory = SOON_MEMORY;
    }
    err why = {0};
    if (jinja_render(variant->jinja, &in, out, &why) == 0)
        return talk->open_last ? cut_open_end(out, e) : 0;
    if (why.code == ERR_COSTLY && talk->soon) return 1;
    if (why.code != ERR_COSTLY) return err_set(e, why.code, why.param, "%s", why.msg);
    return err_set(e, ERR_BAD_PARAM, NULL,
                   "the chat template needs too much work for this conversation: %s", why.msg);
}

int api__template_ids(const tokenizer *tok, const jinja_output *text, token_ids *out, err *e) {
    return tokenizer_encode_runs(tok, text->text.data ? text->text.data : "", text->text.len,
                                 text->runs, text->n_runs, SIZE_MAX, out, e);
}

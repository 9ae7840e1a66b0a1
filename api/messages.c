/* messages.c - conversations, as chat and responses bring them, to a list of turns. */
#include "api/api_internal.h"

#include <stdlib.h>

/* The list being read, for refusals that name the place: "messages[3].role". */
typedef struct {
    const api_context *c;
    const char *list;
    arena *mem;
    err *e;
} reading;

static int bad(const reading *r, err_code code, size_t i, const char *key, const char *rule) {
    char param[64];
    (void)snprintf(param, sizeof param, "%s[%zu]%s%s", r->list, i, key[0] ? "." : "", key);
    return err_set(r->e, code, param, "%s %s", param, rule);
}

static int read_role(const reading *r, const json_t *v, size_t i, api__role *out) {
    const char *name = json_c_string(v);
    size_t role = 0;
    if (name == NULL) return bad(r, ERR_BAD_PARAM, i, "role", "must be a string");
    while (role < API__ROLES && strcmp(api__role_names[role], name) != 0)
        role++;
    if (role == API__ROLES) {
        return bad(r, ERR_BAD_PARAM, i, "role",
                   "must be system, developer, user, assistant or tool");
    }
    /* What a function gave back is told in the user's name where a template knows no better. */
    if (role != API__TOOL && !api__template_has(r->c->template, (api__role)role)) {
        return bad(r, ERR_BAD_PARAM, i, "role",
                   "is one that this model's chat template does not have");
    }
    *out = (api__role)role;
    return 0;
}

static bool is_text(const char *type) {
    return strcmp(type, "text") == 0 || strcmp(type, "input_text") == 0 ||
           strcmp(type, "output_text") == 0;
}

static int check_parts(const reading *r, const json_t *parts, size_t i, size_t *bytes) {
    size_t n = json_array_size(parts);
    if (n == 0) return bad(r, ERR_BAD_PARAM, i, "content", "may not be an empty list");
    for (size_t k = 0; k < n; k++) {
        const json_t *part = json_array_get(parts, k), *text = json_object_get(part, "text");
        const char *type = json_c_string(json_object_get(part, "type"));
        if (type == NULL) return bad(r, ERR_BAD_PARAM, i, "content", "must hold parts with a type");
        if (!is_text(type)) {
            return bad(r, ERR_UNSUPPORTED, i, "content",
                       "may hold text parts only: this server takes no other media");
        }
        if (!json_is_string(text))
            return bad(r, ERR_BAD_PARAM, i, "content", "has a text part without text");
        *bytes += json_string_length(text) + 1; /* cannot overflow: all of it is in the body */
    }
    return 0;
}

/* Text parts joined by newlines. Nothing is ever fetched, so no other kind is taken. */
static int join_parts(const reading *r, const json_t *parts, size_t i, api__message *out) {
    size_t total = 0, at = 0;
    if (check_parts(r, parts, i, &total) != 0) return -1;
    char *joined = arena_alloc(r->mem, total);
    if (joined == NULL) return api__out_of_memory(r->e);
    for (size_t k = 0; k < json_array_size(parts); k++) {
        const json_t *text = json_object_get(json_array_get(parts, k), "text");
        if (k > 0) joined[at++] = '\n';
        memcpy(joined + at, json_string_value(text), json_string_length(text));
        at += json_string_length(text);
    }
    out->text = joined;
    out->n = at;
    return 0;
}

static int read_content(const reading *r, const json_t *content, size_t i, api__message *out) {
    if (json_is_array(content)) return join_parts(r, content, i, out);
    if (!json_is_string(content)) {
        return bad(r, ERR_BAD_PARAM, i, "content", "must be a string or a list of text parts");
    }
    out->text = json_string_value(content);
    out->n = json_string_length(content);
    return 0;
}

/* ---- calls of functions, told as the text that brought them forth ---- */

static int keep_text(const reading *r, buf *text, api__message *out) {
    out->text =
        text->failed ? NULL : arena_strndup(r->mem, text->data ? text->data : "", text->len);
    out->n = text->len;
    buf_deinit(text);
    return out->text ? 0 : api__out_of_memory(r->e);
}

/* Arguments are a JSON text; what a client sends back may be any string. */
static int put_call(const reading *r, const json_t *name, const json_t *arguments, size_t i,
                    buf *text) {
    if (!json_is_string(name) || !json_is_string(arguments)) {
        return bad(r, ERR_BAD_PARAM, i, "tool_calls",
                   "must hold calls with a function's name and arguments, both strings");
    }
    if (text->len) buf_puts(text, "\n");
    buf_puts(text, "{\"name\":");
    buf_json_string(text, json_string_value(name), json_string_length(name));
    buf_puts(text, ",\"arguments\":");
    buf_append(text, json_string_value(arguments), json_string_length(arguments));
    buf_puts(text, "}");
    return 0;
}

static int read_calls(const reading *r, const json_t *calls, size_t i, api__message *out) {
    buf text = {0};
    if (!json_is_array(calls) || json_array_size(calls) == 0) {
        return bad(r, ERR_BAD_PARAM, i, "tool_calls", "must be a list of calls");
    }
    buf_append(&text, out->text, out->n);
    for (size_t k = 0; k < json_array_size(calls); k++) {
        const json_t *f = json_object_get(json_array_get(calls, k), "function");
        if (put_call(r, json_object_get(f, "name"), json_object_get(f, "arguments"), i, &text) !=
            0) {
            buf_deinit(&text);
            return -1;
        }
    }
    return keep_text(r, &text, out);
}

static int tell_result(const reading *r, api__message *out) {
    buf text = {0};
    if (api__template_has(r->c->template, API__TOOL)) return 0;
    out->role = API__USER;
    buf_puts(&text, "Result: ");
    buf_append(&text, out->text, out->n);
    return keep_text(r, &text, out);
}

static const json_t *member(const json_t *root, const char *key) {
    const json_t *v = json_object_get(root, key);
    return json_is_null(v) ? NULL : v;
}

static int read_message(const reading *r, const json_t *v, size_t i, api__message *out) {
    if (!json_is_object(v)) return bad(r, ERR_BAD_PARAM, i, "", "must be an object");
    if (read_role(r, json_object_get(v, "role"), i, &out->role) != 0) return -1;
    const json_t *content = member(v, "content"), *calls = member(v, "tool_calls");
    if (calls && out->role != API__ASSISTANT) {
        return bad(r, ERR_BAD_PARAM, i, "tool_calls", "belongs to messages of the assistant");
    }
    out->text = "";
    /* Only an answer that was a call may lack a content. */
    if ((content || !calls) && read_content(r, content, i, out) != 0) return -1;
    if (calls) return read_calls(r, calls, i, out);
    return out->role == API__TOOL ? tell_result(r, out) : 0;
}

/* ---- items of /v1/responses ---- */

static int read_item(const reading *r, const json_t *v, size_t i, api__message *out) {
    const json_t *type = member(v, "type");
    const char *name = type ? json_c_string(type) : "message";
    buf text = {0};
    if (!json_is_object(v)) return bad(r, ERR_BAD_PARAM, i, "", "must be an object");
    if (name == NULL) return bad(r, ERR_BAD_PARAM, i, "type", "must be a string");
    if (strcmp(name, "message") == 0) return read_message(r, v, i, out);
    if (strcmp(name, "function_call") == 0) {
        out->role = API__ASSISTANT;
        if (put_call(r, json_object_get(v, "name"), json_object_get(v, "arguments"), i, &text) ==
            0) {
            return keep_text(r, &text, out);
        }
        buf_deinit(&text);
        return -1;
    }
    if (strcmp(name, "function_call_output") == 0) {
        const json_t *output = json_object_get(v, "output");
        if (!json_is_string(output)) return bad(r, ERR_BAD_PARAM, i, "output", "must be a string");
        *out = (api__message){API__TOOL, json_string_value(output), json_string_length(output)};
        return tell_result(r, out);
    }
    return bad(r, ERR_UNSUPPORTED, i, "type",
               "may be message, function_call or function_call_output");
}

/* ---- lists ---- */

static int check_end(const reading *r, const api__message *m, size_t n, bool open_last) {
    bool answered = m[n - 1].role == API__ASSISTANT;
    if (answered && n > 1 && m[n - 2].role == API__ASSISTANT && strcmp(r->list, "messages") == 0) {
        return err_set(r->e, ERR_BAD_PARAM, r->list,
                       "%s may not end in two messages of the assistant", r->list);
    }
    if (!open_last || answered) return 0;
    return err_set(r->e, ERR_BAD_PARAM, "continue_final_message",
                   "continue_final_message needs a last message of the assistant");
}

/* Text that stands before everything: in the system's turn, or where the template has none
 * at the head of the first turn. Room for one more message is behind the list. */
static int put_lead(const reading *r, const char *lead, api__message *m, size_t *n) {
    buf text = {0};
    bool system = api__template_has(r->c->template, API__SYSTEM);
    if (system && m[0].role != API__SYSTEM && m[0].role != API__DEVELOPER) {
        memmove(m + 1, m, *n * sizeof *m);
        m[0] = (api__message){API__SYSTEM, lead, strlen(lead)};
        *n += 1;
        return 0;
    }
    buf_puts(&text, lead);
    buf_puts(&text, "\n\n");
    buf_append(&text, m[0].text, m[0].n);
    return keep_text(r, &text, &m[0]);
}

static int read_list(const reading *r, const json_t *list, const api__turns *t, api__message *m,
                     size_t *n) {
    size_t at = 0;
    if (t->instructions) {
        if (!json_is_string(t->instructions))
            return api__bad_param(r->e, "instructions", "must be a string");
        if (!api__template_has(r->c->template, API__SYSTEM)) {
            return err_set(
                r->e, ERR_BAD_PARAM, "instructions",
                "instructions need a system role, which this model's chat template does not have");
        }
        m[at++] = (api__message){API__SYSTEM, json_string_value(t->instructions),
                                 json_string_length(t->instructions)};
    }
    if (json_is_string(list)) {
        m[at++] = (api__message){API__USER, json_string_value(list), json_string_length(list)};
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if ((t->items ? read_item(r, v, i, &m[at]) : read_message(r, v, i, &m[at])) != 0) return -1;
        at++;
    }
    *n = at;
    if (check_end(r, m, at, t->answer.open_last) != 0) return -1;
    return t->lead ? put_lead(r, t->lead, m, n) : 0;
}

int api__turns_to_ids(const api_context *c, const json_t *list, const api__turns *t, arena *mem,
                      token_ids *out, err *e) {
    reading r = {c, t->items ? "input" : "messages", mem, e};
    if (list == NULL) return err_set(e, ERR_BAD_PARAM, r.list, "%s is missing", r.list);
    if (c->strange_template)
        return err_set(e, ERR_UNSUPPORTED, r.list, "%s", API__STRANGE_TEMPLATE);
    if (c->opts.tokenizer == NULL)
        return api__no_tokenizer(c, r.list, "send token ids to /v1/completions", e);
    if (c->template == NULL) {
        return err_set(e, ERR_UNSUPPORTED, r.list,
                       "this model has no chat template: use /v1/completions");
    }
    bool text = t->items && json_is_string(list);
    size_t n = text ? 1 : json_array_size(list);
    if (!text && !json_is_array(list)) {
        return err_set(e, ERR_BAD_PARAM, r.list, "%s must be a %slist", r.list,
                       t->items ? "string or a " : "");
    }
    if (n == 0 || n > API__MAX_MESSAGES) {
        return err_set(e, ERR_BAD_PARAM, r.list, "%s must have 1 to %d entries", r.list,
                       API__MAX_MESSAGES);
    }
    api__message *m = arena_array(mem, n + 2, sizeof *m);
    if (m == NULL) return api__out_of_memory(e);
    if (read_list(&r, list, t, m, &n) != 0) return -1;
    return api__template_render(c->template, c->opts.tokenizer, m, n, &t->answer, out, e);
}

int api__read_template_kwargs(const json_t *v, api__thinking *out, err *e) {
    static const char name[] = "chat_template_kwargs", known[] = "enable_thinking";
    const char *key;
    json_t *value;
    if (v == NULL || json_is_null(v)) return 0;
    if (!json_is_object(v)) return err_set(e, ERR_BAD_PARAM, name, "%s must be an object", name);
    json_object_foreach((json_t *)(uintptr_t)v, key, value) {
        bool on = false;
        if (strcmp(key, known) != 0) {
            return err_set(e, ERR_UNSUPPORTED, name, "%s: %.64s is not known; %s is", name, key,
                           known);
        }
        if (api__read_bool(value, "chat_template_kwargs.enable_thinking", &on, e) != 0) return -1;
        if (!json_is_null(value)) *out = on ? API__THINK_ON : API__THINK_OFF;
    }
    return 0;
}

int api__read_turns(api_request *r, const api_context *c, const api__values *v, const char *lead,
                    err *e) {
    bool items = r->kind == API_RESPONSES;
    api__turns t = {
        .items = items,
        .answer = {.generation = v->add_generation_prompt, .open_last = v->continue_final_message},
        .instructions = v->instructions,
        .lead = lead};
    token_ids ids = {0};
    if (api__read_template_kwargs(v->chat_template_kwargs, &t.answer.thinking, e) != 0) return -1;
    r->prompts = arena_array(&r->mem, 1, sizeof *r->prompts);
    if (r->prompts == NULL) return api__out_of_memory(e);
    int rc = api__turns_to_ids(c, items ? v->input : v->messages, &t, &r->mem, &ids, e);
    if (rc == 0) rc = api__keep_ids(r, c, &ids, &r->prompts[0], items ? "input" : "messages", e);
    token_ids_deinit(&ids);
    r->n_prompts = 1;
    return rc;
}

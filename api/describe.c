/* describe.c - chat_template.fathom.json: a chat template as data, for whom Jinja is too much.
 *
 * For each role it has the pieces before and after a content, a piece being a control token or
 * text. It is turned into the Jinja text that means the same, which then goes the way of all:
 *
 *   {"roles": {"user": {"before": [{"control": "<|user|>"}], "after": [{"control": "<|end|>"}]},
 *              "system": {"before": ["System: "], "after": ["\n"]}},
 *    "prefix": [], "answer": [{"control": "<|assistant|>"}], "end": "<|end|>", "trim": false}
 *
 * "prefix" opens the conversation, "answer" the model's turn, "end" is the token that closes
 * it, "trim" strips blanks around contents, a role may say "optional": true to be left out
 * where the vocabulary lacks its control tokens. Besides:
 *
 *   "end": ["<|end|>", "<|endoftext|>"]   the first is needed, the others count if there
 *   "default_system": "Be kind."          the system's turn where the messages bring none
 *   "thinking": {"default": false, "on": [{"token": "<think>"}, "\n"], "off": []}
 *                                         follows "answer", as enable_thinking says
 *
 * {"token": text} is a token of that spelling, or plain text where there is none. */
#include "api/api_internal.h"

enum { MAX_FILE_BYTES = 64 << 10, MAX_PIECES = 32, MAX_ENDS = 8 };

typedef struct {
    const tokenizer *tok;
    const char *what;
    const char *content; /* the Jinja expression of a message's content */
    bool on[API__ROLES];
    buf before[API__ROLES], after[API__ROLES]; /* texts */
    token_ids *ends;
    err *e;
} reading;

static int bad(reading *r, const char *key, const char *rule) {
    return err_set(r->e, ERR_BAD_FILE, key, "%s: \"%s\" %s", r->what, key, rule);
}

/* 1 and nothing reported: a control token is not in the vocabulary and may be missing. */
static int find_control(reading *r, const json_t *text, const char *key, bool optional,
                        uint32_t *id) {
    const char *name = json_c_string(text);
    if (name == NULL) return bad(r, key, "must name control tokens by their text");
    if (tokenizer_find(r->tok, name, id)) return 0;
    if (optional) return 1;
    return err_set(r->e, ERR_BAD_FILE, key,
                   "%s: \"%s\" names the control token %.64s, which the tokenizer lacks", r->what,
                   key, name);
}

static void append(buf *out, const json_t *text) {
    buf_append(out, json_string_value(text), json_string_length(text));
}

/* Appends the pieces as text. */
static int read_pieces(reading *r, const json_t *list, const char *key, bool optional, buf *out) {
    size_t n = json_array_size(list);
    if (list == NULL) return 0;
    if (!json_is_array(list) || n > MAX_PIECES)
        return bad(r, key, "must be a list of at most 32 pieces");
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i), *control = json_object_get(v, "control");
        const json_t *token = json_object_get(v, "token");
        uint32_t id;
        if (json_is_string(v)) {
            append(out, v);
        } else if (json_is_string(token)) {
            append(out, token);
        } else if (!json_is_string(control)) {
            return bad(r, key,
                       "holds a piece that is neither text nor {\"control\": text} nor "
                       "{\"token\": text}");
        } else {
            int rc = find_control(r, control, key, optional, &id);
            if (rc != 0) return rc;
            append(out, control);
        }
    }
    return out->failed ? api__out_of_memory(r->e) : 0;
}

static int read_roles(reading *r, const json_t *roles) {
    const char *name;
    json_t *v;
    if (!json_is_object(roles))
        return bad(r, "roles", "must be an object with a member for each role");
    json_object_foreach((json_t *)(uintptr_t)roles, name, v) {
        size_t role = 0;
        while (role < API__ROLES && strcmp(api__role_names[role], name) != 0)
            role++;
        if (role == API__ROLES)
            return bad(r, "roles", "knows system, developer, user, assistant and tool only");
        if (!json_is_object(v))
            return bad(r, "roles", "must hold objects with \"before\" and \"after\"");
        bool optional = json_is_true(json_object_get(v, "optional"));
        int rc = read_pieces(r, json_object_get(v, "before"), "before", optional, &r->before[role]);
        if (rc == 0)
            rc = read_pieces(r, json_object_get(v, "after"), "after", optional, &r->after[role]);
        if (rc < 0) return -1;
        r->on[role] = rc == 0;
    }
    if (!r->on[API__USER] || !r->on[API__ASSISTANT]) {
        return bad(r, "roles", "needs user and assistant, their control tokens in the tokenizer");
    }
    return 0;
}

/* The first end must be a token; of the others those count that are. */
static int read_ends(reading *r, const json_t *end) {
    size_t n = json_is_array(end) ? json_array_size(end) : end != NULL;
    if (n > MAX_ENDS) return bad(r, "end", "may be a list of at most 8 tokens");
    for (size_t i = 0; i < n; i++) {
        uint32_t id;
        int rc =
            find_control(r, json_is_array(end) ? json_array_get(end, i) : end, "end", i > 0, &id);
        if (rc < 0 || (rc == 0 && api__push_id(r->ends, id, r->e) != 0)) return -1;
    }
    return 0;
}

/* ---- writing Jinja ---- */

/* A text as a Jinja string. */
static void put_string(buf *out, const char *s, size_t n) {
    buf_puts(out, "'");
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\\' || s[i] == '\'') buf_puts(out, "\\");
        if (s[i] == '\n') buf_puts(out, "\\n");
        else buf_append(out, s + i, 1);
    }
    buf_puts(out, "'");
}

static void put_print(buf *out, const buf *text) {
    if (text->len == 0) return;
    buf_puts(out, "{{- ");
    put_string(out, text->data, text->len);
    buf_puts(out, " }}");
}

static void put_turn(buf *out, const reading *r, api__role role) {
    buf_printf(out, "{%%- if m['role'] == '%s' %%}", api__role_names[role]);
    put_print(out, &r->before[role]);
    buf_printf(out, "{{- %s }}", r->content);
    put_print(out, &r->after[role]);
    buf_puts(out, "{%- endif %}");
}

/* The system's turn that stands where the messages bring none. */
static int put_system(buf *out, reading *r, const json_t *system) {
    if (system == NULL) return 0;
    if (!json_is_string(system)) return bad(r, "default_system", "must be a string");
    if (!r->on[API__SYSTEM]) return bad(r, "default_system", "needs a system role");
    buf_puts(out, "{%- if messages[0]['role'] != 'system'");
    if (r->on[API__DEVELOPER]) buf_puts(out, " and messages[0]['role'] != 'developer'");
    buf_puts(out, " %}");
    put_print(out, &r->before[API__SYSTEM]);
    buf_puts(out, "{{- ");
    put_string(out, json_string_value(system), json_string_length(system));
    buf_puts(out, " }}");
    put_print(out, &r->after[API__SYSTEM]);
    buf_puts(out, "{%- endif %}");
    return 0;
}

static int put_list(buf *out, reading *r, const json_t *list, const char *key) {
    buf text = {0};
    int rc = read_pieces(r, list, key, false, &text);
    if (rc == 0) put_print(out, &text);
    buf_deinit(&text);
    return rc;
}

static int put_thinking(buf *out, reading *r, const json_t *thinking) {
    const json_t *otherwise = json_object_get(thinking, "default");
    if (thinking == NULL) return 0;
    if (!json_is_object(thinking) || (otherwise && !json_is_boolean(otherwise)))
        return bad(r, "thinking", "must be an object whose \"default\" is true or false");
    buf_printf(out, "{%%- if enable_thinking is %s enable_thinking %%}",
               json_is_true(otherwise) ? "not defined or" : "defined and");
    if (put_list(out, r, json_object_get(thinking, "on"), "on") != 0) return -1;
    buf_puts(out, "{%- else %}");
    if (put_list(out, r, json_object_get(thinking, "off"), "off") != 0) return -1;
    buf_puts(out, "{%- endif %}");
    return 0;
}

static int write_template(buf *out, reading *r, const json_t *root) {
    if (!json_is_object(root))
        return err_set(r->e, ERR_BAD_FILE, r->what, "%s: must hold a JSON object", r->what);
    if (read_roles(r, json_object_get(root, "roles")) != 0) return -1;
    bool trim = json_is_true(json_object_get(root, "trim"));
    r->content = trim ? "m['content'] | trim" : "m['content']";
    if (put_list(out, r, json_object_get(root, "prefix"), "prefix") != 0) return -1;
    if (put_system(out, r, json_object_get(root, "default_system")) != 0) return -1;
    buf_puts(out, "{%- for m in messages %}");
    for (int role = 0; role < API__ROLES; role++) {
        if (r->on[role]) put_turn(out, r, (api__role)role);
    }
    buf_puts(out, "{%- endfor %}{%- if add_generation_prompt %}");
    if (put_list(out, r, json_object_get(root, "answer"), "answer") != 0) return -1;
    if (put_thinking(out, r, json_object_get(root, "thinking")) != 0) return -1;
    buf_puts(out, "{%- endif %}");
    if (read_ends(r, json_object_get(root, "end")) != 0) return -1;
    return out->failed ? api__out_of_memory(r->e) : 0;
}

int api__template_describe(buf *out, const char *json, size_t n, const tokenizer *tok,
                           const char *what, token_ids *ends, err *e) {
    static const json_limits limits = {MAX_FILE_BYTES, 16, 4096};
    json_t *root;
    err why = {0};
    if (json_parse(&root, json, n, &limits, what, &why) != 0) {
        return err_set(e, why.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_BAD_FILE, what, "%s",
                       why.msg);
    }
    reading r = {.tok = tok, .what = what, .ends = ends, .e = e};
    int rc = write_template(out, &r, root);
    for (int role = 0; role < API__ROLES; role++) {
        buf_deinit(&r.before[role]);
        buf_deinit(&r.after[role]);
    }
    json_decref(root);
    return rc;
}

/* describe.c - chat_template.fathom.json: a chat template as data instead of Jinja.
 *
 * For each role it lists the pieces before and after a content. A piece is text or a control token.
 * The description is translated to an equivalent Jinja template:
 *
 *   {"roles": {"user": {"before": [{"control": "<|user|>"}], "after": [{"control": "<|end|>"}]},
 *              "system": {"before": ["System: "], "after": ["\n"]}},
 *    "prefix": [], "answer": [{"control": "<|assistant|>"}], "end": "<|end|>", "trim": false}
 *
 * "prefix" opens the conversation, "answer" opens the model's turn, "end" is the token that closes
 * it, "trim" strips blanks around contents. A role with "optional": true is left out if the
 * vocabulary lacks its control tokens. Also:
 *
 *   "end": ["<|end|>", "<|endoftext|>"]   the first is required, the others are optional
 *   "default_system": "Be kind."          used when the messages have no system message
 *   "thinking": {"default": false, "on": [{"token": "<think>"}, "\n"], "off": []}
 *                                         printed after "answer"; enable_thinking selects one
 *
 * {"token": text} is a token with this spelling, or plain text if the vocabulary lacks it. */
#include "api/request_internal.h"

enum { MAX_FILE_BYTES = 64 << 10, MAX_PIECES = 32, MAX_ENDS = 8 };

typedef struct {
    const tokenizer *tok;
    const char *what;
    const char *content; /* the Jinja expression of a message's content */
    bool on[API__ROLES];
    buf before[API__ROLES], after[API__ROLES]; /* text for each role */
    token_ids *ends;
    err *error;
} reading;

static int bad(reading *reader, const char *key, const char *rule) {
    return err_set(reader->error, ERR_BAD_FILE, key, "%s: \"%s\" %s", reader->what, key, rule);
}

/* 1, without an error: the vocabulary lacks an optional control token. */
static int find_control(reading *reader, const json_t *text, const char *key, bool optional,
                        uint32_t *id) {
    const char *name = json_c_string(text);
    if (name == NULL) return bad(reader, key, "must give control tokens as strings");
    if (tokenizer_find(reader->tok, name, id)) return 0;
    if (optional) return 1;
    return err_set(reader->error, ERR_BAD_FILE, key,
                   "%s: \"%s\" names the control token %.64s, which is not in the vocabulary",
                   reader->what, key, name);
}

static void append(buf *out, const json_t *text) {
    buf_append(out, json_string_value(text), json_string_length(text));
}

/* Appends the pieces as text. */
static int read_pieces(reading *reader, const json_t *list, const char *key, bool optional,
                       buf *out) {
    size_t n = json_array_size(list);
    if (list == NULL) return 0;
    if (!json_is_array(list) || n > MAX_PIECES)
        return bad(reader, key, "must be a list of at most 32 pieces");
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(list, i), *control = json_object_get(value, "control");
        const json_t *token = json_object_get(value, "token");
        uint32_t id;
        if (json_is_string(value)) {
            append(out, value);
        } else if (json_is_string(token)) {
            append(out, token);
        } else if (!json_is_string(control)) {
            return bad(
                reader, key,
                "has a piece that is not a string, {\"control\": string} or {\"token\": string}");
        } else {
            int rc = find_control(reader, control, key, optional, &id);
            if (rc != 0) return rc;
            append(out, control);
        }
    }
    return out->failed ? api__out_of_memory(reader->error) : 0;
}

static int read_roles(reading *reader, const json_t *roles) {
    const char *name;
    json_t *value;
    if (!json_is_object(roles))
        return bad(reader, "roles", "must be an object with a member for each role");
    json_object_foreach((json_t *)(uintptr_t)roles, name, value) {
        size_t role = 0;
        while (role < API__ROLES && strcmp(api__role_names[role], name) != 0)
            role++;
        if (role == API__ROLES)
            return bad(reader, "roles",
                       "may only contain system, developer, user, assistant and tool");
        if (!json_is_object(value))
            return bad(reader, "roles", "must contain objects with \"before\" and \"after\"");
        bool optional = json_is_true(json_object_get(value, "optional"));
        int rc = read_pieces(reader, json_object_get(value, "before"), "before", optional,
                             &reader->before[role]);
        if (rc == 0)
            rc = read_pieces(reader, json_object_get(value, "after"), "after", optional,
                             &reader->after[role]);
        if (rc < 0) return -1;
        reader->on[role] = rc == 0;
    }
    if (!reader->on[API__USER] || !reader->on[API__ASSISTANT]) {
        return bad(reader, "roles",
                   "must contain user and assistant, with control tokens of the vocabulary");
    }
    return 0;
}

/* The first end must be a token. Others are skipped if the vocabulary lacks them. */
static int read_ends(reading *reader, const json_t *end) {
    size_t n = json_is_array(end) ? json_array_size(end) : end != NULL;
    if (n > MAX_ENDS) return bad(reader, "end", "may list at most 8 tokens");
    for (size_t i = 0; i < n; i++) {
        uint32_t id;
        int rc = find_control(reader, json_is_array(end) ? json_array_get(end, i) : end, "end",
                              i > 0, &id);
        if (rc < 0 || (rc == 0 && api__push_id(reader->ends, id, reader->error) != 0)) return -1;
    }
    return 0;
}

/* ---- writing Jinja ---- */

/* Writes a Jinja string. */
static void put_string(buf *out, const char *text, size_t n) {
    buf_puts(out, "'");
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\\' || text[i] == '\'') buf_puts(out, "\\");
        if (text[i] == '\n') buf_puts(out, "\\n");
        else buf_append(out, text + i, 1);
    }
    buf_puts(out, "'");
}

static void put_print(buf *out, const buf *text) {
    if (text->len == 0) return;
    buf_puts(out, "{{- ");
    put_string(out, text->data, text->len);
    buf_puts(out, " }}");
}

static void put_turn(buf *out, const reading *reader, api__role role) {
    buf_printf(out, "{%%- if m['role'] == '%s' %%}", api__role_names[role]);
    put_print(out, &reader->before[role]);
    buf_printf(out, "{{- %s }}", reader->content);
    put_print(out, &reader->after[role]);
    buf_puts(out, "{%- endif %}");
}

/* Prints the default system message when the conversation has none. */
static int put_system(buf *out, reading *reader, const json_t *system) {
    if (system == NULL) return 0;
    if (!json_is_string(system)) return bad(reader, "default_system", "must be a string");
    if (!reader->on[API__SYSTEM]) return bad(reader, "default_system", "requires a system role");
    buf_puts(out, "{%- if messages[0]['role'] != 'system'");
    if (reader->on[API__DEVELOPER]) buf_puts(out, " and messages[0]['role'] != 'developer'");
    buf_puts(out, " %}");
    put_print(out, &reader->before[API__SYSTEM]);
    buf_puts(out, "{{- ");
    put_string(out, json_string_value(system), json_string_length(system));
    buf_puts(out, " }}");
    put_print(out, &reader->after[API__SYSTEM]);
    buf_puts(out, "{%- endif %}");
    return 0;
}

static int put_list(buf *out, reading *reader, const json_t *list, const char *key) {
    buf text = {0};
    int rc = read_pieces(reader, list, key, false, &text);
    if (rc == 0) put_print(out, &text);
    buf_deinit(&text);
    return rc;
}

static int put_thinking(buf *out, reading *reader, const json_t *thinking) {
    const json_t *otherwise = json_object_get(thinking, "default");
    if (thinking == NULL) return 0;
    if (!json_is_object(thinking) || (otherwise && !json_is_boolean(otherwise)))
        return bad(reader, "thinking", "must be an object whose \"default\" is true or false");
    buf_printf(out, "{%%- if enable_thinking is %s enable_thinking %%}",
               json_is_true(otherwise) ? "not defined or" : "defined and");
    if (put_list(out, reader, json_object_get(thinking, "on"), "on") != 0) return -1;
    buf_puts(out, "{%- else %}");
    if (put_list(out, reader, json_object_get(thinking, "off"), "off") != 0) return -1;
    buf_puts(out, "{%- endif %}");
    return 0;
}

static int write_template(buf *out, reading *reader, const json_t *root) {
    if (!json_is_object(root))
        return err_set(reader->error, ERR_BAD_FILE, reader->what, "%s: must be a JSON object",
                       reader->what);
    if (read_roles(reader, json_object_get(root, "roles")) != 0) return -1;
    bool trim = json_is_true(json_object_get(root, "trim"));
    reader->content = trim ? "m['content'] | trim" : "m['content']";
    if (put_list(out, reader, json_object_get(root, "prefix"), "prefix") != 0) return -1;
    if (put_system(out, reader, json_object_get(root, "default_system")) != 0) return -1;
    buf_puts(out, "{%- for m in messages %}");
    for (int role = 0; role < API__ROLES; role++) {
        if (reader->on[role]) put_turn(out, reader, (api__role)role);
    }
    buf_puts(out, "{%- endfor %}{%- if add_generation_prompt %}");
    if (put_list(out, reader, json_object_get(root, "answer"), "answer") != 0) return -1;
    if (put_thinking(out, reader, json_object_get(root, "thinking")) != 0) return -1;
    buf_puts(out, "{%- endif %}");
    if (read_ends(reader, json_object_get(root, "end")) != 0) return -1;
    return out->failed ? api__out_of_memory(reader->error) : 0;
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
    reading reader = {.tok = tok, .what = what, .ends = ends, .error = e};
    int rc = write_template(out, &reader, root);
    for (int role = 0; role < API__ROLES; role++) {
        buf_deinit(&reader.before[role]);
        buf_deinit(&reader.after[role]);
    }
    json_decref(root);
    return rc;
}

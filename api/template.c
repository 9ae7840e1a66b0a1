/* template.c - conversations to token ids, without running a template language.
 *
 * A template is data: for each role the pieces before and after a content, a piece being a
 * control token or plain text. The known ones stand below in the same JSON form that a
 * model may bring as chat_template.fathom.json:
 *
 *   {"roles": {"user": {"before": [{"control": "<|user|>"}], "after": [{"control": "<|end|>"}]},
 *              "system": {"before": ["System: "], "after": ["\n"]}},
 *    "prefix": [], "answer": [{"control": "<|assistant|>"}], "end": "<|end|>", "trim": false}
 *
 * "prefix" opens the conversation, "answer" the model's turn, "end" is the token that closes
 * it, "trim" strips blanks around contents, a role may say "optional": true to be left out
 * where the vocabulary lacks its control tokens. Control ids come from pieces alone: a
 * content that spells a control token is encoded as the plain text it is. Besides:
 *
 *   "end": ["<|end|>", "<|endoftext|>"]   the first is needed, the others count if there
 *   "default_system": "Be kind."          the system's turn where the messages bring none
 *   "thinking": {"default": false, "on": [{"token": "<think>"}, "\n"], "off": []}
 *                                         follows "answer", as enable_thinking says
 *
 * {"token": text} is a token of that spelling, or plain text where there is none. */
#include "api/api_internal.h"
#include "base/file.h"
#include "base/size.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_FILE_BYTES = 64 << 10, MAX_PIECES = 32, MAX_ENDS = 8 };

const char *const api__role_names[API__ROLES] = {"system", "developer", "user", "assistant",
                                                 "tool"};

typedef struct {
    const char *text; /* plain text, or NULL for a control token */
    size_t n;
    uint32_t id;
} piece;

typedef struct {
    piece *items;
    size_t n;
} pieces;

struct api__template {
    arena mem;
    const char *name;
    pieces prefix, answer;
    pieces think[2]; /* after the answer: off, on */
    bool think_default;
    const char *system; /* the system's turn by default; NULL: none */
    size_t n_system;
    struct {
        bool on;
        pieces before, after;
    } roles[API__ROLES];
    bool trim;
    uint32_t ends[MAX_ENDS], n_ends;
};

#define TURN(role, open)                                                                           \
    "\"" role "\":{\"optional\":true,\"before\":[" open "],\"after\":[{\"control\":\"<|end|>\"}]}"
#define HEADER(role)                                                                               \
    "\"" role "\":{\"before\":[{\"control\":\"<|start_header_id|>\"},\"" role                      \
    "\",{\"control\":\"<|end_header_id|>\"},\"\\n\\n\"],\"after\":[{\"control\":\"<|eot_id|>\"}]}"
#define SAID(role, as) "\"" role "\":{\"before\":[\"" as ": \"],\"after\":[\"\\n\"]}"

static const struct {
    const char *name, *json;
    const char *jinja[5]; /* spellings known to mean this */
} known[] = {
    {"turns", /* <|role|>content<|end|> */
     "{\"roles\":{" TURN("system", "{\"control\":\"<|system|>\"}") "," TURN(
         "user", "{\"control\":\"<|user|>\"}") "," TURN("assistant",
                                                        "{\"control\":\"<|assistant|>"
                                                        "\"}") "," TURN("tool", "{\"control\":"
                                                                                "\"<|tool|>"
                                                                                "\"}") "},"
                                                                                       "\"answ"
                                                                                       "er\":["
                                                                                       "{\"con"
                                                                                       "trol\""
                                                                                       ":\"<|"
                                                                                       "assist"
                                                                                       "ant|>"
                                                                                       "\"}],"
                                                                                       "\"end"
                                                                                       "\":\"<"
                                                                                       "|end|>"
                                                                                       "\"}",
     {"{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
      "{% if add_generation_prompt %}<|assistant|>{% endif %}"}},
    {"llama3",
     "{\"prefix\":[{\"control\":\"<|begin_of_text|>\"}],\"trim\":true,\"roles\":{" HEADER(
         "system") "," HEADER("user") "," HEADER("assistant") "," HEADER("tool") "},"
                                                                                 "\"answer\":[{"
                                                                                 "\"control\":\"<|"
                                                                                 "start_header_id|>"
                                                                                 "\"},"
                                                                                 "\"assistant\",{"
                                                                                 "\"control\":\"<|"
                                                                                 "end_header_id|>"
                                                                                 "\"},"
                                                                                 "\"\\n\\n\"],"
                                                                                 "\"end\":\"<|eot_"
                                                                                 "id|>\"}",
     {"llama3",
      "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
      "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | "
      "trim + "
      "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
      "{{ content }}{% endfor %}{% if add_generation_prompt %}"
      "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
      "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
      "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | "
      "trim + "
      "'<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
      "{{ content }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"}},
    {"plain",
     "{\"roles\":{" SAID("system", "System") "," SAID("user", "User") "," SAID(
         "assistant", "Assistant") "},"
                                   "\"answer\":[\"Assistant:\"]}",
     {"plain"}},
};

/* ---- reading ---- */

typedef struct {
    api__template *t;
    const tokenizer *tok;
    const char *what;
    err *e;
} reading;

static int bad(reading *r, const char *key, const char *rule) {
    return err_set(r->e, ERR_BAD_FILE, key, "%s: \"%s\" %s", r->what, key, rule);
}

/* 1 and nothing reported: a control token is not in the vocabulary and may be missing. */
static int read_control(reading *r, const char *text, const char *key, bool optional,
                        uint32_t *id) {
    if (tokenizer_find(r->tok, text, id)) return 0;
    if (optional) return 1;
    return err_set(r->e, ERR_BAD_FILE, key,
                   "%s: \"%s\" names the control token %.64s, which the tokenizer lacks", r->what,
                   key, text);
}

/* A string of the file, kept with the template. */
static const char *keep(reading *r, const json_t *text) {
    const char *kept = arena_strndup(&r->t->mem, json_string_value(text), json_string_length(text));
    if (kept == NULL) api__out_of_memory(r->e);
    return kept;
}

static int read_pieces(reading *r, const json_t *list, const char *key, bool optional,
                       pieces *out) {
    size_t n = json_array_size(list);
    if (list == NULL) return 0;
    if (!json_is_array(list) || n > MAX_PIECES)
        return bad(r, key, "must be a list of at most 32 pieces");
    out->items = arena_array(&r->t->mem, n, sizeof *out->items);
    if (out->items == NULL) return api__out_of_memory(r->e);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        const char *control = json_string_value(json_object_get(v, "control"));
        const json_t *token = json_object_get(v, "token");
        piece *p = &out->items[i];
        if (json_is_string(token) && tokenizer_find(r->tok, json_string_value(token), &p->id))
            continue;
        const json_t *text = json_is_string(token) ? token : v;
        if (json_is_string(text)) {
            p->n = json_string_length(text);
            p->text = keep(r, text);
            if (p->text == NULL) return -1;
        } else if (control == NULL) {
            return bad(r, key,
                       "holds a piece that is neither text nor {\"control\": text} nor "
                       "{\"token\": text}");
        } else {
            int rc = read_control(r, control, key, optional, &p->id);
            if (rc != 0) return rc;
        }
    }
    out->n = n;
    return 0;
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
        int rc = read_pieces(r, json_object_get(v, "before"), "before", optional,
                             &r->t->roles[role].before);
        if (rc == 0)
            rc = read_pieces(r, json_object_get(v, "after"), "after", optional,
                             &r->t->roles[role].after);
        if (rc < 0) return -1;
        r->t->roles[role].on = rc == 0;
    }
    if (!r->t->roles[API__USER].on || !r->t->roles[API__ASSISTANT].on) {
        return bad(r, "roles", "needs user and assistant, their control tokens in the tokenizer");
    }
    return 0;
}

/* The first end must be a token; of the others those count that are. */
static int read_ends(reading *r, const json_t *end) {
    size_t n = json_is_array(end) ? json_array_size(end) : end != NULL;
    if (n > MAX_ENDS) return bad(r, "end", "may be a list of at most 8 tokens");
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_array(end) ? json_array_get(end, i) : end;
        if (!json_is_string(one)) return bad(r, "end", "must be the text of a control token");
        int rc = read_control(r, json_string_value(one), "end", i > 0, &r->t->ends[r->t->n_ends]);
        if (rc < 0) return -1;
        r->t->n_ends += rc == 0;
    }
    return 0;
}

static int read_system(reading *r, const json_t *system) {
    if (system == NULL) return 0;
    if (!json_is_string(system)) return bad(r, "default_system", "must be a string");
    if (!r->t->roles[API__SYSTEM].on) return bad(r, "default_system", "needs a system role");
    r->t->system = keep(r, system);
    r->t->n_system = json_string_length(system);
    return r->t->system ? 0 : -1;
}

static int read_thinking(reading *r, const json_t *thinking) {
    static const char *const names[2] = {"off", "on"};
    const json_t *otherwise = json_object_get(thinking, "default");
    if (thinking == NULL) return 0;
    if (!json_is_object(thinking) || (otherwise && !json_is_boolean(otherwise)))
        return bad(r, "thinking", "must be an object whose \"default\" is true or false");
    r->t->think_default = json_is_true(otherwise);
    for (int k = 0; k < 2; k++) {
        if (read_pieces(r, json_object_get(thinking, names[k]), names[k], false, &r->t->think[k]) !=
            0) {
            return -1;
        }
    }
    return 0;
}

static int read_template(reading *r, const json_t *root) {
    if (!json_is_object(root))
        return err_set(r->e, ERR_BAD_FILE, r->what, "%s: must hold a JSON object", r->what);
    if (read_roles(r, json_object_get(root, "roles")) != 0) return -1;
    if (read_pieces(r, json_object_get(root, "prefix"), "prefix", false, &r->t->prefix) != 0)
        return -1;
    if (read_pieces(r, json_object_get(root, "answer"), "answer", false, &r->t->answer) != 0)
        return -1;
    r->t->trim = json_is_true(json_object_get(root, "trim"));
    if (read_system(r, json_object_get(root, "default_system")) != 0) return -1;
    if (read_thinking(r, json_object_get(root, "thinking")) != 0) return -1;
    return read_ends(r, json_object_get(root, "end"));
}

int api__template_parse(api__template **out, const char *json, size_t n, const tokenizer *tok,
                        const char *what, err *e) {
    *out = NULL;
    static const json_limits limits = {MAX_FILE_BYTES, 16, 4096};
    json_t *root;
    err why = {0};
    if (json_parse(&root, json, n, &limits, what, &why) != 0) {
        return err_set(e, why.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_BAD_FILE, what, "%s",
                       why.msg);
    }
    api__template *t = calloc(1, sizeof *t);
    int rc = t ? 0 : api__out_of_memory(e);
    if (t) {
        arena_init(&t->mem, 1 << 20);
        t->name = what;
        reading r = {t, tok, what, e};
        rc = read_template(&r, root);
    }
    json_decref(root);
    if (rc != 0) {
        api__template_close(t);
        return -1;
    }
    *out = t;
    return 0;
}

/* ---- finding ---- */

/* 1 if no template of that text is known. */
static int open_chatml(api__template **out, const char *jinja, const tokenizer *tok, err *e) {
    buf json = {0};
    int rc = 1;
    bool found = api__chatml_find(&json, jinja);
    if (json.failed) rc = api__out_of_memory(e);
    else if (found) rc = api__template_parse(out, json.data, json.len, tok, "chatml", e);
    buf_deinit(&json);
    return rc;
}

static int open_known(api__template **out, const char *jinja, const tokenizer *tok, err *e) {
    buf want = {0}, have = {0};
    int rc = open_chatml(out, jinja, tok, e);
    api__jinja_normalise(&want, jinja, strlen(jinja));
    for (size_t i = 0; i < ARRAY_LEN(known) && rc == 1; i++) {
        for (size_t k = 0; k < ARRAY_LEN(known[i].jinja) && known[i].jinja[k] && rc == 1; k++) {
            buf_clear(&have);
            api__jinja_normalise(&have, known[i].jinja[k], strlen(known[i].jinja[k]));
            if (want.failed || have.failed) rc = api__out_of_memory(e);
            else if (want.len == have.len && memcmp(want.data, have.data, want.len) == 0) {
                rc = api__template_parse(out, known[i].json, strlen(known[i].json), tok,
                                         known[i].name, e);
            }
        }
    }
    buf_deinit(&want);
    buf_deinit(&have);
    return rc;
}

static int open_file(api__template **out, const char *path, const tokenizer *tok, err *e) {
    buf text = {0};
    int rc = file_read(&text, path, MAX_FILE_BYTES, e);
    if (rc == 0)
        rc = api__template_parse(out, text.data ? text.data : "", text.len, tok,
                                 "chat_template.fathom.json", e);
    buf_deinit(&text);
    return rc;
}

int api__template_open(api__template **out, const char *dir, const char *jinja,
                       const tokenizer *tok, err *e) {
    *out = NULL;
    buf path = {0}, text = {0};
    int rc = 0;
    buf_printf(&path, "%s/chat_template.fathom.json", dir);
    if (path.failed) return api__out_of_memory(e);
    if (api__file_exists(path.data)) {
        rc = open_file(out, path.data, tok, e);
        goto end;
    }
    buf_clear(&path);
    buf_printf(&path, "%s/chat_template.jinja", dir); /* the newer place of the same text */
    if (!path.failed && api__file_exists(path.data)) {
        rc = file_read(&text, path.data, MAX_FILE_BYTES, e);
        if (rc != 0) goto end;
        jinja = text.data;
    }
    if (jinja == NULL) goto end;
    bool cut = text.data && strlen(text.data) != text.len; /* a NUL would hide what is behind */
    rc = cut ? 1 : open_known(out, jinja, tok, e);
end:
    buf_deinit(&path);
    buf_deinit(&text);
    return rc;
}

void api__template_close(api__template *t) {
    if (t == NULL) return;
    arena_deinit(&t->mem);
    free(t);
}

const char *api__template_name(const api__template *t) {
    return t->name;
}

bool api__template_has(const api__template *t, api__role role) {
    return t->roles[role].on || (role == API__DEVELOPER && t->roles[API__SYSTEM].on);
}

const uint32_t *api__template_stops(const api__template *t, uint32_t *n) {
    *n = t->n_ends;
    return t->ends;
}

/* ---- rendering ---- */

typedef struct {
    const tokenizer *tok;
    buf run; /* plain text since the last control token, encoded in one piece */
    token_ids *out;
    err *e;
} rendering;

static int push_id(rendering *r, uint32_t id) {
    if (r->out->n == r->out->cap) {
        size_t cap = r->out->cap ? r->out->cap * 2 : 64, bytes;
        uint32_t *data = size_mul(cap, sizeof *data, &bytes) ? realloc(r->out->data, bytes) : NULL;
        if (data == NULL) return api__out_of_memory(r->e);
        r->out->data = data;
        r->out->cap = cap;
    }
    r->out->data[r->out->n++] = id;
    return 0;
}

static int flush(rendering *r) {
    if (r->run.failed) return api__out_of_memory(r->e);
    if (r->run.len == 0) return 0;
    if (tokenizer_encode(r->tok, r->run.data, r->run.len, false, SIZE_MAX, r->out, r->e) != 0)
        return -1;
    buf_clear(&r->run);
    return 0;
}

static int put(rendering *r, const pieces *p) {
    for (size_t i = 0; i < p->n; i++) {
        if (p->items[i].text) buf_append(&r->run, p->items[i].text, p->items[i].n);
        else if (flush(r) != 0 || push_id(r, p->items[i].id) != 0) return -1;
    }
    return 0;
}

static bool blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static void put_content(rendering *r, const api__template *t, const api__message *m) {
    const char *s = m->text;
    size_t n = m->n;
    while (t->trim && n > 0 && blank(s[n - 1]))
        n--;
    while (t->trim && n > 0 && blank(s[0]))
        s++, n--;
    buf_append(&r->run, s, n);
}

/* open: the turn stays without its end. */
static int put_turn(rendering *r, const api__template *t, const api__message *m, bool open) {
    /* developer is system's new name */
    api__role role = t->roles[m->role].on ? m->role : API__SYSTEM;
    if (put(r, &t->roles[role].before) != 0) return -1;
    put_content(r, t, m);
    return open ? 0 : put(r, &t->roles[role].after);
}

static int put_default_system(rendering *r, const api__template *t, const api__message *first) {
    if (t->system == NULL || first->role == API__SYSTEM || first->role == API__DEVELOPER) return 0;
    api__message m = {API__SYSTEM, t->system, t->n_system};
    return put_turn(r, t, &m, false);
}

static int put_answer(rendering *r, const api__template *t, api__thinking thinking) {
    bool on = thinking == API__THINK_DEFAULT ? t->think_default : thinking == API__THINK_ON;
    return put(r, &t->answer) != 0 ? -1 : put(r, &t->think[on]);
}

int api__template_render(const api__template *t, const tokenizer *tok, const api__message *m,
                         size_t n, const api__answer *a, token_ids *out, err *e) {
    rendering r = {.tok = tok, .out = out, .e = e};
    int rc = put(&r, &t->prefix);
    if (rc == 0 && n > 0) rc = put_default_system(&r, t, &m[0]);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = put_turn(&r, t, &m[i], a->open_last && i + 1 == n);
    if (rc == 0 && a->generation && !a->open_last) rc = put_answer(&r, t, a->thinking);
    if (rc == 0) rc = flush(&r);
    buf_deinit(&r.run);
    return rc;
}

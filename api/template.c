/* template.c - finds the chat template of a model, as transformers does, and opens it.
 *
 * A template is a program of the model's folder. One that cannot be used stops chat alone: what
 * is wrong is warned of here and told to those who chat. */
#include "api/template_internal.h"
#include "base/file.h"
#include "base/log.h"

#include <stdlib.h>

enum { MAX_BYTES = 1 << 20 };

const char *const api__role_names[API__ROLES + 1] = {"system",    "developer", "user",
                                                     "assistant", "tool",      NULL};

/* A text that was found, and its name. */
typedef struct {
    buf text;
    const char *what;
    bool described; /* in chat_template.fathom.json's form */
} source;

typedef struct {
    const char *dir, *chosen;
    const json_t *config;
    tokenizer *tok;
    source plain, tools;
} finding;

/* 1: there is no such file. */
static int read_file(source *s, const char *dir, const char *file, const char *what, err *e) {
    buf path = {0};
    int rc = 1;
    buf_printf(&path, "%s%s%s", dir, dir[0] ? "/" : "", file);
    if (path.failed) rc = api__out_of_memory(e);
    else if (api__file_exists(path.data)) rc = file_read(&s->text, path.data, MAX_BYTES, e);
    if (rc == 0) s->what = what;
    buf_deinit(&path);
    return rc;
}

static int take_text(source *s, const char *text, size_t n, const char *what, err *e) {
    buf_append(&s->text, text, n);
    s->what = what;
    return s->text.failed ? api__out_of_memory(e) : 0;
}

/* A template by name, where one has it: 1 if none has. */
static int take_named(source *s, const char *name, err *e) {
    size_t n = 0;
    const char *text = api__template_named(name, &n);
    return text ? take_text(s, text, n, name, e) : 1;
}

static bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

static int find_chosen(finding *f, err *e) {
    err why = {0};
    int rc = take_named(&f->plain, f->chosen, e);
    if (rc == 1) rc = read_file(&f->plain, "", f->chosen, f->chosen, &why);
    if (rc < 0 && why.code == ERR_BAD_FILE)
        return err_set(e, ERR_USAGE, "--chat-template", "--chat-template: %s", why.msg);
    if (rc < 0 && why.code != ERR_NONE) return err_set(e, why.code, why.param, "%s", why.msg);
    f->plain.described = ends_in(f->chosen, ".json");
    if (rc <= 0) return rc;
    buf names = {0};
    api__template_names(&names);
    rc = err_set(e, ERR_USAGE, "--chat-template",
                 "--chat-template: '%.100s' is neither a file nor one of %s", f->chosen,
                 names.data ? names.data : "");
    buf_deinit(&names);
    return rc;
}

/* A string of tokenizer_config.json: the template, or the name of one that is here. */
static int take_config(source *s, const json_t *text, err *e) {
    const char *name = json_c_string(text);
    int rc = name ? take_named(s, name, e) : 1;
    if (rc != 1) return rc;
    return take_text(s, json_string_value(text), json_string_length(text), "tokenizer_config.json",
                     e);
}

/* One template, or a list of named ones: [{"name": "default", "template": …}, …]. */
static int find_in_config(finding *f, err *e) {
    const json_t *v = json_object_get(f->config, "chat_template"), *one;
    size_t i;
    if (json_is_string(v)) return take_config(&f->plain, v, e);
    json_array_foreach(v, i, one) {
        const char *name = json_c_string(json_object_get(one, "name"));
        const json_t *text = json_object_get(one, "template");
        if (name == NULL || !json_is_string(text)) continue;
        source *s = strcmp(name, "default") == 0    ? &f->plain
                    : strcmp(name, "tool_use") == 0 ? &f->tools
                                                    : NULL;
        if (s && s->what == NULL && take_config(s, text, e) != 0) return -1;
    }
    return 0;
}

static int find_sources(finding *f, err *e) {
    if (f->chosen) return find_chosen(f, e);
    int rc =
        read_file(&f->plain, f->dir, "chat_template.fathom.json", "chat_template.fathom.json", e);
    f->plain.described = rc == 0;
    if (rc != 1) return rc;
    rc = read_file(&f->plain, f->dir, "chat_template.jinja", "chat_template.jinja", e);
    if (rc == 1) rc = find_in_config(f, e);
    if (rc != 0) return -1;
    source more = {0};
    rc = read_file(&more, f->dir, "additional_chat_templates/tool_use.jinja",
                   "additional_chat_templates/tool_use.jinja", e);
    if (rc == 0) {
        buf_deinit(&f->tools.text);
        f->tools = more;
    }
    return rc < 0 ? -1 : 0;
}

/* ---- opening ---- */

/* 0; 1 for a text that is wrong, which *why tells; -1 for memory. */
static int parse(api__template *t, api__variant *v, source *s, const finding *f, err *why, err *e) {
    buf jinja_text = {0};
    const buf *text = &s->text;
    int rc = 0;
    if (s->what == NULL) return 0;
    if (s->described) {
        rc = api__template_describe(&jinja_text, s->text.data ? s->text.data : "", s->text.len,
                                    f->tok, s->what, &t->ends, why);
        text = &jinja_text;
    }
    if (rc == 0) rc = jinja_parse(&v->jinja, text->data ? text->data : "", text->len, s->what, why);
    buf_deinit(&jinja_text);
    if (rc == 0) return 0;
    return why->code == ERR_NO_MEMORY ? api__out_of_memory(e) : 1;
}

static void mark(void *ud, const char *text, size_t n) {
    tokenizer_mark_control(ud, text, n);
}

static const json_t *token_text(const json_t *v) {
    return json_is_object(v) ? json_object_get(v, "content") : v;
}

/* bos_token and all its like, as transformers hands them to a template. */
static int read_tokens(api__template *t, const json_t *config, tokenizer *tok, err *e) {
    const char *key;
    json_t *v;
    t->tokens = json_object();
    if (t->tokens == NULL) return api__out_of_memory(e);
    json_object_foreach((json_t *)(uintptr_t)config, key, v) {
        json_t *text = (json_t *)(uintptr_t)token_text(v);
        if (!ends_in(key, "_token") || !json_is_string(text)) continue;
        if (json_object_size(t->tokens) == API__TOKEN_NAMES) break;
        if (json_object_set(t->tokens, key, text) != 0) return api__out_of_memory(e);
        tokenizer_mark_control(tok, json_string_value(text), json_string_length(text));
    }
    return 0;
}

/* 0, 1 with *why, or -1. */
static int open_sources(api__template *t, finding *f, err *why, err *e) {
    if (f->plain.what == NULL) {
        (void)err_set(why, ERR_BAD_FILE, NULL, "chat_template holds no text named default");
        return 1;
    }
    int rc = parse(t, &t->plain, &f->plain, f, why, e);
    if (rc == 0) rc = parse(t, &t->tools, &f->tools, f, why, e);
    if (rc != 0) return rc;
    jinja_each_text(t->plain.jinja, mark, f->tok);
    if (t->tools.jinja) jinja_each_text(t->tools.jinja, mark, f->tok);
    rc = read_tokens(t, f->config, f->tok, e);
    return rc == 0 ? api__template_try(t, f->tok, why, e) : rc;
}

static int open_found(api__template **out, finding *f, err *e) {
    api__template *t = calloc(1, sizeof *t);
    err why = {0};
    if (t == NULL) return api__out_of_memory(e);
    const char *name = f->plain.what ? f->plain.what : "chat_template", *last = strrchr(name, '/');
    t->name = strdup(last ? last + 1 : name); /* clients need not know where a file lies */
    int rc = t->name ? open_sources(t, f, &why, e) : api__out_of_memory(e);
    if (rc == 1 && f->chosen) {
        rc = err_set(e, ERR_USAGE, "--chat-template", "--chat-template: %s", why.msg);
    } else if (rc == 1) {
        log_line(LOG_WARN,
                 "the chat template cannot be used: %s; chat is refused until --chat-template "
                 "FILE|NAME gives another, or chat_template.fathom.json beside the model",
                 why.msg);
        t->broken = strdup(why.msg);
        rc = t->broken ? 0 : api__out_of_memory(e);
    }
    if (rc == 0) *out = t;
    else api__template_close(t);
    return rc;
}

int api__template_open(api__template **out, const char *dir, const char *chosen,
                       const json_t *config, tokenizer *tok, err *e) {
    finding f = {.dir = dir, .chosen = chosen, .config = config, .tok = tok};
    const json_t *there = json_object_get(config, "chat_template");
    *out = NULL;
    int rc = find_sources(&f, e);
    bool any = f.plain.what || f.tools.what || (there && !json_is_null(there));
    if (rc == 0 && any) rc = open_found(out, &f, e);
    buf_deinit(&f.plain.text);
    buf_deinit(&f.tools.text);
    return rc;
}

void api__template_close(api__template *t) {
    if (t == NULL) return;
    jinja_close(t->plain.jinja);
    jinja_close(t->tools.jinja);
    json_decref(t->tokens);
    token_ids_deinit(&t->ends);
    free(t->name);
    free(t->broken);
    free(t);
}

const char *api__template_name(const api__template *t) {
    return t->name;
}

const char *api__template_broken(const api__template *t) {
    return t->broken;
}

const api__traits *api__template_traits(const api__template *t, bool tools) {
    return tools && t->tools.jinja ? &t->tools.traits : &t->plain.traits;
}

const uint32_t *api__template_stops(const api__template *t, uint32_t *n) {
    *n = (uint32_t)t->ends.n;
    return t->ends.data;
}

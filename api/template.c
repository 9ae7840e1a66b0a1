/* template.c - finds the chat template of a model, as transformers does, and opens it.
 *
 * A template is a program from the model's folder. If it cannot be used, only chat is refused: the
 * reason is logged here and sent to clients that use chat. */
#include "api/template_internal.h"
#include "base/file.h"
#include "base/log.h"

#include <stdlib.h>

enum { MAX_BYTES = 1 << 20 };

const char *const api__role_names[API__ROLES + 1] = {"system",    "developer", "user",
                                                     "assistant", "tool",      NULL};

/* The text of a template and the name of its source. */
typedef struct {
    buf text;
    const char *what;
    bool described; /* has the form of chat_template.fathom.json */
} source;

typedef struct {
    const char *dir, *chosen;
    const json_t *config;
    tokenizer *tok;
    source plain, tools;
} finding;

/* 1: the file does not exist. */
static int read_file(source *src, const char *dir, const char *file, const char *what, err *e) {
    buf path = {0};
    int rc = 1;
    buf_printf(&path, "%s%s%s", dir, dir[0] ? "/" : "", file);
    if (path.failed) rc = api__out_of_memory(e);
    else if (api__file_exists(path.data)) rc = file_read(&src->text, path.data, MAX_BYTES, e);
    if (rc == 0) src->what = what;
    buf_deinit(&path);
    return rc;
}

static int take_text(source *src, const char *text, size_t n, const char *what, err *e) {
    buf_append(&src->text, text, n);
    src->what = what;
    return src->text.failed ? api__out_of_memory(e) : 0;
}

/* Takes a built-in template. 1: no such name. */
static int take_named(source *src, const char *name, err *e) {
    size_t n = 0;
    const char *text = api__template_named(name, &n);
    return text ? take_text(src, text, n, name, e) : 1;
}

static bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

static int find_chosen(finding *found, err *e) {
    err why = {0};
    int rc = take_named(&found->plain, found->chosen, e);
    if (rc == 1) rc = read_file(&found->plain, "", found->chosen, found->chosen, &why);
    if (rc < 0 && why.code == ERR_BAD_FILE)
        return err_set(e, ERR_USAGE, "--chat-template", "--chat-template: %s", why.msg);
    if (rc < 0 && why.code != ERR_NONE) return err_set(e, why.code, why.param, "%s", why.msg);
    found->plain.described = ends_in(found->chosen, ".json");
    if (rc <= 0) return rc;
    buf names = {0};
    api__template_names(&names);
    rc = err_set(e, ERR_USAGE, "--chat-template",
                 "--chat-template: '%.100s' is neither a file nor one of %s", found->chosen,
                 names.data ? names.data : "");
    buf_deinit(&names);
    return rc;
}

/* Takes a string of tokenizer_config.json: a template, or the name of a built-in one. */
static int take_config(source *src, const json_t *text, err *e) {
    const char *name = json_c_string(text);
    int rc = name ? take_named(src, name, e) : 1;
    if (rc != 1) return rc;
    return take_text(src, json_string_value(text), json_string_length(text),
                     "tokenizer_config.json", e);
}

/* chat_template is one template or a list: [{"name": "default", "template": …}, …]. */
static int find_in_config(finding *found, err *e) {
    const json_t *value = json_object_get(found->config, "chat_template"), *one;
    size_t i;
    if (json_is_string(value)) return take_config(&found->plain, value, e);
    json_array_foreach(value, i, one) {
        const char *name = json_c_string(json_object_get(one, "name"));
        const json_t *text = json_object_get(one, "template");
        if (name == NULL || !json_is_string(text)) continue;
        source *src = strcmp(name, "default") == 0    ? &found->plain
                      : strcmp(name, "tool_use") == 0 ? &found->tools
                                                      : NULL;
        if (src && src->what == NULL && take_config(src, text, e) != 0) return -1;
    }
    return 0;
}

static int find_sources(finding *found, err *e) {
    if (found->chosen) return find_chosen(found, e);
    int rc = read_file(&found->plain, found->dir, "chat_template.fathom.json",
                       "chat_template.fathom.json", e);
    found->plain.described = rc == 0;
    if (rc != 1) return rc;
    rc = read_file(&found->plain, found->dir, "chat_template.jinja", "chat_template.jinja", e);
    if (rc == 1) rc = find_in_config(found, e);
    if (rc != 0) return -1;
    source more = {0};
    rc = read_file(&more, found->dir, "additional_chat_templates/tool_use.jinja",
                   "additional_chat_templates/tool_use.jinja", e);
    if (rc == 0) {
        buf_deinit(&found->tools.text);
        found->tools = more;
    }
    return rc < 0 ? -1 : 0;
}

/* ---- opening ---- */

/* 0; 1 if the template is wrong, and *why has the reason; -1: out of memory. */
static int parse(api__template *tmpl, api__variant *variant, source *src, const finding *found,
                 err *why, err *e) {
    buf jinja_text = {0};
    const buf *text = &src->text;
    int rc = 0;
    if (src->what == NULL) return 0;
    if (src->described) {
        rc = api__template_describe(&jinja_text, src->text.data ? src->text.data : "",
                                    src->text.len, found->tok, src->what, &tmpl->ends, why);
        text = &jinja_text;
    }
    if (rc == 0)
        rc = jinja_parse(&variant->jinja, text->data ? text->data : "", text->len, src->what, why);
    buf_deinit(&jinja_text);
    if (rc == 0) return 0;
    return why->code == ERR_NO_MEMORY ? api__out_of_memory(e) : 1;
}

static void mark(void *ud, const char *text, size_t n) {
    tokenizer_mark_control(ud, text, n);
}

static const json_t *token_text(const json_t *value) {
    return json_is_object(value) ? json_object_get(value, "content") : value;
}

/* Reads bos_token and the other *_token members, which are variables of the template. */
static int read_tokens(api__template *tmpl, const json_t *config, tokenizer *tok, err *e) {
    const char *key;
    json_t *value;
    tmpl->tokens = json_object();
    if (tmpl->tokens == NULL) return api__out_of_memory(e);
    json_object_foreach((json_t *)(uintptr_t)config, key, value) {
        json_t *text = (json_t *)(uintptr_t)token_text(value);
        if (!ends_in(key, "_token") || !json_is_string(text)) continue;
        if (json_object_size(tmpl->tokens) == API__TOKEN_NAMES) break;
        if (json_object_set(tmpl->tokens, key, text) != 0) return api__out_of_memory(e);
        tokenizer_mark_control(tok, json_string_value(text), json_string_length(text));
    }
    return 0;
}

/* Returns like parse. */
static int open_sources(api__template *tmpl, finding *found, err *why, err *e) {
    if (found->plain.what == NULL) {
        (void)err_set(why, ERR_BAD_FILE, NULL, "chat_template has no template named default");
        return 1;
    }
    int rc = parse(tmpl, &tmpl->plain, &found->plain, found, why, e);
    if (rc == 0) rc = parse(tmpl, &tmpl->tools, &found->tools, found, why, e);
    if (rc != 0) return rc;
    jinja_each_text(tmpl->plain.jinja, mark, found->tok);
    if (tmpl->tools.jinja) jinja_each_text(tmpl->tools.jinja, mark, found->tok);
    rc = read_tokens(tmpl, found->config, found->tok, e);
    return rc == 0 ? api__template_try(tmpl, found->tok, why, e) : rc;
}

static int open_found(api__template **out, finding *found, err *e) {
    api__template *tmpl = calloc(1, sizeof *tmpl);
    err why = {0};
    if (tmpl == NULL) return api__out_of_memory(e);
    const char *name = found->plain.what ? found->plain.what : "chat_template",
               *last = strrchr(name, '/');
    tmpl->name = strdup(last ? last + 1 : name); /* clients see the name only, not the path */
    int rc = tmpl->name ? open_sources(tmpl, found, &why, e) : api__out_of_memory(e);
    if (rc == 1 && found->chosen) {
        rc = err_set(e, ERR_USAGE, "--chat-template", "--chat-template: %s", why.msg);
    } else if (rc == 1) {
        log_line(LOG_WARN,
                 "the chat template cannot be used: %s; chat is refused. To replace it, use "
                 "--chat-template FILE|NAME or add chat_template.fathom.json to the model's folder",
                 why.msg);
        tmpl->broken = strdup(why.msg);
        rc = tmpl->broken ? 0 : api__out_of_memory(e);
    }
    if (rc == 0) *out = tmpl;
    else api__template_close(tmpl);
    return rc;
}

int api__template_open(api__template **out, const char *dir, const char *chosen,
                       const json_t *config, tokenizer *tok, err *e) {
    finding found = {.dir = dir, .chosen = chosen, .config = config, .tok = tok};
    const json_t *there = json_object_get(config, "chat_template");
    *out = NULL;
    int rc = find_sources(&found, e);
    bool any = found.plain.what || found.tools.what || (there && !json_is_null(there));
    if (rc == 0 && any) rc = open_found(out, &found, e);
    buf_deinit(&found.plain.text);
    buf_deinit(&found.tools.text);
    return rc;
}

void api__template_close(api__template *tmpl) {
    if (tmpl == NULL) return;
    jinja_close(tmpl->plain.jinja);
    jinja_close(tmpl->tools.jinja);
    json_decref(tmpl->tokens);
    token_ids_deinit(&tmpl->ends);
    free(tmpl->name);
    free(tmpl->broken);
    free(tmpl);
}

const char *api__template_name(const api__template *tmpl) {
    return tmpl->name;
}

const char *api__template_broken(const api__template *tmpl) {
    return tmpl->broken;
}

const api__traits *api__template_traits(const api__template *tmpl, bool tools) {
    return tools && tmpl->tools.jinja ? &tmpl->tools.traits : &tmpl->plain.traits;
}

const uint32_t *api__template_stops(const api__template *tmpl, uint32_t *n) {
    *n = (uint32_t)tmpl->ends.n;
    return tmpl->ends.data;
}

/* api_prompt.c - prompts: text, token ids, lists of either, and conversations. */
#include "api/api_internal.h"

#include <stdlib.h>

static int bad(err *e, const char *param, const char *rule) {
    return err_set(e, ERR_BAD_PARAM, param, "%s %s", param, rule);
}

int api__check_id(const api_context *c, const json_t *v, const char *param, uint32_t *out, err *e) {
    int64_t id = 0;
    if (!json_is_integer(v)) return bad(e, param, "must hold integers only");
    if (api__read_int(v, param, 0, (int64_t)c->config->vocab_size - 1, &id, NULL) != 0) {
        return err_set(e, ERR_BAD_PARAM, param, "%s: token ids must be from 0 to %u", param,
                       c->config->vocab_size - 1);
    }
    *out = (uint32_t)id;
    return 0;
}

static int ids_prompt(api_request *r, const api_context *c, const json_t *list, api__prompt *p,
                      err *e) {
    size_t n = json_array_size(list);
    if (n == 0) return bad(e, "prompt", "may not be empty");
    /* Counted before copied: an over-long list costs nothing. */
    if (n > c->opts.max_context) return api__too_long(c, n, 0, "prompt", e);
    p->ids = arena_array(&r->mem, n, sizeof *p->ids);
    if (p->ids == NULL) return api__out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        if (api__check_id(c, json_array_get(list, i), "prompt", &p->ids[i], e) != 0) return -1;
        if (c->opts.tokenizer && !c->opts.control_ids &&
            eng_tokenizer_is_special(c->opts.tokenizer, p->ids[i])) {
            return err_set(e, ERR_BAD_PARAM, "prompt",
                           "prompt: token %u is a control token, which prompts may not hold here",
                           p->ids[i]);
        }
    }
    p->n = (uint32_t)n;
    return 0;
}

static int keep_ids(api_request *r, const api_context *c, const eng_ids *ids, api__prompt *p,
                    const char *param, err *e) {
    if (ids->n == 0) return bad(e, param, "gives no tokens");
    if (ids->n > c->opts.max_context) return api__too_long(c, ids->n, 0, param, e);
    p->ids = arena_array(&r->mem, ids->n, sizeof *p->ids);
    if (p->ids == NULL) return api__out_of_memory(e);
    memcpy(p->ids, ids->data, ids->n * sizeof *p->ids);
    p->n = (uint32_t)ids->n;
    return 0;
}

static int text_prompt(api_request *r, const api_context *c, const json_t *text, api__prompt *p,
                       err *e) {
    size_t n = json_string_length(text);
    if (n == 0) return bad(e, "prompt", "may not be empty");
    if (c->opts.tokenizer == NULL) {
        return err_set(e, ERR_UNSUPPORTED, "prompt",
                       "this model has no tokenizer: prompts must be token ids");
    }
    eng_ids ids = {0};
    int rc = api__encode(c, json_string_value(text), n, c->add_bos, &ids, e);
    if (rc == 0) rc = keep_ids(r, c, &ids, p, "prompt", e);
    eng_ids_deinit(&ids);
    return rc;
}

int api__encode(const api_context *c, const char *text, size_t n, bool bos, eng_ids *out, err *e) {
    if (bos) {
        out->data = malloc(sizeof *out->data * 64);
        if (out->data == NULL) return api__out_of_memory(e);
        out->cap = 64;
        out->data[out->n++] = c->bos_id;
    }
    return eng_tokenizer_encode(c->opts.tokenizer, text, n, false, SIZE_MAX, out, e);
}

int api__read_prompts(api_request *r, const api_context *c, const json_t *prompt, err *e) {
    if (prompt == NULL) return bad(e, "prompt", "is missing");
    if (!json_is_string(prompt) && !json_is_array(prompt)) {
        return bad(e, "prompt",
                   "must be a string, a list of strings, of token ids, or of lists of token ids");
    }
    const json_t *first = json_array_get(prompt, 0);
    if (json_is_array(prompt) && first == NULL) return bad(e, "prompt", "may not be empty");
    bool many = json_is_array(first) || json_is_string(first);
    size_t n = many ? json_array_size(prompt) : 1;
    if (n > c->opts.max_prompts) {
        return err_set(e, ERR_BAD_PARAM, "prompt", "prompt may be a list of at most %u",
                       c->opts.max_prompts);
    }
    r->prompts = arena_array(&r->mem, n, sizeof *r->prompts);
    if (r->prompts == NULL) return api__out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = many ? json_array_get(prompt, i) : prompt;
        if (many && json_typeof(one) != json_typeof(first)) {
            return bad(e, "prompt", "may not mix texts and token ids");
        }
        int rc = json_is_string(one) ? text_prompt(r, c, one, &r->prompts[i], e)
                                     : ids_prompt(r, c, one, &r->prompts[i], e);
        if (rc != 0) return -1;
    }
    r->n_prompts = (uint32_t)n;
    return 0;
}

/* ---- conversations ---- */

/* A refusal that names the message: "messages[3].role". */
static int bad_message(err *e, err_code code, size_t i, const char *key, const char *rule) {
    char param[64];
    (void)snprintf(param, sizeof param, "messages[%zu]%s%s", i, key[0] ? "." : "", key);
    return err_set(e, code, param, "%s %s", param, rule);
}

static int read_role(const api_context *c, const json_t *v, size_t i, api__role *out, err *e) {
    const char *name = json_string_value(v);
    size_t role = 0;
    if (name == NULL) return bad_message(e, ERR_BAD_PARAM, i, "role", "must be a string");
    while (role < API__ROLES && strcmp(api__role_names[role], name) != 0)
        role++;
    if (role == API__ROLES) {
        return bad_message(e, ERR_BAD_PARAM, i, "role",
                           "must be system, developer, user, assistant or tool");
    }
    if (!api__template_has(c->template, (api__role)role)) {
        return bad_message(e, ERR_BAD_PARAM, i, "role",
                           "is one that this model's chat template does not have");
    }
    *out = (api__role)role;
    return 0;
}

/* Text parts joined by newlines. Nothing is ever fetched, so no other kind is taken. */
static int join_parts(const json_t *parts, size_t i, arena *mem, api__message *out, err *e) {
    size_t total = 0, n = json_array_size(parts);
    if (n == 0) return bad_message(e, ERR_BAD_PARAM, i, "content", "may not be an empty list");
    for (size_t k = 0; k < n; k++) {
        const json_t *part = json_array_get(parts, k);
        const char *type = json_string_value(json_object_get(part, "type"));
        if (type == NULL)
            return bad_message(e, ERR_BAD_PARAM, i, "content", "must hold parts with a type");
        if (strcmp(type, "text") != 0 && strcmp(type, "input_text") != 0 &&
            strcmp(type, "output_text") != 0) {
            return bad_message(e, ERR_UNSUPPORTED, i, "content",
                               "may hold text parts only: this server takes no other media");
        }
        const json_t *text = json_object_get(part, "text");
        if (!json_is_string(text))
            return bad_message(e, ERR_BAD_PARAM, i, "content", "has a text part without text");
        total += json_string_length(text) + 1; /* cannot overflow: all of it is in the body */
    }
    char *joined = arena_alloc(mem, total);
    if (joined == NULL) return api__out_of_memory(e);
    size_t at = 0;
    for (size_t k = 0; k < n; k++) {
        const json_t *text = json_object_get(json_array_get(parts, k), "text");
        if (k > 0) joined[at++] = '\n';
        memcpy(joined + at, json_string_value(text), json_string_length(text));
        at += json_string_length(text);
    }
    out->text = joined;
    out->n = at;
    return 0;
}

static int read_message(const api_context *c, const json_t *v, size_t i, arena *mem,
                        api__message *out, err *e) {
    if (!json_is_object(v)) return bad_message(e, ERR_BAD_PARAM, i, "", "must be an object");
    if (read_role(c, json_object_get(v, "role"), i, &out->role, e) != 0) return -1;
    const json_t *content = json_object_get(v, "content");
    if (json_is_array(content)) return join_parts(content, i, mem, out, e);
    if (!json_is_string(content))
        return bad_message(e, ERR_BAD_PARAM, i, "content",
                           "must be a string or a list of text parts");
    out->text = json_string_value(content);
    out->n = json_string_length(content);
    return 0;
}

int api__messages_to_ids(const api_context *c, const json_t *messages, bool generation,
                         bool open_last, arena *mem, eng_ids *out, err *e) {
    if (c->opts.tokenizer == NULL || c->template == NULL) {
        return err_set(e, ERR_UNSUPPORTED, "messages", "this model has no %s: use /v1/completions",
                       c->opts.tokenizer ? "chat template" : "tokenizer");
    }
    size_t n = json_array_size(messages);
    if (messages == NULL) return bad(e, "messages", "is missing");
    if (!json_is_array(messages)) return bad(e, "messages", "must be a list");
    if (n == 0 || n > API__MAX_MESSAGES) return bad(e, "messages", "must have 1 to 1000 entries");
    api__message *m = arena_array(mem, n, sizeof *m);
    if (m == NULL) return api__out_of_memory(e);
    for (size_t i = 0; i < n; i++) {
        if (read_message(c, json_array_get(messages, i), i, mem, &m[i], e) != 0) return -1;
    }
    bool answered = m[n - 1].role == API__ASSISTANT;
    if (answered && n > 1 && m[n - 2].role == API__ASSISTANT) {
        return bad(e, "messages", "may not end in two messages of the assistant");
    }
    if (open_last && !answered)
        return bad(e, "continue_final_message", "needs a last message of the assistant");
    return api__template_render(c->template, c->opts.tokenizer, m, n, generation, open_last, out,
                                e);
}

int api__read_messages(api_request *r, const api_context *c, const api__values *v, err *e) {
    eng_ids ids = {0};
    r->prompts = arena_array(&r->mem, 1, sizeof *r->prompts);
    if (r->prompts == NULL) return api__out_of_memory(e);
    int rc = api__messages_to_ids(c, v->messages, v->add_generation_prompt,
                                  v->continue_final_message, &r->mem, &ids, e);
    if (rc == 0) rc = keep_ids(r, c, &ids, &r->prompts[0], "messages", e);
    eng_ids_deinit(&ids);
    r->n_prompts = 1;
    return rc;
}

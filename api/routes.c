/* routes.c - models, tokenize and detokenize, in the shapes of all servers at once:
 * vLLM's and SGLang's `prompt` and `messages`, llama.cpp's `content`, `with_pieces`. */
#include "api/api_internal.h"
#include "base/utf8.h"

#include <stdlib.h>

/* How deep tokens go: the layers of a loop, when a token leaves it, how many loops there are. */
static void write_depth(const api_context *c, buf *out) {
    const api_opts *o = &c->opts;
    float above, most;
    buf_printf(out, ",\"family\":\"%s\",\"core_layers\":%u,\"exit\":{\"rule\":\"%s\",",
               plan_family_name(c->config), c->config->n_core, exit_rule_name(o->exit));
    if (exit_rule_range(o->exit, &above, &most)) {
        buf_printf(out, "\"threshold\":%.6g,\"above\":%g,\"most\":%g}", (double)o->threshold,
                   (double)above, (double)most);
    } else {
        buf_puts(out, "\"threshold\":null,\"above\":null,\"most\":null}");
    }
    buf_printf(out, ",\"loops\":{\"default\":%u,\"cap\":%u},\"halted_kv\":\"%s\"", o->default_loops,
               o->ceiling_loops, o->halted_kv == KV_LAST ? "last" : "exact");
}

static void write_model(const api_context *c, buf *out) {
    const model_plan *m = c->config;
    buf_puts(out, "{\"id\":");
    buf_json_text(out, c->name);
    buf_printf(out, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":\"fathom\",\"root\":",
               (long long)c->created);
    buf_json_text(out, c->name);
    buf_printf(out, ",\"parent\":null,\"max_model_len\":%u,\"max_loops\":%u,\"trained_loops\":%u",
               c->opts.max_context, c->opts.ceiling_loops, m->loops_default);
    write_depth(c, out);
    buf_printf(out,
               ",\"meta\":{\"n_vocab\":%u,\"n_ctx_train\":%u,\"n_embd\":%u,\"n_params\":%llu,"
               "\"size\":%llu,"
               "\"chat_template\":",
               m->vocab_size, m->max_seq_len, m->dim,
               (unsigned long long)model_params(c->opts.model),
               (unsigned long long)model_bytes(c->opts.model));
    if (c->template) buf_json_text(out, api__template_name(c->template));
    else buf_puts(out, "null");
    buf_printf(out, ",\"tokenizer\":%s}}", c->opts.tokenizer ? "true" : "false");
}

void api_models(const api_context *c, buf *out) {
    buf_puts(out, "{\"object\":\"list\",\"data\":[");
    write_model(c, out);
    buf_puts(out, "]}");
}

int api_model(const api_context *c, const char *id, buf *out, err *e) {
    if (api__check_model(c, id, e) != 0) return -1;
    write_model(c, out);
    return 0;
}

/* ---- tokenize ---- */

typedef struct {
    const api_context *c;
    bool bos, strs, pieces;
    token_ids ids; /* of the text at work */
} tokenizing;

static int needs_tokenizer(const api_context *c, err *e) {
    if (c->opts.tokenizer) return 0;
    return err_set(e, ERR_UNSUPPORTED, NULL, "this model has no tokenizer");
}

static void write_ids(const token_ids *ids, buf *out) {
    buf_puts(out, "[");
    for (size_t i = 0; i < ids->n; i++) {
        if (i) buf_puts(out, ",");
        api__write_uint(out, ids->data[i]);
    }
    buf_puts(out, "]");
}

/* A piece that is not valid UTF-8 by itself is given as its bytes. */
static void write_piece(const api_context *c, uint32_t id, bool or_bytes, buf *out) {
    size_t n = 0;
    const char *bytes = tokenizer_bytes(c->opts.tokenizer, id, &n);
    if (bytes == NULL) n = 0;
    if (n == 0 || !or_bytes || utf8_valid(bytes, n)) {
        buf_json_string(out, n ? bytes : "", n);
        return;
    }
    for (size_t i = 0; i < n; i++)
        buf_printf(out, "%s%u", i ? "," : "[", (unsigned char)bytes[i]);
    buf_puts(out, "]");
}

static void write_tokens(const tokenizing *t, buf *out) {
    if (!t->pieces) {
        write_ids(&t->ids, out);
        return;
    }
    for (size_t i = 0; i < t->ids.n; i++) {
        buf_printf(out, "%s{\"id\":%u,\"piece\":", i ? "," : "[", t->ids.data[i]);
        write_piece(t->c, t->ids.data[i], true, out);
        buf_puts(out, "}");
    }
    buf_puts(out, t->ids.n ? "]" : "[]");
}

static void write_tail(const tokenizing *t, buf *out) {
    buf_printf(out, ",\"max_model_len\":%u,\"token_strs\":", t->c->opts.max_context);
    if (!t->strs) {
        buf_puts(out, "null}");
        return;
    }
    buf_puts(out, "[");
    for (size_t i = 0; i < t->ids.n; i++) {
        if (i) buf_puts(out, ",");
        write_piece(t->c, t->ids.data[i], false, out);
    }
    buf_puts(out, "]}");
}

static int encode_one(tokenizing *t, const json_t *text, const char *param, err *e) {
    if (!json_is_string(text))
        return err_set(e, ERR_BAD_PARAM, param, "%s must be a string or a list of strings", param);
    t->ids.n = 0;
    return api__encode(t->c, json_string_value(text), json_string_length(text), t->bos, &t->ids, e);
}

static int tokenize_text(tokenizing *t, const json_t *text, const char *param, buf *out, err *e) {
    if (!json_is_array(text)) {
        if (encode_one(t, text, param, e) != 0) return -1;
        buf_puts(out, "{\"tokens\":");
        write_tokens(t, out);
        buf_printf(out, ",\"count\":%zu", t->ids.n);
        write_tail(t, out);
        return 0;
    }
    buf count = {0};
    buf_puts(out, "{\"tokens\":[");
    for (size_t i = 0; i < json_array_size(text); i++) {
        if (encode_one(t, json_array_get(text, i), param, e) != 0) {
            buf_deinit(&count);
            return -1;
        }
        if (i) buf_puts(out, ",");
        write_tokens(t, out);
        buf_printf(&count, "%s%zu", i ? "," : "", t->ids.n);
    }
    buf_printf(out, "],\"count\":[%s]", count.data ? count.data : "");
    buf_deinit(&count);
    t->strs = false;
    write_tail(t, out);
    return 0;
}

static int tokenize_chat(tokenizing *t, const json_t *root, const json_t *messages, buf *out,
                         err *e) {
    api__turns turns = {.answer.generation = true};
    api__answer *a = &turns.answer;
    if (api__read_bool(json_object_get(root, "add_generation_prompt"), "add_generation_prompt",
                       &a->generation, e) != 0) {
        return -1;
    }
    if (api__read_bool(json_object_get(root, "continue_final_message"), "continue_final_message",
                       &a->open_last, e) != 0) {
        return -1;
    }
    const json_t *kwargs = json_object_get(root, "chat_template_kwargs");
    if (api__read_template_kwargs(kwargs, &a->thinking, e) != 0) return -1;
    arena mem;
    arena_init(&mem, t->c->opts.max_body_bytes * 2 + (1 << 20));
    int rc = api__turns_to_ids(t->c, messages, &turns, &mem, &t->ids, e);
    arena_deinit(&mem);
    if (rc != 0) return -1;
    buf_puts(out, "{\"tokens\":");
    write_tokens(t, out);
    buf_printf(out, ",\"count\":%zu", t->ids.n);
    write_tail(t, out);
    return 0;
}

static const json_t *member(const json_t *root, const char *key) {
    const json_t *v = json_object_get(root, key);
    return json_is_null(v) ? NULL : v;
}

static int tokenize(const api_context *c, const json_t *root, buf *out, err *e) {
    tokenizing t = {.c = c, .bos = c->add_bos};
    const char *model = NULL;
    if (needs_tokenizer(c, e) != 0 || api__read_model(c, root, &model, e) != 0) return -1;
    const json_t *prompt = member(root, "prompt"), *content = member(root, "content");
    const json_t *messages = member(root, "messages");
    bool special = c->add_bos, llama = false;
    if (api__read_bool(member(root, "add_special_tokens"), "add_special_tokens", &special, e) != 0)
        return -1;
    if (api__read_bool(member(root, "add_special"), "add_special", &llama, e) != 0) return -1;
    t.bos = c->add_bos && (content && !prompt ? llama : special);
    if (api__read_bool(member(root, "return_token_strs"), "return_token_strs", &t.strs, e) != 0)
        return -1;
    if (api__read_bool(member(root, "with_pieces"), "with_pieces", &t.pieces, e) != 0) return -1;
    int rc;
    if (messages) rc = tokenize_chat(&t, root, messages, out, e);
    else if (prompt) rc = tokenize_text(&t, prompt, "prompt", out, e);
    else if (content) rc = tokenize_text(&t, content, "content", out, e);
    else rc = err_set(e, ERR_BAD_PARAM, "prompt", "prompt, content or messages is missing");
    token_ids_deinit(&t.ids);
    return rc;
}

int api__read_model(const api_context *c, const json_t *root, const char **out, err *e) {
    const json_t *model = member(root, "model");
    *out = json_string_value(model);
    if (model && !json_is_string(model))
        return err_set(e, ERR_BAD_PARAM, "model", "model must be a string");
    return api__check_model(c, *out, e);
}

/* What was written before a failure is taken back: an answer is whole or it is an error. */
static int with_body(const api_context *c, const char *body, size_t n, buf *out, err *e,
                     int (*answer)(const api_context *, const json_t *, buf *, err *)) {
    json_t *root;
    size_t before = out->len;
    if (api__body(&root, c, body, n, e) != 0) return -1;
    int rc = answer(c, root, out, e);
    if (rc == 0 && out->failed) rc = api__out_of_memory(e);
    if (rc != 0 && out->data) {
        out->len = before;
        out->data[before] = 0;
    }
    json_decref(root);
    return rc;
}

struct api_listing {
    buf text;
    size_t at;
};

static int listing(api_listing **out, const api_context *c, const char *body, size_t n, err *e,
                   int (*answer)(const api_context *, const json_t *, buf *, err *)) {
    api_listing *l = calloc(1, sizeof *l);
    *out = NULL;
    if (l == NULL) return api__out_of_memory(e);
    if (with_body(c, body, n, &l->text, e, answer) != 0) {
        api_listing_destroy(l);
        return -1;
    }
    *out = l;
    return 0;
}

int api_tokenize(api_listing **out, const api_context *c, const char *body, size_t n, err *e) {
    return listing(out, c, body, n, e, tokenize);
}

bool api_listing_more(api_listing *l, buf *out, size_t want) {
    size_t left = l->text.len - l->at, n = left < want ? left : want;
    buf_append(out, l->text.data + l->at, n);
    l->at += n;
    return l->at < l->text.len && !out->failed;
}

size_t api_listing_bytes(const api_listing *l) {
    return sizeof *l + l->text.cap;
}

void api_listing_destroy(api_listing *l) {
    if (l == NULL) return;
    buf_deinit(&l->text);
    free(l);
}

/* ---- detokenize ---- */

static int decode(const api_context *c, const json_t *ids, bool skip_special, buf *text, err *e) {
    api_utf8 u = {0};
    for (size_t i = 0; i < json_array_size(ids); i++) {
        uint32_t id;
        if (api__check_id(c, json_array_get(ids, i), "tokens", &id, e) != 0) return -1;
        if (!skip_special && tokenizer_is_special(c->opts.tokenizer, id)) {
            size_t n;
            const char *bytes = tokenizer_bytes(c->opts.tokenizer, id, &n);
            if (bytes) api__utf8_bytes(&u, bytes, n, text);
        } else {
            api_utf8_token(&u, c->opts.tokenizer, id, text);
        }
    }
    api_utf8_finish(&u, text);
    return text->failed ? api__out_of_memory(e) : 0;
}

static int detokenize(const api_context *c, const json_t *root, buf *out, err *e) {
    const char *model;
    const json_t *tokens = member(root, "tokens");
    bool skip = false;
    if (needs_tokenizer(c, e) != 0 || api__read_model(c, root, &model, e) != 0) return -1;
    if (!json_is_array(tokens)) {
        return err_set(e, ERR_BAD_PARAM, "tokens", "tokens %s",
                       tokens ? "must be a list of token ids" : "is missing");
    }
    if (api__read_bool(member(root, "skip_special_tokens"), "skip_special_tokens", &skip, e) != 0)
        return -1;
    bool many = json_is_array(json_array_get(tokens, 0));
    buf text = {0}, json = {0};
    int rc = 0;
    for (size_t i = 0; i < (many ? json_array_size(tokens) : 1) && rc == 0; i++) {
        const json_t *one = many ? json_array_get(tokens, i) : tokens;
        if (!json_is_array(one))
            rc = err_set(e, ERR_BAD_PARAM, "tokens", "tokens may not mix ids and lists");
        else rc = decode(c, one, skip, &text, e);
        if (many) buf_puts(&json, i ? "," : "[");
        buf_json_string(&json, text.data ? text.data : "", text.len);
        buf_clear(&text);
    }
    if (many) buf_puts(&json, "]");
    if (rc == 0 && json.failed) rc = api__out_of_memory(e);
    if (rc == 0)
        buf_printf(out, "{\"prompt\":%s,\"content\":%s,\"text\":%s}", json.data, json.data,
                   json.data);
    buf_deinit(&text);
    buf_deinit(&json);
    return rc;
}

int api_detokenize(api_listing **out, const api_context *c, const char *body, size_t n, err *e) {
    return listing(out, c, body, n, e, detokenize);
}

/* load.c - tokenizer.json into flat tables; every number and name checked. */
#include "base/log.h"
#include "base/model_json.h"
#include "base/size.h"
#include "text/load_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const json_limits limits = {
    .max_bytes = 64 << 20, .max_depth = 24, .max_structural = 16 << 20};

int text__bad(text__loader *l, const char *key, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)err_vset_in(l->e, ERR_BAD_FILE, key, l->what, fmt, args);
    va_end(args);
    return -1;
}

int text__load_no_memory(text__loader *l) {
    return err_set(l->e, ERR_NO_MEMORY, NULL, "%s: out of memory", l->what);
}

int text__each_part(text__loader *l, const json_t *part, const char *key, text__part_load *load) {
    const char *type = json_string_value(json_object_get(part, "type"));
    const json_t *one;
    char list[32];
    size_t i;
    if (type == NULL) return text__bad(l, key, "a %s without type", key);
    if (strcmp(type, "Sequence") != 0) return load(l, part, type);
    (void)snprintf(list, sizeof list, "%ss", key);
    json_array_foreach(json_object_get(part, list), i, one) {
        if (text__each_part(l, one, key, load) != 0) return -1;
    }
    return 0;
}

int text__load_copy(text__loader *l, const json_t *text, char **out, size_t *n) {
    *n = json_string_length(text);
    *out = array_new(*n + 1, 1);
    if (*out == NULL) return text__load_no_memory(l);
    memcpy(*out, json_string_value(text), *n);
    return 0;
}

static bool empty_or_null(const json_t *v) {
    return v == NULL || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_number(v) && json_number_value(v) == 0);
}

/* ---- the parts around the vocabulary ---- */

static int check_model(text__loader *l, const json_t *model) {
    const char *type = json_string_value(json_object_get(model, "type"));
    if (!json_is_object(model)) return text__bad(l, "model", "there is no model");
    if (type && strcmp(type, "BPE") != 0) {
        return text__bad(l, "model", "model type %.40s is not supported (BPE is)", type);
    }
    static const char *const unused[] = {"dropout", "continuing_subword_prefix",
                                         "end_of_word_suffix"};
    for (size_t i = 0; i < ARRAY_LEN(unused); i++) {
        if (!empty_or_null(json_object_get(model, unused[i]))) {
            return text__bad(l, unused[i], "model.%s is not supported", unused[i]);
        }
    }
    l->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    l->vocab = json_object_get(model, "vocab");
    if (!json_is_object(l->vocab)) return text__bad(l, "vocab", "model.vocab is not an object");
    return 0;
}

/* An unknown token that the vocabulary lacks is none: the reference looks for it only where a
 * symbol has no token. */
static void load_unk(text__loader *l, const json_t *model) {
    const json_t *unk = json_object_get(model, "unk_token");
    l->t->unk = l->t->bos = TEXT__NO_ID;
    l->t->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    l->t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    if (empty_or_null(unk)) return;
    if (!json_is_string(unk) ||
        text__vocab_id(l, json_string_value(unk), json_string_length(unk), &l->t->unk) != 0) {
        log_line(LOG_WARN, "%s: unk_token is not in the vocabulary; it is left out", l->what);
    }
}

/* Text vanishes where it has no token, where a split takes it out, where an added token takes the
 * blanks beside it along, and where many unknown characters make one token. */
static void find_longest(tokenizer *t, size_t n_added) {
    bool whole = true;
    for (int b = 0; b < 256; b++)
        whole = whole && t->byte_id[b] != TEXT__NO_ID;
    if (t->chars && t->unk != TEXT__NO_ID && !t->fuse_unk) whole = true;
    for (uint32_t i = 0; i < t->n_steps; i++)
        whole = whole && t->steps[i].behavior != TEXT__REMOVED;
    for (size_t i = 0; i < n_added; i++)
        whole = whole && !t->added[i].lstrip && !t->added[i].rstrip;
    if (!whole || text__normalizer_shortens(t)) return;
    t->longest = t->chars ? 4 : 1; /* an unknown character's */
    for (uint32_t id = 0; id < t->n_ids; id++) {
        if (t->tokens[id].key_len > t->longest) t->longest = t->tokens[id].key_len;
    }
}

/* ---- the file ---- */

static int load(text__loader *l, const json_t *root) {
    tokenizer *t = l->t;
    const json_t *model = json_object_get(root, "model"),
                 *added = json_object_get(root, "added_tokens");
    if (!json_is_object(root)) return text__bad(l, NULL, "not a JSON object");
    if (check_model(l, model) != 0) return -1;
    if (added && !json_is_array(added) && !json_is_null(added))
        return text__bad(l, "added_tokens", "added_tokens is not a list");
    if (text__steps_load(t, json_object_get(root, "pre_tokenizer"), l->what, l->e) != 0) return -1;
    if (text__normalizer_load(l, json_object_get(root, "normalizer")) != 0) return -1;
    if (text__decoder_load(l, json_object_get(root, "decoder")) != 0) return -1;
    if (text__added_measure(l, added) != 0 || text__vocab_measure(l) != 0) return -1;
    if (t->n_ids == 0) return text__bad(l, "vocab", "the vocabulary is empty");
    t->tokens = array_new(t->n_ids, sizeof *t->tokens);
    t->whole = array_new(t->n_ids, sizeof *t->whole);
    if (!t->tokens || !t->whole) return text__load_no_memory(l);
    if (text__vocab_load(l) != 0 || text__added_load(l, added) != 0) return -1;
    t->text = l->text.data;
    l->text = (buf){0};
    load_unk(l, model);
    if (text__vocab_index(l) != 0) return -1;
    if (text__merges_load(l, json_object_get(model, "merges")) != 0) return -1;
    find_longest(t, json_array_size(added));
    text__post_load(l, json_object_get(root, "post_processor"));
    return 0;
}

int tokenizer_parse(tokenizer **out, const char *json, size_t n, uint32_t vocab_size,
                    const char *what, err *e) {
    *out = NULL;
    json_t *root = NULL;
    err why = {0};
    if (model_json_parse(&root, json, n, &limits, what, &why) != 0) {
        err_code code = why.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_BAD_FILE;
        return err_set(e, code, NULL, "%s", why.msg);
    }
    text__loader l = {
        .what = what, .rows = vocab_size < TEXT__MAX_VOCAB ? vocab_size : TEXT__MAX_VOCAB, .e = e};
    int rc = -1;
    l.t = calloc(1, sizeof *l.t);
    if (l.t == NULL) {
        text__load_no_memory(&l);
        goto end;
    }
    text__alphabet_init(l.byte_of);
    rc = load(&l, root);
    if (rc == 0) *out = l.t;
    else tokenizer_close(l.t);
end:
    buf_deinit(&l.text);
    json_decref(l.last);
    json_decref(l.past);
    json_decref(root);
    return rc;
}

/* load.c - reads a tokenizer.json into flat tables and checks every number and name. */
#include "base/log.h"
#include "base/model_json.h"
#include "base/size.h"
#include "text/load_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const json_limits limits = {
    .max_bytes = 64 << 20, .max_depth = 24, .max_structural = 16 << 20};

int text__bad(text__loader *loader, const char *key, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)err_vset_in(loader->e, ERR_BAD_FILE, key, loader->file, fmt, args);
    va_end(args);
    return -1;
}

int text__load_no_memory(text__loader *loader) {
    return err_set(loader->e, ERR_NO_MEMORY, NULL, "%s: out of memory", loader->file);
}

int text__each_part(text__loader *loader, const json_t *part, const char *key,
                    text__part_load *load) {
    const char *type = json_string_value(json_object_get(part, "type"));
    const json_t *one;
    char list[32];
    size_t i;
    if (type == NULL) return text__bad(loader, key, "a %s has no type", key);
    if (strcmp(type, "Sequence") != 0) return load(loader, part, type);
    (void)snprintf(list, sizeof list, "%ss", key);
    json_array_foreach(json_object_get(part, list), i, one) {
        if (text__each_part(loader, one, key, load) != 0) return -1;
    }
    return 0;
}

int text__load_copy(text__loader *loader, const json_t *text, char **out, size_t *n) {
    *n = json_string_length(text);
    *out = array_new(*n + 1, 1);
    if (*out == NULL) return text__load_no_memory(loader);
    memcpy(*out, json_string_value(text), *n);
    return 0;
}

static bool empty_or_null(const json_t *value) {
    return value == NULL || json_is_null(value) ||
           (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_number(value) && json_number_value(value) == 0);
}

/* ---- the parts around the vocabulary ---- */

static int check_model(text__loader *loader, const json_t *model) {
    const char *type = json_string_value(json_object_get(model, "type"));
    if (!json_is_object(model)) return text__bad(loader, "model", "the file has no model");
    if (type && strcmp(type, "BPE") != 0) {
        return text__bad(loader, "model", "model type %.40s is not supported (supported: BPE)",
                         type);
    }
    static const char *const unused[] = {"dropout", "continuing_subword_prefix",
                                         "end_of_word_suffix"};
    for (size_t i = 0; i < ARRAY_LEN(unused); i++) {
        if (!empty_or_null(json_object_get(model, unused[i]))) {
            return text__bad(loader, unused[i], "model.%s is not supported", unused[i]);
        }
    }
    loader->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    loader->vocab = json_object_get(model, "vocab");
    if (!json_is_object(loader->vocab))
        return text__bad(loader, "vocab", "model.vocab is not an object");
    return 0;
}

/* An unknown token outside the vocabulary is ignored: the reference too accepts such a file. */
static void load_unk(text__loader *loader, const json_t *model) {
    const json_t *unk = json_object_get(model, "unk_token");
    loader->tok->unk = loader->tok->bos = TEXT__NO_ID;
    loader->tok->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    loader->tok->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    if (empty_or_null(unk)) return;
    if (!json_is_string(unk) || text__vocab_id(loader, json_string_value(unk),
                                               json_string_length(unk), &loader->tok->unk) != 0) {
        log_line(LOG_WARN, "%s: unk_token is not in the vocabulary; it is ignored", loader->file);
    }
}

/* Leaves tok->longest at 0 if text may be dropped: if it has no token, if a split removes it, if an
 * added token takes the blanks beside it, or if several unknown characters become one token. */
static void find_longest(tokenizer *tok, size_t n_added) {
    bool keeps_all = true;
    for (int byte = 0; byte < 256; byte++)
        keeps_all = keeps_all && tok->byte_id[byte] != TEXT__NO_ID;
    if (tok->chars && tok->unk != TEXT__NO_ID && !tok->fuse_unk) keeps_all = true;
    for (uint32_t i = 0; i < tok->n_steps; i++)
        keeps_all = keeps_all && tok->steps[i].behavior != TEXT__REMOVED;
    for (size_t i = 0; i < n_added; i++)
        keeps_all = keeps_all && !tok->added[i].lstrip && !tok->added[i].rstrip;
    if (!keeps_all || text__normalizer_shortens(tok)) return;
    tok->longest = tok->chars ? 4 : 1; /* bytes of an unknown character */
    for (uint32_t id = 0; id < tok->n_ids; id++) {
        if (tok->tokens[id].key_len > tok->longest) tok->longest = tok->tokens[id].key_len;
    }
}

/* ---- the file ---- */

static int load(text__loader *loader, const json_t *root) {
    tokenizer *tok = loader->tok;
    const json_t *model = json_object_get(root, "model"),
                 *added = json_object_get(root, "added_tokens");
    if (!json_is_object(root)) return text__bad(loader, NULL, "the file is not a JSON object");
    if (check_model(loader, model) != 0) return -1;
    if (added && !json_is_array(added) && !json_is_null(added))
        return text__bad(loader, "added_tokens", "added_tokens is not a list");
    if (text__steps_load(tok, json_object_get(root, "pre_tokenizer"), loader->file, loader->e) != 0)
        return -1;
    if (text__normalizer_load(loader, json_object_get(root, "normalizer")) != 0) return -1;
    if (text__decoder_load(loader, json_object_get(root, "decoder")) != 0) return -1;
    if (text__added_measure(loader, added) != 0 || text__vocab_measure(loader) != 0) return -1;
    if (tok->n_ids == 0) return text__bad(loader, "vocab", "the vocabulary is empty");
    tok->tokens = array_new(tok->n_ids, sizeof *tok->tokens);
    tok->whole = array_new(tok->n_ids, sizeof *tok->whole);
    if (!tok->tokens || !tok->whole) return text__load_no_memory(loader);
    if (text__vocab_load(loader) != 0 || text__added_load(loader, added) != 0) return -1;
    tok->text = loader->text.data;
    loader->text = (buf){0};
    load_unk(loader, model);
    if (text__vocab_index(loader) != 0) return -1;
    if (text__merges_load(loader, json_object_get(model, "merges")) != 0) return -1;
    find_longest(tok, json_array_size(added));
    text__post_load(loader, json_object_get(root, "post_processor"));
    return 0;
}

int tokenizer_parse(tokenizer **out, const char *json, size_t n, uint32_t vocab_size,
                    const char *file, err *e) {
    *out = NULL;
    json_t *root = NULL;
    err problem = {0};
    if (model_json_parse(&root, json, n, &limits, file, &problem) != 0) {
        err_code code = problem.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_BAD_FILE;
        return err_set(e, code, NULL, "%s", problem.msg);
    }
    text__loader loader = {.file = file,
                           .n_rows = vocab_size < TEXT__MAX_VOCAB ? vocab_size : TEXT__MAX_VOCAB,
                           .e = e};
    int rc = -1;
    loader.tok = calloc(1, sizeof *loader.tok);
    if (loader.tok == NULL) {
        text__load_no_memory(&loader);
        goto end;
    }
    text__alphabet_init(loader.byte_of);
    rc = load(&loader, root);
    if (rc == 0) *out = loader.tok;
    else tokenizer_close(loader.tok);
end:
    buf_deinit(&loader.text);
    json_decref(loader.last_entry);
    json_decref(loader.without_row);
    json_decref(root);
    return rc;
}

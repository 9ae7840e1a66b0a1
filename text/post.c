/* post.c - the post-processor: the token that it puts before every text.
 *
 * Fathom puts at most one token before a text and none after it, so the rest of a post-processor is
 * ignored. No file is refused for it. */
#include "base/log.h"
#include "text/load_internal.h"

#include <string.h>

/* If a file names several tokens, the first one counts. */
static void take(text__loader *loader, const char *name, json_int_t id) {
    tokenizer *tok = loader->tok;
    bool known = id >= 0 && id < (json_int_t)tok->n_ids && tok->tokens[id].key_len > 0;
    if (!known || tok->bos != TEXT__NO_ID) {
        log_line(LOG_WARN,
                 "%s: the post_processor puts '%.40s' before every text; it is left out, because "
                 "%s",
                 loader->file, name,
                 known ? "another token comes before it" : "the model has no such token");
        return;
    }
    tok->bos = (uint32_t)id;
}

/* "special_tokens" maps a name to its ids. If the name is missing there, it is looked up as a
 * token. */
static void take_named(text__loader *loader, const json_t *post, const char *name) {
    const json_t *special = json_object_get(json_object_get(post, "special_tokens"), name);
    const json_t *id = json_array_get(json_object_get(special, "ids"), 0);
    uint32_t found;
    if (json_is_integer(id)) take(loader, name, json_integer_value(id));
    else take(loader, name, tokenizer_find(loader->tok, name, &found) ? (json_int_t)found : -1);
}

static void load_template(text__loader *loader, const json_t *post) {
    const json_t *part;
    size_t i;
    json_array_foreach(json_object_get(post, "single"), i, part) {
        const json_t *special = json_object_get(part, "SpecialToken");
        const char *name = json_string_value(json_object_get(special, "id"));
        if (special == NULL) return; /* the text itself; Fathom puts no token after it */
        if (name) take_named(loader, post, name);
    }
}

/* In BertProcessing and RobertaProcessing "cls" is a pair of name and id. */
static void load_cls(text__loader *loader, const json_t *post) {
    const json_t *cls = json_object_get(post, "cls"), *id = json_array_get(cls, 1);
    const char *name = json_string_value(json_array_get(cls, 0));
    if (name && json_is_integer(id)) take(loader, name, json_integer_value(id));
}

static void load_one(text__loader *loader, const json_t *post, const char *type) {
    if (strcmp(type, "TemplateProcessing") == 0) load_template(loader, post);
    else if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
        load_cls(loader, post);
    else if (strcmp(type, "ByteLevel") != 0) /* ByteLevel changes offsets only */
        log_line(LOG_WARN, "%s: post_processor %.40s is not supported; it is ignored", loader->file,
                 type);
}

void text__post_load(text__loader *loader, const json_t *post) {
    const char *type = json_string_value(json_object_get(post, "type"));
    if (type == NULL) return;
    if (strcmp(type, "Sequence") != 0) {
        load_one(loader, post, type);
        return;
    }
    const json_t *one;
    size_t i;
    json_array_foreach(json_object_get(post, "processors"), i, one) {
        type = json_string_value(json_object_get(one, "type"));
        if (type) load_one(loader, one, type);
    }
}

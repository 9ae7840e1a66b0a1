/* split.c - the pre-tokenizers: they cut a text into pieces, and no merge crosses a cut.
 *
 * Steps run depth first: each part that one step cuts off goes through the later steps before the
 * next cut, so no list of pieces is needed. */
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The pattern of GPT-2, by which a ByteLevel splits. */
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* ---- running ---- */

/* An item is a match or the text between two matches. */
typedef struct {
    text__encoder *enc;
    uint32_t step;
    const char *text;
    size_t start, end; /* the last item, if `held`: the next item may join it */
    bool held, was_match;
} splitter;

static int flush(splitter *splits) {
    if (!splits->held || splits->start == splits->end) return 0;
    splits->held = false;
    return text__encode_split(splits->enc, splits->step + 1, splits->text + splits->start,
                              splits->end - splits->start);
}

static bool joins(const splitter *splits, text__behavior behavior, bool is_match) {
    if (!splits->held) return false;
    switch (behavior) {
    case TEXT__MERGED_WITH_PREVIOUS: return is_match && !splits->was_match;
    case TEXT__MERGED_WITH_NEXT: return !is_match && splits->was_match;
    case TEXT__CONTIGUOUS: return is_match == splits->was_match;
    default: return false;
    }
}

static int item(void *ud, size_t start, size_t end, bool is_match) {
    splitter *splits = ud;
    const text__step *step = &splits->enc->tok->steps[splits->step];
    is_match = is_match != step->invert;
    if (step->behavior == TEXT__REMOVED && is_match) {
        int rc = flush(splits);
        splits->held = false;
        return rc;
    }
    if (joins(splits, step->behavior, is_match)) {
        splits->end = end;
    } else {
        if (flush(splits) != 0) return -1;
        splits->start = start;
        splits->end = end;
        splits->held = true;
    }
    splits->was_match = is_match;
    return 0;
}

int text__each_match(text__encoder *enc, const text__pattern *pattern, const char *text, size_t n,
                     text__match_item *take, void *ud) {
    text__matches matches = {.pattern = pattern, .text = text, .len = n};
    size_t done = 0; /* end of the last match */
    for (;;) {
        int rc = text__match_next(&enc->search, &matches, enc->e);
        if (rc < 0) return -1;
        if (rc == 0) break;
        if (matches.start > done && take(ud, done, matches.start, false) != 0) return -1;
        if (take(ud, matches.start, matches.end, true) != 0) return -1;
        done = matches.end;
    }
    return done < n ? take(ud, done, n, false) : 0;
}

static int split(text__encoder *enc, uint32_t step, const char *text, size_t n) {
    splitter splits = {.enc = enc, .step = step, .text = text};
    if (text__each_match(enc, &enc->tok->steps[step].pattern, text, n, item, &splits) != 0)
        return -1;
    return flush(&splits);
}

/* A ByteLevel with add_prefix_space puts a space before a text that begins without one. */
static int with_space(text__encoder *enc, uint32_t step, const char *text, size_t n) {
    char *copy = malloc(n + 1);
    if (copy == NULL)
        return err_set(enc->e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer");
    copy[0] = ' ';
    memcpy(copy + 1, text, n);
    int rc = enc->tok->steps[step].pattern.code ? split(enc, step, copy, n + 1)
                                                : text__encode_split(enc, step + 1, copy, n + 1);
    free(copy);
    return rc;
}

/* Appends the text with each space replaced. */
static void put_spaces(buf *out, const text__metaspace *meta, const char *text, size_t n) {
    for (const char *end = text + n, *at; text < end; text = at + (at < end)) {
        at = memchr(text, ' ', (size_t)(end - text));
        if (at == NULL) at = end;
        buf_append(out, text, (size_t)(at - text));
        if (at < end) buf_append(out, meta->replacement, meta->len);
    }
}

/* Splits the text before each replacement, except at its start. */
static int cut_spaces(text__encoder *enc, uint32_t step, const char *text, size_t n) {
    const text__metaspace *meta = &enc->tok->steps[step].meta;
    while (n > 0) {
        const char *at =
            n > meta->len ? memmem(text + 1, n - 1, meta->replacement, meta->len) : NULL;
        size_t len = at ? (size_t)(at - text) : n;
        if (text__encode_split(enc, step + 1, text, len) != 0) return -1;
        text += len;
        n -= len;
    }
    return 0;
}

static int metaspace(text__encoder *enc, uint32_t step, const char *text, size_t n) {
    const text__metaspace *meta = &enc->tok->steps[step].meta;
    const char *first = enc->text_start;
    bool prefix = meta->prepend == TEXT__ALWAYS || (meta->prepend == TEXT__FIRST && text == first);
    buf out = {0};
    bool begins =
        text[0] == ' ' || (n >= meta->len && memcmp(text, meta->replacement, meta->len) == 0);
    if (prefix && !begins) buf_append(&out, meta->replacement, meta->len);
    put_spaces(&out, meta, text, n);
    int rc =
        out.failed ? err_set(enc->e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer") : 0;
    if (text == first) enc->text_start = out.data;
    if (rc == 0)
        rc = meta->split ? cut_spaces(enc, step, out.data, out.len)
                         : text__encode_split(enc, step + 1, out.data, out.len);
    enc->text_start = first;
    buf_deinit(&out);
    return rc;
}

int text__encode_split(text__encoder *enc, uint32_t step, const char *text, size_t n) {
    if (n == 0) return 0;
    if (step == enc->tok->n_steps) return text__encode_piece(enc, text, n);
    const text__step *rule = &enc->tok->steps[step];
    if (rule->meta.len) return metaspace(enc, step, text, n);
    if (rule->add_prefix_space && text[0] != ' ') return with_space(enc, step, text, n);
    if (rule->pattern.code == NULL) return text__encode_split(enc, step + 1, text, n);
    return split(enc, step, text, n);
}

/* ---- loading ---- */

static int compile(text__step *step, const char *pattern, size_t n, bool literal, const char *file,
                   err *e) {
    char label[256];
    (void)snprintf(label, sizeof label, "%s: split pattern", file);
    return text__pattern_compile(&step->pattern, pattern, n, literal, label, e);
}

int text__pattern_load(text__pattern *pattern, const json_t *regex, const char *key,
                       const char *file, err *e) {
    char label[256];
    (void)snprintf(label, sizeof label, "%s: %s pattern", file, key);
    return text__pattern_compile(pattern, json_string_value(regex), json_string_length(regex),
                                 false, label, e);
}

static int load_bool(const json_t *object, const char *key, bool otherwise, bool *out,
                     const char *file, err *e) {
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_boolean(value)) {
        return err_set(e, ERR_BAD_FILE, key, "%s: %s must be true or false", file, key);
    }
    *out = value ? json_is_true(value) : otherwise;
    return 0;
}

static int load_byte_level(text__step *step, const json_t *pre, const char *file, err *e) {
    bool use_regex = true;
    if (load_bool(pre, "add_prefix_space", true, &step->add_prefix_space, file, e) != 0) return -1;
    if (load_bool(pre, "use_regex", true, &use_regex, file, e) != 0) return -1;
    return use_regex ? compile(step, GPT2_PATTERN, sizeof GPT2_PATTERN - 1, false, file, e) : 0;
}

static int load_split(text__step *step, const json_t *pre, const char *file, err *e) {
    static const char *const names[] = {
        [TEXT__ISOLATED] = "Isolated",
        [TEXT__REMOVED] = "Removed",
        [TEXT__MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [TEXT__MERGED_WITH_NEXT] = "MergedWithNext",
        [TEXT__CONTIGUOUS] = "Contiguous",
    };
    const char *behavior = json_string_value(json_object_get(pre, "behavior"));
    size_t kind = 0;
    while (kind < ARRAY_LEN(names) && (behavior == NULL || strcmp(names[kind], behavior) != 0))
        kind++;
    if (kind == ARRAY_LEN(names)) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer",
                       "%s: the behavior of a Split is missing or unknown", file);
    }
    step->behavior = (text__behavior)kind;
    if (load_bool(pre, "invert", false, &step->invert, file, e) != 0) return -1;
    const json_t *pattern = json_object_get(pre, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"),
                 *plain = json_object_get(pattern, "String");
    const json_t *text = regex ? regex : plain;
    if (!json_is_string(text)) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer",
                       "%s: the pattern of a Split has no Regex or String", file);
    }
    return compile(step, json_string_value(text), json_string_length(text), regex == NULL, file, e);
}

static int load_digits(text__step *step, const json_t *pre, const char *file, err *e) {
    bool individual = false;
    if (load_bool(pre, "individual_digits", false, &individual, file, e) != 0) return -1;
    step->behavior = individual ? TEXT__ISOLATED : TEXT__CONTIGUOUS;
    return compile(step, "\\p{N}", 5, false, file, e);
}

int text__metaspace_load(text__metaspace *meta, const json_t *one, const char *key,
                         const char *file, err *e) {
    static const char *const schemes[] = {
        [TEXT__ALWAYS] = "always", [TEXT__FIRST] = "first", [TEXT__NEVER] = "never"};
    const json_t *text = json_object_get(one, "replacement"),
                 *scheme = json_object_get(one, "prepend_scheme"),
                 *old = json_object_get(one, "add_prefix_space");
    size_t n = json_string_length(text), i = 0;
    *meta = (text__metaspace){.split = true};
    if (n == 0 || n >= sizeof meta->replacement || utf8_char(json_string_value(text), n) != n)
        return err_set(e, ERR_BAD_FILE, key,
                       "%s: the replacement of a Metaspace is not one character", file);
    memcpy(meta->replacement, json_string_value(text), n);
    meta->len = (uint8_t)n;
    while (json_is_string(scheme) && i < ARRAY_LEN(schemes) &&
           strcmp(schemes[i], json_string_value(scheme)) != 0)
        i++;
    if (i == ARRAY_LEN(schemes) || (scheme && !json_is_string(scheme)))
        return err_set(e, ERR_BAD_FILE, key, "%s: the prepend_scheme of a Metaspace is unknown",
                       file);
    meta->prepend = json_is_false(old) ? TEXT__NEVER : (text__prepend)i; /* older files */
    if (json_is_null(json_object_get(one, "split"))) return 0;
    return load_bool(one, "split", true, &meta->split, file, e);
}

/* Sets *bytes if the step turns text into bytes. No step may follow it. */
static int load_step(tokenizer *tok, const json_t *pre, bool *bytes, const char *file, err *e) {
    const char *type = json_string_value(json_object_get(pre, "type"));
    if (type == NULL)
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: a pre_tokenizer has no type", file);
    if (*bytes) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer",
                       "%s: pre_tokenizer %.40s comes after ByteLevel, which must be the last",
                       file, type);
    }
    if (tok->n_steps == TEXT__MAX_STEPS) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer",
                       "%s: there are more than %d pre_tokenizers", file, TEXT__MAX_STEPS);
    }
    text__step *step = &tok->steps[tok->n_steps++];
    if (strcmp(type, "Split") == 0) return load_split(step, pre, file, e);
    if (strcmp(type, "Digits") == 0) return load_digits(step, pre, file, e);
    if (strcmp(type, "Metaspace") == 0)
        return text__metaspace_load(&step->meta, pre, "pre_tokenizer", file, e);
    if (strcmp(type, "ByteLevel") == 0) {
        *bytes = true;
        return load_byte_level(step, pre, file, e);
    }
    return err_set(e, ERR_BAD_FILE, "pre_tokenizer",
                   "%s: pre_tokenizer %.40s is not supported (supported: ByteLevel, Split, Digits, "
                   "Metaspace, Sequence)",
                   file, type);
}

/* Without a ByteLevel, symbols are characters. */
int text__steps_load(tokenizer *tok, const json_t *pre, const char *file, err *e) {
    bool bytes = false;
    const char *type = json_string_value(json_object_get(pre, "type"));
    if (type && strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(pre, "pretokenizers"), *one;
        size_t i;
        json_array_foreach(list, i, one) {
            if (load_step(tok, one, &bytes, file, e) != 0) return -1;
        }
    } else if (pre && !json_is_null(pre)) {
        if (load_step(tok, pre, &bytes, file, e) != 0) return -1;
    }
    tok->chars = !bytes;
    return 0;
}

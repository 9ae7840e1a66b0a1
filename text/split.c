/* split.c - the pre-tokenizers: text into the pieces that merging may not cross.
 *
 * Steps run depth first: what one step cuts off goes through the rest before the next cut,
 * so no list of pieces is ever held. */
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What Hugging Face's ByteLevel splits by: GPT-2's pattern. */
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* ---- running ---- */

/* An item is a match or what stands between two matches. */
typedef struct {
    text__encoder *c;
    uint32_t step;
    const char *text;
    size_t start, end; /* held back: the next item may join it */
    bool held, was_match;
} splitter;

static int flush(splitter *s) {
    if (!s->held || s->start == s->end) return 0;
    s->held = false;
    return text__encode_split(s->c, s->step + 1, s->text + s->start, s->end - s->start);
}

static bool joins(const splitter *s, text__behavior b, bool is_match) {
    if (!s->held) return false;
    switch (b) {
    case TEXT__MERGED_WITH_PREVIOUS: return is_match && !s->was_match;
    case TEXT__MERGED_WITH_NEXT: return !is_match && s->was_match;
    case TEXT__CONTIGUOUS: return is_match == s->was_match;
    default: return false;
    }
}

static int item(void *ud, size_t start, size_t end, bool is_match) {
    splitter *s = ud;
    const text__step *step = &s->c->t->steps[s->step];
    is_match = is_match != step->invert;
    if (step->behavior == TEXT__REMOVED && is_match) {
        int rc = flush(s);
        s->held = false;
        return rc;
    }
    if (joins(s, step->behavior, is_match)) {
        s->end = end;
    } else {
        if (flush(s) != 0) return -1;
        s->start = start;
        s->end = end;
        s->held = true;
    }
    s->was_match = is_match;
    return 0;
}

int text__each_match(text__encoder *c, const text__pattern *pattern, const char *text, size_t n,
                     text__match_item *take, void *ud) {
    text__matches m = {.pattern = pattern, .text = text, .n = n};
    size_t done = 0; /* end of the last match */
    for (;;) {
        int rc = text__match_next(&c->search, &m, c->e);
        if (rc < 0) return -1;
        if (rc == 0) break;
        if (m.start > done && take(ud, done, m.start, false) != 0) return -1;
        if (take(ud, m.start, m.end, true) != 0) return -1;
        done = m.end;
    }
    return done < n ? take(ud, done, n, false) : 0;
}

static int split(text__encoder *c, uint32_t k, const char *text, size_t n) {
    splitter s = {.c = c, .step = k, .text = text};
    if (text__each_match(c, &c->t->steps[k].pattern, text, n, item, &s) != 0) return -1;
    return flush(&s);
}

/* HF's ByteLevel puts a space before every text that reaches it without one. */
static int with_space(text__encoder *c, uint32_t k, const char *text, size_t n) {
    char *copy = malloc(n + 1);
    if (copy == NULL) return err_set(c->e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer");
    copy[0] = ' ';
    memcpy(copy + 1, text, n);
    int rc = c->t->steps[k].pattern.code ? split(c, k, copy, n + 1)
                                         : text__encode_split(c, k + 1, copy, n + 1);
    free(copy);
    return rc;
}

/* The text with another character for each space, into `out`. */
static void put_spaces(buf *out, const text__metaspace *m, const char *text, size_t n) {
    for (const char *end = text + n, *at; text < end; text = at + (at < end)) {
        at = memchr(text, ' ', (size_t)(end - text));
        if (at == NULL) at = end;
        buf_append(out, text, (size_t)(at - text));
        if (at < end) buf_append(out, m->replacement, m->len);
    }
}

/* Each piece but the first begins with the replacement. */
static int cut_spaces(text__encoder *c, uint32_t k, const char *text, size_t n) {
    const text__metaspace *m = &c->t->steps[k].meta;
    while (n > 0) {
        const char *at = n > m->len ? memmem(text + 1, n - 1, m->replacement, m->len) : NULL;
        size_t len = at ? (size_t)(at - text) : n;
        if (text__encode_split(c, k + 1, text, len) != 0) return -1;
        text += len;
        n -= len;
    }
    return 0;
}

static int metaspace(text__encoder *c, uint32_t k, const char *text, size_t n) {
    const text__metaspace *m = &c->t->steps[k].meta;
    const char *first = c->first;
    bool prefix = m->prepend == TEXT__ALWAYS || (m->prepend == TEXT__FIRST && text == first);
    buf b = {0};
    bool begins = text[0] == ' ' || (n >= m->len && memcmp(text, m->replacement, m->len) == 0);
    if (prefix && !begins) buf_append(&b, m->replacement, m->len);
    put_spaces(&b, m, text, n);
    int rc = b.failed ? err_set(c->e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer") : 0;
    if (text == first) c->first = b.data;
    if (rc == 0)
        rc = m->split ? cut_spaces(c, k, b.data, b.len)
                      : text__encode_split(c, k + 1, b.data, b.len);
    c->first = first;
    buf_deinit(&b);
    return rc;
}

int text__encode_split(text__encoder *c, uint32_t k, const char *text, size_t n) {
    if (n == 0) return 0;
    if (k == c->t->n_steps) return text__encode_piece(c, text, n);
    const text__step *step = &c->t->steps[k];
    if (step->meta.len) return metaspace(c, k, text, n);
    if (step->add_prefix_space && text[0] != ' ') return with_space(c, k, text, n);
    if (step->pattern.code == NULL) return text__encode_split(c, k + 1, text, n);
    return split(c, k, text, n);
}

/* ---- loading ---- */

static int compile(text__step *step, const char *pattern, size_t n, bool literal, const char *what,
                   err *e) {
    char whose[256];
    (void)snprintf(whose, sizeof whose, "%s: split pattern", what);
    return text__pattern_compile(&step->pattern, pattern, n, literal, whose, e);
}

int text__pattern_load(text__pattern *p, const json_t *regex, const char *key, const char *what,
                       err *e) {
    char whose[256];
    (void)snprintf(whose, sizeof whose, "%s: %s pattern", what, key);
    return text__pattern_compile(p, json_string_value(regex), json_string_length(regex), false,
                                 whose, e);
}

static int load_bool(const json_t *object, const char *key, bool otherwise, bool *out,
                     const char *what, err *e) {
    const json_t *v = json_object_get(object, key);
    if (v && !json_is_boolean(v)) {
        return err_set(e, ERR_BAD_FILE, key, "%s: %s must be true or false", what, key);
    }
    *out = v ? json_is_true(v) : otherwise;
    return 0;
}

static int load_byte_level(text__step *step, const json_t *pre, const char *what, err *e) {
    bool use_regex = true;
    if (load_bool(pre, "add_prefix_space", true, &step->add_prefix_space, what, e) != 0) return -1;
    if (load_bool(pre, "use_regex", true, &use_regex, what, e) != 0) return -1;
    return use_regex ? compile(step, GPT2_PATTERN, sizeof GPT2_PATTERN - 1, false, what, e) : 0;
}

static int load_split(text__step *step, const json_t *pre, const char *what, err *e) {
    static const char *const names[] = {
        [TEXT__ISOLATED] = "Isolated",
        [TEXT__REMOVED] = "Removed",
        [TEXT__MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [TEXT__MERGED_WITH_NEXT] = "MergedWithNext",
        [TEXT__CONTIGUOUS] = "Contiguous",
    };
    const char *behavior = json_string_value(json_object_get(pre, "behavior"));
    size_t b = 0;
    while (b < ARRAY_LEN(names) && (behavior == NULL || strcmp(names[b], behavior) != 0))
        b++;
    if (b == ARRAY_LEN(names)) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: unknown Split behavior", what);
    }
    step->behavior = (text__behavior)b;
    if (load_bool(pre, "invert", false, &step->invert, what, e) != 0) return -1;
    const json_t *pattern = json_object_get(pre, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"),
                 *plain = json_object_get(pattern, "String");
    const json_t *text = regex ? regex : plain;
    if (!json_is_string(text)) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: a Split without Regex or String",
                       what);
    }
    return compile(step, json_string_value(text), json_string_length(text), regex == NULL, what, e);
}

static int load_digits(text__step *step, const json_t *pre, const char *what, err *e) {
    bool individual = false;
    if (load_bool(pre, "individual_digits", false, &individual, what, e) != 0) return -1;
    step->behavior = individual ? TEXT__ISOLATED : TEXT__CONTIGUOUS;
    return compile(step, "\\p{N}", 5, false, what, e);
}

int text__metaspace_load(text__metaspace *m, const json_t *one, const char *key, const char *what,
                         err *e) {
    static const char *const schemes[] = {
        [TEXT__ALWAYS] = "always", [TEXT__FIRST] = "first", [TEXT__NEVER] = "never"};
    const json_t *text = json_object_get(one, "replacement"),
                 *scheme = json_object_get(one, "prepend_scheme"),
                 *old = json_object_get(one, "add_prefix_space");
    size_t n = json_string_length(text), k = 0;
    *m = (text__metaspace){.split = true};
    if (n == 0 || n >= sizeof m->replacement || utf8_char(json_string_value(text), n) != n)
        return err_set(e, ERR_BAD_FILE, key, "%s: a Metaspace without a replacement", what);
    memcpy(m->replacement, json_string_value(text), n);
    m->len = (uint8_t)n;
    while (json_is_string(scheme) && k < ARRAY_LEN(schemes) &&
           strcmp(schemes[k], json_string_value(scheme)) != 0)
        k++;
    if (k == ARRAY_LEN(schemes) || (scheme && !json_is_string(scheme)))
        return err_set(e, ERR_BAD_FILE, key, "%s: unknown prepend_scheme of a Metaspace", what);
    m->prepend = json_is_false(old) ? TEXT__NEVER : (text__prepend)k; /* how it was said once */
    if (json_is_null(json_object_get(one, "split"))) return 0;
    return load_bool(one, "split", true, &m->split, what, e);
}

/* *bytes is set when the step turns text into bytes, which has to happen and comes last. */
static int load_step(tokenizer *t, const json_t *pre, bool *bytes, const char *what, err *e) {
    const char *type = json_string_value(json_object_get(pre, "type"));
    if (type == NULL)
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: a pre_tokenizer without type", what);
    if (*bytes) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer",
                       "%s: a %.40s pre_tokenizer after ByteLevel", what, type);
    }
    if (t->n_steps == TEXT__MAX_STEPS) {
        return err_set(e, ERR_BAD_FILE, "pre_tokenizer", "%s: more than %d pre_tokenizers", what,
                       TEXT__MAX_STEPS);
    }
    text__step *step = &t->steps[t->n_steps++];
    if (strcmp(type, "Split") == 0) return load_split(step, pre, what, e);
    if (strcmp(type, "Digits") == 0) return load_digits(step, pre, what, e);
    if (strcmp(type, "Metaspace") == 0)
        return text__metaspace_load(&step->meta, pre, "pre_tokenizer", what, e);
    if (strcmp(type, "ByteLevel") == 0) {
        *bytes = true;
        return load_byte_level(step, pre, what, e);
    }
    return err_set(e, ERR_BAD_FILE, "pre_tokenizer",
                   "%s: pre_tokenizer %.40s is not supported (ByteLevel, Split, Digits, Metaspace, "
                   "Sequence are)",
                   what, type);
}

/* Without a ByteLevel, symbols are characters. */
int text__steps_load(tokenizer *t, const json_t *pre, const char *what, err *e) {
    bool bytes = false;
    const char *type = json_string_value(json_object_get(pre, "type"));
    if (type && strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(pre, "pretokenizers"), *one;
        size_t i;
        json_array_foreach(list, i, one) {
            if (load_step(t, one, &bytes, what, e) != 0) return -1;
        }
    } else if (pre && !json_is_null(pre)) {
        if (load_step(t, pre, &bytes, what, e) != 0) return -1;
    }
    t->chars = !bytes;
    return 0;
}

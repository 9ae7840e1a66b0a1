/* normalize.c - the normalizer: text into the form that the vocabulary knows.
 *
 * Each step reads a text with its runs of origin and writes another. What it leaves alone keeps
 * its origin; what it writes for some bytes is trusted if all of them were; what it puts of its
 * own accord is the file's, and trusted. Where it takes out bytes that are not trusted, an empty
 * run is left: no control token is read across it.
 *
 * Unicode is version 15 here (utf8proc 2.8). The reference's normal forms and marks are those of
 * version 9, its lower case that of 16 or later: characters that came in between differ. Bytes
 * that are not UTF-8 pass as they are. */
#include "base/size.h"
#include "base/utf8.h"
#include "text/load_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum {
    MAX_GROWTH = 16, /* times that all Replace steps together may lengthen a text */
    FEW = 16,        /* marks up to which plain insertion sorts them */
    DECOMPOSED = 32, /* code points that one may become; the most known is 18 */
};

/* ---- texts with runs ---- */

static void end_run(text__normal *o, size_t end, bool trusted) {
    if (o->n_runs > 0 && o->runs[o->n_runs - 1].trusted == trusted) {
        o->runs[o->n_runs - 1].end = end;
        return;
    }
    if (o->n_runs == o->cap) {
        size_t cap = o->cap ? o->cap : 8, bytes;
        text_run *runs = NULL;
        if (size_mul(cap, 2, &cap) && size_mul(cap, sizeof *runs, &bytes))
            runs = realloc(o->runs, bytes);
        if (runs == NULL) {
            o->text.failed = true;
            return;
        }
        o->runs = runs;
        o->cap = cap;
    }
    o->runs[o->n_runs++] = (text_run){end, trusted};
}

void text__normal_deinit(text__normal *o) {
    buf_deinit(&o->text);
    free(o->runs);
    *o = (text__normal){0};
}

/* One step at work: `at` is how much of the text is done. */
typedef struct {
    text__encoder *c;
    const text__normal_step *step;
    const text__normal *in;
    text__normal *out;
    size_t at, run; /* run: the one that holds the byte at `at` */
} pass;

/* Goes on to `to`; keeps the bytes on the way, or says whether all of them are trusted. */
static bool go(pass *p, size_t to, bool keep) {
    const text__normal *in = p->in;
    bool trusted = true;
    while (p->run < in->n_runs) {
        const text_run *r = &in->runs[p->run];
        size_t end = r->end < to ? r->end : to;
        bool empty = end == p->at && r->end == p->at;
        if (p->at == to) break;
        trusted = trusted && r->trusted;
        if (keep) {
            buf_append(&p->out->text, in->text.data + p->at, end - p->at);
            if (end > p->at || empty) end_run(p->out, p->out->text.len, r->trusted);
        }
        p->at = end;
        if (r->end > to) break;
        p->run++;
    }
    return trusted;
}

static void keep(pass *p, size_t to) {
    (void)go(p, to, true);
}

/* n bytes for those up to `to`. An empty run before them stays one. */
static void put(pass *p, size_t to, const char *bytes, size_t n) {
    for (; p->run < p->in->n_runs && p->in->runs[p->run].end == p->at; p->run++)
        end_run(p->out, p->out->text.len, p->in->runs[p->run].trusted);
    bool trusted = go(p, to, false);
    buf_append(&p->out->text, bytes, n);
    if (n > 0 || !trusted) end_run(p->out, p->out->text.len, trusted);
}

/* ---- the normal forms ---- */

/* One character and all that may combine with it, decomposed. */
typedef struct {
    int32_t *data;
    size_t n, cap;
    bool failed;
} codes;

static void codes_add(codes *k, const int32_t *more, size_t n) {
    if (k->cap - k->n < n) {
        size_t cap = k->cap ? k->cap * 2 : 64, bytes;
        int32_t *data = NULL;
        if (size_mul(cap, sizeof *data, &bytes)) data = realloc(k->data, bytes);
        if (data == NULL) {
            k->failed = true;
            return;
        }
        k->data = data;
        k->cap = cap;
    }
    memcpy(k->data + k->n, more, n * sizeof *more);
    k->n += n;
}

static int options_of(text__normal_kind kind) {
    return UTF8PROC_STABLE |
           (kind == TEXT__NFC || kind == TEXT__NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
           (kind == TEXT__NFKC || kind == TEXT__NFKD ? UTF8PROC_COMPAT : 0);
}

static int combining_class(int32_t c) {
    return utf8proc_get_property(c)->combining_class;
}

static bool is_mark(int32_t c) {
    utf8proc_category_t k = utf8proc_category(c);
    return k == UTF8PROC_CATEGORY_MN || k == UTF8PROC_CATEGORY_MC || k == UTF8PROC_CATEGORY_ME;
}

/* Nothing before c combines with it or changes places with it: marks do, and the vowels and final
 * consonants of Hangul. */
static bool stands_alone(int32_t c) {
    return combining_class(c) == 0 && !is_mark(c) && !(c >= 0x1160 && c <= 0x11ff);
}

static size_t decompose(const char *s, size_t n, int options, int32_t *out, size_t *len) {
    utf8proc_int32_t c;
    *len = utf8_char(s, n);
    if (*len == 0) return 0;
    (void)utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)*len, &c);
    utf8proc_ssize_t made = utf8proc_decompose_char(c, out, DECOMPOSED, options, NULL);
    if (made > 0 && made <= DECOMPOSED) return (size_t)made;
    *out = c;
    return 1;
}

/* Fills k from the character at the start of text; how many bytes were read, 0 if there is none. */
static size_t gather(codes *k, const char *text, size_t n, int options) {
    int32_t some[DECOMPOSED];
    size_t len, at, made = decompose(text, n, options, some, &len);
    k->n = 0;
    if (made == 0) return 0;
    codes_add(k, some, made);
    for (at = len; at < n && (unsigned char)text[at] >= 0x80; at += len) {
        made = decompose(text + at, n - at, options, some, &len);
        if (made == 0 || stands_alone(some[0])) break;
        codes_add(k, some, made);
    }
    return at;
}

/* Marks by their class; those of one class stay in order. */
static void sort_marks(codes *k, size_t from, size_t to, int32_t *spare) {
    size_t count[257] = {0};
    int32_t *s = k->data;
    if (to - from <= FEW) {
        for (size_t i = from + 1; i < to; i++) {
            int32_t c = s[i];
            size_t at = i;
            for (; at > from && combining_class(s[at - 1]) > combining_class(c); at--)
                s[at] = s[at - 1];
            s[at] = c;
        }
        return;
    }
    for (size_t i = from; i < to; i++)
        count[combining_class(s[i]) + 1]++;
    for (size_t i = 1; i < ARRAY_LEN(count); i++)
        count[i] += count[i - 1];
    for (size_t i = from; i < to; i++)
        spare[count[combining_class(s[i])]++] = s[i];
    memcpy(s + from, spare, (to - from) * sizeof *s);
}

static void order(codes *k) {
    int32_t *spare = NULL;
    for (size_t i = 0, end; i < k->n; i = end) {
        end = i + 1;
        if (combining_class(k->data[i]) == 0) continue;
        while (end < k->n && combining_class(k->data[end]) != 0)
            end++;
        if (end - i > FEW && spare == NULL) spare = array_new(k->n, sizeof *spare);
        if (end - i > FEW && spare == NULL) k->failed = true;
        else sort_marks(k, i, end, spare);
    }
    free(spare);
}

static void form(pass *p) {
    const char *text = p->in->text.data;
    size_t n = p->in->text.len, len;
    int options = options_of(p->step->kind);
    codes k = {0};
    buf made = {0};
    for (size_t i = 0; i < n && !k.failed && !made.failed; i += len) {
        len = 1;
        if ((unsigned char)text[i] < 0x80 && (i + 1 == n || (unsigned char)text[i + 1] < 0x80))
            continue;
        size_t read = gather(&k, text + i, n - i, options);
        if (read == 0 || k.failed) continue; /* no character */
        len = read;
        order(&k);
        if (options & UTF8PROC_COMPOSE) {
            utf8proc_ssize_t left =
                utf8proc_normalize_utf32(k.data, (utf8proc_ssize_t)k.n, (utf8proc_option_t)options);
            k.n = left > 0 ? (size_t)left : 0;
        }
        buf_clear(&made);
        for (size_t c = 0; c < k.n; c++) {
            utf8proc_uint8_t bytes[4];
            utf8proc_ssize_t width = utf8proc_encode_char(k.data[c], bytes);
            buf_append(&made, bytes, (size_t)width);
        }
        if (made.len == len && memcmp(made.data, text + i, len) == 0) continue;
        keep(p, i);
        put(p, i + len, made.data, made.len);
    }
    if (k.failed || made.failed) p->out->text.failed = true;
    free(k.data);
    buf_deinit(&made);
}

/* ---- the other steps ---- */

/* What one character becomes, into out (8 bytes). */
static size_t change_char(text__normal_kind kind, int32_t c, char *out) {
    utf8proc_uint8_t *bytes = (utf8proc_uint8_t *)out;
    if (kind == TEXT__STRIP_ACCENTS && is_mark(c)) return 0;
    int32_t now = kind == TEXT__LOWERCASE ? utf8proc_tolower(c) : c;
    if (kind == TEXT__LOWERCASE && c == 0x130) { /* the one that becomes two */
        memcpy(out, "i\u0307", 3);
        return 3;
    }
    return (size_t)utf8proc_encode_char(now, bytes);
}

static void each_char(pass *p) {
    const char *text = p->in->text.data;
    size_t n = p->in->text.len, len;
    for (size_t i = 0; i < n; i += len) {
        utf8proc_int32_t c;
        char made[8];
        len = utf8_char(text + i, n - i);
        if (len == 0) {
            len = 1;
            continue;
        }
        (void)utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)len, &c);
        size_t now = change_char(p->step->kind, c, made);
        if (now == len && memcmp(made, text + i, len) == 0) continue;
        keep(p, i);
        put(p, i + len, made, now);
    }
}

static void strip(pass *p) {
    const char *text = p->in->text.data;
    size_t n = p->in->text.len, start = p->step->left ? text__spaces_after(text, n) : 0;
    size_t end = p->step->right ? text__spaces_before(text, start, n) : n;
    put(p, start, "", 0);
    keep(p, end);
    put(p, n, "", 0);
}

static void prepend(pass *p) {
    if (p->in->text.len > 0) put(p, 0, p->step->to, p->step->n_to);
}

static void replace_text(pass *p) {
    const text__normal_step *s = p->step;
    const char *text = p->in->text.data, *end = text + p->in->text.len, *from = text, *at;
    while (from < end && (at = memmem(from, (size_t)(end - from), s->from, s->n_from)) != NULL) {
        keep(p, (size_t)(at - text));
        from = at + s->n_from;
        put(p, (size_t)(from - text), s->to, s->n_to);
    }
}

typedef struct {
    pass *p;
    size_t start; /* of the stretch in the text */
} stretch;

static int replace_match(void *ud, size_t start, size_t end, bool is_match) {
    const stretch *s = ud;
    if (!is_match) return 0;
    keep(s->p, s->start + start);
    put(s->p, s->start + end, s->p->step->to, s->p->step->n_to);
    return 0;
}

static int replace_pattern(pass *p) {
    const char *text = p->in->text.data;
    size_t n = p->in->text.len;
    for (size_t i = 0; i < n; i++) { /* a byte that is not UTF-8 parts two stretches */
        stretch s = {p, i};
        size_t good = utf8_prefix(text + i, n - i);
        if (good > 0 &&
            text__each_match(p->c, &p->step->pattern, text + i, good, replace_match, &s) != 0)
            return -1;
        i += good;
    }
    return 0;
}

static int run_step(text__encoder *c, const text__normal_step *step, const text__normal *in,
                    text__normal *out) {
    pass p = {.c = c, .step = step, .in = in, .out = out};
    int rc = 0;
    buf_clear(&out->text);
    out->n_runs = 0;
    switch (step->kind) {
    case TEXT__LOWERCASE:
    case TEXT__STRIP_ACCENTS: each_char(&p); break;
    case TEXT__STRIP_BLANKS: strip(&p); break;
    case TEXT__PREPEND: prepend(&p); break;
    case TEXT__REPLACE_TEXT:
        if (step->from) replace_text(&p);
        else rc = replace_pattern(&p);
        break;
    default: form(&p); break;
    }
    if (rc == 0) keep(&p, in->text.len);
    return rc;
}

/* The runs of n bytes of the encoder's text. */
static void take_runs(const text__encoder *c, const char *text, size_t n, text__normal *o) {
    size_t from = (size_t)(text - c->text), done = from;
    for (size_t i = text__first_run(c, from); i < c->n_runs && done < from + n; i++) {
        done = c->runs[i].end < from + n ? c->runs[i].end : from + n;
        end_run(o, done - from, c->runs[i].trusted);
    }
    if (done < from + n) end_run(o, n, false); /* more than the runs cover */
}

int text__normalize(text__encoder *c, const char *text, size_t n, text__normal *out) {
    const tokenizer *t = c->t;
    text__normal next = {0};
    int rc = 0;
    *out = (text__normal){0};
    buf_append(&out->text, text, n);
    take_runs(c, text, n, out);
    for (uint32_t i = 0; i < t->n_normalizer && rc == 0 && !out->text.failed; i++) {
        rc = run_step(c, &t->normalizer[i], out, &next);
        text__normal swap = *out;
        *out = next;
        next = swap;
    }
    if (rc == 0 && (out->text.failed || next.text.failed))
        rc = err_set(c->e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer");
    text__normal_deinit(&next);
    if (rc != 0) text__normal_deinit(out);
    return rc;
}

/* ---- loading ---- */

/* How many times longer a text may get where n bytes are put for matches of the pattern; one that
 * may match nothing does so before each character. */
static double growth(const pcre2_code *pattern, size_t n) {
    uint32_t least = 0; /* characters of a match */
    (void)pcre2_pattern_info(pattern, PCRE2_INFO_MINLENGTH, &least);
    return least == 0 ? (double)n + 1 : (double)n / least;
}

static int load_replace(text__loader *l, text__normal_step *s, const json_t *one) {
    const json_t *pattern = json_object_get(one, "pattern"),
                 *content = json_object_get(one, "content");
    const json_t *plain = json_object_get(pattern, "String"),
                 *regex = json_object_get(pattern, "Regex");
    bool is_plain = json_string_length(plain) > 0;
    if (!json_is_string(content) || (!is_plain && json_string_length(regex) == 0)) {
        return text__bad(l, "normalizer",
                         "a Replace normalizer without String or Regex, or without content");
    }
    if (text__load_copy(l, content, &s->to, &s->n_to) != 0) return -1;
    if (is_plain && text__load_copy(l, plain, &s->from, &s->n_from) != 0) return -1;
    if (!is_plain && text__pattern_load(&s->pattern, regex, "normalizer", l->what, l->e) != 0)
        return -1;
    double times =
        is_plain ? (double)s->n_to / (double)s->n_from : growth(s->pattern.code, s->n_to);
    if (times > 1) l->growth *= times;
    if (l->growth > MAX_GROWTH) {
        return text__bad(l, "normalizer", "Replace normalizers that lengthen a text over %d times",
                         MAX_GROWTH);
    }
    return 0;
}

static int load_strip(text__loader *l, text__normal_step *s, const json_t *one) {
    const json_t *left = json_object_get(one, "strip_left"),
                 *right = json_object_get(one, "strip_right");
    if (!json_is_boolean(left) || !json_is_boolean(right))
        return text__bad(l, "normalizer", "a Strip normalizer without strip_left or strip_right");
    s->left = json_is_true(left);
    s->right = json_is_true(right);
    return 0;
}

static int load_prepend(text__loader *l, text__normal_step *s, const json_t *one) {
    const json_t *text = json_object_get(one, "prepend");
    size_t n = json_string_length(text);
    if (!json_is_string(text) || n > TEXT__MAX_PIECE)
        return text__bad(l, "normalizer", "a Prepend normalizer without text, or with too much");
    return text__load_copy(l, text, &s->to, &s->n_to);
}

static int load_step(text__loader *l, const json_t *one, const char *type) {
    static const char *const names[] = {
        [TEXT__NFC] = "NFC",
        [TEXT__NFD] = "NFD",
        [TEXT__NFKC] = "NFKC",
        [TEXT__NFKD] = "NFKD",
        [TEXT__LOWERCASE] = "Lowercase",
        [TEXT__STRIP_ACCENTS] = "StripAccents",
        [TEXT__STRIP_BLANKS] = "Strip",
        [TEXT__PREPEND] = "Prepend",
        [TEXT__REPLACE_TEXT] = "Replace",
    };
    tokenizer *t = l->t;
    if (t->n_normalizer == TEXT__MAX_STEPS)
        return text__bad(l, "normalizer", "more than %d normalizers", TEXT__MAX_STEPS);
    text__normal_step *s = &t->normalizer[t->n_normalizer++];
    size_t kind = 0;
    while (kind < ARRAY_LEN(names) && strcmp(names[kind], type) != 0)
        kind++;
    s->kind = (text__normal_kind)kind;
    if (kind == TEXT__REPLACE_TEXT) return load_replace(l, s, one);
    if (kind == TEXT__STRIP_BLANKS) return load_strip(l, s, one);
    if (kind == TEXT__PREPEND) return load_prepend(l, s, one);
    if (kind < ARRAY_LEN(names)) return 0;
    return text__bad(l, "normalizer",
                     "normalizer %.40s is not supported (NFC, NFD, NFKC, NFKD, Lowercase, Strip, "
                     "StripAccents, Replace, Prepend are)",
                     type);
}

int text__normalizer_load(text__loader *l, const json_t *normalizer) {
    if (normalizer == NULL || json_is_null(normalizer)) return 0;
    l->growth = 1;
    return text__each_part(l, normalizer, "normalizer", load_step);
}

bool text__normalizer_shortens(const tokenizer *t) {
    for (uint32_t i = 0; i < t->n_normalizer; i++) {
        const text__normal_step *s = &t->normalizer[i];
        bool longer = s->kind == TEXT__REPLACE_TEXT && s->from && s->n_to >= s->n_from;
        if (s->kind != TEXT__PREPEND && !longer) return true;
    }
    return false;
}

void text__normalizer_free(tokenizer *t) {
    for (uint32_t i = 0; i < t->n_normalizer; i++) {
        free(t->normalizer[i].from);
        free(t->normalizer[i].to);
        text__pattern_deinit(&t->normalizer[i].pattern);
    }
}

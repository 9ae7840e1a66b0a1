/* normalize.c - the normalizer: rewrites a text into the form used by the vocabulary.
 *
 * Each step reads a text with its runs of origin and writes another. Unchanged bytes keep their
 * origin. Bytes that replace others are trusted if all replaced bytes were. Bytes that a step
 * inserts come from the file and are trusted. If a step deletes untrusted bytes, it leaves an empty
 * run, so no control token is found across the gap.
 *
 * This file uses Unicode 15 (utf8proc 2.8). The reference uses version 9 for normal forms and
 * marks, and 16 or later for lower case, so newer characters may differ. Invalid UTF-8 is copied
 * unchanged. */
#include "base/size.h"
#include "base/utf8.h"
#include "text/load_internal.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

enum {
    MAX_GROWTH = 16, /* factor by which all Replace steps together may lengthen a text */
    FEW = 16,        /* up to so many marks are sorted by insertion */
    DECOMPOSED = 32, /* code points of one character, decomposed; the longest known has 18 */
};

/* ---- texts with runs ---- */

static void end_run(text__normal *normal, size_t end, bool trusted) {
    if (normal->n_runs > 0 && normal->runs[normal->n_runs - 1].trusted == trusted) {
        normal->runs[normal->n_runs - 1].end = end;
        return;
    }
    if (normal->n_runs == normal->cap) {
        size_t cap = normal->cap ? normal->cap : 8, bytes;
        text_run *runs = NULL;
        if (size_mul(cap, 2, &cap) && size_mul(cap, sizeof *runs, &bytes))
            runs = realloc(normal->runs, bytes);
        if (runs == NULL) {
            normal->text.failed = true;
            return;
        }
        normal->runs = runs;
        normal->cap = cap;
    }
    normal->runs[normal->n_runs++] = (text_run){end, trusted};
}

void text__normal_deinit(text__normal *normal) {
    buf_deinit(&normal->text);
    free(normal->runs);
    *normal = (text__normal){0};
}

/* One step on one text. */
typedef struct {
    text__encoder *enc;
    const text__normal_step *step;
    const text__normal *in;
    text__normal *out;
    size_t at;  /* bytes of `in` done so far */
    size_t run; /* the run with the byte at `at` */
} normal_pass;

/* Advances to byte `to`; copies the bytes on the way if `copy`. True: all of them are trusted. */
static bool advance(normal_pass *pass, size_t to, bool copy) {
    const text__normal *in = pass->in;
    bool trusted = true;
    while (pass->run < in->n_runs) {
        const text_run *run = &in->runs[pass->run];
        size_t end = run->end < to ? run->end : to;
        bool empty = end == pass->at && run->end == pass->at;
        if (pass->at == to) break;
        trusted = trusted && run->trusted;
        if (copy) {
            buf_append(&pass->out->text, in->text.data + pass->at, end - pass->at);
            if (end > pass->at || empty) end_run(pass->out, pass->out->text.len, run->trusted);
        }
        pass->at = end;
        if (run->end > to) break;
        pass->run++;
    }
    return trusted;
}

static void keep(normal_pass *pass, size_t to) {
    (void)advance(pass, to, true);
}

/* Replaces the bytes up to `to` by n others. An empty run before them is kept. */
static void put(normal_pass *pass, size_t to, const char *bytes, size_t n) {
    for (; pass->run < pass->in->n_runs && pass->in->runs[pass->run].end == pass->at; pass->run++)
        end_run(pass->out, pass->out->text.len, pass->in->runs[pass->run].trusted);
    bool trusted = advance(pass, to, false);
    buf_append(&pass->out->text, bytes, n);
    if (n > 0 || !trusted) end_run(pass->out, pass->out->text.len, trusted);
}

/* ---- the normal forms ---- */

/* The code points of a character and its marks, decomposed. */
typedef struct {
    int32_t *data;
    size_t count, cap;
    bool failed;
} code_list;

static void codes_add(code_list *list, const int32_t *more, size_t n) {
    if (list->cap - list->count < n) {
        size_t cap = list->cap ? list->cap * 2 : 64, bytes;
        int32_t *data = NULL;
        if (size_mul(cap, sizeof *data, &bytes)) data = realloc(list->data, bytes);
        if (data == NULL) {
            list->failed = true;
            return;
        }
        list->data = data;
        list->cap = cap;
    }
    memcpy(list->data + list->count, more, n * sizeof *more);
    list->count += n;
}

static int options_of(text__normal_kind kind) {
    return UTF8PROC_STABLE |
           (kind == TEXT__NFC || kind == TEXT__NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
           (kind == TEXT__NFKC || kind == TEXT__NFKD ? UTF8PROC_COMPAT : 0);
}

static int combining_class(int32_t code) {
    return utf8proc_get_property(code)->combining_class;
}

static bool is_mark(int32_t code) {
    utf8proc_category_t category = utf8proc_category(code);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
           category == UTF8PROC_CATEGORY_ME;
}

/* No earlier code point combines or changes places with this one. Marks do, and the vowels and
 * final consonants of Hangul. */
static bool stands_alone(int32_t code) {
    return combining_class(code) == 0 && !is_mark(code) && !(code >= 0x1160 && code <= 0x11ff);
}

static size_t decompose(const char *text, size_t n, int options, int32_t *out, size_t *len) {
    utf8proc_int32_t code;
    *len = utf8_char(text, n);
    if (*len == 0) return 0;
    (void)utf8proc_iterate((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)*len, &code);
    utf8proc_ssize_t made =
        utf8proc_decompose_char(code, out, DECOMPOSED, (utf8proc_option_t)options, NULL);
    if (made > 0 && made <= DECOMPOSED) return (size_t)made;
    *out = code;
    return 1;
}

/* Fills the list from the first character of text and the marks after it. Returns the bytes read; 0
 * if there is no valid character. */
static size_t gather(code_list *list, const char *text, size_t n, int options) {
    int32_t parts[DECOMPOSED];
    size_t len, at, made = decompose(text, n, options, parts, &len);
    list->count = 0;
    if (made == 0) return 0;
    codes_add(list, parts, made);
    for (at = len; at < n && (unsigned char)text[at] >= 0x80; at += len) {
        made = decompose(text + at, n - at, options, parts, &len);
        if (made == 0 || stands_alone(parts[0])) break;
        codes_add(list, parts, made);
    }
    return at;
}

/* Sorts marks by their class, stable. */
static void sort_marks(code_list *list, size_t from, size_t to, int32_t *spare) {
    size_t count[257] = {0};
    int32_t *codes = list->data;
    if (to - from <= FEW) {
        for (size_t i = from + 1; i < to; i++) {
            int32_t code = codes[i];
            size_t at = i;
            for (; at > from && combining_class(codes[at - 1]) > combining_class(code); at--)
                codes[at] = codes[at - 1];
            codes[at] = code;
        }
        return;
    }
    for (size_t i = from; i < to; i++)
        count[combining_class(codes[i]) + 1]++;
    for (size_t i = 1; i < ARRAY_LEN(count); i++)
        count[i] += count[i - 1];
    for (size_t i = from; i < to; i++)
        spare[count[combining_class(codes[i])]++] = codes[i];
    memcpy(codes + from, spare, (to - from) * sizeof *codes);
}

static void order(code_list *list) {
    int32_t *spare = NULL;
    for (size_t i = 0, end; i < list->count; i = end) {
        end = i + 1;
        if (combining_class(list->data[i]) == 0) continue;
        while (end < list->count && combining_class(list->data[end]) != 0)
            end++;
        if (end - i > FEW && spare == NULL) spare = array_new(list->count, sizeof *spare);
        if (end - i > FEW && spare == NULL) list->failed = true;
        else sort_marks(list, i, end, spare);
    }
    free(spare);
}

static void form(normal_pass *pass) {
    const char *text = pass->in->text.data;
    size_t n = pass->in->text.len, len;
    int options = options_of(pass->step->kind);
    code_list list = {0};
    buf made = {0};
    for (size_t i = 0; i < n && !list.failed && !made.failed; i += len) {
        len = 1;
        if ((unsigned char)text[i] < 0x80 && (i + 1 == n || (unsigned char)text[i + 1] < 0x80))
            continue;
        size_t read = gather(&list, text + i, n - i, options);
        if (read == 0 || list.failed) continue;
        len = read;
        order(&list);
        if (options & UTF8PROC_COMPOSE) {
            utf8proc_ssize_t left = utf8proc_normalize_utf32(
                list.data, (utf8proc_ssize_t)list.count, (utf8proc_option_t)options);
            list.count = left > 0 ? (size_t)left : 0;
        }
        buf_clear(&made);
        for (size_t j = 0; j < list.count; j++) {
            utf8proc_uint8_t bytes[4];
            utf8proc_ssize_t width = utf8proc_encode_char(list.data[j], bytes);
            buf_append(&made, bytes, (size_t)width);
        }
        if (made.len == len && memcmp(made.data, text + i, len) == 0) continue;
        keep(pass, i);
        put(pass, i + len, made.data, made.len);
    }
    if (list.failed || made.failed) pass->out->text.failed = true;
    free(list.data);
    buf_deinit(&made);
}

/* ---- the other steps ---- */

/* Writes the changed character to out (8 bytes). */
static size_t change_char(text__normal_kind kind, int32_t code, char *out) {
    utf8proc_uint8_t *bytes = (utf8proc_uint8_t *)out;
    if (kind == TEXT__STRIP_ACCENTS && is_mark(code)) return 0;
    int32_t now = kind == TEXT__LOWERCASE ? utf8proc_tolower(code) : code;
    if (kind == TEXT__LOWERCASE && code == 0x130) { /* the only one that becomes two */
        memcpy(out, "i\u0307", 3);
        return 3;
    }
    return (size_t)utf8proc_encode_char(now, bytes);
}

static void each_char(normal_pass *pass) {
    const char *text = pass->in->text.data;
    size_t n = pass->in->text.len, len;
    for (size_t i = 0; i < n; i += len) {
        utf8proc_int32_t code;
        char made[8];
        len = utf8_char(text + i, n - i);
        if (len == 0) {
            len = 1;
            continue;
        }
        (void)utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)len, &code);
        size_t now = change_char(pass->step->kind, code, made);
        if (now == len && memcmp(made, text + i, len) == 0) continue;
        keep(pass, i);
        put(pass, i + len, made, now);
    }
}

static void strip(normal_pass *pass) {
    const char *text = pass->in->text.data;
    size_t n = pass->in->text.len, start = pass->step->left ? text__spaces_after(text, n) : 0;
    size_t end = pass->step->right ? text__spaces_before(text, start, n) : n;
    put(pass, start, "", 0);
    keep(pass, end);
    put(pass, n, "", 0);
}

static void prepend(normal_pass *pass) {
    if (pass->in->text.len > 0) put(pass, 0, pass->step->to, pass->step->n_to);
}

static void replace_text(normal_pass *pass) {
    const text__normal_step *step = pass->step;
    const char *text = pass->in->text.data, *end = text + pass->in->text.len, *from = text, *at;
    while (from < end &&
           (at = memmem(from, (size_t)(end - from), step->from, step->n_from)) != NULL) {
        keep(pass, (size_t)(at - text));
        from = at + step->n_from;
        put(pass, (size_t)(from - text), step->to, step->n_to);
    }
}

typedef struct {
    normal_pass *pass;
    size_t start; /* byte of the text */
} stretch;

static int replace_match(void *ud, size_t start, size_t end, bool is_match) {
    const stretch *part = ud;
    if (!is_match) return 0;
    keep(part->pass, part->start + start);
    put(part->pass, part->start + end, part->pass->step->to, part->pass->step->n_to);
    return 0;
}

static int replace_pattern(normal_pass *pass) {
    const char *text = pass->in->text.data;
    size_t n = pass->in->text.len;
    for (size_t i = 0; i < n; i++) { /* an invalid byte separates two stretches */
        stretch part = {pass, i};
        size_t good = utf8_prefix(text + i, n - i);
        if (good > 0 && text__each_match(pass->enc, &pass->step->pattern, text + i, good,
                                         replace_match, &part) != 0)
            return -1;
        i += good;
    }
    return 0;
}

static int run_step(text__encoder *enc, const text__normal_step *step, const text__normal *in,
                    text__normal *out) {
    normal_pass pass = {.enc = enc, .step = step, .in = in, .out = out};
    int rc = 0;
    buf_clear(&out->text);
    out->n_runs = 0;
    switch (step->kind) {
    case TEXT__LOWERCASE:
    case TEXT__STRIP_ACCENTS: each_char(&pass); break;
    case TEXT__STRIP_BLANKS: strip(&pass); break;
    case TEXT__PREPEND: prepend(&pass); break;
    case TEXT__REPLACE_TEXT:
        if (step->from) replace_text(&pass);
        else rc = replace_pattern(&pass);
        break;
    default: form(&pass); break;
    }
    if (rc == 0) keep(&pass, in->text.len);
    return rc;
}

/* Copies the runs of n bytes of the encoder's text. Bytes after the last run are not trusted. */
static void copy_runs(const text__encoder *enc, const char *text, size_t n, text__normal *out) {
    size_t from = (size_t)(text - enc->text), done = from;
    for (size_t i = text__first_run(enc, from); i < enc->n_runs && done < from + n; i++) {
        done = enc->runs[i].end < from + n ? enc->runs[i].end : from + n;
        end_run(out, done - from, enc->runs[i].trusted);
    }
    if (done < from + n) end_run(out, n, false);
}

int text__normalize(text__encoder *enc, const char *text, size_t n, text__normal *out) {
    const tokenizer *tok = enc->tok;
    text__normal next = {0};
    int rc = 0;
    *out = (text__normal){0};
    buf_append(&out->text, text, n);
    copy_runs(enc, text, n, out);
    for (uint32_t i = 0; i < tok->n_normalizer && rc == 0 && !out->text.failed; i++) {
        rc = run_step(enc, &tok->normalizer[i], out, &next);
        text__normal swap = *out;
        *out = next;
        next = swap;
    }
    if (rc == 0 && (out->text.failed || next.text.failed))
        rc = err_set(enc->e, ERR_NO_MEMORY, NULL, "out of memory for the tokenizer");
    text__normal_deinit(&next);
    if (rc != 0) text__normal_deinit(out);
    return rc;
}

/* ---- loading ---- */

/* The factor by which a text may grow if each match of the pattern is replaced by n bytes. A
 * pattern that matches the empty text matches before each character. */
static double growth(const pcre2_code *pattern, size_t n) {
    uint32_t least = 0; /* characters of a match */
    (void)pcre2_pattern_info(pattern, PCRE2_INFO_MINLENGTH, &least);
    return least == 0 ? (double)n + 1 : (double)n / least;
}

static int load_replace(text__loader *loader, text__normal_step *step, const json_t *one) {
    const json_t *pattern = json_object_get(one, "pattern"),
                 *content = json_object_get(one, "content");
    const json_t *plain = json_object_get(pattern, "String"),
                 *regex = json_object_get(pattern, "Regex");
    bool is_plain = json_string_length(plain) > 0;
    if (!json_is_string(content) || (!is_plain && json_string_length(regex) == 0)) {
        return text__bad(loader, "normalizer",
                         "a Replace normalizer needs a String or Regex, and a content");
    }
    if (text__load_copy(loader, content, &step->to, &step->n_to) != 0) return -1;
    if (is_plain && text__load_copy(loader, plain, &step->from, &step->n_from) != 0) return -1;
    if (!is_plain &&
        text__pattern_load(&step->pattern, regex, "normalizer", loader->file, loader->e) != 0)
        return -1;
    double times = is_plain ? (double)step->n_to / (double)step->n_from
                            : growth(step->pattern.code, step->n_to);
    if (times > 1) loader->growth *= times;
    if (loader->growth > MAX_GROWTH) {
        return text__bad(loader, "normalizer",
                         "the Replace normalizers could make a text more than %d times longer",
                         MAX_GROWTH);
    }
    return 0;
}

static int load_strip(text__loader *loader, text__normal_step *step, const json_t *one) {
    const json_t *left = json_object_get(one, "strip_left"),
                 *right = json_object_get(one, "strip_right");
    if (!json_is_boolean(left) || !json_is_boolean(right))
        return text__bad(loader, "normalizer",
                         "a Strip normalizer needs strip_left and strip_right");
    step->left = json_is_true(left);
    step->right = json_is_true(right);
    return 0;
}

static int load_prepend(text__loader *loader, text__normal_step *step, const json_t *one) {
    const json_t *text = json_object_get(one, "prepend");
    size_t n = json_string_length(text);
    if (!json_is_string(text) || n > TEXT__MAX_PIECE)
        return text__bad(loader, "normalizer",
                         "the text of a Prepend normalizer is missing or over %d bytes",
                         TEXT__MAX_PIECE);
    return text__load_copy(loader, text, &step->to, &step->n_to);
}

static int load_step(text__loader *loader, const json_t *one, const char *type) {
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
    tokenizer *tok = loader->tok;
    if (tok->n_normalizer == TEXT__MAX_STEPS)
        return text__bad(loader, "normalizer", "there are more than %d normalizers",
                         TEXT__MAX_STEPS);
    text__normal_step *step = &tok->normalizer[tok->n_normalizer++];
    size_t kind = 0;
    while (kind < ARRAY_LEN(names) && strcmp(names[kind], type) != 0)
        kind++;
    step->kind = (text__normal_kind)kind;
    if (kind == TEXT__REPLACE_TEXT) return load_replace(loader, step, one);
    if (kind == TEXT__STRIP_BLANKS) return load_strip(loader, step, one);
    if (kind == TEXT__PREPEND) return load_prepend(loader, step, one);
    if (kind < ARRAY_LEN(names)) return 0;
    return text__bad(loader, "normalizer",
                     "normalizer %.40s is not supported (supported: NFC, NFD, NFKC, NFKD, "
                     "Lowercase, Strip, StripAccents, Replace, Prepend)",
                     type);
}

int text__normalizer_load(text__loader *loader, const json_t *normalizer) {
    if (normalizer == NULL || json_is_null(normalizer)) return 0;
    loader->growth = 1;
    return text__each_part(loader, normalizer, "normalizer", load_step);
}

bool text__normalizer_shortens(const tokenizer *tok) {
    for (uint32_t i = 0; i < tok->n_normalizer; i++) {
        const text__normal_step *step = &tok->normalizer[i];
        bool longer = step->kind == TEXT__REPLACE_TEXT && step->from && step->n_to >= step->n_from;
        if (step->kind != TEXT__PREPEND && !longer) return true;
    }
    return false;
}

void text__normalizer_free(tokenizer *tok) {
    for (uint32_t i = 0; i < tok->n_normalizer; i++) {
        free(tok->normalizer[i].from);
        free(tok->normalizer[i].to);
        text__pattern_deinit(&tok->normalizer[i].pattern);
    }
}

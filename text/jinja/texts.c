/* texts.c - what methods and filters do with texts: case, stripping, splitting, replacing. Every
 * byte keeps its origin. */
#include "text/jinja/jinja_internal.h"

#include <string.h>
#include <utf8proc.h>

/* ---- case ---- */

static bool cased(uint32_t cp) {
    utf8proc_int32_t c = (utf8proc_int32_t)cp;
    return utf8proc_tolower(c) != c || utf8proc_toupper(c) != c || utf8proc_islower(c) ||
           utf8proc_isupper(c);
}

/* The letters that become several: sharp s and the ligatures of the kind. */
static const char *special_upper(uint32_t cp, bool title) {
    switch (cp) {
    case 0xdf: return title ? "Ss" : "SS";
    case 0x149: return "\xca\xbcN";
    case 0xfb00: return title ? "Ff" : "FF";
    case 0xfb01: return title ? "Fi" : "FI";
    case 0xfb02: return title ? "Fl" : "FL";
    default: return NULL;
    }
}

static void write_cased(jvm *vm, jwriter *w, uint32_t cp, int how, bool trusted) {
    char text[8];
    utf8proc_int32_t c = (utf8proc_int32_t)cp;
    const char *special = how == J_LOWER ? NULL : special_upper(cp, how == J_TITLE);
    if (special) {
        jinja__write(vm, w, special, strlen(special), trusted);
        return;
    }
    c = how == J_UPPER   ? utf8proc_toupper(c)
        : how == J_TITLE ? utf8proc_totitle(c)
                         : utf8proc_tolower(c);
    jinja__write(vm, w, text, jinja__put_code_point(text, (uint32_t)c), trusted);
}

static int case_of(int how, uint32_t cp, bool begins, bool first) {
    switch (how) {
    case J_TITLE: return begins ? J_TITLE : J_LOWER;
    case J_CAPITALIZE: return first ? J_TITLE : J_LOWER;
    case J_SWAP: return utf8proc_isupper((utf8proc_int32_t)cp) ? J_LOWER : J_UPPER;
    default: return how;
    }
}

jstring *jinja__change_case(jvm *vm, jstring *s, int how) {
    jwriter *w = jinja__new_writer(vm, s->n);
    bool begins = true;
    for (size_t at = 0, len, end; at < s->n && jinja__work(vm, 0); at += len) {
        uint32_t cp = jinja__code_point(s->s + at, s->n - at, &len);
        write_cased(vm, w, cp, case_of(how, cp, begins, at == 0), jinja__origin(s, at, &end));
        begins = !cased(cp);
    }
    jstring *out = jinja__written(vm, w);
    if (out) out->safe = s->safe;
    return out;
}

/* ---- stripping ---- */

static bool stripped(const jstring *chars, const char *s, size_t len) {
    if (chars) return jinja__find(chars, 0, s, len) != SIZE_MAX;
    size_t n;
    return jinja__is_space(jinja__code_point(s, len, &n));
}

jstring *jinja__stripped(jvm *vm, jstring *s, const jstring *chars, bool left, bool right) {
    size_t from = 0, to = s->n, len;
    while (left && from < to && jinja__work(vm, 0)) {
        (void)jinja__code_point(s->s + from, to - from, &len);
        if (!stripped(chars, s->s + from, len)) break;
        from += len;
    }
    while (right && to > from && jinja__work(vm, 0)) {
        size_t begin = to - 1;
        while (begin > from && ((unsigned char)s->s[begin] & 0xc0) == 0x80)
            begin--;
        if (!stripped(chars, s->s + begin, to - begin)) break;
        to = begin;
    }
    return from == 0 && to == s->n ? s : jinja__part(vm, s, from, to);
}

/* ---- replacing ---- */

jstring *jinja__replace(jvm *vm, const jstring *s, const jstring *old, const jstring *by,
                        int64_t count) {
    jwriter *w = jinja__new_writer(vm, s->n);
    size_t kept = 0, from = 0;
    (void)jinja__work(vm, s->n);
    while (count != 0 && from <= s->n && jinja__work(vm, 1)) {
        size_t at = jinja__find(s, from, old->s, old->n);
        if (at == SIZE_MAX) break;
        jinja__write_part(vm, w, s, kept, at);
        jinja__write_string(vm, w, by);
        kept = from = at + old->n;
        count -= count > 0;
        if (old->n == 0) { /* between all characters */
            size_t len = 1;
            if (at < s->n) (void)jinja__code_point(s->s + at, s->n - at, &len);
            from = at + len;
        }
    }
    jinja__write_part(vm, w, s, kept, s->n);
    jstring *out = jinja__written(vm, w);
    if (out) out->safe = s->safe;
    return out;
}

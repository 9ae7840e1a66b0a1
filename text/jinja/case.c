/* case.c - upper, lower and title case as in Python: utf8proc's one to one mappings, letters that
 * become several characters (SpecialCasing.txt), and the sigma at the end of a word. */
#include "text/jinja/jinja_internal.h"

#include <string.h>
#include <utf8proc.h>

/* Letters with several characters in upper or title case, sorted by code point. */
static const struct {
    uint32_t cp;
    char upper[8], title[8];
} several[] = {
    {0x00df, "SS", "Ss"},
    {0x0149, "\xca\xbcN", "\xca\xbcN"},
    {0x01f0, "J\xcc\x8c", "J\xcc\x8c"},
    {0x0390, "\xce\x99\xcc\x88\xcc\x81", "\xce\x99\xcc\x88\xcc\x81"},
    {0x03b0, "\xce\xa5\xcc\x88\xcc\x81", "\xce\xa5\xcc\x88\xcc\x81"},
    {0x0587, "\xd4\xb5\xd5\x92", "\xd4\xb5\xd6\x82"},
    {0x1e96, "H\xcc\xb1", "H\xcc\xb1"},
    {0x1e97, "T\xcc\x88", "T\xcc\x88"},
    {0x1e98, "W\xcc\x8a", "W\xcc\x8a"},
    {0x1e99, "Y\xcc\x8a", "Y\xcc\x8a"},
    {0x1e9a, "A\xca\xbe", "A\xca\xbe"},
    {0x1f50, "\xce\xa5\xcc\x93", "\xce\xa5\xcc\x93"},
    {0x1f52, "\xce\xa5\xcc\x93\xcc\x80", "\xce\xa5\xcc\x93\xcc\x80"},
    {0x1f54, "\xce\xa5\xcc\x93\xcc\x81", "\xce\xa5\xcc\x93\xcc\x81"},
    {0x1f56, "\xce\xa5\xcc\x93\xcd\x82", "\xce\xa5\xcc\x93\xcd\x82"},
    {0x1f80, "\xe1\xbc\x88\xce\x99", "\xe1\xbe\x88"},
    {0x1f81, "\xe1\xbc\x89\xce\x99", "\xe1\xbe\x89"},
    {0x1f82, "\xe1\xbc\x8a\xce\x99", "\xe1\xbe\x8a"},
    {0x1f83, "\xe1\xbc\x8b\xce\x99", "\xe1\xbe\x8b"},
    {0x1f84, "\xe1\xbc\x8c\xce\x99", "\xe1\xbe\x8c"},
    {0x1f85, "\xe1\xbc\x8d\xce\x99", "\xe1\xbe\x8d"},
    {0x1f86, "\xe1\xbc\x8e\xce\x99", "\xe1\xbe\x8e"},
    {0x1f87, "\xe1\xbc\x8f\xce\x99", "\xe1\xbe\x8f"},
    {0x1f88, "\xe1\xbc\x88\xce\x99", "\xe1\xbe\x88"},
    {0x1f89, "\xe1\xbc\x89\xce\x99", "\xe1\xbe\x89"},
    {0x1f8a, "\xe1\xbc\x8a\xce\x99", "\xe1\xbe\x8a"},
    {0x1f8b, "\xe1\xbc\x8b\xce\x99", "\xe1\xbe\x8b"},
    {0x1f8c, "\xe1\xbc\x8c\xce\x99", "\xe1\xbe\x8c"},
    {0x1f8d, "\xe1\xbc\x8d\xce\x99", "\xe1\xbe\x8d"},
    {0x1f8e, "\xe1\xbc\x8e\xce\x99", "\xe1\xbe\x8e"},
    {0x1f8f, "\xe1\xbc\x8f\xce\x99", "\xe1\xbe\x8f"},
    {0x1f90, "\xe1\xbc\xa8\xce\x99", "\xe1\xbe\x98"},
    {0x1f91, "\xe1\xbc\xa9\xce\x99", "\xe1\xbe\x99"},
    {0x1f92, "\xe1\xbc\xaa\xce\x99", "\xe1\xbe\x9a"},
    {0x1f93, "\xe1\xbc\xab\xce\x99", "\xe1\xbe\x9b"},
    {0x1f94, "\xe1\xbc\xac\xce\x99", "\xe1\xbe\x9c"},
    {0x1f95, "\xe1\xbc\xad\xce\x99", "\xe1\xbe\x9d"},
    {0x1f96, "\xe1\xbc\xae\xce\x99", "\xe1\xbe\x9e"},
    {0x1f97, "\xe1\xbc\xaf\xce\x99", "\xe1\xbe\x9f"},
    {0x1f98, "\xe1\xbc\xa8\xce\x99", "\xe1\xbe\x98"},
    {0x1f99, "\xe1\xbc\xa9\xce\x99", "\xe1\xbe\x99"},
    {0x1f9a, "\xe1\xbc\xaa\xce\x99", "\xe1\xbe\x9a"},
    {0x1f9b, "\xe1\xbc\xab\xce\x99", "\xe1\xbe\x9b"},
    {0x1f9c, "\xe1\xbc\xac\xce\x99", "\xe1\xbe\x9c"},
    {0x1f9d, "\xe1\xbc\xad\xce\x99", "\xe1\xbe\x9d"},
    {0x1f9e, "\xe1\xbc\xae\xce\x99", "\xe1\xbe\x9e"},
    {0x1f9f, "\xe1\xbc\xaf\xce\x99", "\xe1\xbe\x9f"},
    {0x1fa0, "\xe1\xbd\xa8\xce\x99", "\xe1\xbe\xa8"},
    {0x1fa1, "\xe1\xbd\xa9\xce\x99", "\xe1\xbe\xa9"},
    {0x1fa2, "\xe1\xbd\xaa\xce\x99", "\xe1\xbe\xaa"},
    {0x1fa3, "\xe1\xbd\xab\xce\x99", "\xe1\xbe\xab"},
    {0x1fa4, "\xe1\xbd\xac\xce\x99", "\xe1\xbe\xac"},
    {0x1fa5, "\xe1\xbd\xad\xce\x99", "\xe1\xbe\xad"},
    {0x1fa6, "\xe1\xbd\xae\xce\x99", "\xe1\xbe\xae"},
    {0x1fa7, "\xe1\xbd\xaf\xce\x99", "\xe1\xbe\xaf"},
    {0x1fa8, "\xe1\xbd\xa8\xce\x99", "\xe1\xbe\xa8"},
    {0x1fa9, "\xe1\xbd\xa9\xce\x99", "\xe1\xbe\xa9"},
    {0x1faa, "\xe1\xbd\xaa\xce\x99", "\xe1\xbe\xaa"},
    {0x1fab, "\xe1\xbd\xab\xce\x99", "\xe1\xbe\xab"},
    {0x1fac, "\xe1\xbd\xac\xce\x99", "\xe1\xbe\xac"},
    {0x1fad, "\xe1\xbd\xad\xce\x99", "\xe1\xbe\xad"},
    {0x1fae, "\xe1\xbd\xae\xce\x99", "\xe1\xbe\xae"},
    {0x1faf, "\xe1\xbd\xaf\xce\x99", "\xe1\xbe\xaf"},
    {0x1fb2, "\xe1\xbe\xba\xce\x99", "\xe1\xbe\xba\xcd\x85"},
    {0x1fb3, "\xce\x91\xce\x99", "\xe1\xbe\xbc"},
    {0x1fb4, "\xce\x86\xce\x99", "\xce\x86\xcd\x85"},
    {0x1fb6, "\xce\x91\xcd\x82", "\xce\x91\xcd\x82"},
    {0x1fb7, "\xce\x91\xcd\x82\xce\x99", "\xce\x91\xcd\x82\xcd\x85"},
    {0x1fbc, "\xce\x91\xce\x99", "\xe1\xbe\xbc"},
    {0x1fc2, "\xe1\xbf\x8a\xce\x99", "\xe1\xbf\x8a\xcd\x85"},
    {0x1fc3, "\xce\x97\xce\x99", "\xe1\xbf\x8c"},
    {0x1fc4, "\xce\x89\xce\x99", "\xce\x89\xcd\x85"},
    {0x1fc6, "\xce\x97\xcd\x82", "\xce\x97\xcd\x82"},
    {0x1fc7, "\xce\x97\xcd\x82\xce\x99", "\xce\x97\xcd\x82\xcd\x85"},
    {0x1fcc, "\xce\x97\xce\x99", "\xe1\xbf\x8c"},
    {0x1fd2, "\xce\x99\xcc\x88\xcc\x80", "\xce\x99\xcc\x88\xcc\x80"},
    {0x1fd3, "\xce\x99\xcc\x88\xcc\x81", "\xce\x99\xcc\x88\xcc\x81"},
    {0x1fd6, "\xce\x99\xcd\x82", "\xce\x99\xcd\x82"},
    {0x1fd7, "\xce\x99\xcc\x88\xcd\x82", "\xce\x99\xcc\x88\xcd\x82"},
    {0x1fe2, "\xce\xa5\xcc\x88\xcc\x80", "\xce\xa5\xcc\x88\xcc\x80"},
    {0x1fe3, "\xce\xa5\xcc\x88\xcc\x81", "\xce\xa5\xcc\x88\xcc\x81"},
    {0x1fe4, "\xce\xa1\xcc\x93", "\xce\xa1\xcc\x93"},
    {0x1fe6, "\xce\xa5\xcd\x82", "\xce\xa5\xcd\x82"},
    {0x1fe7, "\xce\xa5\xcc\x88\xcd\x82", "\xce\xa5\xcc\x88\xcd\x82"},
    {0x1ff2, "\xe1\xbf\xba\xce\x99", "\xe1\xbf\xba\xcd\x85"},
    {0x1ff3, "\xce\xa9\xce\x99", "\xe1\xbf\xbc"},
    {0x1ff4, "\xce\x8f\xce\x99", "\xce\x8f\xcd\x85"},
    {0x1ff6, "\xce\xa9\xcd\x82", "\xce\xa9\xcd\x82"},
    {0x1ff7, "\xce\xa9\xcd\x82\xce\x99", "\xce\xa9\xcd\x82\xcd\x85"},
    {0x1ffc, "\xce\xa9\xce\x99", "\xe1\xbf\xbc"},
    {0xfb00, "FF", "Ff"},
    {0xfb01, "FI", "Fi"},
    {0xfb02, "FL", "Fl"},
    {0xfb03, "FFI", "Ffi"},
    {0xfb04, "FFL", "Ffl"},
    {0xfb05, "ST", "St"},
    {0xfb06, "ST", "St"},
    {0xfb13, "\xd5\x84\xd5\x86", "\xd5\x84\xd5\xb6"},
    {0xfb14, "\xd5\x84\xd4\xb5", "\xd5\x84\xd5\xa5"},
    {0xfb15, "\xd5\x84\xd4\xbb", "\xd5\x84\xd5\xab"},
    {0xfb16, "\xd5\x8e\xd5\x86", "\xd5\x8e\xd5\xb6"},
    {0xfb17, "\xd5\x84\xd4\xbd", "\xd5\x84\xd5\xad"},
};

static const char *special(uint32_t cp, int how) {
    size_t low = 0, high = ARRAY_LEN(several);
    if (cp < several[0].cp || how == J_LOWER)
        return cp == 0x130 && how == J_LOWER ? "i\xcc\x87" : NULL;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (several[mid].cp == cp) return how == J_UPPER ? several[mid].upper : several[mid].title;
        if (several[mid].cp < cp) low = mid + 1;
        else high = mid;
    }
    return NULL;
}

static bool cased(uint32_t cp) {
    utf8proc_int32_t code = (utf8proc_int32_t)cp;
    return utf8proc_isupper(code) || utf8proc_islower(code) ||
           utf8proc_category(code) == UTF8PROC_CATEGORY_LT;
}

/* Unicode's Case_Ignorable: characters inside words other than letters, such as an apostrophe. */
static bool case_ignorable(uint32_t cp) {
    static const uint16_t marks[] = {0x27,   0x2e,   0x3a,   0xb7,   0x387,  0x55f,
                                     0x5f4,  0x2018, 0x2019, 0x2024, 0x2027, 0xfe13,
                                     0xfe52, 0xfe55, 0xff07, 0xff0e, 0xff1a};
    for (size_t i = 0; i < ARRAY_LEN(marks); i++) {
        if (cp == marks[i]) return true;
    }
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK: return true;
    default: return false;
    }
}

/* The next character from `at` on, ignorable ones skipped, is a letter with case. */
static bool cased_after(const jstring *text, size_t at) {
    for (size_t len; at < text->len; at += len) {
        uint32_t cp = jinja__code_point(text->bytes + at, text->len - at, &len);
        if (!case_ignorable(cp)) return cased(cp);
    }
    return false;
}

static bool cased_before(const jstring *text, size_t at) {
    while (at > 0) {
        size_t len, end = at;
        at = jinja__char_before(text->bytes, end);
        uint32_t cp = jinja__code_point(text->bytes + at, end - at, &len);
        if (!case_ignorable(cp)) return cased(cp);
    }
    return false;
}

static void write_cased(jvm *vm, jwriter *out, const jstring *text, size_t at, int how) {
    char bytes[8];
    size_t len, end;
    uint32_t cp = jinja__code_point(text->bytes + at, text->len - at, &len);
    bool trusted = jinja__origin(text, at, &end);
    const char *more = cp < 0x80 ? NULL : special(cp, how);
    if (more) {
        jinja__write(vm, out, more, strlen(more), trusted);
        return;
    }
    utf8proc_int32_t code = (utf8proc_int32_t)cp;
    if (how == J_UPPER) code = utf8proc_toupper(code);
    else if (how == J_TITLE) code = utf8proc_totitle(code);
    else if (cp == 0x3a3)
        code = cased_before(text, at) && !cased_after(text, at + len) ? 0x3c2 : 0x3c3;
    else code = utf8proc_tolower(code);
    jinja__write(vm, out, bytes, jinja__put_code_point(bytes, (uint32_t)code), trusted);
}

static int case_of(int how, uint32_t cp, bool begins, bool first) {
    switch (how) {
    case J_TITLE: return begins ? J_TITLE : J_LOWER;
    case J_CAPITALIZE: return first ? J_TITLE : J_LOWER;
    case J_SWAP: return utf8proc_isupper((utf8proc_int32_t)cp) ? J_LOWER : J_UPPER;
    default: return how;
    }
}

jstring *jinja__change_case(jvm *vm, jstring *text, int how) {
    jwriter *writer = jinja__new_writer(vm, text->len);
    bool begins = true;
    for (size_t at = 0, len; at < text->len && jinja__work(vm, 0); at += len) {
        uint32_t cp = jinja__code_point(text->bytes + at, text->len - at, &len);
        write_cased(vm, writer, text, at, case_of(how, cp, begins, at == 0));
        begins = !cased(cp);
    }
    jstring *out = jinja__written(vm, writer);
    if (out) out->safe = text->safe;
    return out;
}

/* ---- classes of characters ---- */

static bool is_letter(uint32_t cp) {
    utf8proc_category_t kind = utf8proc_category((utf8proc_int32_t)cp);
    return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}

bool jinja__is_alnum(uint32_t cp) {
    utf8proc_category_t kind = utf8proc_category((utf8proc_int32_t)cp);
    return is_letter(cp) || (kind >= UTF8PROC_CATEGORY_ND && kind <= UTF8PROC_CATEGORY_NO);
}

static bool is_decimal(uint32_t cp) {
    return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND;
}

/* Decimal digits, superscript, subscript and circled digits. */
static bool is_digit(uint32_t cp) {
    static const uint32_t ranges[][2] = {
        {0xb2, 0xb3},       {0xb9, 0xb9},       {0x1369, 0x1371},   {0x19da, 0x19da},
        {0x2070, 0x2070},   {0x2074, 0x2079},   {0x2080, 0x2089},   {0x2460, 0x2468},
        {0x2474, 0x247c},   {0x2488, 0x2490},   {0x24ea, 0x24ea},   {0x24f5, 0x24fd},
        {0x24ff, 0x24ff},   {0x2776, 0x277e},   {0x2780, 0x2788},   {0x278a, 0x2792},
        {0x10a40, 0x10a43}, {0x10e60, 0x10e68}, {0x11052, 0x1105a}, {0x1f100, 0x1f10a},
    };
    for (size_t i = 0; i < ARRAY_LEN(ranges); i++) {
        if (cp >= ranges[i][0] && cp <= ranges[i][1]) return true;
    }
    return is_decimal(cp);
}

static bool all_are(const jstring *text, bool (*is)(uint32_t cp)) {
    for (size_t at = 0, len; at < text->len; at += len) {
        if (!is(jinja__code_point(text->bytes + at, text->len - at, &len))) return false;
    }
    return text->len > 0;
}

/* At least one letter has case, and all letters with case have this one. */
static bool all_of_case(const jstring *text, bool upper) {
    bool any = false;
    for (size_t at = 0, len; at < text->len; at += len) {
        uint32_t cp = jinja__code_point(text->bytes + at, text->len - at, &len);
        if (!cased(cp)) continue;
        any = true;
        if (upper ? !utf8proc_isupper((utf8proc_int32_t)cp)
                  : !utf8proc_islower((utf8proc_int32_t)cp))
            return false;
    }
    return any;
}

static bool is_title(const jstring *text) {
    bool any = false, inside = false;
    for (size_t at = 0, len; at < text->len; at += len) {
        uint32_t cp = jinja__code_point(text->bytes + at, text->len - at, &len);
        if (cased(cp) && utf8proc_islower((utf8proc_int32_t)cp) != inside) return false;
        inside = cased(cp);
        any |= inside;
    }
    return any;
}

bool jinja__text_is(const jstring *text, jtext_kind kind) {
    switch (kind) {
    case J_ALPHA: return all_are(text, is_letter);
    case J_ALNUM: return all_are(text, jinja__is_alnum);
    case J_DECIMAL: return all_are(text, is_decimal);
    case J_DIGIT: return all_are(text, is_digit);
    case J_SPACE: return all_are(text, jinja__is_space);
    case J_ALL_UPPER: return all_of_case(text, true);
    case J_ALL_LOWER: return all_of_case(text, false);
    case J_ALL_TITLE: return is_title(text);
    }
    return false;
}

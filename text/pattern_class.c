/* pattern_class.c - evaluates Oniguruma's character classes: [a-z&&[^\p{Lu}]] becomes a set of code
 * points, in the Unicode version of that library. */
#include "text/pattern_tree_internal.h"

#include <string.h>

/* ---- named sets ---- */

/* The POSIX names, valid as \p{Alnum} too. `ascii`: the options (?W), (?D), (?S), (?P) that reduce
 * the set to ASCII. */
static const struct {
    const char *name, *property;
    unsigned ascii;
} posix[] = {
    {"alnum", "alnum", OPTION_P},
    {"alpha", "alphabetic", OPTION_P},
    {"blank", "blank", OPTION_P},
    {"cntrl", "cntrl", OPTION_P},
    {"digit", "digit", OPTION_P | OPTION_D},
    {"graph", "graph", OPTION_P},
    {"lower", "lowercase", OPTION_P},
    {"print", "print", OPTION_P},
    {"punct", "posixpunct", OPTION_P},
    {"space", "whitespace", OPTION_P | OPTION_S},
    {"upper", "uppercase", OPTION_P},
    {"xdigit", "xdigit", OPTION_P},
    {"word", "word", OPTION_P | OPTION_W},
    {"ascii", "ascii", 0},
};

/* Members of \w outside a class only: the reference uses another table there. */
static const uint32_t lone_word[] = {0xb2, 0xb3, 0xb9, 0xbc, 0xbd, 0xbe};

static text__set posix_set(pattern *pat, size_t k, bool in_class) {
    const char *property = posix[k].property;
    text__set set = text__property_set(&pat->tree, text__property_find(property, strlen(property)));
    if (!in_class && strcmp(posix[k].name, "word") == 0) {
        text__ranges more = {0};
        text__ranges_add_set(&pat->tree, &more, &set);
        for (size_t i = 0; i < ARRAY_LEN(lone_word); i++)
            text__ranges_add(&pat->tree, &more, lone_word[i], lone_word[i]);
        set = text__set_of(&pat->tree, &more);
    }
    if (pat->options & posix[k].ascii) {
        text__range below[] = {{0, 0x7f}};
        text__set ascii = {below, 1};
        set = text__set_and(&pat->tree, &set, &ascii);
    }
    return set;
}

/* The index of a name; ARRAY_LEN(posix): none. */
static size_t posix_find(const char *name, size_t n) {
    size_t k = 0;
    while (k < ARRAY_LEN(posix) &&
           (strlen(posix[k].name) != n || memcmp(posix[k].name, name, n) != 0))
        k++;
    return k;
}

/* The same for a property: \p{Punct} is no POSIX name but short for \p{Punctuation}. */
static size_t posix_property_find(const char *name, size_t n) {
    static const char punct[] = "punct", posix_punct[] = "posixpunct";
    if (n == sizeof punct - 1 && memcmp(name, punct, n) == 0) return ARRAY_LEN(posix);
    if (n == sizeof posix_punct - 1 && memcmp(name, posix_punct, n) == 0) name += 5, n -= 5;
    return posix_find(name, n);
}

text__set pattern_type(pattern *pat, uint32_t letter, bool in_class) {
    const char *name = letter == 'w'   ? "word"
                       : letter == 'd' ? "digit"
                       : letter == 's' ? "space"
                                       : "xdigit";
    return posix_set(pat, posix_find(name, strlen(name)), in_class);
}

int pattern_property(pattern *pat, size_t start, bool in_class, text__set *out) {
    const char *name = pat->text + pat->at;
    char plain[16];
    size_t n = 0, len = 0;
    while (pat->at + n < pat->len && name[n] != '}') {
        if (name[n] && strchr("(){|", name[n])) break;
        char byte = name[n++];
        if (byte == ' ' || byte == '-' || byte == '_' || len == sizeof plain) continue;
        plain[len++] = byte >= 'A' && byte <= 'Z' ? (char)(byte - 'A' + 'a') : byte;
    }
    if (pat->at + n == pat->len || name[n] != '}')
        return pattern_wrong(pat, start, "a property without its '}'");
    pat->at += n + 1;
    size_t k = posix_property_find(plain, len);
    if (k < ARRAY_LEN(posix)) {
        *out = posix_set(pat, k, in_class);
        return 0;
    }
    int property = text__property_find(name, n);
    if (property < 0)
        return pattern_unknown(pat, start, "the property \\p{%.*s}", (int)(n < 60 ? n : 60), name);
    if (pat->n_used < PATTERN_SCRIPTS) pat->used[pat->n_used++] = property;
    *out = text__property_set(&pat->tree, property);
    return 0;
}

/* ---- tokens of a class ---- */

typedef enum { ITEM_CHAR, ITEM_SET, ITEM_HYPHEN, ITEM_OPEN, ITEM_CLOSE, ITEM_AND } item_kind;
typedef struct {
    item_kind kind;
    size_t at;
    uint32_t code;
    text__set set;
    bool escaped;
} item;

/* Reads [:alpha:] or [:^alpha:] after the bracket. 0: it is something else. */
static int posix_bracket(pattern *pat, size_t start, text__set *set) {
    const char *name = pat->text + pat->at + 1;
    size_t most = pat->len - pat->at - 1, n = 0;
    bool negated = most > 0 && name[0] == '^';
    if (negated) name++, most--;
    while (n < most && ((name[n] | 0x20) >= 'a' && (name[n] | 0x20) <= 'z'))
        n++;
    if (n + 2 > most || name[n] != ':' || name[n + 1] != ']' || (n == 0 && !negated)) return 0;
    size_t k = posix_find(name, n);
    if (k == ARRAY_LEN(posix)) {
        return pattern_unknown(pat, start, "the POSIX bracket [:%s%.*s:]", negated ? "^" : "",
                               (int)n, name);
    }
    *set = posix_set(pat, k, true);
    if (negated) *set = text__set_not(&pat->tree, set);
    pat->at = (size_t)(name + n + 2 - pat->text);
    return 1;
}

static int set_item(pattern *pat, item *it, text__set set, bool negated) {
    it->kind = ITEM_SET;
    it->set = negated ? text__set_not(&pat->tree, &set) : set;
    return 0;
}

/* After the backslash. */
static int escaped_item(pattern *pat, item *it) {
    uint32_t letter;
    if (!pattern_next(pat, &letter)) return pattern_wrong(pat, it->at, "a backslash at the end");
    it->escaped = true;
    it->code = letter;
    switch (letter) {
    case 'w':
    case 'd':
    case 's':
    case 'h': return set_item(pat, it, pattern_type(pat, letter, true), false);
    case 'W':
    case 'D':
    case 'S':
    case 'H': return set_item(pat, it, pattern_type(pat, letter - 'A' + 'a', true), true);
    case 'p':
    case 'P':
        if (pattern_at(pat, '{')) {
            pat->at++;
            bool caret = pattern_at(pat, '^');
            if (caret) pat->at++;
            text__set set;
            if (pattern_property(pat, it->at, true, &set) != 0) return -1;
            return set_item(pat, it, set, (letter == 'P') != caret);
        }
        return 0;
    case 'x':
    case 'u':
    case 'o':
        if (pat->at == pat->len) return 0;
        return pattern_numbered(pat, it->at, letter, true, &it->code);
    default: break;
    }
    if (letter >= '0' && letter <= '7')
        return pattern_numbered(pat, it->at, letter, true, &it->code);
    pat->at = it->at + 1;
    return pattern_escaped_value(pat, &it->code);
}

static int next_item(pattern *pat, size_t start, item *it) {
    *it = (item){.kind = ITEM_CHAR, .at = pat->at};
    if (!pattern_next(pat, &it->code)) return pattern_wrong(pat, start, "a class without its ']'");
    switch (it->code) {
    case ']': it->kind = ITEM_CLOSE; return 0;
    case '-': it->kind = ITEM_HYPHEN; return 0;
    case '\\': return escaped_item(pat, it);
    case '&':
        if (pattern_at(pat, '&')) {
            pat->at++;
            it->kind = ITEM_AND;
        }
        return 0;
    case '[': {
        int posix_or_not = pattern_at(pat, ':') ? posix_bracket(pat, it->at, &it->set) : 0;
        it->kind = posix_or_not ? ITEM_SET : ITEM_OPEN;
        return posix_or_not < 0 ? -1 : 0;
    }
    default: return 0;
    }
}

/* ---- a class ---- */

/* The state of the reader of a class. */
typedef enum {
    AT_START, /* nothing read yet, or nothing since && */
    AT_VALUE, /* after a set, or a character that may begin a range */
    IN_RANGE, /* after the hyphen of a range */
    AT_END_OF_RANGE,
} place;

/* Two cases in which the reference computes another set than it documents. */
typedef struct {
    bool from_nul;      /* the class has a range from U+0000 beyond ASCII */
    bool holds_negated; /* the class has a negated class in it */
} class_traits;

typedef struct {
    pattern *pat;
    size_t start;
    text__ranges ranges; /* since the last && */
    text__set all;       /* the intersection of the parts before it, if has_all */
    bool has_all;
    place place;
    bool waiting; /* `from` is not in `ranges` yet */
    uint32_t from;
    class_traits traits;
} class_reader;

static int read_class(pattern *pat, size_t start, text__set *out, bool *negated,
                      class_traits *traits);

static void add(class_reader *reader, uint32_t lo, uint32_t hi) {
    if (hi >= UNICODE_END) hi = UNICODE_END - 1;
    if (lo <= hi) text__ranges_add(&reader->pat->tree, &reader->ranges, lo, hi);
}

/* No range began with the last character: adds it alone. */
static void settle(class_reader *reader) {
    if (reader->waiting) add(reader, reader->from, reader->from);
    reader->waiting = false;
}

static int put_character(class_reader *reader, const item *it, uint32_t code) {
    if (reader->place == IN_RANGE) {
        if (reader->from > code)
            return pattern_wrong(reader->pat, it->at, "a range from high to low");
        add(reader, reader->from, code);
        reader->traits.from_nul = reader->traits.from_nul || (reader->from == 0 && code >= 0x80);
        reader->waiting = false;
        reader->place = AT_END_OF_RANGE;
        return 0;
    }
    settle(reader);
    reader->waiting = true;
    reader->from = code;
    reader->place = AT_VALUE;
    return 0;
}

static int put_set(class_reader *reader, const item *it) {
    if (reader->place == IN_RANGE)
        return pattern_wrong(reader->pat, it->at, "a range that ends in a set");
    settle(reader);
    text__ranges_add_set(&reader->pat->tree, &reader->ranges, &it->set);
    reader->place = AT_VALUE;
    return 0;
}

static int put_class(class_reader *reader, const item *it) {
    pattern *pat = reader->pat;
    if (reader->place == IN_RANGE)
        return pattern_unknown(pat, it->at, "a range that ends in a class");
    settle(reader);
    text__set set;
    bool negated;
    class_traits traits;
    if (pat->depth == PATTERN_DEPTH)
        return pattern_unknown(pat, it->at, "a class inside %d others", PATTERN_DEPTH);
    pat->depth++;
    int rc = read_class(pat, it->at, &set, &negated, &traits);
    pat->depth--;
    if (rc != 0) return -1;
    if (negated && traits.from_nul) {
        return pattern_unknown(pat, it->at,
                               "a negated class in a class, with a range from U+0000 beyond ASCII");
    }
    reader->traits.holds_negated = reader->traits.holds_negated || traits.holds_negated || negated;
    reader->traits.from_nul = reader->traits.from_nul || traits.from_nul;
    if (negated) set = text__set_not(&pat->tree, &set);
    text__ranges_add_set(&pat->tree, &reader->ranges, &set);
    reader->place = AT_END_OF_RANGE;
    return 0;
}

/* A hyphen is an ordinary character at the start, at the end, after a range, and as the end of one.
 * *read: the next item was needed to decide, and *it holds it. */
static int put_hyphen(class_reader *reader, item *it, bool *read) {
    item hyphen = *it;
    if (reader->place == IN_RANGE) return put_character(reader, it, '-');
    if (next_item(reader->pat, reader->start, it) != 0) return -1;
    *read = true;
    if (reader->place == AT_VALUE && it->kind != ITEM_CLOSE && it->kind != ITEM_AND) {
        if (!reader->waiting)
            return pattern_wrong(reader->pat, hyphen.at, "a range that begins with a set");
        reader->place = IN_RANGE;
        return 0;
    }
    return put_character(reader, &hyphen, '-');
}

static void put_and(class_reader *reader) {
    arena *mem = &reader->pat->tree;
    settle(reader);
    text__set here = text__set_of(mem, &reader->ranges);
    reader->all = reader->has_all ? text__set_and(mem, &reader->all, &here) : here;
    reader->has_all = true;
    reader->ranges = (text__ranges){0};
    reader->place = AT_START;
}

static int read_class(pattern *pat, size_t start, text__set *out, bool *negated,
                      class_traits *traits) {
    class_reader reader = {.pat = pat, .start = start};
    item it;
    if (next_item(pat, start, &it) != 0) return -1;
    *negated = it.kind == ITEM_CHAR && it.code == '^' && !it.escaped;
    if (*negated && next_item(pat, start, &it) != 0) return -1;
    if (it.kind == ITEM_CLOSE) { /* []...] */
        if (memchr(pat->text + pat->at, ']', pat->len - pat->at) == NULL)
            return pattern_wrong(pat, start, "an empty class");
        it.kind = ITEM_CHAR;
    }
    while (it.kind != ITEM_CLOSE) {
        bool read = false;
        int rc = 0;
        switch (it.kind) {
        case ITEM_CHAR: rc = put_character(&reader, &it, it.code); break;
        case ITEM_SET: rc = put_set(&reader, &it); break;
        case ITEM_HYPHEN: rc = put_hyphen(&reader, &it, &read); break;
        case ITEM_OPEN: rc = put_class(&reader, &it); break;
        default: put_and(&reader); break;
        }
        if (rc != 0 || (!read && next_item(pat, start, &it) != 0)) return -1;
    }
    put_and(&reader);
    *out = reader.all;
    *traits = reader.traits;
    return pat->tree.failed ? pattern_full(pat) : 0;
}

int pattern_class(pattern *pat, size_t start, text__set *out, bool *negated) {
    class_traits traits;
    if (read_class(pat, start, out, negated, &traits) != 0) return -1;
    bool ascii = out->count == 0 || out->items[out->count - 1].hi < 0x80;
    if (*negated && traits.holds_negated && ascii) {
        return pattern_unknown(pat, start,
                               "a negated class of only ASCII that holds a negated class");
    }
    return 0;
}

/* jinja.c - one form for all spellings of a Jinja template that mean the same.
 *
 * Hugging Face renders with trim_blocks and lstrip_blocks: the newline after a block tag
 * and the blanks before one at the start of a line say nothing. A '-' inside a tag's edge
 * eats all blanks on its side. Inside tags blanks outside quotes, the kind of quote, and
 * a.b for a['b'] say nothing. {{ 'x' + y }} prints what x{{ y }} prints, so literals become
 * text. Everything else is kept, so a template that differs in what it prints never
 * compares equal. */
#include "api/api_internal.h"

/* Bytes that stand for tags in the form; a template that holds one is equal to none. */
enum { STATEMENT = 1, EXPRESSION = 2, CLOSE = 3, QUOTE = 4, NEVER = 5 };

typedef struct {
    const char *s;
    size_t n;
} span;

static void put(buf *out, char c) {
    buf_append(out, &c, 1);
}

static bool blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool word(char c) {
    return letter(c) || (c >= '0' && c <= '9');
}

static size_t skip_blanks(span t, size_t i) {
    while (i < t.n && blank(t.s[i]))
        i++;
    return i;
}

static size_t skip_word(span t, size_t i) {
    while (i < t.n && word(t.s[i]))
        i++;
    return i;
}

/* The index of the quote that closes the string at i; t.n if none does. */
static size_t string_end(span t, size_t i) {
    char quote = t.s[i];
    for (i++; i < t.n && t.s[i] != quote; i++) {
        if (t.s[i] == '\\') i++;
    }
    return i < t.n ? i : t.n;
}

/* ---- code ---- */

static void put_quoted(buf *out, const char *s, size_t n) {
    put(out, QUOTE);
    buf_append(out, s, n);
    put(out, QUOTE);
}

/* One token of code from i on; returns the index behind it. *named: a value ends before it,
 * so that a dot asks for a member. */
static size_t put_token(buf *out, span t, size_t i, bool *named) {
    char c = t.s[i];
    size_t name = c == '.' ? skip_blanks(t, i + 1) : t.n, end;
    if (c == '\'' || c == '"') {
        end = string_end(t, i);
        put_quoted(out, t.s + i + 1, end - i - 1);
        *named = false;
        return end < t.n ? end + 1 : end;
    }
    if (*named && name < t.n && letter(t.s[name])) {
        end = skip_word(t, name);
        put(out, '[');
        put_quoted(out, t.s + name, end - name);
        put(out, ']');
        return end;
    }
    if (!word(c)) {
        put(out, c);
        *named = c == ']' || c == ')';
        return i + 1;
    }
    end = skip_word(t, i);
    buf_append(out, t.s + i, end - i);
    *named = letter(c);
    return end;
}

/* Two words, or the halves of "==" and its like, would be another token without the blank. */
static bool run_together(char a, char b) {
    return (word(a) && word(b)) || (b == '=' && a && strchr("=!<>", a));
}

/* Tokens with a blank only where it parts two of them. */
static void put_code(buf *out, span t) {
    bool named = false;
    for (size_t i = skip_blanks(t, 0); i < t.n;) {
        size_t next = put_token(out, t, i, &named), after = skip_blanks(t, next);
        if (after > next && after < t.n && run_together(t.s[next - 1], t.s[after])) put(out, ' ');
        i = after;
    }
}

/* ---- printed values ---- */

/* The text of the literal at i, escapes resolved. Returns the index behind it, or 0 for an
 * escape that is not known here. */
static size_t put_literal(buf *out, span t, size_t i) {
    static const char from[] = "nt\\'\"", to[] = "\n\t\\'\"";
    size_t end = string_end(t, i);
    if (end == t.n) return 0;
    for (i++; i < end; i++) {
        const char *at = t.s[i] == '\\' ? strchr(from, t.s[i + 1]) : NULL;
        if (t.s[i] == '\\' && (at == NULL || *at == 0)) return 0;
        put(out, at ? to[at - from] : t.s[i]);
        i += at != NULL;
    }
    return end + 1;
}

/* The index behind a name with members, a.b['c'][0]; 0 if there is none at i. */
static size_t path_end(span t, size_t i) {
    if (!letter(t.s[i])) return 0;
    for (i = skip_word(t, i);;) {
        size_t at = skip_blanks(t, i);
        if (at >= t.n || (t.s[at] != '.' && t.s[at] != '[')) return i;
        size_t key = skip_blanks(t, at + 1), end;
        if (key >= t.n) return 0;
        bool quoted = t.s[key] == '\'' || t.s[key] == '"';
        end = quoted ? string_end(t, key) + 1 : skip_word(t, key);
        if (end > t.n || end == key) return 0;
        if (t.s[at] == '.') {
            if (quoted) return 0;
            i = end;
            continue;
        }
        if (!quoted && letter(t.s[key])) return 0; /* a variable: any value may be there */
        end = skip_blanks(t, end);
        if (end >= t.n || t.s[end] != ']') return 0;
        i = end + 1;
    }
}

/* A sum of literals and paths, each printed by itself; false if it is anything else. */
static bool put_sum(buf *out, span t) {
    for (size_t i = skip_blanks(t, 0); i < t.n; i = skip_blanks(t, i)) {
        size_t end;
        if (t.s[i] == '\'' || t.s[i] == '"') {
            end = put_literal(out, t, i);
        } else {
            end = path_end(t, i);
            put(out, EXPRESSION);
            if (end) put_code(out, (span){t.s + i, end - i});
            put(out, CLOSE);
        }
        if (end == 0) return false;
        i = skip_blanks(t, end);
        if (i == t.n) return true;
        if (t.s[i] != '+' && t.s[i] != '~') return false;
        i++;
    }
    return false;
}

static void put_tag(buf *out, char open, span t) {
    size_t before = out->len;
    if (open == '#') return;
    if (open == '{') {
        if (put_sum(out, t) || out->failed) return;
        out->len = before;
    }
    put(out, open == '{' ? EXPRESSION : STATEMENT);
    put_code(out, t);
    put(out, CLOSE);
}

/* ---- text between tags ---- */

static void drop_blanks(buf *out, size_t floor, bool whole) {
    while (out->len > floor && blank(out->data[out->len - 1]) &&
           (whole || out->data[out->len - 1] != '\n')) {
        out->len--;
    }
}

/* lstrip_blocks: whether nothing but blanks stands before s[i] on its line. */
static bool starts_line(const char *s, size_t i) {
    while (i > 0 && (s[i - 1] == ' ' || s[i - 1] == '\t'))
        i--;
    return i == 0 || s[i - 1] == '\n';
}

/* Where the tag whose inside begins at i ends: the index of its closing pair, or n. Strings
 * may hold the pair, but not in a comment. */
static size_t tag_end(const char *s, size_t i, size_t n, char close) {
    for (; i + 1 < n; i++) {
        if (s[i] == close && s[i + 1] == '}') return i;
        if (close != '#' && (s[i] == '\'' || s[i] == '"')) i = string_end((span){s, n}, i);
    }
    return n;
}

/* One tag from its '{' on; returns the index behind it and behind the text it swallows. */
static size_t read_tag(buf *out, const char *s, size_t i, size_t n, size_t floor) {
    char open = s[i + 1], close = open == '{' ? '}' : open;
    bool indented = open != '{' && starts_line(s, i);
    i += 2;
    bool eats_before = i < n && s[i] == '-';
    if (eats_before || indented) drop_blanks(out, floor, eats_before);
    i += eats_before;
    size_t end = tag_end(s, i, n, close);
    if (end == n) put(out, NEVER);
    bool eats = end > i && s[end - 1] == '-';
    put_tag(out, open, (span){s + i, end - i - eats});
    i = end + 2 < n ? end + 2 : n;
    if (eats) return skip_blanks((span){s, n}, i);
    return open != '{' && i < n && s[i] == '\n' ? i + 1 : i;
}

static bool has_marks(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (s[i] > 0 && s[i] <= NEVER) return true;
    }
    return false;
}

void api__jinja_normalise(buf *out, const char *s, size_t n) {
    size_t floor = 0; /* of what may be dropped: nothing inside a tag */
    if (has_marks(s, n)) put(out, NEVER);
    if (n > 0 && s[n - 1] == '\n') n--; /* Jinja drops one last newline */
    for (size_t i = 0; i < n && !out->failed;) {
        bool tag =
            s[i] == '{' && i + 1 < n && (s[i + 1] == '{' || s[i + 1] == '%' || s[i + 1] == '#');
        if (tag) {
            i = read_tag(out, s, i, n, floor);
            floor = out->len;
        } else {
            put(out, s[i++]);
        }
    }
}

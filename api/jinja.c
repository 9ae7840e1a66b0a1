/* jinja.c - one form for all spellings of a Jinja template that mean the same.
 *
 * Hugging Face renders with trim_blocks and lstrip_blocks: the newline after a block tag
 * and the blanks before one at the start of a line say nothing. A '-' inside a tag's edge
 * eats all blanks on its side. Inside tags, blanks outside quotes and the kind of quote
 * say nothing. Everything else is kept, so a template that differs in what it prints
 * never compares equal. */
#include "api/api_internal.h"

static bool blank(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

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

/* The inside of a tag from i to its closing pair; returns the index behind it. */
static size_t copy_tag(buf *out, const char *s, size_t i, size_t n, char close) {
    char quote = 0;
    for (; i < n; i++) {
        char c = s[i];
        if (quote == 0 && c == close && i + 1 < n && s[i + 1] == '}') break;
        if (quote && c == '\\' && i + 1 < n) {
            buf_append(out, s + i++, 2);
            continue;
        }
        if (c == quote) quote = 0;
        else if (quote == 0 && (c == '"' || c == '\'')) quote = c;
        else if (quote == 0 && blank(c)) continue;
        else {
            buf_append(out, &c, 1);
            continue;
        }
        buf_append(out, "'", 1);
    }
    return i;
}

void api__jinja_normalise(buf *out, const char *s, size_t n) {
    size_t floor = 0; /* of what may be dropped: nothing inside a tag */
    while (n > 0 && s[n - 1] == '\n')
        n--; /* Jinja drops the last newline */
    for (size_t i = 0; i < n && !out->failed;) {
        bool tag =
            s[i] == '{' && i + 1 < n && (s[i + 1] == '{' || s[i + 1] == '%' || s[i + 1] == '#');
        if (!tag) {
            buf_append(out, s + i++, 1);
            continue;
        }
        char open = s[i + 1], close = open == '{' ? '}' : open;
        bool indented = open != '{' && starts_line(s, i);
        i += 2;
        if (i < n && s[i] == '-') {
            drop_blanks(out, floor, true);
            i++;
        } else if (indented) {
            drop_blanks(out, floor, false);
        }
        size_t start = out->len;
        buf_append(out, (char[]){'{', open}, 2);
        i = copy_tag(out, s, i, n, close);
        bool eats = out->len > start + 2 && out->data[out->len - 1] == '-';
        if (eats) out->len--;
        buf_append(out, (char[]){close, '}'}, 2);
        if (open == '#' && !out->failed) out->len = start; /* a comment */
        floor = out->len;
        i = i + 2 < n ? i + 2 : n;
        if (eats) {
            while (i < n && blank(s[i]))
                i++;
        } else if (open != '{' && i < n && s[i] == '\n') {
            i++;
        }
    }
}

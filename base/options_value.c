/* options_value.c - turns the text of an option into its value. */
#include "base/nearest.h"
#include "base/options_internal.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int set_real(const opt_parser *self, const opt_row *row, const char *said,
                    const char *text) {
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end || !isfinite(value))
        return opt__usage(self, "%s takes a number, not '%s'", said, text);
    if (value < row->min || value > row->max)
        return opt__usage(self, "%s must be %g to %g, not %s", said, row->min, row->max, text);
    if (row->type == OPT_REAL) *(double *)row->out = value;
    else *(opt_real *)row->out = (opt_real){value, true};
    return 0;
}

static int set_int(const opt_parser *self, const opt_row *row, const char *said, const char *text) {
    char *end = NULL;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno)
        return opt__usage(self, "%s takes a whole number, not '%s'", said, text);
    if ((double)value < row->min || (double)value > row->max)
        return opt__usage(self, "%s must be %.0f to %.0f, not %s", said, row->min, row->max, text);
    *(int64_t *)row->out = value;
    return 0;
}

/* The factor of the letter after a number; 1 without one. For bytes k is K, and "iB" may follow;
 * for counts k is 1000 and K is 1024. */
static uint64_t suffix(opt_type type, char **end) {
    static const char letters[] = "KMG";
    char letter = (char)toupper((unsigned char)**end);
    const char *at = letter ? strchr(letters, letter) : NULL;
    uint64_t factor = 1;
    bool decimal = type == OPT_UINT && **end != letter;
    if (at) (*end)++;
    for (const char *step = letters; at && step <= at; step++)
        factor *= decimal ? 1000 : 1024;
    if (type == OPT_BYTES && at && **end == 'i') (*end)++;
    if (type == OPT_BYTES && toupper((unsigned char)**end) == 'B') (*end)++;
    return factor;
}

static int set_uint(const opt_parser *self, const opt_row *row, const char *said,
                    const char *text) {
    char *end = NULL;
    const char *kind = row->type == OPT_BYTES ? "bytes, as in 512M or 4G" : "a whole number";
    if (!isdigit((unsigned char)text[0]))
        return opt__usage(self, "%s takes %s, not '%s'", said, kind, text);
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    bool fits = errno == 0 && !__builtin_mul_overflow(value, suffix(row->type, &end), &value);
    if (*end || !fits) return opt__usage(self, "%s takes %s, not '%s'", said, kind, text);
    if ((double)value < row->min || (double)value > row->max)
        return opt__usage(self, "%s must be %.0f to %.0f, not %s", said, row->min, row->max, text);
    *(uint64_t *)row->out = value;
    return 0;
}

/* Keeps the text of a whole number in the row's range. */
static int set_numeral(const opt_parser *self, const opt_row *row, const char *said,
                       const char *text) {
    char *end = NULL;
    errno = 0;
    double value = (double)strtoull(text, &end, 10);
    if (*end) return opt__usage(self, "%s takes %s, not '%s'", said, row->meta, text);
    if (errno || value < row->min || value > row->max)
        return opt__usage(self, "%s must be %.0f to %.0f, not %s", said, row->min, row->max, text);
    *(const char **)row->out = text;
    return 0;
}

static int set_choice(opt_parser *self, const opt_row *row, const char *said, const char *text) {
    size_t n = strlen(text);
    nearest found;
    nearest_start(&found, text);
    if (opt_takes_number(row) && isdigit((unsigned char)text[0]))
        return set_numeral(self, row, said, text);
    for (const char *at = row->meta; *at;) {
        size_t len = strcspn(at, "|");
        bool last = at[len] == 0, numbers = last && opt_takes_number(row);
        if (!numbers && len == n && memcmp(at, text, n) == 0) {
            *(const char **)row->out = text;
            return 0;
        }
        const char *word = numbers ? NULL : arena_strndup(&self->args->texts, at, len);
        if (word) nearest_offer(&found, word);
        at += len + !last;
    }
    return opt__usage(self, "%s must be one of %s, not '%s'%s%s%s", said, row->meta, text,
                      found.best ? "; did you mean '" : "", found.best ? found.best : "",
                      found.best ? "'?" : "");
}

static int set_flag(const opt_parser *self, const opt_row *row, const char *said,
                    const char *text) {
    static const char *const words[][2] = {
        {"false", "true"}, {"0", "1"}, {"no", "yes"}, {"off", "on"}};
    for (size_t i = 0; i < ARRAY_LEN(words) * 2; i++) {
        if (strcasecmp(text, words[i / 2][i % 2]) != 0) continue;
        *(bool *)row->out = i % 2 == 1;
        return 0;
    }
    return opt__usage(self, "%s takes true or false, not '%s'", said, text);
}

static int add_text(const opt_parser *self, const opt_row *row, const char *said,
                    const char *text) {
    opt_list *list = row->out;
    if (list->n == OPT_LIST_MAX)
        return opt__usage(self, "%s is given more than %d times", said, OPT_LIST_MAX);
    list->items[list->n++] = text;
    return 0;
}

int opt__set(opt_parser *self, const opt_row *row, const char *said, const char *text,
             opt_source source) {
    self->source[row - self->command->options] = (unsigned char)source;
    switch (row->type) {
    case OPT_TEXT: *(const char **)row->out = text; return 0;
    case OPT_TEXT_MANY: return add_text(self, row, said, text);
    case OPT_CHOICE: return set_choice(self, row, said, text);
    case OPT_FLAG: return set_flag(self, row, said, text);
    case OPT_REAL:
    case OPT_GIVEN_REAL: return set_real(self, row, said, text);
    case OPT_INT: return set_int(self, row, said, text);
    case OPT_UINT:
    case OPT_BYTES: return set_uint(self, row, said, text);
    case OPT_MARK: break;
    }
    return opt__usage(self, "%s is no option", said);
}

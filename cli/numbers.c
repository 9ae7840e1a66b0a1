/* numbers.c - lists of numbers in texts. */
#include "cli/numbers.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int numbers_read(const char *option, const char *text, uint32_t most, uint32_t *out, size_t cap,
                 size_t *n, err *e) {
    *n = 0;
    for (const char *at = text;; at++) {
        char *end;
        bool digit = *at >= '0' && *at <= '9';
        unsigned long long value = digit ? strtoull(at, &end, 10) : 0;
        if (value < 1 || value > most || *n == cap || (*end && *end != ',')) {
            return err_set(e, ERR_USAGE, option,
                           "%s '%s': expected up to %zu numbers from 1 to %u, separated by commas",
                           option, text, cap, most);
        }
        out[(*n)++] = (uint32_t)value;
        if (*end == 0) return 0;
        at = end;
    }
}

int numbers_next(const char **text, uint64_t limit, uint64_t *out) {
    char *end;
    *text += strspn(*text, " ,[]\n\t");
    if (**text == 0) return 0;
    if (**text < '0' || **text > '9') return -1;
    errno = 0;
    *out = strtoull(*text, &end, 10);
    if (errno || *out >= limit) return -1;
    *text = end;
    return 1;
}

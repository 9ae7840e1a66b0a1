/* numbers.c - lists of numbers in options. */
#include "cli/numbers.h"

#include <stdlib.h>

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

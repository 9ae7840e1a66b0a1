/* nearest.c - finds the known name with the fewest mistakes to a word. */
#include "base/nearest.h"

#include <stdbool.h>
#include <string.h>

enum { SHORT_LETTERS = 5 };

/* The letters of a name in lower case, so that maxTokens is max_tokens. Returns their number; 0:
 * none, or too many. */
static size_t letters(const char *name, char *out) {
    size_t n = 0;
    for (; *name; name++) {
        char byte = *name >= 'A' && *name <= 'Z' ? (char)(*name - 'A' + 'a') : *name;
        if (byte == '_' || byte == '-') continue;
        if (n == NEAREST_LETTERS) return 0;
        out[n++] = byte;
    }
    return n;
}

static unsigned least(unsigned x, unsigned y, unsigned z) {
    unsigned low = x < y ? x : y;
    return low < z ? low : z;
}

/* Levenshtein's distance, with a swap of neighbours as one mistake. */
static unsigned distance(const char *left, size_t n_left, const char *right, size_t n_right) {
    unsigned rows[3][NEAREST_LETTERS + 1];
    unsigned *older = rows[0], *old = rows[1], *row = rows[2];
    for (unsigned k = 0; k <= n_right; k++)
        row[k] = k;
    for (unsigned i = 1; i <= n_left; i++) {
        unsigned *spare = older;
        older = old;
        old = row;
        row = spare;
        row[0] = i;
        for (size_t k = 1; k <= n_right; k++) {
            bool same = left[i - 1] == right[k - 1];
            row[k] = least(old[k - 1] + (same ? 0 : 1), old[k] + 1, row[k - 1] + 1);
            bool swapped =
                i > 1 && k > 1 && left[i - 1] == right[k - 2] && left[i - 2] == right[k - 1];
            if (swapped && older[k - 2] + 1 < row[k]) row[k] = older[k - 2] + 1;
        }
    }
    return row[n_right];
}

void nearest_start(nearest *self, const char *word) {
    *self = (nearest){0};
    self->n = letters(word, self->wanted);
    self->below = self->n > SHORT_LETTERS ? 3 : 2;
}

void nearest_offer(nearest *self, const char *name) {
    char other[NEAREST_LETTERS];
    size_t k = letters(name, other);
    if (self->n == 0 || k == 0 || self->below == 0) return;
    if (k + self->below <= self->n || self->n + self->below <= k) return;
    unsigned far = distance(self->wanted, self->n, other, k);
    /* All letters wrong is no mistake in spelling. */
    if (far >= self->below || far >= self->n) return;
    self->best = name;
    self->below = far;
}

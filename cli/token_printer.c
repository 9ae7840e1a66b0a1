/* token_printer.c - see token_printer.h. */
#include "cli/token_printer.h"
#include "base/terminal.h"

#include <string.h>

#define PLAIN "\x1b[0m"
#define DIM "\x1b[2m"

enum { MOST_NAMED = 16 }; /* of the numbers in a legend */

void token_printer_init(token_printer *self, FILE *to, const runtime *rt, uint64_t loops) {
    const model_plan *plan = model_plan_of(rt->model);
    uint32_t usual =
        rt->sched.default_max_loops ? rt->sched.default_max_loops : plan->loops_default;
    *self = (token_printer){
        .to = to,
        .terminal = terminal_is(fileno(to)),
        .most = loops ? (uint32_t)loops : usual,
        .trained = plan->loops_default,
    };
}

/* Colours of the 256-colour cube from blue (few loops) to red (many). */
static int colour_of(const token_printer *self, uint32_t depth) {
    static const int ramp[] = {39, 44, 49, 118, 190, 220, 208, 202, 196};
    uint32_t last = ARRAY_LEN(ramp) - 1;
    uint32_t i = self->most > 1 && depth > 0 ? (depth - 1) * last / (self->most - 1) : 0;
    return ramp[i < last ? i : last];
}

/* A model may write escape codes; a terminal must not obey them. */
static void put_clean(FILE *to, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)text[i];
        /* C1 controls are c2 80 to c2 9f in UTF-8. */
        bool c1 = byte == 0xc2 && i + 1 < n && ((unsigned char)text[i + 1] & 0xe0) == 0x80;
        if (c1) i++;
        else if ((byte >= 0x20 && byte != 0x7f) || byte == '\n' || byte == '\t') putc(byte, to);
    }
}

void token_printer_count(token_printer *self, uint32_t depth) {
    self->n_tokens++;
    self->loops += depth;
}

void token_printer_put(const token_printer *self, const char *text, size_t n, uint32_t depth,
                       bool dim) {
    if (n == 0) return;
    if (self->tint) fprintf(self->to, "%s\x1b[38;5;%dm", dim ? DIM : "", colour_of(self, depth));
    if (self->terminal) put_clean(self->to, text, n);
    else fwrite(text, 1, n, self->to);
    if (self->tint) fputs(PLAIN, self->to);
    fflush(self->to);
}

void token_printer_depth(const token_printer *self, buf *out) {
    double mean = self->n_tokens ? (double)self->loops / self->n_tokens : 0;
    buf_printf(out, "mean depth %.2f of %u", mean, self->trained);
    if (self->n_tokens && mean < self->trained)
        buf_printf(out, ", %.0f %% of loops saved", 100 * (1 - mean / self->trained));
}

void token_printer_legend(const token_printer *self, buf *out) {
    if (!self->tint) return;
    uint32_t step = (self->most + MOST_NAMED - 1) / MOST_NAMED;
    buf_puts(out, "loops:");
    for (uint32_t depth = 1; depth <= self->most; depth += step)
        buf_printf(out, " \x1b[38;5;%dm%u" PLAIN, colour_of(self, depth), depth);
    buf_puts(out, "\n");
}

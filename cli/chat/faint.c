/* faint.c - see faint.h.
 *
 * The cursor is saved before the drafted text and restored behind it, so clearing the screen from
 * the cursor on takes it away; nothing stands below an answer. The text must not wrap, because a
 * terminal may then scroll, and the saved place is wrong. So it is cut to the room left on the
 * line, and wrapping is off while it is written, in case the user's typing has moved the cursor. */
#include "cli/chat/faint.h"

#include "base/terminal.h"

#include <string.h>

/* Save the cursor, wrap no more, faint; and back. */
#define BEGIN "\0337\033[?7l\033[2m"
#define END "\033[0m\033[?7h\0338"
#define CLEAR "\033[J"

enum { TAB = 8, WIDEST = 2 };

void faint_begin(faint *self, FILE *to) {
    *self = (faint){.to = to};
    if (to) self->columns = terminal_columns(fileno(to));
}

void faint_clear(faint *self) {
    if (!self->shown) return;
    fputs(CLEAR, self->to);
    fflush(self->to);
    self->shown = false;
}

/* Bytes behind the first of a character take no column. */
static bool goes_on(char byte) {
    return ((unsigned char)byte & 0xc0) == 0x80;
}

static bool is_ascii(char byte) {
    return (unsigned char)byte < 0x80;
}

void faint_follow(faint *self, const char *text, size_t n) {
    if (self->to == NULL) return;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\n') {
            faint_begin(self, self->to);
        } else if (text[i] == '\t') {
            self->most += TAB;
        } else if (is_ascii(text[i])) {
            self->least++;
            self->most++;
        } else if (!goes_on(text[i])) {
            self->most += WIDEST;
        }
    }
}

/* Columns behind the cursor before the last one. 0 also where the cursor may be in either of two
 * rows, or behind a row's last column. */
static uint64_t room(faint *self) {
    if (self->columns != terminal_columns(fileno(self->to))) self->columns = 0;
    uint64_t wide = self->columns;
    if (wide == 0 || self->least / wide != self->most / wide) return 0;
    if (self->least > 0 && self->least % wide == 0) return 0;
    return wide - self->most % wide - 1;
}

/* Bytes of the text that fit. */
static size_t fitting(const char *text, size_t n, uint64_t columns) {
    size_t i = 0;
    while (i < n && (unsigned char)text[i] >= 0x20 && text[i] != 0x7f) {
        uint64_t wide = is_ascii(text[i]) ? 1 : WIDEST;
        size_t end = i + 1;
        while (end < n && goes_on(text[end]))
            end++;
        bool control = (unsigned char)text[i] == 0xc2 && end > i + 1 &&
                       ((unsigned char)text[i + 1] & 0xe0) == 0x80; /* c2 80 to c2 9f */
        if (wide > columns || control) break;
        columns -= wide;
        i = end;
    }
    return i;
}

void faint_show(faint *self, const char *text, size_t n) {
    if (self->to == NULL || n == 0) return;
    size_t fits = fitting(text, n, room(self));
    if (fits == 0) return;
    fputs(BEGIN, self->to);
    fwrite(text, 1, fits, self->to);
    fputs(END, self->to);
    fflush(self->to);
    self->shown = true;
}

/* constrain_values.c - the bytes of strings, texts and numbers. A frame goes from state to state;
 * no stack is needed. */
#include "api/grammar/automaton_internal.h"

#include <string.h>

enum { /* after API__S_PLAIN and 1..7: within a character */
       S_ESCAPE = 8,
       S_HEX,
       S_LOW_BACKSLASH,
       S_LOW_U,
       S_LOW_HEX
};
enum { N_ZERO = API__N_MINUS + 1, N_INT, N_DOT, N_FRACTION, N_E, N_SIGN, N_EXPONENT };
/* ---- strings ---- */

int api__utf8_next(int state, uint8_t byte) {
    static const struct {
        uint8_t from, to, next;
    } rows[] = {{0, 0, 0},       {0x80, 0xbf, 0}, {0x80, 0xbf, 1}, {0x80, 0xbf, 2},
                {0xa0, 0xbf, 1}, {0x80, 0x9f, 1}, {0x90, 0xbf, 2}, {0x80, 0x8f, 2}};
    if (state) return byte >= rows[state].from && byte <= rows[state].to ? rows[state].next : -1;
    if (byte < 0x80) return 0;
    if (byte < 0xc2 || byte > 0xf4) return -1;
    if (byte < 0xe0) return 1;
    if (byte < 0xf0) return byte == 0xe0 ? 4 : byte == 0xed ? 5 : 2;
    return byte == 0xf0 ? 6 : byte == 0xf4 ? 7 : 3;
}

static int hex(uint8_t byte) {
    if (byte >= '0' && byte <= '9') return byte - '0';
    byte |= 0x20;
    return byte >= 'a' && byte <= 'f' ? byte - 'a' + 10 : -1;
}

/* Reads one digit of \uXXXX. Refuses a prefix that can only become U+0000 or half a surrogate pair,
 * so that no text runs into a dead end. */
static bool hex_digit(api__frame *frame, uint8_t byte, bool low) {
    int digit = hex(byte);
    if (digit < 0) return false;
    if (low && (frame->hex_digits == 0 ? digit != 0xd : frame->hex_digits == 1 && digit < 0xc))
        return false;
    if (!low && frame->hex_digits == 1 && frame->code_unit == 0xd && digit >= 0xc) return false;
    if (!low && frame->hex_digits == 3 && frame->code_unit == 0 && digit == 0) return false;
    frame->code_unit = (uint16_t)(frame->code_unit << 4 | digit);
    if (++frame->hex_digits < 4) return true;
    frame->sub = !low && frame->code_unit >= 0xd800 && frame->code_unit <= 0xdbff ? S_LOW_BACKSLASH
                                                                                  : API__S_PLAIN;
    frame->code_unit = frame->hex_digits = 0;
    return true;
}

/* Counts the beginning of a character. The count stops beyond the schema's limits, so that states
 * repeat. */
static bool count_char(const api__node *node, api__frame *frame) {
    if (frame->chars >= node->max) return false;
    if (node->max != UINT32_MAX || frame->chars < node->min) frame->chars++;
    return true;
}

bool api__string_step(const api__node *node, api__frame *frame, uint8_t byte, bool *end) {
    switch (frame->sub) {
    case API__S_PLAIN:
        if (byte == '"') return *end = frame->chars >= node->min;
        if (byte < 0x20 || !count_char(node, frame)) return false;
        if (byte == '\\') return frame->sub = S_ESCAPE, true;
        break;
    case S_ESCAPE:
        frame->sub = byte == 'u' ? S_HEX : API__S_PLAIN;
        return byte == 'u' || (byte && strchr("\"\\/bfnrt", byte) != NULL);
    case S_HEX: return hex_digit(frame, byte, false);
    case S_LOW_BACKSLASH: return frame->sub = S_LOW_U, byte == '\\';
    case S_LOW_U: return frame->sub = S_LOW_HEX, byte == 'u';
    case S_LOW_HEX: return hex_digit(frame, byte, true);
    default: break;
    }
    int next = api__utf8_next(frame->sub, byte);
    frame->sub = (uint8_t)next;
    return next >= 0;
}

/* ---- texts ---- */

bool api__text_step(const api__node *node, api__frame *frame, uint8_t byte) {
    if (frame->sub == API__S_PLAIN) {
        if (byte < 0x20 && byte != '\n' && byte != '\t' && byte != '\r') return false;
        if (!count_char(node, frame)) return false;
    }
    int next = api__utf8_next(frame->sub, byte);
    if (next < 0) return false;
    frame->sub = (uint8_t)next;
    if (byte != (uint8_t)API__CLOSER[frame->matched]) frame->matched = 0;
    if (byte == (uint8_t)API__CLOSER[frame->matched]) frame->matched++;
    return API__CLOSER[frame->matched] != 0;
}

bool api__text_done(const api__node *node, const api__frame *frame) {
    return frame->sub == API__S_PLAIN && frame->chars >= node->min;
}

/* ---- numbers ---- */

/* A ranged integer keeps its magnitude in 48 bits and its sign in `negative`. */
static int64_t magnitude(const api__frame *frame) {
    return (int64_t)((uint64_t)frame->low_bits | (uint64_t)frame->middle_bits << 16 |
                     (uint64_t)frame->high_bits << 32);
}

/* Is there a number in range beginning with these digits (exact: equal to them)? */
static bool in_range(const api__node *node, const api__frame *frame, bool exact) {
    int64_t low = magnitude(frame), high = low;
    for (uint32_t digits = frame->digits; digits <= API__RANGED_DIGITS; digits++) {
        int64_t from = frame->negative ? -high : low, to = frame->negative ? -low : high;
        if (from <= node->high && to >= node->low) return true;
        if (exact || low == 0) return false;
        low *= 10;
        high = high * 10 + 9;
    }
    return false;
}

static bool int_digit(const api__node *node, api__frame *frame, uint8_t byte) {
    frame->digits++;
    if (!node->ranged) return frame->digits <= API__INT_DIGITS;
    uint64_t value = (uint64_t)magnitude(frame) * 10 + (uint64_t)(byte - '0');
    frame->low_bits = (uint16_t)value;
    frame->middle_bits = (uint16_t)(value >> 16);
    frame->high_bits = (uint16_t)(value >> 32);
    return frame->digits <= API__RANGED_DIGITS && in_range(node, frame, false) &&
           !(value == 0 && frame->negative);
}

bool api__is_digit(uint8_t byte) {
    return byte >= '0' && byte <= '9';
}

bool api__number_step(const api__node *node, api__frame *frame, uint8_t byte) {
    switch (frame->sub) {
    case API__N_MINUS:
        if (byte == '0' && node->integer && frame->negative) return false; /* no -0 */
        frame->sub = byte == '0' ? N_ZERO : N_INT;
        return api__is_digit(byte) && int_digit(node, frame, byte);
    case N_INT:
        if (api__is_digit(byte)) return int_digit(node, frame, byte);
        break;
    case N_DOT: frame->sub = N_FRACTION; return ++frame->digits, api__is_digit(byte);
    case N_FRACTION:
        if (api__is_digit(byte)) return ++frame->digits <= API__FRACTION_DIGITS;
        break;
    case N_E:
        frame->sub = api__is_digit(byte) ? N_EXPONENT : N_SIGN;
        frame->digits = 1;
        return api__is_digit(byte) || byte == '+' || byte == '-';
    case N_SIGN: frame->sub = N_EXPONENT; return api__is_digit(byte);
    case N_EXPONENT: return api__is_digit(byte) && ++frame->digits <= API__EXPONENT_DIGITS;
    default: break;
    }
    if (node->integer) return false;
    if (byte == '.' && (frame->sub == N_ZERO || frame->sub == N_INT)) frame->sub = N_DOT;
    else if (byte == 'e' || byte == 'E') frame->sub = N_E;
    else return false;
    frame->digits = 0;
    return true;
}

bool api__number_done(const api__node *node, const api__frame *frame) {
    switch (frame->sub) {
    case N_ZERO:
    case N_INT: return !node->ranged || in_range(node, frame, true);
    case N_FRACTION:
    case N_EXPONENT: return true;
    default: return false;
    }
}

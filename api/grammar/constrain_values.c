/* constrain_values.c - the bytes of strings and texts. A frame goes from state to state; no stack
 * is needed. A pattern sees whole characters, however they are written. Each byte must lead to a
 * character of the pattern. */
#include "api/grammar/automaton_internal.h"
#include "api/grammar/regex_internal.h"

#include <string.h>

enum { /* after API__S_PLAIN and 1..7: within a character */
       S_ESCAPE = 8,
       S_HEX,
       S_LOW_BACKSLASH,
       S_LOW_U,
       S_LOW_HEX
};

/* ---- bytes ---- */

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

/* ---- characters under a pattern ---- */

/* May a character of from..to come next? It has been counted already. */
static bool some(const api__node *node, const api__frame *frame, uint32_t from, uint32_t to) {
    return node->dfa == NULL || api__dfa_some(node->dfa, frame->dfa_state, from, to, frame->chars);
}

/* Takes a whole character. */
static bool take(const api__node *node, api__frame *frame, uint32_t character) {
    frame->code_unit = 0;
    if (node->dfa == NULL) return true;
    frame->dfa_state = api__dfa_step(node->dfa, frame->dfa_state, character, frame->chars);
    return frame->dfa_state != API__DFA_DEAD;
}

/* Takes one byte of UTF-8. The bits read so far bound the character. */
static bool take_utf8(const api__node *node, api__frame *frame, uint8_t byte) {
    static const uint32_t least[] = {0, 0, 0, 0, 0x800, 0x800, 0x10000, 0x10000};
    static const uint8_t left[] = {0, 1, 2, 3, 2, 2, 3, 3};
    int state = frame->sub, next = api__utf8_next(state, byte);
    if (next < 0) return false;
    frame->sub = (uint8_t)next;
    if (node->dfa == NULL) return true;
    uint32_t bits = byte;
    if (state) bits = (uint32_t)frame->code_unit << 6 | (byte & 0x3f);
    else if (byte >= 0x80) bits = byte & (byte < 0xe0 ? 0x1f : byte < 0xf0 ? 0x0f : 0x07);
    if (next == 0) return take(node, frame, bits);
    uint32_t from = bits << 6 * left[next], to = from + (1u << 6 * left[next]) - 1;
    frame->code_unit = (uint16_t)bits;
    return some(node, frame, from < least[next] ? least[next] : from, to);
}

/* ---- escapes ---- */

/* Tries the characters of \uXXXX after some of its digits, and of the pairs beginning so. */
static bool some_unit(const api__node *node, const api__frame *frame) {
    unsigned shift = 4u * (4u - frame->hex_digits);
    uint32_t from = (uint32_t)frame->code_unit << shift, to = from + (1u << shift) - 1;
    if (some(node, frame, from ? from : 1, to)) return true;
    uint32_t high = from > 0xd800 ? from : 0xd800, last = to < 0xdbff ? to : 0xdbff;
    return high <= last && some(node, frame, 0x10000 + ((high - 0xd800) << 10),
                                0x10000 + ((last - 0xd800) << 10) + 0x3ff);
}

/* Reads one digit of \uXXXX. Refuses a prefix that can only become U+0000 or half a surrogate pair,
 * so that no text runs into a dead end. */
static bool hex_digit(const api__node *node, api__frame *frame, uint8_t byte) {
    int digit = hex(byte);
    if (digit < 0) return false;
    if (frame->hex_digits == 1 && frame->code_unit == 0xd && digit >= 0xc) return false;
    if (frame->hex_digits == 3 && frame->code_unit == 0 && digit == 0) return false;
    frame->code_unit = (uint16_t)(frame->code_unit << 4 | digit);
    if (++frame->hex_digits < 4) return some_unit(node, frame);
    uint16_t unit = frame->code_unit;
    frame->hex_digits = 0;
    frame->sub = API__S_PLAIN;
    if (unit < 0xd800 || unit > 0xdbff) return take(node, frame, unit);
    uint32_t from = 0x10000 + ((uint32_t)(unit - 0xd800) << 10);
    frame->sub = S_LOW_BACKSLASH;
    frame->code_unit = node->dfa ? (uint16_t)(unit - 0xd800) : 0; /* else not needed */
    return some(node, frame, from, from + 0x3ff);
}

/* Reads one digit of the second half of a pair: its ten bits follow the ten of the first. */
static bool low_digit(const api__node *node, api__frame *frame, uint8_t byte) {
    int digit = hex(byte);
    uint32_t bits = frame->code_unit;
    if (digit < 0) return false;
    if (frame->hex_digits == 0 ? digit != 0xd : frame->hex_digits == 1 && digit < 0xc) return false;
    frame->hex_digits++;
    if (frame->hex_digits == 2) bits = bits << 2 | (uint32_t)(digit & 3);
    if (frame->hex_digits > 2) bits = bits << 4 | (uint32_t)digit;
    if (frame->hex_digits == 4) {
        frame->hex_digits = 0;
        frame->sub = API__S_PLAIN;
        return take(node, frame, 0x10000 + bits);
    }
    if (node->dfa == NULL) return true;
    unsigned shift = frame->hex_digits < 2 ? 10 : frame->hex_digits == 2 ? 8 : 4;
    frame->code_unit = (uint16_t)bits;
    return some(node, frame, 0x10000 + (bits << shift),
                0x10000 + (bits << shift) + (1u << shift) - 1);
}

static bool escaped(const api__node *node, api__frame *frame, uint8_t byte) {
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char *at = byte ? strchr(letters, byte) : NULL;
    frame->sub = byte == 'u' ? S_HEX : API__S_PLAIN;
    return byte == 'u' || (at && take(node, frame, (uint8_t)meant[at - letters]));
}

/* ---- strings ---- */

/* Counts the beginning of a character. The count stops beyond the schema's limits, so that states
 * repeat. */
static bool count_char(const api__node *node, api__frame *frame) {
    if (frame->chars >= node->max) return false;
    if (node->max != UINT32_MAX || frame->chars < node->min) frame->chars++;
    return true;
}

static bool ends(const api__node *node, const api__frame *frame) {
    return frame->chars >= node->min && (node->dfa == NULL || node->dfa->ends[frame->dfa_state]);
}

bool api__string_step(const api__node *node, api__frame *frame, uint8_t byte, bool *end) {
    switch (frame->sub) {
    case API__S_PLAIN:
        if (byte == '"') return *end = ends(node, frame);
        if (byte < 0x20 || !count_char(node, frame)) return false;
        if (byte == '\\') return frame->sub = S_ESCAPE, some(node, frame, 1, 0x10ffff);
        break;
    case S_ESCAPE: return escaped(node, frame, byte);
    case S_HEX: return hex_digit(node, frame, byte);
    case S_LOW_BACKSLASH: return frame->sub = S_LOW_U, byte == '\\';
    case S_LOW_U: return frame->sub = S_LOW_HEX, byte == 'u';
    case S_LOW_HEX: return low_digit(node, frame, byte);
    default: break;
    }
    return take_utf8(node, frame, byte);
}

/* ---- texts ---- */

bool api__text_step(const api__node *node, api__frame *frame, uint8_t byte) {
    if (frame->sub == API__S_PLAIN) {
        if (byte < 0x20 && byte != '\n' && byte != '\t' && byte != '\r') return false;
        if (!count_char(node, frame)) return false;
    }
    if (!take_utf8(node, frame, byte)) return false;
    if (byte != (uint8_t)API__CLOSER[frame->matched]) frame->matched = 0;
    if (byte == (uint8_t)API__CLOSER[frame->matched]) frame->matched++;
    return API__CLOSER[frame->matched] != 0;
}

bool api__text_done(const api__node *node, const api__frame *frame) {
    return frame->sub == API__S_PLAIN && ends(node, frame);
}

/* constrain_number.c - the bytes of numbers.
 *
 * A ranged number keeps all its digits as one number of 48 bits. A digit is allowed if some number
 * in range begins so: see reaches(). */
#include "api/grammar/automaton_internal.h"

enum { N_ZERO = API__N_MINUS + 1, N_INT, N_DOT, N_FRACTION, N_E, N_SIGN, N_EXPONENT };

bool api__is_digit(uint8_t byte) {
    return byte >= '0' && byte <= '9';
}

/* ---- ranges ---- */

static int64_t magnitude(const api__frame *frame) {
    return (int64_t)((uint64_t)frame->low_bits | (uint64_t)frame->middle_bits << 16 |
                     (uint64_t)frame->high_bits << 32);
}

static int64_t power(int n) {
    int64_t value = 1;
    while (n-- > 0)
        value *= 10;
    return value;
}

/* The product, or more than API__MOST_UNITS if it is more. */
static int64_t times(int64_t value, int64_t factor) {
    return value > API__MOST_UNITS / factor ? API__MOST_UNITS + 1 : value * factor;
}

static int64_t gcd(int64_t one, int64_t other) {
    while (other != 0) {
        int64_t rest = one % other;
        one = other;
        other = rest;
    }
    return one;
}

/* Is some number of size low..high, with this sign, in range and a multiple of both the node's step
 * and `grid`? */
static bool holds(const api__node *node, bool negative, int64_t low, int64_t high, int64_t grid) {
    if (high > API__MOST_UNITS) high = API__MOST_UNITS;
    if (negative && low == 0) low = 1; /* no -0 */
    int64_t from = negative ? -high : low, to = negative ? -low : high;
    int64_t step = times(node->step, grid / gcd(grid, node->step));
    if (from < node->low) from = node->low;
    if (to > node->high) to = node->high;
    if (low > high || from > to) return false;
    if (step > API__MOST_UNITS) return from <= 0 && to >= 0;
    int64_t first = from / step * step;
    if (first < from) first += step;
    return first <= to;
}

/* Does some number in range begin with these digits? whole: more digits may come before the
 * point. after: digits after the point so far. All digits together fit into API__RANGED_DIGITS, and
 * the digits after the point into units. */
static bool reaches(const api__node *node, bool negative, int64_t value, int digits, int after,
                    bool whole) {
    int left = node->places - after;
    for (int more = 0; digits + more <= API__RANGED_DIGITS; more++) {
        int room = API__RANGED_DIGITS - digits - more;
        int64_t scale = times(power(more), power(left));
        int64_t low = times(value, scale), high = times(value + 1, scale) - 1;
        if (holds(node, negative, low, high, power(left > room ? left - room : 0))) return true;
        if (!whole || value == 0) return false;
    }
    return false;
}

bool api__number_begins(const api__node *node, bool negative) {
    for (int digit = negative && node->integer; digit < 10; digit++) {
        if (reaches(node, negative, digit, 1, 0, digit != 0)) return true;
    }
    return false;
}

static bool ranged_digit(const api__node *node, api__frame *frame, uint8_t byte) {
    uint64_t value = (uint64_t)magnitude(frame) * 10 + (uint64_t)(byte - '0');
    bool whole = frame->sub == N_INT || frame->sub == N_ZERO;
    frame->low_bits = (uint16_t)value;
    frame->middle_bits = (uint16_t)(value >> 16);
    frame->high_bits = (uint16_t)(value >> 32);
    frame->ranged_digits++;
    frame->after_point = (uint16_t)(frame->after_point + !whole);
    return frame->ranged_digits <= API__RANGED_DIGITS && frame->after_point <= node->places &&
           reaches(node, frame->negative, (int64_t)value, frame->ranged_digits, frame->after_point,
                   whole);
}

/* In a ranged number a point needs room for a digit; there is no exponent. */
static bool ranged_point(const api__node *node, api__frame *frame) {
    return frame->ranged_digits < API__RANGED_DIGITS && node->places > 0 &&
           reaches(node, frame->negative, magnitude(frame), frame->ranged_digits, 0, false);
}

static bool in_range(const api__node *node, const api__frame *frame) {
    int64_t units = times(magnitude(frame), power(node->places - frame->after_point));
    return holds(node, frame->negative, units, units, 1);
}

/* ---- digits ---- */

/* One more digit of a part of at most `most` digits. */
static bool take_digit(const api__node *node, api__frame *frame, uint8_t byte, uint32_t most) {
    if (node->ranged) return ranged_digit(node, frame, byte);
    return ++frame->digits <= most;
}

bool api__number_step(const api__node *node, api__frame *frame, uint8_t byte) {
    bool digit = api__is_digit(byte);
    switch (frame->sub) {
    case API__N_MINUS:
        if (byte == '0' && node->integer && frame->negative) return false; /* no -0 */
        frame->sub = byte == '0' ? N_ZERO : N_INT;
        return digit && take_digit(node, frame, byte, API__INT_DIGITS);
    case N_INT:
        if (digit) return take_digit(node, frame, byte, API__INT_DIGITS);
        break;
    case N_DOT:
        frame->sub = N_FRACTION;
        return digit && take_digit(node, frame, byte, API__FRACTION_DIGITS);
    case N_FRACTION:
        if (digit) return take_digit(node, frame, byte, API__FRACTION_DIGITS);
        break;
    case N_E:
        frame->sub = digit ? N_EXPONENT : N_SIGN;
        frame->digits = 1;
        return digit || byte == '+' || byte == '-';
    case N_SIGN: frame->sub = N_EXPONENT; return digit;
    case N_EXPONENT: return digit && ++frame->digits <= API__EXPONENT_DIGITS;
    default: break;
    }
    if (node->integer) return false;
    if (byte == '.' && (frame->sub == N_ZERO || frame->sub == N_INT)) {
        frame->sub = N_DOT;
        if (node->ranged) return ranged_point(node, frame);
    } else if ((byte == 'e' || byte == 'E') && !node->ranged) {
        frame->sub = N_E;
    } else {
        return false;
    }
    frame->digits = 0;
    return true;
}

bool api__number_done(const api__node *node, const api__frame *frame) {
    switch (frame->sub) {
    case N_ZERO:
    case N_INT:
    case N_FRACTION: return !node->ranged || in_range(node, frame);
    case N_EXPONENT: return true;
    default: return false;
    }
}

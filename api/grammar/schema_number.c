/* schema_number.c - ranges and multiples of numbers.
 *
 * A ranged number is a whole number of units of 10 to the power of -places, so bounds and multiples
 * of decimals are exact. Bounds are rounded inwards to whole units. */
#include "api/grammar/automaton_internal.h"
#include "api/grammar/schema_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_PLACES = API__RANGED_DIGITS - 1, SOME_PLACES = 4 };

/* ---- decimals ---- */

/* The shortest digits of a double, as a program wrote it. */
static void shortest(double number, char *text, size_t room) {
    for (int digits = 15; digits <= 17; digits++) {
        (void)snprintf(text, room, "%.*e", digits - 1, number);
        if (strtod(text, NULL) == number) return;
    }
}

bool api__decimal_read(const json_t *number, api__decimal *out) {
    char text[40];
    *out = (api__decimal){.value = json_integer_value(number)};
    if (json_is_integer(number)) return true;
    shortest(json_real_value(number), text, sizeof text);
    char *mark = strchr(text, 'e');
    if (mark == NULL) return false;
    long exponent = strtol(mark + 1, NULL, 10);
    for (const char *at = text; at < mark; at++) {
        if (*at >= '0' && *at <= '9') out->value = out->value * 10 + (*at - '0');
    }
    const char *point = strchr(text, '.');
    out->places = (point ? (int)(mark - point - 1) : 0) - (int)exponent;
    while (out->value != 0 && out->value % 10 == 0 && out->places > 0) {
        out->value /= 10;
        out->places--;
    }
    for (; out->places < 0; out->places++) {
        if (out->value > INT64_MAX / 10) return false;
        out->value *= 10;
    }
    if (out->value == 0) out->places = 0;
    if (text[0] == '-') out->value = -out->value;
    return true;
}

static int64_t power(int n) {
    int64_t value = 1;
    while (n-- > 0)
        value *= 10;
    return value;
}

int api__decimal_order(const json_t *left, const json_t *right) {
    if (json_is_integer(left) && json_is_integer(right)) {
        int64_t one = json_integer_value(left), other = json_integer_value(right);
        return (one > other) - (one < other);
    }
    double one = json_number_value(left), other = json_number_value(right);
    return (one > other) - (one < other);
}

bool api__decimal_multiple(const json_t *number, const json_t *of) {
    api__decimal value, step;
    if (!api__decimal_read(number, &value) || !api__decimal_read(of, &step) || step.value == 0)
        return fmod(json_number_value(number), json_number_value(of)) == 0;
    while (value.places != step.places) {
        api__decimal *less = value.places < step.places ? &value : &step;
        if (llabs(less->value) > INT64_MAX / 10) return false;
        less->value *= 10;
        less->places++;
    }
    return value.value % step.value == 0;
}

/* ---- units ---- */

static bool multiply(int64_t value, int places, int64_t *out) { /* by a power of ten */
    *out = value;
    for (; places > 0; places--) {
        if (llabs(*out) > INT64_MAX / 10) return false;
        *out *= 10;
    }
    return true;
}

/* A bound in units, rounded up for a minimum and down for a maximum, and clipped. */
static int64_t in_units(const json_t *bound, int places, bool low, bool exclusive) {
    api__decimal read;
    bool upwards = json_number_value(bound) > 0;
    int64_t value = upwards ? API__MOST_UNITS + 1 : -API__MOST_UNITS - 1;
    if (api__decimal_read(bound, &read)) {
        int cut = read.places - places;
        if (cut <= 0) {
            if (!multiply(read.value, -cut, &value) || llabs(value) > API__MOST_UNITS)
                value = upwards ? API__MOST_UNITS + 1 : -API__MOST_UNITS - 1;
        } else { /* a finer bound than the units */
            int64_t units = cut > 18 ? 0 : read.value / power(cut);
            bool whole = cut <= 18 && units * power(cut) == read.value;
            value = units - (!whole && read.value < 0); /* rounded down */
            if (!whole) return low ? value + 1 : value;
        }
    }
    if (exclusive) value += low ? 1 : -1;
    if (!low && value > API__MOST_UNITS) return API__MOST_UNITS;
    return low && value < -API__MOST_UNITS ? -API__MOST_UNITS : value;
}

static int64_t gcd(int64_t one, int64_t other) {
    while (other != 0) {
        int64_t rest = one % other;
        one = other;
        other = rest;
    }
    return one;
}

/* Makes the node's step a multiple of another step, too. False: too large. */
static bool join_step(api__node *node, const api__decimal *of) {
    int64_t step = of->value, units = 1;
    if (!multiply(1, of->places > node->places ? of->places - node->places : 0, &units) ||
        !multiply(step, of->places < node->places ? node->places - of->places : 0, &step))
        return false;
    step /= gcd(step, units); /* the multiples in whole units */
    int64_t shared = step / gcd(step, node->step);
    return !__builtin_mul_overflow(node->step, shared, &node->step);
}

/* ---- nodes ---- */

static const char *const bounds[] = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"};

static int places_of(const json_t *number) {
    api__decimal read;
    return api__decimal_read(number, &read) && read.places <= MOST_PLACES ? read.places
                                                                          : MOST_PLACES;
}

/* Finds how fine the units must be, and checks the keywords. */
static int measure(api__compiler *comp, api__node *node, const api__pending *item) {
    double largest = 0;
    bool low = false, high = false, stepped = false;
    int fine_step = 0, fine_bound = 0;
    for (uint16_t i = 0; i < item->n_parts; i++) {
        const json_t *schema = item->parts[i].schema, *of = json_object_get(schema, "multipleOf");
        if (of && !(json_number_value(of) > 0))
            return api__schema_wrong(comp, "multipleOf must be a number above 0");
        if (of && places_of(of) > fine_step) fine_step = places_of(of);
        stepped = stepped || of;
        for (size_t k = 0; k < ARRAY_LEN(bounds); k++) {
            const json_t *bound = json_object_get(schema, bounds[k]);
            if (bound == NULL) continue;
            if (!json_is_number(bound))
                return api__schema_wrong(comp, "%s must be a number", bounds[k]);
            low = low || k < 2;
            high = high || k >= 2;
            if (fabs(json_number_value(bound)) > largest) largest = fabs(json_number_value(bound));
            if (places_of(bound) > fine_bound) fine_bound = places_of(bound);
        }
    }
    node->ranged = low || high || stepped;
    int whole = 1; /* digits before the point */
    for (double limit = 10; whole < API__RANGED_DIGITS && largest >= limit; limit *= 10)
        whole++;
    int places = low && high ? API__RANGED_DIGITS - whole : SOME_PLACES;
    if (places < fine_bound) places = fine_bound;
    if (stepped) places = fine_step; /* every multiple is a whole number of these */
    if (places > MOST_PLACES) places = MOST_PLACES;
    node->places = (uint8_t)(node->integer || !node->ranged ? 0 : places);
    return 0;
}

static int read_limits(api__compiler *comp, api__node *node, const json_t *schema) {
    const json_t *of = json_object_get(schema, "multipleOf");
    api__decimal step;
    for (size_t k = 0; k < ARRAY_LEN(bounds); k++) {
        const json_t *bound = json_object_get(schema, bounds[k]);
        if (bound == NULL) continue;
        int64_t units = in_units(bound, node->places, k < 2, k % 2);
        if (k < 2 && units > node->low) node->low = units;
        if (k >= 2 && units < node->high) node->high = units;
    }
    if (of == NULL) return 0;
    if (api__decimal_read(of, &step) && step.places <= MOST_PLACES && join_step(node, &step))
        return 0;
    return api__schema_unheld(comp, "multipleOf", " if its value is so large or fine");
}

int api__compile_number(api__compiler *comp, api__node *node, const api__pending *item,
                        bool integer) {
    *node = (api__node){.kind = API__NUMBER, .integer = integer, .step = 1};
    node->low = -API__MOST_UNITS;
    node->high = API__MOST_UNITS;
    if (measure(comp, node, item) != 0) return -1;
    for (uint16_t i = 0; i < item->n_parts; i++) {
        if (read_limits(comp, node, item->parts[i].schema) != 0) return -1;
    }
    if (node->ranged && !api__number_begins(node, true) && !api__number_begins(node, false))
        return api__schema_none(comp, node, "no number lies between minimum and maximum%s",
                                node->step > 1 ? " and is a multiple" : "");
    return 0;
}

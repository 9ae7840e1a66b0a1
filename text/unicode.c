/* unicode.c - sets of code points, and the properties of characters in Unicode 16. */
#include "text/unicode_internal.h"

#include "text/unicode_ranges.h"

#include <stdlib.h>
#include <string.h>

/* ---- sets ---- */

void text__ranges_add(arena *mem, text__ranges *ranges, uint32_t lo, uint32_t hi) {
    if (ranges->count == ranges->cap) {
        size_t cap = ranges->cap ? 2 * ranges->cap : 16;
        text__range *more = arena_array(mem, cap, sizeof *more);
        if (more == NULL) return;
        if (ranges->count) memcpy(more, ranges->items, ranges->count * sizeof *more);
        ranges->items = more;
        ranges->cap = cap;
    }
    ranges->items[ranges->count++] = (text__range){lo, hi};
}

void text__ranges_add_set(arena *mem, text__ranges *ranges, const text__set *set) {
    for (size_t i = 0; i < set->count; i++)
        text__ranges_add(mem, ranges, set->items[i].lo, set->items[i].hi);
}

static int by_lo(const void *left, const void *right) {
    uint32_t x = ((const text__range *)left)->lo, y = ((const text__range *)right)->lo;
    return (x > y) - (x < y);
}

text__set text__set_of(arena *mem, text__ranges *ranges) {
    if (mem->failed || ranges->count == 0) return (text__set){0};
    qsort(ranges->items, ranges->count, sizeof *ranges->items, by_lo);
    size_t n = 0;
    for (size_t i = 1; i < ranges->count; i++) {
        if (ranges->items[i].lo <= ranges->items[n].hi + 1) {
            if (ranges->items[i].hi > ranges->items[n].hi)
                ranges->items[n].hi = ranges->items[i].hi;
        } else {
            ranges->items[++n] = ranges->items[i];
        }
    }
    text__set out = {ranges->items, n + 1};
    *ranges = (text__ranges){0};
    return out;
}

/* The number of ranges that begin at or before the code point. */
static size_t begun(const text__set *set, uint32_t code) {
    size_t low = 0, high = set->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (set->items[middle].lo <= code) low = middle + 1;
        else high = middle;
    }
    return low;
}

bool text__set_has(const text__set *set, uint32_t code) {
    size_t k = begun(set, code);
    return k > 0 && set->items[k - 1].hi >= code;
}

bool text__set_equal(const text__set *set, const text__set *other) {
    return set->count == other->count &&
           (set->count == 0 ||
            memcmp(set->items, other->items, set->count * sizeof *set->items) == 0);
}

bool text__set_within(const text__set *set, const text__set *outer) {
    for (size_t i = 0; i < set->count; i++) {
        size_t k = begun(outer, set->items[i].lo);
        if (k == 0 || outer->items[k - 1].hi < set->items[i].hi) return false;
    }
    return true;
}

static text__set room_for(arena *mem, size_t n) {
    return (text__set){.items = arena_array(mem, n, sizeof(text__range))};
}

text__set text__set_not(arena *mem, const text__set *set) {
    text__set out = room_for(mem, set->count + 1);
    if (out.items == NULL) return out;
    uint32_t from = 0;
    for (size_t i = 0; i < set->count; i++) {
        if (set->items[i].lo > from)
            out.items[out.count++] = (text__range){from, set->items[i].lo - 1};
        from = set->items[i].hi + 1;
    }
    if (from < UNICODE_END) out.items[out.count++] = (text__range){from, UNICODE_END - 1};
    return out;
}

text__set text__set_and(arena *mem, const text__set *set, const text__set *other) {
    text__set out = room_for(mem, set->count + other->count + 1);
    if (out.items == NULL) return out;
    for (size_t i = 0, k = 0; i < set->count && k < other->count;) {
        uint32_t lo = set->items[i].lo > other->items[k].lo ? set->items[i].lo : other->items[k].lo;
        uint32_t hi = set->items[i].hi < other->items[k].hi ? set->items[i].hi : other->items[k].hi;
        if (lo <= hi) out.items[out.count++] = (text__range){lo, hi};
        if (set->items[i].hi < other->items[k].hi) i++;
        else k++;
    }
    return out;
}

text__set text__set_within_reach(arena *mem, const text__set *set, const text__set *reach) {
    text__set out = room_for(mem, set->count + 1);
    if (out.items == NULL) return out;
    for (size_t i = 0, k = 0; i < set->count; i++) {
        while (k + 1 < reach->count && reach->items[k].hi < set->items[i].lo)
            k++;
        bool joins =
            out.count > 0 && k < reach->count && out.items[out.count - 1].lo >= reach->items[k].lo;
        if (joins) out.items[out.count - 1].hi = set->items[i].hi;
        else out.items[out.count++] = set->items[i];
    }
    return out;
}

/* ---- properties ---- */

_Static_assert(ARRAY_LEN(gc_names) == N_GC, "a name for each category");
_Static_assert(ARRAY_LEN(script_names) == N_SCRIPTS, "a name for each script");

/* The code points with a certain value: the table `starts` holds the first code point of each
 * stretch and, in the low 8 bits, its value. Selects values in the mask or, unless value is -1,
 * this value. */
static text__set with_value(arena *mem, const uint32_t *starts, size_t n, uint32_t mask,
                            int value) {
    size_t count = 0;
    for (int pass = 0; pass < 2; pass++) {
        text__set out = pass ? room_for(mem, count + 1) : (text__set){0};
        if (pass && out.items == NULL) return out;
        uint32_t end = UNICODE_END; /* of the previous range; none yet */
        for (size_t i = 0; i < n; i++) {
            uint32_t this_value = starts[i] & 0xff, lo = starts[i] >> 8;
            uint32_t hi = i + 1 < n ? (starts[i + 1] >> 8) - 1 : UNICODE_END - 1;
            if (value >= 0 ? this_value != (uint32_t)value : !(mask >> this_value & 1)) continue;
            if (lo != end) out.count++;
            if (pass && lo != end) out.items[out.count - 1].lo = lo;
            if (pass) out.items[out.count - 1].hi = hi;
            end = hi + 1;
        }
        if (pass) return out;
        count = out.count;
    }
    return (text__set){0};
}

static text__set with_mask(arena *mem, uint32_t mask) {
    return with_value(mem, gc_starts, ARRAY_LEN(gc_starts), mask, -1);
}

static text__set with_script(arena *mem, int script) {
    return with_value(mem, script_starts, ARRAY_LEN(script_starts), 0, script);
}

static text__set either(arena *mem, const text__set *set, const text__set *other) {
    text__ranges both = {0};
    text__ranges_add_set(mem, &both, set);
    text__ranges_add_set(mem, &both, other);
    return text__set_of(mem, &both);
}

static text__set without(arena *mem, const text__set *set, const text__set *other) {
    text__set rest = text__set_not(mem, other);
    return text__set_and(mem, set, &rest);
}

int text__property_find(const char *name, size_t n) {
    char key[64];
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        char byte = name[i];
        if (byte == ' ' || byte == '-' || byte == '_') continue;
        if (len + 1 == sizeof key) return -1;
        key[len++] = byte >= 'A' && byte <= 'Z' ? (char)(byte - 'A' + 'a') : byte;
    }
    key[len] = 0;
    size_t low = 0, high = ARRAY_LEN(property_names);
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(key, property_names[middle].name);
        if (order == 0 && strlen(key) == len) return property_names[middle].property;
        if (order < 0) high = middle;
        else low = middle + 1;
    }
    return -1;
}

text__set text__property_set(arena *mem, int property) {
    const unicode_property *info = &properties[property];
    text__set whole =
        info->script >= 0 ? with_script(mem, info->script) : with_mask(mem, info->mask);
    if (info->count == 0) return whole;
    text__set other = room_for(mem, info->count);
    if (other.items == NULL) return other;
    for (; other.count < info->count; other.count++) {
        const unicode_range *range = &property_ranges[info->first + other.count];
        other.items[other.count] = (text__range){range->lo, range->hi};
    }
    text__set lost = without(mem, &whole, &other), gained = without(mem, &other, &whole);
    return either(mem, &lost, &gained);
}

/* ---- case ---- */

static uint32_t folded(const unicode_fold *fold, uint32_t code) {
    return fold->to + (code - fold->lo);
}

uint32_t text__fold(uint32_t code) {
    size_t low = 0, high = ARRAY_LEN(folds);
    while (low < high) {
        size_t middle = (low + high) / 2;
        const unicode_fold *fold = &folds[middle];
        if (code < fold->lo) high = middle;
        else if (code > fold->hi) low = middle + 1;
        else return (code - fold->lo) % fold->step == 0 ? folded(fold, code) : code;
    }
    return code;
}

/* Adds the folding of each member, or (up) every code point that folds to a member. */
static text__set fold_step(arena *mem, const text__set *set, bool up) {
    text__ranges out = {0};
    text__ranges_add_set(mem, &out, set);
    for (size_t i = 0; i < ARRAY_LEN(folds); i++) {
        for (uint32_t code = folds[i].lo; code <= folds[i].hi; code += folds[i].step) {
            uint32_t to = folded(&folds[i], code), from = up ? to : code, add = up ? code : to;
            if (text__set_has(set, from)) text__ranges_add(mem, &out, add, add);
        }
    }
    return text__set_of(mem, &out);
}

text__set text__set_fold(arena *mem, const text__set *set) {
    text__set down = fold_step(mem, set, false), all = fold_step(mem, &down, true);
    text__ranges out = {0};
    text__ranges_add_set(mem, &out, &all);
    for (size_t i = 0; i < ARRAY_LEN(multi_folds); i++) {
        const uint32_t *from = multi_folds[i].from;
        if (from[1] == 0) continue;
        for (int k = 0; k < 2; k++) {
            if (text__set_has(set, from[k])) text__ranges_add(mem, &out, from[1 - k], from[1 - k]);
        }
    }
    return text__set_of(mem, &out);
}

const text__multi_fold *text__multi_folds(size_t *n) {
    _Static_assert(sizeof(text__multi_fold) == sizeof(unicode_multi_fold), "the same");
    *n = ARRAY_LEN(multi_folds);
    return (const text__multi_fold *)(const void *)multi_folds;
}

/* ---- categories and scripts of PCRE2 ---- */

/* `now` is the set in Unicode 16. The table `earlier` holds the changes since version 14. */
static text__atom atom_of(arena *mem, const char *name, text__set now, uint32_t mask, int script) {
    text__ranges lost = {0}, gained = {0};
    for (size_t i = 0; i < ARRAY_LEN(earlier); i++) {
        const unicode_earlier *change = &earlier[i];
        bool was = script >= 0 ? change->script == script : mask >> change->gc & 1;
        if (was) text__ranges_add(mem, &gained, change->lo, change->hi);
        else text__ranges_add(mem, &lost, change->lo, change->hi);
    }
    text__set never = text__set_of(mem, &lost), once = text__set_of(mem, &gained);
    return (text__atom){name, without(mem, &now, &never), either(mem, &now, &once)};
}

text__atom text__atom_category(arena *mem, size_t k) {
    static const char *const groups[] = {"L", "M", "N", "P", "S", "Z", "C"};
    _Static_assert(ARRAY_LEN(groups) + N_GC == TEXT__CATEGORIES, "all of them");
    /* Groups first: one group replaces several categories. */
    const char *name = k < ARRAY_LEN(groups) ? groups[k] : gc_names[k - ARRAY_LEN(groups)];
    uint32_t mask = 0;
    for (uint32_t i = 0; i < N_GC; i++) {
        if (strncmp(gc_names[i], name, strlen(name)) == 0) mask |= (uint32_t)1 << i;
    }
    return atom_of(mem, name, with_mask(mem, mask), mask, -1);
}

bool text__atom_script(arena *mem, int property, text__atom *out) {
    int script = properties[property].script;
    if (script < 0) return false;
    *out = atom_of(mem, script_names[script], with_script(mem, script), 0, script);
    return true;
}

/* unicode.c - sets of code points, and what Unicode 16 says of them. */
#include "text/unicode_internal.h"

#include "text/unicode_ranges.h"

#include <stdlib.h>
#include <string.h>

/* ---- sets ---- */

void text__ranges_add(arena *a, text__ranges *r, uint32_t lo, uint32_t hi) {
    if (r->n == r->cap) {
        size_t cap = r->cap ? 2 * r->cap : 16;
        text__range *more = arena_array(a, cap, sizeof *more);
        if (more == NULL) return;
        if (r->n) memcpy(more, r->at, r->n * sizeof *more);
        r->at = more;
        r->cap = cap;
    }
    r->at[r->n++] = (text__range){lo, hi};
}

void text__ranges_add_set(arena *a, text__ranges *r, const text__set *s) {
    for (size_t i = 0; i < s->n; i++)
        text__ranges_add(a, r, s->at[i].lo, s->at[i].hi);
}

static int by_lo(const void *a, const void *b) {
    uint32_t x = ((const text__range *)a)->lo, y = ((const text__range *)b)->lo;
    return (x > y) - (x < y);
}

text__set text__set_of(arena *a, text__ranges *r) {
    if (a->failed || r->n == 0) return (text__set){0};
    qsort(r->at, r->n, sizeof *r->at, by_lo);
    size_t n = 0;
    for (size_t i = 1; i < r->n; i++) {
        if (r->at[i].lo <= r->at[n].hi + 1) {
            if (r->at[i].hi > r->at[n].hi) r->at[n].hi = r->at[i].hi;
        } else {
            r->at[++n] = r->at[i];
        }
    }
    text__set out = {r->at, n + 1};
    *r = (text__ranges){0};
    return out;
}

/* How many ranges begin at or before c. */
static size_t begun(const text__set *s, uint32_t c) {
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (s->at[middle].lo <= c) low = middle + 1;
        else high = middle;
    }
    return low;
}

bool text__set_has(const text__set *s, uint32_t c) {
    size_t k = begun(s, c);
    return k > 0 && s->at[k - 1].hi >= c;
}

bool text__set_equal(const text__set *s, const text__set *t) {
    return s->n == t->n && (s->n == 0 || memcmp(s->at, t->at, s->n * sizeof *s->at) == 0);
}

bool text__set_within(const text__set *s, const text__set *t) {
    for (size_t i = 0; i < s->n; i++) {
        size_t k = begun(t, s->at[i].lo);
        if (k == 0 || t->at[k - 1].hi < s->at[i].hi) return false;
    }
    return true;
}

static text__set room_for(arena *a, size_t n) {
    return (text__set){.at = arena_array(a, n, sizeof(text__range))};
}

text__set text__set_not(arena *a, const text__set *s) {
    text__set out = room_for(a, s->n + 1);
    if (out.at == NULL) return out;
    uint32_t from = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (s->at[i].lo > from) out.at[out.n++] = (text__range){from, s->at[i].lo - 1};
        from = s->at[i].hi + 1;
    }
    if (from < UNICODE_END) out.at[out.n++] = (text__range){from, UNICODE_END - 1};
    return out;
}

text__set text__set_and(arena *a, const text__set *s, const text__set *t) {
    text__set out = room_for(a, s->n + t->n + 1);
    if (out.at == NULL) return out;
    for (size_t i = 0, k = 0; i < s->n && k < t->n;) {
        uint32_t lo = s->at[i].lo > t->at[k].lo ? s->at[i].lo : t->at[k].lo;
        uint32_t hi = s->at[i].hi < t->at[k].hi ? s->at[i].hi : t->at[k].hi;
        if (lo <= hi) out.at[out.n++] = (text__range){lo, hi};
        if (s->at[i].hi < t->at[k].hi) i++;
        else k++;
    }
    return out;
}

text__set text__set_within_reach(arena *a, const text__set *s, const text__set *t) {
    text__set out = room_for(a, s->n + 1);
    if (out.at == NULL) return out;
    for (size_t i = 0, k = 0; i < s->n; i++) {
        while (k + 1 < t->n && t->at[k].hi < s->at[i].lo)
            k++;
        bool joins = out.n > 0 && k < t->n && out.at[out.n - 1].lo >= t->at[k].lo;
        if (joins) out.at[out.n - 1].hi = s->at[i].hi;
        else out.at[out.n++] = s->at[i];
    }
    return out;
}

/* ---- properties ---- */

_Static_assert(ARRAY_LEN(gc_names) == N_GC, "a name for each category");
_Static_assert(ARRAY_LEN(script_names) == N_SCRIPTS, "a name for each script");

/* Ranges whose value, in the low bits of `starts`, is in the mask or equals `value`. */
static text__set stretches(arena *a, const uint32_t *starts, size_t n, uint32_t mask, int value) {
    size_t count = 0;
    for (int pass = 0; pass < 2; pass++) {
        text__set out = pass ? room_for(a, count + 1) : (text__set){0};
        if (pass && out.at == NULL) return out;
        uint32_t end = UNICODE_END; /* of the range before; none yet */
        for (size_t i = 0; i < n; i++) {
            uint32_t v = starts[i] & 0xff, lo = starts[i] >> 8;
            uint32_t hi = i + 1 < n ? (starts[i + 1] >> 8) - 1 : UNICODE_END - 1;
            if (value >= 0 ? v != (uint32_t)value : !(mask >> v & 1)) continue;
            if (lo != end) out.n++;
            if (pass && lo != end) out.at[out.n - 1].lo = lo;
            if (pass) out.at[out.n - 1].hi = hi;
            end = hi + 1;
        }
        if (pass) return out;
        count = out.n;
    }
    return (text__set){0};
}

static text__set with_mask(arena *a, uint32_t mask) {
    return stretches(a, gc_starts, ARRAY_LEN(gc_starts), mask, -1);
}

static text__set with_script(arena *a, int script) {
    return stretches(a, script_starts, ARRAY_LEN(script_starts), 0, script);
}

static text__set either(arena *a, const text__set *s, const text__set *t) {
    text__ranges both = {0};
    text__ranges_add_set(a, &both, s);
    text__ranges_add_set(a, &both, t);
    return text__set_of(a, &both);
}

static text__set without(arena *a, const text__set *s, const text__set *t) {
    text__set rest = text__set_not(a, t);
    return text__set_and(a, s, &rest);
}

int text__property_find(const char *name, size_t n) {
    char key[64];
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        if (c == ' ' || c == '-' || c == '_') continue;
        if (len + 1 == sizeof key) return -1;
        key[len++] = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
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

text__set text__property_set(arena *a, int property) {
    const unicode_property *p = &properties[property];
    text__set whole = p->script >= 0 ? with_script(a, p->script) : with_mask(a, p->mask);
    if (p->n == 0) return whole;
    text__set other = room_for(a, p->n);
    if (other.at == NULL) return other;
    for (; other.n < p->n; other.n++) {
        const unicode_range *r = &property_ranges[p->first + other.n];
        other.at[other.n] = (text__range){r->lo, r->hi};
    }
    text__set lost = without(a, &whole, &other), gained = without(a, &other, &whole);
    return either(a, &lost, &gained);
}

/* ---- case ---- */

static uint32_t folded(const unicode_fold *f, uint32_t c) {
    return f->to + (c - f->lo);
}

uint32_t text__fold(uint32_t c) {
    size_t low = 0, high = ARRAY_LEN(folds);
    while (low < high) {
        size_t middle = (low + high) / 2;
        const unicode_fold *f = &folds[middle];
        if (c < f->lo) high = middle;
        else if (c > f->hi) low = middle + 1;
        else return (c - f->lo) % f->step == 0 ? folded(f, c) : c;
    }
    return c;
}

/* Adds what the members fold to, or what folds to members. */
static text__set fold_step(arena *a, const text__set *s, bool up) {
    text__ranges out = {0};
    text__ranges_add_set(a, &out, s);
    for (size_t i = 0; i < ARRAY_LEN(folds); i++) {
        for (uint32_t c = folds[i].lo; c <= folds[i].hi; c += folds[i].step) {
            uint32_t to = folded(&folds[i], c), from = up ? to : c, add = up ? c : to;
            if (text__set_has(s, from)) text__ranges_add(a, &out, add, add);
        }
    }
    return text__set_of(a, &out);
}

text__set text__set_fold(arena *a, const text__set *s) {
    text__set down = fold_step(a, s, false), all = fold_step(a, &down, true);
    text__ranges out = {0};
    text__ranges_add_set(a, &out, &all);
    for (size_t i = 0; i < ARRAY_LEN(multi_folds); i++) {
        const uint32_t *from = multi_folds[i].from;
        if (from[1] == 0) continue;
        for (int k = 0; k < 2; k++) {
            if (text__set_has(s, from[k])) text__ranges_add(a, &out, from[1 - k], from[1 - k]);
        }
    }
    return text__set_of(a, &out);
}

const text__multi_fold *text__multi_folds(size_t *n) {
    _Static_assert(sizeof(text__multi_fold) == sizeof(unicode_multi_fold), "the same");
    *n = ARRAY_LEN(multi_folds);
    return (const text__multi_fold *)(const void *)multi_folds;
}

/* ---- what PCRE2 may say ---- */

/* Of what is now `now`: what was so all the time, and what ever was. */
static text__atom atom_of(arena *a, const char *name, text__set now, uint32_t mask, int script) {
    text__ranges lost = {0}, gained = {0};
    for (size_t i = 0; i < ARRAY_LEN(earlier); i++) {
        const unicode_earlier *e = &earlier[i];
        bool was = script >= 0 ? e->script == script : mask >> e->gc & 1;
        if (was) text__ranges_add(a, &gained, e->lo, e->hi);
        else text__ranges_add(a, &lost, e->lo, e->hi);
    }
    text__set never = text__set_of(a, &lost), once = text__set_of(a, &gained);
    return (text__atom){name, without(a, &now, &never), either(a, &now, &once)};
}

text__atom text__atom_category(arena *a, size_t k) {
    static const char *const groups[] = {"L", "M", "N", "P", "S", "Z", "C"};
    _Static_assert(ARRAY_LEN(groups) + N_GC == TEXT__CATEGORIES, "all of them");
    /* Groups first: one stands for several. */
    const char *name = k < ARRAY_LEN(groups) ? groups[k] : gc_names[k - ARRAY_LEN(groups)];
    uint32_t mask = 0;
    for (uint32_t i = 0; i < N_GC; i++) {
        if (strncmp(gc_names[i], name, strlen(name)) == 0) mask |= (uint32_t)1 << i;
    }
    return atom_of(a, name, with_mask(a, mask), mask, -1);
}

bool text__atom_script(arena *a, int property, text__atom *out) {
    int script = properties[property].script;
    if (script < 0) return false;
    *out = atom_of(a, script_names[script], with_script(a, script), 0, script);
    return true;
}

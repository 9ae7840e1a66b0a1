/* pattern_set.c - a set of code points written as a class of PCRE2's, as short as it gets.
 *
 * PCRE2 looks through the ranges of a class one after another, so a set of hundreds is written by
 * the categories and scripts that lie within it, and the ranges that these leave. PCRE2 10.42
 * knows Unicode 14 and later releases know more; a category is used for what every version from
 * 14 to 16 says of it, and only where no version's holds more than the set. */
#include "text/pattern_emit_internal.h"

enum {
    FEW = 8, /* ranges that are not worth a category */
    SURROGATE_LO = 0xd800,
    SURROGATE_HI = 0xdfff, /* in no text, so a range may run over them; none ends there */
};

/* ---- what there is to write with ---- */

/* Whether this PCRE2 knows a Unicode that the tables speak of. */
static bool known_unicode(void) {
    char version[24] = "";
    int n = pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, NULL);
    if (n <= 0 || (size_t)n > sizeof version) return false;
    (void)pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, version);
    int major = (version[0] - '0') * 10 + version[1] - '0';
    return version[1] >= '0' && version[1] <= '9' && major >= 14 && major <= 16;
}

static void load_atoms(emitter *w) {
    if (w->atoms_loaded) return;
    w->atoms_loaded = true;
    if (!known_unicode()) return;
    arena *a = &w->p->tree;
    for (size_t k = 0; k < TEXT__CATEGORIES; k++)
        w->atoms[w->n_atoms++] = text__atom_category(a, k);
    w->n_categories = w->n_atoms;
    for (size_t i = 0; i < w->p->n_used; i++) {
        text__atom *atom = &w->atoms[w->n_atoms];
        if (text__atom_script(a, w->p->used[i], atom) && atom->sure.n > 0) w->n_atoms++;
    }
}

/* ---- the shortest ---- */

/* A way to write `need`, perhaps with some of what else is in `reach`. */
typedef struct {
    bool used[EMIT_ATOMS];
    size_t n_used;
    text__set ranges;
} writing;

static size_t cost(const writing *w) {
    return w->n_used + w->ranges.n;
}

static writing by_ranges(emitter *w, const text__set *need, const text__set *reach) {
    writing out = {.ranges = text__set_within_reach(&w->p->tree, need, reach)};
    return out;
}

static writing by_atoms(emitter *w, const text__set *need, const text__set *reach) {
    arena *a = &w->p->tree;
    writing best = by_ranges(w, need, reach);
    text__set left = *need;
    for (size_t k = 0; k < w->n_atoms && best.ranges.n > 1; k++) {
        const text__atom *atom = &w->atoms[k];
        if (!text__set_within(&atom->most, reach)) continue;
        text__set other = text__set_not(a, &atom->sure);
        text__set less = text__set_and(a, &left, &other);
        text__set ranges = text__set_within_reach(a, &less, reach);
        if (ranges.n + 1 >= best.ranges.n) continue;
        best.used[k] = true;
        best.n_used++;
        best.ranges = ranges;
        left = less;
    }
    return best;
}

/* ---- writing ---- */

void emit_code_point(buf *out, uint32_t c) {
    bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    if (plain) buf_printf(out, "%c", (char)c);
    else buf_printf(out, "\\x{%x}", (unsigned)c);
}

static void write_class(emitter *w, const writing *how, bool negated) {
    buf_puts(w->out, negated ? "[^" : "[");
    for (size_t k = 0; k < w->n_atoms; k++) {
        if (!how->used[k]) continue;
        buf_printf(w->out, "\\p{%s%s}", k < w->n_categories ? "" : "sc:", w->atoms[k].name);
    }
    for (size_t i = 0; i < how->ranges.n; i++) {
        uint32_t lo = how->ranges.at[i].lo, hi = how->ranges.at[i].hi;
        emit_code_point(w->out, lo);
        if (hi == lo) continue;
        buf_puts(w->out, "-");
        emit_code_point(w->out, hi);
    }
    buf_puts(w->out, "]");
}

/* The same set was often written before. */
static bool write_again(emitter *w, const text__set *s) {
    for (size_t i = 0; i < w->n_written; i++) {
        if (!text__set_equal(&w->written[i].set, s)) continue;
        size_t at = w->written[i].at, len = w->written[i].len;
        if (buf_reserve(w->out, len) == 0) buf_append(w->out, w->out->data + at, len);
        return true;
    }
    return false;
}

void emit_set(emitter *w, const text__set *set, bool negated) {
    arena *a = &w->p->tree;
    text__range surrogates[] = {{SURROGATE_LO, SURROGATE_HI}};
    text__set none = {surrogates, 1}, all = text__set_not(a, &none);
    text__set turned = text__set_not(a, set);
    const text__set *s = negated ? &turned : set;
    text__set in = text__set_and(a, s, &all), inverse = text__set_not(a, s);
    text__set out = text__set_and(a, &inverse, &all);
    if (a->failed || write_again(w, &in)) return;
    size_t at = w->out->len;
    if (out.n == 0) {
        buf_puts(w->out, ".");
    } else if (in.n == 0) {
        buf_puts(w->out, "[^\\x{0}-\\x{10ffff}]");
    } else if (in.n == 1 && in.at[0].lo == in.at[0].hi) {
        emit_code_point(w->out, in.at[0].lo);
    } else {
        text__set out_reach = text__set_not(a, &in), in_reach = text__set_not(a, &out);
        writing yes = by_ranges(w, &in, &in_reach), no = by_ranges(w, &out, &out_reach);
        if (cost(&yes) > FEW && cost(&no) > FEW) {
            load_atoms(w);
            yes = by_atoms(w, &in, &in_reach);
            no = by_atoms(w, &out, &out_reach);
        }
        bool shorter = cost(&no) < cost(&yes);
        write_class(w, shorter ? &no : &yes, shorter);
    }
    if (w->n_written == EMIT_WRITTEN || w->out->failed) return;
    w->written[w->n_written].set = in;
    w->written[w->n_written].at = at;
    w->written[w->n_written++].len = w->out->len - at;
}

/* pattern_set.c - writes a set of code points as the shortest class of PCRE2.
 *
 * PCRE2 tests the ranges of a class one after another. So a set of many ranges is written as
 * categories and scripts inside it, plus the ranges they do not cover. PCRE2 10.42 has Unicode 14
 * and later releases have newer versions. A category counts with the members it has in every
 * version from 14 to 16, and is used only if it lies inside the set in every version. */
#include "text/pattern_emit_internal.h"

enum {
    FEW = 8, /* so few ranges need no category */
    SURROGATE_LO = 0xd800,
    SURROGATE_HI = 0xdfff, /* no text has surrogates, so a range may include them all */
};

/* ---- categories and scripts ---- */

/* This PCRE2 has a Unicode version that the tables cover. */
static bool known_unicode(void) {
    char version[24] = "";
    int n = pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, NULL);
    if (n <= 0 || (size_t)n > sizeof version) return false;
    (void)pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, version);
    int major = (version[0] - '0') * 10 + version[1] - '0';
    return version[1] >= '0' && version[1] <= '9' && major >= 14 && major <= 16;
}

static void load_atoms(emitter *gen) {
    if (gen->atoms_loaded) return;
    gen->atoms_loaded = true;
    if (!known_unicode()) return;
    arena *mem = &gen->pat->tree;
    for (size_t k = 0; k < TEXT__CATEGORIES; k++)
        gen->atoms[gen->n_atoms++] = text__atom_category(mem, k);
    gen->n_categories = gen->n_atoms;
    for (size_t i = 0; i < gen->pat->n_used; i++) {
        text__atom *atom = &gen->atoms[gen->n_atoms];
        if (text__atom_script(mem, gen->pat->used[i], atom) && atom->sure.count > 0) gen->n_atoms++;
    }
}

/* ---- the shortest form ---- */

/* A class with all of a set `need` and nothing outside a set `reach`. */
typedef struct {
    bool used[EMIT_ATOMS];
    size_t n_used;
    text__set ranges; /* not covered by the atoms */
} class_form;

static size_t cost(const class_form *form) {
    return form->n_used + form->ranges.count;
}

static class_form by_ranges(emitter *gen, const text__set *need, const text__set *reach) {
    class_form out = {.ranges = text__set_within_reach(&gen->pat->tree, need, reach)};
    return out;
}

static class_form by_atoms(emitter *gen, const text__set *need, const text__set *reach) {
    arena *mem = &gen->pat->tree;
    class_form best = by_ranges(gen, need, reach);
    text__set left = *need;
    for (size_t k = 0; k < gen->n_atoms && best.ranges.count > 1; k++) {
        const text__atom *atom = &gen->atoms[k];
        if (!text__set_within(&atom->most, reach)) continue;
        text__set other = text__set_not(mem, &atom->sure);
        text__set less = text__set_and(mem, &left, &other);
        text__set ranges = text__set_within_reach(mem, &less, reach);
        if (ranges.count + 1 >= best.ranges.count) continue;
        best.used[k] = true;
        best.n_used++;
        best.ranges = ranges;
        left = less;
    }
    return best;
}

/* ---- writing ---- */

void emit_code_point(buf *out, uint32_t code) {
    bool plain = (code >= '0' && code <= '9') || (code >= 'A' && code <= 'Z') ||
                 (code >= 'a' && code <= 'z');
    if (plain) buf_printf(out, "%c", (char)code);
    else buf_printf(out, "\\x{%x}", (unsigned)code);
}

static void write_class(emitter *gen, const class_form *form, bool negated) {
    buf_puts(gen->out, negated ? "[^" : "[");
    for (size_t k = 0; k < gen->n_atoms; k++) {
        if (!form->used[k]) continue;
        buf_printf(gen->out, "\\p{%s%s}", k < gen->n_categories ? "" : "sc:", gen->atoms[k].name);
    }
    for (size_t i = 0; i < form->ranges.count; i++) {
        uint32_t lo = form->ranges.items[i].lo, hi = form->ranges.items[i].hi;
        emit_code_point(gen->out, lo);
        if (hi == lo) continue;
        buf_puts(gen->out, "-");
        emit_code_point(gen->out, hi);
    }
    buf_puts(gen->out, "]");
}

/* Copies the class if the same set was written before. */
static bool write_again(emitter *gen, const text__set *set) {
    for (size_t i = 0; i < gen->n_written; i++) {
        if (!text__set_equal(&gen->written[i].set, set)) continue;
        size_t at = gen->written[i].at, len = gen->written[i].len;
        if (buf_reserve(gen->out, len) == 0) buf_append(gen->out, gen->out->data + at, len);
        return true;
    }
    return false;
}

void emit_set(emitter *gen, const text__set *set, bool negated) {
    arena *mem = &gen->pat->tree;
    text__range surrogates[] = {{SURROGATE_LO, SURROGATE_HI}};
    text__set none = {surrogates, 1}, all = text__set_not(mem, &none);
    text__set turned = text__set_not(mem, set);
    const text__set *members = negated ? &turned : set;
    text__set in = text__set_and(mem, members, &all), inverse = text__set_not(mem, members);
    text__set out = text__set_and(mem, &inverse, &all);
    if (mem->failed || write_again(gen, &in)) return;
    size_t at = gen->out->len;
    if (out.count == 0) {
        buf_puts(gen->out, ".");
    } else if (in.count == 0) {
        buf_puts(gen->out, "[^\\x{0}-\\x{10ffff}]");
    } else if (in.count == 1 && in.items[0].lo == in.items[0].hi) {
        emit_code_point(gen->out, in.items[0].lo);
    } else {
        text__set out_reach = text__set_not(mem, &in), in_reach = text__set_not(mem, &out);
        class_form yes = by_ranges(gen, &in, &in_reach), no = by_ranges(gen, &out, &out_reach);
        if (cost(&yes) > FEW && cost(&no) > FEW) {
            load_atoms(gen);
            yes = by_atoms(gen, &in, &in_reach);
            no = by_atoms(gen, &out, &out_reach);
        }
        bool shorter = cost(&no) < cost(&yes);
        write_class(gen, shorter ? &no : &yes, shorter);
    }
    if (gen->n_written == EMIT_WRITTEN || gen->out->failed) return;
    gen->written[gen->n_written].set = in;
    gen->written[gen->n_written].at = at;
    gen->written[gen->n_written++].len = gen->out->len - at;
}

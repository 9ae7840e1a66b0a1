/* constrain.c - the automaton: which bytes may follow, given a grammar and a text so far.
 *
 * A thread is one reading of the text: a stack of the values it is inside of. Most schemas
 * have one reading at any time; alternatives that begin alike are read side by side. */
#include "api/grammar/constrain_internal.h"

#include <string.h>

enum { O_FIRST, O_KEY, O_FREE_KEY, O_COLON, O_VALUE, O_NEXT, O_COMMA }; /* objects */
enum { A_FIRST, A_NEXT, A_COMMA };                                      /* arrays */
enum {
    S_PLAIN,
    /* 1..7: inside a character */ S_ESCAPE = 8,
    S_HEX,
    S_LOW_BACKSLASH,
    S_LOW_U,
    S_LOW_HEX
};
enum { N_MINUS, N_ZERO, N_INT, N_DOT, N_FRACTION, N_E, N_SIGN, N_EXPONENT };
enum { ONE_SPACE = API__MAX_BLANKS };
enum { NOT_BEGUN = UINT8_MAX }; /* the root before its first byte */

/* ---- frames ---- */

static void add(api__threads *t, uint16_t top) {
    for (uint8_t i = 0; i < t->n; i++) {
        if (t->top[i] == top) return;
    }
    if (t->n < API__MAX_THREADS) t->top[t->n++] = top;
}

static bool full(const api__threads *t) { /* what else would be added is dropped */
    return t->n == API__MAX_THREADS;
}

static void emit(api__automaton *a, api__threads *out, api__frame f) {
    uint16_t top = api__automaton_push(a, f);
    if (top) add(out, top);
}

static uint32_t depth_of(const api__automaton *a, uint16_t top) {
    return top ? a->pool[top].depth : 0;
}

/* May a value of this node begin inside the frame `parent`? */
static bool fits(const api__automaton *a, uint32_t depth, uint16_t node) {
    return node != API__NO_NODE && depth + a->g->nodes[node].need <= API__MAX_STACK;
}

/* One space, or a newline and then an indentation: what people and printers write, and
 * little for a model to lose itself in. ws counts; ONE_SPACE says no more may come. */
static bool blank(const api__frame *f, uint8_t c, bool one_line) {
    if (f->ws == 0) return c == ' ' || (c == '\n' && !one_line);
    return f->ws < API__MAX_BLANKS && (c == ' ' || c == '\t');
}

static void emit_blank(api__automaton *a, api__threads *out, api__frame f, uint8_t c) {
    f.ws = f.ws == 0 && c == ' ' ? ONE_SPACE : (uint8_t)(f.ws + 1);
    emit(a, out, f);
}

/* ---- sorted texts: a range of those that begin as what was read ---- */

static const api__name *sorted_name(const api__node *node, uint16_t i) {
    return &node->names[node->sorted ? node->sorted[i] : i];
}

/* The first of [lo, hi), names that agree on k bytes, whose next byte is at least c. */
static uint16_t first_at_least(const api__node *node, uint16_t lo, uint16_t hi, uint16_t k,
                               unsigned c) {
    while (lo < hi) {
        uint16_t mid = (uint16_t)(lo + (hi - lo) / 2);
        const api__name *name = sorted_name(node, mid);
        if (name->len > k && (uint8_t)name->text[k] >= c) hi = mid;
        else lo = (uint16_t)(mid + 1);
    }
    return lo;
}

/* Narrows [a, b) of names that agree on k bytes to those whose next byte is c. */
static bool narrow(const api__node *node, api__frame *f, uint8_t c) {
    f->a = first_at_least(node, f->a, f->b, f->k, c);
    f->b = first_at_least(node, f->a, f->b, f->k, c + 1u);
    f->k++;
    return f->a < f->b;
}

/* The shortest of the range comes first; it is whole if nothing of it is left. */
static bool whole_name(const api__node *node, const api__frame *f, uint16_t *index) {
    if (f->a == f->b || sorted_name(node, f->a)->len != f->k) return false;
    *index = node->sorted ? node->sorted[f->a] : f->a;
    return true;
}

/* ---- strings ---- */

/* The state after a byte of UTF-8: 0 between characters, 1 to 3 plain continuation bytes
 * to come, 4 to 7 where the next is limited; -1 if it cannot be. */
static int utf8_next(int state, uint8_t c) {
    static const struct {
        uint8_t from, to, next;
    } rows[] = {{0, 0, 0},       {0x80, 0xbf, 0}, {0x80, 0xbf, 1}, {0x80, 0xbf, 2},
                {0xa0, 0xbf, 1}, {0x80, 0x9f, 1}, {0x90, 0xbf, 2}, {0x80, 0x8f, 2}};
    if (state) return c >= rows[state].from && c <= rows[state].to ? rows[state].next : -1;
    if (c < 0x80) return 0;
    if (c < 0xc2 || c > 0xf4) return -1;
    if (c < 0xe0) return 1;
    if (c < 0xf0) return c == 0xe0 ? 4 : c == 0xed ? 5 : 2;
    return c == 0xf0 ? 6 : c == 0xf4 ? 7 : 3;
}

static int hex(uint8_t c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One digit of \uXXXX. A prefix that could only become half a pair or U+0000 is refused
 * at once, so that no text is led into a corner. */
static bool hex_digit(api__frame *f, uint8_t c, bool low) {
    int d = hex(c);
    if (d < 0) return false;
    if (low && (f->b == 0 ? d != 0xd : f->b == 1 && d < 0xc)) return false;
    if (!low && f->b == 1 && f->a == 0xd && d >= 0xc) return false;
    if (!low && f->b == 3 && f->a == 0 && d == 0) return false;
    f->a = (uint16_t)(f->a << 4 | d);
    if (++f->b < 4) return true;
    f->sub = !low && f->a >= 0xd800 && f->a <= 0xdbff ? S_LOW_BACKSLASH : S_PLAIN;
    f->a = f->b = 0;
    return true;
}

/* Counts a character that begins; only as far as the schema cares, so that states repeat. */
static bool count_char(const api__node *node, api__frame *f) {
    if (f->n >= node->max) return false;
    if (node->max != UINT32_MAX || f->n < node->min) f->n++;
    return true;
}

/* False if c cannot come. *end is set by the closing quote. */
static bool string_step(const api__node *node, api__frame *f, uint8_t c, bool *end) {
    switch (f->sub) {
    case S_PLAIN:
        if (c == '"') return *end = f->n >= node->min;
        if (c < 0x20 || !count_char(node, f)) return false;
        if (c == '\\') return f->sub = S_ESCAPE, true;
        break;
    case S_ESCAPE:
        f->sub = c == 'u' ? S_HEX : S_PLAIN;
        return c == 'u' || (c && strchr("\"\\/bfnrt", c) != NULL);
    case S_HEX: return hex_digit(f, c, false);
    case S_LOW_BACKSLASH: return f->sub = S_LOW_U, c == '\\';
    case S_LOW_U: return f->sub = S_LOW_HEX, c == 'u';
    case S_LOW_HEX: return hex_digit(f, c, true);
    default: break;
    }
    int next = utf8_next(f->sub, c);
    f->sub = (uint8_t)next;
    return next >= 0;
}

bool api__automaton_in_string(const api__automaton *a, uint16_t top, uint32_t *room) {
    const api__frame *f = &a->pool[top];
    const api__node *node = &a->g->nodes[f->node];
    if (top && node->kind == API__OBJECT && f->sub == O_FREE_KEY && f->ws == 0) {
        *room = UINT32_MAX; /* whether it is one that is declared is asked at its end */
        return true;
    }
    if (top == 0 || node->kind != API__STRING || f->sub != S_PLAIN) return false;
    *room = node->max == UINT32_MAX ? UINT32_MAX : node->max - f->n;
    return true;
}

/* Whatever may follow y may follow x too. */
static bool covers(const api__automaton *a, const api__frame *x, const api__frame *y) {
    const api__node *nx = &a->g->nodes[x->node], *ny = &a->g->nodes[y->node];
    if (nx->kind != API__STRING || x->parent != y->parent || x->sub != y->sub || x->a != y->a ||
        x->b != y->b)
        return false;
    uint32_t needs_x = x->n < nx->min ? nx->min - x->n : 0;
    uint32_t needs_y = y->n < ny->min ? ny->min - y->n : 0;
    uint32_t room_x = nx->max == UINT32_MAX ? UINT32_MAX : nx->max - x->n;
    uint32_t room_y = ny->max == UINT32_MAX ? UINT32_MAX : ny->max - y->n;
    return needs_x <= needs_y && room_x >= room_y;
}

static bool is_string(const api__automaton *a, uint16_t top) { /* that has begun */
    const api__frame *f = &a->pool[top];
    return top && a->g->nodes[f->node].kind == API__STRING && f->sub != NOT_BEGUN;
}

/* Of strings in one place that differ in their lengths alone, those that another covers go. */
static void emit_string(api__automaton *a, api__threads *out, api__frame f) {
    a->fuel += out->n / 4;
    for (uint8_t i = 0; i < out->n; i++) {
        if (is_string(a, out->top[i]) && covers(a, &a->pool[out->top[i]], &f)) return;
    }
    uint8_t kept = 0;
    for (uint8_t i = 0; i < out->n; i++) {
        if (is_string(a, out->top[i]) && covers(a, &f, &a->pool[out->top[i]])) continue;
        out->top[kept++] = out->top[i];
    }
    out->n = kept;
    emit(a, out, f);
}

/* ---- numbers ---- */

/* A ranged integer keeps its magnitude in a, b, k (48 bits) and its sign in ws. */
static int64_t magnitude(const api__frame *f) {
    return (int64_t)((uint64_t)f->a | (uint64_t)f->b << 16 | (uint64_t)f->k << 32);
}

/* Is some number in range that begins with these digits, or that is them (exact)? */
static bool in_range(const api__node *node, const api__frame *f, bool exact) {
    int64_t low = magnitude(f), high = low;
    for (uint32_t digits = f->n; digits <= API__RANGED_DIGITS; digits++) {
        int64_t from = f->ws ? -high : low, to = f->ws ? -low : high;
        if (from <= node->high && to >= node->low) return true;
        if (exact || low == 0) return false;
        low *= 10;
        high = high * 10 + 9;
    }
    return false;
}

static bool int_digit(const api__node *node, api__frame *f, uint8_t c) {
    f->n++;
    if (!node->ranged) return f->n <= API__INT_DIGITS;
    uint64_t v = (uint64_t)magnitude(f) * 10 + (uint64_t)(c - '0');
    f->a = (uint16_t)v;
    f->b = (uint16_t)(v >> 16);
    f->k = (uint16_t)(v >> 32);
    return f->n <= API__RANGED_DIGITS && in_range(node, f, false) && !(v == 0 && f->ws);
}

static bool is_digit(uint8_t c) {
    return c >= '0' && c <= '9';
}

static bool number_step(const api__node *node, api__frame *f, uint8_t c) {
    switch (f->sub) {
    case N_MINUS:
        if (c == '0' && node->integer && f->ws) return false; /* no -0 */
        f->sub = c == '0' ? N_ZERO : N_INT;
        return is_digit(c) && int_digit(node, f, c);
    case N_INT:
        if (is_digit(c)) return int_digit(node, f, c);
        break;
    case N_DOT: f->sub = N_FRACTION; return ++f->n, is_digit(c);
    case N_FRACTION:
        if (is_digit(c)) return ++f->n <= API__FRACTION_DIGITS;
        break;
    case N_E:
        f->sub = is_digit(c) ? N_EXPONENT : N_SIGN;
        f->n = 1;
        return is_digit(c) || c == '+' || c == '-';
    case N_SIGN: f->sub = N_EXPONENT; return is_digit(c);
    case N_EXPONENT: return is_digit(c) && ++f->n <= API__EXPONENT_DIGITS;
    default: break;
    }
    if (node->integer) return false;
    if (c == '.' && (f->sub == N_ZERO || f->sub == N_INT)) f->sub = N_DOT;
    else if (c == 'e' || c == 'E') f->sub = N_E;
    else return false;
    f->n = 0;
    return true;
}

/* May the number end here? Its end is seen only by the byte after it. */
static bool number_done(const api__node *node, const api__frame *f) {
    switch (f->sub) {
    case N_ZERO:
    case N_INT: return !node->ranged || in_range(node, f, true);
    case N_FRACTION:
    case N_EXPONENT: return true;
    default: return false;
    }
}

static bool number_goes_on(uint8_t c) {
    return is_digit(c) || c == '.' || c == 'e' || c == 'E';
}

/* ---- the beginning of a value ---- */

static void enum_step(api__automaton *a, api__frame f, uint8_t c, api__threads *out) {
    const api__node *node = &a->g->nodes[f.node];
    uint16_t index;
    if (!narrow(node, &f, c)) return;
    if (whole_name(node, &f, &index)) {
        add(out, f.parent);
        f.a++; /* longer values that begin with this one */
    }
    if (f.a < f.b) emit(a, out, f);
}

static uint16_t any_by_first(uint8_t c) {
    switch (c) {
    case '{': return API__NODE_OBJECT;
    case '[': return API__NODE_ARRAY;
    case '"': return API__NODE_STRING;
    case 't':
    case 'f':
    case 'n': return API__NODE_WORD;
    default: return API__NODE_NUMBER;
    }
}

static void begin_one(api__automaton *a, uint16_t parent, uint32_t depth, uint16_t id, uint8_t c,
                      api__threads *out) {
    if (a->g->nodes[id].kind == API__ANY) id = any_by_first(c);
    const api__node *node = &a->g->nodes[id];
    api__frame f = {.parent = parent, .node = id};
    a->fuel++;
    if (!fits(a, depth, id)) return;
    switch (node->kind) {
    case API__OBJECT:
        if (c == '{') emit(a, out, f);
        break;
    case API__ARRAY:
        if (c == '[') emit(a, out, f);
        break;
    case API__STRING:
        if (c == '"') emit_string(a, out, f);
        break;
    case API__ENUM:
        f.b = node->n;
        enum_step(a, f, c, out);
        break;
    case API__NUMBER:
        if (c == '-') {
            f.ws = 1;
            if (!node->ranged || node->low < 0) emit(a, out, f);
        } else {
            f.sub = N_MINUS;
            if (is_digit(c) && number_step(node, &f, c)) emit(a, out, f);
        }
        break;
    default: break;
    }
}

static void begin(api__automaton *a, uint16_t parent, uint16_t id, uint8_t c, api__threads *out) {
    const api__node *node = &a->g->nodes[id];
    uint32_t depth = depth_of(a, parent);
    if (node->kind != API__ALT) {
        begin_one(a, parent, depth, id, c, out);
        return;
    }
    for (uint16_t i = 0; i < node->n && !full(out); i++)
        begin_one(a, parent, depth, node->items[i], c, out);
}

/* ---- objects ---- */

/* The last property whose turn it may be: none after one that is required. */
static uint16_t last_turn(const api__node *node, const api__frame *f) {
    return node->required_from[f->n];
}

static bool may_be_key(const api__automaton *a, const api__frame *f, uint16_t i) {
    const api__node *node = &a->g->nodes[f->node];
    return i >= f->n && i <= last_turn(node, f) && fits(a, f->depth, node->names[i].node);
}

static bool any_key(const api__automaton *a, const api__frame *f) {
    return f->depth + a->g->nodes[f->node].least_need[f->n] <= API__MAX_STACK;
}

/* The same of the keys that begin as what was read: [a, b) of the sorted, or [n, last] of the
 * declared, whichever are fewer. */
static bool any_key_left(api__automaton *a, const api__frame *f) {
    const api__node *node = &a->g->nodes[f->node];
    uint16_t last = last_turn(node, f), from = (uint16_t)f->n;
    bool found = false;
    if (last == node->n) last--;
    if (f->b - f->a <= last - from) {
        uint16_t i = f->a;
        for (; i < f->b && !found; i++)
            found = may_be_key(a, f, node->sorted[i]);
        a->fuel += (uint64_t)(i - f->a) / 4;
        return found;
    }
    uint16_t i = from;
    for (; i <= last && !found; i++)
        found = node->rank[i] >= f->a && node->rank[i] < f->b && may_be_key(a, f, i);
    a->fuel += (uint64_t)(i - from) / 4;
    return found;
}

static bool may_end(const api__node *node, const api__frame *f) { /* nothing required is missing */
    return last_turn(node, f) == node->n;
}

static bool free_key(const api__automaton *a, const api__frame *f) {
    const api__node *node = &a->g->nodes[f->node];
    return may_end(node, f) && fits(a, f->depth, node->rest);
}

static void begin_key(api__automaton *a, api__frame f, api__threads *out) {
    const api__node *node = &a->g->nodes[f.node];
    f.ws = 0;
    f.k = 0;
    f.a = 0;
    f.b = node->n;
    f.sub = O_KEY;
    if (any_key(a, &f)) emit(a, out, f);
    if (!free_key(a, &f)) return;
    f.n = node->n; /* what is declared has had its turn */
    if (node->n) {
        f.sub = O_FREE_KEY;
        emit(a, out, f);
    } else if (f.depth < API__MAX_STACK) { /* any string will do */
        f.sub = O_COLON;
        f.b = node->rest;
        uint16_t parent = api__automaton_push(a, f);
        if (parent) emit(a, out, (api__frame){.parent = parent, .node = API__NODE_STRING});
    }
}

static void key_step(api__automaton *a, api__frame f, uint8_t c, api__threads *out) {
    const api__node *node = &a->g->nodes[f.node];
    uint16_t index;
    if (c == '"' && whole_name(node, &f, &index)) {
        if (!may_be_key(a, &f, index)) return;
        emit(a, out,
             (api__frame){.parent = f.parent,
                          .node = f.node,
                          .sub = O_COLON,
                          .b = node->names[index].node,
                          .n = index + 1u});
        return;
    }
    if (narrow(node, &f, c) && any_key_left(a, &f)) emit(a, out, f);
}

/* A key that is not declared; it may begin like one that is. */
static void free_key_step(api__automaton *a, api__frame f, uint8_t c, api__threads *out) {
    const api__node *node = &a->g->nodes[f.node];
    uint16_t index;
    if (c == '"' && f.ws == 0) {
        if (whole_name(node, &f, &index)) return;
        emit(a, out,
             (api__frame){
                 .parent = f.parent, .node = f.node, .sub = O_COLON, .b = node->rest, .n = f.n});
        return;
    }
    int next = utf8_next(f.ws, c);
    if (next < 0 || c < 0x20 || c == '\\' || c == '"') return;
    f.ws = (uint8_t)next;
    if (f.a == f.b || !narrow(node, &f, c)) f.a = f.b = f.k = 0;
    emit(a, out, f);
}

static void object_step(api__automaton *a, uint16_t top, uint8_t c, api__threads *out) {
    api__frame f = a->pool[top];
    const api__node *node = &a->g->nodes[f.node];
    switch (f.sub) {
    case O_KEY: key_step(a, f, c, out); return;
    case O_FREE_KEY: free_key_step(a, f, c, out); return;
    case O_COLON:
        f.sub = O_VALUE;
        if (c == ':') emit(a, out, f);
        return;
    default: break;
    }
    bool may_close = (f.sub == O_FIRST || f.sub == O_NEXT) && may_end(node, &f);
    if (blank(&f, c, f.sub == O_VALUE) &&
        (f.sub != O_NEXT || may_close)) { /* after a value only } may follow blanks */
        emit_blank(a, out, f, c);
        return;
    }
    if (c == '}' && may_close) {
        add(out, f.parent);
    } else if (c == '"' && (f.sub == O_FIRST || f.sub == O_COMMA)) {
        begin_key(a, f, out);
    } else if (c == ',' && f.sub == O_NEXT && f.ws == 0) {
        f.sub = O_COMMA;
        if (any_key(a, &f) || free_key(a, &f)) emit(a, out, f);
    } else if (f.sub == O_VALUE) {
        uint16_t child = f.b;
        f.sub = O_NEXT;
        f.ws = 0;
        f.b = 0;
        uint16_t parent = api__automaton_push(a, f);
        if (parent) begin(a, parent, child, c, out);
    }
}

/* ---- arrays ---- */

static uint16_t item_node(const api__node *node, uint32_t i) {
    if (i >= node->max) return API__NO_NODE;
    return i < node->n ? node->items[i] : node->rest;
}

static void array_step(api__automaton *a, uint16_t top, uint8_t c, api__threads *out) {
    api__frame f = a->pool[top];
    const api__node *node = &a->g->nodes[f.node];
    uint16_t item = item_node(node, f.n);
    if (blank(&f, c, false) && (f.sub != A_NEXT || f.n >= node->min)) {
        emit_blank(a, out, f, c);
    } else if (c == ']' && f.sub != A_COMMA) {
        if (f.n >= node->min) add(out, f.parent);
    } else if (f.sub == A_NEXT) {
        f.sub = A_COMMA;
        if (c == ',' && f.ws == 0 && fits(a, f.depth, item)) emit(a, out, f);
    } else if (fits(a, f.depth, item)) {
        f.sub = A_NEXT;
        f.ws = 0;
        /* Past every limit the count says nothing more; states may repeat. */
        if (node->max != UINT32_MAX || f.n < node->min || f.n < node->n) f.n++;
        uint16_t parent = api__automaton_push(a, f);
        if (parent) begin(a, parent, item, c, out);
    }
}

/* ---- threads ---- */

void api__automaton_start(api__automaton *a, api__threads *t) {
    api__automaton_rewind(a, 1);
    t->n = 0;
    emit(a, t, (api__frame){.node = a->g->root, .sub = NOT_BEGUN});
}

static void step_one(api__automaton *a, uint16_t top, uint8_t c, api__threads *out) {
    while (top) {
        a->fuel++;
        api__frame f = a->pool[top];
        const api__node *node = &a->g->nodes[f.node];
        bool end = false;
        if (f.sub == NOT_BEGUN) {
            begin(a, 0, f.node, c, out);
            return;
        }
        switch (node->kind) {
        case API__OBJECT: object_step(a, top, c, out); return;
        case API__ARRAY: array_step(a, top, c, out); return;
        case API__ENUM: enum_step(a, f, c, out); return;
        case API__STRING:
            if (!string_step(node, &f, c, &end)) return;
            if (end) add(out, f.parent);
            else emit_string(a, out, f);
            return;
        default: break;
        }
        if (number_goes_on(c) || !number_done(node, &f)) {
            if (number_step(node, &f, c)) emit(a, out, f);
            return;
        }
        top = f.parent; /* the number ended before c */
    }
}

void api__automaton_step(api__automaton *a, const api__threads *from, uint8_t byte,
                         api__threads *to) {
    to->n = 0;
    for (uint8_t i = 0; i < from->n && !full(to); i++)
        step_one(a, from->top[i], byte, to);
}

bool api__automaton_done(const api__automaton *a, const api__threads *t) {
    for (uint8_t i = 0; i < t->n; i++) {
        const api__frame *f = &a->pool[t->top[i]];
        if (t->top[i] == 0) return true;
        const api__node *node = &a->g->nodes[f->node];
        if (f->parent == 0 && f->sub != NOT_BEGUN && node->kind == API__NUMBER &&
            number_done(node, f))
            return true;
    }
    return false;
}

/* next_bytes.c - looks one byte ahead, where the grammar leaves little choice. */
#include "api/grammar/automaton_internal.h"
#include "api/grammar/forced_internal.h"

#include <string.h>

/* ---- gaps ---- */

api__gap api__next_gap(const api__automaton *machine, uint16_t top, uint32_t *blanks,
                       uint32_t *level) {
    static const api__gap in_object[] = {[API__O_FIRST] = API__AFTER_OPEN,
                                         [API__O_VALUE] = API__AFTER_COLON,
                                         [API__O_COMMA] = API__AFTER_COMMA,
                                         [API__O_NEXT] = API__BEFORE_CLOSE};
    static const api__gap in_array[] = {[API__A_FIRST] = API__AFTER_OPEN,
                                        [API__A_COMMA] = API__AFTER_COMMA,
                                        [API__A_NEXT] = API__BEFORE_CLOSE};
    const api__frame *frame = &machine->pool[top];
    uint8_t kind = machine->grammar->nodes[frame->node].kind;
    if (top == 0 || frame->sub == API__NOT_BEGUN) return API__NO_GAP;
    *blanks = frame->blanks;
    *level = frame->depth;
    if (kind == API__OBJECT && frame->sub < sizeof in_object / sizeof *in_object)
        return in_object[frame->sub];
    if (kind == API__ARRAY) return in_array[frame->sub];
    return API__NO_GAP;
}

/* The quote of a value is a part of its text, that of a key is not. */
bool api__within_name(const api__automaton *machine, uint16_t top) {
    const api__frame *frame = &machine->pool[top];
    uint8_t kind = machine->grammar->nodes[frame->node].kind;
    if (top == 0 || frame->sub == API__NOT_BEGUN) return false;
    if (kind == API__ENUM) return frame->matched > 1;
    return kind == API__OBJECT && frame->sub == API__O_KEY && frame->matched > 0;
}

/* ---- bytes ---- */

static void put(api__byte_set *out, uint8_t byte) {
    out->bits[byte / 64] |= (uint64_t)1 << byte % 64;
}

static void put_all(api__byte_set *out, const char *bytes) {
    for (; *bytes; bytes++)
        put(out, (uint8_t)*bytes);
}

/* The next bytes of names first..end; a name that has ended is a key, and its quote follows. */
static void put_names(const api__node *node, const api__frame *frame, api__byte_set *out) {
    uint16_t at = frame->first, k = frame->matched;
    while (at < frame->end) {
        const api__name *name = api__sorted_name(node, at);
        if (name->len == k) {
            put(out, '"');
            at++;
            continue;
        }
        uint8_t byte = (uint8_t)name->text[k];
        put(out, byte);
        at = api__first_at_least(node, at, frame->end, k, byte + 1u);
    }
}

static void put_begin(const api__grammar *grammar, uint16_t id, api__byte_set *out) {
    if (id == API__NO_NODE) return;
    const api__node *node = &grammar->nodes[id];
    const api__frame all = {.end = node->n_parts};
    switch (node->kind) {
    case API__OBJECT: put(out, '{'); return;
    case API__ARRAY: put(out, '['); return;
    case API__STRING: put(out, '"'); return;
    case API__NONE: return;
    case API__ENUM:
    case API__TAGS: put_names(node, &all, out); return;
    case API__ALT:
        for (uint16_t i = 0; i < node->n_parts; i++)
            put_begin(grammar, node->items[i], out);
        return;
    default: out->many = true; return;
    }
}

static void put_object(const api__automaton *machine, const api__frame *frame, api__byte_set *out) {
    switch (frame->sub) {
    case API__O_KEY: put_names(&machine->grammar->nodes[frame->node], frame, out); return;
    case API__O_FREE_KEY: out->many = true; return;
    case API__O_COLON: put(out, ':'); return;
    case API__O_VALUE: put_begin(machine->grammar, frame->value_node, out); return;
    case API__O_NEXT: put_all(out, ",}"); return;
    default: put_all(out, "\"}"); return;
    }
}

static void put_array(const api__automaton *machine, const api__frame *frame, api__byte_set *out) {
    const api__node *node = &machine->grammar->nodes[frame->node];
    put_all(out, "],");
    if (frame->sub == API__A_NEXT || frame->items >= node->max) return;
    put_begin(machine->grammar,
              frame->items < node->n_parts ? node->items[frame->items] : node->rest, out);
}

void api__next_bytes(const api__automaton *machine, const api__readings *now, api__byte_set *out) {
    *out = (api__byte_set){0};
    for (uint8_t i = 0; i < now->n_tops && !out->many; i++) {
        const api__frame *frame = &machine->pool[now->top[i]];
        const api__node *node = &machine->grammar->nodes[frame->node];
        if (now->top[i] == 0) continue; /* the end */
        if (frame->sub == API__NOT_BEGUN) {
            put_begin(machine->grammar, frame->node, out);
            continue;
        }
        switch (node->kind) {
        case API__OBJECT: put_object(machine, frame, out); break;
        case API__ARRAY: put_array(machine, frame, out); break;
        case API__ENUM: put_names(node, frame, out); break;
        case API__TAGS:
            if (frame->sub == API__T_CLOSE) put(out, (uint8_t)API__TEXT_END[frame->matched]);
            else put_names(node, frame, out);
            break;
        case API__STRING:
            out->many = frame->sub != API__S_PLAIN || frame->chars != node->max;
            put(out, '"');
            break;
        default: out->many = true; break;
        }
    }
}

/* constrain.c - the automaton: the bytes allowed after a text, given a grammar.
 *
 * A reading is one interpretation of the text: a stack of the values still open. Most schemas have
 * one reading at any time. Alternatives with a common beginning are read side by side. */
#include "api/grammar/automaton_internal.h"
#include "api/grammar/regex_internal.h"

#include <string.h>

/* ---- frames ---- */

static void add(api__readings *readings, uint16_t top) {
    for (uint8_t i = 0; i < readings->n_tops; i++) {
        if (readings->top[i] == top) return;
    }
    if (readings->n_tops < API__MAX_READINGS) readings->top[readings->n_tops++] = top;
}

static bool full(const api__readings *readings) { /* further readings are dropped */
    return readings->n_tops == API__MAX_READINGS;
}

static void emit(api__automaton *machine, api__readings *out, api__frame frame) {
    uint16_t top = api__automaton_push(machine, frame);
    if (top) add(out, top);
}

static uint32_t depth_of(const api__automaton *machine, uint16_t top) {
    return top ? machine->pool[top].depth : 0;
}

/* May a value of this node begin on a stack of this depth? */
static bool fits(const api__automaton *machine, uint32_t depth, uint16_t node) {
    return node != API__NO_NODE && depth + machine->grammar->nodes[node].need <= API__MAX_STACK;
}

/* Allows one space, or a newline and an indentation, as people and printers write. The limit keeps
 * a model from writing blanks forever. API__ONE_SPACE: no more blanks may follow. */
static bool blank(const api__frame *frame, uint8_t byte, bool one_line) {
    if (frame->blanks == 0) return byte == ' ' || (byte == '\n' && !one_line);
    return frame->blanks < API__MAX_BLANKS && (byte == ' ' || byte == '\t');
}

static void emit_blank(api__automaton *machine, api__readings *out, api__frame frame,
                       uint8_t byte) {
    frame.blanks = frame.blanks == 0 && byte == ' ' ? API__ONE_SPACE : (uint8_t)(frame.blanks + 1);
    emit(machine, out, frame);
}

/* ---- sorted texts: a range of names with the same beginning ---- */

const api__name *api__sorted_name(const api__node *node, uint16_t i) {
    return &node->names[node->sorted ? node->sorted[i] : i];
}

uint16_t api__first_at_least(const api__node *node, uint16_t lo, uint16_t hi, uint16_t k,
                             unsigned byte) {
    while (lo < hi) {
        uint16_t mid = (uint16_t)(lo + (hi - lo) / 2);
        const api__name *name = api__sorted_name(node, mid);
        if (name->len > k && (uint8_t)name->text[k] >= byte) hi = mid;
        else lo = (uint16_t)(mid + 1);
    }
    return lo;
}

/* Narrows first..end to the names with `byte` as the next byte. */
static bool narrow(const api__node *node, api__frame *frame, uint8_t byte) {
    frame->first = api__first_at_least(node, frame->first, frame->end, frame->matched, byte);
    frame->end = api__first_at_least(node, frame->first, frame->end, frame->matched, byte + 1u);
    frame->matched++;
    return frame->first < frame->end;
}

/* True if the bytes read are a whole name. The shortest name of the range comes first. */
static bool whole_name(const api__node *node, const api__frame *frame, uint16_t *index) {
    if (frame->first == frame->end || api__sorted_name(node, frame->first)->len != frame->matched)
        return false;
    *index = node->sorted ? node->sorted[frame->first] : frame->first;
    return true;
}

/* ---- strings ---- */

/* False while a pattern decides about the next character. */
static bool is_steady(const api__node *node, const api__frame *frame) {
    return node->dfa == NULL || node->dfa->steady[frame->dfa_state];
}

bool api__automaton_in_string(const api__automaton *machine, uint16_t top, uint32_t *room) {
    const api__frame *frame = &machine->pool[top];
    const api__node *node = &machine->grammar->nodes[frame->node];
    if (top && node->kind == API__OBJECT && frame->sub == API__O_FREE_KEY && frame->key_utf8 == 0) {
        *room = UINT32_MAX; /* the end of the key checks whether it is declared */
        return true;
    }
    bool string = node->kind == API__STRING || node->kind == API__TEXT;
    if (top == 0 || !string || frame->sub != API__S_PLAIN || !is_steady(node, frame)) return false;
    *room = node->max == UINT32_MAX ? UINT32_MAX : node->max - frame->chars;
    return true;
}

/* True if x may be followed by every text that may follow y. */
static bool covers(const api__automaton *machine, const api__frame *x, const api__frame *y) {
    const api__node *nx = &machine->grammar->nodes[x->node],
                    *ny = &machine->grammar->nodes[y->node];
    if (nx->kind != API__STRING || x->parent != y->parent || x->sub != y->sub ||
        x->code_unit != y->code_unit || x->hex_digits != y->hex_digits)
        return false;
    if (nx->dfa && (nx->dfa != ny->dfa || x->dfa_state != y->dfa_state)) return false;
    uint32_t needs_x = x->chars < nx->min ? nx->min - x->chars : 0;
    uint32_t needs_y = y->chars < ny->min ? ny->min - y->chars : 0;
    uint32_t room_x = nx->max == UINT32_MAX ? UINT32_MAX : nx->max - x->chars;
    uint32_t room_y = ny->max == UINT32_MAX ? UINT32_MAX : ny->max - y->chars;
    return needs_x <= needs_y && room_x >= room_y;
}

static bool is_string(const api__automaton *machine, uint16_t top) { /* has begun */
    const api__frame *frame = &machine->pool[top];
    return top && machine->grammar->nodes[frame->node].kind == API__STRING &&
           frame->sub != API__NOT_BEGUN;
}

/* Adds a string. Among strings that differ only in length, one may cover others; the covered ones
 * are dropped. */
static void emit_string(api__automaton *machine, api__readings *out, api__frame frame) {
    machine->fuel += out->n_tops / 4;
    for (uint8_t i = 0; i < out->n_tops; i++) {
        if (is_string(machine, out->top[i]) && covers(machine, &machine->pool[out->top[i]], &frame))
            return;
    }
    uint8_t kept = 0;
    for (uint8_t i = 0; i < out->n_tops; i++) {
        if (is_string(machine, out->top[i]) && covers(machine, &frame, &machine->pool[out->top[i]]))
            continue;
        out->top[kept++] = out->top[i];
    }
    out->n_tops = kept;
    emit(machine, out, frame);
}

/* ---- the beginning of a value ---- */

static void enum_step(api__automaton *machine, api__frame frame, uint8_t byte, api__readings *out) {
    const api__node *node = &machine->grammar->nodes[frame.node];
    uint16_t index;
    if (!narrow(node, &frame, byte)) return;
    if (whole_name(node, &frame, &index)) {
        add(out, frame.parent);
        frame.first++; /* longer values may begin with this one */
    }
    if (frame.first < frame.end) emit(machine, out, frame);
}

static uint16_t any_by_first(uint8_t byte) {
    switch (byte) {
    case '{': return API__NODE_OBJECT;
    case '[': return API__NODE_ARRAY;
    case '"': return API__NODE_STRING;
    case 't':
    case 'f':
    case 'n': return API__NODE_WORD;
    default: return API__NODE_NUMBER;
    }
}

static void tags_step(api__automaton *machine, api__frame frame, uint8_t byte, api__readings *out);

static void begin_one(api__automaton *machine, uint16_t parent, uint32_t depth, uint16_t id,
                      uint8_t byte, api__readings *out) {
    if (machine->grammar->nodes[id].kind == API__ANY) id = any_by_first(byte);
    const api__node *node = &machine->grammar->nodes[id];
    api__frame frame = {.parent = parent, .node = id};
    machine->fuel++;
    if (!fits(machine, depth, id)) return;
    switch (node->kind) {
    case API__OBJECT:
        if (byte == '{') emit(machine, out, frame);
        break;
    case API__ARRAY:
        if (byte == '[') emit(machine, out, frame);
        break;
    case API__STRING:
        if (byte == '"') emit_string(machine, out, frame);
        break;
    case API__ENUM:
        frame.end = node->n_parts;
        enum_step(machine, frame, byte, out);
        break;
    case API__TAGS:
        frame.end = node->n_parts;
        tags_step(machine, frame, byte, out);
        break;
    case API__NUMBER:
        if (byte == '-') {
            frame.negative = 1;
            if (!node->ranged || api__number_begins(node, true)) emit(machine, out, frame);
        } else {
            frame.sub = API__N_MINUS;
            if (api__is_digit(byte) && api__number_step(node, &frame, byte))
                emit(machine, out, frame);
        }
        break;
    default: break;
    }
}

static void begin(api__automaton *machine, uint16_t parent, uint16_t id, uint8_t byte,
                  api__readings *out) {
    const api__node *node = &machine->grammar->nodes[id];
    uint32_t depth = depth_of(machine, parent);
    if (node->kind != API__ALT) {
        begin_one(machine, parent, depth, id, byte, out);
        return;
    }
    for (uint16_t i = 0; i < node->n_parts && !full(out); i++)
        begin_one(machine, parent, depth, node->items[i], byte, out);
}

/* ---- objects ---- */

/* The last property that may come next: the first required one. */
static uint16_t last_turn(const api__node *node, const api__frame *frame) {
    return node->required_from[frame->property];
}

static bool rest_fits(const api__automaton *machine, uint32_t depth, const api__node *node) {
    for (uint16_t i = 0; i < node->n_keyed; i++) {
        if (fits(machine, depth, node->keyed[i].node) && fits(machine, depth, node->keyed[i].key))
            return true;
    }
    return fits(machine, depth, node->rest);
}

/* With property i next, can the object have enough properties in the end, and not too many? */
static bool count_fits(const api__automaton *machine, const api__node *node,
                       const api__frame *frame, uint16_t i) {
    if (node->required_left == NULL) return true;
    uint32_t begun = frame->count + 1u;
    uint32_t most = begun + node->possible_left[i + 1] + rest_fits(machine, frame->depth, node);
    return begun + node->required_left[i + 1] <= node->max && most >= node->min;
}

static bool may_be_key(const api__automaton *machine, const api__frame *frame, uint16_t i) {
    const api__node *node = &machine->grammar->nodes[frame->node];
    return i >= frame->property && i <= last_turn(node, frame) &&
           fits(machine, frame->depth, node->names[i].node) && count_fits(machine, node, frame, i);
}

static bool any_key(api__automaton *machine, const api__frame *frame) {
    const api__node *node = &machine->grammar->nodes[frame->node];
    if (node->required_left == NULL)
        return frame->depth + node->least_need[frame->property] <= API__MAX_STACK;
    uint16_t last = last_turn(node, frame);
    for (uint16_t i = frame->property; i <= last && i < node->n_parts; i++) {
        machine->fuel++;
        if (may_be_key(machine, frame, i)) return true;
    }
    return false;
}

/* The same for keys beginning with the bytes read. Searches the shorter of two lists: first..end in
 * byte order, or the declared order from `property` on. */
static bool any_key_left(api__automaton *machine, const api__frame *frame) {
    const api__node *node = &machine->grammar->nodes[frame->node];
    uint16_t last = last_turn(node, frame), from = frame->property;
    bool found = false;
    if (last == node->n_parts) last--;
    if (frame->end - frame->first <= last - from) {
        uint16_t i = frame->first;
        for (; i < frame->end && !found; i++)
            found = may_be_key(machine, frame, node->sorted[i]);
        machine->fuel += (uint64_t)(i - frame->first) / 4;
        return found;
    }
    uint16_t i = from;
    for (; i <= last && !found; i++)
        found = node->rank[i] >= frame->first && node->rank[i] < frame->end &&
                may_be_key(machine, frame, i);
    machine->fuel += (uint64_t)(i - from) / 4;
    return found;
}

static bool has_required(const api__node *node, const api__frame *frame) {
    return last_turn(node, frame) == node->n_parts;
}

static bool may_end(const api__node *node, const api__frame *frame) {
    return has_required(node, frame) && (node->required_left == NULL || frame->count >= node->min);
}

/* Undeclared keys come last. No object needs more than one of them. */
static bool free_key(const api__automaton *machine, const api__frame *frame) {
    const api__node *node = &machine->grammar->nodes[frame->node];
    return has_required(node, frame) && rest_fits(machine, frame->depth, node) &&
           (node->required_left == NULL || frame->count < node->max);
}

/* A key of a node of its own. The frame below it waits for the colon. */
static void begin_key_node(api__automaton *machine, api__frame frame, uint16_t key, uint16_t value,
                           api__readings *out) {
    frame.sub = API__O_COLON;
    frame.end = 0;
    frame.value_node = value;
    if (!fits(machine, frame.depth, key) || !fits(machine, frame.depth, value)) return;
    uint16_t parent = api__automaton_push(machine, frame);
    if (parent) begin(machine, parent, key, '"', out);
}

static void begin_key(api__automaton *machine, api__frame frame, api__readings *out) {
    const api__node *node = &machine->grammar->nodes[frame.node];
    frame.blanks = 0;
    frame.matched = 0;
    frame.first = 0;
    frame.end = node->n_parts;
    frame.sub = API__O_KEY;
    if (any_key(machine, &frame)) emit(machine, out, frame);
    if (!free_key(machine, &frame)) return;
    frame.property = node->n_parts; /* no declared property may follow */
    if (node->required_left) frame.count++;
    for (uint16_t i = 0; i < node->n_keyed; i++)
        begin_key_node(machine, frame, node->keyed[i].key, node->keyed[i].node, out);
    if (!fits(machine, frame.depth, node->rest)) return;
    if (node->n_parts) {
        frame.sub = API__O_FREE_KEY;
        emit(machine, out, frame);
    } else {
        begin_key_node(machine, frame, API__NODE_STRING, node->rest, out);
    }
}

static void key_step(api__automaton *machine, api__frame frame, uint8_t byte, api__readings *out) {
    const api__node *node = &machine->grammar->nodes[frame.node];
    uint16_t index;
    if (byte == '"' && whole_name(node, &frame, &index)) {
        if (!may_be_key(machine, &frame, index)) return;
        emit(machine, out,
             (api__frame){.parent = frame.parent,
                          .node = frame.node,
                          .sub = API__O_COLON,
                          .value_node = node->names[index].node,
                          .property = (uint16_t)(index + 1),
                          .count = (uint16_t)(frame.count + (node->required_left != NULL))});
        return;
    }
    if (narrow(node, &frame, byte) && any_key_left(machine, &frame)) emit(machine, out, frame);
}

/* Reads an undeclared key. It may begin like a declared one. */
static void free_key_step(api__automaton *machine, api__frame frame, uint8_t byte,
                          api__readings *out) {
    const api__node *node = &machine->grammar->nodes[frame.node];
    uint16_t index;
    if (byte == '"' && frame.key_utf8 == 0) {
        if (whole_name(node, &frame, &index)) return;
        emit(machine, out,
             (api__frame){.parent = frame.parent,
                          .node = frame.node,
                          .sub = API__O_COLON,
                          .value_node = node->rest,
                          .property = frame.property,
                          .count = frame.count});
        return;
    }
    int next = api__utf8_next(frame.key_utf8, byte);
    if (next < 0 || byte < 0x20 || byte == '\\' || byte == '"') return;
    frame.key_utf8 = (uint8_t)next;
    if (frame.first == frame.end || !narrow(node, &frame, byte))
        frame.first = frame.end = frame.matched = 0;
    emit(machine, out, frame);
}

static void object_step(api__automaton *machine, uint16_t top, uint8_t byte, api__readings *out) {
    api__frame frame = machine->pool[top];
    const api__node *node = &machine->grammar->nodes[frame.node];
    switch (frame.sub) {
    case API__O_KEY: key_step(machine, frame, byte, out); return;
    case API__O_FREE_KEY: free_key_step(machine, frame, byte, out); return;
    case API__O_COLON:
        frame.sub = API__O_VALUE;
        if (byte == ':') emit(machine, out, frame);
        return;
    default: break;
    }
    bool may_close =
        (frame.sub == API__O_FIRST || frame.sub == API__O_NEXT) && may_end(node, &frame);
    if (blank(&frame, byte, frame.sub == API__O_VALUE) &&
        (frame.sub != API__O_NEXT || may_close)) { /* after a value, blanks may only precede } */
        emit_blank(machine, out, frame, byte);
        return;
    }
    if (byte == '}' && may_close) {
        add(out, frame.parent);
    } else if (byte == '"' && (frame.sub == API__O_FIRST || frame.sub == API__O_COMMA)) {
        begin_key(machine, frame, out);
    } else if (byte == ',' && frame.sub == API__O_NEXT && frame.blanks == 0) {
        frame.sub = API__O_COMMA;
        if (any_key(machine, &frame) || free_key(machine, &frame)) emit(machine, out, frame);
    } else if (frame.sub == API__O_VALUE) {
        uint16_t child = frame.value_node;
        frame.sub = API__O_NEXT;
        frame.blanks = 0;
        frame.value_node = 0;
        uint16_t parent = api__automaton_push(machine, frame);
        if (parent) begin(machine, parent, child, byte, out);
    }
}

/* ---- tags ---- */

/* Begins the value of a tag with its next byte. A text has no opening byte. */
static void begin_value(api__automaton *machine, uint16_t parent, uint16_t id, api__readings *out) {
    const api__node *node = &machine->grammar->nodes[id];
    uint16_t n = node->kind == API__ALT ? node->n_parts : 1;
    for (uint16_t i = 0; i < n; i++) {
        uint16_t one = node->kind == API__ALT ? node->items[i] : id;
        bool text = machine->grammar->nodes[one].kind == API__TEXT;
        machine->fuel++;
        if (fits(machine, depth_of(machine, parent), one))
            emit(machine, out,
                 (api__frame){
                     .parent = parent, .node = one, .sub = text ? API__S_PLAIN : API__NOT_BEGUN});
    }
}

static void close_step(api__automaton *machine, api__frame frame, uint8_t byte,
                       api__readings *out) {
    if (byte != (uint8_t)API__TEXT_END[frame.matched]) return;
    if (API__TEXT_END[++frame.matched] == 0) {
        frame.sub = API__T_TAG;
        frame.matched = 0;
        frame.end = machine->grammar->nodes[frame.node].n_parts;
    }
    emit(machine, out, frame);
}

/* No tag is the beginning of another. The last value ends the whole, and has no end of its own. */
static void tags_step(api__automaton *machine, api__frame frame, uint8_t byte, api__readings *out) {
    const api__node *node = &machine->grammar->nodes[frame.node];
    uint16_t index, parent = frame.parent;
    if (frame.sub == API__T_CLOSE) {
        close_step(machine, frame, byte, out);
        return;
    }
    if (!narrow(node, &frame, byte)) return;
    if (!whole_name(node, &frame, &index)) {
        if (any_key_left(machine, &frame)) emit(machine, out, frame);
        return;
    }
    if (!may_be_key(machine, &frame, index)) return;
    if (!node->once && index + 1 < node->n_parts) {
        frame.sub = API__T_CLOSE;
        frame.first = frame.end = frame.matched = 0;
        frame.property = (uint16_t)(index + 1);
        parent = api__automaton_push(machine, frame);
        if (parent == 0) return;
    }
    begin_value(machine, parent, node->names[index].node, out);
}

/* ---- arrays ---- */

static uint16_t item_node(const api__node *node, uint32_t i) {
    if (i >= node->max) return API__NO_NODE;
    return i < node->n_parts ? node->items[i] : node->rest;
}

static void array_step(api__automaton *machine, uint16_t top, uint8_t byte, api__readings *out) {
    api__frame frame = machine->pool[top];
    const api__node *node = &machine->grammar->nodes[frame.node];
    uint16_t item = item_node(node, frame.items);
    if (blank(&frame, byte, false) && (frame.sub != API__A_NEXT || frame.items >= node->min)) {
        emit_blank(machine, out, frame, byte);
    } else if (byte == ']' && frame.sub != API__A_COMMA) {
        if (frame.items >= node->min) add(out, frame.parent);
    } else if (frame.sub == API__A_NEXT) {
        frame.sub = API__A_COMMA;
        if (byte == ',' && frame.blanks == 0 && fits(machine, frame.depth, item))
            emit(machine, out, frame);
    } else if (fits(machine, frame.depth, item)) {
        frame.sub = API__A_NEXT;
        frame.blanks = 0;
        /* The count stops beyond the schema's limits, so that states repeat. */
        if (node->max != UINT32_MAX || frame.items < node->min || frame.items < node->n_parts)
            frame.items++;
        uint16_t parent = api__automaton_push(machine, frame);
        if (parent) begin(machine, parent, item, byte, out);
    }
}

/* ---- threads ---- */

static bool number_goes_on(uint8_t byte) {
    return api__is_digit(byte) || byte == '.' || byte == 'e' || byte == 'E';
}

void api__automaton_start(api__automaton *machine, api__readings *readings) {
    api__automaton_rewind(machine, 1);
    readings->n_tops = 0;
    emit(machine, readings, (api__frame){.node = machine->grammar->root, .sub = API__NOT_BEGUN});
}

static void step_one(api__automaton *machine, uint16_t top, uint8_t byte, api__readings *out) {
    while (top) {
        machine->fuel++;
        api__frame frame = machine->pool[top];
        const api__node *node = &machine->grammar->nodes[frame.node];
        bool end = false;
        if (frame.sub == API__NOT_BEGUN) {
            begin(machine, frame.parent, frame.node, byte, out);
            return;
        }
        switch (node->kind) {
        case API__OBJECT: object_step(machine, top, byte, out); return;
        case API__ARRAY: array_step(machine, top, byte, out); return;
        case API__ENUM: enum_step(machine, frame, byte, out); return;
        case API__TAGS: tags_step(machine, frame, byte, out); return;
        case API__TEXT:
            end = api__text_done(node, &frame);
            if (api__text_step(node, &frame, byte)) emit(machine, out, frame);
            if (!end) return;
            top = frame.parent; /* the byte may begin the end of the text, too */
            continue;
        case API__STRING:
            if (!api__string_step(node, &frame, byte, &end)) return;
            if (end) add(out, frame.parent);
            else emit_string(machine, out, frame);
            return;
        default: break;
        }
        if (number_goes_on(byte) || !api__number_done(node, &frame)) {
            if (api__number_step(node, &frame, byte)) emit(machine, out, frame);
            return;
        }
        top = frame.parent; /* the number ended before this byte */
    }
}

void api__automaton_step(api__automaton *machine, const api__readings *from, uint8_t byte,
                         api__readings *to) {
    to->n_tops = 0;
    for (uint8_t i = 0; i < from->n_tops && !full(to); i++) {
        step_one(machine, from->top[i], byte, to);
        if (from->top[i] == 0 && byte == '\n' && machine->grammar->again)
            emit(machine, to, (api__frame){.node = machine->grammar->root, .sub = API__NOT_BEGUN});
    }
}

bool api__automaton_done(const api__automaton *machine, const api__readings *readings) {
    for (uint8_t i = 0; i < readings->n_tops; i++) {
        const api__frame *frame = &machine->pool[readings->top[i]];
        if (readings->top[i] == 0) return true;
        const api__node *node = &machine->grammar->nodes[frame->node];
        if (frame->parent == 0 && frame->sub != API__NOT_BEGUN && node->kind == API__NUMBER &&
            api__number_done(node, frame))
            return true;
    }
    return false;
}

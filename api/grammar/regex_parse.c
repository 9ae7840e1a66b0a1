/* regex_parse.c - reads a pattern of ECMA-262 into states.
 *
 * The pattern becomes a tree first, because a repeat copies a subtree. States are made from the
 * end of the pattern to its beginning, so each knows its next. */
#include "api/grammar/regex_internal.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TREE = 4096, MAX_NESTED = 40, MOST = 0x10ffff, NO_NODE = 0 };
enum { UNLIMITED = UINT16_MAX };

typedef enum { T_SET, T_SEQUENCE, T_CHOICE, T_REPEAT, T_START, T_END } tree_kind;

typedef struct {
    uint8_t kind;
    uint16_t set;
    uint16_t min, max;
    uint16_t last;   /* the last child */
    uint16_t before; /* the sibling before this one */
} tree_node;

typedef struct {
    api__regex *regex;
    const char *at, *end;
    tree_node *tree; /* node 0 is not used */
    uint16_t n_tree;
    int nested;
    api__re_result result;
} parser;

int api__regex_init(api__regex *regex, uint64_t *fuel) {
    *regex = (api__regex){.fuel = fuel};
    regex->states = array_new(API__RE_MAX_STATES, sizeof *regex->states);
    regex->ranges = array_new(API__RE_MAX_RANGES, sizeof *regex->ranges);
    if (regex->states && regex->ranges) return 0;
    api__regex_deinit(regex);
    return -1;
}

void api__regex_deinit(api__regex *regex) {
    free(regex->states);
    free(regex->ranges);
    *regex = (api__regex){0};
}

/* Keeps the first reason. Parsing goes on to no effect: every reader looks at `result`. */
static void fail(parser *reader, api__re_result result, const char *why) {
    if (reader->result != API__RE_OK) return;
    reader->result = result;
    reader->regex->why = why;
}

static bool spend(api__regex *regex, uint64_t units) {
    bool enough = *regex->fuel >= units;
    *regex->fuel = enough ? *regex->fuel - units : 0;
    return enough;
}

/* ---- sets of characters ---- */

static int by_first(const void *left, const void *right) {
    const api__re_range *one = left, *other = right;
    return (one->from > other->from) - (one->from < other->from);
}

static void add_range(parser *reader, uint32_t from, uint32_t to) {
    api__regex *regex = reader->regex;
    if (from > to) {
        fail(reader, API__RE_UNSUPPORTED, "a range of characters is backwards");
    } else if (regex->n_ranges == API__RE_MAX_RANGES) {
        fail(reader, API__RE_COSTLY, "the classes have too many ranges");
    } else {
        regex->ranges[regex->n_ranges++] = (api__re_range){from, to};
    }
}

/* Sorts the ranges from `first` on, joins ranges that touch and, if negated, takes the gaps
 * instead. */
static void tidy(parser *reader, uint16_t first, bool negated) {
    api__regex *regex = reader->regex;
    api__re_range *list = &regex->ranges[first];
    uint16_t n = (uint16_t)(regex->n_ranges - first), kept = 0;
    qsort(list, n, sizeof *list, by_first);
    for (uint16_t i = 0; i < n; i++) {
        if (kept && list[i].from <= list[kept - 1].to + 1) {
            if (list[i].to > list[kept - 1].to) list[kept - 1].to = list[i].to;
        } else {
            list[kept++] = list[i];
        }
    }
    regex->n_ranges = (uint16_t)(first + kept);
    if (!negated) return;
    uint32_t from = 0;
    uint16_t gaps = 0;
    if (regex->n_ranges == API__RE_MAX_RANGES) add_range(reader, 0, 0); /* fails: no room */
    for (uint16_t i = 0; i < kept; i++) {
        api__re_range one = list[i];
        if (one.from > from) list[gaps++] = (api__re_range){from, one.from - 1};
        from = one.to + 1;
    }
    if (from <= MOST && reader->result == API__RE_OK) list[gaps++] = (api__re_range){from, MOST};
    regex->n_ranges = (uint16_t)(first + gaps);
}

/* Adds the characters of \d, \w or \s, or of their opposites. */
static void add_class(parser *reader, char letter) {
    static const api__re_range digits[] = {{'0', '9'}},
                               words[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}},
                               spaces[] = {{0x09, 0x0d},     {0x20, 0x20},     {0xa0, 0xa0},
                                           {0x1680, 0x1680}, {0x2000, 0x200a}, {0x2028, 0x2029},
                                           {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000},
                                           {0xfeff, 0xfeff}};
    char lower = (char)(letter | 0x20);
    const api__re_range *list = lower == 'd' ? digits : lower == 'w' ? words : spaces;
    size_t n = lower == 'd'   ? ARRAY_LEN(digits)
               : lower == 'w' ? ARRAY_LEN(words)
                              : ARRAY_LEN(spaces);
    uint32_t from = 0;
    for (size_t i = 0; i < n; i++) {
        if (letter == lower) add_range(reader, list[i].from, list[i].to);
        else if (list[i].from > from) add_range(reader, from, list[i].from - 1);
        from = list[i].to + 1;
    }
    if (letter != lower) add_range(reader, from, MOST);
}

/* The set of all ranges from `first` on. */
static uint16_t end_set(parser *reader, uint16_t first, bool negated) {
    api__regex *regex = reader->regex;
    tidy(reader, first, negated);
    if (regex->n_sets == API__RE_MAX_SETS) {
        fail(reader, API__RE_COSTLY, "the pattern has too many classes");
        return 0;
    }
    uint16_t n = (uint16_t)(regex->n_ranges - first);
    for (uint16_t i = 0; i < regex->n_sets; i++) { /* letters come again and again */
        if (regex->sets[i].n == n &&
            memcmp(&regex->ranges[regex->sets[i].first], &regex->ranges[first],
                   n * sizeof *regex->ranges) == 0) {
            regex->n_ranges = first;
            return i;
        }
    }
    regex->sets[regex->n_sets].first = first;
    regex->sets[regex->n_sets].n = n;
    return regex->n_sets++;
}

/* ---- characters ---- */

static bool next_is(parser *reader, char byte) {
    if (reader->at == reader->end || *reader->at != byte) return false;
    reader->at++;
    return true;
}

static uint32_t read_character(parser *reader) {
    uint32_t character = 0;
    size_t n = api__character(reader->at, (size_t)(reader->end - reader->at), &character);
    if (n == 0) {
        fail(reader, API__RE_UNSUPPORTED, "it ends too early");
        reader->at = reader->end;
        return 0;
    }
    reader->at += n;
    return character;
}

static uint32_t read_hex(parser *reader, int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; i++) {
        char byte = reader->at < reader->end ? *reader->at : 0;
        bool digit = byte >= '0' && byte <= '9';
        char letter = (char)(byte | 0x20);
        if (!digit && !(letter >= 'a' && letter <= 'f')) {
            fail(reader, API__RE_UNSUPPORTED, "an escape lacks hexadecimal digits");
            return 0;
        }
        value = value << 4 | (uint32_t)(digit ? byte - '0' : letter - 'a' + 10);
        reader->at++;
    }
    return value;
}

/* After \u: four digits, two such escapes for one character, or {H}. */
static uint32_t read_unicode(parser *reader) {
    if (next_is(reader, '{')) {
        uint32_t value = 0;
        do {
            value = value << 4 | read_hex(reader, 1);
            if (value > MOST) fail(reader, API__RE_UNSUPPORTED, "an escape names no character");
        } while (reader->result == API__RE_OK && !next_is(reader, '}'));
        return value;
    }
    uint32_t high = read_hex(reader, 4);
    if (high < 0xd800 || high > 0xdbff || reader->end - reader->at < 6 ||
        memcmp(reader->at, "\\u", 2) != 0)
        return high;
    const char *back = reader->at;
    reader->at += 2;
    uint32_t low = reader->at[0] == '{' ? 0 : read_hex(reader, 4);
    if (low >= 0xdc00 && low <= 0xdfff) return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
    reader->at = back;
    return high;
}

static bool is_letter_or_digit(uint32_t character) {
    return (character >= '0' && character <= '9') || (character >= 'a' && character <= 'z') ||
           (character >= 'A' && character <= 'Z') || character == '_';
}

/* After a backslash, a single character. */
static uint32_t read_escape(parser *reader) {
    static const char from[] = "tnvfr", to[] = "\t\n\v\f\r";
    uint32_t character = read_character(reader);
    const char *known = character && character < 128 ? strchr(from, (int)character) : NULL;
    if (known) return (uint8_t)to[known - from];
    if (character == 'x') return read_hex(reader, 2);
    if (character == 'u') return read_unicode(reader);
    if (character == '0' && (reader->at == reader->end || *reader->at < '0' || *reader->at > '9'))
        return 0;
    if (character == 'c') {
        uint32_t letter = read_character(reader);
        if ((letter | 0x20) >= 'a' && (letter | 0x20) <= 'z') return letter & 0x1f;
        fail(reader, API__RE_UNSUPPORTED, "\\c needs a letter");
    }
    if (is_letter_or_digit(character))
        fail(reader, API__RE_UNSUPPORTED,
             "an escape is not supported (back references, \\b and \\p are not)");
    return character;
}

static bool at_class(const parser *reader) { /* \d and the like */
    return reader->end - reader->at >= 2 && reader->at[0] == '\\' &&
           strchr("dDwWsS", reader->at[1]) && reader->at[1];
}

/* Adds one member of a class. True: it is a single character and may begin a range. */
static bool read_member(parser *reader, uint32_t *character) {
    if (at_class(reader)) {
        add_class(reader, reader->at[1]);
        reader->at += 2;
        return false;
    }
    if (!next_is(reader, '\\')) {
        *character = read_character(reader);
    } else if (next_is(reader, 'b')) {
        *character = '\b';
    } else {
        *character = read_escape(reader);
    }
    return true;
}

/* After the opening bracket. */
static uint16_t read_set(parser *reader) {
    uint16_t first = reader->regex->n_ranges;
    bool negated = next_is(reader, '^');
    while (reader->result == API__RE_OK && !next_is(reader, ']')) {
        uint32_t from = 0, to = 0;
        if (!read_member(reader, &from)) continue;
        to = from;
        if (reader->end - reader->at >= 2 && reader->at[0] == '-' && reader->at[1] != ']') {
            reader->at++;
            if (!read_member(reader, &to))
                fail(reader, API__RE_UNSUPPORTED, "a range of characters ends with a class");
        }
        add_range(reader, from, to);
    }
    return end_set(reader, first, negated);
}

/* ---- the tree ---- */

static uint16_t add_node(parser *reader, tree_node node) {
    if (reader->n_tree == MAX_TREE) {
        fail(reader, API__RE_COSTLY, "the pattern is too long");
        return NO_NODE;
    }
    reader->tree[reader->n_tree] = node;
    return reader->n_tree++;
}

static uint16_t append(parser *reader, uint16_t parent, uint16_t child) {
    reader->tree[child].before = reader->tree[parent].last;
    reader->tree[parent].last = child;
    return parent;
}

static uint16_t read_choice(parser *reader);

/* After the opening parenthesis. */
static uint16_t read_group(parser *reader) {
    if (next_is(reader, '?')) {
        bool named = next_is(reader, '<');
        char mark = reader->at < reader->end ? *reader->at : 0;
        if (named && mark != '=' && mark != '!') {
            while (reader->at < reader->end && *reader->at != '>')
                reader->at++;
            if (!next_is(reader, '>')) fail(reader, API__RE_UNSUPPORTED, "a group's name is open");
        } else if (named || !next_is(reader, ':')) {
            fail(reader, API__RE_UNSUPPORTED, "looking ahead or behind is not supported");
        }
    }
    if (++reader->nested > MAX_NESTED)
        fail(reader, API__RE_COSTLY, "the groups are nested too deeply");
    uint16_t inner = reader->result == API__RE_OK ? read_choice(reader) : NO_NODE;
    reader->nested--;
    if (!next_is(reader, ')')) fail(reader, API__RE_UNSUPPORTED, "a parenthesis is missing");
    return inner;
}

static uint16_t single(parser *reader, uint32_t character) {
    uint16_t first = reader->regex->n_ranges;
    add_range(reader, character, character);
    return add_node(reader, (tree_node){.kind = T_SET, .set = end_set(reader, first, false)});
}

static uint16_t read_dot(parser *reader) {
    uint16_t first = reader->regex->n_ranges;
    add_range(reader, '\n', '\n');
    add_range(reader, '\r', '\r');
    add_range(reader, 0x2028, 0x2029);
    return add_node(reader, (tree_node){.kind = T_SET, .set = end_set(reader, first, true)});
}

static uint16_t read_atom(parser *reader) {
    uint16_t first = reader->regex->n_ranges;
    if (next_is(reader, '(')) return read_group(reader);
    if (next_is(reader, '.')) return read_dot(reader);
    if (next_is(reader, '['))
        return add_node(reader, (tree_node){.kind = T_SET, .set = read_set(reader)});
    if (at_class(reader)) {
        add_class(reader, reader->at[1]);
        reader->at += 2;
        return add_node(reader, (tree_node){.kind = T_SET, .set = end_set(reader, first, false)});
    }
    if (next_is(reader, '\\')) return single(reader, read_escape(reader));
    if (strchr("*+?{", *reader->at) && *reader->at)
        fail(reader, API__RE_UNSUPPORTED, "a repeat has nothing to repeat");
    return single(reader, read_character(reader));
}

static uint16_t read_number(parser *reader) {
    uint32_t value = 0;
    const char *from = reader->at;
    for (; reader->at < reader->end && *reader->at >= '0' && *reader->at <= '9'; reader->at++) {
        value = value * 10 + (uint32_t)(*reader->at - '0');
        if (value > API__RE_MAX_REPEAT) {
            fail(reader, API__RE_COSTLY, "a repeat is above 2000");
            return 0;
        }
    }
    if (reader->at == from) fail(reader, API__RE_UNSUPPORTED, "a repeat lacks its number");
    return (uint16_t)value;
}

/* False: no repeat follows. */
static bool read_repeat(parser *reader, uint16_t *min, uint16_t *max) {
    *min = 0;
    *max = UNLIMITED;
    if (next_is(reader, '*')) {
    } else if (next_is(reader, '+')) {
        *min = 1;
    } else if (next_is(reader, '?')) {
        *max = 1;
    } else if (next_is(reader, '{')) {
        *min = *max = read_number(reader);
        if (next_is(reader, ',')) {
            *max = UNLIMITED;
            if (reader->at < reader->end && *reader->at != '}') *max = read_number(reader);
        }
        if (*max < *min) fail(reader, API__RE_UNSUPPORTED, "a repeat is backwards");
        if (!next_is(reader, '}')) fail(reader, API__RE_UNSUPPORTED, "a repeat is open");
    } else {
        return false;
    }
    (void)next_is(reader, '?'); /* lazy: the same texts match */
    return true;
}

static uint16_t read_sequence(parser *reader) {
    uint16_t list = add_node(reader, (tree_node){.kind = T_SEQUENCE});
    while (reader->result == API__RE_OK && reader->at < reader->end && *reader->at != '|' &&
           *reader->at != ')') {
        uint16_t min, max;
        if (next_is(reader, '^')) {
            append(reader, list, add_node(reader, (tree_node){.kind = T_START}));
            continue;
        }
        if (next_is(reader, '$')) {
            append(reader, list, add_node(reader, (tree_node){.kind = T_END}));
            continue;
        }
        uint16_t atom = read_atom(reader);
        if (reader->result == API__RE_OK && read_repeat(reader, &min, &max)) {
            uint16_t repeat =
                add_node(reader, (tree_node){.kind = T_REPEAT, .min = min, .max = max});
            atom = append(reader, repeat, atom);
        }
        append(reader, list, atom);
    }
    return list;
}

static uint16_t read_choice(parser *reader) {
    uint16_t one = read_sequence(reader);
    if (reader->at == reader->end || *reader->at != '|') return one;
    uint16_t list = append(reader, add_node(reader, (tree_node){.kind = T_CHOICE}), one);
    while (reader->result == API__RE_OK && next_is(reader, '|'))
        append(reader, list, read_sequence(reader));
    return list;
}

/* ---- states ---- */

static uint16_t add_state(parser *reader, api__re_kind kind, uint16_t set, uint16_t out,
                          uint16_t other) {
    api__regex *regex = reader->regex;
    if (regex->n_states == API__RE_MAX_STATES) {
        fail(reader, API__RE_COSTLY, "the pattern needs too many states");
        return 0;
    }
    regex->states[regex->n_states] =
        (api__re_state){.kind = (uint8_t)kind, .set = set, .out = out, .other = other};
    return regex->n_states++;
}

static uint16_t emit(parser *reader, uint16_t id, uint16_t next);

static uint16_t emit_repeat(parser *reader, const tree_node *node, uint16_t next) {
    uint16_t start = next;
    if (node->max == UNLIMITED) {
        start = add_state(reader, API__RE_SPLIT, 0, next, next);
        uint16_t body = emit(reader, node->last, start);
        reader->regex->states[start].out = body;
    } else {
        for (uint16_t i = node->min; i < node->max && reader->result == API__RE_OK; i++)
            start = add_state(reader, API__RE_SPLIT, 0, emit(reader, node->last, start), next);
    }
    for (uint16_t i = 0; i < node->min && reader->result == API__RE_OK; i++)
        start = emit(reader, node->last, start);
    return start;
}

/* The first state of a part; `next` follows the part. Recursion is as deep as groups are nested. */
static uint16_t emit(parser *reader, uint16_t id, uint16_t next) {
    const tree_node *node = &reader->tree[id];
    uint16_t start = next, part = node->last;
    if (!spend(reader->regex, 1)) fail(reader, API__RE_COSTLY, "the pattern takes too long");
    if (reader->result != API__RE_OK) return 0;
    switch ((tree_kind)node->kind) {
    case T_SET: return add_state(reader, API__RE_SET, node->set, next, 0);
    case T_START: return add_state(reader, API__RE_START, 0, next, 0);
    case T_END: return add_state(reader, API__RE_END, 0, next, 0);
    case T_REPEAT: return emit_repeat(reader, node, next);
    case T_SEQUENCE:
        for (; part; part = reader->tree[part].before)
            start = emit(reader, part, start);
        return start;
    default: break;
    }
    start = emit(reader, part, next);
    for (part = reader->tree[part].before; part; part = reader->tree[part].before)
        start = add_state(reader, API__RE_SPLIT, 0, emit(reader, part, next), start);
    return start;
}

/* Does every match begin at the start of the text? Then no characters need to be skipped. */
static bool is_tied(const parser *reader, uint16_t id) {
    const tree_node *node = &reader->tree[id];
    uint16_t part = node->last;
    bool tied = node->kind == T_START || (node->kind == T_CHOICE && part);
    if (node->kind == T_SEQUENCE && part) {
        while (reader->tree[part].before)
            part = reader->tree[part].before;
        return is_tied(reader, part);
    }
    for (; tied && part; part = reader->tree[part].before)
        tied = is_tied(reader, part);
    return tied;
}

/* Makes the states of a tree: any characters, the pattern, any characters. */
static void finish(parser *reader, uint16_t tree, bool wanted) {
    api__regex *regex = reader->regex;
    uint16_t first = regex->n_states, none = regex->n_ranges;
    if (regex->n_parts == API__RE_MAX_PARTS) {
        fail(reader, API__RE_COSTLY, "there are too many patterns");
        return;
    }
    uint16_t match = add_state(reader, API__RE_MATCH, 0, 0, 0);
    uint16_t start = emit(reader, tree, match);
    if (!is_tied(reader, tree)) {
        uint16_t skip = add_state(reader, API__RE_SET, end_set(reader, none, true), 0, 0);
        start = add_state(reader, API__RE_SPLIT, 0, start, skip);
        regex->states[skip].out = start;
    }
    if (reader->result != API__RE_OK) return;
    regex->parts[regex->n_parts].first = first;
    regex->parts[regex->n_parts].end = regex->n_states;
    regex->parts[regex->n_parts].start = start;
    regex->parts[regex->n_parts++].wanted = wanted;
}

static api__re_result add(api__regex *regex, const char *text, size_t n, bool wanted,
                          uint16_t (*read)(parser *)) {
    uint16_t states = regex->n_states, ranges = regex->n_ranges, sets = regex->n_sets;
    parser reader = {.regex = regex, .at = text, .end = text + n, .n_tree = 1};
    reader.tree = array_new(MAX_TREE, sizeof *reader.tree);
    if (reader.tree == NULL) return API__RE_NO_MEMORY;
    uint16_t tree = read(&reader);
    if (reader.at < reader.end) fail(&reader, API__RE_UNSUPPORTED, "a parenthesis is missing");
    if (reader.result == API__RE_OK) finish(&reader, tree, wanted);
    free(reader.tree);
    if (reader.result != API__RE_OK) {
        regex->n_states = states;
        regex->n_ranges = ranges;
        regex->n_sets = sets;
    }
    return reader.result;
}

api__re_result api__regex_add(api__regex *regex, const char *pattern, size_t n, bool wanted) {
    return add(regex, pattern, n, wanted, read_choice);
}

static uint16_t read_inside(parser *reader) {
    uint16_t list = add_node(reader, (tree_node){.kind = T_SEQUENCE});
    while (reader->result == API__RE_OK && reader->at < reader->end)
        append(reader, list, single(reader, read_character(reader)));
    return list;
}

static uint16_t read_whole(parser *reader) {
    uint16_t list = add_node(reader, (tree_node){.kind = T_SEQUENCE});
    append(reader, list, add_node(reader, (tree_node){.kind = T_START}));
    append(reader, list, read_inside(reader));
    return append(reader, list, add_node(reader, (tree_node){.kind = T_END}));
}

api__re_result api__regex_add_literal(api__regex *regex, const char *literal, size_t n, bool inside,
                                      bool wanted) {
    return add(regex, literal, n, wanted, inside ? read_inside : read_whole);
}

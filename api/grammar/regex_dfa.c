/* regex_dfa.c - one deterministic automaton from the states of several patterns.
 *
 * A state of the DFA is a set of states of the patterns. Characters in the same sets form a class.
 * States without a way to an end are cut off, so no text runs into a dead end. */
#include "api/grammar/regex_internal.h"
#include "base/hash.h"
#include "base/size.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BOUNDS = 2048, MAX_MEMBERS = 1 << 19, BUCKETS = 1 << 13, LIMIT = 0x110000 };
#define FAR UINT16_MAX /* api__dfa.least: no way to an end */

typedef struct {
    api__regex *regex;
    arena *mem;
    api__dfa *dfa;
    uint64_t (*has)[4]; /* [n_sets] classes of each set */
    uint16_t *members;  /* of all states, one after another, ascending */
    uint32_t *first;    /* [API__DFA_MAX_STATES + 1] in members */
    uint16_t *bucket;   /* [BUCKETS] newest state of a hash + 1 */
    uint16_t *older;    /* [API__DFA_MAX_STATES] next state of the same bucket + 1 */
    uint16_t *table;    /* [API__DFA_MAX_STATES][n_classes] */
    uint64_t *mark;     /* states of the patterns, as bits */
    uint16_t *stack;    /* of closure */
    uint16_t *list;     /* the state being made */
    uint32_t *back;     /* edges, by where they lead */
    uint16_t n_list;
    api__re_result result;
} builder;

static bool spend(builder *build, uint64_t units) {
    uint64_t *fuel = build->regex->fuel;
    if (*fuel < units) {
        build->regex->why = "the pattern takes too long";
        build->result = API__RE_COSTLY;
        *fuel = 0;
        return false;
    }
    *fuel -= units;
    return true;
}

static int failed(builder *build, api__re_result result, const char *why) {
    build->result = result;
    build->regex->why = why;
    return -1;
}

/* ---- classes of characters ---- */

static int by_value(const void *left, const void *right) {
    uint32_t one = *(const uint32_t *)left, other = *(const uint32_t *)right;
    return (one > other) - (one < other);
}

/* Cuts all characters into intervals; no set divides one. */
static int find_bounds(builder *build) {
    const api__regex *regex = build->regex;
    uint32_t *bounds = array_new(2u * regex->n_ranges + 5, sizeof *bounds);
    size_t n = 0, kept = 0;
    if (bounds == NULL) return failed(build, API__RE_NO_MEMORY, "");
    bounds[n++] = 0;
    bounds[n++] = 1;
    bounds[n++] = 0xd800;
    bounds[n++] = 0xe000;
    for (uint16_t i = 0; i < regex->n_ranges; i++) {
        bounds[n++] = regex->ranges[i].from;
        if (regex->ranges[i].to + 1 < LIMIT) bounds[n++] = regex->ranges[i].to + 1;
    }
    qsort(bounds, n, sizeof *bounds, by_value);
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || bounds[i] != bounds[kept - 1]) bounds[kept++] = bounds[i];
    }
    int rc =
        kept > MAX_BOUNDS ? failed(build, API__RE_COSTLY, "the classes have too many ranges") : 0;
    api__dfa *dfa = build->dfa;
    if (rc == 0) {
        dfa->bounds = arena_array(build->mem, kept, sizeof *bounds);
        dfa->classes = arena_array(build->mem, kept, sizeof *dfa->classes);
        dfa->n_bounds = (uint16_t)kept;
        if (dfa->bounds && dfa->classes) memcpy(dfa->bounds, bounds, kept * sizeof *bounds);
        else rc = failed(build, API__RE_NO_MEMORY, "");
    }
    free(bounds);
    return rc;
}

static uint16_t interval_of(const api__dfa *dfa, uint32_t character) {
    uint16_t low = 0, high = dfa->n_bounds;
    while (high - low > 1) {
        uint16_t mid = (uint16_t)((low + high) / 2);
        if (dfa->bounds[mid] <= character) low = mid;
        else high = mid;
    }
    return low;
}

/* Marks the intervals of every set: bit i of row s. */
static void mark_intervals(const builder *build, uint64_t *rows, size_t words) {
    const api__regex *regex = build->regex;
    for (uint16_t i = 0; i < regex->n_sets; i++) {
        for (uint16_t k = 0; k < regex->sets[i].n; k++) {
            const api__re_range *range = &regex->ranges[regex->sets[i].first + k];
            uint16_t at = interval_of(build->dfa, range->from);
            for (; at < build->dfa->n_bounds && build->dfa->bounds[at] <= range->to; at++)
                rows[i * words + at / 64] |= (uint64_t)1 << at % 64;
        }
    }
}

static bool same_column(const uint64_t *rows, size_t words, uint16_t n_sets, uint16_t i,
                        uint16_t k) {
    for (uint16_t set = 0; set < n_sets; set++) {
        const uint64_t *row = &rows[set * words];
        if ((row[i / 64] >> i % 64 & 1) != (row[k / 64] >> k % 64 & 1)) return false;
    }
    return true;
}

/* Intervals in the same sets have one class. Class 0 has the forbidden characters. */
static int find_classes(builder *build) {
    api__dfa *dfa = build->dfa;
    const uint16_t n_sets = build->regex->n_sets;
    size_t words = (dfa->n_bounds + 63u) / 64;
    uint64_t *rows = array_new(n_sets * words + 1, sizeof *rows);
    uint16_t *sample = array_new(API__DFA_MAX_CLASSES + 1u, sizeof *sample);
    int rc = rows && sample ? 0 : failed(build, API__RE_NO_MEMORY, "");
    if (rc == 0) mark_intervals(build, rows, words);
    dfa->n_classes = 1;
    for (uint16_t i = 0; rc == 0 && i < dfa->n_bounds; i++) {
        if (dfa->bounds[i] == 0 || dfa->bounds[i] == 0xd800) continue;
        if (dfa->bounds[i] > 0xd800 && dfa->bounds[i] < 0xe000) continue;
        uint16_t one = 1;
        if (!spend(build, (uint64_t)dfa->n_classes * 2 + n_sets)) rc = -1;
        while (one < dfa->n_classes && !same_column(rows, words, n_sets, i, sample[one]))
            one++;
        if (one == API__DFA_MAX_CLASSES) {
            rc = failed(build, API__RE_COSTLY, "the pattern has too many classes");
            break;
        }
        dfa->classes[i] = (uint8_t)one;
        sample[one] = i;
        if (one == dfa->n_classes) dfa->n_classes++;
    }
    for (uint16_t one = 1; rc == 0 && one < dfa->n_classes; one++) {
        for (uint16_t set = 0; set < n_sets; set++) {
            uint64_t bit = rows[set * words + sample[one] / 64] >> sample[one] % 64 & 1;
            build->has[set][one / 64] |= bit << one % 64;
        }
    }
    for (uint32_t i = 0; rc == 0 && i < 128; i++)
        dfa->ascii[i] = dfa->classes[interval_of(dfa, i)];
    free(rows);
    free(sample);
    return rc;
}

/* ---- sets of states ---- */

static bool marked(const builder *build, uint16_t state) {
    return build->mark[state / 64] >> state % 64 & 1;
}

/* Marks a state and all states reached from it without a character. start, end: of the text, here.
 */
static void reach(builder *build, uint16_t state, bool start, bool end) {
    size_t n = 0;
    build->stack[n++] = state;
    while (n > 0) {
        uint16_t at = build->stack[--n];
        const api__re_state *one = &build->regex->states[at];
        if (marked(build, at) || !spend(build, 1)) continue;
        build->mark[at / 64] |= (uint64_t)1 << at % 64;
        bool on = one->kind == API__RE_SPLIT || (one->kind == API__RE_START && start) ||
                  (one->kind == API__RE_END && end);
        if (on) build->stack[n++] = one->out;
        if (one->kind == API__RE_SPLIT) build->stack[n++] = one->other;
    }
}

/* Takes a part's marked states over into the list; false: this part allows no text any more. After
 * a match any text may follow. */
static bool take_part(builder *build, uint16_t i) {
    const api__regex *regex = build->regex;
    uint16_t from = build->n_list, match = regex->parts[i].first;
    bool matched = marked(build, match);
    for (uint16_t word = match / 64; word <= (regex->parts[i].end - 1) / 64; word++) {
        for (uint64_t bits = build->mark[word]; bits; bits &= bits - 1) {
            uint16_t at = (uint16_t)(word * 64 + __builtin_ctzll(bits));
            if (at < match || at >= regex->parts[i].end) continue;
            uint8_t kind = regex->states[at].kind;
            if (matched ? at == match : kind == API__RE_SET || kind == API__RE_END)
                build->list[build->n_list++] = at;
        }
    }
    return regex->parts[i].wanted ? build->n_list > from : !matched;
}

static bool take_list(builder *build) {
    build->n_list = 0;
    for (uint16_t i = 0; i < build->regex->n_parts; i++) {
        if (!take_part(build, i)) return false;
    }
    return spend(build, build->n_list + build->regex->n_states / 64u);
}

static void clear_marks(builder *build) {
    memset(build->mark, 0, (build->regex->n_states / 64u + 1) * sizeof *build->mark);
}

/* May a text end in the state of the list? */
static bool may_end(builder *build, const uint16_t *list, uint16_t n, bool start) {
    const api__regex *regex = build->regex;
    clear_marks(build);
    for (uint16_t i = 0; i < n; i++)
        reach(build, list[i], start, true);
    for (uint16_t i = 0; i < regex->n_parts; i++) {
        if (marked(build, regex->parts[i].first) != regex->parts[i].wanted) return false;
    }
    return true;
}

/* The state of the list, new or known. */
static uint16_t intern(builder *build, bool start) {
    api__dfa *dfa = build->dfa;
    uint64_t hash = build->n_list;
    for (uint16_t i = 0; i < build->n_list; i++)
        hash = (hash ^ build->list[i]) * HASH_STEP;
    uint16_t *head = &build->bucket[hash >> 32 & (BUCKETS - 1)];
    for (uint16_t at = *head; at && !start; at = build->older[at - 1]) {
        uint32_t first = build->first[at - 1], n = build->first[at] - first;
        if (!spend(build, 1)) return API__DFA_DEAD;
        if (n == build->n_list &&
            memcmp(&build->members[first], build->list, n * sizeof *build->list) == 0)
            return (uint16_t)(at - 1);
    }
    uint32_t from = build->first[dfa->n_states];
    if (dfa->n_states == API__DFA_MAX_STATES || from + build->n_list > MAX_MEMBERS) {
        failed(build, API__RE_COSTLY, "the pattern needs too many states");
        return API__DFA_DEAD;
    }
    memcpy(&build->members[from], build->list, build->n_list * sizeof *build->list);
    uint16_t state = dfa->n_states++;
    build->first[dfa->n_states] = from + build->n_list;
    dfa->ends[state] = may_end(build, &build->members[from], build->n_list, start);
    if (start) return state; /* the beginning of a text is like no later state */
    build->older[state] = *head;
    *head = (uint16_t)(state + 1);
    return state;
}

static uint16_t follow(builder *build, uint16_t state, uint16_t one) {
    const api__regex *regex = build->regex;
    clear_marks(build);
    for (uint32_t i = build->first[state]; i < build->first[state + 1]; i++) {
        uint16_t at = build->members[i];
        const api__re_state *member = &regex->states[at];
        if (member->kind == API__RE_MATCH) build->mark[at / 64] |= (uint64_t)1 << at % 64;
        else if (member->kind == API__RE_SET && build->has[member->set][one / 64] >> one % 64 & 1)
            reach(build, member->out, false, false);
    }
    if (!spend(build, build->first[state + 1] - build->first[state]) || !take_list(build))
        return API__DFA_DEAD;
    return intern(build, false);
}

static int make_states(builder *build) {
    api__dfa *dfa = build->dfa;
    const uint16_t n = dfa->n_classes;
    clear_marks(build);
    for (uint16_t i = 0; i < build->regex->n_parts; i++)
        reach(build, build->regex->parts[i].start, true, false);
    if (!take_list(build))
        return build->result == API__RE_OK ? failed(build, API__RE_EMPTY, "no text fits") : -1;
    (void)intern(build, true);
    for (uint16_t state = 0; state < dfa->n_states && build->result == API__RE_OK; state++) {
        build->table[(size_t)state * n] = API__DFA_DEAD;
        for (uint16_t one = 1; one < n && build->result == API__RE_OK; one++)
            build->table[(size_t)state * n + one] = follow(build, state, one);
    }
    return build->result == API__RE_OK ? 0 : -1;
}

/* ---- ways to an end ---- */

/* Lists the edges into each state: back[n_states + first..], with first in back[state]. */
static int list_back(builder *build) {
    const api__dfa *dfa = build->dfa;
    size_t n_edges = 0, n = dfa->n_states, classes = dfa->n_classes;
    build->back = array_new(n + 1 + n * classes, sizeof *build->back);
    if (build->back == NULL) return failed(build, API__RE_NO_MEMORY, "");
    for (size_t i = 0; i < n * classes; i++) {
        if (build->table[i] != API__DFA_DEAD) build->back[build->table[i]]++;
    }
    for (size_t state = 0; state < n; state++) { /* counts become ends */
        n_edges += build->back[state];
        build->back[state] = (uint32_t)n_edges;
    }
    build->back[n] = (uint32_t)n_edges;
    for (size_t i = 0; i < n * classes; i++) {
        if (build->table[i] != API__DFA_DEAD)
            build->back[n + 1 + --build->back[build->table[i]]] = (uint32_t)(i / classes);
    }
    return 0;
}

/* Fills least: a search from the ends, backwards. */
static int find_least(builder *build) {
    api__dfa *dfa = build->dfa;
    size_t head = 0, tail = 0;
    uint16_t *queue = array_new(dfa->n_states, sizeof *queue);
    int rc = list_back(build);
    if (queue == NULL) rc = failed(build, API__RE_NO_MEMORY, "");
    for (uint16_t i = 0; rc == 0 && i < dfa->n_states; i++) {
        dfa->least[i] = dfa->ends[i] ? 0 : FAR;
        if (dfa->ends[i]) queue[tail++] = i;
    }
    while (rc == 0 && head < tail) {
        uint16_t state = queue[head++];
        for (uint32_t i = build->back[state]; i < build->back[state + 1]; i++) {
            uint32_t from = build->back[dfa->n_states + 1u + i];
            if (dfa->least[from] != FAR) continue;
            dfa->least[from] = (uint16_t)(dfa->least[state] + 1);
            dfa->farthest = dfa->least[from]; /* found in ascending order */
            queue[tail++] = (uint16_t)from;
        }
    }
    free(queue);
    return rc;
}

/* Copies the table without edges to states that have no way to an end. */
static int copy_table(builder *build) {
    api__dfa *dfa = build->dfa;
    size_t n = (size_t)dfa->n_states * dfa->n_classes;
    dfa->next = arena_array(build->mem, n, sizeof *dfa->next);
    dfa->steady = arena_array(build->mem, dfa->n_states, sizeof *dfa->steady);
    if (dfa->next == NULL || dfa->steady == NULL) return failed(build, API__RE_NO_MEMORY, "");
    for (size_t i = 0; i < n; i++) {
        uint16_t to = build->table[i];
        dfa->next[i] = to != API__DFA_DEAD && dfa->least[to] != FAR ? to : API__DFA_DEAD;
    }
    for (uint16_t state = 0; state < dfa->n_states; state++) {
        const uint16_t *row = &dfa->next[(size_t)state * dfa->n_classes];
        dfa->steady[state] = dfa->ends[state];
        for (uint16_t one = 1; one < dfa->n_classes && dfa->steady[state]; one++)
            dfa->steady[state] = row[one] == state;
    }
    return 0;
}

static bool near(const api__dfa *dfa, uint16_t state, uint32_t chars) {
    return dfa->least[state] != FAR && chars <= dfa->max && dfa->least[state] <= dfa->max - chars;
}

/* Fills early, from the least length down: only here the number of characters read matters. */
static int fill_early(builder *build) {
    api__dfa *dfa = build->dfa;
    if (dfa->min == 0) return 0;
    if (dfa->min > API__DFA_MAX_MIN)
        return failed(build, API__RE_COSTLY, "its minLength is above 1024");
    dfa->early_words = (uint16_t)((dfa->n_states + 63u) / 64);
    dfa->early = arena_array(build->mem, (size_t)dfa->min * dfa->early_words, sizeof *dfa->early);
    if (dfa->early == NULL) return failed(build, API__RE_NO_MEMORY, "");
    for (uint32_t chars = dfa->min; chars-- > 0;) {
        uint64_t *row = &dfa->early[(size_t)chars * dfa->early_words];
        const uint64_t *later = row + dfa->early_words;
        uint64_t edges = 0;
        for (uint16_t state = 0; state < dfa->n_states; state++) {
            bool good = chars + 1 == dfa->min ? near(dfa, state, dfa->min)
                                              : later[state / 64] >> state % 64 & 1;
            uint32_t from = build->back[state], to = build->back[state + 1];
            for (uint32_t i = from; good && i < to; i++) {
                uint32_t before = build->back[dfa->n_states + 1u + i];
                row[before / 64] |= (uint64_t)1 << before % 64;
            }
            edges += good ? to - from : 0;
        }
        if (!spend(build, dfa->n_states / 8u + edges)) return -1;
    }
    return 0;
}

static bool alive(const api__dfa *dfa, uint16_t state, uint32_t chars) {
    if (state == API__DFA_DEAD) return false;
    if (chars >= dfa->min) return near(dfa, state, chars);
    return dfa->early[(size_t)chars * dfa->early_words + state / 64] >> state % 64 & 1;
}

static int make(builder *build) {
    api__dfa *dfa = build->dfa;
    const size_t most = API__DFA_MAX_STATES;
    build->has = array_new(build->regex->n_sets + 1u, sizeof *build->has);
    build->members = array_new(MAX_MEMBERS, sizeof *build->members);
    build->first = array_new(most + 1, sizeof *build->first);
    build->bucket = array_new(BUCKETS, sizeof *build->bucket);
    build->older = array_new(most, sizeof *build->older);
    build->mark = array_new(build->regex->n_states / 64u + 1, sizeof *build->mark);
    build->stack = array_new(2u * build->regex->n_states + 2, sizeof *build->stack);
    build->list = array_new(build->regex->n_states + 1u, sizeof *build->list);
    dfa->ends = arena_array(build->mem, most, sizeof *dfa->ends);
    if (!build->has || !build->members || !build->first || !build->bucket || !build->older ||
        !build->mark || !build->stack || !build->list || !dfa->ends)
        return failed(build, API__RE_NO_MEMORY, "");
    if (find_bounds(build) != 0 || find_classes(build) != 0) return -1;
    build->table = array_new(most * dfa->n_classes, sizeof *build->table);
    if (build->table == NULL) return failed(build, API__RE_NO_MEMORY, "");
    if (make_states(build) != 0) return -1;
    dfa->least = arena_array(build->mem, dfa->n_states, sizeof *dfa->least);
    if (dfa->least == NULL) return failed(build, API__RE_NO_MEMORY, "");
    if (find_least(build) != 0 || copy_table(build) != 0 || fill_early(build) != 0) return -1;
    return alive(dfa, 0, 0) ? 0 : failed(build, API__RE_EMPTY, "no text fits");
}

api__re_result api__dfa_build(api__dfa **out, api__regex *regex, uint32_t min, uint32_t max,
                              arena *mem) {
    builder build = {.regex = regex, .mem = mem, .result = API__RE_OK};
    *out = build.dfa = arena_array(mem, 1, sizeof **out);
    if (build.dfa == NULL) return API__RE_NO_MEMORY;
    build.dfa->min = min;
    build.dfa->max = max;
    (void)make(&build);
    free(build.has);
    free(build.members);
    free(build.first);
    free(build.bucket);
    free(build.older);
    free(build.mark);
    free(build.stack);
    free(build.list);
    free(build.table);
    free(build.back);
    return build.result;
}

/* ---- its use ---- */

size_t api__character(const char *text, size_t n, uint32_t *out) {
    static const uint8_t payload[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    size_t bytes = n ? utf8_char(text, n) : 0;
    if (bytes == 0) return 0;
    *out = (uint8_t)text[0] & payload[bytes];
    for (size_t i = 1; i < bytes; i++)
        *out = *out << 6 | ((uint8_t)text[i] & 0x3f);
    return bytes;
}

uint16_t api__dfa_step(const api__dfa *dfa, uint16_t state, uint32_t character, uint32_t chars) {
    uint8_t one =
        character < 128 ? dfa->ascii[character] : dfa->classes[interval_of(dfa, character)];
    uint16_t next = dfa->next[(size_t)state * dfa->n_classes + one];
    return alive(dfa, next, chars) ? next : API__DFA_DEAD;
}

bool api__dfa_some(const api__dfa *dfa, uint16_t state, uint32_t from, uint32_t to,
                   uint32_t chars) {
    const uint16_t *row = &dfa->next[(size_t)state * dfa->n_classes];
    for (uint16_t i = interval_of(dfa, from); i < dfa->n_bounds && dfa->bounds[i] <= to; i++) {
        if (alive(dfa, row[dfa->classes[i]], chars)) return true;
    }
    return false;
}

bool api__dfa_matches(const api__dfa *dfa, const char *text, size_t n) {
    uint16_t state = 0;
    uint32_t chars = 0;
    for (size_t at = 0; at < n;) {
        uint32_t character;
        size_t bytes = api__character(text + at, n - at, &character);
        if (bytes == 0) return false;
        at += bytes;
        state = api__dfa_step(dfa, state, character, ++chars);
        if (state == API__DFA_DEAD) return false;
    }
    return dfa->ends[state] && chars >= dfa->min;
}

/* mask_walk.c - all readings advance together along a trie of tokens, exactly as they do when a
 * token is taken, so an allowed token always leaves a reading.
 *
 * A walk meets few different readings at many nodes: after any digit a number goes on in the same
 * way. So the walk numbers the readings it meets and remembers the step of each by each byte. When
 * the numbers run out, or if readings do not come again, further ones are computed at every node.
 */
#include "api/grammar/walk_internal.h"
#include "base/hash.h"

#include <string.h>

enum { UNKNOWN, DEAD, FIRST }; /* values of api__walk_state.after; FIRST: of state 0 */
enum {
    TRIAL = 48, /* so many states are numbered in any case; more only if met again */
    MOST_FRAMES = API__POOL / 2, /* of the machine, in use by states */
};

static void allow(api__automaton *machine, const api__endings *ends, uint32_t token,
                  uint64_t *words) {
    for (uint32_t i = token; i <= ends->last[token]; i++)
        words[ends->ids[i] / 64] |= (uint64_t)1 << ends->ids[i] % 64;
    machine->fuel += (ends->last[token] - token) / 16;
}

/* ---- what plain characters change ---- */

bool api__only_counts(const api__automaton *machine, uint16_t top) {
    const api__frame *frame = &machine->pool[top];
    uint8_t kind = machine->grammar->nodes[frame->node].kind;
    return kind == API__STRING || kind == API__TEXT || frame->first == frame->end;
}

bool api__is_steady(const api__automaton *machine, uint16_t top, uint32_t room) {
    const api__frame *frame = &machine->pool[top];
    const api__node *node = &machine->grammar->nodes[frame->node];
    if (node->kind != API__STRING && node->kind != API__TEXT) return api__only_counts(machine, top);
    return room > API__FAR && (frame->chars >= node->min || node->min - frame->chars > API__FAR);
}

/* A text must see the bytes that may complete API__CLOSER. */
static bool sees_plain(const api__automaton *machine, uint16_t top) {
    const api__frame *frame = &machine->pool[top];
    return machine->grammar->nodes[frame->node].kind == API__TEXT && frame->matched > 0;
}

static bool all_steady(const api__automaton *machine, const api__readings *readings) {
    uint32_t room;
    for (uint8_t i = 0; i < readings->n_tops; i++) {
        if (!api__automaton_in_string(machine, readings->top[i], &room) ||
            !api__is_steady(machine, readings->top[i], room) ||
            sees_plain(machine, readings->top[i]))
            return false;
    }
    return true;
}

/* A character of one byte, and not the first of API__CLOSER. */
static bool is_plain_byte(uint8_t byte) {
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\' && byte != '<';
}

/* ---- states ---- */

static bool same(const api__readings *left, const api__readings *right) {
    return left->n_tops == right->n_tops &&
           memcmp(left->top, right->top, left->n_tops * sizeof *left->top) == 0;
}

static bool room_for_state(const api__walker *walker) {
    bool useful = walker->n_states < TRIAL || walker->n_reused / 4 > walker->n_states;
    return useful && walker->n_states < API__WALK_STATES && walker->machine.used <= MOST_FRAMES;
}

/* The state of these readings, a new one if need be. API__WALK_STATES: there is no room. */
static uint8_t state_of(api__walker *walker, const api__readings *readings) {
    uint64_t hash = readings->n_tops;
    for (uint8_t i = 0; i < readings->n_tops; i++)
        hash = (hash ^ readings->top[i]) * HASH_STEP;
    size_t at = hash >> 32 & (API__WALK_BUCKETS - 1);
    for (; walker->bucket[at]; at = (at + 1) & (API__WALK_BUCKETS - 1)) {
        uint8_t id = (uint8_t)(walker->bucket[at] - 1);
        if (same(&walker->states[id].readings, readings)) {
            walker->n_reused++;
            return id;
        }
    }
    if (!room_for_state(walker)) return API__WALK_STATES;
    api__walk_state *state = &walker->states[walker->n_states];
    state->readings.n_tops = readings->n_tops;
    memcpy(state->readings.top, readings->top, readings->n_tops * sizeof *readings->top);
    state->steady = all_steady(&walker->machine, readings);
    memset(state->after, UNKNOWN, sizeof state->after);
    walker->kept = walker->machine.used;
    walker->bucket[at] = ++walker->n_states;
    return (uint8_t)(walker->n_states - 1);
}

/* ---- the walk ---- */

static void stand(api__walker *walker, uint32_t depth, uint8_t id) {
    walker->state[depth] = id;
    walker->at[depth] = &walker->states[id].readings;
    walker->steady[depth] = walker->states[id].steady;
    walker->mark[depth] = walker->kept;
}

/* Steps by a byte for the first time. False: no reading is left. */
static bool step(api__walker *walker, uint32_t depth, uint8_t byte) {
    api__automaton *machine = &walker->machine;
    uint8_t from = walker->state[depth];
    bool known = from < API__WALK_STATES;
    /* Frames of other branches go. Between a state and the start stand states only, so the frames
     * of all states stay. */
    api__automaton_rewind(machine, known ? walker->kept : walker->mark[depth]);
    api__readings *next = &walker->level[depth];
    api__automaton_step(machine, walker->at[depth], byte, next);
    if (next->n_tops == 0) {
        if (known) walker->states[from].after[byte] = DEAD;
        return false;
    }
    uint8_t id = known ? state_of(walker, next) : API__WALK_STATES;
    if (id < API__WALK_STATES) {
        walker->states[from].after[byte] = (uint8_t)(id + FIRST);
        stand(walker, depth + 1, id);
        return true;
    }
    walker->state[depth + 1] = API__WALK_STATES;
    walker->at[depth + 1] = next;
    walker->steady[depth + 1] = all_steady(machine, next);
    walker->mark[depth + 1] = machine->used;
    return true;
}

/* A step that is remembered takes a quarter of a unit of fuel. */
static void count_remembered(api__walker *walker) {
    walker->machine.fuel += ++walker->n_remembered % 4 == 0;
}

/* Advances the readings by the node's byte. False: no reading is left. */
static bool enter(api__walker *walker, uint32_t depth, const api__trie_node *node) {
    uint8_t from = walker->state[depth];
    if (walker->steady[depth] && is_plain_byte(node->byte)) {
        walker->state[depth + 1] = from;
        walker->at[depth + 1] = walker->at[depth];
        walker->steady[depth + 1] = true;
        walker->mark[depth + 1] = walker->mark[depth];
        count_remembered(walker);
        return true;
    }
    uint8_t after = from < API__WALK_STATES ? walker->states[from].after[node->byte] : UNKNOWN;
    if (after == UNKNOWN) return step(walker, depth, node->byte);
    count_remembered(walker);
    if (after == DEAD) return false;
    walker->n_reused++;
    stand(walker, depth + 1, (uint8_t)(after - FIRST));
    return true;
}

void api__walker_load(api__walker *walker, const api__stacks *stacks, api__readings *now) {
    api__automaton_load(&walker->machine, stacks, now);
    walker->n_states = 0;
    walker->n_reused = 0;
    walker->kept = walker->machine.used;
    memset(walker->bucket, 0, sizeof walker->bucket);
}

static void begin(api__walker *walker, const api__readings *start) {
    uint8_t first = state_of(walker, start);
    if (first < API__WALK_STATES) {
        stand(walker, 0, first);
        return;
    }
    walker->state[0] = API__WALK_STATES;
    walker->at[0] = start;
    walker->steady[0] = all_steady(&walker->machine, start);
    walker->mark[0] = walker->machine.used;
}

bool api__walk(api__walker *walker, const api__endings *ends, const api__readings *start,
               uint64_t limit, uint64_t *words) {
    const api__trie *tree = &ends->tree;
    api__automaton *machine = &walker->machine;
    uint32_t base = machine->used, depth = 0;
    struct {
        uint32_t next, end;
    } left[API__MAX_TOKEN_BYTES + 1]; /* nodes not visited yet, at each depth */
    begin(walker, start);
    left[0].next = 0;
    left[0].end = tree->n_roots;
    while (machine->fuel <= limit) {
        if (left[depth].next == left[depth].end) {
            if (depth-- == 0) break;
            continue;
        }
        const api__trie_node *node = &tree->nodes[left[depth].next++];
        if (!enter(walker, depth, node)) continue;
        if (node->token != API__NO_TOKEN) allow(machine, ends, node->token, words);
        if (node->n_children == 0) continue;
        left[++depth].next = node->child;
        left[depth].end = node->child + node->n_children;
    }
    /* The states stay for the next walk, and so does the start. */
    api__automaton_rewind(machine, walker->kept > base ? walker->kept : base);
    return machine->fuel <= limit;
}

int api__walker_init(api__walker *walker, const api__grammar *grammar, err *e) {
    return api__automaton_init(&walker->machine, grammar, e);
}

void api__walker_deinit(api__walker *walker) {
    api__automaton_deinit(&walker->machine);
}

/* walk_internal.h - an automaton's readings followed along a trie of tokens, for masks. */
#ifndef FATHOM_API_GRAMMAR_WALK_INTERNAL_H
#define FATHOM_API_GRAMMAR_WALK_INTERNAL_H

#include "api/grammar/vocab_internal.h"

enum {
    API__FAR = API__MAX_TOKEN_BYTES, /* most characters or items that one token can add */
    API__WALK_STATES = 128,
    API__WALK_BUCKETS = 256,
};

/* Readings met during a walk, and the readings after each byte. */
typedef struct {
    api__readings readings;
    bool steady;        /* plain bytes do not change them */
    uint8_t after[256]; /* index of the state after each byte, plus 2; 0: not known yet, 1: no
                           reading */
} api__walk_state;

/* Belongs to one thread at a time. */
typedef struct {
    api__automaton machine;
    api__walk_state states[API__WALK_STATES];
    uint8_t n_states;
    uint32_t n_reused;                 /* how often a state was met again */
    uint32_t n_remembered;             /* steps that were not computed */
    uint8_t bucket[API__WALK_BUCKETS]; /* index of a state plus 1, by its readings */
    uint32_t kept;                     /* frames of the machine in use by states */
    /* For each depth of the walk, before the node's byte. */
    uint8_t state[API__MAX_TOKEN_BYTES + 1]; /* index of a state, or API__WALK_STATES: in level */
    const api__readings *at[API__MAX_TOKEN_BYTES + 1];
    bool steady[API__MAX_TOKEN_BYTES + 1];
    uint32_t mark[API__MAX_TOKEN_BYTES + 1]; /* frames in use, if the readings are in level */
    api__readings level[API__MAX_TOKEN_BYTES];
} api__walker;

int api__walker_init(api__walker *walker, const api__grammar *grammar, err *e) WARN_UNUSED;
void api__walker_deinit(api__walker *walker);
/* Begins with a state, and forgets all others. */
void api__walker_load(api__walker *walker, const api__stacks *stacks, api__readings *now);
/* Adds every token that may follow the readings by its text in the trie. False: the machine's fuel
 * is above the limit. */
bool api__walk(api__walker *walker, const api__endings *ends, const api__readings *start,
               uint64_t limit, uint64_t *words);

/* For a reading inside a string; room as api__automaton_in_string gives it. */
/* True if plain characters only add to the count of a string, or change nothing in a key that
 * differs from all declared ones. */
bool api__only_counts(const api__automaton *machine, uint16_t top);
/* True if even the count of one token's characters makes no difference. */
bool api__is_steady(const api__automaton *machine, uint16_t top, uint32_t room);

#endif

/* lookup.c - drafts that no loop names: they cost no coda, and several begin at once.
 *
 * A constraint may expect the next tokens, because they spell what its form leaves no choice about.
 * In the text so far, where its newest tokens stood before, the tokens behind them may follow
 * again. */
#include "scheduler/scheduler_internal.h"

#include <string.h>

enum {
    KEY = 3,         /* tokens that must be equal */
    REACH = 8192,    /* tokens looked through, the newest first: some microseconds */
    MOST_LOOKED = 8, /* drafts of one look-up */
};

/* Position behind the last earlier place of the newest KEY tokens; 0: there is none. */
static uint32_t find(const uint32_t *tokens, uint32_t n) {
    if (n <= KEY) return 0;
    const uint32_t *key = tokens + n - KEY;
    uint32_t least = n - KEY > REACH ? n - KEY - REACH : 0;
    for (uint32_t at = n - KEY; at-- > least;) {
        if (tokens[at] == key[0] && memcmp(tokens + at, key, KEY * sizeof *key) == 0)
            return at + KEY;
    }
    return 0;
}

/* Drafts are worth their rows while they are likely enough. Other sequences may have filled the
 * next launches with theirs. */
static uint32_t most_worth(const scheduler *sched, draft_source source) {
    const draft_choice *now = &sched->draft_now;
    double rows = (double)sched->n_looping_live + sched->n_looping_tail + sched->n_to_prelude;
    double right = sched__found_agreement(&sched->drafts, source), likely = right;
    uint32_t n = 0;
    for (; n < MOST_LOOKED; n++, likely *= right) {
        if (likely * now->saves_ns <= sched__found_costs_ns(&sched->cost, now, rows + n)) break;
    }
    return n;
}

/* Tokens that may be drafted behind its newest one, up to `most`. */
static uint32_t search(const sequence *seq, uint32_t most, const uint32_t **found) {
    uint32_t n = seq->n_tokens + seq->n_drafts, at = find(seq->tokens, n);
    *found = seq->tokens + at;
    return at == 0 ? 0 : fewer(most, n - at);
}

/* Tokens that are expected behind its newest one, up to `most`: its drafts are the first. */
static uint32_t expect(const sequence *seq, uint32_t most, const uint32_t **found) {
    uint32_t n = sched__expected(seq, found), known = seq->n_drafts;
    if (known >= n || memcmp(*found, seq->tokens + seq->n_tokens, known * sizeof **found) != 0)
        return 0;
    *found += known;
    return fewer(most, n - known);
}

/* The search costs microseconds, for every sequence and token: only where a draft may follow. */
static void draft_behind(scheduler *sched, sequence *seq, draft_source source) {
    uint32_t most = most_worth(sched, source);
    const uint32_t *found;
    if (most == 0 || !sched__may_draft_behind(sched, seq)) return;
    uint32_t n = (source == FROM_TEXT ? search : expect)(seq, most, &found);
    for (uint32_t i = 0; i < n; i++) {
        if (!sched__may_draft_behind(sched, seq)) return;
        if (!sched__draft_behind(sched, seq, found[i], source)) return;
    }
}

void sched__look_up_drafts(scheduler *sched) {
    if (sched->n_to_look_up == 0) return;
    for (list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        sequence *seq = OWNER_OF(link, sequence, rank_link);
        look_up where = (look_up)seq->to_look_up;
        if (where == LOOK_NOWHERE || !sched__has_lead(seq)) continue;
        if (sched__mask(seq) == MASK_WANTED) continue; /* tokens may be expected then */
        sched__want_look_up(sched, seq, LOOK_NOWHERE);
        draft_behind(sched, seq, FROM_CONSTRAINT);
        if (where == LOOK_FOR_TEXT_TOO) draft_behind(sched, seq, FROM_TEXT);
    }
}

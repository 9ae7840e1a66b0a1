/* lookup.c - drafts from the text so far: where its newest tokens stood before, the tokens behind
 * them may follow again. They cost no coda, and several begin at once. */
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

/* Drafts are worth their rows while they are likely enough. */
static uint32_t most_worth(const scheduler *sched) {
    const draft_choice *now = &sched->draft_now;
    double right = sched__lookup_agreement(&sched->drafts), likely = right;
    uint32_t n = 0;
    for (; n < MOST_LOOKED && likely * now->saves_ns > now->costs_ns; n++)
        likely *= right;
    return n;
}

static uint32_t smaller(uint32_t x, uint32_t y) {
    return x < y ? x : y;
}

/* Tokens that may be drafted behind its newest one, up to `most`. */
static uint32_t look_up(const sequence *seq, uint32_t most, const uint32_t **found) {
    uint32_t n = seq->n_tokens + seq->n_drafts, at = find(seq->tokens, n);
    *found = seq->tokens + at;
    return at == 0 ? 0 : smaller(most, n - at);
}

/* The search costs microseconds, for every sequence and token: only where a draft may follow. */
static void draft_from_text(scheduler *sched, sequence *seq) {
    const uint32_t *found;
    uint32_t most = most_worth(sched);
    if (most == 0 || !sched__may_draft_behind(sched, seq)) return;
    for (uint32_t i = 0, n = look_up(seq, most, &found); i < n; i++) {
        if (!sched__may_draft_behind(sched, seq) || !sched__draft_behind(sched, seq, found[i]))
            return;
    }
}

void sched__look_up_drafts(scheduler *sched) {
    if (sched->n_to_look_up == 0) return;
    for (list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        sequence *seq = OWNER_OF(link, sequence, rank_link);
        if (!seq->to_look_up || !sched__has_lead(seq)) continue;
        sched__want_look_up(sched, seq, false);
        draft_from_text(sched, seq);
    }
}

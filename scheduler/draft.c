/* draft.c - speculation: a sequence goes on with a token that is not known yet.
 *
 * A row that still loops names a draft of the next token, by a coda of its own (lookahead.c). The
 * position of the draft begins at once, as many loops behind, and may draft in its turn. When the
 * earlier position leaves the loop, its last coda gives the token. If the draft was the same token,
 * nothing remains to be done: the position behind has read nothing but keys and values of known
 * tokens, so it is the position that would have begun now. Otherwise every position behind is
 * withdrawn: its rows, its slots, its drafts. So drafts decide how fast tokens come, and never
 * which tokens.
 *
 * Draws depend on the seed and on the index of the token alone. The draft is drawn with the draw of
 * the token itself, so it is right whenever both distributions pick the same token.
 *
 * Tokens of drafts stand behind the known ones in seq->tokens, and each has a cohort. */
#include "scheduler/scheduler_internal.h"

static uint32_t least(uint32_t x, uint32_t y) {
    return x < y ? x : y;
}

static void tell(scheduler *sched, const sequence *seq, const cohort *from, uint32_t token) {
    sched_event event = {.id = seq->id,
                         .kind = SCHED_DRAFT,
                         .token = token,
                         .pos = from->first + 1,
                         .depth = from->next_loop};
    sched->sink(sched->ud, &event);
}

void sched__take_draft(scheduler *sched, cohort *coh, uint32_t token) {
    sequence *seq = coh->owner;
    bool behind = coh == seq->last && coh->first + 1 == seq->n_tokens + seq->n_drafts;
    if (!behind || sched->n_free_rows == 0) return;
    sched->stats.draft_chains += seq->n_drafts == 0;
    sched->stats.draft_tokens++;
    seq->tokens[seq->n_tokens + seq->n_drafts++] = token;
    sched__start_draft(sched, seq, coh->next_loop);
    if (seq->req.tell_drafts) tell(sched, seq, coh, token);
}

static cohort *first_draft(const sequence *seq) {
    cohort *coh = seq->last;
    while (coh->before && coh->before->draft)
        coh = coh->before;
    return coh;
}

/* The place of a draft counts the drafts without a verdict when it was drawn. */
static void accept(scheduler *sched, sequence *seq, cohort *coh) {
    sched__learn_draft(&sched->drafts, coh->drafted_after, true);
    sched->stats.drafts_accepted++;
    sched->stats.accepted_by_place[least(coh->place, SCHED_DRAFT_PLACES - 1)]++;
    seq->n_drafts--;
    sched__keep_draft(sched, coh);
}

bool sched__judge_draft(scheduler *sched, sequence *seq, uint32_t token) {
    if (seq->n_drafts == 0) return false;
    cohort *coh = first_draft(seq);
    if (seq->tokens[seq->n_tokens] == token) {
        accept(sched, seq, coh);
        return true;
    }
    sched__learn_draft(&sched->drafts, coh->drafted_after, false);
    sched__withdraw_drafts(sched, seq);
    return false;
}

static void count_withdrawn(scheduler *sched, const cohort *coh) {
    sched->stats.drafts_withdrawn++;
    sched->stats.withdrawn_rows += coh->n_run;
}

void sched__withdraw_drafts(scheduler *sched, sequence *seq) {
    for (; seq->n_drafts > 0; seq->n_drafts--) {
        count_withdrawn(sched, seq->last);
        sched__undo_last(sched, seq);
    }
}

void sched__forget_drafts(scheduler *sched, const sequence *seq) {
    const cohort *coh = seq->last;
    for (uint32_t i = 0; i < seq->n_drafts; i++, coh = coh->before)
        count_withdrawn(sched, coh);
}

bool sched__withdraw_some(scheduler *sched, uint32_t home) {
    if (sched->n_draft_rows == 0) return false;
    for (list_link *link = sched->running.prev; link != &sched->running; link = link->prev) {
        sequence *seq = OWNER_OF(link, sequence, rank_link);
        if (seq->prefix_key.home != home || seq->n_drafts == 0) continue;
        sched__withdraw_drafts(sched, seq);
        return true;
    }
    return false;
}

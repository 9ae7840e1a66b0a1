/* draft.c - speculation: a sequence goes on with a token that is not known yet.
 *
 * A row that still loops, also the last one of a prompt, names a draft of the next token, by a coda
 * of its own (lookahead.c). The position of the draft begins at once, as many loops behind, and may
 * draft in its turn. After more loops the row may name the token anew: if it is another one,
 * everything behind is withdrawn and begins with the new token. When the row leaves the loop, its
 * last coda gives the token itself. If the draft was the same token, nothing remains to be done:
 * the position behind has read nothing but keys and values of known tokens, so it is the position
 * that would have begun now. Otherwise every position behind is withdrawn: its rows, its slots, its
 * drafts. So drafts decide how fast tokens come, and never which tokens.
 *
 * A draft is drawn in the race of the token itself, whose random numbers follow from the seed, the
 * index and the id. So it is right whenever the same token wins by both distributions.
 *
 * Tokens of drafts stand behind the known ones in seq->tokens, and each has a cohort. */
#include "scheduler/scheduler_internal.h"

static void tell(scheduler *sched, const sequence *seq, const cohort *from, uint32_t token,
                 uint16_t loops) {
    sched_event event = {.id = seq->id,
                         .kind = SCHED_DRAFT,
                         .token = token,
                         .pos = sched__next_pos(from),
                         .depth = loops};
    sched->sink(sched->ud, &event);
}

static void count_withdrawn(scheduler *sched, const cohort *coh) {
    sched->stats.drafts_withdrawn++;
    sched->stats.withdrawn_rows += coh->n_run;
}

void sched__count_lost_drafts(scheduler *sched, const sequence *seq) {
    const cohort *coh = seq->last;
    for (uint32_t i = 0; i < seq->n_drafts; i++, coh = coh->before)
        count_withdrawn(sched, coh);
}

/* Every draft from position `from` on. */
static void withdraw(scheduler *sched, sequence *seq, uint32_t from) {
    for (; seq->n_drafts > 0 && seq->last->first >= from; seq->n_drafts--) {
        count_withdrawn(sched, seq->last);
        sched__undo_last(sched, seq);
    }
}

static void record(cohort *coh, uint32_t token) {
    draft_record *drawn = &coh->drawn;
    uint16_t loops = coh->drew_after;
    if (drawn->last == 0) drawn->first = token;
    if (drawn->last == 0 || drawn->newest != token) drawn->changed = loops;
    drawn->newest = token;
    drawn->last = loops;
    drawn->loops[loops / 64] |= UINT64_C(1) << loops % 64;
}

static void begin_draft(scheduler *sched, const cohort *coh, uint32_t token, uint16_t loops) {
    sequence *seq = coh->owner;
    sched->stats.draft_chains += seq->n_drafts == 0;
    sched->stats.draft_tokens++;
    seq->tokens[seq->n_tokens + seq->n_drafts++] = token;
    sched__start_draft(sched, seq);
    if (seq->req.tell_drafts) tell(sched, seq, coh, token, loops);
}

/* With several launches in flight the verdict may have come before the draft. */
void sched__take_draft(scheduler *sched, cohort *coh, uint32_t token) {
    sequence *seq = coh->owner;
    uint32_t pos = sched__next_pos(coh);
    if (pos < seq->n_tokens) return;
    record(coh, token);
    coh->drafting = token == ENG_NO_TOKEN ? DRAFT_ENDS : DRAFTS_NOTHING;
    if (coh != seq->last) {
        if (seq->tokens[pos] == token || sched__outranks(sched, coh->after, coh->drew_after))
            return;
        withdraw(sched, seq, pos);
    }
    if (token == ENG_NO_TOKEN || sched->n_free_rows == 0) return;
    begin_draft(sched, coh, token, coh->drew_after);
    sched__want_look_up(sched, seq, LOOK_FOR_TEXT_TOO);
}

/* Its mask, if that is known already, allows the token. */
static bool may_come(const sequence *seq, uint32_t pos, uint32_t token) {
    if (!sched__knows_mask(seq, pos)) return true;
    const eng_mask *mask = sched__mask_at(seq, pos);
    return mask == NULL || eng_mask_allows(mask, token);
}

bool sched__draft_behind(scheduler *sched, sequence *seq, uint32_t token, draft_source source) {
    if (seq_is_stop(seq, token) || !may_come(seq, seq->next_start, token)) return false;
    begin_draft(sched, seq->last, token, seq->last->next_loop);
    seq->last->source = (uint8_t)source;
    sched->n_found_rows++;
    sched->stats.text_drafts += source == FROM_TEXT;
    sched->stats.forced_drafts += source == FROM_CONSTRAINT;
    return true;
}

/* ---- verdicts ---- */

/* The cohort of the newest known token. */
static cohort *newest_known(const sequence *seq) {
    cohort *coh = seq->last;
    while (coh && coh->first >= seq->n_tokens)
        coh = coh->before;
    return coh;
}

static void learn(scheduler *sched, const draft_record *drawn, uint32_t token) {
    if (drawn->last > 0) sched__age_drafts(&sched->drafts, 1);
    for (uint32_t i = 0; i <= drawn->last / 64u; i++) {
        for (uint64_t left = drawn->loops[i]; left; left &= left - 1) {
            uint32_t loops = 64 * i + (uint32_t)__builtin_ctzll(left);
            uint32_t named = loops < drawn->changed ? drawn->first : drawn->newest;
            sched__learn_draft(&sched->drafts, loops, named == token);
        }
    }
}

/* The place of a draft counts the drafts without a verdict when it was drawn. */
static void accept(scheduler *sched, sequence *seq, cohort *coh) {
    sched->stats.drafts_accepted++;
    sched->stats.text_drafts_accepted += coh->source == FROM_TEXT;
    sched->stats.forced_drafts_accepted += coh->source == FROM_CONSTRAINT;
    sched->stats.accepted_by_place[fewer(coh->place, SCHED_DRAFT_PLACES - 1)]++;
    seq->n_drafts--;
    sched__keep_draft(sched, coh);
}

bool sched__judge_draft(scheduler *sched, sequence *seq, uint32_t token) {
    cohort *judge = newest_known(seq);
    if (judge) learn(sched, &judge->drawn, token);
    if (seq->n_drafts == 0) return false;
    cohort *draft = judge ? judge->after : seq->first;
    bool right = seq->tokens[seq->n_tokens] == token;
    if (draft->source != FROM_LOOPS) sched__learn_found(&sched->drafts, draft->source, right);
    if (right) {
        accept(sched, seq, draft);
        return true;
    }
    withdraw(sched, seq, seq->n_tokens);
    return false;
}

bool sched__withdraw_some(scheduler *sched, uint32_t home) {
    if (sched->n_draft_rows == 0) return false;
    for (list_link *link = sched->running.prev; link != &sched->running; link = link->prev) {
        sequence *seq = OWNER_OF(link, sequence, rank_link);
        if (seq->prefix_key.home != home || seq->n_drafts == 0) continue;
        withdraw(sched, seq, seq->n_tokens);
        return true;
    }
    return false;
}

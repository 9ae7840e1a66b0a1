/* prelude_coda.c - prelude and coda: the stages before and after the loops. */
#include "scheduler/scheduler_internal.h"

/* ---- prelude ---- */

void sched__choose_prelude(scheduler *sched, flight *next) {
    uint32_t n_rows = 0;
    for (list_link *link = sched->to_prelude.next; link != &sched->to_prelude; link = link->next) {
        cohort *coh = OWNER_OF(link, cohort, stage_link);
        if (n_rows + coh->n_rows > sched->max_rows)
            break; /* in order: a chunk needs the one before */
        n_rows += coh->n_rows;
        sched__pick(next, coh, coh->first_row, coh->n_rows);
    }
}

void sched__build_prelude(scheduler *sched, flight *next) {
    const model_plan *plan = sched->plan;
    for (uint32_t i = 0; i < next->n_picks; i++) {
        picked *pick = &next->picks[i];
        const sequence *seq = pick->cohort->owner;
        pick->cohort->n_run += pick->n_rows;
        for (uint32_t row = pick->first_row; row != NONE; row = sched->rows[row].next) {
            eng_row *entry = sched__add_row(sched, next, pick, row);
            if (entry->pos >= seq->req.n_prompt) entry->flags |= ENG_ROW_GENERATED;
            for (uint32_t k = 0; k < plan->n_prelude; k += plan->n_core)
                (void)sched__place(sched, next, seq, row, plan_plane_prelude(plan, k), 1);
        }
    }
}

static void enter_loop(scheduler *sched, cohort *coh) {
    list_remove(&coh->stage_link);
    sched->n_to_prelude -= coh->n_rows;
    list_insert_before(&sched->looping[coh->list], &coh->loop_link);
    coh->looping = true;
    sched->n_looping_live += coh->n_live;
    if (!coh->timed && coh->owner->coda_next == coh->first) sched__restart_frontier(coh->owner);
    sched__raise_frontier(sched, coh);
}

void sched__started_prelude(scheduler *sched, flight *next) {
    for (uint32_t i = 0; i < next->n_picks; i++)
        enter_loop(sched, next->picks[i].cohort);
}

void sched__settle_prelude(flight *done) {
    for (uint32_t i = 0; i < done->n_picks; i++) {
        if (done->picks[i].cohort) sched__unpick(&done->picks[i]);
    }
}

/* ---- coda ---- */

/* Takes rows of coh while rows and heads allow. False when the launch is full. */
static bool choose_coda_rows(scheduler *sched, flight *next, cohort *coh, uint32_t *n_rows,
                             uint32_t *n_heads) {
    uint32_t n = 0, row = coh->coda_row;
    for (; row != NONE; row = sched->rows[row].next, n++) {
        bool head = sched__head_wanted(sched, coh->owner, sched->rows[row].pos) != 0;
        if (*n_rows == sched->max_rows) break;
        if (head && *n_heads == sched->backend->info.max_logits) break;
        *n_rows += 1;
        *n_heads += head;
    }
    if (n > 0) sched__pick(next, coh, coh->coda_row, n);
    return row == NONE;
}

/* The keys and values that the coda of coh reads are written, or will be in this launch. */
static bool can_read(const scheduler *sched, const flight *next, const cohort *coh) {
    if (plan_planes_coda(sched->plan) == 0) return true;
    for (coh = coh->before; coh && !coh->coda_placed; coh = coh->before) {
        if (coh->coda_row != NONE && !sched__is_picked(next, coh)) return false;
    }
    return true;
}

/* Takes all rows of coh that its draft needs. False when they have no room. */
static bool choose_draft_rows(const scheduler *sched, flight *next, cohort *coh, uint32_t *n_rows,
                              uint32_t *n_heads) {
    uint32_t n = sched__draft_rows(sched, coh);
    bool head = coh->drafting == DRAFT_WAITS;
    if (*n_rows + n > sched->max_rows) return false;
    if (head && *n_heads == sched->backend->info.max_logits) return false;
    *n_rows += n;
    *n_heads += head;
    sched__pick(next, coh, n == coh->n_rows ? coh->first_row : coh->last_row, n);
    next->picks[next->n_picks - 1].draft = true;
    return true;
}

/* Rows with finished positions first: their results come first, and decide over the drafts. */
void sched__choose_coda(scheduler *sched, flight *next) {
    uint32_t n_rows = 0, n_heads = 0;
    for (list_link *link = sched->to_coda.next; link != &sched->to_coda; link = link->next) {
        cohort *coh = OWNER_OF(link, cohort, stage_link);
        if (!choose_coda_rows(sched, next, coh, &n_rows, &n_heads)) return;
    }
    for (list_link *link = sched->to_draft.next, *after; link != &sched->to_draft; link = after) {
        cohort *coh = OWNER_OF(link, cohort, stage_link);
        after = link->next;
        if (!can_read(sched, next, coh)) {
            sched__take_draft_offer(sched, coh); /* it may offer again */
            continue;
        }
        if (!choose_draft_rows(sched, next, coh, &n_rows, &n_heads)) return;
    }
}

static const eng_draw *add_draw(flight *next, const sequence *seq, uint32_t pos, bool draft) {
    eng_draw *draw = &next->draws[next->n_draws++];
    *draw = (eng_draw){&seq->req.sampling, pos + 1 - seq->req.n_prompt, draft ? 0 : seq->req.n_top};
    return draw;
}

/* The row may be wanted for more than its keys and values. */
static bool names_token(const picked *pick, uint32_t row) {
    const cohort *coh = pick->cohort;
    return !pick->draft || (coh->drafting == DRAFT_WAITS && row == coh->last_row);
}

static void add_coda_row(scheduler *sched, flight *next, picked *pick, uint32_t at) {
    const sequence *seq = pick->cohort->owner;
    const model_plan *plan = sched->plan;
    eng_row *row = sched__add_row(sched, next, pick, at);
    row->flags = names_token(pick, at) ? sched__head_wanted(sched, seq, row->pos) : 0;
    if (row->flags & ENG_ROW_SAMPLE) row->draw = add_draw(next, seq, row->pos, pick->draft);
    next->n_heads += row->flags != 0;
    if (pick->draft) row->flags |= ENG_ROW_DRAFT;
    if (pick->cohort->coda_placed) return;
    for (uint32_t i = 0; i < plan->n_coda; i += plan->n_core)
        (void)sched__place(sched, next, seq, at, plan_plane_coda(plan, i), 1);
}

void sched__build_coda(scheduler *sched, flight *next) {
    for (uint32_t i = 0; i < next->n_picks; i++) {
        picked *pick = &next->picks[i];
        uint32_t row = pick->first_row;
        for (uint32_t k = 0; k < pick->n_rows; k++, row = sched->rows[row].next)
            add_coda_row(sched, next, pick, row);
        pick->cohort->coda_placed |= pick->draft;
        pick->cohort->n_run += pick->n_rows;
    }
}

/* Rows leave the coda's queue when they are started, so no row is sampled twice. */
void sched__started_coda(scheduler *sched, flight *next) {
    for (uint32_t i = 0; i < next->n_picks; i++) {
        cohort *coh = next->picks[i].cohort;
        uint32_t n = next->picks[i].n_rows;
        if (next->picks[i].draft) {
            bool names = coh->drafting == DRAFT_WAITS;
            sched__take_draft_offer(sched, coh);
            coh->drafting = names ? DRAFT_IS_OUT : DRAFTS_NOTHING;
            coh->drew_after = coh->next_loop; /* a loop more may start before the token is here */
            sched->stats.draft_heads += names;
            continue;
        }
        sched->n_to_coda -= n;
        coh->n_coda -= n;
        while (n-- > 0)
            coh->coda_row = sched->rows[coh->coda_row].next;
        if (coh->coda_row == NONE) list_remove(&coh->stage_link);
    }
}

typedef struct { /* results not read yet */
    const float *logits;
    const eng_choice *choices;
} heads;

/* One position is through its coda. Its result may end the sequence, and the cohort with it. */
static void settle_coda_row(scheduler *sched, picked *pick, const eng_row *row, heads unread) {
    sequence *seq = pick->cohort->owner;
    const row_info info = sched->rows[row->row];
    seq->coda_next = info.pos + 1;
    sched__finish_position(sched, seq, info.pos, info.depth,
                           row->flags & ENG_ROW_LOGITS ? unread.logits : NULL,
                           row->flags & ENG_ROW_SAMPLE ? unread.choices : NULL);
    if (seq->state == SEQ_RUNNING) sched__note_loops(sched, seq);
    cohort *coh = pick->cohort;
    if (info.next != NONE || coh == NULL) return;
    sched__unpick(pick);
    sched__settle_cohort(sched, coh);
}

static void settle_row(scheduler *sched, picked *pick, const eng_row *row, heads unread) {
    if (!pick->draft) {
        settle_coda_row(sched, pick, row, unread);
        return;
    }
    if (row->flags == ENG_ROW_DRAFT) return; /* names no token */
    cohort *coh = pick->cohort;
    sched__unpick(pick);
    sched__finish_draft(sched, coh, row->flags & ENG_ROW_LOGITS ? unread.logits : NULL,
                        row->flags & ENG_ROW_SAMPLE ? unread.choices : NULL);
}

void sched__settle_coda(scheduler *sched, flight *done, const eng_result *result) {
    heads unread = {result->logits, result->choices};
    for (uint32_t i = 0; i < done->n_rows; i++) {
        const eng_row *row = &done->rows[i];
        picked *pick = done->origins[i].pick;
        if (sched->beat && row->flags) sched->beat(sched->ud); /* logits: up to a millisecond */
        if (pick->cohort) settle_row(sched, pick, row, unread);
        if (row->flags & ENG_ROW_LOGITS) unread.logits += sched->plan->vocab_size;
        if (row->flags & ENG_ROW_SAMPLE) unread.choices++;
    }
    sched->stats.head_rows += done->n_heads;
    for (uint32_t i = 0; i < done->n_picks; i++) { /* cohorts with rows left for the next coda */
        if (done->picks[i].cohort) sched__unpick(&done->picks[i]);
    }
}

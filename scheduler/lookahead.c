/* lookahead.c - which rows draft the next token, and when their coda is worth a flush. */
#include "scheduler/scheduler_internal.h"

#include <math.h>

/* ---- how all sequences draft at present ---- */

static draft_load load_of(const scheduler *sched) {
    const sched_opts *opts = &sched->limits.opts;
    double depth = opts->default_max_loops, mean = sched->cost.mean_output_depth;
    bool runs_all = exit_rule_runs_all(sched->limits.exit, opts->default_threshold);
    if (!runs_all && mean > 0 && mean < depth) depth = mean;
    uint32_t n = 0, begin = 0; /* sequences that generate; that begin to */
    for (list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        const sequence *seq = OWNER_OF(link, sequence, rank_link);
        n += seq->n_tokens > seq->req.n_prompt;
        begin += seq->next_start >= seq->n_tokens;
    }
    double rows = (double)sched->n_looping_live + sched->n_looping_tail;
    double others = rows - sched->n_decode_rows - sched->n_draft_rows;
    if (n == 0) n = begin, others = 0; /* no sequence generates while its own prompt runs */
    return (draft_load){.sequences = n,
                        .other_rows = others > 0 ? others : 0,
                        .depth = depth,
                        .in_step = runs_all,
                        .max_loops = opts->default_max_loops,
                        .max_rows = sched->max_rows};
}

static void choose(const scheduler *sched, const draft_load *load, draft_choice *out) {
    const sched_opts *opts = &sched->limits.opts;
    bool chosen = opts->drafts == SCHED_DRAFTS_AUTO;
    uint32_t most = chosen || opts->drafts > SCHED_MAX_DRAFTS ? SCHED_MAX_DRAFTS : opts->drafts;
    sched__choose_draft(&sched->cost, &sched->drafts, load, opts->draft_loops, most, out);
    if (chosen) return;
    out->trial = false;
    out->coda_rows = UINT32_MAX;
    if (out->loops > 0) return;
    /* The user wants drafts although they seem not to pay. */
    double evenly = ceil(load->depth / (most + 1));
    uint32_t loops = opts->draft_loops ? opts->draft_loops : (uint32_t)evenly;
    out->loops = (uint16_t)loops;
    out->most = (uint16_t)most;
}

void sched__plan_drafts(scheduler *sched) {
    enum { PLAN_EVERY = 8 }; /* recurrent launches */
    uint64_t now = sched->stats.launches[ENG_STAGE_RECURRENT];
    if (now < sched->drafts_planned + PLAN_EVERY && sched->drafts_planned > 0) return;
    draft_load load = load_of(sched);
    if (load.sequences == 0) return;
    sched->drafts_planned = now;
    choose(sched, &load, &sched->draft_now);
    sched->stats.draft_loops_now = sched->draft_now.loops;
    sched->stats.drafts_now = sched->draft_now.most;
}

/* ---- which rows draft ---- */

/* It has the newest row of its sequence, loops on, and nothing is known behind it. */
static bool leads(const cohort *coh) {
    const sequence *seq = coh->owner;
    return !coh->timed && coh == seq->last && coh->n_live > 0 &&
           sched__next_pos(coh) == seq->n_tokens + seq->n_drafts;
}

/* Its next token, if drafted, would be run and not only put out. */
static bool goes_on(const sequence *seq, const cohort *coh) {
    return (uint64_t)sched__next_pos(coh) + 1 < (uint64_t)seq->req.n_prompt + seq->req.max_tokens;
}

/* It has not named a token yet, or would name a better one now. */
static bool check_is_due(const scheduler *sched, const cohort *coh) {
    const draft_choice *now = &sched->draft_now;
    if (coh->drawn.last == 0) return now->loops > 0 && coh->next_loop >= now->loops;
    return sched__check_is_due(now, coh->drawn.last, coh->next_loop);
}

bool sched__outranks(const scheduler *sched, const cohort *draft, uint32_t loops) {
    return draft->source != FROM_LOOPS && sched__found_agreement(&sched->drafts, draft->source) >
                                              sched__agreement(&sched->drafts, loops);
}

/* Drafts behind coh run, and it is deep enough to name their first token better. */
static bool may_check(const scheduler *sched, const cohort *coh) {
    return coh->n_live > 0 && coh->drafting == DRAFTS_NOTHING && coh->after && coh->after->draft &&
           coh->next_loop < coh->owner->prefix_key.max_loops && list_empty(&coh->stage_link) &&
           check_is_due(sched, coh) && !sched__outranks(sched, coh->after, coh->next_loop);
}

/* Its keys and values for the coda are written, or will be in the next coda: by a draft at least.
 */
static bool enters_coda(const scheduler *sched, const cohort *coh) {
    if (coh->coda_placed || coh->coda_row == NONE) return true;
    if (coh->n_live == 0) return !list_empty(&coh->stage_link) && !coh->awaits_mask;
    return sched__waits_to_draft(coh) || may_check(sched, coh);
}

uint32_t sched__draft_rows(const scheduler *sched, const cohort *coh) {
    return coh->coda_placed || plan_planes_coda(sched->plan) == 0 ? 1 : coh->n_rows;
}

/* A chunk of known tokens may write its keys and values for the coda as a draft writes its own. */
static bool may_join(const cohort *coh) {
    return !coh->decode && coh->looping && coh->n_live > 0 && coh->drafting == DRAFTS_NOTHING &&
           list_empty(&coh->stage_link);
}

/* Rows that run the coda so that coh names a token, without those that run it anyway; 0: it cannot
 * yet. As far as can be told now: the launch asks again when it is chosen. */
static uint32_t rows_to_name(const scheduler *sched, const cohort *coh) {
    uint32_t n = sched__draft_rows(sched, coh);
    if (plan_planes_coda(sched->plan) == 0) return n;
    for (coh = coh->before; coh && !coh->coda_placed; coh = coh->before) {
        if (enters_coda(sched, coh)) continue;
        if (!may_join(coh)) return 0;
        n += coh->n_rows;
    }
    return n;
}

/* Drafts take rows, places in launches and pages only where they are free. A quarter of the rows,
 * and the pages of two positions more, stay for known tokens. */
static bool has_room(const scheduler *sched, const sequence *seq) {
    uint64_t pages, blocks, looping = (uint64_t)sched->n_looping_live + sched->n_looping_tail;
    if (!list_empty(&sched->want_decode) || !list_empty(&sched->want_prompt)) return false;
    if (sched->n_free_rows <= sched->n_rows / 4 + sched->n_to_draft) return false;
    if (looping + sched->n_to_prelude + sched->n_to_draft >= sched->max_rows) return false;
    sched__room_for(sched__cache_of(sched, seq), seq->req.tenant, &pages, &blocks);
    uint64_t each = sched->n_planes / PAGE_SLOTS + 1, n = (uint64_t)sched->n_draft_rows + 2;
    return pages >= n * each + sched->home_running[seq->prefix_key.home] && blocks >= n;
}

/* Drafts of loops. *judge: the cohort in front of all drafts, or NULL. */
static uint32_t named_drafts(const sequence *seq, const cohort **judge) {
    uint32_t n = 0;
    *judge = seq->last;
    for (uint32_t i = 0; i < seq->n_drafts; i++, *judge = (*judge)->before)
        n += (*judge)->source == FROM_LOOPS;
    return n;
}

/* Drafts of loops without a verdict at hand. */
static uint32_t open_drafts(const sequence *seq) {
    const cohort *judge;
    uint32_t n = named_drafts(seq, &judge);
    return n - (n > 0 && (judge == NULL || judge->n_live == 0));
}

/* On trial, one sequence drafts at a time. Its codas are for it alone, so they may cost a small
 * part of all time, and less of it where other sequences wait for them. Some are free, since at
 * first no time has passed. */
static bool has_turn(const scheduler *sched, const sequence *seq) {
    enum { FREE_CODAS = 24 };
    static const double part_alone = 0.1, part_beside_others = 0.02;
    double part = sched->n_running == 1 ? part_alone : part_beside_others;
    const uint64_t *ns = sched->stats.launch_ns;
    const cohort *judge;
    if (!sched->draft_now.trial || named_drafts(seq, &judge) > 0) return true;
    double all =
        (double)(ns[0] + ns[1] + ns[2]) + FREE_CODAS * sched__flush_base_ns(&sched->cost) / part;
    bool alone = sched->n_draft_rows - sched->n_found_rows + sched->n_to_draft == 0;
    return alone && sched->trial_ns < part * all;
}

bool sched__has_lead(const sequence *seq) {
    return seq->last && leads(seq->last);
}

bool sched__may_draft_behind(const scheduler *sched, const sequence *seq) {
    const sched_opts *opts = &sched->limits.opts;
    uint32_t most = opts->drafts < SCHED_MAX_DRAFTS ? opts->drafts : SCHED_MAX_DRAFTS;
    return sched__has_lead(seq) && seq->n_drafts < most && goes_on(seq, seq->last) &&
           has_room(sched, seq);
}

static bool may_draft(const scheduler *sched, const cohort *coh) {
    const sequence *seq = coh->owner;
    const draft_choice *now = &sched->draft_now;
    bool may = now->loops > 0 && coh->drafting == DRAFTS_NOTHING && coh->looping &&
               coh->next_loop >= now->loops && coh->next_loop < seq->prefix_key.max_loops &&
               open_drafts(seq) < now->most && leads(coh) && goes_on(seq, coh);
    uint32_t n_rows = may ? rows_to_name(sched, coh) : 0;
    return n_rows > 0 && n_rows <= now->coda_rows && has_turn(sched, seq) && has_room(sched, seq);
}

static void queue_draft(scheduler *sched, cohort *coh, list_link *before) {
    coh->drafting = DRAFT_WAITS;
    list_insert_before(before, &coh->stage_link);
    sched->n_to_draft++;
}

/* The chunks that coh reads in the coda and that have not been there, earlier positions first. */
static void queue_joining(const scheduler *sched, cohort *coh) {
    list_link *before = &coh->stage_link;
    if (plan_planes_coda(sched->plan) == 0) return;
    for (coh = coh->before; coh && !coh->coda_placed; coh = coh->before) {
        if (enters_coda(sched, coh)) continue;
        coh->drafting = DRAFT_JOINS;
        list_insert_before(before, &coh->stage_link);
        before = &coh->stage_link;
    }
}

/* Of a coda only for the draft of coh. */
static double trial_costs_ns(const scheduler *sched, const cohort *coh) {
    const cost_fit *coda = &sched->cost.stage[ENG_STAGE_CODA];
    return sched__flush_base_ns(&sched->cost) + rows_to_name(sched, coh) * coda->row_ns;
}

void sched__offer_draft(scheduler *sched, cohort *coh) {
    if (!sched->rules.drafts) return;
    if (sched__waits_to_draft(coh)) {
        if (coh->n_live == 0) sched__take_draft_offer(sched, coh);
    } else if (may_draft(sched, coh)) {
        if (sched->draft_now.trial) sched->trial_ns += trial_costs_ns(sched, coh);
        queue_draft(sched, coh, &sched->to_draft);
        queue_joining(sched, coh);
    }
}

/* Before rows that draft for the first time, earlier positions first: if one of them names another
 * token, the later ones are gone. */
void sched__offer_checks(scheduler *sched) {
    list_link *at = sched->to_draft.next;
    for (list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        const sequence *seq = OWNER_OF(link, sequence, rank_link);
        if (seq->n_drafts == 0) continue;
        for (cohort *coh = seq->first; coh->after; coh = coh->after) {
            if (may_check(sched, coh) && rows_to_name(sched, coh) == 1) queue_draft(sched, coh, at);
        }
    }
}

void sched__take_draft_offer(scheduler *sched, cohort *coh) {
    list_remove(&coh->stage_link);
    sched->n_to_draft -= coh->drafting == DRAFT_WAITS;
    coh->drafting = DRAFTS_NOTHING;
}

void sched__want_look_up(scheduler *sched, sequence *seq, look_up where) {
    if (where != LOOK_NOWHERE && seq->to_look_up >= where) return;
    sched->n_to_look_up += where != LOOK_NOWHERE;
    sched->n_to_look_up -= seq->to_look_up != LOOK_NOWHERE;
    seq->to_look_up = (uint8_t)where;
}

/* ---- sequences that wait for a coda ---- */

/* The verdict on seq's drafts is not urgent: its newest row goes on, or will name another draft. */
static bool runs_ahead(const scheduler *sched, const sequence *seq) {
    const cohort *coh = seq->last;
    return seq->n_drafts > 0 && open_drafts(seq) < sched->draft_now.most && coh->n_live == 1 &&
           coh->drafting != DRAFT_ENDS && goes_on(seq, coh);
}

uint32_t sched__held_up(const scheduler *sched) {
    uint32_t n = sched->n_to_draft;
    const list_link *link = sched->to_coda.next;
    for (; link != &sched->to_coda; link = link->next) {
        const cohort *coh = OWNER_OF((uintptr_t)link, cohort, stage_link);
        if (!runs_ahead(sched, coh->owner)) n += coh->n_coda;
    }
    return n;
}

/* Sequences with a newest cohort that loops on, or all live rows of these cohorts. */
static uint32_t leading(const scheduler *sched, bool rows) {
    uint32_t n = 0;
    for (list_link *link = sched->running.next; link != &sched->running; link = link->next) {
        const cohort *coh = OWNER_OF(link, sequence, rank_link)->last;
        if (coh == NULL || !coh->looping || sched__waits_to_draft(coh)) continue;
        n += rows ? coh->n_live : coh->n_live > 0;
    }
    return n;
}

/* A row of a recurrent launch counts as if it went on. */
static bool drafts_after(const scheduler *sched, const flight *out, const picked *pick) {
    const cohort *coh = pick->cohort;
    if (coh == NULL) return false;
    return out->stage == ENG_STAGE_CODA ? pick->draft && leads(coh) : may_draft(sched, coh);
}

/* On trial, the one that drafts must do so after the loops that are on trial: verdicts on others
 * would never end the trial. */
bool sched__draft_goes_first(const scheduler *sched, const flight *out, double loop_ns) {
    uint32_t n = 0, all = leading(sched, false);
    for (uint32_t i = 0; i < out->n_picks && sched->draft_now.loops > 0; i++)
        n += drafts_after(sched, out, &out->picks[i]);
    if (n == 0 || sched->draft_now.trial) return n > 0;
    double part = n < all ? (double)n / all : 1;
    return part * loop_ns > sched->ahead.host_ns[out->stage];
}

uint32_t sched__leading(const scheduler *sched) {
    return leading(sched, true);
}

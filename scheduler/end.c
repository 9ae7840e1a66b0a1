/* end.c - sequences end: by their last token, an error, a cancel, or all together. */
#include "base/clock.h"
#include "scheduler/scheduler_internal.h"

static sched_event end_event(const sequence *seq) {
    uint64_t admit = seq->t_admit ? seq->t_admit : seq->t_last;
    uint64_t first = seq->t_first ? seq->t_first : seq->t_last;
    return (sched_event){.id = seq->id,
                         .kind = SCHED_END,
                         .n_prompt = seq->req.n_prompt,
                         .n_cached = seq->n_cached,
                         .n_output = seq_n_output(seq),
                         .prompt_loops = seq->prompt_loops,
                         .output_loops = seq->output_loops,
                         .queued_ns = admit - seq->t_submit,
                         .prefill_ns = first - admit,
                         .decode_ns = seq->t_last - first};
}

/* Callers still look at the state of seq, so it is freed later. */
void sched__end(scheduler *sched, sequence *seq, sched_finish finish, err_code why,
                uint32_t stop_id) {
    sched__release(sched, seq);
    seq->state = SEQ_ENDED;
    if (seq->t_last == 0) seq->t_last = clock_ns();
    seq->end_event = end_event(seq);
    seq->end_event.finish = finish;
    seq->end_event.why = why;
    seq->end_event.stop_id = stop_id;
    sched->stats.finished[finish]++;
    bool whole = finish == SCHED_STOP || finish == SCHED_LENGTH;
    if (whole && seq->req.max_tokens > 0) sched__learn_length(&sched->cost, seq_n_output(seq));
    if (!sched->driver_reports_ends) sched->sink(sched->ud, &seq->end_event);
    seq->rank_link.next = sched->ended ? &sched->ended->rank_link : NULL;
    sched->ended = seq;
}

sequence *sched__take_ended(scheduler *sched) {
    sequence *seq = sched->ended;
    if (seq == NULL) return NULL;
    list_link *next = seq->rank_link.next;
    sched->ended = next ? OWNER_OF(next, sequence, rank_link) : NULL;
    return seq;
}

void sched__end_all(scheduler *sched, sched_finish finish, err_code why) {
    while (!list_empty(&sched->running)) {
        sched__end(sched, OWNER_OF(sched->running.next, sequence, rank_link), finish, why, 0);
    }
    for (uint32_t i = 0; i < sched->n_tenants; i++) {
        list_link *waiting = &sched->tenants[i].waiting;
        while (!list_empty(waiting))
            sched__end(sched, OWNER_OF(waiting->next, sequence, rank_link), finish, why, 0);
    }
}

/* ---- some of them ---- */

static void end_if_cancelled(scheduler *sched, sequence *seq) {
    if (!atomic_load_explicit(&seq->cancel_wanted, memory_order_relaxed)) return;
    sched__end(sched, seq, SCHED_CANCELLED, ERR_NONE, 0);
}

static void end_if_unmasked(scheduler *sched, sequence *seq) {
    if (sched__mask(seq) != MASK_FAILED) return;
    sched__end(sched, seq, SCHED_FAILED, seq->mask_error, 0);
}

static void visit(scheduler *sched, list_link *list, void (*end_if)(scheduler *, sequence *)) {
    for (list_link *link = list->next, *next; link != list; link = next) {
        next = link->next;
        end_if(sched, OWNER_OF(link, sequence, rank_link));
    }
}

static void visit_all(scheduler *sched, void (*end_if)(scheduler *, sequence *)) {
    visit(sched, &sched->running, end_if);
    for (uint32_t i = 0; i < sched->n_tenants; i++)
        visit(sched, &sched->tenants[i].waiting, end_if);
}

void sched__end_cancelled(scheduler *sched) {
    sched->cancels_wanted = false;
    visit_all(sched, end_if_cancelled);
}

void sched__end_unmasked(scheduler *sched) {
    if (!atomic_exchange_explicit(&sched->masks_failed, false, memory_order_acq_rel)) return;
    visit_all(sched, end_if_unmasked);
}

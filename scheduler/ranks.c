/* ranks.c - the waiting and the running sequences, in rank order: aged priority, then arrival.
 *
 * Each tenant has a waiting list; one running list holds the sequences of all tenants. */
#include "scheduler/scheduler_internal.h"

static bool ranks_before(const sequence *x, const sequence *y) {
    return x->order != y->order ? x->order < y->order : x->arrival < y->arrival;
}

static void insert_from_back(list_link *list, sequence *seq) {
    list_link *at = list;
    while (at->prev != list && ranks_before(seq, OWNER_OF(at->prev, sequence, rank_link)))
        at = at->prev;
    list_insert_before(at, &seq->rank_link);
}

static void insert_from_front(list_link *list, sequence *seq) {
    list_link *at = list->next;
    while (at != list && ranks_before(OWNER_OF(at, sequence, rank_link), seq))
        at = at->next;
    list_insert_before(at, &seq->rank_link);
}

static void enqueue(scheduler *sched, sequence *seq) {
    sched_tenant *tenant = sched__tenant_of(sched, seq);
    seq->state = SEQ_WAITING;
    /* A preempted sequence ranks before most that wait, a new one behind them. */
    if (seq->admitted_before) insert_from_front(&tenant->waiting, seq);
    else insert_from_back(&tenant->waiting, seq);
    tenant->n_waiting++;
    tenant->waiting_tokens += seq->n_tokens;
    sched->n_waiting++;
    sched->waiting_tokens += seq->n_tokens;
    sched__note_loops(sched, seq);
}

/* The first time, the request no longer counts against the limits of the queue. */
static void leave_queue(scheduler *sched, sequence *seq) {
    if (seq->admitted_before) return;
    seq->admitted_before = true;
    atomic_fetch_add_explicit(&sched->left_waiting, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&sched->left_waiting_tokens, seq->req.n_prompt, memory_order_relaxed);
}

static void dequeue(scheduler *sched, sequence *seq) {
    sched_tenant *tenant = sched__tenant_of(sched, seq);
    list_remove(&seq->rank_link);
    tenant->n_waiting--;
    tenant->waiting_tokens -= seq->n_tokens;
    sched->n_waiting--;
    sched->waiting_tokens -= seq->n_tokens;
    leave_queue(sched, seq);
}

void sched__accept(scheduler *sched, sequence *seq) {
    seq->arrival = sched->next_arrival++;
    seq->order = sched__order(sched, seq);
    sched__activate(sched, sched__tenant_of(sched, seq));
    sched__expect_loops(sched, seq);
    enqueue(sched, seq);
    (void)sched__want_mask(sched, seq);
}

void sched__begin(scheduler *sched, sequence *seq) {
    dequeue(sched, seq);
    seq->state = SEQ_RUNNING;
    insert_from_back(&sched->running, seq);
    sched__tenant_of(sched, seq)->n_running++;
    sched->home_running[seq->prefix_key.home]++;
    sched->n_running++;
    sched__note_loops(sched, seq); /* without the blocks that it took from the prefix cache */
    sched__want_start(sched, seq);
    if (sched->rules.drafts) sched__want_look_up(sched, seq, LOOK_FOR_TEXT_TOO);
}

void sched__release(scheduler *sched, sequence *seq) {
    sched->epoch++;
    sched__count_lost_drafts(sched, seq);
    sched__want_look_up(sched, seq, LOOK_NOWHERE);
    sched__drop_cohorts(sched, seq);
    list_remove(&seq->start_link);
    sched__give_blocks(sched__cache_of(sched, seq), seq);
    sched__forget_loops(sched, seq);
    if (seq->state == SEQ_RUNNING) {
        list_remove(&seq->rank_link);
        sched__tenant_of(sched, seq)->n_running--;
        sched->home_running[seq->prefix_key.home]--;
        sched->n_running--;
    } else if (seq->state == SEQ_WAITING) {
        dequeue(sched, seq);
    }
}

void sched__preempt(scheduler *sched, sequence *seq) {
    sched__release(sched, seq);
    sched->stats.preemptions++;
    sched__tenant_of(sched, seq)->preemptions++;
    enqueue(sched, seq);
}

sequence *sched__last_running(const scheduler *sched, const sched_tenant *tenant, uint32_t home) {
    list_link *link = sched->running.prev;
    for (;; link = link->prev) {
        sequence *seq = OWNER_OF(link, sequence, rank_link);
        if (tenant && sched__tenant_of(sched, seq) != tenant) continue;
        if (home == ANY_HOME || seq->prefix_key.home == home) return seq;
    }
}

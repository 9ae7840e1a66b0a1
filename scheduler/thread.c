/* thread.c - a scheduler on a thread of its own, behind two bounded queues.
 *
 * Two threads meet here. The caller's thread makes and frees every sequence. The engine thread
 * holds a sequence from its submit until its SCHED_END is pushed. Neither side holds a lock.
 *
 *   in    caller to engine. It has room for all open sequences, so a push cannot fail.
 *   out   engine to caller. When it is full the engine naps until the caller has read; the caller
 *         never waits for the engine.
 *
 * A third thread makes the masks of constrained sequences (masks.c), in the order of requests. A
 * sequence that ends while its mask is being made is reported after that, since the report frees
 * the data of the mask. */
#include "base/clock.h"
#include "base/log.h"
#include "base/queue.h"
#include "base/size.h"
#include "base/wake.h"
#include "scheduler/scheduler_internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

enum {
    EVENTS = 4096,
    ENTRY_BITS = 20, /* of an id: its entry; the other bits count up, so no id repeats */
    STATS_EVERY_NS = 20 * 1000 * 1000,
    IDLE_NS = 50 * 1000 * 1000,
    NAP_NS = 100 * 1000,
    STEP_MEMORY = 64, /* quick steps until a slow one is forgotten, about */
    STEP_MOST = 8,    /* a single step counts at most this many times the usual one */
    STEP_ALWAYS_NS = 1000 * 1000 * 1000, /* but always up to this */
    QUICK_IN_A_ROW = 16,                 /* masks, while a slow one waits */
    STATS_FRESH = 4,                     /* flag beside a buffer's index: not read yet */
};

typedef struct {
    sequence *seq; /* NULL = free */
    uint32_t next_free;
} entry;

struct sched_thread {
    scheduler *sched; /* engine thread, except limits and the atomics */
    eng_backend *backend;
    sched_notify notify;
    void *ud;
    queue *in;     /* sequence * */
    queue *out;    /* sched_event */
    wake *bell;    /* rung by the caller */
    queue *wanted; /* sequence *, from the engine to the mask maker; room for every entry */
    wake *mask_bell;
    pthread_t engine, maker;
    bool running, making; /* whether the threads were started */
    sequence *ended;      /* engine's side: not yet reported, linked by rank_link.next */
    atomic_bool stop, cancels, failed, over; /* over: the engine thread has left its loop */
    atomic_uint_fast64_t alive_ns;
    atomic_uint_fast64_t usual_ns; /* duration of a step with work; written by the engine */

    /* caller's side */
    entry *entries;
    uint32_t n_entries, n_open, free_entry;
    uint64_t generation, submitted, submitted_tokens, refused;

    /* Three snapshots: one being written, one being read, one changing hands. */
    sched_stats stats[3];
    sched_tenant_stats *tenants[3]; /* [max_tenants] each */
    launch_ring launches[3];
    atomic_uint shared;
    unsigned writing, reading;
    uint64_t published_ns; /* engine's side */
    bool pushed;
};

/* ---- the engine's side ---- */

static void beat(void *ud) {
    sched_thread *thread = ud;
    atomic_store_explicit(&thread->alive_ns, clock_ns(), memory_order_relaxed);
}

static void push_event(sched_thread *thread, const sched_event *event) {
    while (!queue_push(thread->out, event)) {
        if (atomic_load_explicit(&thread->stop, memory_order_acquire))
            return; /* the caller reads no more */
        if (thread->notify) thread->notify(thread->ud);
        nanosleep(&(struct timespec){0, NAP_NS}, NULL);
        beat(thread);
    }
    thread->pushed = true;
}

static void on_event(void *ud, const sched_event *event) {
    push_event(ud, event);
}

static sequence *next_ended(const sequence *seq) {
    return seq->rank_link.next ? OWNER_OF(seq->rank_link.next, sequence, rank_link) : NULL;
}

/* After its SCHED_END is pushed a sequence belongs to the caller again. */
static void push_ends(void *ud) {
    sched_thread *thread = ud;
    for (sequence *seq; (seq = sched__take_ended(thread->sched)) != NULL; thread->ended = seq)
        seq->rank_link.next = thread->ended ? &thread->ended->rank_link : NULL;
    sequence *later = NULL;
    for (sequence *seq = thread->ended, *next; seq; seq = next) {
        next = next_ended(seq);
        if (sched__mask(seq) == MASK_WANTED) { /* the mask maker rings when it is done */
            seq->rank_link.next = later ? &later->rank_link : NULL;
            later = seq;
            continue;
        }
        sched_event end = seq->end_event;
        push_event(thread, &end);
    }
    thread->ended = later;
    if (thread->pushed && thread->notify) thread->notify(thread->ud);
    thread->pushed = false;
}

static void hand_mask(void *ud, sequence *seq) {
    sched_thread *thread = ud;
    if (!queue_push(thread->wanted, &seq)) return; /* cannot be: it has room for every entry */
    wake_signal(thread->mask_bell);
}

static void publish(sched_thread *thread, bool now) {
    uint64_t ns = clock_ns();
    if (!now && ns - thread->published_ns < STATS_EVERY_NS) return;
    thread->published_ns = ns;
    sched_get_stats(thread->sched, &thread->stats[thread->writing]);
    for (uint32_t i = 0; i < thread->sched->n_tenants; i++)
        sched_get_tenant_stats(thread->sched, i, &thread->tenants[thread->writing][i]);
    sched__launches_copy(&thread->launches[thread->writing], &thread->sched->launches);
    thread->writing = atomic_exchange_explicit(&thread->shared, thread->writing | STATS_FRESH,
                                               memory_order_acq_rel) &
                      ~(unsigned)STATS_FRESH;
}

static void take_in(sched_thread *thread) {
    /* Read the flag before the queue: its submit is then already in the queue. A later cancel is
     * seen in the next turn. */
    bool cancels = atomic_exchange_explicit(&thread->cancels, false, memory_order_acq_rel);
    for (sequence *seq; queue_pop(thread->in, &seq);)
        sched__accept(thread->sched, seq);
    if (cancels) sched__end_cancelled(thread->sched);
}

static bool step(sched_thread *thread) {
    bool idle;
    err e = {0};
    if (sched_step(thread->sched, &idle, &e) != 0 &&
        !atomic_load_explicit(&thread->failed, memory_order_relaxed)) {
        log_line(LOG_ALERT, "engine: %s", e.msg);
        atomic_store_explicit(&thread->failed, true, memory_order_release);
    }
    return idle;
}

/* Keeps the slowest recent step: stages differ by orders of magnitude, and most launches are of the
 * quick one. A step during which the whole process stood still counts for a part of its length. */
static void learn_step(sched_thread *thread, uint64_t took) {
    uint64_t usual = atomic_load_explicit(&thread->usual_ns, memory_order_relaxed);
    uint64_t most = usual > STEP_ALWAYS_NS / STEP_MOST ? usual * STEP_MOST : STEP_ALWAYS_NS;
    if (took > most) took = most;
    usual -= usual / STEP_MEMORY;
    atomic_store_explicit(&thread->usual_ns, took > usual ? took : usual, memory_order_relaxed);
}

static void *engine_main(void *arg) {
    sched_thread *thread = arg;
    bool was_idle = false;
    while (!atomic_load_explicit(&thread->stop, memory_order_acquire)) {
        uint64_t began = clock_ns();
        beat(thread);
        take_in(thread);
        bool idle = step(thread);
        if (!idle) learn_step(thread, clock_ns() - began);
        /* A client that has its answer finds the answer's work in the figures. */
        publish(thread, thread->sched->ended != NULL || (idle && !was_idle));
        push_ends(thread);
        was_idle = idle;
        if (idle || thread->sched->awaits_masks_only) wake_wait(thread->bell, IDLE_NS);
    }
    atomic_store_explicit(&thread->over, true, memory_order_release);
    return NULL;
}

/* ---- the mask maker ---- */

typedef struct {
    sequence *first, *last;
} mask_list;

static void list_mask(mask_list *list, sequence *seq) {
    seq->next_mask = NULL;
    *(list->first ? &list->last->next_mask : &list->first) = seq;
    list->last = seq;
}

static sequence *unlist_mask(mask_list *list) {
    sequence *seq = list->first;
    if (seq) list->first = seq->next_mask;
    return seq;
}

/* Sequences with a slow last mask wait for the others, but not for ever. So a quick mask waits for
 * one slow mask at most, however many there are. */
static sequence *next_mask(mask_list *quick, mask_list *slow, unsigned *in_a_row) {
    bool turn = quick->first == NULL || (slow->first && *in_a_row >= QUICK_IN_A_ROW);
    *in_a_row = turn ? 0 : *in_a_row + 1;
    return unlist_mask(turn ? slow : quick);
}

static void *maker_main(void *arg) {
    sched_thread *thread = arg;
    mask_list quick = {0}, slow = {0};
    unsigned in_a_row = 0;
    while (!atomic_load_explicit(&thread->stop, memory_order_acquire)) {
        for (sequence *seq; queue_pop(thread->wanted, &seq);)
            list_mask(seq->slow_mask ? &slow : &quick, seq);
        sequence *seq = next_mask(&quick, &slow, &in_a_row);
        if (seq == NULL) {
            wake_wait(thread->mask_bell, IDLE_NS);
            continue;
        }
        if (!sched__make_mask(seq)) {
            atomic_store_explicit(&thread->sched->masks_failed, true, memory_order_release);
        }
        wake_signal(thread->bell);
    }
    return NULL;
}

/* ---- the caller's side ---- */

static int allocate(sched_thread *thread, err *e) {
    const sched_opts *opts = &thread->sched->limits.opts;
    uint64_t n = (uint64_t)opts->max_running + opts->max_queue;
    if (n > 1u << ENTRY_BITS) {
        return err_set(e, ERR_BAD_PARAM, "max-queue", "%u running and %u waiting are too many",
                       opts->max_running, opts->max_queue);
    }
    for (int i = 0; i < 3; i++) {
        thread->tenants[i] = array_new(opts->max_tenants, sizeof *thread->tenants[i]);
        if (thread->tenants[i] == NULL) {
            return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the tenants' figures");
        }
        if (sched__launches_init(&thread->launches[i], opts->ceiling_loops, e) != 0) return -1;
    }
    thread->n_entries = (uint32_t)n;
    thread->entries = array_new(thread->n_entries, sizeof *thread->entries);
    if (thread->entries == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the queue");
    for (uint32_t i = 0; i < thread->n_entries; i++)
        thread->entries[i].next_free = i + 1 < thread->n_entries ? i + 1 : NONE;
    if (queue_create(&thread->in, sizeof(sequence *), thread->n_entries, e) != 0) return -1;
    if (queue_create(&thread->out, sizeof(sched_event), EVENTS, e) != 0) return -1;
    if (queue_create(&thread->wanted, sizeof(sequence *), thread->n_entries, e) != 0) return -1;
    return wake_create(&thread->bell, e) != 0 ? -1 : wake_create(&thread->mask_bell, e);
}

static void ask_to_stop(sched_thread *thread) {
    atomic_store_explicit(&thread->stop, true, memory_order_release);
    if (thread->bell) wake_signal(thread->bell);
}

static void join(sched_thread *thread) {
    ask_to_stop(thread);
    if (thread->running) pthread_join(thread->engine, NULL);
    if (thread->mask_bell) wake_signal(thread->mask_bell);
    if (thread->making) pthread_join(thread->maker, NULL);
}

static void destroy(sched_thread *thread) {
    join(thread);
    for (uint32_t i = 0; i < thread->n_entries && thread->entries; i++)
        free(thread->entries[i].seq);
    free(thread->entries);
    for (int i = 0; i < 3; i++) {
        free(thread->tenants[i]);
        sched__launches_deinit(&thread->launches[i]);
    }
    queue_destroy(thread->in);
    queue_destroy(thread->out);
    queue_destroy(thread->wanted);
    wake_destroy(thread->bell);
    wake_destroy(thread->mask_bell);
    sched_destroy(thread->sched);
    eng_backend_close(thread->backend);
    free(thread);
}

static int start_threads(sched_thread *thread, err *e) {
    sigset_t all, old; /* signals go to the caller's thread */
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* a fault of this thread, named by a handler */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    thread->running = pthread_create(&thread->engine, NULL, engine_main, thread) == 0;
    thread->making =
        thread->running && pthread_create(&thread->maker, NULL, maker_main, thread) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return thread->making ? 0
                          : err_set(e, ERR_NO_MEMORY, NULL, "cannot start the engine's threads");
}

int sched_thread_start(sched_thread **out, eng_backend *steal_backend, const sched_opts *opts,
                       sched_notify notify, void *ud, err *e) {
    *out = NULL;
    sched_thread *thread = calloc(1, sizeof *thread);
    if (thread == NULL) {
        eng_backend_close(steal_backend);
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the engine thread");
    }
    thread->backend = steal_backend;
    thread->notify = notify;
    thread->ud = ud;
    thread->reading = 1;
    thread->writing = 2;
    atomic_init(&thread->alive_ns, clock_ns());
    if (sched_create(&thread->sched, steal_backend, opts, on_event, thread, e) != 0) goto fail;
    thread->sched->driver_reports_ends = true;
    thread->sched->on_tokens_out = push_ends;
    thread->sched->hand_mask = hand_mask;
    thread->sched->beat = beat;
    if (allocate(thread, e) != 0) goto fail;
    publish(thread, true); /* from now on the sizes are known */
    if (start_threads(thread, e) != 0) goto fail;
    *out = thread;
    return 0;
fail:
    destroy(thread);
    return -1;
}

static int refuse(sched_thread *thread, const sched_request *req, err *e) {
    const sched_opts *opts = &thread->sched->limits.opts;
    uint64_t waiting = thread->submitted -
                       atomic_load_explicit(&thread->sched->left_waiting, memory_order_relaxed);
    uint64_t tokens =
        thread->submitted_tokens -
        atomic_load_explicit(&thread->sched->left_waiting_tokens, memory_order_relaxed);
    if (atomic_load_explicit(&thread->failed, memory_order_acquire)) {
        return err_set(e, ERR_DEVICE, NULL, "the device failed");
    }
    if (thread->free_entry == NONE ||
        (waiting > 0 && tokens + req->n_prompt > opts->max_queue_tokens)) {
        return err_set(e, ERR_BUSY, NULL, "%llu requests are waiting already",
                       (unsigned long long)waiting);
    }
    return 0;
}

int sched_thread_submit(sched_thread *thread, const sched_request *req, uint64_t *id, err *e) {
    *id = 0;
    sequence *seq;
    if (refuse(thread, req, e) != 0 ||
        sched__seq_create(&seq, &thread->sched->limits, req, e) != 0) {
        thread->refused++;
        return -1;
    }
    uint32_t at = thread->free_entry;
    seq->id = *id = ++thread->generation << ENTRY_BITS | at;
    if (!queue_push(thread->in, &seq)) { /* cannot be: it has room for every entry */
        free(seq);
        *id = 0;
        return err_set(e, ERR_BUSY, NULL, "the engine's queue is full");
    }
    thread->free_entry = thread->entries[at].next_free;
    thread->entries[at].seq = seq;
    thread->n_open++;
    thread->submitted++;
    thread->submitted_tokens += req->n_prompt;
    wake_signal(thread->bell);
    return 0;
}

static entry *find(sched_thread *thread, uint64_t id) {
    uint32_t at = (uint32_t)(id & ((1u << ENTRY_BITS) - 1));
    if (at >= thread->n_entries || thread->entries[at].seq == NULL ||
        thread->entries[at].seq->id != id)
        return NULL;
    return &thread->entries[at];
}

void sched_thread_cancel(sched_thread *thread, uint64_t id) {
    entry *in = find(thread, id);
    if (in == NULL) return;
    atomic_store_explicit(&in->seq->cancel_wanted, true, memory_order_relaxed);
    atomic_store_explicit(&thread->cancels, true, memory_order_release);
    wake_signal(thread->bell);
}

bool sched_thread_poll(sched_thread *thread, sched_event *event) {
    if (!queue_pop(thread->out, event)) return false;
    entry *in = event->kind == SCHED_END ? find(thread, event->id) : NULL;
    if (in) {
        free(in->seq);
        in->seq = NULL;
        in->next_free = thread->free_entry;
        thread->free_entry = (uint32_t)(in - thread->entries);
        thread->n_open--;
    }
    return true;
}

void sched_thread_stats(sched_thread *thread, sched_stats *out) {
    if (atomic_load_explicit(&thread->shared, memory_order_relaxed) & STATS_FRESH) {
        thread->reading =
            atomic_exchange_explicit(&thread->shared, thread->reading, memory_order_acq_rel) &
            ~(unsigned)STATS_FRESH;
    }
    *out = thread->stats[thread->reading];
    out->refused += thread->refused;
}

void sched_thread_tenant_stats(const sched_thread *thread, uint32_t tenant,
                               sched_tenant_stats *out) {
    *out = tenant < thread->sched->limits.opts.max_tenants
               ? thread->tenants[thread->reading][tenant]
               : (sched_tenant_stats){0};
}

bool sched_thread_launch(const sched_thread *thread, uint64_t id, sched_launch *out) {
    return sched__launches_get(&thread->launches[thread->reading], id, out);
}

uint64_t sched_thread_silence_ns(sched_thread *thread) {
    uint64_t then = atomic_load_explicit(&thread->alive_ns, memory_order_relaxed), now = clock_ns();
    return now > then ? now - then : 0;
}

void sched_thread_pulse(const sched_thread *thread, uint64_t *beat_ns, uint64_t *usual_step_ns) {
    *beat_ns = atomic_load_explicit(&thread->alive_ns, memory_order_relaxed);
    *usual_step_ns = atomic_load_explicit(&thread->usual_ns, memory_order_relaxed);
}

bool sched_thread_failed(sched_thread *thread) {
    return atomic_load_explicit(&thread->failed, memory_order_acquire);
}

bool sched_thread_ends(sched_thread *thread, uint64_t within_ns) {
    if (thread == NULL) return true;
    ask_to_stop(thread);
    for (uint64_t began = clock_ns();;) {
        if (atomic_load_explicit(&thread->over, memory_order_acquire)) return true;
        if (clock_ns() - began > within_ns) return false;
        nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    }
}

void sched_thread_stop(sched_thread *thread) {
    if (thread == NULL) return;
    destroy(thread);
}

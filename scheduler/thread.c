/* thread.c - the machine on its own thread, behind two bounded queues.
 *
 * The loop's thread makes and frees every seq; the engine thread only holds them from the
 * submit queue until it has pushed their SCHED_END. `in` has room for as many sequences
 * as may be inside at once, so a push there cannot fail. `out` may fill up when the loop
 * falls behind: the engine then naps until there is room, which the loop makes without
 * ever waiting for the engine. Neither side holds a lock.
 *
 * A third thread makes the masks of constrained sequences (masks.c), in the order they are
 * wanted in. A sequence that ends while its mask is being made is reported ended after that, so
 * that nobody frees what the mask is made of. */
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
    SLOT_BITS = 20, /* of an id: which slot; the rest counts up, so that no id comes twice */
    STATS_EVERY_NS = 20 * 1000 * 1000,
    IDLE_NS = 50 * 1000 * 1000,
    NAP_NS = 100 * 1000,
    STEP_MEMORY = 64, /* after about so many quick steps a slow one is forgotten */
    STEP_MOST = 8,    /* times the usual one: what a single step counts for at most */
    STEP_ALWAYS_NS = 1000 * 1000 * 1000, /* but so much it always may */
    CHEAP_IN_A_ROW = 16,                 /* masks, while a dear one waits */
    STATS_FRESH = 4,                     /* flag beside a buffer's index */
};

typedef struct {
    seq *q; /* NULL = free */
    uint32_t next_free;
} inside;

struct sched_thread {
    scheduler *s; /* engine thread, but for s->limits and its atomics */
    eng_backend *backend;
    sched_notify notify;
    void *ud;
    queue *in;     /* seq * */
    queue *out;    /* sched_event */
    wake *bell;    /* rung by the loop */
    queue *wanted; /* seq *, from the engine to the maker of masks; room for every slot */
    wake *mask_bell;
    pthread_t thread, maker;
    bool running, making; /* whether the threads were started */
    seq *ended;           /* engine's side: not yet reported, linked by rank.next */
    atomic_bool stop, cancels, failed, over; /* over: the engine thread has left its loop */
    atomic_uint_fast64_t alive_ns;
    atomic_uint_fast64_t usual_ns; /* of a step that was not idle; written by the engine */

    /* loop's side */
    inside *slots;
    uint32_t n_slots, n_inside, free_slot;
    uint64_t generation, submitted, submitted_tokens, refused;

    /* Three snapshots: one being written, one being read, one changing hands. */
    sched_stats stats[3];
    sched_tenant_stats *tenants[3]; /* [max_tenants] each */
    atomic_uint shared;
    unsigned writing, reading;
    uint64_t published_ns; /* engine's side */
    bool pushed;
};

/* ---- the engine's side ---- */

static void beat(void *ud) {
    sched_thread *t = ud;
    atomic_store_explicit(&t->alive_ns, clock_ns(), memory_order_relaxed);
}

static void push_event(sched_thread *t, const sched_event *ev) {
    while (!queue_push(t->out, ev)) {
        if (atomic_load_explicit(&t->stop, memory_order_acquire))
            return; /* nobody reads any more */
        if (t->notify) t->notify(t->ud);
        nanosleep(&(struct timespec){0, NAP_NS}, NULL);
        beat(t);
    }
    t->pushed = true;
}

static void on_event(void *ud, const sched_event *ev) {
    push_event(ud, ev);
}

static seq *next_ended(const seq *q) {
    return q->rank.next ? OWNER_OF(q->rank.next, seq, rank) : NULL;
}

/* After its SCHED_END is pushed a sequence belongs to the loop again. */
static void push_ends(void *ud) {
    sched_thread *t = ud;
    for (seq *q; (q = sched__take_ended(t->s)) != NULL; t->ended = q)
        q->rank.next = t->ended ? &t->ended->rank : NULL;
    seq *later = NULL;
    for (seq *q = t->ended, *next; q; q = next) {
        next = next_ended(q);
        if (sched__mask(q) == MASK_WANTED) { /* its maker rings when it has let go */
            q->rank.next = later ? &later->rank : NULL;
            later = q;
            continue;
        }
        sched_event end = q->end;
        push_event(t, &end);
    }
    t->ended = later;
    if (t->pushed && t->notify) t->notify(t->ud);
    t->pushed = false;
}

static void hand_mask(void *ud, seq *q) {
    sched_thread *t = ud;
    if (!queue_push(t->wanted, &q)) return; /* cannot be: it has room for every slot */
    wake_signal(t->mask_bell);
}

static void publish(sched_thread *t, bool now) {
    uint64_t ns = clock_ns();
    if (!now && ns - t->published_ns < STATS_EVERY_NS) return;
    t->published_ns = ns;
    sched_get_stats(t->s, &t->stats[t->writing]);
    for (uint32_t i = 0; i < t->s->n_tenants; i++)
        sched_get_tenant_stats(t->s, i, &t->tenants[t->writing][i]);
    t->writing =
        atomic_exchange_explicit(&t->shared, t->writing | STATS_FRESH, memory_order_acq_rel) &
        ~(unsigned)STATS_FRESH;
}

static void take_in(sched_thread *t) {
    /* The flag first: a cancel rung after this is seen next time, one rung before it came
     * after its submit, which is popped now. */
    bool cancels = atomic_exchange_explicit(&t->cancels, false, memory_order_acq_rel);
    for (seq *q; queue_pop(t->in, &q);)
        sched__accept(t->s, q);
    if (cancels) sched__cancel_wanted(t->s);
}

static bool step(sched_thread *t) {
    bool idle;
    err e = {0};
    if (sched_step(t->s, &idle, &e) != 0 &&
        !atomic_load_explicit(&t->failed, memory_order_relaxed)) {
        log_line(LOG_ALERT, "engine: %s", e.msg);
        atomic_store_explicit(&t->failed, true, memory_order_release);
    }
    return idle;
}

/* The slowest step of late, since stages differ by orders of magnitude and most launches are of
 * the quick one. A step in which the whole process stood still counts for a part of its length. */
static void learn_step(sched_thread *t, uint64_t took) {
    uint64_t usual = atomic_load_explicit(&t->usual_ns, memory_order_relaxed);
    uint64_t most = usual > STEP_ALWAYS_NS / STEP_MOST ? usual * STEP_MOST : STEP_ALWAYS_NS;
    if (took > most) took = most;
    usual -= usual / STEP_MEMORY;
    atomic_store_explicit(&t->usual_ns, took > usual ? took : usual, memory_order_relaxed);
}

static void *engine_main(void *arg) {
    sched_thread *t = arg;
    bool was_idle = false;
    while (!atomic_load_explicit(&t->stop, memory_order_acquire)) {
        uint64_t began = clock_ns();
        beat(t);
        take_in(t);
        bool idle = step(t);
        if (!idle) learn_step(t, clock_ns() - began);
        push_ends(t);
        publish(t, idle && !was_idle);
        was_idle = idle;
        if (idle || t->s->starved) wake_wait(t->bell, IDLE_NS);
    }
    atomic_store_explicit(&t->over, true, memory_order_release);
    return NULL;
}

/* ---- the maker of masks ---- */

typedef struct {
    seq *first, *last;
} mask_list;

static void list_mask(mask_list *l, seq *q) {
    q->next_mask = NULL;
    *(l->first ? &l->last->next_mask : &l->first) = q;
    l->last = q;
}

static seq *unlist_mask(mask_list *l) {
    seq *q = l->first;
    if (q) l->first = q->next_mask;
    return q;
}

/* Sequences whose last mask took long wait for the others, though not for ever: so nobody waits
 * for more than one of them at a time, however many there are. */
static seq *next_mask(mask_list *cheap, mask_list *dear, unsigned *in_a_row) {
    bool turn = cheap->first == NULL || (dear->first && *in_a_row >= CHEAP_IN_A_ROW);
    *in_a_row = turn ? 0 : *in_a_row + 1;
    return unlist_mask(turn ? dear : cheap);
}

static void *maker_main(void *arg) {
    sched_thread *t = arg;
    mask_list cheap = {0}, dear = {0};
    unsigned in_a_row = 0;
    while (!atomic_load_explicit(&t->stop, memory_order_acquire)) {
        for (seq *q; queue_pop(t->wanted, &q);)
            list_mask(q->dear_mask ? &dear : &cheap, q);
        seq *q = next_mask(&cheap, &dear, &in_a_row);
        if (q == NULL) {
            wake_wait(t->mask_bell, IDLE_NS);
            continue;
        }
        if (!sched__makes_mask(q)) {
            atomic_store_explicit(&t->s->masks_failed, true, memory_order_release);
        }
        wake_signal(t->bell);
    }
    return NULL;
}

/* ---- the loop's side ---- */

static int allocate(sched_thread *t, err *e) {
    const sched_opts *o = &t->s->limits.opts;
    uint64_t n = (uint64_t)o->max_running + o->max_queue;
    if (n > 1u << SLOT_BITS) {
        return err_set(e, ERR_BAD_PARAM, "max-queue", "%u running and %u waiting are too many",
                       o->max_running, o->max_queue);
    }
    for (int i = 0; i < 3; i++) {
        t->tenants[i] = array_new(o->max_tenants, sizeof *t->tenants[i]);
        if (t->tenants[i] == NULL) {
            return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the tenants' figures");
        }
    }
    t->n_slots = (uint32_t)n;
    t->slots = array_new(t->n_slots, sizeof *t->slots);
    if (t->slots == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the queue");
    for (uint32_t i = 0; i < t->n_slots; i++)
        t->slots[i].next_free = i + 1 < t->n_slots ? i + 1 : NONE;
    if (queue_create(&t->in, sizeof(seq *), t->n_slots, e) != 0) return -1;
    if (queue_create(&t->out, sizeof(sched_event), EVENTS, e) != 0) return -1;
    if (queue_create(&t->wanted, sizeof(seq *), t->n_slots, e) != 0) return -1;
    return wake_create(&t->bell, e) != 0 ? -1 : wake_create(&t->mask_bell, e);
}

static void ask_to_stop(sched_thread *t) {
    atomic_store_explicit(&t->stop, true, memory_order_release);
    if (t->bell) wake_signal(t->bell);
}

static void join(sched_thread *t) {
    ask_to_stop(t);
    if (t->running) pthread_join(t->thread, NULL);
    if (t->mask_bell) wake_signal(t->mask_bell);
    if (t->making) pthread_join(t->maker, NULL);
}

static void destroy(sched_thread *t) {
    join(t);
    for (uint32_t i = 0; i < t->n_slots && t->slots; i++)
        free(t->slots[i].q);
    free(t->slots);
    for (int i = 0; i < 3; i++)
        free(t->tenants[i]);
    queue_destroy(t->in);
    queue_destroy(t->out);
    queue_destroy(t->wanted);
    wake_destroy(t->bell);
    wake_destroy(t->mask_bell);
    sched_destroy(t->s);
    eng_backend_close(t->backend);
    free(t);
}

static int start_threads(sched_thread *t, err *e) {
    sigset_t all, old; /* signals are the loop's business */
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* a fault of this thread's own, which a handler names */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    t->running = pthread_create(&t->thread, NULL, engine_main, t) == 0;
    t->making = t->running && pthread_create(&t->maker, NULL, maker_main, t) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return t->making ? 0 : err_set(e, ERR_NO_MEMORY, NULL, "cannot start the engine's threads");
}

int sched_thread_start(sched_thread **out, eng_backend *steal_backend, const sched_opts *opts,
                       sched_notify notify, void *ud, err *e) {
    *out = NULL;
    sched_thread *t = calloc(1, sizeof *t);
    if (t == NULL) {
        eng_backend_close(steal_backend);
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the engine thread");
    }
    t->backend = steal_backend;
    t->notify = notify;
    t->ud = ud;
    t->reading = 1;
    t->writing = 2;
    atomic_init(&t->alive_ns, clock_ns());
    if (sched_create(&t->s, steal_backend, opts, on_event, t, e) != 0) goto fail;
    t->s->keep_ended = true;
    t->s->launch_told = push_ends;
    t->s->hand_mask = hand_mask;
    t->s->beat = beat;
    if (allocate(t, e) != 0 || start_threads(t, e) != 0) goto fail;
    *out = t;
    return 0;
fail:
    destroy(t);
    return -1;
}

static int refuse(sched_thread *t, const sched_request *r, err *e) {
    const sched_opts *o = &t->s->limits.opts;
    uint64_t waiting =
        t->submitted - atomic_load_explicit(&t->s->left_waiting, memory_order_relaxed);
    uint64_t tokens = t->submitted_tokens -
                      atomic_load_explicit(&t->s->left_waiting_tokens, memory_order_relaxed);
    if (atomic_load_explicit(&t->failed, memory_order_acquire)) {
        return err_set(e, ERR_DEVICE, NULL, "the device failed");
    }
    if (t->free_slot == NONE || (waiting > 0 && tokens + r->n_prompt > o->max_queue_tokens)) {
        return err_set(e, ERR_BUSY, NULL, "%llu requests are waiting already",
                       (unsigned long long)waiting);
    }
    return 0;
}

int sched_thread_submit(sched_thread *t, const sched_request *r, uint64_t *id, err *e) {
    *id = 0;
    seq *q;
    if (refuse(t, r, e) != 0 || sched__seq_create(&q, &t->s->limits, r, e) != 0) {
        t->refused++;
        return -1;
    }
    uint32_t slot = t->free_slot;
    q->id = *id = ++t->generation << SLOT_BITS | slot;
    if (!queue_push(t->in, &q)) { /* cannot be: it has room for every slot */
        free(q);
        *id = 0;
        return err_set(e, ERR_BUSY, NULL, "the engine's queue is full");
    }
    t->free_slot = t->slots[slot].next_free;
    t->slots[slot].q = q;
    t->n_inside++;
    t->submitted++;
    t->submitted_tokens += r->n_prompt;
    wake_signal(t->bell);
    return 0;
}

static inside *find(sched_thread *t, uint64_t id) {
    uint32_t slot = (uint32_t)(id & ((1u << SLOT_BITS) - 1));
    if (slot >= t->n_slots || t->slots[slot].q == NULL || t->slots[slot].q->id != id) return NULL;
    return &t->slots[slot];
}

void sched_thread_cancel(sched_thread *t, uint64_t id) {
    inside *in = find(t, id);
    if (in == NULL) return;
    atomic_store_explicit(&in->q->cancel_wanted, true, memory_order_relaxed);
    atomic_store_explicit(&t->cancels, true, memory_order_release);
    wake_signal(t->bell);
}

bool sched_thread_poll(sched_thread *t, sched_event *ev) {
    if (!queue_pop(t->out, ev)) return false;
    inside *in = ev->kind == SCHED_END ? find(t, ev->id) : NULL;
    if (in) {
        free(in->q);
        in->q = NULL;
        in->next_free = t->free_slot;
        t->free_slot = (uint32_t)(in - t->slots);
        t->n_inside--;
    }
    return true;
}

void sched_thread_stats(sched_thread *t, sched_stats *out) {
    if (atomic_load_explicit(&t->shared, memory_order_relaxed) & STATS_FRESH) {
        t->reading = atomic_exchange_explicit(&t->shared, t->reading, memory_order_acq_rel) &
                     ~(unsigned)STATS_FRESH;
    }
    *out = t->stats[t->reading];
    out->refused += t->refused;
}

void sched_thread_tenant_stats(const sched_thread *t, uint32_t tenant, sched_tenant_stats *out) {
    *out = tenant < t->s->limits.opts.max_tenants ? t->tenants[t->reading][tenant]
                                                  : (sched_tenant_stats){0};
}

uint64_t sched_thread_silence_ns(sched_thread *t) {
    uint64_t then = atomic_load_explicit(&t->alive_ns, memory_order_relaxed), now = clock_ns();
    return now > then ? now - then : 0;
}

void sched_thread_pulse(const sched_thread *t, uint64_t *beat_ns, uint64_t *usual_step_ns) {
    *beat_ns = atomic_load_explicit(&t->alive_ns, memory_order_relaxed);
    *usual_step_ns = atomic_load_explicit(&t->usual_ns, memory_order_relaxed);
}

bool sched_thread_failed(sched_thread *t) {
    return atomic_load_explicit(&t->failed, memory_order_acquire);
}

bool sched_thread_ends(sched_thread *t, uint64_t within_ns) {
    if (t == NULL) return true;
    ask_to_stop(t);
    for (uint64_t began = clock_ns();;) {
        if (atomic_load_explicit(&t->over, memory_order_acquire)) return true;
        if (clock_ns() - began > within_ns) return false;
        nanosleep(&(struct timespec){0, NAP_NS}, NULL);
    }
}

void sched_thread_stop(sched_thread *t) {
    if (t == NULL) return;
    destroy(t);
}

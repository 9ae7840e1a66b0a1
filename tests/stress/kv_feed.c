/* kv_feed.c - a scheduler on its thread, and a reader of its feed on another: requests come and go,
 * blocks are evicted, the reader naps and begins anew. Built with TSan by `make tsan`. */
#include "base/clock.h"
#include "scheduler/feed.h"
#include "scheduler/scheduler.h"
#include "tests/lib/fake_backend.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { REQUESTS = 1500, OPEN = 16, BLOCKS = 60, PROMPT = 200 };

/* Deadlines end a hanging test; they do not measure speed. */
static const uint64_t patience_ns = 600 * UINT64_C(1000000000);

static kv_feed *feed;
static atomic_bool over;
static atomic_uint rings;

static void ring(void *ud) {
    (void)ud;
    atomic_fetch_add(&rings, 1);
}

typedef struct {
    uint64_t hashes[BLOCKS];
    uint32_t n;
    uint64_t stored, removed, cleared;
    const char *fault;
} reader_state;

static void apply(reader_state *known, const kv_event *event) {
    uint32_t at = 0;
    while (at < known->n && known->hashes[at] != event->hash)
        at++;
    switch (event->kind) {
    case KV_CLEARED:
        known->n = 0;
        known->cleared++;
        break;
    case KV_STORED:
        if (at < known->n || known->n == BLOCKS) known->fault = "a block is stored twice";
        else known->hashes[known->n++] = event->hash;
        known->stored++;
        break;
    case KV_REMOVED:
        if (at == known->n) known->fault = "a block is removed that was not told";
        else known->hashes[at] = known->hashes[--known->n];
        known->removed++;
        break;
    }
}

static void *reader_main(void *arg) {
    reader_state *known = arg;
    for (uint64_t turn = 0; known->fault == NULL; turn++) {
        bool last = atomic_load(&over);
        kv_event event;
        for (int i = 0; (last || i < 20) && known->fault == NULL && kv_feed_take(feed, &event); i++)
            apply(known, &event);
        if (last && kv_feed_untold(feed) == 0) break;
        if (turn % 64 == 63) kv_feed_restate(feed);
        nanosleep(&(struct timespec){.tv_nsec = turn % 8 ? 20000 : 2000000}, NULL);
    }
    return NULL;
}

static uint64_t state = 7;
static uint32_t pick(uint32_t n) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static int die(const char *what) {
    fprintf(stderr, "kv_feed: %s\n", what);
    return 1;
}

static bool submit_one(sched_thread *thread) {
    uint32_t prompt[PROMPT], n = 40 + pick(PROMPT - 40), head = pick(4), shared = pick(n);
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = i < shared ? (head * 31 + i) % 64 : pick(64);
    sched_request req = {.prompt = prompt, .n_prompt = n, .max_tokens = 1 + pick(10)};
    req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    uint64_t id;
    err e = {0};
    return sched_thread_submit(thread, &req, &id, &e) == 0;
}

/* Keeps OPEN requests in work until all have ended. */
static bool run_all(sched_thread *thread) {
    uint32_t sent = 0, ended = 0;
    for (uint64_t until = clock_ns() + patience_ns; ended < REQUESTS;) {
        sched_event event;
        while (sent < REQUESTS && sent - ended < OPEN && submit_one(thread))
            sent++;
        while (sched_thread_poll(thread, &event))
            ended += event.kind == SCHED_END;
        if (clock_ns() > until) return false;
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
    return true;
}

int main(void) {
    static reader_state known;
    fake_opts fake;
    fake_opts_default(&fake);
    fake.instant = true;
    fake.n_blocks = BLOCKS;
    sched_opts opts;
    sched_opts_default(&opts);
    sched_thread *thread;
    pthread_t reader;
    err e = {0};
    if (kv_feed_create(&feed, ring, NULL, &e) != 0) return die(e.msg);
    opts.feed = feed;
    if (sched_thread_start(&thread, fake_backend_create(&fake), &opts, NULL, NULL, &e) != 0)
        return die(e.msg);
    if (pthread_create(&reader, NULL, reader_main, &known) != 0) return die("no thread");
    bool done = run_all(thread);
    atomic_store(&over, true);
    pthread_join(reader, NULL);
    sched_thread_stop(thread);
    kv_feed_destroy(feed);
    if (!done) return die("the requests do not end");
    if (known.fault) return die(known.fault);
    if (!known.removed || !known.cleared || !atomic_load(&rings)) return die("too little happened");
    printf("kv_feed: %llu stored, %llu removed, told again %llu times\n",
           (unsigned long long)known.stored, (unsigned long long)known.removed,
           (unsigned long long)known.cleared);
    return 0;
}

/* workload.c - draws a workload from a seed, runs it, and compares every sequence with the
 * model run one position after another. */
#include "tests/property/workload.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LEN = 400, TENANTS = 4 };

uint64_t work_rand(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static uint32_t draw(uint64_t *r, uint32_t low, uint32_t high) { /* both included */
    return low + (uint32_t)(work_rand(r) % (high - low + 1));
}
static bool chance(uint64_t *r, uint32_t percent) {
    return work_rand(r) % 100 < percent;
}

typedef struct {
    sched_request r;
    uint32_t prompt[MAX_LEN], stop[3];
    uint64_t arrive, cancel_at; /* step; cancel_at 0 = never */
    /* what came */
    uint64_t id;
    bool sent, refused, ended, sorted;
    uint32_t got[MAX_LEN], n_got, n_prompt_events;
    uint16_t depth[MAX_LEN];
    float logprob[MAX_LEN];
    sched_event end;
} work_item;

typedef struct {
    fake_opts fake;
    sched_opts opts;
    uint32_t weights[TENANTS];
    work_item items[WORK_MAX];
    uint32_t n;
    uint64_t mood; /* draws, at each step, whether to go ahead; 0 = always */
    char *why;
    size_t why_bytes;
    bool bad;
} work;

static void fail(work *w, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void fail(work *w, const char *fmt, ...) {
    if (w->bad) return;
    w->bad = true;
    va_list args;
    va_start(args, fmt);
    vsnprintf(w->why, w->why_bytes, fmt, args);
    va_end(args);
}

/* ---- drawing ---- */

static void draw_machine(work *w, const work_case *c, uint64_t *r) {
    fake_opts *f = &w->fake;
    fake_opts_default(f);
    f->seed = work_rand(r);
    f->policy = chance(r, 50) ? KV_LAST : KV_EXACT;
    f->vocab = draw(r, 8, 80);
    f->n_core = chance(r, 50) ? 1 : draw(r, 2, 4);
    f->n_prelude = draw(r, 0, 2 * f->n_core);
    f->n_coda = draw(r, 0, 2 * f->n_core);
    f->max_loops = draw(r, 1, 10);
    f->mean_depth = draw(r, 1, 5);
    if (chance(r, 20)) f->deep_one_in = draw(r, 2, 30);
    f->n_rows = draw(r, 1, chance(r, 50) ? 12 : 120);
    f->max_launch = draw(r, 1, chance(r, 50) ? 10 : 100);
    f->max_logits = draw(r, 1, 8);
    uint32_t per_block = ENG_BLOCK * fake_planes(f, f->max_loops);
    f->n_blocks = draw(r, 3, 40);
    f->n_slots = draw(r, 2, 20) * per_block;
    for (int i = 0; i < 3; i++) {
        f->fixed_ns[i] = draw(r, 0, 5000);
        f->row_ns[i] = draw(r, 1, 200);
    }
    if (c->simpler & WORK_BIG_POOL) f->n_blocks = 500, f->n_slots = 500 * per_block;
    if (c->simpler & WORK_BIG_ROWS) f->n_rows = 500, f->max_launch = 500;

    sched_opts *o = &w->opts;
    sched_opts_default(o);
    o->halted_kv = f->policy;
    uint32_t mode = draw(r, 0, 9);
    o->batching = mode == 0                            ? SCHED_LOCKSTEP
                  : mode == 1 && f->policy == KV_EXACT ? SCHED_FULL
                                                       : SCHED_DEPTHWISE;
    o->max_running = draw(r, 1, 16);
    o->max_queue = draw(r, 1, 20);
    o->max_rows = draw(r, 1, 64);
    o->chunk = draw(r, 0, 3) == 0 ? draw(r, 1, 40) : ENG_BLOCK * draw(r, 1, 3);
    if (chance(r, 10)) o->chunk = 1;
    o->wait_bound = draw(r, 1, 20);
    o->prefix_cache = chance(r, 75);
}

static void draw_depth(work *w, work_item *it, uint64_t *r) {
    if (chance(r, 60)) return; /* the defaults */
    it->r.depth.max_loops = (uint16_t)draw(r, 1, w->fake.max_loops);
    it->r.depth.min_loops = (uint16_t)draw(r, 1, it->r.depth.max_loops);
    it->r.depth.threshold = chance(r, 50) ? 0.5f : 0.75f;
}

static void draw_item(work *w, const work_case *c, work_item *it, uint64_t *r) {
    sched_request *q = &it->r;
    q->n_prompt = chance(r, 60) ? draw(r, 1, 40) : draw(r, 1, 200);
    q->max_tokens = chance(r, 70) ? draw(r, 1, 24) : draw(r, 1, 90);
    q->n_prompt = q->n_prompt >> c->shorter ? q->n_prompt >> c->shorter : 1;
    q->max_tokens = q->max_tokens >> c->shorter ? q->max_tokens >> c->shorter : 1;
    uint64_t stream = draw(r, 0, 2), own = work_rand(r);
    uint32_t shared = chance(r, 70) && !(c->simpler & WORK_NO_SHARE) ? draw(r, 0, 150) : 0;
    for (uint32_t i = 0; i < q->n_prompt; i++) {
        uint64_t at = (i < shared ? stream : own) + i * 77;
        it->prompt[i] = (uint32_t)(work_rand(&at) % w->fake.vocab);
    }
    q->prompt = it->prompt;
    q->sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1, .seed = work_rand(r)};
    bool hot = chance(r, 50);
    if (hot && !(c->simpler & WORK_GREEDY)) q->sampling.temperature = 0.8f;
    if (chance(r, 40)) {
        q->n_stop_ids = draw(r, 1, 3);
        for (uint32_t i = 0; i < q->n_stop_ids; i++)
            it->stop[i] = draw(r, 0, w->fake.vocab - 1);
        q->stop_ids = it->stop;
        q->min_tokens = draw(r, 0, 6);
    }
    draw_depth(w, it, r);
    if (chance(r, 15)) q->salt[0] = draw(r, 1, 2);
    if (chance(r, 15)) q->priority = (int32_t)draw(r, 0, 4) - 2;
    q->prompt_logprobs = chance(r, 10);
    q->n_top = chance(r, 20) ? draw(r, 1, 5) : 0;
    it->arrive = chance(r, 50) ? 0 : draw(r, 0, 300);
    if (c->simpler & WORK_ALL_AT_ONCE) it->arrive = 0;
    uint64_t cancel = chance(r, 20) ? it->arrive + draw(r, 1, 100) : 0;
    if (!(c->simpler & WORK_NO_CANCEL)) it->cancel_at = cancel;
}

/* From a stream of its own: the same traffic goes to backends of every kind. */
static void draw_flights(work *w, const work_case *c) {
    uint64_t r = ~c->seed;
    bool samples = chance(&r, 50), moody = chance(&r, 50);
    w->fake.max_flights = c->flights;
    w->fake.samples = samples && !(c->simpler & WORK_HOST_SAMPLES);
    if (moody && !(c->simpler & WORK_ALWAYS_AHEAD)) w->mood = work_rand(&r) | 1;
}

/* From a stream of its own too: the same traffic is of one tenant or of several. */
static void draw_tenants(work *w, const work_case *c) {
    uint64_t r = c->seed ^ UINT64_C(0x5555555555555555);
    uint32_t n = chance(&r, 40) ? 1 : draw(&r, 2, TENANTS);
    if (c->simpler & WORK_ONE_TENANT) n = 1;
    for (uint32_t i = 0; i < TENANTS; i++)
        w->weights[i] = chance(&r, 50) ? 1 : draw(&r, 1, 5);
    w->opts.max_tenants = n;
    w->opts.weights = chance(&r, 50) ? w->weights : NULL;
    w->opts.share_cache = chance(&r, 20);
    for (uint32_t i = 0; i < WORK_MAX; i++)
        w->items[i].r.tenant = draw(&r, 0, 9999) % n;
}

static void draw_work(work *w, const work_case *c) {
    uint64_t r = c->seed;
    draw_machine(w, c, &r);
    draw_flights(w, c);
    draw_tenants(w, c);
    w->n = draw(&r, 1, WORK_MAX);
    for (uint32_t i = 0; i < w->n; i++) {
        uint64_t own = work_rand(&r); /* so that dropping one leaves the others as they were */
        if (c->keep >> i & 1) draw_item(w, c, &w->items[i], &own);
        else w->items[i].ended = w->items[i].refused = true;
    }
}

/* ---- running ---- */

static work_item *find(work *w, uint64_t id) {
    for (uint32_t i = 0; i < w->n; i++) {
        if (w->items[i].sent && w->items[i].id == id) return &w->items[i];
    }
    return NULL;
}

static void on_event(void *ud, const sched_event *ev) {
    work *w = ud;
    work_item *it = find(w, ev->id);
    if (it == NULL || it->ended) {
        fail(w, "an event for a request that is unknown or over");
    } else if (ev->kind == SCHED_END) {
        it->ended = true;
        it->end = *ev;
    } else if (ev->kind == SCHED_PROMPT) {
        if (ev->pos != it->n_prompt_events++ || ev->token != it->prompt[ev->pos]) {
            fail(w, "request %u: prompt event at %u comes out of order", (unsigned)(it - w->items),
                 ev->pos);
        }
    } else if (it->n_got == it->r.max_tokens || ev->pos != it->r.n_prompt + it->n_got) {
        fail(w, "request %u: token at %u comes out of order", (unsigned)(it - w->items), ev->pos);
    } else {
        it->got[it->n_got] = ev->token;
        it->depth[it->n_got] = ev->depth;
        it->logprob[it->n_got++] = ev->logprob;
    }
}

static void send(work *w, scheduler *s, work_item *it, work_report *report) {
    err e = {0};
    it->sent = true; /* before the id is known no event can come */
    if (sched_submit(s, &it->r, &it->id, &e) == 0) {
        report->requests++;
        return;
    }
    it->sent = false;
    if (e.code == ERR_TOO_LONG) it->ended = it->refused = true;
    else if (e.code != ERR_BUSY) fail(w, "submit: %s", e.msg);
}

/* Rounds of launches that suffice if sequences ran one after another, each started over
 * whenever a newer one could have pushed it out: far above any honest schedule. */
static uint64_t step_limit(const work *w) {
    uint64_t steps = 2000;
    for (uint32_t i = 0; i < w->n; i++) {
        steps += (uint64_t)(w->items[i].r.n_prompt + w->items[i].r.max_tokens) *
                 (w->fake.max_loops + 4) * 8;
    }
    return steps;
}

static bool drive(work *w, scheduler *s, work_report *report) {
    uint64_t limit = step_limit(w);
    for (uint64_t step = 0; !w->bad; step++) {
        bool open = false, idle;
        for (uint32_t i = 0; i < w->n; i++) {
            work_item *it = &w->items[i];
            if (!it->sent && !it->ended && it->arrive <= step) send(w, s, it, report);
            if (it->sent && !it->ended && it->cancel_at && it->cancel_at <= step)
                sched_cancel(s, it->id);
            open |= !it->ended;
        }
        err e = {0};
        if (!open && s->n_out == 0) break;
        bool behind = w->mood && chance(&w->mood, 30);
        s->ahead.rule = behind ? AHEAD_NEVER : AHEAD_ALWAYS;
        if (sched_step(s, &idle, &e) != 0)
            return fail(w, "step %llu: %s", (unsigned long long)step, e.msg), false;
        if ((step % 8 == 0 || step < 40) && !sched_sane(s, &e)) {
            return fail(w, "step %llu: %s", (unsigned long long)step, e.msg), false;
        }
        if (step > limit)
            return fail(w, "not over after %llu steps", (unsigned long long)step), false;
    }
    err e = {0};
    if (!w->bad && !sched_sane(s, &e)) fail(w, "at the end: %s", e.msg);
    return !w->bad;
}

/* ---- comparing ---- */

static bool banned(const work_item *it, uint32_t n_output, uint32_t id) {
    if (n_output >= it->r.min_tokens) return false;
    for (uint32_t i = 0; i < it->r.n_stop_ids; i++) {
        if (it->stop[i] == id) return true;
    }
    return false;
}

typedef struct {
    uint32_t n;
    uint32_t tokens[MAX_LEN];
    uint16_t depth[MAX_LEN];
    float logprob[MAX_LEN];
    bool stopped;
    uint32_t stop_id;
} answer;

/* The same request, alone, one position after another. */
static void solve(const work *w, const work_item *it, eng_sampler *sampler, answer *a) {
    fake_depth d = {it->r.depth.min_loops ? it->r.depth.min_loops : 1,
                    it->r.depth.max_loops ? it->r.depth.max_loops : (uint16_t)w->fake.max_loops,
                    it->r.depth.threshold != 0 ? it->r.depth.threshold : 0.99f};
    float logits[128];
    uint64_t words[2];
    fake_seq *q = fake_seq_create(&w->fake, &d, it->r.n_prompt + it->r.max_tokens);
    uint16_t depth = 0;
    for (uint32_t i = 0; i < it->r.n_prompt; i++)
        depth = fake_seq_next(q, it->prompt[i], logits);
    *a = (answer){0};
    while (a->n < it->r.max_tokens) {
        err e = {0};
        eng_choice c;
        memset(words, 0, sizeof words);
        for (uint32_t i = 0; i < w->fake.vocab; i++) {
            if (!banned(it, a->n, i)) words[i / 64] |= UINT64_C(1) << (i % 64);
        }
        eng_mask mask = {words, 2};
        eng_history h = {it->prompt, a->tokens, it->r.n_prompt, a->n};
        if (eng_sample(sampler, &it->r.sampling, &h, &mask, logits, a->n, 0, &c, &e) != 0) break;
        for (uint32_t i = 0; i < it->r.n_stop_ids; i++) {
            if (it->stop[i] == c.token) a->stopped = true;
        }
        if (a->stopped) {
            a->stop_id = c.token;
            break;
        }
        a->depth[a->n] = depth;
        a->logprob[a->n] = c.logprob;
        a->tokens[a->n++] = c.token;
        if (a->n < it->r.max_tokens) depth = fake_seq_next(q, c.token, logits);
    }
    fake_seq_destroy(q);
}

/* The most tokens of its prompt that a request of its tenant (of any, where tenants share the
 * cache) began with: what the cache may have of it. */
static uint32_t longest_own_prefix(const work *w, const work_item *it) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        const work_item *o = &w->items[i];
        if (o == it || !o->sent || o->refused) continue;
        if (o->r.tenant != it->r.tenant && !w->opts.share_cache) continue;
        uint32_t n = 0, all = o->r.n_prompt + o->n_got;
        while (n < it->r.n_prompt && n < all &&
               it->prompt[n] == (n < o->r.n_prompt ? o->prompt[n] : o->got[n - o->r.n_prompt])) {
            n++;
        }
        if (n > most) most = n;
    }
    return most;
}

static void compare(work *w, uint32_t i, eng_sampler *sampler) {
    work_item *it = &w->items[i];
    answer a;
    solve(w, it, sampler, &a);
    for (uint32_t k = 0; k < it->n_got; k++) {
        if (k >= a.n || it->got[k] != a.tokens[k])
            return fail(w, "request %u: token %u differs from the sequential one", i, k);
        if (it->depth[k] != a.depth[k])
            return fail(w, "request %u: depth at %u is %u, must be %u", i, k, it->depth[k],
                        a.depth[k]);
        if (it->logprob[k] != a.logprob[k])
            return fail(w, "request %u: logprob at %u differs", i, k);
    }
    if (it->end.finish == SCHED_CANCELLED && it->cancel_at) return;
    sched_finish want = a.stopped ? SCHED_STOP : SCHED_LENGTH;
    if (it->end.finish != want || it->n_got != a.n) {
        return fail(w, "request %u: ends with %d after %u tokens, must be %d after %u", i,
                    it->end.finish, it->n_got, want, a.n);
    }
    if (a.stopped && it->end.stop_id != a.stop_id) return fail(w, "request %u: wrong stop id", i);
    if (it->end.n_cached > longest_own_prefix(w, it)) {
        return fail(w, "request %u: %u tokens came from the cache, its tenant left at most %u", i,
                    it->end.n_cached, longest_own_prefix(w, it));
    }
    if (it->end.n_output != it->n_got)
        return fail(w, "request %u: counts %u tokens", i, it->end.n_output);
    if (it->r.prompt_logprobs && it->n_prompt_events != it->r.n_prompt) {
        fail(w, "request %u: %u prompt events of %u", i, it->n_prompt_events, it->r.n_prompt);
    }
}

static void compare_all(work *w) {
    err e = {0};
    eng_sampler *sampler;
    if (eng_sampler_create(&sampler, w->fake.vocab, &e) != 0) return fail(w, "%s", e.msg);
    for (uint32_t i = 0; i < w->n && !w->bad; i++) {
        if (!w->items[i].refused) compare(w, i, sampler);
    }
    eng_sampler_destroy(sampler);
}

/* The bound stated at pick_loops: wait_bound, and the ready rows that may stand before. */
static void check_waits(work *w, const scheduler *s, const sched_stats *st) {
    uint32_t bound = s->limits.opts.wait_bound + s->n_rows / (s->max_rows - s->chunk + 1) + 2;
    if (st->longest_wait > bound)
        fail(w, "a ready row was passed over %u times, the bound is %u", st->longest_wait, bound);
}

/* Every slot handed out is written once by the backend, and none is handed out that is not:
 * the cache costs executed loops. (Who is thrown out in the middle may take some along.) */
static void check_slots(work *w, const scheduler *s, const eng_backend *b, const sched_stats *st) {
    uint64_t written = fake_backend_slots_written(b);
    if (st->preemptions + st->finished[SCHED_CANCELLED] > 0 || s->cache.n_handed_out == written)
        return;
    fail(w, "%llu slots were handed out for %llu written",
         (unsigned long long)s->cache.n_handed_out, (unsigned long long)written);
}

static void fill_report(work *w, scheduler *s, eng_backend *b, work_report *report) {
    sched_stats *st = malloc(sizeof *st);
    if (st == NULL) return;
    sched_get_stats(s, st);
    check_waits(w, s, st);
    check_slots(w, s, b, st);
    if (fake_backend_left_out(b) != st->voided_rows && st->finished[SCHED_CANCELLED] == 0)
        fail(w, "the backend left out other rows than the scheduler knows");
    report->left_out = st->voided_rows;
    report->steps = st->steps;
    report->preemptions = st->preemptions;
    report->cached_tokens = st->prefix_hits;
    report->tokens = st->output_tokens;
    report->cancelled = st->finished[SCHED_CANCELLED];
    report->longest_wait = st->longest_wait;
    report->launches = fake_backend_launches(b);
    report->schedule = fake_backend_schedule_hash(b);
    free(st);
}

bool work_run(const work_case *c, work_report *report, char *why, size_t why_bytes) {
    work *w = calloc(1, sizeof *w);
    if (w == NULL) return false;
    *report = (work_report){0};
    w->why = why;
    w->why_bytes = why_bytes;
    draw_work(w, c);
    eng_backend *b = fake_backend_create(&w->fake);
    scheduler *s = NULL;
    err e = {0};
    if (b == NULL || sched_create(&s, b, &w->opts, on_event, w, &e) != 0) {
        fail(w, "create: %s", e.msg);
    } else {
        s->host_is_free = true;
        if (drive(w, s, report)) compare_all(w);
        if (!w->bad) fill_report(w, s, b, report);
    }
    sched_destroy(s);
    eng_backend_close(b);
    bool ok = !w->bad;
    free(w);
    return ok;
}

/* ---- shrinking ---- */

static bool still_fails(const work_case *c) {
    work_report report;
    char why[300];
    return !work_run(c, &report, why, sizeof why);
}

work_case work_shrink(const work_case *failing) {
    work_case best = *failing;
    for (bool smaller = true; smaller;) {
        smaller = false;
        for (uint32_t i = 0; i < WORK_MAX; i++) {
            work_case c = best;
            c.keep &= ~(1u << i);
            if (c.keep != best.keep && c.keep && still_fails(&c)) best = c, smaller = true;
        }
        for (uint32_t bit = 1; bit < WORK_SIMPLER_ALL; bit *= 2) {
            work_case c = best;
            c.simpler |= bit;
            if (c.simpler != best.simpler && still_fails(&c)) best = c, smaller = true;
        }
        work_case c = best;
        c.shorter++;
        if (c.shorter <= 8 && still_fails(&c)) best = c, smaller = true;
    }
    return best;
}

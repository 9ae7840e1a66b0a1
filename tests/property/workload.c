/* workload.c - draws a workload from a seed, runs it, and compares every sequence with the
 * model run one position after another. */
#include "tests/property/workload.h"

#include "base/hash.h"
#include "tests/lib/fake_answer.h"
#include "tests/lib/fake_form.h"
#include "tests/lib/feed_reader.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LEN = 400, TENANTS = 4, BIASES = 3 };

uint64_t work_rand(uint64_t *state) {
    return hash_mix(*state += HASH_STEP);
}

static uint32_t draw(uint64_t *rng, uint32_t low, uint32_t high) { /* both included */
    return low + (uint32_t)(work_rand(rng) % (high - low + 1));
}
static bool chance(uint64_t *rng, uint32_t percent) {
    return work_rand(rng) % 100 < percent;
}

typedef struct {
    sched_request req;
    uint32_t prompt[MAX_LEN], stop[3];
    eng_bias bias[BIASES];
    fake_form form;
    uint64_t arrive, cancel_at; /* step; cancel_at 0 = never */
    sequence *masked;           /* its next mask is asked for and not made */
    /* what came */
    uint64_t id;
    bool sent, refused, ended;
    uint32_t got[MAX_LEN], n_got, n_prompt_events, n_shown; /* shown: drafts behind them */
    uint16_t depth[MAX_LEN];
    float logprob[MAX_LEN];
    uint64_t tops; /* hash of all alternatives */
    sched_event end;
} work_item;

typedef struct {
    fake_opts fake;
    sched_opts opts;
    uint32_t weights[TENANTS];
    work_item items[WORK_MAX];
    uint32_t n;
    uint64_t mood; /* draws, at each step, whether to go ahead, or by cost; 0 = always */
    uint64_t lag;  /* draws, at each step, which masks are made; 0 = each at once */
    kv_feed *feed;
    feed_reader reader;
    uint64_t pace; /* draws, at each step, the pace of the feed's reader */
    uint32_t naps; /* percent of steps during its sleep */
    uint64_t from_prompts;
    char *why;
    size_t why_bytes;
    bool bad;
} work;

static void fail(work *load, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void fail(work *load, const char *fmt, ...) {
    if (load->bad) return;
    load->bad = true;
    va_list args;
    va_start(args, fmt);
    vsnprintf(load->why, load->why_bytes, fmt, args);
    va_end(args);
}

/* ---- drawing ---- */

/* The least that policy collapse takes. */
static void give_collapse_rows(fake_opts *fake) {
    uint32_t rows = fake->max_launch + fake->max_loops + 1;
    if (fake->policy == KV_COLLAPSE && fake->n_rows < rows) fake->n_rows = rows;
}

static void draw_machine(work *load, const work_case *spec, uint64_t *rng) {
    fake_opts *fake = &load->fake;
    fake_opts_default(fake);
    fake->seed = work_rand(rng);
    fake->policy = (kv_policy)draw(rng, 0, KV_POLICIES - 1);
    fake->vocab = draw(rng, 8, 80);
    fake->n_core = chance(rng, 50) ? 1 : draw(rng, 2, 4);
    fake->n_prelude = draw(rng, 0, 2 * fake->n_core);
    fake->n_coda = draw(rng, 0, 2 * fake->n_core);
    fake->max_loops = draw(rng, 1, 10);
    fake->mean_depth = draw(rng, 1, 5);
    if (chance(rng, 20)) fake->deep_one_in = draw(rng, 2, 30);
    fake->n_rows = draw(rng, 1, chance(rng, 50) ? 12 : 120);
    fake->max_launch = draw(rng, 1, chance(rng, 50) ? 10 : 100);
    fake->max_logits = draw(rng, 1, 8);
    uint32_t per_block = ENG_BLOCK * fake_planes(fake, fake->max_loops);
    fake->n_blocks = draw(rng, 3, 40);
    fake->n_slots = draw(rng, 2, 20) * per_block;
    for (int i = 0; i < 3; i++) {
        fake->fixed_ns[i] = draw(rng, 0, 5000);
        fake->row_ns[i] = draw(rng, 1, 200);
    }
    if (spec->simpler & WORK_BIG_POOL) fake->n_blocks = 500, fake->n_slots = 500 * per_block;
    if (spec->simpler & WORK_BIG_ROWS) fake->n_rows = 500, fake->max_launch = 500;

    sched_opts *opts = &load->opts;
    sched_opts_default(opts);
    opts->halted_kv = fake->policy;
    uint32_t mode = draw(rng, 0, 9);
    opts->batching = fake->policy == KV_COLLAPSE             ? SCHED_DEPTHWISE
                     : mode == 0                             ? SCHED_LOCKSTEP
                     : mode == 1 && fake->policy == KV_EXACT ? SCHED_FULL
                                                             : SCHED_DEPTHWISE;
    opts->max_running = draw(rng, 1, 16);
    opts->max_queue = draw(rng, 1, 20);
    opts->max_rows = draw(rng, 1, 64);
    opts->chunk = draw(rng, 0, 3) == 0 ? draw(rng, 1, 40) : ENG_BLOCK * draw(rng, 1, 3);
    if (chance(rng, 10)) opts->chunk = 1;
    opts->wait_bound = draw(rng, 1, 20);
    opts->prefix_cache = chance(rng, 75);
    give_collapse_rows(fake);
}

static void draw_depth(work *load, work_item *it, uint64_t *rng) {
    if (chance(rng, 60)) return; /* the defaults */
    it->req.depth.max_loops = (uint16_t)draw(rng, 1, load->fake.max_loops);
    it->req.depth.min_loops = (uint16_t)draw(rng, 1, it->req.depth.max_loops);
    it->req.depth.threshold = chance(rng, 50) ? 0.5f : 0.75f;
}

static void draw_item(work *load, const work_case *spec, work_item *it, uint64_t *rng) {
    sched_request *req = &it->req;
    req->n_prompt = chance(rng, 60) ? draw(rng, 1, 40) : draw(rng, 1, 200);
    req->max_tokens = chance(rng, 70) ? draw(rng, 1, 24) : draw(rng, 1, 90);
    req->n_prompt = req->n_prompt >> spec->shorter ? req->n_prompt >> spec->shorter : 1;
    req->max_tokens = req->max_tokens >> spec->shorter ? req->max_tokens >> spec->shorter : 1;
    uint64_t stream = draw(rng, 0, 2), own = work_rand(rng);
    uint32_t shared = chance(rng, 70) && !(spec->simpler & WORK_NO_SHARE) ? draw(rng, 0, 150) : 0;
    for (uint32_t i = 0; i < req->n_prompt; i++) {
        uint64_t at = (i < shared ? stream : own) + i * 77;
        it->prompt[i] = (uint32_t)(work_rand(&at) % load->fake.vocab);
    }
    req->prompt = it->prompt;
    req->sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1, .seed = work_rand(rng)};
    bool hot = chance(rng, 50);
    if (hot && !(spec->simpler & WORK_GREEDY)) req->sampling.temperature = 0.8f;
    if (chance(rng, 40)) {
        req->n_stop_ids = draw(rng, 1, 3);
        for (uint32_t i = 0; i < req->n_stop_ids; i++)
            it->stop[i] = draw(rng, 0, load->fake.vocab - 1);
        req->stop_ids = it->stop;
        req->min_tokens = draw(rng, 0, 6);
    }
    draw_depth(load, it, rng);
    if (chance(rng, 15)) req->salt[0] = draw(rng, 1, 2);
    if (chance(rng, 15)) req->priority = (int32_t)draw(rng, 0, 4) - 2;
    req->prompt_logprobs = chance(rng, 10);
    req->n_top = chance(rng, 20) ? draw(rng, 1, 5) : 0;
    it->arrive = chance(rng, 50) ? 0 : draw(rng, 0, 300);
    if (spec->simpler & WORK_ALL_AT_ONCE) it->arrive = 0;
    uint64_t cancel = chance(rng, 20) ? it->arrive + draw(rng, 1, 100) : 0;
    if (!(spec->simpler & WORK_NO_CANCEL)) it->cancel_at = cancel;
}

/* From a stream of its own: the same traffic goes to backends of every kind. */
static void draw_flights(work *load, const work_case *spec) {
    uint64_t rng = ~spec->seed;
    bool samples = chance(&rng, 50), moody = chance(&rng, 50);
    load->fake.max_flights = spec->flights;
    load->fake.samples = samples && !(spec->simpler & WORK_HOST_SAMPLES);
    load->fake.n_homes = spec->simpler & WORK_NO_HOMES ? 0 : (uint32_t)(spec->seed % 4);
    if (moody && !(spec->simpler & WORK_ALWAYS_AHEAD)) load->mood = work_rand(&rng) | 1;
}

static uint32_t larger(uint32_t x, uint32_t y) {
    return x > y ? x : y;
}

/* And with drafts of every quality, or none; half of the time with room for them. */
static void draw_drafts(work *load, const work_case *spec) {
    static const uint32_t qualities[] = {0, 30, 70, 95, 100};
    uint64_t rng = spec->seed ^ UINT64_C(0x3333333333333333);
    load->fake.agreement = qualities[draw(&rng, 0, 4)];
    load->fake.by_token = chance(&rng, 40);
    load->fake.misleads = chance(&rng, 20);
    if (chance(&rng, 30) || spec->simpler & WORK_NO_DRAFTS) return;
    load->opts.drafts = chance(&rng, 40) ? SCHED_DRAFTS_AUTO : draw(&rng, 1, 8);
    load->opts.draft_loops = chance(&rng, 50) ? 0 : draw(&rng, 1, load->fake.max_loops);
    if (chance(&rng, 50)) return;
    fake_opts *fake = &load->fake;
    fake->n_rows = larger(fake->n_rows, draw(&rng, 60, 300));
    fake->max_launch = larger(fake->max_launch, draw(&rng, 20, 100));
    fake->n_blocks = larger(fake->n_blocks, draw(&rng, 20, 80));
    fake->n_slots = larger(fake->n_slots, fake->n_blocks * ENG_BLOCK * (fake->max_loops / 2 + 1));
    load->opts.max_rows = larger(load->opts.max_rows, draw(&rng, 20, 64));
    give_collapse_rows(fake);
}

static void draw_sampling(work_item *it, uint32_t vocab, uint64_t *rng) {
    static const float repetitions[] = {0.8f, 1.3f}, frequencies[] = {-0.3f, 0.4f};
    eng_sampling *sampling = &it->req.sampling;
    if (chance(rng, 50)) sampling->repetition_penalty = repetitions[draw(rng, 0, 1)];
    if (chance(rng, 50)) sampling->presence_penalty = 0.7f;
    if (chance(rng, 50)) sampling->frequency_penalty = frequencies[draw(rng, 0, 1)];
    if (chance(rng, 30)) sampling->top_k = draw(rng, 1, 9);
    if (chance(rng, 30)) sampling->top_p = 0.9f;
    if (chance(rng, 50)) return;
    sampling->n_bias = draw(rng, 1, BIASES);
    for (uint32_t i = 0; i < sampling->n_bias; i++)
        it->bias[i] = (eng_bias){draw(rng, 0, vocab - 1), (float)draw(rng, 0, 12) - 6};
    sampling->bias = it->bias;
}

/* From a stream of its own: a token may depend on the tokens before it by more than the logits. */
static void draw_memory(work *load, const work_case *spec) {
    uint64_t rng = spec->seed ^ UINT64_C(0x6666666666666666);
    bool lags = chance(&rng, 60);
    if (spec->simpler & WORK_PLAIN) return;
    if (lags && !(spec->simpler & WORK_MASKS_AT_ONCE)) load->lag = work_rand(&rng) | 1;
    for (uint32_t i = 0; i < load->n; i++) {
        work_item *it = &load->items[i];
        uint64_t own = work_rand(&rng);
        if (it->refused) continue;
        it->req.tell_drafts = own % 3 == 0;
        if (chance(&own, 30)) draw_sampling(it, load->fake.vocab, &own);
        if (chance(&own, 70)) continue;
        it->form = fake_form_begin(work_rand(&own), load->fake.vocab, chance(&own, 30) ? 20 : 0);
        fake_form_expect(&it->form, work_rand(&own));
        it->req.constraint = &fake_form_calls;
        it->req.ud = &it->form;
    }
}

/* From a stream of its own too: the same traffic is of one tenant or of several. */
static void draw_tenants(work *load, const work_case *spec) {
    uint64_t rng = spec->seed ^ UINT64_C(0x5555555555555555);
    uint32_t n = chance(&rng, 40) ? 1 : draw(&rng, 2, TENANTS);
    if (spec->simpler & WORK_ONE_TENANT) n = 1;
    for (uint32_t i = 0; i < TENANTS; i++)
        load->weights[i] = chance(&rng, 50) ? 1 : draw(&rng, 1, 5);
    load->opts.max_tenants = n;
    load->opts.weights = chance(&rng, 50) ? load->weights : NULL;
    load->opts.share_cache = chance(&rng, 20);
    for (uint32_t i = 0; i < WORK_MAX; i++)
        load->items[i].req.tenant = draw(&rng, 0, 9999) % n;
}

static void draw_work(work *load, const work_case *spec) {
    uint64_t rng = spec->seed;
    draw_machine(load, spec, &rng);
    draw_flights(load, spec);
    draw_tenants(load, spec);
    draw_drafts(load, spec);
    load->n = draw(&rng, 1, WORK_MAX);
    for (uint32_t i = 0; i < load->n; i++) {
        uint64_t own = work_rand(&rng); /* dropping one leaves the others unchanged */
        if (spec->keep >> i & 1) draw_item(load, spec, &load->items[i], &own);
        else load->items[i].ended = load->items[i].refused = true;
    }
    draw_memory(load, spec);
}

/* A queue with little room has blocks wait for the reader. */
static int make_feed(work *load, const work_case *spec, err *e) {
    load->pace = spec->seed ^ UINT64_C(0xaaaaaaaaaaaaaaaa);
    load->naps = chance(&load->pace, 50) ? 0 : 98;
    if (kv_feed_create(&load->feed, NULL, NULL, e) != 0) return -1;
    if (chance(&load->pace, 60)) sched__feed_set_room(load->feed, draw(&load->pace, 3, 30));
    load->opts.feed = load->feed;
    return 0;
}

/* ---- running ---- */

static work_item *find(work *load, uint64_t id) {
    for (uint32_t i = 0; i < load->n; i++) {
        if (load->items[i].sent && load->items[i].id == id) return &load->items[i];
    }
    return NULL;
}

static void on_event(void *ud, const sched_event *ev) {
    work *load = ud;
    work_item *it = find(load, ev->id);
    if (it == NULL || it->ended) {
        fail(load, "an event for a request that is unknown or over");
    } else if (ev->kind == SCHED_END) {
        it->ended = true;
        it->masked = NULL;
        it->end = *ev;
    } else if (ev->kind == SCHED_PROMPT) {
        if (ev->pos != it->n_prompt_events++ || ev->token != it->prompt[ev->pos]) {
            fail(load, "request %u: prompt event at %u comes out of order",
                 (unsigned)(it - load->items), ev->pos);
        }
    } else if (ev->kind == SCHED_DRAFT) {
        if (!it->req.tell_drafts || ev->pos < it->req.n_prompt + it->n_got ||
            ev->pos > it->req.n_prompt + it->n_got + it->n_shown) {
            fail(load, "request %u: draft for %u comes out of order", (unsigned)(it - load->items),
                 ev->pos);
        }
        it->n_shown = ev->pos + 1 - it->req.n_prompt - it->n_got;
        load->from_prompts += ev->pos == it->req.n_prompt;
    } else if (it->n_got == it->req.max_tokens || ev->pos != it->req.n_prompt + it->n_got) {
        fail(load, "request %u: token at %u comes out of order", (unsigned)(it - load->items),
             ev->pos);
    } else {
        it->n_shown -= it->n_shown > 0; /* at most: a wrong one takes the others along */
        it->got[it->n_got] = ev->token;
        it->depth[it->n_got] = ev->depth;
        it->logprob[it->n_got++] = ev->logprob;
        it->tops = fake_tops(it->tops, ev->top, ev->n_top);
    }
}

/* In place of a thread that makes masks. */
static void on_mask_wanted(void *ud, sequence *seq) {
    work *load = ud;
    for (uint32_t i = 0; i < load->n; i++) {
        if (seq->req.ud == &load->items[i].form) load->items[i].masked = seq;
    }
}

static void make_masks(work *load, scheduler *sched) {
    for (uint32_t i = 0; i < load->n; i++) {
        sequence *seq = load->items[i].masked;
        if (seq == NULL || chance(&load->lag, 60)) continue;
        load->items[i].masked = NULL;
        if (!sched__make_mask(seq)) atomic_store(&sched->masks_failed, true);
    }
}

static void send(work *load, scheduler *sched, work_item *it, work_report *report) {
    err e = {0};
    it->sent = true; /* before the id is known no event can come */
    if (sched_submit(sched, &it->req, &it->id, &e) == 0) {
        report->requests++;
        return;
    }
    it->sent = false;
    if (e.code == ERR_TOO_LONG) it->ended = it->refused = true;
    else if (e.code != ERR_BUSY) fail(load, "submit: %s", e.msg);
}

/* Enough rounds of launches for all sequences one after another, each started over whenever a newer
 * one could have preempted it: far above any honest schedule. */
static uint64_t step_limit(const work *load) {
    uint64_t steps = 2000;
    for (uint32_t i = 0; i < load->n; i++) {
        steps += (uint64_t)(load->items[i].req.n_prompt + load->items[i].req.max_tokens) *
                 (load->fake.max_loops + 4) * 8;
    }
    return steps;
}

/* The reader lags, and now and then begins anew; still it knows the blocks of the cache. */
static const char *read_feed(work *load, const scheduler *sched) {
    if (chance(&load->pace, 1)) kv_feed_restate(load->feed);
    if (chance(&load->pace, load->naps)) return NULL;
    if (chance(&load->pace, 50))
        return feed_reader_take(&load->reader, load->feed, draw(&load->pace, 0, 3));
    return feed_reader_compare(&load->reader, load->feed, sched);
}

static ahead_rule draw_ahead(work *load) {
    uint32_t mood = load->mood ? draw(&load->mood, 0, 99) : 99;
    return mood < 30 ? AHEAD_NEVER : mood < 50 ? AHEAD_BY_COST : AHEAD_ALWAYS;
}

static bool drive(work *load, scheduler *sched, work_report *report) {
    uint64_t limit = step_limit(load);
    for (uint64_t step = 0; !load->bad; step++) {
        bool open = false, idle;
        for (uint32_t i = 0; i < load->n; i++) {
            work_item *it = &load->items[i];
            if (!it->sent && !it->ended && it->arrive <= step) send(load, sched, it, report);
            if (it->sent && !it->ended && it->cancel_at && it->cancel_at <= step)
                sched_cancel(sched, it->id);
            open |= !it->ended;
        }
        err e = {0};
        if (!open && sched->n_out == 0) break;
        if (load->lag) make_masks(load, sched);
        sched->ahead.rule = draw_ahead(load);
        if (sched_step(sched, &idle, &e) != 0)
            return fail(load, "step %llu: %s", (unsigned long long)step, e.msg), false;
        const char *fault = read_feed(load, sched);
        if (fault) return fail(load, "step %llu: %s", (unsigned long long)step, fault), false;
        if ((step % 8 == 0 || step < 40) && !sched_sane(sched, &e)) {
            return fail(load, "step %llu: %s", (unsigned long long)step, e.msg), false;
        }
        if (step > limit)
            return fail(load, "not over after %llu steps", (unsigned long long)step), false;
    }
    err e = {0};
    if (!load->bad && !sched_sane(sched, &e)) fail(load, "at the end: %s", e.msg);
    return !load->bad;
}

/* ---- comparing ---- */

/* The longest common beginning of its prompt with any other request of its tenant (of any tenant,
 * if they share the cache): the most that may be cached. */
static uint32_t longest_own_prefix(const work *load, const work_item *it) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < load->n; i++) {
        const work_item *item = &load->items[i];
        if (item == it || !item->sent || item->refused) continue;
        if (item->req.tenant != it->req.tenant && !load->opts.share_cache) continue;
        uint32_t n = 0, all = item->req.n_prompt + item->n_got;
        while (n < it->req.n_prompt && n < all &&
               it->prompt[n] ==
                   (n < item->req.n_prompt ? item->prompt[n] : item->got[n - item->req.n_prompt])) {
            n++;
        }
        if (n > most) most = n;
    }
    return most;
}

static void compare(work *load, uint32_t i, eng_sampler *sampler) {
    work_item *it = &load->items[i];
    fake_form form = it->form;
    sched_request req = it->req;
    fake_answer ans;
    fake_form_restart(&form);
    req.ud = &form;
    fake_answer_find(&load->fake, &req, sampler, &ans);
    for (uint32_t k = 0; k < it->n_got; k++) {
        if (k >= ans.n || it->got[k] != ans.tokens[k])
            return fail(load, "request %u: token %u differs from the sequential one", i, k);
        if (it->depth[k] != ans.depth[k])
            return fail(load, "request %u: depth at %u is %u, must be %u", i, k, it->depth[k],
                        ans.depth[k]);
        if (it->logprob[k] != ans.logprob[k])
            return fail(load, "request %u: logprob at %u differs", i, k);
    }
    if (it->form.misused) return fail(load, "request %u: its constraint is misused", i);
    if (it->end.finish == SCHED_CANCELLED && it->cancel_at) return;
    if (it->end.finish != ans.finish || it->n_got != ans.n) {
        return fail(load, "request %u: ends with %d after %u tokens, must be %d after %u", i,
                    it->end.finish, it->n_got, ans.finish, ans.n);
    }
    if (it->end.stop_id != ans.stop_id || it->end.why != ans.why)
        return fail(load, "request %u: wrong stop id, or failure %d in place of %d", i, it->end.why,
                    ans.why);
    if (it->tops != ans.tops) return fail(load, "request %u: other alternatives", i);
    if (it->end.n_cached > longest_own_prefix(load, it)) {
        return fail(load, "request %u: %u tokens came from the cache, its tenant left at most %u",
                    i, it->end.n_cached, longest_own_prefix(load, it));
    }
    if (it->end.n_output != it->n_got)
        return fail(load, "request %u: counts %u tokens", i, it->end.n_output);
    bool scored = it->req.prompt_logprobs && ans.finish != SCHED_FAILED;
    if (scored && it->n_prompt_events != it->req.n_prompt) {
        fail(load, "request %u: %u prompt events of %u", i, it->n_prompt_events, it->req.n_prompt);
    }
}

static void compare_all(work *load) {
    err e = {0};
    eng_sampler *sampler;
    if (eng_sampler_create(&sampler, load->fake.vocab, &e) != 0) return fail(load, "%s", e.msg);
    for (uint32_t i = 0; i < load->n && !load->bad; i++) {
        if (!load->items[i].refused) compare(load, i, sampler);
    }
    eng_sampler_destroy(sampler);
}

/* The bound stated at sched__pick_loops: wait_bound, and the ready rows ahead. */
static void check_waits(work *load, const scheduler *sched, const sched_stats *st) {
    uint32_t bound =
        sched->limits.opts.wait_bound + sched->n_rows / (sched->max_rows - sched->chunk + 1) + 2;
    if (st->longest_wait > bound)
        fail(load, "a ready row was passed over %u times, the bound is %u", st->longest_wait,
             bound);
}

/* Every slot handed out is written exactly once by the backend: the cache costs executed loops. (A
 * sequence preempted or cancelled in flight, and a draft, may hold unwritten slots.) */
static void check_slots(work *load, const scheduler *sched, const eng_backend *backend,
                        const sched_stats *st) {
    uint64_t written = fake_backend_slots_written(backend);
    uint64_t handed_out = 0;
    for (uint32_t home = 0; home < sched->n_homes; home++)
        handed_out += sched->caches[home].n_handed_out;
    uint64_t unwritten = st->preemptions + st->finished[SCHED_CANCELLED] + st->drafts_withdrawn;
    if (unwritten > 0 || handed_out == written) return;
    fail(load, "%llu slots were handed out for %llu written", (unsigned long long)handed_out,
         (unsigned long long)written);
}

/* A cached block holds no slot that its map does not name: all withdrawn ones are back. */
static void check_cached(work *load, const scheduler *sched, const eng_backend *backend) {
    for (uint32_t home = 0; home < sched->n_homes; home++) {
        const kv_cache *cache = &sched->caches[home];
        for (uint32_t id = 0; id < cache->n_blocks; id++) {
            if (!cache->blocks[id].taken) continue;
            uint32_t loops = cache->contents[id].key.max_loops, used = cache->blocks[id].n_used;
            uint32_t planes = plan_planes(sched->plan, loops);
            uint32_t mapped = fake_backend_slots_of(backend, home, id, planes);
            if (used != mapped) fail(load, "block %u holds %u slots and maps %u", id, used, mapped);
            if (cache->blocks[id].full_depth_slots != ENG_BLOCK * planes)
                fail(load, "block %u would hold %u slots with every loop stored, counted %u", id,
                     ENG_BLOCK * planes, cache->blocks[id].full_depth_slots);
        }
    }
}

static void fill_report(work *load, scheduler *sched, eng_backend *backend, work_report *report) {
    sched_stats *st = malloc(sizeof *st);
    if (st == NULL) return;
    sched_get_stats(sched, st);
    check_waits(load, sched, st);
    check_slots(load, sched, backend, st);
    check_cached(load, sched, backend);
    bool loses_rows = st->finished[SCHED_CANCELLED] + st->drafts_withdrawn > 0;
    if (fake_backend_left_out(backend) != st->voided_rows && !loses_rows)
        fail(load, "the backend left out other rows than the scheduler knows");
    report->left_out = st->voided_rows;
    report->drafts = st->draft_tokens;
    report->from_prompts = load->from_prompts;
    report->looked_up = st->text_drafts;
    report->forced = st->forced_drafts_accepted;
    report->drafts_accepted = st->drafts_accepted;
    report->drafts_withdrawn = st->drafts_withdrawn;
    report->steps = st->steps;
    report->preemptions = st->preemptions;
    report->cached_tokens = st->prefix_hits;
    report->tokens = st->output_tokens;
    report->cancelled = st->finished[SCHED_CANCELLED];
    report->longest_wait = st->longest_wait;
    report->launches = fake_backend_launches(backend);
    report->schedule = fake_backend_schedule_hash(backend);
    free(st);
}

bool work_run(const work_case *spec, work_report *report, char *why, size_t why_bytes) {
    work *load = calloc(1, sizeof *load);
    if (load == NULL) return false;
    *report = (work_report){0};
    load->why = why;
    load->why_bytes = why_bytes;
    draw_work(load, spec);
    eng_backend *backend = fake_backend_create(&load->fake);
    scheduler *sched = NULL;
    err e = {0};
    if (backend == NULL || make_feed(load, spec, &e) != 0 ||
        sched_create(&sched, backend, &load->opts, on_event, load, &e) != 0) {
        fail(load, "create: %s", e.msg);
    } else {
        sched->host_is_free = true;
        if (load->lag) sched->hand_mask = on_mask_wanted;
        if (drive(load, sched, report)) compare_all(load);
        const char *fault = feed_reader_compare(&load->reader, load->feed, sched);
        if (fault) fail(load, "at the end: %s", fault);
        if (!load->bad) fill_report(load, sched, backend, report);
    }
    sched_destroy(sched);
    kv_feed_destroy(load->feed);
    eng_backend_close(backend);
    bool ok = !load->bad;
    free(load);
    return ok;
}

/* ---- shrinking ---- */

static bool still_fails(const work_case *spec) {
    work_report report;
    char why[300];
    return !work_run(spec, &report, why, sizeof why);
}

work_case work_shrink(const work_case *failing) {
    work_case best = *failing;
    for (bool smaller = true; smaller;) {
        smaller = false;
        for (uint32_t i = 0; i < WORK_MAX; i++) {
            work_case spec = best;
            spec.keep &= ~(1u << i);
            if (spec.keep != best.keep && spec.keep && still_fails(&spec))
                best = spec, smaller = true;
        }
        for (uint32_t bit = 1; bit < WORK_SIMPLER_ALL; bit *= 2) {
            work_case spec = best;
            spec.simpler |= bit;
            if (spec.simpler != best.simpler && still_fails(&spec)) best = spec, smaller = true;
        }
        work_case spec = best;
        spec.shorter++;
        if (spec.shorter <= 8 && still_fails(&spec)) best = spec, smaller = true;
    }
    return best;
}

/* sched_rig.c - see sched_rig.h. */
#include "tests/lib/sched_rig.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static sched_rig *now; /* one rig at a time: events need its clock */

static void on_event(void *ud, const sched_event *ev) {
    rig_out *all = ud;
    cr_assert_lt(ev->id, RIG_IDS);
    rig_out *out = &all[ev->id];
    cr_assert(!out->ended, "an event after the end");
    if (ev->kind == SCHED_PROMPT) out->n_prompt++;
    if (ev->kind == SCHED_END) {
        out->ended = true;
        out->end = *ev;
    }
    if (ev->kind != SCHED_TOKEN) return;
    cr_assert_lt(out->n, RIG_TOKENS);
    if (out->n == 0) out->first_ns = rig_device_ns(now);
    out->tokens[out->n] = ev->token;
    out->depth[out->n] = ev->depth;
    out->logprob[out->n] = ev->logprob;
    for (uint32_t i = 0; i < ev->n_top; i++) {
        uint32_t bits;
        memcpy(&bits, &ev->top[i].logprob, sizeof bits);
        out->top_hash = (out->top_hash * 1000003 + ev->top[i].id) * 1000003 + bits;
    }
    out->at[out->n++] = now->sched->stats.launches[ENG_STAGE_RECURRENT];
}

sched_opts rig_opts(kv_policy policy) {
    sched_opts opts;
    sched_opts_default(&opts);
    opts.halted_kv = policy;
    opts.prefix_cache = false;
    return opts;
}

sched_rig rig_open(const fake_opts *fake, const sched_opts *opts) {
    sched_rig rig = {.backend = fake_backend_create(fake), .out = calloc(RIG_IDS, sizeof(rig_out))};
    err e = {0};
    cr_assert(rig.backend && rig.out);
    cr_assert_eq(sched_create(&rig.sched, rig.backend, opts, on_event, rig.out, &e), 0, "%s",
                 e.msg);
    return rig;
}

void rig_close(sched_rig *rig) {
    err e = {0};
    cr_assert(sched_sane(rig->sched, &e), "%s", e.msg);
    if (rig->sched->n_running + rig->sched->n_waiting == 0) {
        cr_assert_eq(rig->sched->n_free_rows, rig->sched->n_rows);
        for (uint32_t home = 0; home < rig->sched->n_homes; home++) {
            const kv_cache *cache = &rig->sched->caches[home];
            cr_assert_eq(cache->n_free_pages + cache->n_cached_pages, cache->n_pages);
        }
    }
    sched_destroy(rig->sched);
    eng_backend_close(rig->backend);
    free(rig->out);
    *rig = (sched_rig){0};
}

uint32_t rig_token(uint64_t stream, uint32_t i) {
    uint64_t x = (stream * 1000003 + i + 1) * 0x9e3779b97f4a7c15u;
    return (uint32_t)((x ^ x >> 29) * 0xbf58476d1ce4e5b9u >> 40) % 64;
}

sched_request rig_request(uint32_t *prompt, uint32_t n, uint32_t max_tokens, uint64_t stream) {
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = rig_token(stream, i);
    sched_request req = {.prompt = prompt, .n_prompt = n, .max_tokens = max_tokens};
    req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    return req;
}

uint64_t rig_submit(sched_rig *rig, const sched_request *req) {
    err e = {0};
    uint64_t id;
    now = rig;
    cr_assert_eq(sched_submit(rig->sched, req, &id, &e), 0, "%s", e.msg);
    return id;
}

void rig_steps(sched_rig *rig, uint32_t n) {
    now = rig;
    for (bool idle = false; n > 0 && !idle; n--) {
        err e = {0};
        cr_assert_eq(sched_step(rig->sched, &idle, &e), 0, "%s", e.msg);
    }
}

bool rig_step_of(scheduler *sched) {
    bool idle = false;
    err e = {0};
    cr_assert_eq(sched_step(sched, &idle, &e), 0, "%s", e.msg);
    cr_assert(sched_sane(sched, &e), "%s", e.msg);
    return !idle;
}

void rig_finish(sched_rig *rig) {
    rig_steps(rig, 10000000);
    cr_assert_eq(rig->sched->n_running + rig->sched->n_waiting, 0,
                 "not over after ten million steps");
}

const sched_stats *rig_stats(sched_rig *rig) {
    sched_get_stats(rig->sched, &rig->stats);
    return &rig->stats;
}

uint64_t rig_device_ns(sched_rig *rig) {
    const uint64_t *ns = rig->sched->stats.launch_ns;
    return ns[0] + ns[1] + ns[2];
}

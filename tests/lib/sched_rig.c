/* sched_rig.c - see sched_rig.h. */
#include "tests/lib/sched_rig.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static rig *now; /* one rig at a time: events need its clock */

static void on_event(void *ud, const sched_event *ev) {
    rig_out *all = ud;
    cr_assert_lt(ev->id, RIG_IDS);
    rig_out *o = &all[ev->id];
    cr_assert(!o->ended, "an event after the end");
    if (ev->kind == SCHED_PROMPT) o->n_prompt++;
    if (ev->kind == SCHED_END) {
        o->ended = true;
        o->end = *ev;
    }
    if (ev->kind != SCHED_TOKEN) return;
    cr_assert_lt(o->n, RIG_TOKENS);
    if (o->n == 0) o->first_ns = rig_device_ns(now);
    o->tokens[o->n] = ev->token;
    o->depth[o->n] = ev->depth;
    o->logprob[o->n] = ev->logprob;
    for (uint32_t i = 0; i < ev->n_top; i++) {
        uint32_t bits;
        memcpy(&bits, &ev->top[i].logprob, sizeof bits);
        o->top_hash = (o->top_hash * 1000003 + ev->top[i].id) * 1000003 + bits;
    }
    o->at[o->n++] = now->s->stats.launches[ENG_STAGE_RECURRENT];
}

rig rig_open(const fake_opts *f, const sched_opts *o) {
    rig r = {.backend = fake_backend_create(f), .out = calloc(RIG_IDS, sizeof(rig_out))};
    err e = {0};
    cr_assert(r.backend && r.out);
    cr_assert_eq(sched_create(&r.s, r.backend, o, on_event, r.out, &e), 0, "%s", e.msg);
    return r;
}

void rig_close(rig *r) {
    err e = {0};
    cr_assert(sched_sane(r->s, &e), "%s", e.msg);
    if (r->s->n_running + r->s->n_waiting == 0) {
        cr_assert_eq(r->s->n_free_rows, r->s->n_rows);
        cr_assert_eq(r->s->cache.n_free_pages + r->s->cache.n_cached_pages, r->s->cache.n_pages);
    }
    sched_destroy(r->s);
    eng_backend_close(r->backend);
    free(r->out);
    *r = (rig){0};
}

uint32_t rig_token(uint64_t stream, uint32_t i) {
    uint64_t z = (stream * 1000003 + i + 1) * 0x9e3779b97f4a7c15u;
    return (uint32_t)((z ^ z >> 29) * 0xbf58476d1ce4e5b9u >> 40) % 64;
}

sched_request rig_request(uint32_t *prompt, uint32_t n, uint32_t max_tokens, uint64_t stream) {
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = rig_token(stream, i);
    sched_request q = {.prompt = prompt, .n_prompt = n, .max_tokens = max_tokens};
    q.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    return q;
}

uint64_t rig_submit(rig *r, const sched_request *q) {
    err e = {0};
    uint64_t id;
    now = r;
    cr_assert_eq(sched_submit(r->s, q, &id, &e), 0, "%s", e.msg);
    return id;
}

void rig_steps(rig *r, uint32_t n) {
    now = r;
    for (bool idle = false; n > 0 && !idle; n--) {
        err e = {0};
        cr_assert_eq(sched_step(r->s, &idle, &e), 0, "%s", e.msg);
    }
}

void rig_finish(rig *r) {
    rig_steps(r, 10000000);
    cr_assert_eq(r->s->n_running + r->s->n_waiting, 0, "not over after ten million steps");
}

const sched_stats *rig_stats(rig *r) {
    sched_get_stats(r->s, &r->stats);
    return &r->stats;
}

uint64_t rig_device_ns(rig *r) {
    const uint64_t *ns = r->s->stats.launch_ns;
    return ns[0] + ns[1] + ns[2];
}

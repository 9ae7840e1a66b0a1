/* sched_rig.c - see sched_rig.h. */
#include "tests/lib/sched_rig.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static rig *now; /* one rig at a time: events need its clock */

static void on_event(void *ud, const sched_event *ev) {
    rig_out *all = ud;
    cr_assert_lt(ev->id, RIG_IDS);
    rig_out *seen = &all[ev->id];
    cr_assert(!seen->ended, "an event after the end");
    if (ev->kind == SCHED_PROMPT) seen->n_prompt++;
    if (ev->kind == SCHED_END) {
        seen->ended = true;
        seen->end = *ev;
    }
    if (ev->kind != SCHED_TOKEN) return;
    cr_assert_lt(seen->n, RIG_TOKENS);
    if (seen->n == 0) seen->first_ns = rig_device_ns(now);
    seen->tokens[seen->n] = ev->token;
    seen->depth[seen->n] = ev->depth;
    seen->logprob[seen->n] = ev->logprob;
    for (uint32_t i = 0; i < ev->n_top; i++) {
        uint32_t bits;
        memcpy(&bits, &ev->top[i].logprob, sizeof bits);
        seen->top_hash = (seen->top_hash * 1000003 + ev->top[i].id) * 1000003 + bits;
    }
    seen->at[seen->n++] = now->s->stats.launches[ENG_STAGE_RECURRENT];
}

rig rig_open(const fake_opts *fake, const sched_opts *opts) {
    rig run = {.backend = fake_backend_create(fake), .out = calloc(RIG_IDS, sizeof(rig_out))};
    err e = {0};
    cr_assert(run.backend && run.out);
    cr_assert_eq(sched_create(&run.s, run.backend, opts, on_event, run.out, &e), 0, "%s", e.msg);
    return run;
}

void rig_close(rig *run) {
    err e = {0};
    cr_assert(sched_sane(run->s, &e), "%s", e.msg);
    if (run->s->n_running + run->s->n_waiting == 0) {
        cr_assert_eq(run->s->n_free_rows, run->s->n_rows);
        cr_assert_eq(run->s->cache.n_free_pages + run->s->cache.n_cached_pages,
                     run->s->cache.n_pages);
    }
    sched_destroy(run->s);
    eng_backend_close(run->backend);
    free(run->out);
    *run = (rig){0};
}

uint32_t rig_token(uint64_t stream, uint32_t i) {
    uint64_t hash = (stream * 1000003 + i + 1) * 0x9e3779b97f4a7c15u;
    return (uint32_t)((hash ^ hash >> 29) * 0xbf58476d1ce4e5b9u >> 40) % 64;
}

sched_request rig_request(uint32_t *prompt, uint32_t n, uint32_t max_tokens, uint64_t stream) {
    for (uint32_t i = 0; i < n; i++)
        prompt[i] = rig_token(stream, i);
    sched_request req = {.prompt = prompt, .n_prompt = n, .max_tokens = max_tokens};
    req.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
    return req;
}

uint64_t rig_submit(rig *run, const sched_request *req) {
    err e = {0};
    uint64_t id;
    now = run;
    cr_assert_eq(sched_submit(run->s, req, &id, &e), 0, "%s", e.msg);
    return id;
}

void rig_steps(rig *run, uint32_t n) {
    now = run;
    for (bool idle = false; n > 0 && !idle; n--) {
        err e = {0};
        cr_assert_eq(sched_step(run->s, &idle, &e), 0, "%s", e.msg);
    }
}

void rig_finish(rig *run) {
    rig_steps(run, 10000000);
    cr_assert_eq(run->s->n_running + run->s->n_waiting, 0, "not over after ten million steps");
}

const sched_stats *rig_stats(rig *run) {
    sched_get_stats(run->s, &run->stats);
    return &run->stats;
}

uint64_t rig_device_ns(rig *run) {
    const uint64_t *ns = run->s->stats.launch_ns;
    return ns[0] + ns[1] + ns[2];
}

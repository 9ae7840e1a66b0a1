/* engine.c - where requests meet the engine thread.
 *
 * A srv_gen is the work of one request: its reply and the ids of its sequences. It
 * outlives the request when the client leaves, until the scheduler has said END for every
 * sequence, because the scheduler may look into the reply (constrained decoding) till then.
 * Ids are never used twice, so a late event of a forgotten sequence finds nothing. */
#include "base/clock.h"
#include "base/size.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>

enum { TURN_EVENTS = 2048, FAULTS_KEPT = SRV_FAULTS_KEPT };
#define FAULT_WINDOW_NS UINT64_C(10000000000)

/* ---- the work of one request ---- */

static void gen_free(srv_gen *g) {
    srv *s = g->s;
    if (g->key >= 0) srv_keys_use(s->keys, g->key)->requests--;
    list_remove(&g->link);
    srv_hold_end(&g->held);
    api_reply_destroy(g->reply);
    free(g);
}

/* What the scheduler keeps of one sequence: its tokens, its blocks, itself. */
static size_t seq_bytes(const sched_request *q) {
    return ((size_t)q->n_prompt + q->max_tokens) * 5 + 1024;
}

/* The request no longer listens; the rest of its sequences is cancelled. */
static void detach(srv_gen *g) {
    srv *s = g->s;
    if (g->reply) g->req->more = false; /* what waits there goes with it */
    g->req->gen = NULL;
    g->req = NULL;
    for (uint32_t i = 0; i < g->n; i++) {
        if (g->seqs[i].id) sched_thread_cancel(s->engine, g->seqs[i].id);
    }
    if (g->n_open == 0) {
        gen_free(g);
        return;
    }
    g->cancel_ns = clock_ns();
    srv_hold_leave(&g->held);
}

void srv_engine_drop(srv_req *r) {
    if (r->tally.finish == NULL) r->tally.finish = "cancelled";
    detach(r->gen);
}

static srv_gen *gen_create(srv_req *r, api_request *steal_request, err *e) {
    api_reply *reply = NULL;
    if (api_reply_create(&reply, r->s->api, steal_request, r->id[0] ? r->id : NULL, e) != 0) {
        return NULL;
    }
    uint32_t n = api_reply_sequences(reply);
    size_t bytes = 0;
    srv_gen *g = NULL;
    if (size_mul(n, sizeof g->seqs[0], &bytes) && size_add(bytes, sizeof *g, &bytes)) {
        g = calloc(1, bytes);
    }
    if (g == NULL || map_reserve(&r->s->ids, n) != 0) {
        free(g);
        api_reply_destroy(reply);
        (void)err_set(e, ERR_NO_MEMORY, NULL, "out of memory to start the request");
        return NULL;
    }
    *g = (srv_gen){.s = r->s, .req = r, .reply = reply, .n = n, .key = r->key};
    srv_hold_begin(&g->held, r->account, SRV_HELD_WORK);
    list_insert_before(&r->s->gens, &g->link);
    if (g->key >= 0) {
        srv_use *u = srv_keys_use(r->s->keys, g->key);
        u->requests++;
        u->ever = true;
    }
    r->gen = g;
    return g;
}

static int submit_all(srv_gen *g, err *e) {
    srv *s = g->s;
    for (uint32_t i = 0; i < g->n; i++) {
        sched_request q;
        srv_seq *seq = &g->seqs[i];
        api_reply_request(g->reply, i, &q);
        q.tenant = (uint32_t)(g->key + 1);
        q.priority = g->priority;
        if (sched_thread_submit(s->engine, &q, &seq->id, e) != 0) {
            seq->id = 0;
            return -1;
        }
        g->seq_bytes += seq_bytes(&q);
        seq->n_prompt = q.n_prompt;
        seq->max_tokens = q.max_tokens;
        seq->gen = g;
        seq->index = i;
        map_put(&s->ids, seq->id, (uintptr_t)seq);
        g->n_open++;
        srv_tenant_entered(g, seq);
    }
    return 0;
}

bool srv_engine_admit(srv_req *r) {
    srv *s = r->s;
    const sched_opts *o = &s->model.sched;
    if (!srv_tenant_admit(r)) return false;
    if (s->n_sequences >= (uint64_t)o->max_running + o->max_queue) {
        s->counts.refused_busy++;
        srv_answer_http(r, 503, "the queue is full; try again shortly", "overloaded");
        return false;
    }
    return true;
}

void srv_engine_submit(srv_req *r, api_request *steal_request) {
    srv *s = r->s;
    err e = {0};
    if (s->draining) {
        api_request_destroy(steal_request);
        srv_answer_http(r, 503, "the server is shutting down", "shutting_down");
        return;
    }
    r->tally.engine = true;
    r->tally.stream = api_wants_stream(steal_request);
    r->tally.prompt = api_prompt_tokens(steal_request);
    int32_t priority;
    if (srv_tenant_priority(r, steal_request, &priority, &e) != 0) {
        api_request_destroy(steal_request);
        srv_answer_err(r, &e);
        return;
    }
    srv_gen *g = gen_create(r, steal_request, &e);
    if (g == NULL) {
        srv_answer_err(r, &e);
        return;
    }
    g->priority = priority;
    r->tally.sequences = g->n;
    if (r->id[0] == 0 && strlen(api_reply_id(g->reply)) <= SRV_ID_MAX) {
        memcpy(r->id, api_reply_id(g->reply), strlen(api_reply_id(g->reply)) + 1);
    }
    if (srv_tenant_check(g, &e) != 0) {
        detach(g);
        srv_tenant_refuse(r, &e);
        return;
    }
    if (submit_all(g, &e) != 0) {
        if (e.code == ERR_BUSY) s->counts.refused_busy++;
        detach(g);
        srv_answer_err(r, &e);
        return;
    }
    r->state = REQ_WAITING;
    r->last_out_ns = clock_ns();
    if (!r->suspended) srv_req_suspend(r);
    srv_watch(r);
    srv_hold_set(&g->held, g->seq_bytes + api_reply_bytes(g->reply));
    (void)srv_make_room(s, r);
}

/* ---- events ---- */

static void deliver(srv_req *r) {
    if (r->state == REQ_WAITING) srv_answer_stream(r);
    else srv_req_wake(r);
}

/* An answer that failed: a real status if nothing went out yet, else the stream ends
 * after its error event and without its last chunk. */
static void fail(srv_gen *g, const err *e) {
    srv_req *r = g->req;
    r->tally.finish = "failed";
    detach(g);
    if (r->state != REQ_STREAMING) {
        buf_clear(&r->out);
        srv_answer_err(r, e);
        return;
    }
    r->cut = true;
    srv_req_wake(r);
}

static void complete(srv_gen *g) {
    srv_req *r = g->req;
    srv *s = r->s;
    uint64_t prompt = 0, output = 0;
    api_reply_usage(g->reply, &prompt, &output);
    r->tally.prompt = prompt;
    r->tally.output = output;
    srv_observe(&s->counts.e2e, (double)(clock_ns() - r->start_ns) / 1e9, 1);
    srv_observe(&s->counts.params_n, (double)g->n, 1);
    uint32_t most = 0;
    for (uint32_t i = 0; i < g->n; i++) {
        if (g->seqs[i].n_output > most) most = g->seqs[i].n_output;
    }
    srv_observe(&s->counts.max_output_tokens, most, 1);
    if (r->more) { /* every sequence has ended: the scheduler looks into the reply no more */
        r->reply = g->reply;
        g->reply = NULL;
    }
    detach(g);
    if (!r->tally.stream) {
        srv_answer_rest(r);
        return;
    }
    r->finished = !r->more;
    srv_out_changed(r);
    deliver(r);
}

static void feed_reply(srv_gen *g, uint32_t i, const sched_event *ev) {
    srv_req *r = g->req;
    srv *s = g->s;
    size_t before = r->out.len;
    err e = {0};
    unsigned bits = api_reply_event(g->reply, i, ev, &r->out, &e);
    if (bits & API_MORE) r->more = true;
    srv_out_changed(r);
    srv_hold_set(&g->held, g->seq_bytes + api_reply_bytes(g->reply));
    if (r->out.failed) {
        (void)err_set(&e, ERR_NO_MEMORY, NULL, "out of memory to write the answer");
        bits |= API_FAILED;
    }
    if ((bits & API_CANCEL) && g->seqs[i].id) {
        g->seqs[i].stopped = true;
        sched_thread_cancel(s->engine, g->seqs[i].id);
    }
    if (bits & API_FAILED) fail(g, &e);
    else if (bits & API_DONE) complete(g);
    else if (r->tally.stream && (r->more || r->out.len > before)) deliver(r);
}

static void count_token(srv_gen *g, uint32_t i, const sched_event *ev, uint64_t now) {
    srv *s = g->s;
    srv_tenant_began(g, &g->seqs[i]);
    s->turn_tokens += g->seqs[i].last_ns ? 1 : ev->pos + 1; /* the first brings its prompt */
    uint64_t last = g->seqs[i].last_ns;
    g->seqs[i].last_ns = now;
    g->seqs[i].n_output++;
    srv_observe(&s->counts.depth, ev->depth, 1);
    if (last) srv_observe(&s->counts.itl, (double)(now - last) / 1e9, 1);
    srv_req *r = g->req;
    if (r == NULL) return;
    r->tally.output++;
    r->tally.loops += ev->depth;
    if (r->tally.first_token_ns) return;
    r->tally.first_token_ns = now;
    srv_observe(&s->counts.ttft, (double)(now - r->start_ns) / 1e9, 1);
}

/* Three numeric failures within ten seconds are not one bad request: the engine is ill. */
static void note_failure(srv *s, const sched_event *ev, uint64_t now) {
    if (ev->why != ERR_NUMERIC) return;
    s->counts.numeric_failures++;
    memmove(s->numeric_ns, s->numeric_ns + 1, sizeof s->numeric_ns - sizeof s->numeric_ns[0]);
    s->numeric_ns[FAULTS_KEPT - 1] = now;
    log_line(LOG_ALERT, "the model produced a value that is not a number (sequence %llu)",
             (unsigned long long)ev->id);
    uint64_t oldest = s->numeric_ns[0];
    if (oldest && now - oldest < FAULT_WINDOW_NS) s->engine_ill = true;
}

static void count_end(srv_gen *g, uint32_t i, const sched_event *ev, uint64_t now) {
    static const char *const names[] = {"stop", "length", "cancelled", "failed"};
    srv *s = g->s;
    srv_counts *c = &s->counts;
    double queued = (double)ev->queued_ns / 1e9, prefill = (double)ev->prefill_ns / 1e9,
           decode = (double)ev->decode_ns / 1e9;
    sched_finish finish = g->seqs[i].stopped ? SCHED_STOP : ev->finish;
    c->finished[finish]++;
    if (finish == SCHED_FAILED) note_failure(s, ev, now);
    if (g->req) {
        g->req->tally.finish = names[finish];
        g->req->tally.queued_ns = ev->queued_ns;
        g->req->tally.cached += ev->n_cached;
    }
    c->cached_tokens += ev->n_cached;
    if (finish != SCHED_STOP && finish != SCHED_LENGTH) return;
    srv_observe(&c->queue_time, queued, 1);
    srv_observe(&c->prefill, prefill, 1);
    srv_observe(&c->decode, decode, 1);
    srv_observe(&c->inference, prefill + decode, 1);
    srv_observe(&c->prompt_tokens, ev->n_prompt, 1);
    srv_observe(&c->output_tokens, ev->n_output, 1);
    srv_observe(&c->max_tokens, g->seqs[i].max_tokens, 1);
    if (ev->n_output > 1) srv_observe(&c->tpot, decode / (ev->n_output - 1), 1);
}

static void on_event(srv *s, const sched_event *ev, uint64_t now) {
    uint64_t found = map_get(&s->ids, ev->id);
    if (found == MAP_NONE) return;
    const srv_seq *seq = (const srv_seq *)(uintptr_t)found;
    srv_gen *g = seq->gen;
    uint32_t i = seq->index;
    if (ev->kind == SCHED_TOKEN) count_token(g, i, ev, now);
    if (ev->kind == SCHED_END) {
        map_drop(&s->ids, ev->id);
        g->seqs[i].id = 0;
        g->n_open--;
        srv_tenant_left(g, &g->seqs[i]);
        count_end(g, i, ev, now);
        /* With nobody listening and nothing left to end, the work is over. */
        if (g->req == NULL && g->n_open == 0) {
            if (g->cancel_ns) srv_observe(&s->counts.cancel, (double)(now - g->cancel_ns) / 1e9, 1);
            gen_free(g);
            return;
        }
    }
    if (g->req) feed_reply(g, i, ev);
}

static void on_async(uv_async_t *a) {
    srv_engine_turn(a->data);
}

void srv_engine_turn(srv *s) {
    if (s->engine == NULL) return;
    srv_turn turn = srv_turn_begin(s);
    sched_event ev;
    unsigned n = 0;
    uint64_t now = clock_ns();
    while (n < TURN_EVENTS && sched_thread_poll(s->engine, &ev)) {
        on_event(s, &ev, now);
        n++;
    }
    if (s->turn_tokens) srv_observe(&s->counts.iteration_tokens, (double)s->turn_tokens, 1);
    s->turn_tokens = 0;
    (void)srv_make_room(s, NULL);
    if (n) srv_mhd_pump(s);
    if (n == TURN_EVENTS) uv_async_send(&s->async); /* sockets first, then the rest */
    if (s->engine_ill || sched_thread_failed(s->engine)) {
        srv_stop(s, EXIT_FAILED,
                 "the engine failed; the server is ending and must be started again");
    }
    srv_turn_end(s, turn);
}

bool srv_engine_alive(srv *s) {
    return s->engine && !s->engine_ill && !s->engine_dead && !sched_thread_failed(s->engine);
}

/* From the engine thread: the one call libuv allows there. */
static void on_notify(void *ud) {
    srv *s = ud;
    uv_async_send(&s->async);
}

int srv_engine_open(srv *s, err *e) {
    eng_backend *backend = s->model.backend;
    s->model.backend = NULL; /* the engine thread closes it */
    return sched_thread_start(&s->engine, backend, &s->model.sched, on_notify, s, e);
}

int srv_engine_init(srv *s, err *e) {
    s->async.data = s;
    if (uv_async_init(&s->loop, &s->async, on_async) == 0) return 0;
    return err_set(e, ERR_IO, NULL, "the event loop cannot be woken by other threads");
}

void srv_engine_close(srv *s) {
    sched_thread_stop(s->engine);
    s->engine = NULL;
    while (s->gens.next != &s->gens)
        gen_free(OWNER_OF(s->gens.next, srv_gen, link));
    map_deinit(&s->ids);
    uv_close((uv_handle_t *)&s->async, NULL);
}

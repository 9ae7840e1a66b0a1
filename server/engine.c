/* engine.c - connects requests with the engine thread.
 *
 * A srv_job is the work of one request: its reply and the ids of its sequences. If the client
 * leaves, the job lives on until the scheduler has reported the end of every sequence, because the
 * scheduler may read the reply until then (constrained decoding). Ids are never reused, so a late
 * event of a forgotten sequence finds no entry. */
#include "base/clock.h"
#include "base/size.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>

enum { TURN_EVENTS = 2048, FAULTS_KEPT = SRV_FAULTS_KEPT };
#define FAULT_WINDOW_NS UINT64_C(10000000000)

/* ---- the work of one request ---- */

static void job_free(srv_job *job) {
    srv *server = job->server;
    if (job->key >= 0) srv_keys_use(server->keys, job->key)->requests--;
    list_remove(&job->jobs_link);
    srv_hold_end(&job->held);
    api_reply_destroy(job->reply);
    free(job);
}

/* Bytes that the scheduler holds for one sequence: tokens, blocks and the sequence itself. */
static size_t seq_bytes(const sched_request *request) {
    return ((size_t)request->n_prompt + request->max_tokens) * 5 + 1024;
}

/* Separates the job from its request and cancels the sequences that still run. */
static void detach(srv_job *job) {
    srv *server = job->server;
    if (job->reply) job->req->more = false; /* the rest of the answer is dropped with the job */
    job->req->job = NULL;
    job->req = NULL;
    for (uint32_t i = 0; i < job->n_seqs; i++) {
        if (job->seqs[i].id) sched_thread_cancel(server->engine, job->seqs[i].id);
    }
    if (job->n_open == 0) {
        job_free(job);
        return;
    }
    job->cancel_ns = clock_ns();
    srv_hold_leave(&job->held);
}

void srv_engine_drop(srv_req *req) {
    if (req->outcome.finish == NULL) req->outcome.finish = "cancelled";
    detach(req->job);
}

static srv_job *job_create(srv_req *req, api_request *steal_request, err *e) {
    api_reply *reply = NULL;
    if (api_reply_create(&reply, req->server->api, steal_request, req->id[0] ? req->id : NULL, e) !=
        0) {
        return NULL;
    }
    uint32_t n = api_reply_sequences(reply);
    size_t bytes = 0;
    srv_job *job = NULL;
    if (size_mul(n, sizeof job->seqs[0], &bytes) && size_add(bytes, sizeof *job, &bytes)) {
        job = calloc(1, bytes);
    }
    if (job == NULL || map_reserve(&req->server->ids, n) != 0) {
        free(job);
        api_reply_destroy(reply);
        (void)err_set(e, ERR_NO_MEMORY, NULL, "out of memory to start the request");
        return NULL;
    }
    *job =
        (srv_job){.server = req->server, .req = req, .reply = reply, .n_seqs = n, .key = req->key};
    srv_hold_begin(&job->held, req->account, SRV_HELD_WORK);
    list_insert_before(&req->server->jobs, &job->jobs_link);
    if (job->key >= 0) {
        srv_use *use = srv_keys_use(req->server->keys, job->key);
        use->requests++;
        use->ever = true;
    }
    req->job = job;
    return job;
}

static int submit_all(srv_job *job, err *e) {
    srv *server = job->server;
    const uint32_t *last_prompt = NULL;
    for (uint32_t i = 0; i < job->n_seqs; i++) {
        sched_request request;
        srv_seq *seq = &job->seqs[i];
        api_reply_request(job->reply, i, &request);
        request.tenant = (uint32_t)(job->key + 1);
        request.priority = job->priority;
        if (sched_thread_submit(server->engine, &request, &seq->id, e) != 0) {
            seq->id = 0;
            return -1;
        }
        job->seq_bytes += seq_bytes(&request);
        seq->n_prompt = request.n_prompt;
        seq->shares_prompt = seq->prompt_counted = request.prompt == last_prompt;
        last_prompt = request.prompt;
        seq->max_tokens = request.max_tokens;
        seq->job = job;
        seq->index = i;
        map_put(&server->ids, seq->id, (uintptr_t)seq);
        job->n_open++;
        srv_tenant_entered(job, seq);
    }
    return 0;
}

bool srv_engine_admit(srv_req *req) {
    srv *server = req->server;
    const sched_opts *limits = &server->model.sched;
    if (!srv_tenant_admit(req)) return false;
    if (server->n_sequences >= (uint64_t)limits->max_running + limits->max_queue) {
        server->counts.refused_busy++;
        srv_answer_http(req, 503, "the queue is full; try again shortly", "overloaded");
        return false;
    }
    return true;
}

void srv_engine_submit(srv_req *req, api_request *steal_request) {
    srv *server = req->server;
    err e = {0};
    if (server->stopping) {
        api_request_destroy(steal_request);
        srv_answer_http(req, 503, "the server is shutting down", "shutting_down");
        return;
    }
    req->outcome.engine = true;
    req->outcome.stream = api_wants_stream(steal_request);
    req->outcome.prompt = api_prompt_tokens(steal_request);
    int32_t priority;
    if (srv_tenant_priority(req, steal_request, &priority, &e) != 0) {
        api_request_destroy(steal_request);
        srv_answer_err(req, &e);
        return;
    }
    srv_job *job = job_create(req, steal_request, &e);
    if (job == NULL) {
        srv_answer_err(req, &e);
        return;
    }
    job->priority = priority;
    req->outcome.sequences = job->n_seqs;
    if (req->id[0] == 0 && strlen(api_reply_id(job->reply)) <= SRV_ID_MAX) {
        memcpy(req->id, api_reply_id(job->reply), strlen(api_reply_id(job->reply)) + 1);
    }
    if (srv_tenant_check(job, &e) != 0) {
        detach(job);
        srv_tenant_refuse(req, &e);
        return;
    }
    if (submit_all(job, &e) != 0) {
        if (e.code == ERR_BUSY) server->counts.refused_busy++;
        detach(job);
        srv_answer_err(req, &e);
        return;
    }
    (void)srv_step(req, REQ_EV_SUBMIT);
    srv_hold_set(&job->held, job->seq_bytes + api_reply_bytes(job->reply));
    (void)srv_make_room(server, req);
}

/* ---- events ---- */

/* Ends a failed answer: with an error status if no bytes went out yet, else with an error event and
 * without the last chunk. */
static void fail(srv_job *job, const err *e) {
    srv_req *req = job->req;
    req->outcome.finish = "failed";
    detach(job);
    if (req->state == REQ_STREAMING) {
        (void)srv_step(req, REQ_EV_FAIL);
        return;
    }
    buf_clear(&req->out);
    srv_answer_err(req, e);
}

static void complete(srv_job *job) {
    srv_req *req = job->req;
    srv *server = req->server;
    uint64_t prompt = 0, output = 0;
    api_reply_usage(job->reply, &prompt, &output);
    req->outcome.prompt = prompt;
    req->outcome.output = output;
    server->metrics_page_ns = 0;
    srv_observe(&server->counts.e2e, (double)(clock_ns() - req->start_ns) / 1e9, 1);
    srv_observe(&server->counts.params_n, (double)job->n_seqs, 1);
    uint32_t most = 0;
    for (uint32_t i = 0; i < job->n_seqs; i++) {
        if (job->seqs[i].n_output > most) most = job->seqs[i].n_output;
    }
    srv_observe(&server->counts.max_output_tokens, most, 1);
    if (req->more) { /* every sequence has ended: the scheduler no longer reads the reply */
        req->reply = job->reply;
        job->reply = NULL;
    }
    detach(job);
    if (!req->outcome.stream) {
        srv_answer_rest(req);
        return;
    }
    srv_out_changed(req);
    (void)srv_step(req, req->more ? REQ_EV_OUTPUT : REQ_EV_COMPLETE);
}

static void feed_reply(srv_job *job, uint32_t i, const sched_event *ev) {
    srv_req *req = job->req;
    srv *server = job->server;
    size_t before = req->out.len;
    err e = {0};
    unsigned bits = api_reply_event(job->reply, i, ev, &req->out, &e);
    if (bits & API_MORE) req->more = true;
    srv_out_changed(req);
    srv_hold_set(&job->held, job->seq_bytes + api_reply_bytes(job->reply));
    if (req->out.failed) {
        (void)err_set(&e, ERR_NO_MEMORY, NULL, "out of memory to write the answer");
        bits |= API_FAILED;
    }
    if ((bits & API_CANCEL) && job->seqs[i].id) {
        job->seqs[i].stopped = true;
        sched_thread_cancel(server->engine, job->seqs[i].id);
    }
    if (bits & API_FAILED) fail(job, &e);
    else if (bits & API_DONE) complete(job);
    else if (req->outcome.stream && (req->more || req->out.len > before))
        (void)srv_step(req, REQ_EV_OUTPUT);
}

/* Choices of one prompt count it once, at the first token or the end of the first choice. */
static void count_prompt(srv_counts *counts, srv_seq *seq) {
    if (seq->prompt_counted) return;
    seq->prompt_counted = true;
    counts->all_prompt_tokens += seq->n_prompt;
    srv_observe(&counts->prompt_tokens, seq->n_prompt, 1);
}

static void count_token(srv_job *job, uint32_t i, const sched_event *ev, uint64_t now) {
    srv *server = job->server;
    srv_tenant_began(job, &job->seqs[i]);
    count_prompt(&server->counts, &job->seqs[i]);
    server->turn_tokens +=
        job->seqs[i].last_ns ? 1 : ev->pos + 1; /* the first token counts its prompt too */
    uint64_t last = job->seqs[i].last_ns;
    job->seqs[i].last_ns = now;
    job->seqs[i].n_output++;
    srv_observe(&server->counts.depth, ev->depth, 1);
    if (last) srv_observe(&server->counts.itl, (double)(now - last) / 1e9, 1);
    srv_req *req = job->req;
    if (req == NULL) return;
    req->outcome.output++;
    req->outcome.loops += ev->depth;
    if (req->outcome.first_token_ns) return;
    req->outcome.first_token_ns = now;
    srv_observe(&server->counts.ttft, (double)(now - req->start_ns) / 1e9, 1);
}

/* Three numeric failures within ten seconds are not the fault of one request: the engine is
 * broken. */
static void note_failure(srv *server, const sched_event *ev, uint64_t now) {
    if (ev->why != ERR_NUMERIC) return;
    server->counts.numeric_failures++;
    memmove(server->numeric_ns, server->numeric_ns + 1,
            sizeof server->numeric_ns - sizeof server->numeric_ns[0]);
    server->numeric_ns[FAULTS_KEPT - 1] = now;
    log_line(LOG_ALERT, "the model produced a value that is not a number (sequence %llu)",
             (unsigned long long)ev->id);
    uint64_t oldest = server->numeric_ns[0];
    if (oldest && now - oldest < FAULT_WINDOW_NS) server->engine_ill = true;
}

static void count_end(srv_job *job, uint32_t i, const sched_event *ev, uint64_t now) {
    static const char *const names[] = {"stop", "length", "cancelled", "failed"};
    srv *server = job->server;
    srv_counts *counts = &server->counts;
    double queued = (double)ev->queued_ns / 1e9, prefill = (double)ev->prefill_ns / 1e9,
           decode = (double)ev->decode_ns / 1e9;
    sched_finish finish = job->seqs[i].stopped ? SCHED_STOP : ev->finish;
    counts->finished[finish]++;
    if (finish == SCHED_FAILED) note_failure(server, ev, now);
    if (job->req) {
        job->req->outcome.finish = names[finish];
        job->req->outcome.queued_ns = ev->queued_ns;
        job->req->outcome.cached += ev->n_cached;
    }
    if (!job->seqs[i].shares_prompt) counts->cached_tokens += ev->n_cached;
    if (finish != SCHED_STOP && finish != SCHED_LENGTH) return;
    srv_observe(&counts->queue_time, queued, 1);
    srv_observe(&counts->prefill, prefill, 1);
    srv_observe(&counts->decode, decode, 1);
    srv_observe(&counts->inference, prefill + decode, 1);
    count_prompt(counts, &job->seqs[i]);
    srv_observe(&counts->output_tokens, ev->n_output, 1);
    srv_observe(&counts->max_tokens, job->seqs[i].max_tokens, 1);
    if (ev->n_output > 1) srv_observe(&counts->tpot, decode / (ev->n_output - 1), 1);
}

static void on_event(srv *server, const sched_event *ev, uint64_t now) {
    uint64_t found = map_get(&server->ids, ev->id);
    if (found == MAP_NONE) return;
    const srv_seq *seq = (const srv_seq *)(uintptr_t)found;
    srv_job *job = seq->job;
    uint32_t i = seq->index;
    if (ev->kind == SCHED_TOKEN) count_token(job, i, ev, now);
    if (ev->kind == SCHED_END) {
        map_drop(&server->ids, ev->id);
        job->seqs[i].id = 0;
        job->n_open--;
        srv_tenant_left(job, &job->seqs[i]);
        count_end(job, i, ev, now);
        /* Without a request and without running sequences the job is done. */
        if (job->req == NULL && job->n_open == 0) {
            if (job->cancel_ns)
                srv_observe(&server->counts.cancel, (double)(now - job->cancel_ns) / 1e9, 1);
            job_free(job);
            return;
        }
    }
    if (job->req) feed_reply(job, i, ev);
}

static void on_async(uv_async_t *async) {
    srv_engine_turn(async->data);
}

void srv_engine_turn(srv *server) {
    if (server->engine == NULL) return;
    srv_turn turn = srv_turn_begin(server);
    sched_event ev;
    unsigned n = 0;
    uint64_t now = clock_ns();
    while (n < TURN_EVENTS && sched_thread_poll(server->engine, &ev)) {
        on_event(server, &ev, now);
        n++;
    }
    if (server->turn_tokens)
        srv_observe(&server->counts.iteration_tokens, (double)server->turn_tokens, 1);
    server->turn_tokens = 0;
    (void)srv_make_room(server, NULL);
    if (n) srv_mhd_pump(server);
    if (n == TURN_EVENTS)
        uv_async_send(&server->async); /* let the sockets run before the remaining events */
    if (server->engine_ill || sched_thread_failed(server->engine)) {
        srv_stop(server, EXIT_FAILED,
                 "the engine failed; the server is ending and must be started again");
    }
    srv_turn_end(server, turn);
}

bool srv_engine_alive(srv *server) {
    return server->engine && !server->engine_ill && !server->engine_dead &&
           !sched_thread_failed(server->engine);
}

/* Runs on the engine thread, where libuv allows no other call. */
static void on_notify(void *ud) {
    srv *server = ud;
    uv_async_send(&server->async);
}

int srv_engine_open(srv *server, err *e) {
    eng_backend *backend = server->model.backend;
    server->model.backend = NULL; /* the engine thread closes it */
    return sched_thread_start(&server->engine, backend, &server->model.sched, on_notify, server, e);
}

int srv_engine_init(srv *server, err *e) {
    server->async.data = server;
    if (uv_async_init(&server->loop, &server->async, on_async) == 0) return 0;
    return err_set(e, ERR_IO, NULL, "the event loop cannot be woken by other threads");
}

void srv_engine_close(srv *server) {
    sched_thread_stop(server->engine);
    server->engine = NULL;
    while (server->jobs.next != &server->jobs)
        job_free(OWNER_OF(server->jobs.next, srv_job, jobs_link));
    map_deinit(&server->ids);
    uv_close((uv_handle_t *)&server->async, NULL);
}

/* parse.c - bodies to checked requests. Small bodies are parsed at once; large ones, and small ones
 * with an expensive chat template, on a worker, so that the loop is never held for more than a
 * millisecond.
 *
 * Accounts take turns at the workers: the one with the least processor time is next, and one
 * account never has all workers, so one client's tokenizing or schemas do not hold up others. A
 * parse begins when the ledger has room for the memory it may take.
 *
 * A worker uses only its srv_work. If the client leaves meanwhile, the work is cancelled (req =
 * NULL), ends within milliseconds, and is freed when it comes back to the loop. */
#include "base/cancel.h"
#include "base/clock.h"
#include "server/server_internal.h"

#include <stdlib.h>

enum {
    WORKERS = 4,          /* threads of libuv's pool */
    WORKERS_EACH = 3,     /* workers that one account may have */
    MAX_WAITING = 128,    /* bodies that one account may have waiting */
    BYTES_PER_VALUE = 80, /* most bytes that jansson allocates for each brace, comma or colon */
    BYTES_PER_BYTE = 3,   /* copies of strings; the context bounds token ids */
    BYTES_RENDERED = 4,   /* for a conversation in addition: the template's values and its text */
};

struct srv_work {
    uv_work_t task;
    list_link waiting_link; /* in account.waiting */
    srv *server;
    srv_req *req; /* loop thread only; NULL = cancelled */
    srv_account *account;
    srv_hold held;
    bool running;
    atomic_bool cancelled; /* set by the loop when the result is no longer needed */
    const api_endpoint *endpoint;
    buf body;
    size_t estimate; /* most bytes that parsing may allocate */
    const api_context *api;
    api_request *request; /* result of an endpoint that generates */
    api_listing *listing; /* result of the others */
    uint64_t cpu_ns;
    int rc;
    err error;
};

/* soon: stops with work->rc 1 if it would take much work. */
static void do_work(srv_work *work, bool soon) {
    work->rc = api_read(work->endpoint, work->api, work->body.data ? work->body.data : "",
                        work->body.len, soon, &work->request, &work->listing, &work->error);
}

/* Answers or submits the request, suspended or not. */
static void conclude(srv_req *req, srv_work *work) {
    if (work->rc != 0) {
        srv_answer_err(req, &work->error);
    } else if (work->request) {
        api_request *request = work->request;
        work->request = NULL;
        srv_engine_submit(req, request);
    } else {
        req->listing = work->listing;
        work->listing = NULL;
        req->more = true;
        srv_answer_rest(req);
    }
}

static void work_deinit(srv_work *work) {
    if (work->request) api_request_destroy(work->request);
    api_listing_destroy(work->listing);
    buf_deinit(&work->body);
    srv_hold_end(&work->held);
}

/* ---- turns ---- */

static void leave_queue(srv_work *work) {
    srv_account *account = work->account;
    list_remove(&work->waiting_link);
    if (--account->n_waiting == 0) list_remove(&account->turn_link);
    work->server->n_parsing--;
}

static void join_queue(srv_work *work) {
    srv *server = work->server;
    srv_account *account = work->account;
    list_insert_before(&account->waiting, &work->waiting_link);
    server->n_parsing++;
    if (account->n_waiting++ > 0) return;
    list_insert_before(&server->parse_turns, &account->turn_link);
    /* An account cannot save up time by staying away. */
    if (account->n_running == 0 && account->parse_ns < server->parse_floor_ns)
        account->parse_ns = server->parse_floor_ns;
}

static srv_work *next_in_turn(srv *server) {
    srv_account *next = NULL;
    for (list_link *node = server->parse_turns.next; node != &server->parse_turns;
         node = node->next) {
        srv_account *account = OWNER_OF(node, srv_account, turn_link);
        if (account->n_running == WORKERS_EACH) continue;
        if (next == NULL || account->parse_ns < next->parse_ns) next = account;
    }
    return next ? OWNER_OF(next->waiting.next, srv_work, waiting_link) : NULL;
}

static void start_waiting(srv *server);

static void on_work(uv_work_t *task) {
    srv_work *work = OWNER_OF(task, srv_work, task);
    uint64_t began = clock_thread_ns();
    cancel_watch(&work->cancelled);
    do_work(work, false);
    cancel_watch(NULL); /* the thread will run other work */
    work->cpu_ns = clock_thread_ns() - began;
}

static void on_worked(uv_work_t *task, int status) {
    (void)status;
    srv_work *work = OWNER_OF(task, srv_work, task);
    srv *server = work->server;
    srv_turn turn = srv_turn_begin(server);
    server->n_parsing--;
    server->n_workers_busy--;
    work->account->n_running--;
    work->account->parse_ns += work->cpu_ns;
    srv_hold_set(&work->held, 0);
    if (work->req) {
        work->req->work = NULL;
        (void)srv_step(work->req, REQ_EV_PARSED);
        conclude(work->req, work);
    }
    work_deinit(work);
    free(work);
    start_waiting(server);
    srv_mhd_pump(server);
    srv_turn_end(server, turn);
}

static void start(srv_work *work) {
    srv *server = work->server;
    leave_queue(work);
    server->n_parsing++;
    server->n_workers_busy++;
    work->running = true;
    work->account->n_running++;
    server->parse_floor_ns = work->account->parse_ns;
    srv_hold_set(&work->held, work->body.cap + work->estimate);
    uv_queue_work(&server->loop, &work->task, on_work, on_worked);
}

/* A body that does not fit the ledger waits while others are being parsed. If none is, it starts
 * anyway, and evict.c makes room. */
static void start_waiting(srv *server) {
    while (server->n_workers_busy < WORKERS) {
        srv_work *work = next_in_turn(server);
        if (work == NULL) return;
        if (!srv_ledger_fits(server->ledger, work->account, work->estimate) &&
            server->n_workers_busy > 0)
            return;
        start(work);
        (void)srv_make_room(server, work->req);
    }
}

/* ---- calls from the server ---- */

size_t srv_parse_held(const srv_work *work) {
    return work->held.leaving ? 0 : work->held.bytes;
}

void srv_parse_forget(srv_req *req) {
    srv_work *work = req->work;
    req->work = NULL;
    work->req = NULL;
    atomic_store_explicit(&work->cancelled, true, memory_order_relaxed);
    if (work->running) {
        srv_hold_leave(&work->held);
        return;
    }
    leave_queue(work);
    work_deinit(work);
    free(work);
}

static buf take_body(srv_req *req) {
    buf body = req->body;
    srv_hold_set(&req->held_body, 0);
    req->body = (buf){0};
    return body;
}

/* False if the body needs a worker; then it is left as it was. */
static bool parse_here(srv_req *req) {
    srv_work work = {.server = req->server,
                     .endpoint = req->route->endpoint,
                     .api = req->server->api,
                     .body = req->body};
    do_work(&work, true);
    if (work.rc == 1) return false;
    work.body = take_body(req);
    conclude(req, &work);
    work_deinit(&work);
    return true;
}

void srv_parse_start(srv_req *req) {
    srv *server = req->server;
    const api_endpoint *endpoint = req->route->endpoint;
    if (endpoint->read == NULL && !srv_engine_admit(req)) return;
    if (req->body.len <= SRV_INLINE_BODY && parse_here(req)) return;
    if (req->account->n_waiting >= MAX_WAITING) {
        server->counts.refused_busy++;
        srv_answer_http(req, 429,
                        "this client has too many large requests waiting; try again shortly",
                        "rate_limit_exceeded");
        return;
    }
    srv_work *work = calloc(1, sizeof *work);
    if (work == NULL) {
        srv_answer_http(req, 503, "the server is out of memory; try again shortly", NULL);
        return;
    }
    *work = (srv_work){.server = server,
                       .req = req,
                       .account = req->account,
                       .endpoint = endpoint,
                       .api = server->api};
    work->body = take_body(req);
    size_t each = BYTES_PER_BYTE + (endpoint->renders ? BYTES_RENDERED : 0);
    work->estimate = (size_t)req->body_structure * BYTES_PER_VALUE + work->body.len * each;
    srv_hold_begin(&work->held, work->account, SRV_HELD_PARSE);
    srv_hold_set(&work->held, work->body.cap);
    list_init(&work->waiting_link);
    req->work = work;
    (void)srv_step(req, REQ_EV_PARSE);
    join_queue(work);
    start_waiting(server);
}

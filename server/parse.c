/* parse.c - bodies to checked requests: small ones here and now, large ones on a worker so that
 * the loop is never held for more than a millisecond. So is a small one whose chat template takes
 * much work.
 *
 * Accounts take turns at the workers: next is the one whose bodies took least processor time,
 * and one account never has all of them, so nobody's tokenizing or schemas hold up others. A
 * parse begins when the ledger has room for what it may take.
 *
 * A worker sees only its srv_work. If the client leaves meanwhile, the work is forgotten
 * (req = NULL), ends within milliseconds, and is thrown away when it comes back. */
#include "base/cancel.h"
#include "base/clock.h"
#include "server/server_internal.h"

#include <stdlib.h>

enum {
    WORKERS = 4,          /* of libuv's pool */
    WORKERS_EACH = 3,     /* of one account */
    MAX_WAITING = 128,    /* bodies of one account */
    BYTES_PER_VALUE = 80, /* what jansson allocates, at most, for each brace, comma or colon */
    BYTES_PER_BYTE = 3,   /* copies of strings; token ids, which the context bounds */
    BYTES_RENDERED = 4, /* more of a conversation: the messages as a template's values, its text */
};

struct srv_work {
    uv_work_t w;
    list_link link; /* in account.waiting */
    srv *s;
    srv_req *req; /* loop thread only; NULL = forgotten */
    srv_account *account;
    srv_hold held;
    bool running;
    atomic_bool cancelled; /* set by the loop when nobody waits any more */
    srv_kind kind;
    buf body;
    size_t estimate; /* bytes that parsing may take beside the body */
    const api_context *api;
    api_request *request; /* result of the engine kinds */
    api_listing *listing; /* result of the others */
    uint64_t cpu_ns;
    int rc;
    err e;
};

/* soon: little work, or w->rc is 1. */
static void do_work(srv_work *w, bool soon) {
    static const api_kind kinds[] = {API_COMPLETION, API_CHAT, API_RESPONSES};
    const char *text = w->body.data ? w->body.data : "";
    switch (w->kind) {
    case SRV_COMPLETION:
    case SRV_CHAT:
    case SRV_RESPONSES:
        w->rc = (soon ? api_parse_soon : api_parse)(&w->request, w->api, kinds[w->kind], text,
                                                    w->body.len, &w->e);
        return;
    case SRV_TOKENIZE:
        w->rc = (soon ? api_tokenize_soon : api_tokenize)(&w->listing, w->api, text, w->body.len,
                                                          &w->e);
        return;
    case SRV_DETOKENIZE:
        w->rc = api_detokenize(&w->listing, w->api, text, w->body.len, &w->e);
        return;
    }
}

/* Answers or submits; the request may or may not be suspended. */
static void conclude(srv_req *r, srv_work *w) {
    if (w->rc != 0) {
        srv_answer_err(r, &w->e);
    } else if (w->request) {
        api_request *request = w->request;
        w->request = NULL;
        srv_engine_submit(r, request);
    } else {
        r->listing = w->listing;
        w->listing = NULL;
        r->more = true;
        srv_answer_rest(r);
    }
}

static void work_deinit(srv_work *w) {
    if (w->request) api_request_destroy(w->request);
    api_listing_destroy(w->listing);
    buf_deinit(&w->body);
    srv_hold_end(&w->held);
}

/* ---- turns ---- */

static void leave_queue(srv_work *w) {
    srv_account *a = w->account;
    list_remove(&w->link);
    if (--a->n_waiting == 0) list_remove(&a->turn);
    w->s->n_parsing--;
}

static void join_queue(srv_work *w) {
    srv *s = w->s;
    srv_account *a = w->account;
    list_insert_before(&a->waiting, &w->link);
    s->n_parsing++;
    if (a->n_waiting++ > 0) return;
    list_insert_before(&s->parse_turns, &a->turn);
    /* Time that an account did not ask for is not saved up. */
    if (a->n_running == 0 && a->parse_ns < s->parse_floor_ns) a->parse_ns = s->parse_floor_ns;
}

static srv_work *next_in_turn(srv *s) {
    srv_account *next = NULL;
    for (list_link *l = s->parse_turns.next; l != &s->parse_turns; l = l->next) {
        srv_account *a = OWNER_OF(l, srv_account, turn);
        if (a->n_running == WORKERS_EACH) continue;
        if (next == NULL || a->parse_ns < next->parse_ns) next = a;
    }
    return next ? OWNER_OF(next->waiting.next, srv_work, link) : NULL;
}

static void start_waiting(srv *s);

static void on_work(uv_work_t *u) {
    srv_work *w = OWNER_OF(u, srv_work, w);
    uint64_t began = clock_thread_ns();
    cancel_watch(&w->cancelled);
    do_work(w, false);
    cancel_watch(NULL); /* libuv's threads go on to other work */
    w->cpu_ns = clock_thread_ns() - began;
}

static void on_worked(uv_work_t *u, int status) {
    (void)status;
    srv_work *w = OWNER_OF(u, srv_work, w);
    srv *s = w->s;
    srv_turn turn = srv_turn_begin(s);
    s->n_parsing--;
    s->n_workers_busy--;
    w->account->n_running--;
    w->account->parse_ns += w->cpu_ns;
    srv_hold_set(&w->held, 0);
    if (w->req) {
        w->req->work = NULL;
        conclude(w->req, w);
    }
    work_deinit(w);
    free(w);
    start_waiting(s);
    srv_mhd_pump(s);
    srv_turn_end(s, turn);
}

static void start(srv_work *w) {
    srv *s = w->s;
    leave_queue(w);
    s->n_parsing++;
    s->n_workers_busy++;
    w->running = true;
    w->account->n_running++;
    s->parse_floor_ns = w->account->parse_ns;
    srv_hold_set(&w->held, w->body.cap + w->estimate);
    uv_queue_work(&s->loop, &w->w, on_work, on_worked);
}

/* While bodies are being parsed, one that does not fit the ledger waits for them to end;
 * otherwise something else has to go. */
static void start_waiting(srv *s) {
    while (s->n_workers_busy < WORKERS) {
        srv_work *w = next_in_turn(s);
        if (w == NULL) return;
        if (!srv_ledger_fits(s->ledger, w->account, w->estimate) && s->n_workers_busy > 0) return;
        start(w);
        (void)srv_make_room(s, w->req);
    }
}

/* ---- what the server calls ---- */

size_t srv_parse_held(const srv_work *w) {
    return w->held.leaving ? 0 : w->held.bytes;
}

void srv_parse_forget(srv_req *r) {
    srv_work *w = r->work;
    r->work = NULL;
    w->req = NULL;
    atomic_store_explicit(&w->cancelled, true, memory_order_relaxed);
    if (w->running) {
        srv_hold_leave(&w->held);
        return;
    }
    leave_queue(w);
    work_deinit(w);
    free(w);
}

static buf take_body(srv_req *r) {
    buf body = r->body;
    srv_hold_set(&r->held_body, 0);
    r->body = (buf){0};
    return body;
}

/* False: it takes a worker, and nothing has happened. */
static bool parse_here(srv_req *r, srv_kind kind) {
    srv_work w = {.s = r->s, .kind = kind, .api = r->s->api, .body = r->body};
    do_work(&w, true);
    if (w.rc == 1) return false;
    w.body = take_body(r);
    conclude(r, &w);
    work_deinit(&w);
    return true;
}

void srv_parse_start(srv_req *r, srv_kind kind) {
    srv *s = r->s;
    bool engine = kind <= SRV_RESPONSES;
    if (engine && !srv_engine_admit(r)) return;
    if (r->body.len <= SRV_INLINE_BODY && parse_here(r, kind)) return;
    if (r->account->n_waiting >= MAX_WAITING) {
        s->counts.refused_busy++;
        srv_answer_http(r, 429,
                        "this client has too many large requests waiting; try again shortly",
                        "rate_limit_exceeded");
        return;
    }
    srv_work *w = calloc(1, sizeof *w);
    if (w == NULL) {
        srv_answer_http(r, 503, "the server is out of memory; try again shortly", NULL);
        return;
    }
    *w = (srv_work){.s = s, .req = r, .account = r->account, .kind = kind, .api = s->api};
    w->body = take_body(r);
    bool renders = kind == SRV_CHAT || kind == SRV_RESPONSES;
    size_t each = BYTES_PER_BYTE + (renders ? BYTES_RENDERED : 0);
    w->estimate = (size_t)r->body_structure * BYTES_PER_VALUE + w->body.len * each;
    srv_hold_begin(&w->held, w->account, SRV_HELD_PARSE);
    srv_hold_set(&w->held, w->body.cap);
    list_init(&w->link);
    r->work = w;
    r->state = REQ_PARSING;
    srv_req_suspend(r);
    srv_watch(r);
    join_queue(w);
    start_waiting(s);
}

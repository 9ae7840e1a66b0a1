/* parse.c - bodies to checked requests: small ones here and now, large ones on a
 * worker so that the loop is never held for more than a millisecond.
 *
 * A worker sees only its srv_work. If the client leaves meanwhile, the work is forgotten
 * (req = NULL) and its result thrown away when it comes back. */
#include "server/server_internal.h"

#include <stdlib.h>

enum { MAX_PARSING = 32 };

struct srv_work {
    uv_work_t w;
    srv *s;
    srv_req *req; /* loop thread only; NULL = forgotten */
    srv_kind kind;
    buf body;
    const api_context *api;
    api_request *request; /* result of the engine kinds */
    api_listing *listing; /* result of the others */
    int rc;
    err e;
};

static void do_work(srv_work *w) {
    switch (w->kind) {
    case SRV_COMPLETION:
    case SRV_CHAT:
    case SRV_RESPONSES: {
        static const api_kind kinds[] = {API_COMPLETION, API_CHAT, API_RESPONSES};
        w->rc = api_parse(&w->request, w->api, kinds[w->kind], w->body.data ? w->body.data : "",
                          w->body.len, &w->e);
        return;
    }
    case SRV_TOKENIZE:
        w->rc =
            api_tokenize(&w->listing, w->api, w->body.data ? w->body.data : "", w->body.len, &w->e);
        return;
    case SRV_DETOKENIZE:
        w->rc = api_detokenize(&w->listing, w->api, w->body.data ? w->body.data : "", w->body.len,
                               &w->e);
        return;
    }
}

/* Answers or submits; the request may or may not be suspended. */
static void conclude(srv_req *r, srv_work *w) {
    if (w->rc != 0) srv_answer_err(r, &w->e);
    else if (w->request) {
        api_request *request = w->request;
        w->request = NULL;
        srv_engine_submit(r, request);
    } else {
        buf text = {0};
        while (api_listing_more(w->listing, &text, 1 << 14)) {
        }
        srv_answer(r, 200, "application/json", &text, NULL, 0);
    }
}

static void work_deinit(srv_work *w) {
    if (w->request) api_request_destroy(w->request);
    api_listing_destroy(w->listing);
    buf_deinit(&w->body);
}

static void on_work(uv_work_t *u) {
    do_work(OWNER_OF(u, srv_work, w));
}

static void on_worked(uv_work_t *u, int status) {
    (void)status;
    srv_work *w = OWNER_OF(u, srv_work, w);
    srv *s = w->s;
    s->n_parsing--;
    if (w->req) {
        w->req->work = NULL;
        conclude(w->req, w);
    }
    work_deinit(w);
    free(w);
    srv_mhd_pump(s);
}

void srv_parse_forget(srv_req *r) {
    r->work->req = NULL;
    r->work = NULL;
}

static buf take_body(srv_req *r) {
    buf body = r->body;
    r->s->body_bytes -= body.cap;
    r->body = (buf){0};
    return body;
}

void srv_parse_start(srv_req *r, srv_kind kind) {
    srv *s = r->s;
    bool engine = kind <= SRV_RESPONSES;
    if (engine && !srv_engine_admit(r)) return;
    if (r->body.len <= SRV_INLINE_BODY) {
        srv_work w = {.s = s, .kind = kind, .api = s->api, .body = take_body(r)};
        do_work(&w);
        conclude(r, &w);
        work_deinit(&w);
        return;
    }
    if (s->n_parsing >= MAX_PARSING) {
        s->counts.refused_busy++;
        srv_answer_http(r, 503, "too many large requests at once; try again shortly", "overloaded");
        return;
    }
    srv_work *w = calloc(1, sizeof *w);
    if (w == NULL) {
        srv_answer_http(r, 503, "out of memory", NULL);
        return;
    }
    *w = (srv_work){.s = s, .req = r, .kind = kind, .api = s->api, .body = take_body(r)};
    r->work = w;
    r->state = REQ_PARSING;
    s->n_parsing++;
    srv_req_suspend(r);
    srv_watch(r);
    uv_queue_work(&s->loop, &w->w, on_work, on_worked);
}

/* route.c - which handler a path means, and what stands before it: CORS, keys, types.
 *
 * Paths match exactly after decoding; there are no files behind them. What needs a key is
 * decided on the route that was found, never on the text of the path. */
#include "server/assets_internal.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void handle_completion(srv_req *r) {
    srv_parse_start(r, SRV_COMPLETION);
}
static void handle_chat(srv_req *r) {
    srv_parse_start(r, SRV_CHAT);
}
static void handle_responses(srv_req *r) {
    srv_parse_start(r, SRV_RESPONSES);
}
static void handle_tokenize(srv_req *r) {
    srv_parse_start(r, SRV_TOKENIZE);
}
static void handle_detokenize(srv_req *r) {
    srv_parse_start(r, SRV_DETOKENIZE);
}

static void answer_json(srv_req *r, buf *body) {
    srv_answer(r, 200, "application/json", body, NULL, 0);
}

static void handle_models(srv_req *r) {
    buf body = {0};
    api_models(r->s->api, &body);
    answer_json(r, &body);
}

static void handle_openapi(srv_req *r) {
    const buf *kept = api_openapi_kept();
    if (kept) srv_answer_static(r, 200, "application/json", kept->data, kept->len, NULL, 0);
    else srv_answer_http(r, 503, "the server is out of memory; try again shortly", NULL);
}

static void handle_model(srv_req *r) {
    buf body = {0};
    err e = {0};
    if (api_model(r->s->api, r->tail, &body, &e) == 0) {
        answer_json(r, &body);
        return;
    }
    buf_deinit(&body);
    srv_answer_err(r, &e);
}

/* Alive: asks the engine's heartbeat, queues nothing. Loading counts as alive. */
static void handle_health(srv_req *r) {
    srv *s = r->s;
    if (s->loaded && !srv_engine_alive(s)) {
        srv_answer_http(r, 503, "the engine does not answer", NULL);
        return;
    }
    buf body = {0};
    buf_puts(&body, "{\"status\":\"ok\"}");
    answer_json(r, &body);
}

/* May take work now: a load balancer's question. */
static void handle_ready(srv_req *r) {
    srv *s = r->s;
    if (!s->loaded) srv_answer_http(r, 503, "Loading model", NULL);
    else if (s->draining) srv_answer_http(r, 503, "the server is shutting down", NULL);
    else if (!srv_engine_alive(s)) srv_answer_http(r, 503, "the engine does not answer", NULL);
    else if (s->model_changed) srv_answer_http(r, 503, "a model file was changed in place", NULL);
    else {
        buf body = {0};
        buf_puts(&body, "{\"status\":\"ready\"}");
        answer_json(r, &body);
    }
}

static void handle_asset(srv_req *r) {
    static const srv_header fixed[] = {{"Cache-Control", "no-cache"},
                                       {"X-Content-Type-Options", "nosniff"},
                                       {"Content-Security-Policy", SRV_ASSET_CSP}};
    srv_answer_static(r, 200, r->asset->type, r->asset->data, r->asset->n, fixed, ARRAY_LEN(fixed));
}

#define WORK (ROUTE_JSON | ROUTE_LOADED | ROUTE_WORK | ROUTE_V1)
static const srv_route routes[] = {
    {"/completions", "POST", WORK, handle_completion},
    {"/chat/completions", "POST", WORK, handle_chat},
    {"/responses", "POST", WORK, handle_responses},
    {"/tokenize", "POST", WORK, handle_tokenize},
    {"/detokenize", "POST", WORK, handle_detokenize},
    {"/models", "GET", ROUTE_LOADED | ROUTE_V1, handle_models},
    {"/models/", "GET", ROUTE_LOADED | ROUTE_V1 | ROUTE_PREFIX, handle_model},
    {"/openapi.json", "GET", ROUTE_OPEN, handle_openapi},
    {"/health", "GET", ROUTE_OPEN | ROUTE_ADMIN, handle_health},
    {"/ready", "GET", ROUTE_OPEN | ROUTE_ADMIN, handle_ready},
    {"/metrics", "GET", ROUTE_METRICS | ROUTE_ADMIN, srv_handle_metrics},
    {"(page)", "GET", ROUTE_OPEN, handle_asset}, /* last; found by its files, not its path */
};

const srv_route *srv_routes(size_t *n) {
    *n = ARRAY_LEN(routes);
    return routes;
}

static const srv_route *find_path(srv_req *r, const char *path, const char **tail) {
    r->asset = srv_asset_find(path);
    if (r->asset) return &routes[ARRAY_LEN(routes) - 1];
    const char *bare = strncmp(path, "/v1/", 4) == 0 ? path + 3 : NULL;
    for (size_t i = 0; i + 1 < ARRAY_LEN(routes); i++) {
        const srv_route *t = &routes[i];
        const char *p = bare && (t->flags & ROUTE_V1) ? bare : path;
        size_t n = strlen(t->path);
        if (!(t->flags & ROUTE_PREFIX)) {
            if (strcmp(p, t->path) == 0) return t;
        } else if (strncmp(p, t->path, n) == 0 && p[n]) {
            *tail = p + n;
            return t;
        }
    }
    return NULL;
}

unsigned srv_route_find(srv_req *r, const char *method, const char *path, const char **allow) {
    const char *tail = NULL;
    const srv_route *t = find_path(r, path, &tail);
    if (t == NULL || (r->conn && r->conn->at->admin && !(t->flags & ROUTE_ADMIN))) return 404;
    bool get = strcmp(t->method, "GET") == 0;
    *allow = get ? "GET, HEAD" : "POST";
    r->route = t;
    if (strcmp(method, t->method) != 0 && !(get && r->head)) return 405;
    if (tail == NULL) return 0;
    r->tail = strdup(tail);
    return r->tail ? 0 : 503;
}

/* ---- the gate ---- */

static const char *cors_for(const srv *s, const char *origin) {
    for (size_t i = 0; origin && i < s->o.cors.n; i++) {
        const char *allowed = s->o.cors.items[i];
        if (strcmp(allowed, "*") == 0 || strcmp(allowed, origin) == 0) return allowed;
    }
    return NULL;
}

static void answer_preflight(srv_req *r) {
    static const srv_header grant[] = {
        {"Access-Control-Allow-Methods", "GET, POST, OPTIONS"},
        {"Access-Control-Allow-Headers", "authorization, content-type, x-api-key, x-request-id"},
        {"Access-Control-Max-Age", "600"}};
    srv_answer_static(r, 204, NULL, "", 0, grant, ARRAY_LEN(grant));
}

/* The key a request shows: Authorization: Bearer KEY, or X-Api-Key: KEY. */
static int find_key(const srv_req *r) {
    const char *key = srv_req_header(r, "X-Api-Key");
    const char *auth = srv_req_header(r, "Authorization");
    if (auth) {
        if (strncasecmp(auth, "Bearer ", 7) != 0) return -1;
        if (key && strcmp(key, auth + 7) != 0) return -1; /* two that differ: neither is meant */
        key = auth + 7;
        while (*key == ' ')
            key++;
    }
    return key ? srv_keys_find(r->s->keys, key, strlen(key)) : -1;
}

static bool needs_key(const srv *s, const srv_route *t) {
    if (s->keys == NULL) return false;
    if (t == NULL) return true; /* unknown paths tell a stranger nothing */
    if (t->flags & ROUTE_METRICS) return s->o.metrics_key;
    return !(t->flags & ROUTE_OPEN);
}

void srv_refuse(srv_req *r) {
    buf body = {0};
    unsigned status = r->refusal.status;
    api_http_error_body(&body, status, r->refusal.message, r->refusal.code);
    srv_header h = {"Allow", r->refusal.allow};
    if (status == 401) h = (srv_header){"WWW-Authenticate", "Bearer"};
    srv_answer(r, status, "application/json", &body, &h, status == 401 || status == 405);
}

static unsigned refuse(srv_req *r, unsigned status, const char *message, const char *code) {
    r->refusal.message = message;
    r->refusal.code = code;
    return r->refusal.status = status;
}

static unsigned refuse_foreign(srv_req *r, const char *message, const char *code) {
    r->s->counts.refused_foreign++;
    return refuse(r, 403, message, code);
}

/* A Host that is not ours belongs to a page which pointed its own name at this machine, to read
 * what it may not. Where others reach us a proxy may pass any Host, so only told names count.
 * 403 and not 421: a browser answers that by trying another connection. */
static unsigned examine_host(srv_req *r) {
    const srv *s = r->s;
    const srv_listener *at = r->conn->at;
    if (at->admin || (!at->loopback && s->o.allowed_hosts.n == 0)) return 0;
    const char *host = srv_req_header(r, "Host");
    if (host == NULL || srv_host_known(host, s->o.host, &s->o.allowed_hosts)) return 0;
    return refuse_foreign(r,
                          "this server does not answer to the name in the Host header; start it "
                          "with --allowed-host NAME to allow the name",
                          "unknown_host");
}

/* Pages of other sites give no work. A browser sends what needs no preflight before it asks
 * whether it may, so the answer must not be all that is kept from them. */
static unsigned examine_origin(srv_req *r, const char *method) {
    if (r->cors || strcmp(method, "POST") != 0) return 0;
    const char *origin = srv_req_header(r, "Origin"), *host = srv_req_header(r, "Host");
    const char *site = srv_req_header(r, "Sec-Fetch-Site"); /* no page can set it */
    bool same = site && strcmp(site, "same-origin") == 0;   /* though a proxy changed Host */
    bool foreign = (origin && !(host && srv_origin_is(origin, host))) ||
                   (site && strcmp(site, "cross-site") == 0);
    if (same || !foreign) return 0;
    return refuse_foreign(r,
                          "web pages of this origin may not call this server; start it with "
                          "--cors-origin ORIGIN to allow them",
                          "origin_not_allowed");
}

/* Whether the request may come in; the first rule it breaks is the one it is told of. */
static unsigned examine(srv_req *r, unsigned found, const srv_framing *f) {
    srv *s = r->s;
    if (needs_key(s, r->route)) {
        r->key = find_key(r);
        if (r->key < 0) {
            s->counts.refused_key++;
            return refuse(r, 401, "the request needs a valid API key", "invalid_api_key");
        }
    }
    if (found == 404) return refuse(r, 404, "no such path", "not_found");
    if (found == 405) {
        return refuse(r, 405, "this path does not support this method", "method_not_allowed");
    }
    if (found) return refuse(r, found, "the server is out of memory; try again shortly", NULL);
    s->counts.requests_by_route[r->route - routes]++;
    unsigned flags = r->route->flags;
    if ((flags & ROUTE_JSON) && f->coded) {
        return refuse(r, 415, "compressed request bodies are not supported", NULL);
    }
    if ((flags & ROUTE_JSON) && f->type && !f->json) {
        return refuse(r, 415, "Content-Type must be application/json in UTF-8", NULL);
    }
    if ((flags & ROUTE_JSON) && !f->type && srv_req_header(r, "Origin")) {
        return refuse(r, 415, "a browser must send the header Content-Type: application/json",
                      NULL);
    }
    if ((flags & ROUTE_LOADED) && !s->loaded) {
        return refuse(r, 503, "Loading model", "model_loading");
    }
    if ((flags & ROUTE_WORK) && s->draining) {
        return refuse(r, 503, "the server is shutting down", "shutting_down");
    }
    return 0;
}

void srv_gate(srv_req *r, const char *method, const char *path, const srv_framing *f) {
    srv *s = r->s;
    unsigned found = srv_route_find(r, method, path, &r->refusal.allow);
    bool foreign = examine_host(r) != 0;
    if (!foreign) r->cors = cors_for(s, srv_req_header(r, "Origin"));
    if (foreign || examine_origin(r, method) != 0) {
        if (!r->defer) srv_refuse(r);
        return;
    }
    if (strcmp(method, "OPTIONS") == 0 && found != 404 && s->o.cors.n) {
        answer_preflight(r);
        return;
    }
    if (examine(r, found, f) && !r->defer) srv_refuse(r);
}

void srv_route_run(srv_req *r) {
    if ((r->route->flags & ROUTE_WORK) && r->s->draining) {
        srv_answer_http(r, 503, "the server is shutting down", "shutting_down");
        return;
    }
    r->route->handle(r);
}

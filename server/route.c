/* route.c - the handler of each path, and the checks before it: origins, keys, types.
 *
 * Paths match exactly once they are decoded and brought to one spelling (target.c); no files lie
 * behind them. Whether a key is needed depends on the route that was found, never on the text of
 * the path. */
#include "server/assets_internal.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { NEAR_PATHS = 5 };

static void answer_json(srv_req *req, buf *body) {
    srv_answer(req, 200, "application/json", body, NULL, 0);
}

static void handle_models(srv_req *req) {
    buf body = {0};
    api_models(req->server->api, &body);
    answer_json(req, &body);
}

static void handle_openapi(srv_req *req) {
    const buf *kept = api_openapi_kept();
    if (kept) srv_answer_static(req, 200, "application/json", kept->data, kept->len, NULL, 0);
    else srv_answer_http(req, 503, "the server is out of memory; try again shortly", NULL);
}

static void handle_model(srv_req *req) {
    buf body = {0};
    err e = {0};
    if (api_model(req->server->api, req->tail, &body, &e) == 0) {
        answer_json(req, &body);
        return;
    }
    buf_deinit(&body);
    srv_answer_err(req, &e);
}

/* Alive: reads the engine's heartbeat without queueing work. A loading server is alive. */
static void handle_health(srv_req *req) {
    srv *server = req->server;
    if (server->loaded && !srv_engine_alive(server)) {
        srv_answer_http(req, 503, "the engine does not answer", NULL);
        return;
    }
    buf body = {0};
    buf_puts(&body, "{\"status\":\"ok\"}");
    answer_json(req, &body);
}

const char *srv_not_ready(srv *server) {
    if (!server->loaded) return "Loading model";
    if (server->leaving) return "the server is shutting down";
    if (!srv_engine_alive(server)) return "the engine does not answer";
    return server->model_changed ? "a model file was changed in place" : NULL;
}

/* The question of a load balancer. */
static void handle_ready(srv_req *req) {
    const char *why = srv_not_ready(req->server);
    if (why) {
        srv_answer_http(req, 503, why, NULL);
        return;
    }
    buf body = {0};
    buf_puts(&body, "{\"status\":\"ready\"}");
    answer_json(req, &body);
}

static void handle_version(srv_req *req) {
    buf body = {0};
    buf_printf(&body, "{\"version\":\"" FATHOM_VERSION "\",\"commit\":\"%s\"}", version_commit());
    answer_json(req, &body);
}

static void handle_asset(srv_req *req) {
    static const srv_header fixed[] = {{"Cache-Control", "no-cache"},
                                       {"X-Content-Type-Options", "nosniff"},
                                       {"Content-Security-Policy", SRV_ASSET_CSP}};
    srv_answer_static(req, 200, req->asset->type, req->asset->data, req->asset->size, fixed,
                      ARRAY_LEN(fixed));
}

#define ENDPOINT (ROUTE_JSON | ROUTE_LOADED | ROUTE_WORK | ROUTE_V1)

/* The routes besides the endpoints of api/endpoints.c. */
static const srv_route fixed_routes[] = {
    {"/models", "GET", ROUTE_LOADED | ROUTE_V1, handle_models, NULL},
    {"/models/", "GET", ROUTE_LOADED | ROUTE_V1 | ROUTE_PREFIX, handle_model, NULL},
    {"/openapi.json", "GET", ROUTE_OPEN, handle_openapi, NULL},
    {"/health", "GET", ROUTE_OPEN | ROUTE_ADMIN | ROUTE_V1, handle_health, NULL},
    {"/ready", "GET", ROUTE_OPEN | ROUTE_ADMIN | ROUTE_V1, handle_ready, NULL},
    {"/version", "GET", ROUTE_OPEN | ROUTE_ADMIN | ROUTE_V1, handle_version, NULL},
    {"/metrics", "GET", ROUTE_METRICS | ROUTE_ADMIN, srv_handle_metrics, NULL},
    {"/launches", "GET", ROUTE_METRICS | ROUTE_ADMIN, srv_handle_launches, NULL},
    {"(page)", "GET", ROUTE_OPEN, handle_asset, NULL}, /* found by the names of its files */
};

/* "/v1/models" as "/models". */
static const char *without_v1(const char *path) {
    return strncmp(path, "/v1/", 4) == 0 ? path + 3 : path;
}

/* Makes the table at the first call; the page is its last row. */
const srv_route *srv_routes(size_t *n) {
    static srv_route routes[SRV_MAX_ROUTES];
    static size_t n_routes;
    size_t n_endpoints;
    const api_endpoint *endpoints = api_endpoints(&n_endpoints);
    *n = n_endpoints + ARRAY_LEN(fixed_routes);
    if (*n > SRV_MAX_ROUTES) abort(); /* a row too many; no input can cause it */
    for (; n_routes < n_endpoints; n_routes++) {
        routes[n_routes] = (srv_route){without_v1(endpoints[n_routes].path), "POST", ENDPOINT,
                                       srv_parse_start, &endpoints[n_routes]};
    }
    for (; n_routes < *n; n_routes++)
        routes[n_routes] = fixed_routes[n_routes - n_endpoints];
    return routes;
}

/* *tail is the rest of `path` after a prefix route. */
static const srv_route *find_path(srv_req *req, const char *path, const char **tail) {
    size_t n_routes;
    const srv_route *routes = srv_routes(&n_routes);
    req->asset = srv_asset_find(path);
    if (req->asset) return &routes[n_routes - 1];
    for (size_t i = 0; i + 1 < n_routes; i++) {
        const srv_route *route = &routes[i];
        const char *wanted = route->flags & ROUTE_V1 ? without_v1(path) : path;
        size_t n = strlen(route->path);
        if (!(route->flags & ROUTE_PREFIX)) {
            if (strcmp(wanted, route->path) == 0) return route;
        } else if (strncmp(wanted, route->path, n) == 0 && wanted[n]) {
            *tail = wanted + n;
            return route;
        }
    }
    return NULL;
}

unsigned srv_route_find(srv_req *req, const char *method, const char *path, const char **allow) {
    char plain[SRV_PATH_MAX];
    const char *tail = NULL;
    const srv_route *route = srv_plain_path(path, plain) ? find_path(req, plain, &tail) : NULL;
    if (route == NULL || (req->conn && req->conn->at->admin && !(route->flags & ROUTE_ADMIN)))
        return 404;
    bool get = strcmp(route->method, "GET") == 0;
    *allow = get ? "GET, HEAD" : "POST";
    req->route = route;
    if (strcmp(method, route->method) != 0 && !(get && strcmp(method, "HEAD") == 0)) return 405;
    if (tail == NULL) return 0;
    req->tail = strdup(tail);
    return req->tail ? 0 : 503;
}

/* ---- the gate ---- */

/* The key a request shows: Authorization: Bearer KEY, or X-Api-Key: KEY. */
static int find_key(const srv_req *req) {
    const char *key = srv_req_header(req, "X-Api-Key");
    const char *auth = srv_req_header(req, "Authorization");
    if (auth) {
        if (strncasecmp(auth, "Bearer ", 7) != 0) return -1;
        if (key && strcmp(key, auth + 7) != 0) return -1; /* two different keys are refused */
        key = auth + 7;
        while (*key == ' ')
            key++;
    }
    return key ? srv_keys_find(req->server->keys, key, strlen(key)) : -1;
}

static bool needs_key(const srv *server, const srv_route *route) {
    if (server->keys == NULL) return false;
    if (route == NULL) return true; /* an unknown path must not tell strangers that it is unknown */
    if (route->flags & ROUTE_METRICS) return server->opts.metrics_key;
    return !(route->flags & ROUTE_OPEN);
}

void srv_answer_refusal(srv_req *req) {
    buf body = {0};
    unsigned status = req->refusal.status;
    api_http_error_body(&body, srv_req_dialect(req), status, req->refusal.message,
                        req->refusal.code);
    srv_header header = {"Allow", req->refusal.allow};
    if (status == 401) header = (srv_header){"WWW-Authenticate", "Bearer"};
    srv_answer(req, status, "application/json", &body, &header, status == 401 || status == 405);
}

/* Always false. */
static bool refuse(srv_req *req, unsigned status, const char *message, const char *code) {
    srv_refuse(req, status, message, code);
    return false;
}

static bool refuse_foreign(srv_req *req, const char *message, const char *code) {
    req->server->counts.refused_foreign++;
    return refuse(req, 403, message, code);
}

/* A foreign Host comes from a page that pointed its own name at this machine in order to read from
 * it. Where other machines can connect, a proxy may pass any Host, so only --allowed-host counts.
 * 403 rather than 421: after a 421 a browser tries another connection. */
static bool examine_host(srv_req *req, const char *host) {
    const srv *server = req->server;
    const srv_listener *at = req->conn->at;
    if (at->admin || (!at->loopback && server->opts.allowed_hosts.n == 0)) return true;
    if (host == NULL || srv_host_known(host, server->opts.host, &server->opts.allowed_hosts))
        return true;
    return refuse_foreign(req,
                          "this server does not answer to the name in the Host header; start it "
                          "with --allowed-host NAME to allow the name",
                          "unknown_host");
}

/* Web pages of other sites may not make work. A browser sends simple requests without asking first,
 * so keeping the answer from the page is not enough. */
static bool examine_origin(srv_req *req, const char *method, const char *host) {
    if (req->cors || strcmp(method, "POST") != 0) return true;
    const char *origin = srv_req_header(req, "Origin");
    const char *site = srv_req_header(req, "Sec-Fetch-Site"); /* pages cannot set it */
    bool same = site && strcmp(site, "same-origin") == 0;     /* even if a proxy changed Host */
    bool foreign = (origin && !(host && srv_origin_is(origin, host))) ||
                   (site && strcmp(site, "cross-site") == 0);
    if (same || !foreign) return true;
    return refuse_foreign(req,
                          "web pages of this origin may not call this server; start it with "
                          "--cors-origin ORIGIN to allow them",
                          "origin_not_allowed");
}

/* Names the paths that look most like the unknown one. Here the client has shown its key if it
 * needs one, so no stranger learns what exists. */
static bool refuse_unknown(srv_req *req, const char *path) {
    static char spelled[SRV_MAX_ROUTES][48];
    const char *known[SRV_MAX_ROUTES];
    size_t n = 0, n_routes;
    const srv_route *routes = srv_routes(&n_routes);
    for (size_t i = 0; i + 1 < n_routes; i++) {
        unsigned flags = routes[i].flags;
        if (req->conn->at->admin && !(flags & ROUTE_ADMIN)) continue;
        bool v1 = (flags & ROUTE_V1) && !(flags & ROUTE_OPEN);
        (void)snprintf(spelled[n], sizeof spelled[n], "%s%s%s", v1 ? "/v1" : "", routes[i].path,
                       flags & ROUTE_PREFIX ? "{id}" : "");
        known[n] = spelled[n];
        n++;
    }
    char plain[SRV_PATH_MAX];
    buf text = {0};
    buf_puts(&text, "no such path; the nearest paths are ");
    srv_near_paths(srv_plain_path(path, plain) ? plain : path, known, n, NEAR_PATHS, &text);
    if (text.failed) buf_deinit(&text);
    req->refusal.text = text.data;
    return refuse(req, 404, text.data ? text.data : "no such path", "not_found");
}

/* Checks whether the request may come in; refuses it for the first rule it breaks. */
static bool examine(srv_req *req, unsigned found, const char *path, const srv_framing *framing) {
    srv *server = req->server;
    if (needs_key(server, req->route)) {
        req->key = find_key(req);
        if (req->key < 0) {
            server->counts.refused_key++;
            return refuse(req, 401, "the request needs a valid API key", "invalid_api_key");
        }
    }
    if (found == 404) return refuse_unknown(req, path);
    if (found == 405) {
        bool get = strcmp(req->route->method, "GET") == 0;
        return refuse(req, 405,
                      get ? "this path takes the methods GET and HEAD only"
                          : "this path takes the method POST only",
                      "method_not_allowed");
    }
    if (found) return refuse(req, found, "the server is out of memory; try again shortly", NULL);
    size_t n_routes;
    server->counts.requests_by_route[req->route - srv_routes(&n_routes)]++;
    unsigned flags = req->route->flags;
    if ((flags & ROUTE_JSON) && framing->coded) {
        return refuse(req, 415, "compressed request bodies are not supported", NULL);
    }
    if ((flags & ROUTE_JSON) && framing->type && !framing->json) {
        return refuse(req, 415, "Content-Type must be application/json in UTF-8", NULL);
    }
    if ((flags & ROUTE_JSON) && !framing->type && srv_req_header(req, "Origin")) {
        return refuse(req, 415, "a browser must send the header Content-Type: application/json",
                      NULL);
    }
    if ((flags & ROUTE_LOADED) && !server->loaded) {
        return refuse(req, 503, "Loading model", "model_loading");
    }
    if ((flags & ROUTE_WORK) && server->draining) {
        server->counts.refused_draining++;
        return refuse(req, 503, "the server is shutting down", "shutting_down");
    }
    return true;
}

void srv_gate(srv_req *req, const srv_head *head) {
    srv *server = req->server;
    char authority[SRV_HOST_MAX];
    const char *path = head->target + srv_target_prefix(head->target);
    const char *host =
        srv_target_host(head->target, authority) ? authority : srv_req_header(req, "Host");
    unsigned found = srv_route_find(req, head->method, path, &req->refusal.allow);
    if (!examine_host(req, host)) return;
    req->cors = srv_cors_origin(server, srv_req_header(req, "Origin"));
    if (!examine_origin(req, head->method, host)) return;
    if (strcmp(head->method, "OPTIONS") == 0 && found != 404 && server->opts.cors.n) {
        srv_cors_preflight(req, req->refusal.allow);
        return;
    }
    (void)examine(req, found, path, &head->framing);
}

void srv_route_run(srv_req *req) {
    req->route->handle(req);
}

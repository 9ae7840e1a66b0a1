/* log.c - one log line per request, and a limited number of lines for refused ones. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <string.h>

enum { LINES_PER_SECOND = 10 };

bool srv_log_budget(srv *server) {
    uint64_t now = clock_ns();
    if (now - server->log_window_ns > UINT64_C(1000000000)) {
        if (server->log_suppressed) {
            log_line(LOG_WARN, "%llu more lines about refused or broken requests were left out",
                     (unsigned long long)server->log_suppressed);
        }
        server->log_window_ns = now;
        server->log_window_lines = 0;
        server->log_suppressed = 0;
    }
    if (server->log_window_lines++ < LINES_PER_SECOND) return true;
    server->log_suppressed++;
    return false;
}

void srv_make_id(srv *server, char out[SRV_ID_MAX + 1]) {
    uint64_t x = (server->id_seed ^ ++server->next_id) * UINT64_C(0xff51afd7ed558ccd);
    x = (x ^ x >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    (void)snprintf(out, SRV_ID_MAX + 1, "req-%016llx", (unsigned long long)(x ^ x >> 29));
}

static double ms(uint64_t from, uint64_t to) {
    return to > from ? (double)(to - from) / 1e6 : 0;
}

/* Probes ask often, and what they hear is in the log anyway. */
static bool is_probe(const srv_req *req) {
    return req->route && strcmp(req->route->path, "/ready") == 0;
}

static const char *or_null(const char *text) {
    return text && text[0] ? text : NULL;
}

void srv_log_request(const srv_req *req) {
    srv *server = req->server;
    const srv_outcome *outcome = &req->outcome;
    uint64_t now = clock_ns();
    unsigned status = req->status ? req->status : 499; /* the peer left before an answer */
    const char *route = req->route ? req->route->path : NULL;
    double first = outcome->first_token_ns ? ms(req->start_ns, outcome->first_token_ns) : 0;
    double depth = outcome->output ? (double)outcome->loops / (double)outcome->output : 0;
    const log_field fields[] = {
        {"id", LOG_A_TEXT, .text = or_null(req->id)},
        {"key", LOG_A_TEXT, .text = server->keys ? srv_keys_name(server->keys, req->key) : NULL},
        {"route", LOG_A_TEXT, .text = route},
        {"status", LOG_A_COUNT, .count = status},
        {"ms", LOG_A_REAL, .real = ms(req->start_ns, now), .digits = 1},
        {"client_left", LOG_A_BOOL, .count = outcome->client_left},
        {"stream", LOG_A_BOOL, .count = outcome->stream},
        {"finish", LOG_A_TEXT, .text = outcome->finish},
        {"prompt", LOG_A_COUNT, .count = outcome->prompt},
        {"cached", LOG_A_COUNT, .count = outcome->cached},
        {"output", LOG_A_COUNT, .count = outcome->output},
        {"depth", LOG_A_REAL, .real = depth, .digits = 2},
        {"queue_ms", LOG_A_REAL, .real = (double)outcome->queued_ns / 1e6, .digits = 1},
        {"ttft_ms", LOG_A_REAL, .real = first, .digits = 1},
    };
    enum { WITHOUT_ENGINE = 5 }; /* fields that every request has */
    if (outcome->engine) {
        log_event(LOG_INFO, "request", fields, ARRAY_LEN(fields));
        return;
    }
    if (status >= 400 && status != 503 && !srv_log_budget(server)) return;
    log_event(status >= 400 && !is_probe(req) ? LOG_INFO : LOG_DEBUG, "request", fields,
              WITHOUT_ENGINE);
}

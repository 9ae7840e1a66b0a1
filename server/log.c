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

void srv_log_request(const srv_req *req) {
    srv *server = req->server;
    const srv_outcome *outcome = &req->outcome;
    uint64_t now = clock_ns();
    unsigned status = req->status ? req->status : 499; /* the peer left before an answer */
    const char *route = req->route ? req->route->path : "-";
    if (!outcome->engine) {
        if (status >= 400 && status != 503 && !srv_log_budget(server)) return;
        log_line(status >= 400 ? LOG_INFO : LOG_DEBUG, "request id=%s route=%s status=%u ms=%.1f",
                 req->id[0] ? req->id : "-", route, status, ms(req->start_ns, now));
        return;
    }
    log_line(
        LOG_INFO,
        "request id=%s key=%s route=%s status=%u%s stream=%d finish=%s prompt=%llu cached=%llu "
        "output=%llu depth=%.2f queue_ms=%.1f ttft_ms=%.1f ms=%.1f",
        req->id[0] ? req->id : "-", server->keys ? srv_keys_name(server->keys, req->key) : "-",
        route, status, outcome->client_left ? " client-left" : "", outcome->stream,
        outcome->finish ? outcome->finish : "-", (unsigned long long)outcome->prompt,
        (unsigned long long)outcome->cached, (unsigned long long)outcome->output,
        outcome->output ? (double)outcome->loops / (double)outcome->output : 0.0,
        (double)outcome->queued_ns / 1e6,
        outcome->first_token_ns ? ms(req->start_ns, outcome->first_token_ns) : 0.0,
        ms(req->start_ns, now));
}

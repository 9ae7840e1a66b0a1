/* log.c - one line per request that ends, and few for what strangers cause. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <stdio.h>
#include <string.h>

enum { LINES_PER_SECOND = 10 };

bool srv_log_budget(srv *s) {
    uint64_t now = clock_ns();
    if (now - s->log_window_ns > UINT64_C(1000000000)) {
        if (s->log_suppressed) {
            log_line(LOG_WARN, "%llu more lines about refused or broken requests were left out",
                     (unsigned long long)s->log_suppressed);
        }
        s->log_window_ns = now;
        s->log_window_lines = 0;
        s->log_suppressed = 0;
    }
    if (s->log_window_lines++ < LINES_PER_SECOND) return true;
    s->log_suppressed++;
    return false;
}

void srv_make_id(srv *s, char out[SRV_ID_MAX + 1]) {
    uint64_t x = (s->id_seed ^ ++s->next_id) * UINT64_C(0xff51afd7ed558ccd);
    x = (x ^ x >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    (void)snprintf(out, SRV_ID_MAX + 1, "req-%016llx", (unsigned long long)(x ^ x >> 29));
}

static double ms(uint64_t from, uint64_t to) {
    return to > from ? (double)(to - from) / 1e6 : 0;
}

void srv_log_request(const srv_req *r) {
    srv *s = r->s;
    const srv_tally *t = &r->tally;
    uint64_t now = clock_ns();
    unsigned status = r->status ? r->status : 499; /* the peer left before an answer */
    const char *route = r->route ? r->route->path : "-";
    if (!t->engine) {
        if (status >= 400 && status != 503 && !srv_log_budget(s)) return;
        log_line(status >= 400 ? LOG_INFO : LOG_DEBUG, "request id=%s route=%s status=%u ms=%.1f",
                 r->id[0] ? r->id : "-", route, status, ms(r->start_ns, now));
        return;
    }
    bool left = r->gone && !r->finished;
    log_line(
        LOG_INFO,
        "request id=%s key=%s route=%s status=%u%s stream=%d finish=%s prompt=%llu cached=%llu "
        "output=%llu depth=%.2f queue_ms=%.1f ttft_ms=%.1f ms=%.1f",
        r->id[0] ? r->id : "-", s->keys ? srv_keys_name(s->keys, r->key) : "-", route, status,
        left ? " client-left" : "", t->stream, t->finish ? t->finish : "-",
        (unsigned long long)t->prompt, (unsigned long long)t->cached, (unsigned long long)t->output,
        t->output ? (double)t->loops / (double)t->output : 0.0, (double)t->queued_ns / 1e6,
        t->first_token_ns ? ms(r->start_ns, t->first_token_ns) : 0.0, ms(r->start_ns, now));
}

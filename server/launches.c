/* launches.c - GET /launches: the rows of the last recurrent launches, by loop. */
#include "engine/backend.h"
#include "server/server_internal.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_DIGITS = 18 }; /* so long a number fits into 64 bits */

/* Reads ?after=N; without it every launch is wanted. */
static bool read_after(const srv_req *req, uint64_t *after) {
    const char *text = srv_req_parameter(req, "after");
    *after = 0;
    if (text == NULL) return true;
    size_t n = strspn(text, "0123456789");
    if (n == 0 || n > MOST_DIGITS || text[n]) return false;
    *after = strtoull(text, NULL, 10);
    return true;
}

static void write_launch(buf *out, const sched_launch *launch) {
    uint32_t n_loops = launch->n_loops;
    while (n_loops > 0 && launch->rows[n_loops - 1] == 0)
        n_loops--;
    buf_printf(out, "{\"id\":%llu,\"ms\":%.3f,\"us\":%.0f,\"rows\":[",
               (unsigned long long)launch->id, (double)launch->end_ns * 1e-6,
               (double)launch->ns * 1e-3);
    for (uint32_t i = 0; i < n_loops; i++)
        buf_printf(out, i ? ",%u" : "%u", launch->rows[i]);
    buf_printf(out, "],\"prompt\":%u}", launch->n_prompt);
}

void srv_handle_launches(srv_req *req) {
    static sched_stats stats; /* 10 KB; the loop thread's alone */
    uint64_t after, last = 0;
    if (!read_after(req, &after)) {
        srv_answer_http(req, 400, "after must be a whole number, the id of a launch", NULL);
        return;
    }
    const srv *server = req->server;
    if (server->engine) {
        sched_thread_stats(server->engine, &stats);
        last = stats.launches[ENG_STAGE_RECURRENT];
    }
    uint64_t forgotten = last > SCHED_LAUNCHES ? last - SCHED_LAUNCHES : 0;
    buf body = {0};
    buf_printf(&body, "{\"last\":%llu,\"loops\":%u,\"launches\":[", (unsigned long long)last,
               srv_default_loops(server));
    sched_launch launch;
    const char *comma = "";
    for (uint64_t id = after > forgotten ? after : forgotten; id++ < last; comma = ",") {
        if (!sched_thread_launch(server->engine, id, &launch)) continue;
        buf_puts(&body, comma);
        write_launch(&body, &launch);
    }
    buf_puts(&body, "]}");
    srv_answer(req, 200, "application/json", &body, NULL, 0);
}

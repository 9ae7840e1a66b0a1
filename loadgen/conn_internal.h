/* conn_internal.h - one transfer at a time over a reusable libcurl handle.
 *
 * Owned and used by load.c's loop only. */
#ifndef FATHOM_BENCH_CONN_H
#define FATHOM_BENCH_CONN_H

#include "loadgen/loadgen_internal.h"

#include <curl/curl.h>

typedef struct bench_conn bench_conn;
struct bench_conn {
    bench_conn *next_free;
    CURL *easy;
    struct curl_slist *headers;
    buf body, refusal; /* the request; the start of an answer that is not 200 */
    bench_sse sse;
    bench_chunk chunk;
    const bench_opts *opts;
    bench_run *run;
    bench_req *req;
    uint64_t now_ns; /* when the piece being read arrived */
};

int bench_conn_create(bench_conn **out, const bench_opts *opts, bench_run *run, err *e) WARN_UNUSED;
void bench_conn_destroy(bench_conn *conn);
/* Makes the handle ready to be added for a request; number goes into its X-Request-Id. */
int bench_conn_prepare(bench_conn *conn, bench_req *req, size_t number, err *e) WARN_UNUSED;
/* Judges the request after libcurl is through with it. */
void bench_conn_finish(bench_conn *conn, CURLcode rc);
/* Options that every request of a run shares, also the small GETs. */
void bench_conn_common(CURL *easy, const bench_opts *opts);

#endif

/* conn_internal.h - a reusable libcurl handle for one transfer at a time.
 *
 * Owned by load.c and used on its loop only. */
#ifndef FATHOM_BENCH_CONN_H
#define FATHOM_BENCH_CONN_H

#include "loadgen/curl_internal.h"
#include "loadgen/loadgen_internal.h"

typedef struct bench_conn bench_conn;
struct bench_conn {
    bench_conn *next_free;
    CURL *easy;
    struct curl_slist *headers;
    buf body,
        refusal; /* body of the request; first bytes of an answer with a status other than 200 */
    bench_sse sse;
    bench_chunk chunk;
    const bench_opts *opts;
    bench_run *run;
    bench_req *req;
    uint64_t now_ns; /* when the bytes being read arrived */
};

int bench_conn_create(bench_conn **out, const bench_opts *opts, bench_run *run, err *e) WARN_UNUSED;
void bench_conn_destroy(bench_conn *conn);
/* Prepares the handle for a request; number goes into its X-Request-Id. */
int bench_conn_prepare(bench_conn *conn, bench_req *req, size_t number, err *e) WARN_UNUSED;
/* Sets the outcome of the request when libcurl is done with it. */
void bench_conn_finish(bench_conn *conn, CURLcode rc);
/* Sets the options common to all requests of a run and to the small GETs. */
void bench_conn_common(CURL *easy, const bench_opts *opts);

#endif

/* conn.c - sends a request and reads the events of its answer. */
#include "base/clock.h"
#include "base/size.h"
#include "loadgen/conn_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REFUSAL_BYTES = 4096 };

static void fail(bench_req *req, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void fail(bench_req *req, const char *fmt, ...) {
    if (req->error[0]) return; /* keep the first cause */
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(req->error, sizeof req->error, fmt, args);
    va_end(args);
}

/* ---- reading: runs for every token, so no malloc from here to on_bytes ---- */

static void count_depths(bench_conn *conn, const bench_chunk *chunk) {
    uint32_t kept = chunk->n_depths < ARRAY_LEN(chunk->depths) ? chunk->n_depths
                                                               : (uint32_t)ARRAY_LEN(chunk->depths);
    for (uint32_t i = 0; i < kept; i++) {
        uint32_t depth = chunk->depths[i];
        conn->run->depth_histogram[depth < BENCH_MAX_DEPTH ? depth : BENCH_MAX_DEPTH - 1]++;
    }
    conn->req->n_depths += chunk->n_depths;
    conn->req->depth_sum += chunk->depth_sum;
}

static void count_chunk(bench_conn *conn, const bench_chunk *chunk) {
    bench_req *req = conn->req;
    uint64_t now = conn->now_ns;
    if (req->n_chunks == 0) req->first_ns = now;
    else if (req->n_chunks - 1 < req->gaps_max)
        req->gaps[req->n_chunks - 1] = (float)((double)(now - req->last_ns) * 1e-9);
    req->last_ns = now;
    req->n_chunks++;
    if (req->probe) return;
    conn->run->chunks++;
    uint64_t second = (now - conn->run->start_ns) / 1000000000u;
    if (second < BENCH_MAX_SECONDS)
        conn->run->tokens_by_second[second] += chunk->n_depths > 1 ? chunk->n_depths : 1;
    if (chunk->n_depths) count_depths(conn, chunk);
}

static int on_event(void *ud, const char *json, size_t n) {
    bench_conn *conn = ud;
    bench_req *req = conn->req;
    const bench_chunk *chunk = &conn->chunk;
    if (bench_chunk_read(&conn->chunk, json, n) != 0) {
        fail(req, "malformed event in the stream: %.*s", (int)(n < 80 ? n : 80), json);
        return 1;
    }
    if (chunk->is_error) {
        fail(req, "error in the stream: %.*s",
             (int)(chunk->message_len < 120 ? chunk->message_len : 120),
             chunk->message ? chunk->message : "");
        return 1;
    }
    if (chunk->has_usage) {
        req->has_usage = true;
        req->usage_input = chunk->usage_input;
        req->usage_output = chunk->usage_output;
        req->usage_loops = chunk->usage_loops;
    }
    if (chunk->has_choice) req->answered = true;
    if (!chunk->has_token) return 0; /* the role at the start, the reason at the end */
    count_chunk(conn, chunk);
    if (conn->opts->detailed && chunk->text) buf_append(&req->reply, chunk->text, chunk->text_len);
    if (req->cancel_after && req->n_chunks >= req->cancel_after) {
        req->outcome = BENCH_CANCELLED;
        return 1;
    }
    return 0;
}

/* libcurl passes one HTTP chunk, or a part of one, at a time. Returning fewer bytes makes it drop
 * the connection, as a client that leaves does. */
static size_t on_bytes(char *bytes, size_t size, size_t n, void *ud) {
    bench_conn *conn = ud;
    n *= size;
    conn->now_ns = clock_ns();
    conn->run->bytes += n;
    if (conn->req->status == 0)
        libcurl.easy_getinfo(conn->easy, CURLINFO_RESPONSE_CODE, &conn->req->status);
    if (conn->req->status != 200) {
        size_t room = REFUSAL_BYTES - conn->refusal.len;
        buf_append(&conn->refusal, bytes, n < room ? n : room);
        return n;
    }
    int rc = bench_sse_feed(&conn->sse, bytes, n, on_event, conn);
    if (rc < 0) fail(conn->req, "a line of the stream is longer than %d bytes", BENCH_SSE_HELD);
    return rc == 0 ? n : 0;
}

/* ---- the handle ---- */

void bench_conn_common(CURL *easy, const bench_opts *opts) {
    libcurl.easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    libcurl.easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    libcurl.easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    libcurl.easy_setopt(easy, CURLOPT_NOPROXY, "*"); /* measure the server, not a proxy */
    libcurl.easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, 30000L);
    libcurl.easy_setopt(easy, CURLOPT_USERAGENT, "fathom-bench/" FATHOM_VERSION);
    if (opts->insecure) {
        libcurl.easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
        libcurl.easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
    }
}

static int add_header(struct curl_slist **list, const char *line) {
    struct curl_slist *grown = libcurl.slist_append(*list, line);
    if (grown == NULL) return -1;
    *list = grown;
    return 0;
}

/* Rebuilds the list only if each request has its own id. */
static int set_headers(bench_conn *conn, size_t i) {
    const bench_opts *opts = conn->opts;
    if (conn->headers && opts->request_id_prefix == NULL) return 0;
    libcurl.slist_free_all(conn->headers);
    conn->headers = NULL;
    int rc = add_header(&conn->headers, "Content-Type: application/json");
    rc |= add_header(&conn->headers, "Accept: text/event-stream");
    rc |= add_header(&conn->headers, "Expect:");
    for (size_t k = 0; k < opts->n_headers; k++)
        rc |= add_header(&conn->headers, opts->headers[k]);
    if (opts->request_id_prefix) {
        char line[256];
        (void)snprintf(line, sizeof line, "X-Request-Id: %s%zu", opts->request_id_prefix, i);
        rc |= add_header(&conn->headers, line);
    }
    libcurl.easy_setopt(conn->easy, CURLOPT_HTTPHEADER, conn->headers);
    return rc;
}

int bench_conn_create(bench_conn **out, const bench_opts *opts, bench_run *run, err *e) {
    *out = NULL;
    bench_conn *conn = array_new(1, sizeof *conn);
    if (conn == NULL) goto fail_conn;
    conn->opts = opts;
    conn->run = run;
    conn->refusal.max = REFUSAL_BYTES;
    conn->easy = libcurl.easy_init();
    if (conn->easy == NULL) goto fail_easy;
    bench_conn_common(conn->easy, opts);
    libcurl.easy_setopt(conn->easy, CURLOPT_URL, opts->url);
    libcurl.easy_setopt(conn->easy, CURLOPT_POST, 1L);
    libcurl.easy_setopt(conn->easy, CURLOPT_WRITEFUNCTION, on_bytes);
    libcurl.easy_setopt(conn->easy, CURLOPT_WRITEDATA, conn);
    libcurl.easy_setopt(conn->easy, CURLOPT_PRIVATE, conn);
    libcurl.easy_setopt(conn->easy, CURLOPT_TIMEOUT_MS, (long)(opts->request_timeout_s * 1e3));
    libcurl.easy_setopt(conn->easy, CURLOPT_ACCEPT_ENCODING, NULL);
    *out = conn;
    return 0;
fail_easy:
    free(conn);
fail_conn:
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a connection");
}

void bench_conn_destroy(bench_conn *conn) {
    if (conn == NULL) return;
    libcurl.easy_cleanup(conn->easy);
    libcurl.slist_free_all(conn->headers);
    buf_deinit(&conn->body);
    buf_deinit(&conn->refusal);
    buf_deinit(&conn->sse.held);
    free(conn);
}

int bench_conn_prepare(bench_conn *conn, bench_req *req, size_t number, err *e) {
    conn->req = req;
    bench_sse_reset(&conn->sse);
    buf_clear(&conn->refusal);
    if (bench_plan_body(conn->opts, req, &conn->body, e) != 0) return -1;
    if (set_headers(conn, number) != 0)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for headers");
    libcurl.easy_setopt(conn->easy, CURLOPT_POSTFIELDS, conn->body.data);
    libcurl.easy_setopt(conn->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)conn->body.len);
    conn->req->outcome = BENCH_RUNNING;
    return 0;
}

/* The message of an OpenAI-style error body, or the body itself. */
static void name_refusal(bench_conn *conn) {
    bench_req *req = conn->req;
    bench_chunk chunk;
    const char *text = conn->refusal.data ? conn->refusal.data : "";
    int n = (int)(conn->refusal.len < 110 ? conn->refusal.len : 110);
    if (conn->refusal.len && bench_chunk_read(&chunk, conn->refusal.data, conn->refusal.len) == 0 &&
        chunk.message) {
        text = chunk.message;
        n = (int)(chunk.message_len < 110 ? chunk.message_len : 110);
    }
    fail(req, "HTTP %ld: %.*s", req->status, n, text);
}

void bench_conn_finish(bench_conn *conn, CURLcode rc) {
    bench_req *req = conn->req;
    req->end_ns = clock_ns();
    if (req->outcome == BENCH_CANCELLED) return;
    libcurl.easy_getinfo(conn->easy, CURLINFO_RESPONSE_CODE, &req->status);
    if (rc == CURLE_WRITE_ERROR && req->error[0]) {
        /* this client hung up; the cause is recorded */
    } else if (rc != CURLE_OK) {
        fail(req, "%s%s", req->status == 200 ? "the stream was cut: " : "",
             libcurl.easy_strerror(rc));
    } else if (req->status != 200) {
        name_refusal(conn);
    } else if (!req->answered) {
        fail(req, "the answer held no token");
    } else if (req->n_chunks == 0) { /* an empty answer: it ended where a token could begin */
        req->first_ns = req->last_ns = req->end_ns;
    }
    req->outcome = req->error[0] ? BENCH_FAILED : BENCH_OK;
}

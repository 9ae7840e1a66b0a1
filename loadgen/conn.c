/* conn.c - request out, answer and its events in. */
#include "base/clock.h"
#include "base/size.h"
#include "loadgen/conn_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REFUSAL_BYTES = 4096 };

static void fail(bench_req *r, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void fail(bench_req *r, const char *fmt, ...) {
    if (r->error[0]) return; /* the first cause is the one that counts */
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(r->error, sizeof r->error, fmt, args);
    va_end(args);
}

/* ---- what comes in: called for every token, so no malloc from here to on_bytes ---- */

static void count_depths(bench_conn *c, const bench_chunk *k) {
    uint32_t kept =
        k->n_depths < ARRAY_LEN(k->depths) ? k->n_depths : (uint32_t)ARRAY_LEN(k->depths);
    for (uint32_t i = 0; i < kept; i++) {
        uint32_t d = k->depths[i];
        c->run->depth_histogram[d < BENCH_MAX_DEPTH ? d : BENCH_MAX_DEPTH - 1]++;
    }
    c->req->n_depths += k->n_depths;
    c->req->depth_sum += k->depth_sum;
}

static void count_chunk(bench_conn *c, const bench_chunk *k) {
    bench_req *r = c->req;
    uint64_t now = c->now_ns;
    if (r->n_chunks == 0) r->first_ns = now;
    else if (r->n_chunks - 1 < r->gaps_max)
        r->gaps[r->n_chunks - 1] = (float)((double)(now - r->last_ns) * 1e-9);
    r->last_ns = now;
    r->n_chunks++;
    if (r->probe) return;
    c->run->chunks++;
    uint64_t second = (now - c->run->start_ns) / 1000000000u;
    if (second < BENCH_MAX_SECONDS)
        c->run->tokens_by_second[second] += k->n_depths > 1 ? k->n_depths : 1;
    if (k->n_depths) count_depths(c, k);
}

static int on_event(void *ud, const char *json, size_t n) {
    bench_conn *c = ud;
    bench_req *r = c->req;
    const bench_chunk *k = &c->chunk;
    if (bench_chunk_read(&c->chunk, json, n) != 0) {
        fail(r, "malformed event in the stream: %.*s", (int)(n < 80 ? n : 80), json);
        return 1;
    }
    if (k->is_error) {
        fail(r, "error in the stream: %.*s", (int)(k->message_len < 120 ? k->message_len : 120),
             k->message ? k->message : "");
        return 1;
    }
    if (k->has_usage) {
        r->has_usage = true;
        r->usage_input = k->usage_input;
        r->usage_output = k->usage_output;
        r->usage_loops = k->usage_loops;
    }
    if (!k->has_choice) return 0;
    count_chunk(c, k);
    if (c->opts->detailed && k->text) buf_append(&r->reply, k->text, k->text_len);
    if (r->cancel_after && r->n_chunks >= r->cancel_after) {
        r->outcome = BENCH_CANCELLED;
        return 1;
    }
    return 0;
}

/* libcurl hands over one HTTP chunk, or part of one, at a time. Fewer bytes taken than
 * given makes it drop the connection, which is what a client that leaves does. */
static size_t on_bytes(char *bytes, size_t size, size_t n, void *ud) {
    bench_conn *c = ud;
    n *= size;
    c->now_ns = clock_ns();
    c->run->bytes += n;
    if (c->req->status == 0) curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &c->req->status);
    if (c->req->status != 200) {
        size_t room = REFUSAL_BYTES - c->refusal.len;
        buf_append(&c->refusal, bytes, n < room ? n : room);
        return n;
    }
    int rc = bench_sse_feed(&c->sse, bytes, n, on_event, c);
    if (rc < 0) fail(c->req, "a line of the stream is longer than %d bytes", BENCH_SSE_HELD);
    return rc == 0 ? n : 0;
}

/* ---- the handle ---- */

void bench_conn_common(CURL *easy, const bench_opts *o) {
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_NOPROXY, "*"); /* a load test measures the server, not a proxy */
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, 30000L);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "fathom-bench/" FATHOM_VERSION);
    if (o->insecure) {
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
    }
}

static int add_header(struct curl_slist **list, const char *line) {
    struct curl_slist *grown = curl_slist_append(*list, line);
    if (grown == NULL) return -1;
    *list = grown;
    return 0;
}

/* The list is made anew only when every request names itself. */
static int set_headers(bench_conn *c, size_t i) {
    const bench_opts *o = c->opts;
    if (c->headers && o->request_id_prefix == NULL) return 0;
    curl_slist_free_all(c->headers);
    c->headers = NULL;
    int rc = add_header(&c->headers, "Content-Type: application/json");
    rc |= add_header(&c->headers, "Accept: text/event-stream");
    rc |= add_header(&c->headers, "Expect:");
    for (size_t k = 0; k < o->n_headers; k++)
        rc |= add_header(&c->headers, o->headers[k]);
    if (o->request_id_prefix) {
        char line[256];
        (void)snprintf(line, sizeof line, "X-Request-Id: %s%zu", o->request_id_prefix, i);
        rc |= add_header(&c->headers, line);
    }
    curl_easy_setopt(c->easy, CURLOPT_HTTPHEADER, c->headers);
    return rc;
}

int bench_conn_create(bench_conn **out, const bench_opts *o, bench_run *run, err *e) {
    *out = NULL;
    bench_conn *c = array_new(1, sizeof *c);
    if (c == NULL) goto fail_conn;
    c->opts = o;
    c->run = run;
    c->refusal.max = REFUSAL_BYTES;
    c->easy = curl_easy_init();
    if (c->easy == NULL) goto fail_easy;
    bench_conn_common(c->easy, o);
    curl_easy_setopt(c->easy, CURLOPT_URL, o->url);
    curl_easy_setopt(c->easy, CURLOPT_POST, 1L);
    curl_easy_setopt(c->easy, CURLOPT_WRITEFUNCTION, on_bytes);
    curl_easy_setopt(c->easy, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(c->easy, CURLOPT_PRIVATE, c);
    curl_easy_setopt(c->easy, CURLOPT_TIMEOUT_MS, (long)(o->request_timeout_s * 1e3));
    curl_easy_setopt(c->easy, CURLOPT_ACCEPT_ENCODING, NULL);
    *out = c;
    return 0;
fail_easy:
    free(c);
fail_conn:
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a connection");
}

void bench_conn_destroy(bench_conn *c) {
    if (c == NULL) return;
    curl_easy_cleanup(c->easy);
    curl_slist_free_all(c->headers);
    buf_deinit(&c->body);
    buf_deinit(&c->refusal);
    buf_deinit(&c->sse.held);
    free(c);
}

int bench_conn_prepare(bench_conn *c, bench_req *r, size_t number, err *e) {
    c->req = r;
    bench_sse_reset(&c->sse);
    buf_clear(&c->refusal);
    if (bench_plan_body(c->opts, r, &c->body, e) != 0) return -1;
    if (set_headers(c, number) != 0)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for headers");
    curl_easy_setopt(c->easy, CURLOPT_POSTFIELDS, c->body.data);
    curl_easy_setopt(c->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body.len);
    c->req->outcome = BENCH_RUNNING;
    return 0;
}

/* The message of an OpenAI-style error body, or the body itself. */
static void name_refusal(bench_conn *c) {
    bench_req *r = c->req;
    bench_chunk k;
    const char *text = c->refusal.data ? c->refusal.data : "";
    int n = (int)(c->refusal.len < 110 ? c->refusal.len : 110);
    if (c->refusal.len && bench_chunk_read(&k, c->refusal.data, c->refusal.len) == 0 && k.message) {
        text = k.message;
        n = (int)(k.message_len < 110 ? k.message_len : 110);
    }
    fail(r, "HTTP %ld: %.*s", r->status, n, text);
}

void bench_conn_finish(bench_conn *c, CURLcode rc) {
    bench_req *r = c->req;
    r->end_ns = clock_ns();
    if (r->outcome == BENCH_CANCELLED) return;
    curl_easy_getinfo(c->easy, CURLINFO_RESPONSE_CODE, &r->status);
    if (rc == CURLE_WRITE_ERROR && r->error[0]) {
        /* we hung up; the cause is recorded */
    } else if (rc != CURLE_OK) {
        fail(r, "%s%s", r->status == 200 ? "the stream was cut: " : "", curl_easy_strerror(rc));
    } else if (r->status != 200) {
        name_refusal(c);
    } else if (r->n_chunks == 0) {
        fail(r, "the answer held no token");
    }
    r->outcome = r->error[0] ? BENCH_FAILED : BENCH_OK;
}

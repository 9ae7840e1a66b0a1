/* load.c - libuv's loop drives libcurl's multi-socket interface.
 *
 * libcurl tells the sockets to watch and the time of its next call; libuv watches and calls. A
 * timerfd wakes the loop for the next scheduled request, because libuv's timers count whole
 * milliseconds and would add up to 1 ms to every latency. */
#include "base/clock.h"
#include "base/size.h"
#include "loadgen/conn_internal.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <uv.h>

typedef struct {
    const bench_opts *opts;
    bench_plan *plan;
    bench_run *run;
    uv_loop_t loop;
    uv_timer_t curl_timer, progress;
    uv_poll_t arrivals;
    uv_signal_t sigint;
    int timer_fd;
    CURLM *multi;
    bench_conn *free_conns;
    bench_conn **conns; /* all connections, to free at the end; grows only when a request starts */
    size_t n_conns, conns_cap;
    size_t next; /* the next request to start */
    size_t running, ended;
    size_t probing;         /* probes in flight */
    uint64_t next_probe_ns; /* 0 = no probes */
    int in_multi;           /* transfers that libcurl last reported; fewer means that some ended */
    bool kick;              /* libcurl asked to be called at once */
    uint64_t slot_free_ns;  /* when --max-concurrency last had room */
    uint64_t shown_chunks, shown_ns;
    err error;
    bool failed;
} load_state;

typedef struct {
    uv_poll_t poll;
    load_state *load;
    curl_socket_t fd;
} watched;

static void settle(load_state *load);

static void stop(load_state *load) {
    uv_stop(&load->loop);
}

static void give_up(load_state *load) {
    load->failed = true;
    stop(load);
}

/* ---- sockets and timer on libcurl's behalf ---- */

static void on_socket(uv_poll_t *poll, int status, int events) {
    watched *watch = poll->data;
    load_state *load = watch->load;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE) flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE) flags |= CURL_CSELECT_OUT;
    int running = load->in_multi;
    libcurl.multi_socket_action(load->multi, watch->fd, flags, &running);
    if (running != load->in_multi || load->kick) settle(load);
}

static void free_watched(uv_handle_t *handle) {
    free(handle->data);
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *ud, void *assigned) {
    (void)easy;
    load_state *load = ud;
    watched *watch = assigned;
    if (what == CURL_POLL_REMOVE) {
        if (watch == NULL) return 0;
        libcurl.multi_assign(load->multi, fd, NULL);
        uv_close((uv_handle_t *)&watch->poll, free_watched);
        return 0;
    }
    if (watch == NULL) {
        watch = array_new(1, sizeof *watch);
        if (watch == NULL) return -1;
        watch->load = load;
        watch->fd = fd;
        if (uv_poll_init(&load->loop, &watch->poll, fd) != 0) {
            free(watch);
            return -1;
        }
        watch->poll.data = watch;
        libcurl.multi_assign(load->multi, fd, watch);
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&watch->poll, events, on_socket) == 0 ? 0 : -1;
}

static void on_curl_timer(uv_timer_t *timer) {
    load_state *load = timer->data;
    load->kick = true;
    settle(load);
}

static int on_curl_timeout(CURLM *multi, long ms, void *ud) {
    (void)multi;
    load_state *load = ud;
    load->kick = ms == 0;
    if (ms > 0) uv_timer_start(&load->curl_timer, on_curl_timer, (uint64_t)ms, 0);
    else uv_timer_stop(&load->curl_timer);
    return 0;
}

/* ---- requests ---- */

static bench_conn *take_conn(load_state *load) {
    bench_conn *conn = load->free_conns;
    if (conn) {
        load->free_conns = conn->next_free;
        return conn;
    }
    if (load->n_conns == load->conns_cap) {
        size_t cap = load->conns_cap ? 2 * load->conns_cap : 64;
        bench_conn **grown = realloc(load->conns, cap * sizeof(bench_conn *));
        if (grown == NULL) {
            err_set(&load->error, ERR_NO_MEMORY, NULL, "out of memory for connections");
            return NULL;
        }
        load->conns = grown;
        load->conns_cap = cap;
    }
    if (bench_conn_create(&conn, load->opts, load->run, &load->error) != 0) return NULL;
    load->conns[load->n_conns++] = conn;
    return conn;
}

static int start_one(load_state *load) {
    bench_conn *conn = take_conn(load);
    if (conn == NULL) return -1;
    bench_req *req = &load->plan->reqs[load->next];
    if (bench_conn_prepare(conn, req, load->next, &load->error) != 0) return -1;
    /* Latency counts from the scheduled time, or from the time the slot became free. */
    req->start_ns = req->due_ns > load->slot_free_ns ? req->due_ns : load->slot_free_ns;
    if (libcurl.multi_add_handle(load->multi, conn->easy) != CURLM_OK) {
        return err_set(&load->error, ERR_INTERNAL, NULL, "libcurl did not start a transfer");
    }
    load->in_multi++;
    load->next++;
    load->running++;
    return 0;
}

static bool has_room(const load_state *load) {
    return load->opts->max_concurrency == 0 || load->running < load->opts->max_concurrency;
}

/* ---- probes: one-token requests beside the load, not limited by --max-concurrency ---- */

static bench_req *new_probe(load_state *load) {
    bench_run *run = load->run;
    if (run->n_probes == run->probes_cap) {
        size_t cap = run->probes_cap ? 2 * run->probes_cap : 64;
        bench_req **grown = realloc(run->probes, cap * sizeof *grown);
        if (grown == NULL) return NULL;
        run->probes = grown;
        run->probes_cap = cap;
    }
    bench_req *req = array_new(1, sizeof *req);
    if (req == NULL) return NULL;
    req->text = strdup("Hello");
    if (req->text == NULL) {
        free(req);
        return NULL;
    }
    req->probe = true;
    req->input_len = req->output_len = 1;
    run->probes[run->n_probes++] = req;
    return req;
}

static int start_probe(load_state *load) {
    bench_req *req = new_probe(load);
    bench_conn *conn = req ? take_conn(load) : NULL;
    if (conn == NULL || bench_conn_prepare(conn, req, load->plan->n_reqs + load->run->n_probes,
                                           &load->error) != 0) {
        return err_set(&load->error, ERR_NO_MEMORY, NULL, "out of memory for a probe");
    }
    req->due_ns = req->start_ns = load->next_probe_ns;
    if (libcurl.multi_add_handle(load->multi, conn->easy) != CURLM_OK) {
        return err_set(&load->error, ERR_INTERNAL, NULL, "libcurl did not start a transfer");
    }
    load->in_multi++;
    load->probing++;
    load->next_probe_ns += (uint64_t)(1e9 / load->opts->probe_rate);
    return 0;
}

void bench_run_deinit(bench_run *run) {
    for (size_t i = 0; i < run->n_probes; i++) {
        free(run->probes[i]->text);
        buf_deinit(&run->probes[i]->reply);
        free(run->probes[i]);
    }
    free(run->probes);
    free(run->tokens_by_second);
    *run = (bench_run){0};
}

/* ---- the next start ---- */

static void arm_arrivals(load_state *load) {
    struct itimerspec at = {0};
    uint64_t due = load->next_probe_ns;
    if (load->next < load->plan->n_reqs && has_room(load)) {
        uint64_t next = load->plan->reqs[load->next].due_ns;
        if (due == 0 || next < due) due = next;
    }
    if (due) {
        at.it_value.tv_sec = (time_t)(due / 1000000000u);
        at.it_value.tv_nsec = (long)(due % 1000000000u);
    }
    timerfd_settime(load->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void start_due(load_state *load) {
    uint64_t now = clock_ns();
    while (!load->failed && load->next < load->plan->n_reqs && has_room(load) &&
           load->plan->reqs[load->next].due_ns <= now) {
        if (start_one(load) != 0) give_up(load);
    }
    while (!load->failed && load->next_probe_ns && load->next_probe_ns <= now) {
        if (start_probe(load) != 0) give_up(load);
    }
    arm_arrivals(load);
}

static void end_one(load_state *load, bench_conn *conn, CURLcode rc) {
    libcurl.multi_remove_handle(load->multi, conn->easy);
    bench_conn_finish(conn, rc);
    conn->next_free = load->free_conns;
    load->free_conns = conn;
    if (conn->req->probe) {
        load->probing--;
        return;
    }
    if (!has_room(load)) load->slot_free_ns = conn->req->end_ns;
    load->running--;
    load->ended++;
    load->run->end_ns = conn->req->end_ns;
}

static bool end_finished(load_state *load) {
    bool any = false;
    int left;
    CURLMsg *msg;
    while ((msg = libcurl.multi_info_read(load->multi, &left)) != NULL) {
        if (msg->msg != CURLMSG_DONE) continue;
        char *private = NULL;
        libcurl.easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, &private);
        end_one(load, (bench_conn *)(void *)private, msg->data.result);
        any = true;
    }
    return any;
}

/* Call after libcurl has run: ends finished requests, starts due ones, and calls libcurl again
 * where it asked for that. */
static void settle(load_state *load) {
    for (int i = 0; i < 64; i++) {
        if (end_finished(load) || i == 0) start_due(load);
        if (load->failed || !load->kick) break;
        load->kick = false;
        libcurl.multi_socket_action(load->multi, CURL_SOCKET_TIMEOUT, 0, &load->in_multi);
    }
    if (load->kick) uv_timer_start(&load->curl_timer, on_curl_timer, 1, 0);
    end_finished(load);
    load->in_multi = (int)(load->running + load->probing);
    if (load->ended == load->plan->n_reqs) stop(load);
}

static void on_arrival(uv_poll_t *poll, int status, int events) {
    (void)status;
    (void)events;
    load_state *load = poll->data;
    uint64_t fired;
    if (read(load->timer_fd, &fired, sizeof fired) < 0 && errno != EAGAIN) return;
    settle(load);
}

static void on_sigint(uv_signal_t *handle, int signum) {
    (void)signum;
    load_state *load = handle->data;
    load->run->interrupted = true;
    stop(load);
}

static void on_progress(uv_timer_t *timer) {
    load_state *load = timer->data;
    uint64_t now = clock_ns(), chunks = load->run->chunks;
    double seconds = (double)(now - load->shown_ns) * 1e-9;
    bool tty = isatty(STDERR_FILENO);
    fprintf(stderr, "%s%zu/%zu done, %zu running, %.0f tok/s%s", tty ? "\r\033[K" : "", load->ended,
            load->plan->n_reqs, load->running, (double)(chunks - load->shown_chunks) / seconds,
            tty ? "" : "\n");
    fflush(stderr);
    load->shown_chunks = chunks;
    load->shown_ns = now;
}

/* ---- the run ---- */

static void close_handle(uv_handle_t *handle, void *ud) {
    (void)ud;
    if (uv_is_closing(handle)) return;
    uv_close(handle, NULL);
}

/* Every stream needs a descriptor. */
static void raise_limit(void) {
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &lim);
    }
}

static int open_multi(load_state *load, err *e) {
    load->multi = libcurl.multi_init();
    if (load->multi == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for libcurl");
    libcurl.multi_setopt(load->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    libcurl.multi_setopt(load->multi, CURLMOPT_SOCKETDATA, load);
    libcurl.multi_setopt(load->multi, CURLMOPT_TIMERFUNCTION, on_curl_timeout);
    libcurl.multi_setopt(load->multi, CURLMOPT_TIMERDATA, load);
    libcurl.multi_setopt(load->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    libcurl.multi_setopt(load->multi, CURLMOPT_MAXCONNECTS, 100000L);
    return 0;
}

static int open_loop(load_state *load, err *e) {
    if (uv_loop_init(&load->loop) != 0)
        return err_set(e, ERR_IO, NULL, "cannot create an event loop");
    uv_timer_init(&load->loop, &load->curl_timer);
    uv_timer_init(&load->loop, &load->progress);
    uv_signal_init(&load->loop, &load->sigint);
    uv_poll_init(&load->loop, &load->arrivals, load->timer_fd);
    load->curl_timer.data = load->progress.data = load->sigint.data = load->arrivals.data = load;
    uv_poll_start(&load->arrivals, UV_READABLE, on_arrival);
    uv_signal_start_oneshot(&load->sigint, on_sigint,
                            SIGINT); /* a second SIGINT kills the process */
    uint64_t every = isatty(STDERR_FILENO) ? 1000 : 5000;
    if (!load->opts->quiet) uv_timer_start(&load->progress, on_progress, every, every);
    return 0;
}

static void close_all(load_state *load) {
    for (size_t i = 0; i < load->n_conns; i++) {
        libcurl.multi_remove_handle(load->multi, load->conns[i]->easy);
        bench_conn_destroy(load->conns[i]);
    }
    free(load->conns);
    libcurl.multi_cleanup(load->multi);
    uv_walk(&load->loop, close_handle, NULL);
    uv_run(&load->loop, UV_RUN_DEFAULT);
    uv_loop_close(&load->loop);
    close(load->timer_fd);
}

static double cpu_seconds(void) {
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void run_loop(load_state *load) {
    bench_plan *plan = load->plan;
    double cpu = cpu_seconds();
    load->run->start_ns = load->run->end_ns = load->shown_ns = clock_ns();
    for (size_t i = 0; i < plan->n_reqs; i++)
        plan->reqs[i].due_ns = load->run->start_ns + (uint64_t)(plan->reqs[i].at_s * 1e9);
    if (load->opts->probe_rate > 0) load->next_probe_ns = load->run->start_ns;
    settle(load);
    if (!load->failed && load->ended < plan->n_reqs) uv_run(&load->loop, UV_RUN_DEFAULT);
    if (load->run->interrupted) load->run->end_ns = clock_ns();
    for (size_t i = 0; i < plan->n_reqs; i++) {
        bench_req *req = &plan->reqs[i];
        if (req->outcome == BENCH_RUNNING) req->end_ns = load->run->end_ns;
        if (req->outcome <= BENCH_RUNNING) req->outcome = BENCH_ABANDONED;
    }
    load->run->cpu_s = cpu_seconds() - cpu;
    if (!load->opts->quiet && isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
}

int bench_load(bench_plan *plan, const bench_opts *opts, bench_run *run, err *e) {
    load_state *load = array_new(1, sizeof *load);
    if (load == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    *load = (load_state){.opts = opts, .plan = plan, .run = run};
    int rc = -1;
    raise_limit();
    load->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (load->timer_fd < 0) {
        err_set(e, ERR_IO, NULL, "cannot create a timer: %s", strerror(errno));
        goto fail_timer;
    }
    if (open_multi(load, e) != 0) goto fail_multi;
    if (open_loop(load, e) != 0) goto fail_loop;
    run_loop(load);
    close_all(load);
    rc = 0;
    if (load->failed) {
        *e = load->error;
        rc = -1;
    }
    free(load);
    return rc;
fail_loop:
    libcurl.multi_cleanup(load->multi);
fail_multi:
    close(load->timer_fd);
fail_timer:
    free(load);
    return rc;
}

/* ---- small requests before and after the run ---- */

static size_t keep(char *bytes, size_t size, size_t n, void *ud) {
    buf_append(ud, bytes, size * n);
    return size * n;
}

int bench_get(const bench_opts *opts, const char *path, double wait_s, buf *out, long *status,
              err *e) {
    *status = 0;
    CURL *easy = libcurl.easy_init();
    buf url = {0};
    struct curl_slist *headers = NULL;
    buf_printf(&url, "%s%s", opts->base_url, path);
    for (size_t k = 0; k < opts->n_headers; k++) {
        struct curl_slist *grown = libcurl.slist_append(headers, opts->headers[k]);
        if (grown) headers = grown;
    }
    int rc = -1;
    if (easy == NULL || url.failed) {
        err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    } else {
        bench_conn_common(easy, opts);
        libcurl.easy_setopt(easy, CURLOPT_URL, url.data);
        libcurl.easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
        libcurl.easy_setopt(easy, CURLOPT_WRITEFUNCTION, keep);
        libcurl.easy_setopt(easy, CURLOPT_WRITEDATA, out);
        libcurl.easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(wait_s * 1e3));
        CURLcode got = libcurl.easy_perform(easy);
        if (got != CURLE_OK)
            err_set(e, ERR_IO, NULL, "%s: %s", url.data, libcurl.easy_strerror(got));
        else libcurl.easy_getinfo(easy, CURLINFO_RESPONSE_CODE, status);
        rc = got == CURLE_OK ? 0 : -1;
    }
    libcurl.easy_cleanup(easy);
    libcurl.slist_free_all(headers);
    buf_deinit(&url);
    return rc;
}

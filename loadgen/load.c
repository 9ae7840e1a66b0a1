/* load.c - libuv's loop drives libcurl's multi-socket interface.
 *
 * libcurl says which sockets to watch and when to be called again; libuv does both. A
 * timerfd wakes the loop for the next scheduled request: libuv's own timers count whole
 * milliseconds, which would add up to one to every latency. */
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
    bench_conn **conns; /* all, for the end; grows only when a request starts */
    size_t n_conns, conns_cap;
    size_t next; /* first request not started */
    size_t running, ended;
    size_t probing;         /* probes in flight */
    uint64_t next_probe_ns; /* 0 = no probes */
    int in_multi;           /* what libcurl said last: fewer means some have ended */
    bool kick;              /* libcurl wants to be called at once */
    uint64_t slot_free_ns;  /* when --max-concurrency last had room again */
    uint64_t shown_chunks, shown_ns;
    err e;
    bool failed;
} load;

typedef struct {
    uv_poll_t poll;
    load *l;
    curl_socket_t fd;
} watched;

static void settle(load *l);

static void stop(load *l) {
    uv_stop(&l->loop);
}

static void give_up(load *l) {
    l->failed = true;
    stop(l);
}

/* ---- sockets and timer on libcurl's behalf ---- */

static void on_socket(uv_poll_t *poll, int status, int events) {
    watched *w = poll->data;
    load *l = w->l;
    int flags = status < 0 ? CURL_CSELECT_ERR : 0;
    if (events & UV_READABLE) flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE) flags |= CURL_CSELECT_OUT;
    int running = l->in_multi;
    curl_multi_socket_action(l->multi, w->fd, flags, &running);
    if (running != l->in_multi || l->kick) settle(l);
}

static void free_watched(uv_handle_t *h) {
    free(h->data);
}

static int on_curl_socket(CURL *easy, curl_socket_t fd, int what, void *ud, void *assigned) {
    (void)easy;
    load *l = ud;
    watched *w = assigned;
    if (what == CURL_POLL_REMOVE) {
        if (w == NULL) return 0;
        curl_multi_assign(l->multi, fd, NULL);
        uv_close((uv_handle_t *)&w->poll, free_watched);
        return 0;
    }
    if (w == NULL) {
        w = array_new(1, sizeof *w);
        if (w == NULL) return -1;
        w->l = l;
        w->fd = fd;
        if (uv_poll_init(&l->loop, &w->poll, fd) != 0) {
            free(w);
            return -1;
        }
        w->poll.data = w;
        curl_multi_assign(l->multi, fd, w);
    }
    int events = (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return uv_poll_start(&w->poll, events, on_socket) == 0 ? 0 : -1;
}

static void on_curl_timer(uv_timer_t *t) {
    load *l = t->data;
    l->kick = true;
    settle(l);
}

static int on_curl_timeout(CURLM *multi, long ms, void *ud) {
    (void)multi;
    load *l = ud;
    l->kick = ms == 0;
    if (ms > 0) uv_timer_start(&l->curl_timer, on_curl_timer, (uint64_t)ms, 0);
    else uv_timer_stop(&l->curl_timer);
    return 0;
}

/* ---- requests ---- */

static bench_conn *take_conn(load *l) {
    bench_conn *c = l->free_conns;
    if (c) {
        l->free_conns = c->next_free;
        return c;
    }
    if (l->n_conns == l->conns_cap) {
        size_t cap = l->conns_cap ? 2 * l->conns_cap : 64;
        bench_conn **grown = realloc(l->conns, cap * sizeof(bench_conn *));
        if (grown == NULL) {
            err_set(&l->e, ERR_NO_MEMORY, NULL, "out of memory for connections");
            return NULL;
        }
        l->conns = grown;
        l->conns_cap = cap;
    }
    if (bench_conn_create(&c, l->opts, l->run, &l->e) != 0) return NULL;
    l->conns[l->n_conns++] = c;
    return c;
}

static int start_one(load *l) {
    bench_conn *c = take_conn(l);
    if (c == NULL) return -1;
    bench_req *r = &l->plan->reqs[l->next];
    if (bench_conn_prepare(c, r, l->next, &l->e) != 0) return -1;
    /* Latency counts from when the schedule, or the free slot, allowed the request. */
    r->start_ns = r->due_ns > l->slot_free_ns ? r->due_ns : l->slot_free_ns;
    if (curl_multi_add_handle(l->multi, c->easy) != CURLM_OK) {
        return err_set(&l->e, ERR_INTERNAL, NULL, "libcurl did not start a transfer");
    }
    l->in_multi++;
    l->next++;
    l->running++;
    return 0;
}

static bool has_room(const load *l) {
    return l->opts->max_concurrency == 0 || l->running < l->opts->max_concurrency;
}

/* ---- probes: single tokens beside the load, past --max-concurrency ---- */

static bench_req *new_probe(load *l) {
    bench_run *run = l->run;
    if (run->n_probes == run->probes_cap) {
        size_t cap = run->probes_cap ? 2 * run->probes_cap : 64;
        bench_req **grown = realloc(run->probes, cap * sizeof *grown);
        if (grown == NULL) return NULL;
        run->probes = grown;
        run->probes_cap = cap;
    }
    bench_req *r = array_new(1, sizeof *r);
    if (r == NULL) return NULL;
    r->text = strdup("Hello");
    if (r->text == NULL) {
        free(r);
        return NULL;
    }
    r->probe = true;
    r->input_len = r->output_len = 1;
    run->probes[run->n_probes++] = r;
    return r;
}

static int start_probe(load *l) {
    bench_req *r = new_probe(l);
    bench_conn *c = r ? take_conn(l) : NULL;
    if (c == NULL || bench_conn_prepare(c, r, l->plan->n + l->run->n_probes, &l->e) != 0) {
        return err_set(&l->e, ERR_NO_MEMORY, NULL, "out of memory for a probe");
    }
    r->due_ns = r->start_ns = l->next_probe_ns;
    if (curl_multi_add_handle(l->multi, c->easy) != CURLM_OK) {
        return err_set(&l->e, ERR_INTERNAL, NULL, "libcurl did not start a transfer");
    }
    l->in_multi++;
    l->probing++;
    l->next_probe_ns += (uint64_t)(1e9 / l->opts->probe_rate);
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

/* ---- when ---- */

static void arm_arrivals(load *l) {
    struct itimerspec at = {0};
    uint64_t due = l->next_probe_ns;
    if (l->next < l->plan->n && has_room(l)) {
        uint64_t next = l->plan->reqs[l->next].due_ns;
        if (due == 0 || next < due) due = next;
    }
    if (due) {
        at.it_value.tv_sec = (time_t)(due / 1000000000u);
        at.it_value.tv_nsec = (long)(due % 1000000000u);
    }
    timerfd_settime(l->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void start_due(load *l) {
    uint64_t now = clock_ns();
    while (!l->failed && l->next < l->plan->n && has_room(l) &&
           l->plan->reqs[l->next].due_ns <= now) {
        if (start_one(l) != 0) give_up(l);
    }
    while (!l->failed && l->next_probe_ns && l->next_probe_ns <= now) {
        if (start_probe(l) != 0) give_up(l);
    }
    arm_arrivals(l);
}

static void end_one(load *l, bench_conn *c, CURLcode rc) {
    curl_multi_remove_handle(l->multi, c->easy);
    bench_conn_finish(c, rc);
    c->next_free = l->free_conns;
    l->free_conns = c;
    if (c->req->probe) {
        l->probing--;
        return;
    }
    if (!has_room(l)) l->slot_free_ns = c->req->end_ns;
    l->running--;
    l->ended++;
    l->run->end_ns = c->req->end_ns;
}

static bool end_finished(load *l) {
    bool any = false;
    int left;
    CURLMsg *m;
    while ((m = curl_multi_info_read(l->multi, &left)) != NULL) {
        if (m->msg != CURLMSG_DONE) continue;
        char *private = NULL;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &private);
        end_one(l, (bench_conn *)(void *)private, m->data.result);
        any = true;
    }
    return any;
}

/* Brings everything up to date after libcurl was called: ends what has ended, starts what
 * may start, calls libcurl again where it asked for that. */
static void settle(load *l) {
    for (int i = 0; i < 64; i++) {
        if (end_finished(l) || i == 0) start_due(l);
        if (l->failed || !l->kick) break;
        l->kick = false;
        curl_multi_socket_action(l->multi, CURL_SOCKET_TIMEOUT, 0, &l->in_multi);
    }
    if (l->kick) uv_timer_start(&l->curl_timer, on_curl_timer, 1, 0);
    end_finished(l);
    l->in_multi = (int)(l->running + l->probing);
    if (l->ended == l->plan->n) stop(l);
}

static void on_arrival(uv_poll_t *poll, int status, int events) {
    (void)status;
    (void)events;
    load *l = poll->data;
    uint64_t fired;
    if (read(l->timer_fd, &fired, sizeof fired) < 0 && errno != EAGAIN) return;
    settle(l);
}

static void on_sigint(uv_signal_t *s, int signum) {
    (void)signum;
    load *l = s->data;
    l->run->interrupted = true;
    stop(l);
}

static void on_progress(uv_timer_t *t) {
    load *l = t->data;
    uint64_t now = clock_ns(), chunks = l->run->chunks;
    double s = (double)(now - l->shown_ns) * 1e-9;
    bool tty = isatty(STDERR_FILENO);
    fprintf(stderr, "%s%zu/%zu done, %zu running, %.0f tok/s%s", tty ? "\r\033[K" : "", l->ended,
            l->plan->n, l->running, (double)(chunks - l->shown_chunks) / s, tty ? "" : "\n");
    fflush(stderr);
    l->shown_chunks = chunks;
    l->shown_ns = now;
}

/* ---- the run ---- */

static void close_handle(uv_handle_t *h, void *ud) {
    (void)ud;
    if (uv_is_closing(h)) return;
    uv_close(h, NULL);
}

/* Descriptors: one for each stream and a few of ours. */
static void raise_limit(void) {
    struct rlimit lim;
    if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
        lim.rlim_cur = lim.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &lim);
    }
}

static int open_multi(load *l, err *e) {
    l->multi = curl_multi_init();
    if (l->multi == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for libcurl");
    curl_multi_setopt(l->multi, CURLMOPT_SOCKETFUNCTION, on_curl_socket);
    curl_multi_setopt(l->multi, CURLMOPT_SOCKETDATA, l);
    curl_multi_setopt(l->multi, CURLMOPT_TIMERFUNCTION, on_curl_timeout);
    curl_multi_setopt(l->multi, CURLMOPT_TIMERDATA, l);
    curl_multi_setopt(l->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_NOTHING);
    curl_multi_setopt(l->multi, CURLMOPT_MAXCONNECTS, 100000L);
    return 0;
}

static int open_loop(load *l, err *e) {
    if (uv_loop_init(&l->loop) != 0) return err_set(e, ERR_IO, NULL, "cannot create an event loop");
    uv_timer_init(&l->loop, &l->curl_timer);
    uv_timer_init(&l->loop, &l->progress);
    uv_signal_init(&l->loop, &l->sigint);
    uv_poll_init(&l->loop, &l->arrivals, l->timer_fd);
    l->curl_timer.data = l->progress.data = l->sigint.data = l->arrivals.data = l;
    uv_poll_start(&l->arrivals, UV_READABLE, on_arrival);
    uv_signal_start_oneshot(&l->sigint, on_sigint, SIGINT); /* a second one ends at once */
    uint64_t every = isatty(STDERR_FILENO) ? 1000 : 5000;
    if (!l->opts->quiet) uv_timer_start(&l->progress, on_progress, every, every);
    return 0;
}

static void close_all(load *l) {
    for (size_t i = 0; i < l->n_conns; i++) {
        curl_multi_remove_handle(l->multi, l->conns[i]->easy);
        bench_conn_destroy(l->conns[i]);
    }
    free(l->conns);
    curl_multi_cleanup(l->multi);
    uv_walk(&l->loop, close_handle, NULL);
    uv_run(&l->loop, UV_RUN_DEFAULT);
    uv_loop_close(&l->loop);
    close(l->timer_fd);
}

static double cpu_seconds(void) {
    struct rusage u;
    if (getrusage(RUSAGE_SELF, &u) != 0) return 0;
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void run_loop(load *l) {
    bench_plan *p = l->plan;
    double cpu = cpu_seconds();
    l->run->start_ns = l->run->end_ns = l->shown_ns = clock_ns();
    for (size_t i = 0; i < p->n; i++)
        p->reqs[i].due_ns = l->run->start_ns + (uint64_t)(p->reqs[i].at_s * 1e9);
    if (l->opts->probe_rate > 0) l->next_probe_ns = l->run->start_ns;
    settle(l);
    if (!l->failed && l->ended < p->n) uv_run(&l->loop, UV_RUN_DEFAULT);
    if (l->run->interrupted) l->run->end_ns = clock_ns();
    for (size_t i = 0; i < p->n; i++) {
        bench_req *r = &p->reqs[i];
        if (r->outcome == BENCH_RUNNING) r->end_ns = l->run->end_ns;
        if (r->outcome <= BENCH_RUNNING) r->outcome = BENCH_ABANDONED;
    }
    l->run->cpu_s = cpu_seconds() - cpu;
    if (!l->opts->quiet && isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
}

int bench_load(bench_plan *p, const bench_opts *o, bench_run *run, err *e) {
    load *l = array_new(1, sizeof *l);
    if (l == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    *l = (load){.opts = o, .plan = p, .run = run};
    int rc = -1;
    raise_limit();
    l->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (l->timer_fd < 0) {
        err_set(e, ERR_IO, NULL, "cannot create a timer: %s", strerror(errno));
        goto fail_timer;
    }
    if (open_multi(l, e) != 0) goto fail_multi;
    if (open_loop(l, e) != 0) goto fail_loop;
    run_loop(l);
    close_all(l);
    rc = 0;
    if (l->failed) {
        *e = l->e;
        rc = -1;
    }
    free(l);
    return rc;
fail_loop:
    curl_multi_cleanup(l->multi);
fail_multi:
    close(l->timer_fd);
fail_timer:
    free(l);
    return rc;
}

/* ---- small requests before the run ---- */

static size_t keep(char *bytes, size_t size, size_t n, void *ud) {
    buf_append(ud, bytes, size * n);
    return size * n;
}

int bench_get(const bench_opts *o, const char *path, buf *out, long *status, err *e) {
    *status = 0;
    CURL *easy = curl_easy_init();
    buf url = {0};
    struct curl_slist *headers = NULL;
    buf_printf(&url, "%s%s", o->base_url, path);
    for (size_t k = 0; k < o->n_headers; k++) {
        struct curl_slist *grown = curl_slist_append(headers, o->headers[k]);
        if (grown) headers = grown;
    }
    int rc = -1;
    if (easy == NULL || url.failed) {
        err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    } else {
        bench_conn_common(easy, o);
        curl_easy_setopt(easy, CURLOPT_URL, url.data);
        curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
        curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, keep);
        curl_easy_setopt(easy, CURLOPT_WRITEDATA, out);
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, 30000L);
        CURLcode got = curl_easy_perform(easy);
        if (got != CURLE_OK) err_set(e, ERR_IO, NULL, "%s: %s", url.data, curl_easy_strerror(got));
        else curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, status);
        rc = got == CURLE_OK ? 0 : -1;
    }
    curl_easy_cleanup(easy);
    curl_slist_free_all(headers);
    buf_deinit(&url);
    return rc;
}

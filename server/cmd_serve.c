/* cmd_serve.c - `fathom serve`: options, the listening socket, and the life of the loop. */
#include "server/srv_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    BACKLOG = 4096,
    OTHER_FILES = 48,
    LOOP_STALL_S = 3, /* the pulse is the sweep, once a second */
};

static int parse(srv_opts *o, int argc, char **argv) {
    const cli_option options[] = {
        RUN_OPTIONS(&o->run),
        {"--host", CLI_TEXT, &o->host, "ADDR", "address to listen on (default 127.0.0.1)", 0, 0,
         false},
        {"--port", CLI_UINT, &o->port, "N", "port; 0 takes a free one (default 8080)", 0, 65535,
         false},
        {"--served-name", CLI_TEXT, &o->served_name, "NAME",
         "model name in answers (default: the folder's)", 0, 0, false},
        {"--api-key-file", CLI_TEXT, &o->api_key_file, "FILE", "keys, one per line: KEY [NAME]", 0,
         0, false},
        {"--metrics-key", CLI_FLAG, &o->metrics_key, NULL, "/metrics needs a key too", 0, 0, false},
        {"--cors-origin", CLI_TEXT_MANY, &o->cors, "ORIGIN",
         "origin browsers may call from, or *; repeatable", 0, 0, false},
        {"--max-queue", CLI_UINT, &o->max_queue, "N",
         "sequences waiting; more get 503 (default 1024)", 0, 1e6, false},
        {"--max-queue-tokens", CLI_UINT, &o->max_queue_tokens, "N",
         "prompt tokens waiting; more get 503", 1, 1e12, false},
        {"--max-wait-seconds", CLI_REAL, &o->max_wait_s, "S",
         "longest wait for a first token; 0 = no limit (default 600)", 0, 86400, false},
        {"--max-requests-per-key", CLI_UINT, &o->max_per_key, "N",
         "requests one key may have running; more get 429", 0, 1e6, false},
        {"--max-connections", CLI_UINT, &o->max_connections, "N",
         "open connections; more wait (default 16384)", 1, 1e6, false},
        {"--max-connections-per-ip", CLI_UINT, &o->max_per_ip, "N",
         "open connections of one address (default: no limit)", 0, 1e6, false},
        {"--max-body", CLI_BYTES, &o->max_body, "BYTES", "longest request body (default 2M)", 1024,
         1e9, false},
        {"--max-n", CLI_UINT, &o->max_n, "N", "most choices per prompt (default 16)", 1, 128,
         false},
        {"--max-prompts", CLI_UINT, &o->max_prompts, "N", "most prompts per request (default 64)",
         1, 4096, false},
        {"--default-max-tokens", CLI_UINT, &o->max_tokens, "N",
         "when a chat names none (default: the model's)", 1, 1e9, false},
        {"--control-ids", CLI_FLAG, &o->control_ids, NULL,
         "token-id prompts may hold special tokens (default: 400)", 0, 0, false},
        {"--no-prefix-cache", CLI_FLAG, &o->no_prefix_cache, NULL,
         "share no cache between requests", 0, 0, false},
        {"--depth-cap", CLI_FLAG, &o->depth_cap, NULL, "fewer loops while the queue is long", 0, 0,
         false},
        {"--drain-seconds", CLI_REAL, &o->drain_s, "S",
         "time for running work after SIGTERM (default 30)", 0, 86400, false},
        {"--header-seconds", CLI_REAL, &o->header_s, "S",
         "for a request's first headers, absolute (default 10)", 0.1, 3600, false},
        {"--body-seconds", CLI_REAL, &o->body_s, "S",
         "grace for a body, then 1 KB/s is needed (default 10)", 0.1, 3600, false},
        {"--idle-seconds", CLI_REAL, &o->idle_s, "S", "an idle connection is kept (default 125)",
         0.1, 3600, false},
        {"--stall-seconds", CLI_REAL, &o->stall_s, "S", "a reader may stand still (default 20)",
         0.1, 3600, false},
        {"--keep-alive-seconds", CLI_REAL, &o->ping_s, "S",
         "comment after this silence in a stream; 0 = never (default 20)", 0, 3600, false},
        {"--hang-seconds", CLI_REAL, &o->hang_s, "S",
         "engine silence that ends the process (default 30)", 0.1, 3600, false},
        {"--fake-us-per-token", CLI_UINT, &o->run.fake_us, "N",
         "with --device fake: microseconds per token (default 0)", 0, 1e6, false},
        {"--log-level", CLI_CHOICE, &o->log_level, "alert|warn|info|debug",
         "least important line shown (default info)", 0, 0, false},
    };
    const cli_command c = {
        .command = "serve",
        .summary = "serves a model over the OpenAI API",
        .example = "fathom serve --model models/demo --port 8080",
        .options = options,
        .n_options = ARRAY_LEN(options),
    };
    return cli_parse(&c, argc, argv);
}

/* Descriptors for every connection allowed, or fewer connections: running out is then not
 * something a stranger can cause. */
static int fit_descriptors(srv_opts *o, err *e) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return 0;
    if (files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
        (void)getrlimit(RLIMIT_NOFILE, &files);
    }
    if (files.rlim_cur == RLIM_INFINITY) return 0;
    if (files.rlim_cur < OTHER_FILES + 8) {
        return err_set(e, ERR_IO, NULL, "only %llu descriptors allowed, %d are needed (ulimit -n)",
                       (unsigned long long)files.rlim_cur, OTHER_FILES + 8);
    }
    uint64_t most = files.rlim_cur - OTHER_FILES;
    if (o->max_connections > most) {
        log_line(LOG_WARN, "connections limited to %llu by ulimit -n", (unsigned long long)most);
        o->max_connections = most;
    }
    return 0;
}

static int listen_on(srv *s, err *e) {
    char port[16];
    (void)snprintf(port, sizeof port, "%llu", (unsigned long long)s->o.port);
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found;
    int rc = getaddrinfo(s->o.host, port, &want, &found);
    if (rc != 0) {
        return err_set(e, ERR_USAGE, "--host", "cannot listen on '%s': %s", s->o.host,
                       gai_strerror(rc));
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd >= 0) (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        int why = errno;
        if (fd >= 0) close(fd);
        freeaddrinfo(found);
        return err_set(e, ERR_IO, NULL, "cannot listen on %s port %s: %s", s->o.host, port,
                       strerror(why));
    }
    freeaddrinfo(found);
    struct sockaddr_storage bound;
    socklen_t n = sizeof bound;
    unsigned number = (unsigned)s->o.port;
    bool v6 = false;
    if (getsockname(fd, (struct sockaddr *)&bound, &n) == 0) {
        v6 = bound.ss_family == AF_INET6;
        number = ntohs(v6 ? ((struct sockaddr_in6 *)(void *)&bound)->sin6_port
                          : ((struct sockaddr_in *)(void *)&bound)->sin_port);
    }
    (void)snprintf(s->address, sizeof s->address, v6 ? "http://[%.60s]:%u" : "http://%.60s:%u",
                   s->o.host, number);
    return fd;
}

static void teardown(srv *s) {
    for (srv_link *l = s->reqs.next; l != &s->reqs; l = l->next) {
        srv_req *r = SRV_OF(l, srv_req, link);
        r->gone = true;
        srv_req_wake(r); /* stopping with anything suspended would abort */
    }
    srv_mhd_close(s);
    srv_engine_close(s);
    uv_close((uv_handle_t *)&s->sweep, NULL);
    uv_close((uv_handle_t *)&s->drain_timer, NULL);
    for (unsigned i = 0; i < s->n_signals; i++)
        uv_close((uv_handle_t *)&s->signals[i], NULL);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&s->loop) != 0) log_line(LOG_WARN, "the event loop ended with open handles");
    api_context_close(s->api);
    run_close(&s->model);
    srv_keys_close(s->keys);
    buf_deinit(&s->metrics_page);
}

static int serve(srv *s, err *e) {
    if (s->o.api_key_file && srv_keys_open(&s->keys, s->o.api_key_file, e) != 0) return -1;
    if (fit_descriptors(&s->o, e) != 0) goto fail_keys;
    int listener = listen_on(s, e);
    if (listener < 0) goto fail_keys;
    if (uv_loop_init(&s->loop) != 0) {
        close(listener);
        (void)err_set(e, ERR_IO, NULL, "the event loop did not start");
        goto fail_keys;
    }
    if (srv_engine_init(s, e) != 0 || srv_sweep_open(s, e) != 0 || srv_signals_open(s, e) != 0 ||
        srv_mhd_open(s, listener, e) != 0 || srv_load_start(s, e) != 0 ||
        srv_watchdog_start(&s->watchdog, LOOP_STALL_S, e) != 0) {
        return -1; /* nothing runs yet: the process ends */
    }
    log_line(LOG_INFO, "fathom " FATHOM_VERSION " listening on %s, loading %s", s->address,
             s->o.run.model);
    uv_run(&s->loop, UV_RUN_DEFAULT);
    srv_watchdog_stop(s->watchdog);
    if (s->engine && s->exit_status && !sched_thread_failed(s->engine) && !srv_engine_alive(s)) {
        _exit(s->exit_status); /* a thread that hangs cannot be joined */
    }
    teardown(s);
    return 0;
fail_keys:
    srv_keys_close(s->keys);
    return -1;
}

int cmd_serve(int argc, char **argv) {
    srv *s = calloc(1, sizeof *s);
    if (s == NULL) return EXIT_FAILED;
    s->o = (srv_opts){
        .host = "127.0.0.1",
        .port = 8080,
        .log_level = "info",
        .max_queue = SRV_UNSET,
        .max_body = 2 << 20,
        .max_connections = 16384,
        .max_n = 16,
        .max_prompts = 64,
        .drain_s = 30,
        .max_wait_s = 600,
        .header_s = 10,
        .body_s = 10,
        .idle_s = 125,
        .stall_s = 20,
        .ping_s = 20,
        .hang_s = 30,
    };
    s->start_ns = clock_ns();
    int parsed = parse(&s->o, argc, argv);
    if (parsed != 0) {
        free(s);
        return parsed > 0 ? 0 : EXIT_USAGE;
    }
    if (s->o.served_name && s->o.served_name[0] == 0) {
        fprintf(stderr, "fathom serve: --served-name takes a name, not ''\n");
        free(s);
        return EXIT_USAGE;
    }
    log_level level = LOG_INFO;
    if (log_level_find(s->o.log_level, &level) == 0) log_set_level(level);
    if (getrandom(&s->id_seed, sizeof s->id_seed, 0) != (ssize_t)sizeof s->id_seed)
        s->id_seed = s->start_ns;
    srv_metrics_init(&s->counts, 1024); /* again once the model says its context */
    srv_list_init(&s->conns);
    srv_list_init(&s->reqs);
    srv_list_init(&s->gens);
    err e = {0};
    int status = serve(s, &e) == 0 ? s->exit_status : cli_fail(&e);
    if (status == 0) log_line(LOG_INFO, "stopped");
    free(s);
    return status;
}

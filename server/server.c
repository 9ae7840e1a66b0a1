/* server.c - the listening sockets and the life of the loop. */
#include "base/clock.h"
#include "base/machine.h"
#include "base/progress.h"
#include "server/server_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

enum {
    MOST_REQUEST_MEMORY = 256 << 20, /* bytes; default of --request-memory */
    BACKLOG = 4096,
    ADMIN_CONNECTIONS = 64, /* probes and scrapers */
    OTHER_FILES = 48,
    KV_EVENT_FILES = 2 * SRV_KV_SUBSCRIBERS, /* libzmq's own too, and more in a moment's crowd */
    LOOP_STALL_S = 3,                        /* the loop beats once a second */
};

/* Gets descriptors for all allowed connections or allows fewer connections, so that clients cannot
 * exhaust the descriptors. */
static int fit_descriptors(server_opts *opts, err *e) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0) return 0;
    if (files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
        (void)getrlimit(RLIMIT_NOFILE, &files);
    }
    if (files.rlim_cur == RLIM_INFINITY) return 0;
    uint64_t other = OTHER_FILES + (opts->admin_port == SERVER_UNSET ? 0 : ADMIN_CONNECTIONS);
    if (opts->kv_endpoint) other += KV_EVENT_FILES;
    if (files.rlim_cur < other + 8) {
        return err_set(
            e, ERR_IO, NULL,
            "only %llu open files are allowed, and %llu are needed; raise the limit with ulimit -n",
            (unsigned long long)files.rlim_cur, (unsigned long long)other + 8);
    }
    uint64_t most = files.rlim_cur - other;
    if (opts->max_connections > most) {
        log_line(LOG_WARN, "connections limited to %llu by ulimit -n", (unsigned long long)most);
        opts->max_connections = most;
    }
    return 0;
}

/* 127.0.0.0/8 and ::1, and 127.0.0.0/8 mapped into IPv6. */
static bool is_loopback(const struct sockaddr_storage *addr) {
    if (addr->ss_family == AF_INET) {
        return ntohl(((const struct sockaddr_in *)(const void *)addr)->sin_addr.s_addr) >> 24 ==
               127;
    }
    if (addr->ss_family != AF_INET6) return false;
    const struct in6_addr *six = &((const struct sockaddr_in6 *)(const void *)addr)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(six) || (IN6_IS_ADDR_V4MAPPED(six) && six->s6_addr[12] == 127);
}

static void warn_if_open(const srv_listener *at) {
    if (at->admin || at->server->keys || at->loopback) return;
    log_line(LOG_WARN,
             "any client that can reach %s may use this server without a key; --api-key-file FILE "
             "makes it ask for one",
             at->address);
}

/* A listening socket; writes its URL into at->address. */
static int listen_on(srv_listener *at, const char *option, const char *host, uint64_t number,
                     err *e) {
    char port[16];
    (void)snprintf(port, sizeof port, "%llu", (unsigned long long)number);
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found;
    int rc = getaddrinfo(host, port, &want, &found);
    if (rc != 0) {
        return err_set(e, ERR_USAGE, option, "cannot listen on '%s': %s", host, gai_strerror(rc));
    }
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), on = 1;
    if (fd >= 0) (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        int why = errno;
        if (fd >= 0) close(fd);
        freeaddrinfo(found);
        return err_set(e, ERR_IO, NULL, "cannot listen on %s port %s: %s", host, port,
                       strerror(why));
    }
    freeaddrinfo(found);
    struct sockaddr_storage bound = {0};
    socklen_t n = sizeof bound;
    bool v6 = false;
    if (getsockname(fd, (struct sockaddr *)&bound, &n) == 0) {
        const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)(void *)&bound;
        const struct sockaddr_in *four = (const struct sockaddr_in *)(void *)&bound;
        v6 = bound.ss_family == AF_INET6;
        /* getsockname has filled it. NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage) */
        number = ntohs(v6 ? six->sin6_port : four->sin_port);
    }
    (void)snprintf(at->address, sizeof at->address,
                   v6 ? "http://[%.60s]:%llu" : "http://%.60s:%llu", host,
                   (unsigned long long)number);
    at->loopback = is_loopback(&bound);
    warn_if_open(at);
    return fd;
}

enum { MAIN, ADMIN };

/* The admin port is bound first, so a port in use is reported before clients can connect. */
static int listen_all(srv *server, int fds[2], err *e) {
    fds[MAIN] = fds[ADMIN] = -1;
    srv_listener_init(&server->main, server, server->opts.max_connections);
    srv_listener_init(&server->admin, server, ADMIN_CONNECTIONS);
    server->admin.admin = true;
    if (server->opts.admin_port != SERVER_UNSET) {
        fds[ADMIN] = listen_on(&server->admin, "--admin-host", server->opts.admin_host,
                               server->opts.admin_port, e);
        if (fds[ADMIN] < 0) return -1;
    }
    fds[MAIN] = listen_on(&server->main, "--host", server->opts.host, server->opts.port, e);
    if (fds[MAIN] >= 0) return 0;
    if (fds[ADMIN] >= 0) close(fds[ADMIN]);
    return -1;
}

static int open_ports(srv *server, const int fds[2], err *e) {
    if (srv_mhd_open(&server->main, fds[MAIN], e) != 0) return -1;
    return fds[ADMIN] < 0 ? 0 : srv_mhd_open(&server->admin, fds[ADMIN], e);
}

static void teardown(srv *server) {
    for (list_link *node = server->reqs.next; node != &server->reqs; node = node->next) {
        srv_req *req = OWNER_OF(node, srv_req, reqs_link);
        if (req->suspended) /* stopping with a suspended request would abort */
            (void)srv_step(req, REQ_EV_SHUT);
    }
    srv_mhd_close(&server->main);
    srv_mhd_close(&server->admin);
    srv_lingers_close(server);
    srv_engine_close(server);
    srv_kv_events_close(server->kv);
    srv_notify_close(server);
    uv_close((uv_handle_t *)&server->sweep, NULL);
    uv_close((uv_handle_t *)&server->drain_timer, NULL);
    uv_close((uv_handle_t *)&server->probe_timer, NULL);
    for (unsigned i = 0; i < server->n_signals; i++)
        uv_close((uv_handle_t *)&server->signals[i], NULL);
    uv_run(&server->loop, UV_RUN_DEFAULT);
    if (uv_loop_close(&server->loop) != 0)
        log_line(LOG_WARN, "the event loop ended with handles that were still open");
    api_context_close(server->api);
    runtime_close(&server->model);
    srv_ledger_close(server->ledger);
    srv_keys_close(server->keys);
    buf_deinit(&server->metrics_page);
}

/* A hanging thread cannot be joined: then the process ends here. The engine's step may go on for
 * --hang-seconds, unless the engine was already found dead. */
static void end_engine(const srv *server) {
    if (sched_thread_ends(server->engine,
                          server->engine_dead ? 0 : (uint64_t)(server->opts.hang_s * 1e9)))
        return;
    if (!server->engine_dead)
        log_line(LOG_ALERT,
                 "the engine thread does not end; the process ends without waiting for it");
    _exit(server->exit_status ? server->exit_status : EXIT_FAILED);
}

static int check_hosts(const opt_list *allowed, err *e) {
    for (size_t i = 0; i < allowed->n; i++) {
        if (srv_host_option_ok(allowed->items[i])) continue;
        return err_set(e, ERR_USAGE, "--allowed-host",
                       "--allowed-host takes a host name without scheme or port, not '%s'",
                       allowed->items[i]);
    }
    return 0;
}

static int serve(srv *server, err *e) {
    if (check_hosts(&server->opts.allowed_hosts, e) != 0) return -1;
    srv_sandbox_open(server);
    if (server->opts.api_key_file &&
        srv_keys_open(&server->keys, server->opts.api_key_file, e) != 0)
        return -1;
    if (fit_descriptors(&server->opts, e) != 0) goto fail_keys;
    /* Behind a proxy all peers have the same address: only keys tell clients apart. */
    size_t memory = (size_t)server->opts.request_memory, share = server->keys ? memory / 2 : memory;
    if (srv_ledger_open(&server->ledger, memory, share, e) != 0) goto fail_keys;
    int fds[2];
    if (listen_all(server, fds, e) != 0 || srv_kv_events_open(server, e) != 0) goto fail_keys;
    if (uv_loop_init(&server->loop) != 0) {
        (void)err_set(e, ERR_IO, NULL, "the event loop did not start");
        goto fail_keys;
    }
    if (srv_engine_init(server, e) != 0 || srv_sweep_open(server, e) != 0 ||
        srv_signals_open(server, e) != 0 || srv_notify_open(server, e) != 0 ||
        open_ports(server, fds, e) != 0 || srv_load_start(server, e) != 0 ||
        srv_watchdog_start(&server->watchdog, LOOP_STALL_S, e) != 0) {
        return -1; /* no threads or requests yet: the process ends */
    }
    log_line(LOG_INFO, "fathom " FATHOM_VERSION " listening on %s, loading %s",
             server->main.address, server->opts.run.model);
    if (server->admin.mhd)
        log_line(LOG_INFO, "health, readiness and metrics on %s", server->admin.address);
    uv_run(&server->loop, UV_RUN_DEFAULT);
    srv_watchdog_stop(server->watchdog);
    end_engine(server);
    teardown(server);
    return 0;
fail_keys:
    srv_ledger_close(server->ledger);
    srv_keys_close(server->keys);
    return -1;
}

/* In a small container, cache and weights need the rest of the memory. */
static uint64_t request_memory_here(void) {
    machine here;
    machine_read(&here);
    uint64_t quarter = machine_memory(&here) / 4;
    if (quarter == 0 || quarter > MOST_REQUEST_MEMORY) return MOST_REQUEST_MEMORY;
    return quarter < SERVER_LEAST_REQUEST_MEMORY ? SERVER_LEAST_REQUEST_MEMORY : quarter;
}

server_opts server_opts_default(void) {
    return (server_opts){
        .host = "127.0.0.1",
        .admin_host = "127.0.0.1",
        .admin_port = SERVER_UNSET,
        .port = 8080,
        .log_level = "info",
        .log_format = "auto",
        .max_queue = 2048, /* room for a request of 64 prompts with 16 choices, and for others */
        .max_body = 2 << 20,
        .request_memory = request_memory_here(),
        .max_connections = 16384,
        .max_per_ip = SERVER_UNSET,
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
}

/* Returns large blocks to the system as soon as they are freed, so that the process is as large as
 * the ledger says. (glibc would otherwise raise the threshold to the largest freed block, and keep
 * a heap for each thread.) */
static void keep_freed_memory_small(void) {
    (void)mallopt(M_MMAP_THRESHOLD, SRV_LARGE_BYTES);
    (void)mallopt(M_TRIM_THRESHOLD, 4 << 20);
    (void)mallopt(M_ARENA_MAX, 2);
}

void server_set_log(const server_opts *opts) {
    log_level level = LOG_INFO;
    log_format format = LOG_AUTO;
    if (log_level_find(opts->log_level, &level) == 0) log_set_level(level);
    if (log_format_find(opts->log_format, &format) == 0) log_set_format(format);
    progress_into_log();
}

int server_run(const server_opts *opts) {
    srv *server = calloc(1, sizeof *server);
    if (server == NULL) return EXIT_FAILED;
    server->opts = *opts;
    server->start_ns = clock_ns();
    server->start_unix_s = clock_unix_s();
    server_set_log(opts);
    if (opts->model_why) log_line(LOG_INFO, "%s", opts->model_why);
    if (getrandom(&server->id_seed, sizeof server->id_seed, 0) != (ssize_t)sizeof server->id_seed)
        server->id_seed = server->start_ns;
    srv_metrics_init(&server->counts, 1024); /* set again when the model's context is known */
    list_init(&server->conns);
    list_init(&server->reqs);
    list_init(&server->jobs);
    list_init(&server->lingers);
    list_init(&server->parse_turns);
    keep_freed_memory_small();
    err e = {0};
    int status = serve(server, &e) == 0 ? server->exit_status : opt_fail(&e);
    if (status == 0) log_line(LOG_INFO, "stopped");
    free(server);
    return status;
}

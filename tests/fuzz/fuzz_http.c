/* fuzz_http.c - any bytes through a real socket, libmicrohttpd and the server up to its handlers.
 * Debian 12's version of the library has no fuzzer of its own.
 *
 * The server runs in this process without a model: every path but the engine's is reached. The
 * first byte is the number of pieces in which the rest arrives. */
#include "base/json.h"
#include "server/server_internal.h"
#include "tests/fuzz/cost.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static srv *server;
static struct sockaddr_in address = {.sin_family = AF_INET};

static int listen_somewhere(void) {
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t n = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, n) != 0 || listen(fd, 64) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &n) != 0) {
        abort();
    }
    return fd;
}

static void start(void) {
    err e = {0};
    json_setup();
    log_set_level(LOG_ALERT);
    server = calloc(1, sizeof *server);
    server->opts = (server_opts){.host = "127.0.0.1",
                                 .max_body = 4096,
                                 .max_connections = 64,
                                 .header_s = 10,
                                 .body_s = 10,
                                 .idle_s = 10,
                                 .stall_s = 10};
    server->opts.cors.items[0] = "https://a.example";
    server->opts.cors.n = 1;
    server->opts.allowed_hosts.items[0] = "x";
    server->opts.allowed_hosts.n = 1;
    srv_metrics_init(&server->counts, 1024);
    list_init(&server->conns);
    list_init(&server->reqs);
    list_init(&server->jobs);
    list_init(&server->lingers);
    list_init(&server->parse_turns);
    if (srv_ledger_open(&server->ledger, 1 << 20, 1 << 20, &e) != 0) abort();
    srv_listener_init(&server->main, server, 64);
    srv_listener_init(&server->admin, server, 8);
    if (uv_loop_init(&server->loop) != 0 ||
        uv_timer_init(&server->loop, &server->probe_timer) != 0 ||
        srv_mhd_open(&server->main, listen_somewhere(), &e) != 0)
        abort();
}

static void turn(unsigned times) {
    for (unsigned i = 0; i < times; i++) {
        uv_run(&server->loop, UV_RUN_NOWAIT);
        srv_mhd_pump(server);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    start();
    return 0;
}

static void one_input(const uint8_t *data, size_t size) {
    if (size < 2) return;
    size_t pieces = 1 + data[0] % 8;
    data++, size--;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        if (fd >= 0) close(fd);
        turn(2);
        return;
    }
    struct linger hard = {.l_onoff = 1}; /* no TIME-WAIT: ports would run out */
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    for (size_t i = 0; i < pieces; i++) {
        size_t from = size * i / pieces, to = size * (i + 1) / pieces;
        if (to > from && send(fd, data + from, to - from, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) break;
        turn(2);
    }
    char answer[8192];
    ssize_t n = recv(fd, answer, sizeof answer, MSG_DONTWAIT);
    if (n > 0 && (n < 9 || memcmp(answer, "HTTP/1.", 7) != 0)) abort();
    close(fd);
    turn(2);
    /* No connection and no request may be left. */
    for (unsigned i = 0; i < 1000 && server->n_conns; i++)
        turn(1);
    if (server->n_conns || server->n_reqs || !srv_ledger_is_empty(server->ledger)) abort();
}

FUZZ_TARGET(one_input, 1500, 8000)

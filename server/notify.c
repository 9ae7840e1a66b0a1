/* notify.c - messages to a service manager (systemd's sd_notify).
 *
 * The manager names a datagram socket in NOTIFY_SOCKET. The server tells the manager of a loaded
 * model and of its end, asks for more time during a long load or drain, and gives signs of life of
 * loop and engine if WATCHDOG_USEC asks for them. No message waits: the loop must not hang on its
 * manager. */
#include "base/clock.h"
#include "server/server_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    MESSAGE_BYTES = 512,
    EXTEND_EVERY_S = 5,
    EXTEND_BY_S = 30,
    BEATS = 3, /* signs of life in the time after which the manager gives up */
    LEAST_BEAT_MS = 10,
    MOST_BEAT_MS = 60 * 1000,
};

/* ---- messages ---- */

static void lose(srv_notify *notify, const char *what) {
    log_line(LOG_WARN, "the service manager is not told more: %s: %s", what, strerror(errno));
    close(notify->fd);
    notify->fd = -1;
}

static void tell(srv_notify *notify, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void tell(srv_notify *notify, const char *fmt, ...) {
    char text[MESSAGE_BYTES];
    if (notify->fd < 0) return;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (n < 0) return;
    if (n >= MESSAGE_BYTES) n = MESSAGE_BYTES - 1; /* the end of a long STATUS is cut */
    if (send(notify->fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return;
    /* A busy manager misses a message. The next sign of life is due soon. */
    if (errno != EAGAIN && errno != EINTR && errno != ENOBUFS) lose(notify, "NOTIFY_SOCKET");
}

/* ---- what the environment asks for ---- */

/* Connects to the socket. A first @ makes the name abstract. */
static int connect_to(const char *name) {
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t n = strlen(name);
    if ((name[0] != '/' && name[0] != '@') || n < 2 || n >= sizeof to.sun_path) {
        errno = EINVAL;
        return -1;
    }
    memcpy(to.sun_path, name, n);
    if (name[0] == '@') to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
    if (connect(fd, (const struct sockaddr *)&to, size + (name[0] == '/')) == 0) return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

/* A number from the environment; 0 if there is none. */
static uint64_t number_in(const char *variable) {
    const char *text = getenv(variable);
    if (text == NULL || text[strspn(text, "0123456789")] != 0) return 0;
    errno = 0;
    unsigned long long value = strtoull(text, NULL, 10);
    return errno ? 0 : value;
}

/* The period of the signs of life, in ms; 0: the manager wants none from this process. */
static uint64_t beat_ms(void) {
    uint64_t usec = number_in("WATCHDOG_USEC"), pid = number_in("WATCHDOG_PID");
    if (usec == 0 || (pid && pid != (uint64_t)getpid())) return 0;
    uint64_t ms = usec / 1000 / BEATS;
    return ms < LEAST_BEAT_MS ? LEAST_BEAT_MS : ms > MOST_BEAT_MS ? MOST_BEAT_MS : ms;
}

/* ---- signs of life ---- */

static void on_beat(uv_timer_t *timer) {
    srv *server = timer->data;
    if (!server->loaded || srv_engine_alive(server)) tell(&server->notify, "WATCHDOG=1");
}

int srv_notify_open(srv *server, err *e) {
    srv_notify *notify = &server->notify;
    notify->timer.data = server;
    if (uv_timer_init(&server->loop, &notify->timer) != 0)
        return err_set(e, ERR_IO, NULL, "the timer of the service manager did not start");
    const char *name = getenv("NOTIFY_SOCKET");
    notify->fd = -1;
    if (name == NULL || name[0] == 0) return 0;
    notify->fd = connect_to(name);
    if (notify->fd < 0) {
        log_line(LOG_WARN, "NOTIFY_SOCKET: %s: %s; the service manager is told nothing", name,
                 strerror(errno));
        return 0;
    }
    uint64_t ms = beat_ms();
    if (ms) uv_timer_start(&notify->timer, on_beat, ms, ms);
    tell(notify, "STATUS=loading %s\nEXTEND_TIMEOUT_USEC=%d000000", server->opts.run.model,
         EXTEND_BY_S);
    notify->told_ns = clock_ns();
    return 0;
}

void srv_notify_close(srv *server) {
    uv_close((uv_handle_t *)&server->notify.timer, NULL);
    if (server->notify.fd >= 0) close(server->notify.fd);
    server->notify.fd = -1;
}

/* ---- the life of the server ---- */

void srv_notify_ready(srv *server) {
    tell(&server->notify, "READY=1\nSTATUS=serving %s on %s", api_model_name(server->api),
         server->main.address);
}

void srv_notify_stopping(srv *server, const char *status) {
    tell(&server->notify, "STOPPING=1\nSTATUS=%s\nEXTEND_TIMEOUT_USEC=%d000000", status,
         EXTEND_BY_S);
    server->notify.told_ns = clock_ns();
}

void srv_notify_tick(srv *server, uint64_t now) {
    srv_notify *notify = &server->notify;
    bool takes_time = server->load || (server->leaving && !server->stopping);
    if (!takes_time || now - notify->told_ns < EXTEND_EVERY_S * UINT64_C(1000000000)) return;
    notify->told_ns = now;
    tell(notify, "EXTEND_TIMEOUT_USEC=%d000000", EXTEND_BY_S);
}

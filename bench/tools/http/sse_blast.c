/* sse_blast.c - a server at the least possible cost: it answers every POST with
 * a stream of max_tokens events, one send per event, round robin over the connections. What
 * `fathom bench` reaches against it is the ceiling of the load generator, not of Fathom.
 *
 *   gcc -O2 -o build/sse_blast bench/tools/http/sse_blast.c && build/sse_blast PORT
 *
 * Understands just the requests the generator sends: one read holds the headers, and
 * "max_tokens":N stands in the body. Not a server for anything else. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FD = 20000, IN_BYTES = 32768 };
typedef struct {
    char *in;
    size_t n_in;
    long left;   /* events still to send; -1 = waiting for a request */
    size_t sent; /* bytes sent of the current event */
    int listed;
} conn;
static conn conns[MAX_FD];
static int active[MAX_FD];
static size_t n_active;

static char head[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
static char event[512], tail[1024];
static size_t n_event, n_tail;

static void make_texts(void) {
    const char *body =
        "data: "
        "{\"id\":\"cmpl-0123456789abcdef\",\"object\":\"text_completion\",\"created\":1700000000,"
        "\"model\":\"demo\",\"choices\":[{\"index\":0,\"text\":\" the\",\"logprobs\":null,"
        "\"finish_reason\":null,\"depths\":[4]}]}\n\n";
    n_event = (size_t)snprintf(event, sizeof event, "%zx\r\n%s\r\n", strlen(body), body);
    const char *usage = "data: [DONE]\n\n"; /* no usage: the generator counts the events itself */
    n_tail = (size_t)snprintf(tail, sizeof tail, "%zx\r\n%s\r\n0\r\n\r\n", strlen(usage), usage);
}

static void drop(int fd) {
    free(conns[fd].in);
    conns[fd] = (conn){.left = -1, .listed = conns[fd].listed};
    close(fd);
}

static void on_readable(int fd) {
    conn *client = &conns[fd];
    if (client->in == NULL) client->in = malloc(IN_BYTES);
    for (;;) {
        ssize_t n = client->n_in + 1 < IN_BYTES
                        ? read(fd, client->in + client->n_in, IN_BYTES - 1 - client->n_in)
                        : 0;
        if (n < 0 && errno == EAGAIN) break;
        if (n <= 0) {
            drop(fd);
            return;
        }
        client->n_in += (size_t)n;
    }
    client->in[client->n_in] = 0;
    char *body = strstr(client->in, "\r\n\r\n"),
         *length = strcasestr(client->in, "content-length: ");
    if (body == NULL) return;
    if (length && strlen(body + 4) < strtoul(length + 16, NULL, 10)) return;
    char *tokens = strstr(body, "\"max_tokens\":");
    client->left = tokens ? strtol(tokens + 13, NULL, 10) : 1;
    client->n_in = client->sent = 0;
    (void)!write(fd, head, sizeof head - 1);
    if (!client->listed) active[n_active++] = fd;
    client->listed = 1;
}

/* False when the connection has nothing more to send. */
static int push(int fd) {
    conn *client = &conns[fd];
    if (client->left < 0) return 0;
    const char *what = client->left > 0 ? event : tail;
    size_t n = client->left > 0 ? n_event : n_tail;
    ssize_t wrote = send(fd, what + client->sent, n - client->sent, MSG_NOSIGNAL);
    if (wrote < 0) {
        if (errno != EAGAIN) drop(fd);
        return errno == EAGAIN;
    }
    client->sent += (size_t)wrote;
    if (client->sent < n) return 1;
    client->sent = 0;
    return client->left-- > 0;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    struct rlimit lim = {MAX_FD, MAX_FD};
    setrlimit(RLIMIT_NOFILE, &lim);
    make_texts();
    for (int i = 0; i < MAX_FD; i++)
        conns[i].left = -1;
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1, ep = epoll_create1(0);
    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in addr = {.sin_family = AF_INET,
                               .sin_port = htons((unsigned short)strtoul(argv[1], NULL, 10)),
                               .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (bind(sock, (struct sockaddr *)&addr, sizeof addr) || listen(sock, 4096))
        return perror("listen"), 1;
    epoll_ctl(ep, EPOLL_CTL_ADD, sock, &(struct epoll_event){.events = EPOLLIN, .data.fd = sock});
    for (;;) {
        struct epoll_event ev[256];
        int n = epoll_wait(ep, ev, 256, n_active ? 0 : -1);
        for (int i = 0; i < n; i++) {
            if (ev[i].data.fd != sock) {
                on_readable(ev[i].data.fd);
                continue;
            }
            for (int fd; (fd = accept4(sock, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                epoll_ctl(ep, EPOLL_CTL_ADD, fd,
                          &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
            }
        }
        size_t kept = 0;
        for (size_t i = 0; i < n_active; i++) {
            int fd = active[i];
            if (push(fd)) active[kept++] = fd;
            else conns[fd].listed = 0;
        }
        n_active = kept;
    }
}

/* health.c - asks a running server whether it is alive or ready: for health checks of containers
 * and for scripts. It needs no other program and no library of HTTP. */
#include "cli/cli.h"

#include <errno.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define DEFAULT_URL "http://127.0.0.1:8080"

enum {
    MAX_URL_BYTES = 1000,
    MAX_HEAD_BYTES = 2000, /* read of an answer */
};

typedef struct {
    char host[256], port[8];
    char authority[300]; /* for the Host header */
    char path[MAX_URL_BYTES + 1];
} address;

/* ---- the URL ---- */

static int refuse_url(const char *url, const char *why, err *e) {
    return err_set(e, ERR_USAGE, "--url", "the URL %.200s %s; a URL looks like " DEFAULT_URL, url,
                   why);
}

static bool copy_part(char *out, size_t size, const char *from, size_t n) {
    if (n == 0 || n >= size) return false;
    memcpy(out, from, n);
    out[n] = 0;
    return true;
}

static bool valid_port(const char *text) {
    size_t n = strspn(text, "0123456789");
    unsigned long port = strtoul(text, NULL, 10);
    return n > 0 && n <= 5 && text[n] == 0 && port >= 1 && port <= 65535;
}

/* Splits http://HOST[:PORT][/PATH]. HOST may be an IPv6 address in brackets. */
static int read_url(const char *url, const char *default_path, address *out, err *e) {
    if (strncasecmp(url, "https://", 8) == 0)
        return refuse_url(url, "asks for TLS, which this command does not speak", e);
    const char *host = strncasecmp(url, "http://", 7) == 0 ? url + 7 : url;
    if (strlen(url) > MAX_URL_BYTES) return refuse_url(url, "is longer than 1000 bytes", e);
    for (const char *at = url; *at; at++) {
        if (*at <= ' ' || *at == 127) return refuse_url(url, "holds a blank or control byte", e);
    }
    size_t n = strcspn(host, "/?#");
    const char *path = host + n;
    if (!copy_part(out->authority, sizeof out->authority, host, n) || strchr(out->authority, '@'))
        return refuse_url(url, "names no host", e);
    const char *end = host[0] == '[' ? strchr(out->authority, ']') : NULL;
    if (host[0] == '[' && end == NULL) return refuse_url(url, "lacks a ]", e);
    const char *colon = strchr(end ? end : out->authority, ':');
    size_t host_bytes = colon ? (size_t)(colon - out->authority) : n;
    bool named = end ? copy_part(out->host, sizeof out->host, host + 1, host_bytes - 2)
                     : copy_part(out->host, sizeof out->host, host, host_bytes);
    if (!named) return refuse_url(url, "names no host", e);
    if (colon && !valid_port(colon + 1)) return refuse_url(url, "has no valid port", e);
    (void)snprintf(out->port, sizeof out->port, "%s", colon ? colon + 1 : "80");
    size_t path_bytes = strcspn(path, "#");
    if (path_bytes > 1) (void)copy_part(out->path, sizeof out->path, path, path_bytes);
    else (void)snprintf(out->path, sizeof out->path, "%s", default_path);
    return 0;
}

/* ---- the time limit ---- */

static char late_text[MAX_URL_BYTES + 400];

static void on_late(int signal) {
    (void)signal;
    ssize_t n = write(STDERR_FILENO, late_text, strlen(late_text));
    _exit(n < 0 ? EXIT_USAGE : EXIT_FAILED); /* 2: even that could not be written */
}

/* Ends the process when the time is over. The limit holds for all steps together, the look-up of
 * the name too. */
static void limit_time(const address *at, double seconds) {
    (void)snprintf(late_text, sizeof late_text, "fathom: %s%s: no answer within %g s\n",
                   at->authority, at->path, seconds);
    (void)signal(SIGALRM, on_late);
    double whole = (double)(time_t)seconds;
    struct itimerval timer = {.it_value = {(time_t)whole, (suseconds_t)((seconds - whole) * 1e6)}};
    (void)setitimer(ITIMER_REAL, &timer, NULL);
}

/* ---- asking ---- */

static int connect_to(const address *at, err *e) {
    struct addrinfo want = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    int rc = getaddrinfo(at->host, at->port, &want, &found);
    if (rc != 0) return err_set(e, ERR_IO, NULL, "%s: %s", at->host, gai_strerror(rc));
    int fd = -1, why = 0;
    for (const struct addrinfo *one = found; one && fd < 0; one = one->ai_next) {
        fd = socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, one->ai_addr, one->ai_addrlen) == 0) break;
        why = errno;
        if (fd >= 0) close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd >= 0 ? fd : err_set(e, ERR_IO, NULL, "%s: %s", at->authority, strerror(why));
}

static int send_request(int fd, const address *at, err *e) {
    char text[MAX_URL_BYTES + 500];
    int n = snprintf(text, sizeof text,
                     "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: fathom/" FATHOM_VERSION
                     "\r\nConnection: close\r\n\r\n",
                     at->path, at->authority);
    for (size_t sent = 0; sent < (size_t)n;) {
        ssize_t step = send(fd, text + sent, (size_t)n - sent, MSG_NOSIGNAL);
        if (step < 0) return err_set(e, ERR_IO, NULL, "%s: %s", at->authority, strerror(errno));
        sent += (size_t)step;
    }
    return 0;
}

/* The status in a line like "HTTP/1.1 200 OK". */
static bool status_of(const char *line, unsigned *out) {
    static const char version[] = "HTTP/1.";
    size_t n = sizeof version - 1;
    if (strncmp(line, version, n) != 0 || (line[n] != '0' && line[n] != '1') || line[n + 1] != ' ')
        return false;
    const char *digits = line + n + 2;
    if (strspn(digits, "0123456789") != 3 || digits[0] == '0') return false;
    *out = (unsigned)strtoul(digits, NULL, 10);
    return true;
}

/* Reads the status of the answer. The rest is of no interest. */
static int read_status(int fd, const address *at, unsigned *status, err *e) {
    char head[MAX_HEAD_BYTES + 1] = "";
    size_t n = 0;
    while (n < MAX_HEAD_BYTES && memchr(head, '\n', n) == NULL) {
        ssize_t step = recv(fd, head + n, MAX_HEAD_BYTES - n, 0);
        if (step < 0) return err_set(e, ERR_IO, NULL, "%s: %s", at->authority, strerror(errno));
        if (step == 0) break;
        n += (size_t)step;
    }
    head[n] = 0;
    if (memchr(head, '\n', n) && status_of(head, status)) return 0;
    return err_set(e, ERR_IO, NULL, "%s: %s", at->authority,
                   n ? "the answer is not HTTP" : "the connection ended without an answer");
}

static int ask(const address *at, unsigned *status, err *e) {
    int fd = connect_to(at, e);
    if (fd < 0) return -1;
    int rc = send_request(fd, at, e);
    if (rc == 0) rc = read_status(fd, at, status, e);
    close(fd);
    return rc;
}

int cmd_health(opt_args *args) {
    const char *url = DEFAULT_URL;
    bool ready = false;
    double seconds = 3;
    const opt_row table[] = {
        OPT_BARE("--url"),
        {"--url", OPT_TEXT, &url, "URL",
         "address of the server, with or without a path (default " DEFAULT_URL ")", 0, 0, false},
        {"--ready", OPT_FLAG, &ready, NULL,
         "ask whether the server takes requests now, not only whether it is alive", 0, 0, false},
        {"--timeout", OPT_REAL, &seconds, "S", "seconds until the answer must be there (default 3)",
         0.001, 3600, false},
    };
    const opt_command command = {"health", "asks a running server whether it is alive or ready",
                                 "fathom health http://127.0.0.1:8080", table, ARRAY_LEN(table)};
    int rc = opt_parse(&command, args);
    if (rc != 0) return rc > 0 ? 0 : EXIT_USAGE;
    address at;
    err e = {0};
    unsigned status = 0;
    if (read_url(url, ready ? "/ready" : "/health", &at, &e) != 0) return opt_fail(&e);
    limit_time(&at, seconds);
    if (ask(&at, &status, &e) != 0) return opt_fail(&e);
    bool good = status == 200;
    fprintf(good ? stdout : stderr, "%s%s%s: %u\n", good ? "" : "fathom: ", at.authority, at.path,
            status);
    return good ? 0 : EXIT_FAILED;
}

/* hosts.c - checks the names that a browser sends: Host and Origin.
 *
 * Any web page may send requests to a server on its visitor's machine, but it cannot choose two
 * headers. Host is the name in the URL: a page that points its own name at this machine (DNS
 * rebinding) sends that name. Origin is the site of the page. Uses no sockets. */
#include "server/server_internal.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

enum { NAME_MAX_BYTES = 253, NO_PORT = 0 };

typedef struct {
    char name[NAME_MAX_BYTES + 1]; /* without brackets, without a trailing dot */
    unsigned port;                 /* NO_PORT: none was given */
    bool six;                      /* stood in brackets */
} host;

static bool plain(char ch) {
    return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9') ||
           ch == '-' || ch == '.' || ch == '_';
}

/* ":N", or nothing. */
static bool take_port(const char *text, unsigned *port) {
    unsigned n = 0;
    *port = NO_PORT;
    if (*text == 0) return true;
    if (*text++ != ':' || *text == 0) return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9') return false;
        n = n * 10 + (unsigned)(*text - '0');
        if (n > 65535) return false;
    }
    *port = n;
    return n != 0;
}

/* NAME, A.B.C.D or [IPv6], each with or without a port, and no other characters. */
static bool read_host(const char *text, host *out) {
    struct in6_addr six;
    const char *name = text;
    out->six = *text == '[';
    if (out->six) name++;
    size_t n = out->six ? strcspn(name, "]") : 0;
    while (!out->six && plain(name[n]))
        n++;
    if (n == 0 || n > NAME_MAX_BYTES) return false;
    memcpy(out->name, name, n);
    out->name[n] = 0;
    if (out->six && (name[n] != ']' || inet_pton(AF_INET6, out->name, &six) != 1)) return false;
    if (!take_port(name + n + out->six, &out->port)) return false;
    if (out->name[n - 1] == '.') out->name[n - 1] = 0;
    return out->name[0] != 0;
}

/* "localhost" and names under it, which DNS servers do not answer for, or a loopback address. */
static bool is_local(const host *given) {
    static const char local[] = "localhost";
    struct in6_addr six;
    struct in_addr four;
    if (given->six) {
        return inet_pton(AF_INET6, given->name, &six) == 1 &&
               (IN6_IS_ADDR_LOOPBACK(&six) ||
                (IN6_IS_ADDR_V4MAPPED(&six) && six.s6_addr[12] == 127));
    }
    if (inet_pton(AF_INET, given->name, &four) == 1) return ntohl(four.s_addr) >> 24 == 127;
    size_t n = strlen(given->name), tail = sizeof local - 1;
    if (n < tail || strcasecmp(given->name + n - tail, local) != 0) return false;
    return n == tail || given->name[n - tail - 1] == '.';
}

/* Whether an option's text names the wanted host: as in a URL, or as a bare IPv6 address. */
static bool names(const char *option, const host *wanted) {
    host named;
    if (wanted->six) {
        struct in6_addr named_six, wanted_six;
        const char *bare = read_host(option, &named) && named.six ? named.name : option;
        return inet_pton(AF_INET6, bare, &named_six) == 1 &&
               inet_pton(AF_INET6, wanted->name, &wanted_six) == 1 &&
               memcmp(&named_six, &wanted_six, sizeof named_six) == 0;
    }
    return read_host(option, &named) && !named.six && strcasecmp(named.name, wanted->name) == 0;
}

bool srv_host_option_ok(const char *text) {
    host named;
    struct in6_addr six;
    return strcmp(text, "*") == 0 || inet_pton(AF_INET6, text, &six) == 1 ||
           (read_host(text, &named) && named.port == NO_PORT);
}

bool srv_host_known(const char *value, const char *bound, const opt_list *allowed) {
    host given;
    for (size_t i = 0; i < allowed->n; i++) {
        if (strcmp(allowed->items[i], "*") == 0) return true;
    }
    if (!read_host(value, &given)) return false;
    for (size_t i = 0; i < allowed->n; i++) {
        if (names(allowed->items[i], &given)) return true;
    }
    return is_local(&given) || names(bound, &given);
}

bool srv_origin_is(const char *origin, const char *value) {
    static const struct {
        const char *text;
        unsigned port;
    } schemes[] = {{"http://", 80}, {"https://", 443}};
    host page, here;
    for (size_t i = 0; i < ARRAY_LEN(schemes); i++) {
        size_t n = strlen(schemes[i].text);
        unsigned port = schemes[i].port;
        if (strncasecmp(origin, schemes[i].text, n) != 0) continue;
        if (!read_host(origin + n, &page) || !read_host(value, &here)) return false;
        return page.six == here.six && strcasecmp(page.name, here.name) == 0 &&
               (page.port ? page.port : port) == (here.port ? here.port : port);
    }
    return false;
}

/* target.c - the request target: which bytes it may have, its absolute form, its path.
 *
 * A client that speaks to a proxy sends "http://host/path", and client libraries join a base URL
 * and a path with one slash too many. Both mean the same resource, so the path is brought to one
 * spelling before a route is looked up; whether a key is needed follows from the route. */
#include "server/framing.h"

#include <string.h>
#include <strings.h>

enum {
    COMPARED = 64, /* bytes of a path that count for its distance to another */
    KNOWN = 64,
};

static bool is_hex(char ch) {
    return (ch >= '0' && ch <= '9') || (ch >= 'a' && ch <= 'f') || (ch >= 'A' && ch <= 'F');
}

/* Bytes of "http://" or "https://". */
static size_t scheme_bytes(const char *target) {
    if (strncasecmp(target, "http://", 7) == 0) return 7;
    return strncasecmp(target, "https://", 8) == 0 ? 8 : 0;
}

/* An authority has no user information, so that a name before "@" cannot pose as the host. */
static size_t authority_bytes(const char *text) {
    return strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:[]");
}

size_t srv_target_prefix(const char *target) {
    size_t scheme = scheme_bytes(target);
    return scheme ? scheme + authority_bytes(target + scheme) : 0;
}

bool srv_target_host(const char *target, char out[SRV_HOST_MAX]) {
    size_t scheme = scheme_bytes(target), n = srv_target_prefix(target) - scheme;
    if (scheme == 0 || n >= SRV_HOST_MAX) return false;
    memcpy(out, target + scheme, n);
    out[n] = 0;
    return true;
}

bool srv_screen_target(const char *raw) {
    size_t prefix = srv_target_prefix(raw);
    if (prefix && (prefix == scheme_bytes(raw) || prefix >= SRV_HOST_MAX)) return false;
    const char *path = raw + prefix;
    bool bare_host = prefix && (*path == 0 || *path == '?'); /* "http://host" means its "/" */
    if (*path != '/' && !bare_host) return false;            /* as "*" and "host:port" */
    if (strstr(path, "..") != NULL) return false;
    for (const char *at = path; *at; at++) {
        unsigned char byte = (unsigned char)*at;
        if (byte <= ' ' || byte >= 127 || byte == '\\') return false;
        if (byte != '%') continue;
        if (!is_hex(at[1]) || !is_hex(at[2])) return false;
        if (at[1] == '0' && at[2] == '0') return false; /* would cut the decoded path short */
    }
    return true;
}

bool srv_plain_path(const char *path, char out[SRV_PATH_MAX]) {
    size_t n = 0;
    out[n++] = '/';
    for (; *path; path++) {
        if (*path == '/' && out[n - 1] == '/') continue;
        if (n + 1 == SRV_PATH_MAX) return false;
        out[n++] = *path;
    }
    if (n > 1 && out[n - 1] == '/') n--;
    out[n] = 0;
    return true;
}

/* ---- near paths ---- */

static size_t least(size_t x, size_t y) {
    return x < y ? x : y;
}

/* The number of bytes to insert, delete or replace to make one text the other. */
static size_t distance(const char *one, const char *other) {
    size_t row[COMPARED + 1], n = strnlen(one, COMPARED), m = strnlen(other, COMPARED);
    for (size_t j = 0; j <= m; j++)
        row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t replaced = diagonal + (one[i - 1] != other[j - 1]);
            diagonal = row[j];
            row[j] = least(replaced, least(row[j], row[j - 1]) + 1);
        }
    }
    return row[m];
}

void srv_near_paths(const char *path, const char *const known[], size_t n, size_t most, buf *out) {
    size_t far[KNOWN];
    if (n > KNOWN) n = KNOWN;
    for (size_t i = 0; i < n; i++)
        far[i] = distance(path, known[i]);
    for (size_t taken = 0; taken < most && taken < n; taken++) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++) {
            if (far[i] < far[best]) best = i;
        }
        buf_printf(out, "%s%s", taken ? ", " : "", known[best]);
        far[best] = SIZE_MAX;
    }
}

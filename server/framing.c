/* framing.c - what a request's head must be before anything acts on it.
 *
 * libmicrohttpd 0.9.75 lets through what makes proxies and servers disagree: doubled
 * lengths, a length beside a coding, unknown codings, two Hosts. Each of those is how a
 * request is smuggled past a front end, so they are refused here, by name. */
#include "server/server_internal.h"

#include <string.h>
#include <strings.h>

static bool is_hex(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

bool srv_screen_target(const char *raw) {
    if (raw[0] != '/') return false; /* no absolute form, no "*" */
    if (strstr(raw, "..") != NULL) return false;
    for (const char *p = raw; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c <= ' ' || c >= 127 || c == '\\') return false;
        if (c != '%') continue;
        if (!is_hex(p[1]) || !is_hex(p[2])) return false;
        if (p[1] == '0' && p[2] == '0') return false; /* would cut the decoded path short */
    }
    return true;
}

bool srv_screen_id(const char *id) {
    size_t n = strlen(id);
    if (n == 0 || n > SRV_ID_MAX) return false;
    for (size_t i = 0; i < n; i++) {
        if (id[i] <= ' ' || id[i] >= 127) return false;
    }
    return true;
}

static bool named(const char *name, size_t n, const char *want) {
    return strlen(want) == n && strncasecmp(name, want, n) == 0;
}

static void take_length(srv_framing *f, const char *v, size_t n, uint64_t max_body) {
    f->length++;
    if (n == 0) f->bad_length = true;
    uint64_t length = 0;
    for (size_t i = 0; i < n; i++) {
        if (v[i] < '0' || v[i] > '9') f->bad_length = true;
        else if (length <= UINT64_MAX / 10 - 9) length = length * 10 + (uint64_t)(v[i] - '0');
    }
    if (f->bad_length) return;
    f->n_body = length;
    f->big = length > max_body;
}

/* "application/json" or another JSON type, with no charset but UTF-8. */
static bool is_json(const char *v, size_t n) {
    size_t type = 0;
    while (type < n && v[type] != ';')
        type++;
    size_t end = type;
    while (end > 0 && (v[end - 1] == ' ' || v[end - 1] == '\t'))
        end--;
    bool json =
        named(v, end, "application/json") || (end > 5 && strncasecmp(v + end - 5, "+json", 5) == 0);
    for (size_t i = type; json && i < n;) {
        i++; /* the ';' */
        while (i < n && (v[i] == ' ' || v[i] == '\t'))
            i++;
        size_t at = i;
        while (i < n && v[i] != ';')
            i++;
        if (i - at < 8 || strncasecmp(v + at, "charset=", 8) != 0) continue;
        const char *set = v + at + 8;
        size_t len = i - at - 8;
        while (len > 0 && set[len - 1] == ' ')
            len--;
        if (len >= 2 && set[0] == '"' && set[len - 1] == '"') set++, len -= 2;
        json = named(set, len, "utf-8") || named(set, len, "utf8") || named(set, len, "us-ascii");
    }
    return json;
}

void srv_screen_header(srv_framing *f, const char *name, size_t name_n, const char *value,
                       size_t value_n, uint64_t max_body) {
    for (size_t i = 0; i < name_n; i++) {
        unsigned char c = (unsigned char)name[i];
        if (c <= ' ' || c >= 127) f->bad_name = true; /* "Host :" and folded first lines */
    }
    for (size_t i = 0; i < value_n; i++) {
        unsigned char c = (unsigned char)value[i];
        if ((c < ' ' && c != '\t') || c == 127) f->bad_value = true;
    }
    if (named(name, name_n, "host")) f->host++;
    else if (named(name, name_n, "content-length")) take_length(f, value, value_n, max_body);
    else if (named(name, name_n, "transfer-encoding")) {
        f->coding++;
        f->chunked = named(value, value_n, "chunked");
    } else if (named(name, name_n, "content-type")) {
        f->type++;
        f->json = is_json(value, value_n);
    } else if (named(name, name_n, "content-encoding")) {
        f->encoding++;
        f->coded = f->coded || !named(value, value_n, "identity");
    } else if (named(name, name_n, "expect")) {
        f->expect++;
        f->bad_expect = f->bad_expect || !named(value, value_n, "100-continue");
    } else if (named(name, name_n, "authorization")) f->auth++;
    else if (named(name, name_n, "x-api-key")) f->x_key++;
    else if (named(name, name_n, "x-request-id")) f->request_id++;
}

unsigned srv_screen_verdict(const srv_framing *f, const char *method, const char *version,
                            const char **why) {
    bool v11 = strcmp(version, "HTTP/1.1") == 0;
    if (!v11 && strcmp(version, "HTTP/1.0") != 0) {
        return *why = "this server speaks HTTP/1.1 and HTTP/1.0 only", 505;
    }
    if (f->bad_name) return *why = "a header name holds a space or a control character", 400;
    if (f->bad_value) return *why = "a header value holds a control character", 400;
    if (f->host > 1 || (v11 && f->host == 0))
        return *why = "the request needs exactly one Host header", 400;
    if (f->length > 1 || f->bad_length)
        return *why = "Content-Length must be one whole number", 400;
    if (f->coding > 1) return *why = "Transfer-Encoding may appear only once", 400;
    if (f->coding && f->length) {
        return *why = "Content-Length and Transfer-Encoding cannot be combined", 400;
    }
    if (f->coding && !f->chunked) return *why = "Transfer-Encoding must be chunked", 400;
    if (f->coding && !v11) return *why = "Transfer-Encoding needs HTTP/1.1", 400;
    if (f->type > 1 || f->auth > 1 || f->x_key > 1)
        return *why = "Content-Type, Authorization and X-Api-Key may each appear only once", 400;
    if (strcmp(method, "POST") == 0 && !f->length && !f->coding) {
        return *why = "a POST needs a Content-Length", 411;
    }
    if (f->big) return *why = "the request body is larger than this server accepts", 413;
    if (f->bad_expect) return *why = "Expect must be 100-continue", 417;
    return 0;
}

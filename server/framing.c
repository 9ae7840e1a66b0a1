/* framing.c - rules for the head of a request, checked before it is used.
 *
 * libmicrohttpd 0.9.75 accepts heads that proxies and servers read differently: two lengths, a
 * length and a coding, unknown codings, two Hosts. Request smuggling rests on such differences, so
 * each of them is refused here with a message that names it. */
#include "server/framing.h"

#include "base/err.h"

#include <string.h>
#include <strings.h>

enum { FIELD_BYTES = 64 }; /* libmicrohttpd's record of a field, and its separators */

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

static void take_length(srv_framing *framing, const char *text, size_t n, uint64_t max_body) {
    framing->length++;
    if (n == 0) framing->bad_length = true;
    uint64_t length = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9') framing->bad_length = true;
        else if (length <= UINT64_MAX / 10 - 9) length = length * 10 + (uint64_t)(text[i] - '0');
    }
    if (framing->bad_length) return;
    framing->n_body = length;
    framing->big = length > max_body;
}

/* "application/json" or another JSON type, with no charset but UTF-8. */
static bool is_json(const char *text, size_t n) {
    size_t type = 0;
    while (type < n && text[type] != ';')
        type++;
    size_t end = type;
    while (end > 0 && (text[end - 1] == ' ' || text[end - 1] == '\t'))
        end--;
    bool json = named(text, end, "application/json") ||
                (end > 5 && strncasecmp(text + end - 5, "+json", 5) == 0);
    for (size_t i = type; json && i < n;) {
        i++; /* the ';' */
        while (i < n && (text[i] == ' ' || text[i] == '\t'))
            i++;
        size_t at = i;
        while (i < n && text[i] != ';')
            i++;
        if (i - at < 8 || strncasecmp(text + at, "charset=", 8) != 0) continue;
        const char *set = text + at + 8;
        size_t len = i - at - 8;
        while (len > 0 && set[len - 1] == ' ')
            len--;
        if (len >= 2 && set[0] == '"' && set[len - 1] == '"') set++, len -= 2;
        json = named(set, len, "utf-8") || named(set, len, "utf8") || named(set, len, "us-ascii");
    }
    return json;
}

void srv_screen_header(srv_framing *framing, const char *name, size_t name_n, const char *value,
                       size_t value_n, uint64_t max_body) {
    framing->bytes += name_n + value_n + FIELD_BYTES;
    for (size_t i = 0; i < name_n; i++) {
        unsigned char byte = (unsigned char)name[i];
        if (byte <= ' ' || byte >= 127)
            framing->bad_name = true; /* "Host :" and folded first lines */
    }
    for (size_t i = 0; i < value_n; i++) {
        unsigned char byte = (unsigned char)value[i];
        if ((byte < ' ' && byte != '\t') || byte == 127) framing->bad_value = true;
    }
    if (named(name, name_n, "host")) framing->host++;
    else if (named(name, name_n, "content-length")) take_length(framing, value, value_n, max_body);
    else if (named(name, name_n, "transfer-encoding")) {
        framing->coding++;
        framing->chunked = named(value, value_n, "chunked");
    } else if (named(name, name_n, "content-type")) {
        framing->type++;
        framing->json = is_json(value, value_n);
    } else if (named(name, name_n, "content-encoding")) {
        framing->encoding++;
        framing->coded = framing->coded || !named(value, value_n, "identity");
    } else if (named(name, name_n, "expect")) {
        framing->expect++;
        framing->bad_expect = framing->bad_expect || !named(value, value_n, "100-continue");
    } else if (named(name, name_n, "authorization")) framing->auth++;
    else if (named(name, name_n, "x-api-key")) framing->x_key++;
    else if (named(name, name_n, "x-request-id")) framing->request_id++;
}

unsigned srv_screen_verdict(const srv_framing *framing, const char *method, const char *version,
                            const char **why) {
    bool v11 = strcmp(version, "HTTP/1.1") == 0;
    if (!v11 && strcmp(version, "HTTP/1.0") != 0) {
        return *why = "this server speaks HTTP/1.1 and HTTP/1.0 only", 505;
    }
    if (framing->bytes > SRV_HEAD_BYTES)
        return *why = "the request's header fields are larger than this server accepts", 431;
    if (framing->bad_name) return *why = "a header name holds a space or a control character", 400;
    if (framing->bad_value) return *why = "a header value holds a control character", 400;
    if (framing->host > 1 || (v11 && framing->host == 0))
        return *why = "the request needs exactly one Host header", 400;
    if (framing->length > 1 || framing->bad_length)
        return *why = "Content-Length must be one whole number", 400;
    if (framing->coding > 1) return *why = "Transfer-Encoding may appear only once", 400;
    if (framing->coding && framing->length) {
        return *why = "Content-Length and Transfer-Encoding cannot be combined", 400;
    }
    if (framing->coding && !framing->chunked)
        return *why = "Transfer-Encoding must be chunked", 400;
    if (framing->coding && !v11) return *why = "Transfer-Encoding needs HTTP/1.1", 400;
    if (framing->type > 1 || framing->auth > 1 || framing->x_key > 1)
        return *why = "Content-Type, Authorization and X-Api-Key may each appear only once", 400;
    if (strcmp(method, "POST") == 0 && !framing->length && !framing->coding) {
        return *why = "a POST needs a Content-Length", 411;
    }
    if (framing->bad_expect) return *why = "Expect must be 100-continue", 417;
    return 0;
}

/* cors.c - what pages of other origins may do: the answer to a preflight, and the headers of every
 * answer to a page that --cors-origin allows.
 *
 * A page may send any header that its preflight names. Client libraries add headers of their own,
 * and a header gives a page no right that it would not have without it: keys and Host are checked
 * on every request. */
#include "server/server_internal.h"

#include <string.h>

enum { NAMES = 64 };

static bool is_token(const char *text, size_t n) {
    static const char others[] = "!#$%&'*+-.^_`|~";
    for (size_t i = 0; i < n; i++) {
        char ch = text[i];
        bool alnum =
            (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || (ch >= '0' && ch <= '9');
        if (!alnum && (ch == 0 || strchr(others, ch) == NULL)) return false;
    }
    return n > 0;
}

void srv_cors_names(const char *asked, char out[SRV_CORS_MAX]) {
    static const char usual[] = "authorization, content-type, x-api-key, x-request-id";
    size_t len = 0, names = 0;
    while (asked && *asked && names < NAMES) {
        asked += strspn(asked, ", \t");
        size_t n = strcspn(asked, ","), used = n;
        while (used > 0 && (asked[used - 1] == ' ' || asked[used - 1] == '\t'))
            used--;
        if (is_token(asked, used) && len + used + 3 <= SRV_CORS_MAX) {
            if (len) memcpy(out + len, ", ", 2), len += 2;
            memcpy(out + len, asked, used);
            len += used;
            names++;
        }
        asked += n;
    }
    out[len] = 0;
    if (len == 0) memcpy(out, usual, sizeof usual);
}

const char *srv_cors_origin(const srv *server, const char *origin) {
    for (size_t i = 0; origin && i < server->opts.cors.n; i++) {
        const char *allowed = server->opts.cors.items[i];
        if (strcmp(allowed, "*") == 0 || strcmp(allowed, origin) == 0) return allowed;
    }
    return NULL;
}

void srv_cors_preflight(srv_req *req, const char *methods) {
    char names[SRV_CORS_MAX];
    srv_cors_names(srv_req_header(req, "Access-Control-Request-Headers"), names);
    const srv_header grant[] = {{"Access-Control-Allow-Methods", methods},
                                {"Access-Control-Allow-Headers", names},
                                {"Access-Control-Max-Age", "600"},
                                {"Vary", "Origin, Access-Control-Request-Headers"}};
    srv_answer_static(req, 204, NULL, "", 0, grant, ARRAY_LEN(grant));
}

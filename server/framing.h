/* framing.h - rules for the text of a request's head: header fields, target, Host and Origin.
 *
 * Private to server/. Every input is text; nothing here uses libmicrohttpd, sockets or requests. */
#ifndef FATHOM_SERVER_FRAMING_H
#define FATHOM_SERVER_FRAMING_H

#include "base/buf.h"
#include "base/options.h"

enum {
    SRV_ID_MAX = 64,    /* longest X-Request-Id that is echoed */
    SRV_PATH_MAX = 512, /* longest path that a route may have, with its argument */
    SRV_HOST_MAX = 264, /* a name of 253 bytes, brackets and a port */
    /* Most bytes of a head: its target and its fields, with FIELD_BYTES more for each field. The
     * rest of the connection's memory is for the head of the answer and a piece of a stream. */
    SRV_HEAD_BYTES = 22 << 10,
    SRV_CORS_MAX = 2048, /* bytes of header names that one preflight may have allowed */
};

/* framing.c: header fields. */
typedef struct {
    unsigned host, length, coding, type, encoding, expect, auth, x_key, request_id;
    size_t bytes;    /* memory that the fields take */
    uint64_t n_body; /* announced length of the body; 0 if none was announced */
    bool chunked, bad_length, big, bad_name, bad_value, bad_expect, json, coded, bad_type;
} srv_framing;
void srv_screen_header(srv_framing *framing, const char *name, size_t name_n, const char *value,
                       size_t value_n, uint64_t max_body);
/* 0 = fine, else the status, and *why is a sentence for the client. A body that is too big is left
 * to the caller: its answer waits for the body. */
unsigned srv_screen_verdict(const srv_framing *framing, const char *method, const char *version,
                            const char **why);
bool srv_screen_id(const char *id); /* whether this X-Request-Id may be echoed */

/* target.c: the request target. */
bool srv_screen_target(const char *raw) WARN_UNUSED; /* before any decoding; false: 400 */
/* Bytes of scheme and authority before the path of a target that passed srv_screen_target: 0 for
 * "/v1/models", 11 for "http://host/v1/models". */
size_t srv_target_prefix(const char *target);
/* Copies the authority of a target in absolute form, which stands in for its Host header (RFC 9112
 * 3.2.2). False: the target has none. */
bool srv_target_host(const char *target, char out[SRV_HOST_MAX]);
/* Writes the path as the routes spell it: repeated slashes as one, none at the end. False: it is
 * longer than any route. */
bool srv_plain_path(const char *path, char out[SRV_PATH_MAX]) WARN_UNUSED;
/* Appends the `most` of the n known paths that are nearest to `path`, the nearest first. */
void srv_near_paths(const char *path, const char *const known[], size_t n, size_t most, buf *out);

/* cors.c */
/* Writes the header names that a page may send: those that its preflight asks for and that are
 * tokens (RFC 9110 5.6.2), at most 64 names; without any, the names that every client needs. */
void srv_cors_names(const char *asked, char out[SRV_CORS_MAX]);

/* hosts.c: Host and Origin. */
/* Whether a Host header names this server: a local name, the name it was bound to, or one of
 * `allowed`, each with any port. "*" in `allowed` allows every name. */
bool srv_host_known(const char *value, const char *bound, const opt_list *allowed);
bool srv_host_option_ok(const char *text); /* whether --allowed-host may have this value */
/* Whether this Origin is the server that the Host header names. */
bool srv_origin_is(const char *origin, const char *value);

#endif

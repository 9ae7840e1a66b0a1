/* mhd_errors.c - answers in place of libmicrohttpd where it would answer an error by itself.
 *
 * The library refuses a malformed request line, a head larger than its memory and a broken chunk
 * before any callback. Its answer is a page of HTML, and no option changes it. The library queues
 * the page through its own public function MHD_queue_response. A program's function of that name
 * comes before a shared library's, so the function below is called in its place: it writes this
 * server's answer and reports a failure, and the library then closes the connection. Where the
 * linker binds the library to its own function, clients get the library's page. */
#include "server/server_internal.h"

#include <dlfcn.h>
#include <microhttpd.h>

typedef enum MHD_Result queue_fn(struct MHD_Connection *, unsigned, struct MHD_Response *);

static bool ours; /* the call in progress is an answer of this server; for the loop thread only */

static const char *sentence(unsigned status) {
    switch (status) {
    case 413: return "the request body or one of its chunks is larger than this server accepts";
    case 414: return "the request line is longer than this server accepts";
    case 431: return "the request's header fields are larger than this server accepts";
    case 505: return "this server speaks HTTP/1.1 and HTTP/1.0 only";
    case 500: return "the server is out of memory; try again shortly";
    default: return "the request is not HTTP as RFC 9112 defines it";
    }
}

enum MHD_Result MHD_queue_response(struct MHD_Connection *mhd, unsigned status,
                                   struct MHD_Response *response) {
    static queue_fn *library;
    if (library == NULL) *(void **)&library = dlsym(RTLD_NEXT, "MHD_queue_response");
    if (library == NULL) return MHD_NO;
    bool own = ours;
    ours = false; /* the library may go on with the next request within this call */
    const union MHD_ConnectionInfo *info =
        own ? NULL : MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    srv_conn *conn = info ? info->socket_context : NULL;
    if (conn && srv_answer_early(conn, status, sentence(status), NULL)) return MHD_NO;
    return library(mhd, status, response);
}

bool srv_mhd_queue(struct MHD_Connection *mhd, unsigned status, struct MHD_Response *response) {
    ours = true;
    return MHD_queue_response(mhd, status, response) == MHD_YES;
}

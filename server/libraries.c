/* libraries.c - the versions of the libraries that speak HTTP and wait for events. */
#include "server/server.h"

#include <microhttpd.h>
#include <uv.h>

void server_libraries(version_sink put, void *ud) {
    put(ud, "libmicrohttpd", MHD_get_version());
    put(ud, "libuv", uv_version_string());
}

/* zmq.c - loads libzmq and looks its functions up. Only servers with --kv-events-endpoint need
 * the library. */
#include "server/kv_events_internal.h"

#include <dlfcn.h>
#include <string.h>

#define FUNCTION(member, name)                                                                     \
    { "zmq_" #name, offsetof(zmq_functions, member) }
static const struct {
    const char *symbol;
    size_t offset; /* in zmq_functions */
} functions[] = {
    FUNCTION(ctx_new, ctx_new),
    FUNCTION(ctx_term, ctx_term),
    FUNCTION(socket, socket),
    FUNCTION(close, close),
    FUNCTION(setsockopt, setsockopt),
    FUNCTION(bind, bind),
    FUNCTION(connect, connect),
    FUNCTION(monitor, socket_monitor),
    FUNCTION(send, send),
    FUNCTION(recv, recv),
    FUNCTION(poll, poll),
    FUNCTION(error, errno),
    FUNCTION(strerror, strerror),
};
_Static_assert(ARRAY_LEN(functions) * sizeof(void *) == sizeof(zmq_functions),
               "every function of the table is looked up");

int srv_zmq_load(const zmq_functions **out, const char *option, err *e) {
    static zmq_functions libzmq;
    *out = &libzmq;
    if (libzmq.ctx_new) return 0;
    zmq_functions found;
    void *library = dlopen("libzmq.so.5", RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *why = dlerror();
        return err_set(e, ERR_USAGE, option, "%s needs libzmq (Debian: apt install libzmq5): %s",
                       option, why ? why : "it cannot be loaded");
    }
    for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
        void *function = dlsym(library, functions[i].symbol);
        if (function == NULL)
            return err_set(e, ERR_USAGE, option, "this libzmq has no function %s",
                           functions[i].symbol);
        /* ISO C has no cast from an object's pointer to a function's. */
        memcpy((char *)&found + functions[i].offset, &function, sizeof function);
    }
    libzmq = found;
    return 0;
}

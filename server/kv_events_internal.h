/* kv_events_internal.h - KV events on the wire, and the library that sends them. */
#ifndef FATHOM_KV_EVENTS_INTERNAL_H
#define FATHOM_KV_EVENTS_INTERNAL_H

#include "base/buf.h"
#include "scheduler/feed.h"

/* ---- kv_batch.c: vLLM's format ---- */

/* Appends one batch, [time, [event, ...], 0], in MessagePack. Blocks that follow each other in a
 * prompt share an event, and so do removals in a row. unix_s: the time in seconds since 1970. */
void srv_kv_batch(buf *out, const kv_event *events, uint32_t n, double unix_s);

/* ---- zmq.c: libzmq, loaded when it is asked for ---- */

/* As in zmq.h of libzmq 4. */
enum {
    ZMQ_PAIR = 0,
    ZMQ_XPUB = 9,
    ZMQ_SNDBUF = 11,
    ZMQ_LINGER = 17,
    ZMQ_MAXMSGSIZE = 22,
    ZMQ_SNDHWM = 23,
    ZMQ_RCVHWM = 24,
    ZMQ_XPUB_VERBOSE = 40,
    ZMQ_IPV6 = 42,
    ZMQ_XPUB_NODROP = 69,
    ZMQ_HEARTBEAT_IVL = 75,
    ZMQ_HEARTBEAT_TIMEOUT = 77,
    ZMQ_TCP_MAXRT = 80,
    ZMQ_DONTWAIT = 1,
    ZMQ_SNDMORE = 2,
    ZMQ_POLLIN = 1,
    ZMQ_EVENT_ACCEPTED = 0x20,
    ZMQ_EVENT_DISCONNECTED = 0x200,
};
typedef struct {
    void *socket; /* NULL: fd is meant */
    int fd;
    short events, revents;
} zmq_pollitem_t;

typedef struct {
    void *(*ctx_new)(void);
    int (*ctx_term)(void *context);
    void *(*socket)(void *context, int type);
    int (*close)(void *socket);
    int (*setsockopt)(void *socket, int option, const void *value, size_t n);
    int (*bind)(void *socket, const char *endpoint);
    int (*connect)(void *socket, const char *endpoint);
    /* Tells events of `socket` at an inproc: endpoint; NULL: no more. */
    int (*monitor)(void *socket, const char *endpoint, int events);
    int (*send)(void *socket, const void *bytes, size_t n, int flags);
    int (*recv)(void *socket, void *bytes, size_t n, int flags);
    int (*poll)(zmq_pollitem_t *items, int n, long timeout_ms);
    int (*error)(void); /* errno of the last failure in this thread */
    const char *(*strerror)(int error);
} zmq_functions;

/* The functions, loaded by the first call and kept for the life of the process. Loop thread.
 * option: the one that needs them, for the error. */
int srv_zmq_load(const zmq_functions **out, const char *option, err *e) WARN_UNUSED;

#endif

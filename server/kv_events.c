/* kv_events.c - publishes the blocks of the prefix cache over ZeroMQ, for routers. A router then
 * sends a request to the replica with its prompt in the cache.
 *
 * A thread of its own takes events from the scheduler's feed and sends them to all subscribers. A
 * message has three frames: the topic, the number of the message from 0 on, and a batch of events.
 * The socket tells of every new subscription. Then all blocks are told anew, behind an event to
 * clear the list, so a subscriber may come at any time.
 *
 * No subscriber misses a message. While the queue of one is full, the publisher waits, and the feed
 * keeps the rest. A subscriber without any progress is disconnected after some seconds; when it
 * comes again it is told everything.
 *
 * libzmq keeps each topic that a subscriber names, in up to two hundred times its bytes and without
 * a limit. Topics that begin the published one cannot take much. It also accepts connections
 * without a limit, and descriptors are the whole server's. At too much of either the socket is
 * closed, which frees all, and opened again after a second. */
#include "base/clock.h"
#include "server/kv_events_internal.h"
#include "server/server_internal.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

enum {
    BATCH = 256,              /* events in a message, at most */
    QUEUED_MESSAGES = 1000,   /* for each subscriber, unread */
    QUEUED_BYTES = 256 << 10, /* by the kernel, besides */
    MOST_SUBSCRIPTION = 1024, /* bytes of a message from a subscriber */
    MOST_STRANGE = 256 << 10, /* bytes of subscriptions to other topics */
    READ_AT_ONCE = 1000,      /* messages from subscribers, before others are sent */
    PING_EVERY_MS = 5000,     /* a subscriber must answer within SILENCE_MS */
    SILENCE_MS = 10000,
    AGAIN_MS = 20,       /* until a refused message is tried again */
    LAST_WORDS_MS = 100, /* for messages not sent yet when the server ends */
    TOPIC_BYTES = 512,
    SUBSCRIBES = 1, /* first byte of a message from a subscriber */
};
#define RESTATE_EVERY_NS UINT64_C(1000000000) /* however many subscribers come */
#define SHUT_NS UINT64_C(1000000000)          /* from one socket to the next */

static const char endpoint_option[] = "--kv-events-endpoint";

struct srv_kv_events {
    const zmq_functions *zmq;
    const char *endpoint; /* of the options */
    /* The loop thread's from open to start, then the publisher's. NULL while no socket is open. */
    void *context, *socket, *monitor;
    kv_feed *feed;
    int bell; /* eventfd: events are waiting, or the end */
    char topic[TOPIC_BYTES];
    pthread_t thread;
    bool running;
    atomic_bool stop;

    /* the publisher's */
    kv_event events[BATCH];
    uint32_t n; /* events in the batch to be sent; 0: no batch waits */
    buf batch;
    uint64_t number; /* of the next message */
    uint64_t restated_ns;
    bool wish; /* a restatement is due */
    /* since the socket was opened */
    size_t strange;         /* bytes of subscriptions to other topics */
    unsigned n_connections; /* open */
    uint64_t shut_ns;

    /* written by the publisher, read for /metrics */
    atomic_uint_fast64_t told[KV_CLEARED + 1], messages, waits, bytes,
        gone; /* events without memory for them */
};

static void ring(void *ud) {
    const srv_kv_events *kv = ud;
    (void)eventfd_write(kv->bell, 1); /* fails only when it is rung already */
}

/* ---- the socket ---- */

static int zmq_fault(const srv_kv_events *kv, const char *what, err *e) {
    return err_set(e, ERR_IO, NULL, "%s: %s: %s", endpoint_option, what,
                   kv->zmq->strerror(kv->zmq->error()));
}

/* The monitor's queue has no limit: if it were full, libzmq would stand still. */
static bool open_monitor(srv_kv_events *kv) {
    static const char endpoint[] = "inproc://connections";
    const zmq_functions *zmq = kv->zmq;
    int no_limit = 0;
    kv->monitor = zmq->socket(kv->context, ZMQ_PAIR);
    return kv->monitor &&
           zmq->setsockopt(kv->monitor, ZMQ_RCVHWM, &no_limit, sizeof no_limit) == 0 &&
           zmq->monitor(kv->socket, endpoint, ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED) == 0 &&
           zmq->connect(kv->monitor, endpoint) == 0;
}

/* A dead subscriber answers no ping; a sleeping one takes no byte. Both are cut off after
 * SILENCE_MS. */
static int open_socket(srv_kv_events *kv, err *e) {
    const zmq_functions *zmq = kv->zmq;
    const struct {
        int option, value;
    } settings[] = {{ZMQ_SNDHWM, QUEUED_MESSAGES},
                    {ZMQ_RCVHWM, 1}, /* libzmq takes in all that waits, before we count it */
                    {ZMQ_SNDBUF, QUEUED_BYTES},
                    {ZMQ_LINGER, LAST_WORDS_MS},
                    {ZMQ_HEARTBEAT_IVL, PING_EVERY_MS},
                    {ZMQ_HEARTBEAT_TIMEOUT, SILENCE_MS},
                    {ZMQ_TCP_MAXRT, SILENCE_MS},
                    {ZMQ_XPUB_VERBOSE, 1},
                    {ZMQ_XPUB_NODROP, 1},
                    {ZMQ_IPV6, 1}};
    int64_t most = MOST_SUBSCRIPTION;
    kv->context = zmq->ctx_new();
    if (kv->context) kv->socket = zmq->socket(kv->context, ZMQ_XPUB);
    if (kv->socket == NULL) return zmq_fault(kv, "libzmq gives no socket", e);
    for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
        if (zmq->setsockopt(kv->socket, settings[i].option, &settings[i].value, sizeof(int)) != 0)
            return zmq_fault(kv, "libzmq takes no option", e);
    }
    if (zmq->setsockopt(kv->socket, ZMQ_MAXMSGSIZE, &most, sizeof most) != 0)
        return zmq_fault(kv, "libzmq takes no option", e);
    if (!open_monitor(kv)) return zmq_fault(kv, "libzmq gives no monitor", e);
    if (zmq->bind(kv->socket, kv->endpoint) == 0) return 0;
    /* An address of another machine, or a name: there is a collector to connect to. */
    int why = zmq->error();
    bool elsewhere = why == ENODEV || why == EADDRNOTAVAIL;
    if (elsewhere && zmq->connect(kv->socket, kv->endpoint) == 0) return 0;
    return zmq_fault(kv, kv->endpoint, e);
}

/* Subscribers get the messages sent so far within LAST_WORDS_MS. NULLs are fine. */
static void close_socket(srv_kv_events *kv) {
    if (kv->monitor) {
        (void)kv->zmq->monitor(kv->socket, NULL, 0);
        (void)kv->zmq->close(kv->monitor);
    }
    if (kv->socket) (void)kv->zmq->close(kv->socket);
    if (kv->context) (void)kv->zmq->ctx_term(kv->context);
    kv->context = kv->socket = kv->monitor = NULL;
}

/* ---- the publisher's thread ---- */

static bool send_frame(const srv_kv_events *kv, const void *bytes, size_t n, int more) {
    return kv->zmq->send(kv->socket, bytes, n, ZMQ_DONTWAIT | more) >= 0;
}

/* False: the queue of a subscriber is full. Then the first frame is refused. */
static bool send_message(const srv_kv_events *kv) {
    unsigned char number[8];
    for (int i = 0; i < 8; i++)
        number[i] = (unsigned char)(kv->number >> (56 - 8 * i));
    return send_frame(kv, kv->topic, strlen(kv->topic), ZMQ_SNDMORE) &&
           send_frame(kv, number, sizeof number, ZMQ_SNDMORE) &&
           send_frame(kv, kv->batch.data, kv->batch.len, 0);
}

static double unix_now(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void add(atomic_uint_fast64_t *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_release);
}

/* Without memory for them the events are gone, and everything has to be told anew. */
static void encode(srv_kv_events *kv) {
    buf_clear(&kv->batch);
    srv_kv_batch(&kv->batch, kv->events, kv->n, unix_now());
    if (!kv->batch.failed) return;
    add(&kv->gone, kv->n);
    kv->n = 0;
    kv->number++;
    kv->wish = true;
}

static void next_batch(srv_kv_events *kv) {
    while (kv->n < BATCH && kv_feed_take(kv->feed, &kv->events[kv->n]))
        kv->n++;
    if (kv->n > 0) encode(kv);
}

static void count_sent(srv_kv_events *kv) {
    kv->number++;
    add(&kv->messages, 1);
    add(&kv->bytes, kv->batch.len);
    for (uint32_t i = 0; i < kv->n; i++)
        add(&kv->told[kv->events[i].kind], 1);
    kv->n = 0;
}

static void publish(srv_kv_events *kv) {
    for (;;) {
        if (kv->n == 0) next_batch(kv);
        if (kv->n == 0) return;
        if (!send_message(kv)) {
            add(&kv->waits, 1);
            return;
        }
        count_sent(kv);
    }
}

/* A subscription is a 1 and the beginning of the wanted topics. */
static void read_subscriptions(srv_kv_events *kv) {
    char text[MOST_SUBSCRIPTION + 1];
    for (int i = 0; i < READ_AT_ONCE; i++) {
        int n = kv->zmq->recv(kv->socket, text, sizeof text, ZMQ_DONTWAIT);
        if (n <= 0) return;
        size_t prefix = (size_t)n - 1;
        if (text[0] != SUBSCRIBES) continue;
        if (prefix <= strlen(kv->topic) && memcmp(text + 1, kv->topic, prefix) == 0)
            kv->wish = true;
        else kv->strange += (size_t)n;
    }
}

/* Each event has two frames: its number (16 bits) and a value, and the address. */
static void count_connections(srv_kv_events *kv) {
    enum { EVENT_BYTES = 6 }; /* an address is longer */
    char frame[EVENT_BYTES];
    int n;
    while ((n = kv->zmq->recv(kv->monitor, frame, sizeof frame, ZMQ_DONTWAIT)) >= 0) {
        uint16_t event;
        memcpy(&event, frame, sizeof event);
        if (n != EVENT_BYTES) continue;
        if (event == ZMQ_EVENT_ACCEPTED) kv->n_connections++;
        else if (kv->n_connections > 0) kv->n_connections--;
    }
}

static void restate_if_due(srv_kv_events *kv) {
    uint64_t now = clock_ns();
    if (!kv->wish || (kv->restated_ns && now - kv->restated_ns < RESTATE_EVERY_NS)) return;
    kv->wish = false;
    kv->restated_ns = now;
    kv_feed_restate(kv->feed);
}

static long wait_ms(const srv_kv_events *kv) {
    if (kv->socket == NULL) return (long)(SHUT_NS / 1000000);
    if (kv->n > 0) return AGAIN_MS;
    return kv->wish ? (long)(RESTATE_EVERY_NS / 1000000) : -1;
}

static void wait_for_work(const srv_kv_events *kv) {
    zmq_pollitem_t items[] = {{.fd = kv->bell, .events = ZMQ_POLLIN},
                              {.socket = kv->socket, .events = ZMQ_POLLIN},
                              {.socket = kv->monitor, .events = ZMQ_POLLIN}};
    eventfd_t rings;
    (void)kv->zmq->poll(items, kv->socket ? ARRAY_LEN(items) : 1, wait_ms(kv));
    (void)eventfd_read(kv->bell, &rings);
}

static void shut_if_crowded(srv_kv_events *kv) {
    if (kv->strange <= MOST_STRANGE && kv->n_connections <= SRV_KV_SUBSCRIBERS) return;
    log_line(LOG_WARN,
             "KV events: %u connections, and %zu KB of topics other than '%s'; all are "
             "disconnected, and may come again in a second",
             kv->n_connections, kv->strange >> 10, kv->topic);
    close_socket(kv);
    kv->strange = 0;
    kv->n_connections = 0;
    kv->shut_ns = clock_ns();
}

static void open_again(srv_kv_events *kv) {
    err e = {0};
    if (clock_ns() - kv->shut_ns < SHUT_NS || open_socket(kv, &e) == 0) return;
    log_line(LOG_WARN, "%s; trying again in a second", e.msg);
    close_socket(kv);
    kv->shut_ns = clock_ns();
}

static void *publisher_main(void *arg) {
    srv_kv_events *kv = arg;
    while (!atomic_load_explicit(&kv->stop, memory_order_acquire)) {
        wait_for_work(kv);
        if (kv->socket == NULL) open_again(kv);
        if (kv->socket == NULL) continue;
        count_connections(kv);
        read_subscriptions(kv);
        restate_if_due(kv);
        publish(kv);
        shut_if_crowded(kv);
    }
    if (kv->n > 0 || kv->socket == NULL) return NULL;
    kv->events[kv->n++] =
        (kv_event){.kind = KV_CLEARED}; /* no request finds a block here any more */
    encode(kv);
    (void)send_message(kv);
    return NULL;
}

/* ---- the topic ---- */

/* An address of this machine, for other machines. */
static bool own_address(char *out, size_t n) {
    struct ifaddrs *all;
    bool found = false;
    if (getifaddrs(&all) != 0) return false;
    for (const struct ifaddrs *at = all; at && !found; at = at->ifa_next) {
        if (at->ifa_addr == NULL || at->ifa_addr->sa_family != AF_INET ||
            !(at->ifa_flags & IFF_UP) || (at->ifa_flags & IFF_LOOPBACK))
            continue;
        found = getnameinfo(at->ifa_addr, sizeof(struct sockaddr_in), out, (socklen_t)n, NULL, 0,
                            NI_NUMERICHOST) == 0;
    }
    freeifaddrs(all);
    return found;
}

/* kv@HOST:PORT@MODEL, from "http://HOST:PORT". Routers compare HOST:PORT with a replica's address.
 */
static void make_topic(srv_kv_events *kv, const char *url, const char *model) {
    const char *at = url + strlen("http://"), *port = strrchr(at, ':');
    char own[64];
    size_t n = port ? (size_t)(port - at) : strlen(at);
    bool any = (n == 7 && memcmp(at, "0.0.0.0", n) == 0) || (n == 4 && memcmp(at, "[::]", n) == 0);
    if (any && own_address(own, sizeof own)) {
        (void)snprintf(kv->topic, sizeof kv->topic, "kv@%s%s@%s", own, port ? port : "", model);
    } else {
        (void)snprintf(kv->topic, sizeof kv->topic, "kv@%s@%s", at, model);
    }
}

/* ---- the life of the publisher ---- */

/* libzmq would take a port of 99999 for another one. */
static bool endpoint_ok(const char *endpoint) {
    const char *port = strrchr(endpoint, ':');
    if (strncmp(endpoint, "ipc://", 6) == 0) return endpoint[6] != 0;
    if (strncmp(endpoint, "tcp://", 6) != 0 || port <= endpoint + 6) return false;
    size_t digits = strspn(++port, "0123456789");
    unsigned long number = strtoul(port, NULL, 10);
    return digits > 0 && port[digits] == 0 && number > 0 && number <= 65535;
}

/* Options without sense, or without anything to publish. */
static int check(const server_opts *opts, err *e) {
    if (!endpoint_ok(opts->kv_endpoint)) {
        return err_set(e, ERR_USAGE, endpoint_option,
                       "%s takes tcp://ADDRESS:PORT or ipc://PATH, not '%s'", endpoint_option,
                       opts->kv_endpoint);
    }
    if (opts->no_prefix_cache) {
        return err_set(e, ERR_USAGE, endpoint_option,
                       "%s does not go with --no-prefix-cache: there would be no blocks to publish",
                       endpoint_option);
    }
    if (opts->api_key_file && !opts->share_cache) {
        return err_set(e, ERR_USAGE, endpoint_option,
                       "%s with --api-key-file needs --share-cache: blocks that only one key may "
                       "find are not published",
                       endpoint_option);
    }
    if (opts->kv_topic && (opts->kv_topic[0] == 0 || strlen(opts->kv_topic) >= TOPIC_BYTES)) {
        return err_set(e, ERR_USAGE, "--kv-events-topic",
                       "--kv-events-topic takes a text of 1 to %d bytes", TOPIC_BYTES - 1);
    }
    return 0;
}

int srv_kv_events_open(srv *server, err *e) {
    const server_opts *opts = &server->opts;
    if (opts->kv_endpoint == NULL) return 0;
    if (check(opts, e) != 0) return -1;
    srv_kv_events *kv = server->kv = calloc(1, sizeof *kv);
    if (kv == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the KV events");
    kv->endpoint = opts->kv_endpoint;
    kv->bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (kv->bell < 0) {
        (void)err_set(e, ERR_IO, NULL, "%s: %s", endpoint_option, strerror(errno));
        goto fail;
    }
    if (kv_feed_create(&kv->feed, ring, kv, e) != 0) goto fail;
    if (srv_zmq_load(&kv->zmq, endpoint_option, e) != 0) goto fail;
    if (open_socket(kv, e) == 0) return 0;
fail:
    srv_kv_events_close(kv);
    server->kv = NULL;
    return -1;
}

kv_feed *srv_kv_events_feed(const srv_kv_events *kv) {
    return kv ? kv->feed : NULL;
}

int srv_kv_events_start(srv *server, err *e) {
    srv_kv_events *kv = server->kv;
    sigset_t all, old; /* signals go to the loop's thread */
    if (kv == NULL) return 0;
    if (server->opts.kv_topic) {
        (void)snprintf(kv->topic, sizeof kv->topic, "%s", server->opts.kv_topic);
    } else {
        make_topic(kv, server->main.address, api_model_name(server->api));
    }
    sigfillset(&all);
    sigdelset(&all, SIGBUS); /* a fault of this thread, named by a handler */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    kv->running = pthread_create(&kv->thread, NULL, publisher_main, kv) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (!kv->running) return err_set(e, ERR_NO_MEMORY, NULL, "cannot start the KV events' thread");
    log_line(LOG_INFO, "KV events on %s, topic %s", server->opts.kv_endpoint, kv->topic);
    return 0;
}

void srv_kv_events_close(srv_kv_events *kv) {
    if (kv == NULL) return;
    atomic_store_explicit(&kv->stop, true, memory_order_release);
    if (kv->running) {
        ring(kv);
        pthread_join(kv->thread, NULL);
    }
    close_socket(kv);
    if (kv->bell >= 0) close(kv->bell);
    kv_feed_destroy(kv->feed);
    buf_deinit(&kv->batch);
    free(kv);
}

/* ---- metrics ---- */

static uint64_t counted(const atomic_uint_fast64_t *counter) {
    return atomic_load_explicit((atomic_uint_fast64_t *)(uintptr_t)counter, memory_order_acquire);
}

/* The messages are read last: once no event is late, they are complete. */
bool srv_kv_events_counts(const srv_kv_events *kv, srv_kv_counts *out) {
    if (kv == NULL) return false;
    *out = (srv_kv_counts){.stored = counted(&kv->told[KV_STORED]),
                           .removed = counted(&kv->told[KV_REMOVED]),
                           .cleared = counted(&kv->told[KV_CLEARED])};
    uint64_t over = out->stored + out->removed + out->cleared + counted(&kv->gone);
    out->late = kv_feed_n_told(kv->feed) - over + kv_feed_untold(kv->feed);
    out->bytes = counted(&kv->bytes);
    out->waits = counted(&kv->waits);
    out->messages = counted(&kv->messages);
    return true;
}

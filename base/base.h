/* base.h - what every part of Fathom needs: errors, byte buffers, arenas, a
 * clock, the log, checked arithmetic, checked JSON, and the bounded queue two
 * threads meet in.
 *
 * Threading: an object belongs to one thread unless its declaration says
 * otherwise. Nothing here blocks except wake_wait. */
#ifndef FATHOM_BASE_H
#define FATHOM_BASE_H

#include <jansson.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WARN_UNUSED __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt_at, args_at) __attribute__((format(printf, fmt_at, args_at)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* ---- errors: one list; the first report wins; only api/ knows HTTP ---- */

#define ERR_LIST(X)                                                                                \
    X(NONE, "no error")                                                                            \
    X(USAGE, "a command line option is wrong")                                                     \
    X(BAD_PARAM, "a request field is wrong")                                                       \
    X(UNSUPPORTED, "a request asks for something this server does not do")                         \
    X(TOO_LONG, "prompt plus max_tokens exceeds the context")                                      \
    X(NOT_FOUND, "no such thing")                                                                  \
    X(BUSY, "a bounded queue is full")                                                             \
    X(BAD_FILE, "a model file is malformed")                                                       \
    X(IO, "the operating system refused")                                                          \
    X(NO_MEMORY, "allocation failed")                                                              \
    X(NUMERIC, "the model produced a value that is not a number")                                  \
    X(STOPPING, "the server is shutting down")                                                     \
    X(DEVICE, "the accelerator failed; a new process is needed")                                   \
    X(INTERNAL, "a state that should not exist")

typedef enum {
#define X(name, text) ERR_##name,
    ERR_LIST(X)
#undef X
        ERR_COUNT
} err_code;

typedef struct {
    err_code code;
    char param[64];       /* request field, config key or option at fault; "" if none */
    char msg[400];        /* one sentence for people; never a pointer or prompt text */
    uint64_t have, limit; /* TOO_LONG: prompt tokens and the context; 0 = not said */
} err;

/* Records a failure unless one is already recorded. e may be NULL; param may be
 * NULL. Always returns -1, so that `return err_set(...)` ends a function. */
int err_set(err *e, err_code code, const char *param, const char *fmt, ...) PRINTF_LIKE(4, 5);
const char *err_name(err_code code); /* "BAD_PARAM" */
const char *err_text(err_code code);

/* ---- checked arithmetic: every size that comes from outside goes through ---- */

static inline WARN_UNUSED bool size_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
static inline WARN_UNUSED bool size_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
/* calloc that refuses an overflowing product; NULL when out of memory. */
void *array_new(size_t n, size_t item_bytes) WARN_UNUSED;
/* Rounded up to 64 bytes and aligned to 64; uninitialised; ends with free(). */
void *array_new_aligned(size_t n, size_t item_bytes) WARN_UNUSED;

/* ---- buf: growable bytes with a ceiling ----
 * Zero value is empty and ready. After a failed append, `failed` stays set and
 * later appends do nothing, so a long run of appends needs one check. */
typedef struct {
    char *data; /* NULL while cap is 0; otherwise data[len] is 0 */
    size_t len, cap;
    size_t max; /* most bytes ever held; 0 = no ceiling */
    bool failed;
} buf;
int buf_reserve(buf *b, size_t extra) WARN_UNUSED; /* room for extra more bytes */
void buf_append(buf *b, const void *bytes, size_t n);
void buf_puts(buf *b, const char *text);
void buf_printf(buf *b, const char *fmt, ...) PRINTF_LIKE(2, 3);
void buf_drop(buf *b, size_t n); /* removes n bytes from the front */
void buf_clear(buf *b);          /* keeps the memory, forgets `failed` */
void buf_deinit(buf *b);

/* ---- arena: many small things that end together, under a byte ceiling ---- */
typedef struct arena_block arena_block;
typedef struct {
    arena_block *head;
    size_t used, max; /* bytes; max is fixed at init */
    bool failed;      /* sticky: an allocation was refused */
} arena;
void arena_init(arena *a, size_t max_bytes);
void *arena_alloc(arena *a, size_t n) WARN_UNUSED; /* 16-byte aligned, zeroed; NULL when full */
void *arena_array(arena *a, size_t n, size_t item_bytes) WARN_UNUSED;
char *arena_strndup(arena *a, const char *s, size_t n) WARN_UNUSED;
void arena_deinit(arena *a);

/* ---- time ---- */
uint64_t clock_ns(void);    /* monotonic; for durations and deadlines */
int64_t clock_unix_s(void); /* wall clock; for stamps shown to people only */

/* ---- log: one line per call to stderr, any thread, never blocks the caller
 * on a full disk (a line that cannot be written is counted and dropped) ---- */
typedef enum { LOG_ALERT, LOG_WARN, LOG_INFO, LOG_DEBUG } log_level;
void log_set_level(log_level max);
int log_level_find(const char *name, log_level *out) WARN_UNUSED; /* "alert|warn|info|debug" */
void log_line(log_level level, const char *fmt, ...) PRINTF_LIKE(2, 3);
uint64_t log_dropped_lines(void);

/* ---- json: jansson behind limits that are checked before it parses ---- */
typedef struct {
    size_t max_bytes;      /* longest text */
    size_t max_depth;      /* deepest nesting, 1 = a flat object */
    size_t max_structural; /* most of { } [ ] , : outside strings; bounds the heap used */
} json_limits;
/* Duplicate keys, NUL, bad UTF-8 and trailing bytes are refused. `what` names the
 * text in the message ("request body", a file name). On success *out is a new
 * reference. ERR_BAD_PARAM or, when memory ran out, ERR_NO_MEMORY. Any thread. */
int json_parse(json_t **out, const char *text, size_t n, const json_limits *limits,
               const char *what, err *e) WARN_UNUSED;
/* Once in main before threads: routes jansson's allocations so that running out
 * of memory can be told from bad input, and seeds its hash. */
void json_setup(void);
/* Appends s as a quoted JSON string; bytes that are not UTF-8 become U+FFFD. */
void buf_json_string(buf *b, const char *s, size_t n);

/* ---- files ---- */
typedef struct {
    const uint8_t *data; /* read-only map; NULL when size is 0 */
    size_t size;
    int fd;
} file_map;
/* Regular files only (no FIFO, no directory). ERR_IO names the path. */
int file_map_open(file_map *out, const char *path, err *e) WARN_UNUSED;
void file_map_close(file_map *m);
/* A text file of at most max_bytes into b. */
int file_read(buf *b, const char *path, size_t max_bytes, err *e) WARN_UNUSED;

/* ---- queue: bounded ring, one pushing thread and one popping thread, no lock ---- */
typedef struct queue queue;
int queue_create(queue **out, size_t item_bytes, size_t capacity, err *e) WARN_UNUSED;
void queue_destroy(queue *q);
bool queue_push(queue *q, const void *item) WARN_UNUSED; /* copies; false when full */
bool queue_pop(queue *q, void *item) WARN_UNUSED;        /* copies out; false when empty */
size_t queue_len(const queue *q);                        /* either thread; a snapshot */

/* ---- wake: lets one thread sleep until another has news (never lost) ---- */
typedef struct wake wake;
int wake_create(wake **out, err *e) WARN_UNUSED;
void wake_destroy(wake *w);
void wake_signal(wake *w);                    /* any thread; merges */
void wake_wait(wake *w, uint64_t timeout_ns); /* returns at once if signalled before */

#endif

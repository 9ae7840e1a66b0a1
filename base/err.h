/* err.h - how a function reports a failure.
 *
 * There is one list of codes. The first report is kept; later ones are ignored. Only api/ knows
 * HTTP statuses. An err belongs to one thread. */
#ifndef FATHOM_ERR_H
#define FATHOM_ERR_H

#include "base/lang.h"

#include <stdarg.h>

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
    X(CONSTRAINT, "the request's constraints leave no token to choose")                            \
    X(COSTLY, "the requested answer format takes too much work per token")                         \
    X(STOPPING, "the server is shutting down")                                                     \
    X(CANCELLED, "the result is no longer wanted")                                                 \
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
    char param[64];       /* the request field, config key or option at fault, or "" */
    char msg[400];        /* one sentence for people; never a pointer or prompt text */
    uint64_t have, limit; /* TOO_LONG: prompt tokens and the context; 0 = not said */
} err;

/* Records a failure unless one is already recorded. e and param may be NULL. Always returns -1, so
 * a function can end with `return err_set(...)`. */
int err_set(err *e, err_code code, const char *param, const char *fmt, ...) PRINTF_LIKE(4, 5);
#ifdef __clang_analyzer__ /* the analyser would otherwise follow paths with a result of 0 */
#define err_set(...) ((void)(err_set)(__VA_ARGS__), -1)
#endif
/* The same, with `where` and ": " before the message: a file's name, a request's field. */
int err_vset_in(err *e, err_code code, const char *param, const char *where, const char *fmt,
                va_list args) PRINTF_LIKE(5, 0);
const char *err_name(err_code code); /* "BAD_PARAM" */
const char *err_text(err_code code);

#endif

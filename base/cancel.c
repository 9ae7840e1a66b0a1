/* cancel.c - one flag for each thread. */
#include "base/cancel.h"

static _Thread_local const atomic_bool *watched;

void cancel_watch(const atomic_bool *flag) {
    watched = flag;
}

bool cancel_asked(void) {
    return watched && atomic_load_explicit(watched, memory_order_relaxed);
}

int cancel_check(const char *what, err *e) {
    if (!cancel_asked()) return 0;
    return err_set(e, ERR_CANCELLED, NULL, "%s was stopped: its result is no longer wanted", what);
}

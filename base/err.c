/* err.c - see err.h. */
#include "base/err.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *text;
} table[ERR_COUNT] = {
#define X(name, text) [ERR_##name] = {#name, text},
    ERR_LIST(X)
#undef X
};

int(err_set)(err *e, err_code code, const char *param, const char *fmt, ...) {
    if (e == NULL || e->code != ERR_NONE) return -1;
    e->code = code;
    (void)snprintf(e->param, sizeof e->param, "%s", param ? param : "");
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(e->msg, sizeof e->msg, fmt, args);
    va_end(args);
    return -1;
}

int err_vset_in(err *e, err_code code, const char *param, const char *where, const char *fmt,
                va_list args) {
    char text[sizeof e->msg];
    (void)vsnprintf(text, sizeof text, fmt, args);
    return err_set(e, code, param, "%s: %s", where, text);
}

const char *err_name(err_code code) {
    return (unsigned)code < ERR_COUNT ? table[code].name : "UNKNOWN";
}

const char *err_text(err_code code) {
    return (unsigned)code < ERR_COUNT ? table[code].text : "unknown error";
}

/* arguments.c - the arguments of builtins, and builtins by name. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

bool jinja__arg(const jcall *call, size_t at, const char *name, jval *out) {
    if (at < call->n_pos) {
        *out = call->pos[at];
        return true;
    }
    for (size_t i = 0; i < call->n_named; i++) {
        if (strcmp(call->named[i].name, name) != 0) continue;
        *out = call->named[i].value;
        return true;
    }
    return false;
}

int64_t jinja__arg_int(jvm *vm, const jcall *call, size_t pos, const char *name, int64_t absent) {
    jval value;
    int64_t out = absent;
    if (!jinja__arg(call, pos, name, &value) || value.kind == J_NONE) return absent;
    if (!jinja__integer(value, &out) && jinja__check_defined(vm, value))
        jinja__fail(vm, "'%s' of '%s' is a %s, not a whole number", name, call->name,
                    jinja__type(value));
    return out;
}

bool jinja__arg_bool(const jcall *call, size_t pos, const char *name, bool absent) {
    jval value;
    return jinja__arg(call, pos, name, &value) ? jinja__true(value) : absent;
}

jstring *jinja__arg_string(jvm *vm, const jcall *call, size_t pos, const char *name) {
    jval value;
    if (!jinja__arg(call, pos, name, &value) || value.kind == J_NONE) return NULL;
    if (value.kind == J_STRING) return value.string;
    if (jinja__check_defined(vm, value))
        jinja__fail(vm, "'%s' of '%s' is a %s, not a text", name, call->name, jinja__type(value));
    return NULL;
}

static bool is_param(const char *params, const char *name) {
    size_t n = strlen(name);
    while (params && *params) {
        size_t len = strcspn(params, " ");
        if (len == n && memcmp(params, name, n) == 0) return true;
        params += len + (params[len] == ' ');
    }
    return false;
}

bool jinja__check_args(jvm *vm, const jfunction *func, const jcall *call) {
    size_t n = call->n_pos + call->n_named;
    if (strcmp(func->params, "*") != 0) {
        for (size_t i = 0; i < call->n_named; i++) {
            if (is_param(func->params, call->named[i].name)) continue;
            jinja__fail(vm, "'%s' takes no argument '%.60s'", func->name, call->named[i].name);
            return false;
        }
    }
    if (n >= (size_t)func->min_args && n <= (size_t)func->max_args) return true;
    jinja__fail(vm, "'%s' does not take %zu arguments", func->name, n);
    return false;
}

jval jinja__run_builtin(jvm *vm, const jfunction *func, jval self, const jcall *call) {
    if (!jinja__work(vm, 1) || !jinja__check_args(vm, func, call)) return jinja__undefined(NULL);
    jval value = func->run(vm, self, call);
    return vm->failed ? jinja__undefined(NULL) : value;
}

const jfunction *jinja__find_in(const jfunction *table, size_t n, const char *name, size_t len) {
    for (size_t i = 0; i < n; i++) {
        if (strncmp(table[i].name, name, len) == 0 && table[i].name[len] == 0) return &table[i];
    }
    return NULL;
}

const jfunction *jinja__find_filter(const char *name, size_t n) {
    const jfunction *func = jinja__find_in(jinja__text_filters, jinja__n_text_filters, name, n);
    return func ? func : jinja__find_in(jinja__list_filters, jinja__n_list_filters, name, n);
}

/* arguments.c - how builtins get at their arguments, and how they are found by name. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

bool jinja__arg(const jcall *call, size_t place, const char *name, jval *out) {
    if (place < call->n_pos) {
        *out = call->pos[place];
        return true;
    }
    for (size_t i = 0; i < call->n_named; i++) {
        if (strcmp(call->named[i].name, name) != 0) continue;
        *out = call->named[i].value;
        return true;
    }
    return false;
}

int64_t jinja__arg_int(jvm *vm, const jcall *call, size_t place, const char *name, int64_t none) {
    jval v;
    int64_t out = none;
    if (!jinja__arg(call, place, name, &v) || v.kind == J_NONE) return none;
    if (!jinja__integer(v, &out) && jinja__use_undefined(vm, v))
        jinja__fail(vm, "'%s' of '%s' is a %s, not a whole number", name, call->what,
                    jinja__type(v));
    return out;
}

bool jinja__arg_bool(const jcall *call, size_t place, const char *name, bool none) {
    jval v;
    return jinja__arg(call, place, name, &v) ? jinja__true(v) : none;
}

jstring *jinja__arg_string(jvm *vm, const jcall *call, size_t place, const char *name) {
    jval v;
    if (!jinja__arg(call, place, name, &v) || v.kind == J_NONE) return NULL;
    if (v.kind == J_STRING) return v.u.s;
    if (jinja__use_undefined(vm, v))
        jinja__fail(vm, "'%s' of '%s' is a %s, not a text", name, call->what, jinja__type(v));
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

bool jinja__check_args(jvm *vm, const jfunction *f, const jcall *call) {
    size_t n = call->n_pos + call->n_named;
    if (strcmp(f->params, "*") != 0) {
        for (size_t i = 0; i < call->n_named; i++) {
            if (is_param(f->params, call->named[i].name)) continue;
            jinja__fail(vm, "'%s' takes no argument '%.60s'", f->name, call->named[i].name);
            return false;
        }
    }
    if (n >= (size_t)f->least && n <= (size_t)f->most) return true;
    jinja__fail(vm, "'%s' does not take %zu arguments", f->name, n);
    return false;
}

jval jinja__run_builtin(jvm *vm, const jfunction *f, jval self, const jcall *call) {
    if (!jinja__work(vm, 1) || !jinja__check_args(vm, f, call)) return jinja__undefined(NULL);
    jval v = f->run(vm, self, call);
    return vm->failed ? jinja__undefined(NULL) : v;
}

const jfunction *jinja__find_in(const jfunction *table, size_t n, const char *name, size_t len) {
    for (size_t i = 0; i < n; i++) {
        if (strncmp(table[i].name, name, len) == 0 && table[i].name[len] == 0) return &table[i];
    }
    return NULL;
}

const jfunction *jinja__find_filter(const char *name, size_t n) {
    const jfunction *f = jinja__find_in(jinja__text_filters, jinja__n_text_filters, name, n);
    return f ? f : jinja__find_in(jinja__list_filters, jinja__n_list_filters, name, n);
}

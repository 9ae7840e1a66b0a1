/* globals.c - functions available to every template. */
#include "text/jinja/jinja_internal.h"

#include <string.h>
#include <time.h>

enum { MAX_RANGE = 100 * 1000 };

static jval raise_exception(jvm *vm, jval self, const jcall *call) {
    (void)self;
    jstring *text = jinja__str(vm, call->pos[0]);
    if (text == NULL || vm->failed) return jinja__undefined(NULL);
    vm->failed = true;
    size_t n = text->len < 300 ? text->len : 300;
    while (n < text->len && n > 0 && ((unsigned char)text->bytes[n] & 0xc0) == 0x80)
        n--;
    err_set(vm->error, ERR_BAD_PARAM, NULL, "the chat template refuses the messages: %.*s", (int)n,
            text->bytes);
    return jinja__undefined(NULL);
}

jval jinja__strftime(jvm *vm, const jstring *format) {
    char pattern[256], text[1024];
    struct tm at;
    time_t now = (time_t)vm->input->now;
    if (format->len >= sizeof pattern || memchr(format->bytes, 0, format->len))
        return jinja__fail(vm, "the form of a date is too long");
    memcpy(pattern, format->bytes, format->len);
    pattern[format->len] = 0;
    if (localtime_r(&now, &at) == NULL) return jinja__fail(vm, "the time is out of range");
    size_t n = format->len ? strftime(text, sizeof text, pattern, &at) : 0;
    return jinja__of_string(jinja__copy(vm, text, n, jinja__all_trusted(format)));
}

static jval strftime_now(jvm *vm, jval self, const jcall *call) {
    (void)self;
    jstring *format = jinja__arg_string(vm, call, 0, "format");
    if (vm->failed) return jinja__undefined(NULL);
    if (format == NULL) return jinja__fail(vm, "'strftime_now' wants a text");
    return jinja__strftime(vm, format);
}

static jval range(jvm *vm, jval self, const jcall *call) {
    (void)self;
    int64_t from = 0, to = jinja__arg_int(vm, call, 0, "", 0), step = 1, way;
    if (call->n_pos > 1) {
        from = to;
        to = jinja__arg_int(vm, call, 1, "", 0);
        step = jinja__arg_int(vm, call, 2, "", 1);
    }
    if (vm->failed) return jinja__undefined(NULL);
    if (step == 0) return jinja__fail(vm, "the step of 'range' is zero");
    if (__builtin_sub_overflow(to, from, &way) || step == INT64_MIN)
        return jinja__fail(vm, "a number is too large");
    int64_t stride = step < 0 ? -step : step;
    way = step < 0 ? (way == INT64_MIN ? INT64_MAX : -way) : way;
    int64_t n = way > 0 ? (way - 1) / stride + 1 : 0;
    if (n > MAX_RANGE) return jinja__costly(vm, "'range' has more than %d numbers", MAX_RANGE);
    bool client = false;
    for (size_t i = 0; i < call->n_pos; i++)
        client |= call->pos[i].client;
    jlist *list = jinja__new_list(vm, (size_t)n);
    if (list == NULL || !jinja__work(vm, (size_t)n * sizeof(jval))) return jinja__undefined(NULL);
    for (int64_t i = 0; i < n; i++)
        jinja__push(vm, list, jinja__with_client(jinja__int(from + i * step), client));
    list->form = J_IS_RANGE;
    list->range[0] = from;
    list->range[1] = to;
    list->range[2] = step;
    return jinja__of_list(list);
}

/* dict(a=1), dict(pairs), dict(other, a=1) */
static jdict *new_dict(jvm *vm, const jcall *call) {
    jdict *out = jinja__new_dict(vm);
    jval from;
    if (call->n_pos > 0) {
        from = call->pos[0];
        if (from.kind == J_DICT) from = jinja__dict_items(vm, from.dict);
        const jlist *all = jinja__iterate(vm, from);
        for (size_t i = 0; all && i < all->count && !vm->failed; i++) {
            const jlist *pair = jinja__iterate(vm, all->items[i]);
            if (pair && pair->count == 2) jinja__dict_set(vm, out, pair->items[0], pair->items[1]);
            else if (pair) jinja__fail(vm, "'%s' wants pairs", call->name);
        }
    }
    for (size_t i = 0; i < call->n_named; i++)
        jinja__dict_set(vm, out, jinja__text(vm, call->named[i].name), call->named[i].value);
    return vm->failed ? NULL : out;
}

static jval dict(jvm *vm, jval self, const jcall *call) {
    (void)self;
    return jinja__of_dict(new_dict(vm, call));
}

static jval namespace(jvm *vm, jval self, const jcall *call) {
    (void)self;
    jdict *dict = new_dict(vm, call);
    return dict ? (jval){.kind = J_NAMESPACE, .dict = dict} : jinja__undefined(NULL);
}

/* Its first call gives nothing, all later calls give the separator. */
static jval joiner(jvm *vm, jval self, const jcall *call) {
    (void)self;
    jval text = jinja__text(vm, ", ");
    (void)jinja__arg(call, 0, "sep", &text);
    jjoiner *joiner = jinja__alloc(vm, 1, sizeof *joiner);
    if (joiner == NULL) return jinja__undefined(NULL);
    joiner->text = jinja__str(vm, text);
    return (jval){.kind = J_JOINER, .joiner = joiner};
}

static jval cycler(jvm *vm, jval self, const jcall *call) {
    (void)self;
    jcycler *cycler = jinja__alloc(vm, 1, sizeof *cycler);
    if (cycler == NULL) return jinja__undefined(NULL);
    cycler->items = (jlist){.items = call->pos, .count = call->n_pos};
    return (jval){.kind = J_CYCLER, .cycler = cycler};
}

static const jfunction globals[] = {
    {"raise_exception", raise_exception, "", 1, 1},
    {"strftime_now", strftime_now, "format", 1, 1},
    {"range", range, "", 1, 3},
    {"namespace", namespace, "*", 0, 1 << 20},
    {"joiner", joiner, "sep", 0, 1},
    {"cycler", cycler, "", 1, 1 << 20},
    {"dict", dict, "*", 0, 1 << 20},
};

const jfunction *jinja__find_global(const char *name) {
    return jinja__find_in(globals, ARRAY_LEN(globals), name, strlen(name));
}

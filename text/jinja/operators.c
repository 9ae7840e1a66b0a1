/* operators.c - arithmetic and comparison as Python does them, with 64-bit integers: a result that
 * does not fit is refused. */
#include "text/jinja/jinja_internal.h"

#include <math.h>
#include <string.h>

static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};

static jval wrong(jvm *vm, jop op, jval a, jval b) {
    if (!jinja__use_undefined(vm, a) || !jinja__use_undefined(vm, b)) return jinja__undefined(NULL);
    return jinja__fail(vm, "'%s' is not for %s and %s", names[op], jinja__type(a), jinja__type(b));
}

static jval too_large(jvm *vm) {
    return jinja__fail(vm, "a number is too large");
}

static bool int_power(int64_t base, int64_t power, int64_t *out) {
    *out = 1;
    for (; power > 0; power >>= 1) {
        if ((power & 1) && __builtin_mul_overflow(*out, base, out)) return false;
        if (power > 1 && __builtin_mul_overflow(base, base, &base)) return false;
    }
    return true;
}

static jval divide_ints(jvm *vm, jop op, int64_t a, int64_t b) {
    if (b == 0) return jinja__fail(vm, "a number is divided by zero");
    if (op == OP_DIV) return jinja__real((double)a / (double)b);
    if (b == -1) {
        int64_t negative;
        if (op == OP_MOD) return jinja__int(0);
        return __builtin_sub_overflow(0, a, &negative) ? too_large(vm) : jinja__int(negative);
    }
    int64_t quotient = a / b, rest = a % b;
    if (rest != 0 && (rest < 0) != (b < 0)) {
        quotient--;
        rest += b;
    }
    return jinja__int(op == OP_MOD ? rest : quotient);
}

static jval of_ints(jvm *vm, jop op, int64_t a, int64_t b) {
    int64_t out = 0;
    bool over = false;
    switch (op) {
    case OP_ADD: over = __builtin_add_overflow(a, b, &out); break;
    case OP_SUB: over = __builtin_sub_overflow(a, b, &out); break;
    case OP_MUL: over = __builtin_mul_overflow(a, b, &out); break;
    case OP_POW:
        if (b < 0) {
            if (a == 0) return jinja__fail(vm, "zero is raised to a negative power");
            return jinja__real(pow((double)a, (double)b));
        }
        over = !int_power(a, b, &out);
        break;
    default: return divide_ints(vm, op, a, b);
    }
    return over ? too_large(vm) : jinja__int(out);
}

static jval of_reals(jvm *vm, jop op, double a, double b) {
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && b == 0)
        return jinja__fail(vm, "a number is divided by zero");
    switch (op) {
    case OP_ADD: return jinja__real(a + b);
    case OP_SUB: return jinja__real(a - b);
    case OP_MUL: return jinja__real(a * b);
    case OP_DIV: return jinja__real(a / b);
    case OP_POW: {
        double out = pow(a, b);
        if ((isnan(out) && !isnan(a) && !isnan(b)) || (isinf(out) && !isinf(a) && !isinf(b)))
            return too_large(vm);
        return jinja__real(out);
    }
    default: break;
    }
    double rest = fmod(a, b), quotient = (a - rest) / b;
    if (rest != 0 && (rest < 0) != (b < 0)) {
        rest += b;
        quotient -= 1;
    }
    if (op == OP_MOD) return jinja__real(rest != 0 ? rest : copysign(0, b));
    double whole = floor(quotient);
    return jinja__real(quotient - whole > 0.5 ? whole + 1 : whole);
}

static jval repeat_text(jvm *vm, const jstring *s, int64_t times) {
    if (times < 0) times = 0;
    if (s->n && (uint64_t)times > vm->max_output / s->n)
        return jinja__costly(vm, "it makes a text of more than %zu bytes", vm->max_output);
    size_t n = s->n * (size_t)times;
    jwriter *w = jinja__new_writer(vm, n);
    for (int64_t i = 0; s->n && i < times && jinja__work(vm, 1); i++)
        jinja__write_string(vm, w, s);
    return jinja__of_string(jinja__written(vm, w));
}

static jval repeat_list(jvm *vm, const jlist *list, int64_t times) {
    if (times < 0) times = 0;
    if (list->n && (uint64_t)times > vm->max_output / list->n / sizeof(jval))
        return jinja__costly(vm, "it makes a list of too many items");
    jlist *out = jinja__new_list(vm, list->n * (size_t)times);
    for (int64_t i = 0; out && list->n && i < times && jinja__work(vm, list->n); i++) {
        for (size_t k = 0; k < list->n; k++)
            jinja__push(vm, out, list->items[k]);
    }
    if (out) out->form = list->form;
    return jinja__of_list(out);
}

static jval add_lists(jvm *vm, const jlist *a, const jlist *b) {
    jlist *out = jinja__new_list(vm, a->n + b->n);
    if (out == NULL || !jinja__work(vm, (a->n + b->n) * sizeof(jval)))
        return jinja__undefined(NULL);
    for (size_t i = 0; i < a->n; i++)
        jinja__push(vm, out, a->items[i]);
    for (size_t i = 0; i < b->n; i++)
        jinja__push(vm, out, b->items[i]);
    out->form = a->form;
    return jinja__of_list(out);
}

static bool is_plain_list(jval v) {
    return v.kind == J_LIST && v.u.list->form <= J_IS_TUPLE;
}

static jval of_texts_and_lists(jvm *vm, jop op, jval a, jval b) {
    int64_t times;
    if (op == OP_ADD && a.kind == J_STRING && b.kind == J_STRING)
        return jinja__add_texts(vm, a.u.s, b.u.s);
    if (op == OP_ADD && is_plain_list(a) && is_plain_list(b) && a.u.list->form == b.u.list->form)
        return add_lists(vm, a.u.list, b.u.list);
    if (op == OP_MOD && a.kind == J_STRING) return jinja__percent(vm, a.u.s, b);
    if (op == OP_MUL) {
        if (a.kind == J_STRING && jinja__integer(b, &times)) return repeat_text(vm, a.u.s, times);
        if (b.kind == J_STRING && jinja__integer(a, &times)) return repeat_text(vm, b.u.s, times);
        if (is_plain_list(a) && jinja__integer(b, &times)) return repeat_list(vm, a.u.list, times);
        if (is_plain_list(b) && jinja__integer(a, &times)) return repeat_list(vm, b.u.list, times);
    }
    return wrong(vm, op, a, b);
}

jval jinja__binary(jvm *vm, jop op, jval a, jval b) {
    int64_t i, j;
    double x, y;
    if (!jinja__work(vm, 1)) return jinja__undefined(NULL);
    bool client = a.client || b.client;
    if (jinja__integer(a, &i) && jinja__integer(b, &j))
        return jinja__owned(of_ints(vm, op, i, j), client);
    if (jinja__number(a, &x) && jinja__number(b, &y))
        return jinja__owned(of_reals(vm, op, x, y), client);
    return of_texts_and_lists(vm, op, a, b);
}

bool jinja__compare(jvm *vm, jop op, jval a, jval b) {
    switch (op) {
    case OP_EQ: return jinja__equal(vm, a, b);
    case OP_NE: return !jinja__equal(vm, a, b);
    case OP_LT: return jinja__less(vm, a, b);
    case OP_GT: return jinja__less(vm, b, a);
    case OP_LE: return jinja__less(vm, a, b) || jinja__equal(vm, a, b);
    case OP_GE: return jinja__less(vm, b, a) || jinja__equal(vm, a, b);
    case OP_IN: return jinja__contains(vm, b, a);
    default: return !jinja__contains(vm, b, a);
    }
}

/* ---- markup: what the filters "escape" and "safe" made ---- */

jstring *jinja__escape(jvm *vm, const jstring *s) {
    static const struct {
        char c;
        const char *text;
    } table[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    jwriter *w = jinja__new_writer(vm, 0);
    size_t kept = 0, end;
    for (size_t i = 0; i < s->n && !vm->failed; i++) {
        for (size_t k = 0; k < ARRAY_LEN(table); k++) {
            if (s->s[i] != table[k].c) continue;
            jinja__write_part(vm, w, s, kept, i);
            jinja__write(vm, w, table[k].text, strlen(table[k].text), jinja__origin(s, i, &end));
            kept = i + 1;
        }
    }
    jinja__write_part(vm, w, s, kept, s->n);
    jstring *out = jinja__written(vm, w);
    if (out) out->safe = true;
    return out;
}

jval jinja__add_texts(jvm *vm, jstring *a, jstring *b) {
    if (a->safe && !b->safe) b = jinja__escape(vm, b);
    else if (b->safe && !a->safe) a = jinja__escape(vm, a);
    return jinja__of_string(jinja__concat(vm, a, b));
}

bool jinja__is_plain(jvm *vm, const jstring *s, const char *what) {
    if (s->safe) jinja__fail(vm, "'%s' of escaped text is not supported", what);
    return !s->safe;
}

/* operators.c - arithmetic and comparison as in Python, but with 64-bit integers: a result beyond
 * them is an error. */
#include "text/jinja/jinja_internal.h"

#include <math.h>
#include <string.h>

static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};

static jval wrong(jvm *vm, jop op, jval left, jval right) {
    if (!jinja__check_defined(vm, left) || !jinja__check_defined(vm, right))
        return jinja__undefined(NULL);
    return jinja__fail(vm, "'%s' is not for %s and %s", names[op], jinja__type(left),
                       jinja__type(right));
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

static jval divide_ints(jvm *vm, jop op, int64_t left, int64_t right) {
    if (right == 0) return jinja__fail(vm, "a number is divided by zero");
    if (op == OP_DIV) return jinja__real((double)left / (double)right);
    if (right == -1) {
        int64_t negative;
        if (op == OP_MOD) return jinja__int(0);
        return __builtin_sub_overflow(0, left, &negative) ? too_large(vm) : jinja__int(negative);
    }
    int64_t quotient = left / right, rest = left % right;
    if (rest != 0 && (rest < 0) != (right < 0)) {
        quotient--;
        rest += right;
    }
    return jinja__int(op == OP_MOD ? rest : quotient);
}

static jval of_ints(jvm *vm, jop op, int64_t left, int64_t right) {
    int64_t out = 0;
    bool over = false;
    switch (op) {
    case OP_ADD: over = __builtin_add_overflow(left, right, &out); break;
    case OP_SUB: over = __builtin_sub_overflow(left, right, &out); break;
    case OP_MUL: over = __builtin_mul_overflow(left, right, &out); break;
    case OP_POW:
        if (right < 0) {
            if (left == 0) return jinja__fail(vm, "zero is raised to a negative power");
            return jinja__real(pow((double)left, (double)right));
        }
        over = !int_power(left, right, &out);
        break;
    default: return divide_ints(vm, op, left, right);
    }
    return over ? too_large(vm) : jinja__int(out);
}

static jval of_reals(jvm *vm, jop op, double left, double right) {
    if ((op == OP_DIV || op == OP_FLOORDIV || op == OP_MOD) && right == 0)
        return jinja__fail(vm, "a number is divided by zero");
    switch (op) {
    case OP_ADD: return jinja__real(left + right);
    case OP_SUB: return jinja__real(left - right);
    case OP_MUL: return jinja__real(left * right);
    case OP_DIV: return jinja__real(left / right);
    case OP_POW: {
        double out = pow(left, right);
        if ((isnan(out) && !isnan(left) && !isnan(right)) ||
            (isinf(out) && !isinf(left) && !isinf(right)))
            return too_large(vm);
        return jinja__real(out);
    }
    default: break;
    }
    double rest = fmod(left, right), quotient = (left - rest) / right;
    if (rest != 0 && (rest < 0) != (right < 0)) {
        rest += right;
        quotient -= 1;
    }
    if (op == OP_MOD) return jinja__real(rest != 0 ? rest : copysign(0, right));
    double whole = floor(quotient);
    return jinja__real(quotient - whole > 0.5 ? whole + 1 : whole);
}

static jval repeat_text(jvm *vm, const jstring *text, int64_t times) {
    if (times < 0) times = 0;
    if (text->len && (uint64_t)times > vm->max_output / text->len)
        return jinja__costly(vm, "it makes a text of more than %zu bytes", vm->max_output);
    size_t n = text->len * (size_t)times;
    jwriter *out = jinja__new_writer(vm, n);
    for (int64_t i = 0; text->len && i < times && jinja__work(vm, 1); i++)
        jinja__write_string(vm, out, text);
    return jinja__of_string(jinja__written(vm, out));
}

static jval repeat_list(jvm *vm, const jlist *list, int64_t times) {
    if (times < 0) times = 0;
    if (list->count && (uint64_t)times > vm->max_output / list->count / sizeof(jval))
        return jinja__costly(vm, "it makes a list of too many items");
    jlist *out = jinja__new_list(vm, list->count * (size_t)times);
    for (int64_t i = 0; out && list->count && i < times && jinja__work(vm, list->count); i++) {
        for (size_t k = 0; k < list->count; k++)
            jinja__push(vm, out, list->items[k]);
    }
    if (out) out->form = list->form;
    return jinja__of_list(out);
}

static jval add_lists(jvm *vm, const jlist *left, const jlist *right) {
    jlist *out = jinja__new_list(vm, left->count + right->count);
    if (out == NULL || !jinja__work(vm, (left->count + right->count) * sizeof(jval)))
        return jinja__undefined(NULL);
    for (size_t i = 0; i < left->count; i++)
        jinja__push(vm, out, left->items[i]);
    for (size_t i = 0; i < right->count; i++)
        jinja__push(vm, out, right->items[i]);
    out->form = left->form;
    return jinja__of_list(out);
}

static bool is_plain_list(jval value) {
    return value.kind == J_LIST && value.list->form <= J_IS_TUPLE;
}

static jval of_texts_and_lists(jvm *vm, jop op, jval left, jval right) {
    int64_t times;
    if (op == OP_ADD && left.kind == J_STRING && right.kind == J_STRING)
        return jinja__add_texts(vm, left.string, right.string);
    if (op == OP_ADD && is_plain_list(left) && is_plain_list(right) &&
        left.list->form == right.list->form)
        return add_lists(vm, left.list, right.list);
    if (op == OP_MOD && left.kind == J_STRING) return jinja__percent(vm, left.string, right);
    if (op == OP_MUL) {
        if (left.kind == J_STRING && jinja__integer(right, &times))
            return repeat_text(vm, left.string, times);
        if (right.kind == J_STRING && jinja__integer(left, &times))
            return repeat_text(vm, right.string, times);
        if (is_plain_list(left) && jinja__integer(right, &times))
            return repeat_list(vm, left.list, times);
        if (is_plain_list(right) && jinja__integer(left, &times))
            return repeat_list(vm, right.list, times);
    }
    return wrong(vm, op, left, right);
}

jval jinja__binary(jvm *vm, jop op, jval left, jval right) {
    int64_t i, j;
    double x, y;
    if (!jinja__work(vm, 1)) return jinja__undefined(NULL);
    bool client = left.client || right.client;
    if (jinja__integer(left, &i) && jinja__integer(right, &j))
        return jinja__with_client(of_ints(vm, op, i, j), client);
    if (jinja__number(left, &x) && jinja__number(right, &y))
        return jinja__with_client(of_reals(vm, op, x, y), client);
    return of_texts_and_lists(vm, op, left, right);
}

bool jinja__compare(jvm *vm, jop op, jval left, jval right) {
    switch (op) {
    case OP_EQ: return jinja__equal(vm, left, right);
    case OP_NE: return !jinja__equal(vm, left, right);
    case OP_LT: return jinja__less(vm, left, right);
    case OP_GT: return jinja__less(vm, right, left);
    case OP_LE: return jinja__less(vm, left, right) || jinja__equal(vm, left, right);
    case OP_GE: return jinja__less(vm, right, left) || jinja__equal(vm, left, right);
    case OP_IN: return jinja__contains(vm, right, left);
    default: return !jinja__contains(vm, right, left);
    }
}

/* ---- markup: the results of the filters "escape" and "safe" ---- */

jstring *jinja__escape(jvm *vm, const jstring *text) {
    static const struct {
        char ch;
        const char *text;
    } table[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    jwriter *writer = jinja__new_writer(vm, 0);
    size_t kept = 0, end;
    for (size_t i = 0; i < text->len && !vm->failed; i++) {
        for (size_t k = 0; k < ARRAY_LEN(table); k++) {
            if (text->bytes[i] != table[k].ch) continue;
            jinja__write_part(vm, writer, text, kept, i);
            jinja__write(vm, writer, table[k].text, strlen(table[k].text),
                         jinja__origin(text, i, &end));
            kept = i + 1;
        }
    }
    jinja__write_part(vm, writer, text, kept, text->len);
    jstring *out = jinja__written(vm, writer);
    if (out) out->safe = true;
    return out;
}

jval jinja__add_texts(jvm *vm, jstring *left, jstring *right) {
    if (left->safe && !right->safe) right = jinja__escape(vm, right);
    else if (right->safe && !left->safe) left = jinja__escape(vm, left);
    return jinja__of_string(jinja__concat(vm, left, right));
}

bool jinja__check_plain(jvm *vm, const jstring *text, const char *method) {
    if (text->safe) jinja__fail(vm, "'%s' of escaped text is not supported", method);
    return !text->safe;
}

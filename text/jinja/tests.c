/* tests.c - the tests of Jinja: "x is defined". */
#include "text/jinja/jinja_internal.h"

#include <string.h>

#define TEST(name, condition)                                                                      \
    static jval name(jvm *vm, jval value, const jcall *call) {                                     \
        (void)vm;                                                                                  \
        (void)call;                                                                                \
        return jinja__bool(condition);                                                             \
    }

TEST(is_defined, value.kind != J_UNDEFINED)
TEST(is_undefined, value.kind == J_UNDEFINED)
TEST(is_none, value.kind == J_NONE)
TEST(is_boolean, value.kind == J_BOOL)
TEST(is_true, value.kind == J_BOOL && value.boolean)
TEST(is_false, value.kind == J_BOOL && !value.boolean)
TEST(is_integer, value.kind == J_INT)
TEST(is_float, value.kind == J_REAL)
TEST(is_number, value.kind == J_BOOL || value.kind == J_INT || value.kind == J_REAL)
TEST(is_string, value.kind == J_STRING)
TEST(is_mapping, value.kind == J_DICT)
TEST(is_iterable, value.kind == J_UNDEFINED || value.kind == J_STRING || value.kind == J_LIST ||
                      value.kind == J_DICT || value.kind == J_LOOP)
TEST(is_sequence, value.kind == J_UNDEFINED || value.kind == J_STRING || value.kind == J_DICT ||
                      (value.kind == J_LIST &&
                       (value.list->form <= J_IS_TUPLE || value.list->form == J_IS_RANGE)))
TEST(is_callable, value.kind == J_FUNCTION || value.kind == J_METHOD || value.kind == J_MACRO ||
                      value.kind == J_CYCLER || value.kind == J_JOINER || value.kind == J_UNDEFINED)
TEST(is_escaped, value.kind == J_STRING && value.string->safe)
TEST(is_eq, jinja__compare(vm, OP_EQ, value, call->pos[0]))
TEST(is_ne, jinja__compare(vm, OP_NE, value, call->pos[0]))
TEST(is_lt, jinja__compare(vm, OP_LT, value, call->pos[0]))
TEST(is_le, jinja__compare(vm, OP_LE, value, call->pos[0]))
TEST(is_gt, jinja__compare(vm, OP_GT, value, call->pos[0]))
TEST(is_ge, jinja__compare(vm, OP_GE, value, call->pos[0]))
TEST(is_in, jinja__compare(vm, OP_IN, value, call->pos[0]))

static jval divides(jvm *vm, jval value, jval by) {
    return jinja__binary(vm, OP_MOD, value, by);
}
TEST(is_odd, jinja__equal(vm, divides(vm, value, jinja__int(2)), jinja__int(1)))
TEST(is_even, jinja__equal(vm, divides(vm, value, jinja__int(2)), jinja__int(0)))
TEST(is_divisibleby, jinja__equal(vm, divides(vm, value, call->pos[0]), jinja__int(0)))

static bool same_object(jval left, jval right) {
    if (left.kind != right.kind) return false;
    switch ((jkind)left.kind) {
    case J_UNDEFINED:
    case J_NONE: return true;
    case J_BOOL: return left.boolean == right.boolean;
    case J_INT: return left.integer == right.integer;
    case J_REAL: return left.real == right.real;
    case J_STRING: return jinja__same(left.string, right.string);
    default: return left.dict == right.dict;
    }
}
TEST(is_sameas, same_object(value, call->pos[0]))

static jval has_case(jvm *vm, jval value, int how) {
    jstring *text = jinja__str(vm, value);
    if (text == NULL) return jinja__undefined(NULL);
    jstring *same = jinja__change_case(vm, text, how),
            *other = jinja__change_case(vm, text, J_UPPER + J_LOWER - how);
    return jinja__bool(same && other && jinja__same(text, same) && !jinja__same(text, other));
}
static jval is_upper(jvm *vm, jval value, const jcall *call) {
    (void)call;
    return has_case(vm, value, J_UPPER);
}
static jval is_lower(jvm *vm, jval value, const jcall *call) {
    (void)call;
    return has_case(vm, value, J_LOWER);
}

static const jfunction tests[] = {
    {"defined", is_defined, "", 0, 0},
    {"undefined", is_undefined, "", 0, 0},
    {"none", is_none, "", 0, 0},
    {"string", is_string, "", 0, 0},
    {"mapping", is_mapping, "", 0, 0},
    {"iterable", is_iterable, "", 0, 0},
    {"sequence", is_sequence, "", 0, 0},
    {"boolean", is_boolean, "", 0, 0},
    {"true", is_true, "", 0, 0},
    {"false", is_false, "", 0, 0},
    {"number", is_number, "", 0, 0},
    {"integer", is_integer, "", 0, 0},
    {"float", is_float, "", 0, 0},
    {"callable", is_callable, "", 0, 0},
    {"escaped", is_escaped, "", 0, 0},
    {"odd", is_odd, "", 0, 0},
    {"even", is_even, "", 0, 0},
    {"divisibleby", is_divisibleby, "num", 1, 1},
    {"sameas", is_sameas, "", 1, 1},
    {"upper", is_upper, "", 0, 0},
    {"lower", is_lower, "", 0, 0},
    {"equalto", is_eq, "", 1, 1},
    {"eq", is_eq, "", 1, 1},
    {"==", is_eq, "", 1, 1},
    {"ne", is_ne, "", 1, 1},
    {"!=", is_ne, "", 1, 1},
    {"lt", is_lt, "", 1, 1},
    {"lessthan", is_lt, "", 1, 1},
    {"<", is_lt, "", 1, 1},
    {"le", is_le, "", 1, 1},
    {"<=", is_le, "", 1, 1},
    {"gt", is_gt, "", 1, 1},
    {"greaterthan", is_gt, "", 1, 1},
    {">", is_gt, "", 1, 1},
    {"ge", is_ge, "", 1, 1},
    {">=", is_ge, "", 1, 1},
    {"in", is_in, "", 1, 1},
};

const jfunction *jinja__find_test(const char *name, size_t n) {
    return jinja__find_in(tests, ARRAY_LEN(tests), name, n);
}

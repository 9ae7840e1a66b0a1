/* tests.c - what stands behind "is". */
#include "text/jinja/jinja_internal.h"

#include <string.h>

#define TEST(name, condition)                                                                      \
    static jval name(jvm *vm, jval v, const jcall *call) {                                         \
        (void)vm;                                                                                  \
        (void)call;                                                                                \
        return jinja__bool(condition);                                                             \
    }

TEST(is_defined, v.kind != J_UNDEFINED)
TEST(is_undefined, v.kind == J_UNDEFINED)
TEST(is_none, v.kind == J_NONE)
TEST(is_boolean, v.kind == J_BOOL)
TEST(is_true, v.kind == J_BOOL && v.u.b)
TEST(is_false, v.kind == J_BOOL && !v.u.b)
TEST(is_integer, v.kind == J_INT)
TEST(is_float, v.kind == J_REAL)
TEST(is_number, v.kind == J_BOOL || v.kind == J_INT || v.kind == J_REAL)
TEST(is_string, v.kind == J_STRING)
TEST(is_mapping, v.kind == J_DICT)
TEST(is_iterable, v.kind == J_UNDEFINED || v.kind == J_STRING || v.kind == J_LIST ||
                      v.kind == J_DICT || v.kind == J_LOOP)
TEST(is_sequence,
     v.kind == J_UNDEFINED || v.kind == J_STRING || v.kind == J_DICT ||
         (v.kind == J_LIST && (v.u.list->form <= J_IS_TUPLE || v.u.list->form == J_IS_RANGE)))
TEST(is_callable, v.kind == J_FUNCTION || v.kind == J_METHOD || v.kind == J_MACRO ||
                      v.kind == J_CYCLER || v.kind == J_JOINER || v.kind == J_UNDEFINED)
TEST(is_escaped, v.kind == J_STRING && v.u.s->safe)
TEST(is_eq, jinja__compare(vm, OP_EQ, v, call->pos[0]))
TEST(is_ne, jinja__compare(vm, OP_NE, v, call->pos[0]))
TEST(is_lt, jinja__compare(vm, OP_LT, v, call->pos[0]))
TEST(is_le, jinja__compare(vm, OP_LE, v, call->pos[0]))
TEST(is_gt, jinja__compare(vm, OP_GT, v, call->pos[0]))
TEST(is_ge, jinja__compare(vm, OP_GE, v, call->pos[0]))
TEST(is_in, jinja__compare(vm, OP_IN, v, call->pos[0]))

static jval divides(jvm *vm, jval v, jval by) {
    return jinja__binary(vm, OP_MOD, v, by);
}
TEST(is_odd, jinja__equal(vm, divides(vm, v, jinja__int(2)), jinja__int(1)))
TEST(is_even, jinja__equal(vm, divides(vm, v, jinja__int(2)), jinja__int(0)))
TEST(is_divisibleby, jinja__equal(vm, divides(vm, v, call->pos[0]), jinja__int(0)))

static bool same_object(jval a, jval b) {
    if (a.kind != b.kind) return false;
    switch ((jkind)a.kind) {
    case J_UNDEFINED:
    case J_NONE: return true;
    case J_BOOL: return a.u.b == b.u.b;
    case J_INT: return a.u.i == b.u.i;
    case J_REAL: return a.u.d == b.u.d;
    case J_STRING: return jinja__same(a.u.s, b.u.s);
    default: return a.u.dict == b.u.dict;
    }
}
TEST(is_sameas, same_object(v, call->pos[0]))

static jval has_case(jvm *vm, jval v, int how) {
    jstring *s = jinja__str(vm, v);
    if (s == NULL) return jinja__undefined(NULL);
    jstring *same = jinja__change_case(vm, s, how),
            *other = jinja__change_case(vm, s, J_UPPER + J_LOWER - how);
    return jinja__bool(same && other && jinja__same(s, same) && !jinja__same(s, other));
}
static jval is_upper(jvm *vm, jval v, const jcall *call) {
    (void)call;
    return has_case(vm, v, J_UPPER);
}
static jval is_lower(jvm *vm, jval v, const jcall *call) {
    (void)call;
    return has_case(vm, v, J_LOWER);
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

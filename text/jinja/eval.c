/* eval.c - the value of an expression. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

static jval eval_list(jvm *vm, const jnode *node, jform form) {
    jlist *list = jinja__new_list(vm, node->u.list.n);
    for (uint32_t i = 0; list && i < node->u.list.n && !vm->failed; i++)
        jinja__push(vm, list, jinja__eval(vm, node->u.list.items[i]));
    if (list) list->form = (uint8_t)form;
    return jinja__of_list(list);
}

static jval eval_dict(jvm *vm, const jnode *node) {
    jdict *dict = jinja__new_dict(vm);
    for (uint32_t i = 0; dict && i < node->u.list.n && !vm->failed; i += 2) {
        jval key = jinja__eval(vm, node->u.list.items[i]);
        jinja__dict_set(vm, dict, key, jinja__eval(vm, node->u.list.items[i + 1]));
    }
    return jinja__of_dict(dict);
}

static jval eval_slice(jvm *vm, const jnode *node) {
    const jnode *parts[3] = {node->u.slice.from, node->u.slice.to, node->u.slice.step};
    jval of = jinja__eval(vm, node->u.slice.of), at[3];
    for (size_t i = 0; i < 3; i++)
        at[i] = parts[i] ? jinja__eval(vm, parts[i]) : jinja__none();
    vm->line = node->line;
    jval v = jinja__slice(vm, of, at[0], at[1], at[2]);
    return v.kind == J_UNDEFINED ? jinja__undefined(node) : v;
}

/* ---- calls ---- */

bool jinja__eval_args(jvm *vm, const jargs *args, jcall *call) {
    if (args->pos.n) call->pos = jinja__alloc(vm, args->pos.n, sizeof(jval));
    if (args->named.n) call->named = jinja__alloc(vm, args->named.n, sizeof(jnamed));
    if (vm->failed) return false;
    for (uint32_t i = 0; i < args->pos.n && !vm->failed; i++)
        call->pos[call->n_pos++] = jinja__eval(vm, args->pos.items[i]);
    for (uint32_t i = 0; i < args->named.n && !vm->failed; i++)
        call->named[call->n_named++] =
            (jnamed){args->names[i], jinja__eval(vm, args->named.items[i])};
    return !vm->failed;
}

jval jinja__call_value(jvm *vm, jval callee, const jcall *call) {
    jcall renamed = *call;
    if (vm->failed) return jinja__undefined(NULL);
    switch ((jkind)callee.kind) {
    case J_FUNCTION:
        renamed.what = callee.u.function->name;
        return jinja__run_builtin(vm, callee.u.function, callee, &renamed);
    case J_METHOD:
        renamed.what = callee.u.method->function->name;
        return jinja__run_builtin(vm, callee.u.method->function, callee.u.method->self, &renamed);
    case J_MACRO: return jinja__call_macro(vm, callee.u.macro, call, NULL);
    case J_JOINER:
        if (callee.u.joiner->called) return jinja__of_string(callee.u.joiner->text);
        callee.u.joiner->called = true;
        return jinja__text(vm, "");
    default: break;
    }
    if (jinja__use_undefined(vm, callee))
        jinja__fail(vm, "a %s is called, which is no function", jinja__type(callee));
    return jinja__undefined(NULL);
}

/* What a call calls. A method is not made into a value first. */
static jval eval_callee(jvm *vm, const jnode *of, jval *self, const jfunction **method) {
    *method = NULL;
    if (of->kind != N_ATTR) return jinja__eval(vm, of);
    *self = jinja__eval(vm, of->u.attr.of);
    const jstring *name = of->u.attr.name;
    *method = jinja__find_method(*self, name->s, name->n);
    if (*method) return jinja__none();
    vm->line = of->line;
    return jinja__attribute(vm, *self, name, of);
}

static jval eval_call(jvm *vm, const jnode *node, const jval *caller) {
    jval self;
    const jfunction *method;
    jval callee = eval_callee(vm, node->u.call.of, &self, &method);
    jcall call = {0};
    if (!jinja__eval_args(vm, &node->u.call.args, &call)) return jinja__undefined(NULL);
    vm->line = node->line;
    if (method) {
        call.what = method->name;
        return jinja__run_builtin(vm, method, self, &call);
    }
    if (caller && callee.kind == J_MACRO)
        return jinja__call_macro(vm, callee.u.macro, &call, caller);
    if (caller) return jinja__fail(vm, "a call block wants a macro");
    return jinja__call_value(vm, callee, &call);
}

jval jinja__eval_call_block(jvm *vm, const jnode *call, jval caller) {
    return eval_call(vm, call, &caller);
}

jval jinja__eval_filters(jvm *vm, const jnode *node, jval input) {
    if (node == NULL) return input;
    jval self = input;
    if (node->u.call.of) {
        self = node->u.call.of->kind == N_FILTER ? jinja__eval_filters(vm, node->u.call.of, input)
                                                 : jinja__eval(vm, node->u.call.of);
    }
    jcall call = {.what = node->u.call.function->name};
    if (!jinja__eval_args(vm, &node->u.call.args, &call)) return jinja__undefined(NULL);
    vm->line = node->line;
    return jinja__run_builtin(vm, node->u.call.function, self, &call);
}

static jval eval_test(jvm *vm, const jnode *node) {
    jval self = jinja__eval(vm, node->u.call.of);
    jcall call = {.what = node->u.call.function->name};
    if (!jinja__eval_args(vm, &node->u.call.args, &call)) return jinja__undefined(NULL);
    vm->line = node->line;
    jval v = jinja__run_builtin(vm, node->u.call.function, self, &call);
    return jinja__bool(jinja__true(v) != (node->op == 1));
}

/* ---- operators ---- */

static jval eval_sign(jvm *vm, const jnode *node) {
    jval v = jinja__eval(vm, node->u.of);
    int64_t i;
    vm->line = node->line;
    if (v.kind == J_REAL)
        return jinja__owned(jinja__real(node->kind == N_NEGATE ? -v.u.d : v.u.d), v.client);
    if (jinja__integer(v, &i))
        return jinja__binary(vm, node->kind == N_NEGATE ? OP_SUB : OP_ADD, jinja__int(0), v);
    if (jinja__use_undefined(vm, v)) jinja__fail(vm, "a sign stands before a %s", jinja__type(v));
    return jinja__undefined(NULL);
}

static jval eval_concat(jvm *vm, const jnode *node) {
    jstring *text = NULL;
    for (uint32_t i = 0; i < node->u.list.n && !vm->failed; i++) {
        jstring *next = jinja__str(vm, jinja__eval(vm, node->u.list.items[i]));
        text = i == 0 ? next : jinja__concat(vm, text, next);
    }
    if (text && text->safe) { /* what "~" makes is plain */
        text = jinja__part(vm, text, 0, text->n);
        if (text) text->safe = false;
    }
    return jinja__of_string(text);
}

static jval eval_compare(jvm *vm, const jnode *node) {
    const jnodes *operands = &node->u.compare.operands;
    jval left = jinja__eval(vm, operands->items[0]);
    for (uint32_t i = 1; i < operands->n && !vm->failed; i++) {
        jval right = jinja__eval(vm, operands->items[i]);
        vm->line = node->line;
        if (vm->failed || !jinja__compare(vm, (jop)node->u.compare.ops[i - 1], left, right))
            return jinja__bool(false);
        left = right;
    }
    return jinja__bool(true);
}

static jval eval_either(jvm *vm, const jnode *node) {
    jval left = jinja__eval(vm, node->u.binary.left);
    if (jinja__true(left) == (node->kind == N_OR)) return left;
    return jinja__eval(vm, node->u.binary.right);
}

static jval eval_binary(jvm *vm, const jnode *node) {
    jval left = jinja__eval(vm, node->u.binary.left), right = jinja__eval(vm, node->u.binary.right);
    vm->line = node->line;
    return jinja__binary(vm, (jop)node->op, left, right);
}

static jval eval_cond(jvm *vm, const jnode *node) {
    if (jinja__true(jinja__eval(vm, node->u.cond.test))) return jinja__eval(vm, node->u.cond.then);
    return node->u.cond.otherwise ? jinja__eval(vm, node->u.cond.otherwise)
                                  : jinja__undefined(node);
}

static jval eval_member(jvm *vm, const jnode *node) {
    if (node->kind == N_ATTR) {
        jval of = jinja__eval(vm, node->u.attr.of);
        vm->line = node->line;
        return jinja__attribute(vm, of, node->u.attr.name, node);
    }
    jval of = jinja__eval(vm, node->u.index.of), key = jinja__eval(vm, node->u.index.key);
    vm->line = node->line;
    return jinja__item(vm, of, key, node);
}

static jval eval_node(jvm *vm, const jnode *node) {
    switch ((jnode_kind)node->kind) {
    case N_CONST: return node->u.constant;
    case N_NAME: return jinja__lookup(vm, node->u.name, node);
    case N_LIST: return eval_list(vm, node, J_IS_LIST);
    case N_TUPLE: return eval_list(vm, node, J_IS_TUPLE);
    case N_DICT: return eval_dict(vm, node);
    case N_ATTR:
    case N_INDEX: return eval_member(vm, node);
    case N_SLICE: return eval_slice(vm, node);
    case N_CALL: return eval_call(vm, node, NULL);
    case N_FILTER: return jinja__eval_filters(vm, node, jinja__undefined(NULL));
    case N_TEST: return eval_test(vm, node);
    case N_NOT: return jinja__bool(!jinja__true(jinja__eval(vm, node->u.of)));
    case N_NEGATE:
    case N_PLUS: return eval_sign(vm, node);
    case N_BINARY: return eval_binary(vm, node);
    case N_CONCAT: return eval_concat(vm, node);
    case N_COMPARE: return eval_compare(vm, node);
    case N_AND:
    case N_OR: return eval_either(vm, node);
    case N_COND: return eval_cond(vm, node);
    default: return jinja__undefined(NULL);
    }
}

jval jinja__eval(jvm *vm, const jnode *node) {
    if (!jinja__enter(vm)) return jinja__undefined(NULL);
    jval v = eval_node(vm, node);
    jinja__leave(vm);
    return vm->failed ? jinja__undefined(NULL) : v;
}

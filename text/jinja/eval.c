/* eval.c - the value of an expression. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

static jval eval_list(jvm *vm, const jnode *node, jform form) {
    jlist *list = jinja__new_list(vm, node->list.count);
    for (uint32_t i = 0; list && i < node->list.count && !vm->failed; i++)
        jinja__push(vm, list, jinja__eval(vm, node->list.items[i]));
    if (list) list->form = (uint8_t)form;
    return jinja__of_list(list);
}

static jval eval_dict(jvm *vm, const jnode *node) {
    jdict *dict = jinja__new_dict(vm);
    for (uint32_t i = 0; dict && i < node->list.count && !vm->failed; i += 2) {
        jval key = jinja__eval(vm, node->list.items[i]);
        jinja__dict_set(vm, dict, key, jinja__eval(vm, node->list.items[i + 1]));
    }
    return jinja__of_dict(dict);
}

static jval eval_slice(jvm *vm, const jnode *node) {
    const jnode *parts[3] = {node->slice.from, node->slice.to, node->slice.step};
    jval object = jinja__eval(vm, node->slice.object), at[3];
    for (size_t i = 0; i < 3; i++)
        at[i] = parts[i] ? jinja__eval(vm, parts[i]) : jinja__none();
    vm->line = node->line;
    jval value = jinja__slice(vm, object, at[0], at[1], at[2]);
    return value.kind == J_UNDEFINED ? jinja__undefined(node) : value;
}

/* ---- calls ---- */

bool jinja__eval_args(jvm *vm, const jargs *args, jcall *call) {
    if (args->pos.count) call->pos = jinja__alloc(vm, args->pos.count, sizeof(jval));
    if (args->named.count) call->named = jinja__alloc(vm, args->named.count, sizeof(jnamed));
    if (vm->failed) return false;
    for (uint32_t i = 0; i < args->pos.count && !vm->failed; i++)
        call->pos[call->n_pos++] = jinja__eval(vm, args->pos.items[i]);
    for (uint32_t i = 0; i < args->named.count && !vm->failed; i++)
        call->named[call->n_named++] =
            (jnamed){args->names[i], jinja__eval(vm, args->named.items[i])};
    return !vm->failed;
}

jval jinja__call_value(jvm *vm, jval callee, const jcall *call) {
    jcall renamed = *call;
    if (vm->failed) return jinja__undefined(NULL);
    switch ((jkind)callee.kind) {
    case J_FUNCTION:
        renamed.name = callee.function->name;
        return jinja__run_builtin(vm, callee.function, callee, &renamed);
    case J_METHOD:
        renamed.name = callee.method->function->name;
        return jinja__run_builtin(vm, callee.method->function, callee.method->self, &renamed);
    case J_MACRO: return jinja__call_macro(vm, callee.macro, call, NULL);
    case J_JOINER:
        if (callee.joiner->called) return jinja__of_string(callee.joiner->text);
        callee.joiner->called = true;
        return jinja__text(vm, "");
    default: break;
    }
    if (jinja__check_defined(vm, callee))
        jinja__fail(vm, "a %s is called, which is no function", jinja__type(callee));
    return jinja__undefined(NULL);
}

/* The callee of a call. A method comes back in *method, without a value made for it. */
static jval eval_callee(jvm *vm, const jnode *callee, jval *self, const jfunction **method) {
    *method = NULL;
    if (callee->kind != N_ATTR) return jinja__eval(vm, callee);
    *self = jinja__eval(vm, callee->attr.object);
    const jstring *name = callee->attr.name;
    *method = jinja__find_method(*self, name->bytes, name->len);
    if (*method) return jinja__none();
    vm->line = callee->line;
    return jinja__attribute(vm, *self, name, callee);
}

static jval eval_call(jvm *vm, const jnode *node, const jval *caller) {
    jval self;
    const jfunction *method;
    jval callee = eval_callee(vm, node->call.subject, &self, &method);
    jcall call = {0};
    if (!jinja__eval_args(vm, &node->call.args, &call)) return jinja__undefined(NULL);
    vm->line = node->line;
    if (method) {
        call.name = method->name;
        return jinja__run_builtin(vm, method, self, &call);
    }
    if (caller && callee.kind == J_MACRO) return jinja__call_macro(vm, callee.macro, &call, caller);
    if (caller) return jinja__fail(vm, "a call block wants a macro");
    return jinja__call_value(vm, callee, &call);
}

jval jinja__eval_call_block(jvm *vm, const jnode *call, jval caller) {
    return eval_call(vm, call, &caller);
}

jval jinja__eval_filters(jvm *vm, const jnode *node, jval input) {
    if (node == NULL) return input;
    jval self = input;
    if (node->call.subject) {
        self = node->call.subject->kind == N_FILTER
                   ? jinja__eval_filters(vm, node->call.subject, input)
                   : jinja__eval(vm, node->call.subject);
    }
    jcall call = {.name = node->call.function->name};
    if (!jinja__eval_args(vm, &node->call.args, &call)) return jinja__undefined(NULL);
    vm->line = node->line;
    return jinja__run_builtin(vm, node->call.function, self, &call);
}

static jval eval_test(jvm *vm, const jnode *node) {
    jval self = jinja__eval(vm, node->call.subject);
    jcall call = {.name = node->call.function->name};
    if (!jinja__eval_args(vm, &node->call.args, &call)) return jinja__undefined(NULL);
    vm->line = node->line;
    jval value = jinja__run_builtin(vm, node->call.function, self, &call);
    return jinja__bool(jinja__true(value) != (node->op == 1));
}

/* ---- operators ---- */

static jval eval_sign(jvm *vm, const jnode *node) {
    jval value = jinja__eval(vm, node->operand);
    int64_t i;
    vm->line = node->line;
    if (value.kind == J_REAL)
        return jinja__with_client(jinja__real(node->kind == N_NEGATE ? -value.real : value.real),
                                  value.client);
    if (jinja__integer(value, &i))
        return jinja__binary(vm, node->kind == N_NEGATE ? OP_SUB : OP_ADD, jinja__int(0), value);
    if (jinja__check_defined(vm, value))
        jinja__fail(vm, "a sign stands before a %s", jinja__type(value));
    return jinja__undefined(NULL);
}

static jval eval_concat(jvm *vm, const jnode *node) {
    jstring *text = NULL;
    for (uint32_t i = 0; i < node->list.count && !vm->failed; i++) {
        jstring *next = jinja__str(vm, jinja__eval(vm, node->list.items[i]));
        text = i == 0 ? next : jinja__concat(vm, text, next);
    }
    if (text && text->safe) { /* the result of "~" is plain */
        text = jinja__part(vm, text, 0, text->len);
        if (text) text->safe = false;
    }
    return jinja__of_string(text);
}

static jval eval_compare(jvm *vm, const jnode *node) {
    const jnodes *operands = &node->compare.operands;
    jval left = jinja__eval(vm, operands->items[0]);
    for (uint32_t i = 1; i < operands->count && !vm->failed; i++) {
        jval right = jinja__eval(vm, operands->items[i]);
        vm->line = node->line;
        if (vm->failed || !jinja__compare(vm, (jop)node->compare.ops[i - 1], left, right))
            return jinja__bool(false);
        left = right;
    }
    return jinja__bool(true);
}

static jval eval_either(jvm *vm, const jnode *node) {
    jval left = jinja__eval(vm, node->binary.left);
    if (jinja__true(left) == (node->kind == N_OR)) return left;
    return jinja__eval(vm, node->binary.right);
}

static jval eval_binary(jvm *vm, const jnode *node) {
    jval left = jinja__eval(vm, node->binary.left), right = jinja__eval(vm, node->binary.right);
    vm->line = node->line;
    return jinja__binary(vm, (jop)node->op, left, right);
}

static jval eval_cond(jvm *vm, const jnode *node) {
    if (jinja__true(jinja__eval(vm, node->cond.test))) return jinja__eval(vm, node->cond.then);
    return node->cond.otherwise ? jinja__eval(vm, node->cond.otherwise) : jinja__undefined(node);
}

static jval eval_member(jvm *vm, const jnode *node) {
    if (node->kind == N_ATTR) {
        jval object = jinja__eval(vm, node->attr.object);
        vm->line = node->line;
        return jinja__attribute(vm, object, node->attr.name, node);
    }
    jval object = jinja__eval(vm, node->index.object), key = jinja__eval(vm, node->index.key);
    vm->line = node->line;
    return jinja__item(vm, object, key, node);
}

static jval eval_node(jvm *vm, const jnode *node) {
    switch ((jnode_kind)node->kind) {
    case N_CONST: return node->constant;
    case N_NAME: return jinja__lookup(vm, node->name, node);
    case N_LIST: return eval_list(vm, node, J_IS_LIST);
    case N_TUPLE: return eval_list(vm, node, J_IS_TUPLE);
    case N_DICT: return eval_dict(vm, node);
    case N_ATTR:
    case N_INDEX: return eval_member(vm, node);
    case N_SLICE: return eval_slice(vm, node);
    case N_CALL: return eval_call(vm, node, NULL);
    case N_FILTER: return jinja__eval_filters(vm, node, jinja__undefined(NULL));
    case N_TEST: return eval_test(vm, node);
    case N_NOT: return jinja__bool(!jinja__true(jinja__eval(vm, node->operand)));
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
    jval value = eval_node(vm, node);
    jinja__leave(vm);
    return vm->failed ? jinja__undefined(NULL) : value;
}

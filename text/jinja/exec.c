/* exec.c - statements: output, variables, loops, blocks and macros. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

/* ---- names ---- */

jscope *jinja__new_scope(jvm *vm, jscope *parent) {
    jscope *scope = jinja__alloc(vm, 1, sizeof *scope);
    if (scope) scope->parent = parent;
    return scope;
}

static jval *find_slot(const jscope *scope, uint32_t name) {
    for (uint32_t i = 0; i < scope->count; i++) {
        if (scope->slots[i].name == name) return &scope->slots[i].value;
    }
    return NULL;
}

/* A name the template did not set: a variable of the caller, or a function. */
static jval outer_value(jvm *vm, uint32_t name) {
    const char *text = vm->tmpl->names[name];
    for (size_t i = 0; i < vm->input->n_vars; i++) {
        const jinja_var *var = &vm->input->vars[i];
        if (strcmp(var->name, text) == 0) return jinja__from_json(vm, var->value, var->trusted);
    }
    const jfunction *func = jinja__find_global(text);
    return func ? (jval){.kind = J_FUNCTION, .function = func} : jinja__undefined(NULL);
}

jval jinja__lookup(jvm *vm, uint32_t name, const jnode *from) {
    for (const jscope *scope = vm->scope; scope; scope = scope->parent) {
        const jval *value = find_slot(scope, name);
        if (value)
            return value->kind == J_UNDEFINED && value->from == NULL ? jinja__undefined(from)
                                                                     : *value;
    }
    if (!vm->known[name]) {
        vm->globals[name] = outer_value(vm, name);
        vm->known[name] = true;
    }
    jval value = vm->globals[name];
    return value.kind == J_UNDEFINED && value.from == NULL ? jinja__undefined(from) : value;
}

void jinja__define(jvm *vm, uint32_t name, jval value) {
    jscope *scope = vm->scope;
    if (vm->failed) return;
    if (scope == NULL) {
        vm->globals[name] = value;
        vm->known[name] = true;
        return;
    }
    jval *there = find_slot(scope, name);
    if (there) {
        *there = value;
        return;
    }
    if (scope->count == scope->cap) {
        uint32_t cap = scope->cap ? scope->cap * 2 : 4;
        jslot *slots = jinja__alloc(vm, cap, sizeof *slots);
        if (slots == NULL) return;
        if (scope->count) memcpy(slots, scope->slots, scope->count * sizeof *slots);
        scope->slots = slots;
        scope->cap = cap;
    }
    scope->slots[scope->count++] = (jslot){name, value};
}

static void unpack(jvm *vm, const jnode *target, jval value) {
    const jlist *list = jinja__iterate(vm, value);
    if (list == NULL) return;
    if (list->count != target->list.count) {
        jinja__fail(vm, "%zu values are given to %u names", list->count,
                    (unsigned)target->list.count);
        return;
    }
    for (uint32_t i = 0; i < target->list.count; i++)
        jinja__assign(vm, target->list.items[i], list->items[i]);
}

void jinja__assign(jvm *vm, const jnode *target, jval value) {
    if (vm->failed) return;
    vm->line = target->line;
    if (target->kind == N_NAME) {
        jinja__define(vm, target->name, value);
    } else if (target->kind == N_TUPLE) {
        unpack(vm, target, value);
    } else {
        jval object = jinja__eval(vm, target->attr.object);
        if (object.kind != J_NAMESPACE) {
            jinja__fail(vm, "only members of a namespace can be set");
            return;
        }
        jstring *key = jinja__alloc(vm, 1, sizeof *key);
        if (key == NULL) return;
        *key = *target->attr.name;
        jinja__dict_set(vm, object.dict, jinja__of_string(key), value);
    }
}

/* ---- loops ---- */

/* The items of the loop that pass its `if`. */
static jlist *items_of(jvm *vm, const jnode *node) {
    jlist *all = jinja__iterate(vm, jinja__eval(vm, node->loop.iterable));
    if (all == NULL || node->loop.test == NULL) return all;
    jlist *kept = jinja__new_list(vm, 0);
    jscope *before = vm->scope, *scope = jinja__new_scope(vm, before);
    if (scope == NULL) return NULL;
    vm->scope = scope;
    for (size_t i = 0; i < all->count && !vm->failed; i++) {
        scope->count = 0;
        jinja__assign(vm, node->loop.target, all->items[i]);
        if (jinja__true(jinja__eval(vm, node->loop.test))) jinja__push(vm, kept, all->items[i]);
    }
    vm->scope = before;
    return kept;
}

/* The scope of one iteration: variables set in an iteration do not reach the next. */
static jscope *turn_scope(jvm *vm, jscope *scope, jscope *parent) {
    if (scope == NULL || scope->held) return jinja__new_scope(vm, parent);
    scope->count = 0;
    return scope;
}

static jflow run_for(jvm *vm, const jnode *node) {
    jlist *items = items_of(vm, node);
    if (items == NULL) return J_GO_ON;
    if (items->count == 0) {
        jscope *outside = vm->scope;
        vm->scope = jinja__new_scope(vm, outside);
        jflow flow = vm->scope ? jinja__run(vm, &node->loop.otherwise) : J_GO_ON;
        vm->scope = outside;
        return flow;
    }
    jloop *loop = jinja__alloc(vm, 1, sizeof *loop);
    if (loop == NULL) return J_GO_ON;
    loop->items = items;
    jscope *before = vm->scope, *scope = NULL;
    for (; loop->at < items->count && !vm->failed; loop->at++) {
        scope = turn_scope(vm, scope, before);
        if (scope == NULL) break;
        vm->scope = scope;
        jinja__define(vm, vm->tmpl->id_loop, (jval){.kind = J_LOOP, .loop = loop});
        jinja__assign(vm, node->loop.target, items->items[loop->at]);
        if (jinja__run(vm, &node->loop.body) == J_BREAK) break;
    }
    vm->scope = before;
    return J_GO_ON;
}

/* ---- blocks ---- */

jstring *jinja__capture(jvm *vm, const jnodes *body) {
    jwriter *outside = vm->out, *writer = jinja__new_writer(vm, 0);
    vm->out = writer;
    if (writer) (void)jinja__run(vm, body);
    vm->out = outside;
    return vm->failed ? NULL : jinja__written(vm, writer);
}

static jstring *capture_in_scope(jvm *vm, const jnodes *body) {
    jscope *before = vm->scope;
    vm->scope = jinja__new_scope(vm, before);
    jstring *text = vm->scope ? jinja__capture(vm, body) : NULL;
    vm->scope = before;
    return text;
}

static void run_set_block(jvm *vm, const jnode *node) {
    jval value = jinja__of_string(capture_in_scope(vm, &node->set.body));
    value = jinja__eval_filters(vm, node->set.value, value);
    jinja__assign(vm, node->set.target, value);
}

static void run_filter_block(jvm *vm, const jnode *node) {
    jval value = jinja__of_string(capture_in_scope(vm, &node->filter.body));
    jinja__write_value(vm, vm->out, jinja__eval_filters(vm, node->filter.filters, value));
}

static jval new_macro(jvm *vm, const jmacro_node *node) {
    jmacro *macro = jinja__alloc(vm, 1, sizeof *macro);
    if (macro == NULL) return jinja__undefined(NULL);
    *macro = (jmacro){node, vm->scope};
    for (jscope *scope = vm->scope; scope && !scope->held; scope = scope->parent)
        scope->held = true;
    return (jval){.kind = J_MACRO, .macro = macro};
}

static jflow run_with(jvm *vm, const jnode *node) {
    jscope *before = vm->scope, *scope = jinja__new_scope(vm, before);
    if (scope == NULL) return J_GO_ON;
    for (uint32_t i = 0; i < node->with.targets.count && !vm->failed; i++) {
        jval value = jinja__eval(vm, node->with.values.items[i]); /* in the outer scope */
        vm->scope = scope;
        jinja__assign(vm, node->with.targets.items[i], value);
        vm->scope = before;
    }
    vm->scope = scope;
    jflow flow = jinja__run(vm, &node->with.body);
    vm->scope = before;
    return flow;
}

static jflow run_scope(jvm *vm, const jnode *node) {
    jscope *before = vm->scope;
    vm->scope = jinja__new_scope(vm, before);
    jflow flow = vm->scope ? jinja__run(vm, &node->list) : J_GO_ON;
    vm->scope = before;
    return flow;
}

static jflow run_if(jvm *vm, const jnode *node) {
    uint32_t i = 0, n = node->branch.tests.count;
    while (i < n && !vm->failed && !jinja__true(jinja__eval(vm, node->branch.tests.items[i])))
        i++;
    return i < node->branch.n_bodies ? jinja__run(vm, &node->branch.bodies[i]) : J_GO_ON;
}

static jflow run_node(jvm *vm, const jnode *node) {
    switch ((jnode_kind)node->kind) {
    case N_TEXT: jinja__write_string(vm, vm->out, node->text); break;
    case N_PRINT: {
        jval value = jinja__eval(vm, node->operand);
        vm->line = node->line;
        jinja__write_value(vm, vm->out, value);
        break;
    }
    case N_IF: return run_if(vm, node);
    case N_FOR: return run_for(vm, node);
    case N_SET: jinja__assign(vm, node->set.target, jinja__eval(vm, node->set.value)); break;
    case N_SET_BLOCK: run_set_block(vm, node); break;
    case N_MACRO: jinja__define(vm, node->macro->name, new_macro(vm, node->macro)); break;
    case N_CALL_BLOCK:
        jinja__write_value(
            vm, vm->out,
            jinja__eval_call_block(vm, node->block.call, new_macro(vm, node->block.caller)));
        break;
    case N_FILTER_BLOCK: run_filter_block(vm, node); break;
    case N_WITH: return run_with(vm, node);
    case N_SCOPE: return run_scope(vm, node);
    case N_BREAK: return J_BREAK;
    case N_CONTINUE: return J_CONTINUE;
    default: break;
    }
    return J_GO_ON;
}

jflow jinja__run(jvm *vm, const jnodes *body) {
    jflow flow = J_GO_ON;
    if (!jinja__enter(vm)) return flow;
    for (uint32_t i = 0; i < body->count && flow == J_GO_ON && !vm->failed; i++) {
        vm->line = body->items[i]->line;
        if (!jinja__work(vm, 1)) break;
        flow = run_node(vm, body->items[i]);
    }
    jinja__leave(vm);
    return flow;
}

/* ---- macros ---- */

static void bind_rest(jvm *vm, const jmacro_node *macro, const jcall *call, size_t n_bound,
                      const jval *caller) {
    jlist *more = jinja__new_list(vm, 0);
    jdict *named = jinja__new_dict(vm);
    for (size_t i = n_bound; i < call->n_pos; i++)
        jinja__push(vm, more, call->pos[i]);
    for (size_t i = 0; i < call->n_named; i++) {
        bool known = false;
        for (uint32_t k = 0; k < macro->n_params && !known; k++)
            known = strcmp(vm->tmpl->names[macro->params[k].name], call->named[i].name) == 0;
        if (known) continue;
        if (!macro->uses_kwargs) {
            jinja__fail(vm, "the macro '%.60s' takes no argument '%.60s'",
                        vm->tmpl->names[macro->name], call->named[i].name);
            return;
        }
        jinja__dict_set(vm, named, jinja__text(vm, call->named[i].name), call->named[i].value);
    }
    if (more) more->form = J_IS_TUPLE;
    if (macro->uses_varargs) jinja__define(vm, vm->tmpl->id_varargs, jinja__of_list(more));
    if (macro->uses_kwargs) jinja__define(vm, vm->tmpl->id_kwargs, jinja__of_dict(named));
    if (macro->uses_caller)
        jinja__define(vm, vm->tmpl->id_caller, caller ? *caller : jinja__undefined(NULL));
}

static void bind(jvm *vm, const jmacro_node *macro, const jcall *call, const jval *caller) {
    if (call->n_pos > macro->n_params && !macro->uses_varargs) {
        jinja__fail(vm, "the macro '%.60s' takes %u arguments, not %zu",
                    vm->tmpl->names[macro->name], (unsigned)macro->n_params, call->n_pos);
        return;
    }
    size_t n_bound = call->n_pos < macro->n_params ? call->n_pos : macro->n_params;
    for (uint32_t i = 0; i < macro->n_params && !vm->failed; i++) {
        jval value = jinja__undefined(NULL);
        const char *name = vm->tmpl->names[macro->params[i].name];
        bool given = jinja__arg(call, i, name, &value);
        if (i < call->n_pos && jinja__arg(call, SIZE_MAX, name, &value))
            jinja__fail(vm, "the argument '%.60s' is given twice", name);
        if (!given && macro->params[i].value) value = jinja__eval(vm, macro->params[i].value);
        jinja__define(vm, macro->params[i].name, value);
    }
    bind_rest(vm, macro, call, n_bound, caller);
}

jval jinja__call_macro(jvm *vm, const jmacro *macro, const jcall *call, const jval *caller) {
    jscope *before = vm->scope;
    if (!jinja__enter(vm)) return jinja__undefined(NULL);
    vm->scope = jinja__new_scope(vm, macro->scope);
    jval value = jinja__undefined(NULL);
    if (vm->scope) {
        bind(vm, macro->node, call, caller);
        value = jinja__of_string(vm->failed ? NULL : jinja__capture(vm, &macro->node->body));
    }
    vm->scope = before;
    jinja__leave(vm);
    return value;
}

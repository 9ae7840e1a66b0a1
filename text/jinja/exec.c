/* exec.c - statements: what a template prints, remembers, and does again. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

/* ---- names ---- */

jscope *jinja__new_scope(jvm *vm, jscope *parent) {
    jscope *scope = jinja__alloc(vm, 1, sizeof *scope);
    if (scope) scope->parent = parent;
    return scope;
}

static jval *find_slot(const jscope *scope, uint32_t name) {
    for (uint32_t i = 0; i < scope->n; i++) {
        if (scope->slots[i].name == name) return &scope->slots[i].value;
    }
    return NULL;
}

/* A name that the template did not set: a variable of the caller, or a function. */
static jval outer(jvm *vm, uint32_t name) {
    const char *text = vm->t->names[name];
    for (size_t i = 0; i < vm->in->n_vars; i++) {
        const jinja_var *var = &vm->in->vars[i];
        if (strcmp(var->name, text) == 0) return jinja__from_json(vm, var->value, var->trusted);
    }
    const jfunction *f = jinja__find_global(text);
    return f ? (jval){.kind = J_FUNCTION, .u.function = f} : jinja__undefined(NULL);
}

jval jinja__lookup(jvm *vm, uint32_t name, const jnode *from) {
    for (const jscope *scope = vm->scope; scope; scope = scope->parent) {
        const jval *v = find_slot(scope, name);
        if (v) return v->kind == J_UNDEFINED && v->u.from == NULL ? jinja__undefined(from) : *v;
    }
    if (!vm->known[name]) {
        vm->globals[name] = outer(vm, name);
        vm->known[name] = true;
    }
    jval v = vm->globals[name];
    return v.kind == J_UNDEFINED && v.u.from == NULL ? jinja__undefined(from) : v;
}

void jinja__define(jvm *vm, uint32_t name, jval v) {
    jscope *scope = vm->scope;
    if (vm->failed) return;
    if (scope == NULL) {
        vm->globals[name] = v;
        vm->known[name] = true;
        return;
    }
    jval *there = find_slot(scope, name);
    if (there) {
        *there = v;
        return;
    }
    if (scope->n == scope->cap) {
        uint32_t cap = scope->cap ? scope->cap * 2 : 4;
        jslot *slots = jinja__alloc(vm, cap, sizeof *slots);
        if (slots == NULL) return;
        if (scope->n) memcpy(slots, scope->slots, scope->n * sizeof *slots);
        scope->slots = slots;
        scope->cap = cap;
    }
    scope->slots[scope->n++] = (jslot){name, v};
}

static void unpack(jvm *vm, const jnode *target, jval v) {
    const jlist *list = jinja__iterate(vm, v);
    if (list == NULL) return;
    if (list->n != target->u.list.n) {
        jinja__fail(vm, "%zu values are given to %u names", list->n, (unsigned)target->u.list.n);
        return;
    }
    for (uint32_t i = 0; i < target->u.list.n; i++)
        jinja__assign(vm, target->u.list.items[i], list->items[i]);
}

void jinja__assign(jvm *vm, const jnode *target, jval v) {
    if (vm->failed) return;
    vm->line = target->line;
    if (target->kind == N_NAME) {
        jinja__define(vm, target->u.name, v);
    } else if (target->kind == N_TUPLE) {
        unpack(vm, target, v);
    } else {
        jval of = jinja__eval(vm, target->u.attr.of);
        if (of.kind != J_NAMESPACE) {
            jinja__fail(vm, "only members of a namespace can be set");
            return;
        }
        jstring *key = jinja__alloc(vm, 1, sizeof *key);
        if (key == NULL) return;
        *key = *target->u.attr.name;
        jinja__dict_set(vm, of.u.dict, jinja__of_string(key), v);
    }
}

/* ---- loops ---- */

/* Everything the loop goes through, as `if` of its head leaves it. */
static jlist *items_of(jvm *vm, const jnode *node) {
    jlist *all = jinja__iterate(vm, jinja__eval(vm, node->u.loop.in));
    if (all == NULL || node->u.loop.test == NULL) return all;
    jlist *kept = jinja__new_list(vm, 0);
    jscope *before = vm->scope, *scope = jinja__new_scope(vm, before);
    if (scope == NULL) return NULL;
    vm->scope = scope;
    for (size_t i = 0; i < all->n && !vm->failed; i++) {
        scope->n = 0;
        jinja__assign(vm, node->u.loop.target, all->items[i]);
        if (jinja__true(jinja__eval(vm, node->u.loop.test))) jinja__push(vm, kept, all->items[i]);
    }
    vm->scope = before;
    return kept;
}

/* A scope of its own for every turn, so that what one sets is not there in the next. */
static jscope *fresh(jvm *vm, jscope *scope, jscope *parent) {
    if (scope == NULL || scope->held) return jinja__new_scope(vm, parent);
    scope->n = 0;
    return scope;
}

static jflow run_for(jvm *vm, const jnode *node) {
    jlist *items = items_of(vm, node);
    if (items == NULL) return J_GO_ON;
    if (items->n == 0) {
        jscope *outside = vm->scope;
        vm->scope = jinja__new_scope(vm, outside);
        jflow flow = vm->scope ? jinja__run(vm, &node->u.loop.otherwise) : J_GO_ON;
        vm->scope = outside;
        return flow;
    }
    jloop *loop = jinja__alloc(vm, 1, sizeof *loop);
    if (loop == NULL) return J_GO_ON;
    loop->items = items;
    loop->depth = 1;
    jscope *before = vm->scope, *scope = NULL;
    for (; loop->at < items->n && !vm->failed; loop->at++) {
        scope = fresh(vm, scope, before);
        if (scope == NULL) break;
        vm->scope = scope;
        jinja__define(vm, vm->t->id_loop, (jval){.kind = J_LOOP, .u.loop = loop});
        jinja__assign(vm, node->u.loop.target, items->items[loop->at]);
        if (jinja__run(vm, &node->u.loop.body) == J_BREAK) break;
    }
    vm->scope = before;
    return J_GO_ON;
}

/* ---- blocks ---- */

jstring *jinja__capture(jvm *vm, const jnodes *body) {
    jwriter *outside = vm->out, *w = jinja__new_writer(vm, 0);
    vm->out = w;
    if (w) (void)jinja__run(vm, body);
    vm->out = outside;
    return vm->failed ? NULL : jinja__written(vm, w);
}

static jstring *capture_in_scope(jvm *vm, const jnodes *body) {
    jscope *before = vm->scope;
    vm->scope = jinja__new_scope(vm, before);
    jstring *s = vm->scope ? jinja__capture(vm, body) : NULL;
    vm->scope = before;
    return s;
}

static void run_set_block(jvm *vm, const jnode *node) {
    jval v = jinja__of_string(capture_in_scope(vm, &node->u.set.body));
    v = jinja__eval_filters(vm, node->u.set.value, v);
    jinja__assign(vm, node->u.set.target, v);
}

static void run_filter_block(jvm *vm, const jnode *node) {
    jval v = jinja__of_string(capture_in_scope(vm, &node->u.filter.body));
    jinja__write_value(vm, vm->out, jinja__eval_filters(vm, node->u.filter.filters, v));
}

static jval new_macro(jvm *vm, const jmacro_node *node) {
    jmacro *m = jinja__alloc(vm, 1, sizeof *m);
    if (m == NULL) return jinja__undefined(NULL);
    *m = (jmacro){node, vm->scope};
    for (jscope *scope = vm->scope; scope && !scope->held; scope = scope->parent)
        scope->held = true;
    return (jval){.kind = J_MACRO, .u.macro = m};
}

static jflow run_with(jvm *vm, const jnode *node) {
    jscope *before = vm->scope, *scope = jinja__new_scope(vm, before);
    if (scope == NULL) return J_GO_ON;
    for (uint32_t i = 0; i < node->u.with.targets.n && !vm->failed; i++) {
        jval v = jinja__eval(vm, node->u.with.values.items[i]); /* sees what is outside */
        vm->scope = scope;
        jinja__assign(vm, node->u.with.targets.items[i], v);
        vm->scope = before;
    }
    vm->scope = scope;
    jflow flow = jinja__run(vm, &node->u.with.body);
    vm->scope = before;
    return flow;
}

static jflow run_scope(jvm *vm, const jnode *node) {
    jscope *before = vm->scope;
    vm->scope = jinja__new_scope(vm, before);
    jflow flow = vm->scope ? jinja__run(vm, &node->u.list) : J_GO_ON;
    vm->scope = before;
    return flow;
}

static jflow run_if(jvm *vm, const jnode *node) {
    uint32_t i = 0, n = node->u.branch.tests.n;
    while (i < n && !vm->failed && !jinja__true(jinja__eval(vm, node->u.branch.tests.items[i])))
        i++;
    return i < node->u.branch.n_bodies ? jinja__run(vm, &node->u.branch.bodies[i]) : J_GO_ON;
}

static jflow run_node(jvm *vm, const jnode *node) {
    switch ((jnode_kind)node->kind) {
    case N_TEXT: jinja__write_string(vm, vm->out, node->u.text); break;
    case N_PRINT: {
        jval v = jinja__eval(vm, node->u.of);
        vm->line = node->line;
        jinja__write_value(vm, vm->out, v);
        break;
    }
    case N_IF: return run_if(vm, node);
    case N_FOR: return run_for(vm, node);
    case N_SET: jinja__assign(vm, node->u.set.target, jinja__eval(vm, node->u.set.value)); break;
    case N_SET_BLOCK: run_set_block(vm, node); break;
    case N_MACRO: jinja__define(vm, node->u.macro->name, new_macro(vm, node->u.macro)); break;
    case N_CALL_BLOCK:
        jinja__write_value(
            vm, vm->out,
            jinja__eval_call_block(vm, node->u.block.call, new_macro(vm, node->u.block.caller)));
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
    for (uint32_t i = 0; i < body->n && flow == J_GO_ON && !vm->failed; i++) {
        vm->line = body->items[i]->line;
        if (!jinja__work(vm, 1)) break;
        flow = run_node(vm, body->items[i]);
    }
    jinja__leave(vm);
    return flow;
}

/* ---- macros ---- */

static void bind_rest(jvm *vm, const jmacro_node *m, const jcall *call, size_t n_bound,
                      const jval *caller) {
    jlist *more = jinja__new_list(vm, 0);
    jdict *named = jinja__new_dict(vm);
    for (size_t i = n_bound; i < call->n_pos; i++)
        jinja__push(vm, more, call->pos[i]);
    for (size_t i = 0; i < call->n_named; i++) {
        bool known = false;
        for (uint32_t k = 0; k < m->n_params && !known; k++)
            known = strcmp(vm->t->names[m->params[k].name], call->named[i].name) == 0;
        if (known) continue;
        if (!m->uses_kwargs) {
            jinja__fail(vm, "the macro '%.60s' takes no argument '%.60s'", vm->t->names[m->name],
                        call->named[i].name);
            return;
        }
        jinja__dict_set(vm, named, jinja__text(vm, call->named[i].name), call->named[i].value);
    }
    if (more) more->form = J_IS_TUPLE;
    if (m->uses_varargs) jinja__define(vm, vm->t->id_varargs, jinja__of_list(more));
    if (m->uses_kwargs) jinja__define(vm, vm->t->id_kwargs, jinja__of_dict(named));
    if (m->uses_caller)
        jinja__define(vm, vm->t->id_caller, caller ? *caller : jinja__undefined(NULL));
}

static void bind(jvm *vm, const jmacro_node *m, const jcall *call, const jval *caller) {
    if (call->n_pos > m->n_params && !m->uses_varargs) {
        jinja__fail(vm, "the macro '%.60s' takes %u arguments, not %zu", vm->t->names[m->name],
                    (unsigned)m->n_params, call->n_pos);
        return;
    }
    size_t n_bound = call->n_pos < m->n_params ? call->n_pos : m->n_params;
    for (uint32_t i = 0; i < m->n_params && !vm->failed; i++) {
        jval v = jinja__undefined(NULL);
        const char *name = vm->t->names[m->params[i].name];
        bool given = jinja__arg(call, i, name, &v);
        if (i < call->n_pos && jinja__arg(call, SIZE_MAX, name, &v))
            jinja__fail(vm, "the argument '%.60s' is given twice", name);
        if (!given && m->params[i].value) v = jinja__eval(vm, m->params[i].value);
        jinja__define(vm, m->params[i].name, v);
    }
    bind_rest(vm, m, call, n_bound, caller);
}

jval jinja__call_macro(jvm *vm, const jmacro *m, const jcall *call, const jval *caller) {
    jscope *before = vm->scope;
    if (!jinja__enter(vm)) return jinja__undefined(NULL);
    vm->scope = jinja__new_scope(vm, m->scope);
    jval v = jinja__undefined(NULL);
    if (vm->scope) {
        bind(vm, m->node, call, caller);
        v = jinja__of_string(vm->failed ? NULL : jinja__capture(vm, &m->node->body));
    }
    vm->scope = before;
    jinja__leave(vm);
    return v;
}

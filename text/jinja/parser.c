/* parser.c - tokens into the tree of a template: statements, names, and what all of it counts. */
#include "text/jinja/jinja_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NODE_BYTES = 128 << 20 /* the tree of the longest template stays far below */ };

/* ---- failures and memory ---- */

/* Every loop of the parser ends at the last token. */
static void give_up(jparser *p) {
    p->failed = true;
    if (p->n > 0) p->at = p->n - 1;
}

void *jinja__syntax(jparser *p, uint32_t line, const char *fmt, ...) {
    char text[300];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!p->failed)
        err_set(p->e, ERR_BAD_FILE, NULL, "%s: chat template, line %u: %s", p->t->what,
                (unsigned)line, text);
    give_up(p);
    return NULL;
}

void *jinja__node_memory(jparser *p, size_t n, size_t each) {
    const arena *nodes = &p->t->nodes;
    void *out = p->failed ? NULL : arena_array(&p->t->nodes, n ? n : 1, each);
    if (out == NULL && !p->failed) {
        if (n * each + 16 > nodes->max - nodes->used) /* n and each are bounded by the template */
            return jinja__syntax(p, p->n ? jinja__token(p)->line : 1, "it is too large");
        err_set(p->e, ERR_NO_MEMORY, NULL, "%s: out of memory", p->t->what);
        give_up(p);
    }
    return out;
}

jnode *jinja__new_node(jparser *p, jnode_kind kind, uint32_t line) {
    jnode *node = jinja__node_memory(p, 1, sizeof *node);
    if (node == NULL) return NULL;
    node->kind = (uint8_t)kind;
    node->line = line;
    node->height = 1;
    return node;
}

void jinja__above(jparser *p, jnode *parent, const jnode *child) {
    if (child == NULL || parent == NULL || child->height < parent->height) return;
    parent->height = (uint16_t)(child->height + 1);
    if (parent->height > JINJA__MAX_HEIGHT)
        jinja__syntax(p, parent->line, "it is nested more than %d deep", JINJA__MAX_HEIGHT);
}

/* The room doubles whenever the number is a power of two. */
void *jinja__grown(jparser *p, const void *items, uint32_t n, size_t each) {
    if (n & (n - 1)) return (void *)(uintptr_t)items;
    void *grown = jinja__node_memory(p, n ? 2 * (size_t)n : 1, each);
    if (grown && n) memcpy(grown, items, n * each);
    return grown;
}

bool jinja__push_node(jparser *p, jnodes *list, jnode *node) {
    if (node == NULL || p->failed) return false;
    jnode **grown = jinja__grown(p, list->items, list->n, sizeof(jnode *));
    if (grown == NULL) return false;
    list->items = grown;
    list->items[list->n++] = node;
    return true;
}

static bool grow_names(jparser *p) {
    jinja *t = p->t;
    if (t->n_names < t->cap_names) return true;
    uint32_t cap = t->cap_names ? t->cap_names * 2 : 64;
    const char **names = jinja__node_memory(p, cap, sizeof *names);
    bool *read = jinja__node_memory(p, cap, sizeof *read);
    if (names == NULL || read == NULL) return false;
    if (t->n_names) {
        memcpy(names, t->names, t->n_names * sizeof *names);
        memcpy(read, t->read, t->n_names * sizeof *read);
    }
    t->names = names;
    t->read = read;
    t->cap_names = cap;
    return true;
}

/* 0, the id of the first name, where the parser failed. */
uint32_t jinja__name_id(jparser *p, const char *s, size_t n) {
    jinja *t = p->t;
    for (uint32_t i = 0; i < t->n_names; i++) {
        if (strncmp(t->names[i], s, n) == 0 && t->names[i][n] == 0) return i;
    }
    if (t->n_names == JINJA__MAX_NAMES) {
        jinja__syntax(p, jinja__token(p)->line, "it has more than %d names", JINJA__MAX_NAMES);
        return 0;
    }
    if (p->failed || !grow_names(p)) return 0;
    char *copy = jinja__node_memory(p, n + 1, 1);
    if (copy == NULL) return 0;
    memcpy(copy, s, n);
    t->names[t->n_names] = copy;
    return t->n_names++;
}

/* ---- tokens ---- */

const jtoken *jinja__token(const jparser *p) {
    return &p->tokens[p->at];
}

static bool is(const jparser *p, jtoken_kind kind, const char *text) {
    const jtoken *t = jinja__token(p);
    return t->kind == kind && strlen(text) == t->n && memcmp(t->s, text, t->n) == 0;
}

bool jinja__is_op(const jparser *p, const char *op) {
    return is(p, T_OP, op);
}
bool jinja__is_name(const jparser *p, const char *name) {
    return is(p, T_NAME, name);
}

static bool skip(jparser *p, jtoken_kind kind, const char *text) {
    if (p->failed || !is(p, kind, text)) return false;
    p->at++;
    return true;
}

bool jinja__skip_op(jparser *p, const char *op) {
    return skip(p, T_OP, op);
}
bool jinja__skip_name(jparser *p, const char *name) {
    return skip(p, T_NAME, name);
}

void jinja__describe(const jtoken *t, char *out, size_t room) {
    static const char *const what[] = {[T_END] = "the end of the template",
                                       [T_TEXT] = "text",
                                       [T_PRINT_BEGIN] = "'{{'",
                                       [T_PRINT_END] = "'}}'",
                                       [T_BLOCK_BEGIN] = "'{%'",
                                       [T_BLOCK_END] = "'%}'",
                                       [T_STRING] = "a string"};
    if (t->kind == T_NAME || t->kind == T_OP || t->kind == T_INT || t->kind == T_REAL)
        (void)snprintf(out, room, "'%.*s'", (int)(t->n < 60 ? t->n : 60), t->s);
    else (void)snprintf(out, room, "%s", what[t->kind]);
}

void *jinja__unexpected(jparser *p, const char *wanted) {
    char got[80];
    const jtoken *t = jinja__token(p);
    jinja__describe(t, got, sizeof got);
    return jinja__syntax(p, t->line, "%s was expected, not %s", wanted, got);
}

bool jinja__expect_op(jparser *p, const char *op) {
    if (jinja__skip_op(p, op)) return true;
    char wanted[8];
    (void)snprintf(wanted, sizeof wanted, "'%s'", op);
    jinja__unexpected(p, wanted);
    return false;
}

static bool block_end(jparser *p) {
    if (jinja__token(p)->kind != T_BLOCK_END || p->failed) {
        jinja__unexpected(p, "'%}'");
        return false;
    }
    p->at++;
    return true;
}

/* ---- statements ---- */

static bool statements(jparser *p, jnodes *body, jnode *parent, const char *const *ends);

/* The body of a tag, from behind its '%}' to behind "{% END", whose name comes back. */
static bool body_until(jparser *p, jnodes *body, jnode *parent, const char *const *ends) {
    return block_end(p) && statements(p, body, parent, ends);
}

/* The body of a block whose text goes elsewhere: no way leads out of it into a loop around. */
static bool closed_body(jparser *p, jnodes *body, jnode *parent, const char *const *ends) {
    uint32_t loops = p->loops;
    p->loops = 0;
    bool ok = body_until(p, body, parent, ends);
    p->loops = loops;
    return ok;
}

static const char *const end_if[] = {"elif", "else", "endif", NULL};
static const char *const end_if_else[] = {"endif", NULL};

static bool add_branch(jparser *p, jnode *node, jnode *test, const char *const *ends) {
    uint32_t n = node->u.branch.n_bodies;
    jnodes *bodies = jinja__grown(p, node->u.branch.bodies, n, sizeof *bodies);
    if (bodies == NULL) return false;
    node->u.branch.bodies = bodies;
    if (test && !jinja__push_node(p, &node->u.branch.tests, test)) return false;
    jinja__above(p, node, test);
    node->u.branch.n_bodies = n + 1;
    return body_until(p, &bodies[n], node, ends);
}

static jnode *if_statement(jparser *p, uint32_t line) {
    jnode *node = jinja__new_node(p, N_IF, line);
    do {
        jnode *test = jinja__expressions(p, true);
        if (node == NULL || test == NULL || !add_branch(p, node, test, end_if)) return NULL;
    } while (jinja__skip_name(p, "elif"));
    if (jinja__skip_name(p, "else") && !add_branch(p, node, NULL, end_if_else)) return NULL;
    p->at++; /* endif */
    return node;
}

static jnode *for_statement(jparser *p, uint32_t line) {
    static const char *const end_body[] = {"else", "endfor", NULL}, *const end_else[] = {"endfor",
                                                                                         NULL};
    jnode *node = jinja__new_node(p, N_FOR, line);
    if (node == NULL || (node->u.loop.target = jinja__target(p, false, false)) == NULL) return NULL;
    if (!jinja__skip_name(p, "in")) return jinja__unexpected(p, "'in'");
    node->u.loop.in = jinja__expressions(p, false);
    if (jinja__skip_name(p, "if")) node->u.loop.test = jinja__expression(p);
    if (jinja__is_name(p, "recursive"))
        return jinja__syntax(p, line, "a recursive 'for' is not supported");
    jinja__above(p, node, node->u.loop.target);
    jinja__above(p, node, node->u.loop.in);
    jinja__above(p, node, node->u.loop.test);
    p->loops++;
    bool ok = body_until(p, &node->u.loop.body, node, end_body);
    p->loops--;
    if (!ok) return NULL;
    if (jinja__skip_name(p, "else") && !body_until(p, &node->u.loop.otherwise, node, end_else))
        return NULL;
    p->at++;
    return node;
}

static jnode *set_statement(jparser *p, uint32_t line) {
    static const char *const ends[] = {"endset", NULL};
    jnode *target = jinja__target(p, false, true);
    bool value = jinja__skip_op(p, "=");
    jnode *node = jinja__new_node(p, value ? N_SET : N_SET_BLOCK, line);
    if (target == NULL || node == NULL) return NULL;
    node->u.set.target = target;
    jinja__above(p, node, target);
    if (value) {
        node->u.set.value = jinja__expressions(p, true);
        jinja__above(p, node, node->u.set.value);
        return node;
    }
    if (jinja__skip_op(p, "|")) node->u.set.value = jinja__filters(p, NULL);
    jinja__above(p, node, node->u.set.value);
    if (!closed_body(p, &node->u.set.body, node, ends)) return NULL;
    p->at++;
    return node;
}

/* (a, b=1) */
static bool params(jparser *p, jmacro_node *m, jnode *node) {
    if (!jinja__expect_op(p, "(")) return false;
    while (!jinja__skip_op(p, ")")) {
        if (m->n_params > 0 && !jinja__expect_op(p, ",")) return false;
        jnode *name = jinja__target(p, true, false);
        jparam *grown = jinja__grown(p, m->params, m->n_params, sizeof *grown);
        if (name == NULL || grown == NULL) return false;
        jparam *param = &grown[m->n_params++];
        m->params = grown;
        param->name = name->u.name;
        if (jinja__skip_op(p, "=")) {
            param->value = jinja__expression(p);
            jinja__above(p, node, param->value);
        } else if (m->n_params > 1 && param[-1].value) {
            jinja__syntax(p, name->line,
                          "a parameter without a default stands behind one with one");
        }
        if (p->failed) return false;
    }
    return true;
}

/* Parameters and body of a macro or a call block. */
static bool macro_rest(jparser *p, jmacro_node *m, jnode *node, jnode *call, const char *end) {
    const char *const ends[] = {end, NULL};
    jmacro_node *outer = p->macro;
    uint32_t loops = p->loops;
    if (call) { /* the call itself belongs to what stands around */
        if (jinja__is_op(p, "(") && !params(p, m, node)) return false;
        call->u.block.call = jinja__expression(p);
        if (call->u.block.call && call->u.block.call->kind != N_CALL) {
            jinja__syntax(p, call->line, "'call' wants a call");
            return false;
        }
        jinja__above(p, node, call->u.block.call);
    }
    p->macro = m;
    p->loops = 0;
    bool ok = (call || params(p, m, node)) && body_until(p, &m->body, node, ends);
    p->macro = outer;
    p->loops = loops;
    if (outer && m->uses_caller) outer->uses_caller |= call != NULL;
    return ok;
}

static jnode *macro_statement(jparser *p, uint32_t line) {
    jnode *node = jinja__new_node(p, N_MACRO, line), *name = jinja__target(p, true, false);
    jmacro_node *m = jinja__node_memory(p, 1, sizeof *m);
    if (node == NULL || name == NULL || m == NULL) return NULL;
    m->name = name->u.name;
    node->u.macro = m;
    if (!macro_rest(p, m, node, NULL, "endmacro")) return NULL;
    p->at++;
    return node;
}

static jnode *call_statement(jparser *p, uint32_t line) {
    jnode *node = jinja__new_node(p, N_CALL_BLOCK, line);
    jmacro_node *m = jinja__node_memory(p, 1, sizeof *m);
    if (node == NULL || m == NULL) return NULL;
    m->name = p->t->id_caller;
    node->u.block.caller = m;
    if (!macro_rest(p, m, node, node, "endcall")) return NULL;
    p->at++;
    return node;
}

static jnode *filter_statement(jparser *p, uint32_t line) {
    static const char *const ends[] = {"endfilter", NULL};
    jnode *node = jinja__new_node(p, N_FILTER_BLOCK, line);
    if (node == NULL || (node->u.filter.filters = jinja__filters(p, NULL)) == NULL) return NULL;
    jinja__above(p, node, node->u.filter.filters);
    if (!closed_body(p, &node->u.filter.body, node, ends)) return NULL;
    p->at++;
    return node;
}

static jnode *with_statement(jparser *p, uint32_t line) {
    static const char *const ends[] = {"endwith", NULL};
    jnode *node = jinja__new_node(p, N_WITH, line);
    while (node && jinja__token(p)->kind != T_BLOCK_END && !p->failed) {
        if (node->u.with.targets.n > 0 && !jinja__expect_op(p, ",")) return NULL;
        jnode *target = jinja__target(p, true, false);
        if (!jinja__push_node(p, &node->u.with.targets, target) || !jinja__expect_op(p, "="))
            return NULL;
        jnode *value = jinja__expression(p);
        if (!jinja__push_node(p, &node->u.with.values, value)) return NULL;
        jinja__above(p, node, value);
    }
    if (node == NULL || !body_until(p, &node->u.with.body, node, ends)) return NULL;
    p->at++;
    return node;
}

/* Marks what the model said, for training: its text is text like any other. */
static jnode *generation_statement(jparser *p, uint32_t line) {
    static const char *const ends[] = {"endgeneration", NULL};
    jnode *node = jinja__new_node(p, N_SCOPE, line);
    if (node == NULL || !closed_body(p, &node->u.list, node, ends)) return NULL;
    p->at++;
    return node;
}

static jnode *leave_loop(jparser *p, uint32_t line, jnode_kind kind) {
    if (p->loops == 0)
        return jinja__syntax(p, line, "'%s' stands outside of a loop",
                             kind == N_BREAK ? "break" : "continue");
    return jinja__new_node(p, kind, line);
}

static jnode *break_statement(jparser *p, uint32_t line) {
    return leave_loop(p, line, N_BREAK);
}

static jnode *continue_statement(jparser *p, uint32_t line) {
    return leave_loop(p, line, N_CONTINUE);
}

static jnode *print_statement(jparser *p, uint32_t line) {
    jnode *of = jinja__expressions(p, true), *node = jinja__new_node(p, N_PRINT, line);
    if (of == NULL || node == NULL) return NULL;
    node->u.of = of;
    jinja__above(p, node, of);
    return node;
}

static jnode *statement(jparser *p) {
    static const struct {
        const char *name;
        jnode *(*read)(jparser *p, uint32_t line);
    } tags[] = {
        {"if", if_statement},       {"for", for_statement},
        {"set", set_statement},     {"macro", macro_statement},
        {"call", call_statement},   {"filter", filter_statement},
        {"with", with_statement},   {"generation", generation_statement},
        {"break", break_statement}, {"continue", continue_statement},
        {"print", print_statement},
    };
    const jtoken *t = jinja__token(p);
    for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
        if (!jinja__skip_name(p, tags[i].name)) continue;
        jnode *node = tags[i].read(p, t->line);
        return node && block_end(p) ? node : NULL;
    }
    if (t->kind != T_NAME) return jinja__unexpected(p, "the name of a tag");
    return jinja__syntax(p, t->line, "the tag '%.*s' is not supported here",
                         (int)(t->n < 60 ? t->n : 60), t->s);
}

static jnode *text_node(jparser *p) {
    const jtoken *t = jinja__token(p);
    jnode *node = jinja__new_node(p, N_TEXT, t->line);
    jstring *s = jinja__node_memory(p, 1, sizeof *s);
    if (node == NULL || s == NULL) return NULL;
    *s = (jstring){.s = t->s, .n = t->n, .chars = SIZE_MAX, .trusted = true};
    node->u.text = s;
    p->at++;
    return jinja__push_node(p, &p->t->texts, node) ? node : NULL;
}

static jnode *print(jparser *p) {
    uint32_t line = jinja__token(p)->line;
    p->at++;
    jnode *node = print_statement(p, line);
    if (node && jinja__token(p)->kind != T_PRINT_END) return jinja__unexpected(p, "'}}'");
    p->at += node != NULL;
    return node;
}

static bool ends_here(const jparser *p, const char *const *ends) {
    for (; *ends; ends++) {
        if (jinja__is_name(p, *ends)) return true;
    }
    return false;
}

/* Up to the name of one of `ends` behind its "{%"; with NULL, up to the end of the template. */
static bool statements(jparser *p, jnodes *body, jnode *parent, const char *const *ends) {
    if (++p->depth > JINJA__MAX_HEIGHT) {
        jinja__syntax(p, jinja__token(p)->line, "it is nested more than %d deep",
                      JINJA__MAX_HEIGHT);
        return false;
    }
    while (!p->failed) {
        const jtoken *t = jinja__token(p);
        jnode *node = NULL;
        if (t->kind == T_END) {
            if (ends == NULL) break;
            while (ends[1])
                ends++;
            jinja__syntax(p, parent->line, "a tag has no '%s'", ends[0]);
        } else if (t->kind == T_TEXT) {
            node = text_node(p);
        } else if (t->kind == T_PRINT_BEGIN) {
            node = print(p);
        } else {
            p->at++;
            if (ends && ends_here(p, ends)) break;
            node = statement(p);
        }
        jinja__above(p, parent, node);
        if (!jinja__push_node(p, body, node)) break;
    }
    p->depth--;
    return !p->failed;
}

/* ---- the module ---- */

static int parse(jparser *p, const char *text, size_t n) {
    jinja *t = p->t;
    p->tokens = NULL;
    if (jinja__lex(p, text, n) != 0) return -1;
    t->id_loop = jinja__name_id(p, "loop", 4);
    t->id_caller = jinja__name_id(p, "caller", 6);
    t->id_varargs = jinja__name_id(p, "varargs", 7);
    t->id_kwargs = jinja__name_id(p, "kwargs", 6);
    return statements(p, &t->body, NULL, NULL) ? 0 : -1;
}

int jinja_parse(jinja **out, const char *text, size_t n, const char *what, err *e) {
    *out = NULL;
    jinja *t = calloc(1, sizeof *t);
    if (t == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory", what);
    arena_init(&t->nodes, NODE_BYTES);
    t->what = what;
    jparser p = {.t = t, .e = e};
    int rc = parse(&p, text, n);
    free(p.tokens);
    t->what = NULL;
    if (rc != 0) {
        jinja_close(t);
        return -1;
    }
    *out = t;
    return 0;
}

void jinja_close(jinja *t) {
    if (t == NULL) return;
    arena_deinit(&t->nodes);
    free(t);
}

bool jinja_uses(const jinja *t, const char *name) {
    for (uint32_t i = 0; i < t->n_names; i++) {
        if (t->read[i] && strcmp(t->names[i], name) == 0) return true;
    }
    return false;
}

void jinja_each_text(const jinja *t, void (*fn)(void *ud, const char *text, size_t n), void *ud) {
    for (uint32_t i = 0; i < t->texts.n; i++) {
        const jnode *node = t->texts.items[i];
        const jstring *s = node->kind == N_TEXT ? node->u.text : node->u.constant.u.s;
        fn(ud, s->s, s->n);
    }
}

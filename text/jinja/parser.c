/* parser.c - builds the tree of a template from its tokens: statements, names, and the limits. */
#include "text/jinja/parse_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NODE_BYTES = 128 << 20 /* the tree of the longest template stays far below */ };

/* ---- failures and memory ---- */

/* Jumps to the last token, T_END, so every loop of the parser ends. */
static void give_up(jparser *parser) {
    parser->failed = true;
    if (parser->n_tokens > 0) parser->at = parser->n_tokens - 1;
}

void *jinja__syntax(jparser *parser, uint32_t line, const char *fmt, ...) {
    char text[300];
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (!parser->failed)
        err_set(parser->error, ERR_BAD_FILE, NULL, "%s: chat template, line %u: %s",
                parser->tmpl->source, (unsigned)line, text);
    give_up(parser);
    return NULL;
}

void *jinja__node_memory(jparser *parser, size_t n, size_t each) {
    const arena *nodes = &parser->tmpl->nodes;
    void *out = parser->failed ? NULL : arena_array(&parser->tmpl->nodes, n ? n : 1, each);
    if (out == NULL && !parser->failed) {
        if (n * each + 16 > nodes->max - nodes->used) /* n and each are bounded by the template */
            return jinja__syntax(parser, parser->n_tokens ? jinja__token(parser)->line : 1,
                                 "it is too large");
        err_set(parser->error, ERR_NO_MEMORY, NULL, "%s: out of memory", parser->tmpl->source);
        give_up(parser);
    }
    return out;
}

jnode *jinja__new_node(jparser *parser, jnode_kind kind, uint32_t line) {
    jnode *node = jinja__node_memory(parser, 1, sizeof *node);
    if (node == NULL) return NULL;
    node->kind = (uint8_t)kind;
    node->line = line;
    node->height = 1;
    return node;
}

void jinja__above(jparser *parser, jnode *parent, const jnode *child) {
    if (child == NULL || parent == NULL || child->height < parent->height) return;
    parent->height = (uint16_t)(child->height + 1);
    if (parent->height > JINJA__MAX_HEIGHT)
        jinja__syntax(parser, parent->line, "it is nested more than %d deep", JINJA__MAX_HEIGHT);
}

/* The array doubles whenever n is a power of two. */
void *jinja__grown(jparser *parser, const void *items, uint32_t n, size_t each) {
    if (n & (n - 1)) return (void *)(uintptr_t)items;
    void *grown = jinja__node_memory(parser, n ? 2 * (size_t)n : 1, each);
    if (grown && n) memcpy(grown, items, n * each);
    return grown;
}

bool jinja__push_node(jparser *parser, jnodes *list, jnode *node) {
    if (node == NULL || parser->failed) return false;
    jnode **grown = jinja__grown(parser, list->items, list->count, sizeof(jnode *));
    if (grown == NULL) return false;
    list->items = grown;
    list->items[list->count++] = node;
    return true;
}

static bool grow_names(jparser *parser) {
    jinja *tmpl = parser->tmpl;
    if (tmpl->n_names < tmpl->cap_names) return true;
    uint32_t cap = tmpl->cap_names ? tmpl->cap_names * 2 : 64;
    const char **names = jinja__node_memory(parser, cap, sizeof *names);
    bool *read = jinja__node_memory(parser, cap, sizeof *read);
    if (names == NULL || read == NULL) return false;
    if (tmpl->n_names) {
        memcpy(names, tmpl->names, tmpl->n_names * sizeof *names);
        memcpy(read, tmpl->read, tmpl->n_names * sizeof *read);
    }
    tmpl->names = names;
    tmpl->read = read;
    tmpl->cap_names = cap;
    return true;
}

/* Returns 0, a valid id, if the parser failed. */
uint32_t jinja__name_id(jparser *parser, const char *bytes, size_t n) {
    jinja *tmpl = parser->tmpl;
    for (uint32_t i = 0; i < tmpl->n_names; i++) {
        if (strncmp(tmpl->names[i], bytes, n) == 0 && tmpl->names[i][n] == 0) return i;
    }
    if (tmpl->n_names == JINJA__MAX_NAMES) {
        jinja__syntax(parser, jinja__token(parser)->line, "it has more than %d names",
                      JINJA__MAX_NAMES);
        return 0;
    }
    if (parser->failed || !grow_names(parser)) return 0;
    char *copy = jinja__node_memory(parser, n + 1, 1);
    if (copy == NULL) return 0;
    memcpy(copy, bytes, n);
    tmpl->names[tmpl->n_names] = copy;
    return tmpl->n_names++;
}

/* ---- tokens ---- */

const jtoken *jinja__token(const jparser *parser) {
    return &parser->tokens[parser->at];
}

static bool is(const jparser *parser, jtoken_kind kind, const char *text) {
    const jtoken *token = jinja__token(parser);
    return token->kind == kind && strlen(text) == token->len &&
           memcmp(token->bytes, text, token->len) == 0;
}

bool jinja__is_op(const jparser *parser, const char *op) {
    return is(parser, T_OP, op);
}
bool jinja__is_name(const jparser *parser, const char *name) {
    return is(parser, T_NAME, name);
}

static bool skip(jparser *parser, jtoken_kind kind, const char *text) {
    if (parser->failed || !is(parser, kind, text)) return false;
    parser->at++;
    return true;
}

bool jinja__skip_op(jparser *parser, const char *op) {
    return skip(parser, T_OP, op);
}
bool jinja__skip_name(jparser *parser, const char *name) {
    return skip(parser, T_NAME, name);
}

void jinja__describe(const jtoken *token, char *out, size_t room) {
    static const char *const what[] = {[T_END] = "the end of the template",
                                       [T_TEXT] = "text",
                                       [T_PRINT_BEGIN] = "'{{'",
                                       [T_PRINT_END] = "'}}'",
                                       [T_BLOCK_BEGIN] = "'{%'",
                                       [T_BLOCK_END] = "'%}'",
                                       [T_STRING] = "a string"};
    if (token->kind == T_NAME || token->kind == T_OP || token->kind == T_INT ||
        token->kind == T_REAL)
        (void)snprintf(out, room, "'%.*s'", (int)(token->len < 60 ? token->len : 60), token->bytes);
    else (void)snprintf(out, room, "%s", what[token->kind]);
}

void *jinja__unexpected(jparser *parser, const char *wanted) {
    char got[80];
    const jtoken *token = jinja__token(parser);
    jinja__describe(token, got, sizeof got);
    return jinja__syntax(parser, token->line, "%s was expected, not %s", wanted, got);
}

bool jinja__expect_op(jparser *parser, const char *op) {
    if (jinja__skip_op(parser, op)) return true;
    char wanted[8];
    (void)snprintf(wanted, sizeof wanted, "'%s'", op);
    jinja__unexpected(parser, wanted);
    return false;
}

static bool block_end(jparser *parser) {
    if (jinja__token(parser)->kind != T_BLOCK_END || parser->failed) {
        jinja__unexpected(parser, "'%}'");
        return false;
    }
    parser->at++;
    return true;
}

/* ---- statements ---- */

static bool statements(jparser *parser, jnodes *body, jnode *parent, const char *const *ends);

/* The body of a tag: from its '%}' up to "{% END". The token END is next. */
static bool body_until(jparser *parser, jnodes *body, jnode *parent, const char *const *ends) {
    return block_end(parser) && statements(parser, body, parent, ends);
}

/* The body of a block that captures its output: break and continue cannot leave it. */
static bool closed_body(jparser *parser, jnodes *body, jnode *parent, const char *const *ends) {
    uint32_t loops = parser->loops;
    parser->loops = 0;
    bool ok = body_until(parser, body, parent, ends);
    parser->loops = loops;
    return ok;
}

static const char *const end_if[] = {"elif", "else", "endif", NULL};
static const char *const end_if_else[] = {"endif", NULL};

static bool add_branch(jparser *parser, jnode *node, jnode *test, const char *const *ends) {
    uint32_t n = node->branch.n_bodies;
    jnodes *bodies = jinja__grown(parser, node->branch.bodies, n, sizeof *bodies);
    if (bodies == NULL) return false;
    node->branch.bodies = bodies;
    if (test && !jinja__push_node(parser, &node->branch.tests, test)) return false;
    jinja__above(parser, node, test);
    node->branch.n_bodies = n + 1;
    return body_until(parser, &bodies[n], node, ends);
}

static jnode *if_statement(jparser *parser, uint32_t line) {
    jnode *node = jinja__new_node(parser, N_IF, line);
    do {
        jnode *test = jinja__expressions(parser, true);
        if (node == NULL || test == NULL || !add_branch(parser, node, test, end_if)) return NULL;
    } while (jinja__skip_name(parser, "elif"));
    if (jinja__skip_name(parser, "else") && !add_branch(parser, node, NULL, end_if_else))
        return NULL;
    parser->at++; /* endif */
    return node;
}

static jnode *for_statement(jparser *parser, uint32_t line) {
    static const char *const end_body[] = {"else", "endfor", NULL}, *const end_else[] = {"endfor",
                                                                                         NULL};
    jnode *node = jinja__new_node(parser, N_FOR, line);
    if (node == NULL || (node->loop.target = jinja__target(parser, false, false)) == NULL)
        return NULL;
    if (!jinja__skip_name(parser, "in")) return jinja__unexpected(parser, "'in'");
    node->loop.iterable = jinja__expressions(parser, false);
    if (jinja__skip_name(parser, "if")) node->loop.test = jinja__expression(parser);
    if (jinja__is_name(parser, "recursive"))
        return jinja__syntax(parser, line, "a recursive 'for' is not supported");
    jinja__above(parser, node, node->loop.target);
    jinja__above(parser, node, node->loop.iterable);
    jinja__above(parser, node, node->loop.test);
    parser->loops++;
    bool ok = body_until(parser, &node->loop.body, node, end_body);
    parser->loops--;
    if (!ok) return NULL;
    if (jinja__skip_name(parser, "else") &&
        !body_until(parser, &node->loop.otherwise, node, end_else))
        return NULL;
    parser->at++;
    return node;
}

static jnode *set_statement(jparser *parser, uint32_t line) {
    static const char *const ends[] = {"endset", NULL};
    jnode *target = jinja__target(parser, false, true);
    bool value = jinja__skip_op(parser, "=");
    jnode *node = jinja__new_node(parser, value ? N_SET : N_SET_BLOCK, line);
    if (target == NULL || node == NULL) return NULL;
    node->set.target = target;
    jinja__above(parser, node, target);
    if (value) {
        node->set.value = jinja__expressions(parser, true);
        jinja__above(parser, node, node->set.value);
        return node;
    }
    if (jinja__skip_op(parser, "|")) node->set.value = jinja__filters(parser, NULL);
    jinja__above(parser, node, node->set.value);
    if (!closed_body(parser, &node->set.body, node, ends)) return NULL;
    parser->at++;
    return node;
}

/* (a, b=1) */
static bool params(jparser *parser, jmacro_node *macro, jnode *node) {
    if (!jinja__expect_op(parser, "(")) return false;
    while (!jinja__skip_op(parser, ")")) {
        if (macro->n_params > 0 && !jinja__expect_op(parser, ",")) return false;
        jnode *name = jinja__target(parser, true, false);
        jparam *grown = jinja__grown(parser, macro->params, macro->n_params, sizeof *grown);
        if (name == NULL || grown == NULL) return false;
        jparam *param = &grown[macro->n_params++];
        macro->params = grown;
        param->name = name->name;
        if (jinja__skip_op(parser, "=")) {
            param->value = jinja__expression(parser);
            jinja__above(parser, node, param->value);
        } else if (macro->n_params > 1 && param[-1].value) {
            jinja__syntax(parser, name->line,
                          "a parameter without a default stands behind one with one");
        }
        if (parser->failed) return false;
    }
    return true;
}

/* Parameters and body of a macro or a call block. */
static bool macro_rest(jparser *parser, jmacro_node *macro, jnode *node, jnode *call,
                       const char *end) {
    const char *const ends[] = {end, NULL};
    jmacro_node *outer = parser->macro;
    uint32_t loops = parser->loops;
    if (call) { /* the call expression belongs to the outer macro */
        if (jinja__is_op(parser, "(") && !params(parser, macro, node)) return false;
        call->block.call = jinja__expression(parser);
        if (call->block.call && call->block.call->kind != N_CALL) {
            jinja__syntax(parser, call->line, "'call' wants a call");
            return false;
        }
        jinja__above(parser, node, call->block.call);
    }
    parser->macro = macro;
    parser->loops = 0;
    bool ok = (call || params(parser, macro, node)) && body_until(parser, &macro->body, node, ends);
    parser->macro = outer;
    parser->loops = loops;
    if (outer && macro->uses_caller) outer->uses_caller |= call != NULL;
    return ok;
}

static jnode *macro_statement(jparser *parser, uint32_t line) {
    jnode *node = jinja__new_node(parser, N_MACRO, line),
          *name = jinja__target(parser, true, false);
    jmacro_node *macro = jinja__node_memory(parser, 1, sizeof *macro);
    if (node == NULL || name == NULL || macro == NULL) return NULL;
    macro->name = name->name;
    node->macro = macro;
    if (!macro_rest(parser, macro, node, NULL, "endmacro")) return NULL;
    parser->at++;
    return node;
}

static jnode *call_statement(jparser *parser, uint32_t line) {
    jnode *node = jinja__new_node(parser, N_CALL_BLOCK, line);
    jmacro_node *macro = jinja__node_memory(parser, 1, sizeof *macro);
    if (node == NULL || macro == NULL) return NULL;
    macro->name = parser->tmpl->id_caller;
    node->block.caller = macro;
    if (!macro_rest(parser, macro, node, node, "endcall")) return NULL;
    parser->at++;
    return node;
}

static jnode *filter_statement(jparser *parser, uint32_t line) {
    static const char *const ends[] = {"endfilter", NULL};
    jnode *node = jinja__new_node(parser, N_FILTER_BLOCK, line);
    if (node == NULL || (node->filter.filters = jinja__filters(parser, NULL)) == NULL) return NULL;
    jinja__above(parser, node, node->filter.filters);
    if (!closed_body(parser, &node->filter.body, node, ends)) return NULL;
    parser->at++;
    return node;
}

static jnode *with_statement(jparser *parser, uint32_t line) {
    static const char *const ends[] = {"endwith", NULL};
    jnode *node = jinja__new_node(parser, N_WITH, line);
    while (node && jinja__token(parser)->kind != T_BLOCK_END && !parser->failed) {
        if (node->with.targets.count > 0 && !jinja__expect_op(parser, ",")) return NULL;
        jnode *target = jinja__target(parser, true, false);
        if (!jinja__push_node(parser, &node->with.targets, target) ||
            !jinja__expect_op(parser, "="))
            return NULL;
        jnode *value = jinja__expression(parser);
        if (!jinja__push_node(parser, &node->with.values, value)) return NULL;
        jinja__above(parser, node, value);
    }
    if (node == NULL || !body_until(parser, &node->with.body, node, ends)) return NULL;
    parser->at++;
    return node;
}

/* {% generation %} marks the model's own text for training. Rendering ignores the mark. */
static jnode *generation_statement(jparser *parser, uint32_t line) {
    static const char *const ends[] = {"endgeneration", NULL};
    jnode *node = jinja__new_node(parser, N_SCOPE, line);
    if (node == NULL || !closed_body(parser, &node->list, node, ends)) return NULL;
    parser->at++;
    return node;
}

static jnode *leave_loop(jparser *parser, uint32_t line, jnode_kind kind) {
    if (parser->loops == 0)
        return jinja__syntax(parser, line, "'%s' stands outside of a loop",
                             kind == N_BREAK ? "break" : "continue");
    return jinja__new_node(parser, kind, line);
}

static jnode *break_statement(jparser *parser, uint32_t line) {
    return leave_loop(parser, line, N_BREAK);
}

static jnode *continue_statement(jparser *parser, uint32_t line) {
    return leave_loop(parser, line, N_CONTINUE);
}

static jnode *print_statement(jparser *parser, uint32_t line) {
    jnode *operand = jinja__expressions(parser, true),
          *node = jinja__new_node(parser, N_PRINT, line);
    if (operand == NULL || node == NULL) return NULL;
    node->operand = operand;
    jinja__above(parser, node, operand);
    return node;
}

static jnode *statement(jparser *parser) {
    static const struct {
        const char *name;
        jnode *(*read)(jparser *parser, uint32_t line);
    } tags[] = {
        {"if", if_statement},       {"for", for_statement},
        {"set", set_statement},     {"macro", macro_statement},
        {"call", call_statement},   {"filter", filter_statement},
        {"with", with_statement},   {"generation", generation_statement},
        {"break", break_statement}, {"continue", continue_statement},
        {"print", print_statement},
    };
    const jtoken *token = jinja__token(parser);
    for (size_t i = 0; i < ARRAY_LEN(tags); i++) {
        if (!jinja__skip_name(parser, tags[i].name)) continue;
        jnode *node = tags[i].read(parser, token->line);
        return node && block_end(parser) ? node : NULL;
    }
    if (token->kind != T_NAME) return jinja__unexpected(parser, "the name of a tag");
    return jinja__syntax(parser, token->line, "the tag '%.*s' is not supported here",
                         (int)(token->len < 60 ? token->len : 60), token->bytes);
}

static jnode *text_node(jparser *parser) {
    const jtoken *token = jinja__token(parser);
    jnode *node = jinja__new_node(parser, N_TEXT, token->line);
    jstring *content = jinja__node_memory(parser, 1, sizeof *content);
    if (node == NULL || content == NULL) return NULL;
    *content =
        (jstring){.bytes = token->bytes, .len = token->len, .chars = SIZE_MAX, .trusted = true};
    node->text = content;
    parser->at++;
    return jinja__push_node(parser, &parser->tmpl->texts, node) ? node : NULL;
}

static jnode *print(jparser *parser) {
    uint32_t line = jinja__token(parser)->line;
    parser->at++;
    jnode *node = print_statement(parser, line);
    if (node && jinja__token(parser)->kind != T_PRINT_END) return jinja__unexpected(parser, "'}}'");
    parser->at += node != NULL;
    return node;
}

static bool ends_here(const jparser *parser, const char *const *ends) {
    for (; *ends; ends++) {
        if (jinja__is_name(parser, *ends)) return true;
    }
    return false;
}

/* Reads statements up to "{% END" for one of `ends`; NULL: up to the end of the template. */
static bool statements(jparser *parser, jnodes *body, jnode *parent, const char *const *ends) {
    if (++parser->depth > JINJA__MAX_HEIGHT) {
        jinja__syntax(parser, jinja__token(parser)->line, "it is nested more than %d deep",
                      JINJA__MAX_HEIGHT);
        return false;
    }
    while (!parser->failed) {
        const jtoken *token = jinja__token(parser);
        jnode *node = NULL;
        if (token->kind == T_END) {
            if (ends == NULL) break;
            while (ends[1])
                ends++;
            jinja__syntax(parser, parent->line, "a tag has no '%s'", ends[0]);
        } else if (token->kind == T_TEXT) {
            node = text_node(parser);
        } else if (token->kind == T_PRINT_BEGIN) {
            node = print(parser);
        } else {
            parser->at++;
            if (ends && ends_here(parser, ends)) break;
            node = statement(parser);
        }
        jinja__above(parser, parent, node);
        if (!jinja__push_node(parser, body, node)) break;
    }
    parser->depth--;
    return !parser->failed;
}

/* ---- the module ---- */

static int parse(jparser *parser, const char *text, size_t n) {
    jinja *tmpl = parser->tmpl;
    parser->tokens = NULL;
    if (jinja__lex(parser, text, n) != 0) return -1;
    tmpl->id_loop = jinja__name_id(parser, "loop", 4);
    tmpl->id_caller = jinja__name_id(parser, "caller", 6);
    tmpl->id_varargs = jinja__name_id(parser, "varargs", 7);
    tmpl->id_kwargs = jinja__name_id(parser, "kwargs", 6);
    return statements(parser, &tmpl->body, NULL, NULL) ? 0 : -1;
}

int jinja_parse(jinja **out, const char *text, size_t n, const char *source, err *e) {
    *out = NULL;
    jinja *tmpl = calloc(1, sizeof *tmpl);
    if (tmpl == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory", source);
    arena_init(&tmpl->nodes, NODE_BYTES);
    tmpl->source = source;
    jparser parser = {.tmpl = tmpl, .error = e};
    int rc = parse(&parser, text, n);
    free(parser.tokens);
    tmpl->source = NULL;
    if (rc != 0) {
        jinja_close(tmpl);
        return -1;
    }
    *out = tmpl;
    return 0;
}

void jinja_close(jinja *tmpl) {
    if (tmpl == NULL) return;
    arena_deinit(&tmpl->nodes);
    free(tmpl);
}

bool jinja_uses(const jinja *tmpl, const char *name) {
    for (uint32_t i = 0; i < tmpl->n_names; i++) {
        if (tmpl->read[i] && strcmp(tmpl->names[i], name) == 0) return true;
    }
    return false;
}

void jinja_each_text(const jinja *tmpl, void (*fn)(void *ud, const char *text, size_t n),
                     void *ud) {
    for (uint32_t i = 0; i < tmpl->texts.count; i++) {
        const jnode *node = tmpl->texts.items[i];
        const jstring *content = node->kind == N_TEXT ? node->text : node->constant.string;
        fn(ud, content->bytes, content->len);
    }
}

/* expressions.c - expressions of a template, with the precedence that Jinja gives them. */
#include "text/jinja/jinja_internal.h"

#include <string.h>

static jnode *binary(jparser *p, jnode_kind kind, int op, uint32_t line, jnode *left,
                     jnode *right) {
    jnode *node = jinja__new_node(p, kind, line);
    if (node == NULL) return NULL;
    node->op = (uint8_t)op;
    node->u.binary.left = left;
    node->u.binary.right = right;
    jinja__above(p, node, left);
    jinja__above(p, node, right);
    return node;
}

static jnode *single(jparser *p, jnode_kind kind, uint32_t line, jnode *of) {
    jnode *node = jinja__new_node(p, kind, line);
    if (node == NULL) return NULL;
    node->u.of = of;
    jinja__above(p, node, of);
    return node;
}

static bool push_below(jparser *p, jnode *node, jnodes *list, jnode *child) {
    if (!jinja__push_node(p, list, child)) return false;
    jinja__above(p, node, child);
    return !p->failed;
}

/* ---- primary expressions ---- */

static jnode *list_display(jparser *p, uint32_t line) {
    jnode *node = jinja__new_node(p, N_LIST, line);
    while (node && !jinja__is_op(p, "]")) {
        if (node->u.list.n > 0 && !jinja__expect_op(p, ",")) return NULL;
        if (jinja__is_op(p, "]")) break;
        if (!push_below(p, node, &node->u.list, jinja__expression(p))) return NULL;
    }
    p->at += node != NULL;
    return node;
}

static jnode *dict_display(jparser *p, uint32_t line) {
    jnode *node = jinja__new_node(p, N_DICT, line);
    while (node && !jinja__is_op(p, "}")) {
        if (node->u.list.n > 0 && !jinja__expect_op(p, ",")) return NULL;
        if (jinja__is_op(p, "}")) break;
        if (!push_below(p, node, &node->u.list, jinja__expression(p)) ||
            !jinja__expect_op(p, ":") || !push_below(p, node, &node->u.list, jinja__expression(p)))
            return NULL;
    }
    p->at += node != NULL;
    return node;
}

static jnode *in_brackets(jparser *p, uint32_t line) {
    if (jinja__skip_op(p, ")")) return jinja__new_node(p, N_TUPLE, line);
    jnode *node = jinja__expressions(p, true);
    return node && jinja__expect_op(p, ")") ? node : NULL;
}

static jnode *word(jparser *p) {
    const jtoken *t = jinja__token(p);
    static const struct {
        const char *name;
        jval value;
    } words[] = {{"true", {.kind = J_BOOL, .u.b = true}},
                 {"True", {.kind = J_BOOL, .u.b = true}},
                 {"false", {.kind = J_BOOL}},
                 {"False", {.kind = J_BOOL}},
                 {"none", {.kind = J_NONE}},
                 {"None", {.kind = J_NONE}}};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (!jinja__skip_name(p, words[i].name)) continue;
        return jinja__constant(p, t->line, words[i].value);
    }
    uint32_t id = jinja__name_id(p, t->s, t->n);
    jnode *node = jinja__new_node(p, N_NAME, t->line);
    if (node == NULL) return NULL;
    p->at++;
    node->u.name = id;
    p->t->read[id] = true;
    if (p->macro) {
        p->macro->uses_caller |= id == p->t->id_caller;
        p->macro->uses_varargs |= id == p->t->id_varargs;
        p->macro->uses_kwargs |= id == p->t->id_kwargs;
    }
    return node;
}

jnode *jinja__primary(jparser *p) {
    const jtoken *t = jinja__token(p);
    if (t->kind == T_NAME) return word(p);
    if (t->kind == T_STRING) return jinja__string_constant(p);
    if (t->kind == T_INT || t->kind == T_REAL) return jinja__number_constant(p);
    if (jinja__skip_op(p, "[")) return list_display(p, t->line);
    if (jinja__skip_op(p, "{")) return dict_display(p, t->line);
    if (jinja__skip_op(p, "(")) return in_brackets(p, t->line);
    return jinja__unexpected(p, "an expression");
}

/* ---- what follows a primary expression ---- */

static bool one_arg(jparser *p, jargs *args) {
    const jtoken *t = jinja__token(p), *next = t + (t->kind != T_END);
    if (jinja__is_op(p, "*") || jinja__is_op(p, "**")) {
        jinja__syntax(p, t->line, "'%.*s' before an argument is not supported", (int)t->n, t->s);
        return false;
    }
    if (t->kind != T_NAME || next->kind != T_OP || next->n != 1 || *next->s != '=') {
        if (args->named.n > 0) {
            jinja__syntax(p, t->line, "an argument without a name stands behind one with a name");
            return false;
        }
        return jinja__push_node(p, &args->pos, jinja__expression(p));
    }
    uint32_t id = jinja__name_id(p, t->s, t->n), n = args->named.n;
    p->at += 2;
    const char **names = jinja__grown(p, args->names, n, sizeof *names);
    if (names == NULL || !jinja__push_node(p, &args->named, jinja__expression(p))) return false;
    for (uint32_t i = 0; i < n; i++) {
        if (names[i] != p->t->names[id]) continue;
        jinja__syntax(p, t->line, "the argument '%s' is given twice", names[i]);
        return false;
    }
    names[n] = p->t->names[id];
    args->names = names;
    return true;
}

bool jinja__args(jparser *p, jargs *args) {
    *args = (jargs){0};
    if (!jinja__expect_op(p, "(")) return false;
    while (!jinja__is_op(p, ")")) {
        if (args->pos.n + args->named.n > 0 && !jinja__expect_op(p, ",")) return false;
        if (jinja__is_op(p, ")")) break;
        if (!one_arg(p, args)) return false;
    }
    p->at++;
    return !p->failed;
}

static void above_args(jparser *p, jnode *node, const jargs *args) {
    for (uint32_t i = 0; i < args->pos.n; i++)
        jinja__above(p, node, args->pos.items[i]);
    for (uint32_t i = 0; i < args->named.n; i++)
        jinja__above(p, node, args->named.items[i]);
}

static jnode *call(jparser *p, jnode *of) {
    jnode *node = jinja__new_node(p, N_CALL, jinja__token(p)->line);
    if (node == NULL) return NULL;
    if (of->kind == N_ATTR && !jinja__is_method(of->u.attr.name->s, of->u.attr.name->n))
        return jinja__syntax(p, of->line, "the method '%.60s' is not supported",
                             of->u.attr.name->s);
    node->u.call.of = of;
    if (!jinja__args(p, &node->u.call.args)) return NULL;
    jinja__above(p, node, of);
    above_args(p, node, &node->u.call.args);
    return p->failed ? NULL : node;
}

static jnode *member(jparser *p, jnode *of) {
    const jtoken *t = jinja__token(p);
    if (t->kind == T_INT) {
        jnode *key = jinja__number_constant(p);
        return binary(p, N_INDEX, 0, t->line, of, key);
    }
    if (t->kind != T_NAME) return jinja__unexpected(p, "a name");
    p->at++;
    uint32_t id = jinja__name_id(p, t->s, t->n);
    jnode *node = jinja__new_node(p, N_ATTR, t->line);
    jstring *name = jinja__node_memory(p, 1, sizeof *name);
    if (node == NULL || name == NULL) return NULL;
    *name = (jstring){.s = p->t->names[id], .n = t->n, .chars = t->n, .trusted = true};
    node->u.attr.of = of;
    node->u.attr.name = name;
    jinja__above(p, node, of);
    return p->failed ? NULL : node;
}

static bool slice_part(jparser *p, jnode *node, jnode **part) {
    if (jinja__is_op(p, ":") || jinja__is_op(p, "]")) return true;
    *part = jinja__expression(p);
    jinja__above(p, node, *part);
    return !p->failed;
}

static jnode *subscript(jparser *p, jnode *of) {
    uint32_t line = jinja__token(p)->line;
    jnode *first = NULL;
    if (!jinja__is_op(p, ":")) {
        first = jinja__expressions(p, true);
        if (first == NULL) return NULL;
        if (!jinja__is_op(p, ":"))
            return jinja__expect_op(p, "]") ? binary(p, N_INDEX, 0, line, of, first) : NULL;
    }
    jnode *node = jinja__new_node(p, N_SLICE, line);
    if (node == NULL || !jinja__expect_op(p, ":")) return NULL;
    node->u.slice.of = of;
    node->u.slice.from = first;
    jinja__above(p, node, of);
    jinja__above(p, node, first);
    if (!slice_part(p, node, &node->u.slice.to)) return NULL;
    if (jinja__skip_op(p, ":") && !slice_part(p, node, &node->u.slice.step)) return NULL;
    return jinja__expect_op(p, "]") ? node : NULL;
}

jnode *jinja__postfix(jparser *p, jnode *node) {
    while (node && !p->failed) {
        if (jinja__skip_op(p, ".")) node = member(p, node);
        else if (jinja__skip_op(p, "[")) node = subscript(p, node);
        else if (jinja__is_op(p, "(")) node = call(p, node);
        else break;
    }
    return p->failed ? NULL : node;
}

/* ---- filters and tests ---- */

static jnode *filter(jparser *p, jnode *of) {
    const jtoken *t = jinja__token(p);
    if (t->kind != T_NAME) return jinja__unexpected(p, "the name of a filter");
    const jfunction *f = jinja__find_filter(t->s, t->n);
    if (f == NULL)
        return jinja__syntax(p, t->line, "the filter '%.*s' is not supported",
                             (int)(t->n < 60 ? t->n : 60), t->s);
    p->at++;
    jnode *node = jinja__new_node(p, N_FILTER, t->line);
    if (node == NULL) return NULL;
    node->u.call.of = of;
    node->u.call.function = f;
    if (jinja__is_op(p, "(") && !jinja__args(p, &node->u.call.args)) return NULL;
    jinja__above(p, node, of);
    above_args(p, node, &node->u.call.args);
    return p->failed ? NULL : node;
}

jnode *jinja__filters(jparser *p, jnode *of) {
    jnode *node = filter(p, of);
    while (node && jinja__skip_op(p, "|"))
        node = filter(p, node);
    return node;
}

static bool test_takes_arg(const jparser *p) {
    const jtoken *t = jinja__token(p);
    if (t->kind == T_NAME)
        return !jinja__is_name(p, "else") && !jinja__is_name(p, "or") &&
               !jinja__is_name(p, "and") && !jinja__is_name(p, "is");
    return t->kind == T_STRING || t->kind == T_INT || t->kind == T_REAL || jinja__is_op(p, "[") ||
           jinja__is_op(p, "{");
}

static jnode *test(jparser *p, jnode *of) {
    bool negated = jinja__skip_name(p, "not");
    const jtoken *t = jinja__token(p);
    const jfunction *f = NULL;
    if (t->kind != T_NAME) return jinja__unexpected(p, "the name of a test");
    f = jinja__find_test(t->s, t->n);
    if (f == NULL)
        return jinja__syntax(p, t->line, "the test '%.*s' is not supported",
                             (int)(t->n < 60 ? t->n : 60), t->s);
    p->at++;
    jnode *node = jinja__new_node(p, N_TEST, t->line);
    if (node == NULL) return NULL;
    node->op = negated;
    node->u.call.of = of;
    node->u.call.function = f;
    jargs *args = &node->u.call.args;
    if (jinja__is_op(p, "(")) {
        if (!jinja__args(p, args)) return NULL;
    } else if (test_takes_arg(p)) {
        jnode *arg = jinja__postfix(p, jinja__primary(p));
        if (!jinja__push_node(p, &args->pos, arg)) return NULL;
    }
    jinja__above(p, node, of);
    above_args(p, node, args);
    return p->failed ? NULL : node;
}

static jnode *filtered(jparser *p, jnode *node) {
    while (node && !p->failed) {
        if (jinja__skip_op(p, "|")) node = filter(p, node);
        else if (jinja__skip_name(p, "is")) node = test(p, node);
        else if (jinja__is_op(p, "(")) node = call(p, node);
        else break;
    }
    return p->failed ? NULL : node;
}

/* ---- operators, from the ones that bind tightest ---- */

static jnode *unary(jparser *p, bool with_filters) {
    const jtoken *t = jinja__token(p);
    jnode *node;
    if (++p->depth > JINJA__MAX_HEIGHT)
        return jinja__syntax(p, t->line, "it is nested more than %d deep", JINJA__MAX_HEIGHT);
    if (jinja__skip_op(p, "-")) node = single(p, N_NEGATE, t->line, unary(p, false));
    else if (jinja__skip_op(p, "+")) node = single(p, N_PLUS, t->line, unary(p, false));
    else node = jinja__primary(p);
    node = jinja__postfix(p, node);
    if (with_filters) node = filtered(p, node);
    p->depth--;
    return p->failed ? NULL : node;
}

typedef struct {
    const char *text;
    jop op;
} binary_op;

typedef jnode *(*level)(jparser *p);

/* operand (op operand)*, from the left */
static jnode *chain(jparser *p, const binary_op *ops, size_t n, level operand) {
    jnode *left = operand(p);
    for (size_t i = 0; left && i < n;) {
        const jtoken *t = jinja__token(p);
        if (!jinja__skip_op(p, ops[i].text)) {
            i++;
            continue;
        }
        left = binary(p, N_BINARY, ops[i].op, t->line, left, operand(p));
        i = 0;
    }
    return p->failed ? NULL : left;
}

static jnode *operand_of_power(jparser *p) {
    return unary(p, true);
}

static jnode *power(jparser *p) {
    static const binary_op ops[] = {{"**", OP_POW}};
    return chain(p, ops, 1, operand_of_power);
}

static jnode *product(jparser *p) {
    static const binary_op ops[] = {
        {"*", OP_MUL}, {"/", OP_DIV}, {"//", OP_FLOORDIV}, {"%", OP_MOD}};
    return chain(p, ops, ARRAY_LEN(ops), power);
}

static jnode *concat(jparser *p) {
    jnode *first = product(p);
    if (first == NULL || !jinja__is_op(p, "~")) return first;
    jnode *node = jinja__new_node(p, N_CONCAT, first->line);
    if (node == NULL || !push_below(p, node, &node->u.list, first)) return NULL;
    while (jinja__skip_op(p, "~")) {
        if (!push_below(p, node, &node->u.list, product(p))) return NULL;
    }
    return p->failed ? NULL : node;
}

static jnode *sum(jparser *p) {
    static const binary_op ops[] = {{"+", OP_ADD}, {"-", OP_SUB}};
    return chain(p, ops, ARRAY_LEN(ops), concat);
}

static bool comparison(jparser *p, jop *op) {
    static const binary_op ops[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<", OP_LT},
                                    {"<=", OP_LE}, {">", OP_GT},  {">=", OP_GE}};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        *op = ops[i].op;
        if (jinja__skip_op(p, ops[i].text)) return true;
    }
    *op = OP_IN;
    if (jinja__skip_name(p, "in")) return true;
    *op = OP_NOT_IN;
    const jtoken *next = jinja__token(p);
    if (!jinja__is_name(p, "not") || next[1].kind != T_NAME || next[1].n != 2 ||
        memcmp(next[1].s, "in", 2) != 0)
        return false;
    p->at += 2;
    return true;
}

static jnode *compare(jparser *p) {
    jnode *first = sum(p), *node = NULL;
    jop op;
    while (first && comparison(p, &op)) {
        if (node == NULL) {
            node = jinja__new_node(p, N_COMPARE, first->line);
            if (node == NULL || !push_below(p, node, &node->u.compare.operands, first)) return NULL;
        }
        uint32_t n = node->u.compare.operands.n;
        uint8_t *ops = jinja__grown(p, node->u.compare.ops, n - 1, 1);
        if (ops == NULL || !push_below(p, node, &node->u.compare.operands, sum(p))) return NULL;
        ops[n - 1] = (uint8_t)op;
        node->u.compare.ops = ops;
    }
    return p->failed ? NULL : node ? node : first;
}

static jnode *negation(jparser *p) {
    const jtoken *t = jinja__token(p);
    if (!jinja__skip_name(p, "not")) return compare(p);
    if (++p->depth > JINJA__MAX_HEIGHT)
        return jinja__syntax(p, t->line, "it is nested more than %d deep", JINJA__MAX_HEIGHT);
    jnode *node = single(p, N_NOT, t->line, negation(p));
    p->depth--;
    return p->failed ? NULL : node;
}

static jnode *words(jparser *p, const char *name, jnode_kind kind, level operand) {
    jnode *left = operand(p);
    for (;;) {
        uint32_t line = jinja__token(p)->line;
        if (left == NULL || !jinja__skip_name(p, name)) return p->failed ? NULL : left;
        left = binary(p, kind, 0, line, left, operand(p));
    }
}

static jnode *conjunction(jparser *p) {
    return words(p, "and", N_AND, negation);
}

static jnode *disjunction(jparser *p) {
    return words(p, "or", N_OR, conjunction);
}

/* then if test else otherwise */
static jnode *conditional(jparser *p) {
    jnode *then = disjunction(p);
    while (then && jinja__is_name(p, "if")) {
        jnode *node = jinja__new_node(p, N_COND, jinja__token(p)->line);
        p->at++;
        if (node == NULL) return NULL;
        node->u.cond.then = then;
        node->u.cond.test = disjunction(p);
        if (jinja__skip_name(p, "else")) node->u.cond.otherwise = jinja__expression(p);
        jinja__above(p, node, then);
        jinja__above(p, node, node->u.cond.test);
        jinja__above(p, node, node->u.cond.otherwise);
        then = node;
    }
    return p->failed ? NULL : then;
}

static jnode *nested(jparser *p, level what) {
    if (++p->depth > JINJA__MAX_HEIGHT)
        return jinja__syntax(p, jinja__token(p)->line, "it is nested more than %d deep",
                             JINJA__MAX_HEIGHT);
    jnode *node = what(p);
    p->depth--;
    return node;
}

jnode *jinja__expression(jparser *p) {
    return nested(p, conditional);
}

jnode *jinja__expression_without_if(jparser *p) {
    return nested(p, disjunction);
}

jnode *jinja__expressions(jparser *p, bool with_if) {
    level one = with_if ? jinja__expression : jinja__expression_without_if;
    jnode *first = one(p);
    if (first == NULL || !jinja__is_op(p, ",")) return first;
    jnode *node = jinja__new_node(p, N_TUPLE, first->line);
    if (node == NULL || !push_below(p, node, &node->u.list, first)) return NULL;
    while (jinja__skip_op(p, ",")) {
        const jtoken *t = jinja__token(p);
        if (t->kind == T_PRINT_END || t->kind == T_BLOCK_END || jinja__is_op(p, ")") ||
            jinja__is_op(p, "]") || jinja__is_op(p, ":"))
            break;
        if (!push_below(p, node, &node->u.list, one(p))) return NULL;
    }
    return p->failed ? NULL : node;
}

/* ---- what a value can be given to ---- */

static jnode *one_target(jparser *p, bool members) {
    const jtoken *t = jinja__token(p);
    if (t->kind != T_NAME) return jinja__unexpected(p, "a name");
    static const char *const fixed[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
        if (jinja__is_name(p, fixed[i])) return jinja__unexpected(p, "a name");
    }
    uint32_t id = jinja__name_id(p, t->s, t->n);
    jnode *node = jinja__new_node(p, N_NAME, t->line);
    if (node == NULL) return NULL;
    p->at++;
    node->u.name = id;
    if (!members || !jinja__skip_op(p, ".")) return node;
    if (jinja__token(p)->kind != T_NAME) return jinja__unexpected(p, "a name");
    p->t->read[id] = true;
    return member(p, node);
}

static bool ends_targets(const jparser *p) {
    const jtoken *t = jinja__token(p);
    return t->kind == T_BLOCK_END || jinja__is_op(p, "=") || jinja__is_name(p, "in") ||
           jinja__is_op(p, ")");
}

static jnode *bracketed_target(jparser *p, bool members) {
    if (!jinja__skip_op(p, "(")) return one_target(p, members);
    if (++p->depth > JINJA__MAX_HEIGHT)
        return jinja__syntax(p, jinja__token(p)->line, "it is nested more than %d deep",
                             JINJA__MAX_HEIGHT);
    jnode *node = jinja__target(p, false, members);
    p->depth--;
    return node && jinja__expect_op(p, ")") ? node : NULL;
}

jnode *jinja__target(jparser *p, bool one, bool members) {
    jnode *first = bracketed_target(p, members);
    if (one || first == NULL || !jinja__is_op(p, ",")) return first;
    jnode *node = jinja__new_node(p, N_TUPLE, first->line);
    if (node == NULL || !push_below(p, node, &node->u.list, first)) return NULL;
    while (jinja__skip_op(p, ",") && !ends_targets(p)) {
        if (!push_below(p, node, &node->u.list, bracketed_target(p, members))) return NULL;
    }
    return p->failed ? NULL : node;
}

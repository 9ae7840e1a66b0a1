/* expressions.c - parses expressions with Jinja's operator precedence. */
#include "text/jinja/parse_internal.h"

#include <string.h>

static jnode *binary(jparser *parser, jnode_kind kind, int op, uint32_t line, jnode *left,
                     jnode *right) {
    jnode *node = jinja__new_node(parser, kind, line);
    if (node == NULL) return NULL;
    node->op = (uint8_t)op;
    node->binary.left = left;
    node->binary.right = right;
    jinja__above(parser, node, left);
    jinja__above(parser, node, right);
    return node;
}

static jnode *single(jparser *parser, jnode_kind kind, uint32_t line, jnode *operand) {
    jnode *node = jinja__new_node(parser, kind, line);
    if (node == NULL) return NULL;
    node->operand = operand;
    jinja__above(parser, node, operand);
    return node;
}

static bool push_below(jparser *parser, jnode *node, jnodes *list, jnode *child) {
    if (!jinja__push_node(parser, list, child)) return false;
    jinja__above(parser, node, child);
    return !parser->failed;
}

/* ---- primary expressions ---- */

static jnode *list_display(jparser *parser, uint32_t line) {
    jnode *node = jinja__new_node(parser, N_LIST, line);
    while (node && !jinja__is_op(parser, "]")) {
        if (node->list.count > 0 && !jinja__expect_op(parser, ",")) return NULL;
        if (jinja__is_op(parser, "]")) break;
        if (!push_below(parser, node, &node->list, jinja__expression(parser))) return NULL;
    }
    parser->at += node != NULL;
    return node;
}

static jnode *dict_display(jparser *parser, uint32_t line) {
    jnode *node = jinja__new_node(parser, N_DICT, line);
    while (node && !jinja__is_op(parser, "}")) {
        if (node->list.count > 0 && !jinja__expect_op(parser, ",")) return NULL;
        if (jinja__is_op(parser, "}")) break;
        if (!push_below(parser, node, &node->list, jinja__expression(parser)) ||
            !jinja__expect_op(parser, ":") ||
            !push_below(parser, node, &node->list, jinja__expression(parser)))
            return NULL;
    }
    parser->at += node != NULL;
    return node;
}

static jnode *parenthesized(jparser *parser, uint32_t line) {
    if (jinja__skip_op(parser, ")")) return jinja__new_node(parser, N_TUPLE, line);
    jnode *node = jinja__expressions(parser, true);
    return node && jinja__expect_op(parser, ")") ? node : NULL;
}

static jnode *name_or_literal(jparser *parser) {
    const jtoken *token = jinja__token(parser);
    static const struct {
        const char *name;
        jval value;
    } words[] = {{"true", {.kind = J_BOOL, .boolean = true}},
                 {"True", {.kind = J_BOOL, .boolean = true}},
                 {"false", {.kind = J_BOOL}},
                 {"False", {.kind = J_BOOL}},
                 {"none", {.kind = J_NONE}},
                 {"None", {.kind = J_NONE}}};
    for (size_t i = 0; i < ARRAY_LEN(words); i++) {
        if (!jinja__skip_name(parser, words[i].name)) continue;
        return jinja__constant(parser, token->line, words[i].value);
    }
    uint32_t id = jinja__name_id(parser, token->bytes, token->len);
    jnode *node = jinja__new_node(parser, N_NAME, token->line);
    if (node == NULL) return NULL;
    parser->at++;
    node->name = id;
    parser->tmpl->read[id] = true;
    if (parser->macro) {
        parser->macro->uses_caller |= id == parser->tmpl->id_caller;
        parser->macro->uses_varargs |= id == parser->tmpl->id_varargs;
        parser->macro->uses_kwargs |= id == parser->tmpl->id_kwargs;
    }
    return node;
}

jnode *jinja__primary(jparser *parser) {
    const jtoken *token = jinja__token(parser);
    if (token->kind == T_NAME) return name_or_literal(parser);
    if (token->kind == T_STRING) return jinja__string_constant(parser);
    if (token->kind == T_INT || token->kind == T_REAL) return jinja__number_constant(parser);
    if (jinja__skip_op(parser, "[")) return list_display(parser, token->line);
    if (jinja__skip_op(parser, "{")) return dict_display(parser, token->line);
    if (jinja__skip_op(parser, "(")) return parenthesized(parser, token->line);
    return jinja__unexpected(parser, "an expression");
}

/* ---- calls, members and subscripts ---- */

static bool argument(jparser *parser, jargs *args) {
    const jtoken *token = jinja__token(parser), *next = token + (token->kind != T_END);
    if (jinja__is_op(parser, "*") || jinja__is_op(parser, "**")) {
        jinja__syntax(parser, token->line, "'%.*s' before an argument is not supported",
                      (int)token->len, token->bytes);
        return false;
    }
    if (token->kind != T_NAME || next->kind != T_OP || next->len != 1 || *next->bytes != '=') {
        if (args->named.count > 0) {
            jinja__syntax(parser, token->line,
                          "an argument without a name stands behind one with a name");
            return false;
        }
        return jinja__push_node(parser, &args->pos, jinja__expression(parser));
    }
    uint32_t id = jinja__name_id(parser, token->bytes, token->len), n = args->named.count;
    parser->at += 2;
    const char **names = jinja__grown(parser, args->names, n, sizeof *names);
    if (names == NULL || !jinja__push_node(parser, &args->named, jinja__expression(parser)))
        return false;
    for (uint32_t i = 0; i < n; i++) {
        if (names[i] != parser->tmpl->names[id]) continue;
        jinja__syntax(parser, token->line, "the argument '%s' is given twice", names[i]);
        return false;
    }
    names[n] = parser->tmpl->names[id];
    args->names = names;
    return true;
}

bool jinja__args(jparser *parser, jargs *args) {
    *args = (jargs){0};
    if (!jinja__expect_op(parser, "(")) return false;
    while (!jinja__is_op(parser, ")")) {
        if (args->pos.count + args->named.count > 0 && !jinja__expect_op(parser, ",")) return false;
        if (jinja__is_op(parser, ")")) break;
        if (!argument(parser, args)) return false;
    }
    parser->at++;
    return !parser->failed;
}

static void above_args(jparser *parser, jnode *node, const jargs *args) {
    for (uint32_t i = 0; i < args->pos.count; i++)
        jinja__above(parser, node, args->pos.items[i]);
    for (uint32_t i = 0; i < args->named.count; i++)
        jinja__above(parser, node, args->named.items[i]);
}

static jnode *call(jparser *parser, jnode *callee) {
    jnode *node = jinja__new_node(parser, N_CALL, jinja__token(parser)->line);
    if (node == NULL) return NULL;
    if (callee->kind == N_ATTR &&
        !jinja__is_method(callee->attr.name->bytes, callee->attr.name->len))
        return jinja__syntax(parser, callee->line, "the method '%.60s' is not supported",
                             callee->attr.name->bytes);
    node->call.subject = callee;
    if (!jinja__args(parser, &node->call.args)) return NULL;
    jinja__above(parser, node, callee);
    above_args(parser, node, &node->call.args);
    return parser->failed ? NULL : node;
}

static jnode *member(jparser *parser, jnode *object) {
    const jtoken *token = jinja__token(parser);
    if (token->kind == T_INT) {
        jnode *key = jinja__number_constant(parser);
        return binary(parser, N_INDEX, 0, token->line, object, key);
    }
    if (token->kind != T_NAME) return jinja__unexpected(parser, "a name");
    parser->at++;
    uint32_t id = jinja__name_id(parser, token->bytes, token->len);
    jnode *node = jinja__new_node(parser, N_ATTR, token->line);
    jstring *name = jinja__node_memory(parser, 1, sizeof *name);
    if (node == NULL || name == NULL) return NULL;
    *name = (jstring){
        .bytes = parser->tmpl->names[id], .len = token->len, .chars = token->len, .trusted = true};
    node->attr.object = object;
    node->attr.name = name;
    jinja__above(parser, node, object);
    return parser->failed ? NULL : node;
}

static bool slice_part(jparser *parser, jnode *node, jnode **part) {
    if (jinja__is_op(parser, ":") || jinja__is_op(parser, "]")) return true;
    *part = jinja__expression(parser);
    jinja__above(parser, node, *part);
    return !parser->failed;
}

static jnode *subscript(jparser *parser, jnode *object) {
    uint32_t line = jinja__token(parser)->line;
    jnode *first = NULL;
    if (!jinja__is_op(parser, ":")) {
        first = jinja__expressions(parser, true);
        if (first == NULL) return NULL;
        if (!jinja__is_op(parser, ":"))
            return jinja__expect_op(parser, "]") ? binary(parser, N_INDEX, 0, line, object, first)
                                                 : NULL;
    }
    jnode *node = jinja__new_node(parser, N_SLICE, line);
    if (node == NULL || !jinja__expect_op(parser, ":")) return NULL;
    node->slice.object = object;
    node->slice.from = first;
    jinja__above(parser, node, object);
    jinja__above(parser, node, first);
    if (!slice_part(parser, node, &node->slice.to)) return NULL;
    if (jinja__skip_op(parser, ":") && !slice_part(parser, node, &node->slice.step)) return NULL;
    return jinja__expect_op(parser, "]") ? node : NULL;
}

jnode *jinja__postfix(jparser *parser, jnode *node) {
    while (node && !parser->failed) {
        if (jinja__skip_op(parser, ".")) node = member(parser, node);
        else if (jinja__skip_op(parser, "[")) node = subscript(parser, node);
        else if (jinja__is_op(parser, "(")) node = call(parser, node);
        else break;
    }
    return parser->failed ? NULL : node;
}

/* ---- filters and tests ---- */

static jnode *filter(jparser *parser, jnode *subject) {
    const jtoken *token = jinja__token(parser);
    if (token->kind != T_NAME) return jinja__unexpected(parser, "the name of a filter");
    const jfunction *func = jinja__find_filter(token->bytes, token->len);
    if (func == NULL)
        return jinja__syntax(parser, token->line, "the filter '%.*s' is not supported",
                             (int)(token->len < 60 ? token->len : 60), token->bytes);
    parser->at++;
    jnode *node = jinja__new_node(parser, N_FILTER, token->line);
    if (node == NULL) return NULL;
    node->call.subject = subject;
    node->call.function = func;
    if (jinja__is_op(parser, "(") && !jinja__args(parser, &node->call.args)) return NULL;
    jinja__above(parser, node, subject);
    above_args(parser, node, &node->call.args);
    return parser->failed ? NULL : node;
}

jnode *jinja__filters(jparser *parser, jnode *subject) {
    jnode *node = filter(parser, subject);
    while (node && jinja__skip_op(parser, "|"))
        node = filter(parser, node);
    return node;
}

static bool test_takes_arg(const jparser *parser) {
    const jtoken *token = jinja__token(parser);
    if (token->kind == T_NAME)
        return !jinja__is_name(parser, "else") && !jinja__is_name(parser, "or") &&
               !jinja__is_name(parser, "and") && !jinja__is_name(parser, "is");
    return token->kind == T_STRING || token->kind == T_INT || token->kind == T_REAL ||
           jinja__is_op(parser, "[") || jinja__is_op(parser, "{");
}

static jnode *test(jparser *parser, jnode *subject) {
    bool negated = jinja__skip_name(parser, "not");
    const jtoken *token = jinja__token(parser);
    const jfunction *func = NULL;
    if (token->kind != T_NAME) return jinja__unexpected(parser, "the name of a test");
    func = jinja__find_test(token->bytes, token->len);
    if (func == NULL)
        return jinja__syntax(parser, token->line, "the test '%.*s' is not supported",
                             (int)(token->len < 60 ? token->len : 60), token->bytes);
    parser->at++;
    jnode *node = jinja__new_node(parser, N_TEST, token->line);
    if (node == NULL) return NULL;
    node->op = negated;
    node->call.subject = subject;
    node->call.function = func;
    jargs *args = &node->call.args;
    if (jinja__is_op(parser, "(")) {
        if (!jinja__args(parser, args)) return NULL;
    } else if (test_takes_arg(parser)) {
        jnode *arg = jinja__postfix(parser, jinja__primary(parser));
        if (!jinja__push_node(parser, &args->pos, arg)) return NULL;
    }
    jinja__above(parser, node, subject);
    above_args(parser, node, args);
    return parser->failed ? NULL : node;
}

static jnode *filtered(jparser *parser, jnode *node) {
    while (node && !parser->failed) {
        if (jinja__skip_op(parser, "|")) node = filter(parser, node);
        else if (jinja__skip_name(parser, "is")) node = test(parser, node);
        else if (jinja__is_op(parser, "(")) node = call(parser, node);
        else break;
    }
    return parser->failed ? NULL : node;
}

/* ---- operators, tightest binding first ---- */

static jnode *unary(jparser *parser, bool with_filters) {
    const jtoken *token = jinja__token(parser);
    jnode *node;
    if (++parser->depth > JINJA__MAX_HEIGHT)
        return jinja__syntax(parser, token->line, "it is nested more than %d deep",
                             JINJA__MAX_HEIGHT);
    if (jinja__skip_op(parser, "-"))
        node = single(parser, N_NEGATE, token->line, unary(parser, false));
    else if (jinja__skip_op(parser, "+"))
        node = single(parser, N_PLUS, token->line, unary(parser, false));
    else node = jinja__primary(parser);
    node = jinja__postfix(parser, node);
    if (with_filters) node = filtered(parser, node);
    parser->depth--;
    return parser->failed ? NULL : node;
}

typedef struct {
    const char *text;
    jop op;
} binary_op;

typedef jnode *(*level)(jparser *parser);

/* operand (op operand)*, left associative */
static jnode *chain(jparser *parser, const binary_op *ops, size_t n, level operand) {
    jnode *left = operand(parser);
    for (size_t i = 0; left && i < n;) {
        const jtoken *token = jinja__token(parser);
        if (!jinja__skip_op(parser, ops[i].text)) {
            i++;
            continue;
        }
        left = binary(parser, N_BINARY, (int)ops[i].op, token->line, left, operand(parser));
        i = 0;
    }
    return parser->failed ? NULL : left;
}

static jnode *operand_of_power(jparser *parser) {
    return unary(parser, true);
}

static jnode *power(jparser *parser) {
    static const binary_op ops[] = {{"**", OP_POW}};
    return chain(parser, ops, 1, operand_of_power);
}

static jnode *product(jparser *parser) {
    static const binary_op ops[] = {
        {"*", OP_MUL}, {"/", OP_DIV}, {"//", OP_FLOORDIV}, {"%", OP_MOD}};
    return chain(parser, ops, ARRAY_LEN(ops), power);
}

static jnode *concat(jparser *parser) {
    jnode *first = product(parser);
    if (first == NULL || !jinja__is_op(parser, "~")) return first;
    jnode *node = jinja__new_node(parser, N_CONCAT, first->line);
    if (node == NULL || !push_below(parser, node, &node->list, first)) return NULL;
    while (jinja__skip_op(parser, "~")) {
        if (!push_below(parser, node, &node->list, product(parser))) return NULL;
    }
    return parser->failed ? NULL : node;
}

static jnode *sum(jparser *parser) {
    static const binary_op ops[] = {{"+", OP_ADD}, {"-", OP_SUB}};
    return chain(parser, ops, ARRAY_LEN(ops), concat);
}

static bool comparison(jparser *parser, jop *op) {
    static const binary_op ops[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<", OP_LT},
                                    {"<=", OP_LE}, {">", OP_GT},  {">=", OP_GE}};
    for (size_t i = 0; i < ARRAY_LEN(ops); i++) {
        *op = ops[i].op;
        if (jinja__skip_op(parser, ops[i].text)) return true;
    }
    *op = OP_IN;
    if (jinja__skip_name(parser, "in")) return true;
    *op = OP_NOT_IN;
    const jtoken *next = jinja__token(parser);
    if (!jinja__is_name(parser, "not") || next[1].kind != T_NAME || next[1].len != 2 ||
        memcmp(next[1].bytes, "in", 2) != 0)
        return false;
    parser->at += 2;
    return true;
}

static jnode *compare(jparser *parser) {
    jnode *first = sum(parser), *node = NULL;
    jop op;
    while (first && comparison(parser, &op)) {
        if (node == NULL) {
            node = jinja__new_node(parser, N_COMPARE, first->line);
            if (node == NULL || !push_below(parser, node, &node->compare.operands, first))
                return NULL;
        }
        uint32_t n = node->compare.operands.count;
        uint8_t *ops = jinja__grown(parser, node->compare.ops, n - 1, 1);
        if (ops == NULL || !push_below(parser, node, &node->compare.operands, sum(parser)))
            return NULL;
        ops[n - 1] = (uint8_t)op;
        node->compare.ops = ops;
    }
    return parser->failed ? NULL : node ? node : first;
}

static jnode *negation(jparser *parser) {
    const jtoken *token = jinja__token(parser);
    if (!jinja__skip_name(parser, "not")) return compare(parser);
    if (++parser->depth > JINJA__MAX_HEIGHT)
        return jinja__syntax(parser, token->line, "it is nested more than %d deep",
                             JINJA__MAX_HEIGHT);
    jnode *node = single(parser, N_NOT, token->line, negation(parser));
    parser->depth--;
    return parser->failed ? NULL : node;
}

static jnode *logical(jparser *parser, const char *name, jnode_kind kind, level operand) {
    jnode *left = operand(parser);
    for (;;) {
        uint32_t line = jinja__token(parser)->line;
        if (left == NULL || !jinja__skip_name(parser, name)) return parser->failed ? NULL : left;
        left = binary(parser, kind, 0, line, left, operand(parser));
    }
}

static jnode *conjunction(jparser *parser) {
    return logical(parser, "and", N_AND, negation);
}

static jnode *disjunction(jparser *parser) {
    return logical(parser, "or", N_OR, conjunction);
}

/* then if test else otherwise */
static jnode *conditional(jparser *parser) {
    jnode *then = disjunction(parser);
    while (then && jinja__is_name(parser, "if")) {
        jnode *node = jinja__new_node(parser, N_COND, jinja__token(parser)->line);
        parser->at++;
        if (node == NULL) return NULL;
        node->cond.then = then;
        node->cond.test = disjunction(parser);
        if (jinja__skip_name(parser, "else")) node->cond.otherwise = jinja__expression(parser);
        jinja__above(parser, node, then);
        jinja__above(parser, node, node->cond.test);
        jinja__above(parser, node, node->cond.otherwise);
        then = node;
    }
    return parser->failed ? NULL : then;
}

static jnode *nested(jparser *parser, level parse) {
    if (++parser->depth > JINJA__MAX_HEIGHT)
        return jinja__syntax(parser, jinja__token(parser)->line, "it is nested more than %d deep",
                             JINJA__MAX_HEIGHT);
    jnode *node = parse(parser);
    parser->depth--;
    return node;
}

jnode *jinja__expression(jparser *parser) {
    return nested(parser, conditional);
}

jnode *jinja__expression_without_if(jparser *parser) {
    return nested(parser, disjunction);
}

jnode *jinja__expressions(jparser *parser, bool with_if) {
    level one = with_if ? jinja__expression : jinja__expression_without_if;
    jnode *first = one(parser);
    if (first == NULL || !jinja__is_op(parser, ",")) return first;
    jnode *node = jinja__new_node(parser, N_TUPLE, first->line);
    if (node == NULL || !push_below(parser, node, &node->list, first)) return NULL;
    while (jinja__skip_op(parser, ",")) {
        const jtoken *token = jinja__token(parser);
        if (token->kind == T_PRINT_END || token->kind == T_BLOCK_END || jinja__is_op(parser, ")") ||
            jinja__is_op(parser, "]") || jinja__is_op(parser, ":"))
            break;
        if (!push_below(parser, node, &node->list, one(parser))) return NULL;
    }
    return parser->failed ? NULL : node;
}

/* ---- targets of assignments ---- */

static jnode *one_target(jparser *parser, bool members) {
    const jtoken *token = jinja__token(parser);
    if (token->kind != T_NAME) return jinja__unexpected(parser, "a name");
    static const char *const fixed[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < ARRAY_LEN(fixed); i++) {
        if (jinja__is_name(parser, fixed[i])) return jinja__unexpected(parser, "a name");
    }
    uint32_t id = jinja__name_id(parser, token->bytes, token->len);
    jnode *node = jinja__new_node(parser, N_NAME, token->line);
    if (node == NULL) return NULL;
    parser->at++;
    node->name = id;
    if (!members || !jinja__skip_op(parser, ".")) return node;
    if (jinja__token(parser)->kind != T_NAME) return jinja__unexpected(parser, "a name");
    parser->tmpl->read[id] = true;
    return member(parser, node);
}

static bool ends_targets(const jparser *parser) {
    const jtoken *token = jinja__token(parser);
    return token->kind == T_BLOCK_END || jinja__is_op(parser, "=") ||
           jinja__is_name(parser, "in") || jinja__is_op(parser, ")");
}

static jnode *bracketed_target(jparser *parser, bool members) {
    if (!jinja__skip_op(parser, "(")) return one_target(parser, members);
    if (++parser->depth > JINJA__MAX_HEIGHT)
        return jinja__syntax(parser, jinja__token(parser)->line, "it is nested more than %d deep",
                             JINJA__MAX_HEIGHT);
    jnode *node = jinja__target(parser, false, members);
    parser->depth--;
    return node && jinja__expect_op(parser, ")") ? node : NULL;
}

jnode *jinja__target(jparser *parser, bool one, bool members) {
    jnode *first = bracketed_target(parser, members);
    if (one || first == NULL || !jinja__is_op(parser, ",")) return first;
    jnode *node = jinja__new_node(parser, N_TUPLE, first->line);
    if (node == NULL || !push_below(parser, node, &node->list, first)) return NULL;
    while (jinja__skip_op(parser, ",") && !ends_targets(parser)) {
        if (!push_below(parser, node, &node->list, bracketed_target(parser, members))) return NULL;
    }
    return parser->failed ? NULL : node;
}

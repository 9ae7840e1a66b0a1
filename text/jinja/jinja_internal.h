/* jinja_internal.h - values, the tree of a template, and the state of one rendering.
 *
 * A template is parsed into nodes of one arena that nothing changes afterwards. A rendering has an
 * arena of its own: values are made there and end together. A failure is sticky (vm->failed): what
 * is computed after it is thrown away, so most functions return some value and need no check. */
#ifndef FATHOM_TEXT_JINJA_INTERNAL_H
#define FATHOM_TEXT_JINJA_INTERNAL_H

#include "base/arena.h"
#include "text/jinja.h"

enum {
    JINJA__MAX_TEMPLATE = 1 << 20, /* bytes */
    JINJA__MAX_TOKENS = 1 << 18,
    JINJA__MAX_NAMES = 4096,
    JINJA__MAX_HEIGHT = 200, /* nesting of a template's nodes */
    JINJA__MAX_DEPTH = 1500, /* nodes being computed within each other, through macros */
    JINJA__MAX_NESTING = 200 /* lists in lists, of a client or made by a template */
};

typedef struct jvm jvm;
typedef struct jnode jnode;
typedef struct jscope jscope;

/* ---- values ---- */

typedef enum {
    J_UNDEFINED,
    J_NONE,
    J_BOOL,
    J_INT,
    J_REAL,
    J_STRING,
    J_LIST, /* every sequence; jlist.form says which */
    J_DICT,
    J_NAMESPACE, /* a dict whose members a template may set */
    J_FUNCTION,
    J_METHOD,
    J_MACRO,
    J_LOOP,
    J_CYCLER,
    J_JOINER
} jkind;

typedef struct jstring jstring;
typedef struct jlist jlist;
typedef struct jdict jdict;
typedef struct jmethod jmethod;
typedef struct jmacro jmacro;
typedef struct jloop jloop;
typedef struct jcycler jcycler;
typedef struct jjoiner jjoiner;
typedef struct jfunction jfunction;

typedef struct {
    uint8_t kind;
    bool client; /* of numbers and booleans: a client chose it, so its digits are the client's */
    union {
        bool b;
        int64_t i;
        double d;
        jstring *s;
        jlist *list;
        jdict *dict;
        const jfunction *function;
        jmethod *method;
        jmacro *macro;
        jloop *loop;
        jcycler *cycler;
        jjoiner *joiner;
        const jnode *from; /* of an undefined value: the expression that gave it; may be NULL */
    } u;
} jval;

/* Bytes being written, with their origins. What was written never changes: strings share it. */
typedef struct {
    char *bytes;
    size_t used, cap;
    text_run *runs;
    size_t n_runs, cap_runs;
} jwriter;

/* A text. It may be a part of a longer one: byte i stands at `skip` + i of what `runs` describe,
 * and the last run may reach beyond its end. */
struct jstring {
    const char *s;
    size_t n;
    size_t chars;         /* SIZE_MAX: not counted yet */
    jwriter *in;          /* whose bytes begin at s, if it may be lengthened there; or NULL */
    const text_run *runs; /* NULL: all bytes are as `trusted` says */
    size_t n_runs, skip;
    bool trusted;
    bool safe; /* markup: what joins it is escaped */
};

typedef enum {
    J_IS_LIST,
    J_IS_TUPLE,
    J_IS_ITERATOR, /* what Python's generators are: always true, without length, used up once */
    J_IS_RANGE,
    J_IS_KEYS,
    J_IS_VALUES,
    J_IS_ITEMS,
} jform;

struct jlist {
    jval *items;
    size_t n, cap;
    uint8_t form;
    bool spent;       /* an iterator that was gone through */
    int64_t range[3]; /* of a range */
};

typedef struct {
    jval key, value;
    uint64_t hash;
} jentry;

struct jdict { /* in order of insertion */
    jentry *entries;
    size_t n, cap;
    uint32_t *slots; /* hash to entry + 1; NULL while there are few */
    size_t n_slots;  /* a power of two */
};

struct jcycler {
    jlist items;
    size_t at;
};

struct jjoiner {
    jstring *text;
    bool called; /* before: now it gives the text */
};

/* ---- calls ---- */

typedef struct {
    const char *name;
    jval value;
} jnamed;

typedef struct {
    const char *what; /* the function, filter, method or test, for messages */
    jval *pos;
    size_t n_pos;
    jnamed *named;
    size_t n_named;
} jcall;

typedef jval (*jbuiltin)(jvm *vm, jval self, const jcall *call);

struct jfunction {
    const char *name;
    jbuiltin run;
    const char *params; /* names of what it takes, with spaces between; "*": anything */
    int least, most;    /* arguments */
};

struct jmethod {
    jval self;
    const jfunction *function;
};

/* ---- the tree ---- */

typedef enum {
    /* expressions */
    N_CONST,
    N_NAME,
    N_LIST,
    N_TUPLE,
    N_DICT,
    N_ATTR,
    N_INDEX,
    N_SLICE,
    N_CALL,
    N_FILTER,
    N_TEST,
    N_NOT,
    N_NEGATE,
    N_PLUS,
    N_BINARY,
    N_CONCAT,
    N_COMPARE,
    N_AND,
    N_OR,
    N_COND,
    /* statements */
    N_TEXT,
    N_PRINT,
    N_IF,
    N_FOR,
    N_SET,
    N_SET_BLOCK,
    N_MACRO,
    N_CALL_BLOCK,
    N_FILTER_BLOCK,
    N_WITH,
    N_SCOPE,
    N_BREAK,
    N_CONTINUE
} jnode_kind;

typedef enum {
    OP_ADD,
    OP_SUB,
    OP_MUL,
    OP_DIV,
    OP_FLOORDIV,
    OP_MOD,
    OP_POW,
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_IN,
    OP_NOT_IN
} jop;

typedef struct {
    jnode **items;
    uint32_t n;
} jnodes;

typedef struct {
    jnodes pos;
    const char **names; /* [named.n] */
    jnodes named;
} jargs;

typedef struct {
    uint32_t name; /* its id */
    jnode *value;  /* what it is where no argument is given; NULL: undefined */
} jparam;

/* A macro, or the body of a call block. */
typedef struct {
    uint32_t name;
    jparam *params;
    uint32_t n_params;
    bool uses_caller, uses_varargs, uses_kwargs;
    jnodes body;
} jmacro_node;

struct jnode {
    uint8_t kind;
    uint8_t op; /* of a binary node; 1 = negated, of a test */
    uint16_t height;
    uint32_t line;
    union {
        jval constant;
        uint32_t name; /* id */
        jnodes list;   /* list, tuple, dict (key, value, ...), concat, scope */
        jstring *text;
        jnode *of; /* not, negate, plus, print */
        struct {
            jnode *of, *key;
        } index;
        struct {
            jnode *of;
            jstring *name;
        } attr;
        struct {
            jnode *of, *from, *to, *step; /* the last three may be NULL */
        } slice;
        struct {
            jnode *of; /* NULL: of a filter, what a block printed */
            const jfunction *function;
            jargs args;
        } call;
        struct {
            jnode *left, *right;
        } binary;
        struct {
            jnodes operands; /* n */
            uint8_t *ops;    /* n - 1 */
        } compare;
        struct {
            jnode *test, *then, *otherwise; /* the last may be NULL */
        } cond;
        struct {
            jnodes tests; /* one for each body, without that of else */
            jnodes *bodies;
            uint32_t n_bodies;
        } branch;
        struct {
            jnode *target, *in, *test; /* the last may be NULL */
            jnodes body, otherwise;
        } loop;
        struct {
            jnode *target, *value; /* of a block: the value is a filter chain or NULL */
            jnodes body;
        } set;
        struct {
            jnodes targets, values, body;
        } with;
        jmacro_node *macro;
        struct {
            jnode *call;
            jmacro_node *caller;
        } block;
        struct {
            jnode *filters;
            jnodes body;
        } filter;
    } u;
};

struct jinja {
    arena nodes;
    const char *what;
    const char **names; /* [n_names] */
    bool *read;         /* [n_names]: the name is read somewhere */
    uint32_t n_names, cap_names;
    uint32_t id_loop, id_caller, id_varargs, id_kwargs;
    jnodes texts; /* text and string constants, in order */
    jnodes body;
};

/* ---- reading a template ---- */

typedef enum {
    T_END,
    T_TEXT,
    T_PRINT_BEGIN,
    T_PRINT_END,
    T_BLOCK_BEGIN,
    T_BLOCK_END,
    T_NAME,
    T_STRING, /* without its quotes, escapes as written */
    T_INT,
    T_REAL,
    T_OP /* one or two characters */
} jtoken_kind;

typedef struct {
    uint8_t kind;
    uint32_t line;
    const char *s;
    size_t n;
} jtoken;

typedef struct {
    jinja *t;
    err *e;
    jtoken *tokens; /* the last is T_END */
    size_t n, cap, at;
    uint32_t depth;
    uint32_t loops;     /* loops around the statement, within the same macro */
    jmacro_node *macro; /* being read; or NULL */
    bool failed;
} jparser;

int jinja__lex(jparser *p, const char *text, size_t n);
void *jinja__syntax(jparser *p, uint32_t line, const char *fmt, ...) PRINTF_LIKE(3, 4); /* NULL */
void *jinja__node_memory(jparser *p, size_t n, size_t each);
uint32_t jinja__name_id(jparser *p, const char *s, size_t n);
jnode *jinja__new_node(jparser *p, jnode_kind kind, uint32_t line);
/* parent is higher than child. */
void jinja__above(jparser *p, jnode *parent, const jnode *child);
/* An array of n things that has room for one more; NULL where the parser failed. */
void *jinja__grown(jparser *p, const void *items, uint32_t n, size_t each);
bool jinja__push_node(jparser *p, jnodes *list, jnode *node);

const jtoken *jinja__token(const jparser *p);
bool jinja__is_op(const jparser *p, const char *op);
bool jinja__is_name(const jparser *p, const char *name);
bool jinja__skip_op(jparser *p, const char *op);
bool jinja__skip_name(jparser *p, const char *name);
bool jinja__expect_op(jparser *p, const char *op);
void *jinja__unexpected(jparser *p, const char *wanted); /* NULL */
void jinja__describe(const jtoken *t, char *out, size_t room);

jnode *jinja__constant(jparser *p, uint32_t line, jval v);
jnode *jinja__string_constant(jparser *p); /* several next to each other are one */
jnode *jinja__number_constant(jparser *p);
jnode *jinja__expression(jparser *p);
jnode *jinja__expression_without_if(jparser *p);
/* One expression, or a tuple of them without brackets. */
jnode *jinja__expressions(jparser *p, bool with_if);
jnode *jinja__filters(jparser *p, jnode *of); /* the rest of a chain: NAME(args) | ... */
bool jinja__args(jparser *p, jargs *args);    /* from the opening bracket on */
jnode *jinja__target(jparser *p, bool single, bool members);
jnode *jinja__postfix(jparser *p, jnode *node);
jnode *jinja__primary(jparser *p);

/* ---- rendering ---- */

typedef struct {
    uint32_t name;
    jval value;
} jslot;

struct jscope {
    jscope *parent; /* NULL: the outermost, which is vm->globals */
    jslot *slots;
    uint32_t n, cap;
    bool held; /* a macro keeps it */
};

struct jmacro {
    const jmacro_node *node;
    jscope *scope; /* where it was defined */
};

struct jloop {
    jlist *items;
    size_t at;
    uint32_t depth; /* 1 = outermost */
    jlist *changed; /* arguments of the last loop.changed */
};

struct jvm {
    const jinja *t;
    const jinja_input *in;
    arena memory;
    err *e;
    bool failed;
    uint64_t steps, max_steps;
    size_t max_output;
    uint32_t depth, line, loops, nesting;
    jscope *scope;
    jval *globals; /* [t->n_names] */
    bool *known;   /* [t->n_names]: whether globals has it */
    jwriter *out;
    uint64_t hash_key[2];
};

jval jinja__fail(jvm *vm, const char *fmt, ...) PRINTF_LIKE(2, 3); /* ERR_BAD_PARAM; undefined */
jval jinja__costly(jvm *vm, const char *fmt, ...) PRINTF_LIKE(2, 3);
void *jinja__alloc(jvm *vm, size_t n, size_t each); /* zeroed; NULL: vm failed */
/* Counts work: one step and what `amount` bytes or items cost. False: the rendering is over. */
bool jinja__work(jvm *vm, size_t amount);
bool jinja__enter(jvm *vm); /* one level deeper; false: too deep, or over */
void jinja__leave(jvm *vm);

/* values.c */
static inline jval jinja__undefined(const jnode *from) {
    return (jval){.kind = J_UNDEFINED, .u.from = from};
}
static inline jval jinja__none(void) {
    return (jval){.kind = J_NONE};
}
static inline jval jinja__bool(bool b) {
    return (jval){.kind = J_BOOL, .u.b = b};
}
static inline jval jinja__int(int64_t i) {
    return (jval){.kind = J_INT, .u.i = i};
}
static inline jval jinja__real(double d) {
    return (jval){.kind = J_REAL, .u.d = d};
}
static inline jval jinja__of_list(jlist *list) {
    return list ? (jval){.kind = J_LIST, .u.list = list} : jinja__undefined(NULL);
}
static inline jval jinja__of_dict(jdict *dict) {
    return dict ? (jval){.kind = J_DICT, .u.dict = dict} : jinja__undefined(NULL);
}
static inline jval jinja__of_string(jstring *s) {
    return s ? (jval){.kind = J_STRING, .u.s = s} : jinja__undefined(NULL);
}
static inline bool jinja__is_list(jval v, jform form) {
    return v.kind == J_LIST && v.u.list->form == form;
}
static inline jval jinja__owned(jval v, bool client) { /* of a number: a client had a hand in it */
    v.client = client;
    return v;
}
const char *jinja__type(jval v); /* Python's word for it */
bool jinja__true(jval v);
bool jinja__equal(jvm *vm, jval a, jval b);
bool jinja__less(jvm *vm, jval a, jval b); /* fails where Python has no order */
bool jinja__contains(jvm *vm, jval in, jval what);
bool jinja__number(jval v, double *out);   /* int, real or bool */
bool jinja__integer(jval v, int64_t *out); /* int or bool */
jlist *jinja__new_list(jvm *vm, size_t cap);
void jinja__push(jvm *vm, jlist *list, jval v);
jdict *jinja__new_dict(jvm *vm);
jval *jinja__dict_get(jvm *vm, const jdict *d, jval key); /* NULL: not there, or not hashable */
void jinja__dict_set(jvm *vm, jdict *d, jval key, jval value);
jval jinja__dict_items(jvm *vm, const jdict *d); /* its view of pairs */
/* All that a loop over v would see; NULL: it cannot be gone through, and the vm failed. */
jlist *jinja__iterate(jvm *vm, jval v);
jval jinja__from_json(jvm *vm, const json_t *json, bool trusted);

/* strings.c */
jwriter *jinja__new_writer(jvm *vm, size_t room);
void jinja__write(jvm *vm, jwriter *w, const char *s, size_t n, bool trusted);
void jinja__write_string(jvm *vm, jwriter *w, const jstring *s);
void jinja__write_part(jvm *vm, jwriter *w, const jstring *s, size_t from, size_t to);
void jinja__write_text(jvm *vm, jwriter *w, const char *s); /* the template's own */
jstring *jinja__written(jvm *vm, jwriter *w);
jstring *jinja__string(jvm *vm, const char *s, size_t n, bool trusted); /* s is borrowed */
jstring *jinja__copy(jvm *vm, const char *s, size_t n, bool trusted);
jval jinja__text(jvm *vm, const char *s); /* a constant */
jstring *jinja__part(jvm *vm, const jstring *s, size_t from, size_t to);
jstring *jinja__concat(jvm *vm, jstring *a, const jstring *b);
/* Whether byte `at` is trusted, and where the stretch of that origin ends. */
bool jinja__origin(const jstring *s, size_t at, size_t *end);
bool jinja__all_trusted(const jstring *s);
size_t jinja__chars(jstring *s);
size_t jinja__char_at(jstring *s, size_t index); /* the byte where a character begins */
size_t jinja__find(const jstring *s, size_t from, const char *what, size_t n); /* SIZE_MAX: no */
bool jinja__same(const jstring *a, const jstring *b);
bool jinja__is(const jstring *s, const char *text);
uint32_t jinja__code_point(const char *s, size_t n, size_t *len);
size_t jinja__put_code_point(char *out, uint32_t cp);
bool jinja__is_space(uint32_t cp);

/* print.c */
void jinja__write_value(jvm *vm, jwriter *w, jval v); /* as print does */
void jinja__write_repr(jvm *vm, jwriter *w, jval v);
jstring *jinja__str(jvm *vm, jval v);
size_t jinja__format_real(double d, char *out, size_t room); /* the shortest that reads back */

/* eval.c, operators.c, attributes.c */
jval jinja__add_texts(jvm *vm, jstring *a, jstring *b);
jstring *jinja__escape(jvm *vm, const jstring *s); /* for HTML */
jval jinja__eval(jvm *vm, const jnode *node);
jval jinja__eval_filters(jvm *vm, const jnode *node, jval input); /* input: of the innermost */
jval jinja__eval_call_block(jvm *vm, const jnode *call, jval caller);
jval jinja__binary(jvm *vm, jop op, jval a, jval b);
bool jinja__compare(jvm *vm, jop op, jval a, jval b);
jval jinja__attribute(jvm *vm, jval of, const jstring *name, const jnode *from);
jval jinja__item(jvm *vm, jval of, jval key, const jnode *from);
jval jinja__slice(jvm *vm, jval of, jval from, jval to, jval step);
/* attribute="a.b.0" of filters */
jval jinja__path(jvm *vm, jval of, jval path);
jval jinja__call_value(jvm *vm, jval callee, const jcall *call);
jval jinja__call_macro(jvm *vm, const jmacro *m, const jcall *call, const jval *caller);
jval jinja__lookup(jvm *vm, uint32_t name, const jnode *from);
void jinja__define(jvm *vm, uint32_t name, jval v);
void jinja__assign(jvm *vm, const jnode *target, jval v);
jscope *jinja__new_scope(jvm *vm, jscope *parent);
bool jinja__use_undefined(jvm *vm, jval v); /* false and failed if v is undefined */
bool jinja__eval_args(jvm *vm, const jargs *args, jcall *call);

/* exec.c */
typedef enum { J_GO_ON, J_BREAK, J_CONTINUE } jflow;
jflow jinja__run(jvm *vm, const jnodes *body);
jstring *jinja__capture(jvm *vm, const jnodes *body);

/* arguments of builtins */
/* The argument at this place or of this name; false: not given. */
bool jinja__arg(const jcall *call, size_t place, const char *name, jval *out);
int64_t jinja__arg_int(jvm *vm, const jcall *call, size_t place, const char *name, int64_t none);
bool jinja__arg_bool(const jcall *call, size_t place, const char *name, bool none);
jstring *jinja__arg_string(jvm *vm, const jcall *call, size_t place,
                           const char *name); /* or NULL */
bool jinja__check_args(jvm *vm, const jfunction *f, const jcall *call);
jval jinja__run_builtin(jvm *vm, const jfunction *f, jval self, const jcall *call);

const jfunction *jinja__find_filter(const char *name, size_t n);
const jfunction *jinja__find_test(const char *name, size_t n);
const jfunction *jinja__find_method(jval of, const char *name, size_t n);
bool jinja__changes(const jfunction *method);      /* its object: templates may not call it */
bool jinja__is_method(const char *name, size_t n); /* of any type */
const jfunction *jinja__find_global(const char *name);
const jfunction *jinja__find_in(const jfunction *table, size_t n, const char *name, size_t len);
extern const jfunction jinja__text_filters[], jinja__list_filters[], jinja__text_methods[];
extern const size_t jinja__n_text_filters, jinja__n_list_filters, jinja__n_text_methods;

jval jinja__to_json(jvm *vm, jval v, const jcall *call);
/* Markup would escape the arguments of some methods, which is not supported: false, and failed. */
bool jinja__is_plain(jvm *vm, const jstring *s, const char *what);
jval jinja__percent(jvm *vm, jstring *format, jval args); /* 'a %s' % x */
jval jinja__format_filter(jvm *vm, jval self, const jcall *call);
jval jinja__str_format(jvm *vm, jval self, const jcall *call); /* 'a {}'.format(x) */
jval jinja__strftime(jvm *vm, const jstring *format);
jval jinja__sorted(jvm *vm, jlist *list, bool reverse, bool by_case, const jval *path);

/* texts.c, case.c */
enum { J_UPPER, J_LOWER, J_TITLE, J_CAPITALIZE, J_SWAP };
jstring *jinja__change_case(jvm *vm, jstring *s, int how);
typedef enum {
    J_ALPHA,
    J_ALNUM,
    J_DECIMAL,
    J_DIGIT,
    J_SPACE,
    J_ALL_UPPER,
    J_ALL_LOWER,
    J_ALL_TITLE
} jtext_kind;
bool jinja__text_is(const jstring *s, jtext_kind kind);
bool jinja__is_alnum(uint32_t cp);
/* count < 0: all */
jstring *jinja__replace(jvm *vm, const jstring *s, const jstring *old, const jstring *by,
                        int64_t count);
/* chars NULL: white space */
jstring *jinja__stripped(jvm *vm, jstring *s, const jstring *chars, bool left, bool right);
/* sep NULL: white space; most < 0: all */
jlist *jinja__split(jvm *vm, const jstring *s, const jstring *sep, int64_t most, bool from_right);
jlist *jinja__lines(jvm *vm, const jstring *s, bool keep_ends);
/* The last place in [from, end) where `what` begins and is over; SIZE_MAX: none. */
size_t jinja__find_last(jvm *vm, const jstring *s, size_t from, size_t end, const jstring *what);
/* align: '<', '>', '^' as str.center does, '=' behind a sign */
jstring *jinja__padded(jvm *vm, const jstring *s, int64_t width, const jstring *fill, char align);

#endif

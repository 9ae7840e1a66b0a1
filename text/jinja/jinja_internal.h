/* jinja_internal.h - values, the tree of a template, and the state of one rendering.
 *
 * A template is parsed into nodes in one arena and never changes afterwards. A rendering has an
 * arena of its own: values are allocated there and freed together. A failure is sticky
 * (vm->failed): results computed after it are discarded, so most functions return some value and
 * their callers need no check. */
#ifndef FATHOM_TEXT_JINJA_INTERNAL_H
#define FATHOM_TEXT_JINJA_INTERNAL_H

#include "base/arena.h"
#include "text/jinja.h"

enum {
    JINJA__MAX_TEMPLATE = 1 << 20, /* bytes */
    JINJA__MAX_TOKENS = 1 << 18,
    JINJA__MAX_NAMES = 4096,
    JINJA__MAX_HEIGHT = 200, /* nesting of a template's nodes */
    JINJA__MAX_DEPTH = 1500, /* nodes in evaluation at once, macro calls included */
    JINJA__MAX_NESTING = 200 /* lists in lists, from a client or built by a template */
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
    J_LIST, /* every sequence: see jlist.form */
    J_DICT,
    J_NAMESPACE, /* a dict with members that a template may set */
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
    bool
        client; /* of numbers and booleans: a client chose the value, so its digits are untrusted */
    union {
        bool boolean;
        int64_t integer;
        double real;
        jstring *string;
        jlist *list;
        jdict *dict;
        const jfunction *function;
        jmethod *method;
        jmacro *macro;
        jloop *loop;
        jcycler *cycler;
        jjoiner *joiner;
        const jnode *from; /* of an undefined value: its expression; may be NULL */
    };
} jval;

/* Output with the origin of its bytes. It only grows, so strings may share written bytes. */
typedef struct {
    char *bytes;
    size_t used, cap;
    text_run *runs;
    size_t n_runs, cap_runs;
} jwriter;

/* A text. A part of a longer text shares its runs: byte i is byte `skip` + i of the runs, and the
 * last run may reach beyond the end of the part. */
struct jstring {
    const char *bytes;
    size_t len;
    size_t chars;         /* SIZE_MAX: not counted yet */
    jwriter *writer;      /* NULL, or a writer that starts with this text and may lengthen it */
    const text_run *runs; /* NULL: all bytes are as `trusted` says */
    size_t n_runs, skip;
    bool trusted;
    bool safe; /* markup: joining plain text to it escapes the plain text */
};

typedef enum {
    J_IS_LIST,
    J_IS_TUPLE,
    J_IS_ITERATOR, /* a Python generator: always true, no length, can be iterated once */
    J_IS_RANGE,
    J_IS_KEYS,
    J_IS_VALUES,
    J_IS_ITEMS,
} jform;

struct jlist {
    jval *items;
    size_t count, cap;
    uint8_t form;
    bool spent;       /* an iterator that was used */
    int64_t range[3]; /* of a range: start, stop, step */
};

typedef struct {
    jval key, value;
    uint64_t hash;
} jentry;

struct jdict { /* in order of insertion */
    jentry *entries;
    size_t count, cap;
    uint32_t *slots; /* hash to entry + 1; NULL while the dict is small */
    size_t n_slots;  /* a power of two */
};

struct jcycler {
    jlist items;
    size_t at;
};

struct jjoiner {
    jstring *text;
    bool called; /* the first call gives nothing, later calls give the text */
};

/* ---- calls ---- */

typedef struct {
    const char *name;
    jval value;
} jnamed;

typedef struct {
    const char *name; /* of the function, filter, method or test, for messages */
    jval *pos;
    size_t n_pos;
    jnamed *named;
    size_t n_named;
} jcall;

typedef jval (*jbuiltin)(jvm *vm, jval self, const jcall *call);

struct jfunction {
    const char *name;
    jbuiltin run;
    const char *params; /* parameter names, separated by spaces; "*": anything */
    int min_args, max_args;
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
    uint32_t count;
} jnodes;

typedef struct {
    jnodes pos;
    const char **names; /* [named.count] */
    jnodes named;
} jargs;

typedef struct {
    uint32_t name; /* its id */
    jnode *value;  /* the default; NULL: undefined */
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
    uint8_t op; /* of a binary node: jop; of a test: 1 = negated */
    uint16_t height;
    uint32_t line;
    union {
        jval constant;
        uint32_t name; /* id */
        jnodes list;   /* list, tuple, dict (key, value, ...), concat, scope */
        jstring *text;
        jnode *operand; /* not, negate, plus, print */
        struct {
            jnode *object, *key;
        } index;
        struct {
            jnode *object;
            jstring *name;
        } attr;
        struct {
            jnode *object, *from, *to, *step; /* the last three may be NULL */
        } slice;
        struct {
            jnode *subject; /* the callee, or the input of a filter or test; NULL: a block's text */
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
            jnodes tests; /* one for each body but the else body */
            jnodes *bodies;
            uint32_t n_bodies;
        } branch;
        struct {
            jnode *target, *iterable, *test; /* the last may be NULL */
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
    };
};

struct jinja {
    arena nodes;
    const char *source;
    const char **names; /* [n_names] */
    bool *read;         /* [n_names]: the template reads the variable */
    uint32_t n_names, cap_names;
    uint32_t id_loop, id_caller, id_varargs, id_kwargs;
    jnodes texts; /* text and string constants, in order */
    jnodes body;
};

/* ---- rendering ---- */

typedef struct {
    uint32_t name;
    jval value;
} jslot;

struct jscope {
    jscope *parent; /* NULL: the outermost, which is vm->globals */
    jslot *slots;
    uint32_t count, cap;
    bool held; /* a macro refers to it, so it cannot be reused */
};

struct jmacro {
    const jmacro_node *node;
    jscope *scope; /* of the definition */
};

struct jloop {
    jlist *items;
    size_t at;
    jlist *changed; /* arguments of the last loop.changed */
};

struct jvm {
    const jinja *tmpl;
    const jinja_input *input;
    arena memory;
    err *error;
    bool failed;
    uint64_t steps, max_steps;
    size_t max_output;
    uint32_t depth, line, nesting;
    jscope *scope;
    jval *globals; /* [tmpl->n_names] */
    bool *known;   /* [tmpl->n_names]: globals holds the value */
    jwriter *out;
    uint64_t hash_key[2];
};

jval jinja__fail(jvm *vm, const char *fmt, ...) PRINTF_LIKE(2, 3); /* ERR_BAD_PARAM; undefined */
jval jinja__costly(jvm *vm, const char *fmt, ...) PRINTF_LIKE(2, 3);
void *jinja__alloc(jvm *vm, size_t n, size_t each); /* zeroed; NULL: vm failed */
/* Charges one step plus the cost of `amount` bytes or items. False: the rendering has failed. */
bool jinja__work(jvm *vm, size_t amount);
bool jinja__enter(jvm *vm); /* one level deeper; false: too deep, or failed before */
void jinja__leave(jvm *vm);

/* values.c */
static inline jval jinja__undefined(const jnode *from) {
    return (jval){.kind = J_UNDEFINED, .from = from};
}
static inline jval jinja__none(void) {
    return (jval){.kind = J_NONE};
}
static inline jval jinja__bool(bool boolean) {
    return (jval){.kind = J_BOOL, .boolean = boolean};
}
static inline jval jinja__int(int64_t integer) {
    return (jval){.kind = J_INT, .integer = integer};
}
static inline jval jinja__real(double real) {
    return (jval){.kind = J_REAL, .real = real};
}
static inline jval jinja__of_list(jlist *list) {
    return list ? (jval){.kind = J_LIST, .list = list} : jinja__undefined(NULL);
}
static inline jval jinja__of_dict(jdict *dict) {
    return dict ? (jval){.kind = J_DICT, .dict = dict} : jinja__undefined(NULL);
}
static inline jval jinja__of_string(jstring *text) {
    return text ? (jval){.kind = J_STRING, .string = text} : jinja__undefined(NULL);
}
static inline bool jinja__is_list(jval value, jform form) {
    return value.kind == J_LIST && value.list->form == form;
}
static inline jval jinja__with_client(jval value, bool client) { /* sets jval.client of a number */
    value.client = client;
    return value;
}
const char *jinja__type(jval value); /* Python's name of the type */
bool jinja__true(jval value);
bool jinja__equal(jvm *vm, jval left, jval right);
bool jinja__less(jvm *vm, jval left, jval right); /* fails where Python has no order */
bool jinja__contains(jvm *vm, jval container, jval item);
bool jinja__number(jval value, double *out);   /* int, real or bool */
bool jinja__integer(jval value, int64_t *out); /* int or bool */
jlist *jinja__new_list(jvm *vm, size_t cap);
void jinja__push(jvm *vm, jlist *list, jval value);
jlist *jinja__copy_list(jvm *vm, jval value); /* the items of any iterable */
void jinja__reverse_list(jlist *list);
jdict *jinja__new_dict(jvm *vm);
jval *jinja__dict_get(jvm *vm, const jdict *dict, jval key); /* NULL: not there, or not hashable */
void jinja__dict_set(jvm *vm, jdict *dict, jval key, jval value);
jval jinja__dict_items(jvm *vm, const jdict *dict); /* a view of the pairs */
/* The items of a loop over value; NULL: value is not iterable, and the vm failed. */
jlist *jinja__iterate(jvm *vm, jval value);
jval jinja__from_json(jvm *vm, const json_t *json, bool trusted);

/* strings.c */
jwriter *jinja__new_writer(jvm *vm, size_t room);
void jinja__write(jvm *vm, jwriter *out, const char *bytes, size_t n, bool trusted);
void jinja__write_string(jvm *vm, jwriter *out, const jstring *text);
void jinja__write_part(jvm *vm, jwriter *out, const jstring *text, size_t from, size_t to);
void jinja__write_text(jvm *vm, jwriter *out, const char *bytes); /* trusted */
jstring *jinja__written(jvm *vm, jwriter *out);
jstring *jinja__string(jvm *vm, const char *bytes, size_t n, bool trusted); /* borrows bytes */
jstring *jinja__copy(jvm *vm, const char *bytes, size_t n, bool trusted);
jval jinja__text(jvm *vm, const char *bytes); /* a constant */
jstring *jinja__part(jvm *vm, const jstring *text, size_t from, size_t to);
jstring *jinja__concat(jvm *vm, jstring *left, const jstring *right);
/* Whether byte `at` is trusted; *end: the first byte behind `at` of another origin. */
bool jinja__origin(const jstring *text, size_t at, size_t *end);
bool jinja__all_trusted(const jstring *text);
size_t jinja__chars(jstring *text);
size_t jinja__char_at(jstring *text, size_t index); /* character index to byte offset */
/* SIZE_MAX: not found. */
size_t jinja__find(const jstring *text, size_t from, const char *needle, size_t n);
bool jinja__same(const jstring *left, const jstring *right);
bool jinja__is(const jstring *text, const char *expected);
uint32_t jinja__code_point(const char *bytes, size_t n, size_t *len);
size_t jinja__put_code_point(char *out, uint32_t cp);
size_t jinja__char_before(const char *bytes, size_t at); /* offset of the character before at > 0 */
bool jinja__is_space(uint32_t cp);

/* print.c */
void jinja__write_value(jvm *vm, jwriter *out, jval value); /* as {{ value }} prints it */
void jinja__write_repr(jvm *vm, jwriter *out, jval value);
jstring *jinja__str(jvm *vm, jval value);
size_t jinja__format_real(double real, char *out, size_t room); /* the shortest that reads back */

/* eval.c, operators.c, attributes.c */
jval jinja__add_texts(jvm *vm, jstring *left, jstring *right);
jstring *jinja__escape(jvm *vm, const jstring *text); /* for HTML */
jval jinja__eval(jvm *vm, const jnode *node);
jval jinja__eval_filters(jvm *vm, const jnode *node,
                         jval input); /* input of the innermost filter */
jval jinja__eval_call_block(jvm *vm, const jnode *call, jval caller);
jval jinja__binary(jvm *vm, jop op, jval left, jval right);
bool jinja__compare(jvm *vm, jop op, jval left, jval right);
jval jinja__attribute(jvm *vm, jval object, const jstring *name, const jnode *from);
jval jinja__item(jvm *vm, jval object, jval key, const jnode *from);
jval jinja__slice(jvm *vm, jval object, jval from, jval to, jval step);
/* attribute="a.b.0" of filters */
jval jinja__path(jvm *vm, jval object, jval path);
jval jinja__call_value(jvm *vm, jval callee, const jcall *call);
jval jinja__call_macro(jvm *vm, const jmacro *macro, const jcall *call, const jval *caller);
jval jinja__lookup(jvm *vm, uint32_t name, const jnode *from);
void jinja__define(jvm *vm, uint32_t name, jval value);
void jinja__assign(jvm *vm, const jnode *target, jval value);
jscope *jinja__new_scope(jvm *vm, jscope *parent);
bool jinja__check_defined(jvm *vm, jval value); /* false: undefined, and the vm failed */
bool jinja__eval_args(jvm *vm, const jargs *args, jcall *call);

/* exec.c */
typedef enum { J_GO_ON, J_BREAK, J_CONTINUE } jflow;
jflow jinja__run(jvm *vm, const jnodes *body);
jstring *jinja__capture(jvm *vm, const jnodes *body);

/* arguments of builtins */
/* The argument at this position or of this name; false: not given. */
bool jinja__arg(const jcall *call, size_t pos, const char *name, jval *out);
int64_t jinja__arg_int(jvm *vm, const jcall *call, size_t pos, const char *name, int64_t absent);
bool jinja__arg_bool(const jcall *call, size_t pos, const char *name, bool absent);
/* NULL: not given. */
jstring *jinja__arg_string(jvm *vm, const jcall *call, size_t pos, const char *name);
bool jinja__check_args(jvm *vm, const jfunction *func, const jcall *call);
jval jinja__run_builtin(jvm *vm, const jfunction *func, jval self, const jcall *call);

const jfunction *jinja__find_filter(const char *name, size_t n);
const jfunction *jinja__find_test(const char *name, size_t n);
const jfunction *jinja__find_method(jval object, const char *name, size_t n);
bool jinja__mutates(const jfunction *method);      /* such methods are closed to templates */
bool jinja__is_method(const char *name, size_t n); /* of any type */
const jfunction *jinja__find_global(const char *name);
const jfunction *jinja__find_in(const jfunction *table, size_t n, const char *name, size_t len);
extern const jfunction jinja__text_filters[], jinja__list_filters[], jinja__text_methods[];
extern const size_t jinja__n_text_filters, jinja__n_list_filters, jinja__n_text_methods;

jval jinja__to_json(jvm *vm, jval value, const jcall *call);
/* False: text is markup, and the vm failed. Markup would escape the arguments of some methods,
 * which is not supported. */
bool jinja__check_plain(jvm *vm, const jstring *text, const char *method);
jval jinja__percent(jvm *vm, jstring *format, jval args); /* 'a %s' % x */
jval jinja__format_filter(jvm *vm, jval self, const jcall *call);
jval jinja__str_format(jvm *vm, jval self, const jcall *call); /* 'a {}'.format(x) */
jval jinja__strftime(jvm *vm, const jstring *format);
jval jinja__sorted(jvm *vm, jlist *list, bool reverse, bool by_case, const jval *path);

/* texts.c, case.c */
enum { J_UPPER, J_LOWER, J_TITLE, J_CAPITALIZE, J_SWAP };
jstring *jinja__change_case(jvm *vm, jstring *text, int how);
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
bool jinja__text_is(const jstring *text, jtext_kind kind);
bool jinja__is_alnum(uint32_t cp);
/* count < 0: all */
jstring *jinja__replace(jvm *vm, const jstring *text, const jstring *old, const jstring *by,
                        int64_t count);
/* chars NULL: white space */
jstring *jinja__stripped(jvm *vm, jstring *text, const jstring *chars, bool left, bool right);
/* sep NULL: white space; most < 0: all */
jlist *jinja__split(jvm *vm, const jstring *text, const jstring *sep, int64_t most,
                    bool from_right);
jlist *jinja__lines(jvm *vm, const jstring *text, bool keep_ends);
/* The last occurrence of needle within [from, end); SIZE_MAX: none. */
size_t jinja__find_last(jvm *vm, const jstring *text, size_t from, size_t end,
                        const jstring *needle);
/* align: '<', '>', '^' as in str.center, '=' pads between sign and digits */
jstring *jinja__padded(jvm *vm, const jstring *text, int64_t width, const jstring *fill,
                       char align);

#endif

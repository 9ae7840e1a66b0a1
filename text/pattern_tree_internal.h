/* pattern_tree_internal.h - a pattern of Oniguruma's as a tree: pattern_parse.c,
 * pattern_group.c and pattern_class.c make it, pattern_emit.c writes it for PCRE2. */
#ifndef FATHOM_TEXT_PATTERN_TREE_INTERNAL_H
#define FATHOM_TEXT_PATTERN_TREE_INTERNAL_H

#include "base/buf.h"
#include "base/err.h"
#include "text/unicode_internal.h"

enum {
    PATTERN_MAX = 16 << 10,        /* bytes of a pattern */
    PATTERN_DEPTH = 100,           /* groups, classes and quantifiers inside each other */
    PATTERN_REPEAT_MAX = 65535,    /* PCRE2's; the reference takes 100,000 */
    PATTERN_REPEAT_LIMIT = 100000, /* beyond which the reference refuses too */
    PATTERN_TREE_BYTES = 64 << 20,
    PATTERN_OUT_BYTES = 4 << 20,
    PATTERN_SCRIPTS = 16, /* that may help to write a set shortly */
    PATTERN_FOREVER = -1, /* as a repeat's upper bound */
};

/* Options that hold where a thing stands. */
typedef enum {
    OPTION_I = 1, /* letters match whatever their case */
    OPTION_M = 2, /* a dot matches line feeds */
    OPTION_X = 4, /* blanks and comments mean nothing */
    OPTION_W = 8, /* words, digits, blanks, all POSIX classes are ASCII's */
    OPTION_D = 16,
    OPTION_S = 32,
    OPTION_P = 64,
} pattern_options;

typedef enum {
    NODE_EMPTY,
    NODE_STRING, /* code points, which match any case if `icase` */
    NODE_SET,    /* one character of a set; if `icase` also what several members fold to */
    NODE_SEQUENCE,
    NODE_CHOICE,
    NODE_REPEAT, /* `first`, min to max times */
    NODE_GROUP,  /* that options begin with: what is inside joins nothing outside */
    NODE_CAPTURE,
    NODE_ATOMIC,
    NODE_AHEAD,
    NODE_BEHIND,
    NODE_LINE_START,
    NODE_LINE_END,
    NODE_TEXT_START,
    NODE_TEXT_END,
    NODE_TEXT_END_OR_LINE, /* \Z */
    NODE_SEARCH_START,     /* \G */
    NODE_WORD_EDGE,        /* of the words in `set` */
    NODE_KEEP,
    NODE_NEWLINE, /* \R */
    NODE_BACK_REFERENCE,
    NODE_CALL,
    NODE_CONDITION, /* on a group; then `first`, else what follows it */
} node_kind;

typedef struct node node;
struct node {
    node_kind kind;
    bool icase, negated, lazy, possessive;
    size_t at;          /* byte of the pattern where it begins */
    node *first, *last; /* of what it holds */
    node *next;         /* beside it */
    int min, max;
    uint32_t group;   /* the capture's own number, or the one referred to */
    const char *name; /* of a reference by name, until it is resolved */
    size_t name_len;
    uint32_t *string;
    size_t n; /* code points of string */
    text__set set;
};

typedef struct {
    const char *name;
    size_t len;
    uint32_t group;
    bool twice;
} pattern_name;

/* Reading a pattern, and what is known of it then. */
typedef struct {
    arena tree;
    const char *text;
    size_t n, at;
    unsigned options, depth;
    uint32_t groups, named;
    pattern_name *names; /* [named] */
    size_t names_cap;
    int used[PATTERN_SCRIPTS]; /* properties that stand in it, the first few */
    size_t n_used;
    bool refers; /* to what a group matched */
    bool calls;
    bool search_start; /* \G is somewhere */
    bool atomic;       /* an atomic group is, or a possessive one */
    const char *what;  /* begins messages */
    err *e;
} pattern;

/* Both return -1. `thing` at byte `at` is known to the reference and not to this translator; or
 * is no pattern at all. */
int pattern_unknown(pattern *p, size_t at, const char *fmt, ...) PRINTF_LIKE(3, 4);
int pattern_wrong(pattern *p, size_t at, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The arena is full: of memory, or of its bound. */
int pattern_full(pattern *p);

int pattern_parse(pattern *p, node **root) WARN_UNUSED;
/* Into `out`. */
int pattern_emit(pattern *p, const node *root, buf *out) WARN_UNUSED;

/* ---- between the parts of the parser ---- */

/* The character at p->at, and beyond it. False at the end. */
bool pattern_next(pattern *p, uint32_t *c);
/* Beyond the character if it is the next. */
bool pattern_take(pattern *p, char c);
bool pattern_at_digit(const pattern *p);
/* At most `most` digits; *n is how many there were. Too large a number stays the largest. */
uint32_t pattern_number(pattern *p, unsigned base, size_t most, size_t *n);
/* NULL when there is no memory, which then has been said. */
node *pattern_new_node(pattern *p, node_kind kind, size_t at);
void pattern_append(node *parent, node *child);
/* What stands up to the end of a group or the pattern. */
int pattern_choice(pattern *p, bool group_head, node **out) WARN_UNUSED;
/* Behind the parenthesis. *plain: (?:...), which is what it holds. */
int pattern_group(pattern *p, size_t start, bool *plain, node **out) WARN_UNUSED;
/* \k<...>, \g<...> or (?(...), behind the bracket. */
int pattern_reference(pattern *p, node_kind kind, size_t start, char end, node **out) WARN_UNUSED;
/* What a backslash and then the character at p->at spells: \t, \cx, \M-x, an ordinary character. */
int pattern_escaped_value(pattern *p, uint32_t *c) WARN_UNUSED;
/* After \x, \u, \o or an octal digit; bytes of UTF-8, if such are spelt, become one character. */
int pattern_numbered(pattern *p, size_t start, uint32_t kind, bool in_class,
                     uint32_t *c) WARN_UNUSED;
bool pattern_at(const pattern *p, char c);
/* \w \W \d \D \s \S \h \H by its letter; of \w, what it means in a class or alone. */
text__set pattern_type(pattern *p, uint32_t letter, bool in_class);
/* After \p{ or \p{^. */
int pattern_property(pattern *p, size_t start, bool in_class, text__set *out) WARN_UNUSED;
/* After the [. */
int pattern_class(pattern *p, size_t start, text__set *out, bool *negated) WARN_UNUSED;

#endif

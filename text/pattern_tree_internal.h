/* pattern_tree_internal.h - an Oniguruma pattern as a tree. pattern_parse.c, pattern_group.c and
 * pattern_class.c build it; pattern_emit.c writes it for PCRE2. */
#ifndef FATHOM_TEXT_PATTERN_TREE_INTERNAL_H
#define FATHOM_TEXT_PATTERN_TREE_INTERNAL_H

#include "base/buf.h"
#include "base/err.h"
#include "text/unicode_internal.h"

enum {
    PATTERN_MAX = 16 << 10,        /* bytes of a pattern */
    PATTERN_DEPTH = 100,           /* nested groups, classes and quantifiers */
    PATTERN_REPEAT_MAX = 65535,    /* the limit of PCRE2 */
    PATTERN_REPEAT_LIMIT = 100000, /* the limit of the reference */
    PATTERN_TREE_BYTES = 64 << 20,
    PATTERN_OUT_BYTES = 4 << 20,
    PATTERN_SCRIPTS = 16, /* tried to write a set shorter */
    PATTERN_FOREVER = -1, /* a repeat without upper bound */
};

/* Options in force at one place of a pattern. */
typedef enum {
    OPTION_I = 1, /* letters match in any case */
    OPTION_M = 2, /* a dot matches line feeds too */
    OPTION_X = 4, /* blanks and comments are ignored */
    OPTION_W = 8, /* W, D, S, P: words, digits, blanks, all POSIX classes are ASCII only */
    OPTION_D = 16,
    OPTION_S = 32,
    OPTION_P = 64,
} pattern_options;

typedef enum {
    NODE_EMPTY,
    NODE_STRING, /* code points; in any case if `icase` */
    NODE_SET,    /* one character of a set; if `icase`, also the sequences its members fold to */
    NODE_SEQUENCE,
    NODE_CHOICE,
    NODE_REPEAT, /* `first`, min to max times */
    NODE_GROUP,  /* not captured, such as (?i:...): a quantifier repeats the whole group */
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
    NODE_WORD_EDGE,        /* between a character in `set` and one outside */
    NODE_KEEP,
    NODE_NEWLINE, /* \R */
    NODE_BACK_REFERENCE,
    NODE_CALL,
    NODE_CONDITION, /* if the group matched: `first`; otherwise the child after it, if any */
} node_kind;

typedef struct node node;
struct node {
    node_kind kind;
    bool icase, negated, lazy, possessive;
    size_t at;          /* first byte in the pattern */
    node *first, *last; /* children */
    node *next;         /* next child of the same parent */
    int min, max;
    uint32_t group;   /* the capture's own number, or the number it refers to */
    const char *name; /* of a reference by name, until it is resolved */
    size_t name_len;
    uint32_t *string; /* [len] code points */
    size_t len;
    text__set set;
};

typedef struct {
    const char *name;
    size_t len;
    uint32_t group;
    bool twice; /* another group has the same name */
} pattern_name;

/* The state of the parser and its findings about the pattern. */
typedef struct {
    arena tree;
    const char *text; /* [len] bytes, read up to `at` */
    size_t len, at;
    unsigned options, depth;
    uint32_t groups, named;
    pattern_name *names; /* [named] */
    size_t names_cap;
    int used[PATTERN_SCRIPTS]; /* the first few properties it names */
    size_t n_used;
    bool refers;       /* it has a reference to the text that a group matched */
    bool calls;        /* it has a call of a group */
    bool search_start; /* it has \G */
    bool atomic;       /* it has an atomic group or a possessive repeat of one */
    const char *label; /* begins messages */
    err *e;
} pattern;

/* All return -1. Unknown: the reference accepts the pattern, this translator does not. Wrong: the
 * reference refuses it too. The message names the construct and its first byte, `at`. */
int pattern_unknown(pattern *pat, size_t at, const char *fmt, ...) PRINTF_LIKE(3, 4);
int pattern_wrong(pattern *pat, size_t at, const char *fmt, ...) PRINTF_LIKE(3, 4);
/* The arena failed: no memory, or its limit is reached. */
int pattern_full(pattern *pat);

int pattern_parse(pattern *pat, node **root) WARN_UNUSED;
int pattern_emit(pattern *pat, const node *root, buf *out) WARN_UNUSED;

/* ---- between the parts of the parser ---- */

/* Takes the character at pat->at. False at the end. */
bool pattern_next(pattern *pat, uint32_t *code);
/* The next character is `byte`. */
bool pattern_at(const pattern *pat, char byte);
/* The same, and takes it. */
bool pattern_take(pattern *pat, char byte);
bool pattern_at_digit(const pattern *pat);
/* Takes at most `most` digits; *n is their number. A number over 32 bits becomes UINT32_MAX. */
uint32_t pattern_number(pattern *pat, unsigned base, size_t most, size_t *n);
/* NULL without memory; the error is set then. */
node *pattern_new_node(pattern *pat, node_kind kind, size_t at);
void pattern_append(node *parent, node *child);
/* Alternatives up to the end of the group or the pattern. */
int pattern_choice(pattern *pat, bool group_head, node **out) WARN_UNUSED;
/* A group, after its parenthesis. *plain: it is (?:...), and *out is its content. */
int pattern_group(pattern *pat, size_t start, bool *plain, node **out) WARN_UNUSED;
/* \k<...>, \g<...> or (?(...), after the bracket. */
int pattern_reference(pattern *pat, node_kind kind, size_t start, char end, node **out) WARN_UNUSED;
/* The character spelled by a backslash and the characters from pat->at on: \t, \cx, \M-x, or an
 * ordinary character. */
int pattern_escaped_value(pattern *pat, uint32_t *code) WARN_UNUSED;
/* After \x, \u, \o or an octal digit. Escaped bytes of UTF-8 become one character. */
int pattern_numbered(pattern *pat, size_t start, uint32_t kind, bool in_class,
                     uint32_t *code) WARN_UNUSED;
/* The set of \w, \d, \s or \h by its letter. \w differs in a class and alone. */
text__set pattern_type(pattern *pat, uint32_t letter, bool in_class);
/* After \p{ or \p{^. */
int pattern_property(pattern *pat, size_t start, bool in_class, text__set *out) WARN_UNUSED;
/* After the [. */
int pattern_class(pattern *pat, size_t start, text__set *out, bool *negated) WARN_UNUSED;

#endif

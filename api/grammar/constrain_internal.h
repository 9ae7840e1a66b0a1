/* constrain_internal.h - answers that must match a JSON Schema, byte by byte.
 *
 * A schema becomes a grammar (grammar.c, schema.c, types.c). A grammar drives an automaton over
 * bytes (constrain.c, stacks.c). A constraint turns the automaton's state into a mask over a
 * tokenizer's vocabulary for the sampler (constrain_mask.c).
 *
 * JSON Schema, enforced:
 * - type (one or a list), enum, const, anyOf, allOf, $ref into the same schema (recursion allowed),
 *   true, false, {}; oneOf, read as anyOf. Keywords beside each other all hold
 * - objects: properties, required, additionalProperties (absent: none beside declared properties or
 *   patterns, any without), patternProperties, propertyNames, minProperties and maxProperties
 * - arrays: items, prefixItems, minItems, maxItems; a list in items with additionalItems, as in
 *   older drafts
 * - strings: minLength, maxLength, pattern (regex_internal.h), format (date, time, date-time,
 *   duration, uuid, email, hostname, ipv4, ipv6, uri, json-pointer)
 * - numbers: minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf
 * - type absent: the types of the schema's keywords
 * Known keywords beyond these (not, if, contains, uniqueItems,
 * dependentRequired, …, and a pattern beyond the limits) are refused by name if the schema is
 * strict, and otherwise left out. So is, if strict, oneOf unless its schemas have no value in
 * common. Unknown keywords and unknown formats are annotations.
 *
 * Accepted output, a part of all valid JSON:
 * - properties: in the order of the schema (with allOf and $ref: its own first), additional ones
 *   last
 * - keys, enum and const values: as compact JSON writes them. Additional keys have no escapes if
 *   properties are declared
 * - a key may match one entry of patternProperties only; no undeclared key comes if
 *   minProperties asks for two more than are required and the declared ones suffice
 * - blanks: after { [ , : and before } ]; each time one space, or (except after a colon) a newline
 *   and an indentation of spaces or tabs; at most API__MAX_BLANKS; none around the whole value
 * - numbers: at most 15 digits before the point, 20 after it, 2 in the exponent; integers have
 *   digits only
 * - numbers with a range or a multiple: at most 14 digits together, no exponent, no -0. After the
 * point as many as a minimum and a maximum together leave room for; 4, or as many as the bound has,
 * if there is one of them; as many as multipleOf has
 * - strings: no \u0000. A pattern applies to the characters, so any of them may be escaped
 * - nesting: at most API__MAX_STACK values inside each other */
#ifndef FATHOM_API_CONSTRAIN_INTERNAL_H
#define FATHOM_API_CONSTRAIN_INTERNAL_H

#include "api/api.h"
#include "base/arena.h"
#include "base/json.h"

enum {
    API__MAX_STACK = 32,
    API__MAX_READINGS = 64, /* readings of one text */
    API__MAX_FRAMES = 512,  /* of all readings together; a shared frame counts once */
    API__MAX_NODES = 2048,
    API__MAX_ALTERNATIVES = 32,
    API__MAX_NAMES = 512, /* properties of an object, or values of an enum */
    API__MAX_TEXT_BYTES = 4096,
    API__MAX_BLANKS = 24,
    API__ONE_SPACE = API__MAX_BLANKS, /* as a number of blanks: no more may follow */
    API__INT_DIGITS = 15,
    API__RANGED_DIGITS = 14, /* before and after the point together */
    API__FRACTION_DIGITS = 20,
    API__EXPONENT_DIGITS = 2,
    API__MAX_TOKEN_BYTES = 128, /* longer tokens are never allowed */
};

/* ---- types of a schema ---- */

enum {
    API__TYPE_NULL = 1,
    API__TYPE_BOOLEAN = 2,
    API__TYPE_INTEGER = 4,
    API__TYPE_NUMBER = 8,
    API__TYPE_STRING = 16,
    API__TYPE_ARRAY = 32,
    API__TYPE_OBJECT = 64,
};
uint8_t api__type_of_name(const char *name);     /* 0: unknown, or name is NULL */
uint8_t api__type_of_value(const json_t *value); /* an integer is a number, too */
/* The types that a schema or the schemas combined in it name; 0: none. root: start of $ref. */
uint8_t api__schema_types(const json_t *schema, const json_t *root);
/* The types of a schema's keywords. */
uint8_t api__schema_implied(const json_t *schema);
/* Follows "#/$defs/a~1b" from root. NULL: no such place. */
const json_t *api__schema_follow(const json_t *root, const char *ref);

/* ---- grammar ---- */

typedef enum {
    API__ANY,
    API__OBJECT,
    API__ARRAY,
    API__STRING,
    API__NUMBER,
    API__ENUM,
    API__ALT,
    API__NONE, /* no value */
    API__TAGS, /* tags with values, as in calls: "<parameter=KEY>\n" VALUE "\n</parameter>\n" … */
    API__TEXT  /* a text without quotes, ended by API__TEXT_END */
} api__node_kind;

/* Follows each value of a parameter. API__CLOSER may stand nowhere in a text. */
#define API__CLOSER "</parameter>"
#define API__TEXT_END "\n" API__CLOSER "\n"

/* Every grammar begins with these nodes; 0 is any JSON value. */
enum {
    API__NODE_ANY,
    API__NODE_OBJECT,
    API__NODE_ARRAY,
    API__NODE_STRING,
    API__NODE_NUMBER,
    API__NODE_WORD,
    API__NODE_NONE,
    API__N_BUILTIN
};
#define API__NO_NODE UINT16_MAX
#define API__MOST_UNITS INT64_C(999999999999999999) /* of ranged numbers */

typedef struct {
    const char *text; /* a key without its quotes, or a whole value, as JSON writes it */
    uint16_t len;
    uint16_t node; /* of the property's value */
    bool required;
} api__name;

/* Keys of a pattern, and the node of their values. */
typedef struct {
    uint16_t key, node;
} api__keyed;

struct api__dfa;

typedef struct {
    uint8_t kind; /* api__node_kind */
    uint8_t need; /* stack depth of the smallest value; above API__MAX_STACK: no value fits */
    bool integer, ranged;
    bool once;         /* tags: a single tag with its value; else all, up to the last one */
    uint16_t n_parts;  /* names or items */
    uint16_t rest;     /* node of additional properties or further items, or API__NO_NODE */
    uint16_t n_keyed;  /* objects: kinds of keys beside names */
    uint8_t places;    /* ranged numbers: digits after the point of a unit */
    uint32_t min, max; /* items, characters or properties; UINT32_MAX: no limit */
    int64_t low, high; /* ranged numbers, in units */
    int64_t step;      /* ranged numbers are multiples of this, in units */
    const struct api__dfa *dfa; /* strings, texts: matches the characters, or NULL */
    const api__keyed *keyed;
    api__name
        *names; /* properties or tags in the schema's order; values of an enum in byte order */
    uint16_t *sorted; /* objects, tags: indices of names in byte order */
    uint16_t *rank;   /* objects, tags: position of each name in sorted */
    /* Objects and tags, for each property p and for the end. required_from: the first required
     * property from p on, or n_parts. least_need: the smallest need of the properties from p up to
     * required_from, or UINT8_MAX. */
    uint16_t *required_from;
    uint8_t *least_need;
    /* Objects with counted properties: for each property p and for the end, how many properties
     * from p on are required, and how many fit at the greatest depth of the object. NULL:
     * min and max always hold. */
    uint16_t *required_left, *possible_left;
    uint16_t *items; /* prefixItems; alternatives */
} api__node;

typedef struct api__kept api__kept;

typedef struct {
    arena mem;
    api__node *nodes;
    uint16_t n_nodes, root;
    bool again;      /* a newline and another value may follow */
    uint64_t number; /* no other grammar of the process has it */
    api__kept *kept; /* its entry in the cache of compiled schemas (cache.c), or NULL */
} api__grammar;

/* schema NULL: any JSON object. strict: ERR_UNSUPPORTED names a keyword beyond the enforced ones;
 * else such keywords are left out. `param` names the field in errors. ERR_BAD_PARAM: the schema is
 * malformed, or no value matches it. */
int api__grammar_compile(api__grammar **out, const json_t *schema, bool strict, const char *param,
                         err *e) WARN_UNUSED;
/* A grammar for one call of one function: {"name": ..., "arguments": {...}}. tools is the request's
 * checked list; only is the one name allowed, or NULL. A function says by itself whether it is
 * strict. Arguments are an object even if the parameters name no type. ERR_BAD_PARAM names a
 * function whose parameters allow no object. */
int api__grammar_compile_tools(api__grammar **out, const json_t *tools, const char *only,
                               const char *param, err *e) WARN_UNUSED;
/* The same for several calls, one a line. */
int api__grammar_compile_many_tools(api__grammar **out, const json_t *tools, const char *only,
                                    const char *param, err *e) WARN_UNUSED;
int api__grammar_compile_many_tags(api__grammar **out, const json_t *tools, const char *only,
                                   const char *param, err *e) WARN_UNUSED;
/* The same for a call written as tags (tags.c). */
int api__grammar_compile_tags(api__grammar **out, const json_t *tools, const char *only,
                              const char *param, err *e) WARN_UNUSED;
/* A call as above, or a value of the schema `form` (NULL: any object). tags: the call's notation.
 */
int api__grammar_compile_either(api__grammar **out, const json_t *tools, bool tags,
                                const json_t *form, bool strict, const char *param,
                                err *e) WARN_UNUSED;
/* Flattens alternatives and computes `need` of each node. */
int api__grammar_measure(api__grammar *grammar, const char *param, err *e) WARN_UNUSED;
/* Then makes the tables of objects. why: the reason if no value matches, or "". */
int api__grammar_finish(api__grammar *grammar, const char *why, const char *param,
                        err *e) WARN_UNUSED;
api__grammar *api__grammar_new(void);          /* without nodes; NULL: out of memory */
void api__grammar_free(api__grammar *grammar); /* grammar may be NULL */

/* ---- automaton: the state after some bytes is a set of stacks ---- */

/* Frames never change, and equal frames are stored once. A stack is the index of its top frame and
 * the chain of parents, so equal readings have equal tops. */
typedef struct {
    uint16_t parent, node;
    uint8_t sub; /* state within the node: O_*, A_*, S_* or N_* of constrain.c */
    union {
        uint8_t blanks;     /* objects and arrays: blank bytes since the last other byte */
        uint8_t negative;   /* numbers: 1 after a minus sign */
        uint8_t key_utf8;   /* undeclared keys: state within a UTF-8 character */
        uint8_t hex_digits; /* strings: digits of \uXXXX so far */
    };
    /* Keys and enums: the names first..end in byte order begin with the `matched` bytes read. */
    union {
        uint16_t first;
        uint16_t code_unit; /* strings: value of \uXXXX or, with a pattern, of UTF-8 so far */
        uint16_t low_bits;  /* ranged numbers: all digits as one number, 48 bits */
    };
    union {
        uint16_t end;
        uint16_t dfa_state;  /* strings and texts with a pattern */
        uint16_t value_node; /* objects: node of the value after this key */
        uint16_t middle_bits;
    };
    union {
        uint16_t matched; /* also: bytes of API__TEXT_END, or in a text of API__CLOSER */
        uint16_t high_bits;
    };
    union {
        struct {
            uint16_t property; /* objects: earlier properties may not follow */
            uint16_t count;    /* objects with counted properties: properties begun */
        };
        uint32_t items;  /* arrays: items begun */
        uint32_t chars;  /* strings: characters begun */
        uint32_t digits; /* numbers: digits of the current part */
        struct {
            uint16_t ranged_digits,
                after_point; /* ranged numbers: digits in all, and after the point */
        };
    };
    uint32_t depth; /* frames in the stack, with this one on top */
} api__frame;

typedef struct {
    uint16_t top[API__MAX_READINGS]; /* all different; 0: the whole value has been read */
    uint8_t n_tops;
} api__readings;

enum { API__POOL = 4 << 10, API__BUCKET_BITS = 12, API__BUCKETS = 1 << API__BUCKET_BITS };

/* Belongs to one thread at a time. */
typedef struct {
    const api__grammar *grammar;
    api__frame *pool;              /* [API__POOL]; frame 0 is not used */
    uint16_t *next;                /* [API__POOL] next frame of the same bucket, newest first */
    uint16_t *moved;               /* [API__POOL] scratch of save; all 0 between calls */
    uint16_t bucket[API__BUCKETS]; /* newest frame of each hash, or 0 */
    uint32_t used;
    uint64_t fuel; /* total work so far; about 1 per reading and byte */
} api__automaton;

int api__automaton_init(api__automaton *machine, const api__grammar *grammar, err *e) WARN_UNUSED;
void api__automaton_deinit(api__automaton *machine);
size_t api__automaton_bytes(void); /* allocated by init */
void api__automaton_start(api__automaton *machine, api__readings *readings);
/* The readings after one more byte. to->n_tops is 0 if the byte is not allowed. */
void api__automaton_step(api__automaton *machine, const api__readings *from, uint8_t byte,
                         api__readings *to);
/* The index of a frame equal to `frame`, with its depth filled in. 0: the pool is full. The reading
 * is then dropped: that can forbid a byte but never allow one. */
uint16_t api__automaton_push(api__automaton *machine, api__frame frame);
void api__automaton_rewind(api__automaton *machine,
                           uint32_t used); /* drops frames from `used` on */
bool api__automaton_done(const api__automaton *machine,
                         const api__readings *readings); /* may the text end here? */
/* A state on its own, in one canonical form: frame i is referred to as i + 1 and stands after its
 * parent. */
typedef struct {
    api__frame frames[API__MAX_FRAMES];
    uint16_t top[API__MAX_READINGS];
    uint16_t n_frames;
    uint8_t n_tops;
} api__stacks;
void api__automaton_save(api__automaton *machine, const api__readings *readings, api__stacks *out);
void api__automaton_load(api__automaton *machine, const api__stacks *stacks,
                         api__readings *readings); /* drops all other frames */
void api__automaton_compact(api__automaton *machine, api__readings *readings,
                            api__stacks *scratch); /* save, then load */
/* True if the top is inside a string and between characters. *room: characters still allowed
 * (UINT32_MAX: any). */
bool api__automaton_in_string(const api__automaton *machine, uint16_t top, uint32_t *room);

/* ---- vocabulary: a tokenizer's tokens as tries, read-only and shared ---- */

typedef struct api__vocab api__vocab;
int api__vocab_open(api__vocab **out, const tokenizer *tok, uint32_t vocab_size,
                    err *e) WARN_UNUSED;
void api__vocab_close(api__vocab *vocab); /* vocab may be NULL */

/* ---- constraint: one sequence's way through a grammar ---- */

/* The most work of one mask; above it the sequence ends with ERR_COSTLY. A unit takes 10 to 20
 * ns. */
enum { API__MASK_FUEL = 500000 };
/* The most work of finding the tokens that are forced behind it, and the masks behind these. */
enum { API__AHEAD_FUEL = 200000 };

/* Working memory shared by the sequences of one request. Borrows grammar and vocabulary. stop_ids
 * are allowed once the value is complete; at least one is needed to end the answer. One thread
 * makes masks and one takes tokens. They may be different threads, because each has its own
 * automaton. */
typedef struct api__workspace api__workspace;
int api__workspace_create(api__workspace **out, const api__grammar *grammar,
                          const api__vocab *vocab, const uint32_t *stop_ids, uint32_t n_stop_ids,
                          err *e) WARN_UNUSED;
void api__workspace_destroy(api__workspace *work); /* work may be NULL */

/* Belongs to one thread at a time. Creation makes no mask; the mask thread makes the first. */
typedef struct api__constraint api__constraint;
int api__constraint_create(api__constraint **out, api__workspace *work, err *e) WARN_UNUSED;
void api__constraint_destroy(api__constraint *constr); /* constr may be NULL */
/* Bytes held; constant. */
size_t api__constraint_bytes(const api__constraint *constr);
size_t api__workspace_bytes(const api__workspace *work);
/* The calls of a sched_constraint; ud is the constraint. They never allocate.
 * - make: computes the mask of allowed tokens. ERR_COSTLY if it takes more than API__MASK_FUEL.
 * - mask: of the next token, or behind n tokens that are expected.
 * - take: accepts one more token of the output. False, and nothing changes, if no reading of the
 *   text is left.
 * - expected: the tokens that spell what the grammar leaves no choice about (forced_internal.h). */
err_code api__constraint_make(void *ud);
const eng_mask *api__constraint_mask(void *ud, uint32_t n);
bool api__constraint_take(void *ud, uint32_t token);
uint32_t api__constraint_expected(void *ud, const uint32_t **tokens);
extern const sched_constraint api__constraint_calls;
/* Work of the last make, in units of API__MASK_FUEL. */
uint64_t api__constraint_fuel(const api__constraint *constr);

#endif

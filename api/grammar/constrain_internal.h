/* constrain_internal.h - answers that must fit a JSON Schema, byte by byte.
 *
 * A schema becomes a grammar (schema.c), a grammar drives an automaton over bytes
 * (constrain.c, stacks.c), and a constraint turns the automaton's state into a mask over a
 * tokenizer's vocabulary for the sampler (constrain_mask.c).
 *
 * The subset of JSON Schema; any other keyword is refused by its name:
 *   type (one or a list), enum, const, anyOf, oneOf (taken as anyOf), allOf of one,
 *   $ref to a place in the same schema (recursion allowed), true, {} ;
 *   objects: properties, required, additionalProperties (absent: none beside declared
 *   properties, any without); arrays: items, prefixItems, minItems, maxItems; strings:
 *   minLength, maxLength; integers: minimum, maximum, exclusiveMinimum, exclusiveMaximum;
 *   ignored: title description default examples $schema $id $comment $defs definitions
 *   deprecated readOnly writeOnly.
 * What is written, of all JSON that would be valid:
 *   properties in the order of the schema, additional ones last, their keys without
 *   escapes where properties are declared; declared keys, enum and const values as compact
 *   JSON writes them; blanks only after { [ , : and before } ], each time one space or, but
 *   not after a colon, a newline and an indentation of spaces or tabs, together at most
 *   API__MAX_BLANKS; none around the whole; numbers of at most 15 digits before and 20 after the
 * point and an exponent of at most 2, integers without either; no \u0000; at most API__MAX_STACK
 * values inside each other.
 */
#ifndef FATHOM_API_CONSTRAIN_INTERNAL_H
#define FATHOM_API_CONSTRAIN_INTERNAL_H

#include "api/api.h"
#include "base/arena.h"
#include "base/json.h"

enum {
    API__MAX_STACK = 32,
    API__MAX_READINGS = 64, /* readings of the text so far that are kept apart */
    API__MAX_FRAMES = 512,  /* of all readings together, those that they share counted once */
    API__MAX_NODES = 2048,
    API__MAX_ALTERNATIVES = 32,
    API__MAX_NAMES = 512, /* properties of one object, values of one enum */
    API__MAX_NAME_BYTES_G = 4096,
    API__MAX_BLANKS = 24,
    API__INT_DIGITS = 15,
    API__RANGED_DIGITS = 14,
    API__FRACTION_DIGITS = 20,
    API__EXPONENT_DIGITS = 2,
    API__MAX_TOKEN_BYTES = 128, /* longer tokens are never allowed */
};

/* ---- grammar ---- */

typedef enum {
    API__ANY,
    API__OBJECT,
    API__ARRAY,
    API__STRING,
    API__NUMBER,
    API__ENUM,
    API__ALT
} api__kind;

/* Every grammar begins with these nodes; 0 is any JSON value. */
enum {
    API__NODE_ANY,
    API__NODE_OBJECT,
    API__NODE_ARRAY,
    API__NODE_STRING,
    API__NODE_NUMBER,
    API__NODE_WORD,
    API__N_BUILTIN
};
#define API__NO_NODE UINT16_MAX

typedef struct {
    const char *text; /* a key between its quotes, or a whole value, as written */
    uint16_t len;
    uint16_t node; /* of a property */
    bool required;
} api__name;

typedef struct {
    uint8_t kind; /* api__kind */
    uint8_t need; /* stack the smallest value takes; over API__MAX_STACK: there is none */
    bool integer, ranged;
    uint16_t n_parts;  /* names or items */
    uint16_t rest;     /* node of additional properties or further items; API__NO_NODE: none */
    uint32_t min, max; /* items or characters; UINT32_MAX: no limit */
    int64_t low, high; /* ranged integers, within API__RANGED_DIGITS */
    api__name *names;  /* properties as written; values of an enum, sorted */
    uint16_t *sorted;  /* of an object: indices of names in byte order */
    uint16_t *rank;    /* of an object: where each name stands in sorted */
    /* Of an object, for each property p and for their end: the first from p on that is required
     * (n: none), and the least need of those from p up to it (UINT8_MAX: there are none). */
    uint16_t *required_from;
    uint8_t *least_need;
    uint16_t *items; /* prefixItems; alternatives */
} api__node;

typedef struct {
    arena mem;
    api__node *nodes;
    uint16_t n_nodes, root;
} api__grammar;

/* schema NULL: any JSON object. `param` names the field in errors: ERR_UNSUPPORTED with the
 * keyword, ERR_BAD_PARAM for a malformed schema or one that nothing can fit. */
int api__grammar_compile(api__grammar **out, const json_t *schema, const char *param,
                         err *e) WARN_UNUSED;
/* One call of one of the functions: {"name": ..., "arguments": {...}}. tools is the request's
 * list, checked; only is the one name allowed, or NULL. */
int api__grammar_compile_tools(api__grammar **out, const json_t *tools, const char *only,
                               const char *param, err *e) WARN_UNUSED;
/* Flattens alternatives and finds how deep each node's smallest value is. */
int api__grammar_finish(api__grammar *grammar, const char *param, err *e) WARN_UNUSED;
void api__grammar_free(api__grammar *grammar); /* NULL is fine */

/* ---- automaton: the state after some bytes is a set of stacks ---- */

/* Frames never change once made, and of equal ones there is one: a stack is its top's index and
 * the chain of parents, so equal readings have equal tops. */
typedef struct {
    uint16_t parent, node;
    uint8_t sub; /* state within the node: O_*, A_*, S_* or N_* of constrain.c */
    union {
        uint8_t blanks;   /* objects and arrays: blank bytes since the last other byte */
        uint8_t negative; /* numbers: 1 after a minus sign */
        uint8_t key_utf8; /* undeclared keys: state of the UTF-8 character */
    };
    /* Keys and enums: names first..end of the byte order agree with the `matched` bytes read. */
    union {
        uint16_t first;
        uint16_t code_unit; /* strings: \uXXXX as far as it was read */
        uint16_t low_bits;  /* ranged integers: magnitude */
    };
    union {
        uint16_t end;
        uint16_t hex_digits; /* strings: digits of \uXXXX that were read */
        uint16_t value_node; /* objects: node of the value after the key */
        uint16_t middle_bits;
    };
    union {
        uint16_t matched;
        uint16_t high_bits;
    };
    union {
        uint32_t property; /* objects: properties before this one have had their turn */
        uint32_t items;    /* arrays: items begun */
        uint32_t chars;    /* strings: characters begun */
        uint32_t digits;   /* numbers: digits of the current part */
    };
    uint32_t depth; /* frames in the stack, with this one on top */
} api__frame;

typedef struct {
    uint16_t top[API__MAX_READINGS]; /* all different; 0: the whole value has been read */
    uint8_t n_tops;
} api__readings;

enum { API__POOL = 4 << 10, API__BUCKETS = 1 << 10 };

/* Belongs to one thread at a time. */
typedef struct {
    const api__grammar *grammar;
    api__frame *pool;              /* [API__POOL]; 0 is not used */
    uint16_t *next;                /* [API__POOL] chain of the frame's bucket, newest first */
    uint16_t *moved;               /* [API__POOL] scratch of save; all 0 between calls */
    uint16_t bucket[API__BUCKETS]; /* by hash; 0: empty */
    uint32_t used;
    uint64_t fuel; /* work done so far, ever: about one for a reading that takes a byte */
} api__automaton;

int api__automaton_init(api__automaton *machine, const api__grammar *grammar, err *e) WARN_UNUSED;
void api__automaton_deinit(api__automaton *machine);
size_t api__automaton_bytes(void); /* that init allocates */
void api__automaton_start(api__automaton *machine, api__readings *readings);
/* to: what remains of from after one more byte; to->n_tops is 0 if the byte is not allowed. */
void api__automaton_step(api__automaton *machine, const api__readings *from, uint8_t byte,
                         api__readings *to);
/* The one frame that is as f, whose depth is filled in; 0 when the pool is spent: that reading
 * ends, which forbids but never allows. */
uint16_t api__automaton_push(api__automaton *machine, api__frame frame);
void api__automaton_rewind(api__automaton *machine,
                           uint32_t used); /* forgets the frames from there on */
bool api__automaton_done(const api__automaton *machine,
                         const api__readings *readings); /* the text may end here */
/* A state by itself, written one way only: frame i is called i + 1, and stands after its parent. */
typedef struct {
    api__frame frames[API__MAX_FRAMES];
    uint16_t top[API__MAX_READINGS];
    uint16_t n_frames;
    uint8_t n_tops;
} api__stacks;
void api__automaton_save(api__automaton *machine, const api__readings *readings, api__stacks *out);
void api__automaton_load(api__automaton *machine, const api__stacks *stacks,
                         api__readings *readings); /* forgets all else */
void api__automaton_compact(api__automaton *machine, api__readings *readings,
                            api__stacks *scratch); /* both */
/* Is the top inside a string with nothing pending? Then *room says how many characters
 * it may still take (UINT32_MAX: any). */
bool api__automaton_in_string(const api__automaton *machine, uint16_t top, uint32_t *room);

/* ---- vocabulary: a tokenizer's tokens as tries, read-only and shared ---- */

typedef struct api__vocab api__vocab;
int api__vocab_open(api__vocab **out, const tokenizer *tok, uint32_t vocab_size,
                    err *e) WARN_UNUSED;
void api__vocab_close(api__vocab *vocab); /* NULL is fine */

/* ---- constraint: one sequence's way through a grammar ---- */

/* The most work that one mask may take; a form that needs more ends its sequence with
 * ERR_COSTLY. A unit is some 10 to 20 ns. */
enum { API__MASK_FUEL = 500000 };

/* What the sequences of one request share: room to work in, and masks made lately. Borrows
 * grammar and vocabulary. stop_ids are what may come once the value is whole; at least one is
 * needed, for nothing else could end the answer. One thread at a time makes masks with it, and
 * one takes tokens; they may be two, since each side has its own automaton. */
typedef struct api__workspace api__workspace;
int api__workspace_create(api__workspace **out, const api__grammar *grammar,
                          const api__vocab *vocab, const uint32_t *stop_ids, uint32_t n_stop_ids,
                          err *e) WARN_UNUSED;
void api__workspace_destroy(api__workspace *work); /* NULL is fine */

/* Belongs to one thread at a time. Made without its first mask, which is work for whoever makes
 * masks. */
typedef struct api__constraint api__constraint;
int api__constraint_create(api__constraint **out, api__workspace *work, err *e) WARN_UNUSED;
void api__constraint_destroy(api__constraint *constr); /* NULL is fine */
/* Bytes held; neither grows. */
size_t api__constraint_bytes(const api__constraint *constr);
size_t api__workspace_bytes(const api__workspace *work);
/* The three calls of a sched_constraint; ud is the constraint. None allocates.
 * make: the mask of what may come next; ERR_COSTLY when that takes more than API__MASK_FUEL.
 * mask: the mask made last. take: one more token of the output; false, and nothing has changed,
 * if no reading of the text would be left. */
err_code api__constraint_make(void *ud);
const eng_mask *api__constraint_mask(void *ud);
bool api__constraint_take(void *ud, uint32_t token);
extern const sched_constraint api__constraint_calls;
/* Work that the last make took, in units of API__MASK_FUEL. */
uint64_t api__constraint_fuel(const api__constraint *constr);

#endif

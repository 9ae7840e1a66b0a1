/* model_internal.h - what the files of model/ share: the tensors a plan needs, and how a family
 * reads its configuration. */
#ifndef FATHOM_MODEL_INTERNAL_H
#define FATHOM_MODEL_INTERNAL_H

#include "base/json.h"
#include "model/model.h"

/* ---- tensors ---- */

typedef struct {
    char name[96];
    model_part part;
    tensor_place place;
    bool optional; /* a head that may be tied by leaving it out */
    uint32_t rank;
    uint64_t shape[2];  /* rank 1 leaves the second 1 */
    uint64_t first_row; /* the tensor is rows [first_row, first_row + shape[0]) of ... */
    uint64_t file_rows; /* ... a tensor with so many; 0: it is the whole tensor */
} model__want;

typedef int (*model__visit)(void *ud, const model__want *w);

/* Calls visit for every tensor in the order a file holds them; stops at the first that
 * returns non-zero and returns that. */
int model__wants(const model_plan *p, model__visit visit, void *ud);

/* A family's list: names in order. */
typedef struct {
    const model_plan *p;
    model__visit visit;
    void *ud;
    int rc;             /* first non-zero answer; nothing is visited after it */
    const char *prefix; /* of all names until it is changed */
    tensor_stage stage;
    uint32_t layer, index;
} model__walk;

/* One tensor prefix + name of [rows][cols]; cols 0: a vector. */
void model__want_one(model__walk *k, tensor_role role, model_part part, const char *name,
                     uint64_t rows, uint64_t cols);
void model__want_optional(model__walk *k, tensor_role role, model_part part, const char *name,
                          uint64_t rows, uint64_t cols);

/* ---- values of random weights ---- */

typedef enum { MODEL_FILL_NORMAL, MODEL_FILL_SIGNS } model__fill_kind;

/* NORMAL: mean + std * a bell-shaped value; SIGNS: plus or minus std. */
typedef struct {
    model__fill_kind kind;
    float mean, std;
    uint64_t key; /* of the counter-based generator */
} model__fill;

typedef struct {
    const model_plan *p;
    uint64_t seed;
    float halt_std, halt_bias;
} model__recipe;

/* A model whose hazard picks the loop is published with threshold 1; a wanted mean depth is
 * meant at this threshold, which config.json then names. */
#define MODEL_HAZARD_AT 0.5f

/* Scales halting so that the expected depth of a random token is mean_depth (1..loops_default). */
void model__recipe_init(model__recipe *r, const model_plan *p, uint64_t seed, float mean_depth);
model__fill model__recipe_fill(const model__recipe *r, const model__want *w);
/* Values first .. first + n of a tensor, narrowed to dtype, into out; any split of the
 * tensor gives the same bytes. */
void model__fill_values(const model__fill *f, model_dtype dtype, uint64_t first, size_t n,
                        void *out);

/* ---- families ---- */

typedef struct {
    const json_t *root;
    const char *what; /* the file's name in messages */
    err *e;
    json_t *unread; /* the keys that nobody asked for; NULL: not kept */
} model__config;

typedef struct {
    const char *name;
    model_plan plan; /* before complete and plan_derive */
} model__variant;

/* How Fathom runs a family of models. Everything else about it is in the plan. */
struct model_family {
    const char *name;       /* as people write it */
    const char *model_type; /* in config.json */
    /* Fills p from config.json, all but the derived fields. Refuses by name what would change
     * the arithmetic and is not known. */
    int (*read)(const model__config *c, model_plan *p);
    void (*write)(buf *out, const model_plan *p, const char *dtype);
    /* Fills what all models of the family share, from the numbers that differ. */
    void (*complete)(model_plan *p);
    /* Visits every tensor of the plan under its published name. */
    void (*tensors)(model__walk *k);
    const model__variant *variants;
    size_t n_variants;
};

/* Reading keys. Each returns 0, or -1 with ERR_BAD_FILE naming file, key, value and rule. What a
 * family reads through these is known to it; a key that nobody reads is refused if its name
 * speaks of arithmetic. */
const json_t *model__config_look(const model__config *c, const char *key); /* NULL: absent */
const json_t *model__config_get(const model__config *c, const char *key);  /* NULL: recorded */
int model__config_whole(const model__config *c, const char *key, uint32_t min, uint32_t max,
                        uint32_t *out) WARN_UNUSED;
int model__config_real(const model__config *c, const char *key, double min, double max,
                       const char *rule, float *out) WARN_UNUSED;
/* names: n spellings; the index of the one found goes to *out. */
int model__config_choice(const model__config *c, const char *key, const char *const *names,
                         size_t n, int *out) WARN_UNUSED;
bool model__config_has(const model__config *c, const char *key); /* present and not null */
/* True or false; `otherwise` where the key is absent or null. */
int model__config_flag(const model__config *c, const char *key, bool otherwise,
                       bool *out) WARN_UNUSED;
/* Refuses the file unless the key is absent, null or this value. */
int model__config_only_text(const model__config *c, const char *key, const char *text) WARN_UNUSED;
int model__config_only_false(const model__config *c, const char *key) WARN_UNUSED;
int model__config_absent(const model__config *c, const char *key) WARN_UNUSED;
/* For keys that change nothing here, whatever their value. */
void model__config_ignore(const model__config *c, const char *key);
/* eos_token_id: a number, a list or nothing. Ids at or past vocab_size are warned of and left
 * out. */
int model__config_eos(const model__config *c, model_plan *p) WARN_UNUSED;
/* The keys of an object, for `unread`; NULL when out of memory. The caller releases it. */
json_t *model__config_keys(json_t *root);
/* Refuses a key that nobody read and whose name speaks of what a layer computes. */
int model__config_refuse_unread(const model__config *c) WARN_UNUSED;
int model__config_bad(const model__config *c, const char *key, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
void model__write_eos(buf *out, const model_plan *p); /* nothing where the plan has none */
/* A float in as few digits as bring the same value back: 0.99, not 0.99000001. */
void model__write_real(buf *out, const char *key, float v);

float model__f16_widen(uint16_t bits);
uint16_t model__f16_narrow(float value);  /* to nearest, ties to even */
uint16_t model__bf16_narrow(float value); /* to nearest, ties to even */

#endif

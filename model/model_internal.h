/* model_internal.h - shared by the files of model/: the tensors a plan needs, and how a family
 * reads its configuration. */
#ifndef FATHOM_MODEL_INTERNAL_H
#define FATHOM_MODEL_INTERNAL_H

#include "base/json.h"
#include "model/model.h"

/* ---- tensors ---- */

typedef struct {
    uint32_t rank;
    uint64_t sizes[4];
} model__shape;

typedef struct {
    char name[96];
    model_part part;
    tensor_place place;
    bool optional; /* a head; a file without it has a tied head */
    bool copy;     /* an optional second copy of the embedding, which must equal it */
    uint32_t rank;
    uint64_t shape[2];  /* rank 1: the second is 1 */
    uint64_t first_row; /* the wanted rows are [first_row, first_row + shape[0]) of the file's */
    model__shape file;  /* of the file's tensor; rank 0: as wanted */
} model__want;

typedef int (*model__visit)(void *ud, const model__want *want);

/* Calls visit for every tensor in file order. Stops at the first non-zero result and returns it. */
int model__wants(const model_plan *plan, model__visit visit, void *ud);

/* A family's list: names in order. */
typedef struct {
    const model_plan *plan;
    model__visit visit;
    void *ud;
    int rc;             /* first non-zero result; nothing is visited after it */
    const char *prefix; /* put before the names of the next tensors */
    tensor_stage stage;
    uint32_t layer, index;
} model__walk;

/* Visits one tensor, named prefix + name, of [rows][cols]; cols 0: a vector. */
void model__want_one(model__walk *walk, tensor_role role, model_part part, const char *name,
                     uint64_t rows, uint64_t cols);
void model__want_optional(model__walk *walk, tensor_role role, model_part part, const char *name,
                          uint64_t rows, uint64_t cols);
/* A head that repeats the embedding; files may leave it out. */
void model__want_copy(model__walk *walk, const char *name, uint64_t rows, uint64_t cols);
/* Visits rows [first_row, first_row + rows) of the file's tensor of shape `file`. The slices of a
 * tensor must come one after the other, the first at row 0 and the last at its end. */
void model__want_slice(model__walk *walk, tensor_role role, model_part part, const char *name,
                       uint64_t first_row, uint64_t rows, uint64_t cols, const model__shape *file);
/* The shape of the tensor in the file that a wanted one is, or is part of. */
model__shape model__file_shape(const model__want *want);

/* ---- values of random weights ---- */

typedef enum {
    MODEL_FILL_NORMAL,
    MODEL_FILL_SIGNS,
    MODEL_FILL_HALVES,
    MODEL_FILL_STEP
} model__fill_kind;

/* NORMAL: mean + std * a bell-shaped value; SIGNS: plus or minus std; HALVES: a matrix of `cols`
 * columns, bell-shaped with `std` in its left half, `first` in the first column of the right half
 * and `right` in the others; STEP: a vector, `first` + std * a bell-shaped value in its first
 * `cols` places, then NORMAL. */
typedef struct {
    model__fill_kind kind;
    float mean, std, first, right;
    uint64_t cols;
    uint64_t key; /* of the counter-based generator */
} model__fill;

typedef struct {
    const model_plan *plan;
    uint64_t seed;
    float halt_std, halt_bias;
    double motion, peak; /* factors; 1 for the usual weights */
    bool tied;           /* the head is the embedding */
} model__recipe;

/* Models with the exit rule HAZARD are published with threshold 1, and then never exit early. A
 * model made for a mean depth gets this threshold instead. */
#define MODEL_HAZARD_AT 0.5f

/* Models with the exit rule LATENT_DIFF get this threshold for a mean depth. */
float model__depth_threshold(const model_plan *plan, float mean_depth);

/* Scales halting to an expected depth of mean_depth (1..loops_default) for a random token. */
void model__recipe_init(model__recipe *recipe, const model_plan *plan, uint64_t seed,
                        float mean_depth, float motion);
model__fill model__recipe_fill(const model__recipe *recipe, const model__want *want);
/* Writes values first .. first + n of a tensor, narrowed to dtype, to out. Any split of the tensor
 * gives the same bytes. */
void model__fill_values(const model__fill *fill, model_dtype dtype, uint64_t first, size_t n,
                        void *out);

/* ---- families ---- */

typedef struct {
    const json_t *root;
    const char *what; /* the file's name in messages */
    err *err;
    json_t *unread; /* the keys not read yet; NULL: not tracked */
} model__config;

typedef struct {
    const char *name;
    model_plan plan; /* before complete and plan_derive */
} model__variant;

/* True if the files hold a tensor of this name. */
typedef bool (*model__has_tensor)(const void *ud, const char *name);

/* How Fathom reads a family of models. Everything else about the family is in the plan. */
struct model_family {
    const char *name;       /* for messages */
    const char *model_type; /* in config.json */
    const char *class_name; /* _class_name of files without model_type; may be NULL */
    /* Fills plan from config.json, except the derived fields. Refuses unknown keys that would
     * change the arithmetic, by name. */
    int (*read)(const model__config *config, model_plan *plan);
    void (*write)(buf *out, const model_plan *plan, const char *dtype);
    /* Fills the fields shared by all models of the family, from the fields that differ. */
    void (*complete)(model_plan *plan);
    /* Refines the plan by the names of the tensors in the files, where config.json alone does not
     * tell the layers; may be NULL. plan_derive follows. */
    void (*refine)(model_plan *plan, model__has_tensor has, const void *ud);
    /* Visits every tensor of the plan under its published name. */
    void (*tensors)(model__walk *walk);
    const model__variant *variants;
    size_t n_variants;
};

/* Largest sizes in any config.json. */
enum {
    MODEL_MAX_DIM = 1 << 17,
    MODEL_MAX_FFN = 1 << 20,
    MODEL_MAX_HEADS = 4096,
    MODEL_MAX_HEAD_DIM = 4096,
};

/* Reading keys. Each returns 0, or -1 with ERR_BAD_FILE naming file, key, value and rule. Each key
 * read counts as known; config_unread.c judges the others. */
const json_t *model__config_look(const model__config *config, const char *key); /* NULL: absent */
const json_t *model__config_get(const model__config *config, const char *key);  /* NULL: recorded */
int model__config_whole(const model__config *config, const char *key, uint32_t min, uint32_t max,
                        uint32_t *out) WARN_UNUSED;
int model__config_real(const model__config *config, const char *key, double min, double max,
                       const char *rule, float *out) WARN_UNUSED;
/* names: n accepted spellings. *out becomes the index of the spelling found. */
int model__config_choice(const model__config *config, const char *key, const char *const *names,
                         size_t n, int *out) WARN_UNUSED;
bool model__config_has(const model__config *config, const char *key); /* present and not null */
/* True or false; `otherwise` if the key is absent or null. */
int model__config_flag(const model__config *config, const char *key, bool otherwise,
                       bool *out) WARN_UNUSED;
/* Refuses the file unless the key is absent, null or this value. */
int model__config_only_text(const model__config *config, const char *key,
                            const char *text) WARN_UNUSED;
int model__config_only_false(const model__config *config, const char *key) WARN_UNUSED;
int model__config_absent(const model__config *config, const char *key) WARN_UNUSED;
/* Marks a key without effect here as known. */
void model__config_ignore(const model__config *config, const char *key);
/* eos_token_id: a number, a list or absent. Ids at or above vocab_size are left out with a
 * warning. */
int model__config_eos(const model__config *config, model_plan *plan) WARN_UNUSED;
/* The keys of an object, for `unread`; NULL when out of memory. The caller releases the result. */
json_t *model__config_keys(json_t *root);
/* Refuses an unread key if its name speaks of a layer's arithmetic. */
int model__config_refuse_unread(const model__config *config) WARN_UNUSED;
/* Heads under `key`, with num_key_value_heads and head_dim; dim must be read. */
int model__read_heads(const model__config *config, const char *key, model_plan *plan) WARN_UNUSED;
/* rope_scaling and rope_parameters ("default" or "llama3"), and the base: inside one of them, or
 * under rope_theta, or under `fallback`. */
int model__read_rope(const model__config *config, const char *fallback,
                     model_plan *plan) WARN_UNUSED;
/* The keys of Llama's layers: sizes, and features that would change the arithmetic. */
int model__read_llama_shape(const model__config *config, model_plan *plan) WARN_UNUSED;
int model__refuse_llama_extras(const model__config *config, const model_plan *plan) WARN_UNUSED;
/* Text keys, each absent or one of its two names (the second may be NULL). */
typedef struct {
    const char *key, *names[2];
} model__names;
int model__config_only_names(const model__config *config, const model__names *rows,
                             size_t n) WARN_UNUSED;
/* The keys of Huginn's training code: sizes, stages, loops and first state. */
int model__read_raven_shape(const model__config *config, model_plan *plan) WARN_UNUSED;
int model__read_raven_exit(const model__config *config, model_plan *plan) WARN_UNUSED;
int model__config_bad(const model__config *config, const char *key, const char *fmt, ...)
    PRINTF_LIKE(3, 4);
void model__write_eos(buf *out, const model_plan *plan); /* nothing if the plan has no ids */
/* Writes a float with the fewest digits that read back as the same value: 0.99, not 0.99000001. */
void model__write_real(buf *out, const char *key, float value);
void model__write_rope(buf *out, const model_plan *plan); /* no comma at the end */
void model__write_llama_shape(buf *out, const model_plan *plan, const char *dtype); /* as above */
void model__write_raven_shape(buf *out, const model_plan *plan);                    /* as above */
/* Calls want_layer for each layer, with its prefix "transformer.core_block.3.". */
void model__want_raven_layers(model__walk *walk, void (*want_layer)(model__walk *walk));
/* Fills the fields that Ouro and Nanbeige share: layers of Llama's parts that loop over their own
 * normed output. Norms and exits differ. */
void model__complete_llama_loop(model_plan *plan);
/* The tensors of a layer under Llama's names: two norms, attention, SwiGLU. */
void model__want_llama_layer(model__walk *walk);

float model__f16_widen(uint16_t bits);
uint16_t model__f16_narrow(float value);  /* to nearest, ties to even */
uint16_t model__bf16_narrow(float value); /* to nearest, ties to even */

#endif

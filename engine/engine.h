/* engine.h - everything above may know about a model: its configuration, its
 * tensors, its text, its sampler, and the backend that runs it.
 *
 * A backend runs rows, not sequences. A row is one position in flight; one launch
 * takes rows of any sequence, in the recurrent stage each at its own loop. Who runs
 * when, and which cache slot belongs to whom, is decided above (scheduler/).
 *
 * Threading: a model and a tokenizer are read-only once open and may be shared by
 * threads. A backend and a sampler belong to one thread for their whole life. Nothing
 * here calls back into an upper folder and nothing waits for a socket. */
#ifndef FATHOM_ENGINE_H
#define FATHOM_ENGINE_H

#include "base/base.h"

/* ================= configuration (config.json) ================= */

typedef enum { ENG_ATTN_MLA, ENG_ATTN_GQA } eng_attn;

/* What a halted position is to deeper loops: it goes on looping silently (EXACT),
 * or its last latent stands in for every deeper one (LAST). */
typedef enum { ENG_EXACT, ENG_LAST } eng_policy;

typedef struct {
    uint32_t vocab_size, dim, n_heads, n_kv_heads;
    uint32_t max_seq_len;    /* positions of one sequence, prompt and output together */
    uint32_t max_loop_iters; /* loops trained; more may be run */
    uint32_t prelude_layers, coda_layers;
    uint32_t kv_lora_rank, q_lora_rank, qk_rope_head_dim, qk_nope_head_dim, v_head_dim; /* MLA */
    uint32_t n_experts, n_shared_experts, n_experts_per_tok, expert_dim;
    uint32_t lora_rank, max_output_tokens;
    float act_threshold, rope_theta;
    eng_attn attn_type;
    eng_policy halted_kv; /* the meaning the model was trained for */
    /* derived when read */
    uint32_t dense_dim;   /* hidden width of prelude and coda FFN: dim * 4 / 3 */
    uint32_t head_dim;    /* GQA: dim / n_heads */
    uint32_t slot_values; /* cache values of one position at one plane:
                             MLA kv_lora_rank + qk_rope_head_dim, GQA 2 * n_kv_heads * head_dim */
} eng_config;

enum { ENG_MAX_LOOPS = 256 }; /* no request and no flag may ask for more */

/* Parses and checks config.json text; ERR_BAD_FILE names key, value and rule.
 * `what` is the file name used in messages. */
int eng_config_parse(eng_config *out, const char *text, size_t n, const char *what,
                     err *e) WARN_UNUSED;
/* The published variants mythos_1b, mythos_3b, … mythos_1t, and tiny for tests. ERR_NOT_FOUND. */
int eng_config_variant(eng_config *out, const char *name, err *e) WARN_UNUSED;
/* Writes config.json text of c (dtype: "float32", "bfloat16", "float16"). */
void eng_config_write(buf *out, const eng_config *c, const char *dtype);
uint64_t eng_config_params(const eng_config *c); /* number of weights, tied head counted once */

/* ================= model (config.json + safetensors, mapped) ================= */

typedef enum { ENG_F32, ENG_F16, ENG_BF16 } eng_dtype;

typedef struct {
    const void *data; /* little-endian, row-major, inside the map; lives as long as the model.
                         Alignment is whatever the file has: read with memcpy or unaligned loads */
    eng_dtype dtype;
    uint32_t rank; /* 0..4 */
    uint64_t shape[4];
    size_t n_values, bytes;
} eng_tensor;

typedef struct eng_model eng_model;

/* Opens a model folder: config.json, and model.safetensors or the shards of
 * model.safetensors.index.json. Every tensor the configuration needs is present with
 * the right shape and a float dtype, or the call fails with ERR_BAD_FILE and file,
 * tensor, expected and found. On failure *out is NULL. */
int eng_model_open(eng_model **out, const char *dir, err *e) WARN_UNUSED;
void eng_model_close(eng_model *m); /* NULL is fine */
/* Opening looks at a sample of the weights; this reads them all (seconds a GB) and fails
 * with ERR_BAD_FILE at the first that is NaN or infinite. */
int eng_model_check(const eng_model *m, err *e) WARN_UNUSED;
const eng_config *eng_model_config(const eng_model *m);
const char *eng_model_dir(const eng_model *m);
/* True and *out filled if the model has this tensor (names: spec model.md, e.g.
 * "recurrent.block.attn.kv_down.weight"). */
bool eng_model_find(const eng_model *m, const char *name, eng_tensor *out) WARN_UNUSED;
uint64_t eng_model_bytes(const eng_model *m);  /* of all tensors */
uint64_t eng_model_params(const eng_model *m); /* values in all tensors, head counted once */
/* Where the weights are, for people: sums to eng_model_params and eng_model_bytes. */
typedef enum {
    ENG_PART_EMBED, /* and the head, if it is its own */
    ENG_PART_ATTENTION,
    ENG_PART_DENSE,   /* FFN of prelude and coda */
    ENG_PART_EXPERTS, /* routed experts and their router */
    ENG_PART_SHARED,  /* always-on experts */
    ENG_PART_OTHER,   /* norms, injection, LoRA, halting */
    ENG_PARTS
} eng_part;
typedef struct {
    uint64_t params, bytes;
} eng_part_size;
void eng_model_parts(const eng_model *m, eng_part_size out[ENG_PARTS]);
const char *eng_part_name(eng_part part); /* "routed experts" */
/* Widens n values from index first to float. */
void eng_tensor_read(const eng_tensor *t, size_t first, size_t n, float *out);
const char *eng_dtype_name(eng_dtype d); /* "F32" */
size_t eng_dtype_bytes(eng_dtype d);

typedef struct {
    uint64_t seed;
    eng_dtype dtype;
    float mean_depth; /* halting is scaled so that depths of random text spread around this */
    void (*progress)(void *ud, uint64_t done_bytes, uint64_t all_bytes); /* may be NULL */
    void *ud;
    uint64_t shard_bytes; /* 0 = one file */
} eng_init_opts;
/* Writes a folder of random weights that eng_model_open loads. Refuses to overwrite
 * an existing model.safetensors. */
int eng_init_write(const char *dir, const eng_config *c, const eng_init_opts *opts,
                   err *e) WARN_UNUSED;

/* ================= tokenizer (tokenizer.json) ================= */

typedef struct eng_tokenizer eng_tokenizer;

typedef struct {
    uint32_t *data; /* caller frees with free() */
    size_t n, cap;
} eng_ids;

/* ERR_NOT_FOUND if dir has no tokenizer.json (such a model serves token-id prompts);
 * ERR_BAD_FILE if it has one that is wrong. Ids must lie below vocab_size. */
int eng_tokenizer_open(eng_tokenizer **out, const char *dir, uint32_t vocab_size,
                       err *e) WARN_UNUSED;
int eng_tokenizer_parse(eng_tokenizer **out, const char *json, size_t n, uint32_t vocab_size,
                        const char *what, err *e) WARN_UNUSED;
void eng_tokenizer_close(eng_tokenizer *t);
/* Appends the ids of n bytes of text (any bytes; not UTF-8 is encoded byte by byte).
 * Text that spells a special token is plain text unless parse_special. Time is
 * O(n log n). Any thread. Fails only for memory or max_ids (ERR_TOO_LONG). */
int eng_tokenizer_encode(const eng_tokenizer *t, const char *text, size_t n, bool parse_special,
                         size_t max_ids, eng_ids *out, err *e) WARN_UNUSED;
/* The bytes an id stands for; NULL and 0 if the id has none. A special token's bytes
 * are its spelling. Borrowed from t. */
const char *eng_tokenizer_bytes(const eng_tokenizer *t, uint32_t id, size_t *n);
bool eng_tokenizer_is_special(const eng_tokenizer *t, uint32_t id);
/* The id of a whole token. */
bool eng_tokenizer_find(const eng_tokenizer *t, const char *token, uint32_t *id) WARN_UNUSED;
/* The token that the file's template puts before every text, if any. Encode never adds it. */
bool eng_tokenizer_bos(const eng_tokenizer *t, uint32_t *id) WARN_UNUSED;
uint32_t eng_tokenizer_size(const eng_tokenizer *t); /* highest id + 1 */
void eng_ids_deinit(eng_ids *ids);

/* ================= sampler ================= */

enum { ENG_MAX_TOP = 20 };
#define ENG_NO_TOKEN UINT32_MAX

typedef struct {
    uint32_t id;
    float value; /* added to the logit */
} eng_bias;

/* A set bit allows the token; n_words words of 64 ids, ids beyond are banned. */
typedef struct {
    const uint64_t *words;
    size_t n_words;
} eng_mask;

typedef struct {
    float temperature;        /* below 1e-5: greedy (ties: lower id) */
    float top_p, min_p;       /* 1 and 0 = off */
    float repetition_penalty; /* 1 = off; prompt and output tokens (vLLM's meaning) */
    float presence_penalty, frequency_penalty; /* 0 = off; output tokens only */
    uint32_t top_k;                            /* 0 = off */
    uint64_t seed;
    const eng_bias *bias; /* borrowed */
    uint32_t n_bias;
} eng_sampling;

typedef struct {
    const uint32_t *prompt, *output; /* what penalties look at */
    size_t n_prompt, n_output;
} eng_history;

typedef struct {
    uint32_t id;
    float logprob;
} eng_top;

typedef struct {
    uint32_t token;
    /* log-softmax of the model's own logits, before penalties, bias and temperature */
    float logprob;
    uint32_t n_top;
    eng_top top[ENG_MAX_TOP]; /* best first, by the same log-softmax; ties: lower id */
} eng_choice;

typedef struct eng_sampler eng_sampler; /* scratch for one thread */
int eng_sampler_create(eng_sampler **out, uint32_t vocab_size, err *e) WARN_UNUSED;
void eng_sampler_destroy(eng_sampler *s);
/* Picks a token from logits [vocab] (not changed). Randomness is a pure function of
 * (seed, index), index being the number of tokens the sequence has put out: the same
 * whatever else runs. mask may be NULL. ERR_NUMERIC for NaN, +Inf, or when nothing is
 * allowed. No allocation. */
int eng_sample(eng_sampler *s, const eng_sampling *p, const eng_history *h, const eng_mask *mask,
               const float *logits, uint64_t index, uint32_t n_top, eng_choice *out,
               err *e) WARN_UNUSED;
/* Log-probabilities of one given token and of the n_top best, for scoring prompts. */
int eng_score(const float *logits, uint32_t vocab, uint32_t token, uint32_t n_top, eng_choice *out,
              err *e) WARN_UNUSED;

/* ================= backend: runs rows ================= */

/* The cache is n_slots slots of slot_bytes. Positions are grouped into blocks of
 * ENG_BLOCK; a block's map says, for each plane and each of its positions, which slot
 * holds that latent. Planes are numbered prelude layers first, then coda layers, then
 * loops: see eng_plane_*. A sequence is a table of blocks, so two sequences may share
 * one (prefix cache), and a halted position costs nothing at deeper loops: its entries
 * there name the slot of its last loop. */
enum { ENG_BLOCK = 32 };
#define ENG_NO_SLOT UINT32_MAX

static inline uint32_t eng_plane_prelude(const eng_config *c, uint32_t layer) {
    (void)c;
    return layer;
}
static inline uint32_t eng_plane_coda(const eng_config *c, uint32_t layer) {
    return c->prelude_layers + layer;
}
static inline uint32_t eng_plane_loop(const eng_config *c, uint32_t t) {
    return c->prelude_layers + c->coda_layers + t;
}

/* AS_STORED keeps bfloat16 and float32; INT8 holds the large matrices in 8 bits with a
 * scale per 128 inputs, and turns activations into 8 bits on the way in. */
typedef enum { ENG_WEIGHTS_AS_STORED, ENG_WEIGHTS_INT8 } eng_weights;

typedef struct {
    uint32_t threads;       /* 0 = one per core this process may use */
    uint32_t max_loops;     /* most loops any row will run (planes = prelude + coda + this) */
    uint32_t n_rows;        /* row states held */
    uint32_t max_launch;    /* most rows in one launch */
    uint32_t max_logits;    /* most rows in one coda launch that run the head */
    uint64_t cache_bytes;   /* budget for slots and block maps together; 0 = a default that fits */
    uint32_t max_positions; /* most positions any sequence will have */
    eng_dtype cache_dtype;  /* ENG_F32 or ENG_BF16 */
    const char *kernels;    /* CPU: NULL = measured choice; "avx512", "avx2", "portable" */
    eng_weights weights;    /* CPU: how large matrices are held */
    bool packed_cache;      /* CPU: keep the packed weights in a file in the model's folder */
    /* CPU: prompt positions between two multiples of this are always launched together, whatever
     * else is running, so that the form of their attention may follow from it; 0: no such promise */
    uint32_t prompt_chunk;
} eng_backend_opts;

typedef struct {
    const char *device;  /* "cpu", "cuda:0 NVIDIA H200" */
    const char *kernels; /* chosen code path */
    uint32_t threads;
    uint32_t n_slots, n_blocks, n_planes, n_rows, max_launch, max_logits;
    uint32_t max_flights; /* launches that may be started before the first is waited for */
    bool samples;         /* takes ENG_ROW_SAMPLE */
    size_t slot_bytes, block_map_bytes;  /* one slot; one block's map */
    uint64_t weight_bytes, memory_bytes; /* resident weights; everything this backend holds */
} eng_backend_info;

/* Sets map entries of one position for planes [plane, plane + n_planes) to one slot;
 * if guarded, only when row state `guard` has not halted in an earlier launch. */
typedef struct {
    uint32_t block, slot;
    uint16_t plane, n_planes;
    uint8_t off; /* position within the block */
    bool guarded;
    uint32_t guard;
} eng_edit;

typedef enum { ENG_STAGE_PRELUDE, ENG_STAGE_RECURRENT, ENG_STAGE_CODA } eng_stage;

enum {
    ENG_ROW_TAIL = 1,    /* recurrent: halted before; go on for K/V only, no output weight */
    ENG_ROW_KV_ONLY = 2, /* recurrent: write only K/V of this loop (a tail's last) */
    ENG_ROW_LOGITS = 4,  /* coda: run the head too, and give its logits */
    ENG_ROW_SAMPLE = 8,  /* coda: run the head too, and give the token that `draw` picks */
    /* A launch that is started while another is in flight cannot know who halts in that one,
     * so it says what to do then. Recurrent only; without them nobody asks. */
    ENG_ROW_GUARDED = 16, /* leave this row out if row state `guard` halted in an earlier launch */
    /* Run this row as a tail if it halted in an earlier launch itself; ENG_ROW_KV_ONLY beside it
     * holds for the tail alone. */
    ENG_ROW_OR_TAIL = 32,
};

/* What eng_sample is asked for, where a backend does it. Only with eng_sampling_is_plain. */
typedef struct {
    const eng_sampling *sampling;
    uint64_t index;
    uint32_t n_top;
} eng_draw;
/* Nothing but the logits decides: no penalty, no bias. */
bool eng_sampling_is_plain(const eng_sampling *p) WARN_UNUSED;

/* One row of a launch. A row's state (h, e, out, cum) lives in the backend under its
 * number: the prelude starts it from token, the coda reads its out. A row may be in the
 * coda while it loops on as a tail: the two touch different parts of the state.
 * Every stage writes this position's K/V at its planes, into slots the map names, and
 * attends to positions 0..pos through the map. Rows of one prompt chunk stand together,
 * positions rising, and share `blocks`; everything a row attends to was written by an
 * earlier launch or is in this one at the same stage (and loop). */
typedef struct {
    uint32_t row;                  /* < n_rows; no two rows of a launch share it */
    uint32_t pos;                  /* position in its sequence */
    uint32_t token;                /* prelude only */
    uint16_t loop;                 /* recurrent: 0-based index of the loop to run */
    uint16_t min_loops, max_loops; /* recurrent: no halt before min_loops done; halt at max_loops */
    uint16_t flags;                /* ENG_ROW_* */
    float threshold;               /* recurrent: ACT threshold */
    uint32_t guard;         /* with ENG_ROW_GUARDED: a row state, this row's own or another */
    const eng_draw *draw;   /* with ENG_ROW_SAMPLE */
    const uint32_t *blocks; /* block table, pos / ENG_BLOCK + 1 entries */
} eng_row;

typedef struct {
    eng_stage stage;
    const eng_row *rows;
    uint32_t n_rows;
    const eng_edit *edits; /* applied in order before the rows run */
    uint32_t n_edits;
} eng_launch;

typedef struct {
    /* [n_rows] recurrent: 1 = left the loop in this launch; 0 for tails and rows left out */
    const uint8_t *halted;
    const float *logits; /* [n_logits][vocab] coda: rows with ENG_ROW_LOGITS in launch order */
    uint32_t n_logits;
    /* [n_choices] coda: rows with ENG_ROW_SAMPLE in launch order; token ENG_NO_TOKEN where
     * eng_sample would fail with ERR_NUMERIC */
    const eng_choice *choices;
    uint32_t n_choices;
    uint64_t ns; /* time the launch took on the device */
} eng_result;

typedef struct eng_backend eng_backend;

typedef struct {
    /* Starts a launch. Launches run one after another in the order they were started in; at
     * most info.max_flights are started and not yet waited for. Everything l points to stays
     * valid until its wait where that is 1; where it is more, the call has copied what it needs. */
    int (*launch)(eng_backend *b, const eng_launch *l, err *e);
    /* Waits for the oldest one started; what *r points to is valid until the next launch.
     * ERR_DEVICE means the backend is lost and the process should end. */
    int (*wait)(eng_backend *b, eng_result *r, err *e);
    void (*close)(eng_backend *b);
} eng_backend_ops;

/* A backend's own struct begins with this. */
struct eng_backend {
    const eng_backend_ops *ops;
    const eng_config *config; /* borrowed from the model */
    eng_backend_info info;
};

/* The model must outlive the backend. Opening packs weights (progress on stderr when it
 * takes over a second) and allocates all memory; nothing is allocated after. */
int eng_cpu_open(eng_backend **out, const eng_model *m, const eng_backend_opts *opts,
                 err *e) WARN_UNUSED;
/* The CPU code path that would be chosen here, by a measurement of about a millisecond. */
const char *eng_cpu_kernels(void);
/* One measurement: alternated with its probes in one run, medians. */
typedef struct {
    const char *what;  /* "read probe", "fma probe", "gemm", "recurrent step", … */
    const char *dtype; /* of the weights */
    uint32_t threads, rows, context;
    double seconds, gbytes, gflop; /* of one pass: time, what it must read, what it computes */
    double percent;                /* its bound's time as a share of it; 0 for a probe itself */
    double percent_cpu;            /* the same by CPU time, which a busy neighbour takes less of */
    double cpu_seconds;            /* probes: CPU time of a thread in that time; 0 for others */
    const char *bound;             /* "read", "fma" or "int8": the probe that limits it */
} eng_kernel_time;
typedef void (*eng_kernel_sink)(void *ud, const eng_kernel_time *t);
/* Measures the CPU kernels chosen by o (kernels, threads) and, with a model, its stages;
 * with `only`, just what bears that name, with `rows` not 0 just that many. *kernels becomes the
 * name of the code path. Takes tens of seconds. */
int eng_cpu_bench(const eng_model *m, const eng_backend_opts *o, const char *only, uint32_t rows,
                  const char **kernels, eng_kernel_sink sink, void *ud, err *e) WARN_UNUSED;
/* Loads fathom-cuda.so from beside the program. ERR_NOT_FOUND: no plug-in, driver or device. */
int eng_cuda_open(eng_backend **out, const eng_model *m, const eng_backend_opts *opts,
                  err *e) WARN_UNUSED;
void eng_backend_close(eng_backend *b); /* NULL is fine */
/* launch and wait in one call. */
int eng_run(eng_backend *b, const eng_launch *l, eng_result *r, err *e) WARN_UNUSED;

#endif

/* backend.h - a backend runs rows of a model.
 *
 * A row is one position in flight. One launch takes rows of any sequences; in the recurrent stage
 * each row is at its own loop. The scheduler decides when each row runs and assigns cache slots to
 * positions.
 *
 * Threading: a backend belongs to one thread for its whole life. It calls nothing above it and
 * waits for no socket. */
#ifndef FATHOM_BACKEND_H
#define FATHOM_BACKEND_H

#include "engine/sampler.h"
#include "model/model.h"

/* The cache is n_slots slots of slot_bytes. Positions are grouped into blocks of ENG_BLOCK. The map
 * of a block names, for each plane and each of its positions, the slot with the keys and values. A
 * slot holds the keys and values of all layers of one loop. Planes are numbered prelude first, then
 * coda, then loops: see plan_plane_*. A sequence is a table of blocks, so two sequences may share a
 * block (prefix cache). A halted position costs nothing at deeper loops: its entries there name the
 * slot of its last loop. */
enum { ENG_BLOCK = 32 };
#define ENG_NO_SLOT UINT32_MAX

enum { ENG_MOST_HOMES = 64 }; /* of eng_backend_info.n_homes */

/* AS_STORED keeps bfloat16 and float32. BF16 rounds all matrices to bfloat16. INT8 holds the large
 * matrices in 8 bits with one scale per 128 inputs, and converts the activations to 8 bits before
 * each product. Tables read by token stay as stored. */
typedef enum {
    ENG_WEIGHTS_AS_STORED,
    ENG_WEIGHTS_BF16,
    ENG_WEIGHTS_INT8,
    ENG_WEIGHTS_KINDS
} eng_weights;

/* The processes that run a model together: engine/ranks.h */
typedef struct eng_ranks eng_ranks;

typedef struct {
    uint32_t threads;        /* 0 = machine_threads */
    uint32_t max_loops;      /* most loops of any row: the cache has plan_planes(this) */
    uint32_t n_rows;         /* number of row states */
    uint32_t max_launch;     /* most rows in one launch */
    uint32_t max_logits;     /* most rows of one coda launch with logits or a token */
    uint64_t cache_bytes;    /* for slots and block maps together; 0 = a default that fits */
    uint32_t max_positions;  /* most positions of any sequence */
    model_dtype cache_dtype; /* DTYPE_F32 or DTYPE_BF16 */
    const char *kernels;     /* CPU: NULL = the fastest measured; "avx512", "avx2", "portable" */
    eng_weights weights;     /* CPU: storage of matrices; CUDA holds BF16 */
    bool packed_cache;       /* CPU: keep the packed weights in a file in the model's folder */
    /* CPU: the caller promises to launch prompt positions in aligned groups of this size, so the
     * backend may choose the form of attention from the position alone. 0 = no promise. */
    uint32_t prompt_chunk;
    bool own_exit; /* use `exit` instead of the plan's rule; the plan must allow it */
    exit_rule exit;
    bool own_state0; /* use `state0` (STATE_ZERO or STATE_SEEDED) instead of the plan's state */
    state_start state0;
    eng_ranks *ranks; /* borrowed; NULL: this process holds the whole model */
    bool homes;       /* CPU, with ranks: each rank runs attention for rows at home only */
} eng_backend_opts;

typedef struct {
    const char *device;  /* "cpu", "cuda:0 NVIDIA H200" */
    const char *kernels; /* code path in use */
    uint32_t threads;
    uint32_t n_slots, n_blocks, n_planes, n_rows, max_launch, max_logits;
    uint32_t max_flights; /* most launches started and not yet waited for */
    /* Rows and edits have a home below it, and each home has n_slots slots and n_blocks blocks of
     * its own. 0: one cache for all rows, and their home is 0. */
    uint32_t n_homes;
    bool samples;                        /* supports ENG_ROW_SAMPLE */
    exit_rule exit;                      /* rule by which rows leave the loop */
    size_t slot_bytes, block_map_bytes;  /* of one slot; of one block's map */
    uint64_t weight_bytes, memory_bytes; /* of the weights; of all memory of this backend */
    /* Reasons for the number of threads and the size of the cache; "" if there are none. */
    char why_threads[64], why_cache[96];
} eng_backend_info;

/* Sets the map entries of one position for planes [plane, plane + n_planes) to one slot. The slot
 * may hold keys and values of the position already: then no row writes it anew. A guarded edit is
 * skipped if row state `guard` halted in an earlier launch. */
typedef struct {
    uint32_t block, slot; /* of the cache of `home` */
    uint16_t plane, n_planes;
    uint8_t off; /* position within the block */
    bool guarded;
    uint16_t home;
    uint32_t guard;
} eng_edit;

typedef enum { ENG_STAGE_PRELUDE, ENG_STAGE_RECURRENT, ENG_STAGE_CODA } eng_stage;

enum {
    ENG_ROW_TAIL = 1,    /* recurrent: halted; go on for K/V only, without output weight */
    ENG_ROW_KV_ONLY = 2, /* recurrent: write only the K/V of this loop (a tail's last) */
    ENG_ROW_LOGITS = 4,  /* coda: run the head and return its logits */
    ENG_ROW_SAMPLE = 8,  /* coda: run the head and return the token chosen by `draw` */
    /* A launch started while another is in flight cannot know which rows halt in the other. These
       flags tell the device what to do in that case. Recurrent only. */
    ENG_ROW_GUARDED = 16, /* skip this row if row state `guard` halted in an earlier launch */
    /* If this row halted in an earlier launch, run it as a tail. ENG_ROW_KV_ONLY beside this flag
       applies to the tail only. */
    ENG_ROW_OR_TAIL = 32,
    /* coda: the row still loops. Its output is as if it left the loop after the loops done so far.
       The row's state stays as it is. The keys and values written are those of a draft: the row's
       last coda writes them anew to the same slots. For a row that has left the loop meanwhile the
       output has no meaning. */
    ENG_ROW_DRAFT = 64,
    /* prelude: a generated position. Its values are those of a row alone, also if it runs again in
       a chunk with others. */
    ENG_ROW_GENERATED = 128,
};

/* Arguments of eng_sample for a backend that samples. Only with eng_sampling_is_plain. */
typedef struct {
    const eng_sampling *sampling;
    uint64_t index;
    uint32_t n_top;
} eng_draw;

/* One row of a launch. The state of a row lives in the backend under its number: the recurrent
 * state, the input of the loop, the output and the sum of exit probabilities. The prelude sets it
 * from `token`; the coda reads the output. A row may be in the coda while it loops on as a tail:
 * the two use different parts of the state.
 *
 * Every stage writes the K/V of the position at its planes, into slots named by the map, and
 * attends to positions 0..pos through the map. Rows of one prompt chunk are adjacent, with rising
 * positions, and share `blocks`. Every position a row attends to was written by an earlier launch,
 * or is in this launch at the same stage and loop. */
typedef struct {
    uint32_t row;                  /* < n_rows; no two rows of a launch share it */
    uint32_t pos;                  /* position in its sequence */
    uint32_t token;                /* in every stage: value embeddings read it */
    uint16_t loop;                 /* recurrent: 0-based index of the loop to run */
    uint16_t min_loops, max_loops; /* recurrent: loops done at the earliest, latest halt */
    uint16_t flags;                /* ENG_ROW_* */
    float threshold;               /* recurrent: parameter of info.exit */
    uint32_t guard;                /* with ENG_ROW_GUARDED: a row state, this row's or another */
    /* The rank that runs this row's attention and has the cache of its blocks: the same for all
     * rows of a sequence. */
    uint32_t home;
    const eng_draw *draw;   /* with ENG_ROW_SAMPLE */
    const uint32_t *blocks; /* block table, pos / ENG_BLOCK + 1 entries */
} eng_row;

typedef struct {
    eng_stage stage;
    const eng_row *rows;
    uint32_t n_rows;
    const eng_edit *edits; /* applied in order, before the rows run */
    uint32_t n_edits;
} eng_launch;

typedef struct {
    /* [n_rows] recurrent: 1 = left the loop in this launch; 0 for tails and skipped rows */
    const uint8_t *halted;
    const float *logits; /* [n_logits][vocab] coda: rows with ENG_ROW_LOGITS in launch order */
    uint32_t n_logits;
    /* [n_choices] coda: rows with ENG_ROW_SAMPLE in launch order. The token is ENG_NO_TOKEN where
     * eng_sample would fail with ERR_NUMERIC. */
    const eng_choice *choices;
    uint32_t n_choices;
    uint64_t ns; /* duration of the launch on the device */
    /* With ranks: a hash of the results that decide what runs next (halted rows, sums of exits,
     * tokens). It must be equal on all ranks; 0 if the backend makes none. */
    uint64_t check;
} eng_result;

typedef struct eng_backend eng_backend;

typedef struct {
    /* Starts a launch. Launches run one after another, in the order of their start. At most
     * info.max_flights launches are started and not yet waited for. With max_flights 1 the caller
     * keeps everything `launch` points to valid until wait(). With more, this call copies what it
     * needs. */
    int (*launch)(eng_backend *backend, const eng_launch *launch, err *e);
    /* Waits for the oldest launch started. The memory of *result is valid until the next launch.
     * ERR_DEVICE means the backend is lost and the process should end. */
    int (*wait)(eng_backend *backend, eng_result *result, err *e);
    void (*close)(eng_backend *backend);
} eng_backend_ops;

/* The kind of weights of an option "auto|bf16|int8"; NULL is "auto", as stored. */
eng_weights eng_weights_named(const char *name);

/* First member of every backend's own struct. */
struct eng_backend {
    const eng_backend_ops *ops;
    const model_plan *plan; /* borrowed from the model */
    eng_backend_info info;
};

/* The model must outlive the backend. Opening packs weights (with progress on stderr if it takes
 * over a second) and allocates all memory; nothing is allocated later. */
int eng_cpu_open(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                 err *e) WARN_UNUSED;
/* Loads fathom-cuda.so from beside the program. ERR_NOT_FOUND: no plug-in, driver or device. */
int eng_cuda_open(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                  err *e) WARN_UNUSED;
/* Says whether the plug-in and the driver are there, without loading the plug-in. */
void eng_cuda_describe(char *out, size_t room);
/* A backend that answers at once with canned tokens, to measure everything but the arithmetic.
 * Every launch that yields logits sleeps us_per_token. */
int eng_fake_open(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                  uint64_t us_per_token, err *e) WARN_UNUSED;
void eng_backend_close(eng_backend *backend); /* NULL is fine */
/* launch, then wait */
int eng_run(eng_backend *backend, const eng_launch *launch, eng_result *result, err *e) WARN_UNUSED;

#endif

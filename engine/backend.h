/* backend.h - a backend runs rows of a model.
 *
 * A row is one position in flight; one launch takes rows of any sequence, in the recurrent
 * stage each at its own loop. The scheduler decides which rows run when, and which cache slot
 * belongs to which position.
 *
 * Threading: a backend belongs to one thread for its whole life. It calls nothing above it and
 * waits for no socket. */
#ifndef FATHOM_BACKEND_H
#define FATHOM_BACKEND_H

#include "engine/sampler.h"
#include "model/model.h"

/* The cache is n_slots slots of slot_bytes. Positions are grouped into blocks of
 * ENG_BLOCK; a block's map says, for each plane and each of its positions, which slot
 * holds that position there. A slot holds the keys and values of all layers of one loop, and
 * planes are numbered prelude first, then coda, then loops: see plan_plane_*. A sequence is a table
 * of blocks, so two sequences may share one (prefix cache), and a halted position costs nothing at
 * deeper loops: its entries there name the slot of its last loop. */
enum { ENG_BLOCK = 32 };
#define ENG_NO_SLOT UINT32_MAX

/* AS_STORED keeps bfloat16 and float32; INT8 holds the large matrices in 8 bits with a
 * scale per 128 inputs, and turns activations into 8 bits on the way in. */
typedef enum { ENG_WEIGHTS_AS_STORED, ENG_WEIGHTS_INT8 } eng_weights;

typedef struct {
    uint32_t threads;        /* 0 = as many as machine_threads says */
    uint32_t max_loops;      /* most loops any row will run: the cache has plan_planes(this) */
    uint32_t n_rows;         /* row states held */
    uint32_t max_launch;     /* most rows in one launch */
    uint32_t max_logits;     /* most rows in one coda launch that run the head */
    uint64_t cache_bytes;    /* budget for slots and block maps together; 0 = a default that fits */
    uint32_t max_positions;  /* most positions any sequence will have */
    model_dtype cache_dtype; /* DTYPE_F32 or DTYPE_BF16 */
    const char *kernels;     /* CPU: NULL = measured choice; "avx512", "avx2", "portable" */
    eng_weights weights;     /* CPU: how large matrices are held */
    bool packed_cache;       /* CPU: keep the packed weights in a file in the model's folder */
    /* CPU: prompt positions between two multiples of this are always launched together, whatever
     * else is running, so that the form of their attention may follow from it; 0: no such promise
     */
    uint32_t prompt_chunk;
    bool own_exit; /* leave the loop by `exit` instead of the plan's rule; the plan allows it */
    exit_rule exit;
    bool own_state0; /* start from `state0` instead of the plan's; STATE_ZERO or STATE_SEEDED */
    state_start state0;
} eng_backend_opts;

typedef struct {
    const char *device;  /* "cpu", "cuda:0 NVIDIA H200" */
    const char *kernels; /* chosen code path */
    uint32_t threads;
    uint32_t n_slots, n_blocks, n_planes, n_rows, max_launch, max_logits;
    uint32_t max_flights; /* launches that may be started before the first is waited for */
    bool samples;         /* takes ENG_ROW_SAMPLE */
    exit_rule exit;       /* when rows leave the loop */
    size_t slot_bytes, block_map_bytes;  /* one slot; one block's map */
    uint64_t weight_bytes, memory_bytes; /* resident weights; everything this backend holds */
    /* Why so many threads and so large a cache; "" where the backend has nothing to say. */
    char why_threads[64], why_cache[96];
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
    float threshold;               /* recurrent: of info.exit */
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
    int (*launch)(eng_backend *backend, const eng_launch *launch, err *e);
    /* Waits for the oldest one started; what *r points to is valid until the next launch.
     * ERR_DEVICE means the backend is lost and the process should end. */
    int (*wait)(eng_backend *backend, eng_result *result, err *e);
    void (*close)(eng_backend *backend);
} eng_backend_ops;

/* A backend's own struct begins with this. */
struct eng_backend {
    const eng_backend_ops *ops;
    const model_plan *plan; /* borrowed from the model */
    eng_backend_info info;
};

/* The model must outlive the backend. Opening packs weights (progress on stderr when it
 * takes over a second) and allocates all memory; nothing is allocated after. */
int eng_cpu_open(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                 err *e) WARN_UNUSED;
/* Loads fathom-cuda.so from beside the program. ERR_NOT_FOUND: no plug-in, driver or device. */
int eng_cuda_open(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                  err *e) WARN_UNUSED;
/* A backend that answers at once with canned tokens, to measure everything but the
 * arithmetic. Every launch that yields logits sleeps us_per_token. */
int eng_fake_open(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                  uint64_t us_per_token, err *e) WARN_UNUSED;
void eng_backend_close(eng_backend *backend); /* NULL is fine */
/* launch and wait in one call. */
int eng_run(eng_backend *backend, const eng_launch *launch, eng_result *result, err *e) WARN_UNUSED;

#endif

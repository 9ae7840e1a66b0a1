/* kernels.h - the kernels' launchers and the structs they read, for host code in C and
 * kernels in C++ alike.
 *
 * A launch of the backend is described by one block of bytes (the descriptor), brought to the
 * device by its first kernel: a head, the rows, the attention tiles, the edits of the block maps,
 * and the block tables. Kernels read every count from it, never from their arguments, so that a
 * captured graph sized for a capacity serves any launch up to it. The rows stand right behind the
 * head, and there is memory behind it for a capacity of them: a kernel may read a row before it
 * knows how many there are.
 *
 * "act" is the input type of products: bfloat16, or float32 in the parity mode. Rows of an act
 * array are padded to a multiple of 32 values; a kernel writing a row writes zeros there. */
#ifndef FATHOM_ENGINE_CUDA_KERNELS_H
#define FATHOM_ENGINE_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CU_TILE_ROWS = 64,     /* most tokens one product tile takes */
    CU_MM_THREADS = 256,   /* 8 warps */
    CU_MM_ROWS = 16,       /* weight rows of one warp's tile */
    CU_K_STEP = 32,        /* k values one step of a product takes; every k is padded to it */
    CU_ATTN_ROWS = 4,      /* most rows of one sequence in an attention tile */
    CU_ATTN_KEYS = 64,     /* keys of one tile */
    CU_ATTN_HEADS = 16,    /* query heads of one tile */
    CU_MAX_SPLITS = 64,    /* most parts a context is split into */
    CU_GQA_QUERIES = 64,   /* queries (rows times heads of a group) of one tile */
    CU_FLASH_QUERIES = 64, /* rows of one tile of expanded attention */
    CU_FLASH_KEYS = 128,   /* keys of one block of the expansion */
    CU_FLASH_CHUNK = 512,  /* keys dealt to one split before the next */
    CU_FLASH_SPLITS = 4,
    CU_MAX_EXPERTS = 1024,
    CU_MAX_RANKS = 64,
    CU_MAX_TOP = 20,      /* as ENG_MAX_TOP */
    CU_MAX_LAUNCH = 8192, /* most rows of one launch */
    CU_ROW_TAIL = 1,      /* as ENG_ROW_* */
    CU_ROW_KV_ONLY = 2,
    CU_ROW_GUARDED = 16,
    CU_ROW_OR_TAIL = 32,
    CU_ROW_DRAFT = 64,
    CU_ROW_EXPANDED = 256, /* of a run with expanded keys and values */
};
#define CU_NO_LOGITS UINT32_MAX
#define CU_NO_GUARD ((1u << 27) - 1)

typedef struct { /* as eng_choice */
    uint32_t token;
    float logprob;
    uint32_t n_top;
    struct {
        uint32_t id;
        float logprob;
    } top[CU_MAX_TOP];
} cu_choice;

typedef struct {
    uint32_t n_rows, n_tiles, n_edits, n_logits, n_draws;
    uint32_t rows, tiles, edits, draws, tables; /* bytes from the start of the descriptor */
    uint32_t n_runs, n_pieces, n_passes, runs, pieces, passes; /* expanded prefill: counts, bytes */
    uint16_t ahead;    /* some row depends on an earlier launch: cu_begin settles it */
    uint16_t in_order; /* some edits set the same entry */
    uint32_t bytes;    /* of the descriptor, a multiple of 16; 0: not sent yet */
    /* Pinned memory of this launch, written by kernels across the bus; flags start as 0. */
    uint32_t *bad;      /* [1] set to 1 when a row's map names no slot */
    uint8_t *halted;    /* [rows of the launch as started] set to 1 for each halted row */
    cu_choice *choices; /* [n_draws] */
} cu_head;

typedef struct {
    uint32_t row, pos, token;
    uint32_t table;  /* first entry of its block table */
    uint32_t logits; /* its number among the rows with logits, or CU_NO_LOGITS */
    uint16_t loop, min_loops, max_loops, flags;
    float threshold;
    uint32_t guard; /* with CU_ROW_GUARDED: the row state asked */
    uint32_t at;    /* its row of the launch as started, whatever was left out since */
} cu_row;

typedef struct {
    uint32_t first, n; /* launch rows [first, first + n): one table, one loop, positions rising */
} cu_tile;

/* ---- expanded prefill: rows flagged CU_ROW_EXPANDED; they have tiles like all others ----
 * A kernel dropping rows from a descriptor on the device rewrites first and n of a run as of a tile
 * (n may become 0). Pieces name runs by number and keys by position and stay as they are: the
 * kernels stop at the position of the run's last row. */
typedef struct {
    uint32_t first, n; /* launch rows [first, first + n): one table, one loop, positions rising */
} cu_run;

/* Keys [key, key + n_keys) of a run, expanded into scratch keys [at, at + n_keys); key and at are
 * multiples of CU_FLASH_KEYS. The run's tiles of queries are thread blocks [tile, tile + n_tiles)
 * of their pass. */
typedef struct {
    uint32_t run, key, n_keys, at, tile, n_tiles;
} cu_piece;

/* Pieces [first, first + n) are in the scratch together. */
typedef struct {
    uint32_t first, n;
} cu_pass;

typedef struct {
    uint32_t block, slot;
    uint16_t plane, n_planes;
    uint32_t off : 5;
    uint32_t guard : 27; /* nothing happens if this row state has halted; or CU_NO_GUARD */
} cu_edit;

/* A token to pick from one row of logits. */
typedef struct {
    uint64_t seed, index;
    float scale; /* 1 / temperature; 0: greedy */
    float top_p, min_p;
    uint32_t top_k, n_top;
    uint32_t logits; /* number among the rows with logits */
} cu_draw;

/* ---- arguments of every kernel ---- */

/* When the first thread block of a kernel began and the last ended, in nanoseconds of the device's
 * own clock; NULL in a kernel's arguments: no clock runs, and nothing is read or written. */
typedef struct {
    uint64_t first, last;
} cu_stamp;

/* ---- cache ---- */

/* As one layer sees it: if a slot holds several layers, `slots` points to this layer's values in
 * the first slot, and slot_values stays the whole slot's. */
typedef struct {
    void *slots;    /* [n_slots][slot_values] of float or bfloat16 */
    uint32_t *maps; /* [n_blocks][n_planes][32] */
    uint32_t n_slots, n_blocks, n_planes, slot_values;
    bool f32;
} cu_cache;

/* The state of rows from launch to launch, by row number. */
typedef struct {
    float *h, *e, *out, *cum; /* [n_rows][dim]; cum [n_rows]; e NULL if no loop reads it: the
                                 loop's input, or what all loops have of it in common */
    uint8_t *halted;          /* [n_rows] 1 from the launch it halts in to its next prelude */
} cu_state;

enum { CU_FRONT = 4096 }; /* least bytes of memory for a descriptor, sent or on the device */

typedef struct {
    cu_stamp *stamp;
    void *desc;          /* on the device: the copy read by the launch's kernels */
    const void *came[2]; /* on the device: the host copies descriptors here, in turn */
    uint32_t *turn; /* [2] on the device, begun as 0: descriptors taken so far; of the kernel */
    cu_cache cache;
    const uint8_t *halted; /* of the row states */
} cu_begin_args;

/* The first kernel of every launch. Takes the descriptor next in turn, if one has come. Applies its
 * edits, in order if the descriptor asks for it. If the launch was started ahead, takes out each
 * row with a guard halted since, and makes a tail of each row halted itself: counts, rows and tiles
 * in the descriptor are then final for all later kernels. In such a descriptor edits, draws and
 * runs begin at multiples of 16 bytes, in this order. */
cudaError_t cu_begin(cudaStream_t stream, const cu_begin_args *args);

/* ---- row kernels: one block of threads per row ---- */

enum {
    CU_MAX_DIM = 12288,   /* channels of a row */
    CU_MAX_LATENT = 4096, /* of MLA's latents */
};

typedef enum {
    CU_FROM_TOKEN,    /* embed_scale * embed[token] */
    CU_FROM_LOOP,     /* h + loop_emb + e */
    CU_FROM_DIAGONAL, /* decay * h + e */
    CU_FROM_LINEAR,   /* delta + e */
    CU_FROM_STATE,    /* h */
    CU_FROM_OUT,      /* out; of a draft h, or with `weighted` out + (1 - cum, at least 0) * h */
    CU_FROM_DELTA,    /* delta */
    CU_FROM_X,        /* x + delta */
} cu_row_from;
typedef enum {
    CU_TO_NORM,  /* x, and act = rms(x; norm) */
    CU_TO_HEAD,  /* act[logits] = rms(x; norm) */
    CU_TO_STATE, /* rms(x; norm) as e, if no product follows, else as act; h as `start` says,
                    out = cum = 0 */
    CU_TO_INPUT, /* e = step * x */
} cu_row_to;
typedef enum { CU_START_INPUT, CU_START_ZERO, CU_START_SEEDED } cu_start; /* as state_start */

/* x = rms(from; before), or with FROM_X and without norm_sum x + rms(delta; before); then `to`.
 * Without a norm, x itself. */
typedef struct {
    const void *desc;
    cu_stamp *stamp;
    cu_row_from from;
    cu_row_to to;
    bool weighted;       /* out is a sum over all loops */
    uint32_t dim, ld;    /* ld: values between rows of embed and act */
    uint32_t loop_width; /* channels of the loop embedding */
    float norm_eps, embed_scale;
    cu_start start;
    float start_std; /* SEEDED */
    cu_state state;
    float *x;                   /* [rows][dim], the residual stream */
    const float *delta;         /* [rows][n_parts][dim]: the sum of the parts */
    uint32_t n_parts;           /* at least 1 */
    const void *embed;          /* act type [vocab][ld] */
    const float *before, *norm; /* [dim], or NULL: no norm */
    bool norm_sum;              /* FROM_X: `before` is of the sum, not of delta */
    const float *loop_emb;      /* [max_loops][loop_width] */
    const float *decay, *step;  /* [dim]; step NULL: 1 */
    void *act;                  /* NULL in TO_STATE: no product follows */
} cu_row_args;
cudaError_t cu_row_step(cudaStream_t stream, const cu_row_args *args, uint32_t rows, bool f32);

typedef enum {
    CU_QK_NORM_NONE,
    CU_QK_NORM_FULL,
    CU_QK_NORM_HEAD_UNIT
} cu_qk_norm; /* as qk_norm_kind */

/* MLA: from [cq | c | kr] to the normed query latent and the cache slot. GQA: from [q | k | v]
 * to the rotated query and the slot, with what the model adds: q and k += qk_bias and their norm;
 * v += 2 sigmoid(gate) table[token], with the gates of the K/V heads behind v.
 * rope: [max_positions][rope_pairs][cos, sin]. */
typedef struct {
    const void *desc;
    cu_stamp *stamp;
    cu_cache cache;
    uint32_t plane;                         /* of loop 0, or of the layer */
    bool by_loop;                           /* add the row's loop to it */
    uint32_t q_lora, kv_lora, rope_dim;     /* MLA */
    uint32_t n_heads, n_kv_heads, head_dim; /* GQA */
    const float *in;                        /* [rows][ld_in] */
    uint32_t ld_in;
    const float *q_norm, *kv_norm, *rope;
    float norm_eps;
    const float *qk_bias;    /* [q | k]; NULL: none */
    const float *qk_weights; /* [q | k], FULL */
    cu_qk_norm qk_norm;
    float qk_norm_eps;
    const void *value_table; /* act [vocab][value_ld]; NULL: none */
    uint32_t value_ld;
    void *q; /* act [rows][ld_q] */
    uint32_t ld_q;
} cu_prep_args;
cudaError_t cu_mla_prep(cudaStream_t stream, const cu_prep_args *args, uint32_t rows, bool f32);
cudaError_t cu_gqa_prep(cudaStream_t stream, const cu_prep_args *args, uint32_t rows, bool f32);

/* Splits [q_nope of all heads | q_rope of all heads] into act nope [rows][H][nope_ld] and the
 * rotated part of q [rows][H][kv_lora + rope]; zeroes the padding of o's rows. */
typedef struct {
    const void *desc;
    cu_stamp *stamp;
    uint32_t n_heads, nope, nope_ld, rope_dim, kv_lora;
    const float *in; /* [rows][ld_in] */
    uint32_t ld_in;
    const float *rope;
    void *q_nope, *q, *o;
    uint32_t o_values, o_ld;
} cu_query_args;
cudaError_t cu_mla_query(cudaStream_t stream, const cu_query_args *args, uint32_t rows, bool f32);

/* ---- attention over slot lists, split over the context ---- */

typedef struct {
    const void *desc;
    cu_stamp *stamp;
    cu_cache cache;
    uint32_t plane;
    bool by_loop;
    uint16_t no_query;            /* row flags: such a row attends to nothing here and gets zeros */
    uint32_t n_heads, n_kv_heads; /* MLA: one K/V head */
    uint32_t dk, dv;              /* values of one key and one value */
    uint32_t v_offset; /* of values within a slot (MLA 0: the value is part of the key) */
    float scale;
    const void *q;   /* act [rows][H][dk] */
    uint32_t splits; /* most parts of a context */
    uint32_t per;    /* least key tiles of a part: with splits * per tiles, parts are by position */
    bool invariant;  /* a row's bits may depend on its own context alone */
    uint32_t shared; /* bytes of shared memory a thread block may have */
    uint32_t *arrived; /* [rows][H] 0: thread blocks done with their parts; 0 again behind */
    float *part_o;     /* [rows][splits][H][dv] */
    float *part_ml;    /* [rows][splits][H][2]: maximum, sum */
    void *o;           /* act [rows][o_ld]; head h at h * o_head */
    uint32_t o_head, o_ld;
} cu_attn_args;
/* True if the tensor-core kernel can serve these shapes, at least one row to a tile. */
bool cu_attn_fits_mma(const cu_attn_args *args, bool f32);
/* Rows one tile may have for these shapes. */
uint32_t cu_attn_tile_rows(const cu_attn_args *args, bool f32);
/* one_row: no tile has more than one row. */
cudaError_t cu_attn_mma(cudaStream_t stream, const cu_attn_args *args, uint32_t tiles,
                        bool one_row);
cudaError_t cu_attn_simple(cudaStream_t stream, const cu_attn_args *args, uint32_t rows, bool f32);
/* Tensor cores for GQA in bfloat16: heads of up to 128 values, groups of up to 16. */
bool cu_attn_fits_gqa(const cu_attn_args *args, bool f32);
uint32_t cu_gqa_tile_rows(const cu_attn_args *args);
cudaError_t cu_attn_gqa(cudaStream_t stream, const cu_attn_args *args, uint32_t tiles,
                        bool one_row);
/* Tiles of one row, keys of one or two heads of 64, 96 or 128 values, in bfloat16. */
bool cu_attn_fits_mha(const cu_attn_args *args, bool f32);
cudaError_t cu_attn_mha(cudaStream_t stream, const cu_attn_args *args, uint32_t tiles);
/* Whichever of these serves the shapes. */
cudaError_t cu_attn(cudaStream_t stream, const cu_attn_args *args, uint32_t rows, bool f32,
                    bool one_row);

/* ---- attention of prompts over expanded keys and values (MLA, bfloat16) ---- */

typedef struct {
    const void *desc;
    cu_stamp *stamp;
    cu_cache cache;
    uint32_t plane;
    bool by_loop;
    uint16_t no_query; /* as in cu_attn_args */
    uint32_t n_heads, nope, rope, kv_lora, v;
    const void *uk,
        *uv; /* as the absorbed products read them: [H][kv_lora][uk_ld], [H][v][uv_ld] */
    uint64_t uk_head, uv_head; /* values between heads */
    uint32_t uk_ld, uv_ld;
    const void *q_nope, *q; /* as cu_mla_query leaves them; of q only the rotated part is read */
    uint32_t nope_ld;
    float scale;
    uint32_t keys;             /* the scratch holds; a multiple of CU_FLASH_KEYS */
    void *k, *values, *k_rope; /* [H][keys][nope to 16], [H][keys][v to 16], [keys][rope to 16] */
    float *part_o;             /* [rows][CU_FLASH_SPLITS][H][v] */
    float *part_ml;            /* [rows][CU_FLASH_SPLITS][H][2]: maximum as a power of two, sum */
    void *o;                   /* act [rows][o_ld]; head h at h * v */
    uint32_t o_ld;
} cu_flash_args;
/* False if shapes or a block's shared memory forbid it; `shared`: most bytes of a block. */
bool cu_flash_fits(const cu_flash_args *args, uint32_t shared);
/* Least queries of an expanded run. */
uint32_t cu_flash_crossover(const cu_flash_args *args);
/* Bytes of scratch for one key. */
uint64_t cu_flash_key_bytes(const cu_flash_args *args);
/* The keys and values of one pass, then its attention: its sums go to the parts, and continue from
 * them if an earlier pass has begun a context. tiles: most tiles of queries. */
cudaError_t cu_flash_expand(cudaStream_t stream, const cu_flash_args *args, uint32_t pass);
cudaError_t cu_flash_attend(cudaStream_t stream, const cu_flash_args *args, uint32_t pass,
                            uint32_t tiles);
/* o of all expanded rows, after the last pass. */
cudaError_t cu_flash_merge(cudaStream_t stream, const cu_flash_args *args, uint32_t rows);

/* ---- products: y = x wT ---- */

typedef enum {
    CU_MAP_ROWS,   /* one matrix; tokens are the launch's rows */
    CU_MAP_LOGITS, /* one matrix; tokens are the rows with logits */
    CU_MAP_HEADS,  /* group g reads x at g * x_group and writes y at g * y_group */
    CU_MAP_IN,     /* experts: token = part / parts_per_row, y row = part */
    CU_MAP_OUT,    /* experts: x row = y row = part, scaled by its weight */
} cu_mm_map;

typedef enum {
    CU_STORE_F32,
    CU_STORE_ACT,
    CU_STORE_SILU,
    CU_STORE_RELU2, /* 0.5 relu(y)^2, in act */
    CU_STORE_QUERY, /* queries as from cu_mla_query, without a y; bfloat16 only */
} cu_mm_store;

typedef struct {
    uint32_t group, first,
        n; /* parts order[first, first + n) all of one group, n <= CU_TILE_ROWS */
} cu_moe_tile;

/* The router's choice, filled by cu_moe_route and cu_moe_group. A part is one row in one group:
 * part = row * parts_per_row + k; k < top_k are the picked experts, the others the always-on groups
 * n_experts, n_experts + 1, … */
typedef struct {
    uint32_t n_experts, top_k, n_shared_groups, parts_per_row;
    uint16_t no_output; /* row flags: such a row has no parts */
    uint32_t *pick;     /* [rows][top_k] */
    float *weight;      /* [rows][top_k] */
    uint32_t *order;    /* [rows * parts_per_row] parts sorted by group */
    cu_moe_tile *tiles; /* [max_tiles] */
    uint32_t *n_tiles;  /* [1] */
    uint32_t max_tiles;
} cu_moe;

typedef struct {
    const void *desc;
    cu_stamp *stamp;
    cu_mm_map map;
    cu_mm_store store;
    const void *w;                    /* act type [groups][n rounded up to 16][ldw] */
    const void *w_shared;             /* of groups >= moe.n_experts */
    uint64_t w_group, w_shared_group; /* values between groups */
    uint32_t ldw, ldw_shared;
    const void *x;
    void *y;
    uint32_t ldx, x_group, ldy, y_group;
    uint32_t n, k;   /* outputs; k a multiple of CU_K_STEP. SILU: n rows of gate and up,
                        8 and 8 in turn, give n / 2 outputs */
    uint32_t n_all;  /* outputs of all ranks, n of them here: the order of sums follows from it;
                        0: n */
    uint32_t groups; /* HEADS */
    cu_moe moe;
    cu_query_args query; /* QUERY: all but in, ld_in, desc and stamp; n_heads * nope is even */
    /* How weights stay in the second-level cache: the first keep_rows rows (a multiple of
     * CU_MM_ROWS) of each matrix stay as long as possible, except routed experts' matrices: with
     * pass_experts these leave first. */
    uint32_t keep_rows;
    bool pass_experts;
    uint32_t fillings; /* of tokens in shared memory: set by cu_mm */
} cu_mm_args;
/* Maps and stores go together as ROWS with F32, SILU, RELU2 and QUERY, LOGITS with F32, HEADS with
 * ACT, IN with SILU, OUT with F32; others are cudaErrorInvalidValue. */
/* `rows`: capacity in tokens (MAP_IN, MAP_OUT: in launch rows); max_blocks: most thread blocks
 * worth starting at once. */
cudaError_t cu_mm(cudaStream_t stream, const cu_mm_args *args, uint32_t rows, uint32_t max_blocks,
                  bool f32);
/* y[r][i] = silu(gate) * up for x [rows][2 * n] in the 8-and-8 layout, both bfloat16. */
cudaError_t cu_silu(cudaStream_t stream, const void *desc, const void *x, void *y, uint32_t n,
                    uint32_t rows, cu_stamp *stamp);
/* y[r][i] = 0.5 relu(x)^2 for x [rows][n], n a multiple of 8. */
cudaError_t cu_relu2(cudaStream_t stream, const void *desc, const void *x, void *y, uint32_t n,
                     uint32_t rows, cu_stamp *stamp);

/* ---- columns of several ranks ---- */

/* Every rank's parcel holds its columns of the lines, one line behind the other. Copies them to
 * their places in `to`. */
typedef struct {
    cu_stamp *stamp;
    const void *parcels;   /* of rank r from r * parcel_bytes on */
    uint64_t parcel_bytes; /* a multiple of 16 */
    void *to;              /* [lines][ld] items */
    uint32_t lines, ld, item_bytes, ranks;
    uint32_t first[CU_MAX_RANKS + 1]; /* column of rank r; behind the last rank, of all */
} cu_spread_args;
/* Waits for the whole of what is queued before it, a library's kernels too. */
cudaError_t cu_spread(cudaStream_t stream, const cu_spread_args *args);

/* to [rows][width] = the sum of parts [rows][n_parts][width] in their order; with an x [rows][ldx]
 * its columns from `first` on stand before the parts. */
typedef struct {
    const void *desc;
    cu_stamp *stamp;
    const float *parts, *x;
    float *to;
    uint32_t n_parts, width, first, ldx;
} cu_join_args;
cudaError_t cu_join_parts(cudaStream_t stream, const cu_join_args *args, uint32_t rows);

/* Sums the parts [rows][n_parts][dim] of a row in their order, and leaves the columns of rank r,
 * line behind line, in parcel r of `to`; those of this rank in `own`. */
typedef struct {
    const void *desc;
    cu_stamp *stamp;
    const float *parts;
    void *to;
    float *own;
    uint64_t parcel_bytes;
    uint32_t n_parts, dim, rank, ranks;
    uint32_t first[CU_MAX_RANKS + 1]; /* column of rank r; behind the last rank, dim */
} cu_deal_args;
cudaError_t cu_deal_parts(cudaStream_t stream, const cu_deal_args *args, uint32_t rows);

/* to [rows][width] = the sum of n parcels [rows][width], in the order given. */
typedef struct {
    const void *desc;
    cu_stamp *stamp;
    const void *parcels;
    uint64_t parcel_bytes;
    float *to;
    uint32_t width, n;
    /* Their numbers. Of a list of bytes ptxas makes a copy in thread-local memory. */
    uint32_t parcel[CU_MAX_RANKS];
} cu_sum_args;
/* Starts as cu_spread does. */
cudaError_t cu_sum_parcels(cudaStream_t stream, const cu_sum_args *args, uint32_t rows);

/* ---- experts ---- */

typedef struct {
    const void *desc;
    cu_stamp *stamp;
    const float *logits; /* [rows][n_experts] */
    const float *bias;   /* [n_experts] */
    cu_moe moe;
} cu_route_args;
cudaError_t cu_moe_route(cudaStream_t stream, const cu_route_args *args, uint32_t rows);
cudaError_t cu_moe_group(cudaStream_t stream, const cu_route_args *args);
/* Both in one kernel, for few rows and no more experts than its registers hold candidates. */
cudaError_t cu_moe_assign(cudaStream_t stream, const cu_route_args *args, uint32_t rows);
enum { CU_ASSIGN_ROWS = 64, CU_ASSIGN_EXPERTS = 256 };

/* ---- the end of a loop: the last sum, LoRA, injection, norm, exit, output ---- */

typedef enum {
    CU_EXIT_ACT,
    CU_EXIT_HAZARD,
    CU_EXIT_LATENT_DIFF,
    CU_EXIT_COSINE,
    CU_EXIT_FIXED
} cu_exit; /* as exit_rule */

/* y = x + parts; with an out_norm x + rms(part; out_norm), or with norm_sum rms(x + part;
 * out_norm). With `inject`, never beside an out_norm, h = A h + B e + y + LoRA(y), else h = y; with
 * a loop_norm h = rms(h; loop_norm). Then the row may leave. */
typedef struct {
    const void *desc;
    cu_stamp *stamp;
    uint32_t dim, n_parts;
    float norm_eps;
    cu_state state;
    float *x;              /* [rows][dim] after the last attention; working memory from here on */
    const float *parts;    /* [rows][n_parts][dim] output of the last feed-forward */
    const float *out_norm; /* with one part; or NULL */
    bool norm_sum, inject;
    uint32_t lora_rank, lora_rows;
    const float *lora_down, *lora_b, *lora_scale; /* [rank][dim], [rank][dim], [lora_rows][rank] */
    const float *inj_a, *inj_b;                   /* [dim] */
    const float *lora_gate;                       /* [lora_rank] from cu_loop_gate */
    float *sums;                                  /* with inject: [rows][cu_loop_sums()] */
    const float *loop_norm;                       /* [dim] or NULL */
    cu_exit exit;
    const float *halt_w; /* [dim], ACT and HAZARD */
    float halt_bias;
    bool weighted; /* out = sum of weight * h (ACT); else h of the loop it leaves after */
} cu_loop_end_args;
/* With inject mix, then leave; then, and without inject alone, row if cu_loop_by_row. */
cudaError_t cu_loop_mix(cudaStream_t stream, const cu_loop_end_args *args, uint32_t rows);
cudaError_t cu_loop_leave(cudaStream_t stream, const cu_loop_end_args *args, uint32_t rows);
bool cu_loop_by_row(const cu_loop_end_args *args);
cudaError_t cu_loop_row(cudaStream_t stream, const cu_loop_end_args *args, uint32_t rows);
uint64_t cu_loop_sums(uint32_t dim, uint32_t lora_rank);
/* to[k] = lora_b[k] halt_w, once: the share of LoRA's row k in the gate's product. lora_rank > 0.
 */
cudaError_t cu_loop_gate(cudaStream_t stream, const float *lora_b, const float *halt_w,
                         uint32_t dim, uint32_t lora_rank, float *to);

/* ---- sampling ---- */

typedef struct {
    const void *desc;
    cu_stamp *stamp;
    const float *logits; /* [rows][vocab] */
    uint32_t vocab;
} cu_sample_args;
/* The choice of eng_sample for each of the descriptor's draws. token UINT32_MAX: NaN, +Inf or
 * nothing to choose. `rows`: capacity in draws. */
cudaError_t cu_sample(cudaStream_t stream, const cu_sample_args *args, uint32_t rows);

/* Once per process and device: lets kernels use more shared memory than 48 KiB, and lets a kernel
 * start before its predecessor has ended if the device can (compute capability 9.0 and later,
 * unless FATHOM_CUDA_OVERLAP=0 is in the environment). */
cudaError_t cu_kernels_setup(int device, uint32_t dim);
/* The kernel that could not be started in this thread, reported once; else NULL. */
const char *cu_failed_kernel(void);

#ifdef __cplusplus
}
#endif
#endif

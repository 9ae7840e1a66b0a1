/* flash.cu - attention of long prompt chunks under MLA over expanded keys and values.
 *
 * The absorbed kernel pays 2 (2 kv_lora + rope) operations for a query and a key; over rebuilt keys
 * and values it is 2 (nope + rope + v), but each key costs 2 kv_lora (nope + v) once per run to
 * rebuild: worth it for many queries (cu_flash_crossover; README).
 *
 * cu_flash_expand rebuilds a piece of each run's context into scratch, every key for all heads;
 * cu_flash_attend runs tiles of 64 queries against tiles of 64 keys; if contexts do not fit the
 * scratch together, both run once per pass and the sums go through memory between passes, bit for
 * bit as they were in registers. Keys are dealt to CU_FLASH_SPLITS splits in turns of
 * CU_FLASH_CHUNK, by position alone; so a row's bits depend neither on the passes nor on any other
 * row. */
#include "engine/cuda/attention.cuh"

enum {
    EXPAND_THREADS = 256,
    EXPAND_STEP = 32,  /* latent values of one step */
    EXPAND_UNIT = 64,  /* outputs of one unit: keys or values of one head */
    EXPAND_UNITS = 4,  /* units of one block */
    EXPAND_TILES = 32, /* tiles of keys with a block started for them */
    EXPAND_LD = EXPAND_STEP + 8,
    KEY_UNIT_LD = EXPAND_UNIT + 8,
    UNIT_VALUES = EXPAND_UNIT * EXPAND_LD, /* the larger of [64][40] and [32][72] */
    FLASH_THREADS = 128,
    MERGE_THREADS = 128,
    CHUNK_TILES = CU_FLASH_CHUNK / CU_ATTN_KEYS,
};

static __host__ __device__ __forceinline__ uint32_t to16(uint32_t n) {
    return (n + 15) / 16 * 16;
}

static __device__ __forceinline__ const cu_piece *pieces_of(const void *desc, cu_pass p) {
    return (const cu_piece *)((const char *)desc + head_of(desc)->pieces) + p.first;
}
static __device__ __forceinline__ cu_pass pass_of(const void *desc, uint32_t pass) {
    const cu_head *head = head_of(desc);
    cu_pass none = {0, 0};
    return pass < head->n_passes ? ((const cu_pass *)((const char *)desc + head->passes))[pass]
                                 : none;
}
static __device__ __forceinline__ cu_run run_of(const void *desc, const cu_piece &piece) {
    return ((const cu_run *)((const char *)desc + head_of(desc)->runs))[piece.run];
}
/* Keys end here for the rows that end with `last`. */
static __device__ __forceinline__ uint32_t piece_end(const cu_piece &piece, const cu_row &last) {
    uint32_t end = piece.key + piece.n_keys;
    return end < last.pos + 1 ? end : last.pos + 1;
}

/* ---- expansion: [128 keys][latent] times the weights of one head's keys or values ---- */

struct expand_unit { /* 64 outputs; of keys the weights are [latent][output], of values
                        [output][latent] */
    uint32_t head, n0;
    bool keys, there;
};
static __host__ __device__ __forceinline__ uint32_t units_per_head(const cu_flash_args &args) {
    return (args.nope + EXPAND_UNIT - 1) / EXPAND_UNIT + (args.v + EXPAND_UNIT - 1) / EXPAND_UNIT;
}
static __device__ __forceinline__ expand_unit unit_get(const cu_flash_args &args, uint32_t i) {
    uint32_t per = units_per_head(args), of_keys = (args.nope + EXPAND_UNIT - 1) / EXPAND_UNIT;
    uint32_t j = i % per;
    expand_unit unit;
    unit.head = i / per;
    unit.keys = j < of_keys;
    unit.n0 = (unit.keys ? j : j - of_keys) * EXPAND_UNIT;
    unit.there = unit.head < args.n_heads;
    return unit;
}

struct expand_shared {
    uint32_t slots[CU_FLASH_KEYS];
    expand_unit units[EXPAND_UNITS];
    bf16 c[2][CU_FLASH_KEYS * EXPAND_LD];
    bf16 w[2][EXPAND_UNITS][UNIT_VALUES];
};

static_assert(sizeof(expand_unit) * EXPAND_UNITS % 16 == 0, "what follows is read in 16 bytes");

static __device__ __forceinline__ void copy_or_zero(bf16 *to, const bf16 *from, bool there) {
    vec16 zero = {{0, 0, 0, 0}};
    if (there) copy_async(to, from);
    else *(vec16 *)to = zero;
}

/* Latent values [l0, l0 + 32) of 128 keys, and the same of the block's weights. */
static __device__ __forceinline__ void expand_load(const cu_flash_args &args, expand_shared *sh,
                                                   uint32_t buffer, uint32_t l0) {
    const bf16 *pool = (const bf16 *)args.cache.slots + l0;
    for (uint32_t i = threadIdx.x; i < CU_FLASH_KEYS * EXPAND_STEP / 8; i += EXPAND_THREADS) {
        uint32_t key = i / (EXPAND_STEP / 8), c = i % (EXPAND_STEP / 8) * 8, slot = sh->slots[key];
        bool there = slot != RM_NO_SLOT;
        copy_or_zero(sh->c[buffer] + key * EXPAND_LD + c,
                     pool + (there ? (uint64_t)slot * args.cache.slot_values : 0) + c, there);
    }
    const uint32_t vecs = EXPAND_UNIT * EXPAND_STEP / 8;
    for (uint32_t i = threadIdx.x; i < EXPAND_UNITS * vecs; i += EXPAND_THREADS) {
        const expand_unit &unit = sh->units[i / vecs];
        bf16 *to = sh->w[buffer][i / vecs];
        if (!unit.there) continue;
        if (unit.keys) {
            uint32_t l = i % vecs / (EXPAND_UNIT / 8), n = i % (EXPAND_UNIT / 8) * 8;
            bool there = unit.n0 + n < args.uk_ld;
            const bf16 *weights = (const bf16 *)args.uk + unit.head * args.uk_head;
            copy_or_zero(to + l * KEY_UNIT_LD + n,
                         weights + (there ? (uint64_t)(l0 + l) * args.uk_ld + unit.n0 + n : 0),
                         there);
        } else {
            uint32_t n = i % vecs / (EXPAND_STEP / 8), l = i % (EXPAND_STEP / 8) * 8;
            bool there = unit.n0 + n < args.v;
            const bf16 *weights = (const bf16 *)args.uv + unit.head * args.uv_head;
            copy_or_zero(to + n * EXPAND_LD + l,
                         weights + (there ? (uint64_t)(unit.n0 + n) * args.uv_ld + l0 + l : 0),
                         there);
        }
    }
}

/* The rotated keys as they are, once for all heads. */
static __device__ void expand_rope(const cu_flash_args &args, const expand_shared *sh,
                                   uint32_t at) {
    uint32_t ld = to16(args.rope), vecs = ld / 8;
    for (uint32_t i = threadIdx.x; i < CU_FLASH_KEYS * vecs; i += EXPAND_THREADS) {
        uint32_t key = i / vecs, c = i % vecs * 8, slot = sh->slots[key];
        vec16 vec = {{0, 0, 0, 0}};
        if (slot != RM_NO_SLOT && c < args.rope) {
            vec = *(const vec16 *)((const bf16 *)args.cache.slots +
                                   (uint64_t)slot * args.cache.slot_values + args.kv_lora + c);
        }
        *(vec16 *)((bf16 *)args.k_rope + (uint64_t)(at + key) * ld + c) = vec;
    }
}

/* One warp: 32 keys times two units. */
static __device__ __forceinline__ void expand_step(const expand_shared *sh, uint32_t buffer,
                                                   uint32_t key0, uint32_t unit0,
                                                   const expand_unit units[2],
                                                   float acc[2][2][8][4]) {
    uint32_t lane = threadIdx.x & 31, a_row = lane & 15, a_col = lane >> 4 << 3;
    uint32_t b_row = (lane & 7) + (lane >> 4 << 3), b_col = (lane >> 3 & 1) << 3;
#pragma unroll
    for (uint32_t k = 0; k < EXPAND_STEP; k += 16) {
        uint32_t f[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) {
            load_matrices(f[m], sh->c[buffer] + (key0 + m * 16 + a_row) * EXPAND_LD + k + a_col);
        }
#pragma unroll
        for (int u = 0; u < 2; u++) {
            const bf16 *weights = sh->w[buffer][unit0 + u];
            if (!units[u].there) continue; /* whole warps */
#pragma unroll
            for (int n = 0; n < 4; n++) {
                uint32_t b[4];
                if (units[u].keys)
                    load_matrices_t(b, weights + (k + a_row) * KEY_UNIT_LD + n * 16 + a_col);
                else load_matrices(b, weights + (n * 16 + b_row) * EXPAND_LD + k + b_col);
#pragma unroll
                for (int m = 0; m < 2; m++) {
                    mma_bf16(acc[m][u][2 * n], f[m][0], f[m][1], f[m][2], f[m][3], b[0], b[1]);
                    mma_bf16(acc[m][u][2 * n + 1], f[m][0], f[m][1], f[m][2], f[m][3], b[2], b[3]);
                }
            }
        }
    }
}

/* Columns up to the next multiple of 16 are written: zeros, as the weights are there. */
static __device__ __forceinline__ void expand_store(const cu_flash_args &args, uint32_t at,
                                                    const expand_unit &unit, int m,
                                                    const float acc[8][4]) {
    uint32_t lane = threadIdx.x & 31, ld = to16(unit.keys ? args.nope : args.v);
    bf16 *to = (bf16 *)(unit.keys ? args.k : args.values) + (uint64_t)unit.head * args.keys * ld;
#pragma unroll
    for (int n = 0; n < 8; n++) {
        uint32_t c = unit.n0 + n * 8 + 2 * (lane & 3);
        if (c >= ld) continue;
        uint64_t row = at + m * 16 + (lane >> 2);
        *(uint32_t *)(to + row * ld + c) = narrow_pair(acc[n][0], acc[n][1]);
        *(uint32_t *)(to + (row + 8) * ld + c) = narrow_pair(acc[n][2], acc[n][3]);
    }
}

/* The keys of one tile of the scratch: first position, end, and first row of their run. */
struct expand_tile {
    uint32_t key0, end;
    const cu_row *row;
};

/* False if no piece of the pass has scratch keys [at, at + 128), or its rows have gone. */
static __device__ __forceinline__ bool expand_find(const cu_flash_args &args, cu_pass pass,
                                                   uint32_t at, expand_tile *tile) {
    const cu_piece *piece = pieces_of(args.desc, pass);
    uint32_t i = 0;
    while (i < pass.n && at >= piece[i].at + piece[i].n_keys)
        i++; /* pieces stand in the order of the scratch, each from a multiple of 128 on */
    if (i == pass.n) return false;
    cu_run run = run_of(args.desc, piece[i]);
    if (run.n == 0) return false;
    tile->row = rows_of(args.desc) + run.first;
    tile->key0 = piece[i].key + (at - piece[i].at);
    tile->end = piece_end(piece[i], tile->row[run.n - 1]);
    return tile->key0 < tile->end;
}

/* 128 keys, and 4 units of outputs (mythos_1b: two heads). 8 warps, 4 along the keys by 2 along the
 * units. All 128 keys are written, zeros for missing keys: weight 0 times old memory could be NaN.
 */
static __device__ __forceinline__ void expand_block(const cu_flash_args &args, expand_shared *sh,
                                                    const expand_tile &tile, uint32_t at) {
    uint32_t plane = args.plane + (args.by_loop ? tile.row->loop : 0);
    const uint32_t *table = tables_of(args.desc) + tile.row->table;
    for (uint32_t k = threadIdx.x; k < CU_FLASH_KEYS; k += EXPAND_THREADS)
        sh->slots[k] = slot_of(args.desc, args.cache, table, plane, tile.key0 + k, tile.end);
    if (threadIdx.x < EXPAND_UNITS)
        sh->units[threadIdx.x] = unit_get(args, blockIdx.y * EXPAND_UNITS + threadIdx.x);
    __syncthreads(); /* and the tile before has been used */
    uint32_t warp = threadIdx.x >> 5;
    uint32_t my_key = (warp & 3) * 32, my_unit = (warp >> 2) * 2;
    expand_unit units[2] = {sh->units[my_unit], sh->units[my_unit + 1]};
    if (blockIdx.y == 0) expand_rope(args, sh, at);
    float acc[2][2][8][4] = {};
    expand_load(args, sh, 0, 0);
    for (uint32_t l0 = 0, buffer = 0; l0 < args.kv_lora; l0 += EXPAND_STEP, buffer ^= 1) {
        copies_wait();
        __syncthreads(); /* this step is here; the other buffer has been used */
        if (l0 + EXPAND_STEP < args.kv_lora) expand_load(args, sh, buffer ^ 1, l0 + EXPAND_STEP);
        expand_step(sh, buffer, my_key, my_unit, units, acc);
    }
#pragma unroll
    for (int u = 0; u < 2; u++) {
        if (!units[u].there) continue;
#pragma unroll
        for (int m = 0; m < 2; m++)
            expand_store(args, at + my_key, units[u], m, acc[m][u]);
    }
}

/* Blocks take tiles of the scratch in turn, as the scratch is mostly empty. */
static __global__ void __launch_bounds__(EXPAND_THREADS, 1)
    flash_expand(cu_flash_args args, uint32_t pass) {
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    cu_pass ps = pass_of(args.desc, pass);
    expand_tile tile;
    for (uint32_t at = blockIdx.x * CU_FLASH_KEYS; at < args.keys;
         at += gridDim.x * CU_FLASH_KEYS) {
        if (expand_find(args, ps, at, &tile)) expand_block(args, (expand_shared *)shared, tile, at);
    }
}

/* ---- attention ---- */

struct flash_shared { /* offsets in bytes; two tiles of keys and values */
    uint32_t q, k, v, bytes, ld_k, ld_v;
};
static __host__ __device__ __forceinline__ flash_shared flash_layout(const cu_flash_args &args) {
    flash_shared layout;
    layout.ld_k = to16(args.nope) + to16(args.rope) + 8; /* odd multiples of 16 bytes */
    layout.ld_v = to16(args.v) + 8;
    layout.k = 0;
    layout.v = layout.k + 2 * CU_ATTN_KEYS * layout.ld_k * 2;
    layout.q = layout.v + 2 * CU_ATTN_KEYS * layout.ld_v * 2;
    layout.bytes = layout.q + CU_FLASH_QUERIES * layout.ld_k * 2;
    return layout;
}

/* The thread block's tile of queries and its keys in this pass. */
struct flash_block {
    cu_piece piece;
    uint32_t row, n, head, split; /* launch rows [row, row + n) */
    uint32_t first, end;          /* key tiles, counted from position 0 */
};

/* The first tile of this split from `tile` on. */
static __device__ __forceinline__ uint32_t next_tile(uint32_t tile, uint32_t split) {
    uint32_t turn = tile / CHUNK_TILES,
             away = (split + CU_FLASH_SPLITS - turn % CU_FLASH_SPLITS) % CU_FLASH_SPLITS;
    return away ? (turn + away) * CHUNK_TILES : tile;
}

/* False if there is nothing to do. */
static __device__ __forceinline__ bool flash_find(const cu_flash_args &args, uint32_t pass,
                                                  flash_block *block) {
    cu_pass ps = pass_of(args.desc, pass);
    const cu_piece *piece = pieces_of(args.desc, ps);
    uint32_t i = 0;
    while (i < ps.n && blockIdx.x >= piece[i].tile + piece[i].n_tiles)
        i++;
    if (i == ps.n) return false;
    block->piece = piece[i];
    cu_run run = run_of(args.desc, block->piece);
    /* The last tile sees most keys: it goes first. */
    uint32_t at = (block->piece.n_tiles - 1 - (blockIdx.x - block->piece.tile)) * CU_FLASH_QUERIES;
    if (at >= run.n) return false;
    block->row = run.first + at;
    block->n = run.n - at < CU_FLASH_QUERIES ? run.n - at : (uint32_t)CU_FLASH_QUERIES;
    block->head = blockIdx.y;
    block->split = blockIdx.z;
    uint32_t end = piece_end(block->piece, rows_of(args.desc)[block->row + block->n - 1]);
    block->first = next_tile(block->piece.key / CU_ATTN_KEYS, block->split);
    block->end = (end + CU_ATTN_KEYS - 1) / CU_ATTN_KEYS;
    return block->first < block->end;
}

static __device__ __forceinline__ void
flash_load_queries(const cu_flash_args &args, const flash_block &block, bf16 *qs, uint32_t ld) {
    uint32_t nope = to16(args.nope), vecs = (nope + to16(args.rope)) / 8;
    for (uint32_t i = threadIdx.x; i < CU_FLASH_QUERIES * vecs; i += FLASH_THREADS) {
        uint32_t r = i / vecs, c = i % vecs * 8;
        uint64_t head = (uint64_t)(block.row + r) * args.n_heads + block.head;
        vec16 vec = {{0, 0, 0, 0}};
        if (r < block.n && c < nope) {
            vec = *(const vec16 *)((const bf16 *)args.q_nope + head * args.nope_ld + c);
        } else if (r < block.n && c - nope < args.rope) {
            vec = *(const vec16 *)((const bf16 *)args.q + head * (args.kv_lora + args.rope) +
                                   args.kv_lora + c - nope);
        }
        *(vec16 *)(qs + r * ld + c) = vec;
    }
}

/* 64 rows of n values, 8 threads to a row. */
static __device__ __forceinline__ void copy_rows(bf16 *to, uint32_t ld, const bf16 *from,
                                                 uint32_t n) {
#pragma unroll
    for (uint32_t i = 0; i < CU_ATTN_KEYS; i += FLASH_THREADS / 8) {
        uint32_t row = i + (threadIdx.x >> 3);
        for (uint32_t c = (threadIdx.x & 7) * 8; c < n; c += 64)
            copy_async(to + row * ld + c, from + (uint64_t)row * n + c);
    }
}

/* 64 expanded keys and values of key tile `tile`, on their way. */
static __device__ __forceinline__ void flash_load_keys(const cu_flash_args &args,
                                                       const flash_block &block, uint32_t tile,
                                                       bf16 *ks, bf16 *vs, const flash_shared &at) {
    uint32_t nope = to16(args.nope), rope = to16(args.rope), v = to16(args.v);
    uint64_t from = block.piece.at + (tile * CU_ATTN_KEYS - block.piece.key);
    const bf16 *k = (const bf16 *)args.k + ((uint64_t)block.head * args.keys + from) * nope;
    const bf16 *r = (const bf16 *)args.k_rope + from * rope;
    const bf16 *values = (const bf16 *)args.values + ((uint64_t)block.head * args.keys + from) * v;
    copy_rows(ks, at.ld_k, k, nope);
    copy_rows(ks + nope, at.ld_k, r, rope);
    copy_rows(vs, at.ld_v, values, v);
}

/* The place of row r's sums of one split between passes, and for the merge. */
static __device__ __forceinline__ uint64_t flash_part(const cu_flash_args &args, uint32_t row,
                                                      uint32_t split, uint32_t head) {
    return ((uint64_t)row * CU_FLASH_SPLITS + split) * args.n_heads + head;
}

/* This warp's sums of rows g and g + 8 from q0 on, to memory or back. */
template <int VT, bool OUT>
static __device__ __forceinline__ void
flash_sums(const cu_flash_args &args, const flash_block &block, uint32_t q0, warp_sums<VT> &sum) {
    uint32_t lane = threadIdx.x & 31, q2 = (lane & 3) * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint32_t r = q0 + (lane >> 2) + 8 * half;
        if (r >= block.n) continue;
        uint64_t part = flash_part(args, block.row + r, block.split, block.head);
        float *ml = args.part_ml + part * 2, *o = args.part_o + part * args.v;
        if (!OUT) {
            sum.m[half] = ml[0];
            sum.l[half] = ml[1];
        } else if (q2 == 0) {
            ml[0] = sum.m[half];
            ml[1] = sum.l[half];
        }
#pragma unroll
        for (int i = 0; i < VT; i++) {
            uint32_t c = 8 * i + q2;
            for (int j = 0; j < 2; j++) {
                if (c + j >= args.v) continue;
                if (OUT) o[c + j] = sum.acc[i][2 * half + j];
                else sum.acc[i][2 * half + j] = o[c + j];
            }
        }
    }
}

/* A block: 64 queries of one run, one head, one split. A warp takes 16 queries and all keys.
 * VT: n8 tiles of a value. */
template <int VT>
static __global__ void __launch_bounds__(FLASH_THREADS, VT == 8 ? 3 : 2)
    flash_attend(cu_flash_args args, uint32_t pass) {
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    const flash_shared at = flash_layout(args);
    bf16 *ks = (bf16 *)(shared + at.k), *vs = (bf16 *)(shared + at.v),
         *qs = (bf16 *)(shared + at.q);
    uint32_t k_tile = CU_ATTN_KEYS * at.ld_k, v_tile = CU_ATTN_KEYS * at.ld_v;
    flash_block block;
    if (!flash_find(args, pass, &block)) return;
    uint32_t lane = threadIdx.x & 31, q0 = (threadIdx.x >> 5) * 16;
    uint32_t sees[2] = {0, 0};
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t r = q0 + (lane >> 2) + 8 * half;
        if (r >= block.n) continue;
        cu_row row = rows_of(args.desc)[block.row + r];
        sees[half] = row.flags & args.no_query ? 0 : row.pos + 1;
    }
    uint32_t most = sees[0] > sees[1] ? sees[0] : sees[1];
    for (int with = 4; with < 32; with <<= 1) {
        uint32_t other = __shfl_xor_sync(0xffffffffu, most, with);
        most = most > other ? most : other;
    }
    warp_sums<VT> sum;
    sums_clear(sum);
    if (block.split * CHUNK_TILES < block.piece.key / CU_ATTN_KEYS)
        flash_sums<VT, false>(args, block, q0, sum);
    warp_operands ops;
    ops.q = qs + q0 * at.ld_k;
    ops.ld_q = ops.ld_k = at.ld_k;
    ops.ld_v = at.ld_v;
    ops.k_steps = (to16(args.nope) + to16(args.rope)) / 16;
    ops.v_pieces = to16(args.v) / 16;
    ops.scale = args.scale * LOG2E;
    flash_load_queries(args, block, qs, at.ld_k);
    flash_load_keys(args, block, block.first, ks, vs, at);
    uint32_t buffer = 0;
    for (uint32_t tile = block.first; tile < block.end; buffer ^= 1) {
        uint32_t k0 = tile * CU_ATTN_KEYS, next = next_tile(tile + 1, block.split);
        copies_wait();
        __syncthreads(); /* this tile is here; the other buffer has been used */
        if (next < block.end) {
            flash_load_keys(args, block, next, ks + (buffer ^ 1) * k_tile,
                            vs + (buffer ^ 1) * v_tile, at);
        }
        if (k0 < most) { /* whole warps */
            int32_t see[2] = {(int32_t)(sees[0] - k0), (int32_t)(sees[1] - k0)};
            ops.k = ks + buffer * k_tile;
            ops.v = vs + buffer * v_tile;
            warp_attend<CU_ATTN_KEYS / 8, VT>(sum, ops, see);
        }
        tile = next;
    }
    flash_sums<VT, true>(args, block, q0, sum);
}

/* A warp per row and head: o = the splits' sums over their weights; zeros for rows without
 * a query, as their products go on. */
static __global__ void __launch_bounds__(MERGE_THREADS) flash_merge(cu_flash_args args) {
    kernel_scope scope(args.stamp);
    uint32_t i = blockIdx.x, lane = threadIdx.x & 31;
    uint32_t head = blockIdx.y * (MERGE_THREADS / 32) + (threadIdx.x >> 5);
    if (i >= head_of(args.desc)->n_rows || head >= args.n_heads) return;
    cu_row row = rows_of(args.desc)[i];
    if (!(row.flags & CU_ROW_EXPANDED)) return;
    uint32_t chunks = row.pos / CU_FLASH_CHUNK + 1, used = row.flags & args.no_query ? 0 : chunks;
    if (used > CU_FLASH_SPLITS) used = CU_FLASH_SPLITS;
    float top = -INFINITY, sum = 0.0f, weight[CU_FLASH_SPLITS];
    for (uint32_t s = 0; s < used; s++)
        top = fmaxf(top, args.part_ml[flash_part(args, i, s, head) * 2]);
#pragma unroll
    for (uint32_t s = 0; s < CU_FLASH_SPLITS; s++) {
        const float *ml = args.part_ml + flash_part(args, i, s, head) * 2;
        weight[s] = s < used ? power2(ml[0] - top) : 0.0f; /* key 0 is seen: top is finite */
        if (s < used) sum += ml[1] * weight[s];
    }
    float norm = sum > 0.0f ? 1.0f / sum : 0.0f;
    bf16 *o = (bf16 *)args.o + (uint64_t)i * args.o_ld + head * args.v;
    for (uint32_t c = lane; c < args.v; c += 32) {
        float v = 0.0f;
#pragma unroll
        for (uint32_t s = 0; s < CU_FLASH_SPLITS; s++) {
            if (s < used) v += args.part_o[flash_part(args, i, s, head) * args.v + c] * weight[s];
        }
        narrow(v * norm, &o[c]);
    }
}

/* ---- launchers ---- */

extern "C" bool cu_flash_fits(const cu_flash_args *args, uint32_t shared) {
    return !args->cache.f32 && args->kv_lora % EXPAND_STEP == 0 && args->rope % 8 == 0 &&
           args->cache.slot_values % 8 == 0 && args->v <= 128 && args->nope <= 256 &&
           args->rope <= 128 && flash_layout(*args).bytes <= shared &&
           sizeof(expand_shared) <= shared;
}

/* The number at which both cost equal operations, plus a quarter for other costs: expanded keys go
 * to memory and back, tiles of queries are filled up to 16, three more kernels start. From the
 * shapes alone; the kernel benchmark measures both sides. */
extern "C" uint32_t cu_flash_crossover(const cu_flash_args *args) {
    uint32_t absorbed = 2 * args->kv_lora + args->rope,
             expanded = args->nope + args->rope + args->v;
    if (absorbed <= expanded) return UINT32_MAX;
    uint64_t rebuild = (uint64_t)args->kv_lora * (args->nope + args->v);
    return (uint32_t)(rebuild * 5 / 4 / (absorbed - expanded) + 15) / 16 * 16;
}

extern "C" uint64_t cu_flash_key_bytes(const cu_flash_args *args) {
    return 2 * ((uint64_t)args->n_heads * (to16(args->nope) + to16(args->v)) + to16(args->rope));
}

extern "C" cudaError_t cu_flash_expand(cudaStream_t stream, const cu_flash_args *args,
                                       uint32_t pass) {
    uint32_t tiles = args->keys / CU_FLASH_KEYS;
    dim3 grid(tiles < EXPAND_TILES ? tiles : (uint32_t)EXPAND_TILES,
              cu_ceil_div(args->n_heads * units_per_head(*args), EXPAND_UNITS));
    return LAUNCH(flash_expand, grid, EXPAND_THREADS, sizeof(expand_shared), stream, *args, pass);
}

extern "C" cudaError_t cu_flash_attend(cudaStream_t stream, const cu_flash_args *args,
                                       uint32_t pass, uint32_t tiles) {
    dim3 grid(tiles, args->n_heads, CU_FLASH_SPLITS);
    uint32_t bytes = flash_layout(*args).bytes;
    if (args->v <= 64)
        return LAUNCH(flash_attend<8>, grid, FLASH_THREADS, bytes, stream, *args, pass);
    return LAUNCH(flash_attend<16>, grid, FLASH_THREADS, bytes, stream, *args, pass);
}

extern "C" cudaError_t cu_flash_merge(cudaStream_t stream, const cu_flash_args *args,
                                      uint32_t rows) {
    dim3 grid(rows, cu_ceil_div(args->n_heads, MERGE_THREADS / 32));
    return LAUNCH(flash_merge, grid, MERGE_THREADS, 0, stream, *args);
}

extern "C" cudaError_t cu_flash_setup(int most) {
    const cudaFuncAttribute shared = cudaFuncAttributeMaxDynamicSharedMemorySize;
    cudaError_t rc = cudaFuncSetAttribute(flash_expand, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(flash_attend<8>, shared, most);
    if (rc == cudaSuccess) rc = cudaFuncSetAttribute(flash_attend<16>, shared, most);
    return rc;
}

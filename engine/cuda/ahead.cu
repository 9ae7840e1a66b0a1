/* ahead.cu - how a launch begins: it takes its descriptor, applies its map edits, and settles the
 * rows that depend on an earlier launch.
 *
 * The host has the descriptor copied to one of two places in device memory, in turn, while the
 * launch before still runs (launch.c). `turn` on the device names the place in use, so one captured
 * graph with fixed addresses serves both. A descriptor of up to FRONT bytes, as decode with few
 * rows has, comes with the first read, and one thread block does all.
 *
 * A launch started while another is in flight does not know the rows halting in the earlier one.
 * The halted flags of the row states are final by the time it runs, so the descriptor is settled
 * here, once: every kernel behind this one reads true counts. */
#include "engine/cuda/common.cuh"

enum {
    THREADS = 256,
    HELPERS = 16, /* thread blocks besides the first */
    FRONT = CU_FRONT,
    FRONT_VECS = FRONT / 16,
    HEAD_VECS = sizeof(cu_head) / 16,
    BATCH = 8, /* accesses of a thread that are on their way together */
    WORDS = CU_MAX_LAUNCH / 32
};
static_assert(FRONT_VECS == THREADS && sizeof(cu_head) % 16 == 0 && sizeof(cu_edit) == 16,
              "a thread fetches one access of the front, and an edit with one");

/* 16 bytes written by the copy engine, not through the first-level cache. */
static __device__ __forceinline__ vec16 fetch(const void *from, uint32_t i) {
    const vec16 *p = (const vec16 *)from + i;
#ifdef __CUDA_ARCH__
    vec16 vec;
    asm volatile("ld.global.cg.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(vec.w[0]), "=r"(vec.w[1]), "=r"(vec.w[2]), "=r"(vec.w[3])
                 : "l"(p));
    return vec;
#else
    return *p;
#endif
}

/* Accesses [first, end) of the descriptor, by n threads; this thread is number `me`. */
static __device__ void copy_span(void *to, const void *from, uint32_t first, uint32_t end,
                                 uint32_t me, uint32_t n) {
    for (uint32_t at = first + me; at < end; at += BATCH * n) {
        vec16 vec[BATCH];
#pragma unroll
        for (uint32_t k = 0; k < BATCH; k++) {
            if (at + k * n < end) vec[k] = fetch(from, at + k * n);
        }
#pragma unroll
        for (uint32_t k = 0; k < BATCH; k++) {
            if (at + k * n < end) ((vec16 *)to)[at + k * n] = vec[k];
        }
    }
}

/* ---- edits ---- */

/* Planes first, first + step, ... of one edit. */
static __device__ __forceinline__ void edit_map(const cu_begin_args &args, const cu_edit &edit,
                                                uint32_t first, uint32_t step) {
    uint32_t end = edit.plane + (uint32_t)edit.n_planes;
    if (edit.block >= args.cache.n_blocks || end > args.cache.n_planes)
        return; /* refused by the host */
    if (edit.guard != CU_NO_GUARD && args.halted[edit.guard]) return;
    uint32_t *map = args.cache.maps + (uint64_t)edit.block * args.cache.n_planes * 32 + edit.off;
    for (uint32_t p = edit.plane + first; p < end; p += step)
        map[(uint64_t)p * 32] = edit.slot;
}

/* Edits apply in order if some set the same entry, by one thread block: all entries of a plane fall
 * to one thread. */
static __device__ void edit_in_order(const cu_begin_args &args, const void *from, uint32_t n,
                                     vec16 *batch) {
    for (uint32_t first = 0; first < n; first += THREADS) {
        uint32_t left = n - first < THREADS ? n - first : (uint32_t)THREADS;
        __syncthreads(); /* the last batch has been read */
        if (threadIdx.x < left) batch[threadIdx.x] = fetch(from, first + threadIdx.x);
        __syncthreads();
        for (uint32_t i = 0; i < left; i++) {
            cu_edit edit = ((const cu_edit *)batch)[i];
            edit_map(args, edit, (threadIdx.x + THREADS - edit.plane % THREADS) % THREADS, THREADS);
        }
    }
}

/* A thread an edit, as no two set the same entry; get(i) is edit i as 16 bytes. */
template <typename F>
static __device__ __forceinline__ void edit_at_once(const cu_begin_args &args, uint32_t n,
                                                    uint32_t me, uint32_t threads, F get) {
    for (uint32_t i = me; i < n; i += threads) {
        vec16 vec = get(i);
        cu_edit edit;
        memcpy(&edit, &vec, sizeof edit);
        edit_map(args, edit, 0, 1);
    }
}

/* ---- rows that are left out ---- */

/* A set of at most CU_MAX_LAUNCH items as bits, and how many stand before each word. */
struct kept_set {
    uint32_t bits[WORDS], before[WORDS];
};

static __device__ __forceinline__ uint32_t kept_before(const kept_set *kept, uint32_t i) {
    return kept->before[i >> 5] + (uint32_t)__popc(kept->bits[i >> 5] & ((1u << (i & 31)) - 1));
}

/* Counts kept->bits of n items (bits beyond them are 0) into kept->before. Returns how many there
 * are, in every thread. Begins and ends with a barrier. */
static __device__ uint32_t count_kept(kept_set *kept, uint32_t n, uint32_t *total) {
    uint32_t words = n / 32 + 1; /* one beyond the last item has a place too */
    __syncthreads();
    for (uint32_t w = threadIdx.x; w < words && w < WORDS; w += THREADS) {
        uint32_t sum = 0; /* few words: a launch of 512 rows has 17 */
        for (uint32_t v = 0; v < w; v++)
            sum += (uint32_t)__popc(kept->bits[v]);
        kept->before[w] = sum;
        if (w + 1 == words || w + 1 == WORDS) *total = sum + (uint32_t)__popc(kept->bits[w]);
    }
    __syncthreads();
    return *total;
}

/* The items of `list` that are kept, moved together in order. Items move down only, and each round
 * has read the items it overwrites. */
template <typename T> static __device__ void compact(T *list, uint32_t n, const kept_set *kept) {
    for (uint32_t base = 0; base < n; base += THREADS) {
        uint32_t i = base + threadIdx.x;
        bool keep = i < n && kept->bits[i >> 5] >> (i & 31) & 1u;
        T item;
        if (keep) item = list[i];
        __syncthreads();
        if (keep) list[kept_before(kept, i)] = item;
    }
}

/* False: the row is left out. Else its flags become final: tail or not. */
static __device__ bool settle(cu_row *row, const uint8_t *halted) {
    if (row->flags & CU_ROW_GUARDED && halted[row->guard]) return false;
    if (!(row->flags & CU_ROW_OR_TAIL) || row->flags & CU_ROW_TAIL) return true;
    if (halted[row->row]) row->flags |= CU_ROW_TAIL;
    else row->flags &= (uint16_t)~CU_ROW_KV_ONLY; /* it holds for the tail only */
    return true;
}

/* Launch rows [first, first + n), n > 0, once the dropped rows have gone. */
static __device__ __forceinline__ void shrink(const kept_set *rows, uint32_t *first, uint32_t *n) {
    uint32_t last = *first + *n - 1;
    *first = kept_before(rows, *first);
    *n = kept_before(rows, last) + (rows->bits[last >> 5] >> (last & 31) & 1u) - *first;
}

/* One thread block. Tiles and runs shrink to their kept rows; they are not joined anew. Pieces name
 * runs by number, so runs keep their numbers and one may be left without rows. */
static __device__ void admit(void *desc, const uint8_t *halted, unsigned char *shared) {
    kept_set *row_set = (kept_set *)shared, *tile_set = row_set + 1;
    uint32_t *total = (uint32_t *)(tile_set + 1);
    cu_head *head = (cu_head *)desc;
    cu_row *rows = (cu_row *)((char *)desc + head->rows);
    cu_tile *tiles = (cu_tile *)((char *)desc + head->tiles);
    uint32_t n_rows = head->n_rows, n_tiles = head->n_tiles, lane = threadIdx.x & 31;
    for (uint32_t i = threadIdx.x; i < WORDS; i += THREADS)
        row_set->bits[i] = tile_set->bits[i] = 0;
    __syncthreads();
    for (uint32_t base = 0; base < n_rows; base += THREADS) {
        uint32_t i = base + threadIdx.x;
        bool keep = false;
        if (i < n_rows) {
            cu_row row = rows[i];
            keep = settle(&row, halted);
            if (keep) rows[i].flags = row.flags;
        }
        uint32_t bits = __ballot_sync(0xffffffffu, keep);
        if (lane == 0) row_set->bits[i >> 5] = bits;
    }
    uint32_t rows_kept = count_kept(row_set, n_rows, total);
    compact(rows, n_rows, row_set);
    for (uint32_t base = 0; base < n_tiles; base += THREADS) {
        uint32_t i = base + threadIdx.x;
        bool keep = false;
        if (i < n_tiles) {
            shrink(row_set, &tiles[i].first, &tiles[i].n);
            keep = tiles[i].n > 0;
        }
        uint32_t bits = __ballot_sync(0xffffffffu, keep);
        if (lane == 0) tile_set->bits[i >> 5] = bits;
    }
    cu_run *runs = (cu_run *)((char *)desc + head->runs);
    for (uint32_t i = threadIdx.x; i < head->n_runs; i += THREADS)
        shrink(row_set, &runs[i].first, &runs[i].n);
    uint32_t tiles_kept = count_kept(tile_set, n_tiles, total);
    compact(tiles, n_tiles, tile_set);
    if (threadIdx.x != 0) return;
    head->n_rows = rows_kept;
    head->n_tiles = tiles_kept;
}

/* ---- the kernel ---- */

/* The last thread block to read the turn ends it. */
static __device__ void end_turn(uint32_t *turn) {
    if (threadIdx.x != 0 || atomicAdd(&turn[1], 1u) != HELPERS) return;
    turn[0]++;
    turn[1] = 0;
}

/* The first thread block: head, rows, tiles and runs, and the rows left out. */
static __device__ void begin_rows(const cu_begin_args &args, const cu_head &head, const void *came,
                                  const vec16 *front, unsigned char *shared) {
    uint32_t bytes = head.bytes <= FRONT ? head.bytes : head.edits, t = threadIdx.x;
    if (t < bytes / 16) ((vec16 *)args.desc)[t] = front[t];
    copy_span(args.desc, came, FRONT_VECS, bytes / 16, t, THREADS);
    if (head.n_runs && head.bytes > FRONT)
        copy_span(args.desc, came, head.runs / 16, (head.pieces + 15) / 16, t, THREADS);
    __syncthreads(); /* of the edits too: their batch is read no more */
    if (head.ahead) admit(args.desc, args.halted, shared);
}

/* The other thread blocks of a launch larger than the front: edits, and the parts that are only
 * copied. */
static __device__ void begin_rest(const cu_begin_args &args, const cu_head &head, const void *came,
                                  vec16 *batch) {
    uint32_t me = (blockIdx.x - 1) * THREADS + threadIdx.x, n = HELPERS * THREADS;
    uint32_t end = head.bytes / 16, runs = head.n_runs ? head.runs / 16 : end;
    const void *edits = (const char *)came + head.edits;
    if (!head.in_order)
        edit_at_once(args, head.n_edits, me, n, [=](uint32_t i) { return fetch(edits, i); });
    else if (blockIdx.x == 1) edit_in_order(args, edits, head.n_edits, batch);
    copy_span(args.desc, came, head.draws / 16, runs, me, n);
    if (head.n_runs) copy_span(args.desc, came, (head.pieces + 15) / 16, end, me, n);
}

static __global__ void __launch_bounds__(THREADS) begin(cu_begin_args args) {
    DYNAMIC_SHARED(shared);
    vec16 *front = (vec16 *)shared, either[2] = {};
    uint32_t t = threadIdx.x, mine = blockIdx.x == 0 ? FRONT_VECS : HEAD_VECS;
    for (int k = 0; k < 2; k++) { /* the stream waits for the copy before it starts a launch */
        if (t < mine) either[k] = fetch(args.came[k], t);
    }
    kernel_scope scope(args.stamp);
    uint32_t turn = args.turn[0] & 1;
    if (t < mine) front[t] = turn ? either[1] : either[0];
    __syncthreads();
    const cu_head head = *(const cu_head *)front;
    const void *came = turn ? args.came[1] : args.came[0];
    if (head.bytes == 0) return; /* none has come */
    end_turn(args.turn);
    if (blockIdx.x > 0) {
        if (head.bytes > FRONT) begin_rest(args, head, came, (vec16 *)(shared + FRONT));
        return;
    }
    if (head.bytes <= FRONT) {
        const vec16 *edits = front + head.edits / 16;
        if (!head.in_order)
            edit_at_once(args, head.n_edits, t, THREADS, [=](uint32_t i) { return edits[i]; });
        else
            edit_in_order(args, (const char *)came + head.edits, head.n_edits,
                          (vec16 *)(shared + FRONT));
    }
    begin_rows(args, head, came, front, shared + FRONT);
}

extern "C" cudaError_t cu_begin(cudaStream_t stream, const cu_begin_args *args) {
    uint32_t bytes = FRONT + 2 * sizeof(kept_set) + 16;
    return LAUNCH(begin, HELPERS + 1, THREADS, bytes, stream, *args);
}

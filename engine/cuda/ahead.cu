/* ahead.cu - how a launch begins: its map edits, and what an earlier launch decided for it.
 *
 * A launch that is started while another is in flight does not know who halts in that one. The
 * halted flags of the row states do by the time it runs, so it is settled here, in the
 * descriptor, once: every kernel behind this one reads true counts and knows nothing of it. */
#include "engine/cuda/common.cuh"

enum { EDIT_BLOCKS = 16, THREADS = 256, WORDS = CU_MAX_LAUNCH / 32 };

/* Edits apply in order. All edits of a cache block fall to one thread block and all entries of
 * a plane to one thread in it, so two edits of one entry meet in one thread. */
static __device__ void edit_maps(const void *desc, const cu_cache &c, const uint8_t *halted) {
    const cu_head *head = head_of(desc);
    const cu_edit *edits = (const cu_edit *)((const char *)desc + head->edits);
    for (uint32_t i = 0; i < head->n_edits; i++) {
        cu_edit e = edits[i];
        if (e.block % EDIT_BLOCKS != blockIdx.x) continue;
        uint32_t end = e.plane + (uint32_t)e.n_planes;
        if (e.block >= c.n_blocks || end > c.n_planes) continue; /* refused by the host already */
        if (e.guard != CU_NO_GUARD && halted[e.guard]) continue;
        uint32_t *map = c.maps + (uint64_t)e.block * c.n_planes * 32 + e.off;
        uint32_t skip = (threadIdx.x + THREADS - e.plane % THREADS) % THREADS;
        for (uint32_t p = e.plane + skip; p < end; p += THREADS)
            map[(uint64_t)p * 32] = e.slot;
    }
}

/* A set of at most CU_MAX_LAUNCH items as bits, and how many stand before each word. */
struct kept_set {
    uint32_t bits[WORDS], before[WORDS];
};

static __device__ __forceinline__ uint32_t kept_before(const kept_set *k, uint32_t i) {
    return k->before[i >> 5] + (uint32_t)__popc(k->bits[i >> 5] & ((1u << (i & 31)) - 1));
}

/* Counts k->bits of n items (bits beyond them are 0) into k->before. Returns how many there are,
 * in every thread. Begins and ends with a barrier. */
static __device__ uint32_t count_kept(kept_set *k, uint32_t n, uint32_t *total) {
    uint32_t words = n / 32 + 1; /* one beyond the last item has a place too */
    __syncthreads();
    for (uint32_t w = threadIdx.x; w < words && w < WORDS; w += THREADS) {
        uint32_t sum = 0; /* few words: a launch of 512 rows has 17 */
        for (uint32_t v = 0; v < w; v++)
            sum += (uint32_t)__popc(k->bits[v]);
        k->before[w] = sum;
        if (w + 1 == words || w + 1 == WORDS) *total = sum + (uint32_t)__popc(k->bits[w]);
    }
    __syncthreads();
    return *total;
}

/* The items of `list` that are kept, moved together in order. Items move down only and each
 * round has read what it overwrites. */
template <typename T> static __device__ void compact(T *list, uint32_t n, const kept_set *k) {
    for (uint32_t base = 0; base < n; base += THREADS) {
        uint32_t i = base + threadIdx.x;
        bool keep = i < n && k->bits[i >> 5] >> (i & 31) & 1u;
        T item;
        if (keep) item = list[i];
        __syncthreads();
        if (keep) list[kept_before(k, i)] = item;
    }
}

/* Whether a row runs, and as what. */
static __device__ bool settle(cu_row *r, const uint8_t *halted) {
    if (r->flags & CU_ROW_GUARDED && halted[r->guard]) return false;
    if (!(r->flags & CU_ROW_OR_TAIL) || r->flags & CU_ROW_TAIL) return true;
    if (halted[r->row]) r->flags |= CU_ROW_TAIL;
    else r->flags &= (uint16_t)~CU_ROW_KV_ONLY; /* it holds for the tail only */
    return true;
}

/* Launch rows [first, first + n), n > 0, once those that are not kept have gone. */
static __device__ __forceinline__ void shrink(const kept_set *rows, uint32_t *first, uint32_t *n) {
    uint32_t last = *first + *n - 1;
    *first = kept_before(rows, *first);
    *n = kept_before(rows, last) + (rows->bits[last >> 5] >> (last & 31) & 1u) - *first;
}

/* One thread block. Tiles and runs shrink to their rows that stay; they are not joined anew. Runs
 * keep their numbers, which pieces name, so one may be left without rows. */
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
            cu_row r = rows[i];
            keep = settle(&r, halted);
            if (keep) rows[i].flags = r.flags;
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

/* The last block settles the rows, the others edit. */
static __global__ void __launch_bounds__(THREADS)
    begin(void *desc, cu_cache c, const uint8_t *halted, cu_stamp *stamp) {
    kernel_scope scope(stamp);
    DYNAMIC_SHARED(shared);
    if (blockIdx.x < EDIT_BLOCKS) edit_maps(desc, c, halted);
    else if (head_of(desc)->ahead) admit(desc, halted, shared);
}

extern "C" cudaError_t cu_begin(cudaStream_t s, void *desc, const cu_cache *c,
                                const cu_state *state, cu_stamp *stamp) {
    uint32_t bytes = 2 * sizeof(kept_set) + 16;
    return LAUNCH(begin, EDIT_BLOCKS + 1, THREADS, bytes, s, desc, *c, state->halted, stamp);
}

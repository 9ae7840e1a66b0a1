/* mha.cu - decode with one or two query heads to a K/V head: tensor cores would fill one of 16
 * query lanes.
 *
 * A block of 4 warps takes one row, one K/V head and one split of the context. Keys and values go
 * straight to registers, 16 bytes to a lane: 16 lanes (a team) to a key of 128 values, or of 96
 * with 4 lanes idle. A warp takes
 * 16 keys of each tile of 64, all of them on their way together, and the next keys are sent for
 * once these have been scored, the next values once these have been added. So a block has 128 lanes
 * x 16 loads x 16 bytes = 32 KB on their way at its start and half as much at all times; 4 blocks
 * fit a multiprocessor. Teams have sums of their own, joined in their order at the end. */
#include "engine/cuda/attention.cuh"

enum { MHA_THREADS = 128, MHA_WARPS = 4, WARP_KEYS = CU_ATTN_KEYS / MHA_WARPS };

/* A team's lanes, of which those with columns below WIDTH work. */
template <int WIDTH> struct team {
    static const int lanes = WIDTH <= 64 ? 8 : 16, teams = 32 / lanes, keys = WARP_KEYS / teams;
    static const bool whole = lanes * 8 == WIDTH;
};

/* 16 bytes of a slot; zeros, and no branch, unless there. Slots are rewritten between kernels: not
 * through the read-only path. */
static __device__ __forceinline__ vec16 load_slot(const bf16 *from, bool there) {
    vec16 vec = {{0, 0, 0, 0}};
#ifdef __CUDA_ARCH__
    asm volatile("{.reg .pred t; setp.ne.u32 t, %5, 0;\n\t"
                 "@t ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];}"
                 : "+r"(vec.w[0]), "+r"(vec.w[1]), "+r"(vec.w[2]), "+r"(vec.w[3])
                 : "l"(from), "r"((uint32_t)there));
#else
    if (there) vec = *(const vec16 *)from;
#endif
    return vec;
}

static __device__ __forceinline__ float low_half(uint32_t w) {
    return rm_bf16_widen((uint16_t)w);
}
static __device__ __forceinline__ float high_half(uint32_t w) {
    return rm_bf16_widen((uint16_t)(w >> 16));
}

/* This warp's keys of one tile: lane i knows the slot of the i-th. */
template <int WIDTH>
static __device__ __forceinline__ void load_team(const cu_attn_args &args, const bf16 *pool,
                                                 uint32_t slot, vec16 to[team<WIDTH>::keys]) {
    uint32_t lane = threadIdx.x & 31, first = lane / team<WIDTH>::lanes * team<WIDTH>::keys;
    bool works = team<WIDTH>::whole || lane % team<WIDTH>::lanes * 8 < WIDTH;
#pragma unroll
    for (int i = 0; i < team<WIDTH>::keys; i++) {
        uint32_t s = __shfl_sync(0xffffffffu, slot, (int)first + i);
        to[i] = load_slot(pool + (uint64_t)s * args.cache.slot_values, works && s != RM_NO_SLOT);
    }
}

/* A team's sums of G queries; each lane holds 8 columns. */
template <int G> struct team_sums { float m[G], l[G], acc[G][8]; };

/* Scores of the team's keys in every lane; keys from `seen` on count for nothing. q: scaled. */
template <int G, int WIDTH>
static __device__ __forceinline__ void score_team(const vec16 k[team<WIDTH>::keys],
                                                  const float q[G][8], int32_t seen,
                                                  float scores[G][team<WIDTH>::keys]) {
#pragma unroll
    for (int i = 0; i < team<WIDTH>::keys; i++) {
#pragma unroll
        for (int g = 0; g < G; g++) {
            float dot = 0.0f;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                dot = fmaf(low_half(k[i].w[e]), q[g][2 * e], dot);
                dot = fmaf(high_half(k[i].w[e]), q[g][2 * e + 1], dot);
            }
            scores[g][i] = dot;
        }
    }
#pragma unroll
    for (int step = team<WIDTH>::lanes / 2; step > 0; step >>= 1) {
#pragma unroll
        for (int i = 0; i < team<WIDTH>::keys; i++) {
#pragma unroll
            for (int g = 0; g < G; g++)
                scores[g][i] += __shfl_xor_sync(0xffffffffu, scores[g][i], step);
        }
    }
#pragma unroll
    for (int i = 0; i < team<WIDTH>::keys; i++) {
#pragma unroll
        for (int g = 0; g < G; g++)
            scores[g][i] = i < seen ? scores[g][i] : -INFINITY;
    }
}

/* Scores to weights; the sums so far are scaled to their maximum. */
template <int G, int N>
static __device__ __forceinline__ void weigh_team(float scores[G][N], team_sums<G> &sum) {
#pragma unroll
    for (int g = 0; g < G; g++) {
        float now = sum.m[g], part = 0.0f;
#pragma unroll
        for (int i = 0; i < N; i++)
            now = fmaxf(now, scores[g][i]);
        float base = now == -INFINITY ? 0.0f : now; /* nothing seen yet: every weight is 0 */
        float old = power2(sum.m[g] - base);
#pragma unroll
        for (int i = 0; i < N; i++) {
            scores[g][i] = power2(scores[g][i] - base);
            part += scores[g][i];
        }
        sum.m[g] = now;
        sum.l[g] = fmaf(sum.l[g], old, part);
#pragma unroll
        for (int e = 0; e < 8; e++)
            sum.acc[g][e] *= old;
    }
}

template <int G, int N>
static __device__ __forceinline__ void add_team(const vec16 values[N], const float scores[G][N],
                                                team_sums<G> &sum) {
#pragma unroll
    for (int i = 0; i < N; i++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float lo = low_half(values[i].w[e]), hi = high_half(values[i].w[e]);
#pragma unroll
            for (int g = 0; g < G; g++) {
                sum.acc[g][2 * e] = fmaf(scores[g][i], lo, sum.acc[g][2 * e]);
                sum.acc[g][2 * e + 1] = fmaf(scores[g][i], hi, sum.acc[g][2 * e + 1]);
            }
        }
    }
}

/* One split's keys. */
template <int G, int WIDTH>
static __device__ __forceinline__ void mha_keys(const cu_attn_args &args, const query_block &block,
                                                const cu_row &row, const key_range &range,
                                                team_sums<G> &sum) {
    typedef team<WIDTH> TEAM;
    uint32_t lane = threadIdx.x & 31, warp = threadIdx.x >> 5, column = lane % TEAM::lanes * 8;
    bool works = TEAM::whole || column < WIDTH;
    const uint32_t *table = tables_of(args.desc) + row.table;
    uint32_t plane = args.plane + (args.by_loop ? row.loop : 0), keys = row.pos + 1;
    uint32_t end = range.last * CU_ATTN_KEYS < keys ? range.last * CU_ATTN_KEYS : keys;
    uint32_t mine = range.first * CU_ATTN_KEYS + warp * WARP_KEYS + lane % WARP_KEYS;
    const bf16 *ks = (const bf16 *)args.cache.slots + block.h0 / G * WIDTH + column;
    uint32_t slot = slot_of(args.desc, args.cache, table, plane, mine, end);
    float q[G][8];
#pragma unroll
    for (int g = 0; g < G; g++) {
        uint64_t at = ((uint64_t)block.row * args.n_heads + block.h0 + g) * WIDTH + column;
        vec16 vec = {{0, 0, 0, 0}};
        if (works) vec = *(const vec16 *)((const bf16 *)args.q + at);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            q[g][2 * e] = low_half(vec.w[e]) * (args.scale * LOG2E);
            q[g][2 * e + 1] = high_half(vec.w[e]) * (args.scale * LOG2E);
        }
    }
    vec16 k[TEAM::keys], values[TEAM::keys];
    load_team<WIDTH>(args, ks, slot, k);
    load_team<WIDTH>(args, ks + args.v_offset, slot, values);
    slot = slot_of(args.desc, args.cache, table, plane, mine + CU_ATTN_KEYS, end);
    for (uint32_t tile = range.first; tile < range.last; tile++) {
        float scores[G][TEAM::keys];
        uint32_t first = tile * CU_ATTN_KEYS + warp * WARP_KEYS + lane / TEAM::lanes * TEAM::keys;
        score_team<G, WIDTH>(k, q, (int32_t)(end - first), scores);
        load_team<WIDTH>(args, ks, slot, k); /* none behind the last tile */
        weigh_team<G, TEAM::keys>(scores, sum);
        add_team<G, TEAM::keys>(values, scores, sum);
        load_team<WIDTH>(args, ks + args.v_offset, slot, values);
        mine += CU_ATTN_KEYS;
        slot = slot_of(args.desc, args.cache, table, plane, mine + CU_ATTN_KEYS, end);
    }
}

/* All teams' sums, joined in their order, to the parts, or to o if the context has one part. */
template <int G, int WIDTH>
static __device__ __forceinline__ void mha_join(const cu_attn_args &args, const query_block &block,
                                                uint32_t split, bool whole, float *shared,
                                                const team_sums<G> &sum) {
    typedef team<WIDTH> TEAM;
    const uint32_t teams = MHA_WARPS * TEAM::teams, width = WIDTH;
    uint32_t mine = threadIdx.x / TEAM::lanes, column = threadIdx.x % TEAM::lanes * 8;
    float *ml = shared, *acc = ml + G * teams * 2; /* [G][teams][2], [G][teams][width] */
#pragma unroll
    for (int g = 0; g < G; g++) {
        uint32_t at = g * teams + mine;
        if (column == 0) ml[at * 2] = sum.m[g], ml[at * 2 + 1] = sum.l[g];
        if (!TEAM::whole && column >= width) continue;
#pragma unroll
        for (int e = 0; e < 8; e++)
            acc[at * width + column + e] = sum.acc[g][e];
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < G * width / 2; i += MHA_THREADS) {
        uint32_t g = i / (width / 2), c = i % (width / 2) * 2;
        float top = -INFINITY, l = 0.0f, x = 0.0f, y = 0.0f;
        for (uint32_t t = 0; t < teams; t++)
            top = fmaxf(top, ml[(g * teams + t) * 2]);
        for (uint32_t t = 0; t < teams; t++) {
            uint32_t at = g * teams + t;
            float scale = ml[at * 2] == -INFINITY ? 0.0f : power2(ml[at * 2] - top);
            l = fmaf(ml[at * 2 + 1], scale, l);
            x = fmaf(acc[at * width + c], scale, x);
            y = fmaf(acc[at * width + c + 1], scale, y);
        }
        uint64_t part = part_at(args, block.row, split, block.h0 + g);
        if (whole) {
            float norm = l > 0.0f ? 1.0f / l : 0.0f;
            bf16 *o = (bf16 *)args.o + (uint64_t)block.row * args.o_ld +
                      (uint64_t)(block.h0 + g) * args.o_head;
            *(uint32_t *)(o + c) = narrow_pair(x * norm, y * norm);
            continue;
        }
        args.part_o[part * width + c] = x;
        args.part_o[part * width + c + 1] = y;
        if (c == 0) args.part_ml[part * 2] = top, args.part_ml[part * 2 + 1] = l;
    }
}

/* G: query heads of a K/V head. */
template <int G, int WIDTH>
static __global__ void __launch_bounds__(MHA_THREADS, G == 1 ? 4 : 3) attn_mha(cu_attn_args args) {
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    const cu_head *head = head_of(args.desc);
    if (blockIdx.x >= head->n_tiles) return;
    cu_tile tile = ((const cu_tile *)((const char *)args.desc + head->tiles))[blockIdx.x];
    cu_row row = rows_of(args.desc)[tile.first];
    query_block block = {tile.first, 1, blockIdx.y * G, G};
    if (!has_query(args, row)) {
        if (blockIdx.z == 0) write_zeros<bf16>(args, block);
        return;
    }
    key_range range = split_range(args, row.pos + 1, blockIdx.z);
    if (range.first >= range.last) return;
    team_sums<G> sum;
#pragma unroll
    for (int g = 0; g < G; g++) {
        sum.m[g] = -INFINITY;
        sum.l[g] = 0.0f;
#pragma unroll
        for (int e = 0; e < 8; e++)
            sum.acc[g][e] = 0.0f;
    }
    mha_keys<G, WIDTH>(args, block, row, range, sum);
    mha_join<G, WIDTH>(args, block, blockIdx.z, range.used == 1, (float *)shared, sum);
    if (range.used > 1) {
        uint32_t *arrived = args.arrived + (uint64_t)blockIdx.x * gridDim.y + blockIdx.y;
        if (!comes_last(arrived, range.used, (uint32_t *)shared)) return;
        merge_parts<4, false, bf16>(args, block, range.used, shared);
    }
    write_zeros<bf16>(args, block);
}

/* ---- launchers ---- */

/* The sums of all teams, and as many pairs of maximum and sum. */
static uint32_t mha_bytes(const cu_attn_args *args) {
    uint32_t group = args->n_heads / args->n_kv_heads;
    uint32_t teams = MHA_THREADS / (args->dk <= 64 ? team<64>::lanes : team<128>::lanes);
    uint32_t bytes = group * teams * (args->dk + 2) * 4, merge = merge_bytes(args->splits);
    return bytes > merge ? bytes : merge;
}

extern "C" bool cu_attn_fits_mha(const cu_attn_args *args, bool f32) {
    return !f32 && !args->invariant && !args->cache.f32 && args->v_offset > 0 &&
           args->dk == args->dv && (args->dk == 64 || args->dk == 96 || args->dk == 128) &&
           args->n_heads <= 2 * args->n_kv_heads && args->v_offset % 8 == 0 &&
           args->cache.slot_values % 8 == 0;
}

template <int G>
static cudaError_t start_mha(cudaStream_t stream, const cu_attn_args &args, dim3 grid) {
    uint32_t bytes = mha_bytes(&args);
    if (args.dk == 64) return LAUNCH((attn_mha<G, 64>), grid, MHA_THREADS, bytes, stream, args);
    if (args.dk == 96) return LAUNCH((attn_mha<G, 96>), grid, MHA_THREADS, bytes, stream, args);
    return LAUNCH((attn_mha<G, 128>), grid, MHA_THREADS, bytes, stream, args);
}

extern "C" cudaError_t cu_attn_mha(cudaStream_t stream, const cu_attn_args *args, uint32_t tiles) {
    dim3 grid(tiles, args->n_kv_heads, args->splits);
    return args->n_heads > args->n_kv_heads ? start_mha<2>(stream, *args, grid)
                                            : start_mha<1>(stream, *args, grid);
}

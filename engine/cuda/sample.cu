/* sample.cu - one token from one row of logits: the choice of engine/sampler.c for a plain
 * sampling, by the same meaning, weights and race (rowmath.h).
 *
 * A thread block per row, so a row's answer cannot depend on its neighbours. Every sum is of whole
 * units (of 2^-34 for a cut by mass, of 2^-39 in the log-softmax) in 64-bit integers, and the first
 * to arrive is the first in any order: no order of threads or atomics changes an answer. Arrivals
 * and sums of weights equal the host's to the bit. Only the last bits of a log-probability may
 * differ, as the host sums it in floats and doubles.
 *
 * Ranks and cuts: a logit's rank is one number of 54 bits (see rank_of). Its digits spread over the
 * buckets of a histogram, so a cut is found digit by digit, mostly by two. Nothing is sorted but
 * the n_top best. If the row fits, the first pass copies it to shared memory, and memory is read
 * once. */
#include "engine/cuda/common.cuh"

enum {
    SAMPLE_THREADS = 1024,
    BUCKETS = 2048, /* of one digit */
    DIGITS = 5,     /* 11, 11, 11, 11 and 10 bits */
    RANK_BITS = 54,
    DISTANCES = 1 << 22,
    MAX_CHUNKS = BUCKETS, /* a chunk: neighbouring ids of one warp */
    QUAD_IDS = 4,         /* ids of one 16-byte load */
    WARP_IDS = 32 * QUAD_IDS,
};
#define NOTHING UINT64_MAX      /* of load_row: a logit is NaN or +Inf */
#define NORM_UNITS 0x1p39f      /* 2^24 logits of e^0 still fit 64 bits */
#define DISTANCE_STEPS 65536.0f /* of a rank's high digits, per unit of logit */
#define NOT_FOUND UINT32_MAX

struct sample_shared {
    uint64_t sum[BUCKETS];   /* of a bucket's weights, or of a chunk */
    uint32_t count[BUCKETS]; /* logits in a bucket */
    uint64_t warp[33];       /* of block_reduce */
    uint64_t rest, own;      /* found by warp 0 for all */
    uint32_t at, n_top;
    uint64_t top_rank[CU_MAX_TOP];
    uint32_t top_id[CU_MAX_TOP];
};

static_assert(sizeof(sample_shared) % 16 == 0, "the copy of the row behind it is read in 16 bytes");

/* One row of logits; x is in shared memory if COPY. */
struct logit_row {
    const float *x;
    uint32_t vocab, quads, steps, n_chunks; /* a chunk is `steps` times 32 quads */
    bool aligned;                           /* x to 16 bytes */
    float max;
    sample_shared *sh;
};

/* Keeps logits ranked above `rank`, and at `rank` ids up to `last`. */
struct cut {
    uint64_t rank;
    uint32_t last;
};

struct filter {
    float min_p, scale;
    struct cut cut;
};

template <typename T, typename F> static __device__ __forceinline__ T warp_reduce(T value, F join) {
    for (int step = 16; step > 0; step >>= 1)
        value = join(value, __shfl_xor_sync(0xffffffffu, value, step));
    return value;
}

/* Over the block, in every thread; 0 is neutral. */
template <typename F>
static __device__ uint64_t block_reduce(sample_shared *sh, uint64_t value, F join) {
    uint32_t lane = threadIdx.x & 31, warps = blockDim.x >> 5;
    value = warp_reduce(value, join);
    __syncthreads(); /* an earlier result has been read */
    if (lane == 0) sh->warp[threadIdx.x >> 5] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
        value = warp_reduce(lane < warps ? sh->warp[lane] : 0, join);
        if (lane == 0) sh->warp[32] = value;
    }
    __syncthreads();
    return sh->warp[32];
}

static __device__ __forceinline__ uint64_t add(uint64_t a, uint64_t b) {
    return a + b;
}
static __device__ __forceinline__ uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* ---- reading a row ---- */

/* Four logits from id 4q on; -Inf beyond the vocabulary. */
static __device__ __forceinline__ void load_quad(const logit_row &row, uint32_t q, float x[4]) {
    if (row.aligned) {
        vec16 vec = load_stream(row.x + QUAD_IDS * q);
        for (uint32_t k = 0; k < QUAD_IDS; k++)
            x[k] = rm_float_of(vec.w[k]);
        return;
    }
    for (uint32_t k = 0; k < QUAD_IDS; k++) {
        uint32_t id = QUAD_IDS * q + k;
        x[k] = id < row.vocab ? row.x[id] : -INFINITY;
    }
}

/* First pass: copies the row if COPY, and gives rm_order of its largest logit in the high half and
 * the complement of the logit's lowest id in the low half. */
template <bool COPY> static __device__ uint64_t load_row(logit_row *row, float *copy) {
    uint64_t best = 0;
#pragma unroll 4
    for (uint32_t q = threadIdx.x; q < row->quads; q += blockDim.x) {
        vec16 vec;
        float x[4];
        load_quad(*row, q, x);
        for (uint32_t k = 0; k < QUAD_IDS; k++) {
            uint32_t id = QUAD_IDS * q + k;
            vec.w[k] = rm_bits_of(x[k]);
            uint64_t key = (uint64_t)rm_order(x[k]) << 32 | (uint32_t)~id;
            if (!(x[k] < INFINITY)) key = NOTHING;
            if (x[k] != -INFINITY) best = larger(best, key);
        }
        if (COPY) ((vec16 *)copy)[q] = vec;
    }
    if (COPY) row->x = copy;
    return block_reduce(row->sh, best, larger); /* its barriers: the copy is whole */
}

/* fn(id, logit) for every id; a warp takes whole chunks. Ids beyond the vocabulary come as -Inf. */
template <bool COPY, typename F>
static __device__ __forceinline__ void each_of_chunk(const logit_row &row, uint32_t chunk, F fn) {
    uint32_t first = chunk * row.steps * 32 + (threadIdx.x & 31);
    for (uint32_t s = 0, q = first; s < row.steps && q < row.quads; s++, q += 32) {
        float x[4];
        if (COPY) {
            vec16 vec = ((const vec16 *)row.x)[q];
            for (uint32_t k = 0; k < QUAD_IDS; k++)
                x[k] = rm_float_of(vec.w[k]);
        } else {
            load_quad(row, q, x);
        }
        for (uint32_t k = 0; k < QUAD_IDS; k++)
            fn(QUAD_IDS * q + k, x[k]);
    }
}
template <bool COPY, typename F>
static __device__ __forceinline__ void each(const logit_row &row, F fn) {
    for (uint32_t chunk = threadIdx.x >> 5; chunk < row.n_chunks; chunk += blockDim.x >> 5)
        each_of_chunk<COPY>(row, chunk, fn);
}

/* The sum of fn(id, logit), in every thread. */
template <bool COPY, typename F> static __device__ uint64_t sum_of(const logit_row &row, F fn) {
    uint64_t mine = 0;
    each<COPY>(row, [&](uint32_t id, float x) { mine += fn(id, x); });
    return block_reduce(row.sh, mine, add);
}

/* ---- finding ---- */

struct found {
    uint32_t at;        /* the first item to bring the sum above the goal, or NOT_FOUND */
    uint64_t rest, own; /* the goal less the items before; that item */
};

/* By one whole warp; item(i) is read once for each i. */
template <typename F> static __device__ found warp_find(uint32_t n, uint64_t goal, F item) {
    uint32_t lane = threadIdx.x & 31;
    for (uint32_t first = 4 * lane; first - 4 * lane < n; first += WARP_IDS) {
        uint64_t part[4], sum = 0;
        for (uint32_t k = 0; k < 4; k++)
            sum += part[k] = first + k < n ? item(first + k) : 0;
        uint64_t upto = sum;
        for (uint32_t step = 1; step < 32; step <<= 1) {
            uint64_t below = __shfl_up_sync(0xffffffffu, upto, step);
            if (lane >= step) upto += below;
        }
        uint64_t all = __shfl_sync(0xffffffffu, upto, 31);
        if (goal >= all) {
            goal -= all;
            continue;
        }
        /* Exactly one lane holds the item; the others give 0. */
        uint64_t before = upto - sum, at = 0, rest = 0, own = 0;
        if (goal >= before && goal < upto) {
            rest = goal - before;
            own = part[0];
            at = first;
#pragma unroll
            for (uint32_t k = 1; k < 4; k++) { /* no index known only at run time */
                if (at + 1 != first + k || rest < own) continue;
                rest -= own;
                own = part[k];
                at++;
            }
        }
        return {(uint32_t)warp_reduce(at, add), warp_reduce(rest, add), warp_reduce(own, add)};
    }
    return {NOT_FOUND, goal, 0};
}

/* ---- ranks and cuts ---- */

/* A number in the order of the logits: how far it is below the largest, in steps spreading a
 * model's logits evenly; below it, the order of the floats, for logits of one step. */
static __device__ __forceinline__ uint64_t rank_of(const logit_row &row, float x) {
    float below = fminf(rm_mul(rm_add(row.max, -x), DISTANCE_STEPS), (float)(DISTANCES - 1));
    return (uint64_t)(DISTANCES - 1 - (uint32_t)below) << 32 | rm_order(x);
}

static __device__ __forceinline__ bool above(const struct cut &cut_at, uint64_t rank, uint32_t id) {
    return rank > cut_at.rank || (rank == cut_at.rank && id <= cut_at.last);
}

/* A logit's weight, 0 if the filter drops it. */
static __device__ __forceinline__ float kept_weight(const logit_row &row, const filter &keep,
                                                    uint32_t id, float x) {
    if (keep.cut.rank && !above(keep.cut, rank_of(row, x), id)) return 0.0f;
    float weight = rm_weight(x, row.max, keep.scale);
    return weight >= keep.min_p ? weight : 0.0f;
}
static __device__ __forceinline__ uint64_t units(const logit_row &row, const filter &keep,
                                                 uint32_t id, float x) {
    return rm_weight_units(kept_weight(row, keep, id, x));
}

/* One digit's histogram over the candidates with higher digits `prefix`. */
template <bool COPY>
static __device__ void fill_buckets(const logit_row &row, const filter &keep, bool by_mass,
                                    uint64_t prefix, uint32_t shift, uint32_t bits) {
    __syncthreads(); /* the last histogram, or the chunks' sums, have been read */
    for (uint32_t i = threadIdx.x; i < BUCKETS; i += blockDim.x) {
        row.sh->sum[i] = 0;
        row.sh->count[i] = 0;
    }
    __syncthreads();
    each<COPY>(row, [&](uint32_t id, float x) {
        uint64_t rank = rank_of(row, x);
        if (x == -INFINITY || rank >> shift >> bits != prefix || !above(keep.cut, rank, id)) return;
        uint64_t weight = by_mass || keep.min_p > 0 ? units(row, keep, id, x) : 1;
        if (weight == 0) return;
        uint32_t bucket = (uint32_t)(rank >> shift) & ((1u << bits) - 1);
        atomicAdd(&row.sh->count[bucket], 1u);
        if (by_mass)
            atomicAdd((unsigned long long *)&row.sh->sum[bucket], (unsigned long long)weight);
    });
    __syncthreads();
}

/* The id of the tie number `goal`, counted from 0 in the order of ids; there are more. tie(id,
 * logit) is 1 or 0. */
template <bool COPY, typename F>
static __device__ uint32_t find_tie(const logit_row &row, uint64_t goal, F tie) {
    __syncthreads(); /* the last histogram has been read */
    for (uint32_t chunk = threadIdx.x >> 5; chunk < row.n_chunks; chunk += blockDim.x >> 5) {
        uint64_t ties = 0;
        each_of_chunk<COPY>(row, chunk, [&](uint32_t id, float x) { ties += tie(id, x); });
        ties = warp_reduce(ties, add);
        if ((threadIdx.x & 31) == 0) row.sh->sum[chunk] = ties;
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        found chunk = warp_find(row.n_chunks, goal, [&](uint32_t i) { return row.sh->sum[i]; });
        uint32_t first = chunk.at * row.steps * WARP_IDS;
        found hit = warp_find(row.steps * WARP_IDS, chunk.rest, [&](uint32_t i) {
            return first + i < row.vocab ? tie(first + i, row.x[first + i]) : 0;
        });
        if (threadIdx.x == 0) row.sh->at = first + hit.at;
    }
    __syncthreads();
    uint32_t id = row.sh->at;
    __syncthreads();
    return id;
}

/* The best candidates, as few as reach `limit` (> 0) in number or in mass, lower ids first among
 * equals; all of them if together they do not. */
template <bool COPY>
static __device__ struct cut keep_best(const logit_row &row, const filter &keep, uint64_t limit,
                                       bool by_mass) {
    sample_shared *sh = row.sh;
    uint64_t prefix = 0;
    uint32_t shift = RANK_BITS;
    for (int d = 0; d < DIGITS; d++) {
        uint32_t bits = shift < 11 ? shift : 11, last = (1u << bits) - 1;
        shift -= bits;
        fill_buckets<COPY>(row, keep, by_mass, prefix, shift, bits);
        if (threadIdx.x < 32) {
            found hit = warp_find(last + 1, limit - 1, [&](uint32_t i) {
                return by_mass ? sh->sum[last - i] : (uint64_t)sh->count[last - i];
            });
            if (threadIdx.x == 0) {
                sh->at = hit.at;
                sh->rest = hit.rest;
                sh->own = hit.own;
            }
        }
        __syncthreads();
        if (sh->at == NOT_FOUND) return keep.cut;
        limit = sh->rest + 1;
        prefix = prefix << bits | (last - sh->at);
        if (limit == sh->own || sh->count[last - sh->at] == 1) return {prefix << shift, UINT32_MAX};
    }
    /* Equal logits, so equal weights: so many of the lowest ids. */
    uint32_t ties = sh->count[prefix & 1023];
    if (by_mass) limit = (limit + sh->own / ties - 1) / (sh->own / ties);
    auto tie = [&](uint32_t id, float x) {
        uint64_t rank = rank_of(row, x);
        return (uint64_t)(rank == prefix && above(keep.cut, rank, id));
    };
    return {prefix, find_tie<COPY>(row, limit - 1, tie)};
}

static __device__ __forceinline__ struct cut tighter(struct cut left, struct cut right) {
    if (left.rank != right.rank) return left.rank > right.rank ? left : right;
    return left.last < right.last ? left : right;
}

/* ---- one row ---- */

/* Puts the n best finite logits into sh->top_*, in no order. */
template <bool COPY> static __device__ void find_top(const logit_row &row, uint32_t n) {
    const filter none = {0.0f, 1.0f, {0, UINT32_MAX}};
    struct cut cut_at = keep_best<COPY>(row, none, n, false);
    if (threadIdx.x == 0) row.sh->n_top = 0;
    __syncthreads();
    each<COPY>(row, [&](uint32_t id, float x) {
        uint64_t rank = rank_of(row, x);
        if (x == -INFINITY || !above(cut_at, rank, id)) return;
        uint32_t at = atomicAdd(&row.sh->n_top, 1u);
        if (at >= n) return; /* never: the cut keeps n */
        row.sh->top_rank[at] = rank;
        row.sh->top_id[at] = id;
    });
    __syncthreads();
}

/* ---- the race ---- */

/* `best` is the arrival of the first known so far (its high half, a positive float, which is
 * ordered as its bits are), and its id. The likeliest token is the first to enter, in all threads:
 * in most rows it leaves few others a chance. */
struct race {
    uint64_t number, best;
};

static __device__ __forceinline__ uint64_t arrival(uint64_t number, uint32_t id, float weight) {
    return (uint64_t)rm_bits_of(rm_race_time(rm_race_bits(number, id), weight)) << 32 | id;
}
static __device__ __forceinline__ void enter(race *run, uint32_t id, float weight) {
    uint32_t bits = rm_race_bits(run->number, id);
    if (!rm_race_may_win(bits, weight, rm_float_of((uint32_t)(run->best >> 32)))) return;
    if (weight <= 0.0f) return;
    uint64_t mine = arrival(run->number, id, weight);
    if (mine < run->best) run->best = mine;
}
static __device__ uint32_t winner(sample_shared *sh, const race &run) {
    return (uint32_t)~block_reduce(sh, ~run.best, larger);
}

/* The filter of a draw; all weights add up to `mass`. */
template <bool COPY>
static __device__ filter filter_of(const logit_row &row, const cu_draw &want, uint64_t mass) {
    filter keep = {want.min_p, want.scale, {0, UINT32_MAX}};
    if (want.top_k > 0) keep.cut = keep_best<COPY>(row, keep, want.top_k, false);
    if (want.top_p >= 1.0f) return keep;
    if (want.top_k > 0 || want.min_p > 0)
        mass = sum_of<COPY>(row, [&](uint32_t id, float x) { return units(row, keep, id, x); });
    double limit = ceil((double)want.top_p * (double)mass);
    keep.cut =
        tighter(keep.cut, keep_best<COPY>(row, keep, limit >= 1.0 ? (uint64_t)limit : 1, true));
    return keep;
}

/* One pass for the log-softmax (its sum is returned, in NORM_UNITS), for the weights of a draw and,
 * without filters, for the race. *token is the likeliest token, and becomes the drawn one. */
template <bool COPY>
static __device__ uint64_t choose(const logit_row &row, const cu_draw &want, uint32_t *token) {
    uint64_t number = rm_philox(want.seed, want.index), norm = 0, mass = 0;
    bool filtered = want.top_k > 0 || want.top_p < 1.0f || want.min_p > 0;
    race run = {number, arrival(number, *token, 1.0f)};
    each<COPY>(row, [&](uint32_t id, float x) {
        float e = rm_exp_down(rm_add(x, -row.max));
        norm += (uint64_t)(e * NORM_UNITS + 0.5f);
        if (want.scale == 0) return;
        float weight = want.scale == 1 ? rm_weight_of(e) : rm_weight(x, row.max, want.scale);
        if (filtered) mass += rm_weight_units(weight);
        else enter(&run, id, weight);
    });
    norm = block_reduce(row.sh, norm, add);
    if (want.scale == 0) return norm;
    if (filtered) {
        filter keep = filter_of<COPY>(row, want, block_reduce(row.sh, mass, add));
        each<COPY>(row,
                   [&](uint32_t id, float x) { enter(&run, id, kept_weight(row, keep, id, x)); });
    }
    *token = winner(row.sh, run);
    return norm;
}

template <bool COPY>
static __global__ void __launch_bounds__(SAMPLE_THREADS, 1) sample(cu_sample_args args) {
    kernel_scope scope(args.stamp);
    DYNAMIC_SHARED(shared);
    uint32_t i = blockIdx.x;
    if (i >= head_of(args.desc)->n_draws) return;
    const cu_draw want = draws_of(args.desc)[i];
    sample_shared *sh = (sample_shared *)shared;
    cu_choice *out = &head_of(args.desc)->choices[i];
    logit_row row;
    row.x = args.logits + (uint64_t)want.logits * args.vocab;
    row.vocab = args.vocab;
    row.quads = (args.vocab + QUAD_IDS - 1) / QUAD_IDS;
    row.steps = (row.quads + 32 * MAX_CHUNKS - 1) / (32 * MAX_CHUNKS);
    row.n_chunks = (row.quads + 32 * row.steps - 1) / (32 * row.steps);
    row.aligned = args.vocab % QUAD_IDS == 0;
    row.sh = sh;
    uint64_t best = load_row<COPY>(&row, (float *)(shared + sizeof *sh));
    if (best == 0 || best == NOTHING) {
        if (threadIdx.x == 0) *out = cu_choice{UINT32_MAX, 0.0f, 0, {}};
        return;
    }
    uint32_t token = ~(uint32_t)best;
    row.max = row.x[token];
    if (want.n_top > 0) find_top<COPY>(row, want.n_top);
    uint64_t norm = choose<COPY>(row, want, &token);
    double log_sum = log((double)norm / (double)NORM_UNITS);
    uint32_t n = want.n_top > 0 ? sh->n_top : 0, t = threadIdx.x;
    if (t == 0) {
        out->token = token;
        out->logprob = rm_logprob(row.x[token], row.max, log_sum);
        out->n_top = n;
    }
    if (t >= n) return;
    uint32_t place = 0;
    for (uint32_t k = 0; k < n; k++) {
        place += sh->top_rank[k] > sh->top_rank[t] ||
                 (sh->top_rank[k] == sh->top_rank[t] && sh->top_id[k] < sh->top_id[t]);
    }
    out->top[place].id = sh->top_id[t];
    out->top[place].logprob = rm_logprob(row.x[sh->top_id[t]], row.max, log_sum);
}

/* ---- launcher ---- */

static uint32_t most_shared = 48 * 1024; /* bytes a block may have; set once, before any launch */

extern "C" cudaError_t cu_sample(cudaStream_t stream, const cu_sample_args *args, uint32_t rows) {
    uint32_t chunks = cu_ceil_div(args->vocab, WARP_IDS);
    uint32_t threads = chunks < SAMPLE_THREADS / 32 ? chunks * 32 : (uint32_t)SAMPLE_THREADS;
    uint64_t copy = (uint64_t)cu_ceil_div(args->vocab, QUAD_IDS) * 16 + sizeof(sample_shared);
    if (copy <= most_shared)
        return LAUNCH(sample<true>, rows, threads, (uint32_t)copy, stream, *args);
    return LAUNCH(sample<false>, rows, threads, (uint32_t)sizeof(sample_shared), stream, *args);
}

extern "C" cudaError_t cu_sample_setup(int most) {
    most_shared = (uint32_t)most;
    return cudaFuncSetAttribute(sample<true>, cudaFuncAttributeMaxDynamicSharedMemorySize, most);
}

/* ranks.cu - the columns of several ranks: sums of own columns, and all columns to their places;
 * and sums over ranks. */
#include "engine/cuda/common.cuh"

enum { THREADS = 256, MOST_BLOCKS = 512 };

/* blockIdx.y: a rank. Its parcel is lines of vectors, as many to a line as the rank has columns. */
template <typename V>
static __global__ void __launch_bounds__(THREADS) spread(cu_spread_args args) {
    kernel_scope scope(args.stamp);
    const uint32_t per = sizeof(V) / args.item_bytes, rank = blockIdx.y;
    uint32_t first = args.first[rank] / per, width = args.first[rank + 1] / per - first;
    const V *from = (const V *)((const char *)args.parcels + rank * args.parcel_bytes);
    V *to = (V *)args.to + first;
    uint64_t n = (uint64_t)args.lines * width, step = (uint64_t)gridDim.x * THREADS;
    for (uint64_t i = (uint64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step)
        to[i / width * (args.ld / per) + i % width] = from[i];
}

extern "C" cudaError_t cu_spread(cudaStream_t stream, const cu_spread_args *args) {
    uint64_t line = (uint64_t)args->ld * args->item_bytes, bytes = args->item_bytes;
    bool wide = line % 16 == 0;
    for (uint32_t i = 0; i <= args->ranks; i++)
        wide = wide && args->first[i] * bytes % 16 == 0;
    uint64_t vectors =
        (uint64_t)args->lines * args->first[args->ranks] * bytes / (wide ? 16 : bytes);
    uint64_t blocks = (vectors / args->ranks + THREADS - 1) / THREADS;
    dim3 grid(blocks < 1             ? 1
              : blocks < MOST_BLOCKS ? (uint32_t)blocks
                                     : (uint32_t)MOST_BLOCKS,
              args->ranks);
    auto kernel = wide ? spread<vec16> : bytes == 4 ? spread<uint32_t> : spread<uint16_t>;
    return cu_started(START_BEHIND(kernel, grid, THREADS, 0, stream, *args), "spread");
}

/* blockIdx.y: a row. */
static __global__ void __launch_bounds__(THREADS) join_parts(cu_join_args args) {
    kernel_scope scope(args.stamp);
    uint32_t i = blockIdx.y, c = blockIdx.x * THREADS + threadIdx.x;
    if (i >= head_of(args.desc)->n_rows || c >= args.width) return;
    const float *part = args.parts + (uint64_t)i * args.n_parts * args.width + c;
    float sum = args.x ? args.x[(uint64_t)i * args.ldx + args.first + c] + *part : *part;
    for (uint32_t k = 1; k < args.n_parts; k++)
        sum += part[(uint64_t)k * args.width];
    args.to[(uint64_t)i * args.width + c] = sum;
}

extern "C" cudaError_t cu_join_parts(cudaStream_t stream, const cu_join_args *args, uint32_t rows) {
    if (args->width == 0) return cudaSuccess; /* a rank without columns */
    dim3 grid(cu_ceil_div(args->width, THREADS), rows);
    return LAUNCH(join_parts, grid, THREADS, 0, stream, *args);
}

/* blockIdx.y: a row; blockIdx.z: the rank that gets the columns. */
static __global__ void __launch_bounds__(THREADS) deal_parts(cu_deal_args args) {
    kernel_scope scope(args.stamp);
    uint32_t i = blockIdx.y, rank = blockIdx.z, c = blockIdx.x * THREADS + threadIdx.x;
    uint32_t first = args.first[rank], width = args.first[rank + 1] - first;
    if (i >= head_of(args.desc)->n_rows || c >= width) return;
    const float *part = args.parts + (uint64_t)i * args.n_parts * args.dim + first + c;
    float *to =
        rank == args.rank ? args.own : (float *)((char *)args.to + rank * args.parcel_bytes);
    float sum = *part;
    for (uint32_t k = 1; k < args.n_parts; k++)
        sum += part[(uint64_t)k * args.dim];
    to[(uint64_t)i * width + c] = sum;
}

extern "C" cudaError_t cu_deal_parts(cudaStream_t stream, const cu_deal_args *args, uint32_t rows) {
    uint32_t widest = 0;
    for (uint32_t i = 0; i < args->ranks; i++) {
        uint32_t width = args->first[i + 1] - args->first[i];
        widest = width > widest ? width : widest;
    }
    dim3 grid(cu_ceil_div(widest, THREADS), rows, args->ranks);
    return LAUNCH(deal_parts, grid, THREADS, 0, stream, *args);
}

/* blockIdx.y: a row. */
static __global__ void __launch_bounds__(THREADS) sum_parcels(cu_sum_args args) {
    kernel_scope scope(args.stamp);
    uint32_t i = blockIdx.y, c = blockIdx.x * THREADS + threadIdx.x;
    if (i >= head_of(args.desc)->n_rows || c >= args.width) return;
    uint64_t at = (uint64_t)i * args.width + c;
    float sum = 0.0f;
    for (uint32_t k = 0; k < args.n; k++) {
        const char *parcel = (const char *)args.parcels + args.parcel[k] * args.parcel_bytes;
        float part = ((const float *)parcel)[at];
        sum = k ? sum + part : part;
    }
    args.to[at] = sum;
}

extern "C" cudaError_t cu_sum_parcels(cudaStream_t stream, const cu_sum_args *args, uint32_t rows) {
    if (args->width == 0) return cudaSuccess; /* a rank without columns */
    dim3 grid(cu_ceil_div(args->width, THREADS), rows);
    return cu_started(START_BEHIND(sum_parcels, grid, THREADS, 0, stream, *args), "sum_parcels");
}

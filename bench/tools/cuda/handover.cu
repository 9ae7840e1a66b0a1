/* handover.cu - ways to hand a launch its descriptor: 4 KB from the host to a graph that reads 300
 * MB of weights. Needs a device; figures of one in results/h100-experiments.txt. Build and run:
 *
 *   nvcc -O2 -std=c++17 -arch=sm_90a -o build/handover bench/tools/cuda/handover.cu && build/handover
 *
 * A line is one way: microseconds of a launch (copy, kernel in front and 300 MB of reads) with the
 * host ahead, then the nanoseconds of the front kernel's first and second read, each of 4 KB. */
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>
#include <vector>

enum { BYTES = 4096, THREADS = 256, LAUNCHES = 40, ROUNDS = 5 };
static const size_t WEIGHTS = 300u << 20;

static void must(cudaError_t rc, const char *what) {
    if (rc == cudaSuccess) return;
    printf("%s: %s\n", what, cudaGetErrorString(rc));
    exit(1);
}

struct alignas(16) piece {
    unsigned word[4];
};
struct by_value {
    piece pieces[BYTES / sizeof(piece) - 6]; /* parameters of a kernel end at 4,096 bytes */
};
struct times {
    unsigned long long began, first, second;
};

static __device__ unsigned long long device_ns() {
    unsigned long long ns;
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
    return ns;
}

static __device__ piece read_piece(const piece *from) {
    piece out;
    asm volatile("ld.volatile.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out.word[0]), "=r"(out.word[1]), "=r"(out.word[2]), "=r"(out.word[3])
                 : "l"(from));
    return out;
}

static __global__ void read_weights(const piece *weights, size_t n, unsigned *sink) {
    unsigned sum = 0;
    size_t step = (size_t)gridDim.x * blockDim.x;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += step) {
        uint4 got = __ldg((const uint4 *)(weights + i));
        sum ^= got.x ^ got.y ^ got.z ^ got.w;
    }
    if (sum == 0x12345) *sink = sum;
}

/* Two reads, one after the other, by every thread block. */
static __global__ void take(const piece *from, piece *to, times *out) {
    unsigned long long began = device_ns();
    piece one = read_piece(from + threadIdx.x);
    to[blockIdx.x * THREADS + threadIdx.x] = one;
    __syncthreads();
    unsigned long long first = device_ns();
    to[threadIdx.x] = read_piece(from + THREADS + threadIdx.x + (one.word[0] & 1024));
    __syncthreads();
    if (threadIdx.x == 0 && blockIdx.x == 0) *out = {began, first, device_ns()};
}

static __global__ void take_value(const __grid_constant__ by_value value, piece *to, times *out) {
    unsigned long long began = device_ns();
    if (threadIdx.x < sizeof value / sizeof(piece)) to[threadIdx.x] = value.pieces[threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) *out = {began, device_ns(), device_ns()};
}

static __global__ void keep_busy(long long cycles) {
    for (long long from = clock64(); clock64() - from < cycles;) {
    }
}

static double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

static cudaStream_t stream, copies;
static cudaEvent_t from, to, copied[2];
static piece *weights, *pinned, *came, *out;
static unsigned *sink;
static times *stamps;

template <typename BEFORE, typename FRONT>
static void measure(const char *way, BEFORE before, FRONT front) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
    front();
    read_weights<<<528, 512, 0, stream>>>(weights, WEIGHTS / sizeof(piece), sink);
    must(cudaStreamEndCapture(stream, &graph), "capturing");
    must(cudaGraphInstantiate(&exec, graph, 0), "making a graph");
    std::vector<double> whole, first, second;
    for (int round = 0; round < ROUNDS; round++) {
        float ms;
        times got = {};
        keep_busy<<<1, 1, 0, stream>>>(4000000); /* the host gets ahead meanwhile */
        must(cudaEventRecord(from, stream), "timing");
        for (int i = 0; i < LAUNCHES; i++) {
            before(i);
            must(cudaGraphLaunch(exec, stream), way);
        }
        must(cudaEventRecord(to, stream), "timing");
        must(cudaStreamSynchronize(stream), way);
        must(cudaEventElapsedTime(&ms, from, to), "timing");
        must(cudaMemcpy(&got, stamps, sizeof got, cudaMemcpyDeviceToHost), "reading times");
        whole.push_back(ms * 1e3 / LAUNCHES);
        first.push_back((double)(got.first - got.began));
        second.push_back((double)(got.second - got.first));
    }
    printf("%-36s %7.2f us, reads %6.0f and %6.0f ns\n", way, median(whole), median(first),
           median(second));
    must(cudaGraphExecDestroy(exec), "ending a graph");
    must(cudaGraphDestroy(graph), "ending a graph");
}

static void prepare() {
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "opening a stream");
    must(cudaStreamCreateWithFlags(&copies, cudaStreamNonBlocking), "opening a stream");
    must(cudaEventCreate(&from), "opening an event");
    must(cudaEventCreate(&to), "opening an event");
    for (cudaEvent_t &event : copied)
        must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "opening an event");
    must(cudaMalloc(&weights, WEIGHTS), "taking memory");
    must(cudaMemset(weights, 1, WEIGHTS), "filling memory");
    must(cudaMalloc(&came, 1 << 20), "taking memory");
    must(cudaMalloc(&out, 1 << 20), "taking memory");
    must(cudaMalloc(&sink, sizeof *sink), "taking memory");
    must(cudaMalloc(&stamps, sizeof *stamps), "taking memory");
    must(cudaMemset(stamps, 0, sizeof *stamps), "filling memory");
    must(cudaMallocHost(&pinned, 1 << 20), "pinning memory");
    memset(pinned, 0, 1 << 20);
    must(cudaDeviceSynchronize(), "preparing");
}

static void copy(cudaStream_t on) {
    must(cudaMemcpyAsync(came, pinned, BYTES, cudaMemcpyHostToDevice, on), "copying");
}

static void copy_aside(int i) {
    copy(copies);
    must(cudaEventRecord(copied[i & 1], copies), "copying");
    must(cudaStreamWaitEvent(stream, copied[i & 1], 0), "copying");
}

int main() {
    prepare();
    auto none = [](int) {};
    auto read_came = [] { take<<<1, THREADS, 0, stream>>>(came, out, stamps); };
    by_value value = {};
    measure("no descriptor", none, [] {});
    measure("already in device memory", none, read_came);
    measure("pinned, read by 1 thread block", none,
            [] { take<<<1, THREADS, 0, stream>>>(pinned, out, stamps); });
    measure("pinned, read by 17 thread blocks", none,
            [] { take<<<17, THREADS, 0, stream>>>(pinned, out, stamps); });
    measure(
        "copied in the launch's stream", [](int) { copy(stream); }, read_came);
    measure("copied on a stream of its own", copy_aside, read_came);
    measure(
        "as parameters of a kernel",
        [&](int) { take_value<<<1, THREADS, 0, stream>>>(value, out, stamps); }, [] {});
    return 0;
}

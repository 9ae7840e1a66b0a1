/* sites.c - every kernel of a stage timed alone, with the arguments the engine itself gives it.
 *
 * The engine's own code queues a stage's kernels; before each it says the kernel's name, and the
 * stream is replaced by the kernel's own, capturing stream. So one walk puts each kernel into a
 * graph of its own, and n walks make graphs of n repetitions, each with other weights and another
 * descriptor. Working memory still holds the values of the last launch, so every kernel reads the
 * same values as in a step; activations are as warm as in a step, just written by the kernel
 * before. */
#include "base/size.h"
#include "bench/tools/cuda/bench.h"

#include <string.h>

enum { REPLAYS = 16, BLAS_SPACE = 32 << 20 };

cudaError_t probe_read(cudaStream_t stream, const void *data, uint64_t bytes, void *sink,
                       uint32_t blocks);

static void use_stream(kb_sites *sites, cudaStream_t stream) {
    cu_backend *cuda = sites->rig->cuda;
    cuda->stream = stream;
    if (cuda->blas == NULL) return;
    if (sites->blas_space == NULL) sites->blas_space = kb_take(cuda, BLAS_SPACE);
    if (cublasSetStream(cuda->blas, stream) != CUBLAS_STATUS_SUCCESS ||
        cublasSetWorkspace(cuda->blas, sites->blas_space, BLAS_SPACE) != CUBLAS_STATUS_SUCCESS) {
        kb_fail("cuBLAS does not take a stream");
    }
}

/* Streams are made before anything is captured: a capturing thread may not make every call. */
static void make_streams(kb_sites *sites) {
    sites->main = sites->rig->cuda->stream;
    use_stream(sites, sites->main); /* and cuBLAS's workspace */
    for (uint32_t i = 0; i < ARRAY_LEN(sites->streams) && sites->streams[i] == NULL; i++) {
        kb_must(cudaStreamCreateWithFlags(&sites->streams[i], cudaStreamNonBlocking),
                "opening a stream");
    }
}

static cudaStream_t begin_capture(cudaStream_t stream) {
    kb_must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
    return stream;
}

static cudaGraph_t end_capture(cudaStream_t stream) {
    cudaGraph_t graph;
    kb_must(cudaStreamEndCapture(stream, &graph), "capturing");
    return graph;
}

/* The graph, ready to run. A thread must not call this while one of its streams captures. */
static cudaGraphExec_t make_ready(cudaGraph_t graph) {
    cudaGraphExec_t exec;
    kb_must(cudaGraphInstantiate(&exec, graph, 0), "making a graph");
    (void)cudaGraphDestroy(graph);
    return exec;
}

/* The engine is about to queue this kernel: to its own stream, or aside if it has enough. */
static void next_kernel(void *arg, const char *name, bool own) {
    kb_sites *sites = arg;
    kb_site *site = NULL;
    for (uint32_t i = 0; i < sites->n_sites && site == NULL; i++) {
        if (strcmp(sites->site[i].name, name) == 0) site = &sites->site[i];
    }
    if (site == NULL) {
        if (sites->n_sites == KB_SITES) kb_fail("more than %d kernels in a stage", KB_SITES);
        cudaStream_t stream = begin_capture(sites->streams[sites->n_sites]);
        site = &sites->site[sites->n_sites++];
        *site = (kb_site){.name = name, .own = own, .stream = stream};
    }
    if (site->count < sites->times) {
        site->count++;
        use_stream(sites, site->stream);
        return;
    }
    if (sites->rest == NULL) sites->rest = begin_capture(sites->streams[KB_SITES]);
    use_stream(sites, sites->rest);
}

/* Other weights and another descriptor for walk i. */
static void take_set(kb_sites *sites, uint32_t i) {
    cu_backend *cuda = sites->rig->cuda;
    kb_sets *sets = sites->sets;
    const cu_backend *outside = &sets->outside[i % KB_SETS];
    if (sets->n_desc) cuda->desc = sets->desc[i % sets->n_desc];
    cuda->prelude = sets->layers[ENG_STAGE_PRELUDE][i % KB_SETS];
    cuda->core = sets->layers[ENG_STAGE_RECURRENT][i % KB_SETS];
    cuda->coda = sets->layers[ENG_STAGE_CODA][i % KB_SETS];
    cuda->final_norm = outside->final_norm;
    cuda->loop_norm = outside->loop_norm;
    cuda->inj_a = outside->inj_a;
    cuda->inj_b = outside->inj_b;
    cuda->inj_step = outside->inj_step;
    cuda->input_norm = outside->input_norm;
    cuda->inj_state.w = outside->inj_state.w;
    cuda->inj_input.w = outside->inj_input.w;
    cuda->coda_in.w = outside->coda_in.w;
    cuda->halt_w = outside->halt_w;
    cuda->lora_down = outside->lora_down;
    cuda->lora_b = outside->lora_b;
    cuda->head.w = outside->head.w;
}

/* Walks the stage `times` times, and leaves the backend as it was. */
static void walk(kb_sites *sites, int stage, uint32_t rows, cu_path path, bool cold) {
    cu_backend *cuda = sites->rig->cuda, before = *cuda;
    for (uint32_t i = 0; i < sites->times; i++) {
        take_set(sites, cold ? i : 0);
        kb_must(stage == CU_STAGES ? eng__cuda_head(cuda, rows)
                                   : eng__cuda_stage(cuda, (eng_stage)stage, rows, path),
                "queueing a stage");
    }
    before.mem = cuda->mem; /* it may have grown */
    *cuda = before;
    use_stream(sites, sites->main);
}

void kb_capture(kb_sites *sites, int stage, uint32_t rows, cu_path path, bool cold) {
    cu_backend *cuda = sites->rig->cuda;
    make_streams(sites);
    sites->n_sites = 0;
    sites->rest = NULL;
    cuda->next_kernel = next_kernel;
    cuda->next_arg = sites;
    walk(sites, stage, rows, path, cold);
    cuda->next_kernel = NULL;
    cudaGraph_t graph[KB_SITES];
    if (sites->rest) (void)cudaGraphDestroy(end_capture(sites->rest));
    for (uint32_t i = 0; i < sites->n_sites; i++)
        graph[i] = end_capture(sites->site[i].stream);
    for (uint32_t i = 0; i < sites->n_sites; i++)
        sites->site[i].exec = make_ready(graph[i]);
}

void kb_capture_whole(kb_sites *sites, int stage, uint32_t rows, cu_path path) {
    make_streams(sites);
    cudaStream_t stream = begin_capture(sites->streams[0]);
    use_stream(sites, stream);
    walk(sites, stage, rows, path, true);
    sites->n_sites = 1;
    sites->site[0] = (kb_site){.name = "whole", .own = true, .count = sites->times};
    sites->site[0].exec = make_ready(end_capture(stream));
}

void kb_forget(kb_sites *sites) {
    for (uint32_t i = 0; i < sites->n_sites; i++)
        (void)cudaGraphExecDestroy(sites->site[i].exec);
    sites->n_sites = 0;
}

void kb_close_sites(kb_sites *sites) {
    for (uint32_t i = 0; i < ARRAY_LEN(sites->streams) && sites->streams[i]; i++)
        (void)cudaStreamDestroy(sites->streams[i]);
}

/* Reads something else through the second-level cache; writing would leave lines to write back. */
static void flush(kb_sites *sites) {
    kb_must(probe_read(sites->main, sites->flush, sites->flush_bytes, sites->sink,
                       (uint32_t)sites->rig->cuda->sms * 4),
            "flushing the cache");
}

kb_times kb_time(kb_sites *sites, const kb_site *site, bool cold) {
    double us[REPLAYS];
    kb_rig *rig = sites->rig;
    uint32_t n = sites->replays < REPLAYS ? sites->replays : REPLAYS;
    kb_must(cudaGraphLaunch(site->exec, sites->main), site->name); /* the first uploads the graph */
    for (uint32_t i = 0; i < n; i++) {
        float ms = 0;
        /* Either keeps the device busy until the timed launch has been queued. */
        if (cold) flush(sites);
        else kb_must(cudaGraphLaunch(site->exec, sites->main), site->name);
        kb_must(cudaEventRecord(rig->from, sites->main), "timing");
        kb_must(cudaGraphLaunch(site->exec, sites->main), site->name);
        kb_must(cudaEventRecord(rig->to, sites->main), "timing");
        kb_must(cudaEventSynchronize(rig->to), site->name);
        kb_must(cudaEventElapsedTime(&ms, rig->from, rig->to), "timing");
        us[i] = (double)ms * 1e3 / site->count;
    }
    return kb_sorted(us, n);
}

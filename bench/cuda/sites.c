/* sites.c - every kernel of a stage timed alone, with the arguments the engine itself gives it.
 *
 * The engine's own code queues a stage's kernels; before each it says the kernel's name, and the
 * stream is replaced by the kernel's own, capturing stream. So one walk puts each kernel into a
 * graph of its own, and n walks make graphs of n repetitions, each with other weights and another
 * descriptor. Working memory still holds the values of the last launch, so every kernel reads the
 * same values as in a step; activations are as warm as in a step, just written by the kernel
 * before. */
#include "base/size.h"
#include "bench/cuda/bench.h"

#include <string.h>

enum { REPLAYS = 16, BLAS_SPACE = 32 << 20 };

cudaError_t probe_read(cudaStream_t s, const void *p, uint64_t bytes, void *sink, uint32_t blocks);

static void use_stream(kb_sites *s, cudaStream_t stream) {
    cu_backend *b = s->x->b;
    b->stream = stream;
    if (b->blas == NULL) return;
    if (s->blas_space == NULL) s->blas_space = kb_take(b, BLAS_SPACE);
    if (cublasSetStream(b->blas, stream) != CUBLAS_STATUS_SUCCESS ||
        cublasSetWorkspace(b->blas, s->blas_space, BLAS_SPACE) != CUBLAS_STATUS_SUCCESS) {
        kb_fail("cuBLAS does not take a stream");
    }
}

/* Streams are made before anything is captured: a capturing thread may not make every call. */
static void make_streams(kb_sites *s) {
    s->main = s->x->b->stream;
    use_stream(s, s->main); /* and cuBLAS's workspace */
    for (uint32_t i = 0; i < ARRAY_LEN(s->streams) && s->streams[i] == NULL; i++) {
        kb_must(cudaStreamCreateWithFlags(&s->streams[i], cudaStreamNonBlocking),
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
    kb_sites *s = arg;
    kb_site *site = NULL;
    for (uint32_t i = 0; i < s->n_sites && site == NULL; i++) {
        if (strcmp(s->site[i].name, name) == 0) site = &s->site[i];
    }
    if (site == NULL) {
        if (s->n_sites == KB_SITES) kb_fail("more than %d kernels in a stage", KB_SITES);
        cudaStream_t stream = begin_capture(s->streams[s->n_sites]);
        site = &s->site[s->n_sites++];
        *site = (kb_site){.name = name, .own = own, .stream = stream};
    }
    if (site->n < s->times) {
        site->n++;
        use_stream(s, site->stream);
        return;
    }
    if (s->rest == NULL) s->rest = begin_capture(s->streams[KB_SITES]);
    use_stream(s, s->rest);
}

/* Other weights and another descriptor for walk i. */
static void take_set(kb_sites *s, uint32_t i) {
    cu_backend *b = s->x->b;
    kb_sets *t = s->sets;
    const cu_backend *o = &t->outside[i % KB_SETS];
    if (t->n_desc) b->desc = t->desc[i % t->n_desc];
    b->prelude = t->layers[ENG_STAGE_PRELUDE][i % KB_SETS];
    b->core = t->layers[ENG_STAGE_RECURRENT][i % KB_SETS];
    b->coda = t->layers[ENG_STAGE_CODA][i % KB_SETS];
    b->final_norm = o->final_norm;
    b->loop_norm = o->loop_norm;
    b->inj_a = o->inj_a;
    b->inj_b = o->inj_b;
    b->halt_w = o->halt_w;
    b->lora_down = o->lora_down;
    b->lora_b = o->lora_b;
    b->head.w = o->head.w;
}

/* Walks the stage `times` times, and leaves the backend as it was. */
static void walk(kb_sites *s, int stage, uint32_t rows, cu_path path, bool cold) {
    cu_backend *b = s->x->b, before = *b;
    for (uint32_t i = 0; i < s->times; i++) {
        take_set(s, cold ? i : 0);
        kb_must(stage == CU_STAGES ? eng__cuda_head(b, rows)
                                   : eng__cuda_stage(b, (eng_stage)stage, rows, path),
                "queueing a stage");
    }
    before.mem = b->mem; /* it may have grown */
    *b = before;
    use_stream(s, s->main);
}

void kb_capture(kb_sites *s, int stage, uint32_t rows, cu_path path, bool cold) {
    cu_backend *b = s->x->b;
    make_streams(s);
    s->n_sites = 0;
    s->rest = NULL;
    b->next_kernel = next_kernel;
    b->next_arg = s;
    walk(s, stage, rows, path, cold);
    b->next_kernel = NULL;
    cudaGraph_t graph[KB_SITES];
    if (s->rest) (void)cudaGraphDestroy(end_capture(s->rest));
    for (uint32_t i = 0; i < s->n_sites; i++)
        graph[i] = end_capture(s->site[i].stream);
    for (uint32_t i = 0; i < s->n_sites; i++)
        s->site[i].exec = make_ready(graph[i]);
}

void kb_capture_whole(kb_sites *s, int stage, uint32_t rows, cu_path path) {
    make_streams(s);
    cudaStream_t stream = begin_capture(s->streams[0]);
    use_stream(s, stream);
    walk(s, stage, rows, path, true);
    s->n_sites = 1;
    s->site[0] = (kb_site){.name = "whole", .own = true, .n = s->times};
    s->site[0].exec = make_ready(end_capture(stream));
}

void kb_forget(kb_sites *s) {
    for (uint32_t i = 0; i < s->n_sites; i++)
        (void)cudaGraphExecDestroy(s->site[i].exec);
    s->n_sites = 0;
}

void kb_close_sites(kb_sites *s) {
    for (uint32_t i = 0; i < ARRAY_LEN(s->streams) && s->streams[i]; i++)
        (void)cudaStreamDestroy(s->streams[i]);
}

/* Reads something else through the second-level cache; writing would leave lines to write back. */
static void flush(kb_sites *s) {
    kb_must(probe_read(s->main, s->flush, s->flush_bytes, s->sink, (uint32_t)s->x->b->sms * 4),
            "flushing the cache");
}

kb_times kb_time(kb_sites *s, const kb_site *site, bool cold) {
    double us[REPLAYS];
    kb_rig *x = s->x;
    uint32_t n = s->replays < REPLAYS ? s->replays : REPLAYS;
    kb_must(cudaGraphLaunch(site->exec, s->main), site->name); /* the first uploads the graph */
    for (uint32_t i = 0; i < n; i++) {
        float ms = 0;
        /* Either keeps the device busy until the timed launch has been queued. */
        if (cold) flush(s);
        else kb_must(cudaGraphLaunch(site->exec, s->main), site->name);
        kb_must(cudaEventRecord(x->from, s->main), "timing");
        kb_must(cudaGraphLaunch(site->exec, s->main), site->name);
        kb_must(cudaEventRecord(x->to, s->main), "timing");
        kb_must(cudaEventSynchronize(x->to), site->name);
        kb_must(cudaEventElapsedTime(&ms, x->from, x->to), "timing");
        us[i] = (double)ms * 1e3 / site->n;
    }
    return kb_sorted(us, n);
}

/* bench.h - what the files of the kernel benchmark share. Names carry kb_; a failed CUDA call
 * ends the program. */
#ifndef FATHOM_BENCH_CUDA_BENCH_H
#define FATHOM_BENCH_CUDA_BENCH_H

#include "engine/cuda/cuda_internal.h"

typedef struct {
    cudaStream_t stream;
    cudaEvent_t from, to;
    uint32_t sms, repeats;
    double read_gbs, matrix_tflops, gap_us;
    void *taken[256];
    uint32_t n_taken;
    model_plan c;
    uint32_t context;
    uint64_t seed;
    cublasHandle_t blas;
    void *blas_space;
} bench;

typedef cudaError_t (*go)(bench *b, void *arg);
extern bool kb_first_line; /* of the JSON list that every measurement adds a line to */

void kb_must(cudaError_t rc, const char *what);
/* Device memory: cleared, or filled with v; given back by kb_give_all. */
void *kb_take(bench *b, size_t bytes);
void *kb_put(bench *b, const void *v, size_t bytes);
void kb_give_all(bench *b);
void kb_begin(bench *b);
double kb_end_us(bench *b, uint32_t times); /* microseconds of one of so many */
/* A cache of n slots in one plane, every position at a slot of its own, scattered. */
cu_cache kb_scattered(bench *b, uint32_t n);
/* Everything but descriptor and cache, for so many rows. */
cu_attn_args kb_attention_args(bench *b, uint32_t rows, uint32_t splits);
uint32_t kb_splits_for(const bench *b, uint32_t blocks, uint32_t context);
/* prefill.c: chunks on both sides of the crossover; says from which one on expanding was faster. */
void kb_prefills(bench *b, bool small);

#endif

/* reference_internal.h - the weights of the reference model as float matrices [out][in], and its
 * formulas. */
#ifndef FATHOM_TEST_REFERENCE_INTERNAL_H
#define FATHOM_TEST_REFERENCE_INTERNAL_H

#include "tests/lib/reference.h"

typedef struct {
    float *values; /* [rows][cols]; NULL: the model has none */
    size_t rows, cols;
} mat;

typedef struct {
    mat gate, up, down; /* without a gate: half the squared ReLU */
} ffn;

typedef struct {
    mat attn_norm, attn_out_norm, ffn_norm, ffn_out_norm;
    mat q_down, q_up_nope, q_up_rope, kv_down, kv_norm, kv_up; /* MLA */
    mat wq, wk, wv, q_bias, k_bias, k_norm;                    /* GQA */
    mat q_norm, wo;                                            /* both */
    mat value_table, value_gate;
    ffn dense;
    mat router, router_bias; /* MOE */
    ffn *routed, *shared;
} ref_layer;

struct reference {
    model_plan plan;
    mat embed, input_norm, norm, head;
    ref_layer *prelude, *core, *coda;
    mat loop_norm, log_A, log_dt, inject_b, inject, exit_w, exit_b, lora_down, lora_B, lora_scale;
    mat coda_in;
};

/* The keys and values of all positions in one layer, per head. */
typedef struct {
    float *keys, *values; /* [S][n_kv][k_dim], [S][n_kv][v_dim] */
    uint32_t n_kv, k_dim, v_dim;
} kv;

/* One sequence being computed. */
typedef struct {
    const reference *ref;
    const uint32_t *ids;
    uint32_t n;
    float *router_margin; /* the least distance between an expert picked and one left out */
} ref_seq;

/* Zeroed; aborts when out of memory. */
void *ref__alloc(size_t n, size_t item);
float *ref__floats(size_t n);

kv ref__kv_new(const model_plan *plan, uint32_t n);
void ref__kv_free(kv *store);
double ref__dot(const float *a, const float *b, size_t n);
/* From now on every sum of a product is moved by this share of the sizes of its terms, up or down
 * by its number and the pattern. */
void ref__nudge(float share, uint32_t pattern);
/* y = x W^T */
void ref__linear(const mat *weight, const float *x, float *y);
/* The weighted RMS norm with the plan's eps; y may be x. */
void ref__rms(const reference *ref, const float *x, const mat *weight, float *y);
double ref__sigmoid(double x);
/* Runs a layer on the positions marked (all if run is NULL); x [S][D] in place. The K/V of
 * positions not run stay in the store as they are. */
void ref__run_layer(const ref_seq *seq, const ref_layer *layer, kv *store, const bool *run,
                    float *x);

#endif

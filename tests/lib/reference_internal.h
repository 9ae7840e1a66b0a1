/* reference_internal.h - the weights of the reference model, as float matrices [out][in]. */
#ifndef FATHOM_TEST_REFERENCE_INTERNAL_H
#define FATHOM_TEST_REFERENCE_INTERNAL_H

#include "tests/lib/reference.h"

typedef struct {
    float *values; /* [rows][cols] */
    size_t rows, cols;
} mat;

typedef struct {
    mat gate, up, down;
} ffn;

typedef struct {
    mat attn_norm, attn_out_norm, ffn_norm, ffn_out_norm;
    mat q_down, q_norm, q_up_nope, q_up_rope, kv_down, kv_norm, kv_up; /* MLA */
    mat wq, wk, wv;                                                    /* GQA */
    mat wo;
    ffn dense;
    mat router, router_bias; /* MOE */
    ffn *routed, *shared;
} block;

struct reference {
    model_plan plan;
    mat embed, norm, head;
    block *prelude, *core, *coda;
    mat loop_norm, log_A, log_dt, inject_b, exit_w, exit_b, lora_down, lora_B, lora_scale;
};

/* Zeroed; aborts when out of memory. */
void *ref__alloc(size_t n, size_t item);
float *ref__floats(size_t n);

#endif

/* pack_internal.h - packing of one matrix: pack.c for weights.c. */
#ifndef FATHOM_CPU_PACK_INTERNAL_H
#define FATHOM_CPU_PACK_INTERNAL_H

#include "engine/cpu/cpu_internal.h"

typedef enum {
    ENG__PACK_ROWS,    /* column c is row row0 + c of the tensor, from its value col0 on */
    ENG__PACK_COLS,    /* weight [k][c] is value [row0 + k][c] of the tensor */
    ENG__PACK_GATE_UP, /* 16 gate rows, then 16 up rows per panel; one expert after another */
    ENG__PACK_DOWN     /* k runs over the padded hidden values of one expert after another */
} eng__pack_kind;

enum { ENG__MAX_SOURCES = 2 * 64 };

typedef struct {
    eng__cpu *cpu;
    bool fill;          /* false: only sizes and places; true: the image exists */
    bool packed;        /* the image came from a file and needs no packing */
    bool not_finite;    /* a sample of a packed image is NaN or infinite */
    bool keep;          /* never int8 */
    bool divide;        /* this rank holds its share of the panels alone */
    bool rope;          /* rows are queries or keys, in the order of the rotation */
    size_t at;          /* bytes of the image assigned so far */
    uint64_t f32_bytes; /* of the image's float32 matrices */
    eng__mat *mat;
    eng__pack_kind kind;
    uint32_t row0, col0, hidden, hidden_padded;
    model_tensor *src; /* GATE_UP: gate, up, gate, up, … */
    uint32_t n_src;
    progress bar; /* of the filling, by bytes of the image */
} eng__pack;

/* Assigns pack->mat, of n_out columns and n_in k steps, its place in the image. If the image
 * exists, fills it from pack->src. */
int eng__pack_run(eng__pack *pack, uint32_t n_out, uint32_t n_in, err *e) WARN_UNUSED;

#endif

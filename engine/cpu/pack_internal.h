/* pack_internal.h - packing one matrix, as pack.c does it for weights.c. */
#ifndef FATHOM_CPU_PACK_INTERNAL_H
#define FATHOM_CPU_PACK_INTERNAL_H

#include "engine/cpu/cpu_internal.h"

typedef enum {
    ENG__PACK_ROWS,    /* column c = row row0 + c of the tensor */
    ENG__PACK_COLS,    /* w[k][c] = tensor[row0 + k][c] */
    ENG__PACK_GATE_UP, /* 16 gate rows then 16 up rows per panel; experts one after the other */
    ENG__PACK_DOWN     /* k runs over the padded hidden values of the experts one after the other */
} eng__pack_kind;

enum { ENG__MAX_SOURCES = 2 * 64 };

typedef struct {
    eng__cpu *cpu;
    bool fill;       /* false: only sizes and places; true: the image is there */
    bool packed;     /* the image came from a file and needs no work */
    bool not_finite; /* of a packed image: a sample of it holds NaN or infinity */
    bool keep;       /* never int8 */
    bool rope;       /* rows are queries or keys, and take the order that rotation wants */
    size_t at;       /* bytes of the image given out */
    eng__mat *mat;
    eng__pack_kind kind;
    uint32_t row0, hidden, hidden_padded;
    model_tensor *src; /* GATE_UP: gate, up, gate, up, … */
    uint32_t n_src;
    uint64_t started_ns, said_ns;
} eng__pack;

/* Gives j->m, of n output columns and k steps, its place in the image and, when the image is
 * there, fills it from j->src. */
int eng__pack_run(eng__pack *pack, uint32_t n_out, uint32_t n_in, err *e) WARN_UNUSED;

#endif

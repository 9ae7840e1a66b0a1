/* copies.c - data that changes from one repetition of a kernel to the next, to keep it out of the
 * second-level cache: copies of weights, and descriptors of other sequences. */
#include "base/size.h"
#include "bench/cuda/bench.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    cu_backend *b;
    size_t want;   /* bytes a kernel goes through before it returns to the first */
    size_t budget; /* left for copies */
    bool short_of_memory;
} copier;

/* Number of copies of an object of `bytes` bytes if a repetition reads `touched` bytes of one. */
static uint32_t copies_of(copier *k, size_t touched, size_t bytes) {
    size_t n = touched ? (k->want + touched - 1) / touched : 1;
    if (n > KB_SETS) n = KB_SETS;
    while (n > 1 && (n - 1) * bytes > k->budget) {
        k->short_of_memory = true;
        n--;
    }
    k->budget -= (n - 1) * bytes;
    return (uint32_t)n;
}

/* to[i] = copy i mod n of `from`; the first is `from` itself. */
static void spread(copier *k, void *from, size_t bytes, size_t touched, void *to[KB_SETS]) {
    uint32_t n = copies_of(k, touched, bytes);
    for (uint32_t i = 0; i < KB_SETS; i++) {
        if (i == 0) to[i] = from;
        else if (i >= n) to[i] = to[i % n];
        else {
            to[i] = kb_take(k->b, bytes);
            kb_must(cudaMemcpyAsync(to[i], from, bytes, cudaMemcpyDeviceToDevice, k->b->stream),
                    "copying weights");
        }
    }
}

static void spread_mat(copier *k, cu_layer *sets[KB_SETS], uint32_t layer, size_t offset,
                       uint32_t count, uint32_t touched, uint32_t layers) {
    void *to[KB_SETS];
    cu_mat *m = (cu_mat *)(void *)((char *)&sets[0][layer] + offset);
    if (m->w == NULL) return;
    size_t one = (size_t)cu_round(m->n, CU_MM_ROWS) * m->ld * 2;
    spread(k, m->w, one * count, one * touched * layers, to);
    for (uint32_t i = 0; i < KB_SETS; i++)
        ((cu_mat *)(void *)((char *)&sets[i][layer] + offset))->w = to[i];
}

static void spread_floats(copier *k, cu_layer *sets[KB_SETS], uint32_t layer, size_t offset,
                          uint32_t n) {
    void *to[KB_SETS], *from;
    memcpy(&from, (char *)&sets[0][layer] + offset, sizeof from);
    if (from == NULL) return;
    spread(k, from, (size_t)n * 4, (size_t)n * 4, to);
    for (uint32_t i = 0; i < KB_SETS; i++)
        memcpy((char *)&sets[i][layer] + offset, &to[i], sizeof to[i]);
}

static void spread_layers(copier *k, kb_sets *s, eng_stage stage, const cu_layer *layers) {
    const model_plan *c = &k->b->plan;
    uint32_t n = eng__cuda_layers(k->b, stage), d = c->dim, h = c->n_heads;
    bool moe = stage == ENG_STAGE_RECURRENT && c->core_ffn == FFN_MOE;
    uint32_t experts = moe ? c->n_experts : 1, live = moe ? c->n_experts_per_tok : 1;
    for (uint32_t i = 0; i < KB_SETS; i++) {
        cu_layer *set = array_new(n ? n : 1, sizeof *set);
        if (set == NULL) kb_fail("out of memory");
        if (n) memcpy(set, layers, n * sizeof *set);
        s->layers[stage][i] = set;
    }
    const struct {
        size_t at;
        uint32_t count, touched;
    } mats[] = {
        {offsetof(cu_layer, in), 1, 1},
        {offsetof(cu_layer, wo), 1, 1},
        {offsetof(cu_layer, q_up), 1, 1},
        {offsetof(cu_layer, uk), h, h},
        {offsetof(cu_layer, uv), h, h},
        {offsetof(cu_layer, router), 1, 1},
        {offsetof(cu_layer, shared_gate_up), k->b->groups_shared, k->b->groups_shared},
        {offsetof(cu_layer, shared_down), 1, 1},
        {offsetof(cu_layer, gate_up), experts, live},
        {offsetof(cu_layer, down), experts, live},
    };
    const struct {
        size_t at;
        uint32_t n;
    } floats[] = {
        {offsetof(cu_layer, attn_norm), d},
        {offsetof(cu_layer, ffn_norm), d},
        {offsetof(cu_layer, attn_out_norm), d},
        {offsetof(cu_layer, ffn_out_norm), d},
        {offsetof(cu_layer, q_norm), c->q_lora_rank},
        {offsetof(cu_layer, kv_norm), c->kv_lora_rank},
        {offsetof(cu_layer, router_bias), c->n_experts},
    };
    for (uint32_t i = 0; i < n; i++) {
        for (size_t j = 0; j < ARRAY_LEN(floats) && n == 1; j++)
            spread_floats(k, s->layers[stage], i, floats[j].at, floats[j].n);
        for (size_t j = 0; j < ARRAY_LEN(mats); j++)
            spread_mat(k, s->layers[stage], i, mats[j].at, mats[j].count, mats[j].touched, n);
    }
}

/* Vectors read by the end of a loop and by the head. */
static void spread_outside(copier *k, kb_sets *s) {
    const model_plan *c = &k->b->plan;
    cu_backend *b = k->b;
    void *to[KB_SETS];
    const struct {
        size_t at, bytes;
    } parts[] = {
        {offsetof(cu_backend, final_norm), (size_t)c->dim * 4},
        {offsetof(cu_backend, loop_norm), (size_t)c->dim * 4},
        {offsetof(cu_backend, inj_a), (size_t)c->dim * 4},
        {offsetof(cu_backend, inj_b), (size_t)c->dim * 4},
        {offsetof(cu_backend, halt_w), (size_t)c->dim * 4},
        {offsetof(cu_backend, lora_down), (size_t)c->dim * c->lora_rank * 4},
        {offsetof(cu_backend, lora_b), (size_t)c->dim * c->lora_rank * 4},
        {offsetof(cu_backend, head.w), (size_t)cu_round(b->head.n, CU_MM_ROWS) * b->head.ld * 2},
    };
    for (uint32_t i = 0; i < KB_SETS; i++)
        s->outside[i] = *b;
    for (size_t j = 0; j < ARRAY_LEN(parts); j++) {
        void *from;
        memcpy(&from, (char *)b + parts[j].at, sizeof from);
        if (from == NULL) continue;
        spread(k, from, parts[j].bytes, parts[j].bytes, to);
        for (uint32_t i = 0; i < KB_SETS; i++)
            memcpy((char *)&s->outside[i] + parts[j].at, &to[i], sizeof to[i]);
    }
}

void kb_copy_weights(kb_sets *s, cu_backend *b, size_t cache_bytes, size_t budget) {
    copier k = {.b = b, .want = 4 * cache_bytes, .budget = budget};
    spread_outside(&k, s);
    spread_layers(&k, s, ENG_STAGE_RECURRENT, b->core);
    spread_layers(&k, s, ENG_STAGE_PRELUDE, b->prelude);
    spread_layers(&k, s, ENG_STAGE_CODA, b->coda);
    kb_must(cudaStreamSynchronize(b->stream), "copying weights");
    s->short_of_memory = k.short_of_memory;
}

/* The engine packs descriptors itself: each is copied from the device after a launch of other
 * rows. */
void kb_copy_desc(kb_sets *s, kb_rig *x, eng_stage stage, uint32_t rows, uint32_t n) {
    cu_backend *b = x->b;
    s->n_desc = n;
    for (uint32_t i = n; i-- > 0;) { /* the working memory then belongs to the first */
        if (s->desc[i] == NULL) s->desc[i] = kb_take(b, b->desc_bytes);
        uint32_t first = (uint32_t)((uint64_t)i * rows % (x->n_seqs - rows + 1));
        (void)kb_run(x, stage, first, rows);
        kb_must(cudaMemcpyAsync(s->desc[i], b->desc, b->desc_bytes, cudaMemcpyDeviceToDevice,
                                b->stream),
                "copying a descriptor");
    }
    kb_must(cudaStreamSynchronize(b->stream), "copying descriptors");
}

void kb_free_sets(kb_sets *s) {
    for (int stage = 0; stage < CU_STAGES; stage++) {
        for (uint32_t i = 0; i < KB_SETS; i++)
            free(s->layers[stage][i]);
    }
}

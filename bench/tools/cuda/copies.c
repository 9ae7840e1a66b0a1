/* copies.c - data that changes from one repetition of a kernel to the next, to keep it out of the
 * second-level cache: copies of weights, and descriptors of other sequences. */
#include "base/size.h"
#include "bench/tools/cuda/bench.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    cu_backend *cuda;
    size_t want;   /* bytes a kernel goes through before it returns to the first */
    size_t budget; /* left for copies */
    bool short_of_memory;
} weight_copier;

/* Number of copies of an object of `bytes` bytes if a repetition reads `touched` bytes of one. */
static uint32_t copies_of(weight_copier *copier, size_t touched, size_t bytes) {
    size_t n = touched ? (copier->want + touched - 1) / touched : 1;
    if (n > KB_SETS) n = KB_SETS;
    while (n > 1 && (n - 1) * bytes > copier->budget) {
        copier->short_of_memory = true;
        n--;
    }
    copier->budget -= (n - 1) * bytes;
    return (uint32_t)n;
}

/* to[i] = copy i mod n of `from`; the first is `from` itself. */
static void spread(weight_copier *copier, void *from, size_t bytes, size_t touched,
                   void *to[KB_SETS]) {
    uint32_t n = copies_of(copier, touched, bytes);
    for (uint32_t i = 0; i < KB_SETS; i++) {
        if (i == 0) to[i] = from;
        else if (i >= n) to[i] = to[i % n];
        else {
            to[i] = kb_take(copier->cuda, bytes);
            kb_must(
                cudaMemcpyAsync(to[i], from, bytes, cudaMemcpyDeviceToDevice, copier->cuda->stream),
                "copying weights");
        }
    }
}

static void spread_mat(weight_copier *copier, cu_layer *sets[KB_SETS], uint32_t layer,
                       size_t offset, uint32_t count, uint32_t touched, uint32_t layers) {
    void *to[KB_SETS];
    cu_mat *mat = (cu_mat *)(void *)((char *)&sets[0][layer] + offset);
    if (mat->w == NULL) return;
    size_t one = (size_t)cu_round(mat->n, CU_MM_ROWS) * mat->ld * 2;
    spread(copier, mat->w, one * count, one * touched * layers, to);
    for (uint32_t i = 0; i < KB_SETS; i++)
        ((cu_mat *)(void *)((char *)&sets[i][layer] + offset))->w = to[i];
}

static void spread_floats(weight_copier *copier, cu_layer *sets[KB_SETS], uint32_t layer,
                          size_t offset, uint32_t n) {
    void *to[KB_SETS], *from;
    memcpy(&from, (char *)&sets[0][layer] + offset, sizeof from);
    if (from == NULL) return;
    spread(copier, from, (size_t)n * 4, (size_t)n * 4, to);
    for (uint32_t i = 0; i < KB_SETS; i++)
        memcpy((char *)&sets[i][layer] + offset, &to[i], sizeof to[i]);
}

static void spread_layers(weight_copier *copier, kb_sets *sets, eng_stage stage,
                          const cu_layer *layers) {
    const model_plan *plan = &copier->cuda->plan;
    uint32_t n = eng__cuda_layers(copier->cuda, stage), dim = plan->dim, heads = plan->n_heads;
    uint32_t turned = plan_q_width(plan) + plan_kv_width(plan);
    bool moe = stage == ENG_STAGE_RECURRENT && plan->core_ffn == FFN_MOE;
    uint32_t experts = moe ? plan->n_experts : 1, live = moe ? plan->n_experts_per_tok : 1;
    for (uint32_t i = 0; i < KB_SETS; i++) {
        cu_layer *set = array_new(n ? n : 1, sizeof *set);
        if (set == NULL) kb_fail("out of memory");
        if (n) memcpy(set, layers, n * sizeof *set);
        sets->layers[stage][i] = set;
    }
    const struct {
        size_t at;
        uint32_t count, touched;
    } mats[] = {
        {offsetof(cu_layer, in), 1, 1},
        {offsetof(cu_layer, wo), 1, 1},
        {offsetof(cu_layer, q_up), 1, 1},
        {offsetof(cu_layer, uk), heads, heads},
        {offsetof(cu_layer, uv), heads, heads},
        {offsetof(cu_layer, router), 1, 1},
        {offsetof(cu_layer, shared_gate_up), copier->cuda->groups_shared,
         copier->cuda->groups_shared},
        {offsetof(cu_layer, shared_down), 1, 1},
        {offsetof(cu_layer, gate_up), experts, live},
        {offsetof(cu_layer, down), experts, live},
    };
    const struct {
        size_t at;
        uint32_t len;
    } floats[] = {
        {offsetof(cu_layer, attn_norm), dim},
        {offsetof(cu_layer, ffn_norm), dim},
        {offsetof(cu_layer, attn_out_norm), dim},
        {offsetof(cu_layer, ffn_out_norm), dim},
        {offsetof(cu_layer, q_norm), plan->q_lora_rank},
        {offsetof(cu_layer, kv_norm), plan->kv_lora_rank},
        {offsetof(cu_layer, router_bias), plan->n_experts},
        {offsetof(cu_layer, qk_bias), turned},
        {offsetof(cu_layer, qk_norm), turned},
    };
    for (uint32_t i = 0; i < n; i++) {
        for (size_t j = 0; j < ARRAY_LEN(floats) && n == 1; j++)
            spread_floats(copier, sets->layers[stage], i, floats[j].at, floats[j].len);
        for (size_t j = 0; j < ARRAY_LEN(mats); j++)
            spread_mat(copier, sets->layers[stage], i, mats[j].at, mats[j].count, mats[j].touched,
                       n);
    }
}

static size_t bytes_of(const cu_mat *mat) {
    return (size_t)cu_round(mat->n, CU_MM_ROWS) * mat->ld * 2;
}

/* Weights that stand between the stages' layers, and the head. */
static void spread_outside(weight_copier *copier, kb_sets *sets) {
    const model_plan *plan = &copier->cuda->plan;
    cu_backend *cuda = copier->cuda;
    void *to[KB_SETS];
    const struct {
        size_t at, bytes;
    } parts[] = {
        {offsetof(cu_backend, final_norm), (size_t)plan->dim * 4},
        {offsetof(cu_backend, loop_norm), (size_t)plan->dim * 4},
        {offsetof(cu_backend, inj_a), (size_t)plan->dim * 4},
        {offsetof(cu_backend, inj_b), (size_t)plan->dim * 4},
        {offsetof(cu_backend, halt_w), (size_t)plan->dim * 4},
        {offsetof(cu_backend, lora_down), (size_t)plan->dim * plan->lora_rank * 4},
        {offsetof(cu_backend, lora_b), (size_t)plan->dim * plan->lora_rank * 4},
        {offsetof(cu_backend, inj_step), (size_t)plan->dim * 4},
        {offsetof(cu_backend, input_norm), (size_t)plan->dim * 4},
        {offsetof(cu_backend, inj_state.w), bytes_of(&cuda->inj_state)},
        {offsetof(cu_backend, inj_input.w), bytes_of(&cuda->inj_input)},
        {offsetof(cu_backend, coda_in.w), bytes_of(&cuda->coda_in)},
        {offsetof(cu_backend, head.w), bytes_of(&cuda->head)},
    };
    for (uint32_t i = 0; i < KB_SETS; i++)
        sets->outside[i] = *cuda;
    for (size_t j = 0; j < ARRAY_LEN(parts); j++) {
        void *from;
        memcpy(&from, (char *)cuda + parts[j].at, sizeof from);
        if (from == NULL) continue;
        spread(copier, from, parts[j].bytes, parts[j].bytes, to);
        for (uint32_t i = 0; i < KB_SETS; i++)
            memcpy((char *)&sets->outside[i] + parts[j].at, &to[i], sizeof to[i]);
    }
}

void kb_copy_weights(kb_sets *sets, cu_backend *cuda, size_t cache_bytes, size_t budget) {
    weight_copier copier = {.cuda = cuda, .want = 4 * cache_bytes, .budget = budget};
    spread_outside(&copier, sets);
    spread_layers(&copier, sets, ENG_STAGE_RECURRENT, cuda->core);
    spread_layers(&copier, sets, ENG_STAGE_PRELUDE, cuda->prelude);
    spread_layers(&copier, sets, ENG_STAGE_CODA, cuda->coda);
    kb_must(cudaStreamSynchronize(cuda->stream), "copying weights");
    sets->short_of_memory = copier.short_of_memory;
}

/* The engine packs descriptors itself: each is copied from the device after a launch of other
 * rows. */
void kb_copy_desc(kb_sets *sets, kb_rig *rig, eng_stage stage, uint32_t rows, uint32_t n) {
    cu_backend *cuda = rig->cuda;
    sets->n_desc = n;
    for (uint32_t i = n; i-- > 0;) { /* the working memory then belongs to the first */
        if (sets->desc[i] == NULL) sets->desc[i] = kb_take(cuda, cuda->desc_bytes);
        uint32_t first = (uint32_t)((uint64_t)i * rows % (rig->n_seqs - rows + 1));
        (void)kb_run(rig, stage, first, rows);
        kb_must(cudaMemcpyAsync(sets->desc[i], cuda->desc, cuda->desc_bytes,
                                cudaMemcpyDeviceToDevice, cuda->stream),
                "copying a descriptor");
    }
    kb_must(cudaStreamSynchronize(cuda->stream), "copying descriptors");
}

void kb_free_sets(kb_sets *sets) {
    for (int stage = 0; stage < CU_STAGES; stage++) {
        for (uint32_t i = 0; i < KB_SETS; i++)
            free(sets->layers[stage][i]);
    }
}

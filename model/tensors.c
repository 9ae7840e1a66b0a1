/* wants.c - every tensor a configuration needs, by name and shape. */
#include "model/model_internal.h"

#include <stdio.h>

typedef struct {
    const model_plan *c;
    int (*visit)(void *ud, const model__want *w);
    void *ud;
    int rc; /* first non-zero answer; nothing is visited after it */
} walk;

static void want(walk *k, model_part part, const char *prefix, const char *name, uint64_t rows,
                 uint64_t cols) {
    if (k->rc != 0) return;
    model__want w = {.part = part, .rank = cols ? 2 : 1, .shape = {rows, cols ? cols : 1}};
    (void)snprintf(w.name, sizeof w.name, "%s%s", prefix, name);
    k->rc = k->visit(k->ud, &w);
}

static void want_ffn(walk *k, model_part part, const char *prefix, uint64_t hidden) {
    uint64_t d = k->c->dim;
    want(k, part, prefix, "gate.weight", hidden, d);
    want(k, part, prefix, "up.weight", hidden, d);
    want(k, part, prefix, "down.weight", d, hidden);
}

static void want_attention(walk *k, const char *block) {
    const model_plan *c = k->c;
    uint64_t d = c->dim, h = c->n_heads;
    char p[64];
    (void)snprintf(p, sizeof p, "%sattn.", block);
    want(k, MODEL_PART_OTHER, block, "attn_norm.weight", d, 0);
    want(k, MODEL_PART_OTHER, block, "ffn_norm.weight", d, 0);
    if (c->attn_type == ATTN_GQA) {
        uint64_t kv = (uint64_t)c->n_kv_heads * c->head_dim;
        want(k, MODEL_PART_ATTENTION, p, "wq.weight", d, d);
        want(k, MODEL_PART_ATTENTION, p, "wk.weight", kv, d);
        want(k, MODEL_PART_ATTENTION, p, "wv.weight", kv, d);
        want(k, MODEL_PART_ATTENTION, p, "wo.weight", d, d);
        return;
    }
    want(k, MODEL_PART_ATTENTION, p, "q_down.weight", c->q_lora_rank, d);
    want(k, MODEL_PART_OTHER, p, "q_norm.weight", c->q_lora_rank, 0);
    want(k, MODEL_PART_ATTENTION, p, "q_up_nope.weight", h * c->qk_nope_head_dim, c->q_lora_rank);
    want(k, MODEL_PART_ATTENTION, p, "q_up_rope.weight", h * c->qk_rope_head_dim, c->q_lora_rank);
    want(k, MODEL_PART_ATTENTION, p, "kv_down.weight", c->slot_values, d);
    want(k, MODEL_PART_OTHER, p, "kv_norm.weight", c->kv_lora_rank, 0);
    want(k, MODEL_PART_ATTENTION, p, "kv_up.weight",
         h * ((uint64_t)c->qk_nope_head_dim + c->v_head_dim), c->kv_lora_rank);
    want(k, MODEL_PART_ATTENTION, p, "wo.weight", d, h * c->v_head_dim);
}

static void want_dense_blocks(walk *k, const char *stage, uint32_t n) {
    for (uint32_t i = 0; i < n && k->rc == 0; i++) {
        char block[32], ffn[48];
        (void)snprintf(block, sizeof block, "%s.%u.", stage, i);
        (void)snprintf(ffn, sizeof ffn, "%sffn.", block);
        want_attention(k, block);
        want_ffn(k, MODEL_PART_DENSE, ffn, k->c->dense_dim);
    }
}

static void want_experts(walk *k, model_part part, const char *kind, uint32_t n, uint64_t hidden) {
    for (uint32_t i = 0; i < n && k->rc == 0; i++) {
        char p[64];
        (void)snprintf(p, sizeof p, "recurrent.block.ffn.%s.%u.", kind, i);
        want_ffn(k, part, p, hidden);
    }
}

static void want_recurrent(walk *k) {
    const model_plan *c = k->c;
    uint64_t d = c->dim;
    const char *r = "recurrent.", *ffn = "recurrent.block.ffn.";
    want_attention(k, "recurrent.block.");
    want(k, MODEL_PART_EXPERTS, ffn, "router.weight", c->n_experts, d);
    want(k, MODEL_PART_EXPERTS, ffn, "router_bias", c->n_experts, 0);
    want_experts(k, MODEL_PART_EXPERTS, "routed_experts", c->n_experts, c->expert_dim);
    want_experts(k, MODEL_PART_SHARED, "shared_experts", c->n_shared_experts,
                 (uint64_t)c->expert_dim * c->n_experts_per_tok);
    want(k, MODEL_PART_OTHER, r, "norm.weight", d, 0);
    want(k, MODEL_PART_OTHER, r, "injection.log_A", d, 0);
    want(k, MODEL_PART_OTHER, r, "injection.log_dt", 1, 0);
    want(k, MODEL_PART_OTHER, r, "injection.B", d, 0);
    want(k, MODEL_PART_OTHER, r, "act.halt.weight", 1, d);
    want(k, MODEL_PART_OTHER, r, "act.halt.bias", 1, 0);
    want(k, MODEL_PART_OTHER, r, "lora.down.weight", c->lora_rank, d);
    want(k, MODEL_PART_OTHER, r, "lora.B", c->lora_rank, d);
    want(k, MODEL_PART_OTHER, r, "lora.scale.weight", c->max_loop_iters, c->lora_rank);
}

int model__wants(const model_plan *c, int (*visit)(void *ud, const model__want *w), void *ud) {
    walk k = {c, visit, ud, 0};
    want(&k, MODEL_PART_EMBED, "", "embed.weight", c->vocab_size, c->dim);
    want_dense_blocks(&k, "prelude", c->prelude_layers);
    want_recurrent(&k);
    want_dense_blocks(&k, "coda", c->coda_layers);
    want(&k, MODEL_PART_OTHER, "", "norm.weight", c->dim, 0);
    if (k.rc == 0) {
        model__want head = {.name = "head.weight",
                            .part = MODEL_PART_EMBED,
                            .optional = true,
                            .rank = 2,
                            .shape = {c->vocab_size, c->dim}};
        k.rc = visit(ud, &head);
    }
    return k.rc;
}

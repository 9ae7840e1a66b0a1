/* describe_parts.c - the parts of a plan in words, a line each, as inspect prints them. */
#include "cli/describe.h"

#include <stdio.h>

static void put_line(buf *out, const char *label) {
    buf_printf(out, "%s  %-20s ", out->len ? "\n" : "", label);
}

static void put_norms(buf *out, const model_plan *plan) {
    static const char *const words[] = {
        [NORM_PRE] = "of a sublayer's input",
        [NORM_SANDWICH] = "of a sublayer's input and output",
        [NORM_AFTER] = "of a sublayer's input, and of the sum with its output",
        [NORM_POST] = "of a sublayer's output",
    };
    put_line(out, "norms");
    buf_printf(out, "%s, eps %g", words[plan->norms], (double)plan->norm_eps);
    if (plan->loop_norm) buf_puts(out, "; of the state after each loop");
}

static void put_attention(buf *out, const model_plan *plan) {
    put_line(out, "attention");
    buf_printf(out, "%s, width %u, %u heads", plan->attn == ATTN_MLA ? "MLA" : "GQA", plan->dim,
               plan->n_heads);
    if (plan->attn == ATTN_MLA)
        buf_printf(out, ", latent %u + %u", plan->kv_lora_rank, plan->qk_rope_head_dim);
    else buf_printf(out, ", %u K/V heads of %u", plan->n_kv_heads, plan->head_dim);
    if (plan->qk_bias) buf_puts(out, ", a bias of queries and keys");
    if (plan->qk_norm == QK_NORM_FULL) buf_puts(out, ", a norm of queries and keys");
    if (plan->qk_norm == QK_NORM_HEAD_UNIT)
        buf_printf(out, ", each head's query and key normed (eps %g)", (double)plan->qk_norm_eps);
    put_line(out, "RoPE");
    buf_printf(out, "base %g", (double)plan->rope_theta);
    if (plan->scaling.factor > 0) {
        buf_printf(out, ", llama3 scaling by %g beyond %u positions", (double)plan->scaling.factor,
                   plan->scaling.original);
    }
}

static void put_ffn(buf *out, const model_plan *plan) {
    static const char *const words[] = {
        [FFN_SWIGLU] = "SwiGLU", [FFN_HALF_RELU2] = "squared ReLU", [FFN_MOE] = "experts"};
    char number[32];
    if (plan->core_ffn == FFN_MOE) {
        put_line(out, "experts");
        buf_printf(out, "%s of width %u, top %u, %u shared",
                   describe_number(number, plan->n_experts), plan->expert_dim,
                   plan->n_experts_per_tok, plan->n_shared_experts);
    }
    bool ends = plan->n_prelude + plan->n_coda > 0;
    if (plan->core_ffn == FFN_MOE && !ends) return;
    ffn_kind kind = plan->core_ffn == FFN_MOE ? plan->end_ffn : plan->core_ffn;
    put_line(out, "feed-forward");
    buf_printf(out, "%s, hidden width %s", words[kind], describe_number(number, plan->ffn_dim));
    if (plan->core_ffn == FFN_MOE) buf_puts(out, ", outside the loop");
    else if (ends && plan->end_ffn != kind)
        buf_printf(out, "; outside the loop %s", words[plan->end_ffn]);
}

static void put_value_embeds(buf *out, const model_plan *plan) {
    uint32_t n = 0, layers = plan->n_prelude + plan->n_core + plan->n_coda;
    for (uint32_t i = 0; i < layers; i++)
        n += plan_value_embed(plan, i);
    if (n == 0) return;
    put_line(out, "value embeddings");
    buf_printf(out, "a table in %u of %u layers", n, layers);
}

static void put_loop(buf *out, const model_plan *plan) {
    static const char *const inputs[] = {
        [INJECT_NONE] = "the state alone",
        [INJECT_MYTHOS] = "state and input, normed together",
        [INJECT_LINEAR] = "a matrix of state and input",
        [INJECT_DIAGONAL] = "the state, decayed per channel, plus a matrix of the input",
    };
    const char *source = plan->n_prelude ? "the prelude's output" : "the embedding";
    put_line(out, "loop's input");
    buf_puts(out, inputs[plan->inject]);
    if (plan->input_norm) buf_printf(out, " (%s, normed)", source);
    else if (plan->inject != INJECT_NONE) buf_printf(out, " (%s)", source);
    put_line(out, "first state");
    if (plan->state0 == STATE_EMBEDDING) buf_puts(out, source);
    else if (plan->state0 == STATE_ZERO) buf_puts(out, "zeros");
    else buf_printf(out, "drawn by position, std %.4g", (double)plan->state0_std);
    if (plan->coda_in == CODA_IN_NONE) return;
    put_line(out, "coda's input");
    buf_puts(out, plan->coda_in == CODA_IN_NORM ? "the state after the final norm"
                                                : "a matrix of the state");
}

void describe_parts(buf *out, const model_plan *plan) {
    put_line(out, "layers");
    buf_printf(out, "%u prelude, %u core (once per loop), %u coda", plan->n_prelude, plan->n_core,
               plan->n_coda);
    put_norms(out, plan);
    put_attention(out, plan);
    put_ffn(out, plan);
    put_value_embeds(out, plan);
    if (plan->embed_scale != 1) {
        put_line(out, "embedding");
        buf_printf(out, "scaled by %g", (double)plan->embed_scale);
    }
    put_loop(out, plan);
    buf_puts(out, "\n");
}

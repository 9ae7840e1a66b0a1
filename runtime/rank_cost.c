/* rank_cost.c - time and traffic of one pass through a stage, on one rank. */
#include "engine/ranks.h"
#include "runtime/rank_plan_internal.h"

#include <math.h>

/* Microseconds that a device takes to read bytes and to compute with them, one hiding the other. */
static double product_us(const rank_device *device, double bytes, double operations) {
    return fmax(bytes / (device->read_gbs * 1e3), operations / (device->tflops * 1e6));
}

rank__way rank__pass(const rank_plan *rp, rank_split split, uint32_t rows) {
    double part = ceil((double)rows / rp->ranks);
    bool replicas = split == RANK_REPLICAS;
    bool by_sequence = split == RANK_SEQUENCES || split == RANK_SEQUENCES_SUM;
    return (rank__way){.own = by_sequence || replicas ? part : rows,
                       .all = replicas ? part : rows,
                       .others = replicas ? 0 : rp->ranks - 1.0,
                       .by_sequence = by_sequence,
                       .sums = split == RANK_ORDERED_SUM || split == RANK_SEQUENCES_SUM};
}

/* Attention, norms, router and injection: everything undivided of a stage. */
static void add_whole(const rank_plan *rp, const rank__way *way, tensor_stage stage,
                      uint32_t layers, rank_cost *cost) {
    const model_plan *plan = rp->plan;
    double weights = (double)rp->read_whole[stage], bytes = weights * rp->weight_bytes;
    cost->weight_bytes += bytes;
    cost->us += product_us(&rp->device, bytes, 2 * weights * way->own);
    double heads = (double)layers * plan->n_heads * rp->context * way->own;
    double a_key = plan->attn == ATTN_MLA ? 2.0 * plan->kv_lora_rank + plan->qk_rope_head_dim
                                          : 2.0 * plan->head_dim;
    double cached = (double)layers * plan->layer_values * rp->context * way->own;
    cost->cache_bytes += cached * rp->device.value_bytes;
    cost->us += product_us(&rp->device, cached * rp->device.value_bytes, 2 * heads * a_key);
    cost->us += layers * rp->device.layer_us;
}

/* Operations and bytes of the divided matrices of one part. Of the routed experts a row reads
 * n_experts_per_tok, drawn at random and apart from the other rows. */
static void part_of(const rank_plan *rp, const rank__way *way, tensor_stage stage, model_part part,
                    double *bytes, double *operations) {
    const model_plan *plan = rp->plan;
    double own = 0, all = 0, read = 1, used = 1;
    for (uint32_t i = 0; i < rp->n_pieces; i++) {
        const rank_piece *piece = &rp->pieces[i];
        if (piece->stage != stage || piece->part != part) continue;
        own += (double)rank__own(rp, piece, rp->widest);
        all += (double)(piece->n * piece->rows * piece->cols);
    }
    if (part == MODEL_PART_EXPERTS && all > 0) {
        used = (double)plan->n_experts_per_tok / plan->n_experts;
        read = 1 - pow(1 - used, way->all);
    }
    double held = way->others > 0 ? own : all; /* a replica holds all */
    *bytes = held * read * rp->weight_bytes;
    *operations = 2 * held * used * way->all;
}

double rank__hidden(const model_plan *plan, ffn_kind kind) {
    if (kind != FFN_MOE) return plan->ffn_dim;
    return (double)plan->n_experts_per_tok * plan->expert_dim * (1 + plan->n_shared_experts);
}

/* Parts of all outputs may go to every rank. Or they are dealt out, each rank sums its columns, and
 * a second exchange brings the sums: fewer bytes from three ranks on. */
static bool deals(const rank_device *device, const rank__way *way, double dim) {
    double other = way->others / (way->others + 1);
    double saved = way->all * (way->others - 2 * other) * dim * device->sum_bytes;
    return saved / (device->link_gbs * 1e3) > device->exchange_us;
}

/* The exchanges of one layer. By sequence, the rows go to all ranks first: the stream, to which
 * each rank adds its columns in the order of one process, or only its norm if parts are summed
 * anyway. With sums of parts the hidden values do not move. */
static void add_exchange(const rank_plan *rp, const rank__way *way, double layers, double hidden,
                         rank_cost *cost) {
    const rank_device *device = &rp->device;
    double n = way->others + 1, dim = rp->plan->dim, bytes = 0;
    uint32_t exchanges = 0;
    if (way->others <= 0) return;
    double other = way->others / n; /* the others' share of the columns */
    if (way->by_sequence) {
        exchanges++;
        bytes += (way->all - way->own) * dim * (way->sums ? device->act_bytes : device->sum_bytes);
    }
    if (!way->sums) exchanges++, bytes += way->all * other * hidden * device->act_bytes;
    exchanges++;
    double sums = way->sums ? way->others : other;
    if (way->sums && !way->by_sequence && deals(device, way, dim)) exchanges++, sums = 2 * other;
    bytes += (way->by_sequence ? way->own : way->all) * sums * dim * device->sum_bytes;
    cost->exchanges += exchanges * (uint32_t)layers;
    cost->received += bytes * layers;
    cost->us += layers * (exchanges * device->exchange_us + bytes / (device->link_gbs * 1e3));
}

static void add_stage(const rank_plan *rp, const rank__way *way, tensor_stage stage,
                      uint32_t layers, rank_cost *cost) {
    static const model_part parts[] = {MODEL_PART_DENSE, MODEL_PART_SHARED, MODEL_PART_EXPERTS};
    double bytes = 0, operations = 0, apart = 0;
    add_whole(rp, way, stage, layers, cost);
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        double read, done;
        part_of(rp, way, stage, parts[i], &read, &done);
        bytes += read;
        operations += done;
        apart += product_us(&rp->device, read, done);
    }
    cost->weight_bytes += bytes;
    cost->us += rp->device.experts_together ? product_us(&rp->device, bytes, operations) : apart;
    ffn_kind kind = stage == PART_OF_CORE ? rp->plan->core_ffn : rp->plan->end_ffn;
    add_exchange(rp, way, layers, rank__hidden(rp->plan, kind), cost);
}

rank_cost rank_plan_loop(const rank_plan *rp, rank_split split, uint32_t rows) {
    rank_cost cost = {0};
    rank__way way = rank__pass(rp, split, rows);
    add_stage(rp, &way, PART_OF_CORE, rp->plan->n_core, &cost);
    return cost;
}

/* Logits go to every rank, or to the row's own rank: there the row is sampled. */
static void add_head(const rank_plan *rp, const rank__way *way, rank_cost *cost) {
    const model_plan *plan = rp->plan;
    eng_share own = eng_share_columns(plan->vocab_size, ENG_RANKS_OUT, rp->widest, rp->ranks);
    double columns = way->others > 0 ? own.last - own.first : plan->vocab_size;
    double weights = columns * plan->dim, bytes = weights * rp->weight_bytes;
    cost->weight_bytes += bytes;
    cost->us += product_us(&rp->device, bytes, 2 * weights * way->all);
    if (way->others <= 0) return;
    const rank_device *device = &rp->device;
    double rows = way->by_sequence ? way->own : way->all, received = 0;
    uint32_t exchanges = 1;
    received += rows * way->others / (way->others + 1) * plan->vocab_size * device->sum_bytes;
    if (way->by_sequence)
        exchanges++, received += (way->all - way->own) * plan->dim * device->act_bytes;
    cost->exchanges += exchanges;
    cost->received += received;
    cost->us += exchanges * device->exchange_us + received / (device->link_gbs * 1e3);
}

rank_cost rank_plan_ends(const rank_plan *rp, rank_split split, uint32_t rows) {
    rank_cost cost = {0};
    rank__way way = rank__pass(rp, split, rows);
    add_stage(rp, &way, PART_OF_PRELUDE, rp->plan->n_prelude, &cost);
    add_stage(rp, &way, PART_OF_CODA, rp->plan->n_coda, &cost);
    add_head(rp, &way, &cost);
    return cost;
}

double rank_plan_tokens_per_s(const rank_plan *rp, rank_split split, uint32_t rows, double depth) {
    double us = depth * rank_plan_loop(rp, split, rows).us + rank_plan_ends(rp, split, rows).us;
    return rows / us * 1e6;
}

/* rank_plan.c - the weights of each rank, and their fit into memory. */
#include "engine/ranks.h"
#include "runtime/rank_plan_internal.h"

#include <math.h>
#include <string.h>

/* ---- devices ----
 *
 * h200, h100: memory by the data sheet, and as bench/reports/h100.md found it; reads at 80 % of the
 * data sheets' 4.8 and 3.35 TB/s; operations at 70 % of the 790 TFLOP/s that cuBLAS reached on the
 * H100; the link at 80 % of NVLink's 450 GB/s a direction; 8 us for a small all-gather, an
 * assumption; 16 us a layer: so long took a layer of ouro_1.4b on the H100 beside its bytes.
 * cpu: the two cores of bench/LOG.md, and 10 Gb Ethernet; options give other figures. */
static const rank_device devices[] = {
    {"h200", 141, 3840, 553, 360, 8, 16, 2, 2, 4, false},
    {"h100", 85.5, 2680, 553, 360, 8, 16, 2, 2, 4, false},
    {"cpu", 0, 20, 0.2, 1.1, 50, 50, 4, 4, 4, true},
};

const rank_device *rank_device_find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(devices); i++)
        if (strcmp(devices[i].name, name) == 0) return &devices[i];
    return NULL;
}

static const struct {
    const char *name, *key;
} splits[RANK_SPLITS] = {
    [RANK_COLUMNS] = {"columns", "columns"},
    [RANK_ORDERED_SUM] = {"ordered sum", "ordered_sum"},
    [RANK_SEQUENCES] = {"sequences", "sequences"},
    [RANK_SEQUENCES_SUM] = {"sequences, sums", "sequences_sum"},
    [RANK_REPLICAS] = {"replicas", "replicas"},
};

const char *rank_split_name(rank_split split) {
    return splits[split].name;
}

const char *rank_split_key(rank_split split) {
    return splits[split].key;
}

/* ---- the weights ---- */

/* The unit of a divided matrix's output columns; 0 for a tensor held whole by each rank. */
static uint32_t unit_of(const model_plan *plan, const plan_matrix *tensor) {
    switch (tensor->place.role) {
    case TENSOR_GATE:
    case TENSOR_EXPERT_GATE:
    case TENSOR_EXPERT_UP:
    case TENSOR_SHARED_GATE:
    case TENSOR_SHARED_UP: return ENG_RANKS_HIDDEN;
    case TENSOR_UP: {
        ffn_kind kind = tensor->place.stage == PART_OF_CORE ? plan->core_ffn : plan->end_ffn;
        return kind == FFN_HALF_RELU2 ? ENG_RANKS_OUT : ENG_RANKS_HIDDEN;
    }
    case TENSOR_DOWN:
    case TENSOR_EXPERT_DOWN:
    case TENSOR_SHARED_DOWN:
    case TENSOR_HEAD: return ENG_RANKS_OUT;
    default: return 0;
    }
}

/* The stage with the passes that read a tensor. Tables are read by token: they count in
 * PART_OF_MODEL, and no pass reads them whole. */
static tensor_stage reader_of(const model_plan *plan, const plan_matrix *tensor) {
    if (tensor->place.stage != PART_OF_MODEL)
        return tensor->place.role == TENSOR_VALUE_TABLE ? PART_OF_MODEL : tensor->place.stage;
    switch (tensor->place.role) {
    case TENSOR_INPUT_NORM: return PART_OF_PRELUDE;
    case TENSOR_CODA_IN:
    case TENSOR_FINAL_NORM: return PART_OF_CODA;
    case TENSOR_INJECT: return plan->inject == INJECT_DIAGONAL ? PART_OF_PRELUDE : PART_OF_CORE;
    case TENSOR_LOOP_NORM:
    case TENSOR_LOG_A:
    case TENSOR_LOG_DT:
    case TENSOR_INJECT_B:
    case TENSOR_LORA_DOWN:
    case TENSOR_LORA_B:
    case TENSOR_EXIT_WEIGHT:
    case TENSOR_EXIT_BIAS: return PART_OF_CORE;
    default: return PART_OF_MODEL;
    }
}

static void add_piece(rank_plan *rp, const plan_matrix *tensor, uint32_t unit) {
    const rank_piece piece = {
        tensor->place.stage, tensor->part, (uint32_t)tensor->rows, unit, tensor->cols, 1};
    for (uint32_t i = 0; i < rp->n_pieces; i++) {
        rank_piece *old = &rp->pieces[i];
        if (old->stage != piece.stage || old->part != piece.part || old->rows != piece.rows ||
            old->cols != piece.cols || old->unit != unit)
            continue;
        old->n++;
        return;
    }
    /* three stages, three matrices, three kinds of feed-forward and the head are fewer pieces */
    if (rp->n_pieces < RANK_PLAN_PIECES) rp->pieces[rp->n_pieces++] = piece;
}

static void add_tensor(void *ud, const plan_matrix *tensor) {
    rank_plan *rp = ud;
    if (tensor->optional) return; /* tied: the head's product reads the embedding */
    uint32_t unit = unit_of(rp->plan, tensor);
    if (unit) {
        add_piece(rp, tensor, unit);
        return;
    }
    uint64_t weights = tensor->rows * tensor->cols;
    rp->held_whole += weights;
    /* of [state; input] only the state changes from loop to loop */
    bool half = tensor->place.role == TENSOR_INJECT && rp->plan->inject == INJECT_LINEAR;
    rp->read_whole[reader_of(rp->plan, tensor)] += half ? weights / 2 : weights;
}

uint64_t rank__own(const rank_plan *rp, const rank_piece *piece, uint32_t rank) {
    eng_share own = eng_share_columns(piece->rows, piece->unit, rank, rp->ranks);
    return piece->n * (own.last - own.first) * piece->cols;
}

void rank_plan_make(rank_plan *out, const model_plan *plan, const rank_device *device,
                    uint32_t ranks, uint32_t context, double weight_bytes) {
    *out = (rank_plan){.plan = plan,
                       .device = *device,
                       .ranks = ranks,
                       .context = context,
                       .weight_bytes = weight_bytes};
    plan_tensors(plan, add_tensor, out);
    for (uint32_t rank = 1; rank < ranks; rank++)
        if (rank_plan_divided(out, rank) > rank_plan_divided(out, out->widest)) out->widest = rank;
}

/* ---- memory ---- */

double rank_plan_divided(const rank_plan *rp, uint32_t rank) {
    uint64_t own = 0;
    for (uint32_t i = 0; i < rp->n_pieces; i++)
        own += rank__own(rp, &rp->pieces[i], rank);
    return (double)own * rp->weight_bytes;
}

double rank_plan_whole(const rank_plan *rp) {
    return (double)rp->held_whole * rp->weight_bytes;
}

/* The state h, e and out; a row of each large buffer of the CUDA engine: logits, residual sums, the
 * outputs of each expert, attention, and hidden values, which cuBLAS needs apart for gate and up.
 */
double rank_plan_row(const rank_plan *rp) {
    const model_plan *plan = rp->plan;
    bool experts = plan->core_ffn == FFN_MOE;
    double outputs = experts ? plan->n_experts_per_tok * (1.0 + plan->n_shared_experts) : 1;
    double heads =
        (double)plan->n_heads * (plan->attn == ATTN_MLA ? plan->kv_lora_rank : plan->head_dim);
    double hidden = rank__hidden(plan, plan->core_ffn);
    return (plan->vocab_size + (6 + outputs) * plan->dim + heads) * sizeof(float) +
           3 * hidden * rp->device.act_bytes;
}

double rank_plan_position(const rank_plan *rp, double depth) {
    const model_plan *plan = rp->plan;
    return (plan_planes(plan, 0) + depth) * plan->slot_values * rp->device.value_bytes +
           plan_planes(plan, plan->loops_default) * (double)sizeof(uint32_t);
}

static double all_divided(const rank_plan *rp) {
    double all = 0;
    for (uint32_t rank = 0; rank < rp->ranks; rank++)
        all += rank_plan_divided(rp, rank);
    return all;
}

double rank_plan_positions(const rank_plan *rp, rank_split split, double depth) {
    const double share = 0.9; /* of the rest, as the CUDA engine takes by default */
    double divided = split == RANK_REPLICAS ? all_divided(rp) : rank_plan_divided(rp, rp->widest);
    double rest = rp->device.memory_gb * 1e9 - rank_plan_whole(rp) - divided -
                  RANK_PLAN_ROWS * rank_plan_row(rp);
    if (rp->device.memory_gb == 0) return (double)INFINITY;
    return rest > 0 ? floor(share * rest / rank_plan_position(rp, depth)) : 0;
}

bool rank_plan_holds(const rank_plan *rp, rank_split split, uint32_t rows, double depth) {
    return rank__pass(rp, split, rows).own * rp->context <= rank_plan_positions(rp, split, depth);
}

bool rank_plan_fits(const rank_plan *rp) {
    return rank_plan_holds(rp, RANK_COLUMNS, 1, rp->plan->loops_default);
}

uint32_t rank_plan_least(const rank_plan *rp) {
    rank_plan other = *rp;
    for (other.ranks = 1; other.ranks <= RANK_PLAN_MOST_RANKS; other.ranks++) {
        other.widest = 0;
        for (uint32_t rank = 1; rank < other.ranks; rank++)
            if (rank_plan_divided(&other, rank) > rank_plan_divided(&other, other.widest))
                other.widest = rank;
        if (rank_plan_fits(&other)) return other.ranks;
    }
    return 0;
}

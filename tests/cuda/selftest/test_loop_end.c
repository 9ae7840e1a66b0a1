/* test_loop_end.c - the end of a loop against a plain twin: running rows, tails and K/V-only rows,
 * every exit rule. */
#include "tests/cuda/selftest/rows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One kind of end: experts and injection, or one delta, perhaps between two norms. */
typedef struct {
    uint32_t rank, parts;
    bool inject, out_norm, norm_sum, loop_norm, weighted;
    cu_exit exit;
    float threshold;
    uint32_t flags; /* of all rows; 0: some tails among them */
} ending;

enum { LORA_ROWS = 3 };
#define HALT_BIAS 0.25f

typedef struct {
    uint32_t dim;
    float *stream, *part, *down, *lb, *scale, *inj_a, *inj_b, *halt_w, *state, *input, *out,
        *out_norm, *loop_norm;
    float cum[STATES];
} loop_numbers;

typedef struct {
    double state[WIDE], out[WIDE], cum;
    bool halted;
} loop_twin;

/* How near the decision was: rounding may turn it. */
static double close_call(double value, double threshold) {
    return fabs(value - threshold) / (fabs(threshold) + 1e-30);
}

static void twin_stream(const loop_numbers *nums, const ending *end, uint32_t i, double *y) {
    uint32_t dim = nums->dim;
    double part[WIDE] = {0};
    for (uint32_t col = 0; col < dim; col++) {
        part[col] = 0;
        for (uint32_t j = 0; j < end->parts; j++)
            part[col] += (double)nums->part[(i * end->parts + j) * dim + col];
    }
    for (uint32_t col = 0; end->norm_sum && col < dim; col++)
        part[col] += (double)nums->stream[i * dim + col];
    memcpy(y, part, dim * sizeof *y);
    if (end->out_norm) twin_rms(part, nums->out_norm, dim, y);
    for (uint32_t col = 0; !end->norm_sum && col < dim; col++)
        y[col] += (double)nums->stream[i * dim + col];
}

static void twin_inject(const loop_numbers *nums, const ending *end, const cu_row *info,
                        double *y) {
    double low[16];
    uint32_t dim = nums->dim, row = info->loop < LORA_ROWS ? info->loop : LORA_ROWS - 1;
    for (uint32_t j = 0; j < end->rank; j++) {
        low[j] = 0;
        for (uint32_t col = 0; col < dim; col++)
            low[j] += y[col] * (double)nums->down[j * dim + col];
        low[j] *= (double)nums->scale[row * end->rank + j];
    }
    for (uint32_t col = 0; col < dim; col++) {
        size_t at = (size_t)info->row * dim + col;
        for (uint32_t j = 0; j < end->rank; j++)
            y[col] += low[j] * (double)nums->lb[j * dim + col];
        y[col] += (double)nums->inj_a[col] * (double)nums->state[at] +
                  (double)nums->inj_b[col] * (double)nums->input[at];
    }
}

/* The rule itself, not rowmath's: 1 - prod(1 - p), |h - old| / |h|, 1 - cos. */
static bool twin_leaves(const loop_numbers *nums, const ending *end, const cu_row *row,
                        loop_twin *twin) {
    double dot = 0, moved = 0, now = 0, old = 0, product = 0;
    for (uint32_t col = 0; col < nums->dim; col++) {
        double was = (double)nums->state[(size_t)row->row * nums->dim + col],
               now_at = twin->state[col];
        dot += now_at * (double)nums->halt_w[col];
        moved += (now_at - was) * (now_at - was);
        now += now_at * now_at;
        old += was * was;
        product += now_at * was;
    }
    double halt = 1 / (1 + exp(-(dot + (double)HALT_BIAS))), cum = (double)nums->cum[row->row];
    uint32_t done = row->loop + 1u;
    bool may = done >= row->min_loops, must_go = done >= row->max_loops;
    double threshold = (double)row->threshold;
    twin->cum = cum;
    if (end->exit == CU_EXIT_FIXED) return must_go;
    if (end->exit == CU_EXIT_ACT) {
        rm_act_step act =
            rm_act((float)cum, (float)halt, row->threshold, done, row->min_loops, row->max_loops);
        for (uint32_t col = 0; end->weighted && col < nums->dim; col++)
            twin->out[col] += (double)act.weight * twin->state[col];
        twin->cum = (double)act.cum;
        return act.halted != 0;
    }
    if (end->exit == CU_EXIT_HAZARD) {
        twin->cum = 1 - (1 - cum) * (1 - halt);
        check(close_call(twin->cum, threshold) > 1e-4, "a decision too near to test");
        return (may && threshold < 1 && twin->cum >= threshold) || must_go;
    }
    double far = end->exit == CU_EXIT_COSINE ? 1 - product / sqrt(now * old) : sqrt(moved / now);
    check(close_call(far, threshold) > 1e-4, "a decision too near to test");
    return (may && far < threshold) || must_go;
}

static void twin_loop_end(const loop_numbers *nums, const ending *end, const cu_row *row,
                          uint32_t i, loop_twin *twin) {
    double y[WIDE];
    twin_stream(nums, end, i, y);
    if (end->inject) twin_inject(nums, end, row, y);
    memcpy(twin->state, y, sizeof y);
    if (end->loop_norm) twin_rms(y, nums->loop_norm, nums->dim, twin->state);
    for (uint32_t col = 0; col < nums->dim; col++)
        twin->out[col] = (double)nums->out[(size_t)row->row * nums->dim + col];
    twin->halted = twin_leaves(nums, end, row, twin);
    if (twin->halted && !end->weighted)
        memcpy(twin->out, twin->state, nums->dim * sizeof *twin->out);
}

static loop_numbers loop_numbers_new(uint32_t dim, const ending *end, rng *rnd) {
    uint32_t cap = ROWS + 2, rank = end->rank;
    loop_numbers nums = {.dim = dim,
                         .stream = random_floats(rnd, cap * dim, 1),
                         .part = random_floats(rnd, cap * end->parts * dim, 1),
                         .down = random_floats(rnd, rank * dim + 1, 0.1f),
                         .lb = random_floats(rnd, rank * dim + 1, 0.1f),
                         .scale = random_floats(rnd, LORA_ROWS * rank + 1, 1),
                         .inj_a = random_floats(rnd, dim, 1),
                         .inj_b = random_floats(rnd, dim, 1),
                         .halt_w = random_floats(rnd, dim, 0.1f),
                         .state = random_floats(rnd, STATES * dim, 1),
                         .input = random_floats(rnd, STATES * dim, 1),
                         .out = random_floats(rnd, STATES * dim, 1),
                         .out_norm = random_floats(rnd, dim, 1),
                         .loop_norm = random_floats(rnd, dim, 1)};
    for (uint32_t i = 0; i < STATES; i++)
        nums.cum[i] = (float)(i % 5) * 0.24f;
    return nums;
}

static void loop_numbers_free(loop_numbers *nums) {
    float *all[] = {nums->stream, nums->part,     nums->down,     nums->lb,    nums->scale,
                    nums->inj_a,  nums->inj_b,    nums->halt_w,   nums->state, nums->input,
                    nums->out,    nums->out_norm, nums->loop_norm};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

static void loop_rows(const ending *end, const loop_numbers *nums, cu_row *rows) {
    for (uint32_t i = 0; i < ROWS; i++) {
        rows[i] = plain_row(i);
        rows[i].at = 2 * i + 1; /* as if every other row had been left out */
        rows[i].threshold = end->threshold;
        rows[i].min_loops = i % 3 == 0 ? 4 : 1;
        if (i == 5) rows[i].max_loops = 1;
        rows[i].flags = (uint16_t)(end->flags ? end->flags : i == 2 ? CU_ROW_TAIL : i == 4 ? 3 : 0);
        /* Row 1's state hardly moves: it leaves by its distance, if that is the rule. */
        size_t at = (size_t)rows[i].row * nums->dim;
        double y[WIDE], state[WIDE];
        if (i != 1 || !end->loop_norm) continue;
        twin_stream(nums, end, i, y);
        twin_rms(y, nums->loop_norm, nums->dim, state);
        for (uint32_t col = 0; col < nums->dim; col++)
            nums->state[at + col] = (float)(state[col] * (col & 1 ? 1.01 : 0.99));
    }
}

static void loop_ends(rng *rnd, uint32_t dim, const ending *end) {
    uint32_t cap = ROWS + 2;
    cu_row rows[ROWS];
    loop_numbers nums = loop_numbers_new(dim, end, rnd);
    loop_rows(end, &nums, rows);
    uint8_t none[2 * ROWS] = {0}, was[STATES] = {0};
    was[rows[0].row] = 9; /* loop_end never takes a flag back */
    desc_spec spec = {.rows = rows, .n_rows = ROWS, .halted = dev_bytes(none, sizeof none)};
    float *sums = dev_poison(cap * cu_loop_sums(dim, end->rank) * sizeof *sums);
    cu_loop_end_args args = {.desc = dev_desc(&spec),
                             .dim = dim,
                             .n_parts = end->parts,
                             .norm_eps = EPS,
                             .x = dev_floats(nums.stream, cap * dim),
                             .parts = dev_floats(nums.part, cap * end->parts * dim),
                             .out_norm = end->out_norm ? dev_floats(nums.out_norm, dim) : NULL,
                             .norm_sum = end->norm_sum,
                             .inject = end->inject,
                             .lora_rank = end->rank,
                             .lora_rows = LORA_ROWS,
                             .lora_down = dev_floats(nums.down, end->rank * dim + 1),
                             .lora_b = dev_floats(nums.lb, end->rank * dim + 1),
                             .lora_scale = dev_floats(nums.scale, LORA_ROWS * end->rank + 1),
                             .inj_a = end->inject ? dev_floats(nums.inj_a, dim) : NULL,
                             .inj_b = end->inject ? dev_floats(nums.inj_b, dim) : NULL,
                             .sums = sums,
                             .loop_norm = end->loop_norm ? dev_floats(nums.loop_norm, dim) : NULL,
                             .exit = end->exit,
                             .halt_w =
                                 end->exit <= CU_EXIT_HAZARD ? dev_floats(nums.halt_w, dim) : NULL,
                             .halt_bias = HALT_BIAS,
                             .weighted = end->weighted};
    args.state = (cu_state){dev_floats(nums.state, STATES * dim),
                            end->inject ? dev_floats(nums.input, STATES * dim) : NULL,
                            dev_floats(nums.out, STATES * dim), dev_floats(nums.cum, STATES),
                            dev_bytes(was, STATES)};
    if (end->rank && args.halt_w) {
        float *gate = dev_poison(end->rank * sizeof *gate);
        must(cu_loop_gate(test_stream, args.lora_b, args.halt_w, dim, end->rank, gate),
             "loop gate");
        args.lora_gate = gate;
    }
    if (args.inject) must(cu_loop_mix(test_stream, &args, cap), "mixing");
    if (args.inject) must(cu_loop_leave(test_stream, &args, cap), "leaving");
    if (cu_loop_by_row(&args)) must(cu_loop_row(test_stream, &args, cap), "a row");
    float *state = malloc(STATES * dim * 4), *out = malloc(STATES * dim * 4), cum[STATES];
    uint8_t halted[2 * ROWS], kept[STATES];
    host_act(state, args.state.h, STATES * dim, true);
    host_act(out, args.state.out, STATES * dim, true);
    host_act(cum, args.state.cum, STATES, true);
    host_bytes(halted, spec.halted, sizeof halted);
    host_bytes(kept, args.state.halted, STATES);
    double bad = 0;
    bool right = true;
    static loop_twin twin;
    for (uint32_t i = 0; i < ROWS; i++) {
        uint32_t row = rows[i].row, flags = rows[i].flags;
        twin_loop_end(&nums, end, &rows[i], i, &twin);
        for (uint32_t col = 0; col < dim; col++) {
            size_t at = (size_t)row * dim + col;
            bad = fmax(bad, relative_error(flags & CU_ROW_KV_ONLY ? (double)nums.state[at]
                                                                  : twin.state[col],
                                           state[at]));
            bad = fmax(bad, relative_error(flags ? (double)nums.out[at] : twin.out[col], out[at]));
        }
        uint8_t leaves = flags ? 0 : twin.halted;
        right &= halted[2 * i] == 0 && halted[2 * i + 1] == leaves;
        right &= kept[row] == (leaves ? 1 : was[row]);
        bad = fmax(bad, relative_error(flags ? (double)nums.cum[row] : twin.cum, cum[row]));
    }
    check(bad < 2e-5, "loop end, dim %u, exit %d, flags %u: error %g", dim, end->exit, end->flags,
          bad);
    check(right, "loop end, dim %u, exit %d, flags %u: a halting flag is wrong", dim, end->exit,
          end->flags);
    loop_numbers_free(&nums);
    free(state);
    free(out);
    dev_free_all();
}

void all_loop_ends(rng *rnd) {
    const uint32_t tail = CU_ROW_TAIL, writes = CU_ROW_TAIL | CU_ROW_KV_ONLY;
    const ending endings[] = {
        /* MYTHOS */
        {.rank = 4, .parts = 3, .inject = true, .weighted = true, .threshold = 0.9f},
        {.parts = 1, .inject = true, .weighted = true, .threshold = 0.9f},
        {.rank = 7, .parts = 12, .inject = true, .weighted = true, .flags = tail},
        {.rank = 7, .parts = 2, .inject = true, .weighted = true, .flags = writes},
        {.rank = 8, .parts = 13, .inject = true, .weighted = true, .threshold = 0.9f},
        {.rank = 16, .parts = 24, .inject = true, .weighted = true, .threshold = 0.7f},
        {.rank = 9, .parts = 25, .inject = true, .exit = CU_EXIT_HAZARD, .threshold = 0.6f},
        {.rank = 4, .parts = 2, .inject = true, .exit = CU_EXIT_FIXED},
        {.rank = 8, .parts = 5, .inject = true, .exit = CU_EXIT_LATENT_DIFF, .threshold = 1.2f},
        {.rank = 3, .parts = 3, .inject = true, .exit = CU_EXIT_COSINE, .threshold = 0.8f},
        {.rank = 3, .parts = 3, .inject = true, .exit = CU_EXIT_COSINE, .flags = tail},
        {.rank = 4, .parts = 3, .inject = true, .loop_norm = true, .threshold = 0.6f},
        {.rank = 4, .parts = 0, .inject = true, .exit = CU_EXIT_FIXED},
        /* plain states: norms inside the residual or not, every rule, tails */
        {.parts = 1,
         .out_norm = true,
         .loop_norm = true,
         .exit = CU_EXIT_HAZARD,
         .threshold = 0.6f},
        {.parts = 1, .loop_norm = true, .exit = CU_EXIT_HAZARD, .threshold = 0.85f},
        {.parts = 1, .out_norm = true, .loop_norm = true, .exit = CU_EXIT_HAZARD, .threshold = 1},
        {.parts = 1, .out_norm = true, .exit = CU_EXIT_HAZARD, .threshold = 0.3f},
        {.parts = 1, .out_norm = true, .loop_norm = true, .exit = CU_EXIT_ACT, .threshold = 0.7f},
        {.parts = 1, .loop_norm = true, .exit = CU_EXIT_LATENT_DIFF, .threshold = 0.03f},
        {.parts = 1, .loop_norm = true, .exit = CU_EXIT_LATENT_DIFF, .threshold = 30},
        /* a norm of the sum */
        {.parts = 1,
         .out_norm = true,
         .norm_sum = true,
         .exit = CU_EXIT_LATENT_DIFF,
         .threshold = 1.2f},
        {.parts = 1, .out_norm = true, .norm_sum = true, .exit = CU_EXIT_COSINE, .threshold = 0.8f},
        {.parts = 1,
         .out_norm = true,
         .norm_sum = true,
         .loop_norm = true,
         .exit = CU_EXIT_HAZARD,
         .threshold = 0.6f},
        {.parts = 1, .out_norm = true, .norm_sum = true, .exit = CU_EXIT_FIXED, .flags = tail},
        {.parts = 1, .loop_norm = true, .exit = CU_EXIT_COSINE, .threshold = 1e-3f},
        {.parts = 1, .out_norm = true, .exit = CU_EXIT_COSINE, .threshold = 1.9f},
        {.parts = 1, .out_norm = true, .loop_norm = true, .exit = CU_EXIT_FIXED},
        {.parts = 1, .out_norm = true, .loop_norm = true, .exit = CU_EXIT_HAZARD, .flags = tail},
        {.parts = 1, .out_norm = true, .loop_norm = true, .exit = CU_EXIT_HAZARD, .flags = writes},
    };
    for (size_t k = 0; k < ROW_DIMS; k++) {
        for (size_t i = 0; i < ARRAY_LEN(endings); i++)
            loop_ends(rnd, row_dims[k], &endings[i]);
    }
}

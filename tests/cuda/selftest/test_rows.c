/* test_rows.c - the row kernels against plain twins: entering and leaving stages. test_prep.c has
 * cache slots and queries, test_loop_end.c the end of a loop. */
#include "tests/cuda/selftest/rows.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const uint32_t row_dims[ROW_DIMS] = {32, 40, 77, 100, 198, 2048, WIDE};

cu_row plain_row(uint32_t i) {
    return (cu_row){.row = (i * 3 + 2) % STATES,
                    .pos = i * 17,
                    .token = (i * 5) % VOCAB,
                    .table = 0,
                    .logits = i % 3 == 1 ? i / 3 : CU_NO_LOGITS,
                    .loop = (uint16_t)(i % LOOPS),
                    .min_loops = 0,
                    .max_loops = 100,
                    .threshold = 0.99f};
}

void twin_rms(const double *x, const float *weight, uint32_t n, double *y) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    double scale = 1 / sqrt(sum / n + (double)EPS);
    for (uint32_t i = 0; i < n; i++)
        y[i] = x[i] * scale * (double)weight[i];
}

double relative_error(double want, float got) {
    double apart = fabs(want - (double)got) / (fabs(want) + 0.1);
    return apart <= 1e30 ? apart : INFINITY;
}

typedef struct {
    uint32_t dim, ld, width;
    bool f32;
    float *state, *input, *out, *stream, *delta, *embed, *norm, *before, *loop_emb, *decay, *step;
    float cum[STATES];
} numbers;

/* One way through the row step. */
typedef struct {
    cu_row_from from;
    cu_row_to to;
    bool before, norm_sum; /* a norm of the input: of delta alone, or of the sum */
    bool bare;             /* no norm on the way out */
    bool no_input;         /* no loop reads the input */
    bool product;          /* TO_STATE: a product reads the state's input */
    bool factor;           /* TO_INPUT: a step */
    bool drafts, weighted; /* every other row is a draft; out is a weighted sum */
    uint32_t parts;        /* of delta; 0 as 1 */
    cu_start start;
} step_way;

static uint32_t parts_of(const step_way *way) {
    return way->parts ? way->parts : 1;
}

enum { MOST_PARTS = 3 };
#define EMBED_SCALE 1.75f
#define START_STD 0.5f

static numbers numbers_new(uint32_t dim, bool f32, rng *rnd) {
    uint32_t ld = cu_round(dim, 32);
    numbers nums = {.dim = dim,
                    .ld = ld,
                    .width = dim / 8,
                    .f32 = f32,
                    .state = random_floats(rnd, STATES * dim, 2),
                    .input = random_floats(rnd, STATES * dim, 1),
                    .out = random_floats(rnd, STATES * dim, 3),
                    .stream = random_floats(rnd, (ROWS + 1) * dim, 1),
                    .delta = random_floats(rnd, (ROWS + 1) * MOST_PARTS * dim, 1),
                    .embed = random_floats(rnd, VOCAB * ld, 1),
                    .norm = random_floats(rnd, dim, 1),
                    .before = random_floats(rnd, dim, 1),
                    .loop_emb = random_floats(rnd, LOOPS * (dim / 8) + 1, 1),
                    .decay = random_floats(rnd, dim, 1),
                    .step = random_floats(rnd, dim, 2)};
    for (uint32_t i = 0; i < STATES; i++) /* some above 1 */
        nums.cum[i] = 0.6f + 0.6f * rng_float(rnd);
    return nums;
}

static void numbers_free(numbers *nums) {
    float *all[] = {nums->state,    nums->input, nums->out,  nums->stream,
                    nums->delta,    nums->embed, nums->norm, nums->before,
                    nums->loop_emb, nums->decay, nums->step};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
}

/* One channel of the input, before its norm. */
static double twin_input(const numbers *nums, const step_way *way, const cu_row *row, uint32_t i,
                         uint32_t col) {
    size_t at = (size_t)row->row * nums->dim + col, here = (size_t)i * nums->dim + col;
    double state = (double)nums->state[at], input = (double)nums->input[at], delta = 0;
    uint32_t parts = parts_of(way);
    for (uint32_t k = 0; k < parts; k++)
        delta += (double)nums->delta[((size_t)i * parts + k) * nums->dim + col];
    switch (way->from) {
    case CU_FROM_TOKEN:
        return (double)nums->embed[(size_t)row->token * nums->ld + col] * (double)EMBED_SCALE;
    case CU_FROM_LOOP:
        return state + input +
               (col < nums->width ? (double)nums->loop_emb[row->loop * nums->width + col] : 0);
    case CU_FROM_DIAGONAL: return (double)nums->decay[col] * state + input;
    case CU_FROM_LINEAR: return delta + input;
    case CU_FROM_STATE: return state;
    case CU_FROM_OUT:
        if (!(row->flags & CU_ROW_DRAFT)) return (double)nums->out[at];
        if (!way->weighted) return state;
        return (double)nums->out[at] + fmax(0, 1 - (double)nums->cum[row->row]) * state;
    case CU_FROM_DELTA: return delta;
    case CU_FROM_X: break;
    }
    bool alone = way->before && !way->norm_sum;
    return alone ? delta : (double)nums->stream[here] + delta;
}

/* The value a row enters with. */
static void twin_enter(const numbers *nums, const step_way *way, const cu_row *row, uint32_t i,
                       double *x) {
    double tmp[WIDE];
    for (uint32_t col = 0; col < nums->dim; col++)
        x[col] = tmp[col] = twin_input(nums, way, row, i, col);
    if (!way->before) return;
    twin_rms(tmp, nums->before, nums->dim, x);
    for (uint32_t col = 0; way->from == CU_FROM_X && !way->norm_sum && col < nums->dim; col++)
        x[col] += (double)nums->stream[(size_t)i * nums->dim + col];
}

/* The state before the first loop, of a row whose input is x. */
static double twin_start(const step_way *way, const cu_row *row, uint32_t col, double x) {
    if (way->start == CU_START_ZERO) return 0;
    return way->start == CU_START_SEEDED ? (double)rm_seeded_state(row->pos, col, START_STD) : x;
}

/* The backend's memory after a row step. */
typedef struct {
    float *act, *x, *state, *input, *out, cum[STATES];
    uint8_t halted[STATES];
} stepped;

static stepped step_new(const numbers *nums, uint32_t cap) {
    size_t states = STATES * (size_t)nums->dim * 4;
    return (stepped){.act = malloc((size_t)cap * nums->ld * 4),
                     .x = malloc((size_t)cap * nums->dim * 4),
                     .state = malloc(states),
                     .input = malloc(states),
                     .out = malloc(states)};
}

static void step_free(stepped *got) {
    float *all[] = {got->act, got->x, got->state, got->input, got->out};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        free(all[i]);
    dev_free_all();
}

static bool writes_act(const step_way *way) {
    return way->to == CU_TO_NORM || way->to == CU_TO_HEAD ||
           (way->to == CU_TO_STATE && way->product);
}

static void run_step(const numbers *nums, const step_way *way, const cu_row *rows, stepped *got) {
    desc_spec spec = {.rows = rows, .n_rows = ROWS, .n_logits = 2};
    uint32_t cap = ROWS + 1, dim = nums->dim;
    void *act = dev_act(NULL, (size_t)cap * nums->ld, nums->f32);
    cu_row_args args = {.desc = dev_desc(&spec),
                        .from = way->from,
                        .to = way->to,
                        .weighted = way->weighted,
                        .dim = dim,
                        .ld = nums->ld,
                        .loop_width = nums->width,
                        .norm_eps = EPS,
                        .embed_scale = EMBED_SCALE,
                        .start = way->start,
                        .start_std = START_STD,
                        .x = dev_floats(nums->stream, (size_t)cap * dim),
                        .delta = dev_floats(nums->delta, (size_t)cap * parts_of(way) * dim),
                        .n_parts = parts_of(way),
                        .embed = dev_act(nums->embed, VOCAB * nums->ld, nums->f32),
                        .norm = way->bare ? NULL : dev_floats(nums->norm, dim),
                        .before = way->before ? dev_floats(nums->before, dim) : NULL,
                        .norm_sum = way->norm_sum,
                        .loop_emb = dev_floats(nums->loop_emb, LOOPS * (dim / 8) + 1),
                        .decay = dev_floats(nums->decay, dim),
                        .step = way->factor ? dev_floats(nums->step, dim) : NULL,
                        .act = way->to == CU_TO_STATE && !way->product ? NULL : act};
    args.state = (cu_state){
        dev_floats(nums->state, STATES * dim), dev_floats(nums->input, STATES * dim),
        dev_floats(nums->out, STATES * dim),
        way->drafts ? dev_floats(nums->cum, STATES) : dev_poison(STATES * 4), dev_poison(STATES)};
    float *dev_e = args.state.e;
    if (way->no_input) args.state.e = NULL;
    must(cu_row_step(test_stream, &args, cap, nums->f32), "row step");
    host_act(got->act, act, (size_t)cap * nums->ld, nums->f32);
    host_act(got->x, args.x, (size_t)cap * dim, true);
    host_act(got->state, args.state.h, STATES * dim, true);
    host_act(got->input, dev_e, STATES * dim, true);
    host_act(got->out, args.state.out, STATES * dim, true);
    host_act(got->cum, args.state.cum, STATES, true);
    host_bytes(got->halted, args.state.halted, STATES);
}

/* The largest error of one row. */
static double step_error(const numbers *nums, const step_way *way, const cu_row *row, uint32_t i,
                         const stepped *got) {
    static double in[WIDE], normed[WIDE];
    uint32_t dim = nums->dim, at = way->to == CU_TO_HEAD ? row->logits : i;
    bool keeps = way->to == CU_TO_STATE && (way->no_input || way->product);
    double bad = 0;
    twin_enter(nums, way, row, i, in);
    twin_rms(in, nums->norm, dim, normed);
    if (way->bare) memcpy(normed, in, dim * sizeof *in);
    for (uint32_t col = 0; col < dim; col++) {
        size_t here = (size_t)row->row * dim + col;
        double input = (double)nums->input[here], state = (double)nums->state[here];
        if (way->to == CU_TO_STATE) {
            state = twin_start(way, row, col, normed[col]);
            input = keeps ? input : normed[col];
        } else if (way->to == CU_TO_INPUT) {
            input = in[col] * (way->factor ? (double)nums->step[col] : 1);
        } else if (way->to == CU_TO_NORM) {
            bad = fmax(bad, relative_error(in[col], got->x[(size_t)i * dim + col]));
        }
        if (writes_act(way) && at != CU_NO_LOGITS)
            bad = fmax(bad, relative_error(normed[col], got->act[(size_t)at * nums->ld + col]));
        bad = fmax(bad, fmax(relative_error(state, got->state[here]),
                             relative_error(input, got->input[here])));
    }
    return bad;
}

/* Padding is zero, the rest of the state is as it must be, and nothing else is written. */
static bool step_is_neat(const numbers *nums, const step_way *way, const cu_row *rows,
                         const stepped *got) {
    bool same = true, written[STATES] = {false};
    uint32_t dim = nums->dim, n_act = way->to == CU_TO_HEAD ? 2 : writes_act(way) ? ROWS : 0;
    for (uint32_t i = 0; i < n_act; i++) {
        for (uint32_t col = dim; col < nums->ld; col++)
            same &= got->act[(size_t)i * nums->ld + col] == 0;
    }
    for (uint32_t i = 0; i < ROWS && way->to >= CU_TO_STATE; i++) {
        uint32_t state = rows[i].row;
        written[state] = true;
        if (way->to != CU_TO_STATE) continue;
        same &= got->cum[state] == 0 && got->halted[state] == 0;
        for (uint32_t col = 0; col < dim; col++)
            same &= got->out[state * dim + col] == 0;
    }
    for (uint32_t state = 0; state < STATES; state++) {
        if (written[state]) continue;
        same &= got->halted[state] == 0xff &&
                memcmp(got->state + state * dim, nums->state + state * dim, dim * 4) == 0 &&
                memcmp(got->input + state * dim, nums->input + state * dim, dim * 4) == 0;
    }
    return same && isnan(got->act[(size_t)n_act * nums->ld]) != 0;
}

static void step(const numbers *nums, const step_way *way) {
    cu_row rows[ROWS];
    double bad = 0;
    for (uint32_t i = 0; i < ROWS; i++)
        rows[i] = plain_row(i);
    for (uint32_t i = 1; way->drafts && i < ROWS; i += 2)
        rows[i].flags = CU_ROW_DRAFT;
    stepped got = step_new(nums, ROWS + 1);
    run_step(nums, way, rows, &got);
    for (uint32_t i = 0; i < ROWS; i++)
        bad = fmax(bad, step_error(nums, way, &rows[i], i, &got));
    check(bad < (nums->f32 ? 1e-5 : 8e-3), "row step %d to %d, dim %u: error %g", way->from,
          way->to, nums->dim, bad);
    check(step_is_neat(nums, way, rows, &got),
          "row step %d to %d, dim %u: wrote what it must not, or left padding", way->from, way->to,
          nums->dim);
    step_free(&got);
}

static void row_steps(rng *rnd) {
    static const step_way others[] = {
        {.from = CU_FROM_X, .to = CU_TO_NORM, .before = true},
        {.from = CU_FROM_X, .to = CU_TO_NORM, .before = true, .bare = true},
        {.from = CU_FROM_X, .to = CU_TO_NORM, .before = true, .norm_sum = true},
        {.from = CU_FROM_X, .to = CU_TO_NORM, .norm_sum = true},
        {.from = CU_FROM_X, .to = CU_TO_NORM, .parts = MOST_PARTS},
        {.from = CU_FROM_X, .to = CU_TO_STATE, .before = true, .bare = true, .no_input = true},
        {.from = CU_FROM_X, .to = CU_TO_STATE, .before = true, .norm_sum = true, .product = true},
        {.from = CU_FROM_X, .to = CU_TO_HEAD, .before = true},
        {.from = CU_FROM_X, .to = CU_TO_HEAD, .before = true, .norm_sum = true},
        {.from = CU_FROM_X, .to = CU_TO_HEAD, .before = true, .bare = true},
        {.from = CU_FROM_LOOP, .to = CU_TO_NORM, .before = true},
        {.from = CU_FROM_OUT, .to = CU_TO_HEAD, .bare = true},
        {.from = CU_FROM_OUT, .to = CU_TO_HEAD, .before = true},
        {.from = CU_FROM_OUT, .to = CU_TO_NORM, .before = true},
        {.from = CU_FROM_OUT, .to = CU_TO_HEAD, .bare = true, .drafts = true},
        {.from = CU_FROM_OUT, .to = CU_TO_NORM, .drafts = true, .weighted = true},
        {.from = CU_FROM_OUT, .to = CU_TO_NORM, .before = true, .drafts = true, .weighted = true},
        {.from = CU_FROM_STATE, .to = CU_TO_NORM, .bare = true},
        {.from = CU_FROM_STATE, .to = CU_TO_NORM, .drafts = true, .weighted = true},
        {.from = CU_FROM_DELTA, .to = CU_TO_INPUT, .factor = true},
        {.from = CU_FROM_TOKEN, .to = CU_TO_STATE, .bare = true, .no_input = true},
        {.from = CU_FROM_TOKEN, .to = CU_TO_STATE, .bare = true, .start = CU_START_ZERO},
        {.from = CU_FROM_TOKEN, .to = CU_TO_STATE, .start = CU_START_SEEDED},
        {.from = CU_FROM_TOKEN, .to = CU_TO_STATE, .product = true, .start = CU_START_ZERO},
    };
    for (size_t k = 0; k < ROW_DIMS; k++) {
        for (int f32 = 0; f32 < 2; f32++) {
            numbers nums = numbers_new(row_dims[k], f32, rnd);
            for (int from = CU_FROM_TOKEN; from <= CU_FROM_X; from++) {
                for (int to = CU_TO_NORM; to <= CU_TO_INPUT; to++)
                    step(&nums, &(step_way){.from = (cu_row_from)from, .to = (cu_row_to)to});
            }
            for (size_t i = 0; i < ARRAY_LEN(others); i++)
                step(&nums, &others[i]);
            numbers_free(&nums);
        }
    }
}

static void all_rows(rng *rnd) {
    row_steps(rnd);
    all_preps(rnd);
    all_loop_ends(rnd);
}

/* Threads in several orders: a missing barrier gives wrong sums. */
void test_rows(void) {
    rng rnd = {3};
    all_rows(&rnd);
#ifdef FATHOM_CUDA_SHIM
    for (unsigned order = 1; order < 100; order += 76) {
        shim_set_order(order);
        all_rows(&rnd);
    }
    shim_set_order(0);
#endif
}

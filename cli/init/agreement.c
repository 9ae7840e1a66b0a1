/* agreement.c - from an agreement to the motion of random weights, by bisection on smaller models
 * of the same shape. */
#include "cli/init/agreement.h"

#include "base/hash.h"
#include "base/size.h"
#include "cli/init/trial.h"
#include "runtime/runtime.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* 1,024 positions: an agreement of 0.9 is measured to 0.01. */
enum { WINDOWS = 8, WINDOW = 128, POSITIONS = WINDOWS * WINDOW, TRIALS = 9 };
enum { WIDEST = 256 }; /* channels of the smaller model */
#define LEAST_MOTION 1e-4

typedef struct {
    eng_sampler *sampler;
    uint64_t first_id;         /* of window 0 */
    uint32_t drawn[POSITIONS]; /* by loop 1 */
    bool compares;             /* the last loop's run */
    uint32_t n_seen, n_equal;
    bool failed;
} measuring;

/* ---- the smaller model ---- */

static void halve(uint32_t *value, uint32_t least) {
    if (*value % 2 == 0 && *value / 2 >= least) *value /= 2;
}

static void halve_widths(model_plan *plan) {
    plan->dim /= 2;
    halve(&plan->ffn_dim, 32);
    halve(&plan->expert_dim, 32);
    halve(&plan->kv_lora_rank, 32);
    halve(&plan->q_lora_rank, 32);
    if (plan->attn == ATTN_GQA && plan->head_dim > 16) {
        halve(&plan->head_dim, 16);
    } else if (plan->n_heads % 2 == 0 && plan->n_kv_heads % 2 == 0) {
        plan->n_heads /= 2;
        plan->n_kv_heads /= 2;
    }
}

/* Some sizes follow from others, and reading a plan sets them. False: the family has no model of
 * this size. */
static bool read_again(model_plan *plan) {
    buf text = {0};
    err why = {0};
    model_plan own = *plan;
    plan_write(&text, &own, "float32");
    int rc = text.failed ? -1 : plan_parse(plan, text.data, text.len, "a smaller model", &why);
    buf_deinit(&text);
    return rc == 0;
}

static model_plan smaller(const model_plan *plan) {
    model_plan least = *plan;
    while (least.dim > WIDEST && least.dim % 2 == 0) {
        model_plan half = least;
        halve_widths(&half);
        if (!read_again(&half)) break;
        least = half;
    }
    return least;
}

/* ---- one measurement ---- */

static void on_position(void *ud, uint64_t id, uint32_t pos, uint16_t depth, const float *logits) {
    static const eng_sampling warm = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    measuring *now = ud;
    uint32_t at = (uint32_t)(id - now->first_id) * WINDOW + pos;
    eng_choice choice;
    err why = {0};
    (void)depth;
    if (logits == NULL || at >= POSITIONS ||
        eng_sample(now->sampler, &warm, &(eng_history){0}, NULL, logits, at, 0, &choice, &why) !=
            0) {
        now->failed = true;
        return;
    }
    now->n_seen++;
    if (now->compares) now->n_equal += choice.token == now->drawn[at];
    else now->drawn[at] = choice.token;
}

static void on_event(void *ud, const sched_event *ev) {
    measuring *now = ud;
    if (ev->kind == SCHED_END && ev->finish == SCHED_FAILED) now->failed = true;
}

static int run_windows(measuring *now, scheduler *sched, uint32_t vocab, sched_depth depth,
                       err *e) {
    uint32_t ids[WINDOW];
    now->n_seen = 0;
    for (uint32_t window = 0; window < WINDOWS; window++) {
        for (uint32_t i = 0; i < WINDOW; i++)
            ids[i] = (uint32_t)(hash_mix((window * WINDOW + i + 1) * HASH_STEP) % vocab);
        sched_request request = {.prompt = ids,
                                 .n_prompt = WINDOW,
                                 .depth = depth,
                                 .tap = on_position,
                                 .tap_logits = true,
                                 .ud = now};
        request.sampling = (eng_sampling){.top_p = 1, .repetition_penalty = 1};
        uint64_t id;
        if (sched_submit(sched, &request, &id, e) != 0) return -1;
        if (window == 0) now->first_id = id;
    }
    int rc = 0;
    for (bool idle = false; !idle && rc == 0;)
        rc = sched_step(sched, &idle, e);
    if (rc != 0 || (!now->failed && now->n_seen == POSITIONS)) return rc;
    return err_set(e, ERR_NUMERIC, NULL, "the smaller model gave values that are not numbers");
}

static int compare_loops(measuring *now, const runtime *rt, err *e) {
    const model_plan *plan = model_plan_of(rt->model);
    sched_opts limits = rt->sched;
    scheduler *sched = NULL;
    uint16_t first = (uint16_t)plan_loops_least(plan);
    limits.max_queue = WINDOWS;
    limits.max_queue_tokens = POSITIONS;
    limits.prefix_cache = false;
    int rc = sched_create(&sched, rt->backend, &limits, on_event, now, e);
    if (rc == 0)
        rc = run_windows(now, sched, plan->vocab_size,
                         (sched_depth){.min_loops = first, .max_loops = first}, e);
    now->compares = true;
    if (rc == 0) rc = run_windows(now, sched, plan->vocab_size, (sched_depth){0}, e);
    sched_destroy(sched);
    return rc;
}

static int measure_folder(double *agreement, const char *dir, err *e) {
    const runtime_opts opts = {.model = dir,
                               .device = "cpu",
                               .no_tokenizer = true,
                               .halted_kv = "exact",
                               .prompt_min_loops = 1,
                               .max_running = 1};
    runtime rt;
    if (runtime_open(&rt, &opts, e) != 0) return -1;
    measuring *now = calloc(1, sizeof *now);
    int rc = now ? eng_sampler_create(&now->sampler, model_plan_of(rt.model)->vocab_size, e)
                 : err_set(e, ERR_NO_MEMORY, NULL, "out of memory to measure the agreement");
    if (rc == 0) rc = compare_loops(now, &rt, e);
    if (rc == 0) *agreement = (double)now->n_equal / POSITIONS;
    if (now) eng_sampler_destroy(now->sampler);
    free(now);
    runtime_close(&rt);
    return rc;
}

/* ---- the search ---- */

static int measure_motion(double *agreement, const model_plan *plan, const model_init_opts *opts,
                          err *e) {
    int rc = model_init_write(trial_dir(), plan, opts, e);
    if (rc == 0) rc = measure_folder(agreement, trial_dir(), e);
    trial_remove();
    return rc;
}

/* Agreement falls as motion rises: bisection of its logarithm. */
static int search(agreement_found *out, const model_plan *plan, model_init_opts opts, double wanted,
                  err *e) {
    double low = log(LEAST_MOTION), high = 0, off = INFINITY;
    for (int i = 0; i <= TRIALS; i++) {
        double at = i == 0 ? 0 : (low + high) / 2, agreement = 0;
        opts.motion = (float)exp(at);
        if (measure_motion(&agreement, plan, &opts, e) != 0) return -1;
        if (fabs(agreement - wanted) < off) {
            off = fabs(agreement - wanted);
            out->motion = opts.motion;
            out->agreement = agreement;
        }
        if (agreement < wanted) high = at;
        else if (i == 0) return 0; /* no motion gives less */
        else low = at;
    }
    return 0;
}

int agreement_find(agreement_found *out, const model_plan *plan, const model_init_opts *opts,
                   double wanted, const char *dir, err *e) {
    if (plan->loops_default <= plan_loops_least(plan))
        return err_set(e, ERR_USAGE, "--agreement",
                       "--agreement: every token of this model runs "
                       "%u loops, so none is named earlier",
                       plan->loops_default);
    model_plan small = smaller(plan);
    model_init_opts own = *opts;
    own.progress = NULL;
    own.shard_bytes = 0;
    *out = (agreement_found){.dim = small.dim, .loops = small.loops_default};
    if (trial_begin(dir, e) != 0) return -1;
    int rc = search(out, &small, own, wanted, e);
    trial_end();
    return rc;
}

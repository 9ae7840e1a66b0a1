/* stages.c - the three stages: prelude, one loop of the core, coda and head. */
#include "engine/cpu/cpu_internal.h"
#include "engine/rowmath.h"

#include <math.h>
#include <string.h>

enum { ROPE_LOW = 256 };

int eng__tables_init(eng__cpu *cpu, err *e) {
    const model_plan *plan = &cpu->plan;
    uint32_t rope = plan->attn == ATTN_MLA ? plan->qk_rope_head_dim : plan->head_dim;
    uint32_t high = cpu->opts.max_positions / ROPE_LOW + 1, width = plan->dim / 8;
    cpu->rope_pairs = rope / 2;
    cpu->loop_width = width;
    cpu->rope_low = eng__take(cpu, (size_t)ROPE_LOW * cpu->rope_pairs, 2 * sizeof(double));
    cpu->rope_high = eng__take(cpu, (size_t)high * cpu->rope_pairs, 2 * sizeof(double));
    cpu->loop_emb =
        eng__take(cpu, (size_t)cpu->opts.max_loops * width + ENG__PAD, sizeof *cpu->loop_emb);
    if (!cpu->rope_low || !cpu->rope_high || !cpu->loop_emb) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for position tables");
    }
    for (uint32_t i = 0; i < cpu->rope_pairs; i++) {
        double frequency = plan_rope_frequency(plan, i);
        for (uint32_t pos = 0; pos < ROPE_LOW; pos++) {
            cpu->rope_low[2 * (pos * cpu->rope_pairs + i)] = cos(pos * frequency);
            cpu->rope_low[2 * (pos * cpu->rope_pairs + i) + 1] = sin(pos * frequency);
        }
        for (uint32_t pos = 0; pos < high; pos++) {
            cpu->rope_high[2 * (pos * cpu->rope_pairs + i)] =
                cos((double)pos * ROPE_LOW * frequency);
            cpu->rope_high[2 * (pos * cpu->rope_pairs + i) + 1] =
                sin((double)pos * ROPE_LOW * frequency);
        }
    }
    for (uint32_t loop = 0; loop < cpu->opts.max_loops; loop++) {
        for (uint32_t i = 0, half = width / 2 + width % 2; i < width; i++) { /* sines first */
            double angle = loop * pow(10000.0, -2.0 * (i < half ? i : i - half) / width);
            cpu->loop_emb[loop * width + i] = (float)(i < half ? sin(angle) : cos(angle));
        }
    }
    return 0;
}

void eng__rope_at(const eng__cpu *cpu, uint32_t pos, float *out) {
    const double *high = cpu->rope_high + 2 * (size_t)(pos / ROPE_LOW) * cpu->rope_pairs;
    const double *low = cpu->rope_low + 2 * (size_t)(pos % ROPE_LOW) * cpu->rope_pairs;
    for (uint32_t i = 0; i < cpu->rope_pairs; i++) {
        out[2 * i] = (float)(high[2 * i] * low[2 * i] - high[2 * i + 1] * low[2 * i + 1]);
        out[2 * i + 1] = (float)(high[2 * i] * low[2 * i + 1] + high[2 * i + 1] * low[2 * i]);
    }
}

/* Scratch order: rows with full(row) first. Both parts are in order of their homes, if rows have
 * any, and else in launch order. */
static void order_rows(eng__cpu *cpu, bool (*full)(const eng_row *)) {
    eng__homes *homes = &cpu->homes;
    cpu->n_all = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (uint32_t home = 0; home == 0 || home < homes->n; home++) {
            uint32_t before = cpu->n_all;
            for (uint32_t i = 0; i < cpu->n_rows; i++) {
                if (homes->n && cpu->rows[i].home != home) continue;
                if (full(&cpu->rows[i]) == (pass == 0)) cpu->launch_row[cpu->n_all++] = i;
            }
            if (homes->n) (pass ? homes->rest : homes->full)[home] = cpu->n_all - before;
        }
        if (pass == 0) cpu->n_full = homes->first_rest = cpu->n_all;
    }
}

static bool all_full(const eng_row *row) {
    (void)row;
    return true;
}
static bool runs_all(const eng_row *row) {
    return (row->flags & ENG_ROW_KV_ONLY) == 0;
}
static bool wants_logits(const eng_row *row) {
    return (row->flags & ENG_ROW_LOGITS) != 0;
}

static void norm_rows(eng__cpu *cpu, uint32_t first, uint32_t last, const float *weight) {
    for (uint32_t idx = first; idx < last; idx++) {
        cpu->kern->rms(cpu->stream + idx * cpu->ld_stream, weight,
                       cpu->normed + idx * cpu->ld_stream, cpu->plan.dim, cpu->plan.norm_eps);
    }
}

typedef struct {
    eng__cpu *cpu;
    const float *norm;
} norm_arg;

static void norm_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const norm_arg *work = arg;
    (void)worker;
    norm_rows(work->cpu, first, last, work->norm);
}

static void norm(eng__cpu *cpu, const float *weight, uint32_t n) {
    norm_arg work = {cpu, weight};
    eng__pool_run(cpu->pool, norm_work, &work, n, 4);
}

/* stream = norm(stream) */
static void norm_in_place_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const norm_arg *work = arg;
    (void)worker;
    for (uint32_t idx = first; idx < last; idx++) {
        float *x = work->cpu->stream + idx * work->cpu->ld_stream;
        work->cpu->kern->rms(x, work->norm, x, work->cpu->plan.dim, work->cpu->plan.norm_eps);
    }
}

static void norm_in_place(eng__cpu *cpu, const float *weight, uint32_t n) {
    norm_arg work = {cpu, weight};
    eng__pool_run(cpu->pool, norm_in_place_work, &work, n, 4);
}

/* stream += norm(normed): `normed` holds the output of a sublayer. */
static void add_normed_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    const norm_arg *work = arg;
    eng__cpu *cpu = work->cpu;
    (void)worker;
    for (uint32_t idx = first; idx < last; idx++) {
        float *xn = cpu->normed + idx * cpu->ld_stream;
        cpu->kern->rms(xn, work->norm, xn, cpu->plan.dim, cpu->plan.norm_eps);
        cpu->kern->scale_add(cpu->stream + idx * cpu->ld_stream, 1.0f, xn, 1.0f, cpu->plan.dim);
    }
}

/* The norm of a sublayer's output: of the sum in the stream with NORM_AFTER, otherwise of the
 * output alone before it is added. */
static void end_sublayer(eng__cpu *cpu, const float *weight) {
    norm_arg work = {cpu, weight};
    if (!plan_norms_outputs(&cpu->plan)) return;
    if (cpu->plan.norms == NORM_AFTER) norm_in_place(cpu, weight, cpu->n_full);
    else eng__pool_run(cpu->pool, add_normed_work, &work, cpu->n_full, 4);
}

/* Rows from n_full on only write their keys and values. */
static void run_attention(eng__cpu *cpu, const eng__layer *layer) {
    if (plan_norms_inputs(&cpu->plan)) norm(cpu, layer->attn_norm, cpu->n_all);
    eng__attention(cpu, layer);
    if (cpu->n_full > 0) end_sublayer(cpu, layer->attn_out_norm);
}

/* One layer on the stream. */
static void run_layer(eng__cpu *cpu, const eng__layer *layer) {
    if (cpu->homes.n) eng__attend_at_home(cpu, layer, run_attention);
    else run_attention(cpu, layer);
    if (cpu->n_full == 0) return;
    if (plan_norms_inputs(&cpu->plan)) norm(cpu, layer->ffn_norm, cpu->n_full);
    if (layer->ffn == FFN_MOE) eng__ffn_moe(cpu, layer);
    else eng__ffn_dense(cpu, layer);
    end_sublayer(cpu, layer->ffn_out_norm);
}

/* dst (op)= src * mat for n rows as wide as the stream */
static void product(eng__cpu *cpu, const eng__mat *mat, const float *src, float *dst, uint32_t n,
                    eng__gemm_op op) {
    cpu->jobs[0] = (eng__gemm){.mat = mat,
                               .src = src,
                               .ld_src = cpu->ld_stream,
                               .dst = dst,
                               .ld_dst = cpu->ld_stream,
                               .rows = n,
                               .op = op};
    eng__gemm_run(cpu, cpu->jobs, 1);
}

static void set_planes(eng__cpu *cpu, uint32_t plane) {
    for (uint32_t idx = 0; idx < cpu->n_all; idx++)
        cpu->plane[idx] = plane;
}

/* ---- prelude ---- */

static void prelude_start_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *cpu = arg;
    size_t dim = cpu->plan.dim;
    (void)worker;
    for (uint32_t idx = first; idx < last; idx++) {
        const eng_row *row = eng__row_of(cpu, idx);
        float *x = cpu->stream + idx * cpu->ld_stream;
        model_tensor_read(&cpu->embed, row->token * dim, dim, x);
        for (size_t i = 0; cpu->plan.embed_scale != 1 && i < dim; i++)
            x[i] *= cpu->plan.embed_scale;
        eng__rope_at(cpu, row->pos, cpu->rope + idx * cpu->ld_rope);
    }
}

static void start_state(const eng__cpu *cpu, const eng_row *row, const float *x) {
    size_t dim = cpu->plan.dim;
    float *state = cpu->state + row->row * dim;
    switch (cpu->opts.state0) {
    case STATE_EMBEDDING: memcpy(state, x, dim * sizeof *state); break;
    case STATE_ZERO: memset(state, 0, dim * sizeof *state); break;
    case STATE_SEEDED:
        for (size_t i = 0; i < dim; i++)
            state[i] = rm_seeded_state(row->pos, (uint32_t)i, cpu->plan.state0_std);
        break;
    }
}

/* The term of the injection that is equal in every loop; LINEAR and DIAGONAL have their product in
 * `normed`. */
static void keep_input(const eng__cpu *cpu, uint32_t idx, float *input) {
    size_t dim = cpu->plan.dim;
    const float *made = cpu->normed + idx * cpu->ld_stream;
    switch (cpu->plan.inject) {
    case INJECT_NONE: break;
    case INJECT_MYTHOS:
        memcpy(input, cpu->stream + idx * cpu->ld_stream, dim * sizeof *input);
        break;
    case INJECT_LINEAR: memcpy(input, made, dim * sizeof *input); break;
    case INJECT_DIAGONAL:
        for (size_t i = 0; i < dim; i++)
            input[i] = cpu->inj_b[i] * made[i];
        break;
    }
}

static void prelude_end_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *cpu = arg;
    size_t dim = cpu->plan.dim;
    (void)worker;
    for (uint32_t idx = first; idx < last; idx++) {
        const eng_row *row = eng__row_of(cpu, idx);
        start_state(cpu, row, cpu->stream + idx * cpu->ld_stream);
        if (cpu->plan.inject != INJECT_NONE) keep_input(cpu, idx, cpu->input + row->row * dim);
        memset(cpu->out + row->row * dim, 0, dim * sizeof *cpu->out);
        cpu->exit_sum[row->row] = 0;
    }
}

void eng__stage_prelude(eng__cpu *cpu) {
    order_rows(cpu, all_full);
    eng__choose_forms(cpu);
    eng__pool_run(cpu->pool, prelude_start_work, cpu, cpu->n_all, 8);
    for (uint32_t i = 0; i < cpu->plan.n_prelude; i++) {
        set_planes(cpu, plan_plane_prelude(&cpu->plan, i));
        run_layer(cpu, &cpu->prelude[i]);
    }
    if (cpu->plan.input_norm) norm_in_place(cpu, cpu->input_norm, cpu->n_all);
    if (cpu->inject_input.panels)
        product(cpu, &cpu->inject_input, cpu->stream, cpu->normed, cpu->n_all, ENG__STORE);
    eng__pool_run(cpu->pool, prelude_end_work, cpu, cpu->n_all, 8);
}

/* ---- one loop ---- */

/* x = norm(state + loop embedding + input) */
static void mythos_input(const eng__cpu *cpu, const eng_row *row, float *x) {
    size_t dim = cpu->plan.dim, width = cpu->loop_width;
    const float *state = cpu->state + row->row * dim, *input = cpu->input + row->row * dim,
                *embedding = cpu->loop_emb + row->loop * width;
    for (size_t i = 0; i < width; i++)
        x[i] = state[i] + embedding[i] + input[i];
    for (size_t i = width; i < dim; i++)
        x[i] = state[i] + input[i];
    cpu->kern->rms(x, cpu->loop_norm, x, dim, cpu->plan.norm_eps);
}

/* x = decay * state + input */
static void diagonal_input(const eng__cpu *cpu, const eng_row *row, float *x) {
    size_t dim = cpu->plan.dim;
    const float *state = cpu->state + row->row * dim, *input = cpu->input + row->row * dim;
    for (size_t i = 0; i < dim; i++)
        x[i] = cpu->inj_a[i] * state[i] + input[i];
}

static void loop_start_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *cpu = arg;
    size_t dim = cpu->plan.dim;
    (void)worker;
    for (uint32_t idx = first; idx < last; idx++) {
        const eng_row *row = eng__row_of(cpu, idx);
        float *x = cpu->stream + idx * cpu->ld_stream;
        const float *state = cpu->state + row->row * dim;
        switch (cpu->plan.inject) {
        case INJECT_NONE: memcpy(x, state, dim * sizeof *x); break;
        case INJECT_MYTHOS: mythos_input(cpu, row, x); break;
        case INJECT_LINEAR: /* the product with the state follows */
            memcpy(cpu->normed + idx * cpu->ld_stream, state, dim * sizeof *x);
            memcpy(x, cpu->input + row->row * dim, dim * sizeof *x);
            break;
        case INJECT_DIAGONAL: diagonal_input(cpu, row, x); break;
        }
        eng__rope_at(cpu, row->pos, cpu->rope + idx * cpu->ld_rope);
    }
}

/* y = x + LoRA(x); x = A state + B input + y is the new state. */
static void mythos_state(eng__cpu *cpu, uint32_t idx, const eng_row *row) {
    size_t dim = cpu->plan.dim, rank = cpu->plan.lora_rank;
    float *x = cpu->stream + idx * cpu->ld_stream;
    const float *state = cpu->state + row->row * dim, *input = cpu->input + row->row * dim;
    if (rank) {
        const float *down = cpu->lora + idx * cpu->ld_lora;
        const float *scale = cpu->lora_scale + rm_lora_row(row->loop, cpu->lora_rows) * rank;
        for (size_t i = 0; i < rank; i++) {
            cpu->kern->scale_add(x, 1.0f, cpu->lora_b + i * dim, down[i] * scale[i], dim);
        }
    }
    for (size_t i = 0; i < dim; i++)
        x[i] = rm_lti(state[i], input[i], x[i], cpu->inj_a[i], cpu->inj_b[i]);
}

static float gate_of(const eng__cpu *cpu, const float *state) {
    return rm_sigmoid(cpu->kern->dot(state, cpu->exit_w, cpu->plan.dim) + cpu->exit_bias);
}

/* ACT: adds this loop's share of the state to the output. True if the row leaves. */
static bool act(eng__cpu *cpu, const eng_row *row, const float *state) {
    rm_act_step step = rm_act(cpu->exit_sum[row->row], gate_of(cpu, state), row->threshold,
                              row->loop + 1u, row->min_loops, row->max_loops);
    cpu->exit_sum[row->row] = step.cum;
    cpu->kern->scale_add(cpu->out + row->row * cpu->plan.dim, 1.0f, state, step.weight,
                         cpu->plan.dim);
    return step.halted != 0;
}

static bool latent_diff(const eng__cpu *cpu, const eng_row *row, const float *state) {
    size_t dim = cpu->plan.dim;
    const float *before = cpu->state + row->row * dim;
    float diff = 0;
    for (size_t i = 0; i < dim; i++)
        diff += (state[i] - before[i]) * (state[i] - before[i]);
    return rm_latent_diff(diff, cpu->kern->dot(state, state, dim), row->threshold, row->loop + 1u,
                          row->min_loops, row->max_loops);
}

static bool cosine(const eng__cpu *cpu, const eng_row *row, const float *state) {
    size_t dim = cpu->plan.dim;
    const float *before = cpu->state + row->row * dim;
    return rm_cosine(cpu->kern->dot(state, before, dim), cpu->kern->dot(state, state, dim),
                     cpu->kern->dot(before, before, dim), row->threshold, row->loop + 1u,
                     row->min_loops, row->max_loops);
}

/* True if the row leaves with this state; cpu->state still holds the one before. */
static bool leaves(eng__cpu *cpu, const eng_row *row, const float *state) {
    switch (cpu->opts.exit) {
    case EXIT_ACT: return act(cpu, row, state);
    case EXIT_HAZARD: {
        rm_hazard_step step =
            rm_hazard(cpu->exit_sum[row->row], gate_of(cpu, state), row->threshold, row->loop + 1u,
                      row->min_loops, row->max_loops);
        cpu->exit_sum[row->row] = step.cum;
        return step.halted != 0;
    }
    case EXIT_LATENT_DIFF: return latent_diff(cpu, row, state);
    case EXIT_COSINE: return cosine(cpu, row, state);
    case EXIT_FIXED: break;
    }
    return row->loop + 1u >= row->max_loops;
}

static void loop_end_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *cpu = arg;
    size_t dim = cpu->plan.dim;
    (void)worker;
    for (uint32_t idx = first; idx < last; idx++) {
        const eng_row *row = eng__row_of(cpu, idx);
        float *x = cpu->stream + idx * cpu->ld_stream;
        if (cpu->plan.inject == INJECT_MYTHOS) mythos_state(cpu, idx, row);
        if (cpu->plan.loop_norm) cpu->kern->rms(x, cpu->loop_norm, x, dim, cpu->plan.norm_eps);
        if ((row->flags & ENG_ROW_TAIL) == 0) {
            bool halts = leaves(cpu, row, x);
            cpu->halted[cpu->launch_row[idx]] = halts;
            if (halts && cpu->plan.output == OUTPUT_STATE)
                memcpy(cpu->out + row->row * dim, x, dim * sizeof *x);
        }
        memcpy(cpu->state + row->row * dim, x, dim * sizeof *x);
    }
}

static void lora(eng__cpu *cpu) {
    cpu->jobs[0] = (eng__gemm){.mat = &cpu->lora_down,
                               .src = cpu->stream,
                               .ld_src = cpu->ld_stream,
                               .dst = cpu->lora,
                               .ld_dst = cpu->ld_lora,
                               .rows = cpu->n_full};
    eng__gemm_run(cpu, cpu->jobs, 1);
}

/* K/V-only rows (a tail's last loop) stop at the keys and values of the last layer. In earlier
 * layers they run like all rows. */
void eng__stage_recurrent(eng__cpu *cpu) {
    order_rows(cpu, runs_all);
    uint32_t n_full = cpu->n_full;
    memset(cpu->halted, 0, cpu->n_rows);
    for (uint32_t idx = 0; idx < cpu->n_all; idx++)
        cpu->plane[idx] = plan_plane_loop(&cpu->plan, eng__row_of(cpu, idx)->loop);
    eng__pool_run(cpu->pool, loop_start_work, cpu, cpu->n_all, 4);
    if (cpu->inject_state.panels)
        product(cpu, &cpu->inject_state, cpu->normed, cpu->stream, cpu->n_all, ENG__ADD);
    cpu->n_full = cpu->n_all;
    for (uint32_t i = 0; i < cpu->plan.n_core; i++) {
        if (i + 1 == cpu->plan.n_core) cpu->n_full = n_full;
        run_layer(cpu, &cpu->core[i]);
    }
    if (cpu->n_full == 0) return;
    if (cpu->plan.inject == INJECT_MYTHOS && cpu->plan.lora_rank) lora(cpu);
    eng__pool_run(cpu->pool, loop_end_work, cpu, cpu->n_full, 4);
}

/* ---- coda and head ---- */

/* The output of a row that still loops, as if it left now. A weighted sum is made in `x`. */
static const float *draft_output(const eng__cpu *cpu, const eng_row *row, float *x) {
    size_t dim = cpu->plan.dim;
    const float *state = cpu->state + row->row * dim;
    if (cpu->plan.output == OUTPUT_STATE) return state;
    memcpy(x, cpu->out + row->row * dim, dim * sizeof *x);
    cpu->kern->scale_add(x, 1.0f, state, rm_act_rest(cpu->exit_sum[row->row]), dim);
    return x;
}

/* The coda works on a copy of the output: the row may still loop, as a tail or behind its draft.
 * CODA_IN_LINEAR reads the copy from `normed`. */
static void coda_start_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *cpu = arg;
    size_t dim = cpu->plan.dim;
    (void)worker;
    for (uint32_t idx = first; idx < last; idx++) {
        const eng_row *row = eng__row_of(cpu, idx);
        float *x = (cpu->plan.coda_in == CODA_IN_LINEAR ? cpu->normed : cpu->stream) +
                   idx * cpu->ld_stream;
        const float *out =
            row->flags & ENG_ROW_DRAFT ? draft_output(cpu, row, x) : cpu->out + row->row * dim;
        if (cpu->plan.coda_in == CODA_IN_NORM)
            cpu->kern->rms(out, cpu->final_norm, x, dim, cpu->plan.norm_eps);
        else if (out != x) memcpy(x, out, dim * sizeof *x);
        eng__rope_at(cpu, row->pos, cpu->rope + idx * cpu->ld_rope);
    }
}

/* `plane`, free after the last layer, becomes the place of a launch row among the logits, which are
 * in launch order. */
static void number_logits(eng__cpu *cpu) {
    for (uint32_t i = 0, n = 0; i < cpu->n_rows; i++) {
        cpu->plane[i] = n;
        n += wants_logits(&cpu->rows[i]);
    }
}

static void head_start_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    eng__cpu *cpu = arg;
    size_t dim = cpu->plan.dim;
    (void)worker;
    for (uint32_t idx = first; idx < last; idx++) {
        const float *x = cpu->stream + idx * cpu->ld_stream;
        float *to = cpu->normed + cpu->plane[cpu->launch_row[idx]] * cpu->ld_stream;
        if (cpu->plan.final_norm) cpu->kern->rms(x, cpu->final_norm, to, dim, cpu->plan.norm_eps);
        else memcpy(to, x, dim * sizeof *to);
    }
}

void eng__stage_coda(eng__cpu *cpu) {
    order_rows(cpu, wants_logits);
    uint32_t n_logits = cpu->n_full;
    cpu->n_full = cpu->n_all;
    eng__pool_run(cpu->pool, coda_start_work, cpu, cpu->n_all, 8);
    if (cpu->coda_in.panels)
        product(cpu, &cpu->coda_in, cpu->normed, cpu->stream, cpu->n_all, ENG__STORE);
    for (uint32_t i = 0; i < cpu->plan.n_coda; i++) {
        if (i + 1 == cpu->plan.n_coda) cpu->n_full = n_logits;
        set_planes(cpu, plan_plane_coda(&cpu->plan, i));
        run_layer(cpu, &cpu->coda[i]);
    }
    cpu->n_logits = n_logits;
    if (n_logits == 0) return;
    number_logits(cpu);
    eng__pool_run(cpu->pool, head_start_work, cpu, n_logits, 4);
    cpu->jobs[0] = (eng__gemm){.mat = &cpu->head,
                               .src = cpu->normed,
                               .ld_src = cpu->ld_stream,
                               .dst = cpu->logits,
                               .ld_dst = cpu->plan.vocab_size,
                               .rows = n_logits};
    eng__gemm_run(cpu, cpu->jobs, 1);
    const eng_columns logits = {cpu->logits, cpu->plan.vocab_size, sizeof(float),
                                n_logits,    cpu->plan.vocab_size, ENG_RANKS_OUT};
    eng__gather_ranks(cpu, &logits, 1);
}

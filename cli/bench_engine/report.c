/* report.c - the lines of `fathom bench engine`, for people and as JSON. */
#include "base/json.h"
#include "cli/bench_engine/bench_engine_internal.h"
#include "cli/describe.h"
#include "engine/backend.h"

#include <stdio.h>

static const char *dtype_of(const runtime *r) {
    model_tensor t;
    return model_find(r->model, (tensor_place){.role = TENSOR_EMBED}, &t)
               ? model_dtype_name(t.dtype)
               : "?";
}

void be_print_head(FILE *to, const runtime *r, const runtime_opts *o, const be_load *l,
                   uint64_t repeat) {
    const model_plan *c = model_plan_of(r->model);
    const eng_backend_info *i = &r->backend->info;
    buf plan = {0};
    describe_runtime(&plan, r);
    fprintf(to,
            "model %s: %.1f M weights, %s, %.0f MB resident\n"
            "%s, %u loops\n"
            "device %s, %s, %u threads, cache slot %zu B\n"
            "prompts %u, outputs %u tokens (half to one and a half of it), temperature %.2f, top_p "
            "%.2f, "
            "seed %llu, %llu rounds, medians of %llu alternating runs, %s time\n\n",
            o->model, (double)plan_params(c) / 1e6, dtype_of(r), (double)i->weight_bytes / 1e6,
            plan.data ? plan.data : "",
            r->sched.default_max_loops ? r->sched.default_max_loops : c->loops_default, i->device,
            i->kernels, i->threads, i->slot_bytes, l->prompt_tokens, l->output_tokens,
            (double)l->temperature, (double)l->top_p, (unsigned long long)l->seed,
            (unsigned long long)l->rounds, (unsigned long long)repeat, be_clock_name(l));
    buf_deinit(&plan);
}

static void print_depths(FILE *to, const be_line *b) {
    fprintf(to, "      depths");
    for (uint32_t d = 1; d <= b->max_loops; d++) {
        fprintf(to, " %.1f", 100.0 * (double)b->run->depth[d] / (double)b->run->positions);
    }
    fprintf(to, " %%\n");
}

static void print_scheduler(FILE *to, const be_run *run) {
    double ns = (double)run->scheduler_ns;
    uint64_t launches = run->launches[0] + run->launches[1] + run->launches[2];
    uint64_t rows = run->rows[0] + run->rows[1] + run->rows[2];
    fprintf(
        to,
        "      scheduler %.1f us a launch, %.1f ns a row, %.2f us a token; %u row states held\n",
        ns / 1e3 / (double)launches, ns / (double)rows, ns / 1e3 / (double)run->tokens,
        run->rows_held);
}

void be_print_lines(FILE *to, const be_line *lines, size_t n, bool virtual) {
    for (size_t k = 0; k < n; k++) {
        const be_line *b = &lines[k];
        const be_run *u = b->run;
        if (k == 0 || lines[k - 1].sequences != b->sequences) {
            fprintf(to, "%u sequences\n  %-16s %9s %7s %7s %7s %7s %7s %8s %9s %9s  %s\n",
                    b->sequences, "mode", "tokens/s", "ratio", "bound", "% bound", "depth", "pool",
                    "launches", "cache MB", "all loops", "lost: loops, rest; tails");
        }
        char name[40];
        snprintf(name, sizeof name, "%s %s", b->mode->mode, b->mode->policy);
        fprintf(to,
                "  %-16s %9.1f %7.2f %7.2f %7.1f %7.2f %7.1f %8llu %9.2f %9.2f  %5.1f%% %5.1f%%; "
                "%.0f%%",
                name, b->tokens_per_s, b->ratio, b->bound, b->percent, b->mean_depth, u->pool_mean,
                (unsigned long long)u->launches[ENG_STAGE_RECURRENT], (double)u->cache_bytes / 1e6,
                (double)u->cache_bytes_all_loops / 1e6, 100 * b->lost_loops, 100 * b->lost_rest,
                100 * b->tails);
        if (u->compared) {
            fprintf(to, "  %llu of %llu tokens differ", (unsigned long long)u->differing,
                    (unsigned long long)u->compared);
        }
        fprintf(to, "\n");
        if (virtual) print_scheduler(to, u);
        if (b->mode->batching == SCHED_DEPTHWISE) print_depths(to, b);
    }
}

static void json_run(FILE *to, const be_line *b) {
    const be_run *u = b->run;
    fprintf(
        to,
        "{\"mode\":\"%s\",\"policy\":\"%s\",\"sequences\":%u,\"tokens\":%llu,\"tokens_per_s\":%.3f,"
        "\"mean_depth\":%.4f,\"max_loops\":%u,\"ratio_to_full\":%.4f,\"bound_ratio\":%.4f,"
        "\"percent_of_bound\":%.2f,\"cache_bytes\":%llu,\"cache_bytes_all_loops\":%llu,"
        "\"cache_bytes_slots\":%llu,\"positions\":%llu,\"seconds\":%.4f,\"pool_mean\":%.2f,",
        b->mode->mode, b->mode->policy, b->sequences, (unsigned long long)u->tokens,
        b->tokens_per_s, b->mean_depth, b->max_loops, b->ratio, b->bound, b->percent,
        (unsigned long long)u->cache_bytes, (unsigned long long)u->cache_bytes_all_loops,
        (unsigned long long)u->slots_ideal_bytes, (unsigned long long)u->positions, u->seconds,
        u->pool_mean);
    static const char *stage[] = {"prelude", "recurrent", "coda"};
    for (int i = 0; i < 3; i++) {
        fprintf(to, "\"%s\":{\"launches\":%llu,\"rows\":%llu,\"seconds\":%.4f},", stage[i],
                (unsigned long long)u->launches[i], (unsigned long long)u->rows[i],
                (double)u->ns[i] / 1e9);
    }
    fprintf(to,
            "\"scheduler_seconds\":%.6f,\"rows_held\":%u,\"sample_seconds\":%.4f,\"tail_rows\":%"
            "llu,\"f0_ns\":%.1f,\"fr_ns\":%.1f,\"lost\":{"
            "\"loops\":%.4f,"
            "\"rest\":%.4f},\"tokens_compared\":%llu,\"tokens_differing\":%"
            "llu,\"depth_histogram\":[",
            (double)u->scheduler_ns / 1e9, u->rows_held, (double)u->sample_ns / 1e9,
            (unsigned long long)u->tail_rows, b->f0, b->fr, b->lost_loops, b->lost_rest,
            (unsigned long long)u->compared, (unsigned long long)u->differing);
    for (uint32_t d = 0; d <= b->max_loops; d++) {
        fprintf(to, "%s%llu", d ? "," : "", (unsigned long long)u->depth[d]);
    }
    fprintf(to, "],\"pool\":[");
    uint32_t every = u->n_samples / 200 + 1;
    for (uint32_t i = 0; i < u->n_samples; i += every) {
        fprintf(to, "%s[%.2f,%u]", i ? "," : "", u->at_ms[i], u->pool[i]);
    }
    fprintf(to, "],\"launches\":[");
    for (size_t i = 0; i < u->table.n; i++) {
        const be_launch *launch = &u->table.launches[i];
        fprintf(to, "%s[%u,%u,%u,%u,%u,%llu]", i ? "," : "", launch->stage, launch->rows,
                launch->tails, launch->kv_only, launch->waiting, (unsigned long long)launch->ns);
    }
    fprintf(to, "]}");
}

void be_print_json(FILE *to, const be_line *lines, size_t n, const runtime *r, const be_load *l,
                   uint64_t repeat) {
    const eng_backend_info *i = &r->backend->info;
    buf text = {0};
    const char *dir = model_dir(r->model);
    size_t len = 0;
    while (dir[len])
        len++;
    buf_json_string(&text, dir, len);
    buf_puts(&text, ",");
    describe_runtime_json(&text, r);
    fprintf(to,
            "{\"model\":%s,\"weights\":%llu,\"weight_bytes\":%llu,\"dtype\":\"%s\",\"device\":\"%"
            "s\",\"kernels\":\"%s\","
            "\"threads\":%u,\"slot_bytes\":%zu,\"prompt_tokens\":%u,\"output_tokens\":%u,"
            "\"temperature\":%.3f,"
            "\"top_p\":%.3f,\"seed\":%llu,\"rounds\":%llu,\"repeat\":%llu,\"clock\":\"%s\",\n"
            "\"launch_columns\":[\"stage\",\"rows\",\"tails\",\"kv_only\",\"waiting\",\"ns\"],\n"
            "\"runs\":[\n",
            text.data ? text.data : "\"\"",
            (unsigned long long)plan_params(model_plan_of(r->model)),
            (unsigned long long)i->weight_bytes, dtype_of(r), i->device, i->kernels, i->threads,
            i->slot_bytes, l->prompt_tokens, l->output_tokens, (double)l->temperature,
            (double)l->top_p, (unsigned long long)l->seed, (unsigned long long)l->rounds,
            (unsigned long long)repeat, be_clock_name(l));
    buf_deinit(&text);
    for (size_t k = 0; k < n; k++) {
        if (k) fprintf(to, ",\n");
        json_run(to, &lines[k]);
    }
    fprintf(to, "\n]}\n");
}

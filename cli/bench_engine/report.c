/* report.c - the lines of `fathom bench engine`, for people and as JSON. */
#include "base/json.h"
#include "cli/bench_engine/bench_engine_internal.h"
#include "cli/describe.h"
#include "engine/backend.h"

#include <stdio.h>
#include <string.h>

typedef unsigned long long ull;

static const char *dtype_of(const runtime *run_on) {
    model_tensor embed;
    return model_find(run_on->model, (tensor_place){.role = TENSOR_EMBED}, &embed)
               ? model_dtype_name(embed.dtype)
               : "?";
}

static void print_load(FILE *to, const be_load *load) {
    if (load->prompts) {
        fprintf(to, "%zu prompts of %s, at most %u output tokens", load->prompts->n,
                load->prompts_file, load->output_tokens);
    } else {
        fprintf(to, "prompts %u, outputs %u tokens (%s)", load->prompt_tokens, load->output_tokens,
                load->same_lengths ? "exactly" : "half to one and a half of it");
    }
    if (load->prefix_cache) fprintf(to, ", prefix cache on");
    fprintf(to, ", temperature %.2f, top_p %.2f, seed %llu, %llu rounds", (double)load->temperature,
            (double)load->top_p, (ull)load->seed, (ull)load->rounds);
}

void be_print_head(FILE *to, const runtime *run_on, const runtime_opts *opts, const be_load *load,
                   uint64_t repeat) {
    const model_plan *plan = model_plan_of(run_on->model);
    const eng_backend_info *info = &run_on->backend->info;
    uint32_t loops = run_on->sched.default_max_loops;
    buf text = {0};
    describe_runtime(&text, run_on);
    fprintf(to,
            "model %s: %.1f M weights, %s, %.0f MB resident\n"
            "%s, %u loops\n"
            "device %s, %s, %u threads, cache slot %zu B\n",
            opts->model, (double)plan_params(plan) / 1e6, dtype_of(run_on),
            (double)info->weight_bytes / 1e6, text.data ? text.data : "",
            loops ? loops : plan->loops_default, info->device, info->kernels, info->threads,
            info->slot_bytes);
    print_load(to, load);
    fprintf(to, ", medians of %llu alternating runs, %s time\n\n", (ull)repeat,
            be_clock_name(load));
    buf_deinit(&text);
}

/* ---- for people ---- */

static void print_depths(FILE *to, const be_line *line) {
    fprintf(to, "      depths");
    for (uint32_t depth = 1; depth <= line->max_loops; depth++) {
        fprintf(to, " %.1f",
                100.0 * (double)line->run->depth[depth] / (double)line->run->positions);
    }
    fprintf(to, " %%\n");
}

static void print_scheduler(FILE *to, const be_run *run) {
    double ns = (double)run->scheduler_ns;
    uint64_t n_launches = run->launches[0] + run->launches[1] + run->launches[2];
    uint64_t n_rows = run->rows[0] + run->rows[1] + run->rows[2];
    fprintf(to,
            "      scheduler: %.1f us a launch, %.1f ns a row, %.2f us a token, before the window "
            "%.2f us a position; %u row states\n",
            ns / 1e3 / (double)n_launches, ns / (double)n_rows, ns / 1e3 / (double)run->tokens,
            (double)run->warm_up_ns / 1e3 / (double)run->warm_up_positions, run->rows_held);
}

/* Tokens of a launch and sequence are 1 / loops without drafts. */
static void print_drafts(FILE *to, const be_line *line) {
    const be_run *run = line->run;
    uint64_t rows = run->rows[0] + run->rows[1] + run->rows[2];
    uint64_t judged = run->drafts_accepted + run->drafts_withdrawn;
    fprintf(to, "      %.3f tokens a recurrent launch and sequence",
            be_tokens_per_launch(run, line->sequences));
    if (line->mode->drafts)
        fprintf(to,
                "; drafts: %llu of %llu accepted (%.1f %%), %llu of %llu copied from the text, "
                "%.2f a chain, %llu rows of the head, %.1f %% of rows withdrawn; last: %u in "
                "flight, after loop %u",
                (ull)run->drafts_accepted, (ull)judged, be_percent(run->drafts_accepted, judged),
                (ull)run->text_drafts_accepted, (ull)run->text_drafts,
                run->draft_chains ? (double)run->drafts_accepted / (double)run->draft_chains : 0,
                (ull)run->draft_heads, be_percent(run->withdrawn_rows, rows), run->drafts,
                run->draft_loops);
    fprintf(to, "\n");
}

static void print_columns(FILE *to, uint32_t sequences) {
    fprintf(to, "%u sequences\n  %-20s %9s %7s %7s %7s %7s %7s %8s %9s %9s  %s\n", sequences,
            "mode", "tokens/s", "ratio", "bound", "% bound", "depth", "pool", "launches",
            "cache MB", "all loops", "lost: loops, rest; tails, bound with them");
}

static void print_line(FILE *to, const be_line *line) {
    const be_run *run = line->run;
    char name[BE_NAME];
    fprintf(
        to,
        "  %-20s %9.1f %7.2f %7.2f %7.1f %7.2f %7.1f %8llu %9.2f %9.2f  %5.1f%% %5.1f%%; %.0f%%",
        be_mode_name(name, line->mode), line->tokens_per_s, line->ratio, line->bound, line->percent,
        line->mean_depth, run->pool_mean, (ull)run->launches[ENG_STAGE_RECURRENT],
        (double)run->cache_bytes / 1e6, (double)run->cache_bytes_all_loops / 1e6,
        100 * line->lost_loops, 100 * line->lost_rest, 100 * line->tails);
    if (run->tail_rows) fprintf(to, " %.2f", line->bound_with_tails);
    if (run->compared) {
        fprintf(to, "  %llu of %llu tokens differ", (ull)run->differing, (ull)run->compared);
    }
    if (run->n_asked) fprintf(to, "  answers right: %u of %u", run->n_right, run->n_asked);
    fprintf(to, "\n");
}

void be_print_lines(FILE *to, const be_line *lines, size_t n, bool is_virtual) {
    for (size_t i = 0; i < n; i++) {
        const be_line *line = &lines[i];
        bool first = i == 0 || lines[i - 1].sequences != line->sequences;
        if (first) print_columns(to, line->sequences);
        print_line(to, line);
        if (line->mode->tells_drafts) print_drafts(to, line);
        if (is_virtual) print_scheduler(to, line->run);
        if (line->mode->batching == SCHED_DEPTHWISE) print_depths(to, line);
    }
}

/* ---- as JSON ---- */

static void json_stages(FILE *to, const be_run *run) {
    static const char *const names[] = {"prelude", "recurrent", "coda"};
    for (int i = 0; i < 3; i++) {
        fprintf(to, "\"%s\":{\"launches\":%llu,\"rows\":%llu,\"seconds\":%.4f},", names[i],
                (ull)run->launches[i], (ull)run->rows[i], (double)run->ns[i] / 1e9);
    }
}

static void json_drafts(FILE *to, const be_line *line) {
    const be_run *run = line->run;
    if (line->mode->drafts == SCHED_DRAFTS_AUTO) fprintf(to, "\"speculate\":\"auto\",");
    else fprintf(to, "\"speculate\":%u,", line->mode->drafts);
    fprintf(to,
            "\"tokens_per_launch\":%.5f,\"drafts\":{\"chains\":%llu,\"accepted\":%llu,"
            "\"withdrawn\":%llu,\"from_text\":%llu,\"from_text_accepted\":%llu,\"head_rows\":%llu,"
            "\"withdrawn_rows\":%llu,\"most_now\":%u,"
            "\"loops_now\":%u,\"accepted_by_place\":[",
            be_tokens_per_launch(run, line->sequences), (ull)run->draft_chains,
            (ull)run->drafts_accepted, (ull)run->drafts_withdrawn, (ull)run->text_drafts,
            (ull)run->text_drafts_accepted, (ull)run->draft_heads, (ull)run->withdrawn_rows,
            run->drafts, run->draft_loops);
    for (int i = 0; i < SCHED_DRAFT_PLACES; i++)
        fprintf(to, "%s%llu", i ? "," : "", (ull)run->accepted_by_place[i]);
    fprintf(to, "]},");
}

static void json_arrays(FILE *to, const be_line *line) {
    const be_run *run = line->run;
    fprintf(to, "\"depth_histogram\":[");
    for (uint32_t depth = 0; depth <= line->max_loops; depth++)
        fprintf(to, "%s%llu", depth ? "," : "", (ull)run->depth[depth]);
    fprintf(to, "],\"pool\":[");
    uint32_t every = run->n_samples / 200 + 1;
    for (uint32_t i = 0; i < run->n_samples; i += every)
        fprintf(to, "%s[%.2f,%u]", i ? "," : "", run->at_ms[i], run->pool[i]);
    fprintf(to, "],\"launches\":[");
    for (size_t i = 0; i < run->table.n; i++) {
        const be_launch *launch = &run->table.launches[i];
        fprintf(to, "%s[%u,%u,%u,%u,%u,%llu]", i ? "," : "", launch->stage, launch->rows,
                launch->tails, launch->kv_only, launch->waiting, (ull)launch->ns);
    }
    fprintf(to, "]");
}

static void json_line(FILE *to, const be_line *line) {
    const be_run *run = line->run;
    fprintf(to,
            "{\"mode\":\"%s\",\"policy\":\"%s\",\"sequences\":%u,\"tokens\":%llu,"
            "\"tokens_per_s\":%.3f,\"mean_depth\":%.4f,\"max_loops\":%u,\"ratio_to_full\":%.4f,"
            "\"bound_ratio\":%.4f,\"percent_of_bound\":%.2f,\"bound_with_tails\":%.4f,"
            "\"cache_bytes\":%llu,\"cache_bytes_all_loops\":%llu,\"cache_bytes_slots\":%llu,"
            "\"positions\":%llu,\"seconds\":%.4f,\"pool_mean\":%.2f,",
            line->mode->mode, line->mode->policy, line->sequences, (ull)run->tokens,
            line->tokens_per_s, line->mean_depth, line->max_loops, line->ratio, line->bound,
            line->percent, line->bound_with_tails, (ull)run->cache_bytes,
            (ull)run->cache_bytes_all_loops, (ull)run->slots_ideal_bytes, (ull)run->positions,
            run->seconds, run->pool_mean);
    json_stages(to, run);
    fprintf(to,
            "\"scheduler_seconds\":%.6f,\"rows_held\":%u,"
            "\"warm_up\":{\"positions\":%llu,\"scheduler_seconds\":%.6f},\"sample_seconds\":%.4f,"
            "\"tail_rows\":%llu,\"f0_ns\":%.1f,\"fr_ns\":%.1f,"
            "\"lost\":{\"loops\":%.4f,\"rest\":%.4f},\"tokens_compared\":%llu,"
            "\"tokens_differing\":%llu,\"answers\":%u,\"answers_right\":%u,",
            (double)run->scheduler_ns / 1e9, run->rows_held, (ull)run->warm_up_positions,
            (double)run->warm_up_ns / 1e9, (double)run->sample_ns / 1e9, (ull)run->tail_rows,
            line->f0, line->fr, line->lost_loops, line->lost_rest, (ull)run->compared,
            (ull)run->differing, run->n_asked, run->n_right);
    json_drafts(to, line);
    json_arrays(to, line);
    fprintf(to, "}");
}

static void json_load(buf *to, const be_load *load) {
    buf_printf(to, ",\"prefix_cache\":%s", load->prefix_cache ? "true" : "false");
    if (load->prompts == NULL) {
        buf_printf(to, ",\"prompt_tokens\":%u", load->prompt_tokens);
        return;
    }
    buf_printf(to, ",\"prompts\":%zu,\"prompts_file\":", load->prompts->n);
    buf_json_text(to, load->prompts_file);
}

void be_print_json(FILE *to, const be_line *lines, size_t n, const runtime *run_on,
                   const be_load *load, uint64_t repeat) {
    const eng_backend_info *info = &run_on->backend->info;
    const char *dir = model_dir(run_on->model);
    buf text = {0};
    buf_json_string(&text, dir, strlen(dir));
    buf_puts(&text, ",");
    describe_runtime_json(&text, run_on);
    json_load(&text, load);
    fprintf(to,
            "{\"model\":%s,\"weights\":%llu,\"weight_bytes\":%llu,\"dtype\":\"%s\","
            "\"device\":\"%s\",\"kernels\":\"%s\",\"threads\":%u,\"slot_bytes\":%zu,"
            "\"output_tokens\":%u,\"temperature\":%.3f,\"top_p\":%.3f,"
            "\"seed\":%llu,\"rounds\":%llu,\"repeat\":%llu,\"clock\":\"%s\",\n"
            "\"launch_columns\":[\"stage\",\"rows\",\"tails\",\"kv_only\",\"waiting\",\"ns\"],\n"
            "\"runs\":[\n",
            text.data ? text.data : "\"\"", (ull)plan_params(model_plan_of(run_on->model)),
            (ull)info->weight_bytes, dtype_of(run_on), info->device, info->kernels, info->threads,
            info->slot_bytes, load->output_tokens, (double)load->temperature, (double)load->top_p,
            (ull)load->seed, (ull)load->rounds, (ull)repeat, be_clock_name(load));
    buf_deinit(&text);
    for (size_t i = 0; i < n; i++) {
        if (i) fprintf(to, ",\n");
        json_line(to, &lines[i]);
    }
    fprintf(to, "\n]}\n");
}

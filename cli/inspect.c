/* inspect.c - fathom inspect: the contents of a model folder, and how much fits here. */
#include "base/file.h"
#include "base/json.h"
#include "base/machine.h"
#include "cli/describe.h"
#include "cli/inspect_ranks.h"
#include "engine/kernel_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const model_folder *model;
    const model_plan *plan;
    uint64_t memory;        /* bytes available to this process; 0 = unknown */
    bool limited;           /* by a cgroup rather than by the host */
    uint64_t for_cache;     /* bytes that remain beside the weights */
    uint32_t tokenizer_ids; /* 0 without a tokenizer */
    const char *dtype;      /* "BF16", "mixed" */
    double depths[3];       /* depths to show: the mean, the default, the most */
    size_t n_depths;
} folder_facts;

/* ---- the machine ---- */

/* The number after `key` in a small text file; 0 if it is not there. */
static uint64_t number_in(const char *path, const char *key) {
    buf text = {0};
    uint64_t n = 0;
    if (file_read(&text, path, 1 << 16, NULL) == 0 && text.data) {
        const char *at = strstr(text.data, key);
        if (at) n = strtoull(at + strlen(key), NULL, 10);
    }
    buf_deinit(&text);
    return n;
}

/* Free memory, or the container's limit if lower. */
static uint64_t usable_memory(bool *limited) {
    machine here;
    machine_read(&here);
    here.memory = number_in("/proc/meminfo", "MemAvailable:") * 1024;
    uint64_t usable = machine_memory(&here);
    *limited = usable && usable == here.cgroup.memory;
    return usable;
}

/* ---- arithmetic ---- */

/* Number of cached values of one position at this depth. */
static double position_values(const model_plan *plan, double depth) {
    return (plan_planes(plan, 0) + depth) * plan->slot_values;
}

/* Bytes of a position's entries in the map of slots: one for each plane, used or not. */
static uint64_t map_bytes(const model_plan *plan) {
    return plan_planes(plan, plan->loops_default) * sizeof(uint32_t);
}

static double position_bytes(const model_plan *plan, double depth, size_t value_bytes) {
    return position_values(plan, depth) * (double)value_bytes + (double)map_bytes(plan);
}

static uint64_t tokens_that_fit(const folder_facts *facts, double depth) {
    return (uint64_t)((double)facts->for_cache / position_bytes(facts->plan, depth, 2));
}

static bool runs_all_loops(const model_plan *plan) {
    return plan->loops_least >= plan->loops_default;
}

/* The option's mean depth, or without one half of the model's loops. */
static double mean_depth(const model_plan *plan, double mean) {
    if (mean > 0) return mean;
    return runs_all_loops(plan) ? plan->loops_default : (plan->loops_default + 1.0) / 2;
}

/* Depths to show: the mean, the model's default, and the most that a request may ask for. */
static void choose_depths(folder_facts *facts, double mean) {
    const model_plan *plan = facts->plan;
    if (mean > 0 || !runs_all_loops(plan))
        facts->depths[facts->n_depths++] = mean_depth(plan, mean);
    facts->depths[facts->n_depths++] = plan->loops_default;
    if (plan_loops_ceiling(plan) > plan->loops_default)
        facts->depths[facts->n_depths++] = plan_loops_ceiling(plan);
}

static const char *dtype_of(const model_folder *folder, uint64_t params, uint64_t bytes) {
    model_tensor tensor;
    if (!model_find(folder, (tensor_place){.role = TENSOR_EMBED}, &tensor)) return "?";
    return bytes == params * model_dtype_bytes(tensor.dtype) ? model_dtype_name(tensor.dtype)
                                                             : "mixed";
}

static folder_facts gather(const model_folder *folder) {
    uint64_t bytes = model_bytes(folder), spare = 512u << 20; /* activations, logits, HTTP */
    folder_facts facts = {.model = folder, .plan = model_plan_of(folder)};
    facts.memory = usable_memory(&facts.limited);
    facts.dtype = dtype_of(folder, model_params(folder), bytes);
    if (facts.memory > bytes + spare) facts.for_cache = facts.memory - bytes - spare;
    return facts;
}

/* A folder without a usable tokenizer takes token ids. */
static int read_tokenizer(folder_facts *facts, err *e) {
    tokenizer *tok = NULL;
    char why_not[RUNTIME_WHY];
    if (runtime_open_tokenizer(&tok, model_dir(facts->model), facts->plan->vocab_size, why_not,
                               e) != 0)
        return -1;
    facts->tokenizer_ids = tok ? tokenizer_size(tok) : 0;
    tokenizer_close(tok);
    return 0;
}

/* Contexts to show: 1024 and 4096, if the model has so many, and the longest. */
static size_t contexts(const model_plan *plan, uint32_t out[3]) {
    size_t n = 0;
    if (plan->max_seq_len > 1024) out[n++] = 1024;
    if (plan->max_seq_len > 4096) out[n++] = 4096;
    out[n++] = plan->max_seq_len;
    return n;
}

/* ---- text ---- */

static void print_parts(const folder_facts *facts) {
    model_part_size parts[MODEL_PARTS];
    char count[32], size[32];
    uint64_t params = model_params(facts->model), bytes = model_bytes(facts->model);
    model_parts(facts->model, parts);
    printf("\n%-22s %12s %12s %7s\n", "weights", "parameters", "bytes", "share");
    for (int i = 0; i < MODEL_PARTS; i++) {
        if (parts[i].params == 0) continue;
        printf("  %-20s %12s %12s %6.1f%%\n", model_part_name((model_part)i),
               describe_scaled(count, parts[i].params, ""),
               describe_scaled(size, parts[i].bytes, "B"),
               100.0 * (double)parts[i].bytes / (double)bytes);
    }
    printf("  %-20s %12s %12s  %s\n", "total", describe_scaled(count, params, ""),
           describe_scaled(size, bytes, "B"), facts->dtype);
}

static void print_layers(const model_plan *plan) {
    buf lines = {0};
    describe_parts(&lines, plan);
    printf("%s", lines.data ? lines.data : "");
    buf_deinit(&lines);
}

static void print_exit(const model_plan *plan) {
    buf rules = {0};
    runtime_exit_rules(&rules, plan);
    printf("  %-20s %s", "exit rule", exit_rule_name(plan->exit));
    float threshold = plan->exit_threshold;
    if (plan->exit != EXIT_FIXED)
        printf(" at %g", (double)exit_rule_written(plan->exit, threshold));
    if (exit_rule_runs_all(plan->exit, threshold)) printf(", so every loop runs");
    printf(" (this family runs: %s)\n", rules.data ? rules.data : "");
    buf_deinit(&rules);
    if (plan->loops_least == plan->loops_cap && plan->loops_cap > 0)
        printf("  %-20s always %u\n", "loops", plan->loops_cap);
    else
        printf("  %-20s %u by default, at most %u%s\n", "loops", plan->loops_default,
               plan_loops_ceiling(plan), plan->loops_cap ? "" : " in a request");
}

static void print_model(const folder_facts *facts) {
    const model_plan *plan = facts->plan;
    printf("%s\n  %-20s %s\n", model_dir(facts->model), "family", plan_family_name(plan));
    print_layers(plan);
    print_exit(plan);
    printf("  %-20s %s\n", "halted positions", kv_policy_name(plan->halted_kv));
    printf("  %-20s %u\n", "context", plan->max_seq_len);
    printf("  %-20s %u tokens, ", "vocabulary", plan->vocab_size);
    if (facts->tokenizer_ids) printf("tokenizer of %u\n", facts->tokenizer_ids);
    else printf("no tokenizer: prompts are token ids\n");
    printf("  %-20s %s\n", "CPU kernels here", eng_cpu_kernels());
}

static void print_beside(const char *what, uint32_t own, uint32_t other) {
    char values[32], ratio[32];
    printf("  %-22s %10s   this model's is %s\n", what, describe_number(values, other),
           describe_ratio(ratio, own, other));
}

static void print_cache(const folder_facts *facts) {
    const model_plan *plan = facts->plan;
    layer_cache cache = describe_layer_cache(plan);
    char number[32], name[40];
    printf("\n%-24s %10s %14s %14s\n", "keys and values", "values", "bfloat16", "float32");
    printf("  %-22s %10s %12u B %12u B\n", "a token at one layer",
           describe_number(number, cache.own), 2 * cache.own, 4 * cache.own);
    print_beside("full multi-head", cache.own, cache.full);
    (void)snprintf(name, sizeof name, "grouped, %u K/V heads", plan->n_kv_heads);
    if (cache.grouped) print_beside(name, cache.own, cache.grouped);
    (void)snprintf(name, sizeof name, "one loop, %u layer%s", plan->n_core,
                   plan->n_core == 1 ? "" : "s");
    printf("  %-22s %10s %12u B %12u B\n", name, describe_number(number, plan->slot_values),
           2 * plan->slot_values, 4 * plan->slot_values);
    for (size_t i = 0; i < facts->n_depths; i++) {
        double values = position_values(plan, facts->depths[i]);
        (void)snprintf(name, sizeof name, "a token of %.4g loops", facts->depths[i]);
        printf("  %-22s %10s %12.0f B %12.0f B\n", name, describe_number(number, (uint64_t)values),
               2 * values, 4 * values);
    }
    double collapsed = position_values(plan, 1);
    printf("  %-22s %10s %12.0f B %12.0f B   (an answer's, with policy collapse)\n",
           "a collapsed token", describe_number(number, (uint64_t)collapsed), 2 * collapsed,
           4 * collapsed);
}

static void print_fit(const folder_facts *facts) {
    const model_plan *plan = facts->plan;
    char number[32], label[32];
    uint32_t rows[3];
    if (facts->memory == 0) return; /* no /proc here */
    printf("\nfits in %s %s: ", describe_scaled(number, facts->memory, "B"),
           facts->limited ? "of memory that the cgroup allows" : "free");
    if (facts->for_cache == 0) {
        printf("no, the weights alone are %s\n",
               describe_scaled(label, model_bytes(facts->model), "B"));
        return;
    }
    printf("weights, and %s of cache (bfloat16)\n  %-22s",
           describe_scaled(label, facts->for_cache, "B"), "at mean loops");
    for (size_t i = 0; i < facts->n_depths; i++)
        printf(" %14.4g", facts->depths[i]);
    printf("\n  %-22s", "tokens");
    for (size_t i = 0; i < facts->n_depths; i++)
        printf(" %14s", describe_number(number, tokens_that_fit(facts, facts->depths[i])));
    for (size_t k = 0, n = contexts(plan, rows); k < n; k++) {
        (void)snprintf(label, sizeof label, "sequences of %u", rows[k]);
        printf("\n  %-22s", label);
        for (size_t i = 0; i < facts->n_depths; i++)
            printf(" %14s",
                   describe_number(number, tokens_that_fit(facts, facts->depths[i]) / rows[k]));
    }
    printf("\n  (policy last; with exact a token may keep as many loops as the deepest one ran)\n");
}

/* ---- json ---- */

static void json_parts(const folder_facts *facts, buf *out) {
    static const char *const keys[MODEL_PARTS] = {
        [MODEL_PART_EMBED] = "embedding",       [MODEL_PART_ATTENTION] = "attention",
        [MODEL_PART_DENSE] = "dense_ffn",       [MODEL_PART_EXPERTS] = "routed_experts",
        [MODEL_PART_SHARED] = "shared_experts", [MODEL_PART_VALUES] = "value_embeddings",
        [MODEL_PART_OTHER] = "other",
    };
    model_part_size parts[MODEL_PARTS];
    model_parts(facts->model, parts);
    buf_puts(out, "\"parts\":{");
    for (int i = 0; i < MODEL_PARTS; i++) {
        buf_printf(out, "%s\"%s\":{\"parameters\":%llu,\"bytes\":%llu}", i ? "," : "", keys[i],
                   (unsigned long long)parts[i].params, (unsigned long long)parts[i].bytes);
    }
    buf_puts(out, "},");
}

static void json_cache(const folder_facts *facts, buf *out) {
    const model_plan *plan = facts->plan;
    layer_cache cache = describe_layer_cache(plan);
    buf_printf(out,
               "\"cache\":{\"values_per_layer\":%u,\"values_full_attention\":%u,"
               "\"values_grouped_attention\":%u,\"values_per_slot\":%u,\"bytes_per_slot_bf16\":%u,"
               "\"bytes_per_slot_f32\":%u,\"map_bytes_per_token\":%llu,",
               cache.own, cache.full, cache.grouped, plan->slot_values, 2 * plan->slot_values,
               4 * plan->slot_values, (unsigned long long)map_bytes(plan));
    buf_printf(out,
               "\"bytes_per_token_all_loops_bf16\":%.0f,\"bytes_per_token_all_loops_f32\":%.0f,"
               "\"bytes_per_token_collapsed_bf16\":%.0f,\"depths\":[",
               position_bytes(plan, plan->loops_default, 2),
               position_bytes(plan, plan->loops_default, 4), position_bytes(plan, 1, 2));
    for (size_t i = 0; i < facts->n_depths; i++) {
        double values = position_values(plan, facts->depths[i]);
        buf_printf(out,
                   "%s{\"loops\":%.9g,\"values\":%.0f,\"bytes_bf16\":%.0f,\"bytes_f32\":%.0f,"
                   "\"tokens\":%llu}",
                   i ? "," : "", facts->depths[i], values, 2 * values, 4 * values,
                   (unsigned long long)tokens_that_fit(facts, facts->depths[i]));
    }
    buf_puts(out, "]},");
}

static void json_memory(const folder_facts *facts, buf *out) {
    uint32_t rows[3];
    const char *comma = "";
    buf_printf(out, "\"memory\":{\"usable\":%llu,\"for_cache\":%llu,\"fits\":[",
               (unsigned long long)facts->memory, (unsigned long long)facts->for_cache);
    for (size_t k = 0, n = contexts(facts->plan, rows); k < n; k++) {
        for (size_t i = 0; i < facts->n_depths; i++) {
            buf_printf(out, "%s{\"context\":%u,\"depth\":%.9g,\"sequences\":%llu}", comma, rows[k],
                       facts->depths[i],
                       (unsigned long long)(tokens_that_fit(facts, facts->depths[i]) / rows[k]));
            comma = ",";
        }
    }
    buf_puts(out, "]}");
}

static void json_exit(const model_plan *plan, buf *out) {
    const char *comma = "";
    describe_plan_json(out, plan, plan->exit, plan->exit_threshold);
    buf_puts(out, ",\"exit_rules\":[");
    for (int i = 0; i < EXIT_RULES; i++) {
        if (!plan_allows_exit(plan, (exit_rule)i)) continue;
        buf_printf(out, "%s\"%s\"", comma, exit_rule_name((exit_rule)i));
        comma = ",";
    }
    buf_printf(out, "],\"loops\":{\"default\":%u,\"least\":%u,\"most\":%u,\"capped\":%s},",
               plan->loops_default, plan->loops_least ? plan->loops_least : 1,
               plan_loops_ceiling(plan), plan->loops_cap ? "true" : "false");
    if (plan->exit != EXIT_ACT) return;
    buf_puts(out, "\"act_threshold\":");
    buf_json_float(out, plan->exit_threshold);
    buf_puts(out, ",");
}

static void json_model(const folder_facts *facts, buf *out) {
    const model_plan *plan = facts->plan;
    buf_printf(
        out,
        "\"attention\":\"%s\",\"dim\":%u,\"n_heads\":%u,\"prelude_layers\":%u,\"coda_layers\":%u,"
        "\"n_experts\":%u,\"n_experts_per_tok\":%u,\"n_shared_experts\":%u,",
        plan->attn == ATTN_MLA ? "mla" : "gqa", plan->dim, plan->n_heads, plan->n_prelude,
        plan->n_coda, plan->n_experts, plan->n_experts_per_tok, plan->n_shared_experts);
    json_exit(plan, out);
    buf_printf(out,
               "\"trained_loops\":%u,\"halted_kv\":\"%s\",\"max_seq_len\":%u,\"vocab_size\":%u,"
               "\"tokenizer\":%s,",
               plan->loops_default, kv_policy_name(plan->halted_kv), plan->max_seq_len,
               plan->vocab_size, facts->tokenizer_ids ? "true" : "false");
}

/* Every field of the plan, by the names of the fathom-plan family. */
static void json_plan(const model_plan *plan, buf *out) {
    buf text = {0};
    plan_write_fields(&text, plan);
    for (size_t i = 0; i < text.len; i++)
        if (text.data[i] == '\n') text.data[i] = ' ';
    if (text.failed) out->failed = true;
    else buf_printf(out, "\"plan\":%s,", text.data);
    buf_deinit(&text);
}

static int print_json(const folder_facts *facts) {
    buf out = {0};
    buf_puts(&out, "{\"model\":");
    buf_json_text(&out, model_dir(facts->model));
    buf_printf(&out, ",\"parameters\":%llu,\"bytes\":%llu,\"dtype\":\"%s\",\"kernels\":\"%s\",",
               (unsigned long long)model_params(facts->model),
               (unsigned long long)model_bytes(facts->model), facts->dtype, eng_cpu_kernels());
    json_parts(facts, &out);
    json_model(facts, &out);
    json_plan(facts->plan, &out);
    json_cache(facts, &out);
    json_memory(facts, &out);
    buf_puts(&out, "}");
    bool ok = !out.failed;
    if (ok) printf("%s\n", out.data);
    buf_deinit(&out);
    return ok ? 0 : EXIT_FAILED;
}

/* ---- on several ranks ---- */

typedef struct {
    const char *variant, *device;
    uint64_t ranks, context, memory;
    double read_gbs, link_gbs;
} rank_wishes;

static bool asks_for_ranks(const rank_wishes *wishes) {
    return wishes->variant || wishes->device || wishes->ranks;
}

/* The device of each rank: a row of the table, with the options' figures in its place. */
static rank_device device_of(const rank_wishes *wishes) {
    rank_device device = *rank_device_find(wishes->device ? wishes->device : "h200");
    bool limited, here = strcmp(device.name, "cpu") == 0;
    if (wishes->memory) device.memory_gb = (double)wishes->memory / 1e9;
    else if (here) device.memory_gb = (double)usable_memory(&limited) / 1e9;
    if (wishes->read_gbs > 0) device.read_gbs = wishes->read_gbs;
    if (wishes->link_gbs > 0) device.link_gbs = wishes->link_gbs;
    return device;
}

static int print_ranks(const rank_wishes *wishes, const model_plan *plan, double weight_bytes,
                       const char *name, double mean, bool json) {
    rank_device device = device_of(wishes);
    double depth = mean_depth(plan, mean);
    rank_plan rp;
    buf out = {0};
    rank_plan_make(&rp, plan, &device, wishes->ranks ? (uint32_t)wishes->ranks : 1,
                   (uint32_t)wishes->context, weight_bytes);
    if (json) inspect_ranks_json(&out, &rp, name, depth);
    else inspect_ranks_text(&out, &rp, name, depth);
    bool ok = !out.failed;
    if (ok) printf("%s", out.data);
    buf_deinit(&out);
    return ok ? 0 : EXIT_FAILED;
}

static int check_mean(const model_plan *plan, double mean, err *e) {
    if (mean <= plan_loops_ceiling(plan)) return 0;
    return err_set(e, ERR_USAGE, "--mean-depth", "--mean-depth: this model runs at most %u loops",
                   plan_loops_ceiling(plan));
}

/* Two bytes, but for a folder of float32 on the CPU: that engine holds weights as they are stored.
 */
static double weight_bytes_of(const folder_facts *facts, const char *device) {
    bool cpu = device && strcmp(device, "cpu") == 0;
    return cpu && strcmp(facts->dtype, "BF16") != 0 ? 4 : 2;
}

static int print_variant(const rank_wishes *wishes, const char *model, double mean, bool json) {
    err e = {0};
    model_plan plan;
    if (model) {
        (void)err_set(&e, ERR_USAGE, "--variant", "give one of --model and --variant");
        return opt_fail(&e);
    }
    if (plan_variant(&plan, wishes->variant, &e) != 0 || check_mean(&plan, mean, &e) != 0)
        return opt_fail(&e);
    return print_ranks(wishes, &plan, 2, wishes->variant, mean, json);
}

int cmd_inspect(opt_args *args) {
    const char *model = NULL;
    bool json = false, check = false;
    double mean = 0;
    rank_wishes wishes = {.context = 2048};
    const opt_row options[] = {
        MODEL_OPTION(&model),
        {"--mean-depth", OPT_REAL, &mean, "X",
         "mean loops per token to compute with what fits (default: half of the model's loops)", 1,
         PLAN_MAX_LOOPS, false},
        {"--json", OPT_FLAG, &json, NULL, "print one JSON object instead of text", 0, 0, false},
        {"--check", OPT_FLAG, &check, NULL, "first read every weight and fail on NaN or infinity",
         0, 0, false},
        OPT_GROUP("On several ranks (computed, not measured)"),
        {"--ranks", OPT_UINT, &wishes.ranks, "N",
         "tell what the model takes on so many ranks instead: memory, traffic and time (default 1)",
         1, RANK_PLAN_MOST_RANKS, false},
        {"--variant", OPT_TEXT, &wishes.variant, "NAME",
         "a published size without its folder; 'fathom init --help' lists them", 0, 0, false},
        {"--device", OPT_CHOICE, &wishes.device, RANK_DEVICE_NAMES,
         "device of each rank (default h200); cpu: a part of this machine's kind", 0, 0, false},
        OPT_NO_ENVIRONMENT("--device"), /* FATHOM_DEVICE names a device to run on */
        {"--context", OPT_UINT, &wishes.context, "N",
         "positions that each row attends to (default 2048)", 1, 1 << 24, false},
        {"--device-memory", OPT_BYTES, &wishes.memory, "BYTES",
         "memory of each rank (default: the device's, and on cpu this machine's)", 1 << 20, 1e15,
         false},
        {"--read-gbs", OPT_REAL, &wishes.read_gbs, "X",
         "GB/s at which a rank reads its memory (default: the device's; cpu 20)", 1e-3, 1e6, false},
        {"--link-gbs", OPT_REAL, &wishes.link_gbs, "X",
         "GB/s that a rank receives from the others (default: the device's; cpu 1.1)", 1e-3, 1e6,
         false},
    };
    const opt_command command = {
        "inspect", "tells what a model folder holds and how much of it fits into this machine",
        "fathom inspect demo", options, ARRAY_LEN(options)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    if (wishes.variant) return print_variant(&wishes, model, mean, json);
    err e = {0};
    model_folder *folder;
    model_place place;
    if (take_model(&model, &place, &e) != 0) return opt_fail(&e);
    if (model_open(&folder, model, &e) != 0) return opt_fail(&e);
    folder_facts facts = gather(folder);
    choose_depths(&facts, mean);
    int status = 0;
    if (check_mean(facts.plan, mean, &e) != 0 || (check && model_check(folder, &e) != 0) ||
        read_tokenizer(&facts, &e) != 0) {
        status = opt_fail(&e);
    } else if (asks_for_ranks(&wishes)) {
        status = print_ranks(&wishes, facts.plan, weight_bytes_of(&facts, wishes.device), model,
                             mean, json);
    } else if (json) {
        status = print_json(&facts);
    } else {
        print_model(&facts);
        print_parts(&facts);
        print_cache(&facts);
        print_fit(&facts);
    }
    model_close(folder);
    return status;
}

/* inspect.c - fathom inspect: what a model folder holds and what of it fits here. */
#include "base/file.h"
#include "base/json.h"
#include "base/machine.h"
#include "cli/describe.h"
#include "engine/kernel_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const model_folder *model;
    const model_plan *c;
    uint64_t memory;        /* bytes this process may hope for; 0 = not known */
    bool limited;           /* by a cgroup, not by what the host has */
    uint64_t for_cache;     /* of them, left beside the weights */
    uint32_t tokenizer_ids; /* 0 without a tokenizer */
    const char *dtype;      /* "BF16", "mixed" */
    double depths[3];       /* loops worth a line: the mean, the default, the most */
    size_t n_depths;
} facts;

/* ---- the machine ---- */

/* The number after `key` in a small text file; 0 if there is none. */
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

/* What is free now, or what the container allows if that is less. */
static uint64_t usable_memory(bool *limited) {
    machine here;
    machine_read(&here);
    here.memory = number_in("/proc/meminfo", "MemAvailable:") * 1024;
    uint64_t usable = machine_memory(&here);
    *limited = usable && usable == here.cgroup.memory;
    return usable;
}

/* ---- arithmetic ---- */

/* Cache values of one position that ran so many loops. */
static double position_values(const model_plan *c, double depth) {
    return (plan_planes(c, 0) + depth) * c->slot_values;
}

/* Its entries in the map of slots: one a plane, whether it got there or not. */
static uint64_t map_bytes(const model_plan *c) {
    return plan_planes(c, c->loops_default) * sizeof(uint32_t);
}

static double position_bytes(const model_plan *c, double depth, size_t value_bytes) {
    return position_values(c, depth) * (double)value_bytes + (double)map_bytes(c);
}

static uint64_t tokens_that_fit(const facts *f, double depth) {
    return (uint64_t)((double)f->for_cache / position_bytes(f->c, depth, 2));
}

/* The mean, what the model runs by default, and the most a request may ask for. */
static void choose_depths(facts *f, double mean) {
    const model_plan *c = f->c;
    f->depths[f->n_depths++] = mean > 0 ? mean : (c->loops_default + 1.0) / 2;
    f->depths[f->n_depths++] = c->loops_default;
    if (plan_loops_ceiling(c) > c->loops_default) f->depths[f->n_depths++] = plan_loops_ceiling(c);
}

static const char *dtype_of(const model_folder *m, uint64_t params, uint64_t bytes) {
    model_tensor t;
    if (!model_find(m, (tensor_place){.role = TENSOR_EMBED}, &t)) return "?";
    return bytes == params * model_dtype_bytes(t.dtype) ? model_dtype_name(t.dtype) : "mixed";
}

static facts gather(const model_folder *m) {
    uint64_t bytes = model_bytes(m), spare = 512u << 20; /* activations, logits, HTTP */
    facts f = {.model = m, .c = model_plan_of(m)};
    f.memory = usable_memory(&f.limited);
    f.dtype = dtype_of(m, model_params(m), bytes);
    if (f.memory > bytes + spare) f.for_cache = f.memory - bytes - spare;
    return f;
}

/* A folder without a tokenizer that can be used takes token ids. */
static int read_tokenizer(facts *f, err *e) {
    tokenizer *t = NULL;
    char why_not[RUNTIME_WHY];
    if (runtime_open_tokenizer(&t, model_dir(f->model), f->c->vocab_size, why_not, e) != 0)
        return -1;
    f->tokenizer_ids = t ? tokenizer_size(t) : 0;
    tokenizer_close(t);
    return 0;
}

/* Contexts worth a row: 1024, 4096 and the longest, those that the model has. */
static size_t contexts(const model_plan *c, uint32_t out[3]) {
    size_t n = 0;
    if (c->max_seq_len > 1024) out[n++] = 1024;
    if (c->max_seq_len > 4096) out[n++] = 4096;
    out[n++] = c->max_seq_len;
    return n;
}

/* ---- text ---- */

/* "1.064 B", "2.13 GB": three digits and the unit that suits. */
static const char *scaled(char out[32], uint64_t n, const char *suffix) {
    static const struct {
        double over;
        const char *count, *bytes;
    } units[] = {{1e12, "T", "TB"}, {1e9, "B", "GB"}, {1e6, "M", "MB"}, {1e3, "k", "kB"}};
    for (size_t i = 0; i < ARRAY_LEN(units); i++) {
        double v = (double)n / units[i].over;
        if (v < 1) continue;
        (void)snprintf(out, 32,
                       v < 10    ? "%.3f %s"
                       : v < 100 ? "%.2f %s"
                                 : "%.1f %s",
                       v, suffix[0] ? units[i].bytes : units[i].count);
        return out;
    }
    (void)snprintf(out, 32, "%llu%s%s", (unsigned long long)n, suffix[0] ? " " : "", suffix);
    return out;
}

static void print_parts(const facts *f) {
    model_part_size parts[MODEL_PARTS];
    char a[32], b[32];
    uint64_t params = model_params(f->model), bytes = model_bytes(f->model);
    model_parts(f->model, parts);
    printf("\n%-22s %12s %12s %7s\n", "weights", "parameters", "bytes", "share");
    for (int i = 0; i < MODEL_PARTS; i++) {
        if (parts[i].params == 0) continue;
        printf("  %-20s %12s %12s %6.1f%%\n", model_part_name((model_part)i),
               scaled(a, parts[i].params, ""), scaled(b, parts[i].bytes, "B"),
               100.0 * (double)parts[i].bytes / (double)bytes);
    }
    printf("  %-20s %12s %12s  %s\n", "total", scaled(a, params, ""), scaled(b, bytes, "B"),
           f->dtype);
}

static void print_layers(const model_plan *c) {
    char a[32], b[32];
    printf("  %-20s %u prelude, %u core (once per loop), %u coda\n", "layers", c->n_prelude,
           c->n_core, c->n_coda);
    printf("  %-20s %s, width %u, %u heads", "attention", c->attn == ATTN_MLA ? "MLA" : "GQA",
           c->dim, c->n_heads);
    if (c->attn == ATTN_MLA) printf(", latent %u + %u\n", c->kv_lora_rank, c->qk_rope_head_dim);
    else printf(", %u K/V heads of %u\n", c->n_kv_heads, c->head_dim);
    if (c->core_ffn == FFN_MOE) {
        printf("  %-20s %s of width %u, top %u, %u shared\n", "experts",
               describe_number(a, c->n_experts), c->expert_dim, c->n_experts_per_tok,
               c->n_shared_experts);
    } else {
        printf("  %-20s %s, hidden width %s\n", "feed-forward",
               c->core_ffn == FFN_SWIGLU ? "SwiGLU" : "squared ReLU",
               describe_number(b, c->ffn_dim));
    }
}

static void print_exit(const model_plan *c) {
    buf rules = {0};
    runtime_exit_rules(&rules, c);
    printf("  %-20s %s", "exit rule", exit_rule_name(c->exit));
    if (c->exit != EXIT_FIXED) printf(" at %g", (double)c->exit_threshold);
    if (c->exit == EXIT_HAZARD && c->exit_threshold >= 1) printf(", so every loop runs");
    printf(" (this family runs: %s)\n", rules.data ? rules.data : "");
    buf_deinit(&rules);
    printf("  %-20s %u by default, at most %u%s\n", "loops", c->loops_default,
           plan_loops_ceiling(c), c->loops_cap ? "" : " in a request");
}

static void print_model(const facts *f) {
    const model_plan *c = f->c;
    printf("%s\n  %-20s %s\n", model_dir(f->model), "family", plan_family_name(c));
    print_layers(c);
    print_exit(c);
    printf("  %-20s %s\n", "halted positions", c->halted_kv == KV_LAST ? "last" : "exact");
    printf("  %-20s %u\n", "context", c->max_seq_len);
    printf("  %-20s %u tokens, ", "vocabulary", c->vocab_size);
    if (f->tokenizer_ids) printf("tokenizer of %u\n", f->tokenizer_ids);
    else printf("no tokenizer: prompts are token ids\n");
    printf("  %-20s %s\n", "CPU kernels here", eng_cpu_kernels());
}

static void print_beside(const char *what, uint32_t own, uint32_t other) {
    char a[32], b[32];
    printf("  %-22s %10s   this model's is %s\n", what, describe_number(a, other),
           describe_ratio(b, own, other));
}

static void print_cache(const facts *f) {
    const model_plan *c = f->c;
    layer_cache k = describe_layer_cache(c);
    char a[32], name[40];
    printf("\n%-24s %10s %14s %14s\n", "keys and values", "values", "bfloat16", "float32");
    printf("  %-22s %10s %12u B %12u B\n", "a token at one layer", describe_number(a, k.own),
           2 * k.own, 4 * k.own);
    print_beside("full multi-head", k.own, k.full);
    (void)snprintf(name, sizeof name, "grouped, %u K/V heads", c->n_kv_heads);
    if (k.grouped) print_beside(name, k.own, k.grouped);
    (void)snprintf(name, sizeof name, "one loop, %u layer%s", c->n_core, c->n_core == 1 ? "" : "s");
    printf("  %-22s %10s %12u B %12u B\n", name, describe_number(a, c->slot_values),
           2 * c->slot_values, 4 * c->slot_values);
    for (size_t i = 0; i < f->n_depths; i++) {
        double values = position_values(c, f->depths[i]);
        (void)snprintf(name, sizeof name, "a token of %.4g loops", f->depths[i]);
        printf("  %-22s %10s %12.0f B %12.0f B\n", name, describe_number(a, (uint64_t)values),
               2 * values, 4 * values);
    }
}

static void print_fit(const facts *f) {
    const model_plan *c = f->c;
    char a[32], b[32];
    uint32_t rows[3];
    if (f->memory == 0) return; /* no /proc here */
    printf("\nfits in %s %s: ", scaled(a, f->memory, "B"),
           f->limited ? "of memory that the cgroup allows" : "free");
    if (f->for_cache == 0) {
        printf("no, the weights alone are %s\n", scaled(b, model_bytes(f->model), "B"));
        return;
    }
    printf("weights, and %s of cache (bfloat16)\n  %-22s", scaled(b, f->for_cache, "B"),
           "at mean loops");
    for (size_t i = 0; i < f->n_depths; i++)
        printf(" %14.4g", f->depths[i]);
    printf("\n  %-22s", "tokens");
    for (size_t i = 0; i < f->n_depths; i++)
        printf(" %14s", describe_number(a, tokens_that_fit(f, f->depths[i])));
    for (size_t k = 0, n = contexts(c, rows); k < n; k++) {
        (void)snprintf(b, sizeof b, "sequences of %u", rows[k]);
        printf("\n  %-22s", b);
        for (size_t i = 0; i < f->n_depths; i++)
            printf(" %14s", describe_number(a, tokens_that_fit(f, f->depths[i]) / rows[k]));
    }
    printf("\n  (policy last; with exact a token may keep as many loops as the deepest one ran)\n");
}

/* ---- json ---- */

static void json_parts(const facts *f, buf *b) {
    static const char *const keys[MODEL_PARTS] = {
        [MODEL_PART_EMBED] = "embedding",       [MODEL_PART_ATTENTION] = "attention",
        [MODEL_PART_DENSE] = "dense_ffn",       [MODEL_PART_EXPERTS] = "routed_experts",
        [MODEL_PART_SHARED] = "shared_experts", [MODEL_PART_OTHER] = "other",
    };
    model_part_size parts[MODEL_PARTS];
    model_parts(f->model, parts);
    buf_puts(b, "\"parts\":{");
    for (int i = 0; i < MODEL_PARTS; i++) {
        buf_printf(b, "%s\"%s\":{\"parameters\":%llu,\"bytes\":%llu}", i ? "," : "", keys[i],
                   (unsigned long long)parts[i].params, (unsigned long long)parts[i].bytes);
    }
    buf_puts(b, "},");
}

static void json_cache(const facts *f, buf *b) {
    const model_plan *c = f->c;
    layer_cache k = describe_layer_cache(c);
    buf_printf(b,
               "\"cache\":{\"values_per_layer\":%u,\"values_full_attention\":%u,"
               "\"values_grouped_attention\":%u,\"values_per_slot\":%u,\"bytes_per_slot_bf16\":%u,"
               "\"bytes_per_slot_f32\":%u,\"map_bytes_per_token\":%llu,",
               k.own, k.full, k.grouped, c->slot_values, 2 * c->slot_values, 4 * c->slot_values,
               (unsigned long long)map_bytes(c));
    buf_printf(b,
               "\"bytes_per_token_all_loops_bf16\":%.0f,\"bytes_per_token_all_loops_f32\":%.0f,"
               "\"depths\":[",
               position_bytes(c, c->loops_default, 2), position_bytes(c, c->loops_default, 4));
    for (size_t i = 0; i < f->n_depths; i++) {
        double values = position_values(c, f->depths[i]);
        buf_printf(b,
                   "%s{\"loops\":%.9g,\"values\":%.0f,\"bytes_bf16\":%.0f,\"bytes_f32\":%.0f,"
                   "\"tokens\":%llu}",
                   i ? "," : "", f->depths[i], values, 2 * values, 4 * values,
                   (unsigned long long)tokens_that_fit(f, f->depths[i]));
    }
    buf_puts(b, "]},");
}

static void json_memory(const facts *f, buf *b) {
    uint32_t rows[3];
    const char *comma = "";
    buf_printf(b, "\"memory\":{\"usable\":%llu,\"for_cache\":%llu,\"fits\":[",
               (unsigned long long)f->memory, (unsigned long long)f->for_cache);
    for (size_t k = 0, n = contexts(f->c, rows); k < n; k++) {
        for (size_t i = 0; i < f->n_depths; i++) {
            buf_printf(b, "%s{\"context\":%u,\"depth\":%.9g,\"sequences\":%llu}", comma, rows[k],
                       f->depths[i],
                       (unsigned long long)(tokens_that_fit(f, f->depths[i]) / rows[k]));
            comma = ",";
        }
    }
    buf_puts(b, "]}");
}

static void json_exit(const model_plan *c, buf *b) {
    const char *comma = "";
    describe_plan_json(b, c, c->exit, c->exit_threshold);
    buf_puts(b, ",\"exit_rules\":[");
    for (int i = 0; i < EXIT_RULES; i++) {
        if (!plan_allows_exit(c, (exit_rule)i)) continue;
        buf_printf(b, "%s\"%s\"", comma, exit_rule_name((exit_rule)i));
        comma = ",";
    }
    buf_printf(b, "],\"loops\":{\"default\":%u,\"most\":%u,\"capped\":%s},", c->loops_default,
               plan_loops_ceiling(c), c->loops_cap ? "true" : "false");
    if (c->exit == EXIT_ACT) buf_printf(b, "\"act_threshold\":%.9g,", (double)c->exit_threshold);
}

static void json_model(const facts *f, buf *b) {
    const model_plan *c = f->c;
    buf_printf(
        b,
        "\"attention\":\"%s\",\"dim\":%u,\"n_heads\":%u,\"prelude_layers\":%u,\"coda_layers\":%u,"
        "\"n_experts\":%u,\"n_experts_per_tok\":%u,\"n_shared_experts\":%u,",
        c->attn == ATTN_MLA ? "mla" : "gqa", c->dim, c->n_heads, c->n_prelude, c->n_coda,
        c->n_experts, c->n_experts_per_tok, c->n_shared_experts);
    json_exit(c, b);
    buf_printf(b,
               "\"trained_loops\":%u,\"halted_kv\":\"%s\",\"max_seq_len\":%u,\"vocab_size\":%u,"
               "\"tokenizer\":%s,",
               c->loops_default, c->halted_kv == KV_LAST ? "last" : "exact", c->max_seq_len,
               c->vocab_size, f->tokenizer_ids ? "true" : "false");
}

static int print_json(const facts *f) {
    buf b = {0};
    buf_puts(&b, "{\"model\":");
    buf_json_text(&b, model_dir(f->model));
    buf_printf(&b, ",\"parameters\":%llu,\"bytes\":%llu,\"dtype\":\"%s\",\"kernels\":\"%s\",",
               (unsigned long long)model_params(f->model),
               (unsigned long long)model_bytes(f->model), f->dtype, eng_cpu_kernels());
    json_parts(f, &b);
    json_model(f, &b);
    json_cache(f, &b);
    json_memory(f, &b);
    buf_puts(&b, "}");
    bool ok = !b.failed;
    if (ok) printf("%s\n", b.data);
    buf_deinit(&b);
    return ok ? 0 : EXIT_FAILED;
}

int cmd_inspect(int argc, char **argv) {
    const char *dir = NULL;
    bool json = false, check = false;
    double mean = 0;
    const opt_row options[] = {
        {"--model", OPT_TEXT, &dir, "DIR", "model folder", 0, 0, true},
        {"--mean-depth", OPT_REAL, &mean, "X",
         "mean loops per token to compute with what fits (default: half of the model's loops)", 1,
         PLAN_MAX_LOOPS, false},
        {"--json", OPT_FLAG, &json, NULL, "print one JSON object instead of text", 0, 0, false},
        {"--check", OPT_FLAG, &check, NULL, "first read every weight and fail on NaN or infinity",
         0, 0, false},
    };
    const opt_command command = {
        "inspect", "tells what a model folder holds and how much of it fits into this machine",
        "fathom inspect --model models/demo", options, ARRAY_LEN(options)};
    int parsed = opt_parse(&command, argc, argv);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    err e = {0};
    model_folder *m;
    if (model_open(&m, dir, &e) != 0) return opt_fail(&e);
    facts f = gather(m);
    choose_depths(&f, mean);
    int status = 0;
    if (mean > plan_loops_ceiling(f.c)) {
        (void)err_set(&e, ERR_USAGE, "--mean-depth",
                      "--mean-depth: this model runs at most %u loops", plan_loops_ceiling(f.c));
        status = opt_fail(&e);
    } else if ((check && model_check(m, &e) != 0) || read_tokenizer(&f, &e) != 0) {
        status = opt_fail(&e);
    } else if (json) {
        status = print_json(&f);
    } else {
        print_model(&f);
        print_parts(&f);
        print_cache(&f);
        print_fit(&f);
    }
    model_close(m);
    return status;
}

/* inspect.c - fathom inspect: what a model folder holds and what of it fits here. */
#include "cli/cli.h"
#include "engine/kernel_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    const model_folder *model;
    const model_plan *c;
    uint64_t memory;        /* bytes this process may hope for */
    uint64_t for_cache;     /* of them, left beside the weights */
    uint32_t tokenizer_ids; /* 0 without a tokenizer */
    const char *dtype;      /* "BF16", "mixed" */
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
static uint64_t usable_memory(void) {
    uint64_t available = number_in("/proc/meminfo", "MemAvailable:") * 1024;
    uint64_t limit = number_in("/sys/fs/cgroup/memory.max", "");
    return limit && limit < available ? limit : available;
}

/* ---- arithmetic ---- */

/* Bytes of cache one position takes: a slot at each plane it reached, and its map entry
 * at every plane. */
static uint64_t position_bytes(const model_plan *c, uint32_t depth, size_t value_bytes) {
    uint64_t planes = (uint64_t)c->n_prelude + c->n_coda;
    uint64_t slots = planes + depth, map = (planes + c->loops_default) * sizeof(uint32_t);
    return slots * c->slot_values * value_bytes + map;
}

static uint64_t sequences_that_fit(const facts *f, uint32_t context, uint32_t depth) {
    return f->for_cache / (position_bytes(f->c, depth, 2) * context);
}

static const char *dtype_of(const model_folder *m, uint64_t params, uint64_t bytes) {
    model_tensor t;
    if (!model_find(m, (tensor_place){.role = TENSOR_EMBED}, &t)) return "?";
    return bytes == params * model_dtype_bytes(t.dtype) ? model_dtype_name(t.dtype) : "mixed";
}

static facts gather(const model_folder *m) {
    uint64_t bytes = model_bytes(m), spare = 512u << 20; /* activations, logits, HTTP */
    facts f = {.model = m, .c = model_plan_of(m), .memory = usable_memory()};
    f.dtype = dtype_of(m, model_params(m), bytes);
    if (f.memory > bytes + spare) f.for_cache = f.memory - bytes - spare;
    return f;
}

/* A folder without a tokenizer is fine; a wrong one is not. */
static int read_tokenizer(facts *f, err *e) {
    tokenizer *t;
    err why = {0};
    if (tokenizer_open(&t, model_dir(f->model), f->c->vocab_size, &why) != 0) {
        return why.code == ERR_NOT_FOUND ? 0 : err_set(e, why.code, why.param, "%s", why.msg);
    }
    f->tokenizer_ids = tokenizer_size(t);
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
        printf("  %-20s %12s %12s %6.1f%%\n", model_part_name((model_part)i),
               scaled(a, parts[i].params, ""), scaled(b, parts[i].bytes, "B"),
               100.0 * (double)parts[i].bytes / (double)bytes);
    }
    printf("  %-20s %12s %12s  %s\n", "total", scaled(a, params, ""), scaled(b, bytes, "B"),
           f->dtype);
}

static void print_model(const facts *f) {
    const model_plan *c = f->c;
    printf("%s\n", model_dir(f->model));
    printf("  %-20s %s, width %u, %u heads", "attention", c->attn == ATTN_MLA ? "MLA" : "GQA",
           c->dim, c->n_heads);
    if (c->attn == ATTN_MLA)
        printf(", latent %u + %u\n", c->kv_lora_rank, c->qk_rope_head_dim);
    else printf(", %u K/V heads of %u\n", c->n_kv_heads, c->head_dim);
    printf("  %-20s %u prelude, 1 recurrent, %u coda\n", "blocks", c->n_prelude,
           c->n_coda);
    printf("  %-20s %u trained, halting at %g\n", "loops", c->loops_default,
           (double)c->exit_threshold);
    printf("  %-20s %u of width %u, top %u, %u shared\n", "experts", c->n_experts, c->expert_dim,
           c->n_experts_per_tok, c->n_shared_experts);
    printf("  %-20s %s\n", "halted positions", c->halted_kv == KV_LAST ? "last" : "exact");
    printf("  %-20s %u\n", "context", c->max_seq_len);
    printf("  %-20s %u tokens, ", "vocabulary", c->vocab_size);
    if (f->tokenizer_ids) printf("tokenizer of %u\n", f->tokenizer_ids);
    else printf("no tokenizer: prompts are token ids\n");
    printf("  %-20s %s\n", "CPU kernels here", eng_cpu_kernels());
}

static void print_cache(const facts *f) {
    const model_plan *c = f->c;
    printf("\n%-22s %12s %12s\n", "cache of one token", "bfloat16", "float32");
    printf("  %-20s %10u B %10u B\n", "at one layer or loop", 2 * c->slot_values,
           4 * c->slot_values);
    printf("  %-20s %10llu B %10llu B\n", "all loops",
           (unsigned long long)position_bytes(c, c->loops_default, 2),
           (unsigned long long)position_bytes(c, c->loops_default, 4));
    printf("  %-20s %10llu B %10llu B\n", "one loop", (unsigned long long)position_bytes(c, 1, 2),
           (unsigned long long)position_bytes(c, 1, 4));
}

static void print_fit(const facts *f) {
    const model_plan *c = f->c;
    char a[32], b[32];
    uint32_t rows[3], half = (c->loops_default + 1) / 2;
    if (f->memory == 0) return; /* no /proc here */
    printf("\nfits in %s free: ", scaled(a, f->memory, "B"));
    if (f->for_cache == 0) {
        printf("no, the weights alone are %s\n", scaled(b, model_bytes(f->model), "B"));
        return;
    }
    printf("weights, and %s of cache (bfloat16)\n", scaled(b, f->for_cache, "B"));
    printf("  %-20s %14s %14s\n", "sequences of length", "at all loops", "at mean depth");
    printf("  %-20s %14u %14u\n", "", c->loops_default, half);
    for (size_t i = 0, n = contexts(c, rows); i < n; i++) {
        printf("  %-20u %14llu %14llu\n", rows[i],
               (unsigned long long)sequences_that_fit(f, rows[i], c->loops_default),
               (unsigned long long)sequences_that_fit(f, rows[i], half));
    }
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
    uint32_t rows[3];
    buf_printf(
        b,
        "\"cache\":{\"values_per_slot\":%u,\"bytes_per_slot_bf16\":%u,\"bytes_per_slot_f32\":%u,"
        "\"bytes_per_token_all_loops_bf16\":%llu,\"bytes_per_token_all_loops_f32\":%llu},",
        c->slot_values, 2 * c->slot_values, 4 * c->slot_values,
        (unsigned long long)position_bytes(c, c->loops_default, 2),
        (unsigned long long)position_bytes(c, c->loops_default, 4));
    buf_printf(b, "\"memory\":{\"usable\":%llu,\"for_cache\":%llu,\"fits\":[",
               (unsigned long long)f->memory, (unsigned long long)f->for_cache);
    for (size_t i = 0, n = contexts(c, rows); i < n; i++) {
        buf_printf(b, "%s{\"context\":%u,\"depth\":%u,\"sequences\":%llu}", i ? "," : "", rows[i],
                   c->loops_default,
                   (unsigned long long)sequences_that_fit(f, rows[i], c->loops_default));
    }
    buf_puts(b, "]}");
}

static int print_json(const facts *f) {
    const model_plan *c = f->c;
    buf b = {0};
    buf_puts(&b, "{\"model\":");
    buf_json_string(&b, model_dir(f->model), strlen(model_dir(f->model)));
    buf_printf(&b, ",\"parameters\":%llu,\"bytes\":%llu,\"dtype\":\"%s\",",
               (unsigned long long)model_params(f->model),
               (unsigned long long)model_bytes(f->model), f->dtype);
    buf_printf(&b, "\"kernels\":\"%s\",", eng_cpu_kernels());
    json_parts(f, &b);
    buf_printf(
        &b,
        "\"attention\":\"%s\",\"dim\":%u,\"n_heads\":%u,\"prelude_layers\":%u,\"coda_layers\":%u,"
        "\"n_experts\":%u,\"n_experts_per_tok\":%u,\"n_shared_experts\":%u,",
        c->attn == ATTN_MLA ? "mla" : "gqa", c->dim, c->n_heads, c->n_prelude,
        c->n_coda, c->n_experts, c->n_experts_per_tok, c->n_shared_experts);
    buf_printf(
        &b,
        "\"trained_loops\":%u,\"act_threshold\":%.9g,\"halted_kv\":\"%s\",\"max_seq_len\":%u,"
        "\"vocab_size\":%u,\"tokenizer\":%s,",
        c->loops_default, (double)c->exit_threshold, c->halted_kv == KV_LAST ? "last" : "exact",
        c->max_seq_len, c->vocab_size, f->tokenizer_ids ? "true" : "false");
    json_cache(f, &b);
    buf_puts(&b, "}");
    bool ok = !b.failed;
    if (ok) printf("%s\n", b.data);
    buf_deinit(&b);
    return ok ? 0 : EXIT_FAILED;
}

int cmd_inspect(int argc, char **argv) {
    const char *dir = NULL;
    bool json = false, check = false;
    const opt_row options[] = {
        {"--model", OPT_TEXT, &dir, "DIR", "model folder", 0, 0, true},
        {"--json", OPT_FLAG, &json, NULL, "one JSON object instead of text", 0, 0, false},
        {"--check", OPT_FLAG, &check, NULL, "read every weight for NaN and infinity first", 0, 0,
         false},
    };
    const opt_command command = {"inspect", "says what a model folder holds and what fits here",
                                 "fathom inspect --model models/demo", options, ARRAY_LEN(options)};
    int parsed = opt_parse(&command, argc, argv);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    err e = {0};
    model_folder *m;
    if (model_open(&m, dir, &e) != 0) return opt_fail(&e);
    facts f = gather(m);
    int status = 0;
    if ((check && model_check(m, &e) != 0) || read_tokenizer(&f, &e) != 0) {
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

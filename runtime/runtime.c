/* runtime.c - opens a model, its tokenizer and the backend it runs on, the same way for
 * every command. */
#include "runtime/runtime.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/backend.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_ROWS = 512, DEFAULT_RUNNING = 256, MOST_STATES = 16384, STATE_BYTES = 128 << 20 };

/* The file can be read at all: a FIFO in its place is the folder's fault, not the tokenizer's. */
static int check_file(const char *dir, err *e) {
    buf path = {0};
    struct stat st;
    buf_printf(&path, "%s/tokenizer.json", dir);
    int fd = path.failed ? err_set(e, ERR_NO_MEMORY, NULL, "out of memory")
                         : file_open_at(AT_FDCWD, path.data, 0, &st, e);
    if (fd >= 0) close(fd);
    buf_deinit(&path);
    return fd >= 0 ? 0 : -1;
}

int runtime_open_tokenizer(tokenizer **out, const char *dir, uint32_t vocab_size,
                           char why_not[RUNTIME_WHY], err *e) {
    err why = {0};
    why_not[0] = 0;
    if (tokenizer_open(out, dir, vocab_size, &why) == 0) return 0;
    if (why.code == ERR_NOT_FOUND) return 0;
    if (why.code != ERR_BAD_FILE) return err_set(e, why.code, why.param, "%s", why.msg);
    if (check_file(dir, e) != 0) return -1;
    log_line(LOG_WARN,
             "%s: the tokenizer cannot be used, so text is refused and token ids are taken; mend "
             "the file, or say --no-tokenizer",
             why.msg);
    /* Clients are told too, and need not know where the folder lies. */
    const char *file = strstr(why.msg, "tokenizer.json");
    (void)snprintf(why_not, RUNTIME_WHY, "%s", file ? file : why.msg);
    return 0;
}

int runtime_needs_tokenizer(const runtime *r, const char *option, const char *use, err *e) {
    bool told = r->no_tokenizer[0] != 0;
    return err_set(e, ERR_USAGE, option, "%s: this model has no tokenizer%s%s%s%s%s", option,
                   told ? " (" : "", r->no_tokenizer, told ? ")" : "", use[0] ? "; " : "", use);
}

/* ---- options that the model's family must be able to follow ---- */

/* The rule that was asked for, or the model's own. */
static exit_rule rule_of(const runtime_opts *o, const model_plan *c) {
    exit_rule rule = c->exit;
    return o->exit_rule && exit_rule_find(o->exit_rule, &rule) ? rule : c->exit;
}

void runtime_exit_rules(buf *out, const model_plan *c) {
    const char *comma = "";
    for (int i = 0; i < EXIT_RULES; i++) {
        if (!plan_allows_exit(c, (exit_rule)i)) continue;
        buf_printf(out, "%s%s", comma, exit_rule_name((exit_rule)i));
        comma = ", ";
    }
}

static int check_exit(const runtime_opts *o, const model_plan *c, err *e) {
    exit_rule rule = rule_of(o, c);
    if (o->exit_rule && (!exit_rule_find(o->exit_rule, &rule) || !plan_allows_exit(c, rule))) {
        buf rules = {0};
        runtime_exit_rules(&rules, c);
        (void)err_set(
            e, ERR_USAGE, "--exit-rule",
            "--exit-rule %s: %s models cannot leave the loop by this rule; they can by: %s",
            o->exit_rule, plan_family_name(c), rules.data ? rules.data : "");
        buf_deinit(&rules);
        return -1;
    }
    err why = {0};
    if (o->threshold == 0 ||
        exit_rule_check(rule, (float)o->threshold, "--exit-threshold", &why) == 0)
        return 0;
    return err_set(e, ERR_USAGE, "--exit-threshold", "%s", why.msg);
}

static int check_loops(const runtime_opts *o, const model_plan *c, err *e) {
    const struct {
        const char *option;
        uint64_t loops;
    } asked[] = {{"--max-loops", o->max_loops},
                 {"--loops", o->loops},
                 {"--min-loops", o->min_loops},
                 {"--prompt-min-loops", o->prompt_min_loops}};
    for (size_t i = 0; i < ARRAY_LEN(asked) && c->loops_cap; i++) {
        if (asked[i].loops <= c->loops_cap) continue;
        return err_set(e, ERR_USAGE, asked[i].option,
                       "%s models run at most %u loops, %s asks for %llu", plan_family_name(c),
                       c->loops_cap, asked[i].option, (unsigned long long)asked[i].loops);
    }
    return 0;
}

static int check_state0(const runtime_opts *o, const model_plan *c, err *e) {
    if (o->initial_state == NULL || c->state0 != STATE_EMBEDDING) return 0;
    return err_set(e, ERR_USAGE, "--initial-state",
                   "--initial-state %s: %s models start from the token's embedding and have no "
                   "other state to start from",
                   o->initial_state, plan_family_name(c));
}

/* ---- what the options mean ---- */

static void fill_loops(sched_opts *s, const runtime_opts *o, const model_plan *c) {
    if (o->max_loops) s->default_max_loops = (uint32_t)o->max_loops;
    s->prompt_min_loops = (uint32_t)o->prompt_min_loops;
    s->ceiling_loops = plan_loops_ceiling(c);
    if (c->loops_cap) return;
    const uint64_t wishes[] = {o->max_loops, o->loops, o->min_loops};
    for (size_t i = 0; i < ARRAY_LEN(wishes); i++) {
        if (wishes[i] > s->ceiling_loops) s->ceiling_loops = (uint32_t)wishes[i];
    }
}

static void fill_sched(sched_opts *s, const runtime_opts *o, const model_plan *c) {
    sched_opts_default(s);
    s->halted_kv = c->halted_kv;
    if (o->halted_kv) s->halted_kv = strcmp(o->halted_kv, "last") == 0 ? KV_LAST : KV_EXACT;
    if (o->batching) {
        s->batching = strcmp(o->batching, "full") == 0       ? SCHED_FULL
                      : strcmp(o->batching, "lockstep") == 0 ? SCHED_LOCKSTEP
                                                             : SCHED_DEPTHWISE;
    }
    /* full computes every loop of every row: the published generate, which is exact */
    if (s->batching == SCHED_FULL && !o->halted_kv) s->halted_kv = KV_EXACT;
    s->max_rows = o->max_rows ? (uint32_t)o->max_rows : DEFAULT_ROWS;
    s->max_running = o->max_running ? (uint32_t)o->max_running : DEFAULT_RUNNING;
    if (o->chunk) s->chunk = (uint32_t)o->chunk;
    if (o->wait_bound) s->wait_bound = (uint32_t)o->wait_bound;
    fill_loops(s, o, c);
    if (o->threshold > 0) s->default_threshold = (float)o->threshold;
}

/* Row states: every sequence may hold one row per loop under KV_EXACT (tails), and
 * prompt chunks hold theirs. Under KV_EXACT a halted row keeps its state until a later one
 * goes as deep, so more rows save arithmetic and cache: as many as STATE_BYTES hold (three
 * floats per channel). Past that rows wait, they do not fail. */
static uint32_t row_states(const sched_opts *s, const model_plan *c) {
    uint64_t per_sequence = s->halted_kv == KV_EXACT ? s->ceiling_loops + 1u : 2u;
    uint64_t n = (uint64_t)s->max_running * per_sequence + 4u * (uint64_t)s->max_rows;
    uint64_t spare = STATE_BYTES / (12u * (uint64_t)c->dim);
    if (s->halted_kv == KV_EXACT && n < spare) n = spare;
    uint64_t most = MOST_STATES > 4u * s->max_rows ? MOST_STATES : 4u * s->max_rows;
    return (uint32_t)(n < most ? n : most);
}

static int open_backend(runtime *r, const runtime_opts *o, err *e) {
    const model_plan *c = model_plan_of(r->model);
    uint32_t chunk = r->sched.chunk ? r->sched.chunk : SCHED_CHUNK;
    eng_backend_opts b = {
        .threads = (uint32_t)o->threads,
        .max_loops = r->sched.ceiling_loops,
        .n_rows = row_states(&r->sched, c),
        .max_launch = r->sched.max_rows,
        .max_logits = r->sched.max_rows < 256 ? r->sched.max_rows : 256,
        .cache_bytes = o->cache_bytes,
        .max_positions = c->max_seq_len,
        .cache_dtype =
            o->cache_dtype && strcmp(o->cache_dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32,
        .kernels = o->kernels && strcmp(o->kernels, "auto") != 0 ? o->kernels : NULL,
        .weights = o->weights && strcmp(o->weights, "int8") == 0 ? ENG_WEIGHTS_INT8
                                                                 : ENG_WEIGHTS_AS_STORED,
        .packed_cache = o->packed_cache,
        .prompt_chunk = chunk <= r->sched.max_rows ? chunk : 0,
        .own_exit = o->exit_rule != NULL,
        .exit = rule_of(o, c),
        .own_state0 = o->initial_state != NULL,
        .state0 =
            o->initial_state && strcmp(o->initial_state, "zero") == 0 ? STATE_ZERO : STATE_SEEDED,
    };
    const char *device = o->device ? o->device : "auto";
    if (strcmp(device, "fake") == 0) return eng_fake_open(&r->backend, r->model, &b, o->fake_us, e);
    if (strcmp(device, "cpu") != 0) {
        eng_backend_opts cuda = b;
        if (o->cache_dtype == NULL) cuda.cache_dtype = DTYPE_BF16;
        err why = {0};
        if (eng_cuda_open(&r->backend, r->model, &cuda, &why) == 0) return 0;
        bool missing = why.code == ERR_NOT_FOUND;
        if (strcmp(device, "cuda") == 0 || !missing) {
            return err_set(e, missing ? ERR_USAGE : why.code, "--device", "%s", why.msg);
        }
        log_line(LOG_INFO, "running on the CPU (%s)", why.msg);
    }
    return eng_cpu_open(&r->backend, r->model, &b, e);
}

int runtime_open(runtime *out, const runtime_opts *o, err *e) {
    *out = (runtime){0};
    if (model_open(&out->model, o->model, e) != 0) goto fail;
    const model_plan *c = model_plan_of(out->model);
    if (o->no_tokenizer) {
        (void)snprintf(out->no_tokenizer, RUNTIME_WHY, "--no-tokenizer was given");
    } else if (runtime_open_tokenizer(&out->tokenizer, o->model, c->vocab_size, out->no_tokenizer,
                                      e) != 0) {
        goto fail;
    }
    if (check_exit(o, c, e) != 0 || check_loops(o, c, e) != 0) goto fail;
    if (check_state0(o, c, e) != 0) goto fail;
    fill_sched(&out->sched, o, c);
    if (open_backend(out, o, e) != 0) goto fail;
    return 0;
fail:
    runtime_close(out);
    return -1;
}

void runtime_close(runtime *r) {
    eng_backend_close(r->backend);
    tokenizer_close(r->tokenizer);
    model_close(r->model);
    *r = (runtime){0};
}

float runtime_threshold(const runtime *r) {
    const model_plan *c = model_plan_of(r->model);
    exit_rule rule = r->backend->info.exit;
    if (rule == EXIT_FIXED) return 0;
    if (r->sched.default_threshold > 0) return r->sched.default_threshold;
    return rule == c->exit ? c->exit_threshold : exit_rule_default(rule);
}

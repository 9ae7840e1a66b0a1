/* runtime.c - opens a model, its tokenizer and its backend, the same way for every command. */
#include "runtime/runtime.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/backend.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEFAULT_ROWS = 512, DEFAULT_RUNNING = 256, MOST_STATES = 16384, STATE_BYTES = 128 << 20 };

/* Checks that the file is readable: a FIFO in its place is a fault of the folder, and an error. */
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
    if (why.code != ERR_BAD_FILE && why.code != ERR_UNSUPPORTED)
        return err_set(e, why.code, why.param, "%s", why.msg);
    if (why.code == ERR_BAD_FILE && check_file(dir, e) != 0) return -1;
    log_line(LOG_WARN,
             "%s: the tokenizer cannot be used, so requests must send token ids, not text; repair "
             "the file, or give --no-tokenizer",
             why.msg);
    /* Clients see this message too; they must not learn the folder's path. */
    const char *file = strstr(why.msg, "tokenizer.json");
    (void)snprintf(why_not, RUNTIME_WHY, "%s", file ? file : why.msg);
    return 0;
}

int runtime_needs_tokenizer(const runtime *self, const char *option, const char *use, err *e) {
    bool told = self->no_tokenizer[0] != 0;
    return err_set(e, ERR_USAGE, option, "%s: this model has no tokenizer%s%s%s%s%s", option,
                   told ? " (" : "", self->no_tokenizer, told ? ")" : "", use[0] ? "; " : "", use);
}

/* ---- checks of options against the model's family ---- */

/* The rule of the option, or the model's own. */
static exit_rule rule_of(const runtime_opts *opts, const model_plan *plan) {
    exit_rule rule = plan->exit;
    return opts->exit_rule && exit_rule_find(opts->exit_rule, &rule) ? rule : plan->exit;
}

/* The threshold given, in the plan's terms. */
static float threshold_of(const runtime_opts *opts, const model_plan *plan) {
    return exit_rule_from_written(rule_of(opts, plan), (float)opts->threshold.value);
}

void runtime_exit_rules(buf *out, const model_plan *plan) {
    const char *comma = "";
    for (int i = 0; i < EXIT_RULES; i++) {
        if (!plan_allows_exit(plan, (exit_rule)i)) continue;
        buf_printf(out, "%s%s", comma, exit_rule_name((exit_rule)i));
        comma = ", ";
    }
}

static int check_exit(const runtime_opts *opts, const model_plan *plan, err *e) {
    exit_rule rule = rule_of(opts, plan);
    if (opts->exit_rule &&
        (!exit_rule_find(opts->exit_rule, &rule) || !plan_allows_exit(plan, rule))) {
        buf rules = {0};
        runtime_exit_rules(&rules, plan);
        (void)err_set(
            e, ERR_USAGE, "--exit-rule",
            "--exit-rule %s: %s models cannot leave the loop by this rule; they can by: %s",
            opts->exit_rule, plan_family_name(plan), rules.data ? rules.data : "");
        buf_deinit(&rules);
        return -1;
    }
    err why = {0};
    if (!opts->threshold.given ||
        exit_rule_check(rule, threshold_of(opts, plan), "--exit-threshold", &why) == 0)
        return 0;
    return err_set(e, ERR_USAGE, "--exit-threshold", "%s", why.msg);
}

static int check_loops(const runtime_opts *opts, const model_plan *plan, err *e) {
    const struct {
        const char *option;
        uint64_t loops;
    } asked[] = {{"--max-loops", opts->max_loops},
                 {"--min-loops", opts->min_loops},
                 {"--prompt-min-loops", opts->prompt_min_loops}};
    for (size_t i = 0; i < ARRAY_LEN(asked); i++) {
        err why = {0};
        if (asked[i].loops == 0) continue; /* not given */
        if (plan_check_loops(plan, (long long)asked[i].loops, asked[i].option, &why) != 0)
            return err_set(e, ERR_USAGE, asked[i].option, "%s", why.msg);
    }
    return 0;
}

static int check_state0(const runtime_opts *opts, const model_plan *plan, err *e) {
    if (opts->initial_state == NULL || plan->state0 != STATE_EMBEDDING) return 0;
    return err_set(e, ERR_USAGE, "--initial-state",
                   "--initial-state %s: %s models start from the token's embedding and have no "
                   "other state to start from",
                   opts->initial_state, plan_family_name(plan));
}

/* ---- from options to settings ---- */

static void fill_loops(sched_opts *settings, const runtime_opts *opts, const model_plan *plan) {
    if (opts->max_loops) settings->default_max_loops = (uint32_t)opts->max_loops;
    settings->prompt_min_loops = (uint32_t)opts->prompt_min_loops;
    settings->ceiling_loops = plan_loops_ceiling(plan);
    if (plan->loops_cap) return;
    const uint64_t wishes[] = {opts->max_loops, opts->min_loops};
    for (size_t i = 0; i < ARRAY_LEN(wishes); i++) {
        if (wishes[i] > settings->ceiling_loops) settings->ceiling_loops = (uint32_t)wishes[i];
    }
}

/* "auto" is off where the scheduler never drafts; a number is refused there. */
static int fill_speculation(sched_opts *settings, const runtime_opts *opts, err *e) {
    const char *asked = opts->speculate ? opts->speculate : "auto", *never = NULL;
    if (settings->halted_kv == KV_COLLAPSE) never = "--halted-kv collapse";
    else if (settings->batching == SCHED_LOCKSTEP) never = "--batching lockstep";
    else if (settings->batching == SCHED_FULL) never = "--batching full";
    if (strcmp(asked, "off") == 0) return 0;
    if (strcmp(asked, "auto") == 0) {
        settings->drafts = never ? 0 : SCHED_DRAFTS_AUTO;
    } else if (never) {
        return err_set(e, ERR_USAGE, "--speculate",
                       "--speculate %s does not go with %s, which never guesses tokens ahead; give "
                       "--speculate auto or off",
                       asked, never);
    } else {
        settings->drafts = (uint32_t)strtoul(asked, NULL, 10);
    }
    settings->draft_loops = (uint32_t)opts->draft_loops;
    if (settings->draft_loops <= settings->ceiling_loops) return 0;
    return err_set(e, ERR_USAGE, "--draft-loops",
                   "--draft-loops %u: a token of this model runs at most %u loops",
                   settings->draft_loops, settings->ceiling_loops);
}

static int fill_sched(sched_opts *settings, const runtime_opts *opts, const model_plan *plan,
                      err *e) {
    sched_opts_default(settings);
    settings->halted_kv = plan->halted_kv;
    if (opts->halted_kv && !kv_policy_find(opts->halted_kv, &settings->halted_kv)) {
        return err_set(e, ERR_USAGE, "--halted-kv", "--halted-kv %s is not a policy",
                       opts->halted_kv);
    }
    if (opts->batching) {
        settings->batching = strcmp(opts->batching, "full") == 0       ? SCHED_FULL
                             : strcmp(opts->batching, "lockstep") == 0 ? SCHED_LOCKSTEP
                                                                       : SCHED_DEPTHWISE;
    }
    /* "full" computes every loop of every row, like the published generate, and is exact. */
    if (settings->batching == SCHED_FULL && !opts->halted_kv) settings->halted_kv = KV_EXACT;
    settings->max_rows = opts->max_rows ? (uint32_t)opts->max_rows : DEFAULT_ROWS;
    settings->max_running = opts->max_running ? (uint32_t)opts->max_running : DEFAULT_RUNNING;
    if (opts->chunk) settings->chunk = (uint32_t)opts->chunk;
    if (opts->wait_bound) settings->wait_bound = (uint32_t)opts->wait_bound;
    fill_loops(settings, opts, plan);
    if (opts->threshold.given) settings->default_threshold = threshold_of(opts, plan);
    return fill_speculation(settings, opts, e);
}

/* The number of row states. Unless under KV_LAST a sequence may hold one row per loop (tails), and
 * prompt chunks hold theirs. Under KV_EXACT a halted row keeps its state until a later row goes as
 * deep, so more rows save arithmetic and cache: as many as fit in STATE_BYTES (three floats per
 * channel). Beyond this number rows wait, or under KV_COLLAPSE sequences; they do not fail. */
static uint32_t row_states(const sched_opts *settings, const model_plan *plan) {
    uint64_t per_sequence = settings->halted_kv == KV_LAST ? 2u : settings->ceiling_loops + 1u;
    uint64_t n = (uint64_t)settings->max_running * per_sequence + 4u * (uint64_t)settings->max_rows;
    uint64_t spare = STATE_BYTES / (12u * (uint64_t)plan->dim);
    if (settings->halted_kv == KV_EXACT && n < spare) n = spare;
    uint64_t most = MOST_STATES > 4u * settings->max_rows ? MOST_STATES : 4u * settings->max_rows;
    return (uint32_t)(n < most ? n : most);
}

static int open_backend(runtime *self, const runtime_opts *opts, err *e) {
    const model_plan *plan = model_plan_of(self->model);
    uint32_t chunk = self->sched.chunk ? self->sched.chunk : SCHED_CHUNK;
    eng_backend_opts backend = {
        .threads = (uint32_t)opts->threads,
        .max_loops = self->sched.ceiling_loops,
        .n_rows = row_states(&self->sched, plan),
        .max_launch = self->sched.max_rows,
        .max_logits = self->sched.max_rows < 256 ? self->sched.max_rows : 256,
        .cache_bytes = opts->cache_bytes,
        .max_positions = plan->max_seq_len,
        .cache_dtype =
            opts->cache_dtype && strcmp(opts->cache_dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32,
        .kernels = opts->kernels && strcmp(opts->kernels, "auto") != 0 ? opts->kernels : NULL,
        .weights = eng_weights_named(opts->weights),
        .packed_cache = opts->packed_cache,
        .prompt_chunk = chunk <= self->sched.max_rows ? chunk : 0,
        .own_exit = opts->exit_rule != NULL,
        .exit = rule_of(opts, plan),
        .own_state0 = opts->initial_state != NULL,
        .state0 = opts->initial_state && strcmp(opts->initial_state, "zero") == 0 ? STATE_ZERO
                                                                                  : STATE_SEEDED,
        .ranks = self->ranks,
        .homes = opts->rank_split && strcmp(opts->rank_split, "sequences") == 0,
    };
    const char *device = opts->device ? opts->device : "auto";
    if (backend.homes && backend.ranks && strcmp(device, "cpu") != 0) {
        return err_set(e, ERR_USAGE, "--rank-split",
                       "--rank-split sequences runs on --device cpu only");
    }
    if (strcmp(device, "fake") == 0)
        return eng_fake_open(&self->backend, self->model, &backend, opts->fake_us, e);
    if (strcmp(device, "cpu") != 0) {
        eng_backend_opts cuda = backend;
        if (opts->cache_dtype == NULL) cuda.cache_dtype = DTYPE_BF16;
        err why = {0};
        if (eng_cuda_open(&self->backend, self->model, &cuda, &why) == 0) return 0;
        bool missing = why.code == ERR_NOT_FOUND;
        if (strcmp(device, "cuda") == 0 || !missing) {
            return err_set(e, missing ? ERR_USAGE : why.code, "--device", "%s", why.msg);
        }
        log_line(LOG_INFO, "running on the CPU (%s)", why.msg);
    }
    return eng_cpu_open(&self->backend, self->model, &backend, e);
}

/* A launcher starts the same command several times; one that knows nothing of ranks would run as
 * often. */
static int open_ranks(runtime *self, const runtime_opts *opts, err *e) {
    uint32_t rank, n;
    bool fake = opts->device && strcmp(opts->device, "fake") == 0;
    if (!eng_ranks_expected(&rank, &n)) return 0;
    if (!opts->ranks || fake) {
        return err_set(e, ERR_USAGE, NULL,
                       "%u processes were started together, but %s runs in one only", n,
                       fake ? "--device fake" : "this command");
    }
    if (eng_ranks_open(&self->ranks, e) != 0) return -1;
    if (self->ranks && opts->rank_seconds) self->ranks->patience_s = (uint32_t)opts->rank_seconds;
    return 0;
}

static int open_model(runtime *out, const runtime_opts *opts, err *e) {
    *out = (runtime){0};
    if (open_ranks(out, opts, e) != 0) return -1;
    return model_open(&out->model, opts->model, e);
}

static int open_engine(runtime *out, const runtime_opts *opts, err *e) {
    const model_plan *plan = model_plan_of(out->model);
    if (check_exit(opts, plan, e) != 0 || check_loops(opts, plan, e) != 0) return -1;
    if (check_state0(opts, plan, e) != 0) return -1;
    if (fill_sched(&out->sched, opts, plan, e) != 0) return -1;
    return open_backend(out, opts, e);
}

static void say_rank(const runtime *self) {
    const eng_ranks *ranks = self->ranks;
    const eng_backend_info *info = &self->backend->info;
    if (ranks == NULL) return;
    log_line(LOG_INFO,
             "rank %u of %u by %s: device %s, kernels %s, %u thread%s, %.1f MB of weights",
             ranks->rank, ranks->n, ranks->carrier, info->device, info->kernels, info->threads,
             info->threads == 1 ? "" : "s", (double)info->weight_bytes / 1e6);
}

int runtime_open(runtime *out, const runtime_opts *opts, err *e) {
    if (open_model(out, opts, e) != 0) goto fail;
    if (opts->no_tokenizer) {
        (void)snprintf(out->no_tokenizer, RUNTIME_WHY, "--no-tokenizer was given");
    } else if (runtime_open_tokenizer(&out->tokenizer, opts->model,
                                      model_plan_of(out->model)->vocab_size, out->no_tokenizer,
                                      e) != 0) {
        goto fail;
    }
    if (open_engine(out, opts, e) != 0) goto fail;
    if (out->ranks && eng_ranks_wrap(&out->backend, out->ranks, e) != 0) goto fail;
    say_rank(out);
    return 0;
fail:
    runtime_close(out);
    return -1;
}

int runtime_follow(const runtime_opts *opts, err *e) {
    runtime self;
    int rc = open_model(&self, opts, e);
    if (rc == 0) rc = open_engine(&self, opts, e);
    if (rc == 0) say_rank(&self);
    if (rc == 0) rc = eng_ranks_follow(self.backend, self.ranks, e);
    runtime_close(&self);
    return rc;
}

void runtime_close(runtime *self) {
    eng_backend_close(self->backend);
    eng_ranks_close(self->ranks);
    tokenizer_close(self->tokenizer);
    model_close(self->model);
    *self = (runtime){0};
}

float runtime_threshold(const runtime *self) {
    const model_plan *plan = model_plan_of(self->model);
    exit_rule rule = self->backend->info.exit;
    if (rule == EXIT_FIXED) return 0;
    if (self->sched.default_threshold > 0) return self->sched.default_threshold;
    return rule == plan->exit ? plan->exit_threshold : exit_rule_default(rule);
}

/* run.c - opens a model, its tokenizer and the backend it runs on, the same way for
 * every command. */
#include "runtime/runtime.h"

#include <stdio.h>
#include <string.h>

enum { DEFAULT_ROWS = 512, DEFAULT_RUNNING = 256, MOST_STATES = 16384, STATE_BYTES = 128 << 20 };

static int open_tokenizer(runtime *r, const char *dir, err *e) {
    err why = {0};
    uint32_t vocab = model_plan_of(r->model)->vocab_size;
    if (tokenizer_open(&r->tokenizer, dir, vocab, &why) == 0) return 0;
    if (why.code == ERR_NOT_FOUND) return 0; /* such a model takes token ids */
    return err_set(e, why.code, why.param, "%s", why.msg);
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
    if (o->max_loops) s->default_max_loops = (uint32_t)o->max_loops;
    uint32_t loops = s->default_max_loops ? s->default_max_loops : c->loops_default;
    s->ceiling_loops = plan_loops_ceiling(c);
    if (s->ceiling_loops < loops && c->loops_cap == 0) s->ceiling_loops = loops;
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
    if (open_tokenizer(out, o->model, e) != 0) goto fail;
    fill_sched(&out->sched, o, model_plan_of(out->model));
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

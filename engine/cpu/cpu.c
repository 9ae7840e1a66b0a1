/* cpu.c - opens and closes the CPU backend, checks and runs a launch.
 *
 * A launch runs to its end inside `launch`, on the calling thread and the pool; `wait` returns the
 * result. */
#include "base/clock.h"
#include "base/machine.h"
#include "base/size.h"
#include "engine/cpu/cpu_internal.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { HUGE_PAGE = 2 << 20, DEFAULT_SEQUENCES = 64, MOST_PARTS = 1 << 15 };
#define UNKNOWN_MEMORY 16e9 /* bytes, if the system does not report it */

/* ---- memory that lives until close ---- */

/* Zero pages. The kernel assigns a page at its first write, near the thread that writes. */
static void *map_aligned(size_t *bytes) {
    if (!size_add(*bytes, HUGE_PAGE - 1, bytes)) return NULL;
    *bytes &= ~(size_t)(HUGE_PAGE - 1);
    size_t all;
    if (!size_add(*bytes, HUGE_PAGE, &all)) return NULL;
    uint8_t *start = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return NULL;
    size_t skip = (HUGE_PAGE - (uintptr_t)start % HUGE_PAGE) % HUGE_PAGE;
    if (skip) munmap(start, skip);
    munmap(start + skip + *bytes, HUGE_PAGE - skip);
    (void)madvise(start + skip, *bytes, MADV_HUGEPAGE);
    return start + skip;
}

void *eng__take(eng__cpu *cpu, size_t n, size_t item_bytes) {
    eng__blocks *mem = &cpu->mem;
    size_t bytes, mapped = 0;
    if (mem->n_items == mem->cap) {
        uint32_t cap = mem->cap ? mem->cap * 2 : 64;
        struct eng__block *items = realloc(mem->items, cap * sizeof *items);
        if (items == NULL) return NULL;
        mem->items = items;
        mem->cap = cap;
    }
    if (!size_mul(n, item_bytes, &bytes)) return NULL;
    void *data;
    if (bytes >= 2 * (size_t)HUGE_PAGE) {
        mapped = bytes;
        data = map_aligned(&mapped);
    } else {
        data = array_new_aligned(bytes, 1);
        if (data) memset(data, 0, bytes);
    }
    if (data == NULL) return NULL;
    mem->items[mem->n_items++] = (struct eng__block){data, mapped};
    mem->bytes += bytes;
    return data;
}

static void free_memory(eng__blocks *mem) {
    for (uint32_t i = 0; i < mem->n_items; i++) {
        if (mem->items[i].mapped) munmap(mem->items[i].data, mem->items[i].mapped);
        else free(mem->items[i].data);
    }
    free(mem->items);
}

/* ---- sizes ---- */

static const eng__limits limits = {
    .default_rows = 256, .launch = UINT32_MAX, .positions = 1u << 30};

static uint32_t round_up(uint32_t columns) {
    return (columns + ENG__PANEL - 1) / ENG__PANEL * ENG__PANEL;
}

/* Per head and position, a query costs 2 rank + rope products in the absorbed form and nope + rope
 * + v in the expanded form. Rebuilding a position costs rank (nope + v) once. Add a margin: partly
 * filled panels and the softmax cost the same in both forms. */
static void set_forms(eng__cpu *cpu) {
    const model_plan *plan = &cpu->plan;
    uint64_t rank = plan->kv_lora_rank, own = (uint64_t)plan->qk_nope_head_dim + plan->v_head_dim;
    if (plan->attn != ATTN_MLA || 2 * rank <= own) return;
    uint64_t crossover = rank * own / (2 * rank - own) + 1;
    if (crossover > ENG__EXPAND_BLOCK) return;
    uint32_t chunk = cpu->opts.prompt_chunk;
    cpu->crossover = (uint32_t)crossover;
    cpu->ld_key = round_up(plan->qk_nope_head_dim) + plan->qk_rope_head_dim + ENG__PAD;
    cpu->ld_value = round_up(plan->v_head_dim) + ENG__PAD;
    if (chunk % ENG_BLOCK == 0 && chunk >= cpu->crossover + cpu->crossover / 4) cpu->window = chunk;
}

static void set_geometry(eng__cpu *cpu) {
    const model_plan *plan = &cpu->plan;
    bool mla = plan->attn == ATTN_MLA;
    uint32_t heads_v = mla ? plan->n_heads * plan->v_head_dim : plan_q_width(plan);
    cpu->shared_dim = plan->expert_dim * plan->n_experts_per_tok;
    cpu->groups = mla ? 1 : plan->n_kv_heads;
    cpu->group_heads = plan->n_heads / cpu->groups;
    cpu->key_dim = mla ? plan->kv_lora_rank + plan->qk_rope_head_dim : plan->head_dim;
    cpu->value_dim = mla ? plan->kv_lora_rank : plan->head_dim;
    cpu->value_at = mla ? 0 : cpu->key_dim;
    cpu->ld_gathered = (mla ? cpu->key_dim : cpu->key_dim + cpu->value_dim) + ENG__PAD;
    cpu->ld_sums = round_up(cpu->value_dim);
    cpu->attn_scale = 1.0f / sqrtf((float)(mla ? plan->qk_nope_head_dim + plan->qk_rope_head_dim
                                               : plan->head_dim));
    size_t shared = (size_t)plan->n_shared_experts * ((cpu->shared_dim + 15) / 16 * 16);
    size_t dense = ((size_t)plan->ffn_dim + 15) / 16 * 16;
    cpu->ld_stream = plan->dim + ENG__PAD;
    cpu->ld_q_latent = plan->q_lora_rank + ENG__PAD;
    cpu->ld_kv = plan->layer_values + ENG__PAD;
    cpu->ld_q_nope = (mla ? plan->n_heads * plan->qk_nope_head_dim : plan_q_width(plan)) + ENG__PAD;
    cpu->ld_q_rope = (mla ? plan->n_heads * plan->qk_rope_head_dim : 0) + ENG__PAD;
    cpu->ld_attended = heads_v + ENG__PAD;
    cpu->ld_ctx = (size_t)plan->n_heads * cpu->value_dim + ENG__PAD;
    cpu->ld_hidden = (shared > dense ? shared : dense) + ENG__PAD;
    cpu->ld_expert = (plan->expert_dim + 15) / 16 * 16 + ENG__PAD;
    cpu->ld_router = plan->n_experts + ENG__PAD;
    cpu->ld_lora = plan->lora_rank + ENG__PAD;
    cpu->ld_rope = (mla ? plan->qk_rope_head_dim : plan->head_dim) + ENG__PAD;
}

/* Room for every loop of DEFAULT_SEQUENCES full contexts, but at most a quarter of the memory of
 * this machine or container. If a quarter does not hold one context, up to half of the memory left
 * by weights and buffers. If they leave almost nothing, a sixteenth: a small cache is better than
 * no start. */
static uint64_t default_cache_bytes(const eng__cpu *cpu, const machine *here, char why[96]) {
    const model_plan *plan = &cpu->plan;
    double slot = (double)plan->slot_values * (double)model_dtype_bytes(cpu->opts.cache_dtype);
    double one =
        1.05 * cpu->opts.max_positions * plan_planes(plan, cpu->opts.max_loops) * (slot + 4);
    uint64_t known = machine_memory(here);
    double memory = known ? (double)known : UNKNOWN_MEMORY;
    double taken =
        (double)(cpu->weight_bytes > cpu->mem.bytes ? cpu->weight_bytes : cpu->mem.bytes);
    double quarter = memory / 4, most = (memory - taken) / 2, least = memory / 16;
    double all = DEFAULT_SEQUENCES * one, share = quarter;
    const char *part = "a quarter";
    if (all <= quarter && all <= most) {
        (void)snprintf(why, 96, "%d full contexts", DEFAULT_SEQUENCES);
        return (uint64_t)all;
    }
    if (one > quarter && one <= most) {
        (void)snprintf(why, 96, "one full context");
        return (uint64_t)one;
    }
    if (one > quarter || most < quarter) {
        share = most;
        part = "half of the unused part";
    }
    if (share < least) {
        share = least;
        part = "a sixteenth";
    }
    bool limited = known && known == here->cgroup.memory;
    (void)snprintf(why, 96, "%s of %.1f MB%s", part, memory / 1e6,
                   limited ? ", the cgroup's limit" : "");
    return (uint64_t)share;
}

static int take_cache(eng__cpu *cpu, const machine *here, err *e) {
    eng_backend_info *info = &cpu->base.info;
    uint64_t bytes = cpu->opts.cache_bytes;
    if (bytes) (void)snprintf(info->why_cache, sizeof info->why_cache, "--kv-memory");
    else bytes = default_cache_bytes(cpu, here, info->why_cache);
    if (cpu->opts.ranks && eng_ranks_least(cpu->opts.ranks, &bytes, e) != 0) return -1;
    if (eng__size_cache(info, &cpu->plan, &cpu->opts, bytes, e) != 0) return -1;
    cpu->slots = eng__take(cpu, info->n_slots, info->slot_bytes);
    cpu->maps = eng__take(cpu, info->n_blocks, info->block_map_bytes);
    if (cpu->slots && cpu->maps) return 0;
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a cache of %.2f GB",
                   (double)bytes / 1e9);
}

static void *take_rows(eng__cpu *cpu, size_t rows, size_t ld, size_t item_bytes) {
    size_t n;
    return size_mul(rows, ld, &n) ? eng__take(cpu, n, item_bytes) : NULL;
}

/* Codes of the largest phase. The first phase of the mixture codes a row and its top_k copies, the
 * second their hidden values. */
static void set_code_caps(eng__cpu *cpu) {
    size_t wide = cpu->ld_hidden > cpu->ld_attended ? cpu->ld_hidden : cpu->ld_attended;
    size_t narrow = cpu->ld_expert > cpu->ld_stream ? cpu->ld_expert : cpu->ld_stream;
    if (cpu->ld_ctx > wide) wide = cpu->ld_ctx;
    if (cpu->ld_q_latent > wide) wide = cpu->ld_q_latent;
    if (narrow > wide) wide = narrow;
    size_t groups = wide / ENG__GROUP + 1 + cpu->plan.n_experts_per_tok * (narrow / ENG__GROUP + 1);
    cpu->code_groups_cap = cpu->opts.max_launch * groups;
    cpu->code_cap = cpu->code_groups_cap * ENG__GROUP;
}

static int take_scratch(eng__cpu *cpu, err *e) {
    const model_plan *plan = &cpu->plan;
    size_t n_rows = cpu->opts.max_launch, dim = plan->dim, real = sizeof(float),
           top_k = plan->n_experts_per_tok;
    uint32_t threads = eng__pool_threads(cpu->pool);
    cpu->max_jobs = plan->n_heads > plan->n_experts + 1 ? plan->n_heads : plan->n_experts + 1;
    if (cpu->max_jobs < 3) cpu->max_jobs = 3;
    if (cpu->opts.weights == ENG_WEIGHTS_INT8) set_code_caps(cpu);
    /* enough for the few rows of a launch with idle threads */
    uint32_t spans = (cpu->opts.max_positions - 1) / ENG__SPAN + 1;
    cpu->partials_cap = spans > 1 ? 2 * threads * ENG__ROW_BLOCK * spans : 0;
    if (cpu->partials_cap > MOST_PARTS) cpu->partials_cap = MOST_PARTS;
    const struct {
        void *at;
        size_t rows, ld, bytes;
    } wanted[] = {
        {&cpu->state, cpu->opts.n_rows, dim, real},
        {&cpu->input, plan->inject == INJECT_NONE ? 0 : cpu->opts.n_rows, dim, real},
        {&cpu->out, cpu->opts.n_rows, dim, real},
        {&cpu->exit_sum, cpu->opts.n_rows, 1, real},
        {&cpu->chunked, cpu->opts.n_rows, 1, sizeof *cpu->chunked},
        {&cpu->stamps.last, cpu->opts.n_rows, 1, sizeof *cpu->stamps.last},
        {&cpu->launch_row, n_rows, 1, sizeof *cpu->launch_row},
        {&cpu->plane, n_rows, 1, sizeof *cpu->plane},
        {&cpu->stream, n_rows, cpu->ld_stream, real},
        {&cpu->normed, n_rows, cpu->ld_stream, real},
        {&cpu->q_latent, n_rows, cpu->ld_q_latent, real},
        {&cpu->kv, n_rows, cpu->ld_kv, real},
        {&cpu->q_nope, n_rows, cpu->ld_q_nope, real},
        {&cpu->q_rope, n_rows, cpu->ld_q_rope, real},
        {&cpu->queries, n_rows, (size_t)plan->n_heads * cpu->key_dim, real},
        {&cpu->ctx, n_rows, cpu->ld_ctx, real},
        {&cpu->attended, n_rows, cpu->ld_attended, real},
        {&cpu->rope, n_rows, cpu->ld_rope, real},
        {&cpu->hidden, n_rows, cpu->ld_hidden, real},
        {&cpu->expert_hidden, n_rows * top_k, cpu->ld_expert, real},
        {&cpu->expert_x, n_rows * top_k, cpu->ld_stream, real},
        {&cpu->router, n_rows, cpu->ld_router, real},
        {&cpu->lora, n_rows, cpu->ld_lora, real},
        {&cpu->pick, n_rows, top_k, sizeof *cpu->pick},
        {&cpu->pick_weight, n_rows, top_k, real},
        {&cpu->expert_first, plan->n_experts + 1, 1, sizeof *cpu->expert_first},
        {&cpu->sorted, n_rows, top_k, sizeof *cpu->sorted},
        {&cpu->codes, 1, cpu->code_cap, 1},
        {&cpu->code_scale, cpu->code_groups_cap, 1, real},
        {&cpu->code_sum, cpu->code_groups_cap, 1, sizeof *cpu->code_sum},
        {&cpu->jobs, cpu->max_jobs, 1, sizeof *cpu->jobs},
        {&cpu->runs, n_rows, 1, sizeof *cpu->runs},
        {&cpu->halted, n_rows, 1, 1},
        {&cpu->partials, cpu->partials_cap, cpu->value_dim + 2u, real},
        {&cpu->logits, cpu->opts.max_logits, plan->vocab_size, real},
        {&cpu->scratch, threads, 1, sizeof *cpu->scratch},
    };
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        void *data = take_rows(cpu, wanted[i].rows, wanted[i].ld, wanted[i].bytes);
        if (data == NULL)
            return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %zu rows", n_rows);
        memcpy(wanted[i].at, &data, sizeof data);
    }
    size_t kv = plan->layer_values + plan->head_dim, tmp = kv > dim ? kv : dim;
    /* tiles read whole panels: one panel more than is filled */
    size_t segment = (ENG__SEGMENT + 1u) * ((size_t)cpu->ld_gathered + ENG__PANEL);
    size_t pieces = ENG__TILE * (ENG__PIECE + ENG__PAD) + ENG__PANEL;
    for (uint32_t thread = 0; thread < threads; thread++) {
        eng__scratch *scratch = &cpu->scratch[thread];
        scratch->acc = eng__take(cpu, ENG__ROW_BLOCK * ENG__PANEL, real);
        scratch->kv = take_rows(cpu, 1, segment > pieces ? segment : pieces, real);
        scratch->sums = take_rows(cpu, ENG__PANEL, cpu->ld_sums, real);
        scratch->query_panels = take_rows(cpu, ENG__ROW_BLOCK, cpu->key_dim, real);
        scratch->scores = eng__take(cpu, ENG__ROW_BLOCK * ENG__SEGMENT, real);
        scratch->tmp = eng__take(cpu, tmp + ENG__PAD, real);
        scratch->partial = take_rows(cpu, ENG__ROW_BLOCK, cpu->value_dim, real);
        if (cpu->crossover) {
            size_t d_key = plan->qk_nope_head_dim + plan->qk_rope_head_dim;
            scratch->key = take_rows(cpu, ENG__SEGMENT, cpu->ld_key, real);
            scratch->value = take_rows(cpu, ENG__SEGMENT, cpu->ld_value, real);
            scratch->query = take_rows(cpu, ENG__EXPAND_BLOCK, d_key, real);
            if (!scratch->key || !scratch->value || !scratch->query) {
                return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %u threads", threads);
            }
        }
        if (!scratch->partial || !scratch->sums || !scratch->acc || !scratch->kv ||
            !scratch->query_panels || !scratch->scores || !scratch->tmp) {
            return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %u threads", threads);
        }
    }
    return 0;
}

/* ---- launch ---- */

/* Edits of other homes concern the maps of other ranks. */
static void apply_edits(eng__cpu *cpu, const eng_launch *launch) {
    uint32_t planes = cpu->base.info.n_planes;
    uint32_t home = cpu->homes.n ? cpu->opts.ranks->rank : 0;
    for (uint32_t i = 0; i < launch->n_edits; i++) {
        const eng_edit *edit = &launch->edits[i];
        if (edit->home != home) continue;
        uint32_t *at =
            cpu->maps + ((size_t)edit->block * planes + edit->plane) * ENG_BLOCK + edit->off;
        for (uint32_t plane = 0; plane < edit->n_planes; plane++, at += ENG_BLOCK)
            *at = edit->slot + 1;
    }
}

static int cpu_launch(eng_backend *backend, const eng_launch *launch, err *e) {
    eng__cpu *cpu = (eng__cpu *)backend;
    uint64_t start = clock_ns();
    cpu->n_logits = 0;
    cpu->n_rows = 0;
    if (eng__check_launch(&cpu->base.info, &cpu->plan, &cpu->opts, &cpu->stamps, launch, e) != 0)
        return -1;
    apply_edits(cpu, launch);
    cpu->rows = launch->rows;
    cpu->n_rows = launch->n_rows;
    cpu->in_coda = launch->stage == ENG_STAGE_CODA;
    atomic_store_explicit(&cpu->bad_slot, 0, memory_order_relaxed);
    if (launch->n_rows) {
        switch (launch->stage) {
        case ENG_STAGE_PRELUDE: eng__stage_prelude(cpu); break;
        case ENG_STAGE_RECURRENT: eng__stage_recurrent(cpu); break;
        case ENG_STAGE_CODA: eng__stage_coda(cpu); break;
        }
    }
    cpu->check = eng__results_check(cpu, launch->stage);
    cpu->rows = NULL;
    cpu->ns = clock_ns() - start;
    if (atomic_load_explicit(&cpu->bad_slot, memory_order_relaxed)) {
        return err_set(e, ERR_INTERNAL, NULL, "the cache map of a row names no slot");
    }
    if (cpu->ranks_lost.code != ERR_NONE)
        return err_set(e, cpu->ranks_lost.code, NULL, "%s", cpu->ranks_lost.msg);
    return 0;
}

static int cpu_wait(eng_backend *backend, eng_result *result, err *e) {
    eng__cpu *cpu = (eng__cpu *)backend;
    (void)e;
    *result = (eng_result){.halted = cpu->halted,
                           .logits = cpu->logits,
                           .n_logits = cpu->n_logits,
                           .ns = cpu->ns,
                           .check = cpu->check};
    return 0;
}

static void cpu_close(eng_backend *backend) {
    eng__cpu *cpu = (eng__cpu *)backend;
    eng__pool_destroy(cpu->pool);
    eng__packed_close(cpu);
    free_memory(&cpu->mem);
    free(cpu);
}

static const eng_backend_ops ops = {.launch = cpu_launch, .wait = cpu_wait, .close = cpu_close};

int eng_cpu_open(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                 err *e) {
    *out = NULL;
    eng__cpu *cpu = array_new_aligned(1, sizeof *cpu);
    if (cpu == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory opening the CPU backend");
    memset(cpu, 0, sizeof *cpu);
    cpu->base.ops = &ops;
    cpu->base.plan = model_plan_of(model);
    cpu->model = model;
    cpu->plan = *cpu->base.plan;
    cpu->opts = *opts;
    if (eng__check_plan(&cpu->plan, e) != 0) goto fail;
    if (eng__check_opts(&cpu->opts, &cpu->plan, &limits, e) != 0) goto fail;
    if (eng_ranks_agree_model(opts->ranks, model, &cpu->opts, "cpu", e) != 0) goto fail;
    eng_backend_info *info = &cpu->base.info;
    machine here;
    machine_read(&here);
    if (eng__share_machine(cpu, &here, e) != 0) goto fail;
    if (opts->threads) (void)snprintf(info->why_threads, sizeof info->why_threads, "--threads");
    else (void)machine_why_threads(&here, info->why_threads);
    set_geometry(cpu);
    set_forms(cpu);
    if (eng__agree_kernels(cpu, e) != 0) goto fail;
    if (eng__pool_create(&cpu->pool, cpu->opts.threads, e) != 0) goto fail;
    if (eng__load_weights(cpu, e) != 0) goto fail;
    if (eng__tables_init(cpu, e) != 0) goto fail;
    if (take_scratch(cpu, e) != 0) goto fail;
    if (eng__reserve_gathers(cpu, e) != 0) goto fail;
    if (eng__take_homes(cpu, e) != 0) goto fail;
    if (take_cache(cpu, &here, e) != 0) goto fail;
    info->device = "cpu";
    info->n_homes = cpu->homes.n;
    info->exit = cpu->opts.exit;
    info->kernels = cpu->kern->name;
    info->threads = eng__pool_threads(cpu->pool);
    info->n_rows = cpu->opts.n_rows;
    info->max_launch = cpu->opts.max_launch;
    info->max_flights = 1;
    info->max_logits = cpu->opts.max_logits;
    info->weight_bytes = cpu->weight_bytes;
    info->memory_bytes = cpu->mem.bytes;
    *out = &cpu->base;
    return 0;
fail:
    cpu_close(&cpu->base);
    return -1;
}

/* cpu.c - opening and closing the CPU backend, checking and running a launch.
 *
 * The launch runs to its end inside `launch` on the calling thread and the pool; `wait`
 * hands out the result. */
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
#define UNKNOWN_MEMORY 16e9 /* bytes, where the system does not say */

/* ---- memory that lives until close ---- */

/* Zero pages that become real when first touched, so by the thread that works on them. */
static void *map_aligned(size_t *bytes) {
    if (!size_add(*bytes, HUGE_PAGE - 1, bytes)) return NULL;
    *bytes &= ~(size_t)(HUGE_PAGE - 1);
    size_t all;
    if (!size_add(*bytes, HUGE_PAGE, &all)) return NULL;
    uint8_t *p = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    size_t skip = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (skip) munmap(p, skip);
    munmap(p + skip + *bytes, HUGE_PAGE - skip);
    (void)madvise(p + skip, *bytes, MADV_HUGEPAGE);
    return p + skip;
}

void *eng__take(eng__cpu *g, size_t n, size_t item_bytes) {
    eng__blocks *m = &g->mem;
    size_t bytes, mapped = 0;
    if (m->n == m->cap) {
        uint32_t cap = m->cap ? m->cap * 2 : 64;
        struct eng__block *items = realloc(m->items, cap * sizeof *items);
        if (items == NULL) return NULL;
        m->items = items;
        m->cap = cap;
    }
    if (!size_mul(n, item_bytes, &bytes)) return NULL;
    void *p;
    if (bytes >= 2 * (size_t)HUGE_PAGE) {
        mapped = bytes;
        p = map_aligned(&mapped);
    } else {
        p = array_new_aligned(bytes, 1);
        if (p) memset(p, 0, bytes);
    }
    if (p == NULL) return NULL;
    m->items[m->n++] = (struct eng__block){p, mapped};
    m->bytes += bytes;
    return p;
}

static void free_memory(eng__blocks *m) {
    for (uint32_t i = 0; i < m->n; i++) {
        if (m->items[i].mapped) munmap(m->items[i].data, m->items[i].mapped);
        else free(m->items[i].data);
    }
    free(m->items);
}

/* ---- sizes ---- */

static const eng__limits limits = {
    .default_rows = 256, .launch = UINT32_MAX, .positions = 1u << 30};

static uint32_t round_up(uint32_t columns) {
    return (columns + ENG__PANEL - 1) / ENG__PANEL * ENG__PANEL;
}

/* Per head and position, absorbed attention costs a query 2 rank + rope products and expanded
 * attention nope + rope + v; rebuilding costs the position rank (nope + v) once. Wider panels
 * than the rows fill and the softmax, alike in both, ask for a margin. */
static void set_forms(eng__cpu *g) {
    const model_plan *c = &g->plan;
    uint64_t rank = c->kv_lora_rank, own = (uint64_t)c->qk_nope_head_dim + c->v_head_dim;
    if (c->attn != ATTN_MLA || 2 * rank <= own) return;
    uint64_t crossover = rank * own / (2 * rank - own) + 1;
    if (crossover > ENG__EXPAND_BLOCK) return;
    uint32_t chunk = g->opts.prompt_chunk;
    g->crossover = (uint32_t)crossover;
    g->ld_key = round_up(c->qk_nope_head_dim) + c->qk_rope_head_dim + ENG__PAD;
    g->ld_value = round_up(c->v_head_dim) + ENG__PAD;
    if (chunk % ENG_BLOCK == 0 && chunk >= g->crossover + g->crossover / 4) g->window = chunk;
}

static void set_geometry(eng__cpu *g) {
    const model_plan *c = &g->plan;
    bool mla = c->attn == ATTN_MLA;
    uint32_t heads_v = mla ? c->n_heads * c->v_head_dim : plan_q_width(c);
    g->shared_dim = c->expert_dim * c->n_experts_per_tok;
    g->groups = mla ? 1 : c->n_kv_heads;
    g->group_heads = c->n_heads / g->groups;
    g->dk = mla ? c->kv_lora_rank + c->qk_rope_head_dim : c->head_dim;
    g->dv = mla ? c->kv_lora_rank : c->head_dim;
    g->val_off = mla ? 0 : g->dk;
    g->kv_ld = (mla ? g->dk : g->dk + g->dv) + ENG__PAD;
    g->ld_sums = round_up(g->dv);
    g->attn_scale =
        1.0f / sqrtf((float)(mla ? c->qk_nope_head_dim + c->qk_rope_head_dim : c->head_dim));
    size_t shared = (size_t)c->n_shared_experts * ((g->shared_dim + 15) / 16 * 16);
    size_t dense = ((size_t)c->ffn_dim + 15) / 16 * 16;
    g->ld_d = c->dim + ENG__PAD;
    g->ld_q = c->q_lora_rank + ENG__PAD;
    g->ld_kv = c->layer_values + ENG__PAD;
    g->ld_qn = (mla ? c->n_heads * c->qk_nope_head_dim : plan_q_width(c)) + ENG__PAD;
    g->ld_qr = (mla ? c->n_heads * c->qk_rope_head_dim : 0) + ENG__PAD;
    g->ld_o = heads_v + ENG__PAD;
    g->ld_ctx = (size_t)c->n_heads * g->dv + ENG__PAD;
    g->ld_hidden = (shared > dense ? shared : dense) + ENG__PAD;
    g->ld_expert = (c->expert_dim + 15) / 16 * 16 + ENG__PAD;
    g->ld_router = c->n_experts + ENG__PAD;
    g->ld_lora = c->lora_rank + ENG__PAD;
    g->ld_rope = (mla ? c->qk_rope_head_dim : c->head_dim) + ENG__PAD;
}

/* Every loop of DEFAULT_SEQUENCES full contexts, but no more than a quarter of the memory of this
 * machine or container; where that holds not even one context, up to half of what weights and
 * buffers leave. Where they leave next to nothing, little: a small cache is better than no start.
 */
static uint64_t default_cache_bytes(const eng__cpu *g, const machine *here, char why[96]) {
    const model_plan *p = &g->plan;
    double slot = (double)p->slot_values * (double)model_dtype_bytes(g->opts.cache_dtype);
    double one = 1.05 * g->opts.max_positions * plan_planes(p, g->opts.max_loops) * (slot + 4);
    uint64_t known = machine_memory(here);
    double memory = known ? (double)known : UNKNOWN_MEMORY;
    double taken = (double)(g->weight_bytes > g->mem.bytes ? g->weight_bytes : g->mem.bytes);
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
        part = "half of what weights and buffers leave";
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

static int take_cache(eng__cpu *g, const machine *here, err *e) {
    eng_backend_info *info = &g->base.info;
    uint64_t bytes = g->opts.cache_bytes;
    if (bytes) (void)snprintf(info->why_cache, sizeof info->why_cache, "--kv-memory");
    else bytes = default_cache_bytes(g, here, info->why_cache);
    if (eng__size_cache(info, &g->plan, &g->opts, bytes, e) != 0) return -1;
    g->slots = eng__take(g, info->n_slots, info->slot_bytes);
    g->maps = eng__take(g, info->n_blocks, info->block_map_bytes);
    if (g->slots && g->maps) return 0;
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a cache of %.2f GB",
                   (double)bytes / 1e9);
}

static void *take_rows(eng__cpu *g, size_t rows, size_t ld, size_t item_bytes) {
    size_t n;
    return size_mul(rows, ld, &n) ? eng__take(g, n, item_bytes) : NULL;
}

/* Codes of the largest phase: the mixture's first takes a row and its top_k copies, its
 * second their hidden values. */
static void set_code_caps(eng__cpu *g) {
    size_t wide = g->ld_hidden > g->ld_o ? g->ld_hidden : g->ld_o;
    size_t narrow = g->ld_expert > g->ld_d ? g->ld_expert : g->ld_d;
    if (g->ld_ctx > wide) wide = g->ld_ctx;
    if (g->ld_q > wide) wide = g->ld_q;
    if (narrow > wide) wide = narrow;
    size_t groups = wide / ENG__GROUP + 1 + g->plan.n_experts_per_tok * (narrow / ENG__GROUP + 1);
    g->code_groups_cap = g->opts.max_launch * groups;
    g->code_cap = g->code_groups_cap * ENG__GROUP;
}

static int take_scratch(eng__cpu *g, err *e) {
    const model_plan *c = &g->plan;
    size_t n = g->opts.max_launch, d = c->dim, f = sizeof(float), k = c->n_experts_per_tok;
    uint32_t threads = eng__pool_threads(g->pool);
    g->max_jobs = c->n_heads > c->n_experts + 1 ? c->n_heads : c->n_experts + 1;
    if (g->max_jobs < 3) g->max_jobs = 3;
    if (g->opts.weights == ENG_WEIGHTS_INT8) set_code_caps(g);
    /* enough for the few rows of a launch that leaves threads idle */
    uint32_t spans = (g->opts.max_positions - 1) / ENG__SPAN + 1;
    g->part_cap = spans > 1 ? 2 * threads * ENG__ROW_BLOCK * spans : 0;
    if (g->part_cap > MOST_PARTS) g->part_cap = MOST_PARTS;
    const struct {
        void *at;
        size_t rows, ld, bytes;
    } wanted[] = {
        {&g->h, g->opts.n_rows, d, f},
        {&g->e, c->inject == INJECT_NONE ? 0 : g->opts.n_rows, d, f},
        {&g->out, g->opts.n_rows, d, f},
        {&g->cum, g->opts.n_rows, 1, f},
        {&g->stamps.last, g->opts.n_rows, 1, sizeof *g->stamps.last},
        {&g->perm, n, 1, sizeof *g->perm},
        {&g->plane, n, 1, sizeof *g->plane},
        {&g->x, n, g->ld_d, f},
        {&g->xn, n, g->ld_d, f},
        {&g->cq, n, g->ld_q, f},
        {&g->kv, n, g->ld_kv, f},
        {&g->qn, n, g->ld_qn, f},
        {&g->qr, n, g->ld_qr, f},
        {&g->q, n, (size_t)c->n_heads * g->dk, f},
        {&g->ctx, n, g->ld_ctx, f},
        {&g->o, n, g->ld_o, f},
        {&g->rope, n, g->ld_rope, f},
        {&g->hidden, n, g->ld_hidden, f},
        {&g->expert_hidden, n * k, g->ld_expert, f},
        {&g->expert_x, n * k, g->ld_d, f},
        {&g->router, n, g->ld_router, f},
        {&g->lora, n, g->ld_lora, f},
        {&g->pick, n, k, sizeof *g->pick},
        {&g->pick_weight, n, k, f},
        {&g->expert_first, c->n_experts + 1, 1, sizeof *g->expert_first},
        {&g->sorted, n, k, sizeof *g->sorted},
        {&g->codes, 1, g->code_cap, 1},
        {&g->code_scale, g->code_groups_cap, 1, f},
        {&g->code_sum, g->code_groups_cap, 1, sizeof *g->code_sum},
        {&g->jobs, g->max_jobs, 1, sizeof *g->jobs},
        {&g->runs, n, 1, sizeof *g->runs},
        {&g->halted, n, 1, 1},
        {&g->part, g->part_cap, g->dv + 2u, f},
        {&g->logits, g->opts.max_logits, c->vocab_size, f},
        {&g->scratch, threads, 1, sizeof *g->scratch},
    };
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
        void *p = take_rows(g, wanted[i].rows, wanted[i].ld, wanted[i].bytes);
        if (p == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %zu rows", n);
        memcpy(wanted[i].at, &p, sizeof p);
    }
    size_t tmp = c->layer_values > d ? c->layer_values : d;
    /* tiles read whole panels: a panel more than is filled */
    size_t segment = (ENG__SEGMENT + 1u) * ((size_t)g->kv_ld + ENG__PANEL);
    size_t pieces = ENG__TILE * (ENG__PIECE + ENG__PAD) + ENG__PANEL;
    for (uint32_t t = 0; t < threads; t++) {
        eng__scratch *s = &g->scratch[t];
        s->acc = eng__take(g, ENG__ROW_BLOCK * ENG__PANEL, f);
        s->kv = take_rows(g, 1, segment > pieces ? segment : pieces, f);
        s->sums = take_rows(g, ENG__PANEL, g->ld_sums, f);
        s->qt = take_rows(g, ENG__ROW_BLOCK, g->dk, f);
        s->score = eng__take(g, ENG__ROW_BLOCK * ENG__SEGMENT, f);
        s->tmp = eng__take(g, tmp + ENG__PAD, f);
        s->part = take_rows(g, ENG__ROW_BLOCK, g->dv, f);
        if (g->crossover) {
            size_t d_key = c->qk_nope_head_dim + c->qk_rope_head_dim;
            s->key = take_rows(g, ENG__SEGMENT, g->ld_key, f);
            s->value = take_rows(g, ENG__SEGMENT, g->ld_value, f);
            s->query = take_rows(g, ENG__EXPAND_BLOCK, d_key, f);
            if (!s->key || !s->value || !s->query) {
                return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %u threads", threads);
            }
        }
        if (!s->part || !s->sums || !s->acc || !s->kv || !s->qt || !s->score || !s->tmp) {
            return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %u threads", threads);
        }
    }
    return 0;
}

/* ---- launch ---- */

static void apply_edits(eng__cpu *g, const eng_launch *l) {
    uint32_t planes = g->base.info.n_planes;
    for (uint32_t i = 0; i < l->n_edits; i++) {
        const eng_edit *d = &l->edits[i];
        uint32_t *at = g->maps + ((size_t)d->block * planes + d->plane) * ENG_BLOCK + d->off;
        for (uint32_t p = 0; p < d->n_planes; p++, at += ENG_BLOCK)
            *at = d->slot + 1;
    }
}

static int cpu_launch(eng_backend *b, const eng_launch *l, err *e) {
    eng__cpu *g = (eng__cpu *)b;
    uint64_t start = clock_ns();
    g->n_logits = 0;
    g->n_rows = 0;
    if (eng__check_launch(&g->base.info, &g->plan, &g->opts, &g->stamps, l, e) != 0) return -1;
    apply_edits(g, l);
    g->rows = l->rows;
    g->n_rows = l->n_rows;
    g->in_coda = l->stage == ENG_STAGE_CODA;
    atomic_store_explicit(&g->bad_slot, 0, memory_order_relaxed);
    if (l->n_rows) {
        switch (l->stage) {
        case ENG_STAGE_PRELUDE: eng__stage_prelude(g); break;
        case ENG_STAGE_RECURRENT: eng__stage_recurrent(g); break;
        case ENG_STAGE_CODA: eng__stage_coda(g); break;
        }
    }
    g->rows = NULL;
    g->ns = clock_ns() - start;
    if (atomic_load_explicit(&g->bad_slot, memory_order_relaxed)) {
        return err_set(e, ERR_INTERNAL, NULL, "a row's cache map names no slot");
    }
    return 0;
}

static int cpu_wait(eng_backend *b, eng_result *r, err *e) {
    eng__cpu *g = (eng__cpu *)b;
    (void)e;
    *r = (eng_result){
        .halted = g->halted, .logits = g->logits, .n_logits = g->n_logits, .ns = g->ns};
    return 0;
}

static void cpu_close(eng_backend *b) {
    eng__cpu *g = (eng__cpu *)b;
    eng__pool_destroy(g->pool);
    eng__packed_close(g);
    free_memory(&g->mem);
    free(g);
}

static const eng_backend_ops ops = {.launch = cpu_launch, .wait = cpu_wait, .close = cpu_close};

int eng_cpu_open(eng_backend **out, const model_folder *m, const eng_backend_opts *opts, err *e) {
    *out = NULL;
    eng__cpu *g = array_new_aligned(1, sizeof *g);
    if (g == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory opening the CPU backend");
    memset(g, 0, sizeof *g);
    g->base.ops = &ops;
    g->base.plan = model_plan_of(m);
    g->model = m;
    g->plan = *g->base.plan;
    g->opts = *opts;
    if (eng__check_plan(&g->plan, e) != 0) goto fail;
    if (eng__check_opts(&g->opts, &g->plan, &limits, e) != 0) goto fail;
    eng_backend_info *info = &g->base.info;
    machine here;
    machine_read(&here);
    if (opts->threads) (void)snprintf(info->why_threads, sizeof info->why_threads, "--threads");
    else (void)machine_why_threads(&here, info->why_threads);
    set_geometry(g);
    set_forms(g);
    if (eng__kernels_choose(&g->k, opts->kernels, e) != 0) goto fail;
    if (eng__pool_create(&g->pool, opts->threads, e) != 0) goto fail;
    if (eng__load_weights(g, e) != 0) goto fail;
    if (eng__tables_init(g, e) != 0) goto fail;
    if (take_scratch(g, e) != 0) goto fail;
    if (take_cache(g, &here, e) != 0) goto fail;
    info->device = "cpu";
    info->exit = g->opts.exit;
    info->kernels = g->k->name;
    info->threads = eng__pool_threads(g->pool);
    info->n_rows = g->opts.n_rows;
    info->max_launch = g->opts.max_launch;
    info->max_flights = 1;
    info->max_logits = g->opts.max_logits;
    info->weight_bytes = g->weight_bytes;
    info->memory_bytes = g->mem.bytes;
    *out = &g->base;
    return 0;
fail:
    cpu_close(&g->base);
    return -1;
}

/* prefill.c - prompts in the kernel benchmark: a chunk at the end of its context, absorbed and over
 * expanded keys, to find the length from which one overtakes the other. */
#include "base/size.h"
#include "bench/cuda/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    kb_sites *s;
    const kb_probes *probes;
    uint32_t rows, context;
} chunk;

typedef struct {
    const char *name[KB_SITES];
    double us[KB_SITES];
    uint32_t n;
} side;

/* One launch of the chunk's rows, to fill the descriptor and the working memory. */
static void run_chunk(const chunk *c, uint32_t crossover) {
    kb_rig *x = c->s->x;
    uint32_t blocks = (c->context + ENG_BLOCK - 1) / ENG_BLOCK;
    eng_row *r = array_new(c->rows, sizeof *r);
    uint32_t *table = array_new(blocks, sizeof *table);
    if (r == NULL || table == NULL) kb_fail("out of memory");
    for (uint32_t i = 0; i < blocks; i++)
        table[i] = i % x->used_blocks;
    for (uint32_t i = 0; i < c->rows; i++) {
        r[i] = x->row[i];
        r[i].pos = c->context - c->rows + i;
        r[i].loop = 0;
        r[i].blocks = table;
        r[i].flags = 0;
    }
    x->b->flash.rows = crossover;
    (void)kb_run_rows(x, ENG_STAGE_RECURRENT, r, c->rows, NULL, 0);
    free(r);
    free(table);
}

static side measure(const chunk *c, cu_mode mode) {
    kb_sites *s = c->s;
    cu_backend *b = s->x->b;
    side out = {.n = 0};
    run_chunk(c, mode == CU_ALL_EXPANDED ? c->rows : UINT32_MAX);
    uint32_t capacity = b->bucket[eng__cuda_bucket(b, c->rows)];
    kb_capture(s, ENG_STAGE_RECURRENT, capacity, (cu_path){mode, 1}, false);
    for (uint32_t i = 1; i < s->n_sites; i++) { /* not begin: it writes the descriptor */
        out.name[out.n] = s->site[i].name;
        out.us[out.n++] = kb_time(s, &s->site[i], false).median;
    }
    kb_forget(s);
    return out;
}

static bool has(const side *s, const char *name) {
    for (uint32_t i = 0; i < s->n; i++) {
        if (strcmp(s->name[i], name) == 0) return true;
    }
    return false;
}

/* Time of the kernels missing on the other side. */
static double own_us(const side *s, const side *other) {
    double us = 0;
    for (uint32_t i = 0; i < s->n; i++)
        us += has(other, s->name[i]) ? 0 : s->us[i];
    return us;
}

static void print(const chunk *c, const char *name, double us, double flop) {
    printf(",\n{\"kernel\":\"prefill_%s\",\"rows\":%u,\"context\":%u,\"us\":%.2f,\"gflop\":%.3f,"
           "\"percent_of_matrix_probe\":%.1f}",
           name, c->rows, c->context, us, flop * 1e-9,
           100 * flop / us * 1e-6 / c->probes->matrix_tflop_s.best);
    fflush(stdout);
}

/* True if the expanded side is the faster one. */
static bool prefill(const chunk *c) {
    const model_plan *p = &c->s->x->c;
    double rows = c->rows, context = c->context, heads = p->n_heads, lora = p->kv_lora_rank;
    double pairs = rows * (context - rows) + rows * (rows + 1) / 2;
    double rebuild = 2 * heads * lora * (p->qk_nope_head_dim + p->v_head_dim);
    double dots = 2 * heads * (p->qk_nope_head_dim + p->qk_rope_head_dim + p->v_head_dim) * pairs;
    cu_mode shared = c->s->x->b->tile_rows > 1 ? CU_SHARED_TILES : CU_ONE_ROW;
    side absorbed = measure(c, shared), expanded = measure(c, CU_ALL_EXPANDED);
    double a = own_us(&absorbed, &expanded), e = own_us(&expanded, &absorbed);
    print(c, "absorbed", a, 2 * heads * (2 * lora + p->qk_rope_head_dim) * pairs + rebuild * rows);
    for (uint32_t i = 0; i < expanded.n; i++) {
        if (strcmp(expanded.name[i], "flash_expand") == 0)
            print(c, "expand", expanded.us[i], rebuild * context);
        if (strcmp(expanded.name[i], "flash_attend") == 0) print(c, "attend", expanded.us[i], dots);
    }
    print(c, "expanded", e, dots + rebuild * context);
    return e < a;
}

/* Times chunks on both sides of the crossover, and tells the length from which expanding was
 * faster. */
void kb_prefills(kb_sites *s, const kb_probes *probes, bool small) {
    static const uint32_t chunks[] = {64, 96, 112, 128, 192, 256, 512}, contexts[] = {1024, 4096};
    cu_backend *b = s->x->b;
    uint32_t built = b->flash.rows, times = s->times, positions = b->opts.max_positions;
    uint32_t most = b->opts.max_launch, replays = s->replays;
    s->sets->n_desc = 0;      /* the backend's own */
    s->times = small ? 1 : 8; /* milliseconds each */
    s->replays = small ? 1 : 3;
    for (size_t k = 0; k < ARRAY_LEN(contexts); k++) {
        uint32_t context = small ? 100 + 100 * (uint32_t)k : contexts[k], from = 0;
        b->opts.max_positions = context;
        for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
            chunk c = {s, probes, small ? most - (uint32_t)(i % 2) : chunks[i], context};
            if (c.rows > most || (small && i == 2)) break;
            if (!prefill(&c)) from = 0;
            else if (from == 0) from = c.rows;
        }
        printf(",\n{\"kernel\":\"prefill_crossover\",\"context\":%u,\"measured\":%u,\"built\":%u}",
               context, from, built);
        fflush(stdout);
    }
    b->flash.rows = built;
    b->opts.max_positions = positions;
    s->times = times;
    s->replays = replays;
}

/* prefill.c - prompts in the kernel benchmark: a chunk at the end of its context, absorbed and over
 * expanded keys, to find the length from which one overtakes the other. */
#include "base/size.h"
#include "bench/tools/cuda/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    kb_sites *sites;
    const kb_probes *probes;
    uint32_t rows, context;
} prompt_chunk;

typedef struct {
    const char *name[KB_SITES];
    double us[KB_SITES];
    uint32_t n_kernels;
} chunk_side;

/* One launch of the chunk's rows, to fill the descriptor and the working memory. */
static void run_chunk(const prompt_chunk *chunk, uint32_t crossover) {
    kb_rig *rig = chunk->sites->rig;
    uint32_t blocks = (chunk->context + ENG_BLOCK - 1) / ENG_BLOCK;
    eng_row *row = array_new(chunk->rows, sizeof *row);
    uint32_t *table = array_new(blocks, sizeof *table);
    if (row == NULL || table == NULL) kb_fail("out of memory");
    for (uint32_t i = 0; i < blocks; i++)
        table[i] = i % rig->used_blocks;
    for (uint32_t i = 0; i < chunk->rows; i++) {
        row[i] = rig->row[i];
        row[i].pos = chunk->context - chunk->rows + i;
        row[i].loop = 0;
        row[i].blocks = table;
        row[i].flags = 0;
    }
    rig->cuda->flash.rows = crossover;
    (void)kb_run_rows(rig, ENG_STAGE_RECURRENT, row, chunk->rows, NULL, 0);
    free(row);
    free(table);
}

static chunk_side measure(const prompt_chunk *chunk, cu_mode mode) {
    kb_sites *sites = chunk->sites;
    cu_backend *cuda = sites->rig->cuda;
    chunk_side out = {.n_kernels = 0};
    run_chunk(chunk, mode == CU_ALL_EXPANDED ? chunk->rows : UINT32_MAX);
    uint32_t capacity = cuda->bucket[eng__cuda_bucket(cuda, chunk->rows)];
    kb_capture(sites, ENG_STAGE_RECURRENT, capacity, (cu_path){mode, 1}, false);
    for (uint32_t i = 1; i < sites->n_sites; i++) { /* not begin: it writes the descriptor */
        out.name[out.n_kernels] = sites->site[i].name;
        out.us[out.n_kernels++] = kb_time(sites, &sites->site[i], false).median;
    }
    kb_forget(sites);
    return out;
}

static bool has(const chunk_side *side, const char *name) {
    for (uint32_t i = 0; i < side->n_kernels; i++) {
        if (strcmp(side->name[i], name) == 0) return true;
    }
    return false;
}

/* Time of the kernels missing on the other side. */
static double own_us(const chunk_side *side, const chunk_side *other) {
    double us = 0;
    for (uint32_t i = 0; i < side->n_kernels; i++)
        us += has(other, side->name[i]) ? 0 : side->us[i];
    return us;
}

static void print(const prompt_chunk *chunk, const char *name, double us, double flop) {
    printf(",\n{\"kernel\":\"prefill_%s\",\"rows\":%u,\"context\":%u,\"us\":%.2f,\"gflop\":%.3f,"
           "\"percent_of_matrix_probe\":%.1f}",
           name, chunk->rows, chunk->context, us, flop * 1e-9,
           100 * flop / us * 1e-6 / chunk->probes->matrix_tflop_s.best);
    fflush(stdout);
}

/* True if the expanded side is the faster one. */
static bool prefill(const prompt_chunk *chunk) {
    const model_plan *plan = &chunk->sites->rig->plan;
    double rows = chunk->rows, context = chunk->context, heads = plan->n_heads,
           lora = plan->kv_lora_rank;
    double pairs = rows * (context - rows) + rows * (rows + 1) / 2;
    double rebuild = 2 * heads * lora * (plan->qk_nope_head_dim + plan->v_head_dim);
    double dots =
        2 * heads * (plan->qk_nope_head_dim + plan->qk_rope_head_dim + plan->v_head_dim) * pairs;
    cu_mode shared = chunk->sites->rig->cuda->tile_rows > 1 ? CU_SHARED_TILES : CU_ONE_ROW;
    chunk_side absorbed = measure(chunk, shared), expanded = measure(chunk, CU_ALL_EXPANDED);
    double absorbed_us = own_us(&absorbed, &expanded), expanded_us = own_us(&expanded, &absorbed);
    print(chunk, "absorbed", absorbed_us,
          2 * heads * (2 * lora + plan->qk_rope_head_dim) * pairs + rebuild * rows);
    for (uint32_t i = 0; i < expanded.n_kernels; i++) {
        if (strcmp(expanded.name[i], "flash_expand") == 0)
            print(chunk, "expand", expanded.us[i], rebuild * context);
        if (strcmp(expanded.name[i], "flash_attend") == 0)
            print(chunk, "attend", expanded.us[i], dots);
    }
    print(chunk, "expanded", expanded_us, dots + rebuild * context);
    return expanded_us < absorbed_us;
}

/* Times chunks on both sides of the crossover, and tells the length from which expanding was
 * faster. */
void kb_prefills(kb_sites *sites, const kb_probes *probes, bool small) {
    static const uint32_t chunks[] = {64, 96, 112, 128, 192, 256, 512}, contexts[] = {1024, 4096};
    cu_backend *cuda = sites->rig->cuda;
    uint32_t built = cuda->flash.rows, times = sites->times, positions = cuda->opts.max_positions;
    uint32_t most = cuda->opts.max_launch, replays = sites->replays;
    sites->sets->n_desc = 0;      /* the backend's own */
    sites->times = small ? 1 : 8; /* milliseconds each */
    sites->replays = small ? 1 : 3;
    for (size_t k = 0; k < ARRAY_LEN(contexts); k++) {
        uint32_t context = small ? KB_SMALL_PROMPT / 2 * ((uint32_t)k + 1) : contexts[k], from = 0;
        cuda->opts.max_positions = context;
        for (size_t i = 0; i < ARRAY_LEN(chunks); i++) {
            prompt_chunk chunk = {sites, probes, small ? most - (uint32_t)(i % 2) : chunks[i],
                                  context};
            if (chunk.rows > most || (small && i == 2)) break;
            if (!prefill(&chunk)) from = 0;
            else if (from == 0) from = chunk.rows;
        }
        printf(",\n{\"kernel\":\"prefill_crossover\",\"context\":%u,\"measured\":%u,\"built\":%u}",
               context, from, built);
        fflush(stdout);
    }
    cuda->flash.rows = built;
    cuda->opts.max_positions = positions;
    sites->times = times;
    sites->replays = replays;
}

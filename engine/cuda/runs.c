/* runs.c - chooses the rows of a launch for attention over expanded keys (flash.cu), and cuts their
 * contexts into pieces for the scratch.
 *
 * A run is all rows next to each other that may share keys. It is expanded or not by its own number
 * of queries alone, so other sequences never change a row's bits; pieces and passes do depend on
 * the whole launch, and change no bit. */
#include "engine/cuda/cuda_internal.h"

#include <string.h>

enum { SCRATCH_BYTES = 64 << 20 };

bool eng__cuda_shares_keys(eng_stage stage, const eng_row *before, const eng_row *row) {
    return before->blocks == row->blocks && before->pos < row->pos &&
           (stage != ENG_STAGE_RECURRENT || before->loop == row->loop);
}

static uint32_t tiles_of(uint32_t rows) {
    return (rows + CU_FLASH_QUERIES - 1) / CU_FLASH_QUERIES;
}

uint32_t eng__cuda_flash_tiles(const cu_backend *cuda, uint32_t rows) {
    return rows / CU_FLASH_QUERIES + rows / cuda->flash.rows;
}

void eng__cuda_size_runs(cu_backend *cuda, uint32_t crossover, uint32_t keys, uint64_t key_bytes) {
    cu_flash_plan *flash = &cuda->flash;
    *flash = (cu_flash_plan){.rows = crossover < 2 ? 2 : crossover};
    if (flash->rows > cuda->opts.max_launch) return;
    uint64_t context = cu_round(cuda->opts.max_positions, CU_FLASH_KEYS);
    flash->max_runs = cuda->opts.max_launch / flash->rows;
    uint64_t fit = SCRATCH_BYTES / key_bytes / CU_FLASH_KEYS * CU_FLASH_KEYS;
    if (keys) fit = keys;
    if (fit > context * flash->max_runs) fit = context * flash->max_runs;
    if (fit < CU_FLASH_KEYS) fit = CU_FLASH_KEYS;
    flash->keys = (uint32_t)fit;
    flash->max_passes = (uint32_t)((context * flash->max_runs + fit - 1) / fit);
    flash->max_pieces = flash->max_runs + flash->max_passes;
}

size_t eng__cuda_runs_bytes(const cu_backend *cuda) {
    return cuda->flash.max_runs * sizeof(cu_run) + cuda->flash.max_pieces * sizeof(cu_piece) +
           cuda->flash.max_passes * sizeof(cu_pass);
}

/* Filled by put_runs. */
typedef struct {
    cu_run *runs;
    cu_piece *pieces;
    cu_pass *passes;
    uint32_t n_runs, n_pieces, n_passes;
    uint32_t used, tiles; /* of the last pass: scratch keys, thread blocks */
} run_plan;

/* The context of one run, in as many pieces as the passes' room asks for. */
static void put_pieces(const cu_backend *cuda, run_plan *plan, uint32_t run, uint32_t keys,
                       uint32_t tiles) {
    for (uint32_t key = 0; key < keys;) {
        uint32_t room = cuda->flash.keys - plan->used;
        if (plan->n_passes == 0 || room == 0) {
            plan->passes[plan->n_passes++] = (cu_pass){.first = plan->n_pieces};
            plan->used = plan->tiles = 0;
            room = cuda->flash.keys;
        }
        uint32_t n = keys - key < room ? keys - key : room;
        plan->pieces[plan->n_pieces++] = (cu_piece){.run = run,
                                                    .key = key,
                                                    .n_keys = n,
                                                    .at = plan->used,
                                                    .tile = plan->tiles,
                                                    .n_tiles = tiles};
        plan->passes[plan->n_passes - 1].n++;
        plan->used += cu_round(n, CU_FLASH_KEYS);
        plan->tiles += tiles;
        key += n;
    }
}

/* A row not certain to be a tail may have a query. In a core of several layers every row has one,
 * in all layers but the last. */
static bool writes_only(const cu_backend *cuda, const cu_row *row) {
    bool open = row->flags & CU_ROW_OR_TAIL && !(row->flags & CU_ROW_TAIL);
    return cuda->plan.n_core == 1 && row->flags & CU_ROW_KV_ONLY && !open;
}

size_t eng__cuda_put_runs(const cu_backend *cuda, const eng_launch *launch, uint8_t *desc,
                          size_t at, bool *all) {
    cu_head *head = (cu_head *)(void *)desc;
    cu_row *rows = (cu_row *)(void *)(desc + head->rows);
    run_plan plan = {0};
    uint32_t expanded = 0;
    *all = false;
    if (cuda->flash.max_runs == 0) return at;
    head->runs = (uint32_t)at;
    head->pieces = head->runs + cuda->flash.max_runs * (uint32_t)sizeof(cu_run);
    head->passes = head->pieces + cuda->flash.max_pieces * (uint32_t)sizeof(cu_piece);
    plan.runs = (cu_run *)(void *)(desc + head->runs);
    plan.pieces = (cu_piece *)(void *)(desc + head->pieces);
    plan.passes = (cu_pass *)(void *)(desc + head->passes);
    for (uint32_t i = 0, n; i < launch->n_rows; i += n) {
        uint32_t queries = 0;
        for (n = 0; i + n < launch->n_rows; n++) {
            if (n && !eng__cuda_shares_keys(launch->stage, &launch->rows[i + n - 1],
                                            &launch->rows[i + n]))
                break;
            queries += !writes_only(cuda, &rows[i + n]);
        }
        if (queries < cuda->flash.rows) continue;
        for (uint32_t k = i; k < i + n; k++)
            rows[k].flags |= CU_ROW_EXPANDED;
        put_pieces(cuda, &plan, plan.n_runs, rows[i + n - 1].pos + 1, tiles_of(n));
        plan.runs[plan.n_runs++] = (cu_run){.first = i, .n = n};
        expanded += n;
    }
    if (plan.n_runs == 0) return at;
    head->n_runs = plan.n_runs;
    head->n_pieces = plan.n_pieces;
    head->n_passes = plan.n_passes;
    *all = expanded == launch->n_rows;
    return head->passes + plan.n_passes * sizeof(cu_pass);
}

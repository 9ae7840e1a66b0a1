/* runs.c - which rows of a launch are attended to over expanded keys (flash.cu), and in what
 * pieces their contexts go through the scratch.
 *
 * A run is all rows next to each other that may share keys. Whether it is expanded depends on
 * its own number of queries alone, so that other sequences never change a row's bits; pieces
 * and passes do depend on the whole launch, and change no bit. */
#include "engine/cuda/cuda_internal.h"

#include <string.h>

enum { SCRATCH_BYTES = 64 << 20 };

bool eng__cuda_shares_keys(eng_stage stage, const eng_row *before, const eng_row *r) {
    return before->blocks == r->blocks && before->pos < r->pos &&
           (stage != ENG_STAGE_RECURRENT || before->loop == r->loop);
}

static uint32_t tiles_of(uint32_t rows) {
    return (rows + CU_FLASH_QUERIES - 1) / CU_FLASH_QUERIES;
}

uint32_t eng__cuda_flash_tiles(const cu_backend *b, uint32_t rows) {
    return rows / CU_FLASH_QUERIES + rows / b->flash.rows;
}

void eng__cuda_size_runs(cu_backend *b, uint32_t crossover, uint32_t keys, uint64_t key_bytes) {
    cu_flash_plan *f = &b->flash;
    *f = (cu_flash_plan){.rows = crossover < 2 ? 2 : crossover};
    if (f->rows > b->opts.max_launch) return;
    uint64_t context = cu_round(b->opts.max_positions, CU_FLASH_KEYS);
    f->max_runs = b->opts.max_launch / f->rows;
    uint64_t fit = SCRATCH_BYTES / key_bytes / CU_FLASH_KEYS * CU_FLASH_KEYS;
    if (keys) fit = keys;
    if (fit > context * f->max_runs) fit = context * f->max_runs;
    if (fit < CU_FLASH_KEYS) fit = CU_FLASH_KEYS;
    f->keys = (uint32_t)fit;
    f->max_passes = (uint32_t)((context * f->max_runs + fit - 1) / fit);
    f->max_pieces = f->max_runs + f->max_passes;
}

size_t eng__cuda_runs_bytes(const cu_backend *b) {
    return b->flash.max_runs * sizeof(cu_run) + b->flash.max_pieces * sizeof(cu_piece) +
           b->flash.max_passes * sizeof(cu_pass);
}

/* What put_runs fills. */
typedef struct {
    cu_run *runs;
    cu_piece *pieces;
    cu_pass *passes;
    uint32_t n_runs, n_pieces, n_passes;
    uint32_t used, tiles; /* of the last pass: scratch keys, thread blocks */
} plan;

/* The context of one run, in as many pieces as the passes' room asks for. */
static void put_pieces(const cu_backend *b, plan *p, uint32_t run, uint32_t keys, uint32_t tiles) {
    for (uint32_t key = 0; key < keys;) {
        uint32_t room = b->flash.keys - p->used;
        if (p->n_passes == 0 || room == 0) {
            p->passes[p->n_passes++] = (cu_pass){.first = p->n_pieces};
            p->used = p->tiles = 0;
            room = b->flash.keys;
        }
        uint32_t n = keys - key < room ? keys - key : room;
        p->pieces[p->n_pieces++] = (cu_piece){
            .run = run, .key = key, .n_keys = n, .at = p->used, .tile = p->tiles, .n_tiles = tiles};
        p->passes[p->n_passes - 1].n++;
        p->used += cu_round(n, CU_FLASH_KEYS);
        p->tiles += tiles;
        key += n;
    }
}

/* A row that may turn out not to be a tail may have a query, and in a core of several layers every
 * row has, in all but the last. */
static bool writes_only(const cu_backend *b, const cu_row *r) {
    bool open = r->flags & CU_ROW_OR_TAIL && !(r->flags & CU_ROW_TAIL);
    return b->plan.n_core == 1 && r->flags & CU_ROW_KV_ONLY && !open;
}

size_t eng__cuda_put_runs(const cu_backend *b, const eng_launch *l, uint8_t *desc, size_t at,
                          bool *all) {
    cu_head *h = (cu_head *)(void *)desc;
    cu_row *rows = (cu_row *)(void *)(desc + h->rows);
    plan p = {0};
    uint32_t expanded = 0;
    *all = false;
    if (b->flash.max_runs == 0) return at;
    h->runs = (uint32_t)at;
    h->pieces = h->runs + b->flash.max_runs * (uint32_t)sizeof(cu_run);
    h->passes = h->pieces + b->flash.max_pieces * (uint32_t)sizeof(cu_piece);
    p.runs = (cu_run *)(void *)(desc + h->runs);
    p.pieces = (cu_piece *)(void *)(desc + h->pieces);
    p.passes = (cu_pass *)(void *)(desc + h->passes);
    for (uint32_t i = 0, n; i < l->n_rows; i += n) {
        uint32_t queries = 0;
        for (n = 0; i + n < l->n_rows; n++) {
            if (n && !eng__cuda_shares_keys(l->stage, &l->rows[i + n - 1], &l->rows[i + n])) break;
            queries += !writes_only(b, &rows[i + n]);
        }
        if (queries < b->flash.rows) continue;
        for (uint32_t k = i; k < i + n; k++)
            rows[k].flags |= CU_ROW_EXPANDED;
        put_pieces(b, &p, p.n_runs, rows[i + n - 1].pos + 1, tiles_of(n));
        p.runs[p.n_runs++] = (cu_run){.first = i, .n = n};
        expanded += n;
    }
    if (p.n_runs == 0) return at;
    h->n_runs = p.n_runs;
    h->n_pieces = p.n_pieces;
    h->n_passes = p.n_passes;
    *all = expanded == l->n_rows;
    return h->passes + p.n_passes * sizeof(cu_pass);
}

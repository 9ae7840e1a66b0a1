/* launch.c - one launch: packs its descriptor, starts the captured graphs, hands out results.
 *
 * The host never looks at the device between `launch` and `wait`; `wait` blocks on one event. */
#include "engine/cuda/cuda_internal.h"

#include <stdlib.h>
#include <string.h>

int eng__cuda_check(cu_backend *b, cudaError_t rc, const char *what, err *e) {
    if (rc == cudaSuccess) return 0;
    b->lost = true;
    return err_set(e, ERR_DEVICE, NULL, "%s: %s failed: %s", b->device_name, what,
                   cudaGetErrorString(rc));
}

/* Index of the smallest capacity that holds `rows`. */
uint32_t eng__cuda_bucket(const cu_backend *b, uint32_t rows) {
    uint32_t i = 0;
    while (i + 1 < b->n_buckets && b->bucket[i] < rows)
        i++;
    return i;
}

/* ---- the descriptor ---- */

static cu_head *head_at(cu_backend *b) {
    return (cu_head *)(void *)b->desc_host;
}
static cu_row *rows_at(cu_backend *b) {
    return (cu_row *)(void *)(b->desc_host + head_at(b)->rows);
}

static bool row_fits(cu_backend *b, const eng_row *r, eng_stage stage) {
    if (r->row >= b->opts.n_rows || r->pos >= b->opts.max_positions || r->blocks == NULL)
        return false;
    if (b->stamp[r->row] == b->stamp_now) return false; /* twice in one launch */
    b->stamp[r->row] = b->stamp_now;
    if (stage == ENG_STAGE_PRELUDE && r->token >= b->c.vocab_size) return false;
    return stage != ENG_STAGE_RECURRENT || r->loop < b->opts.max_loops;
}

/* Appends the entries of r's block table that are not there yet; rows that follow each other in
 * one sequence share them. False if a block is out of range. */
static bool put_table(cu_backend *b, const eng_row *r, const eng_row *before, uint32_t *tables,
                      uint32_t *start, uint32_t *n) {
    uint32_t want = r->pos / ENG_BLOCK + 1;
    if (before == NULL || before->blocks != r->blocks) *start = *n;
    for (uint32_t i = *n - *start; i < want; i++) {
        if (r->blocks[i] >= b->cache.n_blocks || *n >= b->table_cap) return false;
        tables[(*n)++] = r->blocks[i];
    }
    return true;
}

/* Attention tiles: rows next to each other with one table and loop, positions rising. */
static uint32_t put_tiles(const cu_backend *b, const eng_launch *l, cu_tile *tiles, bool *multi) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->n_rows; i++) {
        const eng_row *r = &l->rows[i], *p = r - 1;
        bool joins = n && tiles[n - 1].n < b->tile_rows && p->blocks == r->blocks &&
                     p->pos < r->pos && (l->stage != ENG_STAGE_RECURRENT || p->loop == r->loop);
        if (joins) tiles[n - 1].n++, *multi = true;
        else tiles[n++] = (cu_tile){.first = i, .n = 1};
    }
    return n;
}

static int put_rows(cu_backend *b, const eng_launch *l, uint32_t *tables, uint32_t *n_tables,
                    err *e) {
    cu_row *to = rows_at(b);
    uint32_t start = 0, n_logits = 0;
    if (++b->stamp_now == 0) { /* wrapped: old stamps must not match */
        memset(b->stamp, 0, b->opts.n_rows * sizeof *b->stamp);
        b->stamp_now = 1;
    }
    for (uint32_t i = 0; i < l->n_rows; i++) {
        const eng_row *r = &l->rows[i];
        if (!row_fits(b, r, l->stage) ||
            !put_table(b, r, i ? r - 1 : NULL, tables, &start, n_tables)) {
            return err_set(e, ERR_INTERNAL, NULL, "row %u of the launch is out of range", i);
        }
        bool logits = l->stage == ENG_STAGE_CODA && (r->flags & ENG_ROW_LOGITS);
        bool loops = l->stage == ENG_STAGE_RECURRENT;
        to[i] = (cu_row){.row = r->row,
                         .pos = r->pos,
                         .table = start,
                         .token = l->stage == ENG_STAGE_PRELUDE ? r->token : 0,
                         .logits = logits ? n_logits : CU_NO_LOGITS,
                         .loop = loops ? r->loop : 0,
                         .min_loops = r->min_loops,
                         .max_loops = r->max_loops,
                         .flags = loops ? r->flags & (CU_ROW_TAIL | CU_ROW_KV_ONLY) : 0,
                         .threshold = r->threshold};
        n_logits += logits;
    }
    if (n_logits > b->opts.max_logits) {
        return err_set(e, ERR_INTERNAL, NULL, "%u rows ask for logits; at most %u may", n_logits,
                       b->opts.max_logits);
    }
    head_at(b)->n_logits = n_logits;
    return 0;
}

static int put_edits(cu_backend *b, const eng_edit *edits, uint32_t n, cu_edit *to, err *e) {
    for (uint32_t i = 0; i < n; i++) {
        const eng_edit *d = &edits[i];
        if (d->block >= b->cache.n_blocks || d->off >= ENG_BLOCK ||
            (uint32_t)d->plane + d->n_planes > b->cache.n_planes ||
            (d->slot >= b->cache.n_slots && d->slot != ENG_NO_SLOT)) {
            return err_set(e, ERR_INTERNAL, NULL, "cache edit %u is out of range", i);
        }
        to[i] = (cu_edit){.block = d->block,
                          .slot = d->slot,
                          .plane = d->plane,
                          .n_planes = d->n_planes,
                          .off = d->off};
    }
    return 0;
}

static int send(cu_backend *b, size_t bytes, err *e) {
    return eng__cuda_check(
        b, cudaMemcpyAsync(b->desc, b->desc_host, bytes, cudaMemcpyHostToDevice, b->stream),
        "sending a launch", e);
}

/* Edits beyond what one descriptor holds go ahead; rare, so it may wait for each batch. */
static int edits_ahead(cu_backend *b, const eng_launch *l, uint32_t *done, err *e) {
    while (l->n_edits - *done > CU_EDITS) {
        cu_head *h = head_at(b);
        *h = (cu_head){.n_edits = CU_EDITS, .edits = sizeof *h, .rows = sizeof *h};
        if (put_edits(b, l->edits + *done, CU_EDITS, (cu_edit *)(void *)(h + 1), e) != 0 ||
            send(b, sizeof *h + CU_EDITS * sizeof(cu_edit), e) != 0 ||
            eng__cuda_check(b, cu_edit_maps(b->stream, b->desc, &b->cache), "editing the cache map",
                            e) != 0 ||
            eng__cuda_check(b, cudaStreamSynchronize(b->stream), "editing the cache map", e) != 0) {
            return -1;
        }
        *done += CU_EDITS;
    }
    return 0;
}

/* Builds the descriptor in pinned memory; *bytes = its length. */
static int pack(cu_backend *b, const eng_launch *l, uint32_t edits_done, size_t *bytes, bool *multi,
                err *e) {
    cu_head *h = head_at(b);
    uint32_t n_edits = l->n_edits - edits_done, n_tables = 0;
    *h = (cu_head){.n_rows = l->n_rows, .n_edits = n_edits, .rows = sizeof *h};
    h->tiles = h->rows + l->n_rows * (uint32_t)sizeof(cu_row);
    h->edits = h->tiles + l->n_rows * (uint32_t)sizeof(cu_tile);
    h->tables = h->edits + n_edits * (uint32_t)sizeof(cu_edit);
    uint32_t *tables = (uint32_t *)(void *)(b->desc_host + h->tables);
    h->n_tiles = put_tiles(b, l, (cu_tile *)(void *)(b->desc_host + h->tiles), multi);
    if (put_rows(b, l, tables, &n_tables, e) != 0) return -1;
    *bytes = h->tables + n_tables * sizeof(uint32_t);
    return n_edits ? put_edits(b, l->edits + edits_done, n_edits,
                               (cu_edit *)(void *)(b->desc_host + h->edits), e)
                   : 0;
}

/* ---- starting and waiting ---- */

static cudaError_t run_stage(cu_backend *b, eng_stage stage, bool multi) {
    uint32_t i = eng__cuda_bucket(b, b->n_rows);
    cudaGraphExec_t g = b->graph[stage][i][multi];
    cudaError_t rc =
        g ? cudaGraphLaunch(g, b->stream) : eng__cuda_stage(b, stage, b->bucket[i], multi);
    if (rc != cudaSuccess || b->n_logits == 0) return rc;
    i = eng__cuda_bucket(b, b->n_logits);
    uint32_t rows = b->bucket[i] < b->opts.max_logits ? b->bucket[i] : b->opts.max_logits;
    return b->head_graph[i] ? cudaGraphLaunch(b->head_graph[i], b->stream)
                            : eng__cuda_head(b, rows);
}

/* What comes back: the flag of a bad map, halting flags behind it, logits if asked for. */
static cudaError_t fetch(cu_backend *b) {
    size_t flags = 16 + (b->stage == ENG_STAGE_RECURRENT ? b->n_rows : 0);
    cudaError_t rc =
        cudaMemcpyAsync(b->halted_host, b->cache.bad, flags, cudaMemcpyDeviceToHost, b->stream);
    if (rc != cudaSuccess || b->n_logits == 0) return rc;
    return cudaMemcpyAsync(b->logits_host, b->s.logits,
                           (size_t)b->n_logits * b->c.vocab_size * sizeof(float),
                           cudaMemcpyDeviceToHost, b->stream);
}

static int cuda_launch(eng_backend *base, const eng_launch *l, err *e) {
    cu_backend *b = (cu_backend *)base;
    uint32_t edits_done = 0;
    size_t bytes = 0;
    bool multi = false;
    if (b->lost) return err_set(e, ERR_DEVICE, NULL, "%s was lost", b->device_name);
    b->flying = false;
    b->n_rows = b->n_logits = 0;
    if (l->n_rows > b->opts.max_launch) {
        return err_set(e, ERR_INTERNAL, NULL, "%u rows in a launch of at most %u", l->n_rows,
                       b->opts.max_launch);
    }
    if (edits_ahead(b, l, &edits_done, e) != 0 || pack(b, l, edits_done, &bytes, &multi, e) != 0) {
        return -1;
    }
    b->n_rows = l->n_rows;
    b->n_logits = head_at(b)->n_logits;
    b->stage = l->stage;
    if (eng__cuda_check(b, cudaEventRecord(b->began, b->stream), "timing", e) != 0 ||
        send(b, bytes, e) != 0) {
        return -1;
    }
    cudaError_t rc =
        l->n_rows ? run_stage(b, l->stage, multi) : cu_edit_maps(b->stream, b->desc, &b->cache);
    if (rc == cudaSuccess) rc = fetch(b);
    if (rc == cudaSuccess) rc = cudaEventRecord(b->ended, b->stream);
    b->flying = true;
    return eng__cuda_check(b, rc, "a launch", e);
}

static int cuda_wait(eng_backend *base, eng_result *r, err *e) {
    cu_backend *b = (cu_backend *)base;
    float ms = 0.0f;
    uint32_t bad;
    *r = (eng_result){0};
    if (b->lost || !b->flying) {
        return err_set(e, b->lost ? ERR_DEVICE : ERR_INTERNAL, NULL, "no launch is in flight");
    }
    b->flying = false;
    if (eng__cuda_check(b, cudaEventSynchronize(b->ended), "a launch", e) != 0 ||
        eng__cuda_check(b, cudaEventElapsedTime(&ms, b->began, b->ended), "timing", e) != 0) {
        return -1;
    }
    memcpy(&bad, b->halted_host, sizeof bad);
    if (bad) return err_set(e, ERR_INTERNAL, NULL, "a row's cache map names no slot");
    if (b->stage != ENG_STAGE_RECURRENT) memset(b->halted_host + 16, 0, b->n_rows);
    *r = (eng_result){.halted = b->halted_host + 16,
                      .logits = b->logits_host,
                      .n_logits = b->n_logits,
                      .ns = (uint64_t)((double)ms * 1e6)};
    return 0;
}

static void cuda_close(eng_backend *base) {
    cu_backend *b = (cu_backend *)base;
    if (b->stream) (void)cudaStreamSynchronize(b->stream);
    for (uint32_t i = 0; i < CU_BUCKETS; i++) {
        for (int s = 0; s < CU_STAGES; s++) {
            for (int m = 0; m < 2; m++) {
                if (b->graph[s][i][m]) (void)cudaGraphExecDestroy(b->graph[s][i][m]);
            }
        }
        if (b->head_graph[i]) (void)cudaGraphExecDestroy(b->head_graph[i]);
    }
    if (b->blas) (void)cublasDestroy(b->blas);
    for (uint32_t i = 0; i < b->mem.n; i++)
        (void)cudaFree(b->mem.items[i]);
    free(b->mem.items);
    if (b->desc_host) (void)cudaFreeHost(b->desc_host);
    if (b->halted_host) (void)cudaFreeHost(b->halted_host);
    if (b->logits_host) (void)cudaFreeHost(b->logits_host);
    if (b->began) (void)cudaEventDestroy(b->began);
    if (b->ended) (void)cudaEventDestroy(b->ended);
    if (b->stream) (void)cudaStreamDestroy(b->stream);
    free(b->stamp);
    free(b->prelude);
    free(b->coda);
    free(b);
}

const eng_backend_ops eng__cuda_ops = {
    .launch = cuda_launch, .wait = cuda_wait, .close = cuda_close};

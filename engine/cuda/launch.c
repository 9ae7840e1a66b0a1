/* launch.c - one launch: packs its descriptor, starts the captured graphs, hands out results.
 * The descriptor is copied to the device beside the launch before; the first kernel takes it from
 * there (ahead.cu).
 *
 * `launch` copies what it is given and queues: it never waits for the device (but see
 * edits_ahead). `wait` blocks on the event of the oldest launch, and on nothing behind it. */
#include "engine/cuda/cuda_internal.h"
#include "engine/rowmath.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(cu_choice) == sizeof(eng_choice) &&
                   offsetof(cu_choice, top) == offsetof(eng_choice, top) &&
                   (int)CU_MAX_TOP == ENG_MAX_TOP,
               "a kernel writes what the caller reads");

/* Index of the smallest capacity that holds `rows`. */
uint32_t eng__cuda_bucket(const cu_backend *b, uint32_t rows) {
    uint32_t i = 0;
    while (i + 1 < b->n_buckets && b->bucket[i] < rows)
        i++;
    return i;
}

/* ---- the descriptor ---- */

static cu_head *head_at(cu_flight *f) {
    return (cu_head *)(void *)f->desc;
}
static cu_row *rows_at(cu_flight *f) {
    return (cu_row *)(void *)(f->desc + head_at(f)->rows);
}
/* Where the next launch goes. */
static cu_flight *free_flight(cu_backend *b) {
    return &b->flight[(b->oldest + b->n_flying) % CU_FLIGHTS];
}

/* Appends the entries of r's block table that are not there yet; rows that follow each other in
 * one sequence share them. */
static void put_table(const eng_row *r, const eng_row *before, uint32_t *tables, uint32_t *start,
                      uint32_t *n) {
    uint32_t want = r->pos / ENG_BLOCK + 1;
    if (before == NULL || before->blocks != r->blocks) *start = *n;
    for (uint32_t i = *n - *start; i < want; i++)
        tables[(*n)++] = r->blocks[i];
}

/* Attention tiles: rows next to each other with one table and loop, positions rising. */
static uint32_t put_tiles(const cu_backend *b, const eng_launch *l, cu_tile *tiles, bool *multi) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->n_rows; i++) {
        const eng_row *r = &l->rows[i];
        bool joins =
            n && tiles[n - 1].n < b->tile_rows && eng__cuda_shares_keys(l->stage, r - 1, r);
        if (joins) tiles[n - 1].n++, *multi = true;
        else tiles[n++] = (cu_tile){.first = i, .n = 1};
    }
    return n;
}

enum {
    FLAGS_ASK = CU_ROW_GUARDED | CU_ROW_OR_TAIL, /* what an earlier launch did */
    FLAGS_SENT = CU_ROW_TAIL | CU_ROW_KV_ONLY | FLAGS_ASK,
};

static void put_rows(cu_flight *f, const eng_launch *l, uint32_t *tables, uint32_t *n_tables) {
    cu_row *to = rows_at(f);
    uint32_t start = 0, asks = 0;
    for (uint32_t i = 0; i < l->n_rows; i++) {
        const eng_row *r = &l->rows[i];
        put_table(r, i ? r - 1 : NULL, tables, &start, n_tables);
        bool loops = l->stage == ENG_STAGE_RECURRENT;
        to[i] = (cu_row){.row = r->row,
                         .pos = r->pos,
                         .table = start,
                         .token = l->stage == ENG_STAGE_PRELUDE ? r->token : 0,
                         .logits = CU_NO_LOGITS,
                         .loop = loops ? r->loop : 0,
                         .min_loops = r->min_loops,
                         .max_loops = r->max_loops,
                         .flags = loops ? r->flags & FLAGS_SENT : 0,
                         .threshold = r->threshold,
                         .guard = r->guard,
                         .at = i};
        asks |= to[i].flags & FLAGS_ASK;
    }
    head_at(f)->ahead = asks != 0;
}

static bool draw_fits(const eng_draw *d) {
    if (d == NULL || d->sampling == NULL || d->n_top > ENG_MAX_TOP) return false;
    const eng_sampling *p = d->sampling;
    return eng_sampling_is_plain(p) && p->temperature >= 0 && p->temperature <= 1e6f &&
           p->top_p >= 0 && p->top_p <= 1 && p->min_p >= 0 && p->min_p <= 1;
}

static int check_draws(const eng_launch *l, err *e) {
    for (uint32_t i = 0; l->stage == ENG_STAGE_CODA && i < l->n_rows; i++) {
        if (!(l->rows[i].flags & ENG_ROW_SAMPLE) || draw_fits(l->rows[i].draw)) continue;
        return err_set(e, ERR_INTERNAL, NULL, "row %u of the launch cannot be sampled", i);
    }
    return 0;
}

/* Numbers the rows that the head runs for: first those whose logits leave the device, so that
 * they are one piece, then those that only sample. */
static void put_heads(cu_flight *f, const eng_launch *l) {
    cu_head *h = head_at(f);
    cu_row *to = rows_at(f);
    cu_draw *draws = (cu_draw *)(void *)(f->desc + h->draws);
    bool coda = l->stage == ENG_STAGE_CODA;
    uint32_t n = 0;
    h->n_draws = 0;
    for (uint32_t i = 0; coda && i < l->n_rows; i++) {
        if (l->rows[i].flags & ENG_ROW_LOGITS) to[i].logits = n++;
    }
    f->n_logits = n;
    for (uint32_t i = 0; coda && i < l->n_rows; i++) {
        const eng_draw *d = l->rows[i].draw;
        if (!(l->rows[i].flags & ENG_ROW_SAMPLE)) continue;
        if (to[i].logits == CU_NO_LOGITS) to[i].logits = n++;
        float t = d->sampling->temperature;
        draws[h->n_draws++] = (cu_draw){.seed = d->sampling->seed,
                                        .index = d->index,
                                        .scale = t < RM_GREEDY_BELOW ? 0 : 1 / t,
                                        .top_p = d->sampling->top_p,
                                        .min_p = d->sampling->min_p,
                                        .top_k = d->sampling->top_k,
                                        .n_top = d->n_top,
                                        .logits = to[i].logits};
    }
    h->n_logits = f->n_heads = n;
    f->n_choices = h->n_draws;
}

/* Whether edit d sets an entry that one before it may have set. Edits of one position mostly stand
 * together, planes rising; those that do not are taken for the same entry. It happens: a sequence
 * that is thrown out while a launch is built leaves its edits there, and its blocks to others. */
static bool edited_before(cu_backend *b, const eng_edit *d, const eng_edit *before) {
    uint32_t bit = 1u << d->off;
    if (b->edited[d->block].now != b->edits_now) {
        b->edited[d->block].now = b->edits_now;
        b->edited[d->block].offs = 0;
    }
    bool seen = b->edited[d->block].offs & bit;
    bool follows = before && before->block == d->block && before->off == d->off &&
                   d->plane >= (uint32_t)before->plane + before->n_planes;
    b->edited[d->block].offs |= bit;
    return seen && !follows;
}

static void put_edits(cu_backend *b, const eng_edit *edits, uint32_t n, cu_head *h) {
    cu_edit *to = (cu_edit *)(void *)((uint8_t *)h + h->edits);
    if (++b->edits_now == 0) { /* wrapped: old numbers must not match */
        memset(b->edited, 0, b->cache.n_blocks * sizeof *b->edited);
        b->edits_now = 1;
    }
    for (uint32_t i = 0; i < n; i++) {
        const eng_edit *d = &edits[i];
        h->in_order |= edited_before(b, d, i ? d - 1 : NULL);
        to[i] = (cu_edit){.block = d->block,
                          .slot = d->slot,
                          .plane = d->plane,
                          .n_planes = d->n_planes,
                          .off = d->off & (ENG_BLOCK - 1u),
                          .guard = (d->guarded ? d->guard : CU_NO_GUARD) & CU_NO_GUARD};
    }
}

/* The packed descriptor's way to the device, on a stream of its own: it arrives while the launch
 * before still runs. On an H100 a kernel that reads 4 KB across the bus itself takes 18 us with
 * seventeen thread blocks and 4 with one, a copy in the stream 12, this one 1.5
 * (bench/cuda/h100.md). The place it is copied to was read by the launch before the last, which has
 * ended. */
static cudaError_t send_descriptor(cu_backend *b) {
    uint32_t i = b->turn & 1;
    const cu_head *h = (const cu_head *)(const void *)b->sent[i];
    cudaError_t rc = cudaMemcpyAsync(b->came[i], h, h->bytes, cudaMemcpyHostToDevice, b->copies);
    if (rc == cudaSuccess) rc = cudaEventRecord(b->copied[i], b->copies);
    return rc == cudaSuccess ? cudaStreamWaitEvent(b->stream, b->copied[i], 0) : rc;
}

/* Edits beyond what one descriptor holds go ahead in pieces, and only such a launch waits for the
 * device: a descriptor has room for the most that rows of one launch can need. */
static int edits_ahead(cu_backend *b, const eng_launch *l, uint32_t *done, err *e) {
    while (l->n_edits - *done > b->edit_cap) {
        cu_head *h = (cu_head *)(void *)b->sent[b->turn & 1];
        uint32_t end = (uint32_t)(sizeof *h + b->edit_cap * sizeof(cu_edit));
        *h = (cu_head){.n_edits = b->edit_cap,
                       .rows = sizeof *h,
                       .tiles = sizeof *h,
                       .edits = sizeof *h,
                       .draws = end,
                       .tables = end,
                       .bytes = end};
        put_edits(b, l->edits + *done, b->edit_cap, h);
        cudaError_t rc = send_descriptor(b);
        if (rc == cudaSuccess) rc = eng__cuda_begin(b);
        if (eng__cuda_check(b, rc, "editing the cache map", e) != 0) return -1;
        b->turn++;
        if (eng__cuda_check(b, cudaStreamSynchronize(b->stream), "editing the cache map", e) != 0)
            return -1;
        *done += b->edit_cap;
    }
    return 0;
}

/* Builds the descriptor in pinned memory; *path = what it takes. */
static void pack(cu_backend *b, cu_flight *f, const eng_launch *l, uint32_t edits_done,
                 cu_path *path) {
    bool multi = false, all = false;
    f->desc = b->sent[b->turn & 1];
    cu_head *h = head_at(f);
    uint32_t n_edits = l->n_edits - edits_done, n_tables = 0, draws = 0;
    for (uint32_t i = 0; i < l->n_rows; i++)
        draws += (l->rows[i].flags & ENG_ROW_SAMPLE) != 0;
    *h = (cu_head){.n_rows = l->n_rows,
                   .n_edits = n_edits,
                   .rows = sizeof *h,
                   .bad = (uint32_t *)(void *)f->flags,
                   .halted = f->flags + CU_HALTED,
                   .choices = f->choices};
    h->tiles = h->rows + l->n_rows * (uint32_t)sizeof(cu_row);
    h->edits = cu_round(h->tiles + l->n_rows * (uint32_t)sizeof(cu_tile), 16);
    h->draws = h->edits + n_edits * (uint32_t)sizeof(cu_edit);
    h->tables = h->draws + draws * (uint32_t)sizeof(cu_draw);
    uint32_t *tables = (uint32_t *)(void *)(f->desc + h->tables);
    h->n_tiles = put_tiles(b, l, (cu_tile *)(void *)(f->desc + h->tiles), &multi);
    put_rows(f, l, tables, &n_tables);
    put_heads(f, l);
    put_edits(b, l->edits + edits_done, n_edits, h);
    uint32_t at = cu_round(h->tables + n_tables * (uint32_t)sizeof(uint32_t), 16);
    h->bytes = cu_round((uint32_t)eng__cuda_put_runs(b, l, f->desc, at, &all), 16);
    path->mode = multi ? CU_SHARED_TILES : CU_ONE_ROW;
    if (h->n_runs) path->mode = all ? CU_ALL_EXPANDED : CU_EXPANDED;
    path->passes = h->n_passes;
    memset(f->flags, 0, CU_HALTED + (size_t)l->n_rows);
    f->stage = l->stage;
    f->n_rows = l->n_rows;
}

/* ---- starting and waiting ---- */

static cudaError_t run_stage(cu_backend *b, const cu_flight *f, cu_path path) {
    if (f->n_rows == 0) return eng__cuda_begin(b);
    uint32_t i = eng__cuda_bucket(b, f->n_rows);
    if (eng__cuda_layers(b, f->stage) == 0) path = (cu_path){CU_ONE_ROW, 0}; /* no attention */
    cudaGraphExec_t g = b->graph[f->stage][i][path.mode];
    /* Long contexts take milliseconds, which hide single launches. */
    if (path.passes > 1 || !b->graphs) g = NULL;
    cudaError_t rc =
        g ? cudaGraphLaunch(g, b->stream) : eng__cuda_stage(b, f->stage, b->bucket[i], path);
    if (rc != cudaSuccess || f->n_heads == 0) return rc;
    i = eng__cuda_bucket(b, f->n_heads);
    uint32_t rows = b->bucket[i] < b->opts.max_logits ? b->bucket[i] : b->opts.max_logits;
    return b->head_graph[i] && b->graphs ? cudaGraphLaunch(b->head_graph[i], b->stream)
                                         : eng__cuda_head(b, rows);
}

/* Kernels write the flags and choices themselves; logits come with a copy. */
static cudaError_t fetch(cu_backend *b, cu_flight *f) {
    if (f->n_logits == 0) return cudaSuccess;
    return cudaMemcpyAsync(f->logits, b->work.logits,
                           (size_t)f->n_logits * b->plan.vocab_size * sizeof(float),
                           cudaMemcpyDeviceToHost, b->stream);
}

/* From where the time of a launch counts: the end of the one before, while that runs, so that no
 * event of its own comes between the two; else an event of its own, as the device has nothing to
 * do. */
static int start_clock(cu_backend *b, cu_flight *f, err *e) {
    cudaEvent_t before = b->ended[(b->n_launches + CU_FLIGHTS) % (CU_FLIGHTS + 1)];
    cudaError_t rc = b->n_flying ? cudaEventQuery(before) : cudaSuccess;
    f->ended = b->ended[b->n_launches % (CU_FLIGHTS + 1)];
    f->from = rc == cudaErrorNotReady ? before : f->began;
    if (rc == cudaErrorNotReady) return 0;
    if (rc == cudaSuccess) rc = cudaEventRecord(f->began, b->stream);
    return eng__cuda_check(b, rc, "timing", e);
}

static int cuda_launch(eng_backend *base, const eng_launch *l, err *e) {
    cu_backend *b = (cu_backend *)base;
    cu_flight *f = free_flight(b);
    uint32_t edits_done = 0;
    cu_path path = {CU_ONE_ROW, 0};
    if (b->lost) return err_set(e, ERR_DEVICE, NULL, "%s was lost", b->device_name);
    if (b->n_flying == CU_FLIGHTS) {
        return err_set(e, ERR_INTERNAL, NULL, "%d launches are in flight already", CU_FLIGHTS);
    }
    /* Everything that may refuse the launch comes before the first thing that changes the cache. */
    if (eng__check_launch(&base->info, &b->plan, &b->opts, &b->stamps, l, e) != 0 ||
        check_draws(l, e) != 0 ||
        eng__cuda_check(b, cudaSetDevice(b->device), "choosing the device", e) != 0 ||
        edits_ahead(b, l, &edits_done, e) != 0) {
        return -1;
    }
    pack(b, f, l, edits_done, &path);
    if (start_clock(b, f, e) != 0) return -1;
    cudaError_t rc = send_descriptor(b);
    if (rc == cudaSuccess) rc = run_stage(b, f, path);
    if (rc == cudaSuccess) rc = eng__cuda_clock_fetch(b, f, path);
    if (rc == cudaSuccess) rc = fetch(b, f);
    if (rc == cudaSuccess) rc = cudaEventRecord(f->ended, b->stream);
    if (rc != cudaSuccess) b->lost = true; /* a part may run, and nobody knows which */
    if (eng__cuda_check(b, rc, "starting a launch", e) != 0) return -1;
    b->n_flying++;
    b->n_launches++;
    b->turn++;
    return 0;
}

static int cuda_wait(eng_backend *base, eng_result *r, err *e) {
    cu_backend *b = (cu_backend *)base;
    cu_flight *f = &b->flight[b->oldest];
    float ms = 0.0f;
    uint32_t bad;
    *r = (eng_result){0};
    if (b->lost) return err_set(e, ERR_DEVICE, NULL, "%s was lost", b->device_name);
    if (b->n_flying == 0) return err_set(e, ERR_INTERNAL, NULL, "no launch is in flight");
    if (eng__cuda_check(b, cudaSetDevice(b->device), "choosing the device", e) != 0 ||
        eng__cuda_check(b, cudaEventSynchronize(f->ended), "a launch", e) != 0 ||
        eng__cuda_check(b, cudaEventElapsedTime(&ms, f->from, f->ended), "timing", e) != 0) {
        return -1;
    }
    b->oldest = (b->oldest + 1) % CU_FLIGHTS;
    b->n_flying--;
    eng__cuda_clock_read(b, f);
    memcpy(&bad, f->flags, sizeof bad);
    if (bad) return err_set(e, ERR_INTERNAL, NULL, "a row's cache map names no slot");
    *r = (eng_result){.halted = f->flags + CU_HALTED,
                      .logits = f->logits,
                      .n_logits = f->n_logits,
                      .choices = (const eng_choice *)f->choices,
                      .n_choices = f->n_choices,
                      .ns = (uint64_t)((double)ms * 1e6)};
    return 0;
}

static void cuda_close(eng_backend *base) {
    cu_backend *b = (cu_backend *)base;
    if (b->stream) {
        (void)cudaSetDevice(b->device);
        if (b->copies) (void)cudaStreamSynchronize(b->copies);
        (void)cudaStreamSynchronize(b->stream); /* what is in flight ends first */
    }
    for (uint32_t i = 0; i < CU_BUCKETS; i++) {
        for (int s = 0; s < CU_STAGES; s++) {
            for (int m = 0; m < CU_MODES; m++) {
                if (b->graph[s][i][m]) (void)cudaGraphExecDestroy(b->graph[s][i][m]);
            }
        }
        if (b->head_graph[i]) (void)cudaGraphExecDestroy(b->head_graph[i]);
    }
    eng__cuda_clock_close(b);
    if (b->blas) (void)cublasDestroy(b->blas);
    for (uint32_t i = 0; i < b->mem.n; i++)
        (void)cudaFree(b->mem.items[i]);
    free(b->mem.items);
    for (int i = 0; i < CU_FLIGHTS; i++) {
        cu_flight *f = &b->flight[i];
        void *pinned[] = {f->flags, f->logits, f->choices};
        for (size_t k = 0; k < ARRAY_LEN(pinned); k++) {
            if (pinned[k]) (void)cudaFreeHost(pinned[k]);
        }
        if (f->began) (void)cudaEventDestroy(f->began);
    }
    for (size_t i = 0; i < ARRAY_LEN(b->sent); i++) {
        if (b->sent[i]) (void)cudaFreeHost(b->sent[i]);
        if (b->copied[i]) (void)cudaEventDestroy(b->copied[i]);
    }
    if (b->copies) (void)cudaStreamDestroy(b->copies);
    for (size_t i = 0; i < ARRAY_LEN(b->ended); i++) {
        if (b->ended[i]) (void)cudaEventDestroy(b->ended[i]);
    }
    free(b->edited);
    if (b->stream) (void)cudaStreamDestroy(b->stream);
    free(b->stamps.last);
    free(b->prelude);
    free(b->core);
    free(b->coda);
    free(b);
}

const eng_backend_ops eng__cuda_ops = {
    .launch = cuda_launch, .wait = cuda_wait, .close = cuda_close};

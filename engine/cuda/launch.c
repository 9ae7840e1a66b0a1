/* launch.c - one launch: packs its descriptor, starts the captured graphs, hands out results.
 * The descriptor is copied to the device beside the launch before; the first kernel takes it from
 * there (ahead.cu).
 *
 * `launch` copies its input and queues: it never waits for the device (but see edits_ahead). `wait`
 * blocks on the event of the oldest launch, and on nothing behind it. */
#include "base/hash.h"
#include "engine/cuda/cuda_internal.h"
#include "engine/rowmath.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(cu_choice) == sizeof(eng_choice) &&
                   offsetof(cu_choice, top) == offsetof(eng_choice, top) &&
                   (int)CU_MAX_TOP == ENG_MAX_TOP,
               "a kernel writes what the caller reads");

/* Index of the smallest capacity for `rows`. */
uint32_t eng__cuda_bucket(const cu_backend *cuda, uint32_t rows) {
    uint32_t i = 0;
    while (i + 1 < cuda->n_buckets && cuda->bucket[i] < rows)
        i++;
    return i;
}

/* ---- the descriptor ---- */

static cu_head *head_at(cu_flight *flight) {
    return (cu_head *)(void *)flight->desc;
}
static cu_row *rows_at(cu_flight *flight) {
    return (cu_row *)(void *)(flight->desc + head_at(flight)->rows);
}
/* The flight of the next launch. */
static cu_flight *free_flight(cu_backend *cuda) {
    return &cuda->flight[(cuda->oldest + cuda->n_flying) % CU_FLIGHTS];
}

/* Appends the missing entries of row's block table; rows next to each other in one sequence share
 * them. */
static void put_table(const eng_row *row, const eng_row *before, uint32_t *tables, uint32_t *start,
                      uint32_t *n) {
    uint32_t want = row->pos / ENG_BLOCK + 1;
    if (before == NULL || before->blocks != row->blocks) *start = *n;
    for (uint32_t i = *n - *start; i < want; i++)
        tables[(*n)++] = row->blocks[i];
}

/* Attention tiles: rows next to each other with one table and loop, positions rising. */
static uint32_t put_tiles(const cu_backend *cuda, const eng_launch *launch, cu_tile *tiles,
                          bool *multi) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        const eng_row *row = &launch->rows[i];
        bool joins = n && tiles[n - 1].n < cuda->tile_rows &&
                     eng__cuda_shares_keys(launch->stage, row - 1, row);
        if (joins) tiles[n - 1].n++, *multi = true;
        else tiles[n++] = (cu_tile){.first = i, .n = 1};
    }
    return n;
}

enum {
    FLAGS_ASK = CU_ROW_GUARDED | CU_ROW_OR_TAIL, /* dependent on an earlier launch */
    FLAGS_LOOP = CU_ROW_TAIL | CU_ROW_KV_ONLY | FLAGS_ASK,
    FLAGS_CODA = CU_ROW_DRAFT,
};

static void put_rows(const cu_backend *cuda, cu_flight *flight, const eng_launch *launch,
                     uint32_t *tables, uint32_t *n_tables) {
    cu_row *to = rows_at(flight);
    bool loops = launch->stage == ENG_STAGE_RECURRENT;
    bool reads = launch->stage == ENG_STAGE_PRELUDE || cuda->embeds_values;
    uint32_t start = 0, asks = 0, sent = loops ? FLAGS_LOOP : 0;
    if (launch->stage == ENG_STAGE_CODA) sent = FLAGS_CODA;
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        const eng_row *row = &launch->rows[i];
        put_table(row, i ? row - 1 : NULL, tables, &start, n_tables);
        to[i] = (cu_row){.row = row->row,
                         .pos = row->pos,
                         .table = start,
                         .token = reads ? row->token : 0,
                         .logits = CU_NO_LOGITS,
                         .loop = loops ? row->loop : 0,
                         .min_loops = row->min_loops,
                         .max_loops = row->max_loops,
                         .flags = (uint16_t)(row->flags & sent),
                         .threshold = row->threshold,
                         .guard = row->guard,
                         .at = i};
        asks |= to[i].flags & FLAGS_ASK;
    }
    head_at(flight)->ahead = asks != 0;
}

static bool draw_fits(const eng_draw *draw) {
    if (draw == NULL || draw->sampling == NULL || draw->n_top > ENG_MAX_TOP) return false;
    const eng_sampling *sampling = draw->sampling;
    return eng_sampling_is_plain(sampling) && sampling->temperature >= 0 &&
           sampling->temperature <= 1e6f && sampling->top_p >= 0 && sampling->top_p <= 1 &&
           sampling->min_p >= 0 && sampling->min_p <= 1;
}

static int check_draws(const eng_launch *launch, err *e) {
    for (uint32_t i = 0; launch->stage == ENG_STAGE_CODA && i < launch->n_rows; i++) {
        if (!(launch->rows[i].flags & ENG_ROW_SAMPLE) || draw_fits(launch->rows[i].draw)) continue;
        return err_set(e, ERR_INTERNAL, NULL, "row %u of the launch cannot be sampled", i);
    }
    return 0;
}

/* Numbers the rows of the head: first the rows with logits for the host, so that these are one
 * piece, then the rows that only sample. */
static void put_heads(cu_flight *flight, const eng_launch *launch) {
    cu_head *head = head_at(flight);
    cu_row *to = rows_at(flight);
    cu_draw *draws = (cu_draw *)(void *)(flight->desc + head->draws);
    bool coda = launch->stage == ENG_STAGE_CODA;
    uint32_t n = 0;
    head->n_draws = 0;
    for (uint32_t i = 0; coda && i < launch->n_rows; i++) {
        if (launch->rows[i].flags & ENG_ROW_LOGITS) to[i].logits = n++;
    }
    flight->n_logits = n;
    for (uint32_t i = 0; coda && i < launch->n_rows; i++) {
        const eng_draw *draw = launch->rows[i].draw;
        if (!(launch->rows[i].flags & ENG_ROW_SAMPLE)) continue;
        if (to[i].logits == CU_NO_LOGITS) to[i].logits = n++;
        float temperature = draw->sampling->temperature;
        draws[head->n_draws++] =
            (cu_draw){.seed = draw->sampling->seed,
                      .index = draw->index,
                      .scale = temperature < RM_GREEDY_BELOW ? 0 : 1 / temperature,
                      .top_p = draw->sampling->top_p,
                      .min_p = draw->sampling->min_p,
                      .top_k = draw->sampling->top_k,
                      .n_top = draw->n_top,
                      .logits = to[i].logits};
    }
    head->n_logits = flight->n_heads = n;
    flight->n_choices = head->n_draws;
}

/* True if an earlier edit may have set an entry of `edit`. Edits of one position mostly stand
 * together, planes rising; other edits of the position count as of the same entry. It happens: a
 * sequence evicted while a launch is built leaves its edits in the launch, and its blocks to
 * others. */
static bool edited_before(cu_backend *cuda, const eng_edit *edit, const eng_edit *before) {
    uint32_t bit = 1u << edit->off;
    if (cuda->edited[edit->block].now != cuda->edits_now) {
        cuda->edited[edit->block].now = cuda->edits_now;
        cuda->edited[edit->block].offs = 0;
    }
    bool seen = cuda->edited[edit->block].offs & bit;
    bool follows = before && before->block == edit->block && before->off == edit->off &&
                   edit->plane >= (uint32_t)before->plane + before->n_planes;
    cuda->edited[edit->block].offs |= bit;
    return seen && !follows;
}

static void put_edits(cu_backend *cuda, const eng_edit *edits, uint32_t n, cu_head *head) {
    cu_edit *to = (cu_edit *)(void *)((uint8_t *)head + head->edits);
    if (++cuda->edits_now == 0) { /* wrapped: old numbers must not match */
        memset(cuda->edited, 0, cuda->cache.n_blocks * sizeof *cuda->edited);
        cuda->edits_now = 1;
    }
    for (uint32_t i = 0; i < n; i++) {
        const eng_edit *edit = &edits[i];
        head->in_order |= edited_before(cuda, edit, i ? edit - 1 : NULL);
        to[i] = (cu_edit){.block = edit->block,
                          .slot = edit->slot,
                          .plane = edit->plane,
                          .n_planes = edit->n_planes,
                          .off = edit->off & (ENG_BLOCK - 1u),
                          .guard = (edit->guarded ? edit->guard : CU_NO_GUARD) & CU_NO_GUARD};
    }
}

/* The packed descriptor's way to the device, on a stream of its own: it arrives while the launch
 * before still runs. On an H100 a kernel reading 4 KB across the bus itself takes 18 us with
 * seventeen thread blocks and 4 with one, a copy in the stream 12, this one 1.5
 * (bench/reports/h100.md). The target of the copy was last read by the launch before the last,
 * already ended. */
static cudaError_t send_descriptor(cu_backend *cuda) {
    uint32_t i = cuda->turn & 1;
    const cu_head *head = (const cu_head *)(const void *)cuda->sent[i];
    cudaError_t rc =
        cudaMemcpyAsync(cuda->came[i], head, head->bytes, cudaMemcpyHostToDevice, cuda->copies);
    if (rc == cudaSuccess) rc = cudaEventRecord(cuda->copied[i], cuda->copies);
    return rc == cudaSuccess ? cudaStreamWaitEvent(cuda->stream, cuda->copied[i], 0) : rc;
}

/* Edits too many for one descriptor go ahead in pieces, and only such a launch waits for the
 * device: a descriptor has room for the most edits that the rows of one launch can need. */
static int edits_ahead(cu_backend *cuda, const eng_launch *launch, uint32_t *done, err *e) {
    while (launch->n_edits - *done > cuda->edit_cap) {
        cu_head *head = (cu_head *)(void *)cuda->sent[cuda->turn & 1];
        uint32_t end = (uint32_t)(sizeof *head + cuda->edit_cap * sizeof(cu_edit));
        *head = (cu_head){.n_edits = cuda->edit_cap,
                          .rows = sizeof *head,
                          .tiles = sizeof *head,
                          .edits = sizeof *head,
                          .draws = end,
                          .tables = end,
                          .bytes = end};
        put_edits(cuda, launch->edits + *done, cuda->edit_cap, head);
        cudaError_t rc = send_descriptor(cuda);
        if (rc == cudaSuccess) rc = eng__cuda_begin(cuda);
        if (eng__cuda_check(cuda, rc, "editing the cache map", e) != 0) return -1;
        cuda->turn++;
        if (eng__cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "editing the cache map",
                            e) != 0)
            return -1;
        *done += cuda->edit_cap;
    }
    return 0;
}

/* Builds the descriptor in pinned memory; *path: the kernels it takes. */
static void pack(cu_backend *cuda, cu_flight *flight, const eng_launch *launch, uint32_t edits_done,
                 cu_path *path) {
    bool multi = false, all = false;
    flight->desc = cuda->sent[cuda->turn & 1];
    cu_head *head = head_at(flight);
    uint32_t n_edits = launch->n_edits - edits_done, n_tables = 0, draws = 0;
    for (uint32_t i = 0; i < launch->n_rows; i++)
        draws += (launch->rows[i].flags & ENG_ROW_SAMPLE) != 0;
    *head = (cu_head){.n_rows = launch->n_rows,
                      .n_edits = n_edits,
                      .rows = sizeof *head,
                      .bad = (uint32_t *)(void *)flight->flags,
                      .halted = flight->flags + CU_HALTED,
                      .choices = flight->choices};
    head->tiles = head->rows + launch->n_rows * (uint32_t)sizeof(cu_row);
    head->edits = cu_round(head->tiles + launch->n_rows * (uint32_t)sizeof(cu_tile), 16);
    head->draws = head->edits + n_edits * (uint32_t)sizeof(cu_edit);
    head->tables = head->draws + draws * (uint32_t)sizeof(cu_draw);
    uint32_t *tables = (uint32_t *)(void *)(flight->desc + head->tables);
    head->n_tiles =
        put_tiles(cuda, launch, (cu_tile *)(void *)(flight->desc + head->tiles), &multi);
    put_rows(cuda, flight, launch, tables, &n_tables);
    put_heads(flight, launch);
    put_edits(cuda, launch->edits + edits_done, n_edits, head);
    uint32_t at = cu_round(head->tables + n_tables * (uint32_t)sizeof(uint32_t), 16);
    head->bytes = cu_round((uint32_t)eng__cuda_put_runs(cuda, launch, flight->desc, at, &all), 16);
    path->mode = multi ? CU_SHARED_TILES : CU_ONE_ROW;
    if (head->n_runs) path->mode = all ? CU_ALL_EXPANDED : CU_EXPANDED;
    path->passes = head->n_passes;
    memset(flight->flags, 0, CU_HALTED + (size_t)launch->n_rows);
    flight->stage = launch->stage;
    flight->n_rows = launch->n_rows;
}

/* ---- starting and waiting ---- */

static cudaError_t run_stage(cu_backend *cuda, const cu_flight *flight, cu_path path) {
    if (flight->n_rows == 0) return eng__cuda_begin(cuda);
    uint32_t i = eng__cuda_bucket(cuda, flight->n_rows);
    if (eng__cuda_layers(cuda, flight->stage) == 0)
        path = (cu_path){CU_ONE_ROW, 0}; /* no attention */
    cudaGraphExec_t graph = cuda->graph[flight->stage][i][path.mode];
    /* Long contexts take milliseconds: the cost of single launches is hidden. */
    if (path.passes > 1 || !cuda->graphs) graph = NULL;
    eng__cuda_ranks_begin(cuda);
    cudaError_t rc = graph ? cudaGraphLaunch(graph, cuda->stream)
                           : eng__cuda_stage(cuda, flight->stage, cuda->bucket[i], path);
    eng__cuda_ranks_launched(cuda, (int)flight->stage, cuda->bucket[i], graph != NULL);
    if (rc != cudaSuccess || flight->n_heads == 0) return rc;
    i = eng__cuda_bucket(cuda, flight->n_heads);
    uint32_t rows =
        cuda->bucket[i] < cuda->opts.max_logits ? cuda->bucket[i] : cuda->opts.max_logits;
    graph = cuda->graphs ? cuda->head_graph[i] : NULL;
    eng__cuda_ranks_begin(cuda);
    rc = graph ? cudaGraphLaunch(graph, cuda->stream) : eng__cuda_head(cuda, rows);
    eng__cuda_ranks_launched(cuda, CU_STAGES, rows, graph != NULL);
    return rc;
}

/* Kernels write the flags and choices themselves; logits come with a copy. */
static cudaError_t fetch(cu_backend *cuda, cu_flight *flight) {
    if (flight->n_logits == 0) return cudaSuccess;
    return cudaMemcpyAsync(flight->logits, cuda->work.logits,
                           (size_t)flight->n_logits * cuda->plan.vocab_size * sizeof(float),
                           cudaMemcpyDeviceToHost, cuda->stream);
}

/* The time of a launch counts from the end of the one before, if this still runs, so that no event
 * comes between the two; else from an event of its own, as the device is idle. */
static int start_clock(cu_backend *cuda, cu_flight *flight, err *e) {
    cudaEvent_t before = cuda->ended[(cuda->n_launches + CU_FLIGHTS) % (CU_FLIGHTS + 1)];
    cudaError_t rc = cuda->n_flying ? cudaEventQuery(before) : cudaSuccess;
    flight->ended = cuda->ended[cuda->n_launches % (CU_FLIGHTS + 1)];
    flight->from = rc == cudaErrorNotReady ? before : flight->began;
    if (rc == cudaErrorNotReady) return 0;
    if (rc == cudaSuccess) rc = cudaEventRecord(flight->began, cuda->stream);
    return eng__cuda_check(cuda, rc, "timing", e);
}

static int cuda_launch(eng_backend *base, const eng_launch *launch, err *e) {
    cu_backend *cuda = (cu_backend *)base;
    cu_flight *flight = free_flight(cuda);
    uint32_t edits_done = 0;
    cu_path path = {CU_ONE_ROW, 0};
    if (cuda->lost) return err_set(e, ERR_DEVICE, NULL, "%s was lost", cuda->device_name);
    if (cuda->n_flying == CU_FLIGHTS) {
        return err_set(e, ERR_INTERNAL, NULL, "%d launches are in flight already", CU_FLIGHTS);
    }
    /* Every check that may refuse the launch comes before the first change of the cache. */
    if (eng__check_launch(&base->info, &cuda->plan, &cuda->opts, &cuda->stamps, launch, e) != 0 ||
        check_draws(launch, e) != 0 ||
        eng__cuda_check(cuda, cudaSetDevice(cuda->device), "choosing the device", e) != 0 ||
        edits_ahead(cuda, launch, &edits_done, e) != 0) {
        return -1;
    }
    pack(cuda, flight, launch, edits_done, &path);
    if (start_clock(cuda, flight, e) != 0) return -1;
    cudaError_t rc = send_descriptor(cuda);
    if (rc == cudaSuccess) rc = run_stage(cuda, flight, path);
    if (rc == cudaSuccess) rc = eng__cuda_clock_fetch(cuda, flight, path);
    if (rc == cudaSuccess) rc = fetch(cuda, flight);
    if (rc == cudaSuccess) rc = cudaEventRecord(flight->ended, cuda->stream);
    if (rc != cudaSuccess) cuda->lost = true; /* an unknown part may run */
    if (eng__cuda_check(cuda, rc, "starting a launch", e) != 0) return -1;
    cuda->n_flying++;
    cuda->n_launches++;
    cuda->turn++;
    return 0;
}

/* Of what decides about later launches: halted rows and tokens. */
static uint64_t hash_of(const cu_flight *flight) {
    uint64_t hash = hash_fnv(HASH_FNV_START, flight->flags + CU_HALTED, flight->n_rows);
    for (uint32_t i = 0; i < flight->n_choices; i++)
        hash = hash_fnv(hash, &flight->choices[i].token, sizeof flight->choices[i].token);
    return hash;
}

static int cuda_wait(eng_backend *base, eng_result *result, err *e) {
    cu_backend *cuda = (cu_backend *)base;
    cu_flight *flight = &cuda->flight[cuda->oldest];
    float ms = 0.0f;
    uint32_t bad;
    *result = (eng_result){0};
    if (cuda->lost) return err_set(e, ERR_DEVICE, NULL, "%s was lost", cuda->device_name);
    if (cuda->n_flying == 0) return err_set(e, ERR_INTERNAL, NULL, "no launch is in flight");
    if (eng__cuda_check(cuda, cudaSetDevice(cuda->device), "choosing the device", e) != 0 ||
        eng__cuda_check(cuda, cudaEventSynchronize(flight->ended), "a launch", e) != 0 ||
        eng__cuda_check(cuda, cudaEventElapsedTime(&ms, flight->from, flight->ended), "timing",
                        e) != 0) {
        return -1;
    }
    cuda->oldest = (cuda->oldest + 1) % CU_FLIGHTS;
    cuda->n_flying--;
    eng__cuda_clock_read(cuda, flight);
    memcpy(&bad, flight->flags, sizeof bad);
    if (bad) return err_set(e, ERR_INTERNAL, NULL, "a row's cache map names no slot");
    *result = (eng_result){.halted = flight->flags + CU_HALTED,
                           .logits = flight->logits,
                           .n_logits = flight->n_logits,
                           .choices = (const eng_choice *)flight->choices,
                           .n_choices = flight->n_choices,
                           .check = cuda->opts.ranks ? hash_of(flight) : 0,
                           .ns = (uint64_t)((double)ms * 1e6)};
    return 0;
}

static void cuda_close(eng_backend *base) {
    cu_backend *cuda = (cu_backend *)base;
    if (cuda->stream) {
        (void)cudaSetDevice(cuda->device);
        if (cuda->lost) eng__cuda_ranks_close(cuda); /* a gather may wait for a lost rank */
        if (cuda->copies) (void)cudaStreamSynchronize(cuda->copies);
        (void)cudaStreamSynchronize(cuda->stream); /* launches in flight end first */
    }
    for (uint32_t i = 0; i < CU_BUCKETS; i++) {
        for (int stage = 0; stage < CU_STAGES; stage++) {
            for (int mode = 0; mode < CU_MODES; mode++) {
                if (cuda->graph[stage][i][mode])
                    (void)cudaGraphExecDestroy(cuda->graph[stage][i][mode]);
            }
        }
        if (cuda->head_graph[i]) (void)cudaGraphExecDestroy(cuda->head_graph[i]);
    }
    eng__cuda_clock_close(cuda);
    eng__cuda_ranks_close(cuda); /* behind the graphs with its gathers */
    if (cuda->blas) (void)cublasDestroy(cuda->blas);
    for (uint32_t i = 0; i < cuda->mem.n; i++)
        (void)cudaFree(cuda->mem.items[i]);
    free(cuda->mem.items);
    for (int i = 0; i < CU_FLIGHTS; i++) {
        cu_flight *flight = &cuda->flight[i];
        void *pinned[] = {flight->flags, flight->logits, flight->choices};
        for (size_t k = 0; k < ARRAY_LEN(pinned); k++) {
            if (pinned[k]) (void)cudaFreeHost(pinned[k]);
        }
        if (flight->began) (void)cudaEventDestroy(flight->began);
    }
    for (size_t i = 0; i < ARRAY_LEN(cuda->sent); i++) {
        if (cuda->sent[i]) (void)cudaFreeHost(cuda->sent[i]);
        if (cuda->copied[i]) (void)cudaEventDestroy(cuda->copied[i]);
    }
    if (cuda->copies) (void)cudaStreamDestroy(cuda->copies);
    for (size_t i = 0; i < ARRAY_LEN(cuda->ended); i++) {
        if (cuda->ended[i]) (void)cudaEventDestroy(cuda->ended[i]);
    }
    free(cuda->edited);
    if (cuda->stream) (void)cudaStreamDestroy(cuda->stream);
    free(cuda->stamps.last);
    free(cuda->prelude);
    free(cuda->core);
    free(cuda->coda);
    free(cuda);
}

const eng_backend_ops eng__cuda_ops = {
    .launch = cuda_launch, .wait = cuda_wait, .close = cuda_close};

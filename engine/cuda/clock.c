/* clock.c - the stage clock: when each kernel of a launch began and ended, by the device's clock.
 *
 * With FATHOM_CUDA_CLOCK=FILE in the environment every kernel gets a stamp in device memory: its
 * first thread block writes when it begins, its last when it ends. Stamps belong to a track: the
 * kernels of one stage for one capacity and one mode, so one captured graph. Behind each launch the
 * stream copies the stamps of what ran to the host and clears them, before the next launch begins:
 * two launches may be in flight. FILE is written when the backend closes.
 *
 * %globaltimer is one clock for the whole device, but it ticks coarsely: from 32 ns to 1 us,
 * depending on the device, so one time is as good as a tick and medians of many are better. clock64
 * is finer, but every multiprocessor has its own. Stamps are taken by one thread of a block:
 * other warps of the last block may end a little later. A library's kernel cannot be stamped; its
 * time is what lies between its neighbours, both gaps included. */
#include "base/size.h"
#include "engine/cuda/cuda_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STAMPS = 1 << 16, LATEST = 256, MOST_TRACKS = CU_BUCKETS * (CU_STAGES * CU_MODES + 1) };

typedef struct {
    const char *name;
    bool stamped;
    uint32_t kernel; /* of its track */
} site;

/* All sites of a track that have one name: the layers of a core. Of times the latest are kept. */
typedef struct {
    const char *name;
    bool stamped;
    uint32_t sites, n; /* n: of the latest */
    uint64_t count;
    double sum_ns, sum_gap;
    float ns[LATEST], gap[LATEST];
} kernel_times;

typedef struct {
    int stage; /* CU_STAGES: the head */
    uint32_t rows;
    cu_mode mode;
    uint32_t first, n; /* sites, and their stamps */
    kernel_times *kernels;
    uint32_t n_kernels, cap_kernels;
    uint64_t launches;
    double sum_ns;
    float ns[LATEST];
} track;

/* What one launch ran. */
typedef struct {
    track *tracks[2];
    cu_stamp *stamps; /* pinned, one track behind the other */
} recorded;

struct cu_clock {
    FILE *file;
    cu_stamp *stamps;  /* on the device [STAMPS] */
    cu_stamp *cleared; /* pinned [STAMPS]: nobody has begun, nobody has ended */
    site *sites;
    uint32_t used;
    track *tracks, *now; /* now: whose kernels are being queued */
    uint32_t n_tracks, at;
    recorded flight[CU_FLIGHTS];
};

/* ---- queueing ---- */

static track *find_track(cu_clock *k, int stage, uint32_t rows, cu_mode mode) {
    for (uint32_t i = 0; i < k->n_tracks; i++) {
        track *t = &k->tracks[i];
        if (t->stage == stage && t->rows == rows && t->mode == mode) return t;
    }
    return NULL;
}

void eng__cuda_clock_begin(cu_backend *b, int stage, uint32_t rows, cu_path path) {
    cu_clock *k = b->clock;
    if (k == NULL) return;
    k->now = NULL;
    k->at = 0;
    if (path.passes > 1) return; /* long contexts: another number of kernels each time */
    k->now = find_track(k, stage, rows, path.mode);
    if (k->now || k->n_tracks == MOST_TRACKS) return;
    k->now = &k->tracks[k->n_tracks++];
    *k->now = (track){.stage = stage, .rows = rows, .mode = path.mode, .first = k->used};
}

void eng__cuda_clock_end(cu_backend *b) {
    if (b->clock) b->clock->now = NULL;
}

/* The track's kernel of that name; NULL without memory. */
static kernel_times *kernel_named(track *t, const char *name, bool stamped) {
    for (uint32_t i = 0; i < t->n_kernels; i++) {
        if (strcmp(t->kernels[i].name, name) == 0) return &t->kernels[i];
    }
    if (t->n_kernels == t->cap_kernels) {
        uint32_t cap = t->cap_kernels ? 2 * t->cap_kernels : 24;
        kernel_times *more = realloc(t->kernels, cap * sizeof *more);
        if (more == NULL) return NULL;
        t->kernels = more;
        t->cap_kernels = cap;
    }
    kernel_times *n = &t->kernels[t->n_kernels++];
    *n = (kernel_times){.name = name, .stamped = stamped};
    return n;
}

/* The stamp of the next kernel of the track that is being queued; NULL where there is none. A track
 * is walked once to warm up, once to capture it, and at every launch without graphs. */
static cu_stamp *next_stamp(cu_clock *k, const char *name, bool stamped) {
    track *t = k->now;
    if (t == NULL) return NULL;
    uint32_t i = t->first + k->at;
    if (k->at == t->n) { /* the first walk */
        kernel_times *kernel = i == k->used && i < STAMPS ? kernel_named(t, name, stamped) : NULL;
        if (kernel == NULL) return NULL;
        kernel->sites++;
        k->sites[i] = (site){name, stamped, (uint32_t)(kernel - t->kernels)};
        t->n++;
        k->used++;
    }
    if (strcmp(k->sites[i].name, name) != 0) return NULL;
    k->at++;
    return stamped ? &k->stamps[i] : NULL;
}

cu_stamp *eng__cuda_stamp(cu_backend *b, const char *kernel) {
    if (b->next_kernel) b->next_kernel(b->next_arg, kernel, true);
    return b->clock ? next_stamp(b->clock, kernel, true) : NULL;
}

void eng__cuda_unstamped(cu_backend *b, const char *kernel) {
    if (b->next_kernel) b->next_kernel(b->next_arg, kernel, false);
    if (b->clock) (void)next_stamp(b->clock, kernel, false);
}

/* ---- behind a launch ---- */

static cudaError_t fetch_track(cu_backend *b, const track *t, cu_stamp *to) {
    cu_stamp *from = b->clock->stamps + t->first;
    size_t bytes = t->n * sizeof *from;
    cudaError_t rc = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, b->stream);
    if (rc != cudaSuccess) return rc;
    return cudaMemcpyAsync(from, b->clock->cleared, bytes, cudaMemcpyHostToDevice, b->stream);
}

cudaError_t eng__cuda_clock_fetch(cu_backend *b, const cu_flight *f, cu_path path) {
    cu_clock *k = b->clock;
    if (k == NULL) return cudaSuccess;
    recorded *r = &k->flight[f - b->flight];
    cudaError_t rc = cudaSuccess;
    cu_stamp *to = r->stamps;
    memset(r->tracks, 0, sizeof r->tracks);
    if (f->n_rows == 0 || path.passes > 1) return rc;
    if (eng__cuda_layers(b, f->stage) == 0) path.mode = CU_ONE_ROW;
    r->tracks[0] =
        find_track(k, (int)f->stage, b->bucket[eng__cuda_bucket(b, f->n_rows)], path.mode);
    if (f->n_heads) {
        uint32_t rows = b->bucket[eng__cuda_bucket(b, f->n_heads)];
        if (rows > b->opts.max_logits) rows = b->opts.max_logits;
        r->tracks[1] = find_track(k, CU_STAGES, rows, CU_ONE_ROW);
    }
    for (int i = 0; i < 2 && rc == cudaSuccess; i++) {
        if (r->tracks[i] == NULL) continue;
        rc = fetch_track(b, r->tracks[i], to);
        to += r->tracks[i]->n;
    }
    return rc;
}

/* One kernel's time, and what lay between it and the one before. */
static void keep(kernel_times *t, double ns, double gap) {
    t->ns[t->count % LATEST] = (float)ns;
    t->gap[t->count % LATEST] = (float)gap;
    t->count++;
    t->sum_ns += ns;
    t->sum_gap += gap;
    if (t->n < LATEST) t->n++;
}

static bool has_run(const cu_stamp *s) {
    return s->first != UINT64_MAX;
}

/* The kernels of a launch in order: site i of all of them is i of its track `t`. */
static void read_site(const cu_clock *k, track *t, uint32_t i, const cu_stamp *stamps, uint32_t at,
                      uint32_t n, uint64_t *ended) {
    const site *s = &k->sites[t->first + i];
    const cu_stamp *mine = &stamps[at];
    kernel_times *times = &t->kernels[s->kernel];
    if (has_run(mine)) {
        double gap = *ended ? (double)(int64_t)(mine->first - *ended) : 0;
        keep(times, (double)(int64_t)(mine->last - mine->first), gap);
        *ended = mine->last;
    } else if (!s->stamped && *ended && at + 1 < n && has_run(mine + 1)) {
        keep(times, (double)(int64_t)(mine[1].first - *ended), 0);
        *ended = mine[1].first; /* the next has no gap of its own */
    }
}

void eng__cuda_clock_read(cu_backend *b, const cu_flight *f) {
    cu_clock *k = b->clock;
    if (k == NULL) return;
    recorded *r = &k->flight[f - b->flight];
    uint32_t n = 0, at = 0;
    uint64_t ended = 0;
    for (int i = 0; i < 2; i++)
        n += r->tracks[i] ? r->tracks[i]->n : 0;
    for (int i = 0; i < 2; i++) {
        track *t = r->tracks[i];
        if (t == NULL || t->n == 0) continue;
        const cu_stamp *s = &r->stamps[at];
        for (uint32_t j = 0; j < t->n; j++)
            read_site(k, t, j, r->stamps, at + j, n, &ended);
        at += t->n;
        uint64_t began = has_run(s) ? s->first : i ? r->stamps[r->tracks[0]->n - 1].last : ended;
        double ns = (double)(int64_t)(ended - began);
        t->ns[t->launches++ % LATEST] = (float)ns;
        t->sum_ns += ns;
    }
}

/* ---- the file ---- */

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static double median(const float *v, uint64_t n) {
    float sorted[LATEST];
    if (n > LATEST) n = LATEST;
    if (n == 0) return 0;
    memcpy(sorted, v, n * sizeof *v);
    qsort(sorted, n, sizeof *sorted, by_value);
    return (double)sorted[n / 2];
}

static void write_kernel(FILE *f, const kernel_times *k, double step_ns, bool first) {
    double n = k->count ? (double)k->count : 1;
    fprintf(f,
            "%s\n  {\"kernel\":\"%s\",\"sites\":%u,\"count\":%llu,\"stamped\":%s,"
            "\"median_ns\":%.0f,\"mean_ns\":%.1f,\"gap_median_ns\":%.0f,\"gap_mean_ns\":%.1f,"
            "\"percent_of_stage\":%.2f}",
            first ? "" : ",", k->name, k->sites, (unsigned long long)k->count,
            k->stamped ? "true" : "false", median(k->ns, k->n), k->sum_ns / n, median(k->gap, k->n),
            k->sum_gap / n, step_ns > 0 ? 100 * k->sum_ns / step_ns : 0);
}

static void write_track(FILE *f, const track *t, bool first) {
    static const char *const stages[] = {"prelude", "recurrent", "coda", "head"};
    static const char *const modes[] = {"one_row", "shared_tiles", "expanded", "all_expanded"};
    double gaps = 0;
    for (uint32_t i = 0; i < t->n_kernels; i++)
        gaps += t->kernels[i].sum_gap;
    fprintf(f,
            "%s\n {\"stage\":\"%s\",\"capacity\":%u,\"mode\":\"%s\",\"launches\":%llu,"
            "\"median_ns\":%.0f,\"mean_ns\":%.1f,\"percent_in_gaps\":%.2f,\"kernels\":[",
            first ? "" : ",", stages[t->stage], t->rows, modes[t->mode],
            (unsigned long long)t->launches, median(t->ns, t->launches),
            t->sum_ns / (double)t->launches, t->sum_ns > 0 ? 100 * gaps / t->sum_ns : 0);
    for (uint32_t i = 0; i < t->n_kernels; i++)
        write_kernel(f, &t->kernels[i], t->sum_ns, i == 0);
    fprintf(f, "]}");
}

static int by_place(const void *a, const void *b) {
    const track *x = a, *y = b;
    if (x->stage != y->stage) return x->stage < y->stage ? -1 : 1;
    if (x->rows != y->rows) return x->rows < y->rows ? -1 : 1;
    return x->mode < y->mode ? -1 : x->mode > y->mode;
}

static void write_file(const cu_backend *b) {
    cu_clock *k = b->clock;
    bool first = true;
    qsort(k->tracks, k->n_tracks, sizeof *k->tracks, by_place);
    fprintf(k->file, "{\"device\":\"%s\",\"kernels\":\"%s\",\"graphs\":%s,\"stages\":[",
            b->device_name, b->kernels_name, b->graphs ? "true" : "false");
    for (uint32_t i = 0; i < k->n_tracks; i++) {
        if (k->tracks[i].launches == 0) continue;
        write_track(k->file, &k->tracks[i], first);
        first = false;
    }
    fprintf(k->file, "\n]}\n");
}

/* ---- opening and closing ---- */

static int take_memory(cu_backend *b, cu_clock *k, err *e) {
    k->sites = array_new(STAMPS, sizeof *k->sites);
    k->tracks = array_new(MOST_TRACKS, sizeof *k->tracks);
    if (k->sites == NULL || k->tracks == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the stage clock");
    }
    if (eng__cuda_alloc(b, &k->stamps, STAMPS, sizeof *k->stamps, "the stage clock", e) != 0)
        return -1;
    cu_stamp **pinned[] = {&k->cleared, &k->flight[0].stamps, &k->flight[1].stamps};
    for (size_t i = 0; i < ARRAY_LEN(pinned); i++) {
        void *p = NULL;
        cudaError_t rc = cudaMallocHost(&p, STAMPS * sizeof(cu_stamp));
        if (eng__cuda_check(b, rc, "pinning memory for the stage clock", e) != 0) return -1;
        *pinned[i] = p;
    }
    for (uint32_t i = 0; i < STAMPS; i++)
        k->cleared[i] = (cu_stamp){UINT64_MAX, 0};
    return 0;
}

int eng__cuda_clock_open(cu_backend *b, err *e) {
    const char *path = getenv("FATHOM_CUDA_CLOCK");
    if (path == NULL || *path == 0) return 0;
    cu_clock *k = b->clock = array_new(1, sizeof *k);
    if (k == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the stage clock");
    k->file = fopen(path, "we");
    if (k->file == NULL) {
        return err_set(e, ERR_IO, NULL, "FATHOM_CUDA_CLOCK: %s: %s", path, strerror(errno));
    }
    return take_memory(b, k, e);
}

int eng__cuda_clock_start(cu_backend *b, err *e) {
    if (b->clock == NULL) return 0;
    cudaError_t rc = cudaMemcpyAsync(b->clock->stamps, b->clock->cleared, STAMPS * sizeof(cu_stamp),
                                     cudaMemcpyHostToDevice, b->stream);
    return eng__cuda_check(b, rc, "starting the stage clock", e);
}

void eng__cuda_clock_close(cu_backend *b) {
    cu_clock *k = b->clock;
    if (k == NULL) return;
    if (k->file) {
        if (k->tracks) write_file(b);
        (void)fclose(k->file);
    }
    void *pinned[] = {k->cleared, k->flight[0].stamps, k->flight[1].stamps};
    for (size_t i = 0; i < ARRAY_LEN(pinned); i++) {
        if (pinned[i]) (void)cudaFreeHost(pinned[i]);
    }
    for (uint32_t i = 0; k->tracks && i < k->n_tracks; i++)
        free(k->tracks[i].kernels);
    free(k->tracks);
    free(k->sites);
    free(k);
    b->clock = NULL;
}

/* clock.c - the stage clock: when each kernel of a launch began and ended, by the device's clock.
 *
 * With FATHOM_CUDA_CLOCK=FILE in the environment every kernel gets a stamp in device memory: its
 * first thread block writes when it begins, its last when it ends. Stamps belong to a track: the
 * kernels of one stage for one capacity and one mode, so one captured graph. Behind each launch the
 * stream copies the stamps of its kernels to the host and clears them, before the next launch
 * begins: two launches may be in flight. FILE is written when the backend closes.
 *
 * %globaltimer is one clock for the whole device, but it ticks coarsely: from 32 ns to 1 us,
 * depending on the device, so one time is as good as a tick and medians of many are better. clock64
 * is finer, but every multiprocessor has its own. Stamps are taken by one thread of a block: other
 * warps of the last block may end a little later. A library's kernel cannot be stamped; its time is
 * the time between its neighbours, both gaps included. */
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
    uint32_t kernel; /* of its stage_track */
} kernel_site;

/* All sites of a track with one name: the layers of a core. Of times the latest are kept. */
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
} stage_track;

/* The tracks of one launch. */
typedef struct {
    stage_track *tracks[2];
    cu_stamp *stamps; /* pinned, one track behind the other */
} recorded;

struct cu_clock {
    FILE *file;
    cu_stamp *stamps;  /* on the device [STAMPS] */
    cu_stamp *cleared; /* pinned [STAMPS]: not begun, not ended */
    kernel_site *sites;
    uint32_t used;
    stage_track *tracks, *now; /* now: its kernels are being queued */
    uint32_t n_tracks, at;
    recorded flight[CU_FLIGHTS];
};

/* ---- queueing ---- */

static stage_track *find_track(cu_clock *clock, int stage, uint32_t rows, cu_mode mode) {
    for (uint32_t i = 0; i < clock->n_tracks; i++) {
        stage_track *track = &clock->tracks[i];
        if (track->stage == stage && track->rows == rows && track->mode == mode) return track;
    }
    return NULL;
}

void eng__cuda_clock_begin(cu_backend *cuda, int stage, uint32_t rows, cu_path path) {
    cu_clock *clock = cuda->clock;
    if (clock == NULL) return;
    clock->now = NULL;
    clock->at = 0;
    if (path.passes > 1) return; /* long contexts: another number of kernels each time */
    clock->now = find_track(clock, stage, rows, path.mode);
    if (clock->now || clock->n_tracks == MOST_TRACKS) return;
    clock->now = &clock->tracks[clock->n_tracks++];
    *clock->now =
        (stage_track){.stage = stage, .rows = rows, .mode = path.mode, .first = clock->used};
}

void eng__cuda_clock_end(cu_backend *cuda) {
    if (cuda->clock) cuda->clock->now = NULL;
}

/* The track's kernel of this name; NULL without memory. */
static kernel_times *kernel_named(stage_track *track, const char *name, bool stamped) {
    for (uint32_t i = 0; i < track->n_kernels; i++) {
        if (strcmp(track->kernels[i].name, name) == 0) return &track->kernels[i];
    }
    if (track->n_kernels == track->cap_kernels) {
        uint32_t cap = track->cap_kernels ? 2 * track->cap_kernels : 24;
        kernel_times *more = realloc(track->kernels, cap * sizeof *more);
        if (more == NULL) return NULL;
        track->kernels = more;
        track->cap_kernels = cap;
    }
    kernel_times *times = &track->kernels[track->n_kernels++];
    *times = (kernel_times){.name = name, .stamped = stamped};
    return times;
}

/* The stamp of the next kernel of the track being queued; NULL if it has none. A track is walked
 * once to warm up, once to capture it, and at every launch without graphs. */
static cu_stamp *next_stamp(cu_clock *clock, const char *name, bool stamped) {
    stage_track *track = clock->now;
    if (track == NULL) return NULL;
    uint32_t i = track->first + clock->at;
    if (clock->at == track->n) { /* the first walk */
        kernel_times *kernel =
            i == clock->used && i < STAMPS ? kernel_named(track, name, stamped) : NULL;
        if (kernel == NULL) return NULL;
        kernel->sites++;
        clock->sites[i] = (kernel_site){name, stamped, (uint32_t)(kernel - track->kernels)};
        track->n++;
        clock->used++;
    }
    if (strcmp(clock->sites[i].name, name) != 0) return NULL;
    clock->at++;
    return stamped ? &clock->stamps[i] : NULL;
}

cu_stamp *eng__cuda_stamp(cu_backend *cuda, const char *kernel) {
    if (cuda->next_kernel) cuda->next_kernel(cuda->next_arg, kernel, true);
    return cuda->clock ? next_stamp(cuda->clock, kernel, true) : NULL;
}

void eng__cuda_unstamped(cu_backend *cuda, const char *kernel) {
    if (cuda->next_kernel) cuda->next_kernel(cuda->next_arg, kernel, false);
    if (cuda->clock) (void)next_stamp(cuda->clock, kernel, false);
}

/* ---- behind a launch ---- */

static cudaError_t fetch_track(cu_backend *cuda, const stage_track *track, cu_stamp *to) {
    cu_stamp *from = cuda->clock->stamps + track->first;
    size_t bytes = track->n * sizeof *from;
    cudaError_t rc = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, cuda->stream);
    if (rc != cudaSuccess) return rc;
    return cudaMemcpyAsync(from, cuda->clock->cleared, bytes, cudaMemcpyHostToDevice, cuda->stream);
}

cudaError_t eng__cuda_clock_fetch(cu_backend *cuda, const cu_flight *flight, cu_path path) {
    cu_clock *clock = cuda->clock;
    if (clock == NULL) return cudaSuccess;
    recorded *rec = &clock->flight[flight - cuda->flight];
    cudaError_t rc = cudaSuccess;
    cu_stamp *to = rec->stamps;
    memset(rec->tracks, 0, sizeof rec->tracks);
    if (flight->n_rows == 0 || path.passes > 1) return rc;
    if (eng__cuda_layers(cuda, flight->stage) == 0) path.mode = CU_ONE_ROW;
    rec->tracks[0] = find_track(clock, (int)flight->stage,
                                cuda->bucket[eng__cuda_bucket(cuda, flight->n_rows)], path.mode);
    if (flight->n_heads) {
        uint32_t rows = cuda->bucket[eng__cuda_bucket(cuda, flight->n_heads)];
        if (rows > cuda->opts.max_logits) rows = cuda->opts.max_logits;
        rec->tracks[1] = find_track(clock, CU_STAGES, rows, CU_ONE_ROW);
    }
    for (int i = 0; i < 2 && rc == cudaSuccess; i++) {
        if (rec->tracks[i] == NULL) continue;
        rc = fetch_track(cuda, rec->tracks[i], to);
        to += rec->tracks[i]->n;
    }
    return rc;
}

/* One kernel's time, and the gap before it. */
static void keep(kernel_times *times, double ns, double gap) {
    times->ns[times->count % LATEST] = (float)ns;
    times->gap[times->count % LATEST] = (float)gap;
    times->count++;
    times->sum_ns += ns;
    times->sum_gap += gap;
    if (times->n < LATEST) times->n++;
}

static bool has_run(const cu_stamp *stamp) {
    return stamp->first != UINT64_MAX;
}

/* The kernels of a launch in order: site i of all of them is i of its track `track`. */
static void read_site(const cu_clock *clock, stage_track *track, uint32_t i, const cu_stamp *stamps,
                      uint32_t at, uint32_t n, uint64_t *ended) {
    const kernel_site *site = &clock->sites[track->first + i];
    const cu_stamp *mine = &stamps[at];
    kernel_times *times = &track->kernels[site->kernel];
    if (has_run(mine)) {
        double gap = *ended ? (double)(int64_t)(mine->first - *ended) : 0;
        keep(times, (double)(int64_t)(mine->last - mine->first), gap);
        *ended = mine->last;
    } else if (!site->stamped && *ended && at + 1 < n && has_run(mine + 1)) {
        keep(times, (double)(int64_t)(mine[1].first - *ended), 0);
        *ended = mine[1].first; /* the next has no gap of its own */
    }
}

void eng__cuda_clock_read(cu_backend *cuda, const cu_flight *flight) {
    cu_clock *clock = cuda->clock;
    if (clock == NULL) return;
    recorded *rec = &clock->flight[flight - cuda->flight];
    uint32_t n = 0, at = 0;
    uint64_t ended = 0;
    for (int i = 0; i < 2; i++)
        n += rec->tracks[i] ? rec->tracks[i]->n : 0;
    for (int i = 0; i < 2; i++) {
        stage_track *track = rec->tracks[i];
        if (track == NULL || track->n == 0) continue;
        const cu_stamp *stamp = &rec->stamps[at];
        for (uint32_t j = 0; j < track->n; j++)
            read_site(clock, track, j, rec->stamps, at + j, n, &ended);
        at += track->n;
        uint64_t began = has_run(stamp) ? stamp->first
                         : i            ? rec->stamps[rec->tracks[0]->n - 1].last
                                        : ended;
        double ns = (double)(int64_t)(ended - began);
        track->ns[track->launches++ % LATEST] = (float)ns;
        track->sum_ns += ns;
    }
}

/* ---- the file ---- */

static int by_value(const void *left, const void *right) {
    float x = *(const float *)left, y = *(const float *)right;
    return x < y ? -1 : x > y;
}

static double median(const float *values, uint64_t n) {
    float sorted[LATEST];
    if (n > LATEST) n = LATEST;
    if (n == 0) return 0;
    memcpy(sorted, values, n * sizeof *values);
    qsort(sorted, n, sizeof *sorted, by_value);
    return (double)sorted[n / 2];
}

static void write_kernel(FILE *file, const kernel_times *times, double step_ns, bool first) {
    double n = times->count ? (double)times->count : 1;
    fprintf(file,
            "%s\n  {\"kernel\":\"%s\",\"sites\":%u,\"count\":%llu,\"stamped\":%s,"
            "\"median_ns\":%.0f,\"mean_ns\":%.1f,\"gap_median_ns\":%.0f,\"gap_mean_ns\":%.1f,"
            "\"percent_of_stage\":%.2f}",
            first ? "" : ",", times->name, times->sites, (unsigned long long)times->count,
            times->stamped ? "true" : "false", median(times->ns, times->n), times->sum_ns / n,
            median(times->gap, times->n), times->sum_gap / n,
            step_ns > 0 ? 100 * times->sum_ns / step_ns : 0);
}

static void write_track(FILE *file, const stage_track *track, bool first) {
    static const char *const stages[] = {"prelude", "recurrent", "coda", "head"};
    static const char *const modes[] = {"one_row", "shared_tiles", "expanded", "all_expanded"};
    double gaps = 0;
    for (uint32_t i = 0; i < track->n_kernels; i++)
        gaps += track->kernels[i].sum_gap;
    fprintf(file,
            "%s\n {\"stage\":\"%s\",\"capacity\":%u,\"mode\":\"%s\",\"launches\":%llu,"
            "\"median_ns\":%.0f,\"mean_ns\":%.1f,\"percent_in_gaps\":%.2f,\"kernels\":[",
            first ? "" : ",", stages[track->stage], track->rows, modes[track->mode],
            (unsigned long long)track->launches, median(track->ns, track->launches),
            track->sum_ns / (double)track->launches,
            track->sum_ns > 0 ? 100 * gaps / track->sum_ns : 0);
    for (uint32_t i = 0; i < track->n_kernels; i++)
        write_kernel(file, &track->kernels[i], track->sum_ns, i == 0);
    fprintf(file, "]}");
}

static int by_place(const void *left, const void *right) {
    const stage_track *x = left, *y = right;
    if (x->stage != y->stage) return x->stage < y->stage ? -1 : 1;
    if (x->rows != y->rows) return x->rows < y->rows ? -1 : 1;
    return x->mode < y->mode ? -1 : x->mode > y->mode;
}

static void write_file(const cu_backend *cuda) {
    cu_clock *clock = cuda->clock;
    bool first = true;
    qsort(clock->tracks, clock->n_tracks, sizeof *clock->tracks, by_place);
    fprintf(clock->file, "{\"device\":\"%s\",\"kernels\":\"%s\",\"graphs\":%s,\"stages\":[",
            cuda->device_name, cuda->kernels_name, cuda->graphs ? "true" : "false");
    for (uint32_t i = 0; i < clock->n_tracks; i++) {
        if (clock->tracks[i].launches == 0) continue;
        write_track(clock->file, &clock->tracks[i], first);
        first = false;
    }
    fprintf(clock->file, "\n]}\n");
}

/* ---- opening and closing ---- */

static int take_memory(cu_backend *cuda, cu_clock *clock, err *e) {
    clock->sites = array_new(STAMPS, sizeof *clock->sites);
    clock->tracks = array_new(MOST_TRACKS, sizeof *clock->tracks);
    if (clock->sites == NULL || clock->tracks == NULL) {
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the stage clock");
    }
    if (eng__cuda_alloc(cuda, &clock->stamps, STAMPS, sizeof *clock->stamps, "the stage clock",
                        e) != 0)
        return -1;
    cu_stamp **pinned[] = {&clock->cleared, &clock->flight[0].stamps, &clock->flight[1].stamps};
    for (size_t i = 0; i < ARRAY_LEN(pinned); i++) {
        void *mem = NULL;
        cudaError_t rc = cudaMallocHost(&mem, STAMPS * sizeof(cu_stamp));
        if (eng__cuda_check(cuda, rc, "pinning memory for the stage clock", e) != 0) return -1;
        *pinned[i] = mem;
    }
    for (uint32_t i = 0; i < STAMPS; i++)
        clock->cleared[i] = (cu_stamp){UINT64_MAX, 0};
    return 0;
}

int eng__cuda_clock_open(cu_backend *cuda, err *e) {
    const char *path = getenv("FATHOM_CUDA_CLOCK");
    if (path == NULL || *path == 0) return 0;
    cu_clock *clock = cuda->clock = array_new(1, sizeof *clock);
    if (clock == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the stage clock");
    clock->file = fopen(path, "we");
    if (clock->file == NULL) {
        return err_set(e, ERR_IO, NULL, "FATHOM_CUDA_CLOCK: %s: %s", path, strerror(errno));
    }
    return take_memory(cuda, clock, e);
}

int eng__cuda_clock_start(cu_backend *cuda, err *e) {
    if (cuda->clock == NULL) return 0;
    cudaError_t rc =
        cudaMemcpyAsync(cuda->clock->stamps, cuda->clock->cleared, STAMPS * sizeof(cu_stamp),
                        cudaMemcpyHostToDevice, cuda->stream);
    return eng__cuda_check(cuda, rc, "starting the stage clock", e);
}

void eng__cuda_clock_close(cu_backend *cuda) {
    cu_clock *clock = cuda->clock;
    if (clock == NULL) return;
    if (clock->file) {
        if (clock->tracks) write_file(cuda);
        (void)fclose(clock->file);
    }
    void *pinned[] = {clock->cleared, clock->flight[0].stamps, clock->flight[1].stamps};
    for (size_t i = 0; i < ARRAY_LEN(pinned); i++) {
        if (pinned[i]) (void)cudaFreeHost(pinned[i]);
    }
    for (uint32_t i = 0; clock->tracks && i < clock->n_tracks; i++)
        free(clock->tracks[i].kernels);
    free(clock->tracks);
    free(clock->sites);
    free(clock);
    cuda->clock = NULL;
}

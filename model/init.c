/* init.c - writes a model folder of random weights, by several threads.
 *
 * Every byte is a pure function of (seed, tensor, place), so the split over threads and
 * files changes nothing. Files appear under their names only when whole. */
#include "base/machine.h"
#include "base/size.h"
#include "model/model_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { CHUNK_BYTES = 4 << 20, MAX_THREADS = 16, MAX_FILES = 4096 };

typedef struct {
    model__want want;
    model__fill fill;
    uint64_t first, bytes; /* within its file's data */
    uint32_t file;
} planned;

typedef struct {
    char *temp, *name; /* paths; owned */
    uint64_t data_at, bytes;
    size_t first_tensor, n_tensors;
    bool in_place; /* renamed to its name */
} out_file;

typedef struct {
    const char *dir;
    const model_init_opts *opts;
    model__recipe recipe;
    planned *tensors;
    size_t n_tensors, cap;
    out_file *files;
    size_t n_files;
    uint64_t all_bytes;
    char *config; /* path; owned, made first so that undoing needs no memory */
    bool made_dir;
    err *e;
} writer;

static int no_memory(writer *w) {
    return err_set(w->e, ERR_NO_MEMORY, NULL, "%s: out of memory", w->dir);
}

static int failed(writer *w, const char *path, int why) {
    return err_set(w->e, ERR_IO, NULL, "%s: %s", path, strerror(why));
}

/* ---- the plan: which tensor lies where ---- */

static int plan_tensor(void *ud, const model__want *want) {
    writer *w = ud;
    if (want->optional) return 0; /* the head stays tied */
    if (w->n_tensors == w->cap) {
        size_t cap = w->cap ? 2 * w->cap : 256;
        planned *more = realloc(w->tensors, cap * sizeof *more);
        if (more == NULL) return no_memory(w);
        w->tensors = more;
        w->cap = cap;
    }
    planned *p = &w->tensors[w->n_tensors++];
    uint64_t bytes = want->shape[0] * want->shape[1] * model_dtype_bytes(w->opts->dtype);
    out_file *f = &w->files[w->n_files - 1];
    if (w->opts->shard_bytes && f->bytes > 0 && f->bytes + bytes > w->opts->shard_bytes) {
        if (w->n_files == MAX_FILES) {
            return err_set(w->e, ERR_USAGE, "shard-bytes", "more than %d shards; make them larger",
                           MAX_FILES);
        }
        f = &w->files[w->n_files++];
        f->first_tensor = w->n_tensors - 1;
    }
    *p = (planned){.want = *want,
                   .fill = model__recipe_fill(&w->recipe, want),
                   .first = f->bytes,
                   .bytes = bytes,
                   .file = (uint32_t)(w->n_files - 1)};
    f->bytes += bytes;
    f->n_tensors++;
    w->all_bytes += bytes;
    return 0;
}

static int name_files(writer *w) {
    buf config = {0};
    buf_printf(&config, "%s/config.json", w->dir);
    w->config = config.data;
    if (config.failed) return no_memory(w);
    for (size_t i = 0; i < w->n_files; i++) {
        buf name = {0}, temp = {0};
        if (w->opts->shard_bytes == 0) buf_printf(&name, "%s/model.safetensors", w->dir);
        else buf_printf(&name, "%s/model-%05zu-of-%05zu.safetensors", w->dir, i + 1, w->n_files);
        buf_printf(&temp, "%s.part", name.data ? name.data : "");
        w->files[i].name = name.data;
        w->files[i].temp = temp.data;
        if (name.failed || temp.failed) return no_memory(w);
    }
    return 0;
}

static int make_header(const writer *w, const out_file *f, buf *out) {
    buf_append(out, "\0\0\0\0\0\0\0\0", 8);
    buf_puts(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < f->n_tensors; i++) {
        const planned *p = &w->tensors[f->first_tensor + i];
        buf_printf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%llu", p->want.name,
                   model_dtype_name(w->opts->dtype), (unsigned long long)p->want.shape[0]);
        if (p->want.rank == 2) buf_printf(out, ",%llu", (unsigned long long)p->want.shape[1]);
        buf_printf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)p->first,
                   (unsigned long long)(p->first + p->bytes));
    }
    buf_puts(out, "}");
    while (out->len % 64 != 0 && !out->failed)
        buf_append(out, " ", 1); /* data aligned for loads */
    if (out->failed) return -1;
    uint64_t len = out->len - 8;
    for (int i = 0; i < 8; i++)
        out->data[i] = (char)(len >> 8 * i & 0xff);
    return 0;
}

/* ---- writing one file by several threads ---- */

typedef struct {
    writer *w;
    const out_file *f;
    int fd;
    uint64_t n_chunks, done_before; /* bytes of earlier files */
    _Atomic uint64_t next, done;    /* chunk to take; bytes written */
    _Atomic int why;                /* first errno, 0 if none */
} job;

static int write_at(int fd, const unsigned char *bytes, size_t n, uint64_t at) {
    while (n > 0) {
        ssize_t k = pwrite(fd, bytes, n, (off_t)at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return errno;
        bytes += k;
        n -= (size_t)k;
        at += (uint64_t)k;
    }
    return 0;
}

/* Fills bytes [from, to) of the file's data. Chunks and tensors hold whole values. */
static void fill_chunk(const job *j, uint64_t from, uint64_t to, unsigned char *out) {
    const planned *p = &j->w->tensors[j->f->first_tensor];
    model_dtype dtype = j->w->opts->dtype;
    size_t value = model_dtype_bytes(dtype);
    while (p->first + p->bytes <= from)
        p++;
    for (uint64_t at = from; at < to; p++) {
        uint64_t end = p->first + p->bytes < to ? p->first + p->bytes : to;
        model__fill_values(&p->fill, dtype, (at - p->first) / value, (size_t)(end - at) / value,
                           out + (at - from));
        at = end;
    }
}

static void work(job *j, unsigned char *scratch, bool report) {
    const model_init_opts *o = j->w->opts;
    for (;;) {
        uint64_t k = atomic_fetch_add(&j->next, 1);
        if (k >= j->n_chunks || atomic_load(&j->why) != 0) return;
        uint64_t from = k * CHUNK_BYTES, to = from + CHUNK_BYTES;
        if (to > j->f->bytes) to = j->f->bytes;
        fill_chunk(j, from, to, scratch);
        int why = write_at(j->fd, scratch, (size_t)(to - from), j->f->data_at + from), none = 0;
        if (why != 0) atomic_compare_exchange_strong(&j->why, &none, why);
        uint64_t done = atomic_fetch_add(&j->done, to - from) + (to - from);
        if (report && o->progress) o->progress(o->ud, j->done_before + done, j->w->all_bytes);
    }
}

static void *helper(void *arg) {
    unsigned char *scratch = malloc(CHUNK_BYTES);
    if (scratch) work(arg, scratch, false); /* without memory the others do its share */
    free(scratch);
    return NULL;
}

static int run_job(job *j) {
    unsigned char *scratch = malloc(CHUNK_BYTES);
    if (scratch == NULL) return no_memory(j->w);
    machine here;
    machine_read(&here);
    pthread_t threads[MAX_THREADS];
    size_t n = 0;
    while (n + 1 < machine_threads(&here) && n < MAX_THREADS && n + 1 < j->n_chunks) {
        if (pthread_create(&threads[n], NULL, helper, j) != 0) break;
        n++;
    }
    work(j, scratch, true);
    for (size_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    free(scratch);
    int why = atomic_load(&j->why);
    return why ? failed(j->w, j->f->temp, why) : 0;
}

static int write_file(writer *w, out_file *f, uint64_t done_before) {
    buf header = {0};
    int rc = -1, fd = -1;
    if (make_header(w, f, &header) != 0) {
        no_memory(w);
        goto done;
    }
    f->data_at = header.len;
    fd = open(f->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int why = fd < 0 ? errno : write_at(fd, (unsigned char *)header.data, header.len, 0);
    if (why != 0) {
        failed(w, f->temp, why);
        goto done;
    }
    job j = {.w = w,
             .f = f,
             .fd = fd,
             .done_before = done_before,
             .n_chunks = (f->bytes + CHUNK_BYTES - 1) / CHUNK_BYTES};
    if (run_job(&j) != 0) goto done;
    rc = fsync(fd) != 0 ? failed(w, f->temp, errno) : 0;
done:
    if (fd >= 0) close(fd);
    buf_deinit(&header);
    return rc;
}

/* ---- the small files ---- */

/* Writes dir/name through a temporary name. */
static int write_text(writer *w, const char *name, const buf *text) {
    buf path = {0}, temp = {0};
    buf_printf(&path, "%s/%s", w->dir, name);
    buf_printf(&temp, "%s/%s.part", w->dir, name);
    int rc = -1, fd = -1;
    if (text->failed || path.failed || temp.failed) {
        no_memory(w);
        goto done;
    }
    fd = open(temp.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int why = fd < 0 ? errno : write_at(fd, (unsigned char *)text->data, text->len, 0);
    if (why == 0 && fsync(fd) != 0) why = errno;
    if (why == 0 && rename(temp.data, path.data) != 0) why = errno;
    if (why != 0) {
        failed(w, path.data, why);
        (void)unlink(temp.data);
        goto done;
    }
    rc = 0;
done:
    if (fd >= 0) close(fd);
    buf_deinit(&path);
    buf_deinit(&temp);
    return rc;
}

static int write_config(writer *w) {
    static const char *const names[] = {
        [DTYPE_F32] = "float32", [DTYPE_F16] = "float16", [DTYPE_BF16] = "bfloat16"};
    buf text = {0};
    plan_write(&text, w->recipe.p, names[w->opts->dtype]);
    int rc = write_text(w, "config.json", &text);
    buf_deinit(&text);
    return rc;
}

static int write_index(writer *w) {
    buf text = {0};
    buf_printf(&text, "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {",
               (unsigned long long)w->all_bytes);
    for (size_t i = 0; i < w->n_tensors; i++) {
        const char *file = strrchr(w->files[w->tensors[i].file].name, '/') + 1;
        buf_printf(&text, "%s\n    \"%s\": \"%s\"", i ? "," : "", w->tensors[i].want.name, file);
    }
    buf_puts(&text, "\n  }\n}\n");
    int rc = write_text(w, "model.safetensors.index.json", &text);
    buf_deinit(&text);
    return rc;
}

/* ---- the whole ---- */

static int check_folder(writer *w) {
    static const char *const taken[] = {"model.safetensors", "model.safetensors.index.json",
                                        "config.json"};
    if (mkdir(w->dir, 0755) == 0) w->made_dir = true;
    else if (errno != EEXIST) return failed(w, w->dir, errno);
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        buf path = {0};
        buf_printf(&path, "%s/%s", w->dir, taken[i]);
        if (path.failed) return buf_deinit(&path), no_memory(w);
        struct stat st;
        bool exists = lstat(path.data, &st) == 0;
        if (exists)
            err_set(w->e, ERR_USAGE, "out", "%s: exists already; nothing is overwritten",
                    path.data);
        buf_deinit(&path);
        if (exists) return -1;
    }
    struct statvfs fs;
    if (statvfs(w->dir, &fs) != 0) return failed(w, w->dir, errno);
    uint64_t room = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (room < w->all_bytes + (1 << 20)) {
        return err_set(w->e, ERR_IO, NULL, "%s: needs %.1f GB, the file system has %.1f GB free",
                       w->dir, (double)w->all_bytes / 1e9, (double)room / 1e9);
    }
    return 0;
}

static int write_all(writer *w) {
    uint64_t done = 0;
    for (size_t i = 0; i < w->n_files; i++) {
        if (write_file(w, &w->files[i], done) != 0) return -1;
        done += w->files[i].bytes;
    }
    /* What makes the folder a model comes last. */
    if (write_config(w) != 0) return -1;
    for (size_t i = 0; i < w->n_files; i++) {
        if (rename(w->files[i].temp, w->files[i].name) != 0) {
            return failed(w, w->files[i].name, errno);
        }
        w->files[i].in_place = true;
    }
    return w->opts->shard_bytes ? write_index(w) : 0;
}

/* Removes what a failed call made. */
static void undo(writer *w) {
    for (size_t i = 0; i < w->n_files; i++) {
        const out_file *f = &w->files[i];
        if (f->temp && !f->in_place) (void)unlink(f->temp);
        if (f->name && f->in_place) (void)unlink(f->name);
    }
    (void)unlink(w->config);
    if (w->made_dir) (void)rmdir(w->dir);
}

int model_init_write(const char *dir, const model_plan *plan, const model_init_opts *opts, err *e) {
    writer w = {.dir = dir, .opts = opts, .n_files = 1, .e = e};
    model_plan p = *plan;
    float depth = opts->mean_depth;
    int rc = -1;
    if (depth == 0) depth = (float)p.loops_default * 3 / 8 + 1;
    if (!(depth >= 1 && depth <= (float)p.loops_default)) {
        return err_set(e, ERR_USAGE, "mean-depth", "the mean depth is %g, expected 1 to %u",
                       (double)depth, p.loops_default);
    }
    if (opts->mean_depth > 0 && p.exit == EXIT_HAZARD) p.exit_threshold = MODEL_HAZARD_AT;
    model__recipe_init(&w.recipe, &p, opts->seed, depth);
    w.files = array_new(MAX_FILES, sizeof *w.files);
    if (w.files == NULL) {
        no_memory(&w);
        goto done;
    }
    if (model__wants(&p, plan_tensor, &w) != 0 || name_files(&w) != 0 || check_folder(&w) != 0)
        goto done;
    rc = write_all(&w);
    if (rc != 0) undo(&w);
done:
    if (rc != 0 && w.made_dir) (void)rmdir(dir);
    for (size_t i = 0; w.files && i < w.n_files; i++) {
        free(w.files[i].temp);
        free(w.files[i].name);
    }
    free(w.files);
    free(w.tensors);
    free(w.config);
    return rc;
}

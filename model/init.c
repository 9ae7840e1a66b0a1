/* init.c - writes a model folder of random weights, by several threads.
 *
 * Every byte is a pure function of (seed, tensor, place), so the split over threads and files
 * changes nothing. Files get their final names only when complete. */
#include "base/file.h"
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
    char *config; /* path; owned; made first, so undo() needs no memory */
    bool made_dir;
    err *err;
} writer;

static int no_memory(writer *ctx) {
    return err_set(ctx->err, ERR_NO_MEMORY, NULL, "%s: out of memory", ctx->dir);
}

static int failed(writer *ctx, const char *path, int why) {
    return err_set(ctx->err, ERR_IO, NULL, "%s: %s", path, strerror(why));
}

/* ---- the layout: a file and an offset for each tensor ---- */

/* Values of the file's tensor. Of a tensor in slices, each slice is planned by itself. */
static uint64_t file_values(const model__want *want) {
    model__shape shape = model__file_shape(want);
    uint64_t n = 1;
    for (uint32_t i = 0; i < shape.rank; i++)
        n *= shape.sizes[i];
    return n;
}

static int plan_tensor(void *ud, const model__want *want) {
    writer *ctx = ud;
    if (want->optional) return 0; /* the head stays tied */
    if (ctx->n_tensors == ctx->cap) {
        size_t cap = ctx->cap ? 2 * ctx->cap : 256;
        planned *more = realloc(ctx->tensors, cap * sizeof *more);
        if (more == NULL) return no_memory(ctx);
        ctx->tensors = more;
        ctx->cap = cap;
    }
    planned *tensor = &ctx->tensors[ctx->n_tensors++];
    size_t value = model_dtype_bytes(ctx->opts->dtype);
    uint64_t bytes = want->shape[0] * want->shape[1] * value;
    out_file *file = &ctx->files[ctx->n_files - 1];
    if (ctx->opts->shard_bytes && file->bytes > 0 && want->first_row == 0 &&
        file->bytes + file_values(want) * value > ctx->opts->shard_bytes) {
        if (ctx->n_files == MAX_FILES) {
            return err_set(ctx->err, ERR_USAGE, "shard-bytes",
                           "more than %d shards; make them larger", MAX_FILES);
        }
        file = &ctx->files[ctx->n_files++];
        file->first_tensor = ctx->n_tensors - 1;
    }
    *tensor = (planned){.want = *want,
                        .fill = model__recipe_fill(&ctx->recipe, want),
                        .first = file->bytes,
                        .bytes = bytes,
                        .file = (uint32_t)(ctx->n_files - 1)};
    file->bytes += bytes;
    file->n_tensors++;
    ctx->all_bytes += bytes;
    return 0;
}

static int name_files(writer *ctx) {
    buf config = {0};
    buf_printf(&config, "%s/config.json", ctx->dir);
    ctx->config = config.data;
    if (config.failed) return no_memory(ctx);
    for (size_t i = 0; i < ctx->n_files; i++) {
        buf name = {0}, temp = {0};
        if (ctx->opts->shard_bytes == 0) buf_printf(&name, "%s/model.safetensors", ctx->dir);
        else
            buf_printf(&name, "%s/model-%05zu-of-%05zu.safetensors", ctx->dir, i + 1, ctx->n_files);
        buf_printf(&temp, "%s.part", name.data ? name.data : "");
        ctx->files[i].name = name.data;
        ctx->files[i].temp = temp.data;
        if (name.failed || temp.failed) return no_memory(ctx);
    }
    return 0;
}

/* The entry of a tensor; none for a slice after its first. */
static void put_entry(const writer *ctx, const planned *tensor, buf *out) {
    model_dtype dtype = ctx->opts->dtype;
    model__shape shape = model__file_shape(&tensor->want);
    if (tensor->want.first_row > 0) return;
    buf_printf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", tensor->want.name,
               model_dtype_name(dtype));
    for (uint32_t i = 0; i < shape.rank; i++)
        buf_printf(out, "%s%llu", i ? "," : "", (unsigned long long)shape.sizes[i]);
    uint64_t end = tensor->first + file_values(&tensor->want) * model_dtype_bytes(dtype);
    buf_printf(out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)tensor->first,
               (unsigned long long)end);
}

static int make_header(const writer *ctx, const out_file *file, buf *out) {
    buf_append(out, "\0\0\0\0\0\0\0\0", 8);
    buf_puts(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < file->n_tensors; i++)
        put_entry(ctx, &ctx->tensors[file->first_tensor + i], out);
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
    writer *ctx;
    const out_file *file;
    int fd;
    uint64_t n_chunks, done_before; /* bytes of earlier files */
    _Atomic uint64_t next, done;    /* chunk to take; bytes written */
    _Atomic int why;                /* first errno, 0 if none */
} job;

static int write_at(int fd, const unsigned char *bytes, size_t n, uint64_t at) {
    while (n > 0) {
        ssize_t wrote = pwrite(fd, bytes, n, (off_t)at);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return errno;
        bytes += wrote;
        n -= (size_t)wrote;
        at += (uint64_t)wrote;
    }
    return 0;
}

/* Fills bytes [from, to) of the file's data. Chunks and tensors hold whole values. */
static void fill_chunk(const job *task, uint64_t from, uint64_t to, unsigned char *out) {
    const planned *tensor = &task->ctx->tensors[task->file->first_tensor];
    model_dtype dtype = task->ctx->opts->dtype;
    size_t value = model_dtype_bytes(dtype);
    while (tensor->first + tensor->bytes <= from)
        tensor++;
    for (uint64_t at = from; at < to; tensor++) {
        uint64_t end = tensor->first + tensor->bytes < to ? tensor->first + tensor->bytes : to;
        model__fill_values(&tensor->fill, dtype, (at - tensor->first) / value,
                           (size_t)(end - at) / value, out + (at - from));
        at = end;
    }
}

static void work(job *task, unsigned char *scratch, bool report) {
    const model_init_opts *opts = task->ctx->opts;
    for (;;) {
        uint64_t chunk = atomic_fetch_add(&task->next, 1);
        if (chunk >= task->n_chunks || atomic_load(&task->why) != 0) return;
        uint64_t from = chunk * CHUNK_BYTES, to = from + CHUNK_BYTES;
        if (to > task->file->bytes) to = task->file->bytes;
        fill_chunk(task, from, to, scratch);
        int why = write_at(task->fd, scratch, (size_t)(to - from), task->file->data_at + from),
            none = 0;
        if (why != 0) atomic_compare_exchange_strong(&task->why, &none, why);
        uint64_t done = atomic_fetch_add(&task->done, to - from) + (to - from);
        if (report && opts->progress)
            opts->progress(opts->ud, task->done_before + done, task->ctx->all_bytes);
    }
}

static void *helper(void *arg) {
    unsigned char *scratch = malloc(CHUNK_BYTES);
    if (scratch) work(arg, scratch, false); /* without memory the other threads do its share */
    free(scratch);
    return NULL;
}

static int run_job(job *task) {
    unsigned char *scratch = malloc(CHUNK_BYTES);
    if (scratch == NULL) return no_memory(task->ctx);
    machine here;
    machine_read(&here);
    pthread_t threads[MAX_THREADS];
    size_t n = 0;
    while (n + 1 < machine_threads(&here) && n < MAX_THREADS && n + 1 < task->n_chunks) {
        if (pthread_create(&threads[n], NULL, helper, task) != 0) break;
        n++;
    }
    work(task, scratch, true);
    for (size_t i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
    free(scratch);
    int why = atomic_load(&task->why);
    return why ? failed(task->ctx, task->file->temp, why) : 0;
}

static int write_file(writer *ctx, out_file *file, uint64_t done_before) {
    buf header = {0};
    int rc = -1, fd = -1;
    if (make_header(ctx, file, &header) != 0) {
        no_memory(ctx);
        goto done;
    }
    file->data_at = header.len;
    fd = open(file->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int why = fd < 0 ? errno : write_at(fd, (unsigned char *)header.data, header.len, 0);
    if (why != 0) {
        failed(ctx, file->temp, why);
        goto done;
    }
    job task = {.ctx = ctx,
                .file = file,
                .fd = fd,
                .done_before = done_before,
                .n_chunks = (file->bytes + CHUNK_BYTES - 1) / CHUNK_BYTES};
    if (run_job(&task) != 0) goto done;
    rc = fsync(fd) != 0 ? failed(ctx, file->temp, errno) : 0;
done:
    if (fd >= 0) close(fd);
    buf_deinit(&header);
    return rc;
}

/* ---- the small files ---- */

/* Writes dir/name through a temporary name. */
static int write_text(writer *ctx, const char *name, const buf *text) {
    buf path = {0}, temp = {0};
    buf_printf(&path, "%s/%s", ctx->dir, name);
    buf_printf(&temp, "%s/%s.part", ctx->dir, name);
    int rc = -1, fd = -1;
    if (text->failed || path.failed || temp.failed) {
        no_memory(ctx);
        goto done;
    }
    fd = open(temp.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    int why = fd < 0 ? errno : write_at(fd, (unsigned char *)text->data, text->len, 0);
    if (why == 0 && fsync(fd) != 0) why = errno;
    if (why == 0 && rename(temp.data, path.data) != 0) why = errno;
    if (why != 0) {
        failed(ctx, path.data, why);
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

static int write_config(writer *ctx) {
    static const char *const names[] = {
        [DTYPE_F32] = "float32", [DTYPE_F16] = "float16", [DTYPE_BF16] = "bfloat16"};
    buf text = {0};
    plan_write(&text, ctx->recipe.plan, names[ctx->opts->dtype]);
    int rc = write_text(ctx, "config.json", &text);
    buf_deinit(&text);
    return rc;
}

static int write_index(writer *ctx) {
    buf text = {0};
    buf_printf(&text, "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {",
               (unsigned long long)ctx->all_bytes);
    for (size_t i = 0; i < ctx->n_tensors; i++) {
        if (ctx->tensors[i].want.first_row > 0) continue;
        const char *file = strrchr(ctx->files[ctx->tensors[i].file].name, '/') + 1;
        buf_printf(&text, "%s\n    \"%s\": \"%s\"", i ? "," : "", ctx->tensors[i].want.name, file);
    }
    buf_puts(&text, "\n  }\n}\n");
    int rc = write_text(ctx, "model.safetensors.index.json", &text);
    buf_deinit(&text);
    return rc;
}

/* ---- the whole ---- */

/* Free bytes of the file system that holds the folder, or will once it is made in its parent. */
static int room_of(uint64_t *out, const char *dir, err *e) {
    struct statvfs fs;
    *out = 0;
    int rc = statvfs(dir, &fs), why = errno;
    if (rc != 0 && why == ENOENT) {
        buf parent = {0};
        file_parent(&parent, dir);
        rc = parent.failed ? -1 : statvfs(parent.data, &fs);
        why = parent.failed ? ENOMEM : errno;
        buf_deinit(&parent);
    }
    if (rc != 0) return err_set(e, ERR_IO, NULL, "%s: %s", dir, strerror(why));
    *out = (uint64_t)fs.f_bavail * fs.f_frsize;
    return 0;
}

static int check_names(const char *dir, err *e) {
    static const char *const taken[] = {"model.safetensors", "model.safetensors.index.json",
                                        "config.json"};
    for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
        buf path = {0};
        struct stat st;
        buf_printf(&path, "%s/%s", dir, taken[i]);
        int rc = 0;
        if (path.failed) rc = err_set(e, ERR_NO_MEMORY, NULL, "%s: out of memory", dir);
        else if (lstat(path.data, &st) == 0)
            rc = err_set(e, ERR_USAGE, "out", "%s: exists already; nothing is overwritten",
                         path.data);
        buf_deinit(&path);
        if (rc != 0) return rc;
    }
    return 0;
}

int model_init_check(const char *dir, uint64_t bytes, err *e) {
    uint64_t room;
    if (check_names(dir, e) != 0 || room_of(&room, dir, e) != 0) return -1;
    if (room >= bytes + (1 << 20)) return 0;
    return err_set(e, ERR_IO, NULL, "%s: needs %.1f GB, the file system has %.1f GB free", dir,
                   (double)bytes / 1e9, (double)room / 1e9);
}

static int check_folder(writer *ctx) {
    if (mkdir(ctx->dir, 0755) == 0) ctx->made_dir = true;
    else if (errno != EEXIST) return failed(ctx, ctx->dir, errno);
    return model_init_check(ctx->dir, ctx->all_bytes, ctx->err);
}

static int write_all(writer *ctx) {
    uint64_t done = 0;
    for (size_t i = 0; i < ctx->n_files; i++) {
        if (write_file(ctx, &ctx->files[i], done) != 0) return -1;
        done += ctx->files[i].bytes;
    }
    /* The weights get their names last: they make the folder a model. */
    if (write_config(ctx) != 0) return -1;
    for (size_t i = 0; i < ctx->n_files; i++) {
        if (rename(ctx->files[i].temp, ctx->files[i].name) != 0) {
            return failed(ctx, ctx->files[i].name, errno);
        }
        ctx->files[i].in_place = true;
    }
    return ctx->opts->shard_bytes ? write_index(ctx) : 0;
}

/* Removes the files of a failed call. */
static void undo(writer *ctx) {
    for (size_t i = 0; i < ctx->n_files; i++) {
        const out_file *file = &ctx->files[i];
        if (file->temp && !file->in_place) (void)unlink(file->temp);
        if (file->name && file->in_place) (void)unlink(file->name);
    }
    (void)unlink(ctx->config);
    if (ctx->made_dir) (void)rmdir(ctx->dir);
}

/* The threshold that gives the mean depth. Rules with a halting gate get it from the gate's
 * weights. */
static void set_threshold(model_plan *plan, float mean_depth) {
    if (plan->exit == EXIT_HAZARD) {
        plan->exit_threshold = MODEL_HAZARD_AT;
    } else if (plan->exit != EXIT_ACT && plan_allows_exit(plan, EXIT_LATENT_DIFF)) {
        plan->exit = EXIT_LATENT_DIFF;
        plan->exit_threshold = model__depth_threshold(plan, mean_depth);
    }
}

int model_init_write(const char *dir, const model_plan *plan, const model_init_opts *opts, err *e) {
    writer ctx = {.dir = dir, .opts = opts, .n_files = 1, .err = e};
    model_plan own = *plan;
    float depth = opts->mean_depth;
    int rc = -1;
    if (depth == 0) depth = (float)own.loops_default * 3 / 8 + 1;
    if (opts->mean_depth == 0 && own.loops_default == 1) depth = 1;
    if (!(depth >= 1 && depth <= (float)own.loops_default)) {
        return err_set(e, ERR_USAGE, "mean-depth", "the mean depth is %g, expected 1 to %u",
                       (double)depth, own.loops_default);
    }
    if (!(opts->motion >= 0 && opts->motion <= 1))
        return err_set(e, ERR_USAGE, "motion", "the motion is %g, expected 0 to 1",
                       (double)opts->motion);
    if (opts->mean_depth > 0) set_threshold(&own, depth);
    model__recipe_init(&ctx.recipe, &own, opts->seed, depth, opts->motion);
    ctx.files = array_new(MAX_FILES, sizeof *ctx.files);
    if (ctx.files == NULL) {
        no_memory(&ctx);
        goto done;
    }
    if (model__wants(&own, plan_tensor, &ctx) != 0 || name_files(&ctx) != 0 ||
        check_folder(&ctx) != 0)
        goto done;
    rc = write_all(&ctx);
    if (rc != 0) undo(&ctx);
done:
    if (rc != 0 && ctx.made_dir) (void)rmdir(dir);
    for (size_t i = 0; ctx.files && i < ctx.n_files; i++) {
        free(ctx.files[i].temp);
        free(ctx.files[i].name);
    }
    free(ctx.files);
    free(ctx.tensors);
    free(ctx.config);
    return rc;
}

/* packed_file.c - the packed weights of a model kept in a file in its folder, so that the
 * next start maps them instead of packing.
 *
 * The file is one page of header, then the image. It is written under another name, synced
 * and renamed, so a reader sees all of it or none; a header that does not fit the model, a
 * wrong size or a wrong page sum means packing again. The key covers the layout, the kinds
 * and shapes of all matrices, samples of their values, and the model files' sizes and
 * times. */
#include "base/hash.h"
#include "base/log.h"
#include "engine/cpu/cpu_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LAYOUT_VERSION = 1, PAGE = 4096, SAMPLES = 16, SAMPLE_BYTES = 64 };

typedef struct {
    char magic[8];
    uint64_t key, image_bytes, page_sum, header_sum; /* the last: over what stands before it */
} header;

static const char magic[8] = "FATHOMPK";

uint64_t eng__hash(uint64_t seed, const void *bytes, size_t n) { /* FNV-1a, then mixed */
    uint64_t h = hash_fnv(seed ^ HASH_FNV_START, bytes, n);
    h ^= h >> 32;
    return h * HASH_STEP;
}

uint64_t eng__hash_tensor(uint64_t seed, const model_tensor *t) {
    seed = eng__hash(seed, &t->dtype, sizeof t->dtype);
    seed = eng__hash(seed, t->shape, t->rank * sizeof t->shape[0]);
    size_t n = t->bytes < SAMPLE_BYTES ? t->bytes : SAMPLE_BYTES;
    for (size_t i = 0; i < SAMPLES; i++) {
        size_t at = (t->bytes - n) / (SAMPLES - 1) * i;
        seed = eng__hash(seed, (const uint8_t *)t->data + at, n);
    }
    return seed;
}

/* Sizes and times of the folder's weight files, in any order of the directory. */
static uint64_t hash_files(const char *dir) {
    uint64_t sum = 0;
    DIR *d = opendir(dir);
    if (d == NULL) return 0;
    for (struct dirent *entry; (entry = readdir(d)) != NULL;) {
        struct stat st;
        size_t n = strlen(entry->d_name);
        if (n < 12 || strcmp(entry->d_name + n - 12, ".safetensors") != 0) continue;
        if (fstatat(dirfd(d), entry->d_name, &st, 0) != 0) continue;
        int64_t facts[3] = {(int64_t)st.st_size, (int64_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
        sum += eng__hash(eng__hash(1, entry->d_name, n), facts, sizeof facts);
    }
    closedir(d);
    return sum;
}

static uint64_t full_key(const eng__cpu *g) {
    const uint32_t layout[] = {LAYOUT_VERSION, ENG__PANEL, ENG__GROUP};
    uint64_t files = hash_files(model_dir(g->model));
    uint64_t key = eng__hash(g->image.key, layout, sizeof layout);
    return eng__hash(key, &files, sizeof files);
}

static void file_name(const eng__cpu *g, char *out, size_t n, const char *suffix) {
    bool int8 = g->opts.weights == ENG_WEIGHTS_INT8;
    (void)snprintf(out, n, "%s/fathom-packed%s.bin%s", model_dir(g->model), int8 ? "-int8" : "",
                   suffix);
}

/* ---- the sum: a line of every page, so that a page that never reached the disk shows ---- */

typedef struct {
    const uint8_t *data;
    size_t bytes;
    _Atomic uint64_t sum;
} summing;

enum { PAGES_PER_ITEM = 256 };

static void sum_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    summing *s = arg;
    uint64_t sum = 0;
    size_t at = (size_t)first * PAGES_PER_ITEM * PAGE, end = (size_t)last * PAGES_PER_ITEM * PAGE;
    (void)worker;
    for (; at < end && at < s->bytes; at += PAGE) {
        uint64_t v[SAMPLE_BYTES / 8], h = at;
        size_t n = s->bytes - at < sizeof v ? s->bytes - at : sizeof v;
        memset(v, 0, sizeof v);
        memcpy(v, s->data + at, n);
        for (size_t i = 0; i < ARRAY_LEN(v); i++)
            h = (h ^ v[i]) * HASH_STEP;
        sum += h ^ h >> 29;
    }
    atomic_fetch_add_explicit(&s->sum, sum, memory_order_relaxed);
}

static uint64_t page_sum(const eng__cpu *g, const uint8_t *data, size_t bytes) {
    summing s = {.data = data, .bytes = bytes};
    size_t items = bytes / ((size_t)PAGES_PER_ITEM * PAGE) + 1;
    eng__pool_run(g->pool, sum_work, &s, (uint32_t)items, 4);
    return atomic_load(&s.sum);
}

/* ---- reading ---- */

static bool fits(const eng__cpu *g, const header *h) {
    return memcmp(h->magic, magic, sizeof magic) == 0 && h->key == full_key(g) &&
           h->image_bytes == g->image.bytes &&
           h->header_sum == eng__hash(0, h, offsetof(header, header_sum));
}

bool eng__packed_open(eng__cpu *g) {
    char path[4096];
    struct stat st;
    header h;
    file_name(g, path, sizeof path, "");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    size_t bytes = g->image.bytes + PAGE;
    bool good = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == bytes &&
                pread(fd, &h, sizeof h, 0) == (ssize_t)sizeof h && fits(g, &h);
    void *map = good ? mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (map == MAP_FAILED) return false;
    (void)madvise(map, bytes, MADV_WILLNEED);
    if (page_sum(g, (uint8_t *)map + PAGE, g->image.bytes) != h.page_sum) {
        log_line(LOG_WARN, "the packed weights in %s are damaged; packing again", path);
        munmap(map, bytes);
        return false;
    }
    g->image.map = map;
    g->image.mapped = bytes;
    g->image.data = (uint8_t *)map + PAGE;
    return true;
}

/* ---- writing ---- */

static bool write_all(int fd, const uint8_t *p, size_t n) {
    while (n > 0) {
        ssize_t wrote = write(fd, p, n < (1u << 30) ? n : 1u << 30);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return false;
        p += wrote;
        n -= (size_t)wrote;
    }
    return true;
}

static void sync_folder(const char *dir) {
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    (void)fsync(fd);
    close(fd);
}

bool eng__packed_save(eng__cpu *g) {
    char path[4096], temp[4096], suffix[32];
    uint8_t page[PAGE] = {0};
    header h = {.key = full_key(g), .image_bytes = g->image.bytes};
    memcpy(h.magic, magic, sizeof magic);
    h.page_sum = page_sum(g, g->image.data, g->image.bytes);
    h.header_sum = eng__hash(0, &h, offsetof(header, header_sum));
    memcpy(page, &h, sizeof h);
    (void)snprintf(suffix, sizeof suffix, ".%ld.tmp", (long)getpid());
    file_name(g, path, sizeof path, "");
    file_name(g, temp, sizeof temp, suffix);
    int fd = open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    bool good = fd >= 0 && write_all(fd, page, sizeof page) &&
                write_all(fd, g->image.data, g->image.bytes) && fsync(fd) == 0;
    int why = errno;
    if (fd >= 0 && close(fd) != 0) good = false;
    if (good && rename(temp, path) != 0) {
        why = errno;
        good = false;
    }
    if (!good) {
        if (fd >= 0) (void)unlink(temp);
        log_line(LOG_WARN, "cannot keep packed weights in %s: %s", path, strerror(why));
        return false;
    }
    sync_folder(model_dir(g->model));
    return true;
}

/* packed_file.c - keeps the packed weights of a model in a file in its folder, so the next start
 * maps them instead of packing.
 *
 * The file is one page of header, then the image. It is written under another name, synced and
 * renamed, so a reader sees the whole file or none. If the header does not match the model, or the
 * size or checksum is wrong, the weights are packed again. The key covers the layout, the kinds and
 * shapes of all matrices, samples of their values, and the sizes and times of the model files.
 *
 * The checksum covers every byte and is checked before the first token. Checking during the first
 * answers would not start sooner: every page must be read from the disk anyway, and the pool sums
 * faster than a disk or memory reads. */
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/mapped.h"
#include "base/size.h"
#include "engine/cpu/cpu_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    LAYOUT_VERSION = 2,
    PAGE = 4096,
    WRITE_BYTES = 16 << 20, /* of one call, so that progress shows */
    STALE_SECONDS = 300     /* a temporary file of this age without a writer is removed */
};

typedef struct {
    char magic[8];
    uint64_t key, image_bytes, image_sum, header_sum; /* header_sum: of the fields before it */
} file_header;

static const char magic[8] = "FATHOMPK";

/* ---- the folder ---- */

static bool ends_in(const char *name, const char *suffix) {
    size_t n = strlen(name), n_suffix = strlen(suffix);
    return n >= n_suffix && strcmp(name + n - n_suffix, suffix) == 0;
}

/* A rank keeps its own part under a name of its own. */
static const char *name_of(const eng__cpu *cpu) {
    return cpu->image.name;
}

static void set_name(eng__cpu *cpu) {
    static const char *const kinds[ENG_WEIGHTS_KINDS] = {
        [ENG_WEIGHTS_AS_STORED] = "",
        [ENG_WEIGHTS_BF16] = "-bf16",
        [ENG_WEIGHTS_INT8] = "-int8",
    };
    const eng_ranks *ranks = cpu->opts.ranks;
    char part[32] = "";
    if (ranks) (void)snprintf(part, sizeof part, "-rank%u-of-%u", ranks->rank, ranks->n);
    (void)snprintf(cpu->image.name, sizeof cpu->image.name, "fathom-packed%s%s.bin",
                   kinds[cpu->opts.weights], part);
}

static int open_folder(const eng__cpu *cpu) {
    return open(model_dir(cpu->model), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

typedef struct {
    uint64_t hash; /* of names, sizes and times, independent of their order in the directory */
    mode_t mode;   /* permissions common to all files, and read and write for the owner */
} weight_files;

/* Facts about the weight files of the folder. */
static weight_files look_at_sources(const eng__cpu *cpu) {
    weight_files files = {.mode = 0666};
    DIR *dir = opendir(model_dir(cpu->model));
    if (dir == NULL) return (weight_files){.mode = 0600};
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        struct stat st;
        if (!ends_in(entry->d_name, ".safetensors")) continue;
        if (fstatat(dirfd(dir), entry->d_name, &st, 0) != 0) continue;
        int64_t facts[3] = {(int64_t)st.st_size, (int64_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec};
        files.hash +=
            hash_seeded(hash_seeded(1, entry->d_name, strlen(entry->d_name)), facts, sizeof facts);
        files.mode &= st.st_mode;
    }
    closedir(dir);
    files.mode |= 0600;
    return files;
}

static uint64_t full_key(const eng__cpu *cpu, const weight_files *files) {
    const uint32_t layout[] = {LAYOUT_VERSION, ENG__PANEL, ENG__GROUP};
    uint64_t key = hash_seeded(cpu->image.key, layout, sizeof layout);
    return hash_seeded(key, &files->hash, sizeof files->hash);
}

/* ---- the sum of every byte ---- */

typedef struct {
    const uint8_t *data;
    size_t bytes;
    _Atomic uint64_t sum;
    _Atomic bool unreadable;
    progress *bar; /* NULL: none */
} sum_job;

enum { PAGES_PER_ITEM = 256, LINE = 32 };

/* One to one in both arguments, so one changed word always shows. Without the rotation two changed
 * top bits would cancel. */
static inline uint64_t step(uint64_t lane, uint64_t word) {
    lane ^= word;
    return (lane << 29 | lane >> 35) * HASH_STEP;
}

typedef struct {
    uint64_t lane0, lane1, lane2, lane3; /* four lanes: one would wait for its multiplications */
} hash_lanes;

static inline void take_line(hash_lanes *lanes, const uint8_t *bytes) {
    uint64_t word[LINE / 8];
    memcpy(word, bytes, LINE);
    lanes->lane0 = step(lanes->lane0, word[0]);
    lanes->lane1 = step(lanes->lane1, word[1]);
    lanes->lane2 = step(lanes->lane2, word[2]);
    lanes->lane3 = step(lanes->lane3, word[3]);
}

/* Hash of n <= PAGE bytes at `at` in the image; a short last line is filled with 0. */
static uint64_t hash_page(const uint8_t *bytes, size_t n, size_t at) {
    hash_lanes lanes = {1, 2, 3, 4};
    size_t i = 0;
    for (; i + LINE <= n; i += LINE)
        take_line(&lanes, bytes + i);
    if (i < n) {
        uint8_t last[LINE] = {0};
        memcpy(last, bytes + i, n - i);
        take_line(&lanes, last);
    }
    return hash_mix(
        hash_mix(hash_mix(hash_mix(hash_mix(at + 1) ^ lanes.lane0) ^ lanes.lane1) ^ lanes.lane2) ^
        lanes.lane3);
}

/* Touching an unreadable or missing page of a mapped file ends the process with SIGBUS; this call
 * reports it as an error. Old kernels lack the call. */
static bool readable(const uint8_t *start, size_t n) {
#ifdef MADV_POPULATE_READ
    return madvise((void *)(uintptr_t)start, n, MADV_POPULATE_READ) == 0 ||
           (errno != EFAULT && errno != EHWPOISON);
#else
    (void)start, (void)n;
    return true;
#endif
}

static void sum_work(void *arg, uint32_t first, uint32_t last, uint32_t worker) {
    sum_job *job = arg;
    (void)worker;
    for (uint32_t item = first; item < last; item++) {
        size_t from = (size_t)item * PAGES_PER_ITEM * PAGE, to = from + PAGES_PER_ITEM * PAGE;
        if (to > job->bytes) to = job->bytes;
        if (from >= to) return;
        if (!readable(job->data + from, to - from)) {
            atomic_store_explicit(&job->unreadable, true, memory_order_relaxed);
            return;
        }
        uint64_t sum = 0;
        for (size_t at = from; at < to; at += PAGE)
            sum += hash_page(job->data + at, to - at < PAGE ? to - at : PAGE, at);
        atomic_fetch_add_explicit(&job->sum, sum, memory_order_relaxed);
        if (job->bar) progress_add(job->bar, to - from);
    }
}

bool eng__image_sum(eng__pool *pool, const uint8_t *data, size_t bytes, uint64_t *sum,
                    progress *bar) {
    sum_job job = {.data = data, .bytes = bytes, .bar = bar};
    size_t items = bytes / ((size_t)PAGES_PER_ITEM * PAGE) + 1;
    if (items > UINT32_MAX) return false;
    eng__pool_run(pool, sum_work, &job, (uint32_t)items, 4);
    *sum = atomic_load(&job.sum);
    return !atomic_load(&job.unreadable);
}

/* ---- reading ---- */

static bool fits(const eng__cpu *cpu, const file_header *header) {
    weight_files files = look_at_sources(cpu);
    return memcmp(header->magic, magic, sizeof magic) == 0 &&
           header->key == full_key(cpu, &files) && header->image_bytes == cpu->image.bytes &&
           header->header_sum == hash_seeded(0, header, offsetof(file_header, header_sum));
}

/* Maps the file at fd; fd stays open. */
static bool take_map(eng__cpu *cpu, int fd, off_t size, const char *dir) {
    file_header header;
    uint64_t sum = 0;
    size_t bytes;
    if (!size_add(cpu->image.bytes, PAGE, &bytes)) return false;
    if ((uint64_t)size != bytes || pread(fd, &header, sizeof header, 0) != (ssize_t)sizeof header ||
        !fits(cpu, &header)) {
        log_line(LOG_INFO, "%s/%s does not match the weights; packing again", dir, name_of(cpu));
        return false;
    }
    uint8_t *map = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) return false;
    char path[PATH_MAX];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name_of(cpu));
    if (mapped_note(map, bytes, path, NULL) != 0) {
        munmap(map, bytes);
        return false;
    }
    (void)madvise(map, bytes, MADV_WILLNEED);
    progress bar;
    progress_start(&bar, "reading packed weights", NULL, cpu->image.bytes);
    bool readable_all = eng__image_sum(cpu->pool, map + PAGE, cpu->image.bytes, &sum, &bar);
    progress_stop(&bar);
    if (!readable_all || sum != header.image_sum) {
        log_line(LOG_WARN, "%s is damaged; packing again", path);
        mapped_forget(map);
        munmap(map, bytes);
        return false;
    }
    cpu->image.map = map;
    cpu->image.mapped = bytes;
    cpu->image.data = map + PAGE;
    return true;
}

bool eng__packed_open(eng__cpu *cpu) {
    const char *dir = model_dir(cpu->model);
    struct stat st;
    err why = {0};
    set_name(cpu);
    int folder = open_folder(cpu);
    if (folder < 0) return false;
    /* A link is not followed: a save renames over it. */
    int fd = file_open_at(folder, name_of(cpu), O_NOFOLLOW, &st, &why);
    if (fd < 0 && errno != ENOENT) {
        log_line(LOG_WARN, "%s/%s; packing again", dir, why.msg);
    }
    close(folder);
    if (fd < 0) return false;
    bool mapped = take_map(cpu, fd, st.st_size, dir);
    close(fd);
    return mapped;
}

void eng__packed_close(eng__cpu *cpu) {
    if (cpu->image.map) {
        mapped_forget(cpu->image.map);
        munmap(cpu->image.map, cpu->image.mapped);
    }
    cpu->image.map = NULL;
    cpu->image.data = NULL;
}

/* ---- writing ---- */

static bool write_all(int fd, const uint8_t *bytes, size_t n, progress *bar) {
    while (n > 0) {
        ssize_t wrote = write(fd, bytes, n < WRITE_BYTES ? n : WRITE_BYTES);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote <= 0) return false;
        bytes += wrote;
        n -= (size_t)wrote;
        progress_add(bar, (uint64_t)wrote);
    }
    return true;
}

/* A living writer holds a lock on its file, so its file stays at any age. The age covers the moment
 * between creating and locking. */
static bool is_stale(int folder, const char *name) {
    struct stat st;
    int fd = file_open_at(folder, name, O_NOFOLLOW, &st, NULL);
    if (fd < 0) return false;
    bool stale =
        time(NULL) - st.st_mtim.tv_sec > STALE_SECONDS && flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return stale;
}

static void remove_stale(const eng__cpu *cpu, int folder) {
    size_t n = strlen(name_of(cpu));
    DIR *dir = opendir(model_dir(cpu->model));
    if (dir == NULL) return;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        const char *name = entry->d_name;
        if (strncmp(name, name_of(cpu), n) != 0 || name[n] != '.' || !ends_in(name, ".tmp"))
            continue;
        if (!is_stale(folder, name) || unlinkat(folder, name, 0) != 0) continue;
        log_line(LOG_INFO, "removed %s/%s, left by an interrupted start", model_dir(cpu->model),
                 name);
    }
    closedir(dir);
}

/* A new file under a random name; on a collision with another process it tries again. */
static int create_temp(const eng__cpu *cpu, int folder, char *name, size_t room) {
    int fd = -1;
    for (int tries = 0; tries < 8; tries++) {
        uint64_t number;
        if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number) return -1;
        (void)snprintf(name, room, "%s.%016" PRIx64 ".tmp", name_of(cpu), number);
        fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd >= 0 || errno != EEXIST) break;
    }
    if (fd >= 0) (void)flock(fd, LOCK_EX | LOCK_NB);
    return fd;
}

/* Writes the file and renames it. errno holds the reason of a failure. */
static bool save_in(eng__cpu *cpu, int folder, const uint8_t page[PAGE], mode_t mode) {
    char temp[96];
    int fd = create_temp(cpu, folder, temp, sizeof temp);
    if (fd < 0) return false;
    progress bar;
    progress_start(&bar, "writing packed weights", NULL, PAGE + cpu->image.bytes);
    bool good =
        write_all(fd, page, PAGE, &bar) && write_all(fd, cpu->image.data, cpu->image.bytes, &bar);
    if (good && fchmod(fd, mode) != 0 && errno != EPERM && errno != ENOTSUP) good = false;
    if (good && fsync(fd) != 0) good = false;
    if (good && renameat(folder, temp, folder, name_of(cpu)) != 0) good = false;
    int why = errno;
    progress_stop(&bar);
    if (!good) (void)unlinkat(folder, temp, 0);
    close(fd); /* releases the lock, after the name is gone */
    errno = why;
    return good;
}

bool eng__packed_save(eng__cpu *cpu) {
    uint8_t page[PAGE] = {0};
    weight_files files = look_at_sources(cpu);
    file_header header = {.key = full_key(cpu, &files), .image_bytes = cpu->image.bytes};
    memcpy(header.magic, magic, sizeof magic);
    if (!eng__image_sum(cpu->pool, cpu->image.data, cpu->image.bytes, &header.image_sum, NULL))
        return false;
    header.header_sum = hash_seeded(0, &header, offsetof(file_header, header_sum));
    memcpy(page, &header, sizeof header);
    int folder = open_folder(cpu);
    if (folder >= 0) remove_stale(cpu, folder);
    bool good = folder >= 0 && save_in(cpu, folder, page, files.mode);
    if (good) {
        (void)fsync(folder);
    } else {
        log_line(LOG_WARN, "cannot keep packed weights in %s/%s: %s", model_dir(cpu->model),
                 name_of(cpu), strerror(errno));
    }
    if (folder >= 0) close(folder);
    return good;
}

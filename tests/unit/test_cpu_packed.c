/* The packed weights kept beside a model: used again if every bit is right, packed again if not,
 * and never a reason to hang, to fail or to show weights to others. */
#include "base/clock.h"
#include "base/hash.h"
#include "engine/cpu/cpu_internal.h"
#include "tests/lib/files.h"
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"
#include "tests/unit/row_driver.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

TestSuite(cpu_packed, .fini = fail_on_leaks, .timeout = HANGS_S);

static const char *const mla = "tests/golden/cases/mla";
static const char *const packed = "fathom-packed.bin";
enum { POS = 20, VALUES = POS * 320, HEADER = 4096 };

static void copy_to(const tmp_dir *dir, const char *name) {
    size_t n;
    char *bytes = file_get(mla, name, &n);
    file_put(dir->path, name, bytes, n);
    free(bytes);
}

/* A copy of the golden model, alone in its folder. */
static tmp_dir model_copy(void) {
    tmp_dir dir = tmp_dir_create();
    copy_to(&dir, "config.json");
    copy_to(&dir, "model.safetensors");
    return dir;
}

static const char *path_in(const tmp_dir *dir, const char *name) {
    static char path[2][200];
    static int turn;
    char *out = path[turn ^= 1];
    snprintf(out, sizeof path[0], "%s/%s", dir->path, name);
    return out;
}

/* Opens the model and runs it; returns true if its weights came from the file. The caller frees
 * *logits. said receives the output on stderr; it may be NULL. */
static bool start(const tmp_dir *dir, float **logits, char *said, size_t room) {
    static driver drv;
    eng_backend_opts opts = {.threads = 2, .packed_cache = true};
    int kept = said ? stderr_catch() : -1;
    driver_open(&drv, dir->path, 6, KV_EXACT, &opts);
    if (said) stderr_release(kept, said, room);
    bool mapped = ((eng__cpu *)drv.backend)->image.map != NULL;
    if (logits) {
        driver_start(&drv, 1, POS);
        for (uint32_t pos = 0; pos < POS; pos++)
            drv.seq[0].ids[pos] = (pos * 37 + pos * pos) % 300;
        driver_run(&drv, POS);
        *logits = drv.seq[0].logits;
        drv.seq[0].logits = NULL;
    }
    driver_close(&drv);
    return mapped;
}

static bool starts_mapped(const tmp_dir *dir) {
    return start(dir, NULL, NULL, 0);
}

static size_t size_of(const char *path) {
    struct stat st;
    cr_assert_eq(lstat(path, &st), 0, "%s", path);
    return (size_t)st.st_size;
}

static void flip_bit(const char *path, size_t at, unsigned bit) {
    int fd = open(path, O_RDWR);
    unsigned char byte;
    cr_assert(fd >= 0 && pread(fd, &byte, 1, (off_t)at) == 1);
    byte ^= (unsigned char)(1u << bit);
    cr_assert_eq(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

static void says(const char *said, const char *want) {
    cr_assert_not_null(strstr(said, want), "expected \"%s\" in: %s", want, said);
}

Test(cpu_packed, the_second_start_maps_what_the_first_packed_and_answers_alike) {
    tmp_dir dir = model_copy();
    float *first, *second;
    cr_assert_not(start(&dir, &first, NULL, 0));
    cr_assert(start(&dir, &second, NULL, 0));
    cr_assert_eq(memcmp(first, second, VALUES * sizeof *first), 0);
    free(first);
    free(second);
    tmp_dir_remove(&dir);
}

Test(cpu_packed, each_kind_of_weights_has_a_file_of_its_own) {
    static driver drv;
    static const char *const names[ENG_WEIGHTS_KINDS] = {
        "fathom-packed.bin", "fathom-packed-bf16.bin", "fathom-packed-int8.bin"};
    tmp_dir dir = model_copy();
    for (int turn = 0; turn < 2; turn++) {
        for (size_t kind = 0; kind < ENG_WEIGHTS_KINDS; kind++) {
            eng_backend_opts opts = {
                .threads = 1, .packed_cache = true, .weights = (eng_weights)kind};
            driver_open(&drv, dir.path, 6, KV_EXACT, &opts);
            const eng__image *image = &((eng__cpu *)drv.backend)->image;
            cr_assert_eq(image->map != NULL, turn == 1, "%s", names[kind]);
            cr_assert_eq(size_of(path_in(&dir, names[kind])), HEADER + image->bytes);
            driver_close(&drv);
        }
    }
    tmp_dir_remove(&dir);
}

Test(cpu_packed, a_flipped_bit_at_any_place_is_seen_before_the_first_token) {
    tmp_dir dir = model_copy();
    const char *path = path_in(&dir, packed);
    float *want, *have;
    char said[2000];
    cr_assert_not(start(&dir, &want, NULL, 0));
    size_t size = size_of(path);
    uint64_t seed = clock_ns();
    for (size_t i = 0; i < 24; i++) {
        size_t at = HEADER + hash_mix(seed + i * HASH_STEP) % (size - HEADER);
        if (i == 0) at = 12; /* the header */
        if (i == 1) at = size - 1;
        flip_bit(path, at, (unsigned)(i % 8));
        cr_assert_not(start(&dir, i % 8 ? NULL : &have, said, sizeof said), "byte %zu, seed %zu",
                      at, (size_t)seed);
        says(said, i ? "fathom-packed.bin is damaged; packing again" : "packing again");
        if (i % 8) continue;
        cr_assert_eq(memcmp(want, have, VALUES * sizeof *want), 0, "byte %zu", at);
        free(have);
        cr_assert(starts_mapped(&dir), "the file was not made again");
    }
    free(want);
    tmp_dir_remove(&dir);
}

Test(cpu_packed, damage_that_a_weak_sum_would_cancel_is_seen) {
    tmp_dir dir = model_copy();
    const char *path = path_in(&dir, packed);
    cr_assert_not(starts_mapped(&dir));
    size_t page = 4096, line = 32;
    /* top bits of two words of one lane; one bit of every 32 bytes of a page; two pages swapped */
    flip_bit(path, HEADER + 7, 7);
    flip_bit(path, HEADER + 7 + line, 7);
    cr_assert_not(starts_mapped(&dir));
    for (size_t at = HEADER; at < HEADER + page; at += line)
        flip_bit(path, at, 0);
    cr_assert_not(starts_mapped(&dir));
    char first[4096], second[4096];
    int fd = open(path, O_RDWR);
    cr_assert_eq(pread(fd, first, page, HEADER), (ssize_t)page);
    cr_assert_eq(pread(fd, second, page, HEADER + (off_t)page), (ssize_t)page);
    cr_assert_neq(memcmp(first, second, page), 0);
    cr_assert_eq(pwrite(fd, second, page, HEADER), (ssize_t)page);
    cr_assert_eq(pwrite(fd, first, page, HEADER + (off_t)page), (ssize_t)page);
    close(fd);
    cr_assert_not(starts_mapped(&dir));
    cr_assert(starts_mapped(&dir));
    tmp_dir_remove(&dir);
}

Test(cpu_packed, a_file_cut_short_or_of_other_weights_is_made_again) {
    tmp_dir dir = model_copy();
    cr_assert_not(starts_mapped(&dir));
    size_t size = size_of(path_in(&dir, packed));
    const off_t cuts[] = {0, 7, 4096, 5000, (off_t)size - 1};
    for (size_t i = 0; i < ARRAY_LEN(cuts); i++) {
        cr_assert_eq(truncate(path_in(&dir, packed), cuts[i]), 0);
        cr_assert_not(starts_mapped(&dir), "cut to %ld bytes", (long)cuts[i]);
        cr_assert(starts_mapped(&dir));
    }
    flip_bit(path_in(&dir, "model.safetensors"), 400000, 6);
    cr_assert_not(starts_mapped(&dir));
    cr_assert(starts_mapped(&dir));
    tmp_dir_remove(&dir);
}

Test(cpu_packed, values_that_are_not_finite_are_packed_again_though_their_sum_is_right) {
    tmp_dir dir = model_copy();
    float *want, *have;
    char said[2000];
    static driver run;
    eng_backend_opts opts = {.threads = 2, .packed_cache = true};
    cr_assert_not(start(&dir, &want, NULL, 0));
    unlink(path_in(&dir, packed));
    driver_open(&run, dir.path, 6, KV_EXACT, &opts);
    eng__cpu *cpu = (eng__cpu *)run.backend;
    memset(cpu->image.data + (cpu->head.data - cpu->image.data), 0xff, cpu->head.panel_bytes);
    cr_assert(eng__packed_save(cpu));
    driver_close(&run);
    cr_assert_not(start(&dir, &have, said, sizeof said));
    says(said, "values that are not finite; packing again");
    cr_assert_eq(memcmp(want, have, VALUES * sizeof *want), 0);
    free(want);
    free(have);
    cr_assert(starts_mapped(&dir));
    tmp_dir_remove(&dir);
}

#ifdef MADV_POPULATE_READ
Test(cpu_packed, a_page_that_can_not_be_read_is_damage_and_no_signal) {
    tmp_dir dir = tmp_dir_create();
    eng__pool *pool;
    err e = {0};
    uint64_t sum;
    static char bytes[3 * 4096];
    file_put(dir.path, "image", bytes, sizeof bytes);
    int fd = open(path_in(&dir, "image"), O_RDWR);
    void *map = mmap(NULL, sizeof bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    cr_assert(map != MAP_FAILED);
    cr_assert_eq(eng__pool_create(&pool, 2, &e), 0);
    cr_assert(eng__image_sum(pool, map, sizeof bytes, &sum, NULL));
    cr_assert_eq(ftruncate(fd, 4096), 0);
    cr_assert_not(eng__image_sum(pool, map, sizeof bytes, &sum, NULL));
    eng__pool_destroy(pool);
    munmap(map, sizeof bytes);
    close(fd);
    tmp_dir_remove(&dir);
}
#endif

/* ---- other things in the file's place ---- */

static void put_fifo(const char *path) {
    cr_assert_eq(mkfifo(path, 0600), 0);
}
static void put_link(const char *path) {
    cr_assert_eq(symlink("/dev/zero", path), 0);
}
static void put_folder(const char *path) {
    cr_assert_eq(mkdir(path, 0700), 0);
}
static void put_socket(const char *path) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    close(fd);
}

Test(cpu_packed, no_kind_of_file_in_its_place_hangs_or_ends_the_start) {
    static void (*const put[])(const char *) = {put_fifo, put_link, put_socket, put_folder};
    for (size_t i = 0; i < ARRAY_LEN(put); i++) {
        tmp_dir dir = model_copy();
        char said[2000];
        put[i](path_in(&dir, packed));
        cr_assert_not(start(&dir, NULL, said, sizeof said), "row %zu", i);
        says(said, "fathom-packed.bin: expected a regular file, found something else");
        bool folder = put[i] == put_folder;
        if (folder) says(said, "cannot keep packed weights");
        cr_assert_eq(starts_mapped(&dir), !folder, "row %zu", i);
        tmp_dir_remove(&dir);
    }
}

/* ---- saving ---- */

static size_t count(const tmp_dir *dir, const char *pattern) {
    glob_t found;
    size_t n = glob(path_in(dir, pattern), 0, NULL, &found) == 0 ? found.gl_pathc : 0;
    globfree(&found);
    return n;
}

static void age(const char *path, time_t seconds) {
    struct timespec times[2] = {{.tv_sec = time(NULL) - seconds}, {.tv_sec = time(NULL) - seconds}};
    cr_assert_eq(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW), 0);
}

Test(cpu_packed, a_temporary_file_of_a_killed_start_blocks_no_save_and_is_removed) {
    tmp_dir dir = model_copy();
    char name[64];
    snprintf(name, sizeof name, "fathom-packed.bin.%ld.tmp", (long)getpid());
    file_put(dir.path, name, "half", 4); /* same process number, as in a container */
    cr_assert_not(starts_mapped(&dir));
    cr_assert(starts_mapped(&dir), "the save was blocked");
    cr_assert_eq(count(&dir, name), 1, "what may be another's save was removed");
    age(path_in(&dir, name), 3600);
    unlink(path_in(&dir, packed));
    char said[2000];
    cr_assert_not(start(&dir, NULL, said, sizeof said));
    says(said, "left by an interrupted start");
    cr_assert_eq(count(&dir, "*.tmp"), 0);
    tmp_dir_remove(&dir);
}

Test(cpu_packed, only_old_files_of_ours_without_a_writer_are_removed) {
    static const char *const kept[] = {"fathom-packed.bin.txt", "fathom-packed-int8.bin.1.tmp",
                                       "my-fathom-packed.bin.1.tmp", "fathom-packed.binary.tmp"};
    tmp_dir dir = model_copy();
    for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
        file_put(dir.path, kept[i], "x", 1);
        age(path_in(&dir, kept[i]), 7200);
    }
    put_fifo(path_in(&dir, "fathom-packed.bin.fifo.tmp"));
    put_link(path_in(&dir, "fathom-packed.bin.link.tmp"));
    put_folder(path_in(&dir, "fathom-packed.bin.folder.tmp"));
    age(path_in(&dir, "fathom-packed.bin.fifo.tmp"), 7200);
    age(path_in(&dir, "fathom-packed.bin.link.tmp"), 7200);
    file_put(dir.path, "fathom-packed.bin.slow.tmp", "x", 1);
    age(path_in(&dir, "fathom-packed.bin.slow.tmp"), 7200);
    int fd = open(path_in(&dir, "fathom-packed.bin.slow.tmp"), O_RDONLY);
    cr_assert_eq(flock(fd, LOCK_EX), 0); /* as its writer does */
    cr_assert_not(starts_mapped(&dir));
    for (size_t i = 0; i < ARRAY_LEN(kept); i++)
        cr_assert_eq(count(&dir, kept[i]), 1, "%s", kept[i]);
    cr_assert_eq(count(&dir, "fathom-packed.bin.*.tmp"), 4);
    close(fd);
    unlink(path_in(&dir, packed));
    cr_assert_not(starts_mapped(&dir));
    cr_assert_eq(count(&dir, "fathom-packed.bin.*.tmp"), 3, "the writer is gone");
    tmp_dir_remove(&dir);
}

Test(cpu_packed, the_file_is_as_private_as_the_weights_it_was_made_of) {
    static const mode_t modes[] = {0600, 0640, 0644, 0400};
    for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
        tmp_dir dir = model_copy();
        struct stat st;
        cr_assert_eq(chmod(path_in(&dir, "model.safetensors"), modes[i]), 0);
        cr_assert_not(starts_mapped(&dir));
        cr_assert_eq(stat(path_in(&dir, packed), &st), 0);
        cr_assert_eq(st.st_mode & 0777, modes[i] | 0600, "%o made of %o", st.st_mode & 0777,
                     modes[i]);
        tmp_dir_remove(&dir);
    }
}

Test(cpu_packed, a_folder_that_can_not_be_written_costs_a_line_and_nothing_else) {
    tmp_dir dir = model_copy();
    char said[2000];
    bool root = geteuid() == 0; /* root may write everywhere */
    cr_assert_eq(chmod(dir.path, root ? 0755 : 0500), 0);
    if (root) cr_assert_eq(seteuid(65534), 0);
    cr_assert_not(start(&dir, NULL, said, sizeof said));
    if (root) cr_assert_eq(seteuid(0), 0);
    says(said, "cannot keep packed weights in ");
    says(said, "Permission denied");
    cr_assert_eq(chmod(dir.path, 0700), 0);
    cr_assert_eq(count(&dir, "fathom-packed*"), 0);
    tmp_dir_remove(&dir);
}

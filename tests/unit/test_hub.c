/* test_hub.c - folders as the hub's client and other tools lay them out. */
#include "model/model.h"
#include "tests/lib/files.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(hub, .fini = fail_on_leaks);

static const char index_name[] = "model.safetensors.index.json";

static void shards_of_tiny(const char *dir) {
    model_plan plan;
    err e = {0};
    cr_assert_eq(plan_variant(&plan, "tiny", &e), 0);
    model_init_opts opts = {.seed = 1, .dtype = DTYPE_F32, .shard_bytes = 200000};
    cr_assert_eq(model_init_write(dir, &plan, &opts, &e), 0, "%s", e.msg);
}

static void first_shard_path(const char *dir, char out[256]) {
    for (int n = 1; n < 100; n++) {
        (void)snprintf(out, 256, "%s/model-00001-of-%05d.safetensors", dir, n);
        if (access(out, F_OK) == 0) return;
    }
    cr_assert(false, "no first shard in %s", dir);
}

static void opens(const char *dir) {
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir, &e), 0, "%s", e.msg);
    model_close(model);
}

static void refused(const char *dir, const char *says) {
    model_folder *model;
    err e = {0};
    cr_assert_eq(model_open(&model, dir, &e), -1);
    cr_assert_eq(e.code, ERR_BAD_FILE);
    cr_assert(strstr(e.msg, says), "%s", e.msg);
}

/* models--X/snapshots/REVISION/FILE -> ../../blobs/HASH, as huggingface_hub keeps them. */
Test(hub, a_snapshot_of_the_hub_cache_opens_through_its_links) {
    tmp_dir dir = tmp_dir_create();
    char snapshot[128], file[256], blob[256], link[256];
    (void)snprintf(file, sizeof file, "%s/snapshots", dir.path);
    (void)snprintf(blob, sizeof blob, "%s/blobs", dir.path);
    (void)snprintf(snapshot, sizeof snapshot, "%s/snapshots/5f3a", dir.path);
    cr_assert(mkdir(file, 0777) == 0 && mkdir(blob, 0777) == 0 && mkdir(snapshot, 0777) == 0);
    shards_of_tiny(snapshot);
    first_shard_path(snapshot, file);
    (void)snprintf(blob, sizeof blob, "%s/blobs/0123abcd", dir.path);
    (void)snprintf(link, sizeof link, "../../blobs/0123abcd");
    cr_assert(rename(file, blob) == 0 && symlink(link, file) == 0);
    opens(snapshot);
    (void)snprintf(link, sizeof link, "%s/elsewhere", dir.path);
    cr_assert(rename(blob, link) == 0 && symlink("../elsewhere", blob) == 0);
    refused(snapshot, "leads out of the model folder");
    tmp_dir_remove(&dir);
}

Test(hub, an_index_may_hold_numbers_of_any_size) {
    tmp_dir dir = tmp_dir_create();
    shards_of_tiny(dir.path);
    char *text = file_get(dir.path, index_name, NULL);
    buf longer = {0};
    buf_printf(&longer, "{\"note\": {\"size\": 1000000000000000019884624838656},%s",
               strchr(text, '{') + 1);
    file_put(dir.path, index_name, longer.data, longer.len);
    buf_deinit(&longer);
    free(text);
    opens(dir.path);
    tmp_dir_remove(&dir);
}

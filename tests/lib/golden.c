/* golden.c - reads expected.safetensors of a golden case. */
#include "tests/lib/golden.h"
#include "base/file.h"

#include "model/safetensors_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const golden_names[GOLDEN_CASES] = {"mla", "mla_deep", "mla_shallow", "mla_no_prelude",
                                                "gqa", "gqa_theta"};

static void must(bool ok, const char *dir, const char *what) {
    if (ok) return;
    fprintf(stderr, "golden case %s: %s\n", dir, what);
    abort();
}

/* Copies a tensor of exactly `bytes` bytes. */
static void copy(const model__st_index *index, const file_map *map, const char *dir,
                 const char *prefix, const char *name, void *out, size_t bytes) {
    char full[64];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    const model__st_entry *entry = model__st_find(index, full);
    must(entry && entry->bytes == bytes, dir, full);
    memcpy(out, map->data + entry->first, bytes);
}

golden_case golden_open(const char *name) {
    static const char *const policies[2] = {[KV_EXACT] = "exact.", [KV_LAST] = "last."};
    golden_case golden = {0};
    (void)snprintf(golden.dir, sizeof golden.dir, "tests/golden/cases/%s", name);
    char path[160];
    (void)snprintf(path, sizeof path, "%s/expected.safetensors", golden.dir);
    err e = {0};
    file_map map;
    model__st_index index;
    must(file_map_open(&map, path, &e) == 0, golden.dir, e.msg);
    must(model__st_parse(&index, map.data, map.size, path, &e) == 0, golden.dir, e.msg);
    golden.n_loops = (uint32_t)strtoul(index.n_loops, NULL, 10);
    must(golden.n_loops > 0, golden.dir, "n_loops");
    copy(&index, &map, golden.dir, "", "ids", golden.ids, sizeof golden.ids);
    for (int policy = 0; policy < 2; policy++) {
        char full[64];
        (void)snprintf(full, sizeof full, "%slogits", policies[policy]);
        const model__st_entry *entry = model__st_find(&index, full);
        must(entry && entry->rank == 3 && entry->shape[0] == GOLDEN_SEQS &&
                 entry->shape[1] == GOLDEN_LEN,
             golden.dir, full);
        golden.vocab = (uint32_t)entry->shape[2];
        golden.logits[policy] = malloc(entry->bytes);
        must(golden.logits[policy] != NULL, golden.dir, "memory");
        copy(&index, &map, golden.dir, policies[policy], "logits", golden.logits[policy],
             entry->bytes);
        copy(&index, &map, golden.dir, policies[policy], "depth", golden.depth[policy],
             sizeof golden.depth[policy]);
        copy(&index, &map, golden.dir, policies[policy], "greedy", golden.greedy[policy],
             sizeof golden.greedy[policy]);
    }
    model__st_deinit(&index);
    file_map_close(&map);
    return golden;
}

void golden_close(golden_case *golden) {
    free(golden->logits[0]);
    free(golden->logits[1]);
    *golden = (golden_case){0};
}

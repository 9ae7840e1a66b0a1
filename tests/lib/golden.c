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

/* Copies a tensor that must have exactly `bytes` bytes. */
static void copy(const model__st_index *index, const file_map *map, const char *dir,
                 const char *prefix, const char *name, void *out, size_t bytes) {
    char full[64];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    const model__st_entry *t = model__st_find(index, full);
    must(t && t->bytes == bytes, dir, full);
    memcpy(out, map->data + t->first, bytes);
}

golden_case golden_open(const char *name) {
    static const char *const policies[2] = {[KV_EXACT] = "exact.", [KV_LAST] = "last."};
    golden_case g = {0};
    (void)snprintf(g.dir, sizeof g.dir, "tests/golden/cases/%s", name);
    char path[160];
    (void)snprintf(path, sizeof path, "%s/expected.safetensors", g.dir);
    err e = {0};
    file_map map;
    model__st_index index;
    must(file_map_open(&map, path, &e) == 0, g.dir, e.msg);
    must(model__st_parse(&index, map.data, map.size, path, &e) == 0, g.dir, e.msg);
    g.n_loops = (uint32_t)strtoul(index.n_loops, NULL, 10);
    must(g.n_loops > 0, g.dir, "n_loops");
    copy(&index, &map, g.dir, "", "ids", g.ids, sizeof g.ids);
    for (int p = 0; p < 2; p++) {
        char full[64];
        (void)snprintf(full, sizeof full, "%slogits", policies[p]);
        const model__st_entry *t = model__st_find(&index, full);
        must(t && t->rank == 3 && t->shape[0] == GOLDEN_SEQS && t->shape[1] == GOLDEN_LEN, g.dir,
             full);
        g.vocab = (uint32_t)t->shape[2];
        g.logits[p] = malloc(t->bytes);
        must(g.logits[p] != NULL, g.dir, "memory");
        copy(&index, &map, g.dir, policies[p], "logits", g.logits[p], t->bytes);
        copy(&index, &map, g.dir, policies[p], "depth", g.depth[p], sizeof g.depth[p]);
        copy(&index, &map, g.dir, policies[p], "greedy", g.greedy[p], sizeof g.greedy[p]);
    }
    model__st_deinit(&index);
    file_map_close(&map);
    return g;
}

void golden_close(golden_case *g) {
    free(g->logits[0]);
    free(g->logits[1]);
    *g = (golden_case){0};
}

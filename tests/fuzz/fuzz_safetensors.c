/* fuzz_safetensors.c - any bytes as a safetensors file: the header parser may refuse them,
 * and what it accepts must lie inside the file. */
#include "base/json.h"
#include "model/safetensors_internal.h"
#include "tests/fuzz/cost.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    json_setup();
    return 0;
}

static void one_input(const uint8_t *data, size_t size) {
    model__st_index index;
    err e = {0};
    if (model__st_parse(&index, data, size, "fuzz", &e) != 0) {
        if (e.code == ERR_NONE || e.msg[0] == 0 || index.entries) abort();
        return;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < index.n; i++) {
        const model__st_entry *t = &index.entries[i];
        if (t->first > size || t->bytes > size - t->first) abort();
        if (model__st_find(&index, t->name) != t) abort();
        char text[64];
        model__st_shape_text(text, sizeof text, t->shape, t->rank);
        sum += t->bytes;
    }
    if (sum > size) abort(); /* ranges never overlap */
    model__st_deinit(&index);
}

FUZZ_TARGET(one_input, 500, 8000)

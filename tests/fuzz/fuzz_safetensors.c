/* fuzz_safetensors.c - any bytes as a safetensors file: the header parser may refuse them, and
 * every tensor it accepts must lie inside the file. */
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

static void check(const uint8_t *data, size_t size) {
    model__st_index index;
    err e = {0};
    if (model__st_parse(&index, data, size, "fuzz", &e) != 0) {
        if (e.code == ERR_NONE || e.msg[0] == 0 || index.entries) abort();
        return;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < index.n; i++) {
        const model__st_entry *entry = &index.entries[i];
        if (entry->first > size || entry->bytes > size - entry->first) abort();
        if (model__st_find(&index, entry->name) != entry) abort();
        char text[64];
        model__st_shape_text(text, sizeof text, entry->shape, entry->rank);
        sum += entry->bytes;
    }
    if (sum > size) abort(); /* ranges never overlap */
    model__st_deinit(&index);
}

/* Tries the input as it is, and with a header that ends at the last bracket: mutations rarely find
 * that length. */
static void one_input(const uint8_t *data, size_t size) {
    check(data, size);
    if (size < 8) return;
    uint64_t len = size - 8;
    while (len > 0 && data[8 + len - 1] != '}')
        len--;
    uint8_t *copy = malloc(size);
    if (copy == NULL) abort();
    memcpy(copy, data, size);
    for (int i = 0; i < 8; i++)
        copy[i] = (uint8_t)(len >> (8 * i));
    check(copy, size);
    free(copy);
}

FUZZ_TARGET(one_input, 500, 8000)

/* fuzz_tokenizer.c - a tokenizer.json, a zero byte, then text to encode with it.
 *
 * Whatever parses must encode any text to ids that stand for something, and never to a
 * special token that was not asked for. */
#include "base/json.h"
#include "base/log.h"
#include "tests/fuzz/cost.h"
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

static void encode(const tokenizer *t, const char *text, size_t n, bool special) {
    token_ids ids = {0};
    err e = {0};
    int rc = tokenizer_encode(t, text, n, special, 1 << 20, &ids, &e);
    if (rc != 0 && e.code == ERR_NONE) __builtin_trap();
    for (size_t i = 0; i < ids.n; i++) {
        size_t len;
        const char *bytes = tokenizer_bytes(t, ids.data[i], &len);
        if (bytes == NULL || len == 0) __builtin_trap();
        if (special || !tokenizer_is_special(t, ids.data[i])) continue;
        if (len != 5 || memcmp(bytes, "<unk>", 5) != 0)
            __builtin_trap(); /* what bytes may become */
    }
    token_ids_deinit(&ids);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    json_setup();
    log_set_level(LOG_ALERT); /* warnings of every odd file would be all there is to read */
    return 0;
}

static void one_input(const uint8_t *data, size_t n) {
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    size_t json_len = zero ? (size_t)(zero - data) : n;
    tokenizer *t = NULL;
    err e = {0};
    if (tokenizer_parse(&t, (const char *)data, json_len, 1000, "file", &e) != 0) {
        if (t != NULL || e.code == ERR_NONE) __builtin_trap();
        return;
    }
    for (int special = 0; special < 2; special++) {
        if (zero) encode(t, (const char *)zero + 1, n - json_len - 1, special != 0);
        encode(t, (const char *)data, json_len < 2000 ? json_len : 2000, special != 0);
    }
    tokenizer_close(t);
}

FUZZ_TARGET(one_input, 4000, 16000)

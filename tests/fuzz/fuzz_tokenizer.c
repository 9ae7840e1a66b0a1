/* fuzz_tokenizer.c - a tokenizer.json, a zero byte, then text to encode with it.
 *
 * A tokenizer that parses must encode any text to valid ids, never to a control token unless
 * control tokens are allowed, and must decode the ids again. */
#include "base/json.h"
#include "base/log.h"
#include "tests/fuzz/cost.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

static void decode(const tokenizer *tok, const token_ids *ids, bool skip_special) {
    buf whole = {0};
    err e = {0};
    if (tokenizer_decode(tok, ids->data, ids->n, skip_special, &whole, &e) != 0) __builtin_trap();
    buf_deinit(&whole);
}

/* Encodes the text in runs, one of them empty. The last third is the client's; the rest may hold
 * control tokens if `special`. */
static void encode(const tokenizer *tok, const char *text, size_t n, bool special) {
    text_run runs[] = {{n / 3, special}, {n / 3, false}, {n - n / 3, special}, {n, false}};
    token_ids ids = {0};
    err e = {0};
    int rc = tokenizer_encode_runs(tok, text, n, runs, ARRAY_LEN(runs), 1 << 20, &ids, &e);
    if (rc != 0 && e.code == ERR_NONE) __builtin_trap();
    for (size_t i = 0; i < ids.n; i++) {
        if (ids.data[i] >= tok->n_ids || tok->tokens[ids.data[i]].key_len == 0) __builtin_trap();
        if (special || ids.data[i] == tok->unk) continue; /* unknown bytes become unk */
        if (tokenizer_is_control(tok, ids.data[i])) __builtin_trap();
    }
    if (rc == 0) decode(tok, &ids, special);
    token_ids_deinit(&ids);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    json_setup();
    log_set_level(LOG_ALERT); /* nearly every input warns */
    return 0;
}

static void one_input(const uint8_t *data, size_t n) {
    const uint8_t *zero = n ? memchr(data, 0, n) : NULL;
    size_t json_len = zero ? (size_t)(zero - data) : n;
    tokenizer *tok = NULL;
    err e = {0};
    if (tokenizer_parse(&tok, (const char *)data, json_len, 1000, "file", &e) != 0) {
        if (tok != NULL || e.code == ERR_NONE) __builtin_trap();
        return;
    }
    for (int special = 0; special < 2; special++) {
        if (special)
            tokenizer_mark_control(tok, (const char *)data, json_len < 200 ? json_len : 200);
        if (zero) encode(tok, (const char *)zero + 1, n - json_len - 1, special != 0);
        encode(tok, (const char *)data, json_len < 2000 ? json_len : 2000, special != 0);
        encode(tok, (const char *)data, json_len < 200 ? json_len : 200, false);
    }
    tokenizer_close(tok);
}

FUZZ_TARGET(one_input, 4000, 16000)

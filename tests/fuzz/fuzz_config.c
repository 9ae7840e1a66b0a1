/* fuzz_config.c - any text as config.json: what is accepted must be usable, and must read
 * back as itself once written. */
#include "base/size.h"
#include "model/model_internal.h"
#include "tests/fuzz/cost.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    json_setup();
    return 0;
}

typedef struct {
    uint64_t params, visited;
} tally;

static int count(void *ud, const model__want *w) {
    tally *t = ud;
    uint64_t n;
    if (!size_mul(w->shape[0], w->shape[1], &n) || n == 0) abort();
    if (!w->optional && !size_add(t->params, n, &t->params)) abort();
    return ++t->visited > 20000 ? 1 : 0; /* a legal file may ask for a million tensors */
}

static void one_input(const uint8_t *data, size_t size) {
    model_plan c, again;
    err e = {0};
    if (plan_parse(&c, (const char *)data, size, "fuzz", &e) != 0) {
        if (e.code == ERR_NONE || e.msg[0] == 0) abort();
        return;
    }
    if (c.slot_values == 0 || c.ffn_dim == 0 || c.n_experts_per_tok > c.n_experts) abort();
    if (c.n_core == 0 || c.slot_values != c.n_core * c.layer_values) abort();
    if (c.loops_default == 0 || plan_loops_ceiling(&c) < c.loops_default) abort();
    if (!plan_allows_exit(&c, c.exit) || c.n_eos > PLAN_MAX_EOS) abort();
    if (exit_rule_check(c.exit, c.exit_threshold, "threshold", &e) != 0) abort();
    tally t = {0};
    if (model__wants(&c, count, &t) == 0 && t.params != plan_params(&c)) abort();
    buf text = {0};
    plan_write(&text, &c, "float32");
    if (plan_parse(&again, text.data, text.len, "again", &e) != 0) abort();
    if (memcmp(&c, &again, sizeof c) != 0) abort();
    buf_deinit(&text);
}

FUZZ_TARGET(one_input, 1000, 8000)

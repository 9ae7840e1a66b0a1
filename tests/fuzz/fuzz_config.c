/* fuzz_config.c - any text as config.json. An accepted plan must be usable, and must be the same
 * after it is written and read back. */
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
} tensor_tally;

static int count(void *ud, const model__want *want) {
    tensor_tally *tally = ud;
    uint64_t n;
    if (!size_mul(want->shape[0], want->shape[1], &n) || n == 0) abort();
    if (!want->optional && !size_add(tally->params, n, &tally->params)) abort();
    return ++tally->visited > 20000 ? 1 : 0; /* a legal file may ask for a million tensors */
}

static void one_input(const uint8_t *data, size_t size) {
    model_plan plan, again;
    err e = {0};
    if (plan_parse(&plan, (const char *)data, size, "fuzz", &e) != 0) {
        if (e.code == ERR_NONE || e.msg[0] == 0) abort();
        return;
    }
    if (plan.slot_values == 0 || plan.ffn_dim == 0 || plan.n_experts_per_tok > plan.n_experts)
        abort();
    if (plan.n_core == 0 || plan.slot_values != plan.n_core * plan.layer_values) abort();
    if (plan.loops_default == 0 || plan_loops_ceiling(&plan) < plan.loops_default) abort();
    if (!plan_allows_exit(&plan, plan.exit) || plan.n_eos > PLAN_MAX_EOS) abort();
    if (exit_rule_check(plan.exit, plan.exit_threshold, "threshold", &e) != 0) abort();
    tensor_tally tally = {0};
    if (model__wants(&plan, count, &tally) == 0 && tally.params != plan_params(&plan)) abort();
    buf text = {0};
    plan_write(&text, &plan, "float32");
    if (plan_parse(&again, text.data, text.len, "again", &e) != 0) abort();
    if (memcmp(&plan, &again, sizeof plan) != 0) abort();
    buf_deinit(&text);
}

FUZZ_TARGET(one_input, 1000, 8000)

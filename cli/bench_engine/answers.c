/* answers.c - judges the answers of real prompts, so that a mode that computes something else
 * shows.
 */
#include "base/size.h"
#include "cli/bench_engine/bench_engine_internal.h"

#include <stdlib.h>

enum { MORE_TOKENS = 4 }; /* tokens beyond the answer's: the model may spell it with more */

int be_answers_init(be_answers *out, const questions *prompts, const tokenizer *tok,
                    uint32_t n_lanes, err *e) {
    *out = (be_answers){.prompts = prompts, .tok = tok, .most = MORE_TOKENS};
    for (size_t i = 0; i < prompts->n; i++) {
        uint32_t most = prompts->rows[i].n_answer + MORE_TOKENS;
        if (most > out->most) out->most = most;
    }
    size_t cells;
    if (size_mul(n_lanes, out->most, &cells)) out->tokens = array_new(cells, sizeof *out->tokens);
    out->n = array_new(n_lanes, sizeof *out->n);
    out->verdict = array_new(prompts->n, sizeof *out->verdict);
    if (out->tokens && out->n && out->verdict) return 0;
    be_answers_deinit(out);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the answers");
}

void be_answers_deinit(be_answers *ans) {
    free(ans->tokens);
    free(ans->n);
    free(ans->verdict);
    *ans = (be_answers){0};
}

void be_answers_begin(be_answers *ans, uint32_t lane) {
    ans->n[lane] = 0;
}

void be_answers_token(be_answers *ans, uint32_t lane, uint32_t token) {
    uint32_t *n = &ans->n[lane];
    if (*n < ans->most) ans->tokens[(size_t)lane * ans->most + (*n)++] = token;
}

int be_answers_end(be_answers *ans, uint32_t lane, size_t prompt, err *e) {
    const question *asked = &ans->prompts->rows[prompt];
    answer_state state;
    if (asked->answer == NULL) return 0;
    if (question_judge_tokens(asked, ans->tok, ans->tokens + (size_t)lane * ans->most, ans->n[lane],
                              true, &state, e) != 0)
        return -1;
    if (ans->verdict[prompt] != ANSWER_WRONG) ans->verdict[prompt] = (uint8_t)state;
    return 0;
}

void be_answers_count(const be_answers *ans, be_run *run) {
    for (size_t i = 0; i < ans->prompts->n; i++) {
        run->n_asked += ans->verdict[i] != ANSWER_OPEN;
        run->n_right += ans->verdict[i] == ANSWER_RIGHT;
    }
}

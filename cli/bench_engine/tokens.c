/* tokens.c - the tokens of the first run of a policy, and how many of a later run differ. */
#include "base/size.h"
#include "cli/bench_engine/bench_engine_internal.h"

#include <stdlib.h>

void be_tokens_deinit(be_tokens *first) {
    for (uint32_t i = 0; i < first->n_requests; i++)
        free(first->tokens[i]);
    free(first->tokens);
    free(first->n);
    *first = (be_tokens){0};
}

int be_tokens_add(be_tokens *first, uint32_t request, uint32_t max_tokens, err *e) {
    if (request == first->cap) {
        uint32_t cap = first->cap ? 2 * first->cap : 256;
        uint32_t **tokens = realloc(first->tokens, cap * sizeof *tokens);
        if (tokens) first->tokens = tokens;
        uint32_t *n = realloc(first->n, cap * sizeof *n);
        if (n) first->n = n;
        if (!tokens || !n) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the tokens");
        first->cap = cap;
    }
    first->tokens[request] = array_new(max_tokens, sizeof **first->tokens);
    if (first->tokens[request] == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the tokens");
    first->n[request] = 0;
    first->n_requests = request + 1;
    return 0;
}

void be_tokens_record(be_tokens *first, uint32_t request, uint32_t token) {
    first->tokens[request][first->n[request]++] = token;
}

void be_tokens_compare(const be_tokens *first, uint32_t request, uint32_t index, uint32_t token,
                       be_run *run) {
    if (request >= first->n_requests || index >= first->n[request]) return;
    run->compared++;
    run->differing += first->tokens[request][index] != token;
}

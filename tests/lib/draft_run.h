/* draft_run.h - drives a backend without a scheduler over known tokens, one position behind the
 * other in the same launches, and drafts with rows that still loop. It judges no draft: every token
 * is given.
 *
 * Two sequences begin as prompts and share all launches. Each position has its own most loops, so
 * depths differ under every exit rule. */
#ifndef FATHOM_TEST_DRAFT_RUN_H
#define FATHOM_TEST_DRAFT_RUN_H

#include "engine/backend.h"

enum { DRAFT_SEQS = 2, DRAFT_POS = 40, DRAFT_LOOPS = 6, DRAFT_ROWS = DRAFT_SEQS * DRAFT_POS };

typedef struct {
    kv_policy policy;
    /* Loops of a position before the next one starts; 0: it waits for the position's last coda, and
     * for all loops of its tail. */
    uint32_t lag;
    bool every; /* a draft after every loop; else only after `lag` loops, for the next to start */
    /* Some positions run with a wrong token until the one before has had its last coda. Then they
     * and all behind them are withdrawn and start anew. */
    bool wrong;
    bool ahead;  /* drafts start before it is known which rows their loop halts */
    bool probes; /* with lag 0: `drafts` are runs of the position that end after so many loops */
} draft_way;

typedef struct {
    uint32_t vocab, loops, len[DRAFT_SEQS], prompt[DRAFT_SEQS];
    uint32_t depth[DRAFT_SEQS][DRAFT_POS];
    float *last[DRAFT_SEQS]; /* [DRAFT_POS][vocab] logits of each position's last coda */
    /* [DRAFT_POS][DRAFT_LOOPS][vocab] logits of the draft after loop i, where has[][i] */
    float *drafts[DRAFT_SEQS];
    bool has[DRAFT_SEQS][DRAFT_POS][DRAFT_LOOPS];
    uint32_t n_drafts, n_withdrawn;
    uint32_t most_loops; /* most different loops of rows of one sequence in one launch */
} draft_result;

/* Options of a backend that has room for a run. */
eng_backend_opts draft_opts(const model_plan *plan);
/* The caller ends *out with draft_result_deinit, whatever is returned. ERR_INTERNAL: the backend
 * breaks a rule that needs no other run to compare with. A backend that samples chooses each token
 * of a coda, and this must be the first of the largest logits. */
int draft_run(eng_backend *backend, const draft_way *way, draft_result *out, err *e) WARN_UNUSED;
void draft_result_deinit(draft_result *result);
/* Logits of the last coda of a position, and of a draft. */
const float *draft_last(const draft_result *result, uint32_t seq, uint32_t pos);
const float *draft_after(const draft_result *result, uint32_t seq, uint32_t pos, uint32_t loop);
/* True if two runs gave every position the same depth and the same bits in its last coda. */
bool draft_same_last(const draft_result *one, const draft_result *two) WARN_UNUSED;

#endif

/* seq.c - one request: checked against this model and this cache, and copied whole, in
 * one allocation, so that nothing is allocated once it runs. */
#include "base/clock.h"
#include "base/size.h"
#include "scheduler/scheduler_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint64_t sched__worst_pages(const limits *l, uint64_t n_positions, uint32_t max_loops) {
    uint64_t slots = plan_planes(l->plan, max_loops);
    uint64_t per_block = (ENG_BLOCK * slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    uint64_t rest = (n_positions % ENG_BLOCK * slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    return n_positions / ENG_BLOCK * per_block + rest;
}

static int check_sampling(const limits *l, const sched_request *r, err *e) {
    for (uint32_t i = 0; i < r->sampling.n_bias; i++) {
        if (r->sampling.bias[i].id >= l->plan->vocab_size || !isfinite(r->sampling.bias[i].value)) {
            return err_set(e, ERR_BAD_PARAM, "logit_bias",
                           "token id %u is not below %u, or its value is not finite",
                           r->sampling.bias[i].id, l->plan->vocab_size);
        }
    }
    for (uint32_t i = 0; i < r->n_stop_ids; i++) {
        if (r->stop_ids[i] >= l->plan->vocab_size) {
            return err_set(e, ERR_BAD_PARAM, "stop_token_ids", "token id %u is not below %u",
                           r->stop_ids[i], l->plan->vocab_size);
        }
    }
    if (r->n_top > ENG_MAX_TOP) {
        return err_set(e, ERR_BAD_PARAM, "logprobs", "at most %d alternatives", ENG_MAX_TOP);
    }
    return r->max_tokens ? eng_sampling_check(&r->sampling, e) : 0;
}

/* Fills what the request leaves open and checks what it wishes. */
static int resolve_depth(const limits *l, const sched_request *r, prefix_root *root, err *e) {
    const sched_opts *o = &l->opts;
    uint32_t max = r->depth.max_loops ? r->depth.max_loops : o->default_max_loops;
    uint32_t min = r->depth.min_loops ? r->depth.min_loops : o->default_min_loops;
    if (max > o->ceiling_loops) {
        return err_set(e, ERR_BAD_PARAM, "depth.max_loops",
                       "%u loops asked, at most %u are allowed", max, o->ceiling_loops);
    }
    if (r->depth.min_loops == 0 && min > max) min = max;
    if (r->depth.max_loops == 0 && min > max && min <= o->ceiling_loops) max = min;
    if (min > max) {
        return err_set(e, ERR_BAD_PARAM, "depth.min_loops", "min_loops %u is above max_loops %u",
                       min, max);
    }
    float threshold = r->depth.threshold != 0 ? r->depth.threshold : o->default_threshold;
    if (exit_rule_check(l->exit, threshold, "depth.threshold", e) != 0) return -1;
    uint32_t prompt = o->prompt_min_loops < max ? o->prompt_min_loops : max;
    *root = (prefix_root){.salt = {r->salt[0], r->salt[1]},
                          .threshold = threshold,
                          .min_loops = (uint16_t)min,
                          .max_loops = (uint16_t)max,
                          .prompt_min = (uint16_t)(prompt > min ? prompt : min),
                          .tenant = o->share_cache ? 0 : r->tenant};
    return 0;
}

static int check_size(const limits *l, const sched_request *r, const prefix_root *root, err *e) {
    uint64_t all = (uint64_t)r->n_prompt + r->max_tokens;
    if (all > l->plan->max_seq_len) {
        return err_set(e, ERR_TOO_LONG, "max_tokens",
                       "%u prompt tokens plus %u to put out exceed the context of %u", r->n_prompt,
                       r->max_tokens, l->plan->max_seq_len);
    }
    uint64_t positions = r->max_tokens ? all - 1 : all; /* the last token is never run */
    uint64_t blocks = (positions + ENG_BLOCK - 1) / ENG_BLOCK;
    if (blocks > l->n_blocks || sched__worst_pages(l, positions, root->max_loops) > l->n_pages) {
        return err_set(e, ERR_TOO_LONG, "max_tokens",
                       "%u prompt tokens plus %u to put out, at up to %u loops, can never fit the "
                       "cache of this server",
                       r->n_prompt, r->max_tokens, root->max_loops);
    }
    return 0;
}

static int check(const limits *l, const sched_request *r, prefix_root *root, err *e) {
    if (r->tenant >= l->opts.max_tenants) {
        return err_set(e, ERR_BAD_PARAM, "tenant", "tenant %u is not below %u", r->tenant,
                       l->opts.max_tenants);
    }
    if (r->n_prompt == 0) return err_set(e, ERR_BAD_PARAM, "prompt", "the prompt has no token");
    for (uint32_t i = 0; i < r->n_prompt; i++) {
        if (r->prompt[i] >= l->plan->vocab_size) {
            return err_set(e, ERR_BAD_PARAM, "prompt", "token id %u is not below %u", r->prompt[i],
                           l->plan->vocab_size);
        }
    }
    if (r->max_tokens == 0 && !r->prompt_logprobs && !r->tap) {
        return err_set(e, ERR_BAD_PARAM, "max_tokens", "must be at least 1");
    }
    if (check_sampling(l, r, e) != 0 || resolve_depth(l, r, root, e) != 0) return -1;
    return check_size(l, r, root, e);
}

uint16_t sched__min_loops(const seq *q, uint32_t pos) {
    uint16_t least = pos < q->req.n_prompt ? q->root.prompt_min : q->root.min_loops;
    return least < q->root.max_loops ? least : q->root.max_loops;
}

uint32_t sched__shared_positions(const seq *q) {
    return q->root.prompt_min == q->root.min_loops ? UINT32_MAX : q->req.n_prompt;
}

int sched__seq_create(seq **out, const limits *l, const sched_request *r, err *e) {
    *out = NULL;
    prefix_root root;
    if (check(l, r, &root, e) != 0) return -1;
    size_t n_tokens = (size_t)r->n_prompt + r->max_tokens; /* below max_seq_len, no overflow */
    size_t n_blocks = n_tokens / ENG_BLOCK + 1;
    size_t head = (sizeof(seq) + 63) / 64 * 64;
    size_t words, bytes;
    if (!size_add(n_tokens + n_blocks, r->n_stop_ids, &words) || !size_mul(words, 4, &words) ||
        !size_mul(r->sampling.n_bias, sizeof(eng_bias), &bytes) ||
        !size_add(bytes, words, &bytes) || !size_add(bytes, head, &bytes)) {
        return err_set(e, ERR_TOO_LONG, NULL, "request too large");
    }
    seq *q = array_new_aligned(1, bytes);
    if (q == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a request");
    memset(q, 0, head);
    eng_bias *bias = (eng_bias *)(void *)((char *)q + head);
    q->tokens = (uint32_t *)(void *)(bias + r->sampling.n_bias);
    q->blocks = q->tokens + n_tokens;
    uint32_t *stop = q->blocks + n_blocks;
    memcpy(q->tokens, r->prompt, r->n_prompt * sizeof *q->tokens);
    if (r->sampling.n_bias) memcpy(bias, r->sampling.bias, r->sampling.n_bias * sizeof *bias);
    if (r->n_stop_ids) memcpy(stop, r->stop_ids, r->n_stop_ids * sizeof *stop);
    q->req = *r;
    q->req.prompt = q->tokens;
    q->req.sampling.bias = bias;
    q->req.stop_ids = stop;
    q->n_tokens = r->n_prompt;
    q->root = root;
    q->wish_loops = root.max_loops;
    /* Who wants to see every position cannot have some of them skipped. */
    q->may_share = l->opts.prefix_cache && !r->tap && !r->prompt_logprobs;
    q->t_submit = clock_ns();
    list_init(&q->rank);
    list_init(&q->start);
    atomic_init(&q->cancel_wanted, false);
    atomic_init(&q->mask, MASK_NONE);
    *out = q;
    return 0;
}

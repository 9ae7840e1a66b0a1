/* seq.c - one sequence: a request, checked against this model and this cache, and copied whole in
 * one allocation, so nothing is allocated once it runs; and its blocks. */
#include "scheduler/seq.h"
#include "base/clock.h"
#include "base/size.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

uint64_t sched__worst_pages(const request_limits *limits, uint64_t n_positions,
                            uint32_t max_loops) {
    uint64_t slots = plan_planes(limits->plan, max_loops);
    uint64_t per_block = (ENG_BLOCK * slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    uint64_t rest = (n_positions % ENG_BLOCK * slots + PAGE_SLOTS - 1) / PAGE_SLOTS;
    return n_positions / ENG_BLOCK * per_block + rest;
}

static int check_sampling(const request_limits *limits, const sched_request *req, err *e) {
    for (uint32_t i = 0; i < req->sampling.n_bias; i++) {
        if (req->sampling.bias[i].id >= limits->plan->vocab_size ||
            !isfinite(req->sampling.bias[i].value)) {
            return err_set(e, ERR_BAD_PARAM, "logit_bias",
                           "token id %u is not below %u, or its value is not finite",
                           req->sampling.bias[i].id, limits->plan->vocab_size);
        }
    }
    for (uint32_t i = 0; i < req->n_stop_ids; i++) {
        if (req->stop_ids[i] >= limits->plan->vocab_size) {
            return err_set(e, ERR_BAD_PARAM, "stop_token_ids", "token id %u is not below %u",
                           req->stop_ids[i], limits->plan->vocab_size);
        }
    }
    if (req->n_top > ENG_MAX_TOP) {
        return err_set(e, ERR_BAD_PARAM, "logprobs", "at most %d alternatives", ENG_MAX_TOP);
    }
    return req->max_tokens ? eng_sampling_check(&req->sampling, e) : 0;
}

/* Checks the depth asked for, and fills in the defaults. */
static int resolve_depth(const request_limits *limits, const sched_request *req, prefix_key *key,
                         err *e) {
    const sched_opts *opts = &limits->opts;
    uint32_t max = req->depth.max_loops ? req->depth.max_loops : opts->default_max_loops;
    uint32_t min = req->depth.min_loops ? req->depth.min_loops : opts->default_min_loops;
    if (plan_check_loops(limits->plan, max, "depth.max_loops", e) != 0 ||
        plan_check_loops(limits->plan, min, "depth.min_loops", e) != 0) {
        return -1;
    }
    if (max > opts->ceiling_loops) {
        return err_set(e, ERR_BAD_PARAM, "depth.max_loops",
                       "%u loops asked, at most %u are allowed", max, opts->ceiling_loops);
    }
    if (req->depth.min_loops == 0 && min > max) min = max;
    if (req->depth.max_loops == 0 && min > max && min <= opts->ceiling_loops) max = min;
    if (min > max) {
        return err_set(e, ERR_BAD_PARAM, "depth.min_loops", "min_loops %u is above max_loops %u",
                       min, max);
    }
    float threshold = req->depth.threshold != 0 ? req->depth.threshold : opts->default_threshold;
    if (exit_rule_check(limits->exit, threshold, "depth.threshold", e) != 0) return -1;
    uint32_t prompt = opts->prompt_min_loops < max ? opts->prompt_min_loops : max;
    *key = (prefix_key){.salt = {req->salt[0], req->salt[1]},
                        .threshold = threshold,
                        .min_loops = (uint16_t)min,
                        .max_loops = (uint16_t)max,
                        .prompt_min_loops = (uint16_t)(prompt > min ? prompt : min),
                        .tenant = opts->share_cache ? 0 : req->tenant};
    return 0;
}

int sched__plain_key(const request_limits *limits, prefix_key *out, err *e) {
    const sched_request plain = {0};
    return resolve_depth(limits, &plain, out, e);
}

static int check_size(const request_limits *limits, const sched_request *req, const prefix_key *key,
                      err *e) {
    uint64_t all = (uint64_t)req->n_prompt + req->max_tokens;
    if (all > limits->plan->max_seq_len) {
        return err_set(e, ERR_TOO_LONG, "max_tokens",
                       "%u prompt tokens plus %u to put out exceed the context of %u",
                       req->n_prompt, req->max_tokens, limits->plan->max_seq_len);
    }
    uint64_t positions = req->max_tokens ? all - 1 : all; /* the last token is never run */
    uint64_t blocks = (positions + ENG_BLOCK - 1) / ENG_BLOCK;
    if (blocks > limits->n_blocks ||
        sched__worst_pages(limits, positions, key->max_loops) > limits->n_pages) {
        return err_set(e, ERR_TOO_LONG, "max_tokens",
                       "%u prompt tokens plus %u to put out, at up to %u loops, can never fit the "
                       "cache of this server",
                       req->n_prompt, req->max_tokens, key->max_loops);
    }
    return 0;
}

static int check(const request_limits *limits, const sched_request *req, prefix_key *key, err *e) {
    if (req->tenant >= limits->opts.max_tenants) {
        return err_set(e, ERR_BAD_PARAM, "tenant", "tenant %u is not below %u", req->tenant,
                       limits->opts.max_tenants);
    }
    if (req->n_prompt == 0) return err_set(e, ERR_BAD_PARAM, "prompt", "the prompt has no token");
    for (uint32_t i = 0; i < req->n_prompt; i++) {
        if (req->prompt[i] >= limits->plan->vocab_size) {
            return err_set(e, ERR_BAD_PARAM, "prompt", "token id %u is not below %u",
                           req->prompt[i], limits->plan->vocab_size);
        }
    }
    if (req->max_tokens == 0 && !req->prompt_logprobs && !req->tap) {
        return err_set(e, ERR_BAD_PARAM, "max_tokens", "must be at least 1");
    }
    if (check_sampling(limits, req, e) != 0 || resolve_depth(limits, req, key, e) != 0) return -1;
    return check_size(limits, req, key, e);
}

uint16_t sched__min_loops(const sequence *seq, uint32_t pos) {
    uint16_t least =
        pos < seq->req.n_prompt ? seq->prefix_key.prompt_min_loops : seq->prefix_key.min_loops;
    return least < seq->prefix_key.max_loops ? least : seq->prefix_key.max_loops;
}

bool sched__may_halt(const request_limits *limits, const sequence *seq, uint32_t pos,
                     uint32_t loops) {
    if (exit_rule_runs_all(limits->exit, seq->prefix_key.threshold)) return false;
    return loops >= sched__min_loops(seq, pos);
}

int sched__seq_create(sequence **out, const request_limits *limits, const sched_request *req,
                      err *e) {
    *out = NULL;
    prefix_key key;
    if (check(limits, req, &key, e) != 0) return -1;
    size_t n_tokens = (size_t)req->n_prompt + req->max_tokens; /* below max_seq_len, no overflow */
    size_t n_blocks = n_tokens / ENG_BLOCK + 1;
    size_t head = (sizeof(sequence) + 63) / 64 * 64;
    size_t words, bytes;
    if (!size_add(n_tokens + n_blocks, req->n_stop_ids, &words) || !size_mul(words, 4, &words) ||
        !size_mul(req->sampling.n_bias, sizeof(eng_bias), &bytes) ||
        !size_add(bytes, words, &bytes) || !size_add(bytes, head, &bytes)) {
        return err_set(e, ERR_TOO_LONG, NULL, "request too large");
    }
    sequence *seq = array_new_aligned(1, bytes);
    if (seq == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a request");
    memset(seq, 0, head);
    eng_bias *bias = (eng_bias *)(void *)((char *)seq + head);
    seq->tokens = (uint32_t *)(void *)(bias + req->sampling.n_bias);
    seq->blocks = seq->tokens + n_tokens;
    uint32_t *stop = seq->blocks + n_blocks;
    memcpy(seq->tokens, req->prompt, req->n_prompt * sizeof *seq->tokens);
    if (req->sampling.n_bias) memcpy(bias, req->sampling.bias, req->sampling.n_bias * sizeof *bias);
    if (req->n_stop_ids) memcpy(stop, req->stop_ids, req->n_stop_ids * sizeof *stop);
    seq->req = *req;
    seq->req.prompt = seq->tokens;
    seq->req.sampling.bias = bias;
    seq->req.stop_ids = stop;
    seq->n_tokens = req->n_prompt;
    seq->prefix_key = key;
    seq->wish_loops = key.max_loops;
    seq->timed_from = !limits->collapses              ? UINT32_MAX
                      : limits->opts.collapse_prompts ? 0
                                                      : req->n_prompt;
    /* A tap or prompt log-probabilities need every position, cached or not. */
    seq->may_share = limits->opts.prefix_cache && !req->tap && !req->prompt_logprobs;
    seq->t_submit = clock_ns();
    list_init(&seq->rank_link);
    list_init(&seq->start_link);
    atomic_init(&seq->cancel_wanted, false);
    atomic_init(&seq->mask, MASK_NONE);
    *out = seq;
    return 0;
}

/* ---- its blocks ---- */

/* Positions with blocks open to the prefix cache. If prompts run more loops than outputs, or
 * outputs are collapsed, equal tokens of prompt and output are not equal latents, so only the
 * prompt is shared. */
static uint32_t shared_positions(const sequence *seq) {
    bool alike = seq->prefix_key.prompt_min_loops == seq->prefix_key.min_loops;
    uint32_t n = alike ? UINT32_MAX : seq->req.n_prompt;
    return n < seq->timed_from ? n : seq->timed_from;
}

/* Blocks that it may take from the prefix cache. */
static uint32_t most_shared(const sequence *seq) {
    uint32_t known = seq->n_tokens - 1, shared = shared_positions(seq);
    return seq->may_share ? (known < shared ? known : shared) / ENG_BLOCK : 0;
}

uint32_t sched__count_prefix(kv_cache *cache, const sequence *seq, const prefix_key *key) {
    hash128 before = {{0, 0}};
    uint32_t n = 0;
    for (uint32_t most = most_shared(seq); n < most; n++) {
        const uint32_t *tokens = seq->tokens + (size_t)n * ENG_BLOCK;
        hash128 hash = sched__prefix_hash(cache, &before, key, tokens);
        if (!sched__prefix_has(cache, &hash, &before, key, tokens)) break;
        before = hash;
    }
    return n;
}

void sched__take_prefix(kv_cache *cache, sequence *seq) {
    seq->hash = (hash128){{0, 0}};
    uint32_t most = most_shared(seq);
    while (seq->n_blocks < most) {
        const uint32_t *tokens = seq->tokens + (size_t)seq->n_blocks * ENG_BLOCK;
        hash128 hash = sched__prefix_hash(cache, &seq->hash, &seq->prefix_key, tokens);
        uint32_t id = sched__prefix_take(cache, &hash, &seq->hash, &seq->prefix_key, tokens);
        if (id == NONE) break;
        seq->blocks[seq->n_blocks++] = id;
        seq->hash = hash;
    }
    seq->n_offered = seq->n_blocks;
    seq->next_start = seq->coda_next = seq->n_blocks * ENG_BLOCK;
}

uint32_t sched__offer_prefix(kv_cache *cache, sequence *seq, uint32_t n_done) {
    uint32_t n = 0, shared = shared_positions(seq);
    if (n_done > shared) n_done = shared;
    while ((seq->n_offered + 1) * ENG_BLOCK <= n_done && seq->n_offered < seq->n_blocks) {
        const uint32_t *tokens = seq->tokens + (size_t)seq->n_offered * ENG_BLOCK;
        hash128 hash = sched__prefix_hash(cache, &seq->hash, &seq->prefix_key, tokens);
        sched__prefix_offer(cache, seq->blocks[seq->n_offered], &hash, &seq->hash, &seq->prefix_key,
                            tokens);
        seq->hash = hash;
        seq->n_offered++;
        n++;
    }
    return n;
}

void sched__give_blocks(kv_cache *cache, sequence *seq) {
    while (seq->n_blocks > 0)
        sched__give_block(cache, seq->blocks[--seq->n_blocks]);
    seq->next_start = seq->coda_next = seq->n_offered = seq->frontier = seq->clock = 0;
    seq->n_drafts = 0;
}

/* fake_answer.c - see fake_answer.h. */
#include "tests/lib/fake_answer.h"

#include "tests/lib/fake_model.h"

enum { WORDS = 2 };

uint64_t fake_tops(uint64_t hash, const eng_top *top, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &top[i].logprob, sizeof bits);
        hash = mix(mix(hash, top[i].id), bits);
    }
    return mix(hash, n);
}

static bool is_stop(const sched_request *req, uint32_t token) {
    for (uint32_t i = 0; i < req->n_stop_ids; i++) {
        if (req->stop_ids[i] == token) return true;
    }
    return false;
}

static void allow(const sched_request *req, uint32_t vocab, uint32_t n_output,
                  uint64_t words[WORDS]) {
    const eng_mask *mask = req->constraint ? req->constraint->mask(req->ud, 0) : NULL;
    for (uint32_t i = 0; i < vocab; i++) {
        bool in = mask == NULL || eng_mask_allows(mask, i);
        bool banned = n_output < req->min_tokens && is_stop(req, i);
        words[i / 64] |= (uint64_t)(in && !banned) << i % 64;
    }
}

static err_code draw(const fake_opts *fake, const sched_request *req, eng_sampler *sampler,
                     const fake_answer *ans, const float *logits, eng_choice *choice) {
    enum { REDRAWS = 32 }; /* as in scheduler/emit.c */
    uint64_t words[WORDS] = {0};
    eng_mask mask = {words, WORDS};
    eng_history past = {req->prompt, ans->tokens, req->n_prompt, ans->n};
    if (req->constraint) {
        err_code failure = req->constraint->make(req->ud);
        if (failure != ERR_NONE) return failure;
    }
    allow(req, fake->vocab, ans->n, words);
    for (int i = 0; i < REDRAWS; i++) {
        err e = {0};
        if (eng_sample(sampler, &req->sampling, &past, &mask, logits, ans->n, req->n_top, choice,
                       &e) != 0)
            return e.code;
        if (!req->constraint || req->constraint->take(req->ud, choice->token)) return ERR_NONE;
        words[choice->token / 64] &= ~(UINT64_C(1) << choice->token % 64);
    }
    return ERR_CONSTRAINT;
}

static fake_depth depth_of(const fake_opts *fake, const sched_request *req) {
    const sched_depth *depth = &req->depth;
    return (fake_depth){.min_loops = depth->min_loops ? depth->min_loops : 1,
                        .max_loops =
                            depth->max_loops ? depth->max_loops : (uint16_t)fake->max_loops,
                        .threshold = depth->threshold != 0 ? depth->threshold : 0.99f,
                        .n_prompt = req->n_prompt};
}

void fake_answer_find(const fake_opts *fake, const sched_request *req, eng_sampler *sampler,
                      fake_answer *out) {
    fake_depth limits = depth_of(fake, req);
    float logits[64 * WORDS];
    fake_seq *seq = fake_seq_create(fake, &limits, req->n_prompt + req->max_tokens);
    uint16_t depth = 0;
    for (uint32_t i = 0; i < req->n_prompt; i++)
        depth = fake_seq_next(seq, req->prompt[i], logits);
    *out = (fake_answer){.finish = SCHED_LENGTH};
    while (out->n < req->max_tokens) {
        eng_choice choice;
        out->why = draw(fake, req, sampler, out, logits, &choice);
        if (out->why != ERR_NONE) {
            out->finish = SCHED_FAILED;
            break;
        }
        if (is_stop(req, choice.token)) {
            out->finish = SCHED_STOP;
            out->stop_id = choice.token;
            break;
        }
        out->depth[out->n] = depth;
        out->logprob[out->n] = choice.logprob;
        out->tops = fake_tops(out->tops, choice.top, choice.n_top);
        out->tokens[out->n++] = choice.token;
        if (out->n < req->max_tokens) depth = fake_seq_next(seq, choice.token, logits);
    }
    fake_seq_destroy(seq);
}

/* sampler_logprob.c - log-softmax and the best alternatives. */
#include "engine/sampler_internal.h"

PER_CPU float eng__max_of(const float *x, size_t n, bool *bad) {
    v16f best = v_all(-INFINITY);
    v16i wrong = {0};
    for (size_t i = 0; i < n; i += 16) {
        v16f values = v_load(x + i, n - i);
        wrong |= ~(v16i)(values <= v_all(FLT_MAX)); /* NaN compares as false too */
        best = v_max(values, best);
    }
    *bad = v_any(wrong);
    return v_max_lane(best);
}

PER_CPU uint32_t eng__first_equal(const float *x, uint32_t n, float value) {
    uint32_t at = 0;
    while (at < n && !v_any((v16i)(v_load(x + at, n - at) == v_all(value))))
        at += 16;
    while (at + 1 < n && x[at] != value)
        at++;
    return at;
}

/* Sum of e^(x - max). */
PER_CPU static double sum_exp(const float *x, size_t n, float max) {
    double sum = 0;
    for (size_t i = 0; i < n;) {
        v16f part = v_all(0); /* 64 additions keep a float exact enough; the total is double */
        for (size_t end = i + 1024 < n ? i + 1024 : n; i < end; i += 16) {
            part += v_exp(v_load(x + i, n - i) - v_all(max));
        }
        sum += v_sum_lanes(part);
    }
    return sum;
}

int eng__norm_of(const float *logits, size_t n, eng__norm *out, err *e) {
    bool bad = false;
    out->max = eng__max_of(logits, n, &bad);
    if (bad)
        return err_set(e, ERR_NUMERIC, NULL, "the model produced a logit that is not a number");
    if (out->max == -INFINITY) {
        return err_set(e, ERR_NUMERIC, NULL, "the model gives every token probability zero");
    }
    out->log_sum = log(sum_exp(logits, n, out->max));
    return 0;
}

/* Inserts (id, logit) in order. Ids come rising, so equal logits keep the lower id first. */
static void top_insert(eng_choice *choice, uint32_t limit, uint32_t id, float logit) {
    uint32_t at = choice->n_top < limit ? choice->n_top++ : limit - 1;
    while (at > 0 && choice->top[at - 1].logprob < logit) {
        choice->top[at] = choice->top[at - 1];
        at--;
    }
    choice->top[at] = (eng_top){id, logit};
}

/* First index from `at` on (a multiple of 64, or n) with a value above `limit` in its 64. */
PER_CPU static size_t next_over(const float *x, size_t n, size_t at, float limit) {
    for (; at < n; at += 64) {
        v16i over = {0};
        for (size_t at_lane = at; at_lane < at + 64 && at_lane < n; at_lane += 16) {
            over |= (v16i)(v_load(x + at_lane, n - at_lane) > v_all(limit));
        }
        if (v_any(over)) return at;
    }
    return n;
}

void eng__find_top(const float *logits, uint32_t vocab, const eng__norm *norm, uint32_t limit,
                   eng_choice *choice) {
    choice->n_top = 0;
    if (limit == 0) return;
    float enter = -INFINITY; /* only larger logits can be among the best */
    for (size_t at = 0; (at = next_over(logits, vocab, at, enter)) < vocab; at += 64) {
        for (size_t k = at; k < at + 64 && k < vocab; k++) {
            if (!(logits[k] > enter)) continue;
            top_insert(choice, limit, (uint32_t)k, logits[k]);
            if (choice->n_top == limit) enter = choice->top[limit - 1].logprob;
        }
    }
    for (uint32_t i = 0; i < choice->n_top; i++) {
        choice->top[i].logprob = rm_logprob(choice->top[i].logprob, norm->max, norm->log_sum);
    }
}

int eng_score(const float *logits, uint32_t vocab, uint32_t token, uint32_t n_top, eng_choice *out,
              err *e) {
    eng__norm norm;
    if (token >= vocab || n_top > ENG_MAX_TOP) {
        return err_set(e, ERR_INTERNAL, NULL, "score: token %u of %u, top %u", token, vocab, n_top);
    }
    if (eng__norm_of(logits, vocab, &norm, e) != 0) return -1;
    out->token = token;
    out->logprob = rm_logprob(logits[token], norm.max, norm.log_sum);
    eng__find_top(logits, vocab, &norm, n_top, out);
    return 0;
}

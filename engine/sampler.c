/* sampler.c - one token from one row of logits.
 *
 * The order is that of vLLM: penalties, bias and mask, temperature, min-p, top-k, top-p. Filters
 * shrink a list of candidate ids in rising order. So among equal logits the higher ids are cut
 * first. There is no sort: the cut is found digit by digit on the bits of the logits, 2048 buckets
 * at a time. The candidates then race (rowmath.h). A device may sample too (engine/cuda/sample.cu)
 * and must pick the same token, so weights and arrival times come from rowmath.h. */
#include "base/size.h"
#include "engine/sampler_internal.h"

#include <stdlib.h>

enum { DIGITS = 3, BUCKETS = 1 << 11, BLOCK = 256 };

struct eng_sampler {
    uint32_t vocab;
    uint32_t epoch;  /* a token was met in this call if seen[] equals it */
    float *adjusted; /* [vocab] logits after penalties, bias and mask */
    float *weight;   /* [vocab] rm_weight of `adjusted` */
    uint32_t *ids;   /* [vocab] candidates, rising */
    uint32_t *seen;  /* [vocab] epoch of the last call that met the token */
    uint32_t *count; /* [vocab] times in the output; valid where seen[] is this epoch */
    double *bucket;  /* [BUCKETS] */
};

int eng_sampler_create(eng_sampler **out, uint32_t vocab_size, err *e) {
    *out = NULL;
    eng_sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler == NULL) goto fail;
    sampler->vocab = vocab_size;
    sampler->adjusted = array_new_aligned(vocab_size, sizeof *sampler->adjusted);
    sampler->weight = array_new_aligned(vocab_size, sizeof *sampler->weight);
    sampler->ids = array_new(vocab_size, sizeof *sampler->ids);
    sampler->seen = array_new(vocab_size, sizeof *sampler->seen);
    sampler->count = array_new(vocab_size, sizeof *sampler->count);
    sampler->bucket = array_new(BUCKETS, sizeof *sampler->bucket);
    if (!sampler->adjusted || !sampler->weight || !sampler->ids || !sampler->seen ||
        !sampler->count || !sampler->bucket)
        goto fail;
    *out = sampler;
    return 0;
fail:
    eng_sampler_destroy(sampler);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a sampler of %u tokens", vocab_size);
}

void eng_sampler_destroy(eng_sampler *sampler) {
    if (sampler == NULL) return;
    free(sampler->adjusted);
    free(sampler->weight);
    free(sampler->ids);
    free(sampler->seen);
    free(sampler->count);
    free(sampler->bucket);
    free(sampler);
}

/* ---- penalties, bias, mask ---- */

/* Penalties and bias keep a finite logit finite, and -Inf from the model stays -Inf. So only the
 * mask can exclude a token. */
static float bounded(float logit, float model) {
    return model == -INFINITY ? model : fminf(fmaxf(logit, -FLT_MAX), FLT_MAX);
}

/* True the first time this call meets a token. */
static bool first_time(eng_sampler *sampler, uint32_t id) {
    if (sampler->seen[id] == sampler->epoch) return false;
    sampler->seen[id] = sampler->epoch;
    sampler->count[id] = 0;
    return true;
}

static void repeat(eng_sampler *sampler, uint32_t id, float penalty) {
    float logit = sampler->adjusted[id];
    sampler->adjusted[id] = bounded(logit > 0 ? logit / penalty : logit * penalty, logit);
}

static void apply_penalties(eng_sampler *sampler, const eng_sampling *params,
                            const eng_history *history) {
    bool repetition = params->repetition_penalty != 1.0f;
    bool counts = params->presence_penalty != 0 || params->frequency_penalty != 0;
    if (!repetition && !counts) return;
    if (++sampler->epoch == 0) { /* wrapped: old marks must not match */
        memset(sampler->seen, 0, sampler->vocab * sizeof *sampler->seen);
        sampler->epoch = 1;
    }
    for (size_t i = 0; repetition && i < history->n_prompt; i++) {
        uint32_t id = history->prompt[i];
        if (id < sampler->vocab && first_time(sampler, id))
            repeat(sampler, id, params->repetition_penalty);
    }
    for (size_t i = 0; i < history->n_output; i++) {
        uint32_t id = history->output[i];
        if (id >= sampler->vocab) continue;
        if (first_time(sampler, id) && repetition) repeat(sampler, id, params->repetition_penalty);
        sampler->count[id]++;
    }
    for (size_t i = 0; counts && i < history->n_output; i++) {
        uint32_t id = history->output[i];
        if (id >= sampler->vocab || sampler->count[id] == 0) continue;
        float by = params->presence_penalty + params->frequency_penalty * (float)sampler->count[id];
        sampler->adjusted[id] = bounded(sampler->adjusted[id] - by, sampler->adjusted[id]);
        sampler->count[id] = 0; /* once per token */
    }
}

static void apply_bias(eng_sampler *sampler, const eng_sampling *params) {
    for (uint32_t i = 0; i < params->n_bias; i++) {
        if (params->bias[i].id >= sampler->vocab) continue;
        float *logit = &sampler->adjusted[params->bias[i].id];
        *logit = bounded(*logit + params->bias[i].value, *logit);
    }
}

static void apply_mask(eng_sampler *sampler, const eng_mask *mask) {
    for (size_t first = 0; first < sampler->vocab; first += 64) {
        uint64_t allowed = first / 64 < mask->n_words ? mask->words[first / 64] : 0;
        if (allowed == UINT64_MAX) continue;
        size_t n = sampler->vocab - first < 64 ? sampler->vocab - first : 64;
        for (size_t k = 0; k < n; k++) {
            if ((allowed >> k & 1) == 0) sampler->adjusted[first + k] = -INFINITY;
        }
    }
}

/* ---- filters ---- */

/* Keeps as few of the best candidates as reach `limit`. Each counts 1, or its weight if by_mass.
 * Among equals lower ids come first. Returns the number kept. */
static size_t keep_best(eng_sampler *sampler, size_t n, double limit, bool by_mass) {
    static const unsigned shift[DIGITS] = {21, 10, 0}, bits[DIGITS] = {11, 11, 10};
    uint32_t prefix = 0;
    limit = fmax(limit, DBL_MIN); /* 0 keeps the best one */
    for (int digit = 0; digit < DIGITS; digit++) {
        uint32_t n_buckets = 1u << bits[digit];
        memset(sampler->bucket, 0, n_buckets * sizeof *sampler->bucket);
        for (size_t i = 0; i < n; i++) {
            uint32_t key = rm_order(sampler->adjusted[sampler->ids[i]]) >> shift[digit];
            if (digit > 0 && key >> bits[digit] != prefix) continue;
            sampler->bucket[key & (n_buckets - 1)] +=
                by_mass ? (double)sampler->weight[sampler->ids[i]] : 1.0;
        }
        uint32_t bucket = n_buckets;
        while (bucket-- > 0 && sampler->bucket[bucket] < limit)
            limit -= sampler->bucket[bucket];
        if (bucket == UINT32_MAX) { /* the total is below the limit, at least by rounding */
            if (digit == 0) return n;
            bucket = 0;
        }
        prefix = digit == 0 ? bucket : prefix << bits[digit] | bucket;
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = sampler->ids[i], key = rm_order(sampler->adjusted[id]);
        if (key < prefix || (key == prefix && limit <= 0)) continue;
        if (key == prefix) limit -= by_mass ? (double)sampler->weight[id] : 1.0;
        sampler->ids[kept++] = id;
    }
    return kept;
}

static double mass_of(const eng_sampler *sampler, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)sampler->weight[sampler->ids[i]];
    return sum;
}

/* Computes the weights and returns their sum. Sums of weights are exact (rowmath.h). To stay exact
 * in floats a block sums multiples of 2^-17 and the remainders separately. */
PER_CPU static double weigh(const float *logits, float *weights, size_t n, float max, float scale) {
    const v16f coarse = v_all(64.0f); /* floats near 64 are 2^-17 apart */
    double total = 0;
    for (size_t i = 0; i < n;) {
        v16f high = v_all(0), low = high;
        for (size_t end = i + BLOCK < n ? i + BLOCK : n; i < end; i += 16) {
            v16f weight = v_weight(v_load(logits + i, n - i), max, scale),
                 coarse_part = (weight + coarse) - coarse;
            v_store(weights + i, weight, n - i);
            high += coarse_part;
            low += weight - coarse_part;
        }
        total += v_sum_lanes(high) + v_sum_lanes(low);
    }
    return total;
}

/* The ids of values not below `least`, rising. */
PER_CPU static size_t gather(const float *values, uint32_t n, float least, uint32_t *ids) {
    size_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        ids[kept] = i; /* always written, kept if large enough: no branch to mispredict */
        kept += values[i] >= least;
    }
    return kept;
}

/* The k-th largest value, for k <= BUCKETS. The root of the heap is the least of the k largest. */
static float kth_largest(const float *values, uint32_t n, size_t k, double *heap) {
    for (size_t i = 0; i < k; i++)
        heap[i] = -(double)INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        double value = (double)values[i];
        if (!(value > heap[0])) continue;
        size_t at = 0;
        for (size_t child; (child = 2 * at + 1) < k; at = child) {
            if (child + 1 < k && heap[child + 1] < heap[child]) child++;
            if (heap[child] >= value) break;
            heap[at] = heap[child];
        }
        heap[at] = value;
    }
    return (float)heap[0];
}

/* Candidates after min-p and top-k. `total` is the sum of all weights. */
static size_t select_candidates(eng_sampler *sampler, const eng_sampling *params, double total) {
    size_t n;
    if (params->min_p > 0) {
        n = gather(sampler->weight, sampler->vocab, params->min_p, sampler->ids);
    } else if (params->top_k > 0 && params->top_k <= BUCKETS && params->top_k < sampler->vocab) {
        n = gather(sampler->adjusted, sampler->vocab,
                   kth_largest(sampler->adjusted, sampler->vocab, params->top_k, sampler->bucket),
                   sampler->ids);
    } else if (params->top_k > 0) {
        n = gather(sampler->weight, sampler->vocab, FLT_MIN, sampler->ids);
    } else {
        /* All tokens below this weight together hold less than 1 - top_p, so top_p is reached
         * without them. One fast pass drops most of the vocabulary. */
        double spare = (1.0 - (double)params->top_p) * total / (double)sampler->vocab;
        n = gather(sampler->weight, sampler->vocab, (float)(spare * 0.999), sampler->ids);
    }
    return params->top_k > 0 && params->top_k < n ? keep_best(sampler, n, params->top_k, false) : n;
}

/* ---- the race ---- */

typedef struct {
    float best; /* arrival of `token` */
    uint32_t token;
} race;

/* Ids come rising, so of equal arrivals the lower id stays. */
INLINE void enter(race *run, uint32_t id, uint32_t bits, float weight) {
    if (weight <= 0 || !rm_race_may_win(bits, weight, run->best)) return;
    float time = rm_race_time(bits, weight);
    if (time < run->best) *run = (race){time, id};
}

/* Over the whole vocabulary. Few of the 16 tokens of a step hold one that may win, so nothing but
 * their weights and bits is computed. */
PER_CPU static uint32_t race_all(const float *logits, uint32_t n, float max, float scale,
                                 uint64_t number) {
    race run = {FLT_MAX, UINT32_MAX};
    v16u ids = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (uint32_t i = 0; i < n; i += 16, ids += 16) {
        v16f weights = v_weight(v_load(logits + i, n - i), max, scale);
        v16u bits = v_race_bits(number, ids);
        if (!v_any(v_race_may_win(bits, weights, run.best))) continue;
        for (uint32_t lane = 0; lane < 16; lane++)
            enter(&run, i + lane, bits[lane], weights[lane]);
    }
    return run.token;
}

/* Among the n candidates. */
static uint32_t race_listed(const eng_sampler *sampler, size_t n, uint64_t number) {
    race run = {FLT_MAX, UINT32_MAX};
    for (size_t i = 0; i < n; i++) {
        uint32_t id = sampler->ids[i];
        enter(&run, id, rm_race_bits(number, id), sampler->weight[id]);
    }
    return run.token;
}

static uint32_t draw(eng_sampler *sampler, const eng_sampling *params, float max, uint64_t index) {
    uint64_t number = rm_philox(params->seed, index);
    float scale = 1.0f / params->temperature;
    bool whole = params->min_p <= 0 && params->top_k == 0;
    if (whole && params->top_p >= 1.0f)
        return race_all(sampler->adjusted, sampler->vocab, max, scale, number);
    double total = weigh(sampler->adjusted, sampler->weight, sampler->vocab, max, scale);
    size_t n = select_candidates(sampler, params, total);
    if (params->top_p < 1.0f) {
        /* Without min-p and top-k, top_p counts the whole vocabulary, with the dropped tail. */
        double mass = whole ? total : mass_of(sampler, n);
        n = keep_best(sampler, n, (double)params->top_p * mass, true);
    }
    return race_listed(sampler, n, number);
}

bool eng_sampling_is_plain(const eng_sampling *params) {
    return params->repetition_penalty == 1.0f && params->presence_penalty == 0 &&
           params->frequency_penalty == 0 && params->n_bias == 0;
}

int eng_sampling_check(const eng_sampling *params, err *e) {
    const struct {
        const char *name;
        float value, min, max;
    } rules[] = {
        {"temperature", params->temperature, 0, 1e6f},
        {"top_p", params->top_p, 0, 1},
        {"min_p", params->min_p, 0, 1},
        {"repetition_penalty", params->repetition_penalty, (float)ENG_REPETITION_MIN, 1e6f},
        {"presence_penalty", params->presence_penalty, -1e6f, 1e6f},
        {"frequency_penalty", params->frequency_penalty, -1e6f, 1e6f},
    };
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        if (!(rules[i].value >= rules[i].min && rules[i].value <= rules[i].max)) {
            return err_set(e, ERR_BAD_PARAM, rules[i].name, "%s must be from %g to %g",
                           rules[i].name, (double)rules[i].min, (double)rules[i].max);
        }
    }
    for (uint32_t i = 0; i < params->n_bias; i++) {
        if (!isfinite(params->bias[i].value)) {
            return err_set(e, ERR_BAD_PARAM, "logit_bias", "a logit bias is not a finite number");
        }
    }
    return 0;
}

int eng_sample(eng_sampler *sampler, const eng_sampling *params, const eng_history *history,
               const eng_mask *mask, const float *logits, uint64_t index, uint32_t n_top,
               eng_choice *out, err *e) {
    if (n_top > ENG_MAX_TOP)
        return err_set(e, ERR_INTERNAL, NULL, "%u alternatives requested; the most is %d", n_top,
                       ENG_MAX_TOP);
    if (eng_sampling_check(params, e) != 0) return -1;
    /* Log-probabilities are those of the model's logits, so they are computed before any change.
     * This pass also refuses NaN and +Inf. */
    eng__norm norm;
    if (eng__norm_of(logits, sampler->vocab, &norm, e) != 0) return -1;
    eng__find_top(logits, sampler->vocab, &norm, n_top, out);
    memcpy(sampler->adjusted, logits, sampler->vocab * sizeof *logits);
    apply_penalties(sampler, params, history);
    apply_bias(sampler, params);
    if (mask) apply_mask(sampler, mask);
    bool bad = false;
    float max = eng__max_of(sampler->adjusted, sampler->vocab, &bad);
    if (bad || max == -INFINITY) {
        return err_set(e, ERR_CONSTRAINT, NULL,
                       "the constraint leaves no token that can be chosen");
    }
    out->token = params->temperature < RM_GREEDY_BELOW
                     ? eng__first_equal(sampler->adjusted, sampler->vocab, max)
                     : draw(sampler, params, max, index);
    out->logprob = rm_logprob(logits[out->token], norm.max, norm.log_sum);
    return 0;
}

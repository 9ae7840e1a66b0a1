/* sampler.c - one token from one row of logits.
 *
 * Order, as vLLM's: penalties, bias and mask, temperature, min-p, top-k, top-p. Filters
 * shrink a list of candidate ids that stays in id order, so equal logits are cut higher
 * ids first and the draw is a walk down the list. No sort: the cut is found digit by
 * digit on the logits' bits, 2048 buckets at a time. A device may sample too
 * (engine/cuda/sample.cu): it must pick the same token, so weights come from rowmath.h. */
#include "base/size.h"
#include "engine/sampler_internal.h"

#include <stdlib.h>

enum { DIGITS = 3, BUCKETS = 1 << 11, BLOCK = 256 };

struct eng_sampler {
    uint32_t vocab;
    uint32_t epoch;  /* value of seen[] that means "in this call" */
    float *y;        /* [vocab] logits after penalties, bias and mask */
    float *w;        /* [vocab] rm_weight of y */
    uint32_t *ids;   /* [vocab] candidates, rising */
    uint32_t *seen;  /* [vocab] epoch in which a token was met */
    uint32_t *count; /* [vocab] times put out; valid where seen is this epoch */
    double *bucket;  /* [BUCKETS] */
    double *block;   /* [vocab / BLOCK, rounded up] sums of w */
};

int eng_sampler_create(eng_sampler **out, uint32_t vocab_size, err *e) {
    *out = NULL;
    eng_sampler *s = calloc(1, sizeof *s);
    if (s == NULL) goto fail;
    s->vocab = vocab_size;
    s->y = array_new_aligned(vocab_size, sizeof *s->y);
    s->w = array_new_aligned(vocab_size, sizeof *s->w);
    s->ids = array_new(vocab_size, sizeof *s->ids);
    s->seen = array_new(vocab_size, sizeof *s->seen);
    s->count = array_new(vocab_size, sizeof *s->count);
    s->bucket = array_new(BUCKETS, sizeof *s->bucket);
    s->block = array_new(vocab_size / BLOCK + 1, sizeof *s->block);
    if (!s->block || !s->y || !s->w || !s->ids || !s->seen || !s->count || !s->bucket) goto fail;
    *out = s;
    return 0;
fail:
    eng_sampler_destroy(s);
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a sampler of %u tokens", vocab_size);
}

void eng_sampler_destroy(eng_sampler *s) {
    if (s == NULL) return;
    free(s->y);
    free(s->w);
    free(s->ids);
    free(s->seen);
    free(s->count);
    free(s->bucket);
    free(s->block);
    free(s);
}

/* ---- penalties, bias, mask ---- */

/* However far penalties and bias push a logit, it stays one that can be chosen; -Inf, which the
 * model gave, stays as well. So only the mask takes tokens away. */
static float bounded(float x, float model) {
    return model == -INFINITY ? model : fminf(fmaxf(x, -FLT_MAX), FLT_MAX);
}

/* True the first time a token is met in this call. */
static bool first_time(eng_sampler *s, uint32_t id) {
    if (s->seen[id] == s->epoch) return false;
    s->seen[id] = s->epoch;
    s->count[id] = 0;
    return true;
}

static void repeat(eng_sampler *s, uint32_t id, float penalty) {
    float x = s->y[id];
    s->y[id] = bounded(x > 0 ? x / penalty : x * penalty, x);
}

static void apply_penalties(eng_sampler *s, const eng_sampling *p, const eng_history *h) {
    bool repetition = p->repetition_penalty != 1.0f;
    bool counts = p->presence_penalty != 0 || p->frequency_penalty != 0;
    if (!repetition && !counts) return;
    if (++s->epoch == 0) { /* wrapped: old marks would look new */
        memset(s->seen, 0, s->vocab * sizeof *s->seen);
        s->epoch = 1;
    }
    for (size_t i = 0; repetition && i < h->n_prompt; i++) {
        uint32_t id = h->prompt[i];
        if (id < s->vocab && first_time(s, id)) repeat(s, id, p->repetition_penalty);
    }
    for (size_t i = 0; i < h->n_output; i++) {
        uint32_t id = h->output[i];
        if (id >= s->vocab) continue;
        if (first_time(s, id) && repetition) repeat(s, id, p->repetition_penalty);
        s->count[id]++;
    }
    for (size_t i = 0; counts && i < h->n_output; i++) {
        uint32_t id = h->output[i];
        if (id >= s->vocab || s->count[id] == 0) continue;
        float by = p->presence_penalty + p->frequency_penalty * (float)s->count[id];
        s->y[id] = bounded(s->y[id] - by, s->y[id]);
        s->count[id] = 0; /* once per token */
    }
}

static void apply_bias(eng_sampler *s, const eng_sampling *p) {
    for (uint32_t i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id >= s->vocab) continue;
        float *y = &s->y[p->bias[i].id];
        *y = bounded(*y + p->bias[i].value, *y);
    }
}

static void apply_mask(eng_sampler *s, const eng_mask *mask) {
    for (size_t first = 0; first < s->vocab; first += 64) {
        uint64_t allowed = first / 64 < mask->n_words ? mask->words[first / 64] : 0;
        if (allowed == UINT64_MAX) continue;
        size_t n = s->vocab - first < 64 ? s->vocab - first : 64;
        for (size_t k = 0; k < n; k++) {
            if ((allowed >> k & 1) == 0) s->y[first + k] = -INFINITY;
        }
    }
}

/* ---- filters ---- */

/* Keeps the best candidates, as few as reach `limit` of the measure (a weight of 1 each,
 * or w where by_mass), lower ids first among equals. Returns how many are left. */
static size_t keep_best(eng_sampler *s, size_t n, double limit, bool by_mass) {
    static const unsigned shift[DIGITS] = {21, 10, 0}, bits[DIGITS] = {11, 11, 10};
    uint32_t prefix = 0;
    limit = fmax(limit, DBL_MIN); /* 0 still keeps the best one */
    for (int d = 0; d < DIGITS; d++) {
        uint32_t n_buckets = 1u << bits[d];
        memset(s->bucket, 0, n_buckets * sizeof *s->bucket);
        for (size_t i = 0; i < n; i++) {
            uint32_t key = rm_order(s->y[s->ids[i]]) >> shift[d];
            if (d > 0 && key >> bits[d] != prefix) continue;
            s->bucket[key & (n_buckets - 1)] += by_mass ? (double)s->w[s->ids[i]] : 1.0;
        }
        uint32_t b = n_buckets;
        while (b-- > 0 && s->bucket[b] < limit)
            limit -= s->bucket[b];
        if (b == UINT32_MAX) { /* all together stay below the limit, if only by rounding */
            if (d == 0) return n;
            b = 0;
        }
        prefix = d == 0 ? b : prefix << bits[d] | b;
    }
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = s->ids[i], key = rm_order(s->y[id]);
        if (key < prefix || (key == prefix && limit <= 0)) continue;
        if (key == prefix) limit -= by_mass ? (double)s->w[id] : 1.0;
        s->ids[kept++] = id;
    }
    return kept;
}

static double mass_of(const eng_sampler *s, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)s->w[s->ids[i]];
    return sum;
}

/* w, its block sums, and their total: exact, as all sums of weights are (rowmath.h). To stay
 * exact in floats a block sums multiples of 2^-17 and the remainders apart. */
PER_CPU static double weigh(const float *y, float *w, double *block, size_t n, float max,
                            float scale) {
    const v16f coarse = v_all(64.0f); /* its neighbours are 2^-17 apart */
    double total = 0;
    for (size_t i = 0; i < n; block++) {
        v16f high = v_all(0), low = high;
        for (size_t end = i + BLOCK < n ? i + BLOCK : n; i < end; i += 16) {
            v16f e = v_weight(v_load(y + i, n - i), max, scale), h = (e + coarse) - coarse;
            memcpy(w + i, &e, (n - i < 16 ? n - i : 16) * sizeof *w);
            high += h;
            low += e - h;
        }
        *block = v_sum_lanes(high) + v_sum_lanes(low);
        total += *block;
    }
    return total;
}

/* The ids of values that are at least `least`, rising. */
PER_CPU static size_t gather(const float *x, uint32_t n, float least, uint32_t *ids) {
    size_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        ids[kept] = i; /* written always, kept sometimes: no branch to mispredict */
        kept += x[i] >= least;
    }
    return kept;
}

/* The k-th largest of x, for k <= BUCKETS: a heap whose root is the least of the k. */
static float kth_largest(const float *x, uint32_t n, size_t k, double *heap) {
    for (size_t i = 0; i < k; i++)
        heap[i] = -(double)INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        double v = (double)x[i];
        if (!(v > heap[0])) continue;
        size_t at = 0;
        for (size_t child; (child = 2 * at + 1) < k; at = child) {
            if (child + 1 < k && heap[child + 1] < heap[child]) child++;
            if (heap[child] >= v) break;
            heap[at] = heap[child];
        }
        heap[at] = v;
    }
    return (float)heap[0];
}

/* Candidates after min-p and top-k. `total` is the mass of all. */
static size_t select_candidates(eng_sampler *s, const eng_sampling *p, double total) {
    size_t n;
    if (p->min_p > 0) {
        n = gather(s->w, s->vocab, p->min_p, s->ids);
    } else if (p->top_k > 0 && p->top_k <= BUCKETS && p->top_k < s->vocab) {
        n = gather(s->y, s->vocab, kth_largest(s->y, s->vocab, p->top_k, s->bucket), s->ids);
    } else if (p->top_k > 0) {
        n = gather(s->w, s->vocab, FLT_MIN, s->ids);
    } else {
        /* All the tokens below this weight together hold less than 1 - top_p, so none of
         * them is needed to reach top_p: most of a vocabulary goes in one quick pass. */
        double spare = (1.0 - (double)p->top_p) * total / (double)s->vocab;
        n = gather(s->w, s->vocab, (float)(spare * 0.999), s->ids);
    }
    return p->top_k > 0 && p->top_k < n ? keep_best(s, n, p->top_k, false) : n;
}

/* Where the walk down the weights passes `goal`; every token, no candidates. */
static uint32_t draw_from_all(const eng_sampler *s, double goal) {
    uint32_t first = 0, last = UINT32_MAX;
    for (const double *block = s->block; first + BLOCK < s->vocab && goal >= *block; block++) {
        goal -= *block;
        first += BLOCK;
    }
    for (uint32_t i = first; i < s->vocab; i++) {
        if (s->w[i] <= 0) continue;
        last = i;
        goal -= (double)s->w[i];
        if (goal < 0) break;
    }
    /* Rounding may leave a little at the end: the last token that has any weight. */
    for (uint32_t i = first; last == UINT32_MAX && i-- > 0;) {
        if (s->w[i] > 0) last = i;
    }
    return last;
}

static uint32_t draw(eng_sampler *s, const eng_sampling *p, float max, uint64_t index) {
    double u = rm_uniform(p->seed, index);
    double total = weigh(s->y, s->w, s->block, s->vocab, max, 1.0f / p->temperature);
    if (p->top_k == 0 && p->top_p >= 1.0f && p->min_p <= 0) return draw_from_all(s, u * total);
    size_t n = select_candidates(s, p, total);
    double mass = mass_of(s, n);
    if (p->top_p < 1.0f) {
        /* Without min-p and top-k, top_p is of everything, the dropped tail included. */
        bool whole = p->min_p <= 0 && p->top_k == 0;
        n = keep_best(s, n, (double)p->top_p * (whole ? total : mass), true);
        mass = mass_of(s, n);
    }
    double goal = u * mass;
    uint32_t last = s->ids[0];
    for (size_t i = 0; i < n; i++) {
        if (s->w[s->ids[i]] <= 0) continue; /* among the top k, but of no weight */
        last = s->ids[i];
        goal -= (double)s->w[last];
        if (goal < 0) break;
    }
    return last;
}

bool eng_sampling_is_plain(const eng_sampling *p) {
    return p->repetition_penalty == 1.0f && p->presence_penalty == 0 && p->frequency_penalty == 0 &&
           p->n_bias == 0;
}

int eng_sampling_check(const eng_sampling *p, err *e) {
    const struct {
        const char *name;
        float value, min, max;
    } rules[] = {
        {"temperature", p->temperature, 0, 1e6f},
        {"top_p", p->top_p, 0, 1},
        {"min_p", p->min_p, 0, 1},
        {"repetition_penalty", p->repetition_penalty, (float)ENG_REPETITION_MIN, 1e6f},
        {"presence_penalty", p->presence_penalty, -1e6f, 1e6f},
        {"frequency_penalty", p->frequency_penalty, -1e6f, 1e6f},
    };
    for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
        if (!(rules[i].value >= rules[i].min && rules[i].value <= rules[i].max)) {
            return err_set(e, ERR_BAD_PARAM, rules[i].name, "%s is out of range", rules[i].name);
        }
    }
    for (uint32_t i = 0; i < p->n_bias; i++) {
        if (!isfinite(p->bias[i].value)) {
            return err_set(e, ERR_BAD_PARAM, "logit_bias", "a logit bias is not a finite number");
        }
    }
    return 0;
}

int eng_sample(eng_sampler *s, const eng_sampling *p, const eng_history *h, const eng_mask *mask,
               const float *logits, uint64_t index, uint32_t n_top, eng_choice *out, err *e) {
    if (n_top > ENG_MAX_TOP) return err_set(e, ERR_INTERNAL, NULL, "%u alternatives wanted", n_top);
    if (eng_sampling_check(p, e) != 0) return -1;
    /* Log-probabilities are the model's own, so they come before anything is changed; this
     * pass also refuses NaN and +Inf. */
    eng__norm norm;
    if (eng__norm_of(logits, s->vocab, &norm, e) != 0) return -1;
    eng__find_top(logits, s->vocab, &norm, n_top, out);
    memcpy(s->y, logits, s->vocab * sizeof *logits);
    apply_penalties(s, p, h);
    apply_bias(s, p);
    if (mask) apply_mask(s, mask);
    bool bad = false;
    float max = eng__max_of(s->y, s->vocab, &bad);
    if (bad || max == -INFINITY) {
        return err_set(e, ERR_CONSTRAINT, NULL, "no token that is allowed can be chosen");
    }
    out->token = p->temperature < RM_GREEDY_BELOW ? eng__first_equal(s->y, s->vocab, max)
                                                  : draw(s, p, max, index);
    out->logprob = rm_logprob(logits[out->token], norm.max, norm.log_sum);
    return 0;
}

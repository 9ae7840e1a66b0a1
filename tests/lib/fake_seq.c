/* fake_seq.c - the integer model, one position after another: see fake_backend.h. */
#include "tests/lib/fake_model.h"

#include <stdlib.h>

struct fake_seq {
    fake_opts opts;
    fake_depth depth;
    uint32_t n_done, max;
    uint64_t *latents; /* [plane][position] */
    uint32_t *began;   /* policy collapse: [position] loops of the generated positions before it */
    uint32_t clock;    /* and of all so far */
};

fake_seq *fake_seq_create(const fake_opts *opts, const fake_depth *depth, uint32_t max_positions) {
    fake_seq *seq = calloc(1, sizeof *seq);
    if (seq == NULL) return NULL;
    seq->opts = *opts;
    seq->depth = *depth;
    seq->max = max_positions;
    seq->latents =
        calloc((size_t)fake_planes(opts, opts->max_loops) * max_positions, sizeof *seq->latents);
    seq->began = calloc(max_positions, sizeof *seq->began);
    if (seq->latents && seq->began) return seq;
    fake_seq_destroy(seq);
    return NULL;
}

void fake_seq_destroy(fake_seq *seq) {
    if (seq == NULL) return;
    free(seq->latents);
    free(seq->began);
    free(seq);
}

/* Policy collapse: whether the position being run finds position `from` collapsed in this loop: as
 * many loops as a position runs at most have passed since `from` began. */
static bool is_collapsed(const fake_seq *seq, uint32_t from, uint32_t loop) {
    if (seq->opts.policy != KV_COLLAPSE || from < seq->depth.n_prompt) return false;
    return seq->began[seq->n_done] + loop >= seq->began[from] + seq->depth.max_loops;
}

static uint64_t write_and_read(fake_seq *seq, uint32_t plane, uint64_t x) {
    uint64_t *row = seq->latents + (size_t)plane * seq->max, sum = 0;
    uint32_t first = fake_planes(&seq->opts, 0);
    const uint64_t *deepest = seq->latents + (size_t)(first + seq->depth.max_loops - 1) * seq->max;
    row[seq->n_done] = model_latent(x, plane);
    if (seq->opts.instant) return 0;
    for (uint32_t i = 0; i <= seq->n_done; i++) {
        bool collapsed = plane >= first && is_collapsed(seq, i, plane - first);
        sum = mix(sum, collapsed ? deepest[i] : row[i]);
    }
    return sum;
}

uint16_t fake_seq_next(fake_seq *seq, uint32_t token, float *logits) {
    const fake_opts *opts = &seq->opts;
    uint32_t first = fake_planes(opts, 0);
    uint64_t x = model_embed(opts, token, seq->n_done), out = 0, state, embed;
    for (uint32_t plane = 0; plane < fake_bundles(opts, opts->n_prelude); plane++)
        x = mix(x, write_and_read(seq, plane, x));
    state = embed = x;
    uint16_t depth = 0;
    seq->began[seq->n_done] = seq->clock;
    for (uint32_t loop = 0; loop < seq->depth.max_loops; loop++) {
        if (depth && opts->policy == KV_LAST) {
            seq->latents[(size_t)(first + loop) * seq->max + seq->n_done] =
                seq->latents[(size_t)(first + depth - 1) * seq->max + seq->n_done];
            continue;
        }
        uint64_t input = mix(mix(state, embed), loop);
        state = mix(input, write_and_read(seq, first + loop, input));
        if (depth) continue;
        out = mix(out, state);
        if (model_halts(opts, state, embed, loop + 1, seq->depth.min_loops, seq->depth.max_loops,
                        seq->depth.threshold))
            depth = (uint16_t)(loop + 1);
    }
    x = out;
    for (uint32_t plane = 0; plane < fake_bundles(opts, opts->n_coda); plane++) {
        x = mix(x, write_and_read(seq, fake_bundles(opts, opts->n_prelude) + plane, x));
    }
    model_logits(opts, x, token, seq->n_done, false, logits);
    if (seq->n_done >= seq->depth.n_prompt) seq->clock += depth;
    seq->n_done++;
    return depth;
}

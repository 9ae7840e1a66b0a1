/* fake_seq.c - the integer model, one position after another: see fake_backend.h. */
#include "tests/lib/fake_model.h"

#include <stdlib.h>

struct fake_seq {
    fake_opts o;
    fake_depth d;
    uint32_t n, max;
    uint64_t *latents; /* [plane][position] */
};

fake_seq *fake_seq_create(const fake_opts *o, const fake_depth *d, uint32_t max_positions) {
    fake_seq *q = calloc(1, sizeof *q);
    if (q == NULL) return NULL;
    q->o = *o;
    q->d = *d;
    q->max = max_positions;
    q->latents = calloc((size_t)fake_planes(o, o->max_loops) * max_positions, sizeof *q->latents);
    if (q->latents == NULL) {
        free(q);
        return NULL;
    }
    return q;
}

void fake_seq_destroy(fake_seq *q) {
    if (q == NULL) return;
    free(q->latents);
    free(q);
}

static uint64_t write_and_read(fake_seq *q, uint32_t plane, uint64_t x) {
    uint64_t *row = q->latents + (size_t)plane * q->max, sum = 0;
    row[q->n] = model_latent(x, plane);
    if (q->o.instant) return 0;
    for (uint32_t i = 0; i <= q->n; i++)
        sum = mix(sum, row[i]);
    return sum;
}

uint16_t fake_seq_next(fake_seq *q, uint32_t token, float *logits) {
    const fake_opts *o = &q->o;
    uint32_t first = fake_planes(o, 0);
    uint64_t x = model_embed(o, token, q->n), out = 0, h, e;
    for (uint32_t p = 0; p < fake_bundles(o, o->n_prelude); p++)
        x = mix(x, write_and_read(q, p, x));
    h = e = x;
    uint16_t depth = 0;
    for (uint32_t t = 0; t < q->d.max_loops; t++) {
        if (depth && o->policy == KV_LAST) {
            q->latents[(size_t)(first + t) * q->max + q->n] =
                q->latents[(size_t)(first + depth - 1) * q->max + q->n];
            continue;
        }
        uint64_t u = mix(mix(h, e), t);
        h = mix(u, write_and_read(q, first + t, u));
        if (depth) continue;
        out = mix(out, h);
        if (model_halts(o, h, e, t + 1, q->d.min_loops, q->d.max_loops, q->d.threshold))
            depth = (uint16_t)(t + 1);
    }
    x = out;
    for (uint32_t p = 0; p < fake_bundles(o, o->n_coda); p++) {
        x = mix(x, write_and_read(q, fake_bundles(o, o->n_prelude) + p, x));
    }
    model_logits(x, o->vocab, logits);
    q->n++;
    return depth;
}

/* fake.c - `--device fake`: a backend without arithmetic, to measure everything else.
 *
 * Rows halt at a depth that follows from their position, by whatever exit rule, and every logit row
 * names one token, so tests know what must come out. A launch that yields logits takes
 * --fake-us-per-token, however many they are, and may yield them for all its rows: the period of
 * streams is then one launch, up to --max-rows of them. For tests it can be made ill by the
 * environment variable FATHOM_FAULT: nan:N, device:N or stall:N spoils the Nth launch that yields
 * logits, nans:N that and all after it; load:MS makes opening slow. */
#include "base/clock.h"
#include "base/size.h"
#include "engine/backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    eng_backend base;
    uint8_t *halted;  /* [max_launch] */
    float *logits;    /* [max_launch][vocab] all 0 but one */
    uint32_t *marked; /* [max_launch] the entry that is not 0 */
    uint32_t vocab, n_logits, n_rows;
    uint64_t us_per_token, head_launches, fault_at;
    char fault[16];
    uint64_t began_ns;
} fake;

static void sleep_us(uint64_t us) {
    struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&t, NULL);
}

/* Depths 1, 2, 3, 1, 2, 3 … by position, within what the request allows; every loop where the rule
 * says so. */
static bool halts(const eng_row *r, exit_rule rule) {
    uint32_t wish = 1 + r->pos % 3, done = r->loop + 1u;
    if (done >= r->max_loops) return true;
    if (rule == EXIT_FIXED || (rule == EXIT_HAZARD && r->threshold >= 1)) return false;
    return done >= r->min_loops && done >= wish;
}

static int fake_launch(eng_backend *b, const eng_launch *l, err *e) {
    (void)e;
    fake *f = (fake *)(void *)b;
    f->began_ns = clock_ns();
    f->n_logits = 0;
    f->n_rows = l->n_rows;
    for (uint32_t i = 0; i < l->n_rows; i++) {
        const eng_row *r = &l->rows[i];
        f->halted[i] = l->stage == ENG_STAGE_RECURRENT &&
                       !(r->flags & (ENG_ROW_TAIL | ENG_ROW_KV_ONLY)) && halts(r, b->info.exit);
        if (l->stage != ENG_STAGE_CODA || !(r->flags & ENG_ROW_LOGITS)) continue;
        uint32_t at = f->n_logits++;
        float *row = f->logits + (size_t)at * f->vocab;
        row[f->marked[at]] = 0;
        f->marked[at] = 33 + r->pos % 64 < f->vocab ? 33 + r->pos % 64 : 0;
        row[f->marked[at]] = 20;
    }
    return 0;
}

/* The fault the environment asked for, once its launch has come. */
static int be_ill(fake *f, err *e) {
    if (f->fault_at == 0 || ++f->head_launches < f->fault_at) return 0;
    bool now = f->head_launches == f->fault_at;
    if (strcmp(f->fault, "device") == 0) {
        return err_set(e, ERR_DEVICE, NULL, "the fake device failed as it was told to");
    }
    bool nan = strcmp(f->fault, "nans") == 0 || (now && strcmp(f->fault, "nan") == 0);
    if (nan) f->logits[f->marked[0]] = NAN;
    if (now && strcmp(f->fault, "stall") == 0) sleep_us(600 * UINT64_C(1000000));
    return 0;
}

static int fake_wait(eng_backend *b, eng_result *r, err *e) {
    fake *f = (fake *)(void *)b;
    *r = (eng_result){.halted = f->halted, .logits = f->logits, .n_logits = f->n_logits};
    if (f->n_logits) {
        if (f->us_per_token) sleep_us(f->us_per_token);
        if (be_ill(f, e) != 0) return -1;
    }
    r->ns = clock_ns() - f->began_ns;
    return 0;
}

static void fake_close(eng_backend *b) {
    fake *f = (fake *)(void *)b;
    free(f->halted);
    free(f->logits);
    free(f->marked);
    free(f);
}

static void read_fault(fake *f) {
    const char *text = getenv("FATHOM_FAULT"), *colon = text ? strchr(text, ':') : NULL;
    if (colon == NULL || (size_t)(colon - text) >= sizeof f->fault) return;
    memcpy(f->fault, text, (size_t)(colon - text));
    f->fault_at = strtoull(colon + 1, NULL, 10);
}

int eng_fake_open(eng_backend **out, const model_folder *m, const eng_backend_opts *o,
                  uint64_t us_per_token, err *e) {
    static const eng_backend_ops ops = {fake_launch, fake_wait, fake_close};
    *out = NULL;
    const model_plan *c = model_plan_of(m);
    fake *f = calloc(1, sizeof *f);
    if (f == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory opening the fake device");
    uint32_t planes = plan_planes(c, o->max_loops);
    size_t slot = (size_t)c->slot_values * model_dtype_bytes(o->cache_dtype), logits = 0;
    uint64_t budget = o->cache_bytes ? o->cache_bytes : UINT64_C(1) << 30;
    uint64_t slots = budget / slot, blocks = slots / ENG_BLOCK + 1;
    f->base.ops = &ops;
    f->base.plan = c;
    f->base.info = (eng_backend_info){
        .device = "fake",
        .kernels = "none",
        .threads = 1,
        .n_slots = slots < UINT32_MAX ? (uint32_t)slots : UINT32_MAX - 1,
        .n_blocks = blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX - 1,
        .n_planes = planes,
        .n_rows = o->n_rows,
        .max_launch = o->max_launch,
        .max_logits = o->max_launch, /* pages of zeros, but for one a row */
        .max_flights = 1,
        .exit = o->own_exit ? o->exit : c->exit,
        .slot_bytes = slot,
        .block_map_bytes = (size_t)planes * ENG_BLOCK * sizeof(uint32_t),
    };
    f->vocab = c->vocab_size;
    f->us_per_token = us_per_token;
    f->halted = calloc(o->max_launch, 1);
    f->marked = calloc(o->max_launch, sizeof *f->marked);
    if (size_mul(o->max_launch, f->vocab, &logits)) f->logits = calloc(logits, sizeof *f->logits);
    if (f->halted == NULL || f->marked == NULL || f->logits == NULL) {
        fake_close(&f->base);
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory opening the fake device");
    }
    read_fault(f);
    if (strcmp(f->fault, "load") == 0) {
        sleep_us(f->fault_at * 1000);
        f->fault_at = 0;
    }
    *out = &f->base;
    return 0;
}

/* fake.c - `--device fake`: a backend without arithmetic, to measure everything else.
 *
 * Rows halt at a depth derived from their position, under every exit rule. Every row with logits
 * names one token, so tests know the output in advance. The draft of one position in seven names
 * another token, and all others the same. A launch with logits takes --fake-us-per-token, for any
 * number of rows. So the period of a stream is one launch, for up to --max-rows streams.
 *
 * The environment variable FATHOM_FAULT makes the device fail, for tests. nan:N, device:N and
 * stall:N spoil the Nth launch with logits; nans:N spoils the Nth and all later ones; load:MS makes
 * opening slow. */
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
    uint32_t *marked; /* [max_launch] index of the entry other than 0 */
    uint32_t vocab, n_logits;
    uint64_t us_per_token, head_launches, fault_at;
    char fault[16];
    uint64_t began_ns;
} fake_device;

static void sleep_us(uint64_t us) {
    struct timespec time = {.tv_sec = (time_t)(us / 1000000),
                            .tv_nsec = (long)(us % 1000000) * 1000};
    nanosleep(&time, NULL);
}

/* Depths 1, 2, 3, 1, 2, 3 … by position, within the limits of the row; all loops if the rule never
 * halts early. */
static bool halts(const eng_row *row, exit_rule rule) {
    uint32_t wish = 1 + row->pos % 3, done = row->loop + 1u;
    if (done >= row->max_loops) return true;
    if (exit_rule_runs_all(rule, row->threshold)) return false;
    return done >= row->min_loops && done >= wish;
}

/* The token named after a position. */
static uint32_t token_after(const fake_device *fake, const eng_row *row) {
    bool wrong = row->flags & ENG_ROW_DRAFT && row->pos % 7 == 6;
    uint32_t token = 33 + (row->pos + wrong) % 64;
    return token < fake->vocab ? token : 0;
}

static int fake_launch(eng_backend *backend, const eng_launch *launch, err *e) {
    (void)e;
    fake_device *fake = (fake_device *)(void *)backend;
    fake->began_ns = clock_ns();
    fake->n_logits = 0;
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        const eng_row *row = &launch->rows[i];
        fake->halted[i] = launch->stage == ENG_STAGE_RECURRENT &&
                          !(row->flags & (ENG_ROW_TAIL | ENG_ROW_KV_ONLY)) &&
                          halts(row, backend->info.exit);
        if (launch->stage != ENG_STAGE_CODA || !(row->flags & ENG_ROW_LOGITS)) continue;
        uint32_t at = fake->n_logits++;
        float *logits = fake->logits + (size_t)at * fake->vocab;
        logits[fake->marked[at]] = 0;
        fake->marked[at] = token_after(fake, row);
        logits[fake->marked[at]] = 20;
    }
    return 0;
}

/* Applies the fault of FATHOM_FAULT when its launch has come. */
static int be_ill(fake_device *fake, err *e) {
    if (fake->fault_at == 0 || ++fake->head_launches < fake->fault_at) return 0;
    bool now = fake->head_launches == fake->fault_at;
    if (strcmp(fake->fault, "device") == 0) {
        return err_set(e, ERR_DEVICE, NULL, "the fake device failed, as FATHOM_FAULT asks");
    }
    bool nan = strcmp(fake->fault, "nans") == 0 || (now && strcmp(fake->fault, "nan") == 0);
    if (nan) fake->logits[fake->marked[0]] = NAN;
    if (now && strcmp(fake->fault, "stall") == 0) sleep_us(600 * UINT64_C(1000000));
    return 0;
}

static int fake_wait(eng_backend *backend, eng_result *result, err *e) {
    fake_device *fake = (fake_device *)(void *)backend;
    *result =
        (eng_result){.halted = fake->halted, .logits = fake->logits, .n_logits = fake->n_logits};
    if (fake->n_logits) {
        if (fake->us_per_token) sleep_us(fake->us_per_token);
        if (be_ill(fake, e) != 0) return -1;
    }
    result->ns = clock_ns() - fake->began_ns;
    return 0;
}

static void fake_close(eng_backend *backend) {
    fake_device *fake = (fake_device *)(void *)backend;
    free(fake->halted);
    free(fake->logits);
    free(fake->marked);
    free(fake);
}

static void read_fault(fake_device *fake) {
    const char *text = getenv("FATHOM_FAULT"), *colon = text ? strchr(text, ':') : NULL;
    if (colon == NULL || (size_t)(colon - text) >= sizeof fake->fault) return;
    memcpy(fake->fault, text, (size_t)(colon - text));
    fake->fault_at = strtoull(colon + 1, NULL, 10);
}

int eng_fake_open(eng_backend **out, const model_folder *model, const eng_backend_opts *opts,
                  uint64_t us_per_token, err *e) {
    static const eng_backend_ops ops = {fake_launch, fake_wait, fake_close};
    *out = NULL;
    const model_plan *plan = model_plan_of(model);
    fake_device *fake = calloc(1, sizeof *fake);
    if (fake == NULL)
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory opening the fake device");
    uint32_t planes = plan_planes(plan, opts->max_loops);
    size_t slot = (size_t)plan->slot_values * model_dtype_bytes(opts->cache_dtype), logits = 0;
    uint64_t budget = opts->cache_bytes ? opts->cache_bytes : UINT64_C(1) << 30;
    uint64_t slots = budget / slot, blocks = slots / ENG_BLOCK + 1;
    fake->base.ops = &ops;
    fake->base.plan = plan;
    fake->base.info = (eng_backend_info){
        .device = "fake",
        .kernels = "none",
        .threads = 1,
        .n_slots = slots < UINT32_MAX ? (uint32_t)slots : UINT32_MAX - 1,
        .n_blocks = blocks < UINT32_MAX ? (uint32_t)blocks : UINT32_MAX - 1,
        .n_planes = planes,
        .n_rows = opts->n_rows,
        .max_launch = opts->max_launch,
        .max_logits = opts->max_launch, /* untouched memory but for one entry a row */
        .max_flights = 1,
        .exit = opts->own_exit ? opts->exit : plan->exit,
        .slot_bytes = slot,
        .block_map_bytes = (size_t)planes * ENG_BLOCK * sizeof(uint32_t),
    };
    fake->vocab = plan->vocab_size;
    fake->us_per_token = us_per_token;
    fake->halted = calloc(opts->max_launch, 1);
    fake->marked = calloc(opts->max_launch, sizeof *fake->marked);
    if (size_mul(opts->max_launch, fake->vocab, &logits))
        fake->logits = calloc(logits, sizeof *fake->logits);
    if (fake->halted == NULL || fake->marked == NULL || fake->logits == NULL) {
        fake_close(&fake->base);
        return err_set(e, ERR_NO_MEMORY, NULL, "out of memory opening the fake device");
    }
    read_fault(fake);
    if (strcmp(fake->fault, "load") == 0) {
        sleep_us(fake->fault_at * 1000);
        fake->fault_at = 0;
    }
    *out = &fake->base;
    return 0;
}

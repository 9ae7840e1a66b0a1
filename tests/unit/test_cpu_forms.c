/* Absorbed and expanded attention: the rows of each form, the same answers from both, and bits of
 * an expanded row that depend on its own chunk alone. */
#include "engine/cpu/cpu_internal.h"
#include "tests/lib/testlib.h"
#include "tests/unit/row_driver.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

TestSuite(cpu_forms, .fini = fail_on_leaks);

static const char *const mla = "tests/golden/cases/mla";
static driver drv;

static eng__cpu *open_forms(uint32_t window, uint32_t threads, model_dtype cache) {
    eng_backend_opts opts = {.threads = threads, .max_positions = 256, .cache_dtype = cache};
    driver_open(&drv, mla, 6, KV_EXACT, &opts);
    eng__cpu *cpu = (eng__cpu *)drv.backend;
    cr_assert(cpu->crossover > 0);
    cpu->window = window;
    return cpu;
}

static void start(uint32_t n_seq, uint32_t n_pos) {
    driver_start(&drv, n_seq, n_pos);
    for (uint32_t seq_idx = 0; seq_idx < DRIVER_SEQS; seq_idx++) {
        for (uint32_t pos = 0; pos < DRIVER_POS; pos++)
            drv.seq[seq_idx].ids[pos] = (pos * 37 + pos * pos + 5) % 300; /* all sequences alike */
    }
}

static float *logits_of(uint32_t window, uint32_t threads, uint32_t n_seq, uint32_t n_pos,
                        uint32_t chunk) {
    (void)open_forms(window, threads, DTYPE_F32);
    start(n_seq, n_pos);
    driver_run(&drv, chunk);
    float *out = drv.seq[0].logits;
    drv.seq[0].logits = NULL;
    driver_close(&drv);
    return out;
}

Test(cpu_forms, a_promised_chunk_beyond_the_crossover_is_expanded) {
    static const struct {
        uint32_t chunk;
        bool expanded;
    } rows[] = {{0, false}, {128, true}, {256, true}, {100, false}, {32, false}};
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        eng_backend_opts opts = {.threads = 1, .prompt_chunk = rows[i].chunk};
        driver_open(&drv, mla, 6, KV_EXACT, &opts);
        cr_assert_eq(((eng__cpu *)drv.backend)->window, rows[i].expanded ? rows[i].chunk : 0,
                     "chunk %u", rows[i].chunk);
        driver_close(&drv);
    }
    eng_backend_opts opts = {.threads = 1, .prompt_chunk = 128};
    driver_open(&drv, "tests/golden/cases/gqa", 6, KV_EXACT, &opts);
    cr_assert_eq(((eng__cpu *)drv.backend)->window, 0, "GQA has one form");
    driver_close(&drv);
}

/* Rows [first, last) of one launch, window 64: the expanded stretch. */
Test(cpu_forms, rows_up_to_the_end_of_their_window_are_expanded) {
    static const struct {
        uint32_t first, last, begin, end; /* begin == end: none */
    } rows[] = {
        {0, 64, 0, 64},     {0, 63, 0, 0},      {0, 65, 0, 64},     {32, 64, 32, 64},
        {33, 64, 0, 0},     {33, 128, 64, 128}, {33, 150, 64, 128}, {10, 200, 10, 192},
        {63, 64, 0, 0},     {64, 192, 64, 192}, {70, 100, 0, 0},    {100, 130, 0, 0},
        {90, 130, 90, 128},
    };
    eng__cpu *cpu = open_forms(64, 1, DTYPE_F32);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        start(1, 210);
        if (rows[i].first) driver_add_prelude(&drv, 0, 0, rows[i].first);
        if (rows[i].first) driver_launch(&drv, ENG_STAGE_PRELUDE);
        driver_add_prelude(&drv, 0, rows[i].first, rows[i].last);
        driver_launch(&drv, ENG_STAGE_PRELUDE);
        uint32_t begin = 0, end = 0, next = 0;
        for (uint32_t run = 0; run < cpu->n_runs; run++) {
            cr_assert_eq(cpu->runs[run].first, next, "runs leave out rows");
            next += cpu->runs[run].n_rows;
            if (!cpu->runs[run].expanded) continue;
            cr_assert_eq(end, 0, "one stretch");
            begin = rows[i].first + cpu->runs[run].first;
            end = begin + cpu->runs[run].n_rows;
        }
        cr_assert_eq(next, rows[i].last - rows[i].first);
        cr_assert(begin == rows[i].begin && end == rows[i].end, "[%u, %u): [%u, %u) is expanded",
                  rows[i].first, rows[i].last, begin, end);
    }
    driver_close(&drv);
}

Test(cpu_forms, bits_of_expanded_rows_depend_on_their_chunk_alone) {
    enum { POS = 210, N = POS * 320 };
    static const struct {
        const char *what;
        uint32_t threads, n_seq, chunk;
    } ways[] = {{"chunks of one window", 1, 1, 64},
                {"chunks of two", 1, 1, 128},
                {"another sequence", 1, 2, 64},
                {"threads", 3, 2, 192},
                {"many threads", 7, 1, 210}};
    float *base = logits_of(64, 1, 1, POS, POS), *absorbed = logits_of(0, 1, 1, POS, POS);
    cr_assert_neq(memcmp(base, absorbed, N * sizeof *base), 0, "nothing was expanded");
    for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
        float *other = logits_of(64, ways[i].threads, ways[i].n_seq, POS, ways[i].chunk);
        cr_assert_eq(memcmp(base, other, N * sizeof *base), 0, "%s changed bits", ways[i].what);
        free(other);
    }
    float worst = 0, largest = 0;
    for (size_t i = 0; i < N; i++) {
        worst = fmaxf(worst, fabsf(base[i] - absorbed[i]));
        largest = fmaxf(largest, fabsf(absorbed[i]));
    }
    cr_assert(worst <= 2e-5f * largest, "the forms differ by %g of the largest logit",
              (double)(worst / largest));
    free(base);
    free(absorbed);
}

/* A prefix ending inside a window does not change the form of the rest. */
Test(cpu_forms, rows_behind_a_cached_prefix_keep_their_bits) {
    enum { POS = 200, HIT = 96 };
    (void)open_forms(64, 2, DTYPE_BF16);
    start(2, POS);
    drv.n_seq = 1;
    driver_run(&drv, 128);
    for (uint32_t i = 0; i < HIT / ENG_BLOCK; i++)
        drv.seq[1].blocks[i] = drv.seq[0].blocks[i];
    driver_add_prelude(&drv, 1, HIT, POS);
    driver_launch(&drv, ENG_STAGE_PRELUDE);
    for (uint32_t loop = 0; loop < 6; loop++) {
        driver_add_loop(&drv, 1, loop, HIT, POS);
        driver_launch(&drv, ENG_STAGE_RECURRENT);
    }
    driver_add_coda(&drv, 1, HIT, POS);
    driver_launch(&drv, ENG_STAGE_CODA);
    size_t at = (size_t)HIT * drv.plan->vocab_size, n = (size_t)(POS - HIT) * drv.plan->vocab_size;
    cr_assert_eq(memcmp(drv.seq[0].logits + at, drv.seq[1].logits + at, n * sizeof(float)), 0);
    driver_close(&drv);
}

/* Logits of the position behind a window of positions that each began alone and left after two
 * loops. Their tails run one by one, or side by side when the last position needs them. */
static float *logits_behind_tails(bool together) {
    enum { WINDOW = 64, LEAVE = 2, LOOPS = 6 };
    (void)open_forms(WINDOW, 1, DTYPE_F32);
    start(1, WINDOW + 1);
    for (uint32_t pos = 0; pos <= WINDOW; pos++) {
        bool last = pos == WINDOW;
        driver_add_prelude(&drv, 0, pos, pos + 1);
        driver_launch(&drv, ENG_STAGE_PRELUDE);
        for (uint32_t loop = 0; loop < (together && !last ? LEAVE : LOOPS); loop++) {
            bool wakes = together && last && loop >= LEAVE;
            driver_add_loop(&drv, 0, loop, wakes ? 0 : pos, pos + 1);
            if (!last) drv.rows[drv.n_rows - 1].max_loops = LEAVE;
            driver_launch(&drv, ENG_STAGE_RECURRENT);
        }
        driver_add_coda(&drv, 0, pos, pos + 1);
        driver_launch(&drv, ENG_STAGE_CODA);
    }
    size_t vocab = drv.plan->vocab_size;
    float *out = malloc(vocab * sizeof *out);
    memcpy(out, drv.seq[0].logits + WINDOW * vocab, vocab * sizeof *out);
    driver_close(&drv);
    return out;
}

Test(cpu_forms, tails_side_by_side_keep_the_form_of_positions_that_began_alone) {
    float *apart = logits_behind_tails(false), *together = logits_behind_tails(true);
    cr_assert_eq(memcmp(apart, together, 320 * sizeof *apart), 0);
    free(apart);
    free(together);
}

/* Logits of the last of n generated positions behind a prompt. They run one by one, or again, as
 * after a preemption, in the chunks of the prompt. */
static float *logits_behind_generated(bool again) {
    enum { PROMPT = 40, END = 192, CHUNK = 64, LOOPS = 6 };
    (void)open_forms(CHUNK, 1, DTYPE_F32);
    start(1, END);
    for (uint32_t pos = 0, end; pos < END; pos = end) {
        uint32_t chunk_end = (pos / CHUNK + 1) * CHUNK;
        end = again ? chunk_end : pos < PROMPT ? PROMPT : pos + 1;
        driver_add_prelude(&drv, 0, pos, end);
        for (uint32_t i = 0; i < drv.n_rows; i++)
            drv.rows[i].flags |= drv.rows[i].pos >= PROMPT ? ENG_ROW_GENERATED : 0;
        driver_launch(&drv, ENG_STAGE_PRELUDE);
        for (uint32_t loop = 0; loop < LOOPS; loop++) {
            driver_add_loop(&drv, 0, loop, pos, end);
            driver_launch(&drv, ENG_STAGE_RECURRENT);
        }
    }
    driver_add_coda(&drv, 0, 0, END);
    driver_launch(&drv, ENG_STAGE_CODA);
    size_t vocab = drv.plan->vocab_size;
    float *out = malloc(vocab * sizeof *out);
    cr_assert(out);
    memcpy(out, drv.seq[0].logits + (END - 1) * vocab, vocab * sizeof *out);
    driver_close(&drv);
    return out;
}

Test(cpu_forms, generated_positions_that_run_again_in_a_chunk_keep_their_bits) {
    float *alone = logits_behind_generated(false), *again = logits_behind_generated(true);
    size_t n = 320; /* of the vocabulary */
    cr_assert_eq(memcmp(alone, again, n * sizeof *alone), 0);
    free(alone);
    free(again);
}

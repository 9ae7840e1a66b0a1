/* draft_run.c - see draft_run.h. */
#include "tests/lib/draft_run.h"
#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum { TABLE = (DRAFT_POS - 1) / ENG_BLOCK + 1, MOST_EDITS = DRAFT_ROWS * 8 };

typedef struct {
    bool started, mapped; /* prelude; a first coda, for which the map has its slots */
    bool named, ended;    /* a coda names the next token; so does the last one */
    bool wrong;           /* runs with a wrong token */
    uint32_t withdrawals;
    uint32_t loop;  /* loops started */
    uint32_t depth; /* 0: live */
} place;

typedef struct {
    eng_stage stage;
    eng_row rows[DRAFT_ROWS];
    uint16_t seq[DRAFT_ROWS];
    eng_edit edits[MOST_EDITS];
    uint32_t n_rows, n_edits;
} batch;

typedef struct {
    eng_backend *eng;
    const model_plan *plan;
    const draft_way *way;
    draft_result *out;
    place places[DRAFT_SEQS][DRAFT_POS];
    uint32_t blocks[DRAFT_SEQS][TABLE];
    batch loops, coda;
    eng_edit after[DRAFT_ROWS]; /* for the next launch: deeper planes of halted positions */
    uint32_t n_after;
} runner;

static const eng_sampling greedy = {.top_p = 1, .repetition_penalty = 1};
static const eng_draw greedy_draw = {.sampling = &greedy};

eng_backend_opts draft_opts(const model_plan *plan) {
    return (eng_backend_opts){.threads = 1,
                              .max_loops = plan->loops_default < DRAFT_LOOPS ? plan->loops_default
                                                                             : DRAFT_LOOPS,
                              .n_rows = DRAFT_ROWS,
                              .max_launch = DRAFT_ROWS,
                              .max_logits = DRAFT_ROWS,
                              .cache_bytes = 16 << 20,
                              .max_positions = 64};
}

/* ---- results ---- */

const float *draft_last(const draft_result *result, uint32_t seq, uint32_t pos) {
    return result->last[seq] + (size_t)pos * result->vocab;
}

const float *draft_after(const draft_result *result, uint32_t seq, uint32_t pos, uint32_t loop) {
    return result->drafts[seq] + ((size_t)pos * DRAFT_LOOPS + loop) * result->vocab;
}

bool draft_same_last(const draft_result *one, const draft_result *two) {
    if (memcmp(one->depth, two->depth, sizeof one->depth) != 0) return false;
    for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++) {
        size_t bytes = (size_t)one->len[seq] * one->vocab * sizeof(float);
        if (one->len[seq] != two->len[seq] || memcmp(one->last[seq], two->last[seq], bytes) != 0)
            return false;
    }
    return true;
}

void draft_result_deinit(draft_result *result) {
    for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++) {
        free(result->last[seq]);
        free(result->drafts[seq]);
    }
    *result = (draft_result){0};
}

static int take_result(draft_result *out, const eng_backend *eng, uint32_t loops, err *e) {
    static const uint32_t lengths[DRAFT_SEQS] = {DRAFT_POS, 25}, prompts[DRAFT_SEQS] = {21, 4};
    *out = (draft_result){.vocab = eng->plan->vocab_size, .loops = loops};
    for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++) {
        out->len[seq] = lengths[seq];
        out->prompt[seq] = prompts[seq];
        out->last[seq] = array_new((size_t)DRAFT_POS * out->vocab, sizeof(float));
        out->drafts[seq] = array_new((size_t)DRAFT_POS * DRAFT_LOOPS * out->vocab, sizeof(float));
        if (out->last[seq] == NULL || out->drafts[seq] == NULL)
            return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    }
    return 0;
}

/* ---- launches ---- */

static uint32_t token_of(const runner *run, uint32_t seq, uint32_t pos) {
    uint32_t token = pos * 31 + seq * 7 + 3 + (run->places[seq][pos].wrong ? 1 : 0);
    return token % run->out->vocab;
}

/* From 1 to all loops. */
static uint32_t most_loops_of(const runner *run, uint32_t seq, uint32_t pos) {
    return 1 + (pos * 5 + pos / 3 + seq) % run->out->loops;
}

static uint32_t home_of(const runner *run, uint32_t seq) {
    return run->eng->info.n_homes ? seq % run->eng->info.n_homes : 0;
}

/* The slot of a plane of a position: the same each time. */
static uint32_t slot_of(const runner *run, uint32_t seq, uint32_t pos, uint32_t plane) {
    return (seq * DRAFT_POS + pos) * run->eng->info.n_planes + plane;
}

static eng_edit edit_of(const runner *run, uint32_t seq, uint32_t pos, uint32_t plane, uint32_t n,
                        uint32_t slot) {
    return (eng_edit){.block = run->blocks[seq][pos / ENG_BLOCK],
                      .slot = slot,
                      .plane = (uint16_t)plane,
                      .n_planes = (uint16_t)n,
                      .off = (uint8_t)(pos % ENG_BLOCK),
                      .home = (uint16_t)home_of(run, seq)};
}

static void map_planes(const runner *run, batch *to, uint32_t seq, uint32_t pos, uint32_t plane,
                       uint32_t n) {
    for (uint32_t i = plane; i < plane + n; i++)
        to->edits[to->n_edits++] = edit_of(run, seq, pos, i, 1, slot_of(run, seq, pos, i));
}

static void begin(runner *run, batch *to, eng_stage stage) {
    to->stage = stage;
    to->n_rows = 0;
    to->n_edits = run->n_after;
    memcpy(to->edits, run->after, run->n_after * sizeof *run->after);
    run->n_after = 0;
}

static eng_row *add(const runner *run, batch *to, uint32_t seq, uint32_t pos) {
    eng_row *row = &to->rows[to->n_rows];
    to->seq[to->n_rows++] = (uint16_t)seq;
    *row = (eng_row){.row = seq * DRAFT_POS + pos,
                     .pos = pos,
                     .token = token_of(run, seq, pos),
                     .home = home_of(run, seq),
                     .blocks = run->blocks[seq]};
    return row;
}

static void add_prelude(runner *run, batch *to, uint32_t seq, uint32_t pos) {
    add(run, to, seq, pos);
    map_planes(run, to, seq, pos, 0, plan_planes_prelude(run->plan));
}

static eng_row *add_loop(runner *run, batch *to, uint32_t seq, uint32_t pos, uint32_t loop) {
    eng_row *row = add(run, to, seq, pos);
    row->loop = (uint16_t)loop;
    row->max_loops = (uint16_t)most_loops_of(run, seq, pos);
    row->threshold = run->plan->exit_threshold;
    map_planes(run, to, seq, pos, plan_plane_loop(run->plan, loop), 1);
    return row;
}

/* Later codas write their keys and values to the slots of the first. */
static void add_coda(runner *run, batch *to, uint32_t seq, uint32_t pos, uint16_t flags) {
    place *at = &run->places[seq][pos];
    eng_row *row = add(run, to, seq, pos);
    row->flags = ENG_ROW_LOGITS | flags;
    if (run->eng->info.samples) {
        row->flags |= ENG_ROW_SAMPLE;
        row->draw = &greedy_draw;
    }
    if (at->mapped) return;
    map_planes(run, to, seq, pos, plan_plane_coda(run->plan, 0), plan_planes_coda(run->plan));
    at->mapped = true;
}

static int start(runner *run, const batch *it, err *e) {
    eng_launch launch = {it->stage, it->rows, it->n_rows, it->edits, it->n_edits};
    return run->eng->ops->launch(run->eng, &launch, e);
}

static int launch_now(runner *run, const batch *it, eng_result *result, err *e) {
    return start(run, it, e) == 0 ? run->eng->ops->wait(run->eng, result, e) : -1;
}

/* ---- codas ---- */

static int check_choice(const draft_result *out, const eng_choice *choice, const float *logits,
                        err *e) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < out->vocab; i++)
        best = logits[i] > logits[best] ? i : best;
    if (choice->token == best) return 0;
    return err_set(e, ERR_INTERNAL, NULL, "token %u was chosen, not %u", choice->token, best);
}

static void keep_draft(runner *run, uint32_t seq, uint32_t pos, uint32_t loops,
                       const float *logits) {
    draft_result *out = run->out;
    size_t at = (size_t)pos * DRAFT_LOOPS + loops - 1;
    memcpy(out->drafts[seq] + at * out->vocab, logits, out->vocab * sizeof *logits);
    out->has[seq][pos][loops - 1] = true;
}

/* A coda behind another position's last one is a last one itself, if its row has halted. */
static void keep_row(runner *run, const eng_row *row, uint32_t seq, const float *logits) {
    draft_result *out = run->out;
    uint32_t pos = row->pos;
    place *at = &run->places[seq][pos];
    if (row->flags & ENG_ROW_DRAFT) {
        if (at->depth) return; /* it has left meanwhile: no meaning */
        keep_draft(run, seq, pos, at->loop, logits);
        out->n_drafts++;
    } else if (pos == 0 || run->places[seq][pos - 1].ended) {
        memcpy(out->last[seq] + (size_t)pos * out->vocab, logits, out->vocab * sizeof *logits);
        out->depth[seq][pos] = at->depth;
        at->ended = true;
    }
    at->named = true;
}

static int keep(runner *run, const batch *it, const eng_result *result, err *e) {
    if (result->n_logits != it->n_rows)
        return err_set(e, ERR_INTERNAL, NULL, "%u logits", result->n_logits);
    for (uint32_t i = 0; i < it->n_rows; i++) {
        const float *logits = result->logits + (size_t)i * run->out->vocab;
        if (run->eng->info.samples && check_choice(run->out, &result->choices[i], logits, e) != 0)
            return -1;
        keep_row(run, &it->rows[i], it->seq[i], logits);
    }
    return 0;
}

/* Drafts of the positions from `pos` on that are due: of live ones, of halted ones behind a live
 * one, or both. */
static void add_drafts(runner *run, batch *to, uint32_t seq, uint32_t pos, bool live, bool halted) {
    const draft_way *way = run->way;
    if (pos < run->out->prompt[seq]) pos = run->out->prompt[seq];
    for (; pos < run->out->len[seq] && run->places[seq][pos].started; pos++) {
        const place *at = &run->places[seq][pos];
        bool due = way->every || (at->depth ? !at->named : at->loop == way->lag);
        if (at->ended || at->loop == 0 || !due || !(at->depth ? halted : live)) continue;
        add_coda(run, to, seq, pos, at->depth ? 0 : ENG_ROW_DRAFT);
    }
}

/* Last codas, in order. Returns the first position without one. */
static uint32_t add_last(runner *run, batch *to, uint32_t seq) {
    uint32_t pos = 0;
    while (pos < run->out->len[seq] && run->places[seq][pos].ended)
        pos++;
    for (; pos < run->out->len[seq] && run->places[seq][pos].depth; pos++)
        add_coda(run, to, seq, pos, 0);
    return pos;
}

/* ---- probes ---- */

/* The position alone, leaving after `loops` loops. A weighted sum is complete then. */
static int probe(runner *run, uint32_t seq, uint32_t pos, uint32_t loops, err *e) {
    eng_result result;
    batch *it = &run->loops;
    begin(run, it, ENG_STAGE_PRELUDE);
    add_prelude(run, it, seq, pos);
    if (launch_now(run, it, &result, e) != 0) return -1;
    for (uint32_t loop = 0; loop < loops; loop++) {
        begin(run, it, ENG_STAGE_RECURRENT);
        eng_row *row = add_loop(run, it, seq, pos, loop);
        row->max_loops = (uint16_t)loops;
        if (run->plan->output == OUTPUT_WEIGHTED_SUM) {
            row->min_loops = (uint16_t)loops;
            row->threshold = 0;
        }
        if (launch_now(run, it, &result, e) != 0) return -1;
        if (result.halted[0] && loop + 1 < loops) return 0; /* it leaves earlier by itself */
    }
    begin(run, it, ENG_STAGE_CODA);
    add_coda(run, it, seq, pos, 0);
    if (launch_now(run, it, &result, e) != 0) return -1;
    keep_draft(run, seq, pos, loops, result.logits);
    return 0;
}

/* ---- one round: prelude, a loop of every row, coda ---- */

static bool may_start(const runner *run, uint32_t seq, uint32_t pos) {
    if (pos < run->out->prompt[seq]) return true;
    const place *before = &run->places[seq][pos - 1];
    if (run->way->lag) return before->named && (before->loop >= run->way->lag || before->depth);
    return before->ended && (run->way->policy == KV_LAST || before->loop == run->out->loops);
}

static int enter(runner *run, err *e) {
    batch *it = &run->loops;
    eng_result result;
    for (uint32_t seq = 0; run->way->probes && seq < DRAFT_SEQS; seq++) {
        uint32_t pos = run->out->prompt[seq];
        while (pos < run->out->len[seq] && run->places[seq][pos].started)
            pos++;
        if (pos == run->out->len[seq] || !may_start(run, seq, pos)) continue;
        for (uint32_t loops = 1; loops <= most_loops_of(run, seq, pos); loops++) {
            if (probe(run, seq, pos, loops, e) != 0) return -1;
        }
    }
    begin(run, it, ENG_STAGE_PRELUDE);
    for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++) {
        for (uint32_t pos = 0; pos < run->out->len[seq]; pos++) {
            place *at = &run->places[seq][pos];
            if (at->started) continue;
            if (!may_start(run, seq, pos)) break;
            at->started = true;
            at->wrong = run->way->wrong && pos >= run->out->prompt[seq] && pos % 5 < 2 &&
                        at->withdrawals == 0 && !run->places[seq][pos - 1].ended;
            add_prelude(run, it, seq, pos);
        }
    }
    return it->n_rows || it->n_edits ? launch_now(run, it, &result, e) : 0;
}

/* Every started position runs a loop, or under `exact` the tail of one. */
static void add_loops(runner *run, batch *to, uint32_t seq) {
    uint32_t all = run->out->loops, different = 0, last = UINT32_MAX;
    for (uint32_t pos = 0; pos < run->out->len[seq]; pos++) {
        place *at = &run->places[seq][pos];
        if (!at->started || at->loop == all || (at->depth && run->way->policy == KV_LAST)) continue;
        different += at->loop != last;
        last = at->loop;
        eng_row *row = add_loop(run, to, seq, pos, at->loop++);
        if (at->depth == 0) continue;
        row->flags = ENG_ROW_TAIL;
        if (at->loop == all) row->flags |= ENG_ROW_KV_ONLY;
    }
    if (different > run->out->most_loops) run->out->most_loops = different;
}

/* Under `last` deeper planes name the slot of the last loop. */
static void halt(runner *run, uint32_t seq, uint32_t pos) {
    place *at = &run->places[seq][pos];
    at->depth = at->loop;
    if (run->way->policy != KV_LAST || at->depth == run->out->loops) return;
    uint32_t slot = slot_of(run, seq, pos, plan_plane_loop(run->plan, at->depth - 1));
    run->after[run->n_after++] = edit_of(run, seq, pos, plan_plane_loop(run->plan, at->depth),
                                         run->out->loops - at->depth, slot);
}

static int wait_loops(runner *run, uint8_t *halted, err *e) {
    eng_result result;
    if (run->eng->ops->wait(run->eng, &result, e) != 0) return -1;
    memcpy(halted, result.halted, run->loops.n_rows);
    return 0;
}

/* One loop of every row, and drafts that do not know yet of its halts. A backend of one flight
 * starts them in the same order. */
static int loop_and_drafts(runner *run, bool ahead, err *e) {
    batch *it = &run->loops, *coda = &run->coda;
    bool at_once = ahead && run->eng->info.max_flights > 1;
    uint8_t halted[DRAFT_ROWS];
    eng_result result;
    begin(run, it, ENG_STAGE_RECURRENT);
    for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++)
        add_loops(run, it, seq);
    if (start(run, it, e) != 0 || (!at_once && wait_loops(run, halted, e) != 0)) return -1;
    if (ahead) {
        begin(run, coda, ENG_STAGE_CODA);
        for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++)
            add_drafts(run, coda, seq, 0, true, false);
        if (start(run, coda, e) != 0 || (at_once && wait_loops(run, halted, e) != 0)) return -1;
    }
    for (uint32_t i = 0; i < it->n_rows; i++) {
        if (halted[i]) halt(run, it->seq[i], it->rows[i].pos);
    }
    if (!ahead) return 0;
    if (run->eng->ops->wait(run->eng, &result, e) != 0) return -1;
    return keep(run, coda, &result, e);
}

static int loop_and_coda(runner *run, err *e) {
    const draft_way *way = run->way;
    batch *coda = &run->coda;
    eng_result result;
    bool drafts = way->lag || way->every, ahead = drafts && way->ahead;
    if (loop_and_drafts(run, ahead, e) != 0) return -1;
    begin(run, coda, ENG_STAGE_CODA);
    for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++) {
        uint32_t pos = add_last(run, coda, seq);
        if (drafts) add_drafts(run, coda, seq, pos, !ahead, true);
    }
    if (coda->n_rows == 0 && coda->n_edits == 0) return 0;
    return launch_now(run, coda, &result, e) == 0 ? keep(run, coda, &result, e) : -1;
}

/* From the first wrong token on, once the position before it has had its last coda. */
static void withdraw(runner *run, uint32_t seq) {
    uint32_t pos = 1;
    while (pos < run->out->len[seq] &&
           !(run->places[seq][pos].wrong && run->places[seq][pos - 1].ended))
        pos++;
    for (; pos < run->out->len[seq] && run->places[seq][pos].started; pos++) {
        place *at = &run->places[seq][pos];
        *at = (place){.withdrawals = at->withdrawals + 1};
        memset(run->out->has[seq][pos], 0, sizeof run->out->has[seq][pos]);
        run->out->n_withdrawn++;
    }
}

int draft_run(eng_backend *backend, const draft_way *way, draft_result *out, err *e) {
    uint32_t planes = backend->info.n_planes;
    uint32_t loops = planes - plan_planes(backend->plan, 0);
    if (take_result(out, backend, loops, e) != 0) return -1;
    runner *run = array_new(1, sizeof *run);
    if (run == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory");
    *run = (runner){.eng = backend, .plan = backend->plan, .way = way, .out = out};
    for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++) {
        for (uint32_t i = 0; i < TABLE; i++)
            run->blocks[seq][i] = seq * TABLE + i;
    }
    int rc =
        DRAFT_ROWS * planes <= backend->info.n_slots && loops <= DRAFT_LOOPS
            ? 0
            : err_set(e, ERR_INTERNAL, NULL, "%u loops and %u slots", loops, backend->info.n_slots);
    for (bool more = true; rc == 0 && more;) {
        rc = enter(run, e) == 0 ? loop_and_coda(run, e) : -1;
        more = false;
        for (uint32_t seq = 0; seq < DRAFT_SEQS; seq++) {
            withdraw(run, seq);
            more |= !run->places[seq][out->len[seq] - 1].ended;
        }
    }
    free(run);
    return rc;
}

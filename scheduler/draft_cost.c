/* draft_cost.c - the gain of drafts, from the agreement of early loops and from stage times. */
#include "scheduler/draft_cost.h"

#include <math.h>

static double smaller(double x, double y) {
    return x < y ? x : y;
}
static double larger(double x, double y) {
    return x > y ? x : y;
}

/* ---- how often drafts are right ---- */

static const double memory = 0.998; /* a verdict counts for about 500 tokens */

void sched__age_drafts(draft_model *drafts, double tokens) {
    double part = tokens == 1 ? memory : pow(memory, tokens);
    for (uint32_t i = 0; i <= PLAN_MAX_LOOPS; i++) {
        drafts->right[i] *= part;
        drafts->judged[i] *= part;
    }
}

void sched__learn_draft(draft_model *drafts, uint32_t loops, bool right) {
    sched__age_drafts(drafts, 1);
    drafts->judged[loops] += 1;
    drafts->right[loops] += right;
}

typedef struct {
    double known, n; /* part of drafts that are right; verdicts that say so */
} estimate;

/* From the estimate for one loop less. Without verdicts, a draft after one loop more is a little
 * better: then a model whose first loops are poor drafters has its deeper loops tried. */
static estimate next_estimate(const draft_model *drafts, uint32_t loops, estimate before) {
    static const double at_first = 0.75, better = 0.15, weight = 4;
    double guess = loops == 1 ? at_first : before.known + (1 - before.known) * better;
    double n = drafts->judged[loops] + weight;
    return (estimate){(drafts->right[loops] + weight * guess) / n, n};
}

double sched__agreement(const draft_model *drafts, uint32_t loops) {
    estimate now = {0};
    for (uint32_t i = 1; i <= loops; i++)
        now = next_estimate(drafts, i, now);
    return now.known;
}

/* Few verdicts leave room for hope, and old ones fade: a loop given up by bad luck is tried again.
 */
static double hope(estimate now) {
    return smaller(now.known + sqrt(now.known * (1 - now.known) / now.n), 1);
}

/* ---- what they save and cost ---- */

typedef struct {
    double period;    /* loops from the beginning of a position to that of the next */
    double rows;      /* recurrent rows for each token put out */
    double withdrawn; /* positions for each token put out */
} draft_pace;

/* A right draft begins the next position after `loops` loops, or when a verdict makes room for it;
 * a wrong one after the whole depth. Then the positions behind are withdrawn, begun at loops, 2
 * loops, … after the first. */
static draft_pace pace_of(double agreement, double depth, draft_choice choice) {
    double loops = choice.loops, wrong = 1 - agreement;
    if (choice.loops == 0 || loops >= depth) return (draft_pace){depth, depth, 0};
    draft_pace pace = {.rows = depth};
    pace.period = agreement * larger(loops, depth / (choice.most + 1.0)) + wrong * depth;
    for (uint32_t i = 1; i <= choice.most && i * loops < depth; i++) {
        pace.rows += wrong * (depth - i * loops);
        pace.withdrawn += wrong;
    }
    return pace;
}

/* Sequences without drafts that run equal loops share every coda and prelude. */
static double shared_flush_ns(const cost_model *cost, const draft_load *load) {
    return (cost->stage[ENG_STAGE_PRELUDE].base_ns + cost->stage[ENG_STAGE_CODA].base_ns) /
           load->sequences;
}

/* Each token needs `flushes` times a coda and a prelude; between two of them a sequence runs
 * `loops` loops. Launches of Q waiting sequences cost their base once, and each waits for half of
 * the others, losing its share of recurrent launches: the usual trade of an order in batches. */
static double flush_ns(const cost_model *cost, const draft_load *load, double flushes,
                       double loops) {
    double base = cost->stage[ENG_STAGE_PRELUDE].base_ns + cost->stage[ENG_STAGE_CODA].base_ns;
    double loop = cost->stage[ENG_STAGE_RECURRENT].base_ns, n = load->sequences;
    double batch = loop > 0 ? n * sqrt(2 * base / (loops * loop)) : n;
    batch = smaller(larger(batch, 1), n);
    return flushes * (base / batch + (batch - 1) * loops * loop / (2 * n * n));
}

static double token_ns(const cost_model *cost, const draft_load *load, double agreement,
                       draft_choice choice) {
    draft_pace pace = pace_of(agreement, load->depth, choice);
    double rows = load->sequences * pace.rows / pace.period + load->other_rows;
    double positions = 1 + pace.withdrawn, heads = choice.loops ? 1 + positions : 1;
    double flush = choice.loops == 0 && load->in_step
                       ? shared_flush_ns(cost, load)
                       : flush_ns(cost, load, positions, pace.period / positions);
    return pace.period / load->sequences * sched__loop_ns(cost, rows) + flush +
           cost->stage[ENG_STAGE_CODA].row_ns * heads +
           cost->stage[ENG_STAGE_PRELUDE].row_ns * positions;
}

double sched__token_ns(const cost_model *cost, const draft_model *drafts, const draft_load *load,
                       draft_choice choice) {
    return token_ns(cost, load, sched__agreement(drafts, choice.loops), choice);
}

/* A gain below this is not worth the rows. */
static const double least_gain = 0.03;

/* Drafts begun before the first verdict. With fewer, the newest row would have to wait for it, and
 * might as well draft later and better. */
static uint32_t needed(double depth, uint32_t loops) {
    return (uint32_t)larger(ceil(depth / loops) - 1, 1);
}

draft_choice sched__choose_draft(const cost_model *cost, const draft_model *drafts,
                                 const draft_load *load, uint32_t loops, uint32_t most) {
    enum { FEW_VERDICTS = 16 };
    draft_choice best = {0};
    estimate now = {0}, at_best = {0};
    double best_ns = INFINITY, pays_below = token_ns(cost, load, 1, best) * (1 - least_gain);
    for (uint32_t i = 1; i < load->max_loops; i++) {
        uint32_t n = needed(load->depth, i);
        now = next_estimate(drafts, i, now);
        if (loops ? i != loops : n > most) continue;
        draft_choice choice = {.loops = (uint16_t)i, .most = (uint16_t)smaller(n, most)};
        double ns = token_ns(cost, load, hope(now), choice);
        if (ns < best_ns) best_ns = ns, best = choice, at_best = now;
    }
    if (best_ns >= pays_below) return (draft_choice){0};
    bool pays = token_ns(cost, load, at_best.known, best) < pays_below;
    best.trial = !pays || at_best.n < FEW_VERDICTS;
    return best;
}

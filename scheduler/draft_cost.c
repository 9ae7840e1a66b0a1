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
    for (int i = 0; i < DRAFT_SOURCES; i++) {
        drafts->found_right[i] *= part;
        drafts->found_judged[i] *= part;
    }
}

void sched__learn_draft(draft_model *drafts, uint32_t loops, bool right) {
    drafts->judged[loops] += 1;
    drafts->right[loops] += right;
}

typedef struct {                      /* by loops */
    double known[PLAN_MAX_LOOPS + 1]; /* part of drafts that are right */
    double n[PLAN_MAX_LOOPS + 1];     /* verdicts that say so */
} estimates;

/* Without verdicts, a draft after one loop more is a little better than after one loop less: then
 * the deeper loops of a model are tried where its first ones are poor drafters. */
static void estimate(const draft_model *drafts, uint32_t most_loops, estimates *out) {
    static const double at_first = 0.75, better = 0.15, weight = 4;
    double guess = at_first;
    for (uint32_t i = 1; i <= most_loops; i++) {
        out->n[i] = drafts->judged[i] + weight;
        out->known[i] = (drafts->right[i] + weight * guess) / out->n[i];
        guess = out->known[i] + (1 - out->known[i]) * better;
    }
}

double sched__agreement(const draft_model *drafts, uint32_t loops) {
    estimates now;
    estimate(drafts, loops, &now);
    return now.known[loops];
}

/* Few verdicts leave room for hope, and old ones fade: a loop given up by bad luck is tried again.
 */
static double hope(double known, double n) {
    return smaller(sqrt(known * (1 - known) / n), 1 - known);
}

void sched__learn_found(draft_model *drafts, draft_source source, bool right) {
    drafts->found_judged[source] = drafts->found_judged[source] * memory + 1;
    drafts->found_right[source] = drafts->found_right[source] * memory + right;
}

double sched__found_agreement(const draft_model *drafts, draft_source source) {
    double n = drafts->found_judged[source] + 2, known = (drafts->found_right[source] + 1) / n;
    return known + hope(known, n);
}

/* ---- what they save and cost ---- */

typedef struct {
    double period;    /* loops from the beginning of a position to that of the next */
    double rows;      /* recurrent rows for each token put out */
    double withdrawn; /* positions for each token put out */
} draft_pace;

/* A position names the next token after `loops` loops, and again after every `loops` more, until
 * the token is right. Each wrong name costs the next position that many loops, and lets one more
 * position begin in vain; all of them run until the next name. With few drafts allowed, the newest
 * position also waits for a verdict. `better`: added to the agreement, in hope. */
static draft_pace pace_of(const estimates *now, double better, double depth,
                          const draft_choice *choice) {
    double loops = choice->loops;
    if (choice->loops == 0 || loops >= depth) return (draft_pace){depth, depth, 0};
    draft_pace pace = {.period = larger(loops, depth / (choice->most + 1.0)), .rows = depth};
    for (uint32_t i = 1; i * loops < depth; i++) {
        double wrong = 1 - smaller(now->known[i * choice->loops] + better, 1);
        double behind = smaller(i, choice->most);
        pace.period += wrong * smaller(loops, depth - i * loops);
        pace.rows += wrong * behind * loops;
        pace.withdrawn += i <= choice->most ? wrong : 0;
    }
    return pace;
}

/* Of a recurrent launch, without the others. */
static double rows_of(const draft_load *load, const draft_pace *pace) {
    return load->sequences * pace->rows / pace->period;
}

/* A recurrent launch, without the time of the other rows. They have to run their loops at any pace,
 * so fewer launches for a token do not spare their time. */
static double launch_ns(const cost_model *cost, const draft_load *load, double rows) {
    double others = sched__loop_ns(cost, load->other_rows) - sched__loop_ns(cost, 0);
    return sched__loop_ns(cost, rows + load->other_rows) - others;
}

/* Each token needs `flushes` times a coda and a prelude; between two of them a sequence runs
 * `loops` loops. Launches of Q waiting sequences cost their base once, and each waits for half of
 * the others, losing its share of recurrent launches. So the cheapest Q is that of a stock ordered
 * in lots: the root of 2 * (price of an order) / (price of waiting). */
static double flush_ns(const cost_model *cost, const draft_load *load, double flushes,
                       double loops) {
    double base = sched__flush_base_ns(cost);
    double loop = cost->stage[ENG_STAGE_RECURRENT].base_ns, n = load->sequences;
    double batch = loop > 0 ? n * sqrt(2 * base / (loops * loop)) : n;
    batch = smaller(larger(batch, 1), n);
    return flushes * (base / batch + (batch - 1) * loops * loop / (2 * n * n));
}

static uint32_t n_checks(const draft_choice *choice) {
    uint32_t n = 0;
    for (size_t i = 0; i < sizeof choice->checks / sizeof *choice->checks; i++)
        n += (uint32_t)__builtin_popcountll(choice->checks[i]);
    return n;
}

static double token_ns(const cost_model *cost, const draft_load *load, const estimates *now,
                       double better, const draft_choice *choice) {
    draft_pace pace = pace_of(now, better, load->depth, choice);
    double rows = rows_of(load, &pace);
    double positions = 1 + pace.withdrawn;
    double heads = choice->loops ? 1 + positions + n_checks(choice) : 1;
    /* Sequences without drafts that run equal loops share every coda and prelude. */
    bool shared = choice->loops == 0 && load->in_step;
    double flush = shared ? sched__flush_base_ns(cost) / load->sequences
                          : flush_ns(cost, load, positions, pace.period / positions);
    return pace.period / load->sequences * launch_ns(cost, load, rows) + flush +
           cost->stage[ENG_STAGE_CODA].row_ns * heads +
           cost->stage[ENG_STAGE_PRELUDE].row_ns * positions;
}

double sched__token_ns(const cost_model *cost, const draft_model *drafts, const draft_load *load,
                       const draft_choice *choice) {
    estimates now;
    estimate(drafts, load->max_loops, &now);
    return token_ns(cost, load, &now, 0, choice);
}

/* A right one spares the sequence a period. */
static void price_found(const cost_model *cost, const draft_load *load, const estimates *now,
                        draft_choice *choice) {
    draft_pace pace = pace_of(now, 0, load->depth, choice);
    double loop_ns = launch_ns(cost, load, rows_of(load, &pace));
    choice->saves_ns = pace.period * loop_ns / load->sequences;
    choice->depth = load->depth;
}

/* A row more in every loop of a position, in a prelude and in a coda. */
double sched__found_costs_ns(const cost_model *cost, const draft_choice *choice, double rows) {
    enum { MORE = 4 };
    double loop_ns = sched__loop_ns(cost, rows), more_ns = sched__loop_ns(cost, rows + MORE);
    return choice->depth * larger(more_ns - loop_ns, 0) / MORE +
           cost->stage[ENG_STAGE_CODA].row_ns + cost->stage[ENG_STAGE_PRELUDE].row_ns;
}

/* A draft behind a prompt saves what any draft saves, once. But keys and values of the whole prompt
 * may have to go through a coda for it. */
static uint32_t rows_worth(const cost_model *cost, double saved_ns) {
    double row_ns = cost->stage[ENG_STAGE_CODA].row_ns;
    if (saved_ns <= 0) return 1;
    return saved_ns < row_ns * (UINT32_MAX - 1) ? 1 + (uint32_t)(saved_ns / row_ns) : UINT32_MAX;
}

/* ---- the choice ---- */

/* A gain expected below this is none. With several sequences, waiting for shared codas is hard to
 * foresee: on the demo model, with a coda dearer than a loop, 6 % expected were 14 % lost. */
static double least_gain(const draft_load *load) {
    return load->sequences > 1 ? 0.15 : 0.03;
}

/* Drafts begun before the first verdict. With fewer, the newest row would have to wait for it, and
 * might as well draft later and better. */
static uint32_t needed(double depth, uint32_t loops) {
    return (uint32_t)larger(ceil(depth / loops) - 1, 1);
}

/* Drawing a token anew costs a row of the coda. It finds so many wrong drafts, and the loops left
 * to the position are saved for each. */
static void choose_checks(const cost_model *cost, const draft_load *load, const estimates *now,
                          draft_choice *choice) {
    double loop_ns = sched__loop_ns(cost, load->sequences) / load->sequences;
    uint32_t drawn = choice->loops;
    for (uint32_t i = drawn + 1; i < load->max_loops && i < load->depth; i++) {
        double found = now->known[i] - now->known[drawn];
        if (found * (load->depth - i) * loop_ns <= cost->stage[ENG_STAGE_CODA].row_ns) continue;
        choice->checks[i / 64] |= UINT64_C(1) << i % 64;
        drawn = i;
    }
}

/* In full launches rows would wait, and draft later than they should. */
static bool has_places(const draft_load *load, const estimates *now, const draft_choice *choice) {
    draft_pace pace = pace_of(now, 0, load->depth, choice);
    double rows = rows_of(load, &pace) + load->other_rows;
    return load->max_rows == 0 || rows <= load->max_rows;
}

bool sched__check_is_due(const draft_choice *choice, uint32_t drawn, uint32_t now) {
    for (uint32_t i = drawn + 1; i <= now; i++) {
        if (choice->checks[i / 64] >> i % 64 & 1) return true;
    }
    return false;
}

void sched__choose_draft(const cost_model *cost, const draft_model *drafts, const draft_load *load,
                         uint32_t loops, uint32_t most, draft_choice *out) {
    enum { FEW_VERDICTS = 16 };
    const draft_choice none = {0};
    estimates now;
    estimate(drafts, load->max_loops, &now);
    double best_ns = INFINITY, plain_ns = token_ns(cost, load, &now, 0, &none),
           pays_below = plain_ns * (1 - least_gain(load));
    *out = none;
    for (uint32_t i = 1; i < load->max_loops; i++) {
        uint32_t n = needed(load->depth, i);
        if (loops ? i != loops : n > most) continue;
        draft_choice choice = {.loops = (uint16_t)i, .most = (uint16_t)smaller(n, most)};
        if (loops == 0 && !has_places(load, &now, &choice)) continue;
        choose_checks(cost, load, &now, &choice);
        double ns = token_ns(cost, load, &now, hope(now.known[i], now.n[i]), &choice);
        if (ns >= best_ns) continue;
        best_ns = ns;
        *out = choice;
    }
    if (best_ns >= pays_below) *out = none;
    price_found(cost, load, &now, out);
    if (out->loops == 0) return;
    double ns = token_ns(cost, load, &now, 0, out);
    out->trial = ns >= pays_below || now.n[out->loops] < FEW_VERDICTS;
    out->coda_rows = rows_worth(cost, plain_ns - ns);
}

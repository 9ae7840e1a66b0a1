/* simulate.c - a device in virtual time: launches take the times of a table of costs.
 *
 * It computes nothing: each position halts at a depth drawn from the table's distribution, and
 * each token is a hash of its request and index, so every schedule puts out the same tokens. A
 * draft is this token or another: by a second hash, so a draft right after one loop stays right. */
#include "base/hash.h"
#include "base/size.h"
#include "cli/bench_engine/costs_internal.h"
#include "engine/backend.h"

#include <stdlib.h>

enum { SIM_FLIGHTS = 2 };

typedef struct {
    uint64_t ns, ends_at;
    uint8_t *halted;     /* [max_launch] */
    eng_choice *choices; /* [max_launch] */
    uint32_t n_choices;
} sim_flight;

typedef struct {
    eng_backend base;
    eng_backend *under; /* the fake device: owns plan and sizes */
    const be_costs *costs;
    uint64_t now, device_free_at; /* virtual ns: the host's clock; the end of the newest launch */
    uint16_t *depth, *done;       /* [n_rows] loops that the row runs; that it has run */
    bool *halted;                 /* [n_rows] */
    sim_flight flights[SIM_FLIGHTS];
    uint32_t n_out, oldest;
} simulated;

static uint64_t hash_pair(uint64_t x, uint64_t y) {
    return hash_mix(hash_mix(x + HASH_STEP) + y * HASH_STEP);
}

static double part_of(uint64_t hash) {                /* 0 to 1 */
    return (double)(hash >> 11) / 9007199254740992.0; /* 2^53 */
}

static uint16_t draw_depth(const be_costs *costs, uint64_t hash) {
    double x = part_of(hash);
    uint16_t depth = 1;
    while (depth < costs->n_depths && costs->depth_below[depth] <= x)
        depth++;
    return depth;
}

static void start_rows(simulated *sim, const eng_launch *launch) {
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        const eng_row *row = &launch->rows[i];
        sim->depth[row->row] = draw_depth(sim->costs, hash_pair(row->token, row->pos));
        sim->halted[row->row] = false;
        sim->done[row->row] = 0;
    }
}

/* Whether the row runs; sets how. */
static bool row_runs(const simulated *sim, const eng_row *row, bool *kv_only) {
    if (row->flags & ENG_ROW_GUARDED && sim->halted[row->guard]) return false;
    bool sure = !(row->flags & ENG_ROW_OR_TAIL) || sim->halted[row->row];
    *kv_only = row->flags & ENG_ROW_KV_ONLY && sure;
    return true;
}

/* A coda's row, such as a draft, does not tell the limits. */
static void keep_limits(uint16_t *depth, const eng_row *row) {
    if (*depth < row->min_loops) *depth = row->min_loops;
    if (*depth > row->max_loops) *depth = row->max_loops;
}

static be_launch loop_rows(simulated *sim, const eng_launch *launch, uint8_t *halted) {
    be_launch ran = {.stage = ENG_STAGE_RECURRENT};
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        const eng_row *row = &launch->rows[i];
        bool kv_only;
        halted[i] = 0;
        if (!row_runs(sim, row, &kv_only)) continue;
        ran.rows++;
        ran.kv_only += kv_only;
        if (sim->halted[row->row] || row->flags & ENG_ROW_TAIL) continue;
        uint32_t done = row->loop + 1u;
        sim->done[row->row] = (uint16_t)done;
        keep_limits(&sim->depth[row->row], row);
        halted[i] = sim->halted[row->row] = done >= sim->depth[row->row];
    }
    return ran;
}

static uint32_t draw_token(const simulated *sim, const eng_row *row) {
    uint64_t hash = hash_pair(row->draw->sampling->seed, row->draw->index);
    uint32_t vocab = sim->base.plan->vocab_size, token = (uint32_t)(hash % vocab);
    if (!(row->flags & ENG_ROW_DRAFT)) return token;
    double right = be_agreement_after(sim->costs, sim->done[row->row], sim->depth[row->row]);
    return part_of(hash_mix(hash + 1)) < right ? token : (token + 1) % vocab;
}

static uint32_t draw_tokens(const simulated *sim, const eng_launch *launch, eng_choice *choices) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < launch->n_rows; i++) {
        if (!(launch->rows[i].flags & ENG_ROW_SAMPLE)) continue;
        choices[n++] = (eng_choice){.token = draw_token(sim, &launch->rows[i])};
    }
    return n;
}

static int sim_launch(eng_backend *backend, const eng_launch *launch, err *e) {
    (void)e;
    simulated *sim = (simulated *)(void *)backend;
    sim_flight *flight = &sim->flights[(sim->oldest + sim->n_out++) % SIM_FLIGHTS];
    be_launch ran = {.stage = (uint8_t)launch->stage, .rows = launch->n_rows};
    flight->n_choices = 0;
    switch (launch->stage) {
    case ENG_STAGE_PRELUDE: start_rows(sim, launch); break;
    case ENG_STAGE_RECURRENT: ran = loop_rows(sim, launch, flight->halted); break;
    case ENG_STAGE_CODA: flight->n_choices = draw_tokens(sim, launch, flight->choices); break;
    }
    sim->now += (uint64_t)sim->costs->host_launch;
    flight->ns = ran.rows ? (uint64_t)be_launch_ns(sim->costs, &ran) : 0;
    uint64_t begins = sim->now > sim->device_free_at ? sim->now : sim->device_free_at;
    flight->ends_at = sim->device_free_at = begins + flight->ns;
    return 0;
}

static int sim_wait(eng_backend *backend, eng_result *result, err *e) {
    simulated *sim = (simulated *)(void *)backend;
    if (sim->n_out == 0) return err_set(e, ERR_DEVICE, NULL, "no launch to wait for");
    sim_flight *flight = &sim->flights[sim->oldest];
    sim->oldest = (sim->oldest + 1) % SIM_FLIGHTS;
    sim->n_out--;
    if (flight->ends_at > sim->now) sim->now = flight->ends_at;
    sim->now += (uint64_t)(sim->costs->host_token * flight->n_choices);
    *result = (eng_result){.halted = flight->halted,
                           .choices = flight->choices,
                           .n_choices = flight->n_choices,
                           .ns = flight->ns};
    return 0;
}

static void sim_close(eng_backend *backend) {
    simulated *sim = (simulated *)(void *)backend;
    for (int i = 0; i < SIM_FLIGHTS; i++) {
        free(sim->flights[i].halted);
        free(sim->flights[i].choices);
    }
    free(sim->depth);
    free(sim->done);
    free(sim->halted);
    eng_backend_close(sim->under);
    free(sim);
}

static bool allocate(simulated *sim) {
    const eng_backend_info *info = &sim->base.info;
    sim->depth = array_new(info->n_rows, sizeof *sim->depth);
    sim->done = array_new(info->n_rows, sizeof *sim->done);
    sim->halted = array_new(info->n_rows, sizeof *sim->halted);
    bool ok = sim->depth && sim->done && sim->halted;
    for (int i = 0; i < SIM_FLIGHTS && ok; i++) {
        sim->flights[i].halted = array_new(info->max_launch, 1);
        sim->flights[i].choices = array_new(info->max_launch, sizeof *sim->flights[i].choices);
        ok = sim->flights[i].halted && sim->flights[i].choices;
    }
    return ok;
}

int be_simulated_open(eng_backend **steal_backend, const be_costs *costs,
                      const uint64_t **virtual_ns, err *e) {
    static const eng_backend_ops ops = {sim_launch, sim_wait, sim_close};
    simulated *sim = calloc(1, sizeof *sim);
    if (sim == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the simulator");
    sim->base = **steal_backend;
    sim->base.ops = &ops;
    sim->base.info.device = "simulated";
    sim->base.info.samples = true;
    sim->base.info.max_flights = costs->flights;
    sim->costs = costs;
    sim->under = *steal_backend;
    *steal_backend = &sim->base;
    if (!allocate(sim)) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the simulator");
    *virtual_ns = &sim->now;
    return 0;
}

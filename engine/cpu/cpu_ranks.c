/* cpu_ranks.c - the CPU backend as one of several ranks: equal kernels, gathers of columns, rows at
 * home, and the check of results. */
#include "base/hash.h"
#include "engine/cpu/cpu_internal.h"

#include <string.h>

enum { NAME_BYTES = 16, CHECKED_CHANNELS = 8 };

/* Kernels round differently, and each process would measure anew. */
int eng__agree_kernels(eng__cpu *cpu, err *e) {
    eng_ranks *ranks = cpu->opts.ranks;
    if (ranks == NULL) return eng__kernels_choose(&cpu->kern, cpu->opts.kernels, e);
    char name[NAME_BYTES] = "";
    err why = {0};
    if (ranks->rank == 0 && eng__kernels_choose(&cpu->kern, cpu->opts.kernels, &why) == 0)
        (void)strncpy(name, cpu->kern->name, sizeof name - 1);
    if (eng_ranks_broadcast(ranks, name, sizeof name, e) != 0) return -1;
    if (ranks->rank > 0) (void)!eng__kernels_choose(&cpu->kern, name[0] ? name : "none", &why);
    uint64_t all_have = cpu->kern != NULL;
    if (eng_ranks_least(ranks, &all_have, e) != 0) return -1;
    if (all_have) return 0;
    if (cpu->kern == NULL) return err_set(e, why.code, why.param, "%s", why.msg);
    return err_set(e, ERR_USAGE, "kernels",
                   "the processor of another rank does not support %s, the kernels of rank 0; give "
                   "--kernels with a name that all support",
                   name);
}

int eng__share_machine(eng__cpu *cpu, machine *here, err *e) {
    eng_ranks *ranks = cpu->opts.ranks;
    uint32_t same_cores, same_machine;
    if (ranks == NULL) return 0;
    if (eng_ranks_alike(ranks, machine_cores_identity(), &same_cores, e) != 0 ||
        eng_ranks_alike(ranks, machine_identity(), &same_machine, e) != 0) {
        return -1;
    }
    machine_divide(here, same_cores, same_machine);
    if (cpu->opts.threads == 0) cpu->opts.threads = machine_threads(here);
    return 0;
}

int eng__reserve_gathers(eng__cpu *cpu, err *e) {
    const model_plan *plan = &cpu->plan;
    size_t rows = cpu->opts.max_launch;
    const size_t values[] = {
        rows * (plan->n_experts_per_tok * cpu->ld_expert + cpu->ld_hidden),
        rows * plan->dim,
        (size_t)cpu->opts.max_logits * plan->vocab_size,
    };
    size_t most = 0;
    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        most = values[i] > most ? values[i] : most;
    return cpu->opts.ranks ? eng_ranks_reserve(cpu->opts.ranks, most * sizeof(float), e) : 0;
}

void eng__gather_ranks(eng__cpu *cpu, const eng_columns *parts, uint32_t n) {
    if (cpu->opts.ranks == NULL || cpu->ranks_lost.code != ERR_NONE) return;
    (void)!eng_ranks_gather(cpu->opts.ranks, parts, n, &cpu->ranks_lost);
}

/* ---- rows at home ---- */

int eng__take_homes(eng__cpu *cpu, err *e) {
    eng__homes *homes = &cpu->homes;
    if (cpu->opts.ranks == NULL || !cpu->opts.homes) return 0;
    homes->n = cpu->opts.ranks->n;
    if (homes->n > ENG_MOST_HOMES) {
        return err_set(e, ERR_USAGE, "rank-split", "%u ranks; sequences take at most %d", homes->n,
                       ENG_MOST_HOMES);
    }
    homes->full = eng__take(cpu, homes->n, sizeof *homes->full);
    homes->rest = eng__take(cpu, homes->n, sizeof *homes->rest);
    if (homes->full && homes->rest) return 0;
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for %u ranks", homes->n);
}

/* Runs the sublayer as if scratch rows [first, first + n) were the whole launch, and its first
 * n_full the full ones. */
static void run_on_rows(eng__cpu *cpu, const eng__layer *layer, uint32_t first, uint32_t n,
                        uint32_t n_full, void (*sublayer)(eng__cpu *, const eng__layer *)) {
    if (n == 0) return;
    uint32_t all = cpu->n_all, full = cpu->n_full;
    cpu->stream += first * cpu->ld_stream;
    cpu->normed += first * cpu->ld_stream;
    cpu->rope += first * cpu->ld_rope;
    cpu->launch_row += first;
    cpu->plane += first;
    cpu->n_all = n;
    cpu->n_full = n_full;
    sublayer(cpu, layer);
    cpu->stream -= first * cpu->ld_stream;
    cpu->normed -= first * cpu->ld_stream;
    cpu->rope -= first * cpu->ld_rope;
    cpu->launch_row -= first;
    cpu->plane -= first;
    cpu->n_all = all;
    cpu->n_full = full;
}

static void gather_stream(eng__cpu *cpu, uint32_t first, const uint32_t *n) {
    if (cpu->ranks_lost.code != ERR_NONE) return;
    (void)!eng_ranks_gather_rows(cpu->opts.ranks, cpu->stream + first * cpu->ld_stream,
                                 cpu->ld_stream * sizeof *cpu->stream, n, &cpu->ranks_lost);
}

/* In all layers but the last every row attends, so n_full is n_all there: rows that are not full in
 * the last layer first write their keys and values, for full rows read them. */
void eng__attend_at_home(eng__cpu *cpu, const eng__layer *layer,
                         void (*sublayer)(eng__cpu *, const eng__layer *)) {
    const eng__homes *homes = &cpu->homes;
    uint32_t home = cpu->opts.ranks->rank, full = 0, rest = homes->first_rest;
    bool all_attend = cpu->n_full > homes->first_rest;
    for (uint32_t other = 0; other < home; other++) {
        full += homes->full[other];
        rest += homes->rest[other];
    }
    run_on_rows(cpu, layer, rest, homes->rest[home], 0, sublayer);
    run_on_rows(cpu, layer, full, homes->full[home], homes->full[home], sublayer);
    if (all_attend) run_on_rows(cpu, layer, rest, homes->rest[home], homes->rest[home], sublayer);
    gather_stream(cpu, 0, homes->full);
    if (all_attend) gather_stream(cpu, homes->first_rest, homes->rest);
}

/* ---- results ---- */

/* Halted rows and sums of exits, and the first channels of each new state: later layers carry a
 * difference anywhere into them. */
uint64_t eng__results_check(const eng__cpu *cpu, eng_stage stage) {
    if (cpu->opts.ranks == NULL) return 0;
    uint64_t hash = hash_seeded(cpu->n_rows, &stage, sizeof stage);
    if (stage != ENG_STAGE_RECURRENT) return hash;
    size_t dim = cpu->plan.dim, n = dim < CHECKED_CHANNELS ? dim : CHECKED_CHANNELS;
    hash = hash_seeded(hash, cpu->halted, cpu->n_rows);
    for (uint32_t i = 0; i < cpu->n_rows; i++) {
        uint32_t row = cpu->rows[i].row;
        hash = hash_seeded(hash, &cpu->exit_sum[row], sizeof cpu->exit_sum[row]);
        hash = hash_seeded(hash, cpu->state + row * dim, n * sizeof *cpu->state);
    }
    return hash;
}

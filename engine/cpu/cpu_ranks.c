/* cpu_ranks.c - the CPU backend as one of several ranks: equal kernels, gathers of columns, and the
 * check of results. */
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

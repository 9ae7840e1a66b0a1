/* join_ranks.c - a command over several processes (mpirun): rank 0 is the command. */
#include "cli/cli.h"

#include <stdlib.h>

void join_ranks(runtime_opts *opts) {
    uint32_t rank, n;
    opts->ranks = true;
    if (!eng_ranks_expected(&rank, &n) || rank == 0) return;
    err e = {0};
    exit(runtime_follow(opts, &e) == 0 ? 0 : opt_fail(&e));
}

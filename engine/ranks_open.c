/* ranks_open.c - finds out whether a launcher started several processes, and loads the carrier
 * between them. So one program runs with and without MPI, and its build needs no MPI. */
#include "engine/backend_internal.h"
#include "engine/ranks.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

typedef int (*plugin_open)(eng_ranks **out, uint32_t expected, err *e);

static bool number_of(const char *name, uint32_t *out) {
    const char *text = getenv(name);
    char *end;
    if (text == NULL || text[0] == 0) return false;
    unsigned long value = strtoul(text, &end, 10);
    if (*end || value > UINT16_MAX) return false;
    *out = (uint32_t)value;
    return true;
}

bool eng_ranks_expected(uint32_t *rank, uint32_t *n) {
    static const char *const names[][2] = {
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}, /* Open MPI's mpirun */
        {"PMI_RANK", "PMI_SIZE"},                         /* MPICH's, and Slurm's srun */
    };
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (number_of(names[i][0], rank) && number_of(names[i][1], n) && *n > 1 && *rank < *n)
            return true;
    }
    *rank = 0;
    *n = 1;
    return false;
}

/* mpirun passes these signals to every process, but only rank 0 acts on them. */
static void ignore_signals(void) {
    static const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2};
    for (size_t i = 0; i < ARRAY_LEN(ignored); i++)
        (void)signal(ignored[i], SIG_IGN);
}

int eng_ranks_open(eng_ranks **out, err *e) {
    uint32_t rank, n;
    char path[ENG__PATH_BYTES];
    *out = NULL;
    if (!eng_ranks_expected(&rank, &n)) return 0;
    if (!eng__plugin_path("fathom-mpi.so", path)) {
        return err_set(
            e, ERR_NOT_FOUND, NULL,
            "%u processes were started to run one model, but fathom-mpi.so is not beside "
            "the program (built without mpi.h)",
            n);
    }
    if (rank > 0) ignore_signals();
    /* GLOBAL: the parts of an MPI library that it loads itself look for its symbols there. */
    plugin_open open = (plugin_open)eng__plugin_load(path, "mpi", RTLD_NOW | RTLD_GLOBAL, e);
    return open ? open(out, n, e) : -1;
}

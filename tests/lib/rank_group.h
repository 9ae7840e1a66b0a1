/* rank_group.h - ranks as threads of one process, so that tests run a model over several ranks
 * without MPI. */
#ifndef FATHOM_TEST_RANK_GROUP_H
#define FATHOM_TEST_RANK_GROUP_H

#include "engine/ranks.h"

enum { RANK_GROUP_MOST = 16 };

/* A carrier of bytes between threads. Makes out[0] .. out[n - 1], for one thread each; each ends
 * with eng_ranks_close. One closed before rank 0 has ended the followers counts as lost: calls of
 * the others fail with ERR_DEVICE. Fails the test when out of memory. */
void rank_group_carriers(eng_ranks *out[], uint32_t n);

/* Opens a backend on `ranks`, with *opts and opts->ranks set. */
typedef int (*rank_group_open_fn)(eng_backend **out, const model_folder *model,
                                  const eng_backend_opts *opts, err *e);

typedef struct rank_group rank_group;
/* Opens `model` over n ranks and returns the backend of rank 0; the others follow on threads of
 * their own. n = 1: a plain backend. opts[rank % n_opts] are the options of a rank. On failure
 * returns NULL with the error of rank 0. Ends with rank_group_close. */
eng_backend *rank_group_start(rank_group **out, uint32_t n, const model_folder *model,
                              const eng_backend_opts *opts, uint32_t n_opts,
                              rank_group_open_fn open, err *e);
/* Closes the backend of rank 0 and joins the followers. */
void rank_group_close(rank_group *group);
/* Before the close: carrier of rank 0. After a failed start or in a test of errors: what rank
 * `rank` > 0 ended with, joining it. */
eng_ranks *rank_group_ranks(rank_group *group);
const err *rank_group_error(rank_group *group, uint32_t rank);
/* Bytes of weights that a rank held. */
uint64_t rank_group_weights(const rank_group *group, uint32_t rank);

#endif

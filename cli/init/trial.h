/* trial.h - the folder of the smaller models that are measured for an agreement: DIR.fathom-trial
 * beside the wanted DIR. It does not outlive the process, unless that is killed. */
#ifndef FATHOM_CLI_TRIAL_H
#define FATHOM_CLI_TRIAL_H

#include "base/err.h"

/* Names the folder, and empties the one that a killed process may have left. Until trial_end,
 * Ctrl+C, SIGTERM and SIGHUP remove the folder before they end the process, unless they are
 * ignored. There is one trial at a time, and one thread calls all three. ERR_NO_MEMORY. */
int trial_begin(const char *dir, err *e) WARN_UNUSED;
/* The folder's path, for model_init_write; lives until trial_end. */
const char *trial_dir(void);
/* Removes the folder with the files of a model of one shard. */
void trial_remove(void);
/* Removes the folder too. */
void trial_end(void);

#endif

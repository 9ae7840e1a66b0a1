/* commands.h - the table of commands. A command is one file and one row of the table. */
#ifndef FATHOM_CLI_COMMANDS_H
#define FATHOM_CLI_COMMANDS_H

#include "cli/cli.h"

typedef struct {
    const char *name; /* "bench engine" */
    int (*run)(opt_args *args);
} cli_command;
extern const cli_command commands[]; /* ends with the name NULL */

/* Calls show with the table of each command, without running any. */
void commands_show(void (*show)(void *ud, const opt_command *command), void *ud);
/* As opt_args.known. */
bool commands_know(const char *command, const char *option);

#endif

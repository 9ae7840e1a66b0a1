/* serve.h - the options of `fathom serve` as a table, for the command and for tests. */
#ifndef FATHOM_CLI_SERVE_H
#define FATHOM_CLI_SERVE_H

#include "cli/cli.h"
#include "server/server.h"

typedef int (*serve_with)(const opt_command *command, int argc, char **argv);
/* Builds the table of options (its rows write to opts), calls `with` (opt_parse) on it, and returns
 * its result. */
int serve_options(server_opts *opts, int argc, char **argv, serve_with with);

#endif

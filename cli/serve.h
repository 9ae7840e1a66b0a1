/* serve.h - the options of `fathom serve` as one table, for the command and for tests of it. */
#ifndef FATHOM_CLI_SERVE_H
#define FATHOM_CLI_SERVE_H

#include "cli/cli.h"
#include "server/server.h"

typedef int (*serve_with)(const opt_command *command, int argc, char **argv);
/* Hands the table, whose rows write to o, to `with` (opt_parse), and returns what that returns. */
int serve_options(server_opts *opts, int argc, char **argv, serve_with with);

#endif

/* commands.c - the table of commands. */
#include "cli/commands.h"
#include "loadgen/loadgen.h"

#include <string.h>

const cli_command commands[] = {
    {"serve", cmd_serve},
    {"generate", cmd_generate},
    {"chat", cmd_chat},
    {"score", cmd_score},
    {"compare", cmd_compare},
    {"inspect", cmd_inspect},
    {"models", cmd_models},
    {"init", cmd_init},
    {"tokenize", cmd_tokenize},
    {"health", cmd_health},
    {"bench", cmd_bench},
    {"bench engine", cmd_bench_engine},
    {"bench kernels", cmd_bench_kernels},
    {"completion", cmd_completion},
    {"manual", cmd_manual},
    {"version", cmd_version},
    {NULL, NULL},
};

void commands_show(void (*show)(void *ud, const opt_command *command), void *ud) {
    for (const cli_command *command = commands; command->name; command++) {
        opt_args args;
        opt_args_init(&args, 0, NULL);
        args.show = show;
        args.ud = ud;
        (void)command->run(&args);
        opt_args_deinit(&args);
    }
}

typedef struct {
    const char *option;
    bool found;
} option_search;

static void search(void *ud, const opt_command *command) {
    option_search *self = ud;
    if (opt_find(command, self->option, strlen(self->option))) self->found = true;
}

bool commands_know(const char *command, const char *option) {
    option_search wanted = {.option = option};
    if (option) return commands_show(search, &wanted), wanted.found;
    for (const cli_command *row = commands; row->name; row++) {
        if (strcmp(row->name, command) == 0) return true;
    }
    return false;
}

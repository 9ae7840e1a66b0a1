/* main.c - picks a command. */
#include "base/json.h"
#include "base/mapped.h"
#include "base/nearest.h"
#include "cli/commands.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static void print_summary(void *ud, const opt_command *command) {
    char summary[400];
    int n = (int)strcspn(command->summary, "\n");
    (void)snprintf(summary, sizeof summary, "%.*s", n, command->summary);
    fprintf(ud, "  %-14s ", command->command);
    opt_wrap(ud, 17, summary);
}

static void print_help(FILE *to) {
    fprintf(to,
            "fathom " FATHOM_VERSION " - serves recurrent-depth transformers, batching tokens at "
            "different depths\n\nUsage: fathom COMMAND [options]\n\n");
    commands_show(print_summary, to);
    fprintf(to, "\n'fathom COMMAND --help' lists the options of a command, with an example.\nFirst "
                "steps:\n  fathom serve\n");
}

/* How many of the words name this command: 0, 1 or, for "bench kernels", 2. */
static int words_matched(const char *name, int argc, char **argv) {
    size_t first = strcspn(name, " ");
    if (argc < 1 || strlen(argv[0]) != first || memcmp(argv[0], name, first) != 0) return 0;
    if (name[first] == 0) return 1;
    return argc > 1 && strcmp(argv[1], name + first + 1) == 0 ? 2 : 0;
}

/* The longest name that the words begin with. */
static const cli_command *find_command(int argc, char **argv, int *words) {
    const cli_command *found = NULL;
    *words = 0;
    for (const cli_command *command = commands; command->name; command++) {
        int n = words_matched(command->name, argc, argv);
        if (n <= *words) continue;
        *words = n;
        found = command;
    }
    return found;
}

static int unknown_command(const char *name) {
    nearest near;
    nearest_start(&near, name);
    for (const cli_command *command = commands; command->name; command++)
        nearest_offer(&near, command->name);
    fprintf(stderr, "fathom: unknown command '%s'%s%s%s (see 'fathom --help')\n", name,
            near.best ? "; did you mean '" : "", near.best ? near.best : "", near.best ? "'?" : "");
    return EXIT_USAGE;
}

/* `bench engines`: a word after a command that has others below it, and takes no such word. */
static int check_second(const cli_command *command, int argc, char **argv) {
    size_t n = strlen(command->name);
    bool group = false;
    for (const cli_command *other = commands; other->name; other++)
        group |= strncmp(other->name, command->name, n) == 0 && other->name[n] == ' ';
    if (!group || argc < 2 || argv[1][0] == '-') return 0;
    char both[80];
    (void)snprintf(both, sizeof both, "%s %s", command->name, argv[1]);
    return unknown_command(both);
}

static int run(int argc, char **argv) {
    static char help_option[] = "--help";
    int words;
    bool help = strcmp(argv[0], "help") == 0;
    if (help) argc--, argv++;
    if (argc == 0 || argv[0][0] == '-') return print_help(stdout), 0;
    const cli_command *command = find_command(argc, argv, &words);
    if (command == NULL) return unknown_command(argv[0]);
    argc -= words - 1;
    argv += words - 1;
    int status = check_second(command, argc, argv);
    if (status != 0) return status;
    char *of_help[] = {argv[0], help_option, NULL};
    opt_args args;
    opt_args_init(&args, help ? 2 : argc, help ? of_help : argv);
    args.known = commands_know;
    status = command->run(&args);
    opt_args_deinit(&args);
    return status;
}

int main(int argc, char **argv) {
    json_setup();
    mapped_name_faults();
    signal(SIGXFSZ, SIG_IGN); /* a file beyond `ulimit -f` is then a write error */
    if (argc < 2) return print_help(stderr), EXIT_USAGE;
    static char version[] = "version";
    const char *first = argv[1];
    if (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0) return print_help(stdout), 0;
    if (strcmp(first, "--version") == 0 || strcmp(first, "-V") == 0 || strcmp(first, "-v") == 0)
        argv[1] = version;
    return run(argc - 1, argv + 1);
}

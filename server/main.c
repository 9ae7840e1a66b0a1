/* main.c - picks a command. */
#include "server/server.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"generate", cmd_generate, "continue one prompt"},
    {"score", cmd_score, "log-probability and depth of every given token; perplexity"},
    {"inspect", cmd_inspect, "say what a model folder holds and what fits here"},
    {"init", cmd_init, "write random weights of a published variant"},
    {"tokenize", cmd_tokenize, "turn text into token ids, or back"},
    {"bench", cmd_bench, "load generator over HTTP, with depth figures"},
    {NULL, NULL, NULL},
};

static void print_help(FILE *to) {
    fprintf(to, "fathom " FATHOM_VERSION " - serves recurrent-depth transformers, batching by depth\n\n"
                "Usage: fathom COMMAND [options]\n\n");
    for (size_t i = 0; commands[i].name; i++) {
        fprintf(to, "  %-14s %s\n", commands[i].name, commands[i].summary);
    }
    fprintf(to, "\n'fathom COMMAND --help' lists the options of one, with an example.\n"
                "First steps:\n  fathom serve --model models/demo\n");
}

int main(int argc, char **argv) {
    json_setup();
    if (argc < 2) return print_help(stderr), EXIT_USAGE;
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        return print_help(stdout), 0;
    }
    if (strcmp(argv[1], "--version") == 0) return printf("fathom " FATHOM_VERSION "\n"), 0;
    for (size_t i = 0; commands[i].name; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "fathom: unknown command '%s' (see 'fathom --help')\n", argv[1]);
    return EXIT_USAGE;
}

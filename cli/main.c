/* main.c - picks a command. */
#include "base/json.h"
#include "base/mapped.h"
#include "cli/cli.h"
#include "loadgen/loadgen.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
} commands[] = {
    {"serve", cmd_serve, "serve a model over the OpenAI HTTP API"},
    {"generate", cmd_generate, "continue one prompt and print the text as it comes"},
    {"score", cmd_score,
     "print each given token's log-probability and depth, or a text's perplexity"},
    {"compare", cmd_compare,
     "compare cheaper ways to run a model with policy exact, on the same text"},
    {"inspect", cmd_inspect,
     "tell what a model folder holds and how much of it fits into this machine"},
    {"init", cmd_init, "write a model folder of random weights"},
    {"tokenize", cmd_tokenize, "turn text into token ids, or token ids into text"},
    {"bench engine", cmd_bench_engine,
     "measure batching modes and policies side by side, without HTTP"},
    {"bench kernels", cmd_bench_kernels,
     "measure the CPU kernels beside the limits of the machine"},
    /* must follow the other two commands that begin with "bench" */
    {"bench", cmd_bench,
     "put load on a server over HTTP and measure latency, throughput and depth"},
    {NULL, NULL, NULL},
};

static void print_help(FILE *to) {
    fprintf(to,
            "fathom " FATHOM_VERSION " - serves recurrent-depth transformers, batching tokens at "
            "different depths\n\nUsage: fathom COMMAND [options]\n\n");
    for (size_t i = 0; commands[i].name; i++) {
        fprintf(to, "  %-14s %s\n", commands[i].name, commands[i].summary);
    }
    fprintf(to, "\n'fathom COMMAND --help' lists the options of a command, with an example.\nFirst "
                "steps:\n  fathom serve --model models/demo\n");
}

/* How many words of the command line name this command: 0, 1 or, for "bench kernels", 2. */
static int words_matched(const char *name, int argc, char **argv) {
    size_t first = strcspn(name, " ");
    if (strlen(argv[1]) != first || memcmp(argv[1], name, first) != 0) return 0;
    if (name[first] == 0) return 1;
    return argc > 2 && strcmp(argv[2], name + first + 1) == 0 ? 2 : 0;
}

int main(int argc, char **argv) {
    json_setup();
    mapped_name_faults();
    signal(SIGXFSZ, SIG_IGN); /* a file beyond `ulimit -f` is then a write error */
    if (argc < 2) return print_help(stderr), EXIT_USAGE;
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        return print_help(stdout), 0;
    }
    if (strcmp(argv[1], "--version") == 0) return printf("fathom " FATHOM_VERSION "\n"), 0;
    for (size_t i = 0; commands[i].name; i++) {
        int n = words_matched(commands[i].name, argc, argv);
        if (n) return commands[i].run(argc - n, argv + n);
    }
    fprintf(stderr, "fathom: unknown command '%s' (see 'fathom --help')\n", argv[1]);
    return EXIT_USAGE;
}

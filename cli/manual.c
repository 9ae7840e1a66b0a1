/* manual.c - fathom manual: the manual page of a command, or the page of all options, made from the
 * tables of the commands. */
#include "cli/commands.h"

#include <stdio.h>
#include <string.h>

static const char precedence[] =
    "A value comes from the command line, else from the environment, else from the file of "
    "--config, else it is the default. The environment has a variable for each option: --max-rows "
    "is FATHOM_MAX_ROWS. A flag takes true or false there, and a list takes commas. An empty "
    "variable is no value. Numbers of bytes take K, M and G for powers of 1024; counts take these, "
    "and k, m and g for powers of 1000.";
static const char places[] =
    "A model is a folder, the name of a folder, or ORG/NAME. A name is searched in ./models, in "
    "$XDG_DATA_HOME/fathom/models (~/.local/share/fathom/models), in share/fathom/models beside "
    "the program's folder, in /usr/local/share/fathom/models and in /usr/share/fathom/models. "
    "ORG/NAME is looked up in the Hugging Face cache. Without a model the newest in your own data "
    "folder is taken, else the model demo, else hops.";

/* ---- manual pages ---- */

/* Escapes what roff would read as its own. */
static void roff_part(const char *text, size_t n) {
    for (const char *at = text; at < text + n; at++) {
        if (at == text && strchr(".'", *at)) printf("\\&");
        if (*at == '-') printf("\\-");
        else if (*at == '\\') printf("\\e");
        else if (*at == '\'') printf("\\(aq");
        else if (*at == '`') printf("\\(ga");
        else if (*at == '^') printf("\\(ha");
        else if (*at == '~') printf("\\(ti");
        else putchar(*at);
    }
}

static void roff(const char *text) {
    roff_part(text, strlen(text));
}

static void roff_line(const char *before, const char *text, const char *after) {
    printf("%s", before);
    roff(text);
    printf("%s", after);
}

/* "fathom-bench-engine" */
static void page_name(char out[80], const char *command) {
    (void)snprintf(out, 80, "fathom%s%s", command[0] ? "-" : "", command);
    for (char *at = out; *at; at++) {
        if (*at == ' ') *at = '-';
    }
}

static void roff_head(const char *command, const char *summary, const char *date) {
    char name[80];
    page_name(name, command);
    printf(".TH ");
    for (const char *at = name; *at; at++)
        putchar(*at >= 'a' && *at <= 'z' ? *at - 'a' + 'A' : *at);
    printf(" 1 \"%s\" \"fathom " FATHOM_VERSION "\" \"Fathom\"\n.SH NAME\n", date);
    roff(name);
    printf(" \\- ");
    roff_part(summary, strcspn(summary, "\n"));
    printf("\n.ad l\n.nh\n");
}

static void roff_option(const opt_command *command, const opt_row *row) {
    buf help = {0};
    opt_describe(&help, command, row);
    printf(".TP\n");
    roff_line("\\fB", row->name, "\\fR");
    if (row->meta) roff_line(row->meta[0] == '[' ? "\\fI" : " \\fI", row->meta, "\\fR");
    roff_line("\n", help.failed ? row->help : help.data, "\n");
    buf_deinit(&help);
}

static void roff_options(const opt_command *command) {
    const opt_row *row;
    const char *group, *before = "";
    printf(".SH OPTIONS\n");
    for (size_t i = 0; (row = opt_next(command, i, &group)) != NULL; i++) {
        if (strcmp(group, before) != 0) roff_line(".SS ", group, "\n");
        before = group;
        roff_option(command, row);
    }
    printf(".SS Common\n");
    for (size_t i = 0; (row = opt_common(i)) != NULL; i++) {
        if (!opt_find(command, row->name, strlen(row->name))) roff_option(command, row);
    }
}

static void roff_command(const opt_command *command, const char *date) {
    const opt_row *bare = opt_marked(command, OPT_MARK_BARE);
    const char *more = strchr(command->summary, '\n');
    buf usage = {0};
    opt_usage(&usage, command);
    roff_head(command->command, command->summary, date);
    roff_line(".SH SYNOPSIS\n", usage.failed ? "" : usage.data, "\n.SH DESCRIPTION\n");
    buf_deinit(&usage);
    printf("fathom %s ", command->command);
    roff_line("", command->summary, "");
    printf("%s\n", more ? "" : ".");
    if (bare && strcmp(bare->name, "--model") == 0) roff_line(".PP\n", places, "\n");
    roff_options(command);
    roff_line(".SH ENVIRONMENT\n", precedence, "\n");
    roff_line(".SH EXIT STATUS\n",
              "0: success; 1: failure; 2: bad usage, or a model that cannot "
              "be loaded.",
              "\n");
    roff_line(".SH EXAMPLE\n.nf\n", command->example, "\n.fi\n");
    printf(".SH SEE ALSO\n.BR fathom (1)\n");
}

static void roff_summary(void *ud, const opt_command *command) {
    (void)ud;
    char name[80];
    page_name(name, command->command);
    roff_line(".TP\n.BR ", name, " (1)\n");
    roff_part(command->summary, strcspn(command->summary, "\n"));
    printf("\n");
}

static void roff_program(const char *date) {
    roff_head("", "serves recurrent-depth transformers, batching tokens at different depths", date);
    printf(".SH SYNOPSIS\n.B fathom\n\\fICOMMAND\\fR [options]\n.SH DESCRIPTION\n");
    roff(
        "Fathom runs looped transformers: models that apply the same layers to each token as often "
        "as the token needs. It serves them over HTTP, in the protocols of OpenAI and Anthropic.");
    printf("\n.SH COMMANDS\n");
    commands_show(roff_summary, NULL);
    roff_line(".SH MODELS\n", places, "\n");
    roff_line(".SH ENVIRONMENT\n", precedence, "\n.PP\nFATHOM_CONFIG names the file of ");
    roff_line("", "--config", ".\n.SH FILES\n");
    roff("The file of --config holds a line for each option, with or without quotes, and comments. "
         "Lines before the first section serve all commands; lines after [serve] serve that "
         "command only. A list is given by lines with the same name, or by lines that begin with "
         "a dash, or in brackets.");
    roff_line("\n.PP\n.nf\n", "# /etc/fathom/options", "\n");
    roff_line("", "kv-memory: 4G", "\n");
    roff_line("", "[serve]", "\n");
    roff_line("", "host = 0.0.0.0", "\n.fi\n");
    roff_line(".SH EXAMPLES\n.nf\n", "fathom serve", "\n");
    roff_line("", "fathom generate hops --prompt \"...\" --show-depth", "\n.fi\n");
}

/* ---- the page of all options ---- */

/* Escapes what Markdown would read as its own, in a cell of a table. */
static void markdown(const char *text) {
    for (; *text; text++) {
        if (strchr("|*<>", *text)) putchar('\\');
        putchar(*text);
    }
}

static void markdown_row(const opt_command *command, const opt_row *row) {
    buf help = {0}, variable = {0};
    opt_describe(&help, command, row);
    printf("| `%s", row->name);
    if (row->meta) printf("%s", row->meta[0] == '[' ? "" : " ");
    for (const char *at = row->meta; at && *at; at++)
        printf(*at == '|' ? "\\|" : "%c", *at);
    printf("` | ");
    markdown(help.failed ? row->help : help.data);
    bool set = (row->out || row->type == OPT_TEXT) && opt_variable(&variable, command, row);
    printf(set ? " | `%s` |\n" : " | |\n", set && !variable.failed ? variable.data : "");
    buf_deinit(&help);
    buf_deinit(&variable);
}

static void markdown_command(void *ud, const opt_command *command) {
    const opt_row *row;
    const char *group, *before = NULL;
    buf usage = {0};
    (void)ud;
    opt_usage(&usage, command);
    printf("\n## fathom %s\n\n`%s`: ", command->command, usage.failed ? "" : usage.data);
    markdown(command->summary);
    printf("%s\n\n```\n%s\n```\n", strchr(command->summary, '\n') ? "" : ".", command->example);
    for (size_t i = 0; (row = opt_next(command, i, &group)) != NULL; i++) {
        bool first = before == NULL || strcmp(group, before) != 0;
        if (first && group[0]) printf("\n%s:\n", group);
        if (first) printf("\n| option | meaning | variable |\n|---|---|---|\n");
        before = group;
        markdown_row(command, row);
    }
    buf_deinit(&usage);
}

static void print_markdown(void) {
    printf("# Options\n\nThe options of every command. This page is made by `make docs/options.md` "
           "from the tables of the program; a test compares it.\n\n");
    markdown(precedence);
    printf("\n\n");
    markdown(places);
    printf("\n\nEvery command has these options too:\n\n| option | meaning | variable |\n"
           "|---|---|---|\n");
    for (size_t i = 0; opt_common(i) != NULL; i++) {
        static const opt_command none = {.command = ""};
        markdown_row(&none, opt_common(i));
    }
    printf("\nThe file of `--config` is flat YAML or INI:\n\n```\n# a comment\nkv-memory: 4G\n"
           "cors-origin:\n  - https://one.example\n  - https://two.example\n[serve]         # for "
           "this command only\nhost = 0.0.0.0\nwarn-unknown = true\n```\n");
    commands_show(markdown_command, NULL);
}

/* ---- the command ---- */

typedef struct {
    const char *name, *date;
    bool found;
} page;

static void print_page(void *ud, const opt_command *command) {
    page *self = ud;
    if (strcmp(command->command, self->name) != 0) return;
    self->found = true;
    roff_command(command, self->date);
}

static void print_page_name(void *ud, const opt_command *command) {
    (void)ud;
    printf("%s\n", command->command);
}

int cmd_manual(opt_args *args) {
    const char *format = "man", *name = NULL, *date = "";
    bool list = false;
    const opt_row options[] = {
        {"--command", OPT_TEXT, &name, "COMMAND",
         "command to describe, as \"bench engine\" (default: the program)", 0, 0, false},
        OPT_BARE("--command"),
        {"--format", OPT_CHOICE, &format, "man|markdown",
         "man: a page for man; markdown: the options of all commands (default man)", 0, 0, false},
        {"--date", OPT_TEXT, &date, "DATE", "date at the foot of a manual page (default: none)", 0,
         0, false},
        {"--list", OPT_FLAG, &list, NULL, "print the names of the commands instead", 0, 0, false},
    };
    const opt_command command = {"manual", "prints a manual page, or the page of all options",
                                 "fathom manual serve | man -l -", options, ARRAY_LEN(options)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    page wanted = {.name = name, .date = date};
    if (list) {
        commands_show(print_page_name, NULL);
    } else if (strcmp(format, "markdown") == 0) {
        print_markdown();
    } else if (name == NULL) {
        roff_program(date);
    } else {
        commands_show(print_page, &wanted);
        if (!wanted.found) {
            fprintf(stderr, "fathom manual: there is no command '%s'\n", name);
            return EXIT_USAGE;
        }
    }
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : EXIT_FAILED;
}

/* completion.c - fathom completion: a script that completes command lines in bash, zsh or fish,
 * made from the tables of the commands. */
#include "cli/commands.h"

#include <stdio.h>
#include <string.h>

/* The kind of value that an option takes, for completion. */
typedef enum {
    VALUE_NONE,
    VALUE_ANY,
    VALUE_WORDS,
    VALUE_FILE,
    VALUE_FOLDER,
    VALUE_MODEL
} value_kind;

static value_kind kind_of(const opt_row *row) {
    if (row->type == OPT_FLAG) return VALUE_NONE;
    if (row->type == OPT_CHOICE) return VALUE_WORDS;
    if (row->meta == NULL || row->type != OPT_TEXT) return VALUE_ANY;
    if (strcmp(row->meta, "MODEL") == 0) return VALUE_MODEL;
    if (strcmp(row->meta, "DIR") == 0) return VALUE_FOLDER;
    return strncmp(row->meta, "FILE", 4) == 0 ? VALUE_FILE : VALUE_ANY;
}

/* Calls put for each option of a command, and for the common ones that it has. */
static void each_option(const opt_command *command,
                        void (*put)(const opt_command *command, const opt_row *row)) {
    const opt_row *row;
    const char *group;
    for (size_t i = 0; (row = opt_next(command, i, &group)) != NULL; i++)
        put(command, row);
    for (size_t i = 0; (row = opt_common(i)) != NULL; i++) {
        if (!opt_find(command, row->name, strlen(row->name))) put(command, row);
    }
}

/* "a|b|c" as "a b c"; without the last word if it stands for a number. */
static void print_words(const opt_row *row) {
    const char *words = row->meta, *end = words + strlen(words);
    if (opt_takes_number(row)) end = strrchr(words, '|');
    for (; words < end; words++)
        putchar(*words == '|' ? ' ' : *words);
}

static int first_line(const char *summary) {
    return (int)strcspn(summary, "\n");
}

/* ---- bash ---- */

static void bash_name(const opt_command *command, const opt_row *row) {
    (void)command;
    printf(" %s", row->name);
}

static void bash_options(void *ud, const opt_command *command) {
    (void)ud;
    const opt_row *bare = opt_marked(command, OPT_MARK_BARE);
    printf("    '%s')\n        options='", command->command);
    each_option(command, bash_name);
    printf("'\n        bare=%s ;;\n", bare ? bare->name : "");
}

static void bash_value(const opt_command *command, const opt_row *row) {
    static const char *const kinds[] = {[VALUE_ANY] = "any",
                                        [VALUE_FILE] = "file",
                                        [VALUE_FOLDER] = "folder",
                                        [VALUE_MODEL] = "model"};
    value_kind kind = kind_of(row);
    if (kind == VALUE_NONE) return;
    printf("    '%s %s') ", command->command, row->name);
    if (kind == VALUE_WORDS) {
        printf("words='");
        print_words(row);
        printf("' ;;\n");
    } else {
        printf("kind='%s' ;;\n", kinds[kind]);
    }
}

static void bash_values(void *ud, const opt_command *command) {
    (void)ud;
    each_option(command, bash_value);
}

static void bash_command(void *ud, const opt_command *command) {
    (void)ud;
    printf(" '%s'", command->command);
}

static void print_bash(void) {
    printf("# bash completion of fathom. Made by: fathom completion bash\n"
           "_fathom_value() {\n"
           "    case $1 in\n");
    commands_show(bash_values, NULL);
    printf("    *) return 1 ;;\n"
           "    esac\n"
           "}\n"
           "_fathom() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}\n"
           "    local command=${COMP_WORDS[1]} options='' bare='' words='' kind='' name\n"
           "    local -a commands=(");
    commands_show(bash_command, NULL);
    printf(")\n"
           "    # --device=c is three words: --device, = and c.\n"
           "    if [[ $word == = ]]; then word=''\n"
           "    elif [[ $before == = ]]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
           "    COMPREPLY=()\n"
           "    if [[ $COMP_CWORD -eq 1 ]]; then\n"
           "        for name in \"${commands[@]}\"; do words+=\" ${name%%%% *}\"; done\n"
           "        mapfile -t COMPREPLY < <(compgen -W \"$words help\" -- \"$word\" | sort -u)\n"
           "        return\n"
           "    fi\n"
           "    for name in \"${commands[@]}\"; do\n"
           "        if [[ $COMP_CWORD -gt 2 && $name == \"$command ${COMP_WORDS[2]}\" ]]; then\n"
           "            command=$name\n"
           "            break\n"
           "        fi\n"
           "        [[ $COMP_CWORD -eq 2 && $name == \"$command \"* ]] && words+=\" ${name#* }\"\n"
           "    done\n"
           "    case $command in\n");
    commands_show(bash_options, NULL);
    printf("    esac\n"
           "    if ! _fathom_value \"$command $before\"; then\n"
           "        if [[ $word == -* ]]; then words=$options\n"
           "        elif [[ -n $bare ]]; then _fathom_value \"$command $bare\"; fi\n"
           "    fi\n"
           "    [[ $kind == model ]] && words=$(fathom models 2>/dev/null | sed 's/ .*//')\n"
           "    mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$word\"\n"
           "        [[ $kind == file ]] && compgen -f -- \"$word\"\n"
           "        [[ $kind == folder || $kind == model ]] && compgen -d -- \"$word\")\n"
           "}\n"
           "complete -o filenames -F _fathom fathom\n");
}

/* ---- zsh ---- */

/* In single quotes; ends before a bracket or colon that _arguments would read. */
static void zsh_text(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\'') printf("'\\''");
        else if (strchr("[]:\\", text[i])) printf("\\%c", text[i]);
        else putchar(text[i]);
    }
}

/* ":words:(a b)", ":FILE:_files" */
static void zsh_value(const opt_row *row) {
    static const char *const actions[] = {[VALUE_NONE] = "",
                                          [VALUE_ANY] = "",
                                          [VALUE_WORDS] = "",
                                          [VALUE_FILE] = "_files",
                                          [VALUE_FOLDER] = "_files -/",
                                          [VALUE_MODEL] = "_fathom_models"};
    value_kind kind = kind_of(row);
    if (kind == VALUE_WORDS) {
        printf(":word:(");
        print_words(row);
        printf(")");
        return;
    }
    printf(":");
    zsh_text(row->meta, strlen(row->meta));
    printf(":%s", actions[kind]);
}

static void zsh_option(const opt_command *command, const opt_row *row) {
    (void)command;
    value_kind kind = kind_of(row);
    bool many = row->type == OPT_TEXT_MANY;
    printf(" \\\n            '%s%s%s[", many ? "*" : "", row->name, kind == VALUE_NONE ? "" : "=");
    zsh_text(row->help, strlen(row->help));
    printf("]");
    if (kind != VALUE_NONE) zsh_value(row);
    printf("'");
}

static void zsh_command(void *ud, const opt_command *command) {
    (void)ud;
    const opt_row *bare = opt_marked(command, OPT_MARK_BARE);
    printf("    '%s')\n        _arguments -s", command->command);
    each_option(command, zsh_option);
    if (bare) {
        printf(" \\\n            '1");
        zsh_value(bare);
        printf("'");
    }
    printf(" ;;\n");
}

static void zsh_name(void *ud, const opt_command *command) {
    const char *space = strchr(command->command, ' '), *under = ud;
    bool below = under && space && strncmp(command->command, under, strlen(under)) == 0;
    if ((under == NULL) != (space == NULL) || (under && !below)) return;
    printf(" '%s:", space ? space + 1 : command->command);
    zsh_text(command->summary, (size_t)first_line(command->summary));
    printf("'");
}

static void print_zsh(void) {
    static char bench[] = "bench ";
    printf("#compdef fathom\n"
           "# zsh completion of fathom. Made by: fathom completion zsh\n"
           "_fathom_models() {\n"
           "    local -a names=(${${(f)\"$(fathom models 2>/dev/null)\"}%%%% *})\n"
           "    _alternative \"models:model:($names)\" 'folders:folder:_files -/'\n"
           "}\n"
           "_fathom() {\n"
           "    local command=$words[2]\n"
           "    local -a commands=(");
    commands_show(zsh_name, NULL);
    printf(")\n    local -a below=(");
    commands_show(zsh_name, bench);
    printf(")\n"
           "    if (( CURRENT == 2 )); then _describe command commands; return; fi\n"
           "    if [[ $command == bench && CURRENT -eq 3 && $words[3] != -* ]]; then\n"
           "        _describe command below; return\n"
           "    fi\n"
           "    shift words; (( CURRENT-- ))\n"
           "    if [[ $command == bench && -n ${below[(r)$words[2]:*]} ]]; then\n"
           "        command=\"bench $words[2]\"; shift words; (( CURRENT-- ))\n"
           "    fi\n"
           "    case $command in\n");
    commands_show(zsh_command, NULL);
    printf("    esac\n}\n_fathom \"$@\"\n");
}

/* ---- fish ---- */

static void fish_text(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\'' || text[i] == '\\') putchar('\\');
        putchar(text[i]);
    }
}

static void fish_value(const opt_row *row) {
    value_kind kind = kind_of(row);
    if (kind == VALUE_FOLDER) printf(" -a '(__fish_complete_directories)'");
    if (kind == VALUE_MODEL) printf(" -a '(__fathom_models)'");
    if (kind != VALUE_WORDS) return;
    printf(" -a '");
    print_words(row);
    printf("'");
}

static void fish_option(const opt_command *command, const opt_row *row) {
    value_kind kind = kind_of(row);
    printf("complete -c fathom -n '__fathom_is \"%s\"' -l %s", command->command, row->name + 2);
    if (kind == VALUE_FILE) printf(" -r -F");
    else if (kind != VALUE_NONE) printf(" -x");
    fish_value(row);
    printf(" -d '");
    fish_text(row->help, strlen(row->help));
    printf("'\n");
}

static void fish_command(void *ud, const opt_command *command) {
    (void)ud;
    const char *space = strchr(command->command, ' ');
    const opt_row *bare = opt_marked(command, OPT_MARK_BARE);
    if (space)
        printf("complete -c fathom -n '__fathom_is \"%.*s\"' -a %s -d '",
               (int)(space - command->command), command->command, space + 1);
    else printf("complete -c fathom -n '__fathom_is \"\"' -a %s -d '", command->command);
    fish_text(command->summary, (size_t)first_line(command->summary));
    printf("'\n");
    if (bare) {
        printf("complete -c fathom -n '__fathom_is \"%s\"'", command->command);
        fish_value(bare);
        printf("\n");
    }
    each_option(command, fish_option);
}

static void print_fish(void) {
    printf("# fish completion of fathom. Made by: fathom completion fish\n"
           "function __fathom_is\n"
           "    set -l words (commandline -opc)[2..-1]\n"
           "    set -l command \"$words[1]\"\n"
           "    contains -- \"$words[1] $words[2]\"");
    commands_show(bash_command, NULL);
    printf("\n        and set command \"$words[1] $words[2]\"\n"
           "    test \"$command\" = \"$argv[1]\"\n"
           "end\n"
           "function __fathom_models\n"
           "    fathom models 2>/dev/null | string replace -r ' .*' ''\n"
           "    __fish_complete_directories\n"
           "end\n"
           "complete -c fathom -f\n");
    commands_show(fish_command, NULL);
}

int cmd_completion(opt_args *args) {
    const char *shell = NULL;
    const opt_row options[] = {
        {"--shell", OPT_CHOICE, &shell, "bash|zsh|fish", "shell that reads the script", 0, 0, true},
        OPT_BARE("--shell"),
        OPT_NO_ENVIRONMENT("--shell"),
    };
    const opt_command command = {
        "completion", "prints a script that completes command lines in a shell",
        "fathom completion bash >~/.local/share/bash-completion/completions/fathom", options,
        ARRAY_LEN(options)};
    int parsed = opt_parse(&command, args);
    if (parsed != 0) return parsed > 0 ? 0 : EXIT_USAGE;
    if (strcmp(shell, "bash") == 0) print_bash();
    else if (strcmp(shell, "zsh") == 0) print_zsh();
    else print_fish();
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : EXIT_FAILED;
}

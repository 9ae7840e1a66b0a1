/* The tables of all commands: each can be shown without running the command, and is sound. */
#include "base/options_internal.h"
#include "cli/commands.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

TestSuite(commands, .fini = fail_on_leaks);

static bool is_of(const opt_row *row, opt_mark mark) {
    return row->type == OPT_MARK && row->min == (double)mark;
}

static bool has_name(const opt_row *row) {
    return row->type != OPT_MARK || is_of(row, OPT_MARK_OTHER_NAME) ||
           is_of(row, OPT_MARK_OLD_NAME);
}

static void check_name(const opt_command *command, size_t at) {
    const opt_row *row = &command->options[at];
    cr_assert(strncmp(row->name, "--", 2) == 0 && row->name[2], "%s: %s", command->command,
              row->name);
    cr_assert_eq(strspn(row->name, "abcdefghijklmnopqrstuvwxyz0123456789-"), strlen(row->name),
                 "%s: %s", command->command, row->name);
    for (size_t i = 0; i < at; i++) {
        const opt_row *other = &command->options[i];
        cr_assert(!has_name(other) || strcmp(other->name, row->name) != 0, "%s: two rows %s",
                  command->command, row->name);
    }
}

static void check_option(const opt_command *command, const opt_row *row) {
    buf variable = {0};
    cr_assert_not_null(row->out, "%s: %s", command->command, row->name);
    cr_assert_gt(strlen(row->help), 5, "%s: %s has no help", command->command, row->name);
    cr_assert_eq(row->type == OPT_FLAG, row->meta == NULL, "%s: %s", command->command, row->name);
    /* FATHOM_CONFIG names the file of options in every command. */
    cr_assert(!opt_variable(&variable, command, row) || strcmp(variable.data, "FATHOM_CONFIG") != 0,
              "%s: %s", command->command, row->name);
    buf_deinit(&variable);
}

static void check_mark(const opt_command *command, const opt_row *row) {
    if (is_of(row, OPT_MARK_GROUP)) return;
    for (size_t i = 0; i < command->n_options; i++) {
        const opt_row *target = &command->options[i];
        if (target->type != OPT_MARK && strcmp(target->name, row->meta) == 0) return;
    }
    cr_assert_fail("%s: a row is about %s, which is no option", command->command, row->meta);
}

static void check_table(void *ud, const opt_command *command) {
    const cli_command **next = ud;
    cr_assert_str_eq(command->command, (*next)->name, "the command has another name in its table");
    ++*next;
    cr_assert_leq(command->n_options, OPT_MAX_ROWS);
    cr_assert_gt(strlen(command->summary), 10, "%s", command->command);
    cr_assert(strncmp(command->example, "fathom ", 7) == 0, "%s", command->example);
    size_t n_options = 0, n_shown = 0;
    for (size_t i = 0; i < command->n_options; i++) {
        const opt_row *row = &command->options[i];
        if (has_name(row)) check_name(command, i);
        if (row->type == OPT_MARK) check_mark(command, row);
        else check_option(command, row);
        n_options += row->type != OPT_MARK;
    }
    const char *group;
    while (opt_next(command, n_shown, &group))
        n_shown++;
    cr_assert_eq(n_shown, n_options, "%s: --help leaves out a row", command->command);
}

Test(commands, each_table_is_shown_without_running_the_command_and_is_sound) {
    const cli_command *next = commands;
    commands_show(check_table, &next);
    cr_assert_null(next->name, "%s was run instead of shown", next->name);
}

Test(commands, names_and_options_of_all_commands_are_known) {
    cr_assert(commands_know("serve", NULL));
    cr_assert(commands_know("bench engine", NULL));
    cr_assert_not(commands_know("serv", NULL));
    cr_assert(commands_know(NULL, "--max-rows"));
    cr_assert(commands_know(NULL, "--act-threshold"));
    cr_assert_not(commands_know(NULL, "--max-row"));
}

/* input.c - entries of a person, from an editor, a terminal or a pipe. */
#include "base/terminal.h"
#include "cli/chat/input_internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_PROMPT ">>> "
#define NEXT_PROMPT "... "
#define BLOCK "\"\"\""

struct chat_input {
    bool terminal;
    chat_editor *editor; /* NULL: plain lines */
    chat_past *past;     /* NULL: lines are not kept */
    buf line, kept;      /* `kept`: the line kept last */
};

/* ---- Ctrl+C ---- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signum) {
    (void)signum;
    interrupted = 1;
}

void chat_watch_interrupts(void) {
    /* Without SA_RESTART: a wait for the terminal ends. */
    struct sigaction action = {.sa_handler = on_interrupt};
    sigemptyset(&action.sa_mask);
    (void)sigaction(SIGINT, &action, NULL);
}

bool chat_interrupted(void) {
    return interrupted != 0;
}

void chat_forget_interrupt(void) {
    interrupted = 0;
}

/* ---- opening ---- */

int chat_input_open(chat_input **out, const chat_input_opts *opts, err *e) {
    *out = calloc(1, sizeof **out);
    if (*out == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the input");
    (*out)->terminal = opts->terminal;
    if (!opts->terminal) return 0;
    if (terminal_is(STDIN_FILENO) && terminal_is(STDOUT_FILENO))
        (*out)->editor = chat_editor_open(opts->commands);
    if ((*out)->editor == NULL || opts->no_history) return 0;
    chat_past *past = chat_past_open();
    for (size_t i = 0; past && i < chat_past_lines(past); i++)
        chat_editor_remember((*out)->editor, chat_past_line(past, i));
    (*out)->past = past;
    return 0;
}

void chat_input_close(chat_input *input) {
    if (input == NULL) return;
    chat_editor_close(input->editor);
    chat_past_close(input->past);
    buf_deinit(&input->line);
    buf_deinit(&input->kept);
    free(input);
}

/* ---- a line ---- */

/* A byte of the terminal; EOF: its end, or Ctrl+C. A signal is let in only while this waits, so a
 * Ctrl+C between the prompt and the wait is not missed. */
static int typed_byte(void) {
    sigset_t others, all;
    sigemptyset(&all);
    sigaddset(&all, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &all, &others);
    struct pollfd wanted = {.fd = STDIN_FILENO, .events = POLLIN};
    int ready = -1;
    while (ready < 0 && !chat_interrupted()) {
        ready = ppoll(&wanted, 1, NULL, &others);
        if (ready < 0 && errno != EINTR) break; /* EINTR: stopped, and continued */
    }
    unsigned char byte;
    ssize_t n = ready > 0 ? read(STDIN_FILENO, &byte, 1) : -1;
    (void)pthread_sigmask(SIG_SETMASK, &others, NULL);
    return n == 1 ? byte : EOF;
}

/* Reads a line of stdin into input->line, without its newline. Bytes beyond the limit are dropped.
 */
static chat_entry plain_line(chat_input *input) {
    bool any = false, dropped = false;
    for (int byte; (byte = input->terminal ? typed_byte() : getc(stdin)) != EOF;) {
        char one = (char)byte;
        any = true;
        if (one == '\n') return dropped ? CHAT_TOO_LONG : CHAT_ENTRY;
        if (input->line.len < CHAT_ENTRY_BYTES) buf_append(&input->line, &one, 1);
        else dropped = true;
    }
    if (input->terminal && chat_interrupted()) return CHAT_INTERRUPT;
    return dropped ? CHAT_TOO_LONG : any ? CHAT_ENTRY : CHAT_END;
}

static void keep_line(chat_input *input) {
    const char *line = input->line.data;
    if (line == NULL || line[strspn(line, " \t")] == 0) return;
    if (input->kept.data && strcmp(input->kept.data, line) == 0) return;
    buf_clear(&input->kept);
    buf_puts(&input->kept, line);
    chat_editor_remember(input->editor, line);
    if (input->past) chat_past_add(input->past, line);
}

static chat_entry read_line(chat_input *input, const char *prompt) {
    buf_clear(&input->line);
    if (input->editor == NULL) {
        if (input->terminal) {
            fputs(prompt, stderr);
            fflush(stderr);
        }
        return plain_line(input);
    }
    int rc = chat_editor_line(input->editor, prompt, &input->line);
    if (rc <= 0) return chat_interrupted() ? CHAT_INTERRUPT : rc == 0 ? CHAT_END : CHAT_TOO_LONG;
    if (input->line.len > CHAT_ENTRY_BYTES) return CHAT_TOO_LONG;
    keep_line(input);
    return CHAT_ENTRY;
}

/* ---- an entry ---- */

static bool is_block_mark(const buf *line) {
    return line->data && strcmp(line->data, BLOCK) == 0;
}

static bool add(buf *out, const buf *line, size_t n) {
    if (out->len + n > CHAT_ENTRY_BYTES) return false;
    buf_append(out, line->data ? line->data : "", n);
    return !out->failed;
}

/* The lines up to the next mark, joined by newlines. */
static chat_entry read_block(chat_input *input, buf *out) {
    for (bool first = true, fits = true;; first = false) {
        chat_entry got = read_line(input, NEXT_PROMPT);
        if (got == CHAT_TOO_LONG) fits = false;
        else if (got == CHAT_END) return out->len && fits ? CHAT_ENTRY : CHAT_END;
        else if (got != CHAT_ENTRY) return got;
        if (is_block_mark(&input->line)) return fits ? CHAT_ENTRY : CHAT_TOO_LONG;
        if (!first && fits) buf_puts(out, "\n");
        if (fits) fits = add(out, &input->line, input->line.len);
    }
}

chat_entry chat_input_read(chat_input *input, buf *out) {
    buf_clear(out);
    for (bool fits = true, first = true;; first = false) {
        chat_entry got = read_line(input, first ? FIRST_PROMPT : NEXT_PROMPT);
        if (got == CHAT_END && out->len) return CHAT_ENTRY; /* the last line ended in a backslash */
        if (got != CHAT_ENTRY) return got;
        if (first && is_block_mark(&input->line)) return read_block(input, out);
        size_t n = input->line.len;
        bool goes_on = n > 0 && input->line.data[n - 1] == '\\';
        if (fits) fits = add(out, &input->line, goes_on ? n - 1 : n);
        if (!goes_on) return fits ? CHAT_ENTRY : CHAT_TOO_LONG;
        if (fits) buf_puts(out, "\n");
    }
}

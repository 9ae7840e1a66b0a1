/* input_internal.h - the entries of a person: lines with editing and history on a terminal, plain
 * lines elsewhere. */
#ifndef FATHOM_CLI_CHAT_INPUT_INTERNAL_H
#define FATHOM_CLI_CHAT_INPUT_INTERNAL_H

#include "base/buf.h"
#include "base/err.h"

enum { CHAT_ENTRY_BYTES = 4 << 20 }; /* of one entry */

/* The line editor of libedit (editline.3), if it is installed. */
typedef struct chat_editor chat_editor;
/* commands: the words that the Tab key completes, up to NULL; borrowed. NULL: there is none. */
chat_editor *chat_editor_open(const char *const *commands);
void chat_editor_close(chat_editor *editor);
/* Reads a line: 1 with the line, without its newline, in *out; 0 at the end of the input or after
 * Ctrl+C; -1 when memory ran out. */
int chat_editor_line(chat_editor *editor, const char *prompt, buf *out);
void chat_editor_remember(chat_editor *editor, const char *line);

/* Lines of earlier sessions, kept in $XDG_STATE_HOME/fathom/chat_history. If the file cannot be
 * read or written, lines are forgotten, and nothing else happens. */
typedef struct chat_past chat_past;
chat_past *chat_past_open(void); /* NULL: out of memory, or no folder for it */
void chat_past_close(chat_past *past);
size_t chat_past_lines(const chat_past *past);
const char *chat_past_line(const chat_past *past, size_t i); /* oldest first */
void chat_past_add(chat_past *past, const char *line);       /* appends it to the file */

typedef struct chat_input chat_input;
typedef struct {
    bool terminal;               /* a person types; otherwise stdin is read as a filter */
    bool no_history;             /* lines of other sessions are neither read nor kept */
    const char *const *commands; /* as of the editor */
} chat_input_opts;
int chat_input_open(chat_input **out, const chat_input_opts *opts, err *e) WARN_UNUSED;
void chat_input_close(chat_input *input);
typedef enum {
    CHAT_ENTRY,     /* *out is what was written */
    CHAT_END,       /* no more comes */
    CHAT_INTERRUPT, /* Ctrl+C: the lines of the entry so far are dropped */
    CHAT_TOO_LONG,  /* more than CHAT_ENTRY_BYTES: dropped to its end */
} chat_entry;
/* Reads an entry: a line; several lines, each but the last ending in a backslash; or the lines
 * between two lines of three quotation marks. */
chat_entry chat_input_read(chat_input *input, buf *out);
/* Set by Ctrl+C (chat_watch_interrupts), cleared by its reader. */
bool chat_interrupted(void);
void chat_forget_interrupt(void);
void chat_watch_interrupts(void);

#endif

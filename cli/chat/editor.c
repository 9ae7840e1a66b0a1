/* editor.c - the line editor of libedit. The library is loaded when a person types, so the program
 * runs without it. */
#include "cli/chat/input_internal.h"

#include <dlfcn.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

/* The part of libedit's readline interface in use. */
struct chat_editor {
    char *(*readline)(const char *prompt);
    int (*add_history)(const char *line);
    int (*stifle_history)(int most);
    void (*resize)(void); /* NULL: an old library */
};

enum { MOST_LINES = 1000 };

static bool find(void *library, const char *name, void *function, size_t bytes) {
    void *found = dlsym(library, name);
    /* ISO C has no cast from object to function pointer. */
    if (found) memcpy(function, &found, bytes);
    return found != NULL;
}

/* ---- the Tab key: commands ---- */

/* libedit calls back without an argument of ours. */
static const char *const *words;
static char **(*matches)(const char *text, char *(*next)(const char *text, int again));

/* The next command that begins with the text; again: 0 at the first call for a text. */
static char *next_word(const char *text, int again) {
    static size_t at;
    if (again == 0) at = 0;
    while (words[at]) {
        const char *word = words[at++];
        if (strncmp(word, text, strlen(text)) == 0) return strdup(word);
    }
    return NULL;
}

/* NULL: libedit looks for files. */
static char **complete(const char *text, int start, int end) {
    (void)end;
    return start == 0 && text[0] == '/' ? matches(text, next_word) : NULL;
}

static void complete_words(void *library, const char *const *list) {
    char **(**hook)(const char *, int, int) = dlsym(library, "rl_attempted_completion_function");
    words = list;
    if (hook && find(library, "rl_completion_matches", &matches, sizeof matches)) *hook = complete;
}

/* ---- lines ---- */

chat_editor *chat_editor_open(const char *const *commands) {
    void *library = dlopen("libedit.so.2", RTLD_NOW | RTLD_LOCAL);
    chat_editor *editor = library ? calloc(1, sizeof *editor) : NULL;
    if (editor == NULL) return NULL;
    int (*init)(void);
    void (*using_history)(void);
    if (!find(library, "readline", &editor->readline, sizeof editor->readline) ||
        !find(library, "add_history", &editor->add_history, sizeof editor->add_history) ||
        !find(library, "stifle_history", &editor->stifle_history, sizeof editor->stifle_history) ||
        !find(library, "rl_initialize", &init, sizeof init) ||
        !find(library, "using_history", &using_history, sizeof using_history)) {
        free(editor);
        return NULL;
    }
    (void)setlocale(LC_CTYPE, ""); /* the editor counts the columns of characters */
    /* Signals stay with the program: libedit would send Ctrl+C to the whole process group again. */
    int *catches = dlsym(library, "rl_catch_signals");
    if (catches) *catches = 0;
    (void)init();
    (void)find(library, "rl_resize_terminal", &editor->resize, sizeof editor->resize);
    complete_words(library, commands);
    using_history();
    (void)editor->stifle_history(MOST_LINES);
    return editor;
}

/* The library stays loaded: it has handlers of its own for the end of the process. */
void chat_editor_close(chat_editor *editor) {
    free(editor);
}

int chat_editor_line(chat_editor *editor, const char *prompt, buf *out) {
    if (editor->resize) editor->resize(); /* the window may have another size since the last line */
    char *line = editor->readline(prompt);
    if (line == NULL) return 0;
    buf_puts(out, line);
    free(line);
    return out->failed ? -1 : 1;
}

void chat_editor_remember(chat_editor *editor, const char *line) {
    (void)editor->add_history(line);
}

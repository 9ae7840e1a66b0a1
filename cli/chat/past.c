/* past.c - the lines of earlier sessions. */
#include "base/file.h"
#include "cli/chat/input_internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MOST_BYTES = 1 << 20, /* of the file */
    MOST_LINES = 1000,    /* kept when the file is trimmed */
    TRIM_AT = 2000,
    LINE_BYTES = 4096, /* a longer line is not kept */
};

struct chat_past {
    buf path, text; /* lines of text end in 0 */
    const char **lines;
    size_t n_lines;
};

/* Makes all folders of a path, for this user alone. */
static void make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        (void)mkdir(path, 0700);
        *slash = '/';
    }
}

static bool find_path(buf *out) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    if (state && state[0] == '/') buf_printf(out, "%s/fathom/chat_history", state);
    else if (home && home[0] == '/') buf_printf(out, "%s/.local/state/fathom/chat_history", home);
    else return false;
    return !out->failed;
}

static void split(chat_past *past) {
    size_t n = 0;
    for (size_t i = 0; i < past->text.len; i++)
        n += past->text.data[i] == '\n';
    past->lines = n ? calloc(n, sizeof *past->lines) : NULL;
    if (past->lines == NULL) return;
    for (char *at = past->text.data, *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
        *end = 0;
        past->lines[past->n_lines++] = at;
    }
}

static int open_file(const chat_past *past, const char *ending, int flags) {
    buf path = {0};
    buf_printf(&path, "%s%s", past->path.data, ending);
    int fd = path.failed ? -1 : open(path.data, flags | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    buf_deinit(&path);
    return fd;
}

/* Writes the last lines into a new file under the old name. */
static void trim(const chat_past *past) {
    buf out = {0}, temp = {0};
    for (size_t i = past->n_lines - MOST_LINES; i < past->n_lines; i++)
        /* n_lines > MOST_LINES. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
        buf_printf(&out, "%s\n", past->lines[i]);
    buf_printf(&temp, "%s.new", past->path.data);
    int fd = out.failed || temp.failed ? -1 : open_file(past, ".new", O_WRONLY | O_TRUNC);
    if (fd >= 0) {
        bool whole = write(fd, out.data, out.len) == (ssize_t)out.len;
        close(fd);
        if (!whole || rename(temp.data, past->path.data) != 0) (void)unlink(temp.data);
    }
    buf_deinit(&out);
    buf_deinit(&temp);
}

chat_past *chat_past_open(void) {
    chat_past *past = calloc(1, sizeof *past);
    if (past == NULL || !find_path(&past->path)) {
        chat_past_close(past);
        return NULL;
    }
    make_folders(past->path.data);
    if (file_read(&past->text, past->path.data, MOST_BYTES, NULL) != 0) {
        if (past->text.len > MOST_BYTES) (void)unlink(past->path.data); /* begin anew */
        buf_clear(&past->text);
    }
    split(past);
    if (past->n_lines > TRIM_AT) trim(past);
    return past;
}

void chat_past_close(chat_past *past) {
    if (past == NULL) return;
    buf_deinit(&past->path);
    buf_deinit(&past->text);
    free(past->lines);
    free(past);
}

size_t chat_past_lines(const chat_past *past) {
    return past->n_lines;
}

const char *chat_past_line(const chat_past *past, size_t i) {
    return past->lines[i];
}

void chat_past_add(chat_past *past, const char *line) {
    buf out = {0};
    if (strlen(line) > LINE_BYTES) return;
    buf_printf(&out, "%s\n", line);
    int fd = out.failed ? -1 : open_file(past, "", O_WRONLY | O_APPEND);
    if (fd >= 0) {
        (void)!write(fd, out.data, out.len);
        close(fd);
    }
    buf_deinit(&out);
}

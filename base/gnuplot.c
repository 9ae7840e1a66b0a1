/* gnuplot.c - starts gnuplot, and the style of its pictures. */
#include "base/gnuplot.h"

#include "base/file.h"
#include "base/size.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);
    return n > n_end && strcmp(text + n - n_end, end) == 0;
}

/* ---- starting it ---- */

/* gnuplot reads the script from a file in memory. A pipe would end this process with SIGPIPE when
 * gnuplot ends before the end of the script. */
static int script_fd(const buf *script, err *e) {
    int fd = memfd_create("gnuplot", MFD_CLOEXEC);
    if (fd < 0) return err_set(e, ERR_IO, NULL, "no file for gnuplot: %s", strerror(errno));
    for (size_t at = 0; at < script->len;) {
        ssize_t n = write(fd, script->data + at, script->len - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            (void)err_set(e, ERR_IO, NULL, "no file for gnuplot: %s", strerror(errno));
            close(fd);
            return -1;
        }
        at += (size_t)n;
    }
    if (lseek(fd, 0, SEEK_SET) == 0) return fd;
    (void)err_set(e, ERR_IO, NULL, "no file for gnuplot: %s", strerror(errno));
    close(fd);
    return -1;
}

/* Its wait status; -1 with an error recorded if it cannot be started. */
static int run(const char *option, const buf *script, err *e) {
    int fd = script_fd(script, e);
    if (fd < 0) return -1;
    /* -d: settings in the user's home must not change the pictures. */
    char name[] = "gnuplot", defaults[] = "-d";
    char *argv[] = {name, defaults, NULL};
    pid_t pid;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fd, STDIN_FILENO);
    int rc = posix_spawnp(&pid, name, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fd);
    if (rc == ENOENT) {
        return err_set(e, ERR_USAGE, option,
                       "%s needs gnuplot, which is not installed (Debian: apt install gnuplot-nox)",
                       option);
    }
    if (rc != 0) return err_set(e, ERR_USAGE, option, "cannot start gnuplot: %s", strerror(rc));
    int status = 0;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR) return err_set(e, ERR_IO, NULL, "gnuplot: %s", strerror(errno));
    }
    return status;
}

static bool ended_well(int status) {
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* ---- before the work ---- */

static int check_folder(const char *option, const char *file, err *e) {
    buf folder = {0};
    file_parent(&folder, file);
    struct stat st;
    int rc = 0;
    if (folder.failed) {
        rc = err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a file name");
    } else if (access(folder.data, W_OK | X_OK) != 0) {
        rc = err_set(e, ERR_USAGE, option, "%s %s: the folder %s: %s", option, file, folder.data,
                     strerror(errno));
    } else if (stat(file, &st) == 0 && !S_ISREG(st.st_mode)) {
        rc = err_set(e, ERR_USAGE, option, "%s %s: this is not a regular file", option, file);
    } else if (access(file, F_OK) == 0 && access(file, W_OK) != 0) {
        rc = err_set(e, ERR_USAGE, option, "%s %s: %s", option, file, strerror(errno));
    }
    buf_deinit(&folder);
    return rc;
}

int gnuplot_check(const char *option, const char *file, err *e) {
    if (!ends_in(file, ".svg") && !ends_in(file, ".png"))
        return err_set(e, ERR_USAGE, option, "%s takes a file that ends in .svg or .png, not '%s'",
                       option, file);
    for (const char *at = file; *at; at++) {
        if ((unsigned char)*at < ' ')
            return err_set(e, ERR_USAGE, option, "%s: the name of the file has a control character",
                           option);
    }
    if (check_folder(option, file, e) != 0) return -1;
    buf script = {0};
    buf_printf(&script, "set terminal %s\n", ends_in(file, ".svg") ? "svg" : "pngcairo");
    int status = script.failed ? err_set(e, ERR_NO_MEMORY, NULL, "out of memory for a script")
                               : run(option, &script, e);
    buf_deinit(&script);
    if (status < 0) return -1;
    if (ended_well(status)) return 0;
    return err_set(e, ERR_USAGE, option, "%s %s: this gnuplot does not draw %s files", option, file,
                   strrchr(file, '.'));
}

/* ---- the script ---- */

void gnuplot_string(buf *script, const char *text) {
    /* Double quotes would run what stands between backquotes. */
    buf_puts(script, "'");
    for (const char *at = text; *at; at++) {
        if (*at == '\'') buf_puts(script, "''");
        else if (*at == '\n') buf_puts(script, "'.\"\\n\".'");
        else if ((unsigned char)*at < ' ') buf_puts(script, " ");
        else buf_append(script, at, 1);
    }
    buf_puts(script, "'");
}

void gnuplot_set(buf *script, const char *what, const char *text) {
    buf_printf(script, "set %s ", what);
    gnuplot_string(script, text);
    buf_puts(script, "\n");
}

void gnuplot_begin(buf *script, const char *file, gnuplot_size size) {
    bool svg = ends_in(file, ".svg");
    buf_printf(script,
               "set terminal %s size %u,%u font 'sans,%d' background '#ffffff' noenhanced\n",
               svg ? "svg" : "pngcairo", size.width, size.height, svg ? 13 : 10);
    gnuplot_set(script, "output", file);
    buf_puts(script, "set border 3 lc rgb '#555555'\nset grid back lc rgb '#dddddd' lt 1 lw 0.7\n"
                     "set tics nomirror textcolor rgb '" GNUPLOT_INK "'\nset key off\n"
                     "set style fill solid 0.9 noborder\nset boxwidth 0.8\n");
}

void gnuplot_panels(buf *script, uint32_t rows, uint32_t columns, const char *title) {
    buf_puts(script, "set multiplot ");
    if (rows) buf_printf(script, "layout %u,%u ", rows, columns);
    buf_puts(script, "title ");
    gnuplot_string(script, title);
    buf_puts(script, " font ',14'\n");
}

const char *gnuplot_shade(uint32_t i, uint32_t last) {
    /* Viridis without its lightest part, which is hard to see on white. */
    static const char *const scale[] = {"#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c",
                                        "#28ae80", "#5ec962", "#97d83f", "#c2df23"};
    uint64_t steps = ARRAY_LEN(scale) - 1;
    return scale[last ? ((i < last ? i : last) * steps + last / 2) / last : 0];
}

/* ---- the picture ---- */

int gnuplot_draw(const char *option, const char *file, buf *script, err *e) {
    buf_puts(script, "unset multiplot\n"); /* allowed without panels */
    if (script->failed) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the picture");
    int status = run(option, script, e);
    if (status < 0) return -1;
    if (ended_well(status)) return 0;
    return err_set(e, ERR_IO, option, "gnuplot could not draw %s", file);
}

/* plot.c - four panels drawn by gnuplot: how TTFT and ITL are distributed, tokens per
 * second over time, and at which depth tokens left. */
#include "loadgen/loadgen_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Cumulative share in percent over milliseconds, at most 400 points. */
static void put_distribution(FILE *f, const char *name, const bench_series *s) {
    fprintf(f, "$%s << EOD\n", name);
    size_t n = s->n < 400 ? s->n : 400;
    for (size_t i = 0; i < n; i++) {
        double percent = n > 1 ? 100.0 * (double)i / (double)(n - 1) : 100;
        double ms = 1e3 * bench_percentile(s->v, s->n, percent);
        fprintf(f, "%.6g %.6g\n", ms > 1e-2 ? ms : 1e-2, percent);
    }
    if (n == 0) fputs("1 0\n", f);
    fputs("EOD\n", f);
}

static void put_rate(FILE *f, const bench_run *run) {
    uint64_t last = (run->end_ns - run->start_ns) / 1000000000u;
    fputs("$rate << EOD\n", f);
    for (uint64_t s = 0; s <= last && s < BENCH_MAX_SECONDS; s++) {
        fprintf(f, "%llu %u\n", (unsigned long long)s, run->tokens_by_second[s]);
    }
    fputs("EOD\n", f);
}

static void put_depths(FILE *f, const bench_run *run) {
    uint64_t sum = 0;
    size_t last = 1;
    for (size_t d = 0; d < BENCH_MAX_DEPTH; d++) {
        sum += run->depth_histogram[d];
        if (run->depth_histogram[d]) last = d;
    }
    fputs("$depth << EOD\n", f);
    for (size_t d = 1; d <= last; d++) {
        fprintf(f, "%zu %.6g\n", d,
                sum ? 100.0 * (double)run->depth_histogram[d] / (double)sum : 0);
    }
    fputs("EOD\n", f);
}

static void put_panel(FILE *f, const char *title, const char *x, const char *y) {
    fprintf(f, "set title '%s'\nset xlabel '%s'\nset ylabel '%s'\n", title, x, y);
}

static void put_script(FILE *f, const char *path, bool svg, const bench_stats *s,
                       const bench_run *run) {
    put_distribution(f, "ttft", &s->series[BENCH_TTFT]);
    put_distribution(f, "itl", &s->series[BENCH_ITL]);
    put_rate(f, run);
    put_depths(f, run);
    fprintf(f, "set terminal %s size 1100,760 %s\n", svg ? "svg" : "pngcairo",
            svg ? "font 'sans,13' background '#ffffff'" : "font 'sans,11' background '#ffffff'");
    /* gnuplot's string escapes inside "…": the path was checked for quotes and backslashes. */
    fprintf(f, "set output \"%s\"\n", path);
    fputs("set multiplot layout 2,2\nset grid lc rgb '#dddddd'\nset key off\nset border 3 lc rgb "
          "'#555555'\n"
          "set tics nomirror\nset style fill solid 0.85\nset boxwidth 0.8\nc='#0f5a86'\n",
          f);
    put_panel(f, "Time to first token", "ms", "requests, %");
    fputs("set logscale x\nset yrange [0:100]\nplot $ttft with lines lw 2 lc rgb c\n", f);
    put_panel(f, "Inter-token latency", "ms", "gaps, %");
    fputs("plot $itl with lines lw 2 lc rgb c\nunset logscale x\n", f);
    put_panel(f, "Output tokens", "s", "tokens per second");
    fputs("set yrange [0:*]\nplot $rate with steps lw 2 lc rgb c\n", f);
    put_panel(f, "Depth of tokens", "loops", "tokens, %");
    bool told = false;
    for (size_t d = 0; d < BENCH_MAX_DEPTH; d++)
        told = told || run->depth_histogram[d] > 0;
    if (!told) {
        fputs("set label 1 'the server reported no depth' at graph 0.5,0.5 center\n", f);
    }
    fputs(told ? "set xrange [0.4:*]\nset yrange [0:*]\n"
               : "set xrange [0.4:*]\nset yrange [0:1]\n",
          f);
    fputs("plot $depth with boxes lc rgb c\n", f);
    fputs("unset multiplot\n", f);
}

/* gnuplot reads the script from a pipe; it is started by name without a shell. */
static int run_gnuplot(const char *path, bool svg, const bench_stats *s, const bench_run *run,
                       err *e) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0)
        return err_set(e, ERR_IO, NULL, "cannot create a pipe for gnuplot: %s", strerror(errno));
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[0], STDIN_FILENO);
    char name[] = "gnuplot";
    char *argv[] = {name, NULL};
    pid_t pid;
    int rc = posix_spawnp(&pid, name, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[0]);
    if (rc != 0) {
        close(fds[1]);
        return err_set(e, ERR_IO, NULL, "--plot needs gnuplot (Debian: gnuplot-nox): %s",
                       strerror(rc));
    }
    FILE *f = fdopen(fds[1], "w");
    if (f == NULL) close(fds[1]);
    else {
        put_script(f, path, svg, s, run);
        (void)fclose(f);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (f == NULL || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        return err_set(e, ERR_IO, NULL, "gnuplot could not draw %s", path);
    }
    return 0;
}

int bench_plot(const char *path, const bench_stats *s, const bench_run *run, err *e) {
    size_t n = strlen(path);
    bool svg = n > 4 && strcmp(path + n - 4, ".svg") == 0;
    bool png = n > 4 && strcmp(path + n - 4, ".png") == 0;
    if (!svg && !png)
        return err_set(e, ERR_USAGE, NULL,
                       "--plot takes a file that ends in .svg or .png, not '%s'", path);
    for (const char *p = path; *p; p++) {
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ') {
            return err_set(e, ERR_USAGE, NULL,
                           "--plot: the name of the file must not hold quotes, backslashes or "
                           "control characters");
        }
    }
    return run_gnuplot(path, svg, s, run, e);
}

/* plot.c - four panels drawn by gnuplot: distribution of TTFT and of ITL, tokens per second over
 * time, and depth of tokens. */
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

/* Cumulative distribution: percent over milliseconds, at most 400 points. */
static void put_distribution(FILE *file, const char *name, const bench_series *series) {
    fprintf(file, "$%s << EOD\n", name);
    size_t n = series->count < 400 ? series->count : 400;
    for (size_t i = 0; i < n; i++) {
        double percent = n > 1 ? 100.0 * (double)i / (double)(n - 1) : 100;
        double ms = 1e3 * bench_percentile(series->values, series->count, percent);
        fprintf(file, "%.6g %.6g\n", ms > 1e-2 ? ms : 1e-2, percent);
    }
    if (n == 0) fputs("1 0\n", file);
    fputs("EOD\n", file);
}

static void put_rate(FILE *file, const bench_run *run) {
    uint64_t last = (run->end_ns - run->start_ns) / 1000000000u;
    fputs("$rate << EOD\n", file);
    for (uint64_t second = 0; second <= last && second < BENCH_MAX_SECONDS; second++) {
        fprintf(file, "%llu %u\n", (unsigned long long)second, run->tokens_by_second[second]);
    }
    fputs("EOD\n", file);
}

static void put_depths(FILE *file, const bench_run *run) {
    uint64_t sum = 0;
    size_t last = 1;
    for (size_t depth = 0; depth < BENCH_MAX_DEPTH; depth++) {
        sum += run->depth_histogram[depth];
        if (run->depth_histogram[depth]) last = depth;
    }
    fputs("$depth << EOD\n", file);
    for (size_t depth = 1; depth <= last; depth++) {
        fprintf(file, "%zu %.6g\n", depth,
                sum ? 100.0 * (double)run->depth_histogram[depth] / (double)sum : 0);
    }
    fputs("EOD\n", file);
}

static void put_panel(FILE *file, const char *title, const char *xlabel, const char *ylabel) {
    fprintf(file, "set title '%s'\nset xlabel '%s'\nset ylabel '%s'\n", title, xlabel, ylabel);
}

static void put_script(FILE *file, const char *path, bool svg, const bench_stats *stats,
                       const bench_run *run) {
    put_distribution(file, "ttft", &stats->series[BENCH_TTFT]);
    put_distribution(file, "itl", &stats->series[BENCH_ITL]);
    put_rate(file, run);
    put_depths(file, run);
    fprintf(file, "set terminal %s size 1100,760 %s\n", svg ? "svg" : "pngcairo",
            svg ? "font 'sans,13' background '#ffffff'" : "font 'sans,11' background '#ffffff'");
    /* Strings in "…" have escapes in gnuplot; bench_plot has refused quotes and backslashes. */
    fprintf(file, "set output \"%s\"\n", path);
    fputs("set multiplot layout 2,2\nset grid lc rgb '#dddddd'\nset key off\nset border 3 lc rgb "
          "'#555555'\n"
          "set tics nomirror\nset style fill solid 0.85\nset boxwidth 0.8\nc='#0f5a86'\n",
          file);
    put_panel(file, "Time to first token", "ms", "requests, %");
    fputs("set logscale x\nset yrange [0:100]\nplot $ttft with lines lw 2 lc rgb c\n", file);
    put_panel(file, "Inter-token latency", "ms", "gaps, %");
    fputs("plot $itl with lines lw 2 lc rgb c\nunset logscale x\n", file);
    put_panel(file, "Output tokens", "s", "tokens per second");
    fputs("set yrange [0:*]\nplot $rate with steps lw 2 lc rgb c\n", file);
    put_panel(file, "Depth of tokens", "loops", "tokens, %");
    bool told = false;
    for (size_t depth = 0; depth < BENCH_MAX_DEPTH; depth++)
        told = told || run->depth_histogram[depth] > 0;
    if (!told) {
        fputs("set label 1 'the server reported no depth' at graph 0.5,0.5 center\n", file);
    }
    fputs(told ? "set xrange [0.4:*]\nset yrange [0:*]\n"
               : "set xrange [0.4:*]\nset yrange [0:1]\n",
          file);
    fputs("plot $depth with boxes lc rgb c\n", file);
    fputs("unset multiplot\n", file);
}

/* gnuplot is started without a shell and reads the script from a pipe. */
static int run_gnuplot(const char *path, bool svg, const bench_stats *stats, const bench_run *run,
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
    FILE *script = fdopen(fds[1], "w");
    if (script == NULL) close(fds[1]);
    else {
        put_script(script, path, svg, stats, run);
        (void)fclose(script);
    }
    int status = 0;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (script == NULL || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        return err_set(e, ERR_IO, NULL, "gnuplot could not draw %s", path);
    }
    return 0;
}

int bench_plot(const char *path, const bench_stats *stats, const bench_run *run, err *e) {
    size_t n = strlen(path);
    bool svg = n > 4 && strcmp(path + n - 4, ".svg") == 0;
    bool png = n > 4 && strcmp(path + n - 4, ".png") == 0;
    if (!svg && !png)
        return err_set(e, ERR_USAGE, NULL,
                       "--plot takes a file that ends in .svg or .png, not '%s'", path);
    for (const char *at = path; *at; at++) {
        if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ') {
            return err_set(e, ERR_USAGE, NULL,
                           "--plot: the name of the file must not hold quotes, backslashes or "
                           "control characters");
        }
    }
    return run_gnuplot(path, svg, stats, run, e);
}

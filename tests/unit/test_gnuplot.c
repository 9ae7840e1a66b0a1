/* test_gnuplot.c - names of pictures, and the one starter of gnuplot. */
#include "base/gnuplot.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(gnuplot, .fini = fail_on_leaks, .timeout = HANGS_S);

static bool installed(void) {
    return access("/usr/bin/gnuplot", X_OK) == 0;
}

static void refused(const char *file, const char *why) {
    err e = {0};
    cr_assert_neq(gnuplot_check("--plot", file, &e), 0, "%s", file);
    cr_assert_eq(e.code, ERR_USAGE, "%s", file);
    cr_assert_not_null(strstr(e.msg, why), "%s: %s", file, e.msg);
}

Test(gnuplot, a_file_that_cannot_be_drawn_is_refused_before_the_work) {
    refused("picture.pdf", "ends in .svg or .png");
    refused(".svg", "ends in .svg or .png");
    refused("no/such/folder/x.svg", "the folder no/such/folder: No such file");
    refused("a\nb.svg", "control character");
    char dir[] = "/tmp/fathom-gnuplot-XXXXXX", path[64];
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(path, sizeof path, "%s/x.svg", dir);
    cr_assert_eq(mkdir(path, 0700), 0);
    refused(path, "not a regular file");
    cr_assert_eq(rmdir(path), 0);
    cr_assert_eq(rmdir(dir), 0);
}

Test(gnuplot, without_gnuplot_the_message_says_what_to_install) {
    cr_assert_eq(setenv("PATH", "/nonexistent", 1), 0);
    refused("x.svg", "apt install gnuplot-nox");
}

/* Draws a picture with the text as its title, and returns the bytes of the file. */
static void draw(buf *out, const char *file, const char *title) {
    err e = {0};
    buf script = {0};
    cr_assert_eq(gnuplot_check("--plot", file, &e), 0, "%s", e.msg);
    gnuplot_begin(&script, file, (gnuplot_size){400, 300});
    gnuplot_set(&script, "title", title);
    buf_puts(&script, "plot '-' with lines\n1 1\n2 2\ne\n");
    cr_assert_eq(gnuplot_draw("--plot", file, &script, &e), 0, "%s", e.msg);
    buf_deinit(&script);
    FILE *from = fopen(file, "rb");
    cr_assert_not_null(from, "%s", file);
    char bytes[4096];
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, from)) > 0;)
        buf_append(out, bytes, n);
    (void)fclose(from);
    cr_assert_eq(remove(file), 0);
}

Test(gnuplot, a_name_and_a_title_of_any_bytes_run_no_command) {
    if (!installed()) cr_skip("needs gnuplot");
    char dir[] = "/tmp/fathom-gnuplot-XXXXXX", file[128], marker[64];
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(marker, sizeof marker, "%s/ran", dir);
    (void)snprintf(file, sizeof file, "%s/a'b\"c\\`touch ran`@x#.svg", dir);
    buf svg = {0};
    char title[128];
    (void)snprintf(title, sizeof title, "it's `touch %s` \\n \"_^{x}\" @y", marker);
    cr_assert_eq(chdir(dir), 0);
    draw(&svg, file, title);
    cr_assert_neq(access(marker, F_OK), 0, "gnuplot ran a command");
    cr_assert_not_null(strstr(svg.data, "_^{x}"), "the title is printed as it is");
    cr_assert_not_null(strstr(svg.data, "it's `touch"), "%s", title);
    buf_deinit(&svg);
    cr_assert_eq(rmdir(dir), 0, "only the picture was written");
}

Test(gnuplot, draws_both_formats_and_tells_of_a_script_that_fails) {
    if (!installed()) cr_skip("needs gnuplot");
    char dir[] = "/tmp/fathom-gnuplot-XXXXXX", png[64], svg[64];
    cr_assert_not_null(mkdtemp(dir));
    (void)snprintf(png, sizeof png, "%s/x.png", dir);
    (void)snprintf(svg, sizeof svg, "%s/x.svg", dir);
    buf bytes = {0}, script = {0};
    draw(&bytes, png, "x");
    cr_assert(bytes.len > 1000 && memcmp(bytes.data, "\x89PNG", 4) == 0);
    buf_deinit(&bytes);
    err e = {0};
    gnuplot_begin(&script, svg, (gnuplot_size){400, 300});
    buf_puts(&script, "plot nonsense(\n");
    /* More than a pipe holds, which a gnuplot that has ended never reads. */
    for (int i = 0; i < 20000; i++)
        buf_puts(&script, "# a line that nobody reads\n");
    cr_assert_neq(gnuplot_draw("--plot", svg, &script, &e), 0);
    cr_assert_not_null(strstr(e.msg, "could not draw"), "%s", e.msg);
    buf_deinit(&script);
    (void)remove(svg);
    cr_assert_eq(rmdir(dir), 0);
}

Test(gnuplot, shades_go_from_dark_to_light_and_never_leave_the_scale) {
    cr_assert_str_eq(gnuplot_shade(0, 7), "#440154");
    cr_assert_str_eq(gnuplot_shade(7, 7), "#c2df23");
    cr_assert_str_eq(gnuplot_shade(9, 7), "#c2df23");
    cr_assert_str_eq(gnuplot_shade(0, 0), "#440154");
    for (uint32_t i = 0; i < 7; i++)
        cr_assert_str_neq(gnuplot_shade(i, 7), gnuplot_shade(i + 1, 7));
}

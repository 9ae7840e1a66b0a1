/* progress: what is shown, when, on a terminal and elsewhere; by a clock of the test. */
#include "base/progress.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

TestSuite(progress, .fini = fail_on_leaks);

#define MS UINT64_C(1000000)

static _Atomic uint64_t clock_now;

static uint64_t now_ns(void) {
    return clock_now;
}

typedef struct {
    progress_place place;
    progress bar;
    char *text;
    size_t n;
} screen;

static void open_screen(screen *self, bool terminal, unsigned columns) {
    *self = (screen){0};
    self->place = (progress_place){.terminal = terminal, .columns = columns, .now_ns = now_ns};
    self->place.to = open_memstream(&self->text, &self->n);
    cr_assert(self->place.to);
    clock_now = 5000 * MS;
}

static void close_screen(screen *self) {
    fclose(self->place.to);
    free(self->text);
}

static const char *shown(screen *self) {
    fflush(self->place.to);
    return self->text ? self->text : "";
}

static size_t count(const char *text, const char *part) {
    size_t n = 0;
    for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part))
        n++;
    return n;
}

Test(progress, work_of_less_than_a_second_shows_nothing) {
    for (int terminal = 0; terminal < 2; terminal++) {
        screen scr;
        open_screen(&scr, terminal, 80);
        progress_start_at(&scr.bar, &scr.place, "packing weights", NULL, 1000);
        for (int i = 0; i < 99; i++) {
            clock_now += 10 * MS;
            progress_add(&scr.bar, 10);
        }
        progress_stop(&scr.bar);
        cr_assert_str_eq(shown(&scr), "");
        close_screen(&scr);
    }
}

Test(progress, a_terminal_has_one_line_redrawn_five_times_a_second_and_erased_at_the_end) {
    screen scr;
    open_screen(&scr, true, 100);
    progress_start_at(&scr.bar, &scr.place, "packing weights", NULL, 5200000000u);
    for (int i = 0; i < 500; i++) { /* 5 s */
        clock_now += 10 * MS;
        progress_add(&scr.bar, 5200000);
    }
    const char *text = shown(&scr);
    size_t n = count(text, "packing weights");
    cr_assert(n >= 20 && n <= 21, "%zu lines", n);
    cr_assert_eq(count(text, "\n"), 0);
    cr_assert_eq(count(text, "\r\x1b[K"), n);
    cr_assert(strstr(text, "[====="), "%s", text);
    cr_assert(strstr(text, " 50 % 2.6 of 5.2 GB  520 MB/s  5 s left"), "%s", text);
    cr_assert_eq(count(text, "\x1b[36m"), 0, "no colour was asked for");
    progress_stop(&scr.bar);
    text = shown(&scr);
    cr_assert_str_eq(text + strlen(text) - 4, "\r\x1b[K");
    close_screen(&scr);
}

Test(progress, a_line_is_never_wider_than_its_terminal) {
    for (unsigned columns = 1; columns < 140; columns++) {
        screen scr;
        open_screen(&scr, true, columns);
        progress_start_at(&scr.bar, &scr.place, "scoring", "tokens", 12345);
        for (int i = 0; i < 12; i++) {
            clock_now += 400 * MS;
            progress_add(&scr.bar, 1000);
        }
        for (const char *at = shown(&scr); *at;) {
            cr_assert(strncmp(at, "\r\x1b[K", 4) == 0);
            at += 4;
            size_t n = strcspn(at, "\r");
            cr_assert(n < columns || columns == 1, "%u columns: %.*s", columns, (int)n, at);
            at += n;
        }
        close_screen(&scr);
    }
}

Test(progress, a_file_gets_a_plain_line_every_ten_seconds) {
    screen scr;
    open_screen(&scr, false, 0);
    progress_start_at(&scr.bar, &scr.place, "comparing", "tokens", 1000);
    for (int i = 0; i < 250; i++) { /* 25 s */
        clock_now += 100 * MS;
        progress_add(&scr.bar, 4);
    }
    progress_stop(&scr.bar);
    cr_assert_str_eq(shown(&scr), "fathom: comparing: 40 % of 1000 tokens, 15 s left\n"
                                  "fathom: comparing: 80 % of 1000 tokens, 5 s left\n");
    close_screen(&scr);
}

Test(progress, colour_only_where_it_is_wanted) {
    screen scr;
    open_screen(&scr, true, 100);
    scr.place.colour = true;
    progress_start_at(&scr.bar, &scr.place, "scoring", "tokens", 10);
    clock_now += 2000 * MS;
    progress_add(&scr.bar, 5);
    cr_assert(strstr(shown(&scr), "[\x1b[36m====="));
    cr_assert(strstr(shown(&scr), "\x1b[0m]") || strstr(shown(&scr), "\x1b[0m>"));
    close_screen(&scr);
}

Test(progress, more_than_the_whole_is_told_as_the_whole) {
    screen scr;
    open_screen(&scr, false, 0);
    progress_start_at(&scr.bar, &scr.place, "writing weights", NULL, 2000000);
    clock_now += 11000 * MS;
    progress_add(&scr.bar, 3000000);
    progress_stop(&scr.bar);
    cr_assert_str_eq(shown(&scr), "fathom: writing weights: 100 % of 2 MB\n");
    close_screen(&scr);
}

static void *add_many(void *arg) {
    progress *bar = arg;
    for (int i = 0; i < 20000; i++) {
        clock_now += MS / 10;
        progress_add(bar, 1);
    }
    return NULL;
}

Test(progress, threads_add_and_one_of_them_draws) {
    enum { THREADS = 4 };
    screen scr;
    pthread_t threads[THREADS];
    open_screen(&scr, true, 100);
    progress_start_at(&scr.bar, &scr.place, "packing weights", NULL, 20000 * THREADS);
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, add_many, &scr.bar), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(scr.bar.done, 20000 * THREADS);
    progress_stop(&scr.bar);
    size_t n = count(shown(&scr), "packing weights");
    cr_assert(n >= 1 && n <= 5 * 8 + 1, "%zu lines in 8 s", n);
    close_screen(&scr);
}

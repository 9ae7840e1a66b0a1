/* costs.c - see costs.h. */
#include "tests/lib/costs.h"
#include "base/clock.h"

#include <criterion/criterion.h>
#include <criterion/logging.h>
#include <string.h>
#include <time.h>

enum { SMALL = 32 << 10, LARGE = 256 << 10, GROWTH = 3, RUNS = 3, AGAIN = 40, REST_MS = 100 };

#ifdef FATHOM_SAN
enum { SLOWER = 20 };
#else
enum { SLOWER = 1 };
#endif

void cost_repeat(buf *text, const char *unit, size_t n) {
    size_t len = strlen(unit);
    while (text->len < n && !text->failed)
        buf_append(text, unit, len);
}

void cost_fill(buf *text, size_t n, const char *head, const char *unit, const char *tail) {
    buf_puts(text, head);
    cost_repeat(text, unit, n);
    buf_puts(text, tail);
}

/* Microseconds of CPU time per KB of the input, the minimum of some runs. */
static double us_per_kb(const cost_row *row, size_t n) {
    buf text = {0};
    double least = 0;
    if (row->make) row->make(&text, n);
    else cost_repeat(&text, row->unit, n);
    cr_assert_not(text.failed);
    for (int i = 0; i < RUNS; i++) {
        uint64_t start = clock_thread_ns();
        row->read(&text);
        double took = (double)(clock_thread_ns() - start) * 1e-3;
        if (i == 0 || took < least) least = took;
    }
    double kb = (double)text.len / 1024;
    buf_deinit(&text);
    return least / kb;
}

void check_costs_at(size_t times, const char *what, const cost_row *rows, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double small = us_per_kb(&rows[i], times * SMALL),
               large = us_per_kb(&rows[i], times * LARGE);
        /* Another process may fill the caches for seconds. Only a cost that stays high counts. */
        for (int again = 0; again < AGAIN && large >= GROWTH * (small + 1); again++) {
            nanosleep(&(struct timespec){.tv_nsec = REST_MS * 1000000L}, NULL);
            double once_more = us_per_kb(&rows[i], times * LARGE);
            large = once_more < large ? once_more : large;
        }
        cr_log_info("%-14s %-44s %8.1f us/KB at %zu KB, %8.1f at %zu", what, rows[i].input, small,
                    times * SMALL >> 10, large, times * LARGE >> 10);
        cr_expect_lt(large, rows[i].us_per_kb * SLOWER, "%s, %s: %.0f us/KB", what, rows[i].input,
                     large);
        cr_expect_lt(large, GROWTH * (small + 1), "%s, %s: %.0f us/KB at %zu KB, %.0f at %zu", what,
                     rows[i].input, small, times * SMALL >> 10, large, times * LARGE >> 10);
    }
}

void check_costs(const char *what, const cost_row *rows, size_t n) {
    check_costs_at(1, what, rows, n);
}

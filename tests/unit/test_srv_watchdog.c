/* test_srv_watchdog.c - a stuck thread is reported with its stack; a thread that returns is not. */
#include "base/clock.h"
#include "server/server_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

TestSuite(srv_watchdog, .fini = fail_on_leaks);

static void busy_ms(unsigned ms) {
    uint64_t end = clock_ns() + (uint64_t)ms * 1000000;
    while (clock_ns() < end)
        (void)usleep(1000);
}

enum { MOST_MS = 600000 }; /* limit of a wait in case of a bug; judges no speed */

/* A watchdog looks four times in this time. */
enum { PATIENCE_MS = 4000 };

/* Stays busy until file has text, and two looks longer for a second report. A watchdog that
 * oversleeps (the whole process may have stood still) begins anew, and may rightly tell a second
 * time when PATIENCE_MS have passed since: that is later. */
static void stall_until_told(FILE *file) {
    for (unsigned ms = 0; ms < MOST_MS && lseek(fileno(file), 0, SEEK_END) == 0; ms += 10)
        busy_ms(10);
    busy_ms(PATIENCE_MS * 5 / 8);
}

/* Text on stderr from a watchdog over a stall (n_turns 0), or over n_turns of 5 ms. */
static size_t watched(double patience_s, unsigned n_turns, char *said, size_t room) {
    err e = {0};
    srv_watchdog *w;
    FILE *file = tmpfile();
    fflush(stderr);
    int kept = dup(STDERR_FILENO);
    cr_assert(file && kept >= 0 && dup2(fileno(file), STDERR_FILENO) >= 0);
    cr_assert_eq(srv_watchdog_start(&w, patience_s, &e), 0, "%s", e.msg);
    if (n_turns == 0) stall_until_told(file);
    for (unsigned i = 0; i < n_turns; i++) {
        busy_ms(5);
        srv_watchdog_beat(w);
    }
    srv_watchdog_stop(w);
    cr_assert(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    rewind(file);
    size_t n = fread(said, 1, room - 1, file);
    said[n] = 0;
    fclose(file);
    return n;
}

Test(srv_watchdog, a_stall_is_told_once_with_the_stack_it_stands_in) {
    char said[8192];
    (void)watched(PATIENCE_MS * 1e-3, 0, said, sizeof said);
    const char *line = strstr(said, "the event loop has been stuck for");
    cr_assert_not_null(line, "%s", said);
    cr_expect_null(strstr(line + 1, "the event loop has been stuck for"), "%s", said);
    cr_expect_not_null(strstr(line, "libc"), "no stack in: %s", said);
}

Test(srv_watchdog, turns_that_end_are_not_told_of) {
    char said[8192];
    cr_expect_eq(watched(60, 40, said, sizeof said), 0, "%s", said);
}

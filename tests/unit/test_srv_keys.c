/* test_srv_keys.c - keys of a file: found by name, and how long a look-up takes tells nothing. */
#include "server/server_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

TestSuite(srv_keys, .fini = fail_on_leaks);

enum { KEYS = 1000 };

static srv_keys *open_keys(void) {
    char path[] = "/tmp/fathom-keys-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    FILE *f = fdopen(fd, "w");
    for (int i = 0; i < KEYS; i++)
        fprintf(f, "sk-number-%d client-%d\n", i, i);
    cr_assert_eq(fclose(f), 0);
    err e = {0};
    srv_keys *k;
    cr_assert_eq(srv_keys_open(&k, path, &e), 0, "%s", e.msg);
    unlink(path);
    return k;
}

/* Of the thread, in ns: the least of many looks, which no other process makes longer. */
static uint64_t least_cost(const srv_keys *k, const char *text) {
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 100; i++) {
        struct timespec from, to;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &from);
        for (int j = 0; j < 5; j++)
            (void)srv_keys_find(k, text, strlen(text));
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &to);
        uint64_t ns = (uint64_t)(to.tv_sec - from.tv_sec) * 1000000000u + (uint64_t)to.tv_nsec -
                      (uint64_t)from.tv_nsec;
        if (ns < least) least = ns;
    }
    return least;
}

Test(srv_keys, every_key_is_found_and_no_other) {
    srv_keys *k = open_keys();
    char text[32];
    for (int i = 0; i < KEYS; i++) {
        (void)snprintf(text, sizeof text, "sk-number-%d", i);
        cr_assert_eq(srv_keys_find(k, text, strlen(text)), i);
    }
    cr_expect_eq(srv_keys_find(k, "sk-number-1000", 14), -1);
    cr_expect_eq(srv_keys_find(k, "sk-number-7", 10), -1);
    cr_expect_eq(srv_keys_find(k, "", 0), -1);
    srv_keys_close(k);
}

Test(srv_keys, the_first_the_last_and_an_unknown_key_cost_the_same_processor_time) {
    srv_keys *k = open_keys();
    const char *const texts[] = {"sk-number-0", "sk-number-999", "sk-number-xyz"};
    double cost[3];
    for (int i = 0; i < 3; i++)
        cost[i] = (double)least_cost(k, texts[i]);
    /* A search that ends at the key it looks for would be a thousand times cheaper for the first.
     */
    cr_expect(cost[0] > 0.5 * cost[2] && cost[0] < 2 * cost[2], "%f and %f ns", cost[0], cost[2]);
    cr_expect(cost[1] > 0.5 * cost[2] && cost[1] < 2 * cost[2], "%f and %f ns", cost[1], cost[2]);
    srv_keys_close(k);
}

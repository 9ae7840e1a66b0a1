/* testlib.h - shared by all tests. */
#ifndef FATHOM_TESTLIB_H
#define FATHOM_TESTLIB_H

/* For a suite's .fini: `TestSuite(name, .fini = fail_on_leaks)`. Aborts the worker if memory
 * leaked, so the run's exit status is 1. Only under ASan. */
void fail_on_leaks(void);

/* For .timeout of suites and tests, in seconds: ends a hanging test. It does not measure speed: the
 * slowest test under a sanitizer on a busy machine stays far below it. */
enum { HANGS_S = 3600 };

#endif

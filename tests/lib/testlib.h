/* testlib.h - what tests share. */
#ifndef FATHOM_TESTLIB_H
#define FATHOM_TESTLIB_H

/* For a suite's .fini: `TestSuite(name, .fini = fail_on_leaks)`. Aborts the worker when
 * memory leaked, which makes the run's exit status 1. Only under ASan. */
void fail_on_leaks(void);

/* For .timeout of suites and tests, in seconds: ends a test that hangs. It judges no speed, so
 * it is out of reach of the slowest test under a sanitizer on a busy machine. */
enum { HANGS_S = 3600 };

#endif

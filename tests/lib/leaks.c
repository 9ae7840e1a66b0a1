/* leaks.c - runs the leak check, which Criterion's workers skip at exit. */
#include "tests/lib/testlib.h"

#include <stdio.h>
#include <stdlib.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
void fail_on_leaks(void) {
    if (__lsan_do_recoverable_leak_check() != 0) abort();
}
#else
void fail_on_leaks(void) {}
#endif

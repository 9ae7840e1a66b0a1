/* oom.h - makes the Nth allocation of Fathom's own objects fail (unit binary only; see --wrap in
 * the Makefile). Allocations inside shared libraries do not count, except jansson's after
 * json_setup(). One thread. */
#ifndef FATHOM_TEST_OOM_H
#define FATHOM_TEST_OOM_H

#include <stdbool.h>

void oom_after(long n, bool for_ever); /* the n-th from now fails, 0 = the next */
bool oom_stop(void);                   /* back to normal; true if any allocation was refused */

#endif

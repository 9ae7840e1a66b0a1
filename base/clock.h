/* clock.h - time. Any thread. */
#ifndef FATHOM_CLOCK_H
#define FATHOM_CLOCK_H

#include <stdint.h>

uint64_t clock_ns(void);        /* monotonic; for durations and deadlines */
uint64_t clock_thread_ns(void); /* processor time of this thread; for the cost of work */
int64_t clock_unix_s(void);     /* wall clock; for time stamps in output only */

#endif

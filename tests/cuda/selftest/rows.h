/* rows.h - shared by the tests of the row kernels: test_rows.c, test_prep.c, test_loop_end.c. */
#ifndef FATHOM_CUDA_ROWS_H
#define FATHOM_CUDA_ROWS_H

#include "tests/cuda/selftest/selftest.h"

#define EPS 1e-3f /* far from any default, to show a kernel ignoring it */

enum { ROWS = 7, STATES = 11, VOCAB = 13, LOOPS = 5 };

/* Some are no multiple of 4, one is more than a thread block holds with few accesses a thread, and
 * one has chunks of the end of a loop beyond a warp's lanes. */
enum { WIDE = 4356, ROW_DIMS = 7 };
extern const uint32_t row_dims[ROW_DIMS];

cu_row plain_row(uint32_t i);
void twin_rms(const double *x, const float *weight, uint32_t n, double *y);
/* |want - got| over |want| and a little; NaN gives infinity. */
double relative_error(double want, float got);

void all_preps(rng *rnd);
void all_loop_ends(rng *rnd);

#endif

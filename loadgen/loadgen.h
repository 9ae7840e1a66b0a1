/* loadgen.h - `fathom bench`: a load generator over HTTP, with depth figures. */
#ifndef FATHOM_LOADGEN_H
#define FATHOM_LOADGEN_H

#include "base/options.h"

int cmd_bench(opt_args *args);

#endif

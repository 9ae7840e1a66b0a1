/* inspect_ranks.h - a model's plan on several ranks as text and as JSON. */
#ifndef FATHOM_INSPECT_RANKS_H
#define FATHOM_INSPECT_RANKS_H

#include "cli/cli.h"
#include "runtime/rank_plan.h"

/* `name` is the model's; `depth` is the mean number of loops of a token. */
void inspect_ranks_text(buf *out, const rank_plan *rp, const char *name, double depth);
void inspect_ranks_json(buf *out, const rank_plan *rp, const char *name, double depth);

#endif

/* tensors.c - every tensor a plan needs, by name, shape and place. */
#include "model/model_internal.h"

#include <stdio.h>

static void want(model__walk *walk, model__want wanted, const char *name, uint64_t rows,
                 uint64_t cols) {
    if (walk->rc != 0) return;
    wanted.rank = cols ? 2 : 1;
    wanted.shape[0] = rows;
    wanted.shape[1] = cols ? cols : 1;
    wanted.place.stage = walk->stage;
    wanted.place.layer = walk->stage == PART_OF_MODEL ? 0 : walk->layer;
    wanted.place.index = walk->index;
    (void)snprintf(wanted.name, sizeof wanted.name, "%s%s", walk->prefix, name);
    walk->rc = walk->visit(walk->ud, &wanted);
}

void model__want_one(model__walk *walk, tensor_role role, model_part part, const char *name,
                     uint64_t rows, uint64_t cols) {
    want(walk, (model__want){.place.role = role, .part = part}, name, rows, cols);
}

void model__want_optional(model__walk *walk, tensor_role role, model_part part, const char *name,
                          uint64_t rows, uint64_t cols) {
    want(walk, (model__want){.place.role = role, .part = part, .optional = true}, name, rows, cols);
}

int model__wants(const model_plan *plan, model__visit visit, void *ud) {
    model__walk walk = {
        .plan = plan, .visit = visit, .ud = ud, .prefix = "", .stage = PART_OF_MODEL};
    plan->family->tensors(&walk);
    return walk.rc;
}

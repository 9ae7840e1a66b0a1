/* tensors.c - every tensor a plan needs, by name, shape and place. */
#include "model/model_internal.h"

#include <stdio.h>

static void want(model__walk *k, model__want w, const char *name, uint64_t rows, uint64_t cols) {
    if (k->rc != 0) return;
    w.rank = cols ? 2 : 1;
    w.shape[0] = rows;
    w.shape[1] = cols ? cols : 1;
    w.place.stage = k->stage;
    w.place.layer = k->stage == PART_OF_MODEL ? 0 : k->layer;
    w.place.index = k->index;
    (void)snprintf(w.name, sizeof w.name, "%s%s", k->prefix, name);
    k->rc = k->visit(k->ud, &w);
}

void model__want_one(model__walk *k, tensor_role role, model_part part, const char *name,
                     uint64_t rows, uint64_t cols) {
    want(k, (model__want){.place.role = role, .part = part}, name, rows, cols);
}

void model__want_optional(model__walk *k, tensor_role role, model_part part, const char *name,
                          uint64_t rows, uint64_t cols) {
    want(k, (model__want){.place.role = role, .part = part, .optional = true}, name, rows, cols);
}

int model__wants(const model_plan *p, model__visit visit, void *ud) {
    model__walk k = {.p = p, .visit = visit, .ud = ud, .prefix = "", .stage = PART_OF_MODEL};
    p->family->tensors(&k);
    return k.rc;
}

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

void model__want_copy(model__walk *walk, const char *name, uint64_t rows, uint64_t cols) {
    model__want wanted = {
        .place.role = TENSOR_HEAD, .part = MODEL_PART_EMBED, .optional = true, .copy = true};
    want(walk, wanted, name, rows, cols);
}

void model__want_slice(model__walk *walk, tensor_role role, model_part part, const char *name,
                       uint64_t first_row, uint64_t rows, uint64_t cols, const model__shape *file) {
    model__want wanted = {.place.role = role, .part = part, .first_row = first_row, .file = *file};
    want(walk, wanted, name, rows, cols);
}

model__shape model__file_shape(const model__want *want) {
    if (want->file.rank) return want->file;
    return (model__shape){want->rank, {want->shape[0], want->shape[1]}};
}

int model__wants(const model_plan *plan, model__visit visit, void *ud) {
    model__walk walk = {
        .plan = plan, .visit = visit, .ud = ud, .prefix = "", .stage = PART_OF_MODEL};
    plan->family->tensors(&walk);
    return walk.rc;
}

typedef struct {
    void (*visit)(void *ud, const plan_matrix *tensor);
    void *ud;
} public_visit;

static int show(void *ud, const model__want *want) {
    const public_visit *to = ud;
    const plan_matrix tensor = {want->place, want->part, want->shape[0], want->shape[1],
                                want->optional};
    to->visit(to->ud, &tensor);
    return 0;
}

void plan_tensors(const model_plan *plan, void (*visit)(void *ud, const plan_matrix *tensor),
                  void *ud) {
    public_visit to = {visit, ud};
    (void)model__wants(plan, show, &to);
}

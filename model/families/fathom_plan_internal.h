/* fathom_plan_internal.h - shared by the two files of the family of any plan. */
#ifndef FATHOM_PLAN_FAMILY_INTERNAL_H
#define FATHOM_PLAN_FAMILY_INTERNAL_H

#include "model/model_internal.h"

static inline bool plan__is_mla(const model_plan *plan) {
    return plan->attn == ATTN_MLA;
}
static inline bool plan__is_gqa(const model_plan *plan) {
    return plan->attn == ATTN_GQA;
}
static inline bool plan__is_mythos(const model_plan *plan) {
    return plan->inject == INJECT_MYTHOS;
}
static inline bool plan__has_lora(const model_plan *plan) {
    return plan->lora_rank > 0;
}

/* Visits every tensor of the plan. */
void plan__tensors(model__walk *walk);

#endif

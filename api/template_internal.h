/* template_internal.h - what the files about chat templates share: finding (template.c), trying
 * out (probe.c), rendering (render.c). */
#ifndef FATHOM_API_TEMPLATE_INTERNAL_H
#define FATHOM_API_TEMPLATE_INTERNAL_H

#include "api/api_internal.h"

enum { API__TOKEN_NAMES = 32 }; /* bos_token and its like that a template may read */

/* One Jinja text and what it was seen to do. */
typedef struct {
    jinja *jinja;
    api__traits traits;
} api__variant;

struct api__template {
    char *name;
    char *broken;       /* why it cannot be used */
    api__variant plain; /* of conversations without functions, */
    api__variant tools; /* and with, where the model has one for them */
    json_t *tokens;     /* {"bos_token": "<s>", …}: the model's own */
    token_ids ends;
};

/* Fills the traits of both variants and the turn's end. A template that prints no message of a
 * user is broken: 1, and *why says what is wrong. */
int api__template_try(api__template *tmpl, const tokenizer *tok, err *why, err *e) WARN_UNUSED;
/* Renders one variant. */
int api__variant_render(const api__template *tmpl, const api__variant *variant,
                        const api__talk *talk, jinja_output *out, err *e) WARN_UNUSED;

#endif

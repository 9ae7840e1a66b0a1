/* template_internal.h - shared by the files about chat templates: template.c finds them, probe.c
 * tests them, render.c renders. */
#ifndef FATHOM_API_TEMPLATE_INTERNAL_H
#define FATHOM_API_TEMPLATE_INTERNAL_H

#include "api/api_internal.h"

enum { API__TOKEN_NAMES = 32 }; /* bos_token and other *_token variables of a template */

/* One Jinja template and its features. */
typedef struct {
    jinja *jinja;
    api__traits traits;
} api__variant;

struct api__template {
    char *name;
    char *broken;       /* why the template cannot be used, or NULL */
    api__variant plain; /* for conversations without functions */
    api__variant tools; /* for conversations with functions; unused if the model has one template */
    json_t *tokens;     /* {"bos_token": "<s>", …} of the model */
    token_ids ends;
};

/* Fills the traits of both variants and the end tokens. 1: a variant prints no user message, and
 * *why has the reason. */
int api__template_try(api__template *tmpl, const tokenizer *tok, err *why, err *e) WARN_UNUSED;
/* Renders one variant. */
int api__variant_render(const api__template *tmpl, const api__variant *variant,
                        const api__talk *talk, jinja_output *out, err *e) WARN_UNUSED;

#endif

/* take_model.c - the model of a command: the one asked for, or the default. */
#include "cli/cli.h"

#include <stdio.h>

int take_model(const char **model, model_place *place, err *e) {
    if (find_model(place, *model, e) != 0) return -1;
    if (place->why[0]) fprintf(stderr, "fathom: %s\n", place->why);
    *model = place->dir;
    return 0;
}

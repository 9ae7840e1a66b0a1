/* find_model.h - finds a model folder by its path, by its name, or without either.
 *
 * A path is taken as it is. A name is the name of a folder in one of these places, the first that
 * has it: ./models, the user's data folder ($XDG_DATA_HOME/fathom/models, else
 * ~/.local/share/fathom/models), ../share/fathom/models beside the program,
 * /usr/local/share/fathom/models, /usr/share/fathom/models. ORG/NAME, unless it is a path, is a
 * model of the Hugging Face cache ($HF_HUB_CACHE, $HF_HOME/hub, ~/.cache/huggingface/hub). Without
 * any of these: the newest folder in the user's data folder, else the name "demo", else "hops".
 */
#ifndef FATHOM_FIND_MODEL_H
#define FATHOM_FIND_MODEL_H

#include "base/buf.h"
#include "base/err.h"

enum { MODEL_PATH_BYTES = 4096, MODEL_NAME_BYTES = 256, MODEL_WHY_BYTES = 4600 };

typedef struct {
    char dir[MODEL_PATH_BYTES];
    char name[MODEL_NAME_BYTES]; /* ORG/NAME, for a model of the cache; else "" */
    char why[MODEL_WHY_BYTES];   /* "model demo: /usr/share/fathom/models/demo"; "": a path */
} model_place;

/* `asked`: a path, a name, or NULL. ERR_NOT_FOUND tells the places and the names found there. */
int find_model(model_place *out, const char *asked, err *e) WARN_UNUSED;
/* Calls put for each model with a name, in the order of the search. Later ones may have the name of
 * an earlier one, which hides them. */
void find_models(void (*put)(void *ud, const char *name, const char *dir), void *ud);

#endif

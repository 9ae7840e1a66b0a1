/* replaced.c - notices a model file that was changed in place.
 *
 * A model is read through maps: what is written into one of its files changes answers from then
 * on. Once a second a worker asks the files' sizes and times; a file system that does not answer
 * holds up neither the loop nor a request. The server goes on, since what it holds may still be
 * right, but no longer says it is ready. */
#include "server/server_internal.h"

#include <stdlib.h>

struct srv_look {
    uv_work_t w;
    srv *s;
    int rc;
    err e;
};

static void on_look(uv_work_t *w) {
    srv_look *l = OWNER_OF(w, srv_look, w);
    l->rc = model_unchanged(l->s->model.model, &l->e);
}

static void on_looked(uv_work_t *w, int status) {
    srv_look *l = OWNER_OF(w, srv_look, w);
    srv *s = l->s;
    s->look = NULL;
    if (status == 0 && l->rc != 0 && !s->model_changed) {
        s->model_changed = true;
        log_line(LOG_ALERT, "%s; the server is no longer ready", l->e.msg);
    }
    free(l);
}

void srv_look_at_model(srv *s) {
    if (!s->loaded || s->stopping || s->model_changed || s->look) return;
    srv_look *l = calloc(1, sizeof *l);
    if (l == NULL) return; /* the next second will do */
    l->s = s;
    s->look = l;
    if (uv_queue_work(&s->loop, &l->w, on_look, on_looked) == 0) return;
    s->look = NULL;
    free(l);
}

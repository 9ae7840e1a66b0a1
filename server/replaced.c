/* replaced.c - notices that a model file was changed in place.
 *
 * Model files are memory-mapped, so a write to one changes answers at once. Once a second a worker
 * reads the sizes and times of the files; a file system that hangs blocks neither the loop nor a
 * request. After a change the server goes on, since its answers may still be right, but it no
 * longer says it is ready. */
#include "server/server_internal.h"

#include <stdlib.h>

struct srv_look {
    uv_work_t task;
    srv *server;
    int rc;
    err error;
};

static void on_look(uv_work_t *task) {
    srv_look *look = OWNER_OF(task, srv_look, task);
    look->rc = model_unchanged(look->server->model.model, &look->error);
}

static void on_looked(uv_work_t *task, int status) {
    srv_look *look = OWNER_OF(task, srv_look, task);
    srv *server = look->server;
    server->look = NULL;
    if (status == 0 && look->rc != 0 && !server->model_changed) {
        server->model_changed = true;
        log_line(LOG_ALERT, "%s; the server is no longer ready", look->error.msg);
    }
    free(look);
}

void srv_look_at_model(srv *server) {
    if (!server->loaded || server->stopping || server->model_changed || server->look) return;
    srv_look *look = calloc(1, sizeof *look);
    if (look == NULL) return; /* tried again in a second */
    look->server = server;
    server->look = look;
    if (uv_queue_work(&server->loop, &look->task, on_look, on_looked) == 0) return;
    server->look = NULL;
    free(look);
}

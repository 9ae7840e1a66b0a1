/* backend.c - what all backends share: ending one, and the launch that waits. */
#include "engine/engine.h"

void eng_backend_close(eng_backend *b) {
    if (b) b->ops->close(b);
}

int eng_run(eng_backend *b, const eng_launch *l, eng_result *r, err *e) {
    if (b->ops->launch(b, l, e) != 0) return -1;
    return b->ops->wait(b, r, e);
}

/* assets.c - server/web, inside the binary. */
#include "base/embed.h"
#include "server/assets_internal.h"

#include <string.h>

/* The files: symbol, name, type. */
#define FILES(X)                                                                                   \
    X(index, "index.html", HTML)                                                                   \
    X(app, "app.js", JS)                                                                           \
    X(chat, "chat.js", JS)                                                                         \
    X(compare, "compare.js", JS)                                                                   \
    X(core, "core.js", JS)                                                                         \
    X(depth, "depth.js", JS)                                                                       \
    X(follow, "follow.js", JS)                                                                     \
    X(form, "form.js", JS)                                                                         \
    X(model, "model.js", JS)                                                                       \
    X(picture, "picture.js", JS)                                                                   \
    X(poll, "poll.js", JS)                                                                         \
    X(pool, "pool.js", JS)                                                                         \
    X(ramp, "ramp.js", JS)                                                                         \
    X(stream, "stream.js", JS)                                                                     \
    X(strip, "strip.js", JS)                                                                       \
    X(theme, "theme.js", JS)                                                                       \
    X(view, "view.js", JS)                                                                         \
    X(style, "style.css", CSS)                                                                     \
    X(icon, "favicon.svg", SVG)

#define HTML "text/html; charset=utf-8"
#define JS "text/javascript; charset=utf-8"
#define CSS "text/css; charset=utf-8"
#define SVG "image/svg+xml"

#define TAKE_IN(symbol, file, type) EMBED(srv__asset_##symbol, "server/web/" file);
FILES(TAKE_IN)

#define END(symbol, file, type) srv__asset_##symbol##_end,
#define ROW(symbol, file, type) {"/" file, type, srv__asset_##symbol, 0},

static const unsigned char *const ends[] = {srv__asset_index_end, FILES(END)};
static srv_asset files[] = {{"/", HTML, srv__asset_index, 0}, FILES(ROW)};
enum { N_FILES = sizeof files / sizeof files[0] };
_Static_assert(sizeof ends / sizeof ends[0] == N_FILES, "one end per file");

/* A difference of two labels is no constant to the compiler, so the sizes are set before
 * main; nothing writes them later. */
__attribute__((constructor)) static void set_sizes(void) {
    for (size_t i = 0; i < N_FILES; i++)
        files[i].size = (size_t)(ends[i] - files[i].data);
}

const srv_asset *srv_asset_find(const char *path) {
    for (size_t i = 0; i < N_FILES; i++) {
        if (strcmp(files[i].path, path) == 0) return &files[i];
    }
    return NULL;
}

/* assets.c - server/web, inside the binary. */
#include "base/embed.h"
#include "server/assets_internal.h"

#include <string.h>

#define ASSET(symbol, file) EMBED(srv__asset_##symbol, "server/web/" file)

ASSET(index, "index.html");
ASSET(app, "app.js");
ASSET(core, "core.js");
ASSET(pool, "pool.js");
ASSET(theme, "theme.js");
ASSET(style, "style.css");
ASSET(icon, "favicon.svg");

#define JS "text/javascript; charset=utf-8"
#define HTML "text/html; charset=utf-8"

static const unsigned char *const ends[] = {
    srv__asset_index_end, srv__asset_index_end, srv__asset_app_end,   srv__asset_core_end,
    srv__asset_pool_end,  srv__asset_theme_end, srv__asset_style_end, srv__asset_icon_end,
};
static srv_asset files[] = {
    {"/", HTML, srv__asset_index, 0},
    {"/index.html", HTML, srv__asset_index, 0},
    {"/app.js", JS, srv__asset_app, 0},
    {"/core.js", JS, srv__asset_core, 0},
    {"/pool.js", JS, srv__asset_pool, 0},
    {"/theme.js", JS, srv__asset_theme, 0},
    {"/style.css", "text/css; charset=utf-8", srv__asset_style, 0},
    {"/favicon.svg", "image/svg+xml", srv__asset_icon, 0},
};
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

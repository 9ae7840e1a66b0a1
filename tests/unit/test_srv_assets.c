/* test_srv_assets.c - the page's files are in the binary, whole and as they are on disk. */
#include "base/file.h"
#include "server/assets_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

TestSuite(srv_assets, .fini = fail_on_leaks);

Test(srv_assets, every_file_is_embedded_byte_for_byte) {
    static const char *const names[] = {"index.html", "app.js",    "core.js",    "pool.js",
                                        "theme.js",   "style.css", "favicon.svg"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        char path[64];
        snprintf(path, sizeof path, "/%s", names[i]);
        const srv_asset *asset = srv_asset_find(path);
        cr_assert_not_null(asset, "%s", path);
        snprintf(path, sizeof path, "server/web/%s", names[i]);
        err e = {0};
        buf file = {0};
        cr_assert_eq(file_read(&file, path, 1 << 20, &e), 0, "%s", e.msg);
        cr_assert_eq(asset->size, file.len, "%s", path);
        cr_assert_arr_eq(asset->data, file.data, file.len);
        buf_deinit(&file);
    }
}

Test(srv_assets, the_root_is_the_page_and_everything_else_is_unknown) {
    cr_assert_eq(srv_asset_find("/")->data, srv_asset_find("/index.html")->data);
    static const char *const unknown[] = {"",           "//",          "/app.j", "/app.jss",
                                          "/../main.c", "/web/app.js", "app.js"};
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        cr_assert_null(srv_asset_find(unknown[i]), "%s", unknown[i]);
}

Test(srv_assets, the_page_asks_no_other_host_and_holds_no_inline_code) {
    static const char *const text[] = {"/",        "/app.js",   "/core.js",
                                       "/pool.js", "/theme.js", "/style.css"};
    for (size_t i = 0; i < ARRAY_LEN(text); i++) {
        const srv_asset *asset = srv_asset_find(text[i]);
        cr_assert_null(memmem(asset->data, asset->size, "http://", 7), "%s", text[i]);
        cr_assert_null(memmem(asset->data, asset->size, "https://", 8), "%s", text[i]);
        cr_assert_null(memmem(asset->data, asset->size, " style=\"", 8), "%s", text[i]);
        cr_assert_null(memmem(asset->data, asset->size, " onclick=", 9), "%s", text[i]);
    }
}

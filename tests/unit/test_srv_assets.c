/* test_srv_assets.c - the page's files are in the binary, whole and as they are on disk. */
#include "base/file.h"
#include "server/assets_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <string.h>

TestSuite(srv_assets, .fini = fail_on_leaks);

/* Calls look with each file of server/web; package.json is for Node.js alone. */
static size_t each_file(void (*look)(const char *name, const srv_asset *asset)) {
    DIR *dir = opendir("server/web");
    cr_assert_not_null(dir);
    size_t n = 0;
    for (struct dirent *at = readdir(dir); at; at = readdir(dir)) {
        if (at->d_name[0] == '.' || strcmp(at->d_name, "package.json") == 0) continue;
        char path[300];
        snprintf(path, sizeof path, "/%s", at->d_name);
        const srv_asset *asset = srv_asset_find(path);
        cr_assert_not_null(asset, "%s", path);
        look(at->d_name, asset);
        n++;
    }
    closedir(dir);
    return n;
}

static void look_at_bytes(const char *name, const srv_asset *asset) {
    char path[300];
    snprintf(path, sizeof path, "server/web/%s", name);
    err e = {0};
    buf file = {0};
    cr_assert_eq(file_read(&file, path, 1 << 20, &e), 0, "%s", e.msg);
    cr_assert_eq(asset->size, file.len, "%s", path);
    cr_assert_arr_eq(asset->data, file.data, file.len);
    buf_deinit(&file);
}

Test(srv_assets, every_file_is_embedded_byte_for_byte) {
    cr_assert_gt(each_file(look_at_bytes), 10);
}

Test(srv_assets, the_root_is_the_page_and_everything_else_is_unknown) {
    cr_assert_eq(srv_asset_find("/")->data, srv_asset_find("/index.html")->data);
    static const char *const unknown[] = {"",           "//",          "/app.j", "/app.jss",
                                          "/../main.c", "/web/app.js", "app.js"};
    for (size_t i = 0; i < ARRAY_LEN(unknown); i++)
        cr_assert_null(srv_asset_find(unknown[i]), "%s", unknown[i]);
}

static void look_for_hosts(const char *name, const srv_asset *asset) {
    static const char namespace[] = "http://www.w3.org/2000/svg";
    const unsigned char *at = asset->data, *end = at + asset->size;
    while ((at = memmem(at, (size_t)(end - at), "http", 4))) {
        if ((size_t)(end - at) >= sizeof namespace - 1 &&
            memcmp(at, namespace, sizeof namespace - 1) == 0) {
            at += sizeof namespace - 1;
            continue;
        }
        cr_assert(memcmp(at, "http:", 5) != 0 && memcmp(at, "https:", 6) != 0, "%s", name);
        at += 4;
    }
    cr_assert_null(memmem(asset->data, asset->size, " style=\"", 8), "%s", name);
    cr_assert_null(memmem(asset->data, asset->size, " onclick=", 9), "%s", name);
}

Test(srv_assets, the_page_asks_no_other_host_and_holds_no_inline_code) {
    cr_assert_gt(each_file(look_for_hosts), 10);
}

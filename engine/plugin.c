/* plugin.c - finds and loads the plug-ins of the program. */
#include "base/file.h"
#include "engine/backend_internal.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool eng__plugin_path(const char *name, char out[ENG__PATH_BYTES]) {
    static const char *const folders[] = {"", "../", "../lib/fathom/"};
    char dir[ENG__PATH_BYTES];
    if (!file_program_dir(dir, sizeof dir)) return false;
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        int n = snprintf(out, ENG__PATH_BYTES, "%s/%s%s", dir, folders[i], name);
        if (n > 0 && n < ENG__PATH_BYTES && access(out, R_OK) == 0) return true;
    }
    return false;
}

eng__plugin_open eng__plugin_load(const char *path, const char *name, int mode, err *e) {
    char symbol[64];
    eng__plugin_open open;
    void *plugin = dlopen(path, mode);
    if (plugin == NULL) {
        const char *why = dlerror();
        (void)err_set(e, ERR_NOT_FOUND, NULL, "fathom-%s.so cannot be loaded: %s", name,
                      why ? why : "no reason given");
        return NULL;
    }
    (void)snprintf(symbol, sizeof symbol, "eng__%s_plugin_version", name);
    const char *version = dlsym(plugin, symbol);
    (void)snprintf(symbol, sizeof symbol, "eng__%s_plugin_open", name);
    void *found = dlsym(plugin, symbol);
    if (found == NULL || version == NULL || strcmp(version, FATHOM_VERSION) != 0) {
        (void)err_set(e, ERR_NOT_FOUND, NULL, "fathom-%s.so is not version " FATHOM_VERSION, name);
        return NULL;
    }
    memcpy(&open, &found, sizeof open); /* ISO C has no cast from object to function pointer */
    return open;
}

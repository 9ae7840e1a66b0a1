/* plugin_path.c - where the plug-ins of the program are. */
#include "base/file.h"
#include "engine/backend_internal.h"

#include <stdio.h>
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

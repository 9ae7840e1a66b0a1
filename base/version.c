/* version.c - the version of the program. The one object that depends on the commit. */
#include "base/version.h"

#ifndef FATHOM_COMMIT
#define FATHOM_COMMIT ""
#endif

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

static const char commit[] = FATHOM_COMMIT;

const char *version_commit(void) {
    return commit;
}

const char *version_line(void) {
    return sizeof commit > 1 ? "fathom " FATHOM_VERSION " (" FATHOM_COMMIT ")"
                             : "fathom " FATHOM_VERSION;
}

const char *version_compiler(void) {
    return COMPILER;
}

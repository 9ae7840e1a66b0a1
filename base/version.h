/* version.h - the version of the program, and how it was built. Any thread. */
#ifndef FATHOM_VERSION_H
#define FATHOM_VERSION_H

/* The commit that was built, 12 digits of it; "" if the build knew none. */
const char *version_commit(void);
/* "fathom 0.1.0 (0123456789ab)" */
const char *version_line(void);
/* "gcc 12.2.0" */
const char *version_compiler(void);

/* Takes the version of a library, as it is loaded. */
typedef void (*version_sink)(void *ud, const char *library, const char *version);

#endif

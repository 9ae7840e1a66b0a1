/* stderr.c - redirects stderr to an unnamed file and back. */
#include "tests/lib/stderr.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

int stderr_catch(void) {
    int file = open("/tmp", O_TMPFILE | O_RDWR, 0600), kept = dup(STDERR_FILENO);
    (void)fflush(stderr);
    cr_assert(file >= 0 && kept >= 0 && dup2(file, STDERR_FILENO) >= 0);
    close(file);
    return kept;
}

void stderr_release(int kept, char *said, size_t room) {
    (void)fflush(stderr);
    ssize_t n = pread(STDERR_FILENO, said, room - 1, 0);
    said[n > 0 ? n : 0] = 0;
    cr_assert(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
}

/* mapped.h - finds the file of a mapped address.
 *
 * Reading a map after its file was cut short or its disk failed raises SIGBUS. The bare signal
 * would not name the file. Any thread. */
#ifndef FATHOM_MAPPED_H
#define FATHOM_MAPPED_H

#include "base/err.h"

/* Notes `size` bytes at data as a map of this file. -1 with ERR_NO_MEMORY. Copies path. */
int mapped_note(const void *data, size_t size, const char *path, err *e) WARN_UNUSED;
/* Call before unmapping; does nothing if data was not noted. */
void mapped_forget(const void *data);
/* From now on a fault inside a noted map prints the file's name on stderr and ends the process with
 * status 1. Any other SIGBUS keeps its default action. */
void mapped_name_faults(void);

#endif

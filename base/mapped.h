/* mapped.h - which file a mapped address belongs to.
 *
 * Reading a map of a file that was cut short under it, or whose disk failed, is a SIGBUS, and a
 * process that dies of a bare signal does not say which file it was. Any thread. */
#ifndef FATHOM_MAPPED_H
#define FATHOM_MAPPED_H

#include "base/err.h"

/* Notes that size bytes at data are of this file; -1 with ERR_NO_MEMORY. The text is copied. */
int mapped_note(const void *data, size_t size, const char *path, err *e) WARN_UNUSED;
/* Before it is unmapped; nothing happens where it was not noted. */
void mapped_forget(const void *data);
/* From here on a fault inside a noted map ends the process with status 1 and a line on stderr
 * that names the file; any other SIGBUS stays what it is. */
void mapped_name_faults(void);

#endif

/* msgpack.h - writes MessagePack: nil, integers, doubles, strings and the heads of arrays.
 *
 * Six forms are too few for a library, which every build would then need. A buf that fails stays
 * failed, so one check at the end is enough. Any thread; a buf belongs to one. */
#ifndef FATHOM_MSGPACK_H
#define FATHOM_MSGPACK_H

#include "base/buf.h"

void msgpack_nil(buf *out);
void msgpack_uint(buf *out, uint64_t value);   /* in the shortest form */
void msgpack_uint64(buf *out, uint64_t value); /* always in nine bytes: the type uint 64 */
void msgpack_double(buf *out, double value);
void msgpack_text(buf *out, const char *text); /* UTF-8, at most 4 GB */
void msgpack_array(buf *out, uint32_t n);      /* the n values after it are its items */

#endif

/* lang.h - what C11 leaves to the compiler, and the types every header speaks. */
#ifndef FATHOM_LANG_H
#define FATHOM_LANG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WARN_UNUSED __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt_at, args_at) __attribute__((format(printf, fmt_at, args_at)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
/* The struct of `type` whose member `field` stands at ptr. */
#define OWNER_OF(ptr, type, field) ((type *)(void *)((char *)(ptr)-offsetof(type, field)))

#endif

/* lang.h - compiler attributes, small macros, and the basic types of every header. */
#ifndef FATHOM_LANG_H
#define FATHOM_LANG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WARN_UNUSED __attribute__((warn_unused_result))
#define PRINTF_LIKE(fmt_at, args_at) __attribute__((format(printf, fmt_at, args_at)))
#define ARRAY_LEN(array) (sizeof(array) / sizeof((array)[0]))
/* The struct of `type` with its member `field` at ptr. */
#define OWNER_OF(ptr, type, field) ((type *)(void *)((char *)(ptr)-offsetof(type, field)))

#endif

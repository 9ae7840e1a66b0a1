/* automaton_internal.h - shared by the files of the automaton: constrain.c has the stacks,
 * constrain_values.c the bytes of strings, texts and numbers, next_bytes.c looks one byte ahead. */
#ifndef FATHOM_API_AUTOMATON_INTERNAL_H
#define FATHOM_API_AUTOMATON_INTERNAL_H

#include "api/grammar/constrain_internal.h"

/* api__frame.sub of objects, arrays and tags. */
enum {
    API__O_FIRST,
    API__O_KEY,
    API__O_FREE_KEY,
    API__O_COLON,
    API__O_VALUE,
    API__O_NEXT,
    API__O_COMMA
};
enum { API__A_FIRST, API__A_NEXT, API__A_COMMA };
enum { API__T_TAG, API__T_CLOSE };
enum { API__NOT_BEGUN = UINT8_MAX }; /* the root, or a tag's value, before its first byte */

/* Name number i in byte order. */
const api__name *api__sorted_name(const api__node *node, uint16_t i);
/* The first of names lo..hi, equal in their first k bytes, with a next byte of at least `byte`. */
uint16_t api__first_at_least(const api__node *node, uint16_t lo, uint16_t hi, uint16_t k,
                             unsigned byte);

/* First states: of a string or text between characters, and of a number before its first digit. */
enum { API__S_PLAIN = 0, API__N_MINUS = 0 };

/* The next state after a byte of UTF-8. 0: between characters; 1 to 3: that many continuation bytes
 * follow; 4 to 7: the next byte has a smaller range. -1: invalid. */
int api__utf8_next(int state, uint8_t byte);
/* False if the byte is not allowed. The closing quote sets *end. */
bool api__string_step(const api__node *node, api__frame *frame, uint8_t byte, bool *end);
/* False if the byte is not allowed, or if it completes API__CLOSER. */
bool api__text_step(const api__node *node, api__frame *frame, uint8_t byte);
bool api__text_done(const api__node *node, const api__frame *frame); /* may API__TEXT_END follow? */
bool api__is_digit(uint8_t byte);
bool api__number_step(const api__node *node, api__frame *frame, uint8_t byte);
/* May a number of a ranged node begin with a digit, or with a minus sign and a digit? */
bool api__number_begins(const api__node *node, bool negative);
/* May the number end here? The end is only known from the byte after it. */
bool api__number_done(const api__node *node, const api__frame *frame);

#endif

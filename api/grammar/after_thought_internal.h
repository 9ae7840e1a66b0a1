/* after_thought_internal.h - a constraint that leaves the reasoning before an answer free.
 *
 * A grammar constrains the content of an answer. Where a model may reason first, this constraint
 * stands around the grammar's own (constrain_internal.h):
 * - If the prompt has not opened the reasoning, the answer may begin with the open mark or with the
 *   content. An open mark of several tokens is not offered.
 * - In the reasoning every token is allowed but the end tokens, until the close mark has passed.
 * - After it the grammar applies; up to API__MAX_BLANKS bytes of newlines may come before.
 * A token that ends the close mark and goes on with other text than newlines is refused: its rest
 * would belong to the grammar. The model writes the mark and this text as two tokens then. */
#ifndef FATHOM_API_AFTER_THOUGHT_INTERNAL_H
#define FATHOM_API_AFTER_THOUGHT_INTERNAL_H

#include "api/request_internal.h"

/* Belongs to one sequence, and to one thread at a time. */
typedef struct api__after_thought api__after_thought;
/* The request has marks. Borrows the request and the constraint. */
int api__after_thought_create(api__after_thought **out, const api_request *req,
                              const api__vocab *vocab, api__constraint *content,
                              err *e) WARN_UNUSED;
void api__after_thought_destroy(api__after_thought *after);       /* after may be NULL */
size_t api__after_thought_bytes(const api__after_thought *after); /* constant; 0: after is NULL */
/* Like api__constraint_calls; ud is the api__after_thought. */
extern const sched_constraint api__after_thought_calls;

#endif

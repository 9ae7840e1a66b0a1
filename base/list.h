/* list.h - a circular list of links embedded in the listed structs.
 *
 * Head and members have the same type. A link in no list points at itself. A list belongs to one
 * thread and owns nothing; nothing here fails. OWNER_OF finds the struct around a link. */
#ifndef FATHOM_LIST_H
#define FATHOM_LIST_H

#include "base/lang.h"

typedef struct list_link {
    struct list_link *prev, *next; /* of a head: the last and the first member */
} list_link;

static inline void list_init(list_link *link) {
    link->prev = link->next = link;
}
static inline bool list_empty(const list_link *head) {
    return head->next == head;
}
/* Inserting before the head appends to the list. The link must be in no list. */
static inline void list_insert_before(list_link *at, list_link *link) {
    link->prev = at->prev;
    link->next = at;
    at->prev->next = link;
    at->prev = link;
}
/* Allowed for a link in no list. */
static inline void list_remove(list_link *link) {
    /* The analyser does not see that a removed link is no longer in the list.
     * NOLINTNEXTLINE(clang-analyzer-unix.Malloc) */
    link->prev->next = link->next;
    link->next->prev = link->prev;
    list_init(link);
}
/* Moves the link from any list to the end of this one. */
static inline void list_move_back(list_link *head, list_link *link) {
    list_remove(link);
    list_insert_before(head, link);
}

#endif

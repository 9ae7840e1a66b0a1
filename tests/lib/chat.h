/* chat.h - conversations through a chat template, over a vocabulary of bytes. */
#ifndef FATHOM_TEST_CHAT_H
#define FATHOM_TEST_CHAT_H

#include "api/api.h"
#include "tests/lib/files.h"

enum { CHAT_MAX_TOKENS = 16 };

/* A tokenizer of the named tokens (ids from 0), followed by one token for every byte. Only the
 * names in `specials` are flagged special. NULL ends either list. */
tokenizer *chat_tokenizer(const char *const *specials, const char *const *others);
/* Ids as text, "~" before each token other than a byte; the caller frees it. */
void chat_spell(const tokenizer *tok, const uint32_t *ids, size_t n, buf *out);

typedef struct {
    tokenizer *tok;
    tmp_dir dir;
    api_chat *chat; /* NULL: e says why */
    err e;
    buf said; /* the last conversation as chat_rendered returned it, or "CODE PARAM: message" */
} chat_rig;

/* Opens a folder with a tokenizer_config.json of these members (without braces; may be "") and
 * this chat template (NULL: none). */
void chat_open(chat_rig *rig, const char *const *specials, const char *const *others,
               const char *members, const char *template);
/* Opens the folder again after a change; option: --chat-template. */
void chat_reopen(chat_rig *rig, const char *option);
/* The conversation as spelled ids. */
const char *chat_rendered(chat_rig *rig, const char *body);
void chat_close(chat_rig *rig);

#endif

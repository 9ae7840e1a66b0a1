/* chat.h - conversations through a chat template, over a vocabulary of bytes. */
#ifndef FATHOM_TEST_CHAT_H
#define FATHOM_TEST_CHAT_H

#include "api/api.h"
#include "tests/lib/files.h"

enum { CHAT_MAX_TOKENS = 16 };

/* A tokenizer of the tokens named (ids from 0) and, behind them, one for every byte. The names of
 * `specials` are flagged special, those of `others` are not; NULL ends either. */
tokenizer *chat_tokenizer(const char *const *specials, const char *const *others);
/* Ids as text, "~" before each token that is no byte; the caller frees it. */
void chat_spell(const tokenizer *t, const uint32_t *ids, size_t n, buf *out);

typedef struct {
    tokenizer *tok;
    tmp_dir dir;
    api_chat *chat; /* NULL: e says why */
    err e;
    buf said; /* of the last conversation, or "CODE PARAM: message" */
} chat_rig;

/* A folder whose tokenizer_config.json has these members (without braces; may be ""), and this
 * chat template (NULL: none). */
void chat_open(chat_rig *r, const char *const *specials, const char *const *others,
               const char *members, const char *template);
/* Opens again, after the folder changed; option: --chat-template. */
void chat_reopen(chat_rig *r, const char *option);
/* The conversation as spelled ids. */
const char *chat_say(chat_rig *r, const char *body);
void chat_close(chat_rig *r);

#endif

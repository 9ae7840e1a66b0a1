/* chat_internal.h - a conversation in the terminal: its messages, its settings, one answer.
 *
 * Requests and answers have the form of the HTTP API and go through api/. So a conversation here
 * and one with the server have the same template, sampling defaults, end tokens and reasoning. */
#ifndef FATHOM_CLI_CHAT_INTERNAL_H
#define FATHOM_CLI_CHAT_INTERNAL_H

#include "api/api.h"
#include "base/json.h"
#include "cli/chat/input_internal.h"
#include "cli/token_printer.h"

/* How a conversation becomes a prompt. */
typedef enum {
    CHAT_MESSAGES, /* by the model's chat template */
    CHAT_TEXT,     /* a text, continued by the model */
    CHAT_IDS,      /* token ids: the model has no tokenizer */
} chat_form;

typedef struct {
    const runtime *rt;
    api_context *api;
    scheduler *sched;
    chat_form form;
    chat_input *input;
    bool terminal;       /* a person reads and writes */
    bool tint, dim;      /* colours on stdout; dim lines on stderr */
    bool drafts;         /* drafted text is shown behind an answer */
    json_t *messages;    /* [{"role", "content"}, …] in the shape of the API */
    json_t *settings;    /* members of every request */
    uint64_t max_tokens; /* unless the settings say otherwise */
    bool own_seed;       /* `seed` is for every answer; otherwise each gets a random one */
    uint64_t seed;
    buf file;               /* name last saved or loaded: /save may write it again */
    bool broken;            /* no further answer is possible */
    bool failed;            /* an answer failed; for the exit status */
    struct chat_turn *turn; /* the answer in the making, or NULL */
} chat;

/* ---- talk.c: the messages ---- */

/* Adds a message. ERR_NO_MEMORY. thought: the reasoning before it, or NULL. */
int chat_say(chat *self, const char *role, const buf *content, const buf *thought, err *e);
/* Removes messages behind the first n. */
void chat_cut(chat *self, size_t n);
/* The index of the last message of the user; SIZE_MAX: no message is. */
size_t chat_last_question(const chat *self);
/* Sets or removes (text "") the system message at the beginning. */
int chat_set_system(chat *self, const char *text, err *e);
int chat_save(chat *self, const char *path, err *e);
int chat_load(chat *self, const char *path, err *e);
/* The body of a request for the next answer. */
int chat_body(const chat *self, uint64_t seed, buf *out, err *e);

/* ---- turn.c: one answer ---- */

/* Asks for an answer to the messages, prints it as it comes, and adds it to them. If the request
 * is refused, the question is taken back: ERR_BAD_PARAM and others; ERR_DEVICE: nothing works any
 * more. */
int chat_answer(chat *self, uint64_t seed, err *e);
/* Makes the checks of a request with these settings, without running it. */
int chat_check(const chat *self, err *e);
/* The seed of the next answer. */
uint64_t chat_next_seed(const chat *self);
void chat_on_event(void *ud, const sched_event *ev); /* for sched_create; ud: the chat */

/* ---- commands.c ---- */

/* Runs a line beginning with "/". False: the conversation ends. */
bool chat_command(chat *self, const char *line, err *e);
/* "/help", "/depth", …, NULL. */
const char *const *chat_command_words(void);
/* Sets members of `settings` (NULL: removes them), if requests with them are sound. */
int chat_set(chat *self, const char *name, json_t *steal_value, err *e);

#endif

/* messages_internal.h - shared by the files that read conversations: messages.c reads messages,
 * items.c the items of responses, turns.c whole lists. */
#ifndef FATHOM_API_MESSAGES_INTERNAL_H
#define FATHOM_API_MESSAGES_INTERNAL_H

#include "api/dialect_internal.h"

/* The list being read. Errors name the place in it: "messages[3].role". */
typedef struct {
    const api_context *ctx;
    const api__traits *traits;
    const char *list;
    arena *mem;
    json_t *made; /* owns values of messages beyond the client's JSON */
    err *error;
} api__turns_reader;

/* Refuses entry i with the message "LIST[i].KEY RULE". Returns -1. */
int api__bad_entry(const api__turns_reader *reader, err_code code, size_t i, const char *key,
                   const char *rule);
int api__read_message(const api__turns_reader *reader, const json_t *value, size_t i,
                      api__message *out) WARN_UNUSED;
/* 1: the item says nothing to the model. */
int api__read_item(const api__turns_reader *reader, const json_t *value, size_t i,
                   api__message *out) WARN_UNUSED;

/* Parts of both. */
/* Reads a content, which is the entry's member `key`: a string, or text parts joined by newlines.
 * out->role must be known. */
int api__read_content(const api__turns_reader *reader, const json_t *content, const char *key,
                      size_t i, api__message *out) WARN_UNUSED;
/* Makes a text the message's content, and frees the buffer. */
int api__keep_text(const api__turns_reader *reader, buf *text, api__message *out) WARN_UNUSED;
/* Calls of one message: a list for a template with calls, else a text with a line for each. */
json_t *api__new_calls(const api__turns_reader *reader);
int api__add_call_of(const api__turns_reader *reader, const json_t *id, const json_t *function,
                     size_t i, json_t *calls, buf *text) WARN_UNUSED;
/* Ends the reading of a message's calls: keeps the list or the text. */
int api__keep_calls(const api__turns_reader *reader, json_t *calls, buf *text,
                    api__message *out) WARN_UNUSED;
/* A template without results of functions prints a result as a user message. */
int api__result_as_user(const api__turns_reader *reader, api__message *out) WARN_UNUSED;

#endif

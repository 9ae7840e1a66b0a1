/* talk.c - the messages of a conversation: as a list, as a request, as a file. */
#include "base/file.h"
#include "cli/chat/chat_internal.h"
#include "cli/numbers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_FILE_BYTES = 64 << 20, MOST_MESSAGES = 1000 };

static const char *const roles[] = {"system", "user", "assistant"};

static int no_memory(err *e) {
    return err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the conversation");
}

static json_t *text_of(const buf *text) {
    return json_stringn(text->data ? text->data : "", text->len);
}

static const char *member(const json_t *message, const char *name) {
    const char *text = json_string_value(json_object_get(message, name));
    return text ? text : "";
}

static bool has_role(const json_t *message, const char *role) {
    return strcmp(member(message, "role"), role) == 0;
}

int chat_say(chat *self, const char *role, const buf *content, const buf *thought, err *e) {
    json_t *message = json_pack("{s:s, s:o?}", "role", role, "content", text_of(content));
    bool whole = message && json_is_string(json_object_get(message, "content"));
    if (whole && thought && thought->len)
        whole = json_object_set_new(message, "reasoning_content", text_of(thought)) == 0;
    if (whole && json_array_append(self->messages, message) == 0) {
        json_decref(message);
        return 0;
    }
    json_decref(message);
    return err_set(e, ERR_BAD_PARAM, NULL, "the text is not valid UTF-8");
}

void chat_cut(chat *self, size_t n) {
    while (json_array_size(self->messages) > n)
        (void)json_array_remove(self->messages, json_array_size(self->messages) - 1);
}

size_t chat_last_question(const chat *self) {
    for (size_t i = json_array_size(self->messages); i-- > 0;) {
        if (has_role(json_array_get(self->messages, i), "user")) return i;
    }
    return SIZE_MAX;
}

int chat_set_system(chat *self, const char *text, err *e) {
    json_t *first = json_array_get(self->messages, 0);
    if (first && has_role(first, "system")) (void)json_array_remove(self->messages, 0);
    if (text[0] == 0) return 0;
    json_t *message = json_pack("{s:s, s:s}", "role", "system", "content", text);
    if (message && json_array_insert_new(self->messages, 0, message) == 0) return 0;
    return err_set(e, ERR_BAD_PARAM, NULL, "the text is not valid UTF-8");
}

/* ---- a request ---- */

/* The messages as one text, a line for each exchange. */
static json_t *as_text(const chat *self) {
    buf out = {0};
    const char *before = "";
    size_t n = json_array_size(self->messages);
    for (size_t i = 0; i < n; i++) {
        const json_t *message = json_array_get(self->messages, i),
                     *content = json_object_get(message, "content");
        bool answer = has_role(message, "assistant");
        if (!answer) buf_puts(&out, before);
        buf_append(&out, json_string_value(content), json_string_length(content));
        before = "\n";
    }
    json_t *text = out.failed ? NULL : text_of(&out);
    buf_deinit(&out);
    return text;
}

/* Appends the numbers of a text to a list. */
static int add_ids(json_t *ids, const char *text, err *e) {
    uint64_t id;
    int rc;
    while ((rc = numbers_next(&text, (uint64_t)UINT32_MAX + 1, &id)) > 0) {
        if (json_array_append_new(ids, json_integer((json_int_t)id)) != 0) return no_memory(e);
    }
    if (rc == 0) return 0;
    return err_set(e, ERR_BAD_PARAM, NULL,
                   "this model has no tokenizer: write token ids, as in 1 2 3, not '%.20s'", text);
}

static json_t *as_ids(const chat *self, err *e) {
    json_t *ids = json_array();
    size_t n = json_array_size(self->messages);
    for (size_t i = 0; ids && i < n; i++) {
        if (add_ids(ids, member(json_array_get(self->messages, i), "content"), e) == 0) continue;
        json_decref(ids);
        return NULL;
    }
    return ids;
}

int chat_body(const chat *self, uint64_t seed, buf *out, err *e) {
    json_t *body = json_copy(self->settings);
    json_t *prompt = self->form == CHAT_TEXT  ? as_text(self)
                     : self->form == CHAT_IDS ? as_ids(self, e)
                                              : json_incref(self->messages);
    const char *field = self->form == CHAT_MESSAGES ? "messages" : "prompt";
    int rc = body && prompt ? 0 : -1;
    if (rc == 0) rc = json_object_set(body, field, prompt);
    if (rc == 0 && json_object_get(body, "max_tokens") == NULL)
        rc = json_object_set_new(body, "max_tokens", json_integer((json_int_t)self->max_tokens));
    if (rc == 0) rc = json_object_set_new(body, "seed", json_integer((json_int_t)seed));
    if (rc == 0) rc = json_object_set_new(body, "stream", json_true());
    if (rc == 0) rc = json_object_set_new(body, "return_depth", json_true());
    if (rc == 0 && self->form == CHAT_IDS)
        rc = json_object_set_new(body, "return_token_ids", json_true());
    if (rc == 0 && self->drafts)
        rc = json_object_set_new(body, "stream_options", json_pack("{s:b}", "include_drafts", 1));
    char *text = rc == 0 ? json_dumps(body, JSON_COMPACT) : NULL;
    if (text) buf_puts(out, text);
    free(text);
    json_decref(prompt);
    json_decref(body);
    return text && !out->failed ? 0 : no_memory(e);
}

/* ---- files ---- */

int chat_save(chat *self, const char *path, err *e) {
    bool own = self->file.data && strcmp(self->file.data, path) == 0;
    char *text = json_dumps(self->messages, JSON_INDENT(1));
    if (text == NULL) return no_memory(e);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (own ? O_TRUNC : O_EXCL), 0600);
    size_t n = strlen(text);
    bool whole = fd >= 0 && write(fd, text, n) == (ssize_t)n && write(fd, "\n", 1) == 1;
    int why = errno;
    if (fd >= 0 && close(fd) != 0) whole = false;
    free(text);
    if (!whole && why == EEXIST)
        return err_set(e, ERR_IO, NULL, "%s is there already; choose another name", path);
    if (!whole) return err_set(e, ERR_IO, NULL, "%s: %s", path, strerror(why));
    buf_clear(&self->file);
    buf_puts(&self->file, path);
    return 0;
}

static bool is_message(const json_t *message) {
    if (!json_is_string(json_object_get(message, "content"))) return false;
    for (size_t i = 0; i < ARRAY_LEN(roles); i++) {
        if (has_role(message, roles[i])) return true;
    }
    return false;
}

int chat_load(chat *self, const char *path, err *e) {
    static const json_limits limits = {MOST_FILE_BYTES, 8, 1 << 20};
    buf text = {0};
    json_t *root = NULL;
    int rc = file_read(&text, path, limits.max_bytes, e);
    if (rc == 0) rc = json_parse(&root, text.data, text.len, &limits, path, e);
    json_t *list = json_is_object(root) ? json_object_get(root, "messages") : root;
    size_t n = json_array_size(list);
    if (rc == 0 && (!json_is_array(list) || n > MOST_MESSAGES))
        rc = err_set(e, ERR_BAD_FILE, NULL, "%s: must hold a list of up to %d messages", path,
                     MOST_MESSAGES);
    for (size_t i = 0; i < n && rc == 0; i++) {
        if (is_message(json_array_get(list, i))) continue;
        rc = err_set(e, ERR_BAD_FILE, NULL,
                     "%s: message %zu must have a content, and the role system, user or assistant",
                     path, i);
    }
    if (rc == 0) {
        json_decref(self->messages);
        self->messages = json_incref(list);
        buf_clear(&self->file);
        buf_puts(&self->file, path);
    }
    json_decref(root);
    buf_deinit(&text);
    return rc;
}

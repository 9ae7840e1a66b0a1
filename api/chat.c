/* chat.c - renders conversations with a chat template when no model is open. */
#include "api/request_internal.h"

#include <stdlib.h>

enum { MAX_BODY = 64 << 20 };

/* A context with the members that rendering needs. */
struct api_chat {
    api_context ctx;
};

int api_chat_open(api_chat **out, const char *dir, const char *chat_template, tokenizer *tok,
                  err *e) {
    json_t *config = NULL;
    *out = NULL;
    api_chat *chat = calloc(1, sizeof *chat);
    if (chat == NULL) return api__out_of_memory(e);
    chat->ctx.opts.tokenizer = tok;
    chat->ctx.opts.max_body_bytes = MAX_BODY;
    api__template **found = &chat->ctx.template;
    int rc = api__read_config(&config, dir, "tokenizer_config.json", e);
    if (rc == 0) rc = api__template_open(found, dir, chat_template, config, tok, e);
    json_decref(config);
    if (rc == 0 && *found == NULL) {
        rc = err_set(e, ERR_NOT_FOUND, "--chat", "%s has no chat template; use --chat-template",
                     dir);
    } else if (rc == 0 && api__template_broken(*found)) {
        rc = err_set(e, ERR_BAD_FILE, "--chat", "%s", api__template_broken(*found));
    }
    if (rc == 0) *out = chat;
    else api_chat_close(chat);
    return rc;
}

void api_chat_close(api_chat *chat) {
    if (chat == NULL) return;
    api__template_close(chat->ctx.template);
    free(chat);
}

int api_chat_render(const api_chat *chat, const char *body, size_t n, jinja_output *text,
                    token_ids *ids, err *e) {
    static const json_limits limits = {MAX_BODY, API__MAX_DEPTH, 1 << 20};
    json_t *root = NULL;
    if (json_parse_nul(&root, body, n, &limits, "the conversation", e) != 0) return -1;
    if (json_is_array(root)) {
        json_t *whole = json_object();
        int rc = whole ? json_object_set(whole, "messages", root) : -1;
        json_decref(root);
        root = whole;
        if (rc != 0) {
            json_decref(root);
            return api__out_of_memory(e);
        }
    }
    int rc = json_is_object(root)
                 ? api__body_to_ids(&chat->ctx, root, false, text, ids, e)
                 : err_set(e, ERR_BAD_PARAM, NULL, "the conversation must be a list or an object");
    json_decref(root);
    return rc;
}

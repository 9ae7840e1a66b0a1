/* endpoints.c - the table of all routes that take a JSON body. The server makes a route of each
 * row, and GET /openapi.json a path. */
#include "api/dialect_internal.h"

extern const api_dialect api_dialect_completion, api_dialect_chat, api_dialect_responses,
    api_dialect_messages; /* dialects/NAME.c */

static const api_endpoint endpoints[] = {
    {"/v1/completions", "Create a completion", .dialect = &api_dialect_completion},
    {"/v1/chat/completions", "Create a chat completion", .dialect = &api_dialect_chat,
     .renders = true},
    {"/v1/completions/render",
     "Convert the prompts of a completion to token ids, without running it. The answer is a list, "
     "an object for each prompt.",
     .dialect = &api_dialect_completion, .read = api__render_completion,
     .request = "CompletionRequest", .answer = "RenderedList"},
    {"/v1/chat/completions/render",
     "Convert the conversation of a chat completion to token ids, without running it",
     .dialect = &api_dialect_chat, .read = api__render_chat, .request = "ChatRequest",
     .answer = "Rendered", .renders = true},
    {"/v1/responses", "Create a response (stateless subset of the Responses API)",
     .dialect = &api_dialect_responses, .renders = true},
    {"/v1/messages", "Create a message (Anthropic's Messages API)",
     .dialect = &api_dialect_messages, .renders = true},
    {"/v1/messages/count_tokens", "Count the tokens of a message's prompt",
     .dialect = &api_dialect_messages, .read = api__count_tokens, .request = "MessagesRequest",
     .answer = "Answer", .renders = true},
    {"/tokenize",
     "Convert text or messages to token ids. A text longer than the context (max_model_len) is "
     "refused, like a prompt. A list may have as many tokens as the prompts of one request.",
     .read = api_tokenize, .request = "TokenizeRequest", .answer = "Answer", .renders = true},
    {"/detokenize", "Convert token ids to text. The limits are those of /tokenize.",
     .read = api_detokenize, .request = "DetokenizeRequest", .answer = "Answer"},
};

const api_endpoint *api_endpoints(size_t *n) {
    *n = ARRAY_LEN(endpoints);
    return endpoints;
}

int api_read(const api_endpoint *endpoint, const api_context *ctx, const char *body, size_t n,
             bool soon, api_request **request, api_listing **listing, err *e) {
    *request = NULL;
    *listing = NULL;
    if (endpoint->read) return endpoint->read(listing, ctx, body, n, soon, e);
    return (soon ? api_parse_soon : api_parse)(request, ctx, endpoint->dialect, body, n, e);
}

/* answer.c - an answer's text and its calls, apart from each other, and what the notations of calls
 * share. */
#include "api/reply_internal.h"
#include "base/size.h"

#include <stdlib.h>

void api__say(api__answer *answer, const char *text, size_t n) {
    if (n > 0 && answer->said.len == 0) answer->said_after = answer->n_calls;
    buf_append(&answer->said, text, n);
}

api__call *api__add_call(api__answer *answer, uint32_t tool) {
    if (answer->n_calls == answer->cap_calls) {
        uint32_t cap = answer->cap_calls ? answer->cap_calls * 2 : 4;
        size_t bytes;
        api__call *grown = cap > answer->cap_calls && size_mul(cap, sizeof *grown, &bytes)
                               ? realloc(answer->calls, bytes)
                               : NULL;
        if (grown == NULL) return NULL;
        answer->calls = grown;
        answer->cap_calls = cap;
    }
    api__call *call = &answer->calls[answer->n_calls++];
    *call = (api__call){.tool = tool, .args = answer->args.len, .args_end = answer->args.len};
    return call;
}

void api__answer_deinit(api__answer *answer) {
    buf_deinit(&answer->said);
    buf_deinit(&answer->args);
    free(answer->calls);
    answer->calls = NULL;
    answer->n_calls = answer->cap_calls = 0;
}

uint32_t api__find_tool(const api_request *req, const char *name, size_t n) {
    for (uint32_t i = 0; i < req->n_tools; i++) {
        const char *own = req->tools[i].name;
        if (strlen(own) == n && memcmp(own, name, n) == 0) return i;
    }
    return UINT32_MAX;
}

uint8_t api__param_types(const api__tool *tool, const char *name, size_t n) {
    uint32_t low = 0, high = tool->n_params;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        size_t own = strlen(tool->params[mid].name);
        int order = memcmp(tool->params[mid].name, name, own < n ? own : n);
        if (order == 0 && own == n) return tool->params[mid].types;
        if (order < 0 || (order == 0 && own < n)) low = mid + 1;
        else high = mid;
    }
    return 0;
}

/* ---- a stream's place in the answer ---- */

void api__at_content(api_reply *reply, const api__choice *choice) {
    reply->cursor.call = false;
    reply->cursor.from = choice->sent;
    reply->cursor.to = api__content_end(reply, choice);
}

void api__at_call(api_reply *reply, const api__choice *choice, uint32_t n_call) {
    const api__call *call = &choice->answer.calls[n_call];
    bool begun = n_call == choice->sent_calls && choice->call_opened;
    reply->cursor.call = true;
    reply->cursor.n_call = n_call;
    reply->cursor.from = begun ? choice->sent_args : call->args;
    reply->cursor.to = call->args_end;
}

void api__call_sent(api_reply *reply, api__choice *choice) {
    const api__call *call = &choice->answer.calls[choice->sent_calls];
    choice->call_opened = true;
    choice->sent_args = reply->cursor.to;
    if (!call->whole || choice->sent_args < call->args_end) return;
    choice->sent_calls++;
    choice->call_opened = false;
}

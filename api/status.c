/* status.c - HTTP statuses and error bodies. No other file maps errors to statuses. */
#include "api/api_internal.h"

typedef struct {
    unsigned status;
    const char *type, *code; /* code may be NULL */
    bool show_message;       /* show the error's message; otherwise the text of its code */
} row;

/* ERR_BUSY is 503, because 429 is for limits per API key. */
static const row table[ERR_COUNT] = {
    [ERR_NONE] = {500, "server_error", NULL, false},
    [ERR_USAGE] = {500, "server_error", NULL, false},
    [ERR_BAD_PARAM] = {400, "invalid_request_error", NULL, true},
    [ERR_UNSUPPORTED] = {400, "invalid_request_error", "unsupported_parameter", true},
    [ERR_TOO_LONG] = {400, "invalid_request_error", "context_length_exceeded", true},
    [ERR_NOT_FOUND] = {404, "not_found_error", NULL, true},
    [ERR_BUSY] = {503, "server_error", "overloaded", true},
    [ERR_BAD_FILE] = {500, "server_error", NULL, false},
    [ERR_IO] = {500, "server_error", NULL, false},
    [ERR_NO_MEMORY] = {503, "server_error", "out_of_memory", false},
    [ERR_NUMERIC] = {500, "server_error", "numeric", false},
    [ERR_CONSTRAINT] = {400, "invalid_request_error", "no_token_left", true},
    [ERR_COSTLY] = {400, "invalid_request_error", "form_too_costly", true},
    [ERR_STOPPING] = {503, "unavailable_error", "shutting_down", true},
    [ERR_CANCELLED] = {503, "server_error", NULL, false}, /* the client has left */
    [ERR_DEVICE] = {503, "server_error", "device", false},
    [ERR_INTERNAL] = {500, "server_error", NULL, false},
};

static const row *find(err_code code) {
    return (unsigned)code < ERR_COUNT && table[code].status ? &table[code] : &table[ERR_INTERNAL];
}

unsigned api_status(const err *e) {
    return find(e->code)->status;
}

static void error_object(buf *out, const char *message, const char *type, const char *param,
                         const char *code) {
    buf_puts(out, "{\"error\":{\"message\":");
    buf_json_text(out, message);
    buf_puts(out, ",\"type\":");
    buf_json_text(out, type);
    buf_puts(out, ",\"param\":");
    if (param && param[0]) buf_json_text(out, param);
    else buf_puts(out, "null");
    buf_puts(out, ",\"code\":");
    if (code) buf_json_text(out, code);
    else buf_puts(out, "null");
}

void api_error_body(buf *out, const err *e) {
    const row *found = find(e->code);
    const char *type = found->type, *code = found->code;
    if (e->code == ERR_NOT_FOUND && strcmp(e->param, "model") == 0) {
        type = "invalid_request_error";
        code = "model_not_found";
    }
    error_object(out, found->show_message && e->msg[0] ? e->msg : err_text(e->code), type,
                 found->show_message ? e->param : NULL, code);
    if (e->code == ERR_TOO_LONG && e->limit > 0) {
        buf_printf(out, ",\"n_prompt_tokens\":%llu,\"n_ctx\":%llu", (unsigned long long)e->have,
                   (unsigned long long)e->limit);
    }
    buf_puts(out, "}}");
}

static const char *type_of(unsigned status) {
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 429: return "rate_limit_error";
    case 501: return "not_supported_error";
    case 503: return "unavailable_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

void api_http_error_body(buf *out, unsigned status, const char *message, const char *code) {
    error_object(out, message, type_of(status), NULL, code);
    buf_puts(out, "}}");
}

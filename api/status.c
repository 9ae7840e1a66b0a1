/* status.c - HTTP statuses and error bodies. No other file maps errors to statuses. */
#include "api/dialect_internal.h"

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

api__fault api__fault_of(const err *e) {
    const row *found = find(e->code);
    api__fault fault = {.status = found->status,
                        .message = found->show_message && e->msg[0] ? e->msg : err_text(e->code),
                        .type = found->type,
                        .param = found->show_message && e->param[0] ? e->param : NULL,
                        .code = found->code};
    if (e->code == ERR_NOT_FOUND && strcmp(e->param, "model") == 0) {
        fault.type = "invalid_request_error";
        fault.code = "model_not_found";
    }
    if (e->code == ERR_TOO_LONG && e->limit > 0) {
        fault.have = e->have;
        fault.limit = e->limit;
    }
    return fault;
}

static void write_or_null(buf *out, const char *text) {
    if (text) buf_json_text(out, text);
    else buf_puts(out, "null");
}

void api__openai_error(buf *out, const api__fault *fault) {
    buf_puts(out, "{\"error\":{\"message\":");
    buf_json_text(out, fault->message);
    buf_puts(out, ",\"type\":");
    buf_json_text(out, fault->type);
    buf_puts(out, ",\"param\":");
    write_or_null(out, fault->param);
    buf_puts(out, ",\"code\":");
    write_or_null(out, fault->code);
    if (fault->limit > 0) {
        buf_printf(out, ",\"n_prompt_tokens\":%llu,\"n_ctx\":%llu", (unsigned long long)fault->have,
                   (unsigned long long)fault->limit);
    }
    buf_puts(out, "}}");
}

void api__openai_error_event(buf *out, api_reply *reply, const api__fault *fault) {
    (void)reply;
    buf_puts(out, "data: ");
    api__openai_error(out, fault);
    buf_puts(out, "\n\n");
}

static void write_fault(buf *out, const api_dialect *dialect, const api__fault *fault) {
    if (dialect) dialect->error_body(out, fault);
    else api__openai_error(out, fault);
}

void api_error_body(buf *out, const api_dialect *dialect, const err *e) {
    api__fault fault = api__fault_of(e);
    write_fault(out, dialect, &fault);
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

void api_http_error_body(buf *out, const api_dialect *dialect, unsigned status, const char *message,
                         const char *code) {
    api__fault fault = {
        .status = status, .message = message, .type = type_of(status), .code = code};
    write_fault(out, dialect, &fault);
}

/* entries.c - numbers, strings, single tokens and lists of tokens as JSON text.
 *
 * Runs for every token of every stream, so it builds no JSON tree and allocates nothing but growth
 * of the caller's buffer. */
#include "api/reply_internal.h"
#include "base/utf8.h"

/* Appends one character. Half of all output is written this way. */
static void put(buf *out, char byte) {
    if (out->failed || out->len + 1 >= out->cap) {
        buf_append(out, &byte, 1);
        return;
    }
    out->data[out->len++] = byte;
    out->data[out->len] = 0;
}

#define PUT(literal) buf_append(out, literal, sizeof(literal) - 1)

/* ---- numbers ---- */

void api__write_uint(buf *out, uint64_t value) {
    char digits[20];
    if (value < 10) {
        put(out, (char)('0' + value));
        return;
    }
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    buf_append(out, digits + at, sizeof digits - at);
}

/* Writes -x as "%.6g" does, for x from 0.0001 to 9999. A float has 24 bits and 5^9 has 21, so the
 * product is exact; printf rounds it to even too but takes four times as long. */
static void write_plain(buf *out, double x) {
    static const double bounds[] = {1000, 100, 10, 1, 0.1, 0.01, 0.001};
    static const double powers[] = {1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9};
    char text[16] = {'-'};
    uint32_t i = 0, at, decimals;
    while (i < ARRAY_LEN(bounds) && x < bounds[i])
        i++;
    double exact = x * powers[i];
    uint32_t n = (uint32_t)exact;
    double rest = exact - n;
    if (rest > 0.5 || (rest == 0.5 && n % 2)) n++;
    for (decimals = i + 2; decimals > 0 && n % 10 == 0; decimals--)
        n /= 10;
    /* Backwards: the decimals, the point, at least one digit before the point. */
    at = sizeof text;
    for (uint32_t k = 0; k < decimals; k++, n /= 10)
        text[--at] = (char)('0' + n % 10);
    if (decimals) text[--at] = '.';
    do
        text[--at] = (char)('0' + n % 10);
    while ((n /= 10) > 0);
    text[--at] = '-';
    buf_append(out, text + at, sizeof text - at);
}

/* The API writes -9999 for "very unlikely", because JSON has no infinities. */
void api__write_logprob(buf *out, float value) {
    char text[32];
    double x = isnan(value) || value < -9999.0f ? 9999.0 : value < 0 ? -(double)value : 0.0;
    if (x >= 1e-4) {
        write_plain(out, x);
        return;
    }
    int n = snprintf(text, sizeof text, "%.6g", x > 0 ? -x : 0.0);
    buf_append(out, text, (size_t)n);
}

/* ---- strings of any length ---- */

enum { PIECE = 256 }; /* bytes written between two checks of the room left */

/* The longest piece of at most n bytes that splits no character, from a longer text; n >= 4. */
static size_t whole_characters(const char *text, size_t n) {
    for (size_t cut = n; cut > n - 4; cut--) {
        if (((unsigned char)text[cut] & 0xc0) != 0x80) return cut;
    }
    return n; /* invalid UTF-8: no character to split */
}

bool api__write_string(buf *out, api__cursor *cursor, const char *text, size_t n, size_t end) {
    if (!cursor->open) buf_append(out, "\"", 1);
    cursor->open = true;
    while (cursor->byte < n) {
        if (out->failed || out->len >= end) return false;
        size_t left = n - cursor->byte,
               piece = left > PIECE ? whole_characters(text + cursor->byte, PIECE) : left;
        buf_json_escaped(out, text + cursor->byte, piece);
        cursor->byte += piece;
    }
    buf_append(out, "\"", 1);
    return true;
}

bool api__write_raw(buf *out, api__cursor *cursor, const char *text, size_t n, size_t end) {
    while (cursor->byte < n) {
        if (out->failed || out->len >= end) return false;
        size_t left = n - cursor->byte, room = end - out->len;
        size_t piece = left < room ? left : room;
        buf_append(out, text + cursor->byte, piece);
        cursor->byte += piece;
    }
    return true;
}

/* ---- single tokens ---- */

static size_t text_start(const api__choice *choice, uint32_t i) {
    return i == 0 ? choice->tokens_at : choice->tokens[i - 1].text_end;
}

static void entry_text(buf *out, api_reply *reply, const api__choice *choice, uint32_t i) {
    size_t from = text_start(choice, i);
    (void)reply;
    buf_json_string(out, choice->text.data ? choice->text.data + from : "",
                    choice->tokens[i].text_end - from);
}

/* The spelling of a token that is not part of the text, special or not. */
static void write_spelling(buf *out, const tokenizer *tok, uint32_t id, bool as_key) {
    size_t n = 0;
    const char *bytes = tok ? tokenizer_bytes(tok, id, &n) : NULL;
    if (bytes == NULL) {
        char text[32];
        int len = snprintf(text, sizeof text, "token_id:%u", id);
        buf_json_string(out, text, (size_t)len);
    } else if (as_key && (!utf8_valid(bytes, n) || memchr(bytes, 0, n))) {
        /* Keys must differ, so invalid bytes may not all become U+FFFD. Many parsers refuse NUL in
         * a key. */
        PUT("\"bytes:");
        for (size_t i = 0; i < n; i++) {
            static const char hex[] = "0123456789abcdef";
            unsigned byte = (unsigned char)bytes[i];
            const char text[] = {'\\', '\\', 'x', hex[byte >> 4], hex[byte & 15]};
            buf_append(out, text, sizeof text);
        }
        PUT("\"");
    } else {
        buf_json_string(out, bytes, n);
    }
}

static void write_bytes(buf *out, const tokenizer *tok, uint32_t id) {
    size_t n = 0;
    const char *bytes = tok ? tokenizer_bytes(tok, id, &n) : NULL;
    char *at;
    if (n > SIZE_MAX / 4 - 2 || buf_reserve(out, 4 * n + 2) != 0) return;
    at = out->data + out->len; /* byte by byte: most of the output is written here */
    *at++ = '[';
    for (size_t i = 0; i < n; i++) {
        unsigned byte = (unsigned char)bytes[i];
        if (i) *at++ = ',';
        if (byte >= 100) *at++ = (char)('0' + byte / 100);
        if (byte >= 10) *at++ = (char)('0' + byte / 10 % 10);
        *at++ = (char)('0' + byte % 10);
    }
    *at++ = ']';
    *at = 0;
    out->len = (size_t)(at - out->data);
}

static const eng_top *tops_of(const api_reply *reply, const api__choice *choice, uint32_t i,
                              uint32_t most, uint32_t *n) {
    *n = choice->tokens[i].n_top < most ? choice->tokens[i].n_top : most;
    return choice->tops ? choice->tops + api__tops_at(reply, choice, i) : NULL;
}

void api__entry_chat(buf *out, api_reply *reply, const api__choice *choice, uint32_t i) {
    const tokenizer *tok = reply->ctx->opts.tokenizer;
    const api__token *token = &choice->tokens[i];
    uint32_t n;
    const eng_top *top = tops_of(reply, choice, i, reply->req->n_top, &n);
    PUT("{\"token\":");
    entry_text(out, reply, choice, i);
    PUT(",\"logprob\":");
    api__write_logprob(out, token->logprob);
    PUT(",\"bytes\":");
    write_bytes(out, tok, token->id);
    PUT(",\"top_logprobs\":[");
    for (uint32_t j = 0; j < n; j++) {
        buf_puts(out, j ? ",{\"token\":" : "{\"token\":");
        write_spelling(out, tok, top[j].id, false);
        PUT(",\"logprob\":");
        api__write_logprob(out, top[j].logprob);
        PUT(",\"bytes\":");
        write_bytes(out, tok, top[j].id);
        put(out, '}');
    }
    put(out, ']');
    if (reply->req->return_depth) {
        PUT(",\"depth\":");
        api__write_uint(out, token->depth);
    }
    put(out, '}');
}

static void entry_logprob(buf *out, api_reply *reply, const api__choice *choice, uint32_t i) {
    (void)reply;
    if (isnan(choice->tokens[i].logprob)) PUT("null");
    else api__write_logprob(out, choice->tokens[i].logprob);
}

static void entry_top(buf *out, api_reply *reply, const api__choice *choice, uint32_t i) {
    const api__token *token = &choice->tokens[i];
    uint32_t n;
    const eng_top *top = tops_of(reply, choice, i, reply->req->n_top, &n);
    bool has_own = false;
    if (isnan(token->logprob) || reply->req->n_top == 0) {
        PUT("null");
        return;
    }
    put(out, '{');
    for (uint32_t j = 0; j < n; j++) {
        if (j) put(out, ',');
        write_spelling(out, reply->ctx->opts.tokenizer, top[j].id, true);
        put(out, ':');
        api__write_logprob(out, top[j].logprob);
        has_own = has_own || top[j].id == token->id;
    }
    if (!has_own) { /* the chosen token is always listed, even beyond the number asked for */
        if (n) put(out, ',');
        write_spelling(out, reply->ctx->opts.tokenizer, token->id, true);
        put(out, ':');
        api__write_logprob(out, token->logprob);
    }
    put(out, '}');
}

static void entry_offset(buf *out, api_reply *reply, const api__choice *choice, uint32_t i) {
    size_t from = text_start(choice, i);
    if (!reply->cursor.comma) reply->cursor.chars = choice->chars;
    api__write_uint(out, reply->cursor.chars);
    if (choice->text.data)
        reply->cursor.chars +=
            utf8_count(choice->text.data + from, choice->tokens[i].text_end - from);
}

static void entry_id(buf *out, api_reply *reply, const api__choice *choice, uint32_t i) {
    (void)reply;
    api__write_uint(out, choice->tokens[i].id);
}

static void entry_depth(buf *out, api_reply *reply, const api__choice *choice, uint32_t i) {
    (void)reply;
    api__write_uint(out, choice->tokens[i].depth);
}

/* vLLM's shape: an object keyed by token id. The first position has no entry. */
static void entry_prompt(buf *out, api_reply *reply, const api__choice *choice, uint32_t i) {
    const api__token *token = &choice->tokens[i];
    uint32_t n;
    const eng_top *top = tops_of(reply, choice, i, reply->req->n_prompt_top, &n);
    bool has_own = false;
    if (isnan(token->logprob)) {
        PUT("null");
        return;
    }
    put(out, '{');
    for (uint32_t j = 0; j <= n; j++) {
        bool own = j == n;
        if (own && has_own) break;
        uint32_t id = own ? token->id : top[j].id;
        has_own = has_own || id == token->id;
        buf_printf(out, "%s\"%u\":{\"logprob\":", j ? "," : "", id);
        api__write_logprob(out, own ? token->logprob : top[j].logprob);
        if (!own) buf_printf(out, ",\"rank\":%u", j + 1);
        PUT(",\"decoded_token\":");
        write_spelling(out, reply->ctx->opts.tokenizer, id, false);
        put(out, '}');
    }
    put(out, '}');
}

/* ---- lists of tokens ---- */

static bool write_entries(buf *out, api_reply *reply, const char *key, uint32_t from, uint32_t to,
                          api__entry entry, size_t end) {
    api__cursor *cursor = &reply->cursor;
    const api__choice *choice = api__chosen(reply);
    if (!cursor->open) {
        buf_puts(out, key);
        cursor->open = true;
        cursor->token = from;
    }
    for (; cursor->token < to; cursor->token++) {
        if (out->failed || out->len >= end) return false;
        if (cursor->comma) put(out, ',');
        entry(out, reply, choice, cursor->token);
        cursor->comma = true;
    }
    put(out, ']');
    return true;
}

/* These lists include the prompt's tokens only when a completion echoes the prompt. */
bool api__write_list(buf *out, api_reply *reply, const char *key, api__entry entry, size_t end) {
    const api__cursor *cursor = &reply->cursor;
    uint32_t scored = reply->req->echo ? 0 : api__chosen(reply)->n_scored;
    uint32_t from = cursor->from_token > scored ? cursor->from_token : scored;
    return write_entries(out, reply, key, from, cursor->to_token, entry, end);
}

bool api__write_no_list(buf *out, const char *key) {
    buf_puts(out, key);
    put(out, ']');
    return true;
}

/* ---- a choice's lists, as steps ---- */

bool api__step_chat_logprobs(buf *out, api_reply *reply, size_t end) {
    if (!reply->req->logprobs) {
        PUT(",\"logprobs\":null");
        return true;
    }
    if (!api__write_list(out, reply, ",\"logprobs\":{\"content\":[", api__entry_chat, end))
        return false;
    PUT(",\"refusal\":null}");
    return true;
}

bool api__step_texts(buf *out, api_reply *reply, size_t end) {
    if (reply->req->logprobs)
        return api__write_list(out, reply, ",\"logprobs\":{\"tokens\":[", entry_text, end);
    PUT(",\"logprobs\":null");
    return true;
}

bool api__step_logprobs(buf *out, api_reply *reply, size_t end) {
    if (!reply->req->logprobs) return true;
    return api__write_list(out, reply, ",\"token_logprobs\":[", entry_logprob, end);
}

bool api__step_tops(buf *out, api_reply *reply, size_t end) {
    if (!reply->req->logprobs) return true;
    return api__write_list(out, reply, ",\"top_logprobs\":[", entry_top, end);
}

bool api__step_offsets(buf *out, api_reply *reply, size_t end) {
    if (!reply->req->logprobs) return true;
    if (!api__write_list(out, reply, ",\"text_offset\":[", entry_offset, end)) return false;
    if (!reply->req->return_depth) put(out, '}');
    return true;
}

bool api__step_logprob_depths(buf *out, api_reply *reply, size_t end) {
    if (!reply->req->logprobs || !reply->req->return_depth) return true;
    if (!api__write_list(out, reply, ",\"depth\":[", entry_depth, end)) return false;
    put(out, '}');
    return true;
}

bool api__step_ids(buf *out, api_reply *reply, size_t end) {
    if (!reply->req->return_ids) return true;
    return api__write_list(out, reply, ",\"token_ids\":[", entry_id, end);
}

bool api__step_depths(buf *out, api_reply *reply, size_t end) {
    if (!reply->req->return_depth) return true;
    return api__write_list(out, reply, ",\"depths\":[", entry_depth, end);
}

bool api__step_prompt_logprobs(buf *out, api_reply *reply, size_t end) {
    if (!reply->req->prompt_logprobs) return true;
    return write_entries(out, reply, ",\"prompt_logprobs\":[", 0, api__chosen(reply)->n_scored,
                         entry_prompt, end);
}

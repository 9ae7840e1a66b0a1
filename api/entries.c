/* entries.c - numbers, strings, single tokens and lists of them as JSON text.
 *
 * Only appends; no JSON tree and no allocation but the growth of the caller's buffer, for
 * this is run for every token of every stream. */
#include "api/api_internal.h"
#include "base/utf8.h"

/* One character, which is half of what is written. */
static void put(buf *out, char c) {
    if (out->failed || out->len + 1 >= out->cap) {
        buf_append(out, &c, 1);
        return;
    }
    out->data[out->len++] = c;
    out->data[out->len] = 0;
}

#define PUT(literal) buf_append(out, literal, sizeof(literal) - 1)

/* ---- numbers ---- */

void api__write_uint(buf *out, uint64_t v) {
    char digits[20];
    if (v < 10) {
        put(out, (char)('0' + v));
        return;
    }
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + v % 10);
    while ((v /= 10) > 0);
    buf_append(out, digits + at, sizeof digits - at);
}

/* "%.6g" of -x, x from 0.0001 to 9999. A float has 24 bits and 5^9 has 21, so the product is exact
 * and rounding it to even is what printf does; printf takes four times as long. */
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
    /* From behind: the decimals, the point, at least one digit before it. */
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

/* -9999 is the API's word for "very unlikely"; JSON has no infinities. */
void api__write_logprob(buf *out, float v) {
    char text[32];
    double x = isnan(v) || v < -9999.0f ? 9999.0 : v < 0 ? -(double)v : 0.0;
    if (x >= 1e-4) {
        write_plain(out, x);
        return;
    }
    int n = snprintf(text, sizeof text, "%.6g", x > 0 ? -x : 0.0);
    buf_append(out, text, (size_t)n);
}

/* ---- strings of any length ---- */

enum { PIECE = 256 }; /* bytes written between two looks at the room left */

/* At most n bytes of more than n, so that no character is cut; n is 4 or more. */
static size_t whole_characters(const char *s, size_t n) {
    for (size_t cut = n; cut > n - 4; cut--) {
        if (((unsigned char)s[cut] & 0xc0) != 0x80) return cut;
    }
    return n; /* these bytes are no character, and none is split between two of them */
}

bool api__write_string(buf *out, api__cursor *k, const char *s, size_t n, size_t end) {
    if (!k->open) buf_append(out, "\"", 1);
    k->open = true;
    while (k->byte < n) {
        if (out->failed || out->len >= end) return false;
        size_t left = n - k->byte,
               piece = left > PIECE ? whole_characters(s + k->byte, PIECE) : left;
        buf_json_escaped(out, s + k->byte, piece);
        k->byte += piece;
    }
    buf_append(out, "\"", 1);
    return true;
}

bool api__write_raw(buf *out, api__cursor *k, const char *s, size_t n, size_t end) {
    while (k->byte < n) {
        if (out->failed || out->len >= end) return false;
        size_t left = n - k->byte, room = end - out->len;
        size_t piece = left < room ? left : room;
        buf_append(out, s + k->byte, piece);
        k->byte += piece;
    }
    return true;
}

/* ---- single tokens ---- */

static size_t text_start(const api__choice *ch, uint32_t i) {
    return i == 0 ? ch->tokens_at : ch->tokens[i - 1].text_end;
}

static void entry_text(buf *out, api_reply *r, const api__choice *ch, uint32_t i) {
    size_t from = text_start(ch, i);
    (void)r;
    buf_json_string(out, ch->text.data ? ch->text.data + from : "", ch->tokens[i].text_end - from);
}

/* A token that is not part of the text: its spelling, special or not. */
static void write_spelling(buf *out, const tokenizer *t, uint32_t id, bool as_key) {
    size_t n = 0;
    const char *bytes = t ? tokenizer_bytes(t, id, &n) : NULL;
    if (bytes == NULL) {
        char text[32];
        int len = snprintf(text, sizeof text, "token_id:%u", id);
        buf_json_string(out, text, (size_t)len);
    } else if (as_key && (!utf8_valid(bytes, n) || memchr(bytes, 0, n))) {
        /* U+FFFD twice would be one key twice, and many parsers take no NUL in a key. */
        PUT("\"bytes:");
        for (size_t i = 0; i < n; i++) {
            static const char hex[] = "0123456789abcdef";
            unsigned b = (unsigned char)bytes[i];
            const char text[] = {'\\', '\\', 'x', hex[b >> 4], hex[b & 15]};
            buf_append(out, text, sizeof text);
        }
        PUT("\"");
    } else {
        buf_json_string(out, bytes, n);
    }
}

static void write_bytes(buf *out, const tokenizer *t, uint32_t id) {
    size_t n = 0;
    const char *bytes = t ? tokenizer_bytes(t, id, &n) : NULL;
    char *at;
    if (n > SIZE_MAX / 4 - 2 || buf_reserve(out, 4 * n + 2) != 0) return;
    at = out->data + out->len; /* byte by byte, for there are more of these than of all else */
    *at++ = '[';
    for (size_t i = 0; i < n; i++) {
        unsigned b = (unsigned char)bytes[i];
        if (i) *at++ = ',';
        if (b >= 100) *at++ = (char)('0' + b / 100);
        if (b >= 10) *at++ = (char)('0' + b / 10 % 10);
        *at++ = (char)('0' + b % 10);
    }
    *at++ = ']';
    *at = 0;
    out->len = (size_t)(at - out->data);
}

static const eng_top *tops_of(const api_reply *r, const api__choice *ch, uint32_t i, uint32_t most,
                              uint32_t *n) {
    *n = ch->tokens[i].n_top < most ? ch->tokens[i].n_top : most;
    return ch->tops ? ch->tops + api__tops_at(r, ch, i) : NULL;
}

void api__entry_chat(buf *out, api_reply *r, const api__choice *ch, uint32_t i) {
    const tokenizer *t = r->c->opts.tokenizer;
    const api__token *k = &ch->tokens[i];
    uint32_t n;
    const eng_top *top = tops_of(r, ch, i, r->r->n_top, &n);
    PUT("{\"token\":");
    entry_text(out, r, ch, i);
    PUT(",\"logprob\":");
    api__write_logprob(out, k->logprob);
    PUT(",\"bytes\":");
    write_bytes(out, t, k->id);
    PUT(",\"top_logprobs\":[");
    for (uint32_t j = 0; j < n; j++) {
        buf_puts(out, j ? ",{\"token\":" : "{\"token\":");
        write_spelling(out, t, top[j].id, false);
        PUT(",\"logprob\":");
        api__write_logprob(out, top[j].logprob);
        PUT(",\"bytes\":");
        write_bytes(out, t, top[j].id);
        put(out, '}');
    }
    put(out, ']');
    if (r->r->return_depth) {
        PUT(",\"depth\":");
        api__write_uint(out, k->depth);
    }
    put(out, '}');
}

static void entry_logprob(buf *out, api_reply *r, const api__choice *ch, uint32_t i) {
    (void)r;
    if (isnan(ch->tokens[i].logprob)) PUT("null");
    else api__write_logprob(out, ch->tokens[i].logprob);
}

static void entry_top(buf *out, api_reply *r, const api__choice *ch, uint32_t i) {
    const api__token *k = &ch->tokens[i];
    uint32_t n;
    const eng_top *top = tops_of(r, ch, i, r->r->n_top, &n);
    bool has_own = false;
    if (isnan(k->logprob) || r->r->n_top == 0) {
        PUT("null");
        return;
    }
    put(out, '{');
    for (uint32_t j = 0; j < n; j++) {
        if (j) put(out, ',');
        write_spelling(out, r->c->opts.tokenizer, top[j].id, true);
        put(out, ':');
        api__write_logprob(out, top[j].logprob);
        has_own = has_own || top[j].id == k->id;
    }
    if (!has_own) { /* the chosen one is always there, so there may be one more than asked */
        if (n) put(out, ',');
        write_spelling(out, r->c->opts.tokenizer, k->id, true);
        put(out, ':');
        api__write_logprob(out, k->logprob);
    }
    put(out, '}');
}

static void entry_offset(buf *out, api_reply *r, const api__choice *ch, uint32_t i) {
    size_t from = text_start(ch, i);
    if (!r->cursor.comma) r->cursor.chars = ch->chars;
    api__write_uint(out, r->cursor.chars);
    if (ch->text.data)
        r->cursor.chars += utf8_count(ch->text.data + from, ch->tokens[i].text_end - from);
}

static void entry_id(buf *out, api_reply *r, const api__choice *ch, uint32_t i) {
    (void)r;
    api__write_uint(out, ch->tokens[i].id);
}

static void entry_depth(buf *out, api_reply *r, const api__choice *ch, uint32_t i) {
    (void)r;
    api__write_uint(out, ch->tokens[i].depth);
}

/* vLLM's shape: keyed by token id; the first position has none. */
static void entry_prompt(buf *out, api_reply *r, const api__choice *ch, uint32_t i) {
    const api__token *k = &ch->tokens[i];
    uint32_t n;
    const eng_top *top = tops_of(r, ch, i, r->r->n_prompt_top, &n);
    bool has_own = false;
    if (isnan(k->logprob)) {
        PUT("null");
        return;
    }
    put(out, '{');
    for (uint32_t j = 0; j <= n; j++) {
        bool own = j == n;
        if (own && has_own) break;
        uint32_t id = own ? k->id : top[j].id;
        has_own = has_own || id == k->id;
        buf_printf(out, "%s\"%u\":{\"logprob\":", j ? "," : "", id);
        api__write_logprob(out, own ? k->logprob : top[j].logprob);
        if (!own) buf_printf(out, ",\"rank\":%u", j + 1);
        PUT(",\"decoded_token\":");
        write_spelling(out, r->c->opts.tokenizer, id, false);
        put(out, '}');
    }
    put(out, '}');
}

/* ---- lists of tokens ---- */

static bool write_entries(buf *out, api_reply *r, const char *key, uint32_t from, uint32_t to,
                          api__entry entry, size_t end) {
    api__cursor *k = &r->cursor;
    const api__choice *ch = api__chosen(r);
    if (!k->open) {
        buf_puts(out, key);
        k->open = true;
        k->token = from;
    }
    for (; k->token < to; k->token++) {
        if (out->failed || out->len >= end) return false;
        if (k->comma) put(out, ',');
        entry(out, r, ch, k->token);
        k->comma = true;
    }
    put(out, ']');
    return true;
}

/* The prompt's own tokens are part of these lists only where a completion echoes it. */
bool api__write_list(buf *out, api_reply *r, const char *key, api__entry entry, size_t end) {
    const api__cursor *k = &r->cursor;
    uint32_t scored = r->r->echo ? 0 : api__chosen(r)->n_scored;
    uint32_t from = k->from_token > scored ? k->from_token : scored;
    return write_entries(out, r, key, from, k->to_token, entry, end);
}

bool api__write_no_list(buf *out, const char *key) {
    buf_puts(out, key);
    put(out, ']');
    return true;
}

/* ---- a choice's lists, as steps ---- */

bool api__step_chat_logprobs(buf *out, api_reply *r, size_t end) {
    if (!r->r->logprobs) {
        PUT(",\"logprobs\":null");
        return true;
    }
    if (!api__write_list(out, r, ",\"logprobs\":{\"content\":[", api__entry_chat, end))
        return false;
    PUT(",\"refusal\":null}");
    return true;
}

bool api__step_texts(buf *out, api_reply *r, size_t end) {
    if (r->r->logprobs)
        return api__write_list(out, r, ",\"logprobs\":{\"tokens\":[", entry_text, end);
    PUT(",\"logprobs\":null");
    return true;
}

bool api__step_logprobs(buf *out, api_reply *r, size_t end) {
    if (!r->r->logprobs) return true;
    return api__write_list(out, r, ",\"token_logprobs\":[", entry_logprob, end);
}

bool api__step_tops(buf *out, api_reply *r, size_t end) {
    if (!r->r->logprobs) return true;
    return api__write_list(out, r, ",\"top_logprobs\":[", entry_top, end);
}

bool api__step_offsets(buf *out, api_reply *r, size_t end) {
    if (!r->r->logprobs) return true;
    if (!api__write_list(out, r, ",\"text_offset\":[", entry_offset, end)) return false;
    if (!r->r->return_depth) put(out, '}');
    return true;
}

bool api__step_logprob_depths(buf *out, api_reply *r, size_t end) {
    if (!r->r->logprobs || !r->r->return_depth) return true;
    if (!api__write_list(out, r, ",\"depth\":[", entry_depth, end)) return false;
    put(out, '}');
    return true;
}

bool api__step_ids(buf *out, api_reply *r, size_t end) {
    if (!r->r->return_ids) return true;
    return api__write_list(out, r, ",\"token_ids\":[", entry_id, end);
}

bool api__step_depths(buf *out, api_reply *r, size_t end) {
    if (!r->r->return_depth) return true;
    return api__write_list(out, r, ",\"depths\":[", entry_depth, end);
}

bool api__step_prompt_logprobs(buf *out, api_reply *r, size_t end) {
    if (!r->r->prompt_logprobs) return true;
    return write_entries(out, r, ",\"prompt_logprobs\":[", 0, api__chosen(r)->n_scored,
                         entry_prompt, end);
}

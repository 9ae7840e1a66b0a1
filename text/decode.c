/* decode.c - the decoder: token ids back to text.
 *
 * The bytes of byte-level tokens are joined. SentencePiece spells a space as U+2581 and a byte as
 * "<0x0A>", and the steps of the decoder turn such spellings into text. A single token inside a
 * text goes through the same steps, without their effect on the two ends of a text. */
#include "base/size.h"
#include "base/utf8.h"
#include "text/load_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_GROWTH = 8, /* factor by which all Replace steps together may lengthen a token */
    SOME = 64,      /* tokens that one call of tokenizer_decode_some decodes, at least */
};

/* ---- steps on one token ---- */

static void replace(const text__decode_step *step, const char *text, size_t n, buf *out) {
    const char *end = text + n, *at;
    while ((at = memmem(text, (size_t)(end - text), step->from, step->n_from)) != NULL) {
        buf_append(out, text, (size_t)(at - text));
        buf_append(out, step->to, step->n_to);
        text = at + step->n_from;
    }
    buf_append(out, text, (size_t)(end - text));
}

static void strip(const text__decode_step *step, const char *text, size_t n, buf *out) {
    for (uint32_t i = 0; i < step->start && n >= step->n_from; i++) {
        if (memcmp(text, step->from, step->n_from) != 0) break;
        text += step->n_from;
        n -= step->n_from;
    }
    for (uint32_t i = 0; i < step->stop && n >= step->n_from; i++) {
        if (memcmp(text + n - step->n_from, step->from, step->n_from) != 0) break;
        n -= step->n_from;
    }
    buf_append(out, text, n);
}

static int hex(char digit) {
    if (digit >= '0' && digit <= '9') return digit - '0';
    if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

/* The byte that "<0x0A>" spells; -1 for another text. */
static int spelled_byte(const char *text, size_t n) {
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex(text[3]), low = hex(text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static void decode_step(const text__decode_step *step, const char *text, size_t n, bool first,
                        buf *out) {
    switch (step->kind) {
    case TEXT__SPACES:
        replace(&(text__decode_step){.from = step->from,
                                     .n_from = step->n_from,
                                     .to = " ",
                                     .n_to = !first || step->keep_first},
                text, n, out);
        break;
    case TEXT__REPLACE: replace(step, text, n, out); break;
    case TEXT__STRIP: strip(step, text, n, out); break;
    default: buf_append(out, text, n);
    }
}

void text__decode_one(const tokenizer *tok, const char *key, size_t n, buf *out) {
    buf now = {0}, next = {0};
    bool fused = false;
    buf_append(&now, key, n);
    for (uint32_t i = 0; i < tok->n_decoder && !now.failed; i++) {
        const text__decode_step *step = &tok->decoder[i];
        int byte = step->kind == TEXT__BYTE_FALLBACK ? spelled_byte(now.data, now.len) : -1;
        fused = fused || step->kind == TEXT__FUSE;
        buf_clear(&next);
        if (byte >= 0) buf_append(&next, &(char){(char)byte}, 1);
        else if (fused && step->kind == TEXT__STRIP) continue; /* it strips the whole text */
        else decode_step(step, now.data ? now.data : "", now.len, false, &next);
        buf swap = now;
        now = next;
        next = swap;
    }
    if (now.failed || next.failed) out->failed = true;
    else buf_append(out, now.data ? now.data : "", now.len);
    buf_deinit(&now);
    buf_deinit(&next);
}

/* ---- a whole text ---- */

typedef struct {
    buf text;
    size_t *ends; /* [count] of the pieces in text */
    size_t count;
} pieces;

/* The token exists and is part of the text. */
static bool is_shown(const tokenizer *tok, uint32_t id, bool skip_special) {
    return id < tok->n_ids && tok->tokens[id].key_len > 0 &&
           !(skip_special && tok->tokens[id].special);
}

static void end_piece(pieces *list) {
    list->ends[list->count++] = list->text.len;
}

/* Adjacent byte tokens become one text if their bytes are UTF-8 together, otherwise each becomes
 * the replacement character. */
static void fall_back(const pieces *from, pieces *to) {
    buf run = {0};
    for (size_t i = 0, start = 0; i <= from->count; i++) {
        size_t end = i < from->count ? from->ends[i] : start;
        int byte = i < from->count ? spelled_byte(from->text.data + start, end - start) : -1;
        if (byte >= 0) {
            buf_append(&run, &(char){(char)byte}, 1);
        } else if (run.len > 0) {
            bool whole = utf8_valid(run.data, run.len);
            if (whole) buf_append(&to->text, run.data, run.len);
            if (whole) end_piece(to);
            for (size_t k = 0; !whole && k < run.len; k++) {
                buf_puts(&to->text, UTF8_REPLACEMENT);
                end_piece(to);
            }
            buf_clear(&run);
        }
        if (byte < 0 && i < from->count) {
            buf_append(&to->text, from->text.data + start, end - start);
            end_piece(to);
        }
        start = end;
    }
    if (run.failed) to->text.failed = true;
    buf_deinit(&run);
}

/* `first`: the pieces begin the text. `fused`: they are one piece already, after a Fuse. */
static void step_pieces(const text__decode_step *step, const pieces *from, bool first, bool fused,
                        pieces *to) {
    buf_clear(&to->text);
    to->count = 0;
    if (step->kind == TEXT__BYTE_FALLBACK) {
        fall_back(from, to);
        return;
    }
    text__decode_step middle = *step;
    if (fused && !first) middle.start = 0;
    for (size_t i = 0, start = 0; i < from->count; start = from->ends[i++]) {
        size_t n = from->ends[i] - start;
        decode_step(&middle, n ? from->text.data + start : "", n, first && i == 0, &to->text);
        if (step->kind != TEXT__FUSE) end_piece(to);
    }
    if (step->kind == TEXT__FUSE) end_piece(to);
}

static void run_steps(const tokenizer *tok, pieces *now, bool first) {
    pieces next = {.ends = array_new(now->count + 1,
                                     sizeof *next.ends)}; /* Fuse gives one piece even for none */
    bool fused = false;
    if (next.ends == NULL) now->text.failed = true;
    for (uint32_t i = 0; i < tok->n_decoder && !now->text.failed; i++) {
        step_pieces(&tok->decoder[i], now, first, fused, &next);
        fused = fused || tok->decoder[i].kind == TEXT__FUSE;
        bool failed = next.text.failed;
        pieces swap = *now;
        *now = next;
        next = swap;
        if (failed) now->text.failed = true;
    }
    buf_deinit(&next.text);
    free(next.ends);
}

/* Decoding may stop before this token: it is no byte token, so it joins no earlier bytes. */
static bool may_cut(const tokenizer *tok, uint32_t id, bool skip_special) {
    if (tok->n_decoder == 0) return true;
    if (!is_shown(tok, id, skip_special)) return false;
    const text__token *token = &tok->tokens[id];
    return spelled_byte(tok->text + token->key, token->key_len) < 0;
}

int tokenizer_decode_some(const tokenizer *tok, const uint32_t *ids, size_t n, size_t *at,
                          bool skip_special, buf *out, err *e) {
    size_t end = n - *at > SOME && !tok->decode_whole ? *at + SOME : n, start = *at;
    while (end < n && !may_cut(tok, ids[end], skip_special))
        end++;
    pieces now = {.ends = array_new(end - start + 1, sizeof *now.ends)};
    bool failed = now.ends == NULL;
    for (size_t i = start; i < end && !failed; i++) {
        if (!is_shown(tok, ids[i], skip_special)) continue;
        const text__token *token = &tok->tokens[ids[i]];
        bool spelled = tok->n_decoder > 0 || (token->added && token->unreachable);
        if (spelled) buf_append(&now.text, tok->text + token->key, token->key_len);
        else buf_append(&now.text, tok->text + token->at, token->len);
        end_piece(&now);
    }
    if (!failed && tok->n_decoder) run_steps(tok, &now, start == 0);
    failed = failed || now.text.failed;
    if (!failed) buf_append(out, now.text.data ? now.text.data : "", now.text.len);
    failed = failed || out->failed;
    buf_deinit(&now.text);
    free(now.ends);
    *at = end;
    return failed ? err_set(e, ERR_NO_MEMORY, NULL, "out of memory for the text of tokens") : 0;
}

int tokenizer_decode(const tokenizer *tok, const uint32_t *ids, size_t n, bool skip_special,
                     buf *out, err *e) {
    for (size_t at = 0; at < n;) {
        if (tokenizer_decode_some(tok, ids, n, &at, skip_special, out, e) != 0) return -1;
    }
    return 0;
}

/* ---- loading ---- */

static int load_replace(text__loader *loader, text__decode_step *step, const json_t *decoder) {
    const json_t *pattern = json_object_get(json_object_get(decoder, "pattern"), "String"),
                 *content = json_object_get(decoder, "content");
    if (json_string_length(pattern) == 0 || !json_is_string(content)) {
        return text__bad(loader, "decoder",
                         "a Replace decoder needs a String as pattern, and a content");
    }
    size_t n_from = json_string_length(pattern), n_to = json_string_length(content);
    if (n_to > n_from) loader->growth *= (double)n_to / (double)n_from;
    if (loader->growth > MAX_GROWTH)
        return text__bad(loader, "decoder",
                         "the Replace decoders could make a text more than %d times longer",
                         MAX_GROWTH);
    if (text__load_copy(loader, pattern, &step->from, &step->n_from) != 0) return -1;
    return text__load_copy(loader, content, &step->to, &step->n_to);
}

/* Loads a text of one character. */
static int load_char(text__loader *loader, text__decode_step *step, const json_t *text,
                     const char *type) {
    size_t n = json_string_length(text);
    if (n == 0 || utf8_char(json_string_value(text), n) != n)
        return text__bad(loader, "decoder", "a %s decoder needs a text of one character", type);
    return text__load_copy(loader, text, &step->from, &step->n_from);
}

static int load_count(text__loader *loader, const json_t *value, uint32_t *out) {
    json_int_t n = json_integer_value(value);
    if (!json_is_integer(value) || n < 0 || n > UINT32_MAX)
        return text__bad(loader, "decoder", "a Strip decoder needs numbers for start and stop");
    *out = (uint32_t)n;
    return 0;
}

static int load_step(text__loader *loader, const json_t *decoder, const char *type) {
    static const char *const names[] = {[TEXT__REPLACE] = "Replace",
                                        [TEXT__BYTE_FALLBACK] = "ByteFallback",
                                        [TEXT__FUSE] = "Fuse",
                                        [TEXT__STRIP] = "Strip",
                                        [TEXT__SPACES] = "Metaspace"};
    tokenizer *tok = loader->tok;
    if (tok->n_decoder == TEXT__MAX_STEPS)
        return text__bad(loader, "decoder", "there are more than %d decoders", TEXT__MAX_STEPS);
    text__decode_step *step = &tok->decoder[tok->n_decoder++];
    size_t kind = 0;
    while (kind < ARRAY_LEN(names) && strcmp(names[kind], type) != 0)
        kind++;
    step->kind = (text__decoding)kind;
    if (kind == TEXT__REPLACE) return load_replace(loader, step, decoder);
    if (kind == TEXT__STRIP) {
        if (load_count(loader, json_object_get(decoder, "start"), &step->start) != 0) return -1;
        if (load_count(loader, json_object_get(decoder, "stop"), &step->stop) != 0) return -1;
        return load_char(loader, step, json_object_get(decoder, "content"), type);
    }
    if (kind == TEXT__SPACES) {
        text__metaspace meta;
        if (text__metaspace_load(&meta, decoder, "decoder", loader->file, loader->e) != 0)
            return -1;
        step->keep_first = meta.prepend == TEXT__NEVER;
        return load_char(loader, step, json_object_get(decoder, "replacement"), type);
    }
    if (kind < ARRAY_LEN(names)) return 0;
    return text__bad(loader, "decoder",
                     "decoder %.40s is not supported here (supported: ByteLevel alone, or Replace, "
                     "ByteFallback, Fuse, Strip, Metaspace)",
                     type);
}

/* A step after Fuse changes more than the start of the text. No published file has such a step. */
static bool needs_whole(const tokenizer *tok) {
    bool fused = false;
    for (uint32_t i = 0; i < tok->n_decoder; i++) {
        const text__decode_step *step = &tok->decoder[i];
        if (fused && (step->kind != TEXT__STRIP || step->stop > 0)) return true;
        fused = fused || step->kind == TEXT__FUSE;
    }
    return false;
}

int text__decoder_load(text__loader *loader, const json_t *decoder) {
    const char *type = json_string_value(json_object_get(decoder, "type"));
    const json_t *list = json_object_get(decoder, "decoders");
    if (type && strcmp(type, "Sequence") == 0 && json_array_size(list) == 1) {
        decoder = json_array_get(list, 0);
        type = json_string_value(json_object_get(decoder, "type"));
    }
    loader->growth = 1;
    loader->byte_decoder = type && strcmp(type, "ByteLevel") == 0;
    if (loader->byte_decoder) return 0;
    if (loader->tok->chars && decoder && !json_is_null(decoder)) {
        if (text__each_part(loader, decoder, "decoder", load_step) != 0) return -1;
        loader->tok->decode_whole = needs_whole(loader->tok);
        return 0;
    }
    return text__bad(loader, "decoder", "decoder %.40s is not supported%s", type ? type : "null",
                     loader->tok->chars ? ""
                                        : " with a ByteLevel pre_tokenizer (supported: ByteLevel)");
}

void text__decoder_free(tokenizer *tok) {
    for (uint32_t i = 0; i < tok->n_decoder; i++) {
        free(tok->decoder[i].from);
        free(tok->decoder[i].to);
    }
}

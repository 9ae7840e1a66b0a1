/* bpe.c - merging a piece of text into tokens.
 *
 * The merge of the lowest rank goes first, the leftmost of equal rank. A short piece is scanned for
 * it. A long piece keeps a heap and skips stale entries when they reach the top, so any text, such
 * as two megabytes of one letter, takes n log n steps. */
#include "base/cancel.h"
#include "base/size.h"
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    SHORT_PIECE = TOKENIZER_PIECE, /* symbols; up to here scanning is faster than the heap */
    CHECK_EVERY = 1024, /* the cancel flag is read every so many pieces, or merges of a long one */
};

static int check_wanted(const text__encoder *enc, size_t steps) {
    return steps % CHECK_EVERY == 0 ? cancel_check("tokenizing", enc->e) : 0;
}

int text__put_id(text__encoder *enc, uint32_t id) {
    token_ids *out = enc->out;
    if (out->n >= enc->max_ids) {
        return err_set(enc->e, ERR_TOO_LONG, NULL, "the text has more than %zu tokens",
                       enc->max_ids);
    }
    if (out->n == out->cap) {
        size_t cap = out->cap ? out->cap : 32, bytes;
        if (!size_mul(cap, 2, &cap) || !size_mul(cap, sizeof *out->data, &bytes)) goto fail;
        uint32_t *data = realloc(out->data, bytes);
        if (data == NULL) goto fail;
        out->data = data;
        out->cap = cap;
    }
    out->data[out->n++] = id;
    return 0;
fail:
    return err_set(enc->e, ERR_NO_MEMORY, NULL, "out of memory for token ids");
}

static uint64_t merge_key(uint32_t left, uint32_t right) {
    return (uint64_t)left << 32 | right;
}

/* ---- the first symbols of a piece, before merging; each function returns their number ---- */

/* A byte without a token becomes the unknown token. Without an unknown token the byte is left out
 * and its neighbours become adjacent. */
static size_t byte_symbols(const tokenizer *tok, const char *text, size_t n,
                           text__symbol *symbols) {
    size_t count = 0;
    bool after_unk = false;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = tok->byte_id[(unsigned char)text[i]];
        bool unk = id == TEXT__NO_ID;
        if (unk && (tok->unk == TEXT__NO_ID || (after_unk && tok->fuse_unk))) continue;
        after_unk = unk;
        symbols[count].id = unk ? tok->unk : id;
        count++;
    }
    return count;
}

static uint32_t char_id(const tokenizer *tok, const char *text, size_t len) {
    return len == 1 ? tok->ascii_id[(unsigned char)*text] : text__token_lookup(tok, text, len);
}

/* Every byte of the character has a token. */
static bool has_byte_tokens(const tokenizer *tok, const char *text, size_t len) {
    for (size_t i = 0; i < len; i++) {
        if (tok->byte_id[(unsigned char)text[i]] == TEXT__NO_ID) return false;
    }
    return true;
}

/* A character without a token becomes the tokens of its bytes, else the unknown token, else
 * nothing. As in the reference, the unknown token is put out only before the next character with a
 * token, so after byte tokens that follow it in the text. */
static size_t char_symbols(const tokenizer *tok, const char *text, size_t n,
                           text__symbol *symbols) {
    size_t count = 0;
    bool unk = false;
    for (size_t i = 0, len; i < n; i += len) {
        len = utf8_length((unsigned char)text[i]);
        uint32_t id = char_id(tok, text + i, len);
        if (id != TEXT__NO_ID) {
            if (unk) symbols[count++].id = tok->unk;
            unk = false;
            symbols[count++].id = id;
        } else if (has_byte_tokens(tok, text + i, len)) {
            for (size_t k = 0; k < len; k++)
                symbols[count++].id = tok->byte_id[(unsigned char)text[i + k]];
        } else if (tok->unk != TEXT__NO_ID) {
            if (unk && !tok->fuse_unk) symbols[count++].id = tok->unk;
            unk = true;
        }
    }
    if (unk) symbols[count++].id = tok->unk;
    return count;
}

/* An upper bound of the first symbols of a piece. */
static size_t most_symbols(const tokenizer *tok, const char *text, size_t n) {
    size_t count = 0;
    if (!tok->chars) return n;
    for (size_t i = 0, len; i < n; i += len) {
        len = utf8_length((unsigned char)text[i]);
        count += char_id(tok, text + i, len) != TEXT__NO_ID ? 1 : len;
    }
    return count;
}

static size_t first_symbols(const tokenizer *tok, const char *text, size_t n,
                            text__symbol *symbols) {
    return tok->chars ? char_symbols(tok, text, n, symbols) : byte_symbols(tok, text, n, symbols);
}

/* ---- merging ---- */

static size_t merge_short(const tokenizer *tok, text__symbol *symbols, size_t n) {
    uint64_t found[SHORT_PIECE]; /* the merge of symbols i and i + 1 */
    for (size_t i = 0; i + 1 < n; i++)
        found[i] = map_get(&tok->merges, merge_key(symbols[i].id, symbols[i + 1].id));
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            best = found[i] < found[best] ? i : best;
        if (found[best] == MAP_NONE) break;
        symbols[best].id = (uint32_t)found[best];
        n--;
        memmove(symbols + best + 1, symbols + best + 2, (n - best - 1) * sizeof *symbols);
        memmove(found + best, found + best + 1, (n - best - 1) * sizeof *found);
        if (best > 0)
            found[best - 1] =
                map_get(&tok->merges, merge_key(symbols[best - 1].id, symbols[best].id));
        if (best + 1 < n)
            found[best] = map_get(&tok->merges, merge_key(symbols[best].id, symbols[best + 1].id));
    }
    return n;
}

static void heap_push(uint64_t *heap, size_t *count, uint64_t entry) {
    size_t at = (*count)++;
    for (size_t up; at > 0 && heap[up = (at - 1) / 4] > entry; at = up)
        heap[at] = heap[up];
    heap[at] = entry;
}

static uint64_t heap_pop(uint64_t *heap, size_t *count) {
    uint64_t top = heap[0], entry = heap[--*count];
    size_t at = 0;
    for (size_t child; (child = 4 * at + 1) < *count; at = child) {
        size_t end = child + 4 < *count ? child + 4 : *count;
        for (size_t k = child + 1; k < end; k++)
            child = heap[k] < heap[child] ? k : child;
        if (heap[child] >= entry) break;
        heap[at] = heap[child];
    }
    heap[at] = entry;
    return top;
}

/* Pushes the merge of `left` with its right neighbour, if there is one. */
static void push_merge(text__encoder *enc, size_t *n, uint32_t left) {
    const text__symbol *symbols = enc->symbols;
    uint64_t found =
        map_get(&enc->tok->merges, merge_key(symbols[left].id, symbols[symbols[left].next].id));
    if (found != MAP_NONE) heap_push(enc->heap, n, (found & ~(uint64_t)UINT32_MAX) | left);
}

/* Each merge pops one entry and pushes two, so the heap holds under 2 n entries. */
static int merge_long(text__encoder *enc, size_t n) {
    text__symbol *symbols = enc->symbols;
    size_t in_heap = 0;
    for (size_t i = 0; i < n; i++) {
        symbols[i].prev = i ? (uint32_t)(i - 1) : TEXT__NO_ID;
        symbols[i].next = i + 1 < n ? (uint32_t)(i + 1) : TEXT__NO_ID;
    }
    for (size_t i = 0; i + 1 < n; i++) {
        if (check_wanted(enc, i) != 0) return -1;
        push_merge(enc, &in_heap, (uint32_t)i);
    }
    for (size_t steps = 1; in_heap > 0; steps++) {
        if (check_wanted(enc, steps) != 0) return -1;
        uint64_t top = heap_pop(enc->heap, &in_heap);
        uint32_t left = (uint32_t)top, right = symbols[left].next;
        if (symbols[left].id == TEXT__NO_ID || right == TEXT__NO_ID) continue;
        uint64_t found = map_get(&enc->tok->merges, merge_key(symbols[left].id, symbols[right].id));
        if (found == MAP_NONE || found >> 32 != top >> 32) continue; /* a neighbour changed */
        symbols[left].id = (uint32_t)found;
        symbols[left].next = symbols[right].next;
        symbols[right].id = TEXT__NO_ID;
        if (symbols[left].next != TEXT__NO_ID) {
            symbols[symbols[left].next].prev = left;
            push_merge(enc, &in_heap, left);
        }
        if (symbols[left].prev != TEXT__NO_ID) push_merge(enc, &in_heap, symbols[left].prev);
    }
    return 0;
}

static int reserve(text__encoder *enc, size_t n) {
    if (n <= enc->cap) return 0;
    if (n >= TEXT__NO_ID / 2)
        return err_set(enc->e, ERR_TOO_LONG, NULL,
                       "a piece of the text has %zu characters, which is too many", n);
    size_t cap = enc->cap ? enc->cap : 1024;
    while (cap < n)
        cap *= 2;
    free(enc->symbols);
    free(enc->heap);
    enc->symbols = array_new(cap, sizeof *enc->symbols);
    enc->heap = array_new(cap, 2 * sizeof *enc->heap);
    enc->cap = enc->symbols && enc->heap ? cap : 0;
    if (enc->cap == 0)
        return err_set(enc->e, ERR_NO_MEMORY, NULL, "out of memory for %zu characters", n);
    return 0;
}

static int encode_long(text__encoder *enc, const char *text, size_t n) {
    if (reserve(enc, most_symbols(enc->tok, text, n)) != 0) return -1;
    size_t count = first_symbols(enc->tok, text, n, enc->symbols);
    if (count == 0) return 0;
    if (merge_long(enc, count) != 0) return -1;
    for (uint32_t i = 0; i != TEXT__NO_ID; i = enc->symbols[i].next) {
        if (text__put_id(enc, enc->symbols[i].id) != 0) return -1;
    }
    return 0;
}

static int encode_short(text__encoder *enc, const char *text, size_t n, uint32_t whole) {
    text__symbol symbols[SHORT_PIECE];
    size_t count = merge_short(enc->tok, symbols, first_symbols(enc->tok, text, n, symbols));
    for (size_t i = 0; i < count; i++) {
        if (text__put_id(enc, symbols[i].id) != 0) return -1;
    }
    if (whole != TEXT__NO_ID) {
        uint8_t known = count == 1 && symbols[0].id == whole ? TEXT__WHOLE_YES : TEXT__WHOLE_NO;
        atomic_store_explicit(&enc->tok->whole[whole], known, memory_order_relaxed);
    }
    return 0;
}

/* Encodes a stretch of text. No merge crosses its ends. */
static int encode_part(text__encoder *enc, const char *text, size_t n) {
    if (check_wanted(enc, ++enc->pieces) != 0) return -1;
    uint32_t whole = n <= enc->tok->max_len ? text__token_lookup(enc->tok, text, n) : TEXT__NO_ID;
    /* Most words are one token. That merging the word gives this token is checked once per token.
     */
    if (whole != TEXT__NO_ID &&
        atomic_load_explicit(&enc->tok->whole[whole], memory_order_relaxed) == TEXT__WHOLE_YES) {
        return text__put_id(enc, whole);
    }
    return n <= SHORT_PIECE ? encode_short(enc, text, n, whole) : encode_long(enc, text, n);
}

/* A text of SentencePiece is one piece. It is cut between two characters with tokens if no merge
 * has a left side that ends with the first and a right side that begins with the second. Merges on
 * the two sides then never meet. */
static int encode_chars(text__encoder *enc, const char *text, size_t n) {
    const tokenizer *tok = enc->tok;
    size_t start = 0;
    uint32_t last = 0; /* 0: the last character has no token */
    for (size_t i = 0, len; i < n; i += len) {
        len = utf8_length((unsigned char)text[i]);
        uint32_t now = char_id(tok, text + i, len) != TEXT__NO_ID ? text__packed(text + i, len) : 0;
        if (last && now && map_get(&tok->joints, text__joint(last, now)) == MAP_NONE) {
            if (encode_part(enc, text + start, i - start) != 0) return -1;
            start = i;
        }
        last = now;
    }
    return encode_part(enc, text + start, n - start);
}

int text__encode_piece(text__encoder *enc, const char *text, size_t n) {
    const tokenizer *tok = enc->tok;
    uint32_t whole =
        tok->ignore_merges && n <= tok->max_len ? text__token_lookup(tok, text, n) : TEXT__NO_ID;
    if (whole != TEXT__NO_ID) return text__put_id(enc, whole);
    return tok->chars ? encode_chars(enc, text, n) : encode_part(enc, text, n);
}

size_t tokenizer_merge(const tokenizer *tok, const char *text, size_t n,
                       uint32_t ids[TOKENIZER_PIECE]) {
    text__symbol symbols[SHORT_PIECE];
    if (tok->chars || n == 0 || n > SHORT_PIECE || tok->merges.n == 0) return 0;
    size_t count = merge_short(tok, symbols, byte_symbols(tok, text, n, symbols));
    for (size_t i = 0; i < count; i++)
        ids[i] = symbols[i].id;
    return count;
}

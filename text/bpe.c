/* bpe.c - merging a piece of text into tokens.
 *
 * The lowest rank merges first, the leftmost of equals. Short pieces scan for it; long
 * ones keep a heap whose stale entries are recognised when they come up, so that two
 * megabytes of one letter take n log n steps like anything else. */
#include "base/cancel.h"
#include "base/size.h"
#include "base/utf8.h"
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    SHORT_PIECE = 48,   /* symbols up to which scanning beats the heap */
    CHECK_EVERY = 1024, /* pieces, or merges of a long one, between looks at the cancel flag */
};

static int check_wanted(const text__encoder *c, size_t steps) {
    return steps % CHECK_EVERY == 0 ? cancel_check("tokenizing", c->e) : 0;
}

int text__put_id(text__encoder *c, uint32_t id) {
    token_ids *out = c->out;
    if (out->n >= c->max_ids) {
        return err_set(c->e, ERR_TOO_LONG, NULL, "the text has more than %zu tokens", c->max_ids);
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
    return err_set(c->e, ERR_NO_MEMORY, NULL, "out of memory for token ids");
}

static uint64_t pair(uint32_t left, uint32_t right) {
    return (uint64_t)left << 32 | right;
}

/* ---- the symbols a piece starts as: how many; at most n ---- */

/* A byte without a token becomes the unknown token; where there is none it is left out and its
 * neighbours meet. */
static size_t byte_symbols(const tokenizer *t, const char *text, size_t n, text__symbol *s) {
    size_t count = 0;
    bool after_unk = false;
    for (size_t i = 0; i < n; i++) {
        uint32_t id = t->byte_id[(unsigned char)text[i]];
        bool unk = id == TEXT__NO_ID;
        if (unk && (t->unk == TEXT__NO_ID || (after_unk && t->fuse_unk))) continue;
        after_unk = unk;
        s[count].id = unk ? t->unk : id;
        count++;
    }
    return count;
}

static uint32_t char_id(const tokenizer *t, const char *s, size_t len) {
    return len == 1 ? t->ascii_id[(unsigned char)*s] : text__token_lookup(t, s, len);
}

static bool falls_back(const tokenizer *t, const char *s, size_t len) {
    for (size_t i = 0; i < len; i++) {
        if (t->byte_id[(unsigned char)s[i]] == TEXT__NO_ID) return false;
    }
    return true;
}

/* A character without a token becomes those of its bytes, else the unknown token, else nothing.
 * An unknown token waits for the next character that has a token: bytes go before it, as they do
 * in the reference. */
static size_t char_symbols(const tokenizer *t, const char *text, size_t n, text__symbol *s) {
    size_t count = 0;
    bool unk = false;
    for (size_t i = 0, len; i < n; i += len) {
        len = utf8_length((unsigned char)text[i]);
        uint32_t id = char_id(t, text + i, len);
        if (id != TEXT__NO_ID) {
            if (unk) s[count++].id = t->unk;
            unk = false;
            s[count++].id = id;
        } else if (falls_back(t, text + i, len)) {
            for (size_t k = 0; k < len; k++)
                s[count++].id = t->byte_id[(unsigned char)text[i + k]];
        } else if (t->unk != TEXT__NO_ID) {
            if (unk && !t->fuse_unk) s[count++].id = t->unk;
            unk = true;
        }
    }
    if (unk) s[count++].id = t->unk;
    return count;
}

/* Symbols that a piece may start as, at most. */
static size_t most_symbols(const tokenizer *t, const char *text, size_t n) {
    size_t count = 0;
    if (!t->chars) return n;
    for (size_t i = 0, len; i < n; i += len) {
        len = utf8_length((unsigned char)text[i]);
        count += char_id(t, text + i, len) != TEXT__NO_ID ? 1 : len;
    }
    return count;
}

static size_t first_symbols(const tokenizer *t, const char *text, size_t n, text__symbol *s) {
    return t->chars ? char_symbols(t, text, n, s) : byte_symbols(t, text, n, s);
}

/* ---- merging ---- */

static size_t merge_short(const tokenizer *t, text__symbol *s, size_t n) {
    uint64_t found[SHORT_PIECE]; /* what s[i] and s[i + 1] would become */
    for (size_t i = 0; i + 1 < n; i++)
        found[i] = map_get(&t->merges, pair(s[i].id, s[i + 1].id));
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            best = found[i] < found[best] ? i : best;
        if (found[best] == MAP_NONE) break;
        s[best].id = (uint32_t)found[best];
        n--;
        memmove(s + best + 1, s + best + 2, (n - best - 1) * sizeof *s);
        memmove(found + best, found + best + 1, (n - best - 1) * sizeof *found);
        if (best > 0) found[best - 1] = map_get(&t->merges, pair(s[best - 1].id, s[best].id));
        if (best + 1 < n) found[best] = map_get(&t->merges, pair(s[best].id, s[best + 1].id));
    }
    return n;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t v) {
    size_t at = (*n)++;
    for (size_t up; at > 0 && heap[up = (at - 1) / 4] > v; at = up)
        heap[at] = heap[up];
    heap[at] = v;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n) {
    uint64_t top = heap[0], v = heap[--*n];
    size_t at = 0;
    for (size_t child; (child = 4 * at + 1) < *n; at = child) {
        size_t end = child + 4 < *n ? child + 4 : *n;
        for (size_t k = child + 1; k < end; k++)
            child = heap[k] < heap[child] ? k : child;
        if (heap[child] >= v) break;
        heap[at] = heap[child];
    }
    heap[at] = v;
    return top;
}

static void offer(text__encoder *c, size_t *n, uint32_t left) {
    const text__symbol *s = c->symbols;
    uint64_t found = map_get(&c->t->merges, pair(s[left].id, s[s[left].next].id));
    if (found != MAP_NONE) heap_push(c->heap, n, (found & ~(uint64_t)UINT32_MAX) | left);
}

/* Each merge takes one entry and offers two, so the heap holds under 2 n entries. */
static int merge_long(text__encoder *c, size_t n) {
    text__symbol *s = c->symbols;
    size_t in_heap = 0;
    for (size_t i = 0; i < n; i++) {
        s[i].prev = i ? (uint32_t)(i - 1) : TEXT__NO_ID;
        s[i].next = i + 1 < n ? (uint32_t)(i + 1) : TEXT__NO_ID;
    }
    for (size_t i = 0; i + 1 < n; i++) {
        if (check_wanted(c, i) != 0) return -1;
        offer(c, &in_heap, (uint32_t)i);
    }
    for (size_t steps = 1; in_heap > 0; steps++) {
        if (check_wanted(c, steps) != 0) return -1;
        uint64_t top = heap_pop(c->heap, &in_heap);
        uint32_t left = (uint32_t)top, right = s[left].next;
        if (s[left].id == TEXT__NO_ID || right == TEXT__NO_ID) continue;
        uint64_t found = map_get(&c->t->merges, pair(s[left].id, s[right].id));
        if (found == MAP_NONE || found >> 32 != top >> 32) continue; /* a neighbour changed */
        s[left].id = (uint32_t)found;
        s[left].next = s[right].next;
        s[right].id = TEXT__NO_ID;
        if (s[left].next != TEXT__NO_ID) {
            s[s[left].next].prev = left;
            offer(c, &in_heap, left);
        }
        if (s[left].prev != TEXT__NO_ID) offer(c, &in_heap, s[left].prev);
    }
    return 0;
}

static int reserve(text__encoder *c, size_t n) {
    if (n <= c->cap) return 0;
    if (n >= TEXT__NO_ID / 2)
        return err_set(c->e, ERR_TOO_LONG, NULL, "a piece of %zu characters", n);
    size_t cap = c->cap ? c->cap : 1024;
    while (cap < n)
        cap *= 2;
    free(c->symbols);
    free(c->heap);
    c->symbols = array_new(cap, sizeof *c->symbols);
    c->heap = array_new(cap, 2 * sizeof *c->heap);
    c->cap = c->symbols && c->heap ? cap : 0;
    if (c->cap == 0)
        return err_set(c->e, ERR_NO_MEMORY, NULL, "out of memory for %zu characters", n);
    return 0;
}

static int encode_long(text__encoder *c, const char *text, size_t n) {
    if (reserve(c, most_symbols(c->t, text, n)) != 0) return -1;
    size_t count = first_symbols(c->t, text, n, c->symbols);
    if (count == 0) return 0;
    if (merge_long(c, count) != 0) return -1;
    for (uint32_t i = 0; i != TEXT__NO_ID; i = c->symbols[i].next) {
        if (text__put_id(c, c->symbols[i].id) != 0) return -1;
    }
    return 0;
}

static int encode_short(text__encoder *c, const char *text, size_t n, uint32_t same) {
    text__symbol s[SHORT_PIECE];
    size_t count = merge_short(c->t, s, first_symbols(c->t, text, n, s));
    for (size_t i = 0; i < count; i++) {
        if (text__put_id(c, s[i].id) != 0) return -1;
    }
    if (same != TEXT__NO_ID) {
        uint8_t known = count == 1 && s[0].id == same ? TEXT__WHOLE_YES : TEXT__WHOLE_NO;
        atomic_store_explicit(&c->t->whole[same], known, memory_order_relaxed);
    }
    return 0;
}

/* A stretch that no merge from outside reaches into. */
static int encode_part(text__encoder *c, const char *text, size_t n) {
    if (check_wanted(c, ++c->pieces) != 0) return -1;
    uint32_t same = n <= c->t->max_len ? text__token_lookup(c->t, text, n) : TEXT__NO_ID;
    /* Most words are one token. Whether merging would find it is asked once per token. */
    if (same != TEXT__NO_ID &&
        atomic_load_explicit(&c->t->whole[same], memory_order_relaxed) == TEXT__WHOLE_YES) {
        return text__put_id(c, same);
    }
    return n <= SHORT_PIECE ? encode_short(c, text, n, same) : encode_long(c, text, n);
}

/* SentencePiece's way has no pieces: a text is one. It is cut between two characters that have
 * tokens, if no merge joins what ends with the one to what begins with the other: the merges on
 * either side then never meet. */
static int encode_chars(text__encoder *c, const char *text, size_t n) {
    const tokenizer *t = c->t;
    size_t start = 0;
    uint32_t last = 0; /* 0: the last character has no token */
    for (size_t i = 0, len; i < n; i += len) {
        len = utf8_length((unsigned char)text[i]);
        uint32_t now = char_id(t, text + i, len) != TEXT__NO_ID ? text__packed(text + i, len) : 0;
        if (last && now && map_get(&t->joints, text__joint(last, now)) == MAP_NONE) {
            if (encode_part(c, text + start, i - start) != 0) return -1;
            start = i;
        }
        last = now;
    }
    return encode_part(c, text + start, n - start);
}

int text__encode_piece(text__encoder *c, const char *text, size_t n) {
    const tokenizer *t = c->t;
    uint32_t same =
        t->ignore_merges && n <= t->max_len ? text__token_lookup(t, text, n) : TEXT__NO_ID;
    if (same != TEXT__NO_ID) return text__put_id(c, same);
    return t->chars ? encode_chars(c, text, n) : encode_part(c, text, n);
}

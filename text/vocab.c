/* vocab.c - the model's vocabulary and merges, by id. */
#include "base/log.h"
#include "base/size.h"
#include "base/utf8.h"
#include "text/load_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the byte alphabet ---- */

/* GPT-2's printable stand-ins: visible Latin-1 bytes are themselves, the other 68 are
 * U+0100 and up. */
void text__alphabet_init(int16_t *byte_of) {
    int next = 256;
    for (int i = 0; i < TEXT__ALPHABET; i++)
        byte_of[i] = -1;
    for (int b = 0; b < 256; b++) {
        bool visible = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        byte_of[visible ? b : next++] = (int16_t)b;
    }
}

/* The bytes a vocabulary key stands for, into out (at least n bytes). 0 if a character is
 * outside the alphabet: such a key is its own UTF-8, as the reference decodes it. */
static size_t key_bytes(const text__loader *l, const char *key, size_t n, char *out) {
    size_t len = 0;
    for (size_t i = 0; i < n;) {
        unsigned c = (unsigned char)key[i++];
        if (c >= 0xc0 && c < 0xe0 && i < n) c = (c & 31) << 6 | ((unsigned char)key[i++] & 63);
        else if (c >= 0x80) return 0;
        if (c >= TEXT__ALPHABET || l->byte_of[c] < 0) return 0;
        out[len++] = (char)l->byte_of[c];
    }
    return len;
}

/* ---- tokens ---- */

/* An ordinary token past the model's rows is an error. An added one that also stands in the
 * vocabulary is left out with the others of its kind. */
static int check_key(text__loader *l, const char *key, size_t n, const json_t *v) {
    json_int_t id = json_integer_value(v);
    if (n == 0 || n > TEXT__MAX_PIECE) {
        return text__bad(l, "vocab", "a token of %zu bytes (1 to %d are allowed)", n,
                         TEXT__MAX_PIECE);
    }
    if (!json_is_integer(v) || id < 0)
        return text__bad(l, "vocab", "the id of '%.40s' is not a whole number", key);
    if (id >= (json_int_t)l->rows && json_object_getn(l->past, key, n) == NULL) {
        return text__bad(l, "vocab", "'%.40s' has id %lld, past the model's %u", key, (long long)id,
                         l->rows);
    }
    return 0;
}

int text__vocab_measure(text__loader *l) {
    const char *key;
    json_t *v;
    json_object_foreach(l->vocab, key, v) {
        size_t n = strlen(key);
        if (check_key(l, key, n, v) != 0) return -1;
        json_int_t id = json_integer_value(v);
        if (id >= (json_int_t)l->rows) continue;
        if (id >= (json_int_t)l->t->n_ids) l->t->n_ids = (uint32_t)id + 1;
    }
    return 0;
}

static uint32_t put_text(text__loader *l, const char *text, size_t n) {
    size_t at = l->text.len;
    buf_append(&l->text, text, n);
    return (uint32_t)at;
}

int text__token_spell(text__loader *l, text__token *token, const char *key, size_t n_key,
                      const char *bytes, size_t n) {
    token->key = token->at = put_text(l, key, n_key);
    token->key_len = (uint32_t)n_key;
    token->len = (uint32_t)n;
    if (n != n_key || memcmp(key, bytes, n) != 0) token->at = put_text(l, bytes, n);
    return l->text.failed ? text__load_no_memory(l) : 0;
}

/* A token of bytes is looked up by them, whatever the file spells. */
static int spell_bytes(text__loader *l, text__token *token, const char *key, size_t n) {
    char bytes[TEXT__MAX_PIECE];
    size_t len = key_bytes(l, key, n, bytes);
    token->alien = len == 0;
    return len ? text__token_spell(l, token, bytes, len, bytes, len)
               : text__token_spell(l, token, key, n, key, n);
}

static int spell_chars(text__loader *l, text__token *token, const char *key, size_t n) {
    char bytes[TEXT__MAX_PIECE];
    size_t len = l->byte_decoder ? key_bytes(l, key, n, bytes) : 0;
    if (len) return text__token_spell(l, token, key, n, bytes, len);
    buf text = {0};
    text__decode_one(l->t, key, n, &text);
    int rc = text.failed
                 ? text__load_no_memory(l)
                 : text__token_spell(l, token, key, n, text.data ? text.data : "", text.len);
    buf_deinit(&text);
    return rc;
}

int text__vocab_load(text__loader *l) {
    tokenizer *t = l->t;
    const char *key;
    json_t *v;
    json_object_foreach(l->vocab, key, v) {
        json_int_t id = json_integer_value(v);
        if (id >= (json_int_t)t->n_ids) continue;
        text__token *token = &t->tokens[id];
        if (token->key_len) {
            return text__bad(l, "vocab", "id %lld is given to two tokens, one is '%.40s'",
                             (long long)id, key);
        }
        int rc = t->chars ? spell_chars(l, token, key, strlen(key))
                          : spell_bytes(l, token, key, strlen(key));
        if (rc != 0) return -1;
    }
    return 0;
}

int text__vocab_id(const text__loader *l, const char *key, size_t n, uint32_t *id) {
    const json_t *v = json_object_getn(l->vocab, key, n);
    if (v == NULL || json_integer_value(v) >= (json_int_t)l->t->n_ids) return -1;
    *id = (uint32_t)json_integer_value(v);
    return 0;
}

/* ---- finding a token by its spelling ---- */

static uint64_t hash_bytes(const char *p, size_t n) {
    uint64_t h = n, word;
    for (; n >= 8; n -= 8, p += 8) {
        memcpy(&word, p, 8);
        h = hash_spread(h ^ word);
    }
    word = 0;
    memcpy(&word, p, n);
    h = hash_spread(h ^ word);
    return h ^ h >> 32;
}

uint32_t text__token_lookup(const tokenizer *t, const char *key, size_t n) {
    for (size_t at = hash_bytes(key, n) & t->slot_mask;; at = (at + 1) & t->slot_mask) {
        uint32_t id = t->slots[at];
        if (id == TEXT__NO_ID) return id;
        const text__token *token = &t->tokens[id];
        if (token->key_len == n && memcmp(t->text + token->key, key, n) == 0)
            return token->control ? TEXT__NO_ID : id;
    }
}

/* The token that byte_fallback puts for a byte. */
static uint32_t fallback_id(const text__loader *l, unsigned char byte) {
    char key[8];
    uint32_t id;
    int n = snprintf(key, sizeof key, "<0x%02X>", byte);
    return text__vocab_id(l, key, (size_t)n, &id) == 0 ? id : TEXT__NO_ID;
}

/* Whether the stand-in of a byte, which has no token, would be written by the tokens of its UTF-8.
 * No published file does that, and nobody would want it. */
static bool falls_back(const text__loader *l, int byte) {
    int c = 0;
    while (l->byte_of[c] != byte)
        c++;
    if (c < 0x80) return fallback_id(l, (unsigned char)c) != TEXT__NO_ID;
    return fallback_id(l, (unsigned char)(0xc0 | c >> 6)) != TEXT__NO_ID &&
           fallback_id(l, (unsigned char)(0x80 | (c & 63))) != TEXT__NO_ID;
}

/* A vocabulary that lacks some bytes and has no unknown token drops those bytes, as the
 * reference does: text then does not come back whole, which people should know. */
static int index_bytes(text__loader *l) {
    tokenizer *t = l->t;
    int missing = 0;
    for (int b = 0; b < 256; b++) {
        t->byte_id[b] = text__token_lookup(t, &(char){(char)b}, 1);
        if (t->byte_id[b] != TEXT__NO_ID) continue;
        missing++;
        if (l->byte_fallback && falls_back(l, b)) {
            return text__bad(l, "byte_fallback",
                             "byte 0x%02X has no token but those of byte_fallback, which is not "
                             "supported beside ByteLevel",
                             (unsigned)b);
        }
    }
    if (missing == 0 || t->unk != TEXT__NO_ID) return 0;
    if (missing < 256) {
        log_line(LOG_WARN,
                 "%s: bytes without a token: %d of 256; there is no unk_token, so texts lose them",
                 l->what, missing);
        return 0;
    }
    return text__bad(l, "vocab", "no byte has a token, and there is no unk_token");
}

/* Characters of which the bytes have no token either become the unknown token, or nothing. */
static void index_chars(text__loader *l) {
    tokenizer *t = l->t;
    int missing = 0;
    for (int b = 0; b < 256; b++) {
        t->byte_id[b] = l->byte_fallback ? fallback_id(l, (unsigned char)b) : TEXT__NO_ID;
        missing += t->byte_id[b] == TEXT__NO_ID;
    }
    for (int c = 0; c < 128; c++)
        t->ascii_id[c] = text__token_lookup(t, &(char){(char)c}, 1);
    if (missing > 0 && t->unk == TEXT__NO_ID) {
        log_line(LOG_WARN,
                 "%s: bytes without a token: %d of 256; there is no unk_token, so texts lose the "
                 "characters that the vocabulary lacks",
                 l->what, missing);
    }
}

/* Ordinary tokens by their spelling. Special ones stay out: plain text must not lead to them. */
int text__vocab_index(text__loader *l) {
    tokenizer *t = l->t;
    size_t slots = 16;
    while (slots < (size_t)t->n_ids * 2)
        slots *= 2;
    t->slots = array_new(slots, sizeof *t->slots);
    if (t->slots == NULL) return text__load_no_memory(l);
    memset(t->slots, 0xff, slots * sizeof *t->slots);
    t->slot_mask = slots - 1;
    for (uint32_t id = 0; id < t->n_ids; id++) {
        const text__token *token = &t->tokens[id];
        if (token->key_len == 0 || token->alien) continue;
        if (token->key_len > t->max_len) t->max_len = token->key_len;
        size_t at = hash_bytes(t->text + token->key, token->key_len) & t->slot_mask;
        while (t->slots[at] != TEXT__NO_ID)
            at = (at + 1) & t->slot_mask;
        t->slots[at] = id;
    }
    if (!t->chars) return index_bytes(l);
    index_chars(l);
    return 0;
}

/* ---- merges ---- */

typedef struct {
    const char *left, *right;
    size_t n_left, n_right;
} sides;

/* "a b" or ["a", "b"]. */
static bool merge_sides(const json_t *merge, sides *s) {
    if (json_is_string(merge)) {
        s->left = json_string_value(merge);
        const char *space = strchr(s->left, ' ');
        if (space == NULL || strchr(space + 1, ' ')) return false;
        s->n_left = (size_t)(space - s->left);
        s->right = space + 1;
        s->n_right = json_string_length(merge) - s->n_left - 1;
    } else {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
            return false;
        s->left = json_string_value(left);
        s->n_left = json_string_length(left);
        s->right = json_string_value(right);
        s->n_right = json_string_length(right);
    }
    return s->n_left > 0 && s->n_right > 0;
}

/* The last character of the left side and the first of the right one. */
static uint64_t joint(const sides *s) {
    size_t last = s->n_left - 1;
    while (last > 0 && ((unsigned char)s->left[last] & 0xc0) == 0x80)
        last--;
    return text__joint(text__packed(s->left + last, s->n_left - last),
                       text__packed(s->right, utf8_char(s->right, s->n_right)));
}

/* A merge that would make a special token, or one past the model's rows, is left out: text must
 * not lead there. *left_out counts them. */
static int load_merge(text__loader *l, size_t rank, const sides *s, buf *joined, size_t *left_out) {
    tokenizer *t = l->t;
    uint32_t left, right, result;
    buf_clear(joined);
    buf_append(joined, s->left, s->n_left);
    buf_append(joined, s->right, s->n_right);
    if (joined->failed && s->n_left + s->n_right <= joined->max) return text__load_no_memory(l);
    if (joined->failed || !json_object_getn(l->vocab, s->left, s->n_left) ||
        !json_object_getn(l->vocab, s->right, s->n_right) ||
        !json_object_getn(l->vocab, joined->data, joined->len)) {
        return text__bad(l, "merges", "merge %zu names a token that is not in the vocabulary",
                         rank);
    }
    if (text__vocab_id(l, s->left, s->n_left, &left) != 0 ||
        text__vocab_id(l, s->right, s->n_right, &right) != 0 ||
        text__vocab_id(l, joined->data, joined->len, &result) != 0 || t->tokens[result].special) {
        ++*left_out;
        return 0;
    }
    map_put(&t->merges, (uint64_t)left << 32 | right, (uint64_t)rank << 32 | result);
    if (t->chars) map_put(&t->joints, joint(s), 0);
    return 0;
}

int text__merges_load(text__loader *l, const json_t *merges) {
    size_t rank, left_out = 0;
    json_t *merge;
    int rc = 0;
    if (!json_is_array(merges)) return text__bad(l, "merges", "merges is not a list");
    size_t n = json_array_size(merges);
    if (map_reserve(&l->t->merges, n) != 0 || (l->t->chars && map_reserve(&l->t->joints, n) != 0))
        return text__load_no_memory(l);
    buf joined = {.max = 2 * TEXT__MAX_PIECE};
    json_array_foreach(merges, rank, merge) {
        sides s;
        rc = merge_sides(merge, &s)
                 ? load_merge(l, rank, &s, &joined, &left_out)
                 : text__bad(l, "merges", "merge %zu is not a pair of tokens", rank);
        if (rc != 0) break;
    }
    buf_deinit(&joined);
    if (rc == 0 && left_out > 0) {
        log_line(LOG_WARN, "%s: merges that make special tokens out of plain text: %zu left out",
                 l->what, left_out);
    }
    return rc;
}

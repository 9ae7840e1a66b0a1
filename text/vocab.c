/* vocab.c - loads the vocabulary and the merges of a model. */
#include "base/log.h"
#include "base/size.h"
#include "base/utf8.h"
#include "text/load_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the byte alphabet ---- */

/* The byte alphabet of GPT-2: a visible Latin-1 byte stands for itself, the other 68 bytes are
 * spelled from U+0100 on. */
void text__alphabet_init(int16_t *byte_of) {
    int next = 256;
    for (int i = 0; i < TEXT__ALPHABET; i++)
        byte_of[i] = -1;
    for (int byte = 0; byte < 256; byte++) {
        bool visible =
            (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
        byte_of[visible ? byte : next++] = (int16_t)byte;
    }
}

/* Writes the bytes spelled by a vocabulary key to out, which holds n bytes, and returns their
 * number. 0 if a character is outside the alphabet; such a key stands for its own UTF-8, as in the
 * reference. */
static size_t key_bytes(const text__loader *loader, const char *key, size_t n, char *out) {
    size_t len = 0;
    for (size_t i = 0; i < n;) {
        unsigned code = (unsigned char)key[i++];
        if (code >= 0xc0 && code < 0xe0 && i < n)
            code = (code & 31) << 6 | ((unsigned char)key[i++] & 63);
        else if (code >= 0x80) return 0;
        if (code >= TEXT__ALPHABET || loader->byte_of[code] < 0) return 0;
        out[len++] = (char)loader->byte_of[code];
    }
    return len;
}

/* ---- tokens ---- */

/* An ordinary token with an id past the model's rows is an error. An added token that is in the
 * vocabulary too is left out instead. */
static int check_key(text__loader *loader, const char *key, size_t n, const json_t *value) {
    json_int_t id = json_integer_value(value);
    if (n == 0 || n > TEXT__MAX_PIECE) {
        return text__bad(loader, "vocab", "a token has %zu bytes (1 to %d are allowed)", n,
                         TEXT__MAX_PIECE);
    }
    if (!json_is_integer(value) || id < 0)
        return text__bad(loader, "vocab", "the id of '%.40s' is not a whole number", key);
    if (id >= (json_int_t)loader->n_rows && json_object_getn(loader->without_row, key, n) == NULL) {
        return text__bad(loader, "vocab", "'%.40s' has id %lld, past the model's %u", key,
                         (long long)id, loader->n_rows);
    }
    return 0;
}

int text__vocab_measure(text__loader *loader) {
    const char *key;
    json_t *value;
    json_object_foreach(loader->vocab, key, value) {
        size_t n = strlen(key);
        if (check_key(loader, key, n, value) != 0) return -1;
        json_int_t id = json_integer_value(value);
        if (id >= (json_int_t)loader->n_rows) continue;
        if (id >= (json_int_t)loader->tok->n_ids) loader->tok->n_ids = (uint32_t)id + 1;
    }
    return 0;
}

static uint32_t put_text(text__loader *loader, const char *text, size_t n) {
    size_t at = loader->text.len;
    buf_append(&loader->text, text, n);
    return (uint32_t)at;
}

int text__token_spell(text__loader *loader, text__token *token, const char *key, size_t n_key,
                      const char *bytes, size_t n) {
    token->key = token->at = put_text(loader, key, n_key);
    token->key_len = (uint32_t)n_key;
    token->len = (uint32_t)n;
    if (n != n_key || memcmp(key, bytes, n) != 0) token->at = put_text(loader, bytes, n);
    return loader->text.failed ? text__load_no_memory(loader) : 0;
}

/* A byte-level token is looked up by its bytes, not by its spelling in the file. */
static int spell_bytes(text__loader *loader, text__token *token, const char *key, size_t n) {
    char bytes[TEXT__MAX_PIECE];
    size_t len = key_bytes(loader, key, n, bytes);
    token->unreachable = len == 0;
    return len ? text__token_spell(loader, token, bytes, len, bytes, len)
               : text__token_spell(loader, token, key, n, key, n);
}

static int spell_chars(text__loader *loader, text__token *token, const char *key, size_t n) {
    char bytes[TEXT__MAX_PIECE];
    size_t len = loader->byte_decoder ? key_bytes(loader, key, n, bytes) : 0;
    if (len) return text__token_spell(loader, token, key, n, bytes, len);
    buf text = {0};
    text__decode_one(loader->tok, key, n, &text);
    int rc = text.failed
                 ? text__load_no_memory(loader)
                 : text__token_spell(loader, token, key, n, text.data ? text.data : "", text.len);
    buf_deinit(&text);
    return rc;
}

int text__vocab_load(text__loader *loader) {
    tokenizer *tok = loader->tok;
    const char *key;
    json_t *value;
    json_object_foreach(loader->vocab, key, value) {
        json_int_t id = json_integer_value(value);
        if (id >= (json_int_t)tok->n_ids) continue;
        text__token *token = &tok->tokens[id];
        if (token->key_len) {
            return text__bad(loader, "vocab", "two tokens have id %lld, one is '%.40s'",
                             (long long)id, key);
        }
        int rc = tok->chars ? spell_chars(loader, token, key, strlen(key))
                            : spell_bytes(loader, token, key, strlen(key));
        if (rc != 0) return -1;
    }
    return 0;
}

int text__vocab_id(const text__loader *loader, const char *key, size_t n, uint32_t *id) {
    const json_t *value = json_object_getn(loader->vocab, key, n);
    if (value == NULL || json_integer_value(value) >= (json_int_t)loader->tok->n_ids) return -1;
    *id = (uint32_t)json_integer_value(value);
    return 0;
}

/* ---- finding a token by its spelling ---- */

static uint64_t hash_bytes(const char *bytes, size_t n) {
    uint64_t hash = n, word;
    for (; n >= 8; n -= 8, bytes += 8) {
        memcpy(&word, bytes, 8);
        hash = hash_spread(hash ^ word);
    }
    word = 0;
    memcpy(&word, bytes, n);
    hash = hash_spread(hash ^ word);
    return hash ^ hash >> 32;
}

uint32_t text__token_lookup(const tokenizer *tok, const char *key, size_t n) {
    for (size_t at = hash_bytes(key, n) & tok->slot_mask;; at = (at + 1) & tok->slot_mask) {
        uint32_t id = tok->slots[at];
        if (id == TEXT__NO_ID) return id;
        const text__token *token = &tok->tokens[id];
        if (token->key_len == n && memcmp(tok->text + token->key, key, n) == 0)
            return token->control ? TEXT__NO_ID : id;
    }
}

/* The token of a byte under byte_fallback. */
static uint32_t fallback_id(const text__loader *loader, unsigned char byte) {
    char key[8];
    uint32_t id;
    int n = snprintf(key, sizeof key, "<0x%02X>", byte);
    return text__vocab_id(loader, key, (size_t)n, &id) == 0 ? id : TEXT__NO_ID;
}

/* The byte's character in the alphabet has no token, but the reference would encode it by fallback
 * tokens of its UTF-8. No published file needs this. */
static bool falls_back(const text__loader *loader, int byte) {
    int code = 0;
    while (loader->byte_of[code] != byte)
        code++;
    if (code < 0x80) return fallback_id(loader, (unsigned char)code) != TEXT__NO_ID;
    return fallback_id(loader, (unsigned char)(0xc0 | code >> 6)) != TEXT__NO_ID &&
           fallback_id(loader, (unsigned char)(0x80 | (code & 63))) != TEXT__NO_ID;
}

/* If a byte has no token and there is no unknown token, the byte is dropped, as in the reference.
 * Decoding then does not give back the text, so the log warns. */
static int index_bytes(text__loader *loader) {
    tokenizer *tok = loader->tok;
    int missing = 0;
    for (int byte = 0; byte < 256; byte++) {
        tok->byte_id[byte] = text__token_lookup(tok, &(char){(char)byte}, 1);
        if (tok->byte_id[byte] != TEXT__NO_ID) continue;
        missing++;
        if (loader->byte_fallback && falls_back(loader, byte)) {
            return text__bad(loader, "byte_fallback",
                             "byte 0x%02X has only tokens of byte_fallback, which is not supported "
                             "beside ByteLevel",
                             (unsigned)byte);
        }
    }
    if (missing == 0 || tok->unk != TEXT__NO_ID) return 0;
    if (missing < 256) {
        log_line(LOG_WARN,
                 "%s: bytes without a token: %d of 256; there is no unk_token, so encoding drops "
                 "these bytes",
                 loader->file, missing);
        return 0;
    }
    return text__bad(loader, "vocab", "no byte has a token, and there is no unk_token");
}

/* A character without a token whose bytes have none either becomes the unknown token, or is
 * dropped. */
static void index_chars(text__loader *loader) {
    tokenizer *tok = loader->tok;
    int missing = 0;
    for (int byte = 0; byte < 256; byte++) {
        tok->byte_id[byte] =
            loader->byte_fallback ? fallback_id(loader, (unsigned char)byte) : TEXT__NO_ID;
        missing += tok->byte_id[byte] == TEXT__NO_ID;
    }
    for (int code = 0; code < 128; code++)
        tok->ascii_id[code] = text__token_lookup(tok, &(char){(char)code}, 1);
    if (missing > 0 && tok->unk == TEXT__NO_ID) {
        log_line(LOG_WARN,
                 "%s: bytes without a token: %d of 256; there is no unk_token, so encoding drops "
                 "characters outside the vocabulary",
                 loader->file, missing);
    }
}

/* Builds the hash of spellings. Unreachable tokens stay out: plain text must not become them. */
int text__vocab_index(text__loader *loader) {
    tokenizer *tok = loader->tok;
    size_t slots = 16;
    while (slots < (size_t)tok->n_ids * 2)
        slots *= 2;
    tok->slots = array_new(slots, sizeof *tok->slots);
    if (tok->slots == NULL) return text__load_no_memory(loader);
    memset(tok->slots, 0xff, slots * sizeof *tok->slots);
    tok->slot_mask = slots - 1;
    for (uint32_t id = 0; id < tok->n_ids; id++) {
        const text__token *token = &tok->tokens[id];
        if (token->key_len == 0 || token->unreachable) continue;
        if (token->key_len > tok->max_len) tok->max_len = token->key_len;
        size_t at = hash_bytes(tok->text + token->key, token->key_len) & tok->slot_mask;
        while (tok->slots[at] != TEXT__NO_ID)
            at = (at + 1) & tok->slot_mask;
        tok->slots[at] = id;
    }
    if (!tok->chars) return index_bytes(loader);
    index_chars(loader);
    return 0;
}

/* ---- merges ---- */

typedef struct {
    const char *left, *right;
    size_t n_left, n_right;
} merge_pair;

/* "a b" or ["a", "b"]. */
static bool merge_sides(const json_t *merge, merge_pair *pair) {
    if (json_is_string(merge)) {
        pair->left = json_string_value(merge);
        const char *space = strchr(pair->left, ' ');
        if (space == NULL || strchr(space + 1, ' ')) return false;
        pair->n_left = (size_t)(space - pair->left);
        pair->right = space + 1;
        pair->n_right = json_string_length(merge) - pair->n_left - 1;
    } else {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
            return false;
        pair->left = json_string_value(left);
        pair->n_left = json_string_length(left);
        pair->right = json_string_value(right);
        pair->n_right = json_string_length(right);
    }
    return pair->n_left > 0 && pair->n_right > 0;
}

/* The last character of the left side and the first of the right one. */
static uint64_t joint(const merge_pair *pair) {
    size_t last = pair->n_left - 1;
    while (last > 0 && ((unsigned char)pair->left[last] & 0xc0) == 0x80)
        last--;
    return text__joint(text__packed(pair->left + last, pair->n_left - last),
                       text__packed(pair->right, utf8_char(pair->right, pair->n_right)));
}

/* A merge that gives a special token or an id past the model's rows is left out and counted: plain
 * text must not become such a token. */
static int load_merge(text__loader *loader, size_t rank, const merge_pair *pair, buf *joined,
                      size_t *left_out) {
    tokenizer *tok = loader->tok;
    uint32_t left, right, result;
    buf_clear(joined);
    buf_append(joined, pair->left, pair->n_left);
    buf_append(joined, pair->right, pair->n_right);
    if (joined->failed && pair->n_left + pair->n_right <= joined->max)
        return text__load_no_memory(loader);
    if (joined->failed || !json_object_getn(loader->vocab, pair->left, pair->n_left) ||
        !json_object_getn(loader->vocab, pair->right, pair->n_right) ||
        !json_object_getn(loader->vocab, joined->data, joined->len)) {
        return text__bad(loader, "merges", "merge %zu names a token that is not in the vocabulary",
                         rank);
    }
    if (text__vocab_id(loader, pair->left, pair->n_left, &left) != 0 ||
        text__vocab_id(loader, pair->right, pair->n_right, &right) != 0 ||
        text__vocab_id(loader, joined->data, joined->len, &result) != 0 ||
        tok->tokens[result].special) {
        ++*left_out;
        return 0;
    }
    map_put(&tok->merges, (uint64_t)left << 32 | right, (uint64_t)rank << 32 | result);
    if (tok->chars) map_put(&tok->joints, joint(pair), 0);
    return 0;
}

int text__merges_load(text__loader *loader, const json_t *merges) {
    size_t rank, left_out = 0;
    json_t *merge;
    int rc = 0;
    if (!json_is_array(merges)) return text__bad(loader, "merges", "merges is not a list");
    size_t n = json_array_size(merges);
    if (map_reserve(&loader->tok->merges, n) != 0 ||
        (loader->tok->chars && map_reserve(&loader->tok->joints, n) != 0))
        return text__load_no_memory(loader);
    buf joined = {.max = 2 * TEXT__MAX_PIECE};
    json_array_foreach(merges, rank, merge) {
        merge_pair pair;
        rc = merge_sides(merge, &pair)
                 ? load_merge(loader, rank, &pair, &joined, &left_out)
                 : text__bad(loader, "merges", "merge %zu is not a pair of spellings", rank);
        if (rc != 0) break;
    }
    buf_deinit(&joined);
    if (rc == 0 && left_out > 0) {
        log_line(LOG_WARN,
                 "%s: merges left out because they make special tokens of plain text: %zu",
                 loader->file, left_out);
    }
    return rc;
}

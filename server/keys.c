/* keys.c - API keys from a file: one per line, "KEY [NAME] [weight=N] [priority=A..B]". A word that
 * begins with # starts a comment. Words without = after the name are ignored.
 *
 * Keys are stored and compared as SHA-256, and every look-up compares all keys, so neither the time
 * taken nor a memory dump tells how close a guess was. */
#include "server/server_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 256 << 10 };

typedef struct {
    uint8_t hash[32];
    char name[SRV_KEY_NAME];
    int first_of_name;
    srv_key_terms terms;
    srv_use use;
} key;

struct srv_keys {
    size_t n_keys;
    key keys[SRV_MAX_KEYS];
};

/* ---- SHA-256 (FIPS 180-4) ---- */

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t ror(uint32_t x, unsigned n) {
    return x >> n | x << (32 - n);
}

static void sha_block(uint32_t h[8], const uint8_t *p) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++, p += 4) {
        w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
    }
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + w[i - 7] + (ror(a, 7) ^ ror(a, 18) ^ a >> 3) +
               (ror(b, 17) ^ ror(b, 19) ^ b >> 10);
    }
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t s1 = ror(v[4], 6) ^ ror(v[4], 11) ^ ror(v[4], 25);
        uint32_t t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + round_constants[i] + w[i];
        uint32_t s0 = ror(v[0], 2) ^ ror(v[0], 13) ^ ror(v[0], 22);
        uint32_t t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof v[0]);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        h[i] += v[i];
}

void srv_sha256(const void *data, size_t n, uint8_t out[32]) {
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    const uint8_t *p = data;
    uint64_t bits = (uint64_t)n * 8;
    for (; n >= 64; n -= 64, p += 64)
        sha_block(h, p);
    uint8_t last[128] = {0};
    if (n) memcpy(last, p, n);
    last[n] = 0x80;
    size_t total = n < 56 ? 64 : 128;
    for (size_t i = 0; i < 8; i++)
        last[total - 1 - i] = (uint8_t)(bits >> (8 * i));
    for (size_t at = 0; at < total; at += 64)
        sha_block(h, last + at);
    for (size_t i = 0; i < 32; i++)
        out[i] = (uint8_t)(h[i / 4] >> (24 - 8 * (i % 4)));
}

/* ---- the file ---- */

typedef struct { /* of the file */
    const char *path;
    unsigned number;
    const char *at, *end;
} key_line;

typedef struct {
    const char *text;
    size_t len;
} key_word;

static bool blank(char ch) {
    return ch == ' ' || ch == '\t' || ch == '\r';
}

/* The next word of the line; its length is 0 at the end of the line or at a comment. */
static key_word next_word(key_line *line) {
    while (line->at < line->end && blank(*line->at))
        line->at++;
    key_word found = {line->at, 0};
    while (line->at < line->end && !blank(*line->at))
        line->at++;
    found.len = (size_t)(line->at - found.text);
    if (found.len == 0 || found.text[0] != '#') return found;
    line->at = line->end;
    return (key_word){found.text, 0};
}

/* Reads a whole number in [least, most] that fills the text; false if it is not one. */
static bool read_number(const char *text, size_t n, int64_t least, int64_t most, int64_t *out) {
    bool minus = n > 0 && text[0] == '-';
    size_t at = minus;
    if (n == at || n - at > 10) return false;
    int64_t value = 0;
    for (; at < n; at++) {
        if (text[at] < '0' || text[at] > '9') return false;
        value = value * 10 + (text[at] - '0');
    }
    *out = minus ? -value : value;
    return *out >= least && *out <= most;
}

static bool starts(key_word *word,
                   const char *name) { /* skips the name if the word starts with it */
    size_t n = strlen(name);
    if (word->len < n || memcmp(word->text, name, n) != 0) return false;
    word->text += n;
    word->len -= n;
    return true;
}

static int bad_line(const key_line *line, const char *what, err *e) {
    return err_set(e, ERR_USAGE, "--api-key-file", "%s:%u: %s", line->path, line->number, what);
}

static bool read_range(key_word word, srv_key_terms *terms) {
    int64_t least, most;
    for (size_t i = 0; i + 2 <= word.len; i++) {
        if (memcmp(word.text + i, "..", 2) != 0) continue;
        if (!read_number(word.text, i, -SCHED_MAX_PRIORITY, SCHED_MAX_PRIORITY, &least) ||
            !read_number(word.text + i + 2, word.len - i - 2, least, SCHED_MAX_PRIORITY, &most)) {
            return false;
        }
        terms->least_priority = (int32_t)least;
        terms->most_priority = (int32_t)most;
        return true;
    }
    return false;
}

static int read_term(const key_line *line, key_word word, srv_key_terms *terms, err *e) {
    int64_t value;
    if (starts(&word, "weight=")) {
        if (!read_number(word.text, word.len, 1, SCHED_MAX_WEIGHT, &value)) {
            return bad_line(line, "weight takes a whole number from 1 to 1000, as in weight=2", e);
        }
        terms->weight = (uint32_t)value;
        return 0;
    }
    if (starts(&word, "priority=")) {
        if (read_range(word, terms)) return 0;
        return bad_line(line,
                        "priority takes a range of whole numbers from -100 to 100, as in "
                        "priority=-5..5",
                        e);
    }
    if (memchr(word.text, '=', word.len) == NULL) return 0;
    return bad_line(line, "only weight=N and priority=A..B may follow a key and its name", e);
}

static bool is_term(key_word word) {
    return starts(&word, "weight=") || starts(&word, "priority=");
}

static void set_name(srv_keys *keys, key *new, key_word name) {
    if (name.len >= SRV_KEY_NAME) name.len = SRV_KEY_NAME - 1;
    if (name.len) memcpy(new->name, name.text, name.len);
    else (void)snprintf(new->name, sizeof new->name, "key-%zu", keys->n_keys);
    new->first_of_name = 0;
    while (strcmp(keys->keys[new->first_of_name].name, new->name) != 0)
        new->first_of_name++;
}

static int take_line(srv_keys *keys, key_line *line, err *e) {
    key_word text = next_word(line);
    if (text.len == 0) return 0;
    if (text.len < 8) return bad_line(line, "a key needs at least 8 characters", e);
    if (keys->n_keys == SRV_MAX_KEYS) {
        return err_set(e, ERR_USAGE, "--api-key-file", "%s: holds more than %d keys", line->path,
                       SRV_MAX_KEYS);
    }
    key *new = &keys->keys[keys->n_keys++];
    new->terms =
        (srv_key_terms){.weight = 1, .least_priority = INT32_MIN, .most_priority = INT32_MAX};
    srv_sha256(text.text, text.len, new->hash);
    key_word word = next_word(line), name = {0};
    if (word.len && !is_term(word)) {
        name = word;
        word = next_word(line);
    }
    set_name(keys, new, name);
    for (; word.len; word = next_word(line)) {
        if (read_term(line, word, &new->terms, e) != 0) return -1;
    }
    return 0;
}

int srv_keys_open(srv_keys **out, const char *path, err *e) {
    *out = NULL;
    buf text = {0};
    srv_keys *keys = calloc(1, sizeof *keys);
    if (keys == NULL) return err_set(e, ERR_NO_MEMORY, NULL, "out of memory to read %s", path);
    if (opt_read_file(&text, "--api-key-file", path, MAX_FILE, e) != 0) goto fail;
    unsigned number = 1;
    for (size_t at = 0; at < text.len; number++) {
        const char *nl = memchr(text.data + at, '\n', text.len - at);
        size_t n = nl ? (size_t)(nl - text.data) - at : text.len - at;
        key_line line = {path, number, text.data + at, text.data + at + n};
        if (take_line(keys, &line, e) != 0) goto fail;
        at += n + 1;
    }
    if (keys->n_keys == 0) {
        (void)err_set(e, ERR_USAGE, "--api-key-file", "%s: holds no key", path);
        goto fail;
    }
    if (text.data) explicit_bzero(text.data, text.cap);
    buf_deinit(&text);
    *out = keys;
    return 0;
fail:
    buf_deinit(&text);
    free(keys);
    return -1;
}

void srv_keys_close(srv_keys *keys) {
    free(keys);
}

int srv_keys_find(const srv_keys *keys, const char *text, size_t n) {
    uint8_t hash[32];
    srv_sha256(text, n, hash);
    int found = -1;
    for (size_t i = 0; i < keys->n_keys; i++) {
        unsigned diff = 0;
        for (size_t byte = 0; byte < sizeof hash; byte++)
            diff |= (unsigned)(hash[byte] ^ keys->keys[i].hash[byte]);
        int mask = (int)((diff - 1) >> 31) * -1; /* all ones when diff is 0 */
        found = (found & ~mask) | ((int)i & mask);
    }
    return found;
}

const char *srv_keys_name(const srv_keys *keys, int i) {
    return i < 0 ? "-" : keys->keys[i].name;
}

int srv_keys_first_of_name(const srv_keys *keys, int i) {
    return keys->keys[i].first_of_name;
}

const srv_key_terms *srv_keys_terms(const srv_keys *keys, int i) {
    return &keys->keys[i].terms;
}

srv_use *srv_keys_use(srv_keys *keys, int i) {
    return &keys->keys[i].use;
}

size_t srv_keys_count(const srv_keys *keys) {
    return keys->n_keys;
}

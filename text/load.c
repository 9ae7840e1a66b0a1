/* load.c - tokenizer.json into flat tables; every number and name checked. */
#include "base/log.h"
#include "base/model_json.h"
#include "base/size.h"
#include "text/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const json_limits limits = {
    .max_bytes = 64 << 20, .max_depth = 24, .max_structural = 16 << 20};

enum { ALPHABET = 256 + 68 }; /* highest code point of the byte alphabet, plus 1 */

typedef struct {
    tokenizer *t;
    const char *what; /* file name for messages */
    uint32_t vocab_size;
    int16_t byte_of[ALPHABET]; /* code point -> byte, -1 = none */
    err *e;
} loader;

static int bad(loader *l, const char *key, const char *fmt, ...) PRINTF_LIKE(3, 4);
static int bad(loader *l, const char *key, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)err_vset_in(l->e, ERR_BAD_FILE, key, l->what, fmt, args);
    va_end(args);
    return -1;
}

static int no_memory(loader *l) {
    return err_set(l->e, ERR_NO_MEMORY, NULL, "%s: out of memory", l->what);
}

/* GPT-2's printable stand-ins: visible Latin-1 bytes are themselves, the other 68 are
 * U+0100 and up. */
static void init_alphabet(int16_t *byte_of) {
    int next = 256;
    for (int i = 0; i < ALPHABET; i++)
        byte_of[i] = -1;
    for (int b = 0; b < 256; b++) {
        bool visible = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        byte_of[visible ? b : next++] = (int16_t)b;
    }
}

/* The bytes a vocabulary key stands for, into out (at least n bytes). 0 if a character is
 * outside the alphabet: such a key is its own UTF-8, as the reference decodes it. */
static size_t key_bytes(const loader *l, const char *key, size_t n, char *out) {
    size_t len = 0;
    for (size_t i = 0; i < n;) {
        unsigned c = (unsigned char)key[i++];
        if (c >= 0xc0 && c < 0xe0 && i < n) c = (c & 31) << 6 | ((unsigned char)key[i++] & 63);
        else if (c >= 0x80) return 0;
        if (c >= ALPHABET || l->byte_of[c] < 0) return 0;
        out[len++] = (char)l->byte_of[c];
    }
    return len;
}

/* ---- vocabulary ---- */

static int check_id(loader *l, const json_t *v, const char *token, uint32_t *id) {
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < 0)
        return bad(l, "vocab", "the id of '%.40s' is not a whole number", token);
    if (n >= (json_int_t)l->vocab_size || n >= TEXT__MAX_VOCAB) {
        return bad(l, "vocab", "'%.40s' has id %lld, past the model's %u", token, (long long)n,
                   l->vocab_size);
    }
    *id = (uint32_t)n;
    return 0;
}

/* How much room all tokens need: highest id and bytes of text. */
static int measure(loader *l, json_t *vocab, const json_t *added, size_t *text_bytes) {
    const char *key;
    json_t *v;
    size_t i;
    uint32_t id;
    *text_bytes = 1;
    json_object_foreach(vocab, key, v) {
        size_t n = strlen(key);
        if (n == 0 || n > TEXT__MAX_PIECE) {
            return bad(l, "vocab", "a token of %zu bytes (1 to %d are allowed)", n,
                       TEXT__MAX_PIECE);
        }
        if (check_id(l, v, key, &id) != 0) return -1;
        if (id >= l->t->n_ids) l->t->n_ids = id + 1;
        *text_bytes += n; /* bounded by the file's size */
    }
    json_array_foreach(added, i, v) {
        const json_t *content = json_object_get(v, "content");
        size_t n = json_string_length(content);
        if (n == 0 || n > TEXT__MAX_PIECE) {
            return bad(l, "added_tokens",
                       "entry %zu has %zu bytes of content (1 to %d are allowed)", i, n,
                       TEXT__MAX_PIECE);
        }
        if (check_id(l, json_object_get(v, "id"), json_string_value(content), &id) != 0) return -1;
        if (id >= l->t->n_ids) l->t->n_ids = id + 1;
        *text_bytes += n;
    }
    if (l->t->n_ids == 0) return bad(l, "vocab", "the vocabulary is empty");
    return 0;
}

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

uint32_t text__token_lookup(const tokenizer *t, const char *bytes, size_t n) {
    for (size_t at = hash_bytes(bytes, n) & t->slot_mask;; at = (at + 1) & t->slot_mask) {
        uint32_t id = t->slots[at];
        if (id == TEXT__NO_ID) return id;
        if (t->tokens[id].len == n && memcmp(t->text + t->tokens[id].at, bytes, n) == 0) return id;
    }
}

static int load_vocab(loader *l, json_t *vocab, size_t *used) {
    tokenizer *t = l->t;
    const char *key;
    json_t *v;
    json_object_foreach(vocab, key, v) {
        text__token *token = &t->tokens[json_integer_value(v)];
        size_t n = strlen(key), len = key_bytes(l, key, n, t->text + *used);
        if (token->len) {
            return bad(l, "vocab", "id %lld is given to two tokens, one is '%.40s'",
                       (long long)json_integer_value(v), key);
        }
        if (len == 0) {
            memcpy(t->text + *used, key, n);
            len = n;
            token->alien = true;
        }
        token->at = *used;
        token->len = (uint32_t)len;
        *used += len;
    }
    return 0;
}

/* ---- added tokens ---- */

static int trie_add(loader *l, text__trie *trie, const char *word, size_t n, uint32_t index) {
    uint64_t node = 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t edge = node << 8 | (unsigned char)word[i];
        uint64_t next = map_get(&trie->edges, edge);
        if (next == MAP_NONE) {
            next = ++trie->n_nodes;
            trie->end[next] = TEXT__NO_ID;
            map_put(&trie->edges, edge, next);
        }
        node = next;
    }
    if (trie->end[node] != TEXT__NO_ID)
        return bad(l, "added_tokens", "'%.40s' is there twice", word);
    trie->end[node] = index;
    trie->first[(unsigned char)word[0]] = true;
    return 0;
}

static int load_added(loader *l, const json_t *one, const json_t *vocab, uint32_t index,
                      size_t *used) {
    tokenizer *t = l->t;
    const json_t *content = json_object_get(one, "content"), *known;
    const char *text = json_string_value(content);
    size_t n = json_string_length(content);
    uint32_t id = (uint32_t)json_integer_value(json_object_get(one, "id"));
    text__token *token = &t->tokens[id];
    known = json_object_get(vocab, text);
    if (json_is_true(json_object_get(one, "single_word"))) {
        return bad(l, "added_tokens", "'%.40s': single_word is not supported", text);
    }
    if (known ? json_integer_value(known) != (json_int_t)id : token->len != 0) {
        return bad(l, "added_tokens", "'%.40s' has id %u, which contradicts the vocabulary", text,
                   id);
    }
    if (token->added) return bad(l, "added_tokens", "id %u is there twice", id);
    token->added = true;
    token->special = token->control = json_is_true(json_object_get(one, "special"));
    if (token->special || !known) { /* its spelling, whatever the vocabulary made of it */
        memcpy(t->text + *used, text, n);
        token->at = *used;
        token->len = (uint32_t)n;
        token->alien = true;
        *used += n;
    }
    t->added[index] = (text__added){.id = id,
                                    .lstrip = json_is_true(json_object_get(one, "lstrip")),
                                    .rstrip = json_is_true(json_object_get(one, "rstrip"))};
    bool normalized = json_is_true(json_object_get(one, "normalized"));
    return trie_add(l, &t->tries[normalized], text, n, index);
}

static int load_all_added(loader *l, const json_t *added, const json_t *vocab, size_t *used) {
    tokenizer *t = l->t;
    size_t n = json_array_size(added), bytes = 1, i;
    json_t *one;
    json_array_foreach(added, i, one) bytes += json_string_length(json_object_get(one, "content"));
    t->added = array_new(n, sizeof *t->added);
    if (t->added == NULL) return no_memory(l);
    for (int k = 0; k < 2; k++) {
        t->tries[k].end = array_new(bytes, sizeof *t->tries[k].end);
        if (t->tries[k].end == NULL || map_reserve(&t->tries[k].edges, bytes) != 0)
            return no_memory(l);
        t->tries[k].end[0] = TEXT__NO_ID;
    }
    json_array_foreach(added, i, one) {
        if (load_added(l, one, vocab, (uint32_t)i, used) != 0) return -1;
    }
    return 0;
}

/* A vocabulary that lacks some bytes and has no unknown token drops those bytes, as the
 * reference does: text then does not come back whole, which people should know. */
static int index_bytes(loader *l) {
    tokenizer *t = l->t;
    int missing = 0;
    for (int b = 0; b < 256; b++) {
        char byte = (char)b;
        t->byte_id[b] = text__token_lookup(t, &byte, 1);
        missing += t->byte_id[b] == TEXT__NO_ID;
    }
    if (missing == 0 || t->unk != TEXT__NO_ID) return 0;
    if (missing < 256) {
        log_line(LOG_WARN,
                 "%s: bytes without a token: %d of 256; there is no unk_token, so texts lose them",
                 l->what, missing);
        return 0;
    }
    return bad(l, "vocab", "no byte has a token, and there is no unk_token");
}

/* Ordinary tokens by their bytes. Special ones stay out: plain text must not lead to them. */
static int index_tokens(loader *l) {
    tokenizer *t = l->t;
    size_t slots = 16;
    while (slots < (size_t)t->n_ids * 2)
        slots *= 2;
    t->slots = array_new(slots, sizeof *t->slots);
    if (t->slots == NULL) return no_memory(l);
    memset(t->slots, 0xff, slots * sizeof *t->slots);
    t->slot_mask = slots - 1;
    for (uint32_t id = 0; id < t->n_ids; id++) {
        const text__token *token = &t->tokens[id];
        if (token->len == 0 || token->alien) continue;
        if (token->len > t->max_len) t->max_len = token->len;
        size_t at = hash_bytes(t->text + token->at, token->len) & t->slot_mask;
        while (t->slots[at] != TEXT__NO_ID)
            at = (at + 1) & t->slot_mask;
        t->slots[at] = id;
    }
    return index_bytes(l);
}

/* ---- merges ---- */

static int vocab_id(const json_t *vocab, const char *key, size_t n, uint32_t *id) {
    const json_t *v = json_object_getn(vocab, key, n);
    if (v == NULL) return -1;
    *id = (uint32_t)json_integer_value(v);
    return 0;
}

/* "a b" or ["a", "b"]. */
static bool merge_sides(const json_t *merge, const char **a, size_t *na, const char **b,
                        size_t *nb) {
    if (json_is_string(merge)) {
        *a = json_string_value(merge);
        const char *space = strchr(*a, ' ');
        if (space == NULL || strchr(space + 1, ' ')) return false;
        *na = (size_t)(space - *a);
        *b = space + 1;
        *nb = json_string_length(merge) - *na - 1;
    } else {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_array_size(merge) != 2 || !json_is_string(left) || !json_is_string(right))
            return false;
        *a = json_string_value(left);
        *na = json_string_length(left);
        *b = json_string_value(right);
        *nb = json_string_length(right);
    }
    return *na > 0 && *nb > 0;
}

static int load_merges(loader *l, const json_t *merges, const json_t *vocab) {
    tokenizer *t = l->t;
    size_t rank;
    json_t *merge;
    if (!json_is_array(merges)) return bad(l, "merges", "merges is not a list");
    if (map_reserve(&t->merges, json_array_size(merges)) != 0) return no_memory(l);
    buf joined = {.max = 2 * TEXT__MAX_PIECE};
    int rc = -1;
    json_array_foreach(merges, rank, merge) {
        const char *a, *b;
        size_t na, nb;
        uint32_t left, right, result;
        if (!merge_sides(merge, &a, &na, &b, &nb)) {
            bad(l, "merges", "merge %zu is not a pair of tokens", rank);
            goto end;
        }
        bool known = vocab_id(vocab, a, na, &left) == 0 && vocab_id(vocab, b, nb, &right) == 0;
        if (known) {
            buf_clear(&joined);
            buf_append(&joined, a, na);
            buf_append(&joined, b, nb);
            if (joined.failed) { /* both sides are tokens, so the length is not to blame */
                no_memory(l);
                goto end;
            }
            known = vocab_id(vocab, joined.data, joined.len, &result) == 0;
        }
        if (!known) {
            bad(l, "merges", "merge %zu names a token that is not in the vocabulary", rank);
            goto end;
        }
        if (t->tokens[result].special) {
            bad(l, "merges", "merge %zu makes a special token out of plain text", rank);
            goto end;
        }
        map_put(&t->merges, (uint64_t)left << 32 | right, (uint64_t)rank << 32 | result);
    }
    rc = 0;
end:
    buf_deinit(&joined);
    return rc;
}

/* ---- the parts around the model ---- */

static bool empty_or_null(const json_t *v) {
    return v == NULL || json_is_null(v) || (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_number(v) && json_number_value(v) == 0);
}

static int check_model(loader *l, const json_t *model) {
    const char *type = json_string_value(json_object_get(model, "type"));
    if (!json_is_object(model)) return bad(l, "model", "there is no model");
    if (type && strcmp(type, "BPE") != 0) {
        return bad(l, "model", "model type %.40s is not supported (BPE is)", type);
    }
    static const char *const unused[] = {"dropout", "continuing_subword_prefix",
                                         "end_of_word_suffix"};
    for (size_t i = 0; i < ARRAY_LEN(unused); i++) {
        if (!empty_or_null(json_object_get(model, unused[i]))) {
            return bad(l, unused[i], "model.%s is not supported", unused[i]);
        }
    }
    if (json_is_true(json_object_get(model, "byte_fallback"))) {
        return bad(l, "byte_fallback", "byte_fallback is not supported; byte-level BPE is");
    }
    if (!json_is_object(json_object_get(model, "vocab")))
        return bad(l, "vocab", "model.vocab is not an object");
    return 0;
}

static int check_normalizer(loader *l, const json_t *normalizer) {
    const char *type = json_string_value(json_object_get(normalizer, "type"));
    bool nothing = type && strcmp(type, "Sequence") == 0 &&
                   json_array_size(json_object_get(normalizer, "normalizers")) == 0;
    if (normalizer == NULL || json_is_null(normalizer) || nothing) return 0;
    return bad(l, "normalizer", "normalizer %.40s is not supported; text is taken as it is",
               type ? type : "without type");
}

static int check_decoder(loader *l, const json_t *decoder) {
    const char *type = json_string_value(json_object_get(decoder, "type"));
    const json_t *list = json_object_get(decoder, "decoders");
    if (type && strcmp(type, "Sequence") == 0 && json_array_size(list) == 1) {
        type = json_string_value(json_object_get(json_array_get(list, 0), "type"));
    }
    if (type && strcmp(type, "ByteLevel") == 0) return 0;
    return bad(l, "decoder", "decoder %.40s is not supported (ByteLevel is)", type ? type : "null");
}

/* What a template puts around a text: at most one token, and before it. */
static int load_template(loader *l, const json_t *post) {
    const json_t *single = json_object_get(post, "single"), *part;
    size_t i;
    bool after_text = false;
    json_array_foreach(single, i, part) {
        const json_t *special = json_object_get(json_object_get(part, "SpecialToken"), "id");
        if (special == NULL) {
            after_text = true;
            continue;
        }
        const char *name = json_string_value(special);
        uint32_t id;
        if (after_text || l->t->bos != TEXT__NO_ID) {
            return bad(l, "post_processor", "a template with more than one token before the text");
        }
        if (name == NULL) return bad(l, "post_processor", "a SpecialToken without id");
        if (!tokenizer_find(l->t, name, &id)) {
            return bad(l, "post_processor", "the template's '%.40s' is not a token", name);
        }
        l->t->bos = id;
    }
    return 0;
}

static int load_post_processor(loader *l, const json_t *post) {
    const char *type = json_string_value(json_object_get(post, "type"));
    if (post == NULL || json_is_null(post)) return 0;
    if (type && strcmp(type, "ByteLevel") == 0) return 0; /* moves offsets only */
    if (type && strcmp(type, "TemplateProcessing") == 0) return load_template(l, post);
    if (type && strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(post, "processors"), *one;
        size_t i;
        json_array_foreach(list, i, one) {
            const char *inner = json_string_value(json_object_get(one, "type"));
            if (inner && strcmp(inner, "Sequence") == 0)
                return bad(l, "post_processor", "nested Sequences");
            if (load_post_processor(l, one) != 0) return -1;
        }
        return 0;
    }
    return bad(l, "post_processor", "post_processor %.40s is not supported",
               type ? type : "without type");
}

static int load_unk(loader *l, const json_t *model, const json_t *vocab) {
    const json_t *unk = json_object_get(model, "unk_token");
    l->t->unk = l->t->bos = TEXT__NO_ID;
    l->t->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    l->t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    if (empty_or_null(unk)) return 0;
    if (!json_is_string(unk) ||
        vocab_id(vocab, json_string_value(unk), json_string_length(unk), &l->t->unk) != 0) {
        return bad(l, "unk_token", "unk_token is not in the vocabulary");
    }
    return 0;
}

/* Bytes vanish where they have no token, where a split takes them out, and where an added token
 * takes the blanks beside it along. */
static void find_longest(tokenizer *t, size_t n_added) {
    bool whole = true;
    for (int b = 0; b < 256; b++)
        whole = whole && t->byte_id[b] != TEXT__NO_ID;
    for (uint32_t i = 0; i < t->n_steps; i++)
        whole = whole && t->steps[i].behavior != TEXT__REMOVED;
    for (size_t i = 0; i < n_added; i++)
        whole = whole && !t->added[i].lstrip && !t->added[i].rstrip;
    for (uint32_t id = 0; whole && id < t->n_ids; id++) {
        if (t->tokens[id].len > t->longest) t->longest = t->tokens[id].len;
    }
}

static int load(loader *l, const json_t *root) {
    tokenizer *t = l->t;
    const json_t *model = json_object_get(root, "model"),
                 *added = json_object_get(root, "added_tokens");
    json_t *vocab = json_object_get(model, "vocab");
    size_t text_bytes, used = 0;
    if (!json_is_object(root)) return bad(l, NULL, "not a JSON object");
    if (check_model(l, model) != 0 || check_normalizer(l, json_object_get(root, "normalizer")) != 0)
        return -1;
    if (check_decoder(l, json_object_get(root, "decoder")) != 0) return -1;
    if (added && !json_is_array(added)) return bad(l, "added_tokens", "added_tokens is not a list");
    if (measure(l, vocab, added, &text_bytes) != 0) return -1;
    t->text = array_new(text_bytes, 1);
    t->tokens = array_new(t->n_ids, sizeof *t->tokens);
    t->whole = array_new(t->n_ids, sizeof *t->whole);
    if (!t->text || !t->tokens || !t->whole) return no_memory(l);
    if (load_vocab(l, vocab, &used) != 0 || load_all_added(l, added, vocab, &used) != 0) return -1;
    if (load_unk(l, model, vocab) != 0 || index_tokens(l) != 0) return -1;
    if (load_merges(l, json_object_get(model, "merges"), vocab) != 0) return -1;
    if (text__steps_load(t, json_object_get(root, "pre_tokenizer"), l->what, l->e) != 0) return -1;
    find_longest(t, json_array_size(added));
    return load_post_processor(l, json_object_get(root, "post_processor"));
}

int tokenizer_parse(tokenizer **out, const char *json, size_t n, uint32_t vocab_size,
                    const char *what, err *e) {
    *out = NULL;
    json_t *root = NULL;
    err why = {0};
    if (model_json_parse(&root, json, n, &limits, what, &why) != 0) {
        err_code code = why.code == ERR_NO_MEMORY ? ERR_NO_MEMORY : ERR_BAD_FILE;
        return err_set(e, code, NULL, "%s", why.msg);
    }
    loader l = {.what = what, .vocab_size = vocab_size, .e = e};
    int rc = -1;
    l.t = calloc(1, sizeof *l.t);
    if (l.t == NULL) {
        no_memory(&l);
        goto end;
    }
    init_alphabet(l.byte_of);
    rc = load(&l, root);
    if (rc == 0) *out = l.t;
    else tokenizer_close(l.t);
end:
    json_decref(root);
    return rc;
}

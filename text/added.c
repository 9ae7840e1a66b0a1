/* added.c - loads the added tokens into tries. The encoder searches a text for them before all
 * other steps. */
#include "base/log.h"
#include "base/size.h"
#include "base/utf8.h"
#include "text/load_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- which entries count ---- */

/* The id of an entry. As in the reference, an id in the vocabulary wins over the id in the entry;
 * *other then says that they differ. */
static int entry_id(text__loader *loader, const json_t *one, json_int_t *id, bool *other) {
    const json_t *content = json_object_get(one, "content"), *number = json_object_get(one, "id");
    const char *text = json_string_value(content);
    const json_t *known = json_object_getn(loader->vocab, text, json_string_length(content));
    *id = json_integer_value(number);
    if (!json_is_integer(number) || *id < 0)
        return text__bad(loader, "added_tokens", "the id of '%.40s' is not a whole number", text);
    *other = known && json_integer_value(known) != *id;
    if (*other) *id = json_integer_value(known);
    return 0;
}

/* *twice: an earlier entry has the same spelling. */
static int measure_one(text__loader *loader, const json_t *one, size_t i, bool *twice,
                       bool *other) {
    const json_t *content = json_object_get(one, "content");
    const char *text = json_string_value(content);
    size_t n = json_string_length(content);
    json_int_t id;
    if (n == 0 || n > TEXT__MAX_PIECE) {
        return text__bad(loader, "added_tokens",
                         "entry %zu has %zu bytes of content (1 to %d are allowed)", i, n,
                         TEXT__MAX_PIECE);
    }
    if (entry_id(loader, one, &id, other) != 0) return -1;
    *twice = json_object_getn(loader->last_entry, text, n) != NULL;
    if (json_object_setn_new(loader->last_entry, text, n, json_integer((json_int_t)i)) != 0)
        return text__load_no_memory(loader);
    if (id < (json_int_t)loader->n_rows) {
        if (id >= (json_int_t)loader->tok->n_ids) loader->tok->n_ids = (uint32_t)id + 1;
        return 0;
    }
    return json_object_setn_new(loader->without_row, text, n, json_true()) == 0
               ? 0
               : text__load_no_memory(loader);
}

int text__added_measure(text__loader *loader, const json_t *added) {
    size_t i, n_twice = 0, n_other = 0;
    json_t *one;
    loader->last_entry = json_object();
    loader->without_row = json_object();
    if (!loader->last_entry || !loader->without_row) return text__load_no_memory(loader);
    json_array_foreach(added, i, one) {
        bool twice = false, other = false;
        if (measure_one(loader, one, i, &twice, &other) != 0) return -1;
        n_twice += twice;
        n_other += other;
    }
    if (n_twice)
        log_line(LOG_WARN, "%s: spellings listed twice in added_tokens: %zu; the last entry counts",
                 loader->file, n_twice);
    if (n_other)
        log_line(
            LOG_WARN,
            "%s: added_tokens with another id in the vocabulary: %zu; the id in the vocabulary "
            "counts",
            loader->file, n_other);
    if (json_object_size(loader->without_row) > 0)
        log_line(LOG_WARN,
                 "%s: added_tokens with an id past the model's %u rows: %zu; they stay plain text",
                 loader->file, loader->n_rows, json_object_size(loader->without_row));
    return 0;
}

/* ---- tries ---- */

static int trie_reserve(text__loader *loader, text__trie *trie, size_t more) {
    size_t need, bytes;
    if (map_reserve(&trie->edges, more) != 0) return text__load_no_memory(loader);
    if (!size_add(trie->n_nodes + 1, more, &need)) return text__load_no_memory(loader);
    if (need <= trie->cap) return 0;
    need = need < trie->cap * 2 ? trie->cap * 2 : need;
    uint32_t *end = size_mul(need, sizeof *trie->end, &bytes) ? realloc(trie->end, bytes) : NULL;
    if (end == NULL) return text__load_no_memory(loader);
    if (trie->end == NULL) end[0] = TEXT__NO_ID;
    trie->end = end;
    trie->cap = need;
    return 0;
}

/* A word that the trie holds already keeps its token; then *known. */
static int trie_add(text__loader *loader, text__trie *trie, const char *word, size_t n,
                    uint32_t index, bool *known) {
    uint64_t node = 0;
    if (trie_reserve(loader, trie, n) != 0) return -1;
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
    *known = trie->end[node] != TEXT__NO_ID;
    if (!*known) trie->end[node] = index;
    trie->first[(unsigned char)word[0]] = true;
    return 0;
}

uint32_t text__trie_match(const text__trie *trie, const char *text, size_t n, size_t *len) {
    uint32_t found = TEXT__NO_ID;
    uint64_t node = 0;
    for (size_t i = 0; i < n; i++) {
        node = map_get(&trie->edges, node << 8 | (unsigned char)text[i]);
        if (node == MAP_NONE) break;
        if (trie->end[node] == TEXT__NO_ID) continue;
        found = trie->end[node];
        *len = i + 1;
    }
    return found;
}

/* ---- loading ---- */

/* Appends the token's normalized spelling. The reference searches normalized text for it and
 * decodes the token to it. */
static int normalize(text__loader *loader, const char *text, size_t n, buf *out) {
    text__normal normal;
    text_run whole = {n, true};
    text__encoder enc = {.tok = loader->tok,
                         .text = text,
                         .text_start = text,
                         .runs = &whole,
                         .n_runs = 1,
                         .search = {.n_bytes = n},
                         .e = loader->e};
    int rc = text__normalize(&enc, text, n, &normal);
    text__encoder_deinit(&enc);
    if (rc != 0) return -1;
    buf_append(out, normal.text.data ? normal.text.data : "", normal.text.len);
    text__normal_deinit(&normal);
    return out->failed ? text__load_no_memory(loader) : 0;
}

/* Sets spelling and bytes of an added token, also if the vocabulary has set them before. The bytes
 * of a special token are its spelling in the file. */
static int spell(text__loader *loader, text__token *token, const char *text, size_t n,
                 const buf *spelling) {
    buf bytes = {0};
    if (token->special) buf_append(&bytes, text, n);
    else text__decode_one(loader->tok, spelling->data, spelling->len, &bytes);
    int rc = bytes.failed ? text__load_no_memory(loader)
                          : text__token_spell(loader, token, spelling->data, spelling->len,
                                              bytes.data, bytes.len);
    token->unreachable = true;
    buf_deinit(&bytes);
    return rc;
}

static bool is_blank(const text__loader *loader, const char *text, size_t n) {
    buf shown = {0};
    text__decode_one(loader->tok, text, n, &shown);
    bool blank = text__spaces_after(shown.data ? shown.data : "", shown.len) == shown.len;
    buf_deinit(&shown);
    return blank;
}

/* Makes the token known by its spelling, and by its original text if that differs. */
static int add_to_tries(text__loader *loader, const char *text, size_t n, const buf *spelling,
                        bool normalized, uint32_t index) {
    text__trie *tries = loader->tok->tries;
    text__trie *trie = &tries[normalized ? TEXT__TRIE_NORMALIZED : TEXT__TRIE_RAW];
    bool known;
    if (trie_add(loader, trie, spelling->data, spelling->len, index, &known) != 0) return -1;
    if (known) {
        log_line(LOG_WARN,
                 "%s: added token '%.40s' has the same normalized spelling as another; it stays "
                 "plain text",
                 loader->file, text);
    }
    if (spelling->len == n && memcmp(spelling->data, text, n) == 0) return 0;
    return trie_add(loader, &tries[TEXT__TRIE_NAMES], text, n, index, &known);
}

static int load_token(text__loader *loader, const json_t *one, json_int_t id, uint32_t index,
                      buf *spelling) {
    tokenizer *tok = loader->tok;
    const json_t *content = json_object_get(one, "content");
    const char *text = json_string_value(content);
    size_t n = json_string_length(content);
    bool known = json_object_getn(loader->vocab, text, n) != NULL;
    bool normalized = json_is_true(json_object_get(one, "normalized"));
    text__token *token = &tok->tokens[id];
    if (!known && token->key_len != 0) {
        return text__bad(loader, "added_tokens", "'%.40s' has id %lld, but another token has it",
                         text, (long long)id);
    }
    buf_append(spelling, text, n);
    if (normalized && tok->n_normalizer) {
        buf_clear(spelling);
        if (normalize(loader, text, n, spelling) != 0) return -1;
    }
    if (spelling->failed) return text__load_no_memory(loader);
    if (spelling->len == 0 || spelling->len > TEXT__MAX_PIECE) {
        log_line(LOG_WARN, "%s: added token '%.40s' is left out: its normalized text is %s",
                 loader->file, text, spelling->len == 0 ? "empty" : "too long");
        return 0;
    }
    token->added = true;
    token->special = token->control = json_is_true(json_object_get(one, "special"));
    if ((token->special || !known) && spell(loader, token, text, n, spelling) != 0) return -1;
    tok->added[index] =
        (text__added){.id = (uint32_t)id,
                      .lstrip = json_is_true(json_object_get(one, "lstrip")),
                      .rstrip = json_is_true(json_object_get(one, "rstrip")),
                      .single_word = json_is_true(json_object_get(one, "single_word")),
                      .plain = is_blank(loader, text, n) || (known && utf8_char(text, n) == n)};
    return add_to_tries(loader, text, n, spelling, normalized, index);
}

int text__added_load(text__loader *loader, const json_t *added) {
    size_t i;
    json_t *one;
    loader->tok->added = array_new(json_array_size(added), sizeof *loader->tok->added);
    if (loader->tok->added == NULL) return text__load_no_memory(loader);
    json_array_foreach(added, i, one) {
        const json_t *content = json_object_get(one, "content");
        const json_t *last = json_object_getn(loader->last_entry, json_string_value(content),
                                              json_string_length(content));
        buf spelling = {0};
        bool other;
        json_int_t id;
        if (json_integer_value(last) != (json_int_t)i) continue;
        if (entry_id(loader, one, &id, &other) != 0) return -1;
        if (id >= (json_int_t)loader->n_rows) continue;
        int rc = load_token(loader, one, id, (uint32_t)i, &spelling);
        buf_deinit(&spelling);
        if (rc != 0) return -1;
    }
    return 0;
}

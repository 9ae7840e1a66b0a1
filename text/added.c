/* added.c - tokens that are found in the text before anything else looks at it. */
#include "base/log.h"
#include "base/size.h"
#include "text/load_internal.h"

#include <stdlib.h>
#include <string.h>

/* ---- which entries count ---- */

/* The id an entry stands for. As in the reference, the vocabulary's own id goes before the one
 * written here. */
static int entry_id(text__loader *l, const json_t *one, json_int_t *id, bool *other) {
    const json_t *content = json_object_get(one, "content"), *v = json_object_get(one, "id");
    const char *text = json_string_value(content);
    const json_t *known = json_object_getn(l->vocab, text, json_string_length(content));
    *id = json_integer_value(v);
    if (!json_is_integer(v) || *id < 0)
        return text__bad(l, "added_tokens", "the id of '%.40s' is not a whole number", text);
    *other = known && json_integer_value(known) != *id;
    if (*other) *id = json_integer_value(known);
    return 0;
}

static int measure_one(text__loader *l, const json_t *one, size_t i, bool *twice, bool *other) {
    const json_t *content = json_object_get(one, "content");
    const char *text = json_string_value(content);
    size_t n = json_string_length(content);
    json_int_t id;
    if (n == 0 || n > TEXT__MAX_PIECE) {
        return text__bad(l, "added_tokens",
                         "entry %zu has %zu bytes of content (1 to %d are allowed)", i, n,
                         TEXT__MAX_PIECE);
    }
    if (entry_id(l, one, &id, other) != 0) return -1;
    *twice = json_object_getn(l->last, text, n) != NULL;
    if (json_object_setn_new(l->last, text, n, json_integer((json_int_t)i)) != 0)
        return text__load_no_memory(l);
    if (id < (json_int_t)l->rows) {
        if (id >= (json_int_t)l->t->n_ids) l->t->n_ids = (uint32_t)id + 1;
        return 0;
    }
    return json_object_setn_new(l->past, text, n, json_true()) == 0 ? 0 : text__load_no_memory(l);
}

int text__added_measure(text__loader *l, const json_t *added, size_t *text_bytes) {
    size_t i, n_twice = 0, n_other = 0;
    json_t *one;
    l->last = json_object();
    l->past = json_object();
    if (!l->last || !l->past) return text__load_no_memory(l);
    json_array_foreach(added, i, one) {
        bool twice = false, other = false;
        if (measure_one(l, one, i, &twice, &other) != 0) return -1;
        *text_bytes += json_string_length(json_object_get(one, "content"));
        n_twice += twice;
        n_other += other;
    }
    if (n_twice)
        log_line(LOG_WARN, "%s: added_tokens has %zu spellings again; the last entry counts",
                 l->what, n_twice);
    if (n_other)
        log_line(LOG_WARN,
                 "%s: added_tokens with another id than the vocabulary's: %zu; the "
                 "vocabulary's counts",
                 l->what, n_other);
    if (json_object_size(l->past) > 0)
        log_line(LOG_WARN, "%s: added_tokens past the model's %u rows: %zu; they stay plain text",
                 l->what, l->rows, json_object_size(l->past));
    return 0;
}

/* ---- tries ---- */

static int trie_add(text__loader *l, text__trie *trie, const char *word, size_t n, uint32_t index) {
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
        return text__bad(l, "added_tokens", "'%.40s' is there twice", word);
    trie->end[node] = index;
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

static int load_one(text__loader *l, const json_t *one, uint32_t index) {
    tokenizer *t = l->t;
    const json_t *content = json_object_get(one, "content");
    const char *text = json_string_value(content);
    size_t n = json_string_length(content);
    bool other, known = json_object_getn(l->vocab, text, n) != NULL;
    json_int_t id;
    if (json_integer_value(json_object_getn(l->last, text, n)) != index) return 0;
    if (entry_id(l, one, &id, &other) != 0) return -1;
    if (id >= (json_int_t)l->rows) return 0;
    text__token *token = &t->tokens[id];
    if (!known && token->len != 0) {
        return text__bad(l, "added_tokens", "'%.40s' has id %lld, which is another token's", text,
                         (long long)id);
    }
    token->added = true;
    token->special = token->control = json_is_true(json_object_get(one, "special"));
    if (token->special || !known) { /* its spelling, whatever the vocabulary made of it */
        memcpy(t->text + l->used, text, n);
        token->at = l->used;
        token->len = (uint32_t)n;
        token->alien = true;
        l->used += n;
    }
    t->added[index] =
        (text__added){.id = (uint32_t)id,
                      .lstrip = json_is_true(json_object_get(one, "lstrip")),
                      .rstrip = json_is_true(json_object_get(one, "rstrip")),
                      .single_word = json_is_true(json_object_get(one, "single_word"))};
    bool normalized = json_is_true(json_object_get(one, "normalized"));
    return trie_add(l, &t->tries[normalized], text, n, index);
}

int text__added_load(text__loader *l, const json_t *added) {
    tokenizer *t = l->t;
    size_t n = json_array_size(added), bytes = 1, i;
    json_t *one;
    json_array_foreach(added, i, one) bytes += json_string_length(json_object_get(one, "content"));
    t->added = array_new(n, sizeof *t->added);
    if (t->added == NULL) return text__load_no_memory(l);
    for (int k = 0; k < 2; k++) {
        t->tries[k].end = array_new(bytes, sizeof *t->tries[k].end);
        if (t->tries[k].end == NULL || map_reserve(&t->tries[k].edges, bytes) != 0)
            return text__load_no_memory(l);
        t->tries[k].end[0] = TEXT__NO_ID;
    }
    json_array_foreach(added, i, one) {
        if (load_one(l, one, (uint32_t)i) != 0) return -1;
    }
    return 0;
}

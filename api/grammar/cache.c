/* cache.c - see cache_internal.h.
 *
 * A grammar is found by the text of its schema, in a form that is fast to write. A hash of the text
 * gives the place; the whole text decides. Compiling takes no lock: if two threads compile the same
 * schema, one grammar is kept and the other is freed. */
#include "api/api_internal.h"
#include "api/grammar/cache_internal.h"
#include "base/hash.h"
#include "base/list.h"
#include "base/lock.h"

#include <stdlib.h>

enum { PLACES = 512 };

struct api__kept {
    list_link place_link;
    list_link idle_link; /* in no list while the entry is in use */
    api__grammar_cache *cache;
    api__grammar *grammar;
    buf text;
    uint64_t hash;
    size_t bytes;
    uint32_t users;
};

struct api__grammar_cache {
    lock lock;
    uint64_t key[2];
    size_t max_entries, max_bytes;
    list_link places[PLACES];
    list_link idle; /* entries without users; the one unused for longest is first */
    api__grammar_counts counts;
};

static size_t grammar_bytes(const api__grammar *grammar) {
    return sizeof *grammar + grammar->mem.held + grammar->n_nodes * sizeof *grammar->nodes;
}

/* ---- entries; the lock is held ---- */

static api__kept *find(api__grammar_cache *cache, uint64_t hash, const buf *text) {
    list_link *place = &cache->places[hash % PLACES];
    for (list_link *link = place->next; link != place; link = link->next) {
        api__kept *kept = OWNER_OF(link, api__kept, place_link);
        if (kept->hash == hash && kept->text.len == text->len &&
            memcmp(kept->text.data, text->data, text->len) == 0)
            return kept;
    }
    return NULL;
}

static api__grammar *use(api__kept *kept) {
    kept->users++;
    list_remove(&kept->idle_link);
    return kept->grammar;
}

static void drop(api__kept *kept) {
    list_remove(&kept->place_link);
    list_remove(&kept->idle_link);
    kept->cache->counts.entries--;
    kept->cache->counts.bytes -= kept->bytes;
    api__grammar_free(kept->grammar);
    buf_deinit(&kept->text);
    free(kept);
}

/* Drops idle entries until one of this size fits. */
static bool make_room(api__grammar_cache *cache, size_t bytes) {
    if (bytes > cache->max_bytes || cache->max_entries == 0) return false;
    while (cache->counts.entries >= cache->max_entries ||
           cache->counts.bytes > cache->max_bytes - bytes) {
        if (list_empty(&cache->idle)) return false;
        drop(OWNER_OF(cache->idle.next, api__kept, idle_link));
    }
    return true;
}

/* ---- one grammar ---- */

static api__grammar *take(api__grammar_cache *cache, uint64_t hash, const buf *text) {
    lock_take(&cache->lock);
    api__kept *kept = find(cache, hash, text);
    api__grammar *grammar = kept ? use(kept) : NULL;
    cache->counts.found += grammar != NULL;
    lock_give(&cache->lock);
    return grammar;
}

/* Makes the grammar an entry, if there is room. If another thread was faster, its grammar takes the
 * place of this one. Takes the text over. */
static api__grammar *keep(api__grammar_cache *cache, api__grammar *grammar, uint64_t hash,
                          buf *text) {
    api__kept *made = calloc(1, sizeof *made);
    lock_take(&cache->lock);
    cache->counts.compiled++;
    api__kept *other = find(cache, hash, text);
    size_t bytes = sizeof *made + text->cap + grammar_bytes(grammar);
    api__grammar *result = other ? use(other) : grammar;
    if (other == NULL && made && make_room(cache, bytes)) {
        *made = (api__kept){.cache = cache, .grammar = grammar, .text = *text, .hash = hash};
        made->bytes = bytes;
        *text = (buf){0};
        list_init(&made->idle_link);
        list_init(&made->place_link);
        list_insert_before(&cache->places[hash % PLACES], &made->place_link);
        cache->counts.entries++;
        cache->counts.bytes += bytes;
        grammar->kept = made;
        result = use(made);
        made = NULL;
    }
    lock_give(&cache->lock);
    free(made);
    if (result != grammar) api__grammar_free(grammar);
    return result;
}

static void write_string(buf *out, const char *text, size_t n) {
    buf_append(out, (const char *)&n, sizeof n);
    buf_append(out, text, n);
}

/* Writes a value so that different values have different texts: each begins with its type, and
 * states its length. JSON text would take five times as long. The body limits the depth. */
static void write_value(buf *out, const json_t *value) {
    const char type = (char)json_typeof(value), *name;
    json_int_t integer = json_integer_value(value);
    double real = json_real_value(value);
    size_t n = json_is_array(value) ? json_array_size(value) : json_object_size(value), i;
    json_t *one;
    buf_append(out, &type, 1);
    switch (json_typeof(value)) {
    case JSON_STRING:
        write_string(out, json_string_value(value), json_string_length(value));
        return;
    case JSON_INTEGER: buf_append(out, (const char *)&integer, sizeof integer); return;
    case JSON_REAL: buf_append(out, (const char *)&real, sizeof real); return;
    case JSON_ARRAY:
        buf_append(out, (const char *)&n, sizeof n);
        json_array_foreach(value, i, one) write_value(out, one);
        return;
    case JSON_OBJECT:
        buf_append(out, (const char *)&n, sizeof n);
        json_object_foreach((json_t *)(uintptr_t)value, name, one) {
            write_string(out, name, strlen(name));
            write_value(out, one);
        }
        return;
    default: return;
    }
}

static void write_text(buf *out, const api__form *form) {
    const char *only = form->only ? form->only : "";
    buf_append(out, (const char *)&form->calls, sizeof form->calls);
    write_string(out, only, strlen(only));
    buf_append(out, form->strict ? "s" : "l", 1);
    if (form->json) write_value(out, form->json);
}

int api__grammar_get(api__grammar **out, api__grammar_cache *cache, const api__form *form,
                     bool soon, err *e) {
    buf text = {0};
    int rc = 0;
    *out = NULL;
    write_text(&text, form);
    if (text.failed) {
        buf_deinit(&text);
        return api__out_of_memory(e);
    }
    uint64_t hash = hash_sip64(cache->key, text.data, text.len);
    *out = take(cache, hash, &text);
    if (*out == NULL && soon) rc = 1;
    else if (*out == NULL && form->calls)
        rc = form->calls(out, form->json, form->only, form->param, e);
    else if (*out == NULL) rc = api__grammar_compile(out, form->json, form->strict, form->param, e);
    if (rc == 0 && (*out)->kept == NULL) *out = keep(cache, *out, hash, &text);
    buf_deinit(&text);
    return rc;
}

void api__grammar_release(api__grammar *grammar) {
    if (grammar == NULL) return;
    if (grammar->kept == NULL) {
        api__grammar_free(grammar);
        return;
    }
    api__kept *kept = grammar->kept;
    api__grammar_cache *cache = kept->cache;
    lock_take(&cache->lock);
    if (--kept->users == 0) list_insert_before(&cache->idle, &kept->idle_link);
    lock_give(&cache->lock);
}

size_t api__grammar_held(const api__grammar *grammar) {
    return grammar && grammar->kept == NULL ? grammar_bytes(grammar) : 0;
}

/* ---- the cache ---- */

int api__grammar_cache_open(api__grammar_cache **out, const uint64_t key[2], size_t max_entries,
                            size_t max_bytes, err *e) {
    api__grammar_cache *cache = *out = calloc(1, sizeof *cache);
    if (cache == NULL) return api__out_of_memory(e);
    lock_init(&cache->lock);
    cache->key[0] = key[0];
    cache->key[1] = key[1];
    cache->max_entries = max_entries;
    cache->max_bytes = max_bytes;
    list_init(&cache->idle);
    for (size_t i = 0; i < PLACES; i++)
        list_init(&cache->places[i]);
    return 0;
}

void api__grammar_cache_close(api__grammar_cache *cache) {
    if (cache == NULL) return;
    while (!list_empty(&cache->idle))
        drop(OWNER_OF(cache->idle.next, api__kept, idle_link));
    lock_deinit(&cache->lock);
    free(cache);
}

api__grammar_counts api__grammar_cache_counts(api__grammar_cache *cache) {
    lock_take(&cache->lock);
    api__grammar_counts counts = cache->counts;
    lock_give(&cache->lock);
    return counts;
}

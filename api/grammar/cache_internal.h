/* cache_internal.h - compiled schemas, kept for later requests with the same schema.
 *
 * The cache has a limit of entries and of bytes. An entry in use is never dropped; of the others
 * the one unused for longest goes first. If no entry can go, a new grammar is not kept and belongs
 * to its request alone. Any thread. */
#ifndef FATHOM_API_GRAMMAR_CACHE_INTERNAL_H
#define FATHOM_API_GRAMMAR_CACHE_INTERNAL_H

#include "api/grammar/constrain_internal.h"

/* Compiles a list of tools; see api__grammar_compile_tools. */
typedef int (*api__compile_calls)(api__grammar **out, const json_t *tools, const char *only,
                                  const char *param, err *e);

/* All that decides a grammar. */
typedef struct {
    const json_t *json;       /* a schema, or a list of tools; NULL: any JSON object */
    api__compile_calls calls; /* compiles the tools; NULL: json is a schema */
    const char *only;         /* the one function allowed, or NULL */
    bool strict;              /* of a schema; functions say it by themselves */
    const char *param;        /* the field named in errors; decides nothing else */
} api__form;

typedef struct api__grammar_cache api__grammar_cache;

/* key: two random words; with them a client cannot choose schemas of equal hashes. */
int api__grammar_cache_open(api__grammar_cache **out, const uint64_t key[2], size_t max_entries,
                            size_t max_bytes, err *e) WARN_UNUSED;
void api__grammar_cache_close(api__grammar_cache *cache); /* no grammar is in use; may be NULL */
/* Finds the grammar or compiles it. Ends with api__grammar_release. 1: `soon` is set and the
 * grammar is not in the cache. */
int api__grammar_get(api__grammar **out, api__grammar_cache *cache, const api__form *form,
                     bool soon, err *e) WARN_UNUSED;
void api__grammar_release(api__grammar *grammar); /* grammar may be NULL */
/* Bytes held by the grammar's request: 0 if the cache holds them. */
size_t api__grammar_held(const api__grammar *grammar);

typedef struct {
    size_t entries, bytes;
    uint64_t found, compiled;
} api__grammar_counts;
api__grammar_counts api__grammar_cache_counts(api__grammar_cache *cache);

#endif

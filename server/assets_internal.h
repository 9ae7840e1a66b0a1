/* assets_internal.h - the page's files, inside the binary.
 *
 * Immutable; any thread. The page asks the server for v1/models, v1/chat/completions,
 * v1/completions and metrics only. It reads these metrics:
 *   vllm:num_requests_running  vllm:num_requests_waiting  vllm:generation_tokens_total
 *   vllm:kv_cache_usage_perc
 *   fathom_rows{loop="i"}          gauge: rows whose next loop is i
 *   fathom_exits_total{depth="i"}  counter: tokens that left the loop after i loops
 * and `max_loops` of a model's card, if it is given. */
#ifndef FATHOM_SRV_ASSETS_H
#define FATHOM_SRV_ASSETS_H

#include <stddef.h>

typedef struct srv_asset {
    const char *path, *type; /* "/app.js", "text/javascript; charset=utf-8" */
    const unsigned char *data;
    size_t size;
} srv_asset;

/* To be sent with every asset as Content-Security-Policy: the page needs no more. */
#define SRV_ASSET_CSP                                                                              \
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "                \
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

/* path as in the request line without the query; "/" is the page. NULL if there is no such file. */
const srv_asset *srv_asset_find(const char *path);

#endif

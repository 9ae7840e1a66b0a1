/* curl_internal.h - libcurl, loaded when a benchmark starts.
 *
 * Only `fathom bench` needs libcurl. A server that is linked with it loads some 30 more libraries
 * at every start. So the program is compiled with libcurl's headers, and its functions are looked
 * up at run time. */
#ifndef FATHOM_LOADGEN_CURL_INTERNAL_H
#define FATHOM_LOADGEN_CURL_INTERNAL_H

#include "base/err.h"

#include <curl/curl.h>

/* The functions used here, without "curl_". Arguments after an option have the type that libcurl
 * documents for it: long, curl_off_t or a pointer. */
typedef struct {
    CURLcode (*global_init)(long flags);
    void (*global_cleanup)(void);
    CURL *(*easy_init)(void);
    void (*easy_cleanup)(CURL *easy);
    CURLcode (*easy_setopt)(CURL *easy, CURLoption option, ...);
    CURLcode (*easy_getinfo)(CURL *easy, CURLINFO info, ...);
    CURLcode (*easy_perform)(CURL *easy);
    const char *(*easy_strerror)(CURLcode code);
    struct curl_slist *(*slist_append)(struct curl_slist *list, const char *text);
    void (*slist_free_all)(struct curl_slist *list);
    CURLM *(*multi_init)(void);
    CURLMcode (*multi_cleanup)(CURLM *multi);
    CURLMcode (*multi_setopt)(CURLM *multi, CURLMoption option, ...);
    CURLMcode (*multi_add_handle)(CURLM *multi, CURL *easy);
    CURLMcode (*multi_remove_handle)(CURLM *multi, CURL *easy);
    CURLMsg *(*multi_info_read)(CURLM *multi, int *left);
    CURLMcode (*multi_assign)(CURLM *multi, curl_socket_t fd, void *assigned);
    CURLMcode (*multi_socket_action)(CURLM *multi, curl_socket_t fd, int events, int *running);
} curl_functions;

/* Set by bench_curl_open, and read-only from then on. */
extern curl_functions libcurl;

/* Loads libcurl and starts it. ERR_IO says what to install. Before any thread uses libcurl. */
int bench_curl_open(err *e) WARN_UNUSED;
/* The library stays loaded until the process ends. */
void bench_curl_close(void);

#endif

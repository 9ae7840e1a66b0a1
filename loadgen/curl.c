/* curl.c - loads libcurl and looks its functions up. */
#include "base/size.h"
#include "loadgen/curl_internal.h"

#include <dlfcn.h>
#include <string.h>

curl_functions libcurl;

/* Debian's flavours differ in their TLS library only. */
static const char *const names[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};

#define FUNCTION(name)                                                                             \
    { "curl_" #name, offsetof(curl_functions, name) }
static const struct {
    const char *symbol;
    size_t offset; /* in curl_functions */
} functions[] = {
    FUNCTION(global_init),     FUNCTION(global_cleanup),   FUNCTION(easy_init),
    FUNCTION(easy_cleanup),    FUNCTION(easy_setopt),      FUNCTION(easy_getinfo),
    FUNCTION(easy_perform),    FUNCTION(easy_strerror),    FUNCTION(slist_append),
    FUNCTION(slist_free_all),  FUNCTION(multi_init),       FUNCTION(multi_cleanup),
    FUNCTION(multi_setopt),    FUNCTION(multi_add_handle), FUNCTION(multi_remove_handle),
    FUNCTION(multi_info_read), FUNCTION(multi_assign),     FUNCTION(multi_socket_action),
};
_Static_assert(ARRAY_LEN(functions) * sizeof(void *) == sizeof(curl_functions),
               "every function of the table is looked up");

int bench_curl_open(err *e) {
    void *library = NULL;
    for (size_t i = 0; i < ARRAY_LEN(names) && library == NULL; i++)
        library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        const char *why = dlerror();
        return err_set(e, ERR_IO, NULL,
                       "fathom bench needs libcurl (Debian: apt install libcurl4): %s",
                       why ? why : "it cannot be loaded");
    }
    for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
        void *function = dlsym(library, functions[i].symbol);
        if (function == NULL)
            return err_set(e, ERR_IO, NULL, "this libcurl has no function %s", functions[i].symbol);
        /* ISO C has no cast from an object's pointer to a function's. */
        memcpy((char *)&libcurl + functions[i].offset, &function, sizeof function);
    }
    if (libcurl.global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return err_set(e, ERR_IO, NULL, "libcurl cannot be started");
    return 0;
}

void bench_curl_close(void) {
    libcurl.global_cleanup();
}

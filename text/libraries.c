/* libraries.c - the versions of the libraries that read patterns and characters. */
#include "text/pattern_internal.h"
#include "text/tokenizer.h"

#include <string.h>
#include <utf8proc.h>

void tokenizer_libraries(version_sink put, void *ud) {
    char text[64] = "";
    if (pcre2_config(PCRE2_CONFIG_VERSION, NULL) <= (int)sizeof text)
        (void)pcre2_config(PCRE2_CONFIG_VERSION, text);
    text[strcspn(text, " ")] = 0; /* its date follows */
    put(ud, "pcre2", text);
    put(ud, "utf8proc", utf8proc_version());
}

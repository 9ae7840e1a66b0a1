/* named.c - chat templates built into the binary: api/templates/NAME.jinja. */
#include "api/api_internal.h"
#include "base/embed.h"

EMBED(api__named_turns, "api/templates/turns.jinja");
EMBED(api__named_chatml, "api/templates/chatml.jinja");
EMBED(api__named_llama3, "api/templates/llama3.jinja");
EMBED(api__named_plain, "api/templates/plain.jinja");

static const struct {
    const char *name;
    const unsigned char *text, *end;
} named[] = {
    {"turns", api__named_turns, api__named_turns_end},
    {"chatml", api__named_chatml, api__named_chatml_end},
    {"llama3", api__named_llama3, api__named_llama3_end},
    {"plain", api__named_plain, api__named_plain_end},
};

const char *api__template_named(const char *name, size_t *n) {
    for (size_t i = 0; i < ARRAY_LEN(named); i++) {
        if (strcmp(named[i].name, name) != 0) continue;
        *n = (size_t)(named[i].end - named[i].text);
        return (const char *)named[i].text;
    }
    return NULL;
}

void api__template_names(buf *out) {
    for (size_t i = 0; i < ARRAY_LEN(named); i++)
        buf_printf(out, "%s%s", i ? ", " : "", named[i].name);
}

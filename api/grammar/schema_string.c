/* schema_string.c - strings: lengths, patterns and formats. */
#include "api/grammar/schema_internal.h"
#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

/* ---- formats ---- */

#define HEX "[0-9A-Fa-f]"
#define DATE                                                                                       \
    "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|"                                \
    "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|"                          \
    "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
#define TIME                                                                                       \
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?"                                 \
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
#define BYTE "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define H16 HEX "{1,4}"
#define ADDRESS                                                                                    \
    "(?:(?:" H16 ":){7}" H16 "|(?:" H16 ":){1,7}:|(?:" H16 ":){1,6}:" H16 "|(?:" H16               \
    ":){1,5}(?::" H16 "){1,2}|(?:" H16 ":){1,4}(?::" H16 "){1,3}|(?:" H16 ":){1,3}(?::" H16        \
    "){1,4}|(?:" H16 ":){1,2}(?::" H16 "){1,5}|" H16 ":(?::" H16 "){1,6}|:(?::" H16 "){1,7}|::)"
#define PERCENT "%" HEX "{2}"
#define REGULAR "[A-Za-z0-9._~!$&'()*+,;=-]"
#define PATH "(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|" PERCENT ")"
#define CLOCK "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
#define CALENDAR "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"

static const struct {
    const char *name, *pattern; /* NULL: cannot be held */
    const char *never;          /* forbidden anywhere in the text */
    uint32_t most;              /* characters; 0: no limit */
} formats[] = {
    {"date", "^" DATE "$", NULL, 0},
    {"time", "^" TIME "$", NULL, 0},
    {"date-time", "^" DATE "T" TIME "$", NULL, 0},
    {"duration", "^P(?:" CALENDAR "(?:" CLOCK ")?|" CLOCK "|[0-9]+W)$", NULL, 0},
    {"uuid", "^" HEX "{8}-" HEX "{4}-" HEX "{4}-" HEX "{4}-" HEX "{12}$", NULL, 0},
    {"email", "^" ATOM "(?:\\." ATOM ")*@(?:" LABEL "\\.)+[A-Za-z]{2,63}$", NULL, 254},
    {"hostname", "^" LABEL "(?:\\." LABEL ")*$", "--", 253},
    {"ipv4", "^(?:" BYTE "\\.){3}" BYTE "$", NULL, 0},
    {"ipv6", "^" ADDRESS "$", NULL, 0},
    {"uri",
     "^[A-Za-z][A-Za-z0-9+.-]*:(?://(?:(?:" REGULAR "|:|" PERCENT ")*@)?(?:\\[" ADDRESS
     "\\]|(?:" REGULAR "|" PERCENT ")*)(?::[0-9]{0,5})?(?:/" PATH "*)*|/?(?:" PATH "+(?:/" PATH
     "*)*)?)(?:\\?(?:" PATH "|[/?])*)?(?:#(?:" PATH "|[/?])*)?$",
     NULL, 0},
    {"json-pointer", "^(?:/(?:[^/~]|~[01])*)*$", NULL, 0},
    {"idn-email", NULL, NULL, 0},
    {"idn-hostname", NULL, NULL, 0},
    {"iri", NULL, NULL, 0},
    {"iri-reference", NULL, NULL, 0},
    {"regex", NULL, NULL, 0},
    {"relative-json-pointer", NULL, NULL, 0},
    {"uri-reference", NULL, NULL, 0},
    {"uri-template", NULL, NULL, 0},
};

static size_t format_find(const char *name) {
    size_t i = 0;
    while (i < ARRAY_LEN(formats) && strcmp(formats[i].name, name) != 0)
        i++;
    return i;
}

/* ---- DFAs of patterns ---- */

static const api__known_dfa *find_known(const api__compiler *comp, const buf *key) {
    for (uint16_t i = 0; i < comp->n_known; i++) {
        const api__known_dfa *one = &comp->known[i];
        if (one->n == key->len && memcmp(one->key, key->data, key->len) == 0) return one;
    }
    return NULL;
}

static int remember(api__compiler *comp, const buf *key, const api__dfa *dfa) {
    if (comp->n_known == API__MAX_NODES) return 0;
    char *kept = arena_strndup(&comp->grammar->mem, key->data, key->len);
    if (kept == NULL) return api__schema_no_memory(comp);
    comp->known[comp->n_known++] = (api__known_dfa){kept, key->len, dfa};
    return 0;
}

static api__re_result add_pattern(api__regex *regex, const api__pattern *one) {
    return one->literal ? api__regex_add_literal(regex, one->text, one->n, one->inside, one->wanted)
                        : api__regex_add(regex, one->text, one->n, one->wanted);
}

/* 0; 1: the pattern is left out; -1: error. */
static int judge(api__compiler *comp, api__re_result result, const char *keyword, const char *why) {
    char where[100];
    if (result == API__RE_OK) return 0;
    if (result == API__RE_NO_MEMORY) return api__schema_no_memory(comp);
    (void)snprintf(where, sizeof where, " (%s)", why ? why : "");
    return api__schema_unheld(comp, keyword, where) != 0 ? -1 : 1;
}

/* One try. all: with the wanted patterns; else only with the unwanted. */
static int build(api__compiler *comp, const api__pattern *list, size_t n, uint32_t min,
                 uint32_t max, bool all, api__dfa **out, bool *empty) {
    api__regex regex;
    const char *keyword = "pattern";
    int rc = 0;
    if (api__regex_init(&regex, &comp->fuel) != 0) return api__schema_no_memory(comp);
    for (size_t i = 0; rc >= 0 && i < n; i++) {
        if (!all && list[i].wanted) continue;
        api__re_result result = add_pattern(&regex, &list[i]);
        rc = judge(comp, result, list[i].keyword, regex.why);
        if (list[i].wanted) keyword = list[i].keyword;
    }
    *out = NULL;
    if (rc >= 0) rc = 0;
    if (rc == 0 && regex.n_parts > 0) {
        api__re_result result = api__dfa_build(out, &regex, min, max, &comp->grammar->mem);
        *empty = result == API__RE_EMPTY;
        if (!*empty) rc = judge(comp, result, keyword, regex.why);
        if (result != API__RE_OK) *out = NULL;
    }
    api__regex_deinit(&regex);
    return rc;
}

static bool any_unwanted(const api__pattern *list, size_t n) {
    bool any = false;
    for (size_t i = 0; i < n; i++)
        any = any || !list[i].wanted;
    return any;
}

int api__patterns_dfa(api__compiler *comp, const api__pattern *list, size_t n, uint32_t min,
                      uint32_t max, const api__dfa **out, bool *empty) {
    buf key = {0};
    api__dfa *made = NULL;
    *empty = false;
    *out = NULL;
    for (size_t i = 0; i < n; i++) {
        buf_printf(&key, "%d%d%d%d %zu ", comp->strict, list[i].wanted, list[i].literal,
                   list[i].inside, list[i].n);
        buf_append(&key, list[i].text, list[i].n);
    }
    buf_printf(&key, " %u %u", min, max);
    if (key.failed) {
        buf_deinit(&key);
        return api__schema_no_memory(comp);
    }
    const api__known_dfa *known = find_known(comp, &key);
    int rc = 0;
    if (known) {
        *out = known->dfa;
    } else {
        rc = build(comp, list, n, min, max, true, &made, empty);
        if (rc == 1)
            rc = any_unwanted(list, n) ? build(comp, list, n, min, max, false, &made, empty) : 0;
        if (rc == 1)
            rc = api__schema_wrong(comp, "the names of an object are too many or too long");
        if (rc == 0 && !*empty) rc = remember(comp, &key, made);
        *out = made;
    }
    buf_deinit(&key);
    return rc;
}

int api__pattern_matches(api__compiler *comp, const char *keyword, const json_t *pattern,
                         const char *text, size_t n) {
    const char *source = json_string_value(pattern);
    const api__dfa *dfa;
    bool empty;
    if (source == NULL) return api__schema_wrong(comp, "%s must be a string", keyword);
    const api__pattern one = {
        .text = source, .n = json_string_length(pattern), .wanted = true, .keyword = keyword};
    if (api__patterns_dfa(comp, &one, 1, 0, UINT32_MAX, &dfa, &empty) != 0) return -1;
    if (empty) return 0;
    return dfa ? api__dfa_matches(dfa, text, n) : API__PATTERN_UNKNOWN;
}

int api__format_matches(api__compiler *comp, const char *name, const char *text, size_t n) {
    size_t i = format_find(name);
    if (i == ARRAY_LEN(formats)) return 1;
    if (formats[i].pattern == NULL) return api__schema_unheld(comp, "format", "") != 0 ? -1 : 1;
    json_t *pattern = json_string(formats[i].pattern);
    int rc = pattern ? api__pattern_matches(comp, "format", pattern, text, n)
                     : api__schema_no_memory(comp);
    json_decref(pattern);
    if (formats[i].most && n > formats[i].most) return rc < 0 ? -1 : 0;
    return rc == 1 && formats[i].never &&
                   memmem(text, n, formats[i].never, strlen(formats[i].never))
               ? 0
               : rc;
}

/* ---- nodes ---- */

enum { MOST_PATTERNS = 32 };

typedef struct {
    api__pattern list[MOST_PATTERNS];
    size_t n;
} patterns;

static int add(api__compiler *comp, patterns *all, api__pattern one) {
    if (all->n == MOST_PATTERNS)
        return api__schema_wrong(comp, "more than %d patterns hold for one string", MOST_PATTERNS);
    all->list[all->n++] = one;
    return 0;
}

static int add_format(api__compiler *comp, api__node *node, patterns *all, const json_t *value) {
    const char *name = json_c_string(value);
    if (name == NULL) return api__schema_wrong(comp, "format must be a string");
    size_t i = format_find(name);
    if (i == ARRAY_LEN(formats)) return 0; /* an annotation */
    const char *pattern = formats[i].pattern, *never = formats[i].never;
    if (pattern == NULL) return api__schema_unheld(comp, "format", "");
    if (formats[i].most && formats[i].most < node->max) node->max = formats[i].most;
    if (add(comp, all,
            (api__pattern){
                .text = pattern, .n = strlen(pattern), .wanted = true, .keyword = "format"}) != 0)
        return -1;
    if (never == NULL) return 0;
    return add(comp, all,
               (api__pattern){.text = never,
                              .n = strlen(never),
                              .literal = true,
                              .inside = true,
                              .keyword = "format"});
}

static int collect(api__compiler *comp, api__node *node, const api__pending *item, patterns *all) {
    for (uint16_t i = 0; i < item->n_keys; i++) {
        if (add(comp, all, item->keys[i]) != 0) return -1;
    }
    for (uint16_t i = 0; i < item->n_parts; i++) {
        const json_t *schema = item->parts[i].schema;
        const json_t *pattern = json_object_get(schema, "pattern"),
                     *format = json_object_get(schema, "format");
        if (pattern && !json_is_string(pattern))
            return api__schema_wrong(comp, "pattern must be a string");
        if (pattern && add(comp, all,
                           (api__pattern){.text = json_string_value(pattern),
                                          .n = json_string_length(pattern),
                                          .wanted = true,
                                          .keyword = "pattern"}) != 0)
            return -1;
        if (format && add_format(comp, node, all, format) != 0) return -1;
    }
    return 0;
}

int api__compile_string(api__compiler *comp, api__node *node, const api__pending *item,
                        api__node_kind kind) {
    static const api__pattern closer = {API__CLOSER, sizeof API__CLOSER - 1, false, true, true,
                                        "pattern"};
    patterns all = {.n = 0};
    bool empty = false;
    *node = (api__node){.kind = (uint8_t)kind};
    if (api__parts_count(comp, item, "minLength", true, 0, &node->min) != 0 ||
        api__parts_count(comp, item, "maxLength", false, UINT32_MAX, &node->max) != 0 ||
        collect(comp, node, item, &all) != 0)
        return -1;
    if (node->min > node->max)
        return api__schema_none(comp, node, "a string has a minLength above its maxLength");
    if (all.n == 0) return 0;
    if (kind == API__TEXT && add(comp, &all, closer) != 0) return -1;
    if (api__patterns_dfa(comp, all.list, all.n, node->min, node->max, &node->dfa, &empty) != 0)
        return -1;
    return empty ? api__schema_none(comp, node, "no string matches pattern or format") : 0;
}

/* chatml.c - the spellings of ChatML's Jinja text: <|im_start|>role\ncontent<|im_end|>\n.
 *
 * Published templates of this kind are a conversation and then an answer, each of a few
 * forms; any conversation may stand with any answer. A conversation may open with a system
 * turn of the template's own where the messages bring none; its text is taken from the
 * template. All spellings are compared in the form of jinja.c. */
#include "api/api_internal.h"
#include "base/utf8.h"

enum { MAX_SYSTEM = 16 << 10 }; /* bytes of a template's own system turn */

#define TURN                                                                                       \
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
#define LOOP(body) "{% for message in messages %}" body "{% endfor %}"
#define UNLESS(condition) LOOP("{% if " condition " %}{% else %}" TURN "{% endif %}")
#define WHERE(condition) LOOP("{% if " condition " %}" TURN "{% endif %}")
#define IF_SYSTEM                                                                                  \
    "{% if messages[0]['role'] == 'system' %}"                                                     \
    "{{ '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
#define OPEN_SYSTEM "<|im_start|>system{{ '\\n' }}"
#define CLOSE_SYSTEM "<|im_end|>{{ '\\n' }}"

/* The first message again, if it is the system's: it was printed before the loop. */
static const char *const rests[] = {
    UNLESS("message['role'] == 'system' and loop.first"),
    UNLESS("loop.first and message['role'] == 'system'"),
    WHERE("not (message['role'] == 'system' and loop.first)"),
    WHERE("not (loop.first and message['role'] == 'system')"),
    WHERE("message['role'] != 'system' or not loop.first"),
    WHERE("not loop.first or message['role'] != 'system'"),
};

/* Between open and close stands the text of the default system turn; close is NULL where
 * there is none. rest: one of `rests` follows. */
static const struct {
    const char *open, *close;
    bool rest;
} conversations[] = {
    {LOOP(TURN), NULL, false},
    {"{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' "
     "%}" OPEN_SYSTEM,
     CLOSE_SYSTEM "{% endif %}" TURN "{% endfor %}", false},
    {IF_SYSTEM "{% endif %}", NULL, true},
    {IF_SYSTEM "{% else %}" OPEN_SYSTEM, CLOSE_SYSTEM "{% endif %}", true},
};

#define PROMPT(more)                                                                               \
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}" more "{% endif %}"
#define THINK(condition) PROMPT("{% if " condition " %}{{ '<think>\\n' }}{% endif %}")
#define SPARE(condition)                                                                           \
    PROMPT("{% if " condition " %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}")
#define OPENS "\"thinking\":{\"default\":false,\"on\":[{\"token\":\"<think>\"},\"\\n\"]},"
#define SKIPS                                                                                      \
    "\"thinking\":{\"default\":true,\"off\":[{\"token\":\"<think>\"},\"\\n\\n\",{\"token\":"       \
    "\"</think>\"},\"\\n\\n\"]},"
#define ALWAYS                                                                                     \
    "\"thinking\":{\"on\":[{\"token\":\"<think>\"},\"\\n\"],\"off\":[{\"token\":"                  \
    "\"<think>\"},\"\\n\"]},"

static const struct {
    const char *jinja, *json;
} answers[] = {
    {PROMPT(""), ""},
    {THINK("enable_thinking is defined and enable_thinking is true"), OPENS},
    {THINK("enable_thinking is defined and enable_thinking"), OPENS},
    {THINK("enable_thinking is true"), OPENS},
    {THINK("enable_thinking"), OPENS},
    {SPARE("enable_thinking is defined and enable_thinking is false"), SKIPS},
    {SPARE("enable_thinking is defined and not enable_thinking"), SKIPS},
    {"{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}", ALWAYS},
};

static const char *const preludes[] = {
    "",
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif "
    "%}",
    "{% if add_generation_prompt is not defined %}{% set add_generation_prompt = false %}{% endif "
    "%}"};

#define IM(role)                                                                                   \
    "\"" role "\":{\"before\":[{\"control\":\"<|im_start|>\"},\"" role                             \
    "\\n\"],\"after\":[{\"control\":\"<|im_end|>\"},\"\\n\"]}"

/* A document of such a vocabulary ends in <|endoftext|>, so an answer may too. */
static void describe(buf *json, const char *answer, const char *system, size_t n_system) {
    buf_puts(json, "{\"roles\":{" IM("system") "," IM("user") "," IM("assistant") "," IM(
                       "tool") "},\"answer\":[{\"control\":\"<|im_start|>\"},\"assistant\\n\"],");
    buf_puts(json, answer);
    if (system) {
        buf_puts(json, "\"default_system\":");
        buf_json_string(json, system, n_system);
        buf_puts(json, ",");
    }
    buf_puts(json, "\"end\":[\"<|im_end|>\",\"<|endoftext|>\"]}");
}

/* ---- comparing ---- */

typedef struct {
    buf want; /* the template in the common form */
    buf part; /* at work */
    size_t start, end;
} comparing;

/* Moves start past the part, if want goes on with it. */
static bool take(comparing *c, const char *jinja) {
    buf_clear(&c->part);
    api__jinja_normalise(&c->part, jinja, strlen(jinja));
    size_t n = c->part.len;
    if (c->part.failed || n > c->end - c->start) return false;
    if (n > 0 && memcmp(c->want.data + c->start, c->part.data, n) != 0) return false;
    c->start += n;
    return true;
}

/* The same at the end. */
static bool take_back(comparing *c, const char *jinja) {
    buf_clear(&c->part);
    api__jinja_normalise(&c->part, jinja, strlen(jinja));
    size_t n = c->part.len;
    if (c->part.failed || n > c->end - c->start) return false;
    if (n > 0 && memcmp(c->want.data + c->end - n, c->part.data, n) != 0) return false;
    c->end -= n;
    return true;
}

/* Plain text in any Jinja engine, some of which look for tags in strings; and it spells no
 * control token, which Hugging Face would read there. */
static bool plain(const char *s, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char next = i + 1 < n ? s[i + 1] : ' ';
        if ((unsigned char)s[i] < 0x20 && s[i] != '\n' && s[i] != '\t') return false;
        if (s[i] == '<' || (s[i] == '{' && strchr("{%#", next))) return false;
        if (next == '}' && strchr("}%#", s[i])) return false;
    }
    return n <= MAX_SYSTEM && utf8_valid(s, n);
}

static bool take_rest(comparing *c) {
    size_t end = c->end;
    for (size_t i = 0; i < ARRAY_LEN(rests); i++) {
        if (take_back(c, rests[i])) return true;
        c->end = end;
    }
    return false;
}

/* The part between prelude and answer is conversation i; what is left of it, from start to
 * end, is the default system turn. */
static bool take_conversation(comparing *c, size_t i) {
    if (conversations[i].rest && !take_rest(c)) return false;
    if (!take(c, conversations[i].open)) return false;
    if (conversations[i].close == NULL) return c->start == c->end;
    return take_back(c, conversations[i].close) &&
           plain(c->want.data + c->start, c->end - c->start);
}

static bool find(comparing *c, buf *json) {
    for (size_t p = 0; p < ARRAY_LEN(preludes); p++) {
        for (size_t a = 0; a < ARRAY_LEN(answers); a++) {
            for (size_t i = 0; i < ARRAY_LEN(conversations); i++) {
                c->start = 0;
                c->end = c->want.len;
                if (!take(c, preludes[p]) || !take_back(c, answers[a].jinja)) continue;
                if (!take_conversation(c, i)) continue;
                const char *system = conversations[i].close ? c->want.data + c->start : NULL;
                describe(json, answers[a].json, system, c->end - c->start);
                return true;
            }
        }
    }
    return false;
}

bool api__chatml_find(buf *json, const char *jinja) {
    comparing c = {0};
    if (strcmp(jinja, "chatml") == 0) {
        describe(json, "", NULL, 0);
        return true;
    }
    api__jinja_normalise(&c.want, jinja, strlen(jinja));
    bool found = !c.want.failed && find(&c, json);
    if (c.want.failed || c.part.failed) json->failed = true;
    buf_deinit(&c.want);
    buf_deinit(&c.part);
    return found;
}

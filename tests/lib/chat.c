/* chat.c - see chat.h. */
#include "tests/lib/chat.h"
#include "base/json.h"
#include "tests/lib/tokens.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static size_t put_tokens(buf *json, const char *const *names, bool special, size_t at) {
    for (size_t i = 0; names && names[i]; i++, at++) {
        buf_printf(json, "%s{\"id\":%zu,\"content\":", at ? "," : "", at);
        buf_json_text(json, names[i]);
        buf_printf(json, ",\"special\":%s,\"normalized\":false}", special ? "true" : "false");
    }
    return at;
}

tokenizer *chat_tokenizer(const char *const *specials, const char *const *others) {
    buf json = {0};
    tokenizer *tok = NULL;
    err e = {0};
    buf_puts(&json, "{\"added_tokens\":[");
    size_t n = put_tokens(&json, specials, true, 0);
    n = put_tokens(&json, others, false, n);
    cr_assert_leq(n, CHAT_MAX_TOKENS);
    buf_puts(&json, "],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},"
                    "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{");
    put_byte_vocabulary(&json, (uint32_t)n);
    buf_puts(&json, "},\"merges\":[]}}");
    int rc = tokenizer_parse(&tok, json.data, json.len, 400, "test", &e);
    buf_deinit(&json);
    cr_assert_eq(rc, 0, "%s", e.msg);
    return tok;
}

void chat_spell(const tokenizer *tok, const uint32_t *ids, size_t n, buf *out) {
    uint32_t bytes = tokenizer_size(tok) - 256; /* id of the first byte token */
    buf_puts(out, "");
    for (size_t i = 0; i < n; i++) {
        size_t len;
        const char *text = tokenizer_bytes(tok, ids[i], &len);
        if (ids[i] < bytes) buf_puts(out, "~");
        buf_append(out, text, len);
    }
}

void chat_open(chat_rig *rig, const char *const *specials, const char *const *others,
               const char *members, const char *template) {
    buf config = {0};
    json_setup();
    *rig = (chat_rig){.tok = chat_tokenizer(specials, others), .dir = tmp_dir_create()};
    buf_printf(&config, "{%s", members);
    if (template) {
        buf_printf(&config, "%s\"chat_template\":", members[0] ? "," : "");
        buf_json_text(&config, template);
    }
    buf_puts(&config, "}");
    file_put(rig->dir.path, "tokenizer_config.json", config.data, config.len);
    buf_deinit(&config);
    chat_reopen(rig, NULL);
}

void chat_reopen(chat_rig *rig, const char *option) {
    api_chat_close(rig->chat);
    rig->chat = NULL;
    rig->e = (err){0};
    if (api_chat_open(&rig->chat, rig->dir.path, option, rig->tok, &rig->e) != 0) rig->chat = NULL;
}

const char *chat_rendered(chat_rig *rig, const char *body) {
    jinja_output text = {0};
    token_ids ids = {0};
    err e = {0};
    buf_clear(&rig->said);
    cr_assert_not_null(rig->chat, "%s", rig->e.msg);
    if (api_chat_render(rig->chat, body, strlen(body), &text, &ids, &e) == 0) {
        chat_spell(rig->tok, ids.data, ids.n, &rig->said);
    } else {
        buf_printf(&rig->said, "%s %s: %s", err_name(e.code), e.param, e.msg);
    }
    jinja_output_deinit(&text);
    token_ids_deinit(&ids);
    return rig->said.data ? rig->said.data : "";
}

void chat_close(chat_rig *rig) {
    api_chat_close(rig->chat);
    tokenizer_close(rig->tok);
    tmp_dir_remove(&rig->dir);
    buf_deinit(&rig->said);
}

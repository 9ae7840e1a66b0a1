/* turns.c - turns the conversations of chat and responses into the ids of a prompt. */
#include "api/messages_internal.h"

/* Memory for rendering: COPIES of the longest body, and SPARE_BYTES for values made by the
 * template. */
enum { COPIES = 8, SPARE_BYTES = 16 << 20 };

static int check_end(const api__turns_reader *reader, const api__message *msgs, size_t n,
                     bool open_last) {
    bool answered = n > 0 && msgs[n - 1].role == API__ASSISTANT;
    if (n == 0) return api__bad_param(reader->error, reader->list, "has no message for the model");
    if (answered && n > 1 && msgs[n - 2].role == API__ASSISTANT &&
        strcmp(reader->list, "messages") == 0) {
        return err_set(reader->error, ERR_BAD_PARAM, reader->list,
                       "%s may not end with two assistant messages", reader->list);
    }
    if (!open_last || answered) return 0;
    return err_set(reader->error, ERR_BAD_PARAM, "continue_final_message",
                   "continue_final_message requires an assistant message at the end");
}

/* ---- system messages ---- */

static bool is_system(const api__message *msg) {
    return msg->role == API__SYSTEM || msg->role == API__DEVELOPER;
}

/* Puts a text before the content of a message, apart from it by a blank line. */
static int put_before(const api__turns_reader *reader, const char *lead, size_t n,
                      api__message *msg) {
    buf text = {0};
    buf_append(&text, lead, n);
    buf_puts(&text, "\n\n");
    buf_append(&text, msg->text, msg->len);
    return api__keep_text(reader, &text, msg);
}

static void insert(api__message *msgs, size_t *n, size_t at, api__message msg) {
    memmove(msgs + at + 1, msgs + at, (*n - at) * sizeof *msgs);
    msgs[at] = msg;
    *n += 1;
}

/* Takes the system messages out of the list and joins their texts by blank lines. */
static int take_systems(const api__turns_reader *reader, api__message *msgs, size_t *n,
                        api__message *out) {
    buf text = {0};
    size_t kept = 0;
    for (size_t i = 0; i < *n; i++) {
        if (!is_system(&msgs[i])) {
            msgs[kept++] = msgs[i];
            continue;
        }
        if (text.len > 0) buf_puts(&text, "\n\n");
        buf_append(&text, msgs[i].text, msgs[i].len);
    }
    *n = kept;
    *out = (api__message){.role = API__SYSTEM};
    return api__keep_text(reader, &text, out);
}

/* Moves system messages to a place where the template prints them: all joined at the beginning, or
 * in the first turn of the user. The list has room for one more message. */
static int place_systems(const api__turns_reader *reader, api__message *msgs, size_t *n) {
    const api__traits *traits = reader->traits;
    api__message joined;
    size_t found = 0, user = 0;
    for (size_t i = 0; i < *n; i++)
        found += is_system(&msgs[i]);
    if (found == 0 || traits->later_systems) return 0;
    if (traits->system && found == 1 && is_system(&msgs[0])) return 0;
    if (take_systems(reader, msgs, n, &joined) != 0) return -1;
    if (traits->system) {
        insert(msgs, n, 0, joined);
        return 0;
    }
    while (user < *n && msgs[user].role != API__USER)
        user++;
    if (user < *n) return joined.len ? put_before(reader, joined.text, joined.len, &msgs[user]) : 0;
    joined.role = API__USER;
    insert(msgs, n, 0, joined);
    return 0;
}

/* Puts a text before everything. */
static int put_lead(const api__turns_reader *reader, const char *lead, api__message *msgs,
                    size_t *n) {
    size_t len = strlen(lead);
    if (is_system(&msgs[0])) return put_before(reader, lead, len, &msgs[0]);
    insert(msgs, n, 0, (api__message){.role = API__SYSTEM, .text = lead, .len = len});
    return 0;
}

static int read_instructions(const api__turns_reader *reader, const json_t *text,
                             api__message *out) {
    if (!json_is_string(text))
        return api__bad_param(reader->error, "instructions", "must be a string");
    *out = (api__message){.role = API__SYSTEM,
                          .text = json_string_value(text),
                          .len = json_string_length(text),
                          .content = text};
    return 0;
}

/* ---- lists ---- */

/* Each call is an item of its own. Calls after an answer, or after each other, join one message. */
static bool joins_turn(const api__message *msgs, size_t at) {
    return at > 0 && msgs[at].calls && !msgs[at].original && msgs[at].len == 0 &&
           msgs[at - 1].role == API__ASSISTANT;
}

static int join_turn(const api__turns_reader *reader, api__message *msg, const api__message *call) {
    if (msg->calls == NULL) msg->calls = call->calls;
    else if (json_array_extend((json_t *)(uintptr_t)msg->calls, (json_t *)(uintptr_t)call->calls) !=
             0)
        return api__out_of_memory(reader->error);
    return 0;
}

static int read_entries(const api__turns_reader *reader, const json_t *list, bool items,
                        api__message *msgs, size_t *n) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *value = json_array_get(list, i);
        msgs[*n] = (api__message){0};
        int rc = items ? api__read_item(reader, value, i, &msgs[*n])
                       : api__read_message(reader, value, i, &msgs[*n]);
        if (rc < 0) return -1;
        if (rc == 1) continue;
        if (!items || !joins_turn(msgs, *n)) *n += 1;
        else if (join_turn(reader, &msgs[*n - 1], &msgs[*n]) != 0) return -1;
    }
    return 0;
}

static int read_list(const api__turns_reader *reader, const json_t *list, const api__turns *turns,
                     api__message *msgs, size_t *n) {
    size_t first = 0;
    if (turns->instructions && read_instructions(reader, turns->instructions, &msgs[first++]) != 0)
        return -1;
    *n = first;
    if (json_is_string(list)) {
        msgs[(*n)++] = (api__message){.role = API__USER,
                                      .text = json_string_value(list),
                                      .len = json_string_length(list),
                                      .content = list};
    }
    if (read_entries(reader, list, turns->items, msgs, n) != 0) return -1;
    if (check_end(reader, msgs + first, *n - first, turns->open_last) != 0) return -1;
    if (turns->tools && !reader->traits->tools) {
        const char *lead = api__tools_lead(turns->tools, reader->mem, reader->error);
        if (lead == NULL || put_lead(reader, lead, msgs, n) != 0) return -1;
    }
    return place_systems(reader, msgs, n);
}

/* ---- rendering ---- */

static int check_kwargs(const api__template *tmpl, const json_t *kwargs, err *e) {
    static const char name[] = "chat_template_kwargs";
    const char *key;
    json_t *value;
    if (kwargs == NULL || json_is_null(kwargs)) return 0;
    if (!json_is_object(kwargs)) return api__bad_param(e, name, "must be an object");
    if (json_object_size(kwargs) > API__MAX_KWARGS)
        return api__bad_param(e, name, "may have at most 64 members");
    json_object_foreach((json_t *)(uintptr_t)kwargs, key, value) {
        if (!api__template_reserves(tmpl, key)) continue;
        return err_set(e, ERR_BAD_PARAM, name,
                       "%s: %.64s is set by the server and cannot be changed", name, key);
    }
    return 0;
}

static int render(const api__turns_reader *reader, const api__turns *turns,
                  const api__message *msgs, size_t n, jinja_output *text, token_ids *out) {
    api__talk talk = {.tools = reader->traits->tools ? turns->tools : NULL,
                      .kwargs = turns->kwargs,
                      .generation = turns->generation && !turns->open_last,
                      .open_last = turns->open_last,
                      .soon = turns->soon,
                      .max_memory = reader->ctx->opts.max_body_bytes * COPIES + SPARE_BYTES};
    json_t *messages = api__talk_messages(reader->traits, msgs, n, turns->open_last);
    if (messages == NULL) return api__out_of_memory(reader->error);
    talk.messages = messages;
    err why = {0};
    int rc = api__template_render(reader->ctx->template, &talk, text, &why);
    json_decref(messages);
    if (rc < 0) {
        const char *param = why.param[0] ? why.param : reader->list;
        return err_set(reader->error, why.code, param, "%s", why.msg);
    }
    return rc == 0 ? api__template_ids(reader->ctx->opts.tokenizer, text, out, reader->error) : rc;
}

static int check_list(const api__turns_reader *reader, const json_t *list,
                      const api__turns *turns) {
    const api_context *ctx = reader->ctx;
    bool text = turns->items && json_is_string(list);
    size_t n = text ? 1 : json_array_size(list);
    if (list == NULL)
        return err_set(reader->error, ERR_BAD_PARAM, reader->list, "%s is missing", reader->list);
    if (ctx->opts.tokenizer == NULL)
        return api__no_tokenizer(ctx, reader->list, "send token ids to /v1/completions",
                                 reader->error);
    if (ctx->template == NULL) {
        return err_set(reader->error, ERR_UNSUPPORTED, reader->list,
                       "this model has no chat template: use /v1/completions, or start the server "
                       "with --chat-template FILE|NAME");
    }
    if (api__template_broken(ctx->template)) {
        return err_set(
            reader->error, ERR_UNSUPPORTED, reader->list,
            "this model's chat template cannot be used: %.200s. To replace it, start the server "
            "with "
            "--chat-template FILE|NAME or add chat_template.fathom.json to the model's folder",
            api__template_broken(ctx->template));
    }
    if (!text && !json_is_array(list)) {
        return err_set(reader->error, ERR_BAD_PARAM, reader->list, "%s must be a %slist",
                       reader->list, turns->items ? "string or a " : "");
    }
    if (n > 0 && n <= API__MAX_MESSAGES)
        return check_kwargs(ctx->template, turns->kwargs, reader->error);
    return err_set(reader->error, ERR_BAD_PARAM, reader->list, "%s must have 1 to %d entries",
                   reader->list, API__MAX_MESSAGES);
}

int api__turns_to_ids(const api_context *ctx, const json_t *list, const api__turns *turns,
                      arena *mem, jinja_output *text, token_ids *out, err *e) {
    api__turns_reader reader = {
        .ctx = ctx, .list = turns->items ? "input" : "messages", .mem = mem, .error = e};
    jinja_output own = {0};
    size_t n = json_is_array(list) ? json_array_size(list) : 1;
    if (check_list(&reader, list, turns) != 0) return -1;
    reader.traits = api__template_traits(ctx->template, turns->tools != NULL);
    reader.made = json_array();
    api__message *msgs = arena_array(mem, n + 2, sizeof *msgs);
    int rc =
        msgs && reader.made ? read_list(&reader, list, turns, msgs, &n) : api__out_of_memory(e);
    if (rc == 0) rc = render(&reader, turns, msgs, n, text ? text : &own, out);
    json_decref(reader.made);
    jinja_output_deinit(&own);
    return rc;
}

int api__body_to_ids(const api_context *ctx, const json_t *root, bool soon, jinja_output *text,
                     token_ids *out, err *e) {
    api__turns turns = {
        .generation = true, .soon = soon, .kwargs = api__member(root, "chat_template_kwargs")};
    const json_t *tools = api__member(root, "tools");
    api__tool *functions;
    json_t *list = NULL;
    arena mem;
    if (api__read_bool(json_object_get(root, "add_generation_prompt"), "add_generation_prompt",
                       &turns.generation, e) != 0) {
        return -1;
    }
    if (api__read_bool(json_object_get(root, "continue_final_message"), "continue_final_message",
                       &turns.open_last, e) != 0) {
        return -1;
    }
    arena_init(&mem,
               ctx->opts.max_body_bytes * 4 + (1 << 20)); /* a text is copied 3 times at most */
    int rc = tools ? api__list_tools(tools, false, &mem, &functions, &list, e) : 0;
    turns.tools = list;
    if (rc == 0)
        rc = api__turns_to_ids(ctx, json_object_get(root, "messages"), &turns, &mem, text, out, e);
    json_decref(list);
    arena_deinit(&mem);
    return rc;
}

static int read_turns(api_request *req, const api_context *ctx, const json_t *list,
                      const api__turns *turns, err *e) {
    token_ids ids = {0};
    jinja_output text = {0};
    req->prompts = arena_array(&req->mem, 1, sizeof *req->prompts);
    if (req->prompts == NULL) return api__out_of_memory(e);
    int rc = api__turns_to_ids(ctx, list, turns, &req->mem, &text, &ids, e);
    if (rc == 0) rc = api__keep_ids(req, ctx, &ids, &req->prompts[0], req->dialect->input, e);
    if (rc == 0) api__expect_thought(req, ctx, turns, &text);
    jinja_output_deinit(&text);
    token_ids_deinit(&ids);
    req->n_prompts = 1;
    return rc;
}

int api__read_conversation(api_request *req, const api_context *ctx, const api__values *fields,
                           const json_t *list, api__turns *turns, err *e) {
    json_t *tools = NULL;
    int rc = api__read_tools(req, ctx, fields, &tools, e);
    turns->soon = req->soon;
    turns->tools = tools;
    turns->kwargs = fields->chat_template_kwargs;
    req->show_thought = fields->include_reasoning;
    if (rc == 0) rc = read_turns(req, ctx, list, turns, e);
    json_decref(tools);
    return rc;
}

/* test_api_responses.c - /v1/responses: its object, its events, its refusals. */
#include "base/json.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <string.h>

API_SUITE(api_responses);

static const char *str(const json_t *value, const char *key) {
    const char *s = json_string_value(json_object_get(value, key));
    return s ? s : "(none)";
}

static unsigned answer(const char *body, const char *text, sched_finish why, buf *out) {
    uint32_t ids[64];
    size_t n = api_ids(&fixture, text, ids, 64);
    api_reply *reply = api_must_reply(&fixture, &api_dialect_responses, body);
    unsigned bits = api_feed(reply, 0, ids, n, why, out);
    api_reply_destroy(reply);
    return bits;
}

Test(api_responses, an_answer_has_the_object_of_the_openai_api_and_repeats_what_was_asked) {
    buf out = {0};
    cr_assert_eq(
        answer("{\"model\":\"demo\",\"input\":\"In\",\"metadata\":{\"a\":\"b\"},\"temperature\":0,"
               "\"reasoning\":{\"effort\":\"low\"},\"return_depth\":true,\"request_id\":\"r\"}",
               " the", SCHED_STOP, &out),
        API_DONE);
    json_t *root = json_loadb(out.data, out.len, JSON_REJECT_DUPLICATES, NULL);
    cr_assert_not_null(root, "%s", out.data);
    cr_expect_str_eq(str(root, "id"), "resp_r-0000000000000000");
    cr_expect_str_eq(str(root, "object"), "response");
    cr_expect_str_eq(str(root, "status"), "completed");
    cr_expect_str_eq(str(root, "model"), "demo");
    cr_expect_str_eq(str(json_object_get(root, "metadata"), "a"), "b");
    cr_expect_str_eq(str(json_object_get(root, "reasoning"), "effort"), "low");
    const json_t *item = json_array_get(json_object_get(root, "output"), 0);
    const json_t *part = json_array_get(json_object_get(item, "content"), 0);
    cr_expect_str_eq(str(item, "type"), "message");
    cr_expect_str_eq(str(item, "id"), "msg_0000000000000000_0_0");
    cr_expect_str_eq(str(part, "type"), "output_text");
    cr_expect_str_eq(str(part, "text"), " the");
    cr_expect_eq(json_array_size(json_object_get(part, "depths")), 1);
    const json_t *usage = json_object_get(root, "usage");
    cr_expect_eq(json_integer_value(json_object_get(usage, "input_tokens")), 4);
    cr_expect_eq(json_integer_value(json_object_get(usage, "output_tokens")), 1);
    cr_expect_eq(json_integer_value(json_object_get(usage, "total_tokens")), 5);
    json_decref(root);
    buf_deinit(&out);
}

static const char *const order[] = {"response.created",           "response.in_progress",
                                    "response.output_item.added", "response.content_part.added",
                                    "response.output_text.delta", "response.output_text.delta",
                                    "response.output_text.delta", "response.output_text.done",
                                    "response.content_part.done", "response.output_item.done",
                                    "response.incomplete"};

Test(api_responses, events_come_in_order_with_one_pair_of_ids_and_deltas_join_to_the_text) {
    buf out = {0}, text = {0};
    answer("{\"model\":\"demo\",\"input\":[{\"role\":\"user\",\"content\":[{\"type\":\"input_"
           "text\",\"text\":\"In\"}]}],"
           "\"stream\":true,\"max_output_tokens\":3,\"top_logprobs\":1,\"request_id\":\"r\"}",
           "In the beginning", SCHED_LENGTH, &out);
    json_int_t n = 0;
    for (const char *at = out.data; at && *at; at = strstr(at, "\n\n") + 2, n++) {
        char head[64];
        cr_assert_lt((size_t)n, ARRAY_LEN(order));
        snprintf(head, sizeof head, "event: %s\ndata: {", order[n]);
        cr_assert_eq(strncmp(at, head, strlen(head)), 0, "event %d: %.60s", (int)n, at);
        const char *data = strstr(at, "data: ") + 6;
        json_t *root =
            json_loadb(data, (size_t)(strstr(at, "\n\n") - data), JSON_REJECT_DUPLICATES, NULL);
        cr_assert_not_null(root, "%s", data);
        cr_expect_eq(json_integer_value(json_object_get(root, "sequence_number")), n);
        cr_expect_str_eq(str(root, "type"), order[n]);
        const json_t *response = json_object_get(root, "response"),
                     *item = json_object_get(root, "item");
        if (response) cr_expect_str_eq(str(response, "id"), "resp_r-0000000000000000");
        if (item) cr_expect_str_eq(str(item, "id"), "msg_0000000000000000_0_0");
        if (json_object_get(root, "item_id"))
            cr_expect_str_eq(str(root, "item_id"), "msg_0000000000000000_0_0");
        if (json_object_get(root, "delta")) {
            buf_puts(&text, str(root, "delta"));
            cr_expect_eq(json_array_size(json_object_get(root, "logprobs")), 1);
        }
        if (json_object_get(root, "text")) cr_expect_str_eq(str(root, "text"), text.data);
        json_decref(root);
    }
    cr_expect_eq((size_t)n, ARRAY_LEN(order));
    buf_deinit(&out);
    buf_deinit(&text);
}

Test(api_responses, a_failure_in_mid_stream_is_an_error_event) {
    api_reply *reply = api_must_reply(&fixture, &api_dialect_responses,
                                      "{\"model\":\"demo\",\"input\":\"x\",\"stream\":true}");
    uint32_t id;
    buf out = {0};
    err e = {0};
    api_ids(&fixture, "x", &id, 1);
    sched_event ev = ev_token(id, 1, 0);
    api_event(reply, 0, &ev, &out, &e);
    buf_clear(&out);
    ev = ev_end(SCHED_FAILED, 1, 1);
    ev.why = ERR_DEVICE;
    cr_assert_eq(api_event(reply, 0, &ev, &out, &e), API_FAILED);
    cr_expect_not_null(
        strstr(out.data, "event: error\ndata: {\"type\":\"error\",\"sequence_number\":5"), "%s",
        out.data);
    cr_expect_not_null(strstr(out.data, "\"error\":{\"message\""));
    api_reply_destroy(reply);
    buf_deinit(&out);
}

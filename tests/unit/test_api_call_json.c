/* test_api_call_json.c - calls written as JSON, in the notations of Hermes, Mistral and Llama:
 * found in a text however it is cut into pieces, and what is left of a call that is cut off. */
#include "api/request_internal.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

TestSuite(api_call_json, .init = json_setup, .fini = fail_on_leaks);

static api__tool tools[] = {{.name = "weather"}, {.name = "now"}};

/* The content, then each call's name and arguments; "…" behind a call that is not whole. */
static void tell(const api__answer *answer, buf *out) {
    buf_clear(out);
    buf_append(out, answer->said.data ? answer->said.data : "", answer->said.len);
    for (uint32_t i = 0; i < answer->n_calls; i++) {
        const api__call *call = &answer->calls[i];
        buf_printf(out, "|%s%.*s%s", tools[call->tool].name, (int)(call->args_end - call->args),
                   answer->args.data ? answer->args.data + call->args : "", call->whole ? "" : "…");
    }
    buf_append(out, "", 0);
}

typedef struct {
    const api__notation *notation;
    const char *text, *want;
} row;

static void check(const row *one, api__calls calls, bool one_call) {
    api_request req = {.tools = tools,
                       .n_tools = ARRAY_LEN(tools),
                       .notation = one->notation,
                       .calls = calls,
                       .one_call = one_call};
    size_t n = strlen(one->text);
    buf got = {0};
    for (size_t cut = 0; cut <= n; cut++) {
        api__answer answer = {0};
        one->notation->read(&req, &answer, one->text, cut, false);
        if (!answer.ended) one->notation->read(&req, &answer, one->text, n, true);
        tell(&answer, &got);
        cr_assert_str_eq(got.data ? got.data : "", one->want, "%s cut at %zu: %s", one->text, cut,
                         got.data);
        api__answer_deinit(&answer);
    }
    buf_deinit(&got);
}

#define H &api__notation_json
#define M &api__notation_mistral
#define L &api__notation_llama
#define NOW "{\"name\":\"now\",\"arguments\":{}}"
#define UR "{\"name\": \"weather\", \"arguments\": {\"city\": \"Ur\"}}"
#define UR_CALL "|weather{\"city\": \"Ur\"}"

static const row whole[] = {
    /* One call, and what may stand around it. */
    {H, NOW, "|now{}"},
    {H, " \n" UR "\n", UR_CALL},
    {H, "<tool_call>\n" UR "\n</tool_call>", UR_CALL},
    {H, "I look.\n\n<tool_call>\n" UR "\n</tool_call>", "I look." UR_CALL},
    {H, "a <b> < <tool_call>" NOW "</tool_call>", "a <b> <|now{}"},
    {H, "<tool_call>" NOW "</tool_call>\nDone.", "Done.|now{}"},
    {H, NOW " and more", "|now{}"},
    {H, "<tool_call><tool_call>" NOW "</tool_call></tool_call>", "|now{}"},
    {H, "{\"name\":\"weather\",\"arguments\":{\"a\":\"}\\\"{\",\"b\":[{}]}} x",
     "|weather{\"a\":\"}\\\"{\",\"b\":[{}]}"},
    /* Members beside name and arguments. */
    {H, "{\"type\": \"function\", \"name\": \"now\", \"parameters\": {\"a\": 1}}",
     "|now{\"a\": 1}"},
    {H, "{\"id\":\"x\",\"name\":\"now\",\"arguments\":{},\"more\":[{\"}\":1}]}", "|now{}"},
    {H, "{\"name\":\"now\"}", "|now{}"},
    {H, "{\"name\":\"now\",\"id\":\"x\"} x", "|now{}"},
    /* Several calls. */
    {H, NOW "\n" UR, "|now{}" UR_CALL},
    {H, NOW "; " UR ";" NOW, "|now{}" UR_CALL "|now{}"},
    {H, "[" NOW ", " UR "]", "|now{}" UR_CALL},
    {H, "<tool_call>\n" NOW "\n</tool_call>\n<tool_call>\n" UR "\n</tool_call>", "|now{}" UR_CALL},
    {H, "<tool_call>" NOW "</tool_call> and <tool_call>" UR "</tool_call>", "and|now{}" UR_CALL},
    {H, "<tool_call>[" NOW "," NOW "]</tool_call>", "|now{}|now{}"},
    {M, "[TOOL_CALLS] [" NOW ", " UR "]", "|now{}" UR_CALL},
    {M, "[TOOL_CALLS][" NOW "]", "|now{}"},
    {M, "[" NOW "]", "|now{}"},
    {M, "Let me see.[TOOL_CALLS] [" NOW "]", "Let me see.|now{}"},
    {M, "[TOOL_CALLS]weather{\"city\": \"Ur\"}[TOOL_CALLS]now{}", UR_CALL "|now{}"},
    {M, "[TOOL_CALLS]weather[ARGS]{\"city\": \"Ur\"}", UR_CALL},
    {M, "[TOOL_CALLS]weather[CALL_ID]a1b2[ARGS]{\"city\": \"Ur\"}", UR_CALL},
    {M, "weather{\"city\": \"Ur\"}now{}", UR_CALL "|now{}"},
    {L, "<|python_tag|>{\"name\": \"now\", \"parameters\": {}}", "|now{}"},
    {L, "{\"name\": \"now\", \"parameters\": {}}; " UR, "|now{}" UR_CALL},
    {L, "<|python_tag|>weather.call(city=\"Ur\", days=-3, dry=True, at=None)",
     "|weather{\"city\":\"Ur\",\"days\":-3,\"dry\":true,\"at\":null}"},
    {L, "weather.call(city='a\\'b\\n\"c, )', tags=[1, {\"a\": 2}]) x",
     "|weather{\"city\":\"a'b\\n\\\"c, )\",\"tags\":[1, {\"a\": 2}]}"},
    {L, "<|python_tag|>now.call()", "|now{}"},
    {L, "<|python_tag|>now.call();now.call( )", "|now{}|now{}"},
    /* What is no call is text. */
    {H, "   ", "   "},
    {H, "In the beginning " NOW, "In the beginning " NOW},
    {H, "{\"name\":\"king\",\"arguments\":{}}", "{\"name\":\"king\",\"arguments\":{}}"},
    {H, "{\"arguments\":{},\"name\":\"now\"}", "{\"arguments\":{},\"name\":\"now\"}"},
    {H, "{\"name\":\"now\",\"arguments\":7}", "{\"name\":\"now\",\"arguments\":7}"},
    {H, "{\"type\":\"x\",\"name\":\"now\"}", "{\"type\":\"x\",\"name\":\"now\"}"},
    {H, "{\"answer\": 1}\n", "{\"answer\": 1}\n"},
    {H, "[1, 2]", "[1, 2]"},
    {H, "{", "{"},
    {H, "[", "["},
    {H, "<", "<"},
    {H, "a <", "a <"},
    {H, "<tool_call> now", "<tool_call> now"},
    {H, "<tool_cal>" NOW, "<tool_cal>" NOW},
    {H, "{<tool_call>" NOW, "{|now{}"},
    {H, "now{}", "now{}"},
    {M, "now, all ", "now, all "},
    {M, "[1]", "[1]"},
    {M, "weather [is] nice", "weather [is] nice"},
    {M, "weather", "weather"},
    {M, "weather ", "weather "},
    {L, "now.", "now."},
    {L, "now.call(7)", "now.call(7)"},
    {L, "now.call(a=b)", "now.call(a=b)"},
    {L, "now.call(a=1,a=2)", "now.call(a=1,a=2)"},
    {L, "now.call(a='b)", "|now…"},
    {L, "<|python_tag|>print(1)", "<|python_tag|>print(1)"},
};

Test(api_call_json, calls_are_found_in_the_notations_of_several_models_and_the_rest_is_text) {
    for (size_t i = 0; i < ARRAY_LEN(whole); i++)
        check(&whole[i], API__CALLS_AUTO, false);
}

static const row cut[] = {
    /* The name is complete: the call stands. */
    {H, "{\"name\":\"weather\",\"arguments\":{\"city\":\"U", "|weather{\"city\":\"U…"},
    {H, "{\"name\":\"weather\",\"arguments\":{", "|weather{…"},
    {H, "{\"name\":\"weather\",\"arguments\":", "|weather…"},
    {H, "{\"name\":\"weather\",\"argu", "|weather…"},
    {H, "{\"name\":\"weather\"", "|weather…"},
    {H, "Well. <tool_call>{\"name\":\"weather\"", "Well.|weather…"},
    {H, NOW "{\"name\":\"weather\",\"arguments\":{\"c", "|now{}|weather{\"c…"},
    {M, "[TOOL_CALLS]weather[ARGS]", "|weather…"},
    {M, "[TOOL_CALLS]weather{\"a\"", "|weather{\"a\"…"},
    {L, "<|python_tag|>weather.call(city=\"U", "|weather…"},
    /* It is not: nothing is left. */
    {H, "{\"name\":\"weath", ""},
    {H, "{\"name\":", ""},
    {H, "{\"na", ""},
    {H, "{\"", ""},
    {H, " <tool_call>\n{\"n", ""},
    {H, "Well.\n<tool_call>\n{", "Well."},
    {H, "Well.\n<tool_call>", "Well."},
    {H, "Well.\n<tool", "Well."},
    {H, NOW "\n<tool_c", "|now{}"},
    {H, NOW ";{\"name\":\"wea", "|now{}"},
    {H, "<tool_call>" NOW "</tool_", "|now{}"},
    {M, "[TOOL_CA", ""},
    {M, "[TOOL_CALLS]", ""},
    {M, "[TOOL_CALLS]weath", ""},
    {M, "[TOOL_CALLS][{\"name\"", ""},
    {L, "<|python_tag|>wea", ""},
};

Test(api_call_json, a_call_that_is_cut_off_stands_if_its_name_is_complete_and_no_part_is_text) {
    for (size_t i = 0; i < ARRAY_LEN(cut); i++)
        check(&cut[i], API__CALLS_AUTO, false);
}

static const row forced[] = {
    {H, "{", ""},
    {H, "{\"name\":\"weather\",\"arguments\":{\"city", "|weather{\"city…"},
    {H, UR, UR_CALL},
};

Test(api_call_json, a_forced_call_leaves_no_text_even_of_one_byte) {
    for (size_t i = 0; i < ARRAY_LEN(forced); i++)
        check(&forced[i], API__CALLS_FORCED, false);
}

static const row one[] = {
    {H, NOW UR, "|now{}"},
    {H, "[" NOW "," UR "]", "|now{}"},
    {M, "[TOOL_CALLS]now{}[TOOL_CALLS]now{}", "|now{}"},
    {L, "now.call();now.call()", "|now{}"},
};

Test(api_call_json, without_parallel_calls_the_answer_ends_after_the_first) {
    for (size_t i = 0; i < ARRAY_LEN(one); i++)
        check(&one[i], API__CALLS_AUTO, true);
}

/* Every prefix of an answer that holds a call shows text, the call, or nothing. */
Test(api_call_json, no_cut_of_a_call_shows_its_markup) {
    for (size_t i = 0; i < ARRAY_LEN(whole); i++) {
        if (!strstr(whole[i].want, "|now") && !strstr(whole[i].want, "|weather")) continue;
        if (whole[i].want[0] == '{') continue;
        for (size_t n = 0; n <= strlen(whole[i].text); n++) {
            api_request req = {.tools = tools,
                               .n_tools = ARRAY_LEN(tools),
                               .notation = whole[i].notation,
                               .calls = API__CALLS_AUTO};
            api__answer answer = {0};
            whole[i].notation->read(&req, &answer, whole[i].text, n, true);
            const char *said = answer.said.data ? answer.said.data : "";
            cr_expect(!strstr(said, "<t") && !strstr(said, "[T") && !strstr(said, "<|") &&
                          !strstr(said, "{\""),
                      "%.*s gives %s", (int)n, whole[i].text, said);
            api__answer_deinit(&answer);
        }
    }
}

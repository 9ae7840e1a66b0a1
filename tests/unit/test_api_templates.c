/* test_api_templates.c - chat templates: the choice of a template, the prompts it makes of
 * conversations, and the errors of unusable templates. ChatML's many spellings are in
 * test_api_chatml.c. */
#include "api/dialect_internal.h"
#include "tests/lib/api_fixture.h"
#include "tests/lib/chat.h"
#include "tests/lib/stderr.h"
#include "tests/lib/testlib.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

TestSuite(api_templates, .fini = fail_on_leaks, .timeout = HANGS_S);

/* ---- prompts of conversations ---- */

#define S "{\"role\":\"system\",\"content\":\" Be brief. \"}"
#define U(text) "{\"role\":\"user\",\"content\":\"" text "\"}"
#define A(text) "{\"role\":\"assistant\",\"content\":\"" text "\"}"
#define TALK "[" S "," U("Say <|end|></s>") "," A("ok") "," U("more\\n") "]"

/* The templates of Mistral-7B-Instruct-v0.2, Gemma 2 and DeepSeek-V3, shortened. */
#define MISTRAL                                                                                    \
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != "            \
    "(loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate "              \
    "user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}"          \
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"   \
    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant "    \
    "roles are supported!') }}{% endif %}{% endfor %}"
#define GEMMA                                                                                      \
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not "  \
    "supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == "             \
    "'assistant') "                                                                                \
    "%}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"              \
    "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}"      \
    "{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"
#define DEEPSEEK                                                                                   \
    "{% set ns = namespace(system_prompt='') %}{%- for message in messages %}{%- if "              \
    "message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}"    \
    "{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if "          \
    "message['role'] == 'user' %}{{'<|User|>' + message['content']}}{%- endif %}{%- if "           \
    "message['role'] == 'assistant' and message['content'] is not none %}{% set content = "        \
    "message['content'] %}{{'<|Assistant|>' + content + '<|end|>'}}{%- endif %}{%- endfor %}"      \
    "{% if add_generation_prompt %}{{'<|Assistant|>'}}{% endif %}"

#define IM_START "<|im_start|>", "<|im_end|>"

static const struct {
    const char *specials[8], *others[8];
    const char *config, *jinja, *body, *want;
} rows[] = {
    {{IM_START, "<|end|>"},
     {0},
     "",
     "chatml",
     TALK,
     "~<|im_start|>system\n Be brief. ~<|im_end|>\n~<|im_start|>user\nSay "
     "<|end|></s>~<|im_end|>\n~<|im_start|>assistant\nok~<|im_end|>\n~<|im_start|>user\nmore\n"
     "~<|im_end|>\n~<|im_start|>assistant\n"},
    {{"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
     {0},
     "",
     "llama3",
     TALK,
     "~<|begin_of_text|>~<|start_header_id|>system~<|end_header_id|>\n\nBe brief.~<|eot_id|>"
     "~<|start_header_id|>user~<|end_header_id|>\n\nSay <|end|></s>~<|eot_id|>"
     "~<|start_header_id|>assistant~<|end_header_id|>\n\nok~<|eot_id|>"
     "~<|start_header_id|>user~<|end_header_id|>\n\nmore~<|eot_id|>"
     "~<|start_header_id|>assistant~<|end_header_id|>\n\n"},
    {{"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"},
     {0},
     "",
     "turns",
     TALK,
     "~<|system|> Be brief. ~<|end|>~<|user|>Say <|end|></s>~<|end|>~<|assistant|>ok~<|end|>"
     "~<|user|>more\n~<|end|>~<|assistant|>"},
    {{"<|end|>"},
     {0},
     "",
     "plain",
     TALK,
     "System:  Be brief. \nUser: Say <|end|></s>\nAssistant: ok\nUser: more\n\nAssistant:"},
    {{"<s>", "</s>"},
     {0},
     "\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"}",
     MISTRAL,
     "[" U("a</s>") "," A("<s>") "," U("c") "]",
     "~<s>[INST] a</s> [/INST]<s>~</s>[INST] c [/INST]"},
    {{"<s>", "</s>"},
     {"[INST]", "[/INST]"},
     "\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"",
     MISTRAL,
     "[" U("a[/INST]") "]",
     "~<s>~[INST] a[/INST] ~[/INST]"},
    {{"<s>", "</s>"},
     {0},
     "\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"",
     MISTRAL,
     TALK,
     "~<s>[INST]  Be brief. \n\nSay <|end|></s> [/INST]ok~</s>[INST] more\n [/INST]"},
    {{"<s>", "</s>"},
     {0},
     "\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"",
     MISTRAL,
     "[" U("a") "," U("b") "]",
     "BAD_PARAM messages: the chat template refuses the messages: Conversation roles must "
     "alternate user/assistant/user/assistant/..."},
    {{"<bos>", "<start_of_turn>", "<end_of_turn>"},
     {0},
     "\"bos_token\":\"<bos>\"",
     GEMMA,
     "[" U(" a ") "," A("b") "," U("<bos><end_of_turn>") "]",
     "~<bos>~<start_of_turn>user\na~<end_of_turn>\n~<start_of_turn>model\nb~<end_of_turn>\n"
     "~<start_of_turn>user\n<bos><end_of_turn>~<end_of_turn>\n~<start_of_turn>model\n"},
    {{"<bos>", "<start_of_turn>", "<end_of_turn>"},
     {0},
     "\"bos_token\":\"<bos>\"",
     GEMMA,
     TALK,
     "~<bos>~<start_of_turn>user\nBe brief. \n\nSay <|end|></s>~<end_of_turn>\n"
     "~<start_of_turn>model\nok~<end_of_turn>\n~<start_of_turn>user\nmore~<end_of_turn>\n"
     "~<start_of_turn>model\n"},
    /* Its markers are flagged special:false. Even so, a client's text never becomes a marker. */
    {{"<bos>", "<|end|>"},
     {"<|User|>", "<|Assistant|>", "<|tool|>"},
     "\"bos_token\":\"<bos>\"",
     DEEPSEEK,
     "[" S "," U("a<|Assistant|>b<|tool|>") "," A("<|end|>") "," U("c") "]",
     "~<bos> Be brief. ~<|User|>a<|Assistant|>b~<|tool|>~<|Assistant|><|end|>~<|end|>~<|User|>c"
     "~<|Assistant|>"},
    /* The template would print this role, but the vocabulary has no marker for it. */
    {{"<|user|>", "<|assistant|>", "<|end|>"},
     {0},
     "",
     "turns",
     TALK,
     "~<|user|> Be brief. \n\nSay <|end|></s>~<|end|>~<|assistant|>ok~<|end|>~<|user|>more\n"
     "~<|end|>~<|assistant|>"},
    /* Without a place for them, system messages join the first turn of the user wherever they
     * stand; a list without such a turn gets one. */
    {{"<|user|>", "<|assistant|>", "<|end|>"},
     {0},
     "",
     "turns",
     "[" A("b") "," U("a") ",{\"role\":\"developer\",\"content\":\"c\"}," U("d") "," S "]",
     "~<|assistant|>b~<|end|>~<|user|>c\n\n Be brief. "
     "\n\na~<|end|>~<|user|>d~<|end|>~<|assistant|>"},
    {{"<|user|>", "<|assistant|>", "<|end|>"},
     {0},
     "",
     "turns",
     "[" S "]",
     "~<|user|> Be brief. ~<|end|>~<|assistant|>"},
    {{"<bos>", "<|end|>"},
     {"<|User|>", "<|Assistant|>", "<|tool|>"},
     "\"bos_token\":\"<bos>\"",
     DEEPSEEK,
     "[" S "," U("a") ",{\"role\":\"developer\",\"content\":\"c\"}]",
     "~<bos> Be brief. \n\nc~<|User|>a~<|Assistant|>"},
    {{IM_START},
     {0},
     "",
     "chatml",
     "[" U("a") "," S "]",
     "~<|im_start|>user\na~<|im_end|>\n~<|im_start|>system\n Be brief. ~<|im_end|>\n"
     "~<|im_start|>assistant\n"},
    {{"<|user|>", "<|assistant|>", "<|end|>"},
     {0},
     "",
     "turns",
     "[" U("a") "," A("b") ",{\"role\":\"tool\",\"content\":\"4\"}]",
     "~<|user|>a~<|end|>~<|assistant|>b~<|end|>~<|user|>Result: 4~<|end|>~<|assistant|>"},
    /* Contents as lists of parts. */
    {{IM_START},
     {0},
     "",
     "{% for m in messages %}{% for p in m.content %}{% if p.type == 'text' %}"
     "<|im_start|>{{ p.text }}<|im_end|>{% endif %}{% endfor %}{% endfor %}",
     "[" U("a") ",{\"role\":\"assistant\",\"content\":[{\"type\":\"text\",\"text\":\"b\"},"
                "{\"type\":\"text\",\"text\":\"c\"}]}]",
     "~<|im_start|>a~<|im_end|>~<|im_start|>b\nc~<|im_end|>"},
    /* Other parts of messages. */
    {{IM_START},
     {0},
     "",
     "{% for m in messages %}{{ m.role }}:{{ m.name }}:"
     "{{ m.reasoning_content }}:{{ m.content }};{% endfor %}",
     "[{\"role\":\"user\",\"name\":\"Ada\",\"content\":\"x\",\"other\":1},{\"role\":\"assistant\","
     "\"reasoning_content\":\"why\",\"content\":\"y\"},{\"role\":\"user\",\"name\":7,\"content\":"
     "\"z\"}]",
     "user:Ada::x;assistant::why:y;user:::z;"},
};

Test(api_templates, conversations_become_the_ids_that_their_template_prints_and_contents_are_text) {
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        chat_rig rig;
        chat_open(&rig, rows[i].specials, rows[i].others, rows[i].config, rows[i].jinja);
        cr_expect_str_eq(chat_rendered(&rig, rows[i].body), rows[i].want, "row %zu: %s", i,
                         rig.said.data);
        chat_close(&rig);
    }
}

/* ---- functions ---- */

/* The templates of Hermes and Qwen2.5. */
#define HERMES                                                                                     \
    "{%- if tools %}{{- '<|im_start|>system\\n' }}{%- if messages[0]['role'] == 'system' %}"       \
    "{{- messages[0]['content'] }}{%- else %}{{- 'You are Qwen.' }}{%- endif %}"                   \
    "{{- '\\n<tools>' }}{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}"     \
    "{{- '\\n</tools><|im_end|>\\n' }}{%- endif %}{%- for message in messages %}{%- if "           \
    "(message.role == 'user') or (message.role == 'system' and not loop.first) or "                \
    "(message.role == 'assistant' and not message.tool_calls) %}{{- '<|im_start|>' + "             \
    "message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- elif message.role == "    \
    "'assistant' %}{{- '<|im_start|>' + message.role }}{%- if message.content %}{{- '\\n' + "      \
    "message.content }}{%- endif %}{%- for tool_call in message.tool_calls %}{%- if "              \
    "tool_call.function is defined %}{%- set tool_call = tool_call.function %}{%- endif %}"        \
    "{{- '\\n<tool_call>\\n{\"name\": \"' }}{{- tool_call.name }}{{- '\", \"arguments\": ' }}"     \
    "{{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}{%- endfor %}"                    \
    "{{- '<|im_end|>\\n' }}{%- elif message.role == 'tool' %}{{- '<|im_start|>user\\n"             \
    "<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response><|im_end|>\\n' }}"        \
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"    \
    "{%- endif %}"
#define F                                                                                          \
    "{\"type\":\"function\",\"function\":{\"name\":\"sum\",\"parameters\":{\"type\":\"object\"}}}"
#define TOOLS ",\"tools\":[" F "]"
#define CALL(arguments)                                                                            \
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c1\",\"type\":"            \
    "\"function\",\"function\":{\"name\":\"sum\",\"arguments\":" arguments "}}]}"
#define GAVE "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"4\"}"
#define LEAD                                                                                       \
    "You can call these functions, described as JSON:\n"                                           \
    "{\"name\":\"sum\",\"parameters\":{\"type\":\"object\"}}\n"                                    \
    "To call one, answer only with {\"name\":NAME,\"arguments\":{...}}."

static const struct {
    const char *jinja, *body, *want;
} functions[] = {
    {HERMES, "{\"messages\":[" U("2+2") "]" TOOLS "}",
     "~<|im_start|>system\nYou are Qwen.\n<tools>\n{\"type\": \"function\", \"function\": "
     "{\"name\": "
     "\"sum\", \"parameters\": {\"type\": "
     "\"object\"}}}\n</tools>~<|im_end|>\n~<|im_start|>user\n2+2"
     "~<|im_end|>\n~<|im_start|>assistant\n"},
    {HERMES, "[" U("2+2") "," CALL("\"{\\\"a\\\":[2,2]}\"") "," GAVE "]",
     "~<|im_start|>user\n2+2~<|im_end|>\n~<|im_start|>assistant\n~<tool_call>\n{\"name\": \"sum\", "
     "\"arguments\": {\"a\": [2, "
     "2]}}\n</tool_call>~<|im_end|>\n~<|im_start|>user\n<tool_response>\n4"
     "\n</tool_response>~<|im_end|>\n~<|im_start|>assistant\n"},
    /* Arguments stay text if they are not an object. */
    {HERMES, "[" U("2+2") "," CALL("\"<|im_end|>\"") "]",
     "~<|im_start|>user\n2+2~<|im_end|>\n~<|im_start|>assistant\n~<tool_call>\n{\"name\": \"sum\", "
     "\"arguments\": \"<|im_end|>\"}\n</tool_call>~<|im_end|>\n~<|im_start|>assistant\n"},
    {HERMES, "[" U("2+2") "," CALL("\" \\n\"") "]",
     "~<|im_start|>user\n2+2~<|im_end|>\n~<|im_start|>assistant\n~<tool_call>\n{\"name\": \"sum\", "
     "\"arguments\": {}}\n</tool_call>~<|im_end|>\n~<|im_start|>assistant\n"},
    /* The same for templates that print a text as it is, and members of an object. */
    {"{% for m in messages %}{{ m.role + ':' + (m.content or '') }}{% for c in m.tool_calls %}"
     "{{ c.function.name + ' ' }}{{ c.function.arguments if c.function.arguments is string else "
     "c.function.arguments | tojson "
     "}}{% endfor %}{% endfor %}",
     "[" U("2+2") "," CALL("\"{\\\"a\"") "," U("y") "," CALL("\"{\\\"a\\\":1}\"") "]",
     "user:2+2assistant:sum \"{\\\"a\"user:yassistant:sum {\"a\": 1}"},
    {"{% for m in messages %}{{ m.role + ':' + (m.content or '') }}{% for c in m.tool_calls %}"
     "{{ c.function.name + ' ' }}{% for k, v in c.function.arguments | items %}{{ k + '=' + v }}{% "
     "endfor %}{% endfor %}"
     "{% endfor %}",
     "[" U("2+2") "," CALL("\"{\\\"a\"") "," U("y") "," CALL("\"{\\\"a\\\":\\\"1\\\"}\"") "]",
     "user:2+2assistant:sum arguments={\"auser:yassistant:sum a=1"},
    /* DeepSeek's form: calls if there is no content, arguments as text. */
    {"{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}{% for c in "
     "m.tool_calls %}<|im_start|>{{ c.function.name + ' ' + c.function.arguments }}<|im_end|>{% "
     "endfor %}{% else %}{{ m.role + ':' + m.content }}{% endif %}{% endfor %}",
     "[" U("2+2") "," CALL("\"{\\\"a\\\":<|im_end|>[2]}\"") "," GAVE "," A("") "]",
     "user:2+2~<|im_start|>sum \"{\\\"a\\\":<|im_end|>[2]}\"~<|im_end|>tool:4assistant:"},
    {"{% for m in messages %}{% if m.role == 'assistant' and m.content is none %}{% for c in "
     "m.tool_calls %}{{ c.function.name + ' ' + c.function.arguments }}{% endfor %}{% else %}"
     "{{ m.role + ':' + m.content }}{% endif %}{% endfor %}",
     "[" U("2+2") "," CALL("\"{\\\"a\\\": 2}\"") "," U("y") "," CALL("\"\"") "," U("y") "," CALL(
         "{\"b\":3}") "]",
     "user:2+2sum {\"a\": 2}user:ysum {}user:ysum {\"b\":3}"},
    /* A template without functions: the prompt lists them before the conversation, and calls are
     * text. */
    {"chatml", "{\"messages\":[" U("2+2") "]" TOOLS "}",
     "~<|im_start|>system\n" LEAD "~<|im_end|>\n~<|im_start|>user\n2+2~<|im_end|>\n~<|im_start|>"
     "assistant\n"},
    {"chatml", "{\"messages\":[" S "," U("2+2") "]" TOOLS "}",
     "~<|im_start|>system\n" LEAD "\n\n Be brief. ~<|im_end|>\n~<|im_start|>user\n2+2~<|im_end|>\n"
     "~<|im_start|>assistant\n"},
    {"chatml", "[" U("2+2") "," CALL("\"{}\"") "," GAVE "]",
     "~<|im_start|>user\n2+2~<|im_end|>\n~<|im_start|>assistant\n{\"name\":\"sum\",\"arguments\":{}"
     "}"
     "~<|im_end|>\n~<|im_start|>tool\n4~<|im_end|>\n~<|im_start|>assistant\n"},
    {GEMMA, "{\"messages\":[" U("2+2") "]" TOOLS "}",
     "<start_of_turn>user\n" LEAD "\n\n2+2<end_of_turn>\n<start_of_turn>model\n"},
};

Test(api_templates, a_template_that_knows_functions_is_told_of_them_and_another_gets_them_as_text) {
    static const char *const names[] = {IM_START, NULL}, *const others[] = {"<tool_call>", NULL};
    for (size_t i = 0; i < ARRAY_LEN(functions); i++) {
        chat_rig rig;
        chat_open(&rig, names, others, "", functions[i].jinja);
        cr_expect_str_eq(chat_rendered(&rig, functions[i].body), functions[i].want, "row %zu: %s",
                         i, rig.said.data);
        chat_close(&rig);
    }
}

/* The kinds of item that only /v1/responses has. */
static const struct {
    const char *input, *want;
} items[] = {
    {"[{\"role\":\"user\",\"content\":\"2+2\"},{\"type\":\"function_call\",\"call_id\":\"a\","
     "\"name\":\"sum\",\"arguments\":\"{}\"},{\"type\":\"function_call\",\"call_id\":\"b\","
     "\"name\":\"sum\",\"arguments\":\"{\\\"x\\\":1}\"},{\"type\":\"function_call_output\","
     "\"call_id\":\"a\",\"output\":\"4\"},{\"type\":\"function_call_output\",\"call_id\":\"b\","
     "\"output\":\"5\"}]",
     "user(2+2)assistant()[a:sum{}][b:sum{\"x\": 1}]tool/a(4)tool/b(5)"},
    {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"Let me.\"},"
     "{\"type\":\"function_call\",\"call_id\":\"a\",\"name\":\"sum\",\"arguments\":\"{}\"}]",
     "user(x)assistant(Let me.)[a:sum{}]"},
    {"\"x\"", "user(x)"},
    /* What says nothing to the model is left out; results may be lists of parts. */
    {"[{\"role\":\"user\",\"content\":\"x\"},{\"type\":\"reasoning\",\"summary\":[]},{\"type\":"
     "\"item_reference\",\"id\":\"y\"},{\"type\":\"refusal\",\"refusal\":\"z\"},{\"role\":"
     "\"assistant\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"no\"}]},{\"type\":"
     "\"function_call\",\"call_id\":\"a\",\"name\":\"sum\",\"arguments\":\"\"},{\"type\":"
     "\"function_call_output\",\"call_id\":\"a\",\"output\":[{\"type\":\"input_text\",\"text\":"
     "\"4\"},{\"type\":\"input_text\",\"text\":\"5\"}]},{\"type\":\"function_call_output\","
     "\"call_id\":\"a\",\"output\":[]}]",
     "user(x)assistant(no)[a:sum{}]tool/a(4\n5)tool/a()"},
};

#define TELLS                                                                                      \
    "{% for m in messages %}{{ m.role }}{% if m.tool_call_id %}/{{ m.tool_call_id }}{% endif %}"   \
    "({{ m.content }}){% for c in m.tool_calls %}[{{ c.id }}:{{ c.function.name }}"                \
    "{{ c.function.arguments | tojson }}]{% endfor %}{% endfor %}"

Test(api_templates, calls_and_results_of_responses_are_turns_as_chat_has_them) {
    api_fixture fixture;
    tmp_dir dir = tmp_dir_create();
    char path[128];
    file_put(dir.path, "t.jinja", TELLS, sizeof TELLS - 1);
    (void)snprintf(path, sizeof path, "%s/t.jinja", dir.path);
    api_opts opts = {.chat_template = path, .served_name = "m"};
    api_fixture_open(&fixture, &opts, false);
    cr_expect_str_eq(api__template_name(fixture.ctx->template), "t.jinja");
    for (size_t i = 0; i < ARRAY_LEN(items); i++) {
        buf body = {0}, got = {0};
        buf_printf(&body, "{\"input\":%s}", items[i].input);
        api_request *req = api_must_parse(&fixture, &api_dialect_responses, body.data);
        for (uint32_t k = 0; k < req->prompts[0].n_ids; k++) {
            size_t n;
            const char *bytes = tokenizer_bytes(fixture.tokenizer, req->prompts[0].ids[k], &n);
            buf_append(&got, bytes, n);
        }
        cr_expect_str_eq(got.data, items[i].want, "row %zu: %s", i, got.data);
        api_request_destroy(req);
        buf_deinit(&body);
        buf_deinit(&got);
    }
    api_fixture_close(&fixture);
    tmp_dir_remove(&dir);
}

/* ---- going on with the last message ---- */

#define OPEN(messages) "{\"messages\":[" messages "],\"continue_final_message\":true}"

static const struct {
    const char *jinja, *body, *want;
} open_ends[] = {
    {"chatml", OPEN(U("a") "," A("And then")),
     "~<|im_start|>user\na~<|im_end|>\n~<|im_start|>"
     "assistant\nAnd then"},
    {"chatml", OPEN(U("a") "," A("")), "~<|im_start|>user\na~<|im_end|>\n~<|im_start|>assistant\n"},
    {"chatml", OPEN(U("im_end") "," A("im_end")),
     "~<|im_start|>user\nim_end~<|im_end|>\n~<|im_start|>assistant\nim_end"},
    {"chatml", OPEN(U("CONTINUE_FINAL_MESSAGE_TAG ") "," A(" x ")),
     "~<|im_start|>user\nCONTINUE_FINAL_MESSAGE_TAG ~<|im_end|>\n~<|im_start|>assistant\n x "},
    {GEMMA, OPEN(U("a") "," A(" x ")),
     "<start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\nx"}, /* trimmed, as there */
    {"{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
     OPEN(U("a") "," A("b")),
     "BAD_PARAM continue_final_message: continue_final_message: the chat template does not print "
     "the last message, so it cannot be continued"},
    {"chatml", OPEN(U("a")),
     "BAD_PARAM continue_final_message: continue_final_message requires "
     "an assistant message at the end"},
};

Test(api_templates, a_last_message_that_is_gone_on_with_lacks_its_end) {
    static const char *const names[] = {IM_START, NULL};
    for (size_t i = 0; i < ARRAY_LEN(open_ends); i++) {
        chat_rig rig;
        chat_open(&rig, names, NULL, "", open_ends[i].jinja);
        cr_expect_str_eq(chat_rendered(&rig, open_ends[i].body), open_ends[i].want, "row %zu: %s",
                         i, rig.said.data);
        chat_close(&rig);
    }
}

#define LOOPS                                                                                      \
    "{% for m in messages %}{{ m.content }}{% endfor %}{% for i in range(n | default(0)) %}"       \
    "{% if i < 0 %}x{% endif %}{% endfor %}{{ 'x ' * (wide | default(0)) }}"

/* ---- choice of the template ---- */

#define PRINTS(word) word " {{ messages[0].content }}"

static void put_text(const chat_rig *rig, const char *name, const char *text) {
    file_put(rig->dir.path, name, text, strlen(text));
}

static void expect_from(chat_rig *rig, const char *option, const char *body, const char *want) {
    chat_reopen(rig, option);
    cr_assert_not_null(rig->chat, "%s", rig->e.msg);
    cr_expect_str_eq(chat_rendered(rig, body), want, "%s", rig->said.data);
}

Test(api_templates, the_option_wins_over_the_described_one_then_the_jinja_file_then_the_config) {
    static const char body[] = "[" U("x") "]";
    static const char *const names[] = {IM_START, NULL};
    chat_rig rig;
    char path[128];
    chat_open(&rig, names, NULL, "", PRINTS("config"));
    expect_from(&rig, NULL, body, "config x");
    put_text(&rig, "chat_template.jinja", PRINTS("file"));
    expect_from(&rig, NULL, body, "file x");
    put_text(&rig, "chat_template.fathom.json",
             "{\"roles\":{\"user\":{\"before\":[\"described \"]},\"assistant\":{}}}");
    expect_from(&rig, NULL, body, "described x");
    put_text(&rig, "mine", PRINTS("mine"));
    (void)snprintf(path, sizeof path, "%s/mine", rig.dir.path);
    expect_from(&rig, path, body, "mine x");
    expect_from(&rig, "chatml", body, "~<|im_start|>user\nx~<|im_end|>\n~<|im_start|>assistant\n");
    put_text(&rig, "mine.json", "{\"roles\":{\"user\":{\"before\":[\"J \"]},\"assistant\":{}}}");
    (void)snprintf(path, sizeof path, "%s/mine.json", rig.dir.path);
    expect_from(&rig, path, body, "J x");
    chat_close(&rig);
}

Test(api_templates, an_option_that_names_nothing_usable_is_bad_usage) {
    chat_rig rig;
    char path[128];
    chat_open(&rig, NULL, NULL, "", PRINTS("config"));
    put_text(&rig, "broken", "{% for %}");
    put_text(&rig, "broken.json", "{}");
    static const char *const files[] = {"broken", "broken.json", "missing"};
    static const char *const says[] = {"broken", "roles",
                                       "neither a file nor one of turns, chatml"};
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        (void)snprintf(path, sizeof path, "%s/%s", rig.dir.path, files[i]);
        chat_reopen(&rig, path);
        cr_expect_null(rig.chat);
        cr_expect_eq(rig.e.code, ERR_USAGE, "%s: %s", files[i], err_name(rig.e.code));
        cr_expect_not_null(strstr(rig.e.msg, says[i]), "%s: %s", files[i], rig.e.msg);
    }
    chat_close(&rig);
}

Test(api_templates, of_several_templates_conversations_with_tools_take_the_one_for_them) {
    static const char plain[] = "[" U("x") "]", tools[] = "{\"messages\":[" U("x") "]" TOOLS "}";
    chat_rig rig;
    char path[128];
    chat_open(&rig, NULL, NULL,
              "\"chat_template\":[{\"name\":\"rag\",\"template\":\"rag\"},{\"name\":\"tool_use\","
              "\"template\":\"" PRINTS(
                  "tools {{ tools[0].function.name }}") "\"},{\"name\":\"default\",\"template\":"
                                                        "\"" PRINTS("plain") "\"},7,{\"name\":3}]",
              NULL);
    expect_from(&rig, NULL, plain, "plain x");
    expect_from(&rig, NULL, tools, "tools sum x");
    (void)snprintf(path, sizeof path, "%s/additional_chat_templates", rig.dir.path);
    cr_assert_eq(mkdir(path, 0700), 0);
    put_text(&rig, "additional_chat_templates/tool_use.jinja",
             PRINTS("more {{ tools[0].function.name }}"));
    expect_from(&rig, NULL, tools, "more sum x");
    put_text(&rig, "chat_template.jinja", PRINTS("file"));
    expect_from(&rig, NULL, plain, "file x");
    expect_from(&rig, NULL, tools, "more sum x");
    chat_close(&rig);
}

/* ---- unusable templates ---- */

static const struct {
    const char *config, *says;
} broken[] = {
    {"{\"chat_template\":\"{% for %}\"}", "tokenizer_config.json"},
    {"{\"chat_template\":\"{{ strange() }}\"}", "strange"},
    {"{\"chat_template\":\"\"}", "prints no user message"},
    {"{\"chat_template\":\"no messages\"}", "prints no user message"},
    {"{\"chat_template\":\"{{ raise_exception('not today') }}\"}", "not today"},
    {"{\"chat_template\":\"{% for i in range(1000000000) %}{% endfor %}\"}", "too much work"},
    {"{\"chat_template\":7}", "no template named default"},
    {"{\"chat_template\":[]}", "no template named default"},
    {"{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"x\"}]}",
     "no template named default"},
    {"{\"chat_template\":{\"default\":\"x\"}}", "no template named default"},
};

/* The folder opens with a warning, chat is a 400 with the same text, and the rest is served. */
static void check_broken(api_fixture *fixture, const char *file, const char *text, const char *says,
                         size_t row) {
    static const char chat[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    static const char plain[] = "{\"prompt\":\"In the\"}";
    tmp_dir dir = tmp_dir_create();
    char said[4000];
    api_context *ctx = NULL;
    api_request *req = NULL;
    err e = {0};
    file_put(dir.path, file, text, strlen(text));
    api_opts opts = {
        .model_dir = dir.path, .model = fixture->model, .tokenizer = fixture->tokenizer};
    int kept = stderr_catch();
    int rc = api_context_open(&ctx, &opts, &e);
    stderr_release(kept, said, sizeof said);
    cr_assert_eq(rc, 0, "row %zu: %s", row, e.msg);
    cr_expect_not_null(strstr(said, says), "row %zu: %s", row, said);
    cr_expect_not_null(strstr(said, "--chat-template FILE|NAME"), "row %zu: %s", row, said);
    cr_expect_eq(api_parse(&req, ctx, &api_dialect_chat, chat, sizeof chat - 1, &e), -1, "row %zu",
                 row);
    cr_expect_eq(api_status(&e), 400);
    cr_expect_str_eq(e.param, "messages");
    cr_expect_not_null(strstr(e.msg, says), "row %zu: %s", row, e.msg);
    cr_expect_not_null(strstr(e.msg, "--chat-template FILE|NAME"), "row %zu: %s", row, e.msg);
    cr_expect_not_null(strstr(e.msg, "chat_template.fathom.json"), "row %zu: %s", row, e.msg);
    e = (err){0};
    cr_expect_eq(api_parse(&req, ctx, &api_dialect_completion, plain, sizeof plain - 1, &e), 0,
                 "%s", e.msg);
    api_request_destroy(req);
    api_context_close(ctx);
    tmp_dir_remove(&dir);
}

Test(api_templates, a_template_that_cannot_be_used_is_warned_of_and_refuses_chat_alone) {
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    for (size_t i = 0; i < ARRAY_LEN(broken); i++)
        check_broken(&fixture, "tokenizer_config.json", broken[i].config, broken[i].says, i);
    check_broken(&fixture, "chat_template.jinja", "{{ messages }", "chat_template.jinja", 100);
    api_fixture_close(&fixture);
}

#define TALKS "{\"roles\":{\"user\":{},\"assistant\":{}},"

static const struct {
    const char *text, *want;
} bad_files[] = {
    {"{}", "roles"},
    {"{\"roles\":{\"king\":{}}}", "roles"},
    {"{\"roles\":{\"user\":{}}}", "roles"},
    {"{\"roles\":{\"user\":{\"before\":[{\"control\":\"<|no|>\"}]},\"assistant\":{}}}", "<|no|>"},
    {"{\"roles\":{\"user\":{\"before\":[7]},\"assistant\":{}}}", "before"},
    {"{\"roles\":{\"user\":{},\"assistant\":{}},\"end\":5}", "end"},
    {TALKS "\"end\":[\"<|end|>\",7]}", "end"},
    {TALKS "\"end\":[\"<|no|>\",\"<|end|>\"]}", "<|no|>"},
    {TALKS "\"end\":[\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\"]}", "at most 8"},
    {TALKS "\"default_system\":5}", "default_system"},
    {TALKS "\"default_system\":\"x\"}", "requires a system role"},
    {TALKS "\"thinking\":true}", "thinking"},
    {TALKS "\"thinking\":{\"default\":1}}", "thinking"},
    {TALKS "\"thinking\":{\"on\":\"x\"}}", "on"},
    {TALKS "\"thinking\":{\"off\":[{\"token\":3}]}}", "token"},
    {"nonsense", "JSON"},
};

Test(api_templates, a_description_that_is_wrong_is_warned_of_by_the_member_at_fault) {
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    for (size_t i = 0; i < ARRAY_LEN(bad_files); i++)
        check_broken(&fixture, "chat_template.fathom.json", bad_files[i].text, bad_files[i].want,
                     i);
    api_fixture_close(&fixture);
}

#define DESCRIBED                                                                                  \
    "{\"roles\":{\"user\":{\"before\":[{\"control\":\"<|user|>\"},\"it's: \\\\n\"],\"after\":"     \
    "[{\"control\":\"<|end|>\"},\"\\n\"]},\"assistant\":{\"before\":[{\"control\":\"<|assistant|>" \
    "\"}],\"after\":[{\"control\":\"<|end|>\"}]},\"system\":{\"before\":[\"{{ S }}: "              \
    "\"]},\"tool\":"                                                                               \
    "{\"optional\":true,\"before\":[{\"control\":\"<|tool|>\"}]}},\"prefix\":[{\"control\":"       \
    "\"<|start|>\"}],\"answer\":[{\"control\":\"<|assistant|>\"}],\"end\":[\"<|end|>\",\"<|no|>"   \
    "\","                                                                                          \
    "\"<|start|>\"],\"trim\":true,\"default_system\":\"Be "                                        \
    "'kind'.\",\"thinking\":{\"default\":true,"                                                    \
    "\"on\":[{\"token\":\"<think>\"},\"\\n\"],\"off\":[{\"token\":\"<none>\"}]}}"

Test(api_templates, a_description_means_what_it_says) {
    static const char *const names[] = {"<|start|>", "<|user|>", "<|assistant|>", "<|end|>", NULL};
    static const char *const others[] = {"<think>", NULL};
    chat_rig rig;
    chat_open(&rig, names, others, "", NULL);
    put_text(&rig, "chat_template.fathom.json", DESCRIBED);
    expect_from(&rig, NULL, "[" U(" a<|end|> ") "]",
                "~<|start|>{{ S }}: Be 'kind'.~<|user|>it's: \\na<|end|>~<|end|>\n~<|assistant|>"
                "~<think>\n");
    expect_from(&rig, NULL,
                "{\"messages\":[" S
                "," U("a") "," A("b") ",{\"role\":\"tool\",\"content\":\"c\"}],"
                                      "\"chat_template_kwargs\":{\"enable_thinking\":false}}",
                "~<|start|>{{ S }}: Be brief.~<|user|>it's: \\na~<|end|>\n~<|assistant|>b~<|end|>"
                "~<|user|>it's: \\nResult: c~<|end|>\n~<|assistant|><none>");
    chat_close(&rig);
}

/* ---- on the loop ---- */

static const char *const work[] = {
    "{\"messages\":[" U("x") "],\"chat_template_kwargs\":{\"n\":50000}}",
    "{\"messages\":[" U("x") "],\"chat_template_kwargs\":{\"wide\":50000}}",
};

Test(api_templates, a_template_that_takes_much_work_is_not_rendered_soon_but_else_it_is) {
    static const char little[] = "{\"messages\":[" U("x") "]}";
    api_fixture fixture;
    tmp_dir dir = tmp_dir_create();
    char path[128];
    file_put(dir.path, "t.jinja", LOOPS, sizeof LOOPS - 1);
    (void)snprintf(path, sizeof path, "%s/t.jinja", dir.path);
    api_opts opts = {.chat_template = path, .served_name = "m", .max_body_bytes = 1 << 20};
    api_fixture_open(&fixture, &opts, false);
    for (size_t i = 0; i < ARRAY_LEN(work); i++) {
        api_request *req = NULL;
        api_listing *listing = NULL;
        err e = {0};
        size_t n = strlen(work[i]);
        cr_expect_eq(api_parse_soon(&req, fixture.ctx, &api_dialect_chat, work[i], n, &e), 1,
                     "row %zu", i);
        cr_expect_null(req);
        cr_expect_eq(api_tokenize(&listing, fixture.ctx, work[i], n, true, &e), 1, "row %zu", i);
        cr_expect_null(listing);
        cr_expect_eq(e.code, ERR_NONE);
        int rc = api_parse(&req, fixture.ctx, &api_dialect_chat, work[i], n, &e);
        cr_expect_eq(rc, i == 0 ? 0 : -1, "row %zu: %s", i, e.msg);
        cr_expect_eq(e.code, i == 0 ? ERR_NONE : ERR_TOO_LONG, "row %zu: %s", i, e.msg);
        api_request_destroy(req);
        req = NULL;
        e = (err){0};
        cr_expect_eq(
            api_parse_soon(&req, fixture.ctx, &api_dialect_chat, little, sizeof little - 1, &e), 0,
            "%s", e.msg);
        api_request_destroy(req);
    }
    api_fixture_close(&fixture);
    tmp_dir_remove(&dir);
}

/* ---- the demo ---- */

Test(api_templates, the_demo_has_its_form_and_its_stop_tokens) {
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    uint32_t n;
    const uint32_t *stops = api_stop_ids(fixture.ctx, &n);
    cr_assert_eq(n, 2);
    cr_assert_eq(stops[0], 2044);
    cr_assert_eq(stops[1], 2047);
    api_request *req = api_must_parse(
        &fixture, &api_dialect_chat,
        "{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\","
        "\"text\":\"In the <|end|>\"},{\"type\":\"text\",\"text\":\"b\"}]}]}");
    uint32_t want[64];
    size_t k = api_ids(&fixture, "In the <|end|>\nb", want, 64);
    const api__prompt *prompt = &req->prompts[0];
    cr_assert_eq(prompt->n_ids, k + 3);
    cr_assert_eq(prompt->ids[0], 2045);
    cr_assert_arr_eq(prompt->ids + 1, want, k * sizeof *want);
    cr_assert_eq(prompt->ids[k + 1], 2047);
    cr_assert_eq(prompt->ids[k + 2], 2046);
    cr_assert_float_eq(req->sampling.temperature, 0.7f, 1e-6f);
    cr_assert_float_eq(req->sampling.top_p, 0.95f, 1e-6f);
    api_request_destroy(req);
    api_fixture_close(&fixture);
}

Test(api_templates, a_last_answer_can_be_continued) {
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    api_request *req = api_must_parse(
        &fixture, &api_dialect_chat,
        "{\"model\":\"demo\",\"continue_final_message\":true,\"messages\":[{\"role\":\"user\","
        "\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"And\"}]}");
    uint32_t want[8];
    size_t k = api_ids(&fixture, "And", want, 8);
    const api__prompt *prompt = &req->prompts[0];
    cr_assert_arr_eq(prompt->ids + prompt->n_ids - k, want, k * sizeof *want);
    cr_assert_eq(prompt->ids[prompt->n_ids - k - 1], 2046);
    api_request_destroy(req);
    api_fixture_close(&fixture);
}

Test(api_templates, a_model_without_a_template_refuses_chat_and_says_what_to_use) {
    api_fixture fixture;
    tmp_dir dir = tmp_dir_create();
    api_opts opts = {.model_dir = dir.path, .served_name = "m"};
    api_fixture_open(&fixture, &opts, false);
    static const char body[] =
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}";
    api_request *req;
    err e = {0};
    cr_assert_eq(api_parse(&req, fixture.ctx, &api_dialect_chat, body, sizeof body - 1, &e), -1);
    cr_assert_eq(e.code, ERR_UNSUPPORTED);
    cr_assert_not_null(strstr(e.msg, "/v1/completions"));
    api_fixture_close(&fixture);
    tmp_dir_remove(&dir);
}

/* The demo's tokenizer; its template puts <|endoftext|> before every text. */
static tokenizer *with_first_token(void) {
    json_t *file = json_load_file("models/demo/tokenizer.json", 0, NULL);
    json_object_set_new(file, "post_processor",
                        json_pack("{s:s, s:[{s:{s:s}}, {s:{s:s}}]}", "type", "TemplateProcessing",
                                  "single", "SpecialToken", "id", "<|endoftext|>", "Sequence", "id",
                                  "A"));
    char *text = json_dumps(file, JSON_COMPACT);
    tokenizer *tok = NULL;
    err e = {0};
    cr_assert_not_null(text);
    cr_assert_eq(tokenizer_parse(&tok, text, strlen(text), 2048, "test", &e), 0, "%s", e.msg);
    free(text);
    json_decref(file);
    return tok;
}

static const struct {
    const char *config; /* tokenizer_config.json; NULL: no such file */
    const char *first;  /* token before the text; NULL: none */
} first_tokens[] = {
    {NULL, "<|endoftext|>"},
    {"{\"bos_token\":\"<|user|>\"}", "<|endoftext|>"},
    {"{\"add_bos_token\":null}", "<|endoftext|>"},
    {"{\"add_bos_token\":false,\"bos_token\":\"<|user|>\"}", NULL},
    {"{\"add_bos_token\":true,\"bos_token\":\"<|user|>\"}", "<|user|>"},
};

Test(api_templates, texts_begin_as_the_config_says_or_else_the_tokenizers_template) {
    api_fixture fixture;
    api_fixture_open(&fixture, NULL, false);
    tokenizer *tok = with_first_token();
    static const char body[] = "{\"prompt\":\"In the beginning\"}";
    for (size_t i = 0; i < ARRAY_LEN(first_tokens); i++) {
        char want[64];
        tmp_dir dir = tmp_dir_create();
        api_context *ctx = NULL;
        err e = {0};
        if (first_tokens[i].config)
            file_put(dir.path, "tokenizer_config.json", first_tokens[i].config,
                     strlen(first_tokens[i].config));
        api_opts opts = {.model_dir = dir.path, .model = fixture.model, .tokenizer = tok};
        cr_assert_eq(api_context_open(&ctx, &opts, &e), 0, "row %zu: %s", i, e.msg);
        uint32_t first = 0;
        bool has = first_tokens[i].first && tokenizer_find(tok, first_tokens[i].first, &first);
        if (has) snprintf(want, sizeof want, "\"tokens\":[%u,1142,", first);
        else snprintf(want, sizeof want, "\"tokens\":[1142,");
        buf out = {0};
        cr_assert_eq(api_list(api_tokenize, ctx, body, sizeof body - 1, SIZE_MAX, &out, &e), 0,
                     "row %zu: %s", i, e.msg);
        cr_expect_not_null(strstr(out.data, want), "row %zu: %s lacks %s", i, out.data, want);
        buf_deinit(&out);
        api_context_close(ctx);
        tmp_dir_remove(&dir);
    }
    tokenizer_close(tok);
    api_fixture_close(&fixture);
}

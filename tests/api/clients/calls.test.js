// Calls of functions: every shape of `parameters`, forced calls that are cut, several calls, mixed lists.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import OpenAI from "openai";
import { Server } from "../../http/lib/server.mjs";
import { clock, fileOf, misfit, model, tools, verse, weather } from "./lib/ask.js";
import { openai7, responses7 } from "./lib/openai.js";
import { joinChat } from "./lib/wire.js";

// The notation of Nanbeige and Qwen3-Coder; a call and its results go back into the prompt.
const tags =
    "{% for m in messages %}<|{{ 'assistant' if m.role == 'assistant' else 'user' }}|>{{ m.content }}{% for c in m.tool_calls %}" +
    "{{ '<tool_call>\\n<function=' + c.function.name + '>\\n' }}{% for k, v in c.function.arguments | items %}" +
    "{{ '<parameter=' + k + '>\\n' + (v if v is string else v | tojson) + '\\n</parameter>\\n' }}{% endfor %}" +
    "{{ '</function>\\n</tool_call>' }}{% endfor %}<|end|>{% endfor %}{% for t in tools %}{{ t | tojson }}{% endfor %}" +
    "{% if add_generation_prompt %}<|assistant|>{% endif %}";
// The notation of Hermes and Qwen: JSON objects between tags.
const hermes =
    "{% for m in messages %}<|{{ 'assistant' if m.role == 'assistant' else 'user' }}|>{{ m.content }}{% for c in m.tool_calls %}" +
    "{{ '<tool_call>\\n{\"name\": \"' + c.function.name + '\", \"arguments\": ' + (c.function.arguments | tojson) + '}\\n</tool_call>' }}{% endfor %}" +
    "<|end|>{% endfor %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
const templates = { "the model's own template": [], tags: ["--chat-template", fileOf("tags.jinja", tags)], "JSON between tags": ["--chat-template", fileOf("hermes.jinja", hermes)] };
const ends = { 2044: -100, 2047: -100 }; // tokens that end the demo model's answers, forbidden by logit_bias
const markup = /<\/?tool_call|<function|<parameter|"arguments"|"name"/;

const functionOf = (parameters) => ({ name: "note", ...(parameters === undefined ? {} : { parameters }) });
const ask = { model, messages: verse, temperature: 0, max_completion_tokens: 300 };
const cut = { model, messages: verse, temperature: 0, tools: [weather], choice: "required" };
const isObject = (text) => {
    const v = JSON.parse(text);
    return v !== null && typeof v === "object" && !Array.isArray(v);
};
const refused = async (promise, param, message = /./) => {
    const e = await promise.then((r) => assert.fail(`accepted: ${JSON.stringify(r)}`), (x) => x);
    assert.ok(e instanceof OpenAI.BadRequestError, String(e));
    assert.match(String(e.param), param, e.message);
    assert.match(e.message, message);
};

for (const [name, args] of Object.entries(templates)) {
    describe(name, () => {
        let server, client, chat, responses;
        before(async () => {
            server = await Server.start(args, { device: "cpu" });
            server.shared = true;
            chat = openai7.connect({ url: server.url });
            responses = responses7.connect({ url: server.url });
            client = chat.client;
        });
        after(() => server.stop());

        // Fewer and shorter where the model would fill a free object for long.
        const shapes = [undefined, {}, { description: "Any note" }, { $schema: "http://json-schema.org/draft-07/schema#", title: "Note" },
            { type: "object" }, { type: "object", properties: {} }, { properties: { day: { type: "integer", minimum: 0, maximum: 9 } }, required: ["day"] }, true];

        test("a forced call is a call whose arguments are an object, whatever shape its parameters have", async () => {
            for (const parameters of shapes) {
                const fn = functionOf(parameters), label = JSON.stringify(parameters);
                for (const tool_choice of ["required", { type: "function", function: { name: "note" } }]) {
                    const q = { ...ask, tools: [{ type: "function", function: fn }], tool_choice };
                    const whole = (await client.chat.completions.create(q)).choices[0];
                    assert.equal(whole.message.tool_calls?.[0]?.function.name, "note", label);
                    assert.equal(whole.message.content, null, label);
                    const streamed = (await client.chat.completions.stream(q).finalChatCompletion()).choices[0].message;
                    assert.equal(streamed.tool_calls[0].function.arguments, whole.message.tool_calls[0].function.arguments, label);
                    if (whole.finish_reason !== "length") assert.ok(isObject(whole.message.tool_calls[0].function.arguments), label);
                    else assert.match(whole.message.tool_calls[0].function.arguments.trimStart(), /^\{/, label);
                }
                for (const tool_choice of ["required", { type: "function", name: "note" }]) {
                    const q = { model, input: verse, temperature: 0, max_output_tokens: 300, tools: [{ type: "function", strict: false, ...fn }], tool_choice };
                    const whole = await client.responses.create(q);
                    const call = whole.output.find((i) => i.type === "function_call");
                    assert.equal(call?.name, "note", label);
                    assert.ok(!whole.output.some((i) => i.type === "message" && i.content.some((c) => c.text)), label);
                    const streamed = (await client.responses.stream(q).finalResponse()).output.find((i) => i.type === "function_call");
                    assert.equal(streamed.arguments, call.arguments, label);
                    if (whole.status === "completed") assert.ok(isObject(call.arguments), label);
                }
            }
        });

        test("parameters that admit no object are refused by the function's name", async () => {
            for (const parameters of [false, { type: "string" }, { enum: [1, "x"] }, { type: "array", items: {} }, { const: 3 }]) {
                const q = { ...ask, tools: [{ type: "function", function: functionOf(parameters) }], tool_choice: "required" };
                await refused(client.chat.completions.create(q), /^tools/);
                await refused(client.responses.create({ model, input: "x", tools: [{ type: "function", strict: false, ...functionOf(parameters) }], tool_choice: "required" }), /^tools/);
            }
        });

        test("a call cut by max_tokens leaves no markup in the content, and stands once its name is complete", async () => {
            let stood = 0, missing = 0;
            for (const limit of [1, 2, 3, 5, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60]) {
                const whole = await chat.ask({ ...cut, limit }), streamed = await chat.stream({ ...cut, limit });
                assert.deepEqual([whole.text, streamed.text], ["", ""], `limit ${limit}`);
                assert.deepEqual(streamed.calls.map((c) => [c.name, c.raw]), whole.calls.map((c) => [c.name, c.raw]), `limit ${limit}`);
                if (whole.finish === "calls") break;
                assert.deepEqual([whole.finish, streamed.finish], ["length", "length"]);
                if (!whole.calls.length) missing++;
                for (const c of whole.calls) {
                    stood++;
                    assert.equal(c.name, "weather");
                    assert.ok(!markup.test(c.raw), c.raw);
                }
            }
            assert.ok(stood > 0 && missing > 0, `${stood} cut calls stood, ${missing} had no name yet`);
        });

        test("a call cut by a stop string leaves no markup in the content either", async () => {
            const { raw } = (await chat.ask({ ...cut, limit: 300 })).calls[0];
            for (const stop of [raw.slice(3, 6), raw.slice(-4), "weather", "city"]) {
                for (const how of [chat.ask, chat.stream]) {
                    const r = await how({ ...cut, limit: 300, stop });
                    assert.equal(r.text, "", stop);
                    for (const c of r.calls) assert.deepEqual([c.name, markup.test(c.raw)], ["weather", false], stop);
                }
            }
        });

        test("several calls in one answer where the model goes on, and one where only one is allowed", async () => {
            const q = { ...ask, tools: [{ type: "function", function: clock }], tool_choice: "required", logit_bias: ends, max_completion_tokens: 500 };
            const calls = async (parallel_tool_calls) => (await client.chat.completions.create({ ...q, parallel_tool_calls })).choices[0].message.tool_calls;
            const many = await calls(true);
            if (args.length) assert.ok(many.length >= 2, `${many.length} calls`); // the model's own notation has one
            assert.equal(new Set(many.map((c) => c.id)).size, many.length);
            for (const c of many.slice(0, -1)) assert.equal(misfit({ id: c.id, name: c.function.name, args: JSON.parse(c.function.arguments) }), "");
            const streamed = await joinChat(await client.chat.completions.create({ ...q, parallel_tool_calls: true, stream: true }));
            assert.deepEqual(streamed.calls.map((c) => c.raw), many.map((c) => c.function.arguments));
            assert.equal((await calls(false)).length, 1);
        });

        test("results go back in every form that clients give them", async () => {
            const call = { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Ur","days":1}' } };
            const q = { ...ask, tools: tools.map((t) => ({ type: "function", function: t })), tool_choice: "none", max_completion_tokens: 4 };
            for (const content of ["dry", [{ type: "text", text: "dry" }], [{ type: "text", text: "dry" }, { type: "text", text: " and warm" }], [], ""]) {
                for (const said of [null, "", [], undefined, [{ type: "text", text: "I look." }]]) {
                    const assistant = { role: "assistant", content: said, tool_calls: [call] };
                    const r = await client.chat.completions.create({ ...q, messages: [...verse, assistant, { role: "tool", tool_call_id: "call_1", content }] });
                    assert.equal(typeof r.choices[0].message.content, "string", JSON.stringify([content, said]));
                }
            }
            for (const output of ["dry", [{ type: "input_text", text: "dry" }], []]) {
                const r = await client.responses.create({
                    model, max_output_tokens: 4, tools: [{ type: "function", strict: false, ...weather }],
                    input: [...verse, { type: "function_call", call_id: "call_1", name: "weather", arguments: "{}" }, { type: "function_call_output", call_id: "call_1", output }],
                });
                assert.equal(r.output[0].type, "message");
            }
        });

        test("arguments in the history that are blank or no JSON keep the prompt whole", async () => {
            const promptOf = async (args) => {
                const messages = [...verse, { role: "assistant", content: null, tool_calls: [{ id: "c1", type: "function", function: { name: "weather", arguments: args } }] }, { role: "tool", tool_call_id: "c1", content: "dry" }];
                const r = await server.post("/tokenize", { model, messages, tools: [{ type: "function", function: weather }] });
                assert.equal(r.status, 200, `${JSON.stringify(args)}: ${r.text}`);
                return (await server.post("/detokenize", { tokens: r.json.tokens })).json.prompt;
            };
            const empty = await promptOf("{}");
            for (const blank of ["", " ", "\n"]) assert.equal(await promptOf(blank), empty, JSON.stringify(blank));
            for (const odd of ['{"city": "Ur', "not json", "[1]", '"x"', "null"]) assert.match(await promptOf(odd), /weather/);
        });

        test("function tools are kept beside tools that only a hosted service has, and those are refused when they are chosen", async () => {
            const hosted = [{ type: "web_search" }, { type: "custom", custom: { name: "grammar" } }];
            const r = await client.chat.completions.create({ ...ask, tools: [hosted[0], { type: "function", function: weather }, hosted[1]], tool_choice: "required" });
            assert.equal(r.choices[0].message.tool_calls[0].function.name, "weather");
            const more = [{ type: "web_search" }, { type: "code_interpreter", container: { type: "auto" } }, { type: "mcp", server_label: "x", server_url: "http://localhost:1" }, { type: "custom", name: "grammar" }, { type: "file_search", vector_store_ids: ["v"] }];
            const over = await responses.client.responses.create({ model, input: "x", temperature: 0, tools: [...more, { type: "function", strict: false, ...weather }], tool_choice: "required", max_output_tokens: 300 });
            assert.equal(over.output[0].name, "weather");
            const none = await responses.client.responses.create({ model, input: "x", tools: more, max_output_tokens: 4 });
            assert.equal(none.output[0].type, "message");
            await refused(responses.client.responses.create({ model, input: "x", tools: [...more, { type: "function", strict: false, ...weather }], tool_choice: { type: "web_search" } }), /^tool_choice/);
            await refused(client.chat.completions.create({ ...ask, tools: [{ type: "function", function: weather }, hosted[1]], tool_choice: { type: "custom", custom: { name: "grammar" } } }), /^tool_choice/);
        });
    });
}

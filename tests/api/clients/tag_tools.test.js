// Calls written as tags (Nanbeige, Qwen3-Coder), through the official `openai` package: the demo
// model behind a template of that form gives the same objects as behind any other.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { Server } from "../../http/lib/server.mjs";

const template =
    "{% for m in messages %}<|{{ 'assistant' if m.role == 'assistant' else 'user' }}|>{{ m.content }}{% for c in m.tool_calls %}" +
    "{{ '<tool_call>\\n<function=' + c.function.name + '>\\n' }}{% for k, v in c.function.arguments | items %}" +
    "{{ '<parameter=' + k + '>\\n' + (v if v is string else v | tojson) + '\\n</parameter>\\n' }}{% endfor %}" +
    "{{ '</function>\\n</tool_call>' }}{% endfor %}<|end|>{% endfor %}{% for t in tools %}{{ t | tojson }}{% endfor %}" +
    "{% if add_generation_prompt %}<|assistant|>{% endif %}";
const dir = mkdtempSync(path.join(tmpdir(), "fathom-tags-"));
let server, client;
before(async () => {
    const file = path.join(dir, "tags.jinja");
    writeFileSync(file, template);
    server = await Server.start(["--chat-template", file], { device: "cpu" });
    server.shared = true; // outlives each test; the hook below stops it
    client = new OpenAI({ apiKey: "unused-key", baseURL: `${server.url}/v1`, maxRetries: 0, timeout: 600000 });
});
after(async () => {
    await server.stop();
    rmSync(dir, { recursive: true });
});

const parameters = {
    type: "object",
    properties: { city: { type: "string", maxLength: 8 }, days: { type: "integer", minimum: 1, maximum: 9 }, dry: { type: "boolean" }, unit: { enum: ["C", "F"] } },
    required: ["city", "days"],
};
const weather = { type: "function", function: { name: "weather", description: "Weather of a city", parameters } };
const messages = [{ role: "user", content: "How is the weather?" }];
const ask = { model: "demo", messages, tools: [weather], tool_choice: "required", temperature: 1, max_completion_tokens: 400 };

function fits(text) {
    const args = JSON.parse(text);
    assert.ok([...args.city].length <= 8, text);
    assert.ok(Number.isInteger(args.days) && args.days >= 1 && args.days <= 9, text);
    if ("dry" in args) assert.equal(typeof args.dry, "boolean");
    if ("unit" in args) assert.ok(["C", "F"].includes(args.unit));
}

test("a forced call has typed arguments, goes back into the conversation, and is the same when streamed", async () => {
    for (let seed = 1; seed <= 6; seed++) {
        const r = await client.chat.completions.create({ ...ask, seed });
        const [choice] = r.choices, [call] = choice.message.tool_calls;
        assert.deepEqual([choice.finish_reason, choice.message.content, call.function.name], ["tool_calls", null, "weather"]);
        fits(call.function.arguments);
        const final = await client.chat.completions.stream({ ...ask, seed }).finalChatCompletion();
        assert.equal(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
        const again = await client.chat.completions.create({
            ...ask, tool_choice: "none", max_completion_tokens: 4,
            messages: [...messages, choice.message, { role: "tool", tool_call_id: call.id, content: "dry" }] });
        assert.equal(typeof again.choices[0].message.content, "string");
    }
});

test("responses have the call as an item; its deltas join to its arguments", async () => {
    const flat = { type: "function", strict: false, ...weather.function };
    const stream = await client.responses.create({ model: "demo", input: "x", tools: [flat], tool_choice: "required", temperature: 0, max_output_tokens: 400, stream: true });
    let joined = "", final;
    for await (const e of stream) {
        if (e.type === "response.function_call_arguments.delta") joined += e.delta;
        if (e.type === "response.completed") final = e.response;
    }
    assert.deepEqual(final.output.map((item) => item.type), ["function_call"]);
    assert.equal(final.output[0].arguments, joined);
    fits(joined);
});

test("a parameter that the form cannot hold is refused by name", async () => {
    const odd = { type: "function", function: { name: "f", parameters: { type: "object", properties: { "a>b": {} } } } };
    const e = await client.chat.completions.create({ ...ask, tools: [odd] }).then(() => assert.fail("accepted"), (x) => x);
    assert.ok(e instanceof OpenAI.BadRequestError, String(e));
    assert.equal(e.param, "tools");
    assert.match(e.message, /a>b/);
});

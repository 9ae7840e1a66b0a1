// What a model thinks before it answers, as each package shows it: apart from the answer's text.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";
import { Server } from "../../http/lib/server.mjs";
import { fileOf, model, verse } from "./lib/ask.js";
import { openai7 } from "./lib/openai.js";

// Opens the marks itself, as DeepSeek's and Qwen's templates do, so that an answer begins inside.
const template = "{% for m in messages %}<|{{ 'assistant' if m.role == 'assistant' else 'user' }}|>" +
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}";
let server, client, fathom, openai;
before(async () => {
    server = await Server.start(["--chat-template", fileOf("think.jinja", template)], { device: "cpu" });
    server.shared = true;
    client = openai7.connect({ url: server.url }).client;
    fathom = createOpenAICompatible({ name: "fathom", baseURL: `${server.url}/v1`, apiKey: "unused-key", includeUsage: true });
    openai = createOpenAI({ baseURL: `${server.url}/v1`, apiKey: "unused-key" });
});
after(() => server.stop());

const ask = { model, messages: verse, temperature: 0, max_completion_tokens: 12 };

test("a chat has its reasoning apart from its content, whole and streamed, and counts its tokens", async () => {
    const r = await client.chat.completions.create(ask), { message } = r.choices[0];
    assert.ok(message.reasoning_content.length > 0);
    assert.equal(message.content ?? "", "", "the thought did not end");
    assert.ok(r.usage.completion_tokens_details.reasoning_tokens > 0);
    let thought = "", said = "";
    for await (const c of await client.chat.completions.create({ ...ask, stream: true })) {
        thought += c.choices[0]?.delta.reasoning_content ?? "";
        said += c.choices[0]?.delta.content ?? "";
    }
    assert.deepEqual([thought, said], [message.reasoning_content, ""]);
});

test("a thought that a stop ends leaves no mark in the content", async () => {
    const end = (await server.post("/tokenize", { prompt: "</think>" })).json.tokens;
    for (let limit = 1; limit <= end.length + 4; limit++) {
        const { message } = (await client.chat.completions.create({ ...ask, max_completion_tokens: limit })).choices[0];
        assert.ok(!/<\/?think/.test(`${message.content ?? ""}${message.reasoning_content ?? ""}`));
    }
});

test("responses have it as an item before the message, with events of its own, and take the item back", async () => {
    const q = { model, input: verse, temperature: 0, max_output_tokens: 12 };
    const r = await client.responses.create(q), [item] = r.output;
    assert.equal(item.type, "reasoning");
    assert.ok(r.usage.output_tokens_details.reasoning_tokens > 0);
    const types = new Set();
    for await (const e of await client.responses.create({ ...q, stream: true })) types.add(e.type);
    assert.ok([...types].some((t) => t.startsWith("response.reasoning")), [...types].join());
    assert.equal((await client.responses.create({ ...q, input: [...verse, ...r.output, { role: "user", content: "Go on." }] })).object, "response");
});

test("the ai package shows it over chat, and over responses has it as a part, never as text", async () => {
    const q = { messages: verse, temperature: 0, maxOutputTokens: 12, maxRetries: 0 };
    const whole = await generateText({ ...q, model: fathom(model) });
    assert.ok(whole.reasoningText.length > 0);
    assert.equal(whole.text, "");
    let thought = "";
    for await (const part of streamText({ ...q, model: fathom(model) }).fullStream) if (part.type === "reasoning-delta") thought += part.text;
    assert.equal(thought, whole.reasoningText);
    // Its provider for responses reads summaries alone, and no server but OpenAI's makes any.
    const over = await generateText({ ...q, model: openai.responses(model) });
    assert.deepEqual([over.content.map((part) => part.type), over.text], [["reasoning"], ""]);
});

test("an answer that goes back with its reasoning is one that the template reads", async () => {
    const prompt = async (message) => {
        const r = await server.post("/tokenize", { model, messages: [...verse, { role: "assistant", content: "Yes.", ...message }, { role: "user", content: "Go on." }] });
        return (await server.post("/detokenize", { tokens: r.json.tokens })).json.prompt;
    };
    assert.match(await prompt({ reasoning_content: "Genesis." }), /<think>\nGenesis\.\n<\/think>/);
    assert.match(await prompt({ reasoning: "Genesis." }), /<think>\nGenesis\.\n<\/think>/);
    assert.ok(!/Genesis/.test(await prompt({})));
});

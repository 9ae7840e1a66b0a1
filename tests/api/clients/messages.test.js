// Anthropic's /v1/messages, with what agents send through the official package beside the common cases.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { PATIENCE, Server, withServer } from "../../http/lib/server.mjs";
import { keyFile, misfit, model, tools, verse, weather } from "./lib/ask.js";
import { anthropic } from "./lib/anthropic.js";

let server, client;
before(async () => {
    server = await Server.start([], { device: "cpu" });
    server.shared = true;
    client = anthropic.connect({ url: server.url }).client;
});
after(() => server.stop());

const ask = { model, messages: verse, max_tokens: 4, temperature: 0 };
const given = tools.map((t) => ({ name: t.name, description: t.description, input_schema: t.parameters }));
const say = (more) => client.messages.create({ ...ask, ...more });
const events = async (more) => {
    const list = [];
    for await (const e of await client.messages.create({ ...ask, ...more, stream: true })) list.push(e);
    return list;
};
const refusal = async (promise, kind) => {
    const e = await promise.then((r) => assert.fail(`accepted: ${JSON.stringify(r)}`), (x) => x);
    assert.ok(e instanceof kind, String(e));
    assert.equal(e.error.type, "error", JSON.stringify(e.error));
    assert.equal(typeof e.error.error.message, "string");
    return e.error.error;
};

describe("answers", () => {
    test("a message has the fields of its type, and the same words as a chat", async () => {
        const m = await say({});
        assert.match(m.id, /^msg_/);
        assert.deepEqual([m.type, m.role, m.model, m.stop_reason, m.stop_sequence], ["message", "assistant", model, "max_tokens", null]);
        assert.deepEqual(m.content.map((b) => b.type), ["text"]);
        const chat = await server.post("/v1/chat/completions", { model, messages: verse, temperature: 0, max_tokens: 4 });
        assert.equal(m.content[0].text, chat.json.choices[0].message.content);
        assert.equal(m.usage.input_tokens + (m.usage.cache_read_input_tokens ?? 0), chat.json.usage.prompt_tokens);
        assert.equal(m.usage.output_tokens, 4);
    });

    test("its events begin and end each block once, and add up to the message", async () => {
        const list = await events({}), types = list.map((e) => e.type).filter((t) => t !== "ping");
        assert.deepEqual(types.slice(0, 2), ["message_start", "content_block_start"]);
        assert.deepEqual(types.slice(-3), ["content_block_stop", "message_delta", "message_stop"]);
        assert.ok(types.slice(2, -3).every((t) => t === "content_block_delta"));
        const [start] = list;
        assert.deepEqual([start.message.type, start.message.role, start.message.content, start.message.stop_reason], ["message", "assistant", [], null]);
        assert.ok(start.message.usage.input_tokens > 0);
        const text = list.filter((e) => e.delta?.type === "text_delta").map((e) => e.delta.text).join("");
        assert.equal(text, (await say({})).content[0].text);
        const delta = list.find((e) => e.type === "message_delta");
        assert.deepEqual([delta.delta.stop_reason, delta.delta.stop_sequence, delta.usage.output_tokens], ["max_tokens", null, 4]);
        assert.deepEqual([...new Set(list.filter((e) => "index" in e).map((e) => e.index))], [0]);
    });

    test("each event stands on the wire under its own name, and nothing like [DONE] follows", async () => {
        const r = await server.post("/v1/messages", { ...ask, stream: true });
        assert.equal(r.status, 200);
        assert.match(r.headers["content-type"], /^text\/event-stream/);
        for (const e of r.text.split("\n\n").filter((t) => t && !t.startsWith(":"))) {
            const [, name, data] = /^event: (\w+)\ndata: (.*)$/.exec(e) ?? assert.fail(e);
            assert.equal(JSON.parse(data).type, name);
        }
        assert.ok(!r.text.includes("[DONE]"));
    });

    test("a stop sequence is named", async () => {
        const full = (await say({ max_tokens: 24 })).content[0].text, stop = full.slice(10, 13);
        const m = await say({ max_tokens: 24, stop_sequences: ["never there", stop] });
        assert.deepEqual([m.stop_reason, m.stop_sequence, m.content[0].text], ["stop_sequence", stop, full.slice(0, full.indexOf(stop))]);
        const delta = (await events({ max_tokens: 24, stop_sequences: [stop] })).find((e) => e.type === "message_delta");
        assert.deepEqual([delta.delta.stop_reason, delta.delta.stop_sequence], ["stop_sequence", stop]);
    });

    test("an answer that the model ends is end_turn", async () => {
        const m = await say({ max_tokens: 400 });
        assert.equal(m.stop_reason, "end_turn");
    });

    test("count_tokens says what a message then uses, with system and tools", async () => {
        for (const more of [{}, { system: "Be brief." }, { system: [{ type: "text", text: "Be brief." }], tools: given }]) {
            const { input_tokens: n } = await client.messages.countTokens({ model, messages: verse, ...more });
            const { usage } = await say(more);
            assert.equal(n, usage.input_tokens + (usage.cache_read_input_tokens ?? 0) + (usage.cache_creation_input_tokens ?? 0), JSON.stringify(more));
        }
    });
});

describe("calls", () => {
    const forced = { tools: given, tool_choice: { type: "any" }, max_tokens: 400 };

    test("a forced call is a tool_use block whose input is an object", async () => {
        const m = await say(forced);
        assert.equal(m.stop_reason, "tool_use");
        const blocks = m.content.filter((b) => b.type === "tool_use");
        assert.ok(blocks.length >= 1 && blocks.length === m.content.length, JSON.stringify(m.content));
        for (const b of blocks) {
            assert.match(b.id, /^toolu_/);
            assert.equal(misfit({ id: b.id, name: b.name, args: b.input }), "");
        }
    });

    test("streamed, its input comes as pieces of JSON that join", async () => {
        const list = await events(forced), start = list.find((e) => e.type === "content_block_start");
        assert.deepEqual([start.content_block.type, start.content_block.input], ["tool_use", {}]);
        const pieces = list.filter((e) => e.delta?.type === "input_json_delta" && e.index === start.index).map((e) => e.delta.partial_json);
        assert.ok(pieces.length > 1);
        const whole = (await say(forced)).content[0];
        assert.deepEqual([start.content_block.name, JSON.parse(pieces.join(""))], [whole.name, whole.input]);
        assert.equal(list.find((e) => e.type === "message_delta").delta.stop_reason, "tool_use");
    });

    test("choices: one by name, none, auto with one call at a time", async () => {
        const named = await say({ ...forced, tool_choice: { type: "tool", name: "clock" } });
        assert.equal(named.content[0].name, "clock");
        assert.equal((await say({ ...forced, tool_choice: { type: "none" }, max_tokens: 8 })).content[0].type, "text");
        assert.ok((await say({ ...forced, tool_choice: { type: "any", disable_parallel_tool_use: true } })).content.length === 1);
        const e = await refusal(say({ ...forced, tool_choice: { type: "tool", name: "nobody" } }), Anthropic.BadRequestError);
        assert.equal(e.type, "invalid_request_error");
    });

    test("a call cut by max_tokens leaves no markup in any text block", async () => {
        for (const max_tokens of [1, 3, 6, 12, 20]) {
            const m = await say({ ...forced, tools: given.slice(0, 1), max_tokens });
            for (const b of m.content) assert.ok(b.type === "tool_use" ? b.name === weather.name : b.text === "", JSON.stringify(m.content));
        }
    });

    test("results go back as text, as blocks, as an error, and beside more words of the user", async () => {
        const first = await say(forced), [use] = first.content.filter((b) => b.type === "tool_use");
        for (const result of [{ content: "dry" }, { content: [{ type: "text", text: "dry" }] }, {}, { content: "no such city", is_error: true }, { content: [] }]) {
            const m = await say({
                tools: given, tool_choice: { type: "none" },
                messages: [...verse, { role: "assistant", content: first.content }, { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, ...result }, { type: "text", text: "Thanks." }] }],
            });
            assert.equal(m.content[0].type, "text", JSON.stringify(result));
        }
    });

    test("the package's own loop runs a function and sends its result back", { timeout: PATIENCE }, async () => {
        let ran = 0;
        const runner = client.beta.messages.toolRunner({
            ...ask, max_tokens: 400, max_iterations: 3, tool_choice: { type: "tool", name: "weather" },
            tools: [{ name: "weather", description: weather.description, input_schema: weather.parameters, run: async () => `dry ${++ran}` }],
        });
        let turns = 0;
        for await (const m of runner) turns += m.content.some((b) => b.type === "tool_use");
        assert.ok(ran >= 2 && turns >= ran, `${ran} runs in ${turns} turns`);
    });
});

describe("what agents send", () => {
    test("system in blocks with cache_control, metadata, top_k, betas and unknown blocks of thinking are taken", async () => {
        const cached = { cache_control: { type: "ephemeral" } };
        const m = await client.beta.messages.create({
            ...ask, betas: ["fine-grained-tool-streaming-2025-05-14"], top_k: 40, top_p: 1, metadata: { user_id: "u" }, service_tier: "auto",
            system: [{ type: "text", text: "You are an agent.", ...cached }, { type: "text", text: "Be brief." }],
            tools: given.map((t, i) => (i ? t : { ...t, ...cached })),
            messages: [
                { role: "user", content: [{ type: "text", text: "Complete the verse:", ...cached }, { type: "text", text: "In the beginning" }] },
                { role: "assistant", content: [{ type: "thinking", thinking: "Genesis.", signature: "c2ln" }, { type: "redacted_thinking", data: "eA==" }, { type: "text", text: "God" }] },
                { role: "user", content: "Go on." },
            ],
        });
        assert.equal(m.content[0].type, "text");
    });

    test("thinking may be switched off, left to the model or given a budget", async () => {
        for (const thinking of [{ type: "disabled" }, { type: "adaptive" }, { type: "enabled", budget_tokens: 1024 }]) {
            assert.ok((await say({ thinking, max_tokens: thinking.budget_tokens ? 2048 : 4 })).content.length > 0, JSON.stringify(thinking));
        }
    });

    test("two user turns in a row are one, and a last assistant turn is continued or refused in words", async () => {
        const m = await say({ messages: [...verse, { role: "user", content: "Go on." }] });
        assert.equal(m.content[0].type, "text");
        const r = await say({ messages: [...verse, { role: "assistant", content: "And God" }] }).catch((e) => e);
        if (r instanceof Error) assert.ok(r instanceof Anthropic.BadRequestError, String(r));
        else assert.equal(r.content[0].type, "text");
    });

    test("pictures are refused by the place where they stand", async () => {
        const picture = { type: "image", source: { type: "base64", media_type: "image/png", data: "iVBORw0KGgo=" } };
        const e = await refusal(say({ messages: [{ role: "user", content: [picture, { type: "text", text: "What is it?" }] }] }), Anthropic.BadRequestError);
        assert.match(e.message, /messages|image/);
    });

    test("errors have the form of this dialect: a wrong limit, a model, a key, a body, a path, a prompt", async () => {
        assert.equal((await refusal(say({ max_tokens: "many" }), Anthropic.BadRequestError)).type, "invalid_request_error");
        assert.equal((await refusal(say({ model: "claude-9" }), Anthropic.NotFoundError)).type, "not_found_error");
        const long = await refusal(say({ messages: [{ role: "user", content: "the word of the LORD ".repeat(600) }] }), Anthropic.BadRequestError);
        assert.match(long.message, /1024/);
        const torn = await server.post("/v1/messages", '{"model":');
        assert.deepEqual([torn.status, torn.json.type, torn.json.error.type], [400, "error", "invalid_request_error"]);
        await withServer(["--api-key-file", keyFile, "--max-body", "2K"], async (s) => {
            const at = (key) => anthropic.connect({ url: s.url, key }).client.messages;
            assert.equal((await refusal(at("sk-wrong-key").create(ask), Anthropic.AuthenticationError)).type, "authentication_error");
            const e = await refusal(at("sk-right-key").create({ ...ask, messages: [{ role: "user", content: "x".repeat(9000) }] }), Anthropic.APIError);
            assert.equal(e.type, "request_too_large");
            assert.ok((await at("sk-right-key").create(ask)).content.length > 0, "the key comes in x-api-key");
        });
    });

    test("a bearer token is taken as well as x-api-key", async () => {
        await withServer(["--api-key-file", keyFile], { device: "cpu" }, async (s) => {
            const c = new Anthropic({ apiKey: null, authToken: "sk-right-key", baseURL: s.url, maxRetries: 0 });
            assert.ok((await c.messages.create(ask)).content.length > 0);
        });
    });

    test("a failure in mid-stream is an error event that the package throws", async () => {
        await withServer(["--fake-us-per-token", "1000"], { env: { FATHOM_FAULT: "nan:10" } }, async (s) => {
            s.expected = /./;
            let n = 0;
            const c = anthropic.connect({ url: s.url }).client;
            const e = await (async () => {
                for await (const _ of await c.messages.create({ ...ask, max_tokens: 100, stream: true })) n++;
            })().catch((x) => x);
            assert.ok(e instanceof Anthropic.APIError, `${e} after ${n} events`);
            assert.ok(n > 0 && n < 100);
        });
    });
});

// What the tests of other servers of this interface hold to be true, asked anew in tables.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import OpenAI from "openai";
import { Server, withServer } from "../../http/lib/server.mjs";
import { keyFile, model, weather } from "./lib/ask.js";
import { openai7 } from "./lib/openai.js";

let server, client;
before(async () => {
    server = await Server.start([], { device: "cpu" });
    server.shared = true;
    client = openai7.connect({ url: server.url }).client;
});
after(() => server.stop());

const user = (content) => ({ role: "user", content });
const assistant = (content) => ({ role: "assistant", content });
const system = (content) => ({ role: "system", content });
const chat = (more) => client.chat.completions.create({ model, messages: [user("What is the best book")], temperature: 0, max_tokens: 8, ...more });
const complete = (more) => client.completions.create({ model, prompt: "In the beginning", temperature: 0, max_tokens: 8, ...more });
const post = (target, body) => server.post(target, body);
const chunksOf = async (stream) => {
    const list = [];
    for await (const c of stream) list.push(c);
    return list;
};

describe("chat", () => {
    test("conversations of every length and order of roles are answered, and their tokens counted", async () => {
        const rows = [
            [user("Say hello")],
            [system("Book"), user("What is the best book")],
            [user("a"), assistant("b"), user("c")],
            [system("s"), user("a"), assistant("b"), user("c"), assistant("d"), user("e")],
            [user("a"), assistant("b")],
            [user([{ type: "text", text: "What is" }, { type: "text", text: "the best book" }])],
        ];
        for (const messages of rows) {
            const r = await chat({ messages });
            assert.equal(r.object, "chat.completion");
            assert.match(r.id, /cmpl/);
            assert.ok(r.usage.prompt_tokens > 0 && r.usage.completion_tokens <= 8, JSON.stringify(r.usage));
            assert.equal(r.usage.total_tokens, r.usage.prompt_tokens + r.usage.completion_tokens);
            assert.equal(r.model, model);
            assert.ok(Math.abs(r.created - Date.now() / 1000) < 600);
        }
    });

    test("invalid messages are a 400 that names them", async () => {
        const rows = [
            {}, { messages: null }, { messages: [] }, { messages: {} }, { messages: "Say hello" }, { messages: 42 }, { messages: [0] }, { messages: ["Say hello"] }, { messages: [null] }, { messages: [[]] },
            { messages: [{}] }, { messages: [{ role: "user" }] }, { messages: [{ role: "user", content: 42 }] }, { messages: [{ role: "user", content: {} }] }, { messages: [{ role: "user", content: [42] }] },
            { messages: [{ content: "Say hello" }] }, { messages: [{ role: 7, content: "x" }] },
            { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "data:," } }] }] }, { messages: [user("a"), { role: "assistant", content: 1 }] },
        ];
        for (const body of rows) {
            const r = await post("/v1/chat/completions", { model, max_tokens: 4, ...body });
            assert.equal(r.status, 400, `${JSON.stringify(body)}: ${r.text}`);
            assert.match(String(r.json.error.param), /^messages/, `${JSON.stringify(body)}: ${r.text}`);
        }
    });

    test("two answers in a row at the end are refused, since nothing could be asked", async () => {
        const e = await chat({ messages: [user("a"), assistant("b"), assistant("c")] }).catch((x) => x);
        assert.ok(e instanceof OpenAI.BadRequestError, String(e));
    });

    test("streamed, one id and one model stand in every chunk, the role in the first, and no delta is empty", async () => {
        for (const messages of [[user("What is the best book")], [system("Book"), user("What is the best book")]]) {
            const list = await chunksOf(await chat({ messages, stream: true }));
            assert.deepEqual([new Set(list.map((c) => c.id)).size, new Set(list.map((c) => c.model)).size, new Set(list.map((c) => c.created)).size], [1, 1, 1]);
            assert.ok(list.every((c) => c.object === "chat.completion.chunk"));
            const [first, ...rest] = list.map((c) => c.choices[0]);
            assert.equal(first.delta.role, "assistant");
            assert.ok(rest.every((c) => c.delta.role === undefined && c.delta.content !== "" && c.delta.content !== null));
            assert.ok(rest.slice(0, -1).every((c) => c.finish_reason === null));
            assert.ok(["stop", "length"].includes(rest.at(-1).finish_reason));
        }
    });

    test("usage comes in its own last chunk, exactly if it was asked for", async () => {
        for (const [make, text] of [[chat, (c) => c.choices[0]?.delta.content], [complete, (c) => c.choices[0]?.text]]) {
            const asked = await chunksOf(await make({ stream: true, stream_options: { include_usage: true } }));
            assert.deepEqual(asked.at(-1).choices, []);
            assert.equal(asked.at(-1).usage.total_tokens, asked.at(-1).usage.prompt_tokens + asked.at(-1).usage.completion_tokens);
            assert.ok(asked.slice(0, -1).every((c) => !c.usage && c.choices.length === 1));
            for (const stream_options of [undefined, null, {}, { include_usage: false }]) {
                const list = await chunksOf(await make({ stream: true, stream_options }));
                assert.ok(list.every((c) => !c.usage && c.choices.length === 1), JSON.stringify(stream_options));
                assert.equal(list.map((c) => text(c) ?? "").join(""), asked.map((c) => text(c) ?? "").join(""));
            }
        }
    });

    test("log probabilities have tokens, bytes and so many alternatives, whole and streamed", async () => {
        for (const top_logprobs of [0, 1, 5, 20]) {
            const whole = (await chat({ logprobs: true, top_logprobs })).choices[0];
            const streamed = (await chunksOf(await chat({ logprobs: true, top_logprobs, stream: true }))).flatMap((c) => c.choices[0].logprobs?.content ?? []);
            assert.deepEqual(streamed, whole.logprobs.content);
            assert.equal(Buffer.concat(streamed.map((t) => Buffer.from(t.bytes))).toString(), whole.message.content);
            for (const t of streamed) {
                assert.ok(t.logprob <= 0 && t.top_logprobs.length === top_logprobs);
                t.top_logprobs.forEach((o, i) => assert.ok(i === 0 || o.logprob <= t.top_logprobs[i - 1].logprob, "best first"));
            }
        }
        assert.equal((await chat({})).choices[0].logprobs, null);
    });

    test("a stop string of an earlier turn does not end the next one", async () => {
        const r = await chat({ messages: [user("a"), assistant("STOP"), user("b")], stop: ["STOP"] });
        assert.ok(r.usage.completion_tokens > 0);
    });
});

describe("completions", () => {
    test("the same prompt and seed give the same text, whole and streamed, cached or not", async () => {
        const texts = new Set();
        for (let i = 0; i < 3; i++) {
            texts.add((await complete({ temperature: 1, seed: 7, max_tokens: 24 })).choices[0].text);
            texts.add((await chunksOf(await complete({ temperature: 1, seed: 7, max_tokens: 24, stream: true }))).map((c) => c.choices[0].text).join(""));
        }
        assert.equal(texts.size, 1);
    });

    test("requests at once are each answered as they would be alone", async () => {
        const prompts = Array.from({ length: 12 }, (_, i) => `And the ${i} sons of`);
        const alone = [];
        for (const prompt of prompts) alone.push((await complete({ prompt })).choices[0].text);
        const together = await Promise.all(prompts.map((prompt) => complete({ prompt }).then((r) => r.choices[0].text)));
        assert.deepEqual(together, alone);
    });

    test("a bias of 100 makes a token the answer, one of -100 forbids it", async () => {
        const id = (await post("/tokenize", { prompt: " LORD" })).json.tokens[0];
        const r = await complete({ logit_bias: { [id]: 100 }, max_tokens: 3, return_token_ids: true });
        assert.deepEqual(r.choices[0].token_ids, [id, id, id]);
        const free = (await complete({ max_tokens: 1, return_token_ids: true })).choices[0].token_ids[0];
        assert.notEqual((await complete({ logit_bias: { [free]: -100 }, max_tokens: 1, return_token_ids: true })).choices[0].token_ids[0], free);
        for (const logit_bias of [{ x: 1 }, { "-1": 1 }, { 0: "much" }, { 0: 101 }, [1], "none"]) {
            await assert.rejects(complete({ logit_bias }), OpenAI.BadRequestError, JSON.stringify(logit_bias));
        }
    });

    test("a prompt longer than the context is a 400 with both numbers in fields, streamed or not", async () => {
        for (const [target, body] of [["/v1/completions", { prompt: "the word of the LORD ".repeat(600) }], ["/v1/chat/completions", { messages: [user("the word of the LORD ".repeat(600))] }], ["/v1/responses", { input: "the word of the LORD ".repeat(600) }]]) {
            for (const stream of [false, true]) {
                const r = await post(target, { model, stream, ...body });
                assert.equal(r.status, 400, `${target} ${r.text}`);
                const { error } = r.json;
                assert.deepEqual([error.type, error.code, error.n_ctx], ["invalid_request_error", "context_length_exceeded", 1024]);
                assert.ok(error.n_prompt_tokens > 1024 && error.n_prompt_tokens < 6000);
                assert.match(error.message, /exceeds the available context size/);
            }
        }
    });

    test("a prompt of exactly the context is refused, and one less leaves one token", async () => {
        const id = (await post("/tokenize", { prompt: " the" })).json.tokens[0];
        const r = await complete({ prompt: Array(1023).fill(id), ignore_eos: true, max_tokens: 5 });
        assert.deepEqual([r.usage.completion_tokens, r.choices[0].finish_reason], [1, "length"]);
        await assert.rejects(complete({ prompt: Array(1024).fill(id) }), OpenAI.BadRequestError);
    });

    test("max_tokens 0 gives no text, and with echo the prompt", async () => {
        const r = await complete({ max_tokens: 0, echo: true });
        assert.deepEqual([r.choices[0].text, r.usage.completion_tokens], ["In the beginning", 0]);
    });
});

describe("structure", () => {
    const rows = [
        [{ type: "json_object" }, /^\s*\{/],
        [{ type: "json_schema", json_schema: { name: "x", schema: { const: "42" } } }, /^"42"$/],
        [{ type: "json_schema", json_schema: { name: "x", schema: { items: [{ type: "integer", minimum: 0, maximum: 9 }], type: "array", minItems: 1, maxItems: 1 } } }, /^\[\s*\d\s*\]$/],
        [{ type: "json_schema", json_schema: { name: "x", schema: { type: "array", prefixItems: [{ type: "boolean" }, { enum: [7] }], minItems: 2, maxItems: 2 } } }, /^\[\s*(true|false)\s*,\s*7\s*\]$/],
        [{ type: "json_schema", json_schema: { name: "x", schema: { type: "boolean" } } }, /^(true|false)$/],
        [{ type: "json_schema", json_schema: { name: "x", schema: { anyOf: [{ type: "null" }, { enum: [1, 2] }] } } }, /^(null|1|2)$/],
        [{ type: "json_schema", json_schema: { name: "x", schema: { $ref: "#/$defs/a", $defs: { a: { type: "object", properties: { b: { enum: ["c"] } }, required: ["b"], additionalProperties: false } } } } }, /^\{\s*"b"\s*:\s*"c"\s*\}$/],
    ];
    for (const [response_format, want] of rows) {
        test(`an answer obeys ${JSON.stringify(response_format).slice(0, 110)}`, async () => {
            const r = await chat({ response_format, max_tokens: 60, temperature: 1, seed: 5 });
            assert.match(r.choices[0].message.content, want);
        });
    }

    test("formats that are none are refused", async () => {
        for (const response_format of [{ type: "json_schema", json_schema: { name: "x", schema: { type: "sound" } } }, { type: "sound" }, { type: 123 }, {}, "json", [], { type: "json_schema", json_schema: 7 }]) {
            const e = await chat({ response_format }).catch((x) => x);
            assert.ok(e instanceof OpenAI.BadRequestError, JSON.stringify(response_format));
            assert.match(String(e.param), /^response_format/);
        }
    });

    test("a forced call has arguments that are JSON for every kind of parameter, with and without streaming", async () => {
        const properties = [{ a: { type: "string", maxLength: 4 } }, { a: { type: "number", minimum: 0, maximum: 9 } }, { a: { type: "boolean" } }, { a: { type: "array", items: { enum: ["x"] }, maxItems: 2 } }, { a: { type: "object", properties: { b: { type: "null" } }, required: ["b"] } }, {}];
        for (const p of properties) {
            const tools = [{ type: "function", function: { name: "probe", description: "d", parameters: { type: "object", properties: p, required: Object.keys(p), additionalProperties: false } } }];
            const whole = (await chat({ tools, tool_choice: "required", max_tokens: 300 })).choices[0];
            assert.equal(whole.finish_reason, "tool_calls");
            assert.deepEqual(Object.keys(JSON.parse(whole.message.tool_calls[0].function.arguments)), Object.keys(p));
            const list = await chunksOf(await chat({ tools, tool_choice: "required", max_tokens: 300, stream: true }));
            const deltas = list.flatMap((c) => c.choices[0]?.delta.tool_calls ?? []);
            assert.equal(deltas[0].function.name, "probe");
            assert.equal(deltas.filter((d) => d.id).length, 1, "the id comes once");
            assert.equal(deltas.map((d) => d.function?.arguments ?? "").join(""), whole.message.tool_calls[0].function.arguments);
        }
    });

    test("with no choice but none, a model that could call talks", async () => {
        const r = await chat({ tools: [{ type: "function", function: weather }], tool_choice: "none" });
        assert.equal(r.choices[0].message.tool_calls, undefined);
    });
});

describe("tokens, keys and pages", () => {
    test("texts of many scripts come back from their tokens", async () => {
        for (const text of ["In the beginning", "", " ", "\n\n\t", "Ünïcödé", "日本語", "\u{1f600}\u{1f468}\u200d\u{1f469}", "a\u0000b", "<|user|>", "e\u0301"]) {
            const t = await post("/tokenize", { prompt: text });
            assert.equal(t.status, 200, text);
            assert.equal(t.json.count, t.json.tokens.length);
            if (!text) continue;
            assert.equal((await post("/detokenize", { tokens: t.json.tokens })).json.prompt, text);
            assert.deepEqual((await post("/tokenize", { content: text })).json.tokens, t.json.tokens);
        }
        for (const tokens of [[-1], [99999], ["x"], "x", [1.5], [null]]) assert.equal((await post("/detokenize", { tokens })).status, 400, JSON.stringify(tokens));
    });

    test("with a key, what is open stays open and everything else asks for it", async () => {
        await withServer(["--api-key-file", keyFile], async (s) => {
            for (const target of ["/health", "/ready", "/"]) assert.equal((await s.get(target)).status, 200, target);
            for (const headers of [{}, { Authorization: "Bearer sk-wrong-key" }, { Authorization: "sk-right-key" }, { Authorization: "Basic c2s=" }, { Authorization: "Bearer sk-right-ke" }, { Authorization: "Bearer sk-right-keys" }, { Authorization: "Bearer " }]) {
                for (const [method, target] of [["GET", "/v1/models"], ["POST", "/v1/completions"], ["POST", "/v1/chat/completions"], ["POST", "/v1/responses"], ["POST", "/tokenize"], ["POST", "/detokenize"]]) {
                    const r = await s.request(method, target, { headers, body: method === "POST" ? "{}" : undefined });
                    assert.equal(r.status, 401, `${target} ${JSON.stringify(headers)}`);
                    assert.equal(r.json.error.type, "authentication_error");
                    assert.ok(!r.text.includes("sk-"), "no key in the answer");
                }
            }
            for (const headers of [{ Authorization: "Bearer sk-right-key" }, { "X-Api-Key": "sk-right-key" }, { authorization: "bearer sk-right-key" }]) {
                assert.equal((await s.get("/v1/models", { headers })).status, 200, JSON.stringify(headers));
            }
        });
    });

    test("a preflight of any page is answered as the options say, without a key", async () => {
        const ask = (s, origin) => s.request("OPTIONS", "/v1/chat/completions", { headers: { Origin: origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os" } });
        await withServer(["--cors-origin", "https://app.example.org", "--api-key-file", keyFile], async (s) => {
            const r = await ask(s, "https://app.example.org");
            assert.ok([200, 204].includes(r.status));
            assert.equal(r.headers["access-control-allow-origin"], "https://app.example.org");
            assert.match(r.headers["access-control-allow-methods"], /POST/);
            for (const name of ["authorization", "content-type", "x-stainless-os"]) assert.ok(r.headers["access-control-allow-headers"].toLowerCase().split(/,\s*/).includes(name), name);
            assert.match(r.headers.vary, /origin/i);
            assert.match(r.headers.vary, /access-control-request-headers/i);
            assert.equal((await ask(s, "https://evil.example.org")).headers["access-control-allow-origin"], undefined);
        });
    });

    test("models say what a client must know to size its requests", async () => {
        const { data } = (await server.get("/v1/models")).json;
        assert.equal(data.length, 1);
        assert.deepEqual([data[0].id, data[0].object, data[0].max_model_len], [model, "model", 1024]);
        assert.ok(data[0].meta.n_vocab > 0 && data[0].meta.n_ctx_train > 0 && data[0].meta.n_params > 0 && data[0].meta.size > 0);
    });
});

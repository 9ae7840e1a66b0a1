// What the packages send beside the question: every value that their types allow.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import OpenAI from "openai";
import { Server, withServer } from "../../http/lib/server.mjs";
import { fileOf, model, verse, weather } from "./lib/ask.js";
import { openai7 } from "./lib/openai.js";

let server, client;
before(async () => {
    server = await Server.start([], { device: "cpu" });
    server.shared = true;
    client = openai7.connect({ url: server.url }).client;
});
after(() => server.stop());

const ask = { model, messages: verse, temperature: 0, max_completion_tokens: 4 };
const chat = (more) => client.chat.completions.create({ ...ask, ...more });
const complete = (more) => client.completions.create({ model, prompt: "In the beginning", temperature: 0, max_tokens: 4, ...more });
const respond = (more) => client.responses.create({ model, input: "hi", temperature: 0, max_output_tokens: 4, ...more });
const textOf = async (promise) => (await promise).choices[0].message.content;

describe("fields", () => {
    const rows = {
        "tools: []": { tools: [] }, "tools: null": { tools: null }, "tools: [] with a choice": { tools: [], tool_choice: "auto" }, "functions: []": { functions: [] },
        "modalities: [\"text\"]": { modalities: ["text"] }, "function_call: \"none\"": { function_call: "none" }, "function_call: \"auto\"": { function_call: "auto" },
        "top_p: 0": { top_p: 0 }, "top_k: -1": { top_k: -1 },
        "stop: [\"\"]": { stop: [""] }, "stop: \"\"": { stop: "" }, "stop: []": { stop: [] }, "16 stop strings of 256 bytes": { stop: Array.from({ length: 16 }, (_, i) => String.fromCharCode(97 + i).repeat(256)) },
        "nulls everywhere": { stop: null, seed: null, top_p: null, n: null, logit_bias: null, user: null, response_format: null, stream_options: null, tool_choice: null, reasoning_effort: null },
        "what only a hosted service needs": { store: false, metadata: { a: "b" }, service_tier: "auto", user: "me", safety_identifier: "s", prompt_cache_key: "k", verbosity: "low" },
        "response_format text": { response_format: { type: "text" } }, "parallel_tool_calls without tools": { parallel_tool_calls: true },
    };
    for (const [name, more] of Object.entries(rows)) {
        test(`chat takes ${name}, and the answer is the same`, async () => {
            assert.equal(await textOf(chat(more)), await textOf(chat({})));
        });
    }

    test("numbers that JSON Schema calls integers are integers, as they stand in the bytes", async () => {
        const post = (fields) => server.post("/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"hi"}],${fields}}`);
        for (const fields of ['"seed":42.0,"max_tokens":4.0', '"max_tokens":4e0', '"n":1.0,"max_tokens":4', '"top_logprobs":2.0,"logprobs":true,"max_tokens":4', '"top_k":5.0,"max_tokens":4']) {
            const r = await post(fields);
            assert.equal(r.status, 200, `${fields}: ${r.text}`);
            assert.ok(r.json.usage.completion_tokens <= 4);
        }
        for (const fields of ['"max_tokens":4.5', '"seed":1e400']) assert.equal((await post(fields)).status, 400, fields);
    });

    test("max_tokens: -1 is no limit of the client's, and no limit is as many as fit", async () => {
        for (const max of [{ max_tokens: -1 }, { max_completion_tokens: -1, max_tokens: undefined }]) {
            const r = await chat({ max_completion_tokens: undefined, stop: "the", ...max });
            assert.ok(["stop", "length"].includes(r.choices[0].finish_reason));
        }
        assert.ok((await complete({ max_tokens: -1, stop: "the" })).choices[0].text.length > 0);
    });

    test("a limit above what is left is clamped, and the answer ends with length", async () => {
        const r = await complete({ max_tokens: 100000, ignore_eos: true });
        assert.equal(r.choices[0].finish_reason, "length");
        assert.equal(r.usage.total_tokens, 1024);
        const c = await chat({ max_completion_tokens: 100000 });
        assert.ok(["stop", "length"].includes(c.choices[0].finish_reason));
        assert.ok(["completed", "incomplete"].includes((await respond({ max_output_tokens: 100000 })).status));
    });

    test("with --refuse-long such a limit is refused with the room that is left", async () => {
        await withServer(["--refuse-long"], async (s) => {
            const e = await openai7.connect({ url: s.url }).client.chat.completions.create({ ...ask, max_completion_tokens: 100000 }).catch((x) => x);
            assert.ok(e instanceof OpenAI.BadRequestError, String(e));
            assert.equal(e.code, "context_length_exceeded");
            assert.match(e.message, /1024.*100000/);
        });
    });

    test("completions give up to 20 log probabilities", async () => {
        const r = await complete({ logprobs: 20 });
        assert.ok(Object.keys(r.choices[0].logprobs.top_logprobs[0]).length >= 20);
        await assert.rejects(complete({ logprobs: 21 }), OpenAI.BadRequestError);
    });

    test("a stop string of 257 bytes, and a seventeenth, are refused with the limit in words", async () => {
        for (const stop of [["x".repeat(257)], Array.from({ length: 17 }, (_, i) => `s${i}`)]) {
            const e = await chat({ stop }).then(() => assert.fail("accepted"), (x) => x);
            assert.ok(e instanceof OpenAI.BadRequestError, String(e));
            assert.match(String(e.param), /^stop/);
            assert.match(e.message, /256|16/);
        }
    });

    test("a stop string of 256 bytes is found across tokens", async () => {
        const full = (await complete({ max_tokens: 200, ignore_eos: true })).choices[0].text, stop = full.slice(40, 280);
        const r = await complete({ max_tokens: 200, ignore_eos: true, stop: [...Array.from({ length: 15 }, (_, i) => `never ${i}`), stop] });
        assert.equal(r.choices[0].text, full.slice(0, full.indexOf(stop)));
    });
});

describe("messages", () => {
    const kept = [{ role: "user", content: "What is it?" }];
    const rows = {
        "tool_calls: [] and refusal: null in an answer": [{ role: "assistant", content: "Yes.", tool_calls: [], refusal: null }, ...kept],
        "an answer that went back as the package gave it": [{ role: "assistant", content: "Yes.", refusal: null, annotations: [], audio: null, function_call: null }, ...kept],
        "a refusal as the part of an answer": [{ role: "assistant", content: [{ type: "refusal", refusal: "I will not." }] }, ...kept],
        "text in parts": [{ role: "assistant", content: [{ type: "text", text: "Yes" }, { type: "text", text: "." }] }, ...kept],
        "reasoning_content in an answer": [{ role: "assistant", content: "Yes.", reasoning_content: "I think." }, ...kept],
        "a name": [{ role: "assistant", content: "Yes.", name: "seer" }, { role: "user", name: "saul", content: "What is it?" }],
    };
    for (const [name, more] of Object.entries(rows)) {
        test(`a conversation may hold ${name}`, async () => {
            assert.ok((await textOf(chat({ messages: [...verse, ...more] }))).length > 0);
        });
    }

    test("responses skip the items that only their own server made, and take refusals", async () => {
        const rows = [
            [{ type: "reasoning", id: "rs_1", summary: [], encrypted_content: null }],
            [{ type: "item_reference", id: "msg_1" }],
            [{ type: "message", role: "assistant", id: "msg_1", status: "completed", content: [{ type: "refusal", refusal: "I will not." }] }],
            [{ type: "message", role: "assistant", id: "msg_1", status: "completed", content: [{ type: "output_text", text: "Yes.", annotations: [], logprobs: [] }] }],
        ];
        for (const items of rows) {
            const r = await respond({ input: [...verse, ...items, ...kept] });
            assert.equal(r.output[0].type, "message", JSON.stringify(items));
        }
        assert.ok(await respond({ max_tool_calls: 3, tools: [], include: ["reasoning.encrypted_content"], store: false }));
    });

    test("a whole response goes back as input, item by item", async () => {
        const first = await respond({ input: verse });
        const second = await respond({ input: [...verse, ...first.output, ...kept] });
        assert.equal(second.output[0].type, "message");
    });

    test("previous_response_id and store are refused by name, as long as nothing is stored", async () => {
        for (const more of [{ previous_response_id: "resp_1" }, { conversation: "conv_1" }]) {
            const e = await respond(more).then(() => assert.fail("accepted"), (x) => x);
            assert.ok(e instanceof OpenAI.BadRequestError, String(e));
            assert.equal(e.param, Object.keys(more)[0]);
        }
        assert.equal((await respond({ store: true }).catch((e) => e)).store ?? false, false, "never claims to have stored");
    });

    const promptOf = async (s, messages, more = {}) => {
        const r = await s.post("/tokenize", { model, messages, ...more });
        assert.equal(r.status, 200, r.text);
        return (await s.post("/detokenize", { tokens: r.json.tokens })).json.prompt;
    };
    const says = (role, content) => ({ role, content });

    test("system and developer messages join the first user turn where the template has no place for them", async () => {
        for (const role of ["system", "developer"]) {
            const prompt = await promptOf(server, [says(role, "Be brief."), says("user", "Who?")]);
            assert.match(prompt, /<\|user\|>Be brief\.\s+Who\?<\|end\|>/);
        }
        const several = await promptOf(server, [says("system", "Be brief."), says("developer", "Be kind."), says("user", "Who?"), says("assistant", "Moses"), says("user", "When?")]);
        assert.match(several, /<\|user\|>Be brief\.\n\nBe kind\.\s+Who\?<\|end\|>.*When\?/s);
        assert.match(await promptOf(server, [says("user", "Who?"), says("assistant", "Moses"), says("system", "Be brief."), says("user", "When?")]), /Be brief\./);
        assert.match(await promptOf(server, [says("system", "Be brief.")].concat(verse)), /Be brief\./);
    });

    test("instructions of responses reach every model", async () => {
        const alone = await respond({}), r = await respond({ instructions: "Answer as the King James Bible would." });
        assert.ok(r.usage.input_tokens > alone.usage.input_tokens + 5);
        assert.equal(r.instructions, "Answer as the King James Bible would.");
    });

    test("a template that raises for a system message gets it in the first user turn", async () => {
        const strict = fileOf("strict.jinja", "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system messages') }}{% endif %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}");
        const s = await Server.start(["--chat-template", strict], { device: "cpu" });
        try {
            assert.match(await promptOf(s, [says("system", "Be brief."), says("user", "Who?")]), /<\|user\|>Be brief\.\s+Who\?<\|end\|>/);
        } finally {
            await s.stop();
        }
    });
});

describe("depth and characters", () => {
    test("reasoning efforts go from the least loops to all that were trained, none being the least", async () => {
        const loops = async (reasoning_effort) => {
            const r = await chat({ reasoning_effort, max_completion_tokens: 16, return_depth: true });
            return Math.max(...r.choices[0].depths);
        };
        const efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"], most = [];
        for (const e of efforts) most.push(await loops(e));
        assert.equal(most[0], 1, "none runs the least loops");
        for (let i = 1; i < most.length; i++) assert.ok(most[i] >= most[i - 1] || most[i] > 4, `${efforts[i]}: ${most}`);
        assert.ok(most.every((d) => d <= 8), "no more loops than were trained");
        assert.equal(await loops(null), await loops(undefined));
        const wrong = await chat({ reasoning_effort: "heroic" }).catch((e) => e);
        assert.ok(wrong instanceof OpenAI.BadRequestError);
        for (const e of efforts) assert.match(wrong.message, new RegExp(e));
    });

    test("a limit that ends inside a character leaves no broken character, whole and streamed", async () => {
        const format = { type: "json_schema", json_schema: { name: "sign", schema: { enum: ["\u{1f600}é€\u{1f601}"] } } };
        let cut = 0;
        for (let limit = 1; limit < 20; limit++) {
            const q = { response_format: format, max_completion_tokens: limit };
            const r = (await chat(q)).choices[0];
            let streamed = "";
            for await (const c of await client.chat.completions.create({ ...ask, ...q, stream: true })) streamed += c.choices[0]?.delta.content ?? "";
            assert.ok(!/\ufffd/.test(r.message.content), `limit ${limit}: ${r.message.content}`);
            assert.equal(streamed, r.message.content, `limit ${limit}`);
            if (r.finish_reason === "length") cut++;
        }
        assert.ok(cut > 5, `${cut} answers were cut`);
    });

    test("n answers with calls have different ids", async () => {
        const tools = [{ type: "function", function: weather }];
        const r = await chat({ tools, tool_choice: "required", n: 3, temperature: 1, seed: 1, max_completion_tokens: 300 });
        assert.equal(new Set(r.choices.map((c) => c.message.tool_calls[0].id)).size, 3);
    });
});

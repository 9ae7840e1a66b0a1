// Below the packages: addresses, headers, ids, errors and what a server says of itself.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";
import { Raw, exchange, parse, post } from "../../http/lib/raw.mjs";
import { Server, until, withServer } from "../../http/lib/server.mjs";
import { keyFile, model, tools, verse } from "./lib/ask.js";
import { continueChat } from "./lib/continue.js";
import { openai7 } from "./lib/openai.js";

let server, client;
before(async () => {
    server = await Server.start([], { device: "cpu" });
    server.shared = true;
    client = openai7.connect({ url: server.url }).client;
});
after(() => server.stop());

const ask = { model, messages: verse, temperature: 0, max_completion_tokens: 4 };
const body = JSON.stringify(ask);
const openai = (more) => new OpenAI({ apiKey: "unused-key", baseURL: `${server.url}/v1`, maxRetries: 0, ...more });

test("ids are unique for each answer and item, although a client sends one request id twice", async () => {
    const ids = [], options = { headers: { "X-Request-Id": "the-same-again" } };
    for (let i = 0; i < 3; i++) {
        const q = { ...ask, request_id: "the-same-again", tools: tools.map((t) => ({ type: "function", function: t })), tool_choice: "required", max_completion_tokens: 300, n: 2, temperature: 1 };
        const r = await client.chat.completions.create(q, options);
        ids.push(r.id, ...r.choices.flatMap((c) => c.message.tool_calls.map((t) => t.id)));
        ids.push((await client.completions.create({ model, prompt: "hi", max_tokens: 1, request_id: "the-same-again" }, options)).id);
        const over = await client.responses.create({ model, input: "hi", max_output_tokens: 300, tools: tools.map((t) => ({ type: "function", strict: false, ...t })), tool_choice: "required" }, options);
        ids.push(over.id, ...over.output.flatMap((i) => [i.id, i.call_id]));
        const said = await client.responses.create({ model, input: "hi", max_output_tokens: 2 }, options);
        ids.push(said.id, said.output[0].id);
    }
    assert.ok(ids.every((id) => typeof id === "string" && id.length > 8), String(ids));
    assert.equal(new Set(ids).size, ids.length, ids.filter((id, i) => ids.indexOf(id) !== i).join());
});

test("addresses that clients build reach the server: a doubled slash, one at the end, the absolute form", async () => {
    for (const baseURL of [`${server.url}//v1`, `${server.url}/v1/`, `${server.url}/v1//`, `${server.url}`]) {
        assert.equal((await openai({ baseURL }).chat.completions.create(ask)).object, "chat.completion", baseURL);
    }
    for (const target of ["/v1/chat/completions/", "//v1/chat/completions", `http://localhost:${server.port}/v1/chat/completions`, `http://127.0.0.1:${server.port}/v1/chat/completions`, `HTTP://localhost/v1/chat/completions?api-version=1`]) {
        const r = await exchange(server.port, post(target, body));
        assert.equal(r.status, 200, `${target}: ${r.body}`);
    }
    for (const target of ["/v1/models/", "//v1/models", `http://localhost:${server.port}/v1/models`, "/v1/models/demo/"]) {
        assert.equal((await exchange(server.port, `GET ${target} HTTP/1.1\r\nHost: localhost\r\n\r\n`)).status, 200, target);
    }
    const foreign = await exchange(server.port, "GET http://evil.com/v1/models HTTP/1.1\r\nHost: evil.com\r\n\r\n");
    assert.equal(foreign.status, 403, "the host of an absolute target is looked at like any other");
});

test("an absolute target does not lead past the keys", async () => {
    await withServer(["--api-key-file", keyFile], async (s) => {
        for (const target of ["//v1/models", "/v1/models/", "http://localhost/v1/models", "http://localhost//v1/models/", "/v1//models", "//metrics/../v1/models"]) {
            const r = await exchange(s.port, `GET ${target} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
            assert.ok([400, 401, 404].includes(r.status), `${target}: ${r.status}`);
        }
        const r = await exchange(s.port, "GET http://localhost/v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-right-key\r\n\r\n");
        assert.equal(r.status, 200);
    });
});

test("a byte order mark before the JSON is skipped", async () => {
    const r = await server.post("/v1/chat/completions", Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf]), Buffer.from(body)]));
    assert.equal(r.status, 200, r.text);
});

test("headers of 16 KB are taken, and too many are refused in the form of every error", async () => {
    const big = { defaultHeaders: { "X-Trace": "t".repeat(7000), Cookie: "c".repeat(7000) } };
    assert.equal((await openai(big).chat.completions.create(ask)).object, "chat.completion");
    const e = await openai({ defaultHeaders: { "X-Trace": "t".repeat(300000) } }).chat.completions.create(ask).catch((x) => x);
    assert.equal(e.status, 431, `${e} ${e.cause ?? ""}`);
    assert.equal(e.type, "invalid_request_error");
    assert.ok(e.message.length > 10);
    const wrong = await exchange(server.port, "GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n", { closes: true });
    assert.ok(wrong.status === 505 || wrong.status === 400, String(wrong.status));
    assert.equal(typeof JSON.parse(wrong.body).error.message, "string");
});

test("a body over the limit is read to its end and answered with 413, and the connection is not reset", async () => {
    await withServer(["--max-body", "64K"], async (s) => {
        const c = await Raw.open(s.port);
        const size = 640 << 10;
        c.send(`POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${size}\r\n\r\n`);
        for (let sent = 0; sent < size; sent += 64 << 10) {
            c.send(Buffer.alloc(64 << 10, 0x20));
            await new Promise((done) => setTimeout(done, 20));
        }
        await c.until((b) => parse(b)?.whole);
        const r = parse(c.received);
        assert.equal(r?.status, 413, `${c.received.subarray(0, 200)} reset ${c.reset}`);
        assert.equal(JSON.parse(r.body).error.type, "invalid_request_error");
        assert.equal(c.reset, false);
        c.destroy();
    });
});

test("a client that half-closes after sending still gets its answer, whole and streamed", async () => {
    for (const stream of [false, true]) {
        const r = await exchange(server.port, post("/v1/chat/completions", JSON.stringify({ ...ask, stream, max_completion_tokens: 16 })), { end: true });
        assert.equal(r.status, 200, `stream ${stream}: ${r.bytes}`);
        if (stream) assert.match(r.body, /data: \[DONE\]\n\n$/);
        else assert.ok(JSON.parse(r.body).choices[0].message.content.length > 0);
    }
});

test("the metrics of an ended request are there when its answer is, and n answers count the prompt once", async () => {
    await withServer([], { device: "cpu" }, async (s) => {
        const c = openai7.connect({ url: s.url }).client;
        for (const stream of [false, true]) {
            const before = await s.metrics();
            await new Promise((done) => setTimeout(done, 150)); // a page of metrics is kept for 100 ms
            const q = { ...ask, n: 3, temperature: 1 };
            let usage;
            if (stream) for await (const part of await c.chat.completions.create({ ...q, stream, stream_options: { include_usage: true } })) usage = part.usage ?? usage;
            else usage = (await c.chat.completions.create(q)).usage;
            const after = await s.metrics(), more = (name) => after[name] - (before[name] ?? 0);
            assert.equal(more("vllm:generation_tokens_total"), usage.completion_tokens, `stream ${stream}`);
            assert.equal(more("vllm:prompt_tokens_total"), usage.prompt_tokens, `stream ${stream}`);
            assert.equal(after["vllm:num_requests_running"], 0, `stream ${stream}`);
        }
    });
});

test("answers name the build and the model, and the server its version and its health under /v1 too", async () => {
    const prints = new Set();
    for (const r of [await client.chat.completions.create(ask), await client.completions.create({ model, prompt: "hi", max_tokens: 1 })]) prints.add(r.system_fingerprint);
    for await (const c of await client.chat.completions.create({ ...ask, stream: true })) prints.add(c.system_fingerprint);
    assert.equal(prints.size, 1, [...prints].join());
    assert.match([...prints][0], /^\S{4,}$/);
    const version = await server.get("/version");
    assert.equal(version.status, 200);
    assert.match(version.json.version, /^\d+\.\d+/);
    for (const target of ["/health", "/v1/health"]) assert.equal((await server.get(target)).status, 200, target);
    const [listed] = (await server.get("/v1/models")).json.data;
    assert.equal(typeof listed.root, "string");
    assert.ok("parent" in listed);
});

test("an unknown path names what exists, and a method that a path has not names those it has", async () => {
    const e = await client.post("/chat/completion", { body: {} }).catch((x) => x);
    assert.equal(e.status, 404);
    assert.match(e.message, /\/v1\/chat\/completions/);
    const wrong = await server.get("/v1/chat/completions");
    assert.equal(wrong.status, 405);
    assert.match(wrong.headers.allow, /POST/);
    assert.match(wrong.json.error.message, /POST/);
    const embed = await client.embeddings.create({ model, input: "x" }).catch((x) => x);
    assert.equal(embed.status, 404);
    assert.match(embed.message, /\/v1\//);
});

test("a stranger to a server with keys is not told what exists", async () => {
    await withServer(["--api-key-file", keyFile], async (s) => {
        const r = await s.get("/v1/chat/completion");
        assert.ok([401, 404].includes(r.status));
        assert.ok(!/\/v1\/chat\/completions/.test(r.text), r.text);
    });
});

test("a misspelt field is listed in warnings when the server runs with --warn-unknown, and it is logged once", async () => {
    await withServer(["--warn-unknown"], { device: "cpu" }, async (s) => {
        const chat = (more) => openai7.connect({ url: s.url }).client.chat.completions.create({ ...ask, ...more });
        const r = await chat({ temprature: 1, max_token: 3, depth: { max_lops: 2 } });
        assert.ok(Array.isArray(r.warnings), JSON.stringify(r));
        const text = r.warnings.join("\n");
        assert.match(text, /temprature.*temperature/);
        assert.match(text, /max_token\b.*max_tokens/);
        assert.match(text, /max_lops/);
        await chat({ temprature: 1 });
        assert.equal(s.log.split("temprature").length - 1, 1, "once in the log");
        assert.equal((await chat({})).warnings, undefined);
    });
    assert.equal((await client.chat.completions.create({ ...ask, temprature: 1 })).warnings, undefined, "without the option nobody is told");
});

test("messages of errors say the rule: a number that is too large, a prompt that leaves no room", async () => {
    const message = (more) => client.chat.completions.create({ ...ask, ...more }).then(() => assert.fail("accepted"), (e) => e.message);
    assert.match(await message({ temperature: 1e300 }), /temperature.*2/);
    for (const digits of ["99999999999999999999", "1e30"]) {
        const r = await server.post("/v1/chat/completions", `{"model":"demo","messages":[{"role":"user","content":"hi"}],"n":${digits}}`);
        assert.equal(r.status, 400);
        assert.equal(r.json.error.param, "n");
        assert.match(r.json.error.message, /n must|n is/);
    }
    const long = await message({ messages: [{ role: "user", content: "the word of the LORD ".repeat(600) }], max_completion_tokens: undefined });
    assert.match(long, /maximum context length is 1024/);
    assert.ok(!/0 more/.test(long), long);
});

test("Continue's completions and its list of models work as its chat does", async () => {
    const { api } = continueChat.connect({ url: server.url });
    const signal = new AbortController().signal;
    const whole = await api.completionNonStream({ model, prompt: "In the beginning", temperature: 0, max_tokens: 8, stream: false }, signal);
    let text = "";
    for await (const c of api.completionStream({ model, prompt: "In the beginning", temperature: 0, max_tokens: 8, stream: true }, signal)) text += c.choices[0]?.text ?? "";
    assert.equal(text, whole.choices[0].text);
    assert.deepEqual((await api.list()).map((m) => m.id), [model]);
});

test("both official packages give up on a silent server at their own timeout, which frees it", async () => {
    await withServer(["--fake-us-per-token", "20000"], async (s) => {
        const long = { model, messages: verse, max_tokens: 800 };
        const e = await new OpenAI({ apiKey: "k", baseURL: `${s.url}/v1`, maxRetries: 0, timeout: 300 }).chat.completions.create(long).catch((x) => x);
        assert.ok(e instanceof OpenAI.APIConnectionTimeoutError, String(e));
        const f = await new Anthropic({ apiKey: "k", baseURL: s.url, maxRetries: 0, timeout: 300 }).messages.create(long).catch((x) => x);
        assert.ok(f instanceof Anthropic.APIConnectionTimeoutError, String(f));
        await until("both are gone", async () => (await s.metrics())["fathom_http_client_left_total"] === 2);
        await s.idle();
    });
});

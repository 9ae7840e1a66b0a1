// The routes, one by one, with the fake device: what comes out is known.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { Raw, exchange, parse } from "./lib/raw.mjs";
import { Server, binary, chunks, events, sleep, textOf, until, withServer } from "./lib/server.mjs";

const ask = { model: "demo", prompt: "In the beginning", max_tokens: 8, temperature: 0 };

test("models, one model, health, ready, metrics and the page answer", async () => {
    await withServer([], async (s) => {
        const list = (await s.get("/v1/models")).json;
        assert.equal(list.object, "list");
        assert.equal(list.data[0].id, "demo");
        assert.equal(list.data[0].root, "demo");
        assert.equal((await s.get("/models")).json.data[0].id, "demo");
        assert.equal((await s.get("/v1/models/demo")).json.id, "demo");
        const missing = await s.get("/v1/models/other");
        assert.equal(missing.status, 404);
        assert.equal(missing.json.error.code, "model_not_found");
        assert.deepEqual((await s.get("/health")).json, { status: "ok" });
        assert.deepEqual((await s.get("/ready")).json, { status: "ready" });
        assert.deepEqual((await s.get("/v1/health")).json, { status: "ok" });
        assert.deepEqual((await s.get("/v1/ready")).json, { status: "ready" });
        const { version, commit } = (await s.get("/version")).json;
        assert.equal(execFileSync(binary, ["serve", "--version"], { encoding: "utf8" }).trim(), `fathom ${version}${commit && ` (${commit})`}`);
        const told = JSON.parse(execFileSync(binary, ["version", "--json"], { encoding: "utf8" }));
        assert.deepEqual([told.version, told.commit], [version, commit]);
        const metrics = await s.get("/metrics");
        assert.match(metrics.headers["content-type"], /^text\/plain; version=0\.0\.4/);
        assert.match(metrics.text, /^vllm:num_requests_running\{model_name="demo",engine="0"\} 0$/m);
        const page = await s.get("/");
        assert.equal(page.status, 200);
        assert.match(page.headers["content-type"], /text\/html/);
        assert.ok(page.headers["content-security-policy"]);
        assert.equal((await s.get("/app.js")).status, 200);
        const head = await s.request("HEAD", "/health");
        assert.equal(head.status, 200);
        assert.equal(head.text, "");
    });
});

test("a completion whole, with usage, and the same text streamed", async () => {
    await withServer([], async (s) => {
        const whole = await s.post("/v1/completions", ask);
        assert.equal(whole.status, 200);
        assert.equal(whole.json.object, "text_completion");
        assert.equal(whole.json.usage.completion_tokens, 8);
        assert.equal(whole.json.choices[0].finish_reason, "length");
        assert.ok(whole.headers["x-request-id"]);
        const stream = await s.post("/completions", { ...ask, stream: true, stream_options: { include_usage: true } });
        assert.match(stream.headers["content-type"], /^text\/event-stream/);
        assert.equal(stream.headers["cache-control"], "no-cache");
        assert.equal(stream.headers["x-accel-buffering"], "no");
        assert.equal(events(stream.text).at(-1), "[DONE]");
        assert.equal(textOf(stream.text), whole.json.choices[0].text);
        const last = chunks(stream.text).at(-1);
        assert.deepEqual(last.choices, []);
        assert.equal(last.usage.completion_tokens, 8);
        const plain = await s.post("/v1/completions", { ...ask, stream: true });
        assert.ok(chunks(plain.text).every((c) => !("usage" in c) && c.choices.length === 1));
    });
});

test("a request that names no model gets the served one", async () => {
    await withServer([], async (s) => {
        for (const model of [undefined, null]) {
            const r = await s.post("/v1/completions", { ...ask, model });
            assert.equal(r.status, 200);
            assert.equal(r.json.model, "demo");
        }
    });
});

test("special tokens in an id prompt need --control-ids", async () => {
    const chat = { prompt: [2045, 1142, 258, 2047, 2046], max_tokens: 4, temperature: 0 };
    await withServer([], async (s) => {
        const r = await s.post("/v1/completions", chat);
        assert.equal(r.status, 400);
        assert.equal(r.json.error.param, "prompt");
        assert.match(r.json.error.message, /--control-ids/);
    });
    await withServer(["--control-ids"], async (s) => assert.equal((await s.post("/v1/completions", chat)).status, 200));
});

test("a chat whole and streamed, its role with the first token", async () => {
    await withServer([], async (s) => {
        const body = { model: "demo", messages: [{ role: "user", content: "Who art thou?" }], max_tokens: 6, temperature: 0 };
        const whole = await s.post("/v1/chat/completions", body);
        assert.equal(whole.status, 200);
        assert.equal(whole.json.object, "chat.completion");
        assert.equal(whole.json.choices[0].message.role, "assistant");
        const stream = await s.post("/v1/chat/completions", { ...body, stream: true });
        const all = chunks(stream.text);
        assert.equal(all[0].object, "chat.completion.chunk");
        assert.equal(all[0].choices[0].delta.role, "assistant");
        assert.ok(all[0].choices[0].delta.content.length > 0);
        assert.equal(textOf(stream.text), whole.json.choices[0].message.content);
    });
});

test("return_depth shows tokens that left at different depths", async () => {
    await withServer([], async (s) => {
        const stream = await s.post("/v1/completions", { ...ask, stream: true, return_depth: true });
        const depths = chunks(stream.text).flatMap((c) => c.choices[0].depths ?? []);
        assert.equal(depths.length, 8);
        assert.ok(new Set(depths).size > 1, `depths ${depths}`);
    });
});

test("a stop string ends the text before it, and is a good end in the metrics", async () => {
    await withServer([], async (s) => {
        const whole = (await s.post("/v1/completions", { ...ask, max_tokens: 20 })).json.choices[0].text;
        const stop = whole.slice(5, 8);
        const cut = (await s.post("/v1/completions", { ...ask, max_tokens: 20, stop })).json.choices[0];
        assert.equal(cut.text, whole.slice(0, whole.indexOf(stop)));
        assert.equal(cut.finish_reason, "stop");
        assert.equal(cut.stop_reason, stop);
        const streamed = textOf((await s.post("/v1/completions", { ...ask, max_tokens: 20, stop, stream: true })).text);
        assert.equal(streamed, cut.text);
        await s.idle();
        const m = await s.metrics();
        assert.equal(m['vllm:request_success_total{finished_reason="stop"}'], 2);
        assert.equal(m['vllm:request_success_total{finished_reason="abort"}'], 0);
    });
});

test("token ids as a prompt, several prompts, several choices", async () => {
    await withServer([], async (s) => {
        const ids = await s.post("/v1/completions", { ...ask, prompt: [300, 301, 302] });
        assert.equal(ids.json.usage.prompt_tokens, 3);
        const many = await s.post("/v1/completions", { ...ask, prompt: [[300, 301], [302, 303, 304]], n: 2, max_tokens: 3 });
        assert.deepEqual(many.json.choices.map((c) => c.index), [0, 1, 2, 3]);
        assert.equal(many.json.usage.completion_tokens, 12);
        const stream = await s.post("/v1/completions", { ...ask, prompt: [[300, 301], [302, 303, 304]], n: 2, max_tokens: 3, stream: true });
        const seen = new Map();
        for (const c of chunks(stream.text)) seen.set(c.choices[0].index, (seen.get(c.choices[0].index) ?? "") + c.choices[0].text);
        assert.deepEqual([0, 1, 2, 3].map((i) => seen.get(i)), many.json.choices.map((c) => c.text));
    });
});

test("tokenize and detokenize, small on the loop and large on a worker", async () => {
    await withServer([], async (s) => {
        const t = await s.post("/tokenize", { prompt: "In the beginning" });
        assert.equal(t.status, 200);
        assert.equal(t.json.count, t.json.tokens.length);
        assert.equal((await s.post("/detokenize", { tokens: t.json.tokens })).json.prompt, "In the beginning");
        const texts = Array(40).fill("and it came to pass ".repeat(120));
        const long = await s.post("/v1/tokenize", { prompt: texts });
        assert.equal(long.status, 200);
        assert.ok(long.json.count.reduce((a, b) => a + b) > 10000);
        const back = await s.post("/detokenize", { tokens: long.json.tokens });
        assert.deepEqual(back.json.text, texts);
        /* A text that could be no prompt is refused as one, in either direction. */
        const longer = await s.post("/tokenize", { prompt: texts.join("") });
        assert.equal(longer.status, 400);
        assert.equal(longer.json.error.code, "context_length_exceeded");
        assert.equal(longer.json.error.n_ctx, 1024);
        assert.ok(longer.json.error.n_prompt_tokens > 1024);
        const ids = await s.post("/detokenize", { tokens: Array(1025).fill(300) });
        assert.deepEqual([ids.status, ids.json.error.code, ids.json.error.n_prompt_tokens], [400, "context_length_exceeded", 1025]);
    });
});

test("too long for the context is a 400 that says so", async () => {
    await withServer([], async (s) => {
        for (const stream of [false, true]) {
            const r = await s.post("/v1/completions", { ...ask, prompt: Array(1100).fill(300), stream });
            assert.equal(r.status, 400);
            assert.equal(r.json.error.code, "context_length_exceeded");
            assert.deepEqual(Object.keys(r.json.error).slice(0, 4), ["message", "type", "param", "code"]);
        }
    });
    await withServer(["--refuse-long"], async (s) => {
        assert.equal((await s.post("/v1/completions", { ...ask, max_tokens: 2000 })).json.error.code, "context_length_exceeded");
        assert.equal((await s.post("/v1/completions", { ...ask, max_tokens: -1 })).status, 200);
    });
});

test("paths, methods and types that are wrong say what is right", async () => {
    await withServer([], async (s) => {
        const lost = await s.get("/v1/nothing");
        assert.equal(lost.status, 404);
        assert.equal(lost.json.error.type, "not_found_error");
        const method = await s.get("/v1/completions");
        assert.equal(method.status, 405);
        assert.equal(method.headers.allow, "POST");
        const delete_ = await s.request("DELETE", "/v1/models");
        assert.equal(delete_.status, 405);
        assert.equal(delete_.headers.allow, "GET, HEAD");
        const type = await s.request("POST", "/v1/completions", { body: "{}", headers: { "Content-Type": "text/plain" } });
        assert.equal(type.status, 415);
        const coded = await s.request("POST", "/v1/completions", { body: "{}", headers: { "Content-Encoding": "gzip" } });
        assert.equal(coded.status, 415);
        const big = await s.request("POST", "/v1/completions", { body: "x".repeat(3 << 20) });
        assert.equal(big.status, 413);
    });
});

test("a client's request id is echoed, an improper one is not", async () => {
    await withServer([], async (s) => {
        const mine = await s.post("/v1/completions", ask, { headers: { "X-Request-Id": "abc-1" } });
        assert.equal(mine.headers["x-request-id"], "abc-1");
        assert.match(mine.json.id, /abc-1/);
        const long = await s.get("/health", { headers: { "X-Request-Id": "x".repeat(65) } });
        assert.match(long.headers["x-request-id"], /^req-/);
    });
});

test("curl gets a streamed answer", async () => {
    await withServer([], async (s) => {
        const out = execFileSync("curl", ["-sN", `${s.url}/v1/completions`, "-H", "Content-Type: application/json", "-d",
            JSON.stringify({ ...ask, stream: true })], { encoding: "utf8" });
        assert.equal(events(out).at(-1), "[DONE]");
        assert.equal(chunks(out).length, 8);
    });
});

test("HTTP/1.0 gets its stream unchunked, ended by the close", async () => {
    await withServer([], async (s) => {
        const c = await Raw.open(s.port);
        const body = JSON.stringify({ ...ask, stream: true });
        c.send(`POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
        await c.until(null);
        assert.ok(c.closed);
        const r = parse(c.received);
        assert.equal(r.headers["transfer-encoding"], undefined);
        assert.equal(events(r.body).at(-1), "[DONE]");
        assert.equal(chunks(r.body).length, 8);
    });
});

test("an answer to a Connection: close request closes after it", async () => {
    await withServer([], async (s) => {
        const r = await exchange(s.port, "GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", { closes: true });
        assert.equal(r.status, 200);
        assert.ok(r.closed);
    });
});

test("a folder that is no model ends the process with status 2, said once and in the log's own form", async () => {
    const s = await Server.start([], { model: "/nonexistent", ready: false });
    const end = await s.ended;
    assert.equal(end.code, 2);
    assert.match(s.log, /^\S+Z alert the model could not be loaded: .*nonexistent/m);
    assert.equal(s.log.split("No such file").length, 2);
    for (const line of s.log.trim().split("\n")) assert.match(line, /^\d{4}-\d\d-\d\dT\S+Z (alert|warn|info) /);
});

test("--log-format json: every line is an object, and a request's facts are its members", async () => {
    await withServer(["--log-format", "json"], async (s) => {
        await s.post("/v1/completions", ask, { headers: { "X-Request-Id": "one-line" } });
        await until("the line", () => /"id":"one-line"/.test(s.log));
        const lines = s.log.trim().split("\n").map((line) => JSON.parse(line));
        for (const line of lines) {
            assert.ok(["alert", "warn", "info"].includes(line.level) && line.message, JSON.stringify(line));
            assert.equal(new Date(line.time).toISOString(), line.time);
        }
        const request = lines.find((line) => line.id === "one-line");
        assert.equal(request.message, "request");
        assert.equal(request.status, 200);
        assert.equal(request.output, 8);
        assert.equal(request.stream, false);
        assert.equal(request.client_left, false);
        assert.equal(request.key, null);
        assert.ok(request.ms > 0 && request.depth >= 1);
    });
});

test("a port in use ends the process with status 1", async () => {
    await withServer([], async (s) => {
        const other = await Server.start(["--port", String(s.port)], { ready: false });
        assert.equal((await other.ended).code, 1);
        assert.match(other.log, /cannot listen/);
    });
});

test("the log has one line for each ended request", async () => {
    await withServer([], async (s) => {
        await s.post("/v1/completions", ask, { headers: { "X-Request-Id": "one-line" } });
        await until("the line", () => /request id=one-line key=- route=\/completions status=200 .*output=8 depth=[\d.]+/.test(s.log));
        await sleep(50);
        assert.equal(s.log.split("id=one-line").length, 2);
    });
});

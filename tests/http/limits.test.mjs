// Keys, CORS, limits per key, and faults of the engine.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Raw, exchange, parse, post } from "./lib/raw.mjs";
import { assertError } from "./lib/rows.mjs";
import { Server, events, until, withServer } from "./lib/server.mjs";

const body = { model: "demo", prompt: "Lord", max_tokens: 4, temperature: 0, ignore_eos: true };
const dir = mkdtempSync(path.join(tmpdir(), "fathom-http-"));
process.on("exit", () => rmSync(dir, { recursive: true, force: true }));
const keyFile = path.join(dir, "keys");
writeFileSync(keyFile, "# who may come in\nsk-alpha-000001 alpha\n\n  sk-beta-0000002\tbeta \r\nsk-nameless-003\n");

test("F49: every route but the open ones needs a key, shown in one of two ways", async () => {
    await withServer(["--api-key-file", keyFile], async (s) => {
        for (const open of ["/health", "/v1/health", "/health/", "/ready", "/v1/ready", "/version", "/metrics", "/", "/app.js"]) assert.equal((await s.get(open)).status, 200, open);
        for (const [method, target] of [["POST", "/v1/completions"], ["POST", "/completions"], ["POST", "/v1/chat/completions"], ["GET", "/v1/models"], ["GET", "/models/demo"],
            ["POST", "/tokenize"], ["POST", "/v1/detokenize"], ["GET", "/nowhere"], ["GET", "//v1/models"], ["GET", "/v1/models/"], ["POST", "/v1//completions/"], ["GET", "/v1/completions"], ["DELETE", "/v1/models"]]) {
            const r = await s.request(method, target, { body: method === "POST" ? body : undefined });
            assertError(r, 401, { type: "authentication_error", code: "invalid_api_key" });
            assert.ok(!r.text.includes("/v1/"), "no stranger learns what exists");
            assert.equal(r.headers["www-authenticate"], "Bearer");
        }
        for (const headers of [{ Authorization: "Bearer sk-alpha-000001" }, { authorization: "bearer sk-beta-0000002" }, { "X-Api-Key": "sk-nameless-003" }]) {
            assert.equal((await s.post("/v1/completions", body, { headers })).status, 200);
        }
        const bad = ["sk-alpha-00000", "sk-alpha-0000011", "SK-ALPHA-000001", "", "alpha", "sk-alpha-000001 alpha", "#", "x".repeat(4000)];
        for (const key of bad) {
            assert.equal((await s.get("/v1/models", { headers: { Authorization: `Bearer ${key}` } })).status, 401);
            assert.equal((await s.get("/v1/models", { headers: { "X-Api-Key": key } })).status, 401);
        }
        assert.equal((await s.get("/v1/models", { headers: { Authorization: "Basic sk-alpha-000001" } })).status, 401);
        assert.equal((await s.get("/v1/models", { headers: { Authorization: "Bearer sk-alpha-000001", "X-Api-Key": "sk-beta-0000002" } })).status, 401);
        const two = await exchange(s.port, "GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\nAuthorization: Bearer sk-alpha-000001\r\n\r\n");
        assert.equal(two.status, 400);
        const huge = await exchange(s.port, `GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${"k".repeat(40000)}\r\n\r\n`);
        assertError(huge, 431);
        assert.match(s.log, /key=alpha/);
        assert.ok(!/sk-/.test(s.log), "no key is ever logged");
        await until("they are counted", async () => (await s.metrics())['fathom_http_refused_total{why="key"}'] >= 12);
    });
});

test("/metrics needs a key when told so", async () => {
    await withServer(["--api-key-file", keyFile, "--metrics-key"], { ready: true }, async (s) => {
        assert.equal((await s.get("/metrics")).status, 401);
        assert.equal((await s.get("/metrics", { headers: { "X-Api-Key": "sk-beta-0000002" } })).status, 200);
    });
});

test("a key file that is missing, empty or has a short key ends the start with status 2 or 1", async () => {
    writeFileSync(path.join(dir, "empty"), "# nobody\n");
    writeFileSync(path.join(dir, "short"), "abc\n");
    for (const name of ["missing", "empty", "short"]) {
        const s = await Server.start(["--api-key-file", path.join(dir, name)], { ready: false });
        assert.ok([1, 2].includes((await s.ended).code));
        assert.match(s.log, /fathom: /);
        assert.ok(!s.log.includes("abc "), "the key is not shown");
    }
});

test("one key may have so many requests running; others are not touched", async () => {
    await withServer(["--api-key-file", keyFile, "--max-requests-per-key", "2", "--fake-us-per-token", "20000"], async (s) => {
        const alpha = { headers: { "X-Api-Key": "sk-alpha-000001" } };
        const held = await Promise.all([0, 1].map(() => Raw.open(s.port)));
        for (const c of held) {
            c.send(post("/v1/completions", JSON.stringify({ ...body, max_tokens: 900, stream: true }), "X-Api-Key: sk-alpha-000001\r\n"));
            await c.until((b) => b.includes("data: "));
        }
        const third = await s.post("/v1/completions", body, alpha);
        assertError(third, 429, { type: "rate_limit_error", code: "rate_limit_exceeded" });
        assert.ok(third.headers["retry-after"]);
        assert.equal((await s.post("/v1/completions", body, { headers: { "X-Api-Key": "sk-beta-0000002" } })).status, 200);
        held[0].destroy();
        await until("room again", async () => (await s.post("/v1/completions", body, alpha)).status === 200);
        held[1].destroy();
        await s.idle();
    });
});

test("CORS: named origins only, preflight without a key", async () => {
    await withServer(["--api-key-file", keyFile, "--cors-origin", "https://a.example", "--cors-origin", "https://b.example"], async (s) => {
        const preflight = await s.request("OPTIONS", "/v1/chat/completions", { headers: { Origin: "https://b.example", "Access-Control-Request-Method": "POST" } });
        assert.equal(preflight.status, 204);
        assert.equal(preflight.headers["access-control-allow-origin"], "https://b.example");
        assert.match(preflight.headers["access-control-allow-headers"], /authorization/);
        assert.equal(preflight.headers["access-control-allow-methods"], "POST");
        const asked = await s.request("OPTIONS", "/v1/models", { headers: { Origin: "https://b.example", "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization,x-stainless-os, x-stainless-arch,not a token" } });
        assert.equal(asked.status, 204);
        assert.equal(asked.headers["access-control-allow-headers"], "authorization, x-stainless-os, x-stainless-arch");
        assert.equal(asked.headers["access-control-allow-methods"], "GET, HEAD");
        assert.equal(asked.headers.vary, "Origin, Access-Control-Request-Headers");
        assert.ok(Number(asked.headers["access-control-max-age"]) > 0);
        const stranger = await s.get("/health", { headers: { Origin: "https://c.example" } });
        assert.equal(stranger.headers["access-control-allow-origin"], undefined);
        assert.equal(stranger.headers.vary, "Origin", "a cache must not give this answer to an allowed origin");
        const denied = await s.get("/v1/models", { headers: { Origin: "https://a.example" } });
        assert.equal(denied.status, 401);
        assert.equal(denied.headers["access-control-allow-origin"], "https://a.example", "the browser may read the refusal");
        assert.equal(denied.headers.vary, "Origin");
        assert.match(denied.headers["access-control-expose-headers"], /x-request-id.*www-authenticate/);
    });
    await withServer([], async (s) => {
        const off = await s.request("OPTIONS", "/v1/models", { headers: { Origin: "https://a.example" } });
        assert.equal(off.status, 405);
        assert.equal(off.headers["access-control-allow-origin"], undefined);
    });
});

test("the queue of prompt tokens is bounded", async () => {
    await withServer(["--max-running", "1", "--max-queue-tokens", "300", "--fake-us-per-token", "20000"], async (s) => {
        const held = await Promise.all([0, 1].map(() => Raw.open(s.port)));
        const large = post("/v1/completions", JSON.stringify({ ...body, prompt: Array(250).fill(300), max_tokens: 700, stream: true }));
        held[0].send(large);
        await held[0].until((b) => b.includes("data: "));
        held[1].send(large);
        await until("one waits", async () => (await s.metrics())["vllm:num_requests_waiting"] === 1);
        const r = await s.post("/v1/completions", { ...body, prompt: Array(250).fill(300) });
        assertError(r, 503, { code: "overloaded" });
        for (const c of held) c.destroy();
        await s.idle();
    });
});

test("a device that fails: streams get an error event, the process leaves with a status", async () => {
    const s = await Server.start(["--fake-us-per-token", "20000"], { env: { FATHOM_FAULT: "device:40" } });
    s.expected = /engine/;
    const [c, whole] = await Promise.all([0, 1].map(() => Raw.open(s.port))); // the first one's tokens lead to the fault: the second must not be late
    c.send(post("/v1/completions", JSON.stringify({ ...body, max_tokens: 900, stream: true })));
    whole.send(post("/v1/completions", JSON.stringify({ ...body, max_tokens: 900 })));
    const end = await s.ended;
    assert.equal(end.code, 1);
    for (const one of [c, whole]) await one.until(null);
    const got = parse(c.received);
    assert.equal(got.whole, false);
    assert.ok(JSON.parse(events(got.body).at(-1)).error);
    assert.equal(parse(whole.received).status, 503);
    s.clean();
});

test("an engine that hangs: health says so, then the process leaves with a status", async () => {
    const s = await Server.start(["--hang-seconds", "3", "--fake-us-per-token", "2000"], { env: { FATHOM_FAULT: "stall:20" } });
    s.expected = /silent|does not answer/;
    const c = await Raw.open(s.port);
    c.send(post("/v1/completions", JSON.stringify({ ...body, max_tokens: 900, stream: true })));
    await c.until((b) => b.includes("data: "));
    const end = await s.ended;
    assert.equal(end.code, 1, `exit ${JSON.stringify(end)}`);
    await c.until(null); // the end of the process may be heard of before its last bytes
    assert.equal(parse(c.received).whole, false);
    s.clean();
});

test("an engine that hangs keeps no drained process from ending", async () => {
    const s = await Server.start(["--hang-seconds", "3", "--drain-seconds", "0.5", "--fake-us-per-token", "2000"], { env: { FATHOM_FAULT: "stall:20" } });
    s.expected = /silent|does not (answer|end)/;
    const c = await Raw.open(s.port);
    c.send(post("/v1/completions", JSON.stringify({ ...body, max_tokens: 900, stream: true })));
    await c.until((b) => b.includes("data: "));
    s.signal("SIGTERM");
    const end = await s.ended;
    assert.equal(end.code, 1, `exit ${JSON.stringify(end)}`);
    s.clean();
});

test("three numeric failures in ten seconds end the process", async () => {
    const s = await Server.start([], { env: { FATHOM_FAULT: "nans:5" } });
    s.expected = /not a number|started again/;
    for (let i = 0; i < 8 && !s.exit; i++) await s.post("/v1/completions", body).catch(() => {});
    assert.equal((await s.ended).code, 1);
});

test("while the model loads: alive, not ready, and the routes say so", async () => {
    const s = await Server.start([], { ready: false, env: { FATHOM_FAULT: "load:3600000" } });
    const [health, ready, work, models, metrics] = await Promise.all([s.get("/health"), s.get("/ready"),
        s.post("/v1/completions", body), s.get("/v1/models"), s.get("/metrics")]);
    assert.equal(health.status, 200);
    assertError(ready, 503, { type: "unavailable_error" });
    assert.match(ready.json.error.message, /Loading model/);
    assertError(work, 503, { type: "unavailable_error" });
    assertError(models, 503);
    assert.equal(metrics.status, 200);
    await s.stop(); // SIGTERM does not wait for the model: this has less patience
    await withServer([], { ready: false, env: { FATHOM_FAULT: "load:500" } }, async (other) => {
        await until("ready", async () => (await other.get("/ready")).status === 200);
        assert.equal((await other.post("/v1/completions", body)).status, 200);
    });
});

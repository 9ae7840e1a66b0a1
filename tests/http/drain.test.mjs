// The orderly end: the lame duck, the drain, and what clients and probes see meanwhile.
import assert from "node:assert/strict";
import http from "node:http";
import { test } from "node:test";
import { Server, chunks, events, until, withServer } from "./lib/server.mjs";
import { Raw, exchange, hold, parse, post } from "./lib/raw.mjs";

const ask = { model: "demo", prompt: "In the beginning", max_tokens: 900, temperature: 0, ignore_eos: true };
const short = { ...ask, max_tokens: 1 };
const paced = ["--fake-us-per-token", "20000"]; // 900 tokens outlast what a busy machine does meanwhile
const endless = ["--lame-duck-seconds", "3600"];

// A stream that runs, and whose rest may be waited for.
async function running(s, tokens = 200) {
    const c = await hold(s.port, { ...ask, max_tokens: tokens });
    const whole = c.until((b) => parse(b)?.whole).then((b) => ({ text: parse(b).body }));
    return { whole }; // not the promise itself, which would be waited for
}
function assertWhole(stream, tokens) {
    assert.equal(events(stream.text).at(-1), "[DONE]");
    assert.equal(chunks(stream.text).length, tokens);
}
function assertRefused(r) {
    assert.equal(r.status, 503);
    assert.equal(r.json.error.code, "shutting_down");
    assert.equal(r.headers["retry-after"], "1");
    assert.equal(r.headers.connection, "close");
}
const draining = (s) => until("the drain", () => /draining/.test(s.log));
const leaving = (s) => until("the lame duck", () => /not ready any more/.test(s.log));

test("SIGTERM: it listens on, is not ready and refuses new work; the running stream ends whole, exit 0", async () => {
    await withServer(paced, async (s) => {
        const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
        await s.get("/health", { agent });
        const held = await hold(s.port); // the drain does not end before all was asked
        const stream = await running(s);
        s.signal("SIGTERM");
        await draining(s);
        const ready = await s.get("/ready", { agent });
        assert.equal(ready.status, 503);
        assert.equal(ready.headers.connection, "close");
        assert.doesNotMatch(s.log, /route=\/ready/, "probes ask often");
        for (let i = 0; i < 2; i++) { // on new connections
            assert.equal((await s.get("/ready")).status, 503);
            for (const path of ["/health", "/version", "/v1/models"]) assert.equal((await s.get(path)).status, 200, path);
            assertRefused(await s.post("/v1/completions", short));
        }
        const m = await s.metrics();
        assert.ok(m["vllm:num_requests_running"] >= 1);
        assert.equal(m["fathom_ready"], 0);
        assert.equal(m['fathom_http_refused_total{why="draining"}'], 2);
        held.destroy();
        assertWhole(await stream.whole, 200);
        agent.destroy();
    });
});

test("a request whose head came before the drain is served, and waited for", async () => {
    await withServer(["--drain-seconds", "3600", "--body-seconds", "3600"], async (s) => {
        const bytes = post("/v1/completions", JSON.stringify({ ...ask, max_tokens: 3 }));
        const c = await Raw.open(s.port);
        c.send(bytes.slice(0, -5));
        await until("its head is there", async () => (await s.metrics())['fathom_http_requests_total{route="/completions"}'] === 1);
        s.signal("SIGTERM");
        await draining(s);
        assertRefused(await s.post("/v1/completions", short));
        c.send(bytes.slice(-5));
        await c.until((b) => parse(b)?.whole);
        const r = parse(c.received);
        assert.equal(r.status, 200);
        assert.equal(JSON.parse(r.body).usage.completion_tokens, 3);
        c.destroy();
    });
});

test("probes and refused requests that never stop do not keep a drained server alive", async () => {
    await withServer([...paced, "--drain-seconds", "3600"], async (s) => {
        const stream = await running(s, 50);
        const keepAsking = async (ask) => { for (;;) if (!(await ask().catch(() => null))) return; };
        const crowd = [...Array(8)].map((_, i) => keepAsking(() => i % 2 ? s.get("/metrics") : s.post("/v1/completions", short)));
        s.signal("SIGTERM");
        assertWhole(await stream.whole, 50);
        await s.stop();
        await Promise.all(crowd);
    });
});

test("a lame duck is not ready and serves new work as before", async () => {
    const s = await Server.start(endless);
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    await s.get("/health", { agent });
    s.child.kill("SIGTERM"); // not by signal(): stop() sends the second
    await leaving(s);
    assert.equal((await s.get("/ready")).status, 503);
    assert.equal((await s.get("/health")).status, 200);
    for (const options of [{ agent }, {}]) {
        const r = await s.post("/v1/completions", { ...ask, max_tokens: 5 }, options);
        assert.equal(r.status, 200);
        assert.equal(r.json.usage.completion_tokens, 5);
        assert.equal(r.headers.connection, "close", "its client goes elsewhere with the next request");
    }
    assert.equal((await s.metrics())["fathom_ready"], 0);
    assert.doesNotMatch(s.log, /draining/);
    agent.destroy();
    await s.stop("SIGTERM", 143); // a second signal waits for nothing
});

test("a lame duck lasts its time even if there is no work, and drains then", async () => {
    const s = await Server.start(["--lame-duck-seconds", "0.5"]);
    const began = performance.now(); // no clock that may be set
    await s.stop();
    assert.ok(performance.now() - began >= 500);
    assert.match(s.log, /serving on[^]*draining/);
});

test("work that a lame duck took is drained like any other", async () => {
    await withServer([...paced, "--lame-duck-seconds", "1"], async (s) => {
        const held = await hold(s.port); // a server without work would be gone before a late request
        s.signal("SIGTERM");
        await leaving(s);
        const streams = [...Array(4)].map(() => s.post("/v1/completions", { ...ask, max_tokens: 100, stream: true }));
        await draining(s);
        const answers = await Promise.all(streams);
        for (const r of answers) {
            if (r.status === 200) assertWhole(r, 100);
            else assertRefused(r); // a busy machine sent it after the lame duck
        }
        held.destroy();
    });
});

test("SIGTERM past the drain: live streams get an error event and no last chunk, waiting ones a 503", async () => {
    await withServer([...paced, "--drain-seconds", "0.3", "--max-running", "1"], async (s) => {
        const c = await Raw.open(s.port);
        c.send(post("/v1/completions", JSON.stringify({ ...ask, stream: true })));
        await c.until((b) => b.includes("data: "));
        const waiting = exchange(s.port, post("/v1/completions", JSON.stringify(ask)));
        await until("it waits", async () => (await s.metrics())["vllm:num_requests_waiting"] === 1);
        s.signal("SIGTERM");
        await c.until(null);
        const r = parse(c.received);
        assert.equal(r.whole, false, "no last chunk");
        assert.ok(!r.body.includes("[DONE]"));
        const last = JSON.parse(events(r.body).at(-1));
        assert.equal(last.error.code, "shutting_down");
        assert.equal((await waiting).status, 503);
    });
    await withServer([...paced, "--drain-seconds", "0.3"], async (s) => {
        const c = await Raw.open(s.port);
        c.send(post("/v1/responses", JSON.stringify({ model: "demo", input: "In the beginning", max_output_tokens: 900, stream: true })));
        await c.until((b) => b.includes("output_text.delta"));
        s.signal("SIGTERM");
        await c.until(null);
        const r = parse(c.received);
        assert.equal(r.whole, false, "no last chunk");
        const last = JSON.parse(r.body.trim().split("\ndata: ").at(-1));
        assert.equal(last.type, "error", "in the words of the Responses API");
        assert.equal(last.error.code, "shutting_down");
    });
});

// stop() has less patience than these drains and loads last.
test("SIGTERM when idle waits for no drain; neither does a second signal", async () => {
    const never = ["--drain-seconds", "3600"];
    const idle = await Server.start(never);
    await idle.stop();

    for (const [signal, code] of [["SIGTERM", 143], ["SIGINT", 130]]) {
        const busy = await Server.start([...never, "--fake-us-per-token", "1000000"]);
        const c = await Raw.open(busy.port);
        c.send(post("/v1/completions", JSON.stringify({ ...ask, stream: true })));
        await c.until((b) => b.includes("data: "));
        busy.child.kill("SIGTERM"); // not by signal(): stop() sends the second
        await draining(busy);
        await busy.stop(signal, code);
        c.destroy();
    }
});

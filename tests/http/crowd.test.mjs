// Connections that lie about, and the port for probes: whoever holds connections open keeps nobody out.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Raw, exchange, freePort, hold, parse, post } from "./lib/raw.mjs";
import { assertError } from "./lib/rows.mjs";
import { Server, chunks, sleep, until, withServer } from "./lib/server.mjs";

const body = { model: "demo", prompt: "Lord", max_tokens: 4, temperature: 0, ignore_eos: true };
const get = (target) => `GET ${target} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
const open = (port, n, bytes) => Promise.all(Array.from({ length: n }, () => Raw.open(port).then((c) => (bytes ? c.send(bytes) : c))));
const still = (all) => all.filter((c) => !c.closed).length;
const answered = (c) => parse(c.received)?.whole;
const health = async (port) => (await exchange(port, get("/health"))).status;
const cut = async (s) => (await s.metrics())['fathom_http_cut_total{why="crowd"}'];
const adminOf = (s) => Number(/health, readiness and metrics on http:\/\/[^\s:]+:(\d+)/.exec(s.log)[1]);

for (const [what, bytes] of [["say nothing", null], ["stop in mid-header", "GET /health HTTP/1.1\r\nHost: loc"], ["were answered once", get("/health")]]) {
    test(`three times as many connections as allowed, which ${what}, keep nobody out`, async () => {
        await withServer(["--max-connections", "40", "--header-seconds", "3600", "--idle-seconds", "3600"], async (s) => {
            const all = [];
            for (let i = 0; i < 12; i++) all.push(...await open(s.port, 10, bytes));
            for (let i = 0; i < 20; i++) assert.equal(await health(s.port), 200);
            assert.equal((await s.post("/v1/completions", body)).status, 200);
            await until("the longest idle are closed", () => still(all) <= 40);
            assert.ok(still(all) >= 30, `${still(all)} stay open: no more go than must`);
            assert.ok(await cut(s) >= 80);
            for (const c of all) c.destroy();
        });
    });
}

test("who said nothing goes before who rests, and the longest rest before the others", async () => {
    await withServer(["--max-connections", "20", "--header-seconds", "3600", "--idle-seconds", "3600"], async (s) => {
        const silent = await open(s.port, 5);
        const first = await open(s.port, 5, get("/health"));
        await until("answers", () => first.every(answered));
        await sleep(1100); // the silent have had their second
        const later = await open(s.port, 12, get("/health"));
        await until("answers", () => later.every(answered));
        await until("the silent are closed", () => still(silent) <= 1);
        assert.equal(still(first), 5);
        assert.equal(still(later), 12);
        const more = await open(s.port, 5, get("/health"));
        await until("answers", () => more.every(answered));
        await until("those that rest longest follow", () => still(first) <= 1);
        assert.equal(still([...later, ...more]), 17);
        for (const c of [...silent, ...first, ...later, ...more]) c.destroy();
    });
});

test("no connection with a request in progress is closed for room", async () => {
    await withServer(["--max-connections", "20", "--fake-us-per-token", "20000", "--body-seconds", "3600"], async (s) => {
        const text = JSON.stringify({ ...body, max_tokens: 100, stream: true });
        const streams = await open(s.port, 6, post("/v1/completions", text));
        const uploads = await open(s.port, 6, post("/v1/completions", text).slice(0, -1));
        const whole = await open(s.port, 4, post("/v1/completions", JSON.stringify({ ...body, max_tokens: 100 })));
        await until("they run", async () => (await s.metrics())["vllm:time_to_first_token_seconds_count"] === 10);
        const idle = await open(s.port, 60);
        assert.equal(await health(s.port), 200);
        for (const c of uploads) c.send("}");
        for (const c of [...streams, ...uploads, ...whole]) {
            await c.until(() => answered(c));
            assert.equal(parse(c.received).status, 200);
        }
        for (const c of [...streams, ...uploads]) assert.equal(chunks(parse(c.received).body).length, 100);
        for (const c of [...streams, ...uploads, ...whole, ...idle]) c.destroy();
    });
});

test("a full house of busy connections leaves room once they rest", async () => {
    await withServer(["--max-connections", "10", "--idle-seconds", "3600", "--fake-us-per-token", "20000"], async (s) => {
        const busy = await open(s.port, 10, post("/v1/completions", JSON.stringify({ ...body, max_tokens: 50 })));
        await until("all run", () => health(s.port).then(() => true)); // waits for the first to end
        for (const c of busy) {
            await c.until(() => answered(c));
            assert.equal(parse(c.received).status, 200);
        }
        for (let i = 0; i < 20; i++) assert.equal(await health(s.port), 200);
        for (const c of busy) c.destroy();
    });
});

test("one address may hold a quarter of the connections, and this machine all of them", async () => {
    await withServer(["--max-connections", "2000", "--header-seconds", "3600"], async (s) => {
        const all = await open(s.port, 700);
        assert.equal(await health(s.port), 200);
        assert.equal(still(all), 700, "loopback is not counted");
        for (const c of all) c.destroy();
    });
});

test("the admin port serves health, readiness and metrics, and nothing else", async () => {
    await withServer(["--admin-port", "0"], async (s) => {
        const port = adminOf(s);
        for (const target of ["/health", "/ready", "/metrics", "/launches"]) {
            assert.equal((await exchange(port, get(target))).status, 200, target);
            assert.equal((await s.get(target)).status, 200, `${target} stays on the main port`);
            const probe = await exchange(port, `GET ${target} HTTP/1.1\r\nHost: 10.1.2.3:9000\r\n\r\n`);
            assert.equal(probe.status, 200, "whatever a probe puts into Host");
        }
        assert.match((await exchange(port, get("/metrics"))).body, /fathom_http_connections/);
        for (const target of ["/", "/app.js", "/v1/models", "/openapi.json", "/nothing"]) {
            assertError(await exchange(port, get(target)), 404);
        }
        assertError(await exchange(port, post("/v1/completions", JSON.stringify(body))), 404);
        assert.equal((await exchange(port, "POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")).status, 405);
    });
});

test("the admin port answers while the main port and the queue are full", async () => {
    const limits = ["--admin-port", "0", "--max-connections", "10", "--max-running", "1", "--max-queue", "9", "--fake-us-per-token", "20000"];
    await withServer(limits, async (s) => {
        const port = adminOf(s);
        const busy = await open(s.port, 10, post("/v1/completions", JSON.stringify({ ...body, max_tokens: 900, stream: true })));
        const metric = async (name) => Number(new RegExp(`^${name}\\{.*\\} (\\S+)$`, "m").exec((await exchange(port, get("/metrics"))).body)[1]);
        await until("the queue is full", async () => await metric("vllm:num_requests_waiting") === 9);
        const late = await Raw.open(s.port);
        late.send(get("/health"));
        for (let i = 0; i < 50; i++) assert.equal(await health(port), 200);
        assert.equal(late.received.length, 0, "the main port is full");
        for (const c of busy) c.destroy();
        await late.until(() => answered(late));
        assert.equal(parse(late.received).status, 200);
        late.destroy();
    });
});

test("connections that lie about on the admin port keep no probe out", async () => {
    await withServer(["--admin-port", "0", "--header-seconds", "3600"], async (s) => {
        const port = adminOf(s);
        const all = await open(port, 200);
        const halves = await open(port, 200, "GET /health HTTP/1.1\r\nHost: x");
        for (let i = 0; i < 20; i++) assert.equal(await health(port), 200);
        await until("they are bounded", () => still([...all, ...halves]) <= 64);
        assert.equal((await s.get("/health")).status, 200);
        for (const c of [...all, ...halves]) c.destroy();
    });
});

test("while it drains the admin port tells probes how it stands", async () => {
    const s = await Server.start(["--admin-port", "0", "--fake-us-per-token", "20000"]);
    const port = adminOf(s);
    const held = await hold(s.port); // the drain does not end before it was asked about
    const stream = s.post("/v1/completions", { ...body, max_tokens: 100, stream: true });
    await until("both are in", async () => (await s.metrics())['fathom_http_requests_total{route="/completions"}'] === 2);
    s.signal("SIGTERM");
    await until("not ready", async () => (await exchange(port, get("/ready"))).status === 503);
    assert.equal(await health(port), 200);
    held.destroy();
    assert.equal(chunks((await stream).text).length, 100);
    await s.stop();
});

test("an admin port that is taken ends the start with status 1 and names it", async () => {
    await withServer([], async (s) => {
        const other = await Server.start(["--admin-port", String(s.port)], { ready: false });
        assert.equal((await other.ended).code, 1);
        assert.match(other.log, new RegExp(`cannot listen on 127.0.0.1 port ${s.port}`));
        const free = await freePort();
        const same = await Server.start(["--port", String(free), "--admin-port", String(free)], { ready: false });
        assert.equal((await same.ended).code, 1);
    });
});

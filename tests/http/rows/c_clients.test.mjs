// Table C: what clients do. A row that ends by a deadline sets that one short and all others
// out of reach, so that the close itself says which deadline it was, however late it comes.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Raw, parse, post } from "../lib/raw.mjs";
import { Table, assertError } from "../lib/rows.mjs";
import { Server, chunks, events, sleep, slow, until } from "../lib/server.mjs";

const t = new Table("C", ["--fake-us-per-token", "2000", "--keep-alive-seconds", "1"]);
const shortHeader = ["--header-seconds", "1.5", "--body-seconds", "3600", "--idle-seconds", "3600"];
const shortBody = ["--header-seconds", "3600", "--body-seconds", "1.5", "--idle-seconds", "3600"];
const long = { model: "demo", prompt: "Lord", max_tokens: 1000, temperature: 0, ignore_eos: true };
const get = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
const rssMB = (s) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${s.child.pid}/status`, "utf8"))[1]) / 1024;
const running = async (s) => (await s.metrics())["vllm:num_requests_running"];

// Closed by a deadline of 1.5 s counted from `from`, no earlier: the server cannot have seen the
// connection before that. A busy machine may make it later.
async function closedByDeadline(s, c, from) {
    await c.until(null);
    assert.ok(c.closed, "it stays open");
    assert.ok(performance.now() - from >= 1490, `closed after ${performance.now() - from} ms`);
    assert.equal((await s.metrics())['fathom_http_cut_total{why="deadline"}'], 1);
}

t.row("C1", "connects and says nothing: closed at the header deadline", async (s) => {
    const from = performance.now();
    await closedByDeadline(s, await Raw.open(s.port), from);
}, { args: shortHeader });
t.row("C2", "a header byte now and then: the deadline is absolute", async (s) => {
    const from = performance.now();
    const c = await Raw.open(s.port);
    const header = "GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: " + "a".repeat(1000);
    const trickle = c.trickle(header, 50);
    await closedByDeadline(s, c, from);
    assert.ok(await trickle < header.length, "closed in the midst of it");
}, { args: shortHeader });
t.row("C3", "one body byte at a time, under 1 KB/s after the grace", async (s) => {
    const from = performance.now();
    const c = await Raw.open(s.port);
    c.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
    const trickle = c.trickle("x".repeat(999), 50);
    await closedByDeadline(s, c, from);
    assert.ok(await trickle < 999, "closed in the midst of it");
    assertError(parse(c.received), 408);
}, { args: shortBody });
t.row("C4", "many idle keep-alives are held", async (s) => {
    const many = await Promise.all(Array.from({ length: 500 }, () => Raw.open(s.port).then((c) => c.send(get))));
    await until("500 answers", () => many.every((c) => parse(c.received)?.status === 200));
    assert.ok((await s.metrics())["fathom_http_connections"] >= 500);
    for (const c of many) c.destroy();
});
t.row("C5", "connections of one address above its cap are reset", async () => {
    const s = await Server.start(["--max-connections-per-ip", "20"], { ready: false });
    await until("ready", async () => /ready on/.test(s.log));
    const many = await Promise.all(Array.from({ length: 40 }, () => Raw.open(s.port)));
    const open = () => many.filter((c) => !c.closed).length;
    await until("those above the cap are reset", () => open() <= 20);
    await sleep(300);
    assert.ok(open() > 10, `${open()} open`);
    for (const c of many) c.destroy();
    await until("there is room again", async () => (await s.get("/health").catch(() => ({}))).status === 200);
    await s.stop();
});
t.row("C6", "connections above the limit wait while all are busy, and are answered when there is room", async () => {
    const s = await Server.start(["--max-connections", "10", "--fake-us-per-token", "20000"]);
    const held = await Promise.all(Array.from({ length: 10 }, () => Raw.open(s.port)));
    for (const c of held) c.send(post("/v1/completions", JSON.stringify({ ...long, max_tokens: 900, stream: true })));
    await until("all run", () => held.every((c) => c.received.includes("data: ")));
    const late = await Raw.open(s.port);
    late.send(get);
    await sleep(300);
    assert.equal(late.received.length, 0);
    held[0].destroy();
    await late.until((b) => parse(b)?.whole);
    assert.equal(parse(late.received)?.status, 200);
    for (const c of [...held, late]) c.destroy();
    await s.stop();
});
for (const [id, how] of [["C7", "FIN"], ["C8", "RST"]]) {
    t.row(id, `${how} in mid-stream cancels the rest of it`, async (s) => {
        const c = await Raw.open(s.port);
        c.send(post("/v1/completions", JSON.stringify({ ...long, stream: true })));
        await c.until((b) => b.includes("data: "));
        if (how === "FIN") c.destroy();
        else c.rst();
        await s.cancelled({ clients: 1, below: long.max_tokens });
    }, { args: ["--fake-us-per-token", "20000"] });
}
t.row("C9", "half-close in mid-stream: the stream goes on to its end", async (s) => {
    const c = await Raw.open(s.port, { allowHalfOpen: true });
    c.send(post("/v1/completions", JSON.stringify({ ...long, max_tokens: 100, stream: true })));
    await c.until((b) => b.includes("data: "));
    c.socket.end();
    await c.until(null);
    assert.equal(events(parse(c.received).body).at(-1), "[DONE]");
    assert.equal((await s.metrics())["fathom_http_client_left_total"], 0);
    c.destroy();
}, { args: ["--fake-us-per-token", "5000"] });
t.row("C10", "FIN together with a GET: answered, and the socket does not stay", async (s) => {
    const before = (await s.metrics())["fathom_http_connections"];
    const c = await Raw.open(s.port, { allowHalfOpen: true });
    c.socket.end(get);
    await c.until((b) => parse(b)?.whole);
    assert.equal(parse(c.received).status, 200);
    await until("its connection is gone", async () => (await s.metrics())["fathom_http_connections"] <= before);
    c.destroy();
}, { args: ["--idle-seconds", "2"] });
t.row("C11", "stops reading its stream: cut, others go on", async () => {
    const s = await Server.start(["--stall-seconds", "1", "--max-running", "64"]);
    const stuck = [];
    for (let i = 0; i < 8; i++) {
        const c = await Raw.open(s.port);
        c.socket.pause();
        c.send(post("/v1/completions", JSON.stringify({ ...long, prompt: [300 + i], n: 16, max_tokens: 900, logprobs: 5, stream: true })));
        stuck.push(c);
    }
    await sleep(200);
    const r = await s.post("/v1/completions", { ...long, max_tokens: 200, stream: true });
    assert.equal(events(r.text).at(-1), "[DONE]");
    await until("they are cut", async () => (await s.metrics())['fathom_http_cut_total{why="slow_reader"}'] === 8);
    await until("their answers are given back", async () => (await s.metrics())['fathom_request_memory_bytes{kind="answers"}'] === 0);
    await s.idle();
    for (const c of stuck) c.destroy();
    await s.stop();
});
t.row("C11b", "never reads whole answers: cut as well", async () => {
    const s = await Server.start(["--stall-seconds", "1"]);
    const c = await Raw.open(s.port);
    c.socket.pause();
    for (let i = 0; i < 1000; i++) c.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    await until("it is cut", async () => (await s.metrics())['fathom_http_cut_total{why="deadline"}'] === 1);
    c.destroy();
    await s.stop();
});
t.row("C12", "reads a byte now and then: bounded memory, ended with an error", async () => {
    const s = await Server.start(["--stall-seconds", "3"]);
    const before = rssMB(s);
    const c = await Raw.open(s.port);
    c.socket.pause();
    c.send(post("/v1/completions", JSON.stringify({ ...long, n: 16, max_tokens: 1000, logprobs: 5, stream: true })));
    const nibble = setInterval(() => c.socket.read(1), 100);
    await until("it is cut", async () => (await s.metrics())['fathom_http_cut_total{why="slow_reader"}'] === 1);
    clearInterval(nibble);
    assert.ok(rssMB(s) - before < (slow ? 120 : 40), `${rssMB(s) - before} MB more`);
    await s.idle();
    c.destroy();
    await s.stop();
});
t.row("C13", "a silent stream is kept alive by comments", async () => {
    const s = await Server.start(["--keep-alive-seconds", "0.1", "--fake-us-per-token", "1000000"]);
    const ask = async (max_tokens, enough) => {
        const c = await Raw.open(s.port);
        c.send(post("/v1/completions", JSON.stringify({ ...long, max_tokens, stream: true, depth: { max_loops: 1 } })));
        await c.until(enough);
        c.destroy();
        return c.received;
    };
    assert.match((await ask(1000, (b) => b.includes(": keep-alive"))).toString(), /^: keep-alive$/m);
    const r = parse(await ask(3, (b) => parse(b)?.whole));
    assert.equal(chunks(r.body).length, 3);
    assert.equal(events(r.body).at(-1), "[DONE]");
    await s.stop();
}, { differs: "TCP_USER_TIMEOUT is set on every stream; pulling a cable cannot be tried here" });
t.row("C14", "a second request on a streaming connection waits for the stream's end", async (s) => {
    const c = await Raw.open(s.port);
    c.send(post("/v1/completions", JSON.stringify({ ...long, max_tokens: 50, stream: true })));
    await c.until((b) => b.includes("data: "));
    c.send(get);
    await c.until((b) => { const r = parse(b); return r?.whole && r.rest.includes('"ok"'); });
    const first = parse(c.received);
    assert.equal(events(first.body).at(-1), "[DONE]");
    assert.equal(parse(Buffer.from(first.rest, "latin1")).status, 200);
    c.destroy();
});
t.row("C15", "opens 300 streams and drops them all", async (s) => {
    const many = await Promise.all(Array.from({ length: 300 }, () => Raw.open(s.port)));
    for (const c of many) c.send(post("/v1/completions", JSON.stringify({ ...long, stream: true })));
    await until("most run", async () => (await running(s)) > 100);
    for (const c of many) c.rst();
    await s.idle();
});
t.row("C16", "leaves while queued", async () => {}, { skip: "streams.test.mjs: a client that leaves while queued never reaches the engine" });
t.row("C17", "asks again at once after a 503: Retry-After, and the queue stays bounded", async () => {
    const s = await Server.start(["--max-running", "1", "--max-queue", "1", "--fake-us-per-token", "20000"]);
    const held = await Promise.all([0, 1].map(() => Raw.open(s.port)));
    for (const c of held) c.send(post("/v1/completions", JSON.stringify({ ...long, stream: true })));
    await until("full", async () => (await s.metrics())["vllm:num_requests_waiting"] === 1);
    for (let i = 0; i < 50; i++) {
        const r = await s.post("/v1/completions", long);
        assert.equal(r.status, 503);
        assert.equal(r.json.error.code, "overloaded");
        assert.equal(r.headers["retry-after"], "1");
    }
    assert.equal((await s.metrics())["vllm:num_requests_waiting"], 1);
    for (const c of held) c.destroy();
    await s.idle();
    await s.stop();
});
t.row("C18", "connects and resets, thousands of times: no growth in memory or log", async (s) => {
    const flood = async (n) => {
        for (let i = 0; i < n; i += 50) {
            const some = await Promise.all(Array.from({ length: 50 }, () => Raw.open(s.port)));
            for (const c of some) {
                c.send("GET /hea");
                c.rst();
            }
        }
    };
    await flood(500);
    await sleep(300);
    const memory = rssMB(s), lines = s.log.split("\n").length;
    await flood(slow ? 1500 : 4000);
    await sleep(300);
    assert.ok(rssMB(s) - memory < (slow ? 60 : 8), `${(rssMB(s) - memory).toFixed(1)} MB more`);
    assert.ok(s.log.split("\n").length - lines < 100);
});
t.row("C19", "/metrics and /health in a flood take nothing from a stream", async (s) => {
    const stream = s.post("/v1/completions", { ...long, max_tokens: 100, stream: true });
    const c = await Raw.open(s.port);
    const one = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" + get;
    for (let i = 0; i < 100; i++) c.send(one);
    await c.until((b) => b.toString("latin1").split("HTTP/1.1 200").length === 201);
    assert.equal(c.received.toString("latin1").split("HTTP/1.1 200").length, 201);
    assert.equal(chunks((await stream).text).length, 100);
    c.destroy();
});
t.done(19);

// Table C: what clients do. Deadlines are set short, so that the table's seconds pass quickly.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { Raw, exchange, parse, post } from "../lib/raw.mjs";
import { Table } from "../lib/rows.mjs";
import { Server, chunks, events, sleep, slow, until } from "../lib/server.mjs";

const t = new Table("C", ["--header-seconds", "1.5", "--body-seconds", "1.5", "--idle-seconds", "2", "--stall-seconds", "2", "--fake-us-per-token", "2000", "--keep-alive-seconds", "1"]);
const long = { model: "demo", prompt: "Lord", max_tokens: 1000, temperature: 0, ignore_eos: true };
const get = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
const rssMB = (s) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${s.child.pid}/status`, "utf8"))[1]) / 1024;
const running = async (s) => (await s.metrics())["vllm:num_requests_running"];

async function closedWithin(c, low, high) {
    const began = Date.now();
    await c.until(null, high + 1000);
    const took = Date.now() - began;
    assert.ok(c.closed, `still open after ${took} ms`);
    assert.ok(took >= low && took <= high, `closed after ${took} ms`);
}

t.row("C1", "connects and says nothing: closed at the header deadline", async (s) => {
    await closedWithin(await Raw.open(s.port), 1000, 3800);
});
t.row("C2", "one header byte a second: the deadline is absolute", async (s) => {
    const c = await Raw.open(s.port);
    const trickle = c.trickle("GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: aaaaaaaaaaaaa", 100);
    await closedWithin(c, 1000, 3800);
    await trickle;
});
t.row("C3", "one body byte at a time, under 1 KB/s after the grace", async (s) => {
    const c = await Raw.open(s.port);
    c.send("POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
    const trickle = c.trickle("x".repeat(60), 100);
    await closedWithin(c, 1000, 4200);
    await trickle;
}, { differs: "closed without a 408: in mid-upload the HTTP library cannot answer" });
t.row("C4", "many idle keep-alives are held", async (s) => {
    const many = await Promise.all(Array.from({ length: 500 }, () => Raw.open(s.port)));
    for (const c of many) c.send(get);
    await until("500 answers", () => many.every((c) => parse(c.received)?.status === 200));
    assert.ok((await s.metrics())["fathom_http_connections"] >= 500);
    for (const c of many) c.destroy();
});
t.row("C5", "connections of one address above its cap are reset", async () => {
    const s = await Server.start(["--max-connections-per-ip", "20"], { ready: false });
    await until("ready", async () => /ready on/.test(s.log));
    const many = await Promise.all(Array.from({ length: 40 }, () => Raw.open(s.port)));
    await sleep(300);
    const open = many.filter((c) => !c.closed).length;
    assert.ok(open <= 20 && open > 10, `${open} open`);
    for (const c of many) c.destroy();
    await sleep(100);
    assert.equal((await s.get("/health")).status, 200);
    await s.stop();
});
t.row("C6", "connections above the limit wait and are answered when there is room", async () => {
    const s = await Server.start(["--max-connections", "10"]);
    const held = await Promise.all(Array.from({ length: 10 }, () => Raw.open(s.port)));
    await sleep(100);
    const late = await Raw.open(s.port);
    late.send(get);
    await sleep(300);
    assert.equal(late.received.length, 0);
    held[0].destroy();
    await late.until((b) => parse(b)?.whole, 3000);
    assert.equal(parse(late.received)?.status, 200);
    for (const c of [...held, late]) c.destroy();
    await s.stop();
});
for (const [id, how] of [["C7", "FIN"], ["C8", "RST"], ["C9", "half-close"]]) {
    t.row(id, `${how} in mid-stream cancels at once`, async (s) => {
        const c = await Raw.open(s.port, { allowHalfOpen: true });
        c.send(post("/v1/completions", JSON.stringify({ ...long, stream: true })));
        await c.until((b) => b.includes("data: "));
        if (how === "FIN") c.destroy();
        else if (how === "RST") c.rst();
        else c.socket.end();
        const began = Date.now();
        await until("nothing runs", async () => (await running(s)) === 0, 1000);
        assert.ok(Date.now() - began < 1000);
        if (how === "half-close") await c.until(null, 1000);
        c.destroy();
    });
}
t.row("C10", "FIN together with a GET: answered, and the socket does not stay", async (s) => {
    const before = (await s.metrics())["fathom_http_connections"];
    const c = await Raw.open(s.port, { allowHalfOpen: true });
    c.socket.end(get);
    await c.until((b) => parse(b)?.whole);
    assert.equal(parse(c.received).status, 200);
    await until("its connection is gone", async () => (await s.metrics())["fathom_http_connections"] <= before, 5000);
    c.destroy();
});
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
    await until("they are cut", async () => (await s.metrics())['fathom_http_cut_total{why="slow_reader"}'] === 8, slow ? 60000 : 20000);
    assert.equal((await s.metrics())["fathom_http_buffered_bytes"], 0);
    await s.idle(10000);
    for (const c of stuck) c.destroy();
    await s.stop();
});
t.row("C11b", "never reads whole answers: cut as well", async () => {
    const s = await Server.start(["--stall-seconds", "1"]);
    const c = await Raw.open(s.port);
    c.socket.pause();
    for (let i = 0; i < 1000; i++) c.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    await until("it is cut", async () => (await s.metrics())['fathom_http_cut_total{why="deadline"}'] === 1, 20000);
    c.destroy();
    await s.stop();
});
t.row("C12", "reads a byte now and then: bounded memory, ended with an error", async () => {
    const s = await Server.start(["--stall-seconds", "30"]);
    const before = rssMB(s);
    const c = await Raw.open(s.port);
    c.socket.pause();
    c.send(post("/v1/completions", JSON.stringify({ ...long, n: 16, max_tokens: 1000, logprobs: 5, stream: true })));
    const nibble = setInterval(() => c.socket.read(1), 100);
    await until("it is cut", async () => (await s.metrics())['fathom_http_cut_total{why="slow_reader"}'] === 1, slow ? 60000 : 20000);
    clearInterval(nibble);
    assert.ok(rssMB(s) - before < (slow ? 120 : 40), `${rssMB(s) - before} MB more`);
    await s.idle(10000);
    c.destroy();
    await s.stop();
});
t.row("C13", "a silent stream is kept alive by comments", async () => {
    const s = await Server.start(["--keep-alive-seconds", "1", "--fake-us-per-token", "1000000"]);
    const c = await Raw.open(s.port);
    c.send(post("/v1/completions", JSON.stringify({ ...long, max_tokens: 5, stream: true, depth: { max_loops: 1 } })));
    await c.until((b) => b.includes("data: ") , 8000);
    const first = c.received.length;
    await c.until((b) => b.includes(": keep-alive") || parse(b)?.whole, 12000);
    void first;
    await c.until((b) => parse(b)?.whole, 15000);
    const r = parse(c.received);
    assert.equal(chunks(r.body).length, 5);
    assert.equal(events(r.body).at(-1), "[DONE]");
    c.destroy();
    await s.stop();
}, { differs: "TCP_USER_TIMEOUT is set on every stream; pulling a cable cannot be tried here" });
t.row("C14", "a second request on a streaming connection waits for the stream's end", async (s) => {
    const c = await Raw.open(s.port);
    c.send(post("/v1/completions", JSON.stringify({ ...long, max_tokens: 50, stream: true })));
    await c.until((b) => b.includes("data: "));
    c.send(get);
    await c.until((b) => { const r = parse(b); return r?.whole && r.rest.includes('"ok"'); }, 5000);
    const first = parse(c.received);
    assert.equal(events(first.body).at(-1), "[DONE]");
    assert.equal(parse(Buffer.from(first.rest, "latin1")).status, 200);
    c.destroy();
});
t.row("C15", "opens 300 streams and drops them all", async (s) => {
    const many = await Promise.all(Array.from({ length: 300 }, () => Raw.open(s.port)));
    for (const c of many) c.send(post("/v1/completions", JSON.stringify({ ...long, stream: true })));
    await until("most run", async () => (await running(s)) > 100, 20000);
    for (const c of many) c.rst();
    await s.idle(slow ? 10000 : 3000);
});
t.row("C16", "leaves while queued", async () => {}, { skip: "streams.test.mjs: a client that leaves while queued never reaches the engine" });
t.row("C17", "asks again at once after a 503: Retry-After, and the queue stays bounded", async () => {
    const s = await Server.start(["--max-running", "1", "--max-queue", "1", "--fake-us-per-token", "5000"]);
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
    await c.until((b) => b.toString("latin1").split("HTTP/1.1 200").length === 201, 20000);
    assert.equal(c.received.toString("latin1").split("HTTP/1.1 200").length, 201);
    assert.equal(chunks((await stream).text).length, 100);
    c.destroy();
});
t.done(19);
void exchange;

// What requests make the server hold: one ledger bounds bodies, parse trees, work and answers.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Raw, metered, parse, post } from "./lib/raw.mjs";
import { events, slow, until, withServer } from "./lib/server.mjs";
import { twoKeys } from "./lib/keys.mjs";

const rssMB = (s) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${s.child.pid}/status`, "utf8"))[1]) / 1024;
const MB = 1 << 20;
const body = { model: "demo", prompt: "Lord", max_tokens: 4, temperature: 0, ignore_eos: true };
const head = (path, n, more = "") => `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${n}\r\n${more}\r\n`;
const kinds = ["bodies", "parsing", "work", "answers"];

async function held(s) {
    const m = await s.metrics();
    return kinds.reduce((sum, k) => sum + m[`fathom_request_memory_bytes{kind="${k}"}`], 0);
}
const nothingHeld = (s) => until("nothing is held", async () => (await held(s)) < 64 * 1024); // the page of metrics itself
const evictions = async (s) => (await s.metrics())["fathom_request_memory_evictions_total"];

// All of a body but its end.
async function upload(s, n, more) {
    const c = await Raw.open(s.port);
    c.send(head("/v1/completions", n, more));
    c.send(Buffer.alloc(n - 1, " "));
    return c;
}

test("uploads that stand still hold no more than the ceiling, and a small request is served beside them", async () => {
    await withServer(["--request-memory", "16M", "--body-seconds", "3600"], async (s) => {
        const base = rssMB(s);
        const many = [];
        for (let i = 0; i < 40; i++) many.push(await upload(s, 2 * MB));
        await until("the ceiling is reached and kept", async () => (await evictions(s)) > 0 && (await held(s)) <= 16 * MB);
        await until("all bytes came", async () => (await s.metrics())["fathom_http_body_bytes_total"] >= 40 * (2 * MB - 1));
        assert.ok((await held(s)) <= 16 * MB, `${await held(s)} bytes held`);
        assert.equal((await s.post("/v1/completions", body)).status, 200);
        if (!slow) assert.ok(rssMB(s) - base < 16 + 16, `${rssMB(s) - base} MB more`);
        many[0].send(" "); // the first to stand still went first: its end is answered
        await many[0].until((b) => parse(b)?.whole);
        const r = parse(many[0].received);
        assert.equal(r.status, 503);
        assert.equal(JSON.parse(r.body).error.code, "overloaded");
        for (const c of many) c.destroy();
        await nothingHeld(s);
    });
});

test("bytes sent at once buy no silence: a body that stops is cut after its grace", async () => {
    await withServer(["--body-seconds", "1.5", "--header-seconds", "3600", "--idle-seconds", "3600"], async (s) => {
        const c = await upload(s, 2 * MB);
        await c.until(null);
        assert.ok(c.closed);
        assert.equal((await s.metrics())['fathom_http_cut_total{why="deadline"}'], 1);
        await nothingHeld(s);
    });
});

for (const how of ["FIN", "RST"]) {
    test(`a peer that leaves with ${how} in mid-body is noticed, long before its deadline`, async () => {
        await withServer(["--body-seconds", "3600", "--idle-seconds", "3600"], async (s) => {
            const before = (await s.metrics())["fathom_http_connections"];
            const many = [];
            for (let i = 0; i < 10; i++) many.push(await upload(s, MB));
            await until("they are held", async () => (await held(s)) > 9 * MB);
            for (const c of many) how === "RST" ? c.rst() : c.destroy();
            await nothingHeld(s);
            await until("their connections are gone", async () => (await s.metrics())["fathom_http_connections"] <= before);
        });
    });
}

test("answers of /tokenize that nobody reads stay within the ceiling and are cut", async () => {
    await withServer(["--request-memory", "24M", "--stall-seconds", "2"], async (s) => {
        const base = rssMB(s);
        const text = JSON.stringify({ prompt: Array(64).fill("a b c d ".repeat(110)), return_token_strs: true });
        const ask = head("/tokenize", text.length) + text;
        const many = [];
        for (let i = 0; i < 30; i++) {
            const c = await Raw.open(s.port);
            c.socket.pause();
            for (let k = 0; k < 40; k++) c.send(ask);
            many.push(c);
        }
        await until("all are cut", async () => {
            assert.ok((await held(s)) <= 24 * MB);
            const m = await s.metrics();
            return m['fathom_http_cut_total{why="slow_reader"}'] + m['fathom_http_cut_total{why="deadline"}'] + m["fathom_request_memory_evictions_total"] >= 30;
        });
        if (!slow) assert.ok(rssMB(s) - base < 24 + 16, `${rssMB(s) - base} MB more`);
        for (const c of many) c.destroy();
        await nothingHeld(s);
    });
});

test("the greediest goes first: another key's upload and stream survive", async () => {
    await withServer(["--request-memory", "32M", "--body-seconds", "3600", "--api-key-file", twoKeys.file, "--fake-us-per-token", "1000"], async (s) => {
        const polite = await upload(s, MB, `X-Api-Key: ${twoKeys.b}\r\n`);
        const stream = s.post("/v1/completions", { ...body, max_tokens: 600, stream: true }, { headers: { "X-Api-Key": twoKeys.b } });
        await until("it is held", async () => (await held(s)) > MB);
        const greedy = [];
        for (let i = 0; i < 20; i++) greedy.push(await upload(s, 2 * MB, `X-Api-Key: ${twoKeys.a}\r\n`));
        await until("the greedy key gave way", async () => (await evictions(s)) >= 10);
        polite.send("x");
        await polite.until((b) => parse(b)?.whole);
        assert.equal(parse(polite.received).status, 400, "read to its end, and no JSON");
        assert.equal(events((await stream).text).at(-1), "[DONE]");
        for (const c of [...greedy, polite]) c.destroy();
        await nothingHeld(s);
    });
});

test("a responses stream that echoes more than half a megabyte arrives whole", async () => {
    await withServer([], async (s) => {
        const metadata = Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`k${i}`, "v".repeat(500)]));
        const tools = Array.from({ length: 100 }, (_, i) => ({ type: "function", name: `f${i}`, description: "d".repeat(6000), parameters: { type: "object", properties: {} } }));
        const r = await s.post("/v1/responses", { model: "demo", input: "Lord", max_output_tokens: 4, stream: true, metadata, tools, tool_choice: "none" });
        assert.equal(r.status, 200, r.text.slice(0, 300));
        assert.match(r.text, /event: response\.(completed|incomplete)/);
        assert.ok(r.text.length > 3 * 520000, `${r.text.length} bytes`);
        await nothingHeld(s);
    });
});

test("one client's large bodies do not hold up another's", async () => {
    await withServer(["--api-key-file", twoKeys.file, "--request-memory", "1G"], async (s) => {
        const big = JSON.stringify({ prompt: Array.from({ length: 60 }, (_, i) => `${i} ` + "word ".repeat(5000)) });
        const small = { ...body, prompt: "Lord ".repeat(150), user: "u".repeat(100), metadata: { pad: "x".repeat(5000) } };
        const answered = (m) => m['fathom_http_responses_total{class="2xx"}'];
        await until("most of them wait when the small one comes", async () => { // on a busy machine it may come too late
            const start = answered(await s.metrics());
            const greedy = Array.from({ length: 100 }, () => s.post("/tokenize", big, { headers: { "X-Api-Key": twoKeys.a } }));
            await until("they wait", async () => (await s.metrics())['fathom_request_memory_bytes{kind="parsing"}'] > 10 * MB);
            const polite = await metered(s.port, small, `X-Api-Key: ${twoKeys.b}\r\n`);
            assert.equal(polite.status, 200, polite.text);
            const meanwhile = answered(polite.after) - answered(polite.before);
            assert.ok(meanwhile < 40, `${meanwhile} of 100 bodies went before`);
            await Promise.all(greedy);
            return answered(polite.before) - start < 60;
        });
        await nothingHeld(s);
    });
});

// The process stands still for longer than any of its deadlines: SIGSTOP here; a freezer, a laptop's
// lid and a snapshot of a machine do the same. Nobody is late because of it, and an engine that
// hangs is found all the same.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Raw, hold, parse, post } from "./lib/raw.mjs";
import { Server, chunks, events, sleep, until, withServer } from "./lib/server.mjs";

const body = { model: "demo", prompt: "Lord", max_tokens: 100, temperature: 0, ignore_eos: true };
const get = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

async function pause(s, ms) {
    s.child.kill("SIGSTOP");
    await sleep(ms);
    s.child.kill("SIGCONT");
}
const answered = (c) => parse(c.received)?.whole;

// What a stream says, without what differs from one request to the next.
const said = (text) => {
    assert.equal(events(text).at(-1), "[DONE]");
    return chunks(text).map(({ id, created, ...rest }) => rest);
};

test("streams go on to their end, unchanged, over pauses longer than --hang-seconds", async () => {
    await withServer(["--hang-seconds", "1", "--fake-us-per-token", "50000"], async (s) => {
        const kinds = [{ ...body, stream: true }, { ...body, prompt: "In the", stream: true, return_depth: true }, { ...body, n: 3, stream: true }];
        const quiet = await Promise.all(kinds.map((k) => s.post("/v1/completions", k)));
        const streams = kinds.map((k) => s.post("/v1/completions", k));
        await until("all run", async () => (await s.metrics())["vllm:num_requests_running"] === 5);
        for (const ms of [2500, 3500, 2500]) {
            await pause(s, ms);
            assert.equal((await s.get("/health")).status, 200, "the first thing after a pause");
            await sleep(300);
        }
        const all = await Promise.all(streams);
        // Which of three choices writes first is not part of the answer.
        const sorted = (r) => said(r.text).map((c) => JSON.stringify(c)).sort();
        for (const [i, r] of all.entries()) assert.deepEqual(sorted(r), sorted(quiet[i]));
        assert.match(s.log, /the process stood still for [\d.]+ s/);
    });
});

test("a pause cuts no connection: headers, body and idle time are counted without it", async () => {
    const limits = ["--header-seconds", "3", "--body-seconds", "3", "--idle-seconds", "3"];
    await withServer(limits, async (s) => {
        const [header, upload, idle] = await Promise.all([0, 1, 2].map(() => Raw.open(s.port)));
        const text = JSON.stringify({ ...body, max_tokens: 4 });
        idle.send(get);
        await idle.until(() => answered(idle));
        idle.received = Buffer.alloc(0);
        header.send(get.slice(0, 10));
        upload.send(post("/v1/completions", text).slice(0, -5));
        await sleep(100);
        await pause(s, 5500);
        header.send(get.slice(10));
        upload.send(text.slice(-5));
        idle.send(get);
        for (const c of [header, upload, idle]) {
            await c.until(() => answered(c));
            assert.equal(parse(c.received)?.status, 200);
        }
        for (const c of [header, upload, idle]) await c.until(null); // and the deadlines still hold
    });
});

test("a request that waits for its first token is not given up because of a pause", async () => {
    await withServer(["--max-running", "1", "--max-wait-seconds", "5", "--fake-us-per-token", "20000"], async (s) => {
        const first = await hold(s.port);
        const second = s.post("/v1/completions", body);
        await until("it waits", async () => (await s.metrics())["vllm:num_requests_waiting"] === 1);
        await pause(s, 7500);
        first.destroy();
        assert.equal((await second).status, 200);
    });
});

test("a drain goes on for --drain-seconds after a pause in it", async () => {
    const s = await Server.start(["--drain-seconds", "5", "--fake-us-per-token", "10000"]);
    const stream = await hold(s.port, body);
    s.signal("SIGTERM");
    await sleep(100);
    await pause(s, 6500);
    await stream.until((b) => parse(b)?.whole);
    assert.equal(said(parse(stream.received).body).length, 100);
    await s.stop();
});

test("an engine that hangs ends the process though the process pauses now and then", async () => {
    const s = await Server.start(["--hang-seconds", "3", "--fake-us-per-token", "2000"], { env: { FATHOM_FAULT: "stall:20" } });
    s.expected = /silent|does not answer/;
    const c = await Raw.open(s.port);
    c.send(post("/v1/completions", JSON.stringify({ ...body, max_tokens: 900, stream: true })));
    await c.until((b) => b.includes("data: "));
    for (let i = 0; i < 2; i++) {
        await pause(s, 2500);
        await sleep(1200);
    }
    assert.equal(s.exit, null, "2.4 s of silence outside the pauses are within the bound");
    assert.equal((await s.ended).code, 1);
    await c.until(null); // the end of the process may be heard of before its last bytes
    assert.equal(parse(c.received).whole, false);
    assert.match(s.log, /the engine has been silent for \d+ ms/);
    s.clean();
});

test("steps that are usually slow are not silence", async () => {
    await withServer(["--hang-seconds", "0.1", "--fake-us-per-token", "900000"], async (s) => {
        const r = await s.post("/v1/completions", { ...body, max_tokens: 6, stream: true });
        assert.equal(said(r.text).length, 6);
        assert.equal((await s.get("/health")).status, 200);
    });
});

// Routers that know each replica's prefix cache: the messages of --kv-events-endpoint, read by a
// subscriber over the real library, and the token ids of the two /render endpoints.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import test from "node:test";
import { Random } from "../openapi/generate.mjs";
import { freePort } from "../../http/lib/raw.mjs";
import { Server, binary, demo, serving, slow, until } from "../../http/lib/server.mjs";
import { BLOCK, Subscriber } from "./subscriber.mjs";

// The server loads libzmq only for this option, and its refusal of a bad path comes later.
const tried = spawnSync(binary, ["serve", "--model", demo, "--port", "0", "--kv-events-endpoint", "ipc:///nowhere/at/all"], { encoding: "utf8" });
const skip = /needs libzmq/.test(tried.stderr) && "libzmq is not installed (Debian: libzmq5)";

const words = "In the beginning God created the heaven and the earth and the earth was without form and void".split(" ");
const textOf = (r, n) => Array.from({ length: n }, () => r.pick(words)).join(" ");

// A server that publishes on a free port. Another program may take the port first: then on another one.
const publisher = (args = [], options = {}) => until("a port for the publisher", async () => {
    const port = await freePort(), endpoint = `tcp://127.0.0.1:${port}`;
    const s = await Server.start(["--kv-events-endpoint", endpoint, ...args], options);
    return (s.url || !/--kv-events-endpoint: .* in use/.test(s.log)) && { s, endpoint, port };
});

async function withPublisher(args, options, body) {
    const { s, endpoint, port } = await publisher(args, options);
    await serving(s, () => body(s, endpoint, port));
}

// The same, and a subscriber from the beginning.
async function withEvents(args, options, body) {
    await withPublisher(args, options, async (s, endpoint, port) => {
        const sub = new Subscriber(endpoint);
        await sub.begun();
        await body(s, sub, endpoint, port);
        assert.equal(sub.counts.gaps, 0);
        await sub.close();
    });
}

async function render(s, target, body) {
    const answer = await s.post(`${target}/render`, body);
    assert.equal(answer.status, 200, answer.text);
    return answer.json;
}

async function run(s, target, body) {
    const answer = await s.post(target, body);
    assert.equal(answer.status, 200, answer.text);
    s.outputTokens = (s.outputTokens ?? 0) + answer.json.usage.completion_tokens; // for caughtUp
    return answer.json;
}

test("the blocks of a prompt are told, with the ids that /render tells, chained by their hashes", { skip }, async () => {
    await withEvents(["--served-name", "a/b"], { device: "cpu" }, async (s, sub) => {
        assert.deepEqual([...sub.topics], [`kv@127.0.0.1:${s.port}@a/b`]);
        const r = new Random(1);
        for (const [target, body] of [["/v1/completions", { prompt: textOf(r, 120), max_tokens: 40, ignore_eos: true }],
            ["/v1/chat/completions", { messages: [{ role: "user", content: textOf(r, 90) }], max_tokens: 40, ignore_eos: true }]]) {
            const rendered = await render(s, target, body);
            const [{ token_ids: ids, model, sampling_params }] = [rendered].flat();
            assert.equal(Array.isArray(rendered), target === "/v1/completions");
            assert.deepEqual([model, sampling_params.max_tokens], ["a/b", 40]);
            assert.equal(sub.cached(ids), 0);
            const { usage } = await run(s, target, body);
            assert.equal(usage.prompt_tokens, ids.length, "the request is run with these ids");
            const whole = Math.floor(ids.length / BLOCK) * BLOCK;
            await sub.until("the blocks of the prompt", () => sub.cached(ids) === whole);
            assert.ok(whole >= 2 * BLOCK);
        }
    });
});

test("a subscriber foretells how much of each prompt comes from the cache, also while blocks are evicted", { skip }, async () => {
    await withEvents(["--kv-memory", "2M"], {}, async (s, sub) => {
        const r = new Random(7), heads = Array.from({ length: 4 }, () => textOf(r, 150));
        let hits = 0;
        for (let i = 0; i < 150; i++) {
            const body = { prompt: r.chance(0.6) ? `${r.pick(heads)} ${textOf(r, r.below(60))}` : textOf(r, 40 + r.below(200)), max_tokens: 1 + r.below(40) };
            const [{ token_ids: ids }] = await render(s, "/v1/completions", body);
            // The last token of a prompt is always run, for its logits.
            const most = Math.floor((ids.length - 1) / BLOCK) * BLOCK, foretold = Math.min(sub.cached(ids), most);
            const { usage } = await run(s, "/v1/completions", body);
            assert.equal(usage.prompt_tokens_details.cached_tokens, foretold, `request ${i}`);
            hits += foretold > 0;
            await sub.caughtUp(s);
        }
        assert.ok(sub.counts.BlockRemoved > 20 && hits > 20, JSON.stringify([sub.counts, hits]));
    });
});

test("a subscriber that comes late, or comes again, learns every block", { skip }, async () => {
    await withEvents([], {}, async (s, first, endpoint) => {
        const r = new Random(3);
        for (let i = 0; i < 10; i++) await run(s, "/v1/completions", { prompt: textOf(r, 300), max_tokens: 1 });
        await first.caughtUp(s);
        assert.ok(first.blocks.size > 50);
        const state = first.state();
        for (let i = 0; i < 2; i++) { // the second comes within the second that is left between two restatements
            const late = new Subscriber(endpoint);
            await late.begun();
            await late.caughtUp(s);
            assert.deepEqual(late.state(), state);
            assert.equal(late.counts.gaps, 0);
            await late.close();
        }
        await first.caughtUp(s);
        assert.deepEqual(first.state(), state, "to others nothing has changed");
    });
});

test("a subscription to other topics brings nothing and asks for nothing", { skip }, async () => {
    await withEvents([], {}, async (s, sub, endpoint) => {
        const other = new Subscriber(endpoint, { topic: "kv@elsewhere" });
        const before = sub.counts.AllBlocksCleared;
        await run(s, "/v1/completions", { prompt: textOf(new Random(4), 100), max_tokens: 1 });
        await sub.until("its blocks", () => sub.blocks.size > 0);
        const late = new Subscriber(endpoint); // the server has read the other's subscription first
        await late.begun();
        await sub.until("the same list", () => sub.counts.AllBlocksCleared > before);
        assert.equal(sub.counts.AllBlocksCleared, before + 1);
        assert.equal(other.counts.messages, 0);
        await late.close();
        await other.close();
    });
});

test("what only some requests may find is not told: salts, and depths of their own", { skip }, async () => {
    await withEvents(["--kv-events-topic", "kv@a@b"], {}, async (s, sub) => {
        const r = new Random(5), prompt = textOf(r, 100);
        for (const own of [{ cache_salt: "s" }, { depth: { max_loops: 1 } }, { depth: { min_loops: 2 } }])
            await run(s, "/v1/completions", { prompt: textOf(r, 100), max_tokens: 1, ...own });
        const [{ token_ids: ids }] = await render(s, "/v1/completions", { prompt });
        await run(s, "/v1/completions", { prompt, max_tokens: 1 });
        await sub.until("the plain prompt's blocks", () => sub.cached(ids) > 0);
        await sub.caughtUp(s);
        assert.equal(sub.blocks.size, Math.floor(ids.length / BLOCK), "and no others");
        assert.deepEqual([...sub.topics], ["kv@a@b"]);
    });
});

test("keys that share the cache are told; the last message says that nothing is left", { skip }, async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), "fathom-kv-")), keys = path.join(dir, "keys");
    writeFileSync(keys, "first-key-0001\nsecond-key-0002\n", { mode: 0o600 });
    const { s, endpoint } = await publisher(["--api-key-file", keys, "--share-cache"]);
    const sub = new Subscriber(endpoint), headers = (key) => ({ headers: { Authorization: `Bearer ${key}` } });
    await sub.begun();
    const body = { prompt: textOf(new Random(6), 100), max_tokens: 1 };
    assert.equal((await s.post("/v1/completions/render", body)).status, 401);
    const [{ token_ids: ids }] = (await s.post("/v1/completions/render", body, headers("second-key-0002"))).json;
    assert.equal((await s.post("/v1/completions", body, headers("first-key-0001"))).status, 200);
    await sub.until("the blocks", () => sub.cached(ids) >= BLOCK);
    await s.stop();
    await sub.until("the last message", () => sub.last === "AllBlocksCleared" && sub.blocks.size === 0);
    await sub.close();
    rmSync(dir, { recursive: true });
});

// The greeting of ZMTP 3.0 without a mechanism, and a READY of a subscriber.
const greeting = Buffer.concat([Buffer.from([0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0x7f, 3, 0]), Buffer.from("NULL"), Buffer.alloc(48)]);
const ready = Buffer.concat([Buffer.from([4, 25, 5]), Buffer.from("READY"), Buffer.from([11]), Buffer.from("Socket-Type"), Buffer.from([0, 0, 0, 3]), Buffer.from("SUB")]);
const hello = Buffer.concat([greeting, ready]);

// A connection that has sent the bytes, once the server has sent the answer.
async function connected(port, bytes, answer) {
    const socket = net.connect(port, "127.0.0.1");
    let received = Buffer.alloc(0);
    socket.on("error", () => {});
    socket.write(bytes);
    await new Promise((done) => {
        socket.on("data", (some) => {
            received = Buffer.concat([received, some]);
            if (received.includes(answer)) done();
        });
        socket.once("close", done);
    });
    socket.removeAllListeners("data").resume();
    return socket;
}

// libzmq ends a connection whose messages come before its own READY is sent.
const joined = (port) => connected(port, hello, "READY");

// Before the greeting; and after both have sent their READY.
const noise = [
    [false, Buffer.from("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")],
    [false, Buffer.from(Array.from({ length: 300 }, (_, i) => (i * 73) & 255))],
    [false, Buffer.concat([greeting, Buffer.alloc(64, 0xff)])],
    [true, Buffer.from([2, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])], // a frame of 2^63 bytes
    [true, Buffer.concat([Buffer.from([2, 0, 0, 0, 0, 0, 0, 0x10, 0]), Buffer.alloc(4096, 1)])], // a subscription of 4096 bytes
    [true, Buffer.from([0, 0, 0, 1, 9, 0, 1, 0])], // messages that are no subscriptions
];

test("bytes that no subscriber sends end neither the server nor the messages to others", { skip }, async () => {
    await withEvents([], {}, async (s, sub, endpoint, port) => {
        for (const [afterReady, bytes] of noise) {
            const socket = await (afterReady ? joined(port) : connected(port, "", greeting.subarray(0, 1)));
            assert.ok(!socket.destroyed);
            socket.end(bytes);
            await new Promise((done) => socket.once("close", done));
        }
        const prompt = textOf(new Random(9), 100), [{ token_ids: ids }] = await render(s, "/v1/completions", { prompt });
        await run(s, "/v1/completions", { prompt, max_tokens: 1 });
        await sub.until("the blocks", () => sub.cached(ids) >= BLOCK);
    });
});

const residentMB = (s) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${s.child.pid}/status`, "utf8"))[1]) / 1024;

// Connects and subscribes to topics of 1000 random bytes, as often as it is disconnected, until n of them are sent
// and the server has had enough. A topic may be lost with the connection that it was sent on.
async function floodTopics(port, n, enough) {
    const topic = () => Buffer.concat([Buffer.from([2, 0, 0, 0, 0, 0, 0, 3, 0xe9, 1]), randomBytes(1000)]);
    let sent = 0;
    await until("the limit is reached", async () => {
        const socket = await joined(port);
        for (let i = 0; i < n && !socket.destroyed && (sent < n || !enough()); i += 100) {
            const bytes = Buffer.concat(Array.from({ length: 100 }, topic));
            sent += await new Promise((done) => socket.write(bytes, (error) => done(error ? 0 : 100)));
        }
        socket.destroy();
        return sent >= n && enough();
    });
}

test("subscriptions to ever other topics take a bounded memory, and others are told again", { skip }, async () => {
    const env = { ASAN_OPTIONS: "abort_on_error=0:exitcode=99:quarantine_size_mb=1" }; // it keeps no freed memory
    await withPublisher([], { env }, async (s, endpoint, port) => {
        const before = residentMB(s), prompt = textOf(new Random(10), 100);
        const enough = () => / and \d+ KB of topics other than .* all are disconnected/.test(s.log);
        await floodTopics(port, 10000, enough);
        // Without a limit these 10 MB take 300.
        assert.ok(residentMB(s) < before + (slow ? 300 : 60), `${before} MB, then ${residentMB(s)}`);
        const [{ token_ids: ids }] = await render(s, "/v1/completions", { prompt });
        await run(s, "/v1/completions", { prompt, max_tokens: 1 });
        const sub = new Subscriber(endpoint);
        await sub.until("the blocks", () => sub.cached(ids) >= BLOCK);
        await sub.close();
    });
});

// Without a limit they take the descriptors of the whole server, and it answers nobody.
test("a crowd of connections to the publisher leaves the server its descriptors", { skip }, async () => {
    await withPublisher([], {}, async (s, endpoint, port) => {
        const limited = spawnSync("prlimit", ["--nofile=400:400", "--pid", `${s.child.pid}`]);
        assert.equal(limited.status, 0);
        const crowd = Array.from({ length: 600 }, () => net.connect(port, "127.0.0.1").on("error", () => {}));
        crowd.forEach((socket) => socket.resume().write(greeting));
        await until("the crowd is disconnected", () => /KV events: \d{3,} connections.* all are disconnected/.test(s.log));
        assert.equal((await s.get("/health")).status, 200);
        crowd.forEach((socket) => socket.destroy());
        const sub = new Subscriber(endpoint);
        await sub.begun();
        await sub.close();
    });
});

// Its queue of 1000 messages fills up, the publisher waits for it, and then disconnects it.
test("a subscriber that takes nothing is disconnected, holds up nobody else for long, and is told all when it comes again", { skip }, async () => {
    await withEvents(["--kv-memory", "4M"], {}, async (s, quick, endpoint) => {
        const slow = new Subscriber(endpoint, { reads: false }), r = new Random(8);
        await quick.until("its subscription", () => quick.counts.AllBlocksCleared > 1);
        const ask = () => run(s, "/v1/completions", { prompt: Array.from({ length: 900 }, () => r.below(2000)), max_tokens: 1 });
        const figures = async () => {
            const m = await s.metrics();
            return { sent: m.fathom_kv_events_messages_total, waits: m.fathom_kv_events_waits_total };
        };
        let before, now = await figures();
        await quick.until("a queue that stays full", async () => {
            before = now;
            await Promise.all(Array.from({ length: 16 }, ask));
            now = await figures();
            return now.sent === before.sent && now.waits > before.waits;
        });
        await quick.until("the next message, without the slow one", async () => (await figures()).sent > now.sent);
        await quick.caughtUp(s);
        slow.reading = slow.read(); // it finds itself disconnected, and connects
        await slow.until("the same blocks", () => slow.counts.gaps > 0 && !slow.stale && slow.next === quick.next);
        assert.deepEqual(slow.state(), quick.state());
        await slow.close();
    });
});

const refused = [
    [["--kv-events-endpoint", "nonsense"], /takes tcp:\/\/ADDRESS:PORT or ipc:\/\/PATH, not 'nonsense'/],
    [["--kv-events-endpoint", "tcp://"], /takes tcp/],
    [["--kv-events-endpoint", "tcp://:5557"], /takes tcp/],
    [["--kv-events-endpoint", "tcp://*:0"], /takes tcp/],
    [["--kv-events-endpoint", "tcp://*:99999"], /takes tcp/],
    [["--kv-events-endpoint", "tcp://*:5x"], /takes tcp/],
    [["--kv-events-endpoint", "ipc://"], /takes tcp/],
    [["--kv-events-endpoint", "udp://1.2.3.4:5557"], /takes tcp/],
    [["--kv-events-endpoint", "ipc:///nowhere/at/all"], /ipc:\/\/\/nowhere\/at\/all: No such file/],
    [["--kv-events-endpoint", "tcp://*:5557", "--no-prefix-cache"], /does not go with --no-prefix-cache/],
    [["--kv-events-endpoint", "tcp://*:5557", "--kv-events-topic", ""], /takes a text of 1 to 511 bytes/],
    [["--kv-events-endpoint", "tcp://*:5557", "--kv-events-topic", "x".repeat(512)], /takes a text of 1 to 511 bytes/],
];

test("an option that cannot work ends the start with its reason", { skip }, async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), "fathom-kv-")), keys = path.join(dir, "keys");
    writeFileSync(keys, "first-key-0001\n", { mode: 0o600 });
    const rows = [...refused, [["--kv-events-endpoint", "tcp://*:5557", "--api-key-file", keys], /with --api-key-file needs --share-cache/]];
    for (const [args, message] of rows) {
        const s = await Server.start(args, { ready: false });
        await s.ended;
        assert.notEqual(s.exit.code, 0, args.join(" "));
        assert.match(s.log, message);
    }
    rmSync(dir, { recursive: true });
});

test("without libzmq the server says which package it lacks", async () => {
    const dir = mkdtempSync(path.join(os.tmpdir(), "fathom-kv-"));
    writeFileSync(path.join(dir, "libzmq.so.5"), "no library");
    const s = await Server.start(["--kv-events-endpoint", "tcp://127.0.0.1:5557"], { ready: false, env: { LD_LIBRARY_PATH: dir } });
    await s.ended;
    assert.notEqual(s.exit.code, 0);
    assert.match(s.log, /--kv-events-endpoint needs libzmq \(Debian: apt install libzmq5\)/);
    rmSync(dir, { recursive: true });
});

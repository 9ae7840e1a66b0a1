// Clients that leave, many streams at once. The orderly end: drain.test.mjs.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Server, chunks, events, sleep, textOf, until, withServer } from "./lib/server.mjs";
import { Raw, exchange, hold, parse, post } from "./lib/raw.mjs";

const ask = { model: "demo", prompt: "In the beginning", max_tokens: 900, temperature: 0, ignore_eos: true };
const paced = ["--fake-us-per-token", "20000"]; // 900 tokens outlast what a busy machine does meanwhile

for (const stream of [true, false]) {
    for (const how of ["FIN", "RST"]) {
        test(`a client that leaves by ${how} ${stream ? "in mid-stream" : "while it waits for a whole answer"} is cancelled, not computed to the end`, async () => {
            await withServer(paced, async (s) => {
                const c = await Raw.open(s.port);
                c.send(post("/v1/completions", JSON.stringify({ ...ask, stream })));
                if (stream) await c.until((b) => b.includes("data: "));
                await until("it runs", async () => (await s.metrics())["vllm:num_requests_running"] === 1);
                if (how === "FIN") c.destroy();
                else c.rst();
                await s.cancelled({ clients: 1, below: ask.max_tokens });
                await until("its line", () => /client_left=true/.test(s.log));
            });
        });
    }
}

test("a client that leaves while queued never reaches the engine", async () => {
    await withServer([...paced, "--max-running", "1"], async (s) => {
        const first = await Raw.open(s.port);
        first.send(post("/v1/completions", JSON.stringify({ ...ask, stream: true })));
        await first.until((b) => b.includes("data: "));
        const second = await Raw.open(s.port);
        second.send(post("/v1/completions", JSON.stringify({ ...ask, stream: true })));
        await until("it waits", async () => (await s.metrics())["vllm:num_requests_waiting"] === 1);
        second.destroy();
        await until("it is gone", async () => (await s.metrics())["vllm:num_requests_waiting"] === 0);
        assert.equal((await s.metrics())["vllm:num_requests_running"], 1);
        first.destroy();
        await s.idle();
    });
});

test("a client that leaves while a large body is parsed is forgotten", async () => {
    await withServer(paced, async (s) => {
        for (let i = 0; i < 20; i++) {
            const c = await Raw.open(s.port);
            c.send(post("/v1/completions", JSON.stringify({ ...ask, prompt: "a b ".repeat(10000) })));
            await sleep(i);
            c.rst();
        }
        await s.idle();
        assert.equal((await s.get("/health")).status, 200);
    });
});

test("32 streams of different lengths at once each give what they give alone", async () => {
    for (const policy of ["exact", "last", "collapse"]) {
        await withServer(["--halted-kv", policy, "--threads", "2"], { device: "cpu" }, async (s) => {
            const words = ["In the beginning", "And it came to pass", "The king said", "Who", "Blessed is he", "Hear, O"];
            const bodies = Array.from({ length: 32 }, (_, i) => ({
                ...ask, prompt: `${words[i % words.length]} ${"and the man ".repeat(i % 7)}`.trim(), max_tokens: 5 + ((i * 7) % 40), stream: true,
            }));
            const alone = [];
            for (const b of bodies) alone.push(textOf((await s.post("/v1/completions", b)).text));
            const together = await Promise.all(bodies.map((b) => s.post("/v1/completions", b)));
            together.forEach((r, i) => {
                assert.equal(events(r.text).at(-1), "[DONE]");
                assert.equal(textOf(r.text), alone[i], `stream ${i} under ${policy}`);
            });
            assert.ok(new Set(alone).size > 5);
        });
    }
});

test("each event is whole within one network chunk", async () => {
    await withServer(["--fake-us-per-token", "1000"], async (s) => {
        // A server that is late writes several events as one chunk, so a busy machine may see few of them.
        await until("a stream of more than 20 chunks", async () => {
            const c = await Raw.open(s.port);
            c.send(post("/v1/completions", JSON.stringify({ ...ask, max_tokens: 200, stream: true })));
            const bytes = await c.until((b) => parse(b)?.whole);
            c.destroy();
            let rest = bytes.toString("latin1").split("\r\n\r\n").slice(1).join("\r\n\r\n");
            for (let pieces = 0; ; pieces++) {
                const m = /^([0-9a-f]+)\r\n/i.exec(rest);
                const n = parseInt(m[1], 16);
                if (n === 0) return pieces > 20;
                const piece = rest.slice(m[0].length, m[0].length + n);
                assert.match(piece, /^data: /);
                assert.match(piece, /\n\n$/);
                rest = rest.slice(m[0].length + n + 2);
            }
        });
    });
});

test("kill -9 cuts a stream without a last chunk, and the next start needs no clean-up", async () => {
    let again, tries = 0;
    do { // another program may have taken the port meanwhile, though hardly five times
        const s = await Server.start(paced);
        const c = await hold(s.port, ask);
        s.child.kill("SIGKILL");
        await c.until(null);
        assert.ok(c.closed);
        assert.equal(parse(c.received).whole, false);
        await s.ended;
        again = await Server.start(["--port", String(s.port)]);
    } while (again.exit && ++tries < 5);
    assert.equal(again.exit, null, again.log);
    assert.equal((await again.get("/health")).status, 200);
    await again.stop();
});

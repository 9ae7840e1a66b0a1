// A client that leaves, by FIN, by RST or by closing only its own side, in every state of its request.
// Whatever it does: the server lives, answers others, and gives everything back. A client that has
// sent a whole request and still reads gets its answer.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Raw, exchange, hold, parse, post } from "./lib/raw.mjs";
import { Server, events, sleep, until, withServer } from "./lib/server.mjs";

const CLIENTS = 3;
const ask = { model: "demo", prompt: "Lord", max_tokens: 30, temperature: 0, ignore_eos: true };
const body = JSON.stringify({ ...ask, stream: true });
const whole = JSON.stringify(ask);
const json = "Host: x\r\nContent-Type: application/json\r\n";
const dear = JSON.stringify({ ...ask, prompt: "1.".repeat(400000), max_tokens: 1 }); // for a worker; then refused as too long
const long = JSON.stringify({ ...ask, prompt: Array.from({ length: 900 }, (_, i) => 300 + i), max_tokens: 4, stream: true });
const wide = JSON.stringify({ ...ask, prompt: [300], max_tokens: 1000, n: 16, logprobs: 5 }); // megabytes
const kinds = ["bodies", "parsing", "work", "answers"];

// The answer behind all "100 Continue".
function answer(c) {
    let r = parse(c.received);
    while (r && r.status === 100) r = parse(Buffer.from(r.rest, "latin1"));
    return r;
}
const status = (c) => answer(c)?.status ?? 0;
const has = (text) => (c) => c.until((b) => b.includes(text));
const metric = (name, value) => async (c, s) => until(`${name} ${value}`, async () => (await s.metrics())[name] >= value);
const sent = (c) => until("all is sent", () => c.socket.writableLength === 0 && c.socket.bytesWritten > 0);

// state: what is sent, when it is in that state, and what a client that closes only its own side gets. Counters that
// never fall say when: a request may have ended before anybody looks at how many run.
const states = {
    "while its head arrives": { send: "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Half: ", reached: sent, gets: 0 },
    "while its body arrives": { send: `POST /v1/completions HTTP/1.1\r\n${json}Content-Length: ${body.length}\r\n\r\n${body.slice(0, 20)}`, reached: sent, gets: 0 },
    "while its refused body is dropped": { send: `POST /nowhere HTTP/1.1\r\n${json}Content-Length: 100000\r\n\r\n${"x".repeat(50000)}`, reached: sent, gets: 0 },
    "while a worker parses it": { send: post("/v1/completions", dear), reached: async (c) => { await sent(c); await sleep(20); }, gets: 400 },
    "while it waits in the queue": { send: post("/v1/completions", body), held: true, reached: metric("vllm:num_requests_waiting", 1), gets: 200 },
    "while it waits in the queue for a whole answer": { send: post("/v1/completions", whole), held: true, reached: metric("vllm:num_requests_waiting", 1), gets: 200 },
    "while its prompt is computed": { send: post("/v1/completions", long), args: ["--fake-us-per-token", "30000"], reached: metric("vllm:prompt_tokens_total", 1), gets: 200 },
    "while its stream is written": { send: post("/v1/completions", body), reached: has("data: "), gets: 200 },
    "while its whole answer is computed": { send: post("/v1/completions", whole), reached: metric("vllm:generation_tokens_total", 1), gets: 200 },
    "while its whole answer is written": { send: post("/v1/completions", wide), args: ["--fake-us-per-token", "1"], paused: true, reached: metric("fathom_http_sent_bytes_total", 100000), gets: 200 },
    "between two requests": { send: "GET /health HTTP/1.1\r\nHost: x\r\n\r\n", reached: has('"ok"'), gets: 200 },
};

async function allBack(s, connections) {
    await until("everything is given back", async () => {
        const m = await s.metrics();
        const held = kinds.reduce((sum, k) => sum + m[`fathom_request_memory_bytes{kind="${k}"}`], 0);
        return m["vllm:num_requests_running"] === 0 && m["vllm:num_requests_waiting"] === 0 && m['fathom_cache_pages{state="used"}'] === 0 &&
            held < 64 * 1024 && m["fathom_http_connections"] <= connections && m["fathom_http_requests_in_flight"] === 1;
    });
}

const leave = {
    FIN: (c) => c.destroy(),
    RST: (c) => c.rst(),
    "closing its own side": (c) => c.socket.end(),
};

for (const [when, state] of Object.entries(states)) {
    for (const [how, go] of Object.entries(leave)) {
        const stays = how === "closing its own side";
        test(`a client that leaves by ${how} ${when} ${stays && state.gets ? "gets its answer" : "leaves nothing behind"}`, async () => {
            await withServer([...(state.args ?? ["--fake-us-per-token", "20000"]), "--idle-seconds", "3", ...(state.held ? ["--max-running", "1"] : [])], async (s) => {
                const before = (await s.metrics())["fathom_http_connections"];
                const holder = state.held ? await hold(s.port) : null; // has the only place until the clients went
                const clients = await Promise.all(Array.from({ length: CLIENTS }, () => Raw.open(s.port, { allowHalfOpen: true })));
                for (const c of clients) {
                    if (state.paused) c.socket.pause();
                    c.send(state.send);
                }
                await Promise.all(clients.map((c) => state.reached(c, s)));
                clients.forEach(go);
                if (holder && !stays) await until("the queue forgets them", async () => (await s.metrics())["vllm:num_requests_waiting"] === 0);
                holder?.destroy();
                if (stays) {
                    for (const c of clients) {
                        c.socket.resume();
                        await c.until(null);
                        assert.equal(status(c), state.gets);
                        if (state.gets) assert.ok(answer(c).whole, "the answer has its end");
                        if (state.gets === 200 && c.received.includes("event-stream")) assert.equal(events(answer(c).body).at(-1), "[DONE]");
                        c.destroy();
                    }
                }
                assert.equal((await exchange(s.port, post("/v1/completions", JSON.stringify({ ...ask, max_tokens: 2 })))).status, 200, "others are served");
                await allBack(s, before);
            });
        });
    }
}

test("a client that closes its side with the last byte of its request gets its answer, and a short one with nothing before it", async () => {
    await withServer(["--fake-us-per-token", "100"], async (s) => {
        for (const version of ["1.1", "1.0"]) {
            for (const [target, text] of [["/v1/completions", whole], ["/v1/completions", body], ["/tokenize", '{"prompt":"a"}'], ["/v1/completions", dear]]) {
                const c = await Raw.open(s.port, { allowHalfOpen: true });
                c.socket.end(`POST ${target} HTTP/${version}\r\n${json}Content-Length: ${text.length}\r\n\r\n${text}`);
                await c.until(null);
                assert.equal(text === dear ? status(c) : parse(c.received)?.status, text === dear ? 400 : 200);
                assert.ok(c.closed, "the connection ends with the answer");
                c.destroy();
            }
        }
    });
});

test("a client that has sent its FIN and then leaves is noticed, though it sends nothing more", async () => {
    for (const stream of [false, true]) {
        await withServer(["--fake-us-per-token", "20000"], async (s) => {
            const c = await Raw.open(s.port, { allowHalfOpen: true });
            c.socket.end(post("/v1/completions", JSON.stringify({ ...ask, max_tokens: 1000, stream })));
            await metric("vllm:num_requests_running", 1)(c, s);
            await sleep(1000);
            c.destroy();
            await s.cancelled({ clients: 1, below: 1000 });
        });
    }
});

test("a server that ends answers the clients of all states and logs no bug", async () => {
    const s = await Server.start(["--fake-us-per-token", "20000", "--drain-seconds", "0.5", "--max-running", "1"]);
    const clients = {};
    for (const [when, state] of Object.entries(states)) {
        if (state.args || state.paused) continue;
        clients[when] = await Raw.open(s.port);
        clients[when].send(state.send);
    }
    await until("one runs", async () => (await s.metrics())["vllm:generation_tokens_total"] >= 1);
    s.signal("SIGTERM");
    await s.stop();
    for (const [when, c] of Object.entries(clients)) {
        await c.until(null);
        if (parse(c.received)) assert.ok([200, 400, 503].includes(status(c)), `${when}: ${status(c)}`);
    }
});

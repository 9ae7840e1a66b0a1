// Small attacks, made of pieces of the cases, that may be mixed at random into other load.
// Each: async (t, pick) => void, where t is the bench's Tools and pick(n) a number below n.
import { broken, whole } from "./json.mjs";
import { nested, randomSchema, wide } from "./schemas.mjs";
import { announced, withoutLastByte } from "./uploads.mjs";

const key = (t, pick) => (t.def.keys ? t.key(["alpha", "beta"][pick(2)]) : {});
const line = (t, pick) => (t.def.keys ? t.line(["alpha", "beta"][pick(2)]) : "");
const one = (table, pick) => Object.values(table)[pick(Object.keys(table).length)];

async function leave(c, pick, ms) {
    await c.until(null, pick(ms));
    if (pick(2)) c.rst();
    else c.destroy();
}

export const pieces = {
    "broken JSON": async (t, pick) => { await t.complete(one(broken, pick)(200 + pick(60000)), key(t, pick)); },
    "strange JSON": async (t, pick) => { await t.complete(one(whole, pick)(200 + pick(60000)), key(t, pick)); },
    "a wide schema": async (t, pick) => { await t.complete(t.schema(wide(2 + pick(31), 1 + pick(12), 6 + pick(60)), { n: 1 + pick(4), max_tokens: 1 + pick(20), temperature: pick(2) }), key(t, pick)); },
    "a nested schema": async (t, pick) => { await t.complete(t.schema(nested(1 + pick(6), 2 + pick(30)), { max_tokens: 1 + pick(20), temperature: pick(2) }), key(t, pick)); },
    "a random schema": async (t, pick) => { await t.complete(t.schema(randomSchema(pick, 4), { max_tokens: 1 + pick(30), temperature: pick(2) }), key(t, pick)); },
    "an upload without its last byte": async (t, pick) => {
        const c = await t.open();
        c.send(withoutLastByte(1000 + pick(400000), "/v1/completions", line(t, pick)));
        await leave(c, pick, 3000);
    },
    "a body byte by byte": async (t, pick) => {
        const c = await t.open();
        c.send(announced(1000 + pick(100000), line(t, pick)));
        for (let i = pick(30); i > 0 && !c.closed; i--) { c.send("{"); await t.sleep(pick(100)); }
        await leave(c, pick, 100);
    },
    "an answer that is not read": async (t, pick) => {
        const c = await t.open();
        c.socket.pause();
        c.send(pick(2) ? t.post("/tokenize", JSON.stringify({ prompt: "a b ".repeat(pick(40000)), return_token_strs: true }), line(t, pick))
            : t.post("/v1/completions", JSON.stringify({ prompt: "And", n: 4, max_tokens: 200, logprobs: 5, ignore_eos: true, stream: pick(2) === 1 }), line(t, pick)));
        await t.sleep(pick(4000));
        c.destroy();
    },
    "idle connections": async (t, pick) => {
        const all = await t.opens(1 + pick(20));
        if (pick(2)) all.forEach((c) => c.send("GET /health HTTP/1.1\r\nHost"));
        await t.sleep(pick(3000));
        all.forEach((c) => c.destroy());
    },
    "resets": async (t, pick) => {
        for (let i = 1 + pick(40); i > 0; i--) {
            const c = await t.open();
            if (pick(2)) c.send(t.post("/v1/completions", "{\"prompt\":\"a\",\"stream\":true}", line(t, pick)).slice(0, pick(200)));
            c.rst();
        }
    },
    "choices times prompts": async (t, pick) => { await t.complete({ prompt: Array(1 + pick(16)).fill("And"), n: 1 + pick(8), max_tokens: 1 + pick(10), priority: pick(9) - 4, temperature: 1 }, key(t, pick)); },
    "a prompt too long": async (t, pick) => { await t.complete({ prompt: "a ".repeat(pick(100000)), max_tokens: 1 }, key(t, pick)); },
    "a client that leaves": async (t, pick) => {
        const c = await t.open();
        c.send(t.post("/v1/completions", JSON.stringify({ prompt: Array.from({ length: 1 + pick(500) }, () => 256 + pick(1500)), max_tokens: 200, stream: pick(2) === 1, ignore_eos: true }), line(t, pick)));
        await leave(c, pick, 600);
    },
    "a bad frame": async (t, pick) => {
        const c = await t.open();
        c.send(["GET /health HTTP/1.1\r\nHost: a\0b\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", `GET / HTTP/1.1\r\nHost: localhost\r\nX: ${"a".repeat(40000)}\r\n\r\n`,
            `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n1;${"x".repeat(pick(50000))}`, "\x16\x03\x01\x02\x00"][pick(6)]);
        await leave(c, pick, 300);
    },
    "pipelined questions": async (t, pick) => {
        const c = await t.open();
        c.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1 + pick(200)));
        await leave(c, pick, 300);
    },
};

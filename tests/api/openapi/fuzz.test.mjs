// Bodies of every dialect against the real server: made from its own OpenAPI document, as clients send
// them, with places made wrong, and meant to harm. Whatever comes in, 2xx or 4xx goes out, whole and in
// the documented form, and a body that is sound gets a 200.
//
//   FATHOM_SEED     first body (default 1); FATHOM_SEED=N FATHOM_BODIES=1 repeats body N
//   FATHOM_BODIES   how many on each device (default 20000 on fake, 4000 on cpu); a million: FATHOM_BODIES=1000000
//   FATHOM_DEVICE   fake or cpu alone (default: both); fake spends its time on the HTTP side
import assert from "node:assert/strict";
import test from "node:test";
import { hostile, mutated, sound } from "./bodies.mjs";
import { Connection } from "./client.mjs";
import { Random, mistake, torn, value } from "./generate.mjs";
import { Server } from "../../http/lib/server.mjs";

const seed = Number(process.env.FATHOM_SEED ?? 1);
const devices = process.env.FATHOM_DEVICE ? [process.env.FATHOM_DEVICE] : ["fake", "cpu"];
const bodiesOf = { fake: 20000, cpu: 4000 };
const LANES = 16;

// Small answers, so that the time goes into bodies.
function tame(r, path, body) {
    if (typeof body !== "object" || body === null || r.chance(0.1)) return body;
    if (path.includes("completions")) body.max_tokens = r.below(6);
    if (path.endsWith("responses")) body.max_output_tokens = 1 + r.below(6);
    delete body.max_completion_tokens;
    if (body.min_tokens > 5) delete body.min_tokens;
    if (typeof body.n === "number") body.n = 1 + r.below(3);
    if ("model" in body) body.model = r.chance(0.95) ? "demo" : body.model;
    return body;
}

function generated(r, path, doc) {
    const schema = doc.paths[path].post.requestBody.content["application/json"].schema;
    let body = tame(r, path, value(r, schema, doc));
    if (r.chance(0.4)) body = mistake(r, body);
    const text = JSON.stringify(body);
    return r.chance(0.05) ? torn(r, text) : text;
}

// { path, body, sound }: sound bodies must be answered with 200.
function make(r, doc, paths) {
    const path = r.pick(paths), kind = r.below(100);
    if (kind < 15) return { path, body: JSON.stringify(sound[path](r)), sound: true };
    if (kind < 60) return { path, body: mutated(r, path) };
    if (kind < 80) return { path, body: generated(r, path, doc) };
    return { path, body: hostile(r, path) };
}

const isMessages = (path) => path.startsWith("/v1/messages");

function checkError(text, path) {
    const body = JSON.parse(text);
    if (isMessages(path)) assert.deepEqual([body.type, typeof body.error.type], ["error", "string"]);
    else assert.deepEqual(Object.keys(body.error).slice(0, 4), ["message", "type", "param", "code"]);
    assert.ok(body.error.message.length > 0 && text.length < 2000);
}

const lastEvents = { "/v1/responses": /response\.(completed|incomplete)/, "/v1/messages": /message_stop/ };

function checkStream(text, path) {
    const events = text.split("\n\n").filter((e) => e && !e.startsWith(":")).map((e) => e.replace(/^event: .*\n/, ""));
    for (const e of events) {
        assert.ok(e.startsWith("data: ") && !e.includes("\n"), e);
        if (e === "data: [DONE]") continue;
        const { error } = JSON.parse(e.slice(6));
        assert.ok(!error, e);
    }
    assert.match(events.at(-1), lastEvents[path] ?? /^data: \[DONE\]$/);
}

function check({ status, type, text }, path) {
    assert.ok((status >= 200 && status < 300) || (status >= 400 && status < 500), `status ${status}: ${text.slice(0, 300)}`);
    if (status >= 400) checkError(text, path);
    else if (type.startsWith("text/event-stream")) checkStream(text, path);
    else JSON.parse(text);
}

async function fuzz(server, device) {
    const bodies = Number(process.env.FATHOM_BODIES ?? bodiesOf[device]);
    const lanes = Array.from({ length: LANES }, () => new Connection(server.port));
    const doc = JSON.parse((await lanes[0].call("GET", "/openapi.json")).text);
    const paths = Object.entries(doc.paths).filter(([, p]) => p.post).map(([path]) => path);
    assert.deepEqual(paths.filter((p) => !sound[p]), [], "every path has sound bodies");
    const seen = {}, start = Date.now();
    let next = 0;
    const run = async (lane) => {
        while (next < bodies) {
            const which = seed + next++, { path, body, sound: good } = make(new Random(which), doc, paths);
            try {
                const answer = await lane.call("POST", path, body);
                check(answer, path);
                if (good) assert.equal(answer.status, 200, `a sound body was refused: ${answer.text}`);
                seen[answer.status] = (seen[answer.status] ?? 0) + 1;
            } catch (e) {
                next = bodies; // one is enough
                throw new Error(`FATHOM_SEED=${which} FATHOM_DEVICE=${device} POST ${path} ${body.toString().slice(0, 900)}\n${e.message}`);
            }
        }
    };
    await Promise.all(lanes.map(run));
    const seconds = (Date.now() - start) / 1000;
    console.log(`# ${device}: ${bodies} bodies over ${paths.length} paths, ${Math.round(bodies / seconds)} a second: ${JSON.stringify(seen)}`);
    if (bodies > 1000) assert.ok(seen[200] > bodies / 5 && seen[400] > bodies / 5, "both kinds must occur");
    assert.equal((await lanes[0].call("GET", "/health")).status, 200);
    lanes.forEach((l) => l.close());
}

for (const device of devices) {
    test(`on ${device}, no body gets a 5xx: it is answered in the documented form, and with 200 if it is sound`, { timeout: Infinity }, async () => {
        const server = await Server.start([], { device });
        try {
            await fuzz(server, device);
            await server.idle();
        } finally {
            await server.stop();
        }
    });
}

test("the document promises nothing that the server does not take", async () => {
    const server = await Server.start([]);
    try {
        const { paths } = (await server.get("/openapi.json")).json;
        for (const [path, p] of Object.entries(paths)) {
            if (!p.get || path.includes("{")) continue;
            assert.equal((await server.get(path)).status, 200, path);
        }
        assert.equal((await server.get("/v1/models/demo")).status, 200);
    } finally {
        await server.stop();
    }
});

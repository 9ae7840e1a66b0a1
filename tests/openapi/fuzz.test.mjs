// Bodies made from the server's own OpenAPI document, right and wrong, against the real
// server. Whatever comes in, 2xx or 4xx goes out, whole and in the documented form.
//
//   OPENAPI_SEED    first body (default 1)
//   OPENAPI_BODIES  how many (default 5000); a million: OPENAPI_BODIES=1000000
//   OPENAPI_DEVICE  cpu (default) or fake, which spends its time on the HTTP side alone
import assert from "node:assert/strict";
import http from "node:http";
import test from "node:test";
import { Random, mistake, torn, value } from "./generate.mjs";
import { Server } from "../http/lib/server.mjs";

const seed = Number(process.env.OPENAPI_SEED ?? 1);
const bodies = Number(process.env.OPENAPI_BODIES ?? 5000);
const device = process.env.OPENAPI_DEVICE ?? "cpu";
const LANES = 8;
const agent = new http.Agent({ keepAlive: true, maxSockets: LANES });

function call(server, method, path, body) {
    return new Promise((done, fail) => {
        const headers = body === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
        const req = http.request({ agent, host: "127.0.0.1", port: server.port, method, path, headers }, (res) => {
            const parts = [];
            res.on("data", (d) => parts.push(d));
            res.on("end", () => done({ status: res.statusCode, type: res.headers["content-type"], text: Buffer.concat(parts).toString() }));
            res.on("error", fail);
        });
        req.on("error", fail);
        req.end(body);
    });
}

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

function make(r, doc, routes) {
    const { path, schema } = r.pick(routes);
    let body = tame(r, path, value(r, schema, doc));
    if (r.chance(0.4)) body = mistake(r, body);
    const text = JSON.stringify(body);
    return { path, body: r.chance(0.05) ? torn(r, text) : text };
}

function check(answer, path) {
    const { status, text } = answer;
    assert.ok((status >= 200 && status < 300) || (status >= 400 && status < 500), `status ${status}: ${text.slice(0, 300)}`);
    if (status >= 400) {
        const { error } = JSON.parse(text);
        assert.deepEqual(Object.keys(error).slice(0, 4), ["message", "type", "param", "code"]);
        assert.ok(error.message.length > 0 && text.length < 2000);
        return;
    }
    if (!answer.type.startsWith("text/event-stream")) {
        JSON.parse(text);
        return;
    }
    const events = text.split("\n\n").filter((e) => e && !e.startsWith(":")).map((e) => e.replace(/^event: .*\n/, ""));
    for (const e of events) {
        assert.ok(e.startsWith("data: ") && !e.includes("\n"), e);
        if (e !== "data: [DONE]") assert.ok(!("error" in JSON.parse(e.slice(6))) || path.endsWith("responses"), e);
    }
    const last = events.at(-1);
    if (path.endsWith("responses")) assert.match(last, /response\.(completed|incomplete)/);
    else assert.equal(last, "data: [DONE]");
}

test("generated bodies give 2xx or 4xx, never 5xx, and answers of the documented form", { timeout: Infinity }, async () => {
    const server = await Server.start([], { device });
    try {
        const doc = JSON.parse((await call(server, "GET", "/openapi.json")).text);
        const routes = Object.entries(doc.paths).filter(([, p]) => p.post)
            .map(([path, p]) => ({ path, schema: p.post.requestBody.content["application/json"].schema }));
        assert.equal(routes.length, 5);
        const seen = {};
        let next = 0;
        const lane = async () => {
            while (next < bodies) {
                const which = seed + next++;
                const { path, body } = make(new Random(which), doc, routes);
                try {
                    const answer = await call(server, "POST", path, body);
                    check(answer, path);
                    seen[answer.status] = (seen[answer.status] ?? 0) + 1;
                } catch (e) {
                    e.message = `OPENAPI_SEED=${which} POST ${path} ${body.toString().slice(0, 600)}\n${e.message}`;
                    throw e;
                }
            }
        };
        await Promise.all(Array.from({ length: LANES }, lane));
        console.log(`# ${next} bodies: ${JSON.stringify(seen)}`);
        assert.ok(seen[200] > next / 20 && seen[400] > next / 20, "both kinds must occur");
        assert.equal((await call(server, "GET", "/health")).status, 200);
    } finally {
        await server.stop();
        agent.destroy();
    }
});

test("the document promises nothing that the server does not take", async () => {
    const server = await Server.start([], { device });
    try {
        const doc = JSON.parse((await call(server, "GET", "/openapi.json")).text);
        for (const [path, p] of Object.entries(doc.paths)) {
            if (!p.get || path.includes("{")) continue;
            assert.equal((await call(server, "GET", path)).status, 200, path);
        }
        assert.equal((await call(server, "GET", "/v1/models/demo")).status, 200);
    } finally {
        await server.stop();
        agent.destroy();
    }
});

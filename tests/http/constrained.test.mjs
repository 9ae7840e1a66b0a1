// Answers held to a form: however many end for a reason of their own, the server stays, and
// answers others as before.
import assert from "node:assert/strict";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";
import { demo, Server } from "./lib/server.mjs";

// The demo model with a vocabulary of bytes and of pieces that open several values at once.
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "fathom-pieces-"));
const model = path.join(folder, "demo");
const pieces = ['{"a":', ...Array.from({ length: 81 }, (_, i) => `{"a":${100 + i}`)];
const FIRST_PIECE = 256;
fs.cpSync(demo, model, { recursive: true });
const file = JSON.parse(fs.readFileSync(path.join(demo, "tokenizer.json")));
file.model.vocab = Object.fromEntries(Object.entries(file.model.vocab).filter(([token]) => [...token].length === 1));
pieces.forEach((piece, i) => { file.model.vocab[piece] = FIRST_PIECE + i; });
file.model.merges = [];
fs.writeFileSync(path.join(model, "tokenizer.json"), JSON.stringify(file));

let server;
before(async () => {
    server = await Server.start([], { model });
    server.shared = true;
});
after(async () => {
    if (server) await server.stop();
    fs.rmSync(folder, { recursive: true, force: true });
});

const probe = { model: "demo", prompt: "In the beginning", max_tokens: 12, temperature: 0 };
const complete = (body) => server.post("/v1/completions", body);
const chat = (schema, more = {}) =>
    server.post("/v1/chat/completions", {
        model: "demo",
        messages: [{ role: "user", content: "Answer." }],
        max_tokens: 24,
        temperature: 1.5,
        response_format: { type: "json_schema", json_schema: { name: "form", schema } },
        ...more,
    });

// n alternatives that begin alike, one inside the other: n to the depth readings of one text.
function alike(n, depth) {
    return {
        anyOf: Array.from({ length: n }, (_, i) => ({
            type: "object",
            properties: { a: depth > 0 ? alike(n, depth - 1) : { type: "string", maxLength: 60 + i }, [`b${i}`]: {} },
            required: ["a"],
        })),
    };
}

// Nine times nine objects that begin alike and end in 81 different numbers: after {"a": nine
// readings are left, and one piece more makes them 81, of which one goes on.
const numbers = (n, from, step) => ({
    anyOf: Array.from({ length: n }, (_, i) => ({
        type: "object",
        properties: { a: step > 1 ? numbers(n, from + i * step, step / n) : { const: from + i } },
        required: ["a"],
        additionalProperties: false,
    })),
});

test("forty answers whose readings branch inside one token leave the server up and others' answers unchanged", async () => {
    const before = (await complete(probe)).json.choices[0].text;
    for (let i = 0; i < 40; i++) {
        const piece = FIRST_PIECE + 1 + 33 + i; // of the number that only reading 33 + i takes
        const answer = await chat(numbers(9, 100, 9), { logit_bias: { [FIRST_PIECE]: 100, [piece]: 100 } });
        assert.equal(answer.status, 200, answer.text);
        assert.ok(answer.json.choices[0].message.content.startsWith('{"a":{"a":'), answer.text);
    }
    assert.equal((await server.get("/health")).status, 200);
    assert.equal((await complete(probe)).json.choices[0].text, before);
});

test("forty answers with more readings than are kept apart leave the server up and others' answers unchanged", async () => {
    const before = (await complete(probe)).json.choices[0].text;
    const asked = [];
    for (let i = 0; i < 40; i++) asked.push(chat(i % 2 ? alike(32, 0) : alike(7, 2), { seed: i, stream: false }));
    for (const answer of await Promise.all(asked)) {
        assert.ok([200, 400].includes(answer.status), `${answer.status}: ${answer.text}`);
        if (answer.status === 400) assert.match(answer.json.error.code, /no_token_left|form_too_costly/);
    }
    assert.equal((await server.get("/health")).status, 200);
    assert.equal((await complete(probe)).json.choices[0].text, before);
});

test("biases and penalties at their limits are no sign of a sick engine", async () => {
    const before = (await complete(probe)).json.choices[0].text;
    const bias = Object.fromEntries(Array.from({ length: 300 }, (_, i) => [i, i % 2 ? -100 : 100]));
    for (let i = 0; i < 12; i++) {
        const answer = await complete({
            ...probe, max_tokens: 4, temperature: [0, 1e-5, 2][i % 3], logit_bias: bias,
            repetition_penalty: [1e-6, 10][i % 2], presence_penalty: 2, frequency_penalty: -2,
        });
        assert.ok(answer.status === 200 || answer.status === 400, `${answer.status}: ${answer.text}`);
    }
    assert.equal((await server.get("/health")).status, 200);
    assert.equal((await complete(probe)).json.choices[0].text, before);
});

test("a penalty that is out of range is refused by its name before anything is computed", async () => {
    const answer = await complete({ ...probe, repetition_penalty: 1e-30 });
    assert.equal(answer.status, 400);
    assert.equal(answer.json.error.param, "repetition_penalty");
});

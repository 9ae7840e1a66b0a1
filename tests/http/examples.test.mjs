// The examples of the bundled models: shown in the card as the folder has them, and true.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { root, withServer } from "./lib/server.mjs";

const folder = (model) => path.join(root, "models", model);
const fileOf = (model) => JSON.parse(readFileSync(path.join(folder(model), "examples.json"), "utf8"));
const examplesOf = async (s) => (await s.get("/v1/models")).json.data[0].meta.examples;

// The answers to one example, one for each of its loops.
async function answers(s, one) {
    const chat = one.kind === "chat";
    const shared = { max_tokens: one.max_tokens, temperature: one.temperature, seed: one.seed, stop: one.stop, return_depth: true };
    const found = [];
    for (const loops of [one.loops ?? null].flat()) {
        const body = { ...shared, ...(loops ? { depth: { max_loops: loops } } : {}), ...(chat ? { messages: [{ role: "user", content: one.prompt }] } : { prompt: one.prompt }) };
        const r = await s.post(chat ? "/v1/chat/completions" : "/v1/completions", body);
        assert.equal(r.status, 200, r.text);
        const choice = r.json.choices[0];
        found.push({ text: choice.text ?? choice.message.content, depths: choice.depths ?? choice.message.depths });
    }
    return found;
}

for (const model of ["demo", "hops", "hops-extrapolates"]) {
    test(`the examples of ${model} work, and give the answers that they promise`, async () => {
        const written = fileOf(model);
        assert.ok(written.length >= 3);
        await withServer([], { device: "cpu", model: folder(model) }, async (s) => {
            assert.deepEqual(await examplesOf(s), written);
            for (const one of written) {
                const found = await answers(s, one);
                assert.ok(found.every(({ text }) => text.trim().length > 0), one.title);
                if (one.answer) assert.equal(found.at(-1).text, one.answer, one.title);
            }
        });
    });
}

test("an example that compares shows another answer at fewer loops", async () => {
    for (const model of ["hops", "hops-extrapolates"]) {
        const compared = fileOf(model).filter((one) => one.kind === "compare");
        assert.ok(compared.length > 0);
        await withServer([], { device: "cpu", model: folder(model) }, async (s) => {
            for (const one of compared) {
                const found = await answers(s, one);
                assert.equal(new Set(found.map(({ text }) => text)).size, found.length, one.title);
                for (const { text } of found) assert.ok(one.note.includes(text.trim()) || text === one.answer, `${one.title}: the note names${text}`);
                one.loops.forEach((loops, i) => loops && assert.equal(found[i].depths[0], loops, "every loop that is allowed is run"));
            }
        });
    }
});

test("a question of k steps leaves after k loops", async () => {
    const asked = fileOf("hops").filter((one) => one.loops === undefined);
    assert.deepEqual(asked.map((one) => one.title), ["1 step", "3 steps", "5 steps", "8 steps"]);
    await withServer([], { device: "cpu", model: folder("hops") }, async (s) => {
        for (const one of asked) assert.equal((await answers(s, one))[0].depths[0], parseInt(one.title, 10), one.title);
    });
});

test("a model without the file has no examples", async () => {
    await withServer([], { model: path.join(root, "tests/golden/cases", "mla") }, async (s) => {
        assert.equal(await examplesOf(s), undefined);
    });
});

// The hops models over HTTP: an answer takes as many loops as the question has steps, and one that is cut short names
// the friend reached.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { root, slow, withServer } from "./lib/server.mjs";

const folder = (model) => path.join(root, "models", model);
const questions = readFileSync(path.join(folder("hops"), "questions.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line))
    .filter((_, i) => !slow || i % 9 === 0);

/** The people along a question's chain, from the facts in its prompt. */
function chainOf({ prompt, hops }) {
    const friend = new Map([...prompt.matchAll(/(\w+)'s friend is (\w+)\./g)].map(([, who, whom]) => [who, whom]));
    const chain = [/(\w+)(?:'s friend)+ is$/.exec(prompt)[1]];
    while (chain.length <= hops) chain.push(friend.get(chain.at(-1)));
    return chain;
}

/** Asks all prompts, at most 32 at once, and checks text and depths of each answer. */
async function askAll(s, asked, maxLoops) {
    const left = asked.map((one, i) => ({ ...one, i }));
    const ask = async () => {
        for (let one; (one = left.shift()); ) {
            const limit = maxLoops ? { depth: { max_loops: maxLoops } } : {};
            const r = await s.post("/v1/completions", { prompt: one.prompt, max_tokens: 4, temperature: 0, return_depth: true, ...limit });
            assert.equal(r.status, 200, r.text);
            const [choice] = r.json.choices;
            const steps = Math.min(one.hops, maxLoops ?? one.hops);
            const name = ` ${chainOf(one)[steps]}.`;
            // Cut to one loop, the second seed may go on behind the name.
            const whole = steps === one.hops || s.model === "hops";
            assert.equal(whole ? choice.text : choice.text.slice(0, name.length), name, `at most ${maxLoops} loops: ${one.prompt}`);
            assert.equal(choice.depths[0], steps, one.prompt);
            if (whole) assert.equal(choice.finish_reason, "stop");
        }
    };
    await Promise.all(Array.from({ length: 32 }, ask));
}

for (const model of ["hops", "hops-extrapolates"]) {
    for (const policy of ["exact", "last"]) {
        test(`${model}, ${policy}: as many loops as steps, and an answer cut short names the friend reached`, async () => {
            await withServer(["--halted-kv", policy], { device: "cpu", model: folder(model) }, async (s) => {
                s.model = model;
                for (const one of questions) assert.equal(` ${chainOf(one).at(-1)}`, one.answer);
                for (const maxLoops of [undefined, 1, 2, 4]) await askAll(s, questions, maxLoops);
            });
        });
    }
}

test("hops-extrapolates answers nine steps with one loop more than it was trained with", async () => {
    const circle = ["Ann", "Kim", "Bob", "Zoe", "Eve", "Hal", "Mia", "Tom", "Sue", "Ray", "Val", "Jon"];
    const facts = circle.map((who, i) => `${who}'s friend is ${circle[(i + 1) % circle.length]}.`).join(" ");
    const asked = circle.map((who) => ({ prompt: `${facts}\n${who}${"'s friend".repeat(9)} is`, hops: 9 }));
    for (const policy of ["exact", "last"]) {
        await withServer(["--halted-kv", policy, "--max-loops", "9"], { device: "cpu", model: folder("hops-extrapolates") }, async (s) => {
            await askAll(s, asked); // 9 loops without being asked for
            await askAll(s, asked, 8);
        });
    }
});

// `fathom bench` asks what its data sets hold.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { dir, stream, withMock } from "./load.js";
import { bench, benchJson, fathom, root } from "./run.js";

test("a dataset file is asked line by line and from its start again", async () => {
    const path = join(dir, "prompts.jsonl");
    writeFileSync(path, '{"prompt":"one \\u00e9","output_tokens":3}\n\n{"prompt":"two"}\n');
    await withMock(
        () => stream(1),
        async (mock) => {
            await bench([
                "--url", mock.url, "--dataset-name", "custom", "--dataset-path", path, "--num-prompts", "5",
                "--max-concurrency", "1", "--output-len", "9",
            ]);
            assert.deepEqual(mock.seen.bodies.map((b) => b.prompt), ["one é", "two", "one é", "two", "one é"]);
            assert.deepEqual(mock.seen.bodies.map((b) => b.max_tokens), [3, 9, 3, 9, 3]);
        },
    );
});

test("a short file is asked once with --no-oversample, and --custom-output-len goes before its lines' own", async () => {
    const path = join(dir, "short.jsonl");
    writeFileSync(path, '{"prompt":"one","output_tokens":3}\n{"prompt":"two"}\n');
    const run = (...more) => withMock(
        () => stream(1),
        async (mock) => {
            const { json } = await benchJson(["--url", mock.url, "--dataset-name", "custom", "--dataset-path", path, "--num-prompts", "5",
                "--max-concurrency", "1", "--output-len", "9", ...more]);
            return [json.completed, mock.seen.bodies.map((b) => b.max_tokens)];
        });
    assert.deepEqual(await run("--no-oversample"), [2, [3, 9]]);
    assert.deepEqual(await run("--custom-output-len", "6"), [5, [6, 6, 6, 6, 6]]);
    assert.deepEqual(await run("--custom-output-len=-1"), [5, [3, 9, 3, 9, 3]]);
});

test("sharegpt asks the first turns of conversations of a fair length, for answers as long as the file's", async () => {
    const demo = join(root, "models/demo");
    const tokens = (text) => JSON.parse(spawnSync(fathom, ["tokenize", "--model", demo, "--text", text], { encoding: "utf8" }).stdout).length;
    const say = (...values) => ({ id: "x", conversations: values.map((value, i) => ({ from: i % 2 ? "gpt" : "human", value })) });
    const long = "the people of the land ".repeat(600);
    const good = [["Who was the king of the land?", "The king of the land was a man of the city."],
        ["What is in the house of the father?", "Bread and wine and oil, and many other good things there."]];
    const path = join(dir, "sharegpt.json");
    writeFileSync(path, JSON.stringify([say(...good[0], "more", "and more"), say("only one turn, and no answer to it"), say("x", "too short a question for this"),
        say(long, "too long a question"), say("too long an answer to this one?", long), say("A short answer, is it not?", "y"), {}, 5, { conversations: 7 },
        { conversations: [{ value: null }, { value: 3 }] }, say(...good[1])]));
    const run = (more, name = "sharegpt") => withMock(
        () => stream(1),
        async (mock) => {
            const { json } = await benchJson(["--url", mock.url, "--dataset-name", name, "--dataset-path", path, "--num-prompts", "7", "--max-concurrency", "1", ...more]);
            return { completed: json.completed, asked: mock.seen.bodies.map((b) => [b.prompt ?? b.messages[0].content, b.max_tokens ?? b.max_completion_tokens]) };
        });
    const exact = await run(["--tokenizer", demo]);
    assert.equal(exact.completed, 7);
    const want = new Map(good.map(([q, a]) => [q, tokens(a)]));
    assert.deepEqual(new Set(exact.asked.map(([q]) => q)), new Set(want.keys()));
    for (const [q, n] of exact.asked) assert.equal(n, want.get(q), q);
    const rough = await run(["--no-oversample", "--backend", "openai-chat"]);
    assert.equal(rough.completed, 2);
    for (const [q, n] of rough.asked) assert.equal(n, Math.floor(good.find((g) => g[0] === q)[1].length / 4) + 1);
    const fixed = await run(["--no-oversample", "--sharegpt-output-len", "11"]);
    assert.ok(fixed.asked.length >= 2 && fixed.asked.every(([, n]) => n === 11));
    writeFileSync(path, '{"not": "a list"}');
    const none = await bench(["--url", "http://127.0.0.1:1", "--model", "m", "--dataset-name", "sharegpt", "--dataset-path", path]);
    assert.equal(none.code, 2);
    assert.match(none.errors, /holds no conversation of two turns/);
});

test("sonnet prompts share their first lines and have about the length asked for", async () => {
    const path = join(dir, "sonnet.txt");
    const lines = Array.from({ length: 40 }, (_, i) => `line ${i} of a poem that nobody has written yet`);
    writeFileSync(path, lines.join("\n") + "\n\n");
    await withMock(
        () => stream(1),
        async (mock) => {
            await bench(["--url", mock.url, "--dataset-name", "sonnet", "--dataset-path", path, "--num-prompts", "9"]);
            const prompts = mock.seen.bodies.map((b) => b.prompt);
            assert.equal(prompts.length, 9);
            const rows = prompts.map((p) => p.trimEnd().split("\n"));
            const shared = rows[0].findIndex((line, i) => rows.some((r) => r[i] !== line));
            assert.match(rows[0][0], /^Pick as many lines/);
            for (const p of prompts) assert.ok(Math.abs(p.length / 4 - 550) < 40, `${p.length} bytes`);
            const prefix = rows[0].slice(0, shared).join("\n").length / 4;
            assert.ok(Math.abs(prefix - 200) < 40, `${prefix} tokens are shared`);
            assert.ok(rows.every((r) => r.slice(1).every((line) => lines.includes(line))));
            assert.ok(mock.seen.bodies.every((b) => b.max_tokens === 150));
        },
    );
});

test("prefix_repetition puts a few prefixes before many endings, in any order", async () => {
    const run = (...more) => withMock(
        () => stream(1),
        async (mock) => {
            await bench(["--url", mock.url, "--dataset-name", "prefix_repetition", "--num-prompts", "20", "--prefix-repetition-prefix-len", "12",
                "--prefix-repetition-suffix-len", "8", "--prefix-repetition-num-prefixes", "4", "--prefix-repetition-output-len", "3", "--max-concurrency", "1", ...more]);
            return mock.seen.bodies;
        });
    const bodies = await run("--num-warmups", "2");
    assert.equal(bodies.length, 22);
    const prefixes = bodies.slice(2).map((b) => b.prompt.slice(0, 12).join());
    const counts = [...new Set(prefixes)].map((p) => prefixes.filter((q) => q === p).length);
    assert.deepEqual(counts, [5, 5, 5, 5]);
    assert.notDeepEqual(prefixes.slice(0, 4), prefixes.slice(4, 8), "not in turn");
    assert.equal(new Set(bodies.map((b) => b.prompt.slice(12).join())).size, 22, "every ending is its own");
    assert.ok(bodies.every((b) => b.prompt.length === 20 && b.max_tokens === 3));
    const chats = (await run("--backend", "openai-chat")).map((b) => b.messages[0].content.split(" "));
    assert.ok(chats.every((w) => w.length === 20));
    assert.equal(new Set(chats.map((w) => w.slice(0, 12).join())).size, 4);
});

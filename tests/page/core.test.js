// The parts of the page that need no document.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
    depthStep, EventSplitter, metricByDepth, metricSum, parseMetrics, planWords, readChunk, requestBody, short, thresholdScale,
} from "../../server/web/core.js";

const bytes = (s) => new TextEncoder().encode(s);

test("events come out the same wherever the stream is cut, also inside a character", () => {
    const text = ': ping\n\ndata: {"a":"é😀"}\n\nevent: x\r\ndata: two\r\n\r\n: ping\n\ndata: li\ndata: ne\n\ndata: [DONE]\n\n';
    const want = ['{"a":"é😀"}', "two", "li\nne", "[DONE]"];
    const all = bytes(text);
    for (let size = 1; size <= all.length; size++) {
        const s = new EventSplitter();
        const got = [];
        for (let i = 0; i < all.length; i += size) got.push(...s.push(all.subarray(i, i + size)));
        assert.deepEqual(got, want, `pieces of ${size}`);
    }
});

test("an event without its blank line is not given out", () => {
    assert.deepEqual(new EventSplitter().push(bytes("data: half\n")), []);
});

test("chunks of completions and chats give text, depths, end, usage and errors", () => {
    const rows = [
        ['{"choices":[{"text":"a","depths":[3],"finish_reason":null}]}', { text: "a", depths: [3], finish: null, usage: null, counted: true }],
        ['{"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}', { text: "b", depths: [], finish: "stop", usage: null, counted: true }],
        ['{"choices":[{"delta":{"role":"assistant"}}]}', { text: "", depths: [], finish: null, usage: null, counted: true }],
        ['{"choices":[],"usage":{"completion_tokens":2}}', { text: "", depths: [], finish: null, usage: { completion_tokens: 2 }, counted: false }],
        ['{"error":{"message":"no"}}', { error: "no" }],
        ["[DONE]", { done: true }],
    ];
    for (const [payload, want] of rows) assert.deepEqual(readChunk(payload), want);
    assert.throws(() => readChunk("{"));
});

test("a field left alone is not sent", () => {
    const form = { model: "m", kind: "chat", prompt: "p", effort: "", maxTokens: 5, temperature: 1, seed: NaN, depth: null };
    assert.deepEqual(Object.keys(requestBody(form)).sort(),
        ["max_completion_tokens", "messages", "model", "return_depth", "stream", "stream_options", "temperature"]);
    const full = requestBody({ ...form, kind: "completion", effort: "low", seed: 0, depth: { min: 2, max: 4, threshold: 0.5 } });
    assert.equal(full.prompt, "p");
    assert.equal(full.seed, 0);
    assert.equal(full.reasoning_effort, "low");
    assert.deepEqual(full.depth, { min_loops: 2, max_loops: 4, threshold: 0.5 });
});

test("metrics text is read with labels, escapes and other lines around", () => {
    const m = parseMetrics([
        "# HELP a text", "# TYPE a gauge", "a 1", 'b{x="1",y="q\\"},"} 2.5', 'b{x="2"} 3 1700000000000', "",
        'd{depth="0"} 4', 'd{depth="2"} 6', 'd{depth="-1"} 9', 'd{depth="99999999"} 9', "inf +Inf", "junk",
    ].join("\n"));
    assert.equal(metricSum(m, "a"), 1);
    assert.equal(metricSum(m, "b"), 5.5);
    assert.equal(m.get("b")[0].labels.y, 'q\\"},');
    assert.deepEqual(metricByDepth(m, "d"), [4, 0, 6]);
    assert.equal(metricSum(m, "none"), null);
    assert.deepEqual(metricByDepth(m, "none"), []);
});

test("the scale starts at the first loop and ends at the last, whatever the model", () => {
    assert.deepEqual([1, 8].map((d) => depthStep(d, 8)), [0, 9]);
    assert.deepEqual([0, 1, 64, 65].map((d) => depthStep(d, 64)), [0, 0, 9, 9]);
    assert.equal(depthStep(1, 1), 9);
    for (let d = 1; d < 16; d++) assert.ok(depthStep(d, 16) <= depthStep(d + 1, 16));
});

test("figures keep their width", () => {
    assert.deepEqual([0, 7, 12.34, 123.4, 12345, 1234567, NaN].map(short), ["0", "7", "12.3", "123", "12.3k", "1.2M", "–"]);
});

test("the slider for a threshold follows the exit rule", () => {
    assert.deepEqual(thresholdScale({ rule: "hazard", threshold: 1, above: 0, most: 1 }),
        { min: 0.05, max: 1, step: 0.01, value: 1, unit: "exit probability" });
    const change = thresholdScale({ rule: "latent-diff", threshold: 0.03, above: 0, most: 1e6 });
    assert.ok(change.min > 0 && change.max >= 0.3 - 1e-9 && change.value === 0.03);
    for (const rule of ["latent-diff", "cosine"]) { // as published: every loop runs
        const all = thresholdScale({ rule, threshold: 0, above: 0, most: 2, all_loops_at: 0 });
        assert.ok(all.min === 0 && all.value === 0 && all.max > 0 && all.step > 0);
    }
    assert.equal(thresholdScale({ rule: "fixed", threshold: null, above: null, most: null }), null);
    assert.equal(thresholdScale(undefined).unit, "halting mass"); // an older server
});

test("the plan in words says layers, exit rule and cap; an older server says nothing", () => {
    const card = { family: "openmythos", core_layers: 1, exit: { rule: "act", threshold: 0.99000001 }, loops: { default: 8, cap: 16 } };
    assert.equal(planWords(card), "openmythos, 1 core layer, exit by act at 0.99, at most 16 loops");
    const fixed = { family: "nanbeige", core_layers: 22, exit: { rule: "fixed", threshold: null }, loops: { default: 2, least: 2, cap: 2 } };
    assert.equal(planWords(fixed), "nanbeige, 22 core layers, a fixed number of loops, always 2 loops");
    assert.equal(planWords({ max_loops: 8 }), "");
});

// The parts of the page that need no document.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
    EventSplitter, finishWords, isRight, metricByDepth, metricSum, parseIds, parseMetrics, planWords, readChunk, readExample, saved, short, thresholdRange,
} from "../../server/web/core.js";
import { curlOf, readLines, readLink, requestBody, writeLines, writeLink } from "../../server/web/form.js";
import { readCard } from "../../server/web/model.js";
import { escapeXml, flow, layOut, toSvg } from "../../server/web/picture.js";
import { contrast, linear, ramp, scaleEnd, toLab } from "../../server/web/ramp.js";

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

test("chunks of completions and chats give text, reasoning, ids, depths, end, usage and errors", () => {
    const none = { text: "", reasoning: "", ids: [], depths: [], draft: "", finish: null, stopReason: null, usage: null, counted: true };
    const rows = [
        ['{"choices":[{"text":"a","depths":[3],"token_ids":[9],"finish_reason":null}]}', { ...none, text: "a", depths: [3], ids: [9] }],
        ['{"choices":[{"delta":{"content":"b"},"finish_reason":"stop","stop_reason":"END"}]}', { ...none, text: "b", finish: "stop", stopReason: "END" }],
        ['{"choices":[{"delta":{"reasoning_content":"hm"}}]}', { ...none, reasoning: "hm" }],
        ['{"choices":[{"delta":{"role":"assistant"}}]}', none],
        ['{"choices":[{"delta":{"content":"c"},"draft":" d"}]}', { ...none, text: "c", draft: " d" }],
        ['{"choices":[{"text":"","draft":7}]}', none],
        ['{"choices":[{"text":"","token_ids":[4],"draft_token_ids":[5,"x",6]}]}', { ...none, ids: [4], draft: " 5 6" }],
        ['{"choices":[],"usage":{"completion_tokens":2}}', { ...none, usage: { completion_tokens: 2 }, counted: false }],
        ['{"error":{"message":"no"}}', { error: "no" }],
        ["[DONE]", { done: true }],
    ];
    for (const [payload, want] of rows) assert.deepEqual(readChunk(payload), want);
    assert.throws(() => readChunk("{"));
});

test("a setting left alone is not sent, and a column sets the loops itself", () => {
    const body = (settings, loops) => requestBody("m", settings, { prompt: "p" }, loops);
    assert.deepEqual(Object.keys(body({})).sort(), ["model", "prompt", "return_depth", "stream", "stream_options"]);
    assert.equal(body({ temperature: 0, seed: 0 }).temperature, 0);
    assert.deepEqual(body({ min_loops: 2, max_loops: 4, threshold: 0.5 }).depth, { min_loops: 2, max_loops: 4, threshold: 0.5 });
    assert.deepEqual(body({ max_loops: 4, reasoning_effort: "low" }, null).depth, undefined, "the model's own depth");
    assert.equal(body({ reasoning_effort: "low" }, null).reasoning_effort, undefined);
    assert.deepEqual(body({ min_loops: 3 }, 1).depth, { min_loops: 1, max_loops: 1 }, "a range is never empty");
    const chat = requestBody("m", { max_tokens: 5, system: "s", template: "chat" }, { messages: [] });
    assert.deepEqual([chat.max_completion_tokens, chat.max_tokens, chat.system, chat.template], [5, undefined, undefined, undefined]);
});

test("a link gives back what it was made of, and nothing of a foreign one can do harm", () => {
    const state = { kind: "compare", prompt: "a&b=c #%\n\u{1f600} +", loops: [1, 2, null], settings: { temperature: 0, stop: ["\n", "a\\n"], system: "s" } };
    const back = readLink(writeLink(state));
    assert.deepEqual([back.kind, back.prompt, back.loops], [state.kind, state.prompt, state.loops]);
    assert.deepEqual([back.settings.temperature, back.settings.stop, back.settings.system, back.settings.seed], [0, ["\n", "a\\n"], "s", null]);
    assert.equal(readLink("#answers"), null);
    assert.equal(readLink(""), null);
    const odd = readLink("#p=x&kind=__proto__&loops=0,-1,9,1e9,5,6&seed=NaN&%ff");
    assert.deepEqual([odd.kind, odd.loops, odd.settings.seed], ["completion", [null, null, 9, null], null]);
    assert.equal(readLink(`#p=${"x".repeat(200000)}`).prompt.length, 100000);
});

test("stop texts are written one a line, with line breaks as \\n", () => {
    for (const list of [["\n"], ["a", "b\tc"], ["\\n"], ["\\", "\n\n"]]) assert.deepEqual(readLines(writeLines(list)), list);
});

test("the command for a request quotes what a shell would read, and names the key without telling it", () => {
    assert.equal(curlOf("http://h/v1/completions", { prompt: "it's" }, true),
        `curl -N 'http://h/v1/completions' -H 'Content-Type: application/json' -H "Authorization: Bearer $FATHOM_KEY" \\\n  -d '{"prompt":"it'\\''s"}'`);
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

/** A colour as people without red or green receptors see it (Viénot 1999), or without blue ones (Brettel, in short). */
const SIGHT = {
    protan: [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    deutan: [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    tritan: [[1, 0.1446, -0.1446], [0, 0.8592, 0.1408], [0, 0.8592, 0.1408]],
};
const seenBy = (sight, hex) => {
    const rgb = linear(hex);
    const bytes = sight.map((row) => row.reduce((sum, v, i) => sum + v * rgb[i], 0))
        .map((v) => Math.round(255 * Math.min(1, Math.max(0, v <= 0.0031308 ? v * 12.92 : 1.055 * v ** (1 / 2.4) - 0.055))));
    return `#${bytes.map((v) => v.toString(16).padStart(2, "0")).join("")}`;
};

test("neighbouring depths look different, light and dark, with every kind of colour vision, and text reads on each", () => {
    for (const dark of [false, true]) {
        for (const most of [4, 8, 12]) {
            const colours = ramp(most, dark);
            assert.equal(colours.length, most);
            for (let i = 0; i < most; i++) {
                assert.ok(contrast(colours[i].ground, colours[i].ink) >= 4.5, `text at depth ${i + 1} of ${most}`);
                if (i === 0) continue;
                const [p, q] = [colours[i - 1].ground, colours[i].ground];
                assert.ok(dark ? toLab(q)[0] > toLab(p)[0] : toLab(q)[0] < toLab(p)[0], "lightness alone orders them");
                for (const look of [(c) => c, ...Object.values(SIGHT).map((s) => (c) => seenBy(s, c))]) {
                    const [a, b] = [toLab(look(p)), toLab(look(q))];
                    const apart = Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]);
                    // 0.02 is about what a careful eye just sees between touching fields.
                    assert.ok(apart > (most <= 8 ? 0.055 : 0.035), `depth ${i} and ${i + 1} of ${most}, ${dark ? "dark" : "light"}: ${apart.toFixed(3)}`);
                }
            }
        }
    }
});

test("the scale is the model's own up to 12 loops, and follows the answers of a deeper model", () => {
    assert.deepEqual([1, 4, 8, 12].map((n) => scaleEnd(n, 99)), [1, 4, 8, 12]);
    assert.deepEqual([1, 8, 9, 20, 32, 99].map((seen) => scaleEnd(32, seen)), [8, 8, 12, 24, 32, 32]);
    assert.equal(ramp(1, false).length, 1);
});

test("figures keep their width", () => {
    assert.deepEqual([0, 7, 12.34, 123.4, 12345, 1234567, NaN].map(short), ["0", "7", "12.3", "123", "12.3k", "1.2M", "–"]);
});

test("the threshold's range follows the exit rule", () => {
    assert.deepEqual(thresholdRange({ rule: "hazard", threshold: 1, above: 0, most: 1 }), { value: 1, most: 1, unit: "exit probability" });
    assert.deepEqual(thresholdRange({ rule: "latent-diff", threshold: 0.03, above: 0, most: 1e6 }), { value: 0.03, most: 1e6, unit: "relative change" });
    assert.equal(thresholdRange({ rule: "fixed", threshold: null, above: null, most: null }), null);
    assert.equal(thresholdRange(undefined).unit, "halting mass"); // an older server
});

test("loops saved compare with the model's own number for each token", () => {
    assert.equal(saved(57, 21, 8), 1 - 57 / 168);
    assert.equal(saved(16, 1, 8), -1);
    assert.ok(Number.isNaN(saved(0, 0, 8)));
});

test("the end of an answer is told in words", () => {
    assert.match(finishWords("length", null, 1234), /^Cut at 1,234 tokens/);
    assert.equal(finishWords("stop", 5, 1), "Ended by the model");
    assert.equal(finishWords("stop", "\n", 1), 'Ended at the stop text "\\n"');
});

test("token ids are read in the usual spellings, and other text is not", () => {
    for (const t of ["1 2 3", "1,2, 3", " [1, 2, 3] ", "1\n2\n3"]) assert.deepEqual(parseIds(t), [1, 2, 3]);
    for (const t of ["", "[]", "a", "1 b", "-1", "1.5", "99999999999"]) assert.equal(parseIds(t), null);
});

test("an expected answer is right when it is said, not when another word begins like it", () => {
    assert.equal(isRight(" Zoe.", " Zoe"), true);
    assert.equal(isRight("Zoe", " Zoe"), true);
    assert.equal(isRight(" Zoey", " Zoe"), false);
    assert.equal(isRight(" Kim", " Zoe"), false);
    assert.equal(isRight(" Kim", undefined), null);
});

test("an example keeps its good members and loses the others; a card of an older server gets defaults", () => {
    assert.equal(readExample({ title: "t" }), null);
    assert.equal(readExample(null), null);
    assert.deepEqual(readExample({ title: "t", prompt: "p", kind: "x", max_tokens: "8", loops: [1, null, 0, "2"], stop: "a", evil: 1 }),
        { title: "t", prompt: "p", kind: "completion", stop: ["a"], loops: [1, null] });
    assert.equal(readExample({ title: "t", prompt: "p", loops: 3 }).max_loops, 3, "one number bounds a completion");
    const card = readCard({ id: 5, max_loops: 8, meta: { examples: "none" } });
    assert.deepEqual([card.id, card.usual, card.least, card.cap, card.chat, card.examples], ["5", 8, 1, 8, true, []]);
});

test("a picture breaks lines as the page does, and its text is escaped", () => {
    const measure = (t) => 10 * t.length;
    const { boxes, height } = flow([{ text: "aa bb" }, { text: "b cc\n\nd" }, { text: "e".repeat(25) }], 100, measure);
    assert.deepEqual(boxes.filter((b) => b.text.trim()).map((b) => [b.text, b.x, b.y]), [
        ["aa", 0, 0], ["bb", 30, 0], ["b", 50, 0], ["cc", 70, 0], ["d", 0, 64],
        ["e".repeat(9), 10, 64], ["e".repeat(10), 0, 96], ["e".repeat(6), 0, 128],
    ]);
    assert.equal(height, 160);
    assert.equal(escapeXml('<a b="c">&\u0000\ud800x\u{1f600}'), "&lt;a b=&quot;c&quot;&gt;&amp;\ufffd\ufffdx\u{1f600}");
    const look = { paper: "#fff", ink: "#000", soft: "#555", colours: ramp(8, false) };
    const column = { title: "1 loop", before: "p", tokens: [{ text: " </text><script>", depths: [99] }], end: ["✓ right", "E".repeat(200)], figures: [["Tokens", "1"]] };
    const svg = toSvg(layOut({ model: "m", prompt: "q", columns: [column, column] }, look, measure));
    assert.ok(!svg.includes("<script") && svg.includes("&lt;script&gt;"));
    assert.match(svg, />E{40,60}…</, "a line that is too long is cut");
});

test("the plan in words says layers, exit rule and cap; an older server says nothing", () => {
    const card = { family: "openmythos", core_layers: 1, exit: { rule: "act", threshold: 0.99000001 }, loops: { default: 8, cap: 16 } };
    assert.equal(planWords(card), "openmythos, 1 core layer, exit by act at 0.99, 8 loops, or up to 16 if asked for");
    assert.match(planWords({ ...card, loops: { least: 1, default: 16, cap: 16 } }), /at most 16 loops$/);
    const fixed = { family: "nanbeige", core_layers: 22, exit: { rule: "fixed", threshold: null }, loops: { default: 2, least: 2, cap: 2 } };
    assert.equal(planWords(fixed), "nanbeige, 22 core layers, a fixed number of loops, always 2 loops");
    assert.equal(planWords({ max_loops: 8 }), "");
});

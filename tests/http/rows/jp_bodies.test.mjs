// Tables J and P: what a JSON body may not be, and the range of every field.
import assert from "node:assert/strict";
import { Table, assertError } from "../lib/rows.mjs";
import { textOf } from "../lib/server.mjs";

const good = { model: "demo", prompt: "Lord", max_tokens: 2, temperature: 0 };
const chat = { model: "demo", messages: [{ role: "user", content: "Lord" }], max_tokens: 2, temperature: 0 };
const send = (s, body, path = "/v1/completions") => s.request("POST", path, { body });
const inv = { type: "invalid_request_error" };

const j = new Table("J");
function text(id, what, body, options) {
    j.row(id, what, async (s) => {
        for (const one of [body].flat()) assertError(await send(s, one), 400, inv);
    }, options);
}
const within = (v, key = "top_p") => JSON.stringify(good).slice(0, -1) + `,"${key}":${v}}`;
text("J1", "empty body, blanks only", ["", "  \r\n\t "]);
text("J2", "cut in mid-object or mid-string", ['{"model":"demo"', '{"model":"de', '{"model":"demo","prompt":"x']);
text("J3", "bytes after the value, or a NUL", [JSON.stringify(good) + "x", JSON.stringify(good) + "{}", Buffer.concat([Buffer.from(JSON.stringify(good)), Buffer.from([0])])]);
text("J4", "top level array, string, number", ["[]", '"x"', "1", "null", "true", JSON.stringify([good])]);
text("J5", "a key twice", ['{"model":"demo","prompt":"a","prompt":"b"}', '{"model":"demo","prompt":"a","depth":{"max_loops":1,"max_loops":2}}'], { differs: "400, but param is null: jansson does not tell which key, and its text, which quotes the input, is not used" });
text("J6", "nesting of 2,049", within("[".repeat(2049) + "]".repeat(2049)));
const rss = async (s) => Number(/VmRSS:\s+(\d+)/.exec((await import("node:fs")).readFileSync(`/proc/${s.child.pid}/status`, "utf8"))[1]) / 1024;
j.row("J7", "1 MiB of [{},{},…", async (s) => {
    const before = await rss(s);
    assertError(await send(s, within(`[${"{},".repeat(349000)}{}]`, "x")), [400, 413]);
    assert.ok((await rss(s)) - before < 40, "refused before it costs memory");
});
j.row("J8", "1 MiB of [[],… , [0,0… and many keys", async (s) => {
    assertError(await send(s, within(`[${"[],".repeat(349000)}[]]`, "x")), [400, 413]);
    assertError(await send(s, within(`[${"0,".repeat(500000)}0]`, "x")), [400, 413]);
    assertError(await send(s, "{" + Array.from({ length: 110000 }, (_, i) => `"k${i}":0`).join(",") + "}"), [400, 413]);
});
text("J9", "NaN, Infinity, +1, 01, .5, 5., hex", ["NaN", "Infinity", "-Infinity", "+1", "01", ".5", "5.", "0x1"].map((v) => within(v)));
text("J10", "1e400", within("1e400"));
j.row("J11", "1e-400 is 0", async (s) => {
    assert.equal((await send(s, within("1e-400"))).status, 200);
    assert.equal((await send(s, '{"model":"demo","prompt":"a","max_tokens":1,"temperature":1e-400}')).status, 200);
});
text("J12", "an integer above 2^63", [within("9223372036854775808", "seed"), within("99999999999999999999", "n")]);
j.row("J13", "1.0 or 1e2 is an integer, 1.5 is none", async (s) => {
    for (const body of [within("1.0", "n"), within("1e0", "min_tokens")]) assert.equal((await send(s, body)).status, 200);
    assertError(await send(s, within("1.5", "n")), 400, inv);
});
j.row("J14", "-0 is 0", async (s) => {
    assert.equal((await send(s, within("-0", "seed"))).status, 200);
    assertError(await send(s, within("-0", "n")), 400, { param: "n" });
});
j.row("J15", "\\u0000 in a prompt is a character, in a name it is refused", async (s) => {
    const r = await send(s, { ...good, prompt: "a\u0000b" });
    assert.equal(r.status, 200);
    const two = await s.request("POST", "/tokenize", { body: { prompt: "a\u0000b" } }), one = await s.request("POST", "/tokenize", { body: { prompt: "a" } });
    assert.ok(two.json.tokens.length > one.json.tokens.length, "what stands behind it counts");
    assertError(await send(s, { ...good, model: "demo\u0000" }), 400, { param: "model" });
    assertError(await send(s, { ...good, stop: "x\u0000" }), 400, { param: "stop" });
});
text("J16", "NUL in a key", '{"model":"demo","prompt":"a","x\\u0000y":1}');
text("J17", "a lone surrogate", ['{"model":"demo","prompt":"\\ud800"}', '{"model":"demo","prompt":"\\udc00x"}']);
const bytes = (...b) => Buffer.concat([Buffer.from('{"model":"demo","prompt":"'), Buffer.from(b), Buffer.from('"}')]);
text("J18", "bad UTF-8, overlong, surrogate in UTF-8", [bytes(0xff), bytes(0xc0, 0xaf), bytes(0xed, 0xa0, 0x80), bytes(0xf5, 0x80, 0x80, 0x80), bytes(0xe2, 0x82)]);
text("J19", "a raw control byte in a string", [bytes(1), bytes(10), bytes(0)]);
text("J20", "two byte order marks; UTF-16", [Buffer.concat([Buffer.from([0xef, 0xbb, 0xbf, 0xef, 0xbb, 0xbf]), Buffer.from(JSON.stringify(good))]), Buffer.from("\ufeff" + JSON.stringify(good), "utf16le")]);
text("J21", "comments, trailing comma, single quotes", ['{"model":"demo",/*x*/"prompt":"a"}', '{"model":"demo","prompt":"a",}', "{'model':'demo'}"]);
j.row("J22", "an unknown top-level field is ignored", async (s) => {
    assert.equal((await send(s, within('{"deep":[1,2]}', "no_such_field"))).status, 200);
});
j.row("J23", "a known field of the wrong type is named; null is absent", async (s) => {
    for (const [key, v] of [["temperature", '"hot"'], ["max_tokens", '"many"'], ["stream", '"yes"'], ["n", "[]"], ["stop", "5"], ["seed", "{}"], ["echo", "1"], ["logit_bias", "[]"], ["top_k", "true"]]) {
        const body = { ...good };
        delete body[key];
        const r = await send(s, JSON.stringify(body).slice(0, -1) + `,"${key}":${v}}`);
        assertError(r, 400, { ...inv, param: key });
    }
    const nulls = { ...good };
    for (const key of ["top_p", "stop", "seed", "n", "logprobs", "stream", "stream_options", "logit_bias", "user", "suffix", "best_of", "echo"]) nulls[key] = null;
    assert.equal((await send(s, nulls)).status, 200);
});
j.row("J24", "an error never quotes the parser, and the input at most in short", async (s) => {
    const secret = "s3cr3t-" + "y".repeat(5000);
    const r = await send(s, `{"model":"demo","prompt":"${secret}" oops}`);
    assertError(r, 400, inv);
    assert.ok(!r.text.includes("s3cr3t"));
    const model = await send(s, { ...good, model: "m".repeat(5000) });
    assert.ok(model.text.length < 800);
});
j.row("J25", "memory that runs out in the parser", async () => {}, { skip: "unit tests: the allocator that fails at its Nth call" });
j.done(25);

const p = new Table("P");
const context = 1024;
// Each case: fields laid over a good body (undefined takes one away), and the field named.
function range(id, what, cases, param, { status = 400, path, ...options } = {}) {
    p.row(id, what, async (s) => {
        for (const fields of cases) {
            const base = path === "/v1/chat/completions" ? chat : good;
            const r = await send(s, { ...base, ...fields }, path);
            try {
                assertError(r, status, status === 404 ? {} : inv);
                if (param) assert.ok([param].flat().includes(r.json.error.param), `param ${r.json.error.param}`);
            } catch (error) {
                error.message = `${JSON.stringify(fields).slice(0, 200)}: ${error.message}`;
                throw error;
            }
        }
    }, options);
}
const ok = (id, what, cases, path) => p.row(id, what, async (s) => {
    for (const fields of cases) {
        const r = await send(s, { ...(path ? chat : good), ...fields }, path);
        assert.equal(r.status, 200, `${JSON.stringify(fields).slice(0, 200)}: ${r.text.slice(0, 300)}`);
    }
});
// P1 also lists an absent model. One model is served here, and llama.cpp's clients leave the name out
// (vLLM allows null): absent or null means the served one; basic.test.mjs shows it.
range("P1", "model: not a string, over 128 bytes, control bytes", [{ model: 5 }, { model: [] }, { model: "a\u0001b" }, { model: "m".repeat(129) }], "model");
p.row("P1b", "model absent or null is the one there is", async (s) => {
    assert.equal((await send(s, { ...good, model: undefined })).status, 200);
    assert.equal((await send(s, { ...good, model: null })).status, 200);
}, { differs: "a server of one model needs no name; vLLM, SGLang and llama.cpp take such bodies, and load tools send them" });
range("P2", "an unknown model", [{ model: "gpt-4" }], "model", { status: 404 });
range("P3", "max_tokens: 0, negative, real, beyond 53 bits", [{ max_tokens: 0 }, { max_tokens: -2 }, { max_tokens: 1.5 }, { max_tokens: 2 ** 60 }], "max_tokens");
p.row("P4", "prompt + max_tokens above the context: the limit is cut", async (s) => {
    for (const max_tokens of [context, 2 ** 40]) {
        const r = await send(s, { ...good, max_tokens, ignore_eos: true });
        assert.equal(r.status, 200, r.text);
        assert.equal(r.json.choices[0].finish_reason, "length");
        assert.equal(r.json.usage.total_tokens, context);
    }
});
p.row("P5", "max_tokens absent: the default, not the context", async (s) => {
    const r = await send(s, { ...good, max_tokens: undefined, ignore_eos: true });
    assert.equal(r.json.usage.completion_tokens, 16);
});
range("P6", "temperature below 0 or above 2", [{ temperature: -0.1 }, { temperature: 2.1 }, { temperature: 1e300 }], "temperature");
ok("P7", "temperature 0 and 1e-38 are greedy", [{ temperature: 0 }, { temperature: 1e-38 }, { temperature: 2 }]);
range("P8", "top_p: negative, above 1", [{ top_p: -1 }, { top_p: 1.01 }], "top_p");
range("P9", "top_k: below -1, above the vocabulary", [{ top_k: -2 }, { top_k: 100000 }], "top_k");
ok("P9b", "top_k 0 and -1 are off", [{ top_k: 0 }, { top_k: -1 }, { top_k: 2048 }]);
range("P10", "min_p", [{ min_p: -0.1 }, { min_p: 1.1 }], "min_p");
range("P11", "penalties outside ±2", [{ frequency_penalty: 2.1 }, { frequency_penalty: -2.1 }], "frequency_penalty");
range("P11b", "penalties outside ±2", [{ presence_penalty: 2.1 }, { presence_penalty: -9 }], "presence_penalty");
range("P12", "repetition penalty", [{ repetition_penalty: 0 }, { repetition_penalty: 1e-30 }, { repetition_penalty: -1 }, { repetition_penalty: 11 }], "repetition_penalty");
range("P13", "n: below 1, above the limit", [{ n: 0 }, { n: -1 }, { n: 17 }, { n: 2 ** 31 }], "n");
range("P14", "best_of: below n, above n", [{ best_of: 1, n: 2 }, { best_of: 3, n: 2 }], "best_of");
range("P15", "n × max_tokens × prompts above the budget of one request", [{ n: 16, prompt: Array(64).fill([300]), max_tokens: 1000 }], ["n", "max_tokens"]);
range("P16", "stop: 17 entries, 257 bytes, not strings", [{ stop: Array(17).fill("a") }, { stop: "x".repeat(257) }, { stop: [1] }, { stop: {} }], "stop");
range("P17", "stop_token_ids: 17 entries, negative, beyond the vocabulary", [{ stop_token_ids: Array(17).fill(1) }, { stop_token_ids: [-1] }, { stop_token_ids: [2048] }, { stop_token_ids: ["a"] }], "stop_token_ids");
range("P18", "logit_bias: 301 entries, odd keys, out of range", [
    { logit_bias: Object.fromEntries(Array.from({ length: 301 }, (_, i) => [i, 1])) }, { logit_bias: { abc: 1 } }, { logit_bias: { 2048: 1 } }, { logit_bias: { "007": 1 } },
    { logit_bias: { "-1": 1 } }, { logit_bias: { 5: 101 } }, { logit_bias: { 5: "x" } }, { logit_bias: { 5: null } }], "logit_bias");
p.row("P19", "logit_bias that bans every token", async () => {}, { skip: "cannot be sent: 300 entries are fewer than any vocabulary; unit tests cover a small one" });
range("P20", "logprobs beyond their limits", [{ logprobs: -2 }, { logprobs: 21 }], "logprobs");
range("P20b", "top_logprobs beyond their limits, or without logprobs", [{ top_logprobs: 5 }, { logprobs: true, top_logprobs: 21 }, { logprobs: true, top_logprobs: -1 }], "top_logprobs", { path: "/v1/chat/completions" });
range("P21", "prompt_logprobs -1", [{ prompt_logprobs: -1 }], "prompt_logprobs");
p.row("P22", "echo with max_tokens 0 scores the prompt", async (s) => {
    const r = await send(s, { ...good, prompt: "In the beginning", echo: true, max_tokens: 0, logprobs: 1 });
    assert.equal(r.status, 200);
    const l = r.json.choices[0].logprobs;
    assert.equal(l.token_logprobs[0], null);
    assert.equal(l.tokens.join(""), "In the beginning");
});
range("P23", "seed: not an integer of 64 bits", [{ seed: 1.5 }, { seed: "1" }], "seed");
p.row("P23b", "the same seed gives the same tokens, also among others", async (s) => {
    const body = { ...good, max_tokens: 24, temperature: 1, seed: 7 };
    const first = (await send(s, body)).json.choices[0].text;
    const all = await Promise.all([body, { ...body, seed: 8 }, body, { ...body, prompt: "Other" }].map((b) => send(s, b)));
    assert.equal(all[0].json.choices[0].text, first);
    assert.equal(all[2].json.choices[0].text, first);
});
range("P24", "stream not a boolean", [{ stream: "true" }, { stream: 1 }], "stream");
range("P24b", "stream_options without stream", [{ stream_options: { include_usage: true } }], "stream_options");
range("P25", "user of 129 bytes", [{ user: "u".repeat(129) }], "user");
range("P26", "suffix is refused, not ignored", [{ suffix: "x" }], "suffix");
range("P26b", "what is not supported is refused by name", [{ functions: [{ name: "f" }] }, { modalities: ["audio"] }], ["functions", "modalities"], { path: "/v1/chat/completions" });
range("P27", "a response_format that is not known", [{ response_format: { type: "yaml" } }, { response_format: "json" }], ["response_format", "response_format.type"], { path: "/v1/chat/completions" });
range("P28", "messages: empty, too many, odd roles and contents", [
    { messages: [] }, { messages: Array(1001).fill({ role: "user", content: "a" }) }, { messages: "hi" }, { messages: [1] }, { messages: [{ role: "king", content: "a" }] },
    { messages: [{ role: "user" }] }, { messages: [{ role: "user", content: 5 }] }, { messages: [{ content: "a" }] },
    { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "http://x" } }] }] }], null, { path: "/v1/chat/completions" });
range("P29", "two assistant messages at the end", [{ messages: [{ role: "user", content: "a" }, { role: "assistant", content: "b" }, { role: "assistant", content: "c" }] }], null, { path: "/v1/chat/completions" });
range("P30", "an empty prompt", [{ prompt: "" }, { prompt: [] }, { prompt: [[]] }, { prompt: [""] }, { prompt: undefined }, { prompt: null }], "prompt");
range("P31", "prompts: too many, mixed", [{ prompt: Array(65).fill("a") }, { prompt: [1, "a"] }, { prompt: ["a", [1]] }, { prompt: {} }], "prompt");
range("P32", "ids: negative, beyond the vocabulary, real", [{ prompt: [-1] }, { prompt: [2048] }, { prompt: [1.5] }, { prompt: [2 ** 40] }, { prompt: [[300], [99999]] }], "prompt");
range("P33", "a client's template or its arguments", [{ chat_template: "{{x}}" }, { chat_template_kwargs: { messages: [] } }, { chat_template_kwargs: 1 }], ["chat_template", "chat_template_kwargs"], { path: "/v1/chat/completions" });
range("P34", "priority and cache_salt out of range", [{ priority: "high" }, { priority: 1.5 }], "priority");
range("P34b", "cache_salt over 64 bytes or not a string", [{ cache_salt: "s".repeat(65) }, { cache_salt: 5 }], "cache_salt");
p.row("P35", "a timeout field", async (s) => {
    assert.equal((await send(s, { ...good, timeout: -1 })).status, 200);
}, { differs: "no such field is offered; unknown keys are ignored, the server's own limits hold" });
range("P36", "depth out of range", [{ depth: { max_loops: 0 } }, { depth: { max_loops: 17 } }, { depth: { min_loops: 9, max_loops: 3 } }, { depth: { threshold: 0 } }, { depth: { threshold: 1.1 } }, { depth: 5 }, { depth: { max_loops: 1.5 } }],
    ["depth", "depth.max_loops", "depth.min_loops", "depth.threshold"]);
range("P37", "a url, file or path", [{ messages: [{ role: "user", content: [{ type: "file", file: { file_id: "x" } }] }] }, { messages: [{ role: "user", content: [{ type: "input_audio", input_audio: {} }] }] }], null, { path: "/v1/chat/completions" });
p.done(37);
void textOf;

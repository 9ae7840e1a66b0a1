// Speculation as a client sees it: the same answers at any setting, and drafts that are no part of them.
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { chunks, root, textOf, until, withServer } from "./lib/server.mjs";

const prompts = ["In the beginning God", "And it came to pass", "Blessed are the", "Who is he that"];
const asks = [
    { temperature: 0 },
    { temperature: 0.8, seed: 7, top_p: 0.9 },
    { temperature: 0, stop: ["the", " and"], include_stop_str_in_output: true },
    { temperature: 0.7, seed: 11, repetition_penalty: 1.2, n: 2, logprobs: 2, return_depth: true },
];
const bodies = asks.flatMap((how, i) => prompts.map((prompt) => ({ model: "demo", prompt, max_tokens: 24 + i, ignore_eos: true, ...how })));
const drafting = { stream: true, stream_options: { include_drafts: true, include_usage: true } };

/** A choice of a whole answer, from its stream. */
const joined = (list, index) => {
    const own = list.flatMap((c) => c.choices).filter((c) => c.index === index);
    return { text: own.map((c) => c.text).join(""), finish: own.at(-1).finish_reason, depths: own.flatMap((c) => c.depths ?? []) };
};

async function answersOf(args, { streamed }) {
    const all = [];
    await withServer(args, { device: "cpu" }, async (s) => {
        for (const body of bodies) {
            if (!streamed) {
                const { json } = await s.post("/v1/completions", body);
                all.push({ choices: json.choices.map((c) => ({ text: c.text, finish: c.finish_reason, depths: c.depths ?? [] })), usage: json.usage });
                continue;
            }
            const list = chunks((await s.post("/v1/completions", { ...body, ...drafting })).text);
            all.push({ choices: Array.from({ length: body.n ?? 1 }, (_, i) => joined(list, i)), usage: list.at(-1).usage });
        }
    });
    return all.map(({ choices, usage }) => ({ choices, tokens: usage.completion_tokens }));
}

for (const policy of ["exact", "last"]) {
    test(`answers under policy ${policy} are the same at every setting of --speculate, whole or streamed with drafts`, async () => {
        const args = ["--halted-kv", policy];
        const want = await answersOf([...args, "--speculate", "off"], { streamed: false });
        for (const how of [["auto"], ["1"], ["3", "--draft-loops", "1"], ["64", "--draft-loops", "2"]]) {
            for (const streamed of [false, true]) {
                assert.deepEqual(await answersOf([...args, "--speculate", ...how], { streamed }), want, `${how.join(" ")}, ${streamed ? "streamed" : "whole"}`);
            }
        }
    });
}

test("an answer that must match a schema, or be a call, is the same with and without speculation", async () => {
    const schema = { type: "object", properties: { name: { type: "string", maxLength: 9 }, n: { type: "integer", minimum: 0, maximum: 99 } }, required: ["name", "n"], additionalProperties: false };
    const held = [
        { response_format: { type: "json_schema", json_schema: { name: "s", schema } } },
        { tools: [{ type: "function", function: { name: "f", parameters: schema } }], tool_choice: "required" },
        { response_format: { type: "json_object" } },
    ];
    const answers = async (how) => {
        const all = [];
        await withServer(["--speculate", ...how], { device: "cpu" }, async (s) => {
            for (const more of held) {
                for (let seed = 1; seed <= 8; seed++) {
                    const body = { model: "demo", messages: [{ role: "user", content: `In the ${seed} beginning` }], max_tokens: 60, temperature: seed % 2, seed, ...more };
                    const { status, json } = await s.post("/v1/chat/completions", body);
                    all.push({ status, error: json.error?.message, message: json.choices?.[0].message.content, call: json.choices?.[0].message.tool_calls?.[0].function });
                }
            }
        });
        return all;
    };
    const want = await answers(["off"]);
    assert.ok(want.every((a) => a.status === 200));
    for (const how of [["auto"], ["1", "--draft-loops", "1"], ["4", "--draft-loops", "1"]]) assert.deepEqual(await answers(how), want, how.join(" "));
});

test("a stream that asks sees what is drafted, and its text is that of a stream that does not ask", async () => {
    await withServer(["--speculate", "4", "--draft-loops", "1"], { device: "cpu", model: path.join(root, "models/hops") }, async (s) => {
        const prompt = "Ann's friend is Kim. Kim's friend is Bob. Bob's friend is Ann. Ann's friend's friend is";
        // A draft that is settled before it can be sent is not shown: on a busy machine a whole answer may show none.
        let shown = [];
        await until("something is drafted", async () => {
            const list = chunks((await s.post("/v1/completions", { prompt, max_tokens: 20, temperature: 0, ignore_eos: true, ...drafting })).text);
            shown = list.map((c) => c.choices[0]).filter(Boolean);
            return shown.some((c) => c.draft);
        });
        assert.ok(shown.every((c) => c.draft === undefined || c.draft.length > 0));
        assert.equal(shown.at(-1).draft, undefined);
        const m = await s.metrics();
        const right = m["vllm:spec_decode_num_accepted_tokens_total"], drafted = m["vllm:spec_decode_num_draft_tokens_total"];
        assert.ok(drafted > 0 && right + m["fathom_withdrawn_drafts_total"] === drafted, `${right} right of ${drafted}`);
        // Without the wish a stream says nothing of drafts.
        const plain = (await s.post("/v1/completions", { prompt, max_tokens: 20, temperature: 0, ignore_eos: true, stream: true })).text;
        assert.ok(!plain.includes('"draft"'));
        assert.equal(textOf(plain), shown.map((c) => c.text).join(""));
    });
});

// Function calling through the official `openai` package.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { client, model } from "./demo.js";

const messages = [{ role: "user", content: "Who begat Isaac?" }];
const tools = [
    {
        type: "function",
        function: {
            name: "find_verse",
            description: "Finds a verse",
            parameters: {
                type: "object",
                properties: {
                    book: { enum: ["genesis", "exodus", "psalms"] },
                    chapter: { type: "integer", minimum: 1, maximum: 150 },
                },
                required: ["book", "chapter"],
                additionalProperties: false,
            },
        },
    },
    { type: "function", function: { name: "say_amen", parameters: { type: "object", properties: {}, additionalProperties: false } } },
];
const named = { type: "function", function: { name: "find_verse" } };
const ask = { model, messages, tools, temperature: 1, max_completion_tokens: 300 };

function checkCall(call) {
    assert.equal(call.type, "function");
    assert.ok(call.id.length > 4);
    const args = JSON.parse(call.function.arguments);
    if (call.function.name === "say_amen") assert.deepEqual(args, {});
    else {
        assert.equal(call.function.name, "find_verse");
        assert.deepEqual(Object.keys(args).sort(), ["book", "chapter"]);
        assert.ok(["genesis", "exodus", "psalms"].includes(args.book));
        assert.ok(Number.isInteger(args.chapter) && args.chapter >= 1 && args.chapter <= 150, String(args.chapter));
    }
}

describe("tools", () => {
    test("required: every answer is a call whose arguments fit the function's schema", async () => {
        const names = new Set();
        for (let seed = 1; seed <= 8; seed++) {
            const r = await client.chat.completions.create({ ...ask, tool_choice: "required", seed });
            assert.equal(r.choices[0].finish_reason, "tool_calls");
            assert.equal(r.choices[0].message.content, null);
            assert.equal(r.choices[0].message.tool_calls.length, 1);
            checkCall(r.choices[0].message.tool_calls[0]);
            names.add(r.choices[0].message.tool_calls[0].function.name);
        }
        assert.ok(names.size >= 1);
    });

    test("a named function is the one that is called", async () => {
        for (const seed of [1, 2, 3]) {
            const r = await client.chat.completions.create({ ...ask, tool_choice: named, seed });
            assert.equal(r.choices[0].message.tool_calls[0].function.name, "find_verse");
            checkCall(r.choices[0].message.tool_calls[0]);
        }
    });

    test("streamed deltas add up to the same call, by hand and by the package's helper", async () => {
        const same = { ...ask, temperature: 0, tool_choice: named };
        const whole = (await client.chat.completions.create(same)).choices[0].message.tool_calls[0];
        let name = "", args = "", id = null, finish = null;
        for await (const chunk of await client.chat.completions.create({ ...same, stream: true })) {
            const c = chunk.choices[0];
            for (const t of c.delta.tool_calls ?? []) {
                assert.equal(t.index, 0);
                if (t.id) id = t.id;
                name += t.function?.name ?? "";
                args += t.function?.arguments ?? "";
            }
            assert.ok(!c.delta.content, "no text beside a call");
            finish = c.finish_reason ?? finish;
        }
        assert.ok(id);
        assert.deepEqual([name, args], [whole.function.name, whole.function.arguments]);
        assert.ok(["tool_calls", "stop"].includes(finish));
        const final = await client.chat.completions.stream(same).finalChatCompletion();
        assert.equal(final.choices[0].message.tool_calls[0].function.arguments, whole.function.arguments);
    });

    test("a call's result goes back into the conversation", async () => {
        const first = (await client.chat.completions.create({ ...ask, tool_choice: named })).choices[0].message;
        const r = await client.chat.completions.create({
            ...ask, max_completion_tokens: 8, tool_choice: "none",
            messages: [...messages, first, { role: "tool", tool_call_id: first.tool_calls[0].id, content: "Abraham begat Isaac" }],
        });
        assert.equal(typeof r.choices[0].message.content, "string");
        assert.equal(r.choices[0].message.tool_calls, undefined);
    });

    test("none and auto leave the model free", async () => {
        for (const tool_choice of ["none", "auto", undefined]) {
            const r = await client.chat.completions.create({ ...ask, tool_choice, temperature: 0, max_completion_tokens: 12 });
            assert.ok(typeof r.choices[0].message.content === "string" || r.choices[0].message.tool_calls.length === 1);
        }
    });

    test("what cannot be called is refused and named", async () => {
        const rows = [
            [{ tools: [], tool_choice: "required" }, "tool_choice"],
            [{ tools: "find_verse" }, "tools"],
            [{ tools: [{ type: "function", function: { name: "two words" } }] }, /^tools\[0\]/],
            [{ tools: [tools[0], tools[0]] }, /^tools\[1\]/],
            [{ tools: [...tools, { type: "retrieval" }], tool_choice: { type: "retrieval" } }, "tool_choice"],
            [{ tools: undefined, tool_choice: "required" }, "tool_choice"],
            [{ tool_choice: { type: "function", function: { name: "nobody" } } }, /^tool_choice/],
            [{ tool_choice: "perhaps" }, "tool_choice"],
        ];
        for (const [more, param] of rows) {
            const e = await client.chat.completions.create({ ...ask, ...more }).then(() => assert.fail(JSON.stringify(more)), (x) => x);
            assert.ok(e instanceof OpenAI.BadRequestError, `${JSON.stringify(more)}: ${e}`);
            if (param instanceof RegExp) assert.match(e.param, param);
            else assert.equal(e.param, param, e.message);
        }
    });
});

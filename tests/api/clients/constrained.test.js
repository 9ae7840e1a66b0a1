// Answers constrained to a JSON Schema, and tools, through the official `openai` package.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { client, model } from "./demo.js";

const messages = [{ role: "user", content: "Complete the verse: In the beginning" }];

describe("constrained answers", () => {
    const schema = {
        type: "object",
        properties: {
            name: { type: "string", maxLength: 12 },
            age: { type: "integer", minimum: 0, maximum: 120 },
            kind: { enum: ["prophet", "king", "judge"] },
            tags: { type: "array", items: { type: "string", maxLength: 5 }, minItems: 1, maxItems: 2 },
        },
        required: ["name", "age", "kind", "tags"],
        additionalProperties: false,
    };
    const format = { type: "json_schema", json_schema: { name: "person", strict: true, schema } };
    const fits = (o) => {
        assert.deepEqual(Object.keys(o).sort(), ["age", "kind", "name", "tags"]);
        assert.ok(typeof o.name === "string" && o.name.length <= 12);
        assert.ok(Number.isInteger(o.age) && o.age >= 0 && o.age <= 120, String(o.age));
        assert.ok(schema.properties.kind.enum.includes(o.kind));
        assert.ok(o.tags.length >= 1 && o.tags.length <= 2 && o.tags.every((t) => typeof t === "string" && t.length <= 5));
    };

    test("whatever the model would rather say, the answer is an instance of the schema", async () => {
        for (const seed of [1, 2, 3, 4, 5, 6]) {
            const r = await client.chat.completions.create({ model, messages, response_format: format, temperature: 1, seed, max_completion_tokens: 400 });
            assert.equal(r.choices[0].finish_reason, "stop");
            fits(JSON.parse(r.choices[0].message.content));
        }
    });

    test("streamed it is the same text, and the package parses it", async () => {
        const ask = { model, messages, response_format: format, temperature: 0, max_completion_tokens: 400 };
        const whole = await client.chat.completions.create(ask);
        const stream = client.chat.completions.stream(ask);
        const final = await stream.finalChatCompletion();
        assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
        const parsed = await client.chat.completions.parse(ask);
        assert.ok(parsed.choices[0].message.content);
        fits(JSON.parse(parsed.choices[0].message.content));
    });

    test("json_object gives an object", async () => {
        for (const seed of [1, 2, 3]) {
            const r = await client.chat.completions.create({ model, messages, response_format: { type: "json_object" }, temperature: 1, seed, max_completion_tokens: 600 });
            if (r.choices[0].finish_reason === "length") continue; // an object may be longer than that
            const o = JSON.parse(r.choices[0].message.content);
            assert.ok(o && typeof o === "object" && !Array.isArray(o));
        }
    });

    test("with strict, a schema outside the subset is refused with the keyword's name", async () => {
        const rows = [
            [{ type: "object", dependentSchemas: { x: {} } }, /dependentSchemas/],
            [{ type: "nothing" }, /type/],
            [{ not: { type: "string" } }, /not/],
            [7, /schema/],
        ];
        for (const [bad, want] of rows) {
            const e = await client.chat.completions.create({
                model, messages, response_format: { type: "json_schema", json_schema: { name: "x", strict: true, schema: bad } },
            }).then(() => assert.fail(JSON.stringify(bad)), (x) => x);
            assert.ok(e instanceof OpenAI.BadRequestError, String(e));
            assert.match(e.message, want);
            assert.match(e.param, /^response_format/);
        }
    });
});

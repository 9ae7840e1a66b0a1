// A schema that a client sends is enforced or refused, wherever the client puts it.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import OpenAI from "openai";
import { Server } from "../../http/lib/server.mjs";
import { model, verse, weather } from "./lib/ask.js";
import { openai7 } from "./lib/openai.js";

let server, client;
before(async () => {
    server = await Server.start([], { device: "cpu" });
    server.shared = true;
    client = openai7.connect({ url: server.url }).client;
});
after(() => server.stop());

const ask = { model, messages: verse, temperature: 0, max_completion_tokens: 300 };
const enumeration = { enum: ["lion", "lamb"] };
const animal = { type: "object", properties: { animal: enumeration }, required: ["animal"], additionalProperties: false };
const isAnimal = (text) => enumeration.enum.includes(JSON.parse(text).animal);
const say = async (more) => (await client.chat.completions.create({ ...ask, ...more })).choices[0];
const refusal = async (promise) => {
    const e = await promise.then((r) => assert.fail(`accepted: ${JSON.stringify(r)}`), (x) => x);
    assert.ok(e instanceof OpenAI.BadRequestError, String(e));
    return e;
};

describe("places", () => {
    const places = {
        "response_format.json_schema": { response_format: { type: "json_schema", json_schema: { name: "animal", schema: animal } } },
        "response_format.schema beside json_object": { response_format: { type: "json_object", schema: animal } },
        "response_format.schema beside json_schema": { response_format: { type: "json_schema", schema: animal } },
        "guided_json": { guided_json: animal },
        "guided_json as text": { guided_json: JSON.stringify(animal) },
        "structured_outputs.json": { structured_outputs: { json: animal } },
    };
    for (const [name, more] of Object.entries(places)) {
        test(`${name} is enforced, whole and streamed`, async () => {
            const { message } = await say(more);
            assert.ok(isAnimal(message.content), message.content);
            let text = "";
            for await (const c of await client.chat.completions.create({ ...ask, ...more, stream: true })) text += c.choices[0]?.delta.content ?? "";
            assert.equal(text, message.content);
        });
    }

    test("the same over completions, where clients of vLLM put guided_json and structured_outputs", async () => {
        for (const more of [{ guided_json: animal }, { structured_outputs: { json: animal } }, { response_format: places["response_format.json_schema"].response_format }]) {
            const r = await client.completions.create({ model, prompt: "In the beginning", temperature: 0, max_tokens: 300, ...more });
            assert.ok(isAnimal(r.choices[0].text), r.choices[0].text);
        }
    });

    test("responses enforce text.format, and json_object there", async () => {
        const r = await client.responses.create({ model, input: "x", temperature: 0, max_output_tokens: 300, text: { format: { type: "json_schema", name: "animal", strict: true, schema: animal } } });
        assert.ok(isAnimal(r.output_text), r.output_text);
        const o = await client.responses.create({ model, input: "x", temperature: 0, max_output_tokens: 3, text: { format: { type: "json_object" } } });
        assert.match(o.output_text.trimStart(), /^\{/);
    });

    test("an empty schema still gives JSON", async () => {
        for (const more of [{ response_format: { type: "json_schema", json_schema: { name: "any", schema: {} } } }, { guided_json: {} }, { structured_outputs: { json: {} } }]) {
            const { message, finish_reason } = await say({ ...more, max_completion_tokens: 200 });
            if (finish_reason === "stop") JSON.parse(message.content);
            else assert.match(message.content.trimStart(), /^[[{"\dtfn-]/, JSON.stringify(more));
        }
    });

    test("a json_schema without a schema is refused, not taken for free text", async () => {
        for (const response_format of [{ type: "json_schema" }, { type: "json_schema", json_schema: { name: "x" } }, { type: "json_schema", json_schema: {} }]) {
            assert.match((await refusal(say({ response_format }))).param, /^response_format/);
        }
    });

    test("other constraints that clients of vLLM send are enforced or refused by name, never ignored", async () => {
        for (const [field, value, fits] of [["guided_choice", ["lion", "lamb"], (t) => ["lion", "lamb"].includes(t)], ["guided_regex", "[ab]{3}", (t) => /^[ab]{3}$/.test(t)], ["guided_grammar", 'root ::= "x"', (t) => t === "x"]]) {
            const r = await say({ [field]: value }).catch((e) => e);
            if (r instanceof Error) {
                assert.ok(r instanceof OpenAI.BadRequestError, String(r));
                assert.equal(r.param, field);
            } else assert.ok(fits(r.message.content), `${field}: ${r.message.content}`);
        }
        for (const key of ["choice", "regex", "grammar"]) {
            const value = key === "choice" ? ["lion", "lamb"] : key === "regex" ? "[ab]{3}" : 'root ::= "x"';
            const r = await say({ structured_outputs: { [key]: value } }).catch((e) => e);
            if (r instanceof Error) assert.match(String(r.param), /^structured_outputs/);
            else assert.ok(r.message.content.length <= 4, r.message.content);
        }
    });

    test("tools beside a schema: without a call the answer is an instance of it", async () => {
        const q = { tools: [{ type: "function", function: weather }], response_format: places["response_format.json_schema"].response_format };
        const none = await say({ ...q, tool_choice: "none" });
        assert.ok(isAnimal(none.message.content), none.message.content);
        const auto = await say({ ...q, tool_choice: "auto" });
        if (auto.message.tool_calls) assert.equal(auto.message.tool_calls[0].function.name, "weather");
        else assert.ok(isAnimal(auto.message.content), auto.message.content);
        const required = await say({ ...q, tool_choice: "required" });
        assert.equal(required.message.tool_calls[0].function.name, "weather");
    });
});

describe("strictness", () => {
    const format = (schema, strict) => ({ response_format: { type: "json_schema", json_schema: { name: "x", schema, ...(strict === undefined ? {} : { strict }) } } });
    const held = { type: "object", properties: { n: { type: "integer", minimum: 1, maximum: 3 } }, required: ["n"], additionalProperties: false };
    const unheld = [["not", { not: { required: ["q"] } }], ["if", { if: { required: ["n"] }, then: {} , else: {} }], ["dependentRequired", { dependentRequired: { n: ["n"] } }]];

    test("without strict a keyword that cannot be held is ignored, and the shape still holds", async () => {
        for (const [name, more] of unheld) {
            for (const strict of [undefined, false, null]) {
                const { message } = await say(format({ ...held, ...more }, strict));
                assert.ok([1, 2, 3].includes(JSON.parse(message.content).n), `${name}: ${message.content}`);
            }
        }
        const tool = (strict) => ({ tools: [{ type: "function", function: { name: "f", ...(strict === undefined ? {} : { strict }), parameters: { ...held, not: { required: ["q"] } } } }], tool_choice: "required" });
        for (const strict of [undefined, false]) assert.ok([1, 2, 3].includes(JSON.parse((await say(tool(strict))).message.tool_calls[0].function.arguments).n));
        assert.match((await refusal(say(tool(true)))).message, /not/);
    });

    test("with strict it is refused and named", async () => {
        for (const [name, more] of unheld) assert.match((await refusal(say(format({ ...held, ...more }, true)))).message, new RegExp(name));
    });

    test("keywords that JSON Schema does not know are annotations, strict or not", async () => {
        for (const strict of [true, false]) {
            const schema = { ...held, "x-order": ["n"], deprecated: false, $comment: "c", examples: [{ n: 1 }], markdownDescription: "m", propertyOrdering: ["n"] };
            assert.ok([1, 2, 3].includes(JSON.parse((await say(format(schema, strict))).message.content).n));
        }
    });

    const isDate = (t) => /^\d{4}-\d\d-\d\d$/.test(t) && !Number.isNaN(Date.parse(t));
    const rows = [
        ["a range of numbers", { type: "number", minimum: 0.5, maximum: 2 }, (v) => v >= 0.5 && v <= 2],
        ["an open range", { type: "number", exclusiveMinimum: 0, exclusiveMaximum: 1 }, (v) => v > 0 && v < 1],
        ["multiples of an integer", { type: "integer", minimum: 1, maximum: 100, multipleOf: 7 }, (v) => v % 7 === 0 && v >= 1 && v <= 100],
        ["a pattern", { type: "string", pattern: "^[A-Z]{2}-\\d{3}$" }, (v) => /^[A-Z]{2}-\d{3}$/.test(v)],
        ["a pattern with alternatives", { type: "string", pattern: "^(cat|dog)s?$" }, (v) => /^(cat|dog)s?$/.test(v)],
        ["format date", { type: "string", format: "date" }, isDate],
        ["format time", { type: "string", format: "time" }, (v) => /^\d\d:\d\d:\d\d(\.\d+)?([zZ]|[+-]\d\d:\d\d)$/.test(v)],
        ["format date-time", { type: "string", format: "date-time" }, (v) => isDate(v.slice(0, 10)) && /^[tT ]\d\d:\d\d:\d\d(\.\d+)?([zZ]|[+-]\d\d:\d\d)$/.test(v.slice(10))],
        ["format uuid", { type: "string", format: "uuid" }, (v) => /^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$/.test(v)],
        ["format ipv4", { type: "string", format: "ipv4" }, (v) => v.split(".").length === 4 && v.split(".").every((p) => /^\d{1,3}$/.test(p) && Number(p) < 256)],
        ["format email", { type: "string", format: "email", maxLength: 20 }, (v) => /^[^@\s]+@[^@\s]+$/.test(v)],
        ["format uri", { type: "string", format: "uri", maxLength: 20 }, (v) => /^[A-Za-z][A-Za-z0-9+.-]*:/.test(v)],
    ];
    for (const [name, schema, fits] of rows) {
        test(`with strict, ${name} is enforced`, async () => {
            const wrap = { type: "object", properties: { v: schema }, required: ["v"], additionalProperties: false };
            let whole = 0;
            for (const seed of [1, 2, 3, 4]) {
                const { message, finish_reason } = await say({ ...format(wrap, true), temperature: 1, seed });
                if (finish_reason === "length") continue; // a number may be longer than that
                whole++;
                assert.ok(fits(JSON.parse(message.content).v), message.content);
            }
            assert.ok(whole > 0, "at least one answer ends");
        });
    }

    test("with strict, propertyNames are enforced", async () => {
        const schema = { type: "object", propertyNames: { pattern: "^[a-c]{1,2}$" }, additionalProperties: { type: "integer", minimum: 0, maximum: 9 } };
        const { message, finish_reason } = await say({ ...format(schema, true), temperature: 1, seed: 3 });
        if (finish_reason === "stop") assert.ok(Object.keys(JSON.parse(message.content)).every((k) => /^[a-c]{1,2}$/.test(k)), message.content);
    });
});

// Calls of functions in /v1/responses, through the official `openai` package.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { client, model } from "./demo.js";

const parameters = {
    type: "object",
    properties: { city: { type: "string", maxLength: 12 }, unit: { enum: ["C", "F"] } },
    required: ["city", "unit"],
    additionalProperties: false,
};
const weather = { type: "function", function: { name: "weather", description: "Weather of a city", parameters } };
const clock = { type: "function", function: { name: "clock", parameters: { type: "object", properties: {}, additionalProperties: false } } };
const tools = [weather, clock];

function fits(call) {
    assert.equal(call.type, "function");
    assert.match(call.id, /^call_/);
    assert.ok(["weather", "clock"].includes(call.function.name), call.function.name);
    const args = JSON.parse(call.function.arguments);
    if (call.function.name === "clock") return assert.deepEqual(args, {});
    assert.deepEqual(Object.keys(args), ["city", "unit"]);
    assert.ok(args.city.length <= 12 && ["C", "F"].includes(args.unit));
}

describe("responses", () => {
    const flat = tools.map((t) => ({ type: "function", strict: true, ...t.function }));

    test("a forced call is an item of its own", async () => {
        const r = await client.responses.create({ model, input: "x", tools: flat, tool_choice: "required", temperature: 0, max_output_tokens: 500 });
        assert.equal(r.status, "completed");
        const [item] = r.output;
        assert.equal(item.type, "function_call");
        assert.match(item.call_id, /^call_/);
        fits({ id: item.call_id, type: "function", function: item });
        const again = await client.responses.create({
            model, max_output_tokens: 4,
            input: [{ role: "user", content: "x" }, item, { type: "function_call_output", call_id: item.call_id, output: "noon" }] });
        assert.equal(again.output[0].type, "message");
    });

    test("streamed, the deltas join to the arguments", async () => {
        const stream = await client.responses.create({
            model, input: "x", tools: flat, tool_choice: { type: "function", name: "weather" }, temperature: 0, max_output_tokens: 500, stream: true });
        let joined = "", done, final;
        for await (const e of stream) {
            if (e.type === "response.function_call_arguments.delta") joined += e.delta;
            if (e.type === "response.function_call_arguments.done") done = e.arguments;
            if (e.type === "response.completed") final = e.response;
        }
        assert.equal(joined, done);
        assert.equal(final.output[0].arguments, done);
        assert.equal(final.output[0].name, "weather");
    });
});

// /v1/responses through the official `openai` package.
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import OpenAI from "openai";
import { client, model } from "./demo.js";

const input = "Complete the verse: In the beginning";
const messages = [{ role: "user", content: input }];

describe("responses", () => {
    const ask = { model, input, temperature: 0, max_output_tokens: 24 };

    test("a response holds one message whose text the package finds", async () => {
        const r = await client.responses.create(ask);
        assert.match(r.id, /^resp_/);
        assert.equal(r.object, "response");
        assert.ok(["completed", "incomplete"].includes(r.status));
        assert.equal(r.output[0].type, "message");
        assert.equal(r.output[0].role, "assistant");
        assert.equal(r.output_text, r.output[0].content[0].text);
        assert.equal(r.usage.total_tokens, r.usage.input_tokens + r.usage.output_tokens);
        if (r.status === "incomplete") assert.equal(r.incomplete_details.reason, "max_output_tokens");
        const chat = await client.chat.completions.create({ model, messages, temperature: 0, max_completion_tokens: 24 });
        assert.equal(r.output_text, chat.choices[0].message.content, "the same model answers a chat the same");
    });

    test("its events number themselves, name one response and add up to its text", async () => {
        const events = [];
        for await (const e of await client.responses.create({ ...ask, stream: true })) events.push(e);
        assert.deepEqual(events.map((e) => e.sequence_number), events.map((_, i) => i + events[0].sequence_number));
        const types = events.map((e) => e.type);
        assert.deepEqual(types.slice(0, 4), [
            "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        ]);
        assert.deepEqual(types.slice(-4, -1), ["response.output_text.done", "response.content_part.done", "response.output_item.done"]);
        const last = events.at(-1);
        assert.ok(["response.completed", "response.incomplete"].includes(last.type));
        assert.equal(events.filter((e) => e.type === "response.output_text.delta").map((e) => e.delta).join(""), last.response.output_text ?? last.response.output[0].content[0].text);
        assert.equal(new Set(events.flatMap((e) => (e.response ? [e.response.id] : []))).size, 1);
        assert.equal(new Set(events.flatMap((e) => (e.item_id ? [e.item_id] : []))).size, 1);
    });

    test("the stream helper ends with the same response", async () => {
        const stream = client.responses.stream(ask);
        let text = "";
        stream.on("response.output_text.delta", (e) => (text += e.delta));
        const final = await stream.finalResponse();
        assert.equal(final.output_text, text);
    });

    test("input as messages, reasoning effort, and what needs a memory is refused", async () => {
        const r = await client.responses.create({ ...ask, input: [{ role: "user", content: [{ type: "input_text", text: input }] }], reasoning: { effort: "minimal" } });
        assert.ok(r.output_text.length > 0);
        for (const more of [{ previous_response_id: "resp_1" }, { truncation: "auto" }, { max_output_tokens: 0 }, { input: [] }]) {
            const e = await client.responses.create({ ...ask, ...more }).then(() => assert.fail(JSON.stringify(more)), (x) => x);
            assert.ok(e instanceof OpenAI.BadRequestError, `${JSON.stringify(more)}: ${e}`);
            assert.equal(e.param, Object.keys(more)[0]);
        }
        await assert.rejects(client.responses.retrieve("resp_1"), OpenAI.NotFoundError);
    });
});

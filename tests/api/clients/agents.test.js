// The loops that the packages run themselves: a function is called, its result goes back, three turns.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { ToolMessage } from "@langchain/core/messages";
import { tool as langchainTool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import * as z from "zod/v4";
import { PATIENCE, Server } from "../../http/lib/server.mjs";
import { misfit, model, verse, weather } from "./lib/ask.js";
import { openai4, openai7 } from "./lib/openai.js";

let server;
before(async () => {
    server = await Server.start([], { device: "cpu" });
    server.shared = true;
});
after(() => server.stop());
const limit = { timeout: PATIENCE };

// Counts the calls of the function and judges each.
function counted() {
    const seen = [];
    const run = (args) => {
        assert.equal(misfit({ id: "call_x", name: "weather", args }), "");
        seen.push(args);
        return `dry, day ${seen.length}`;
    };
    return { seen, run };
}

for (const client of [openai7, openai4]) {
    for (const stream of [false, true]) {
        test(`runTools of ${client.name}, ${stream ? "streamed" : "whole"}`, limit, async () => {
            const { client: c } = client.connect({ url: server.url }), { seen, run } = counted();
            const completions = client === openai7 ? c.chat.completions : c.beta.chat.completions;
            const runner = completions.runTools({
                model, messages: verse, temperature: 0, max_completion_tokens: 300, stream, tool_choice: "required",
                tools: [{ type: "function", function: { ...weather, parse: JSON.parse, function: run } }],
            }, { maxChatCompletions: 3 });
            await runner.done();
            assert.equal(seen.length, 3);
            const results = runner.messages.filter((m) => m.role === "tool");
            assert.deepEqual(results.map((m) => m.content), ["dry, day 1", "dry, day 2", "dry, day 3"]);
            assert.equal(new Set(results.map((m) => m.tool_call_id)).size, 3, "ids differ");
        });
    }
}

for (const [name, make] of [
    ["@ai-sdk/openai, responses", (url) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "unused-key" }).responses(model)],
    ["@ai-sdk/openai, chat", (url) => createOpenAI({ baseURL: `${url}/v1`, apiKey: "unused-key" }).chat(model)],
    ["@ai-sdk/openai-compatible", (url) => createOpenAICompatible({ name: "fathom", baseURL: `${url}/v1`, apiKey: "unused-key" })(model)],
]) {
    for (const stream of [false, true]) {
        test(`the steps of ai over ${name}, ${stream ? "streamed" : "whole"}, end with text`, limit, async () => {
            const { seen, run } = counted();
            const q = {
                model: make(server.url), messages: verse, temperature: 0, maxOutputTokens: 300, maxRetries: 0, stopWhen: isStepCount(3),
                tools: { weather: tool({ description: weather.description, inputSchema: jsonSchema(weather.parameters), execute: async (args) => run(args) }) },
                prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber < 2 ? "required" : "none" }),
            };
            const r = stream ? streamText(q) : await generateText(q);
            const steps = await r.steps;
            assert.deepEqual(steps.map((s) => s.finishReason === "tool-calls"), [true, true, false]);
            assert.equal(seen.length, 2);
            assert.ok((await r.text).length > 0);
        });
    }
}

test("tools of LangChain, whose schemas are zod's, run and give their messages back", limit, async () => {
    const { seen, run } = counted();
    const t = langchainTool(async (args) => run(args), {
        name: weather.name, description: weather.description,
        schema: z.object({ city: z.string().max(8), days: z.number().int().min(1).max(9), unit: z.enum(["C", "F"]).optional() }),
    });
    const chat = new ChatOpenAI({ model, apiKey: "unused-key", configuration: { baseURL: `${server.url}/v1` }, maxRetries: 0, temperature: 0, maxTokens: 300 });
    const messages = [...verse];
    for (let turn = 0; turn < 2; turn++) {
        const answer = await chat.bindTools([t], { tool_choice: "weather" }).invoke(messages);
        assert.equal(answer.tool_calls.length, 1);
        const result = await t.invoke({ ...answer.tool_calls[0], type: "tool_call" });
        assert.ok(result instanceof ToolMessage);
        messages.push(answer, result);
    }
    const last = await chat.bindTools([t], { tool_choice: "none" }).invoke(messages);
    assert.ok(last.text.length > 0);
    assert.equal(seen.length, 2);
});

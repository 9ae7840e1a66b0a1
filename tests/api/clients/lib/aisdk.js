// The `ai` package over its providers: openai (responses, chat), openai-compatible and anthropic.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, RetryError, embed, generateText, jsonSchema, streamText, tool } from "ai";

globalThis.AI_SDK_LOG_WARNINGS = false; // it warns of fields that a provider does not send

const finishes = { stop: "stop", length: "length", "tool-calls": "calls" };

function toModel(m) {
    switch (m.role) {
    case "assistant":
        return {
            role: "assistant",
            content: [
                ...(m.text ? [{ type: "text", text: m.text }] : []),
                ...(m.calls ?? []).map((c) => ({ type: "tool-call", toolCallId: c.id, toolName: c.name, input: c.args })),
            ],
        };
    case "tool": return { role: "tool", content: [{ type: "tool-result", toolCallId: m.id, toolName: m.name, output: { type: "text", value: m.result } }] };
    default: return m;
    }
}

const instructionsOf = (q) => q.messages.filter((m) => m.role === "system").map((m) => m.content).join("\n") || undefined;

const argsOf = (q, model, retries, options) => ({
    model, instructions: instructionsOf(q), messages: q.messages.filter((m) => m.role !== "system").map(toModel),
    maxOutputTokens: q.limit, temperature: q.temperature, seed: q.seed, stopSequences: q.stop && [q.stop].flat(), maxRetries: retries, abortSignal: q.signal,
    ...(q.tools ? {
        tools: Object.fromEntries(q.tools.map((t) => [t.name, tool({ description: t.description, inputSchema: jsonSchema(t.parameters) })])),
        toolChoice: typeof q.choice === "object" ? { type: "tool", toolName: q.choice.name } : q.choice,
    } : {}),
    ...(q.schema ? { output: Output.object({ schema: q.schema.zod, name: q.schema.name }) } : {}),
    ...options(q),
});

const read = (r) => ({
    text: r.text, texts: [r.text], finish: finishes[r.finishReason], usage: { input: r.usage.inputTokens, output: r.usage.outputTokens },
    calls: r.toolCalls.map((c) => ({ id: c.toolCallId, name: c.toolName, args: c.input })), id: r.response?.id,
});

const connectTo = (provide, options = () => ({})) => ({ url, key = "unused-key", retries = 0 }) => {
    const provider = provide(`${url}/v1`, key);
    return {
        async ask(q) {
            const r = await generateText(argsOf(q, provider.model(q.model), retries, options));
            return { ...read(r), object: q.schema && r.output };
        },
        async stream(q, onText) {
            let failure, pieces = 0;
            const r = streamText({ ...argsOf(q, provider.model(q.model), retries, options), onError: ({ error }) => { failure = error; } });
            for (const promise of [r.text, r.output, r.finishReason, r.usage, r.toolCalls, r.response]) Promise.resolve(promise).catch(() => {});
            for await (const part of r.fullStream) {
                if (part.type === "abort") throw new DOMException("aborted", "AbortError");
                if (part.type !== "text-delta") continue;
                pieces++;
                onText?.(part.text);
            }
            if (failure) throw failure;
            const whole = { text: await r.text, finishReason: await r.finishReason, usage: await r.usage, toolCalls: await r.toolCalls, response: await r.response };
            return { ...read(whole), object: q.schema && (await r.output), pieces };
        },
        embed: provider.embedder && ((model) => embed({ model: provider.embedder(model), value: "x", maxRetries: 0 })),
    };
};

const status = (e) => (RetryError.isInstance(e) ? e.lastError : e).statusCode;
const aborted = (e) => e.name === "AbortError";
const openaiOptions = (more) => (q) => ({
    providerOptions: { openai: { parallelToolCalls: q.parallel, ...(q.effort === undefined ? {} : { reasoningEffort: q.effort, forceReasoning: true }), ...more(q) } },
});
const openai = (model) => (baseURL, apiKey) => {
    const p = createOpenAI({ baseURL, apiKey });
    return { model: (name) => p[model](name), embedder: (name) => p.embeddingModel(name) };
};
const efforts = ["none", "minimal", "low", "medium", "high", "xhigh"];

export const aiResponses = {
    name: "ai, @ai-sdk/openai, responses", efforts, can: ["parallel"], status, aborted,
    connect: connectTo(openai("responses"), openaiOptions(() => ({}))),
};
export const aiChat = {
    name: "ai, @ai-sdk/openai, chat", efforts, can: ["seed", "stop", "parallel"], status, aborted,
    connect: connectTo(openai("chat"), openaiOptions(() => ({}))),
};
export const aiCompatible = {
    name: "ai, @ai-sdk/openai-compatible", efforts: [...efforts, "max", null], can: ["seed", "stop"], status, aborted,
    connect: connectTo((baseURL, apiKey) => {
        const p = createOpenAICompatible({ name: "fathom", baseURL, apiKey, includeUsage: true, supportsStructuredOutputs: true });
        return { model: (name) => p(name), embedder: (name) => p.embeddingModel(name) };
    }, (q) => ({ providerOptions: { fathom: { reasoningEffort: q.effort } } })),
};
export const aiAnthropic = {
    name: "ai, @ai-sdk/anthropic", efforts: ["low", "medium", "high", "xhigh", "max"], can: ["stop", "parallel"], status, aborted,
    connect: connectTo((baseURL, apiKey) => {
        const p = createAnthropic({ baseURL, apiKey });
        return { model: (name) => p(name) };
    }, (q) => ({ providerOptions: { anthropic: { disableParallelToolUse: q.parallel === undefined ? undefined : !q.parallel, effort: q.effort } } })),
};

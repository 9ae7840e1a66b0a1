// LangChain's ChatOpenAI, over chat and over responses.
import { AIMessage, HumanMessage, SystemMessage, ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";

const finishes = { stop: "stop", length: "length", tool_calls: "calls" };

function toMessage(m) {
    switch (m.role) {
    case "system": return new SystemMessage(m.content);
    case "user": return new HumanMessage(m.content);
    case "assistant": return new AIMessage({ content: m.text ?? "", tool_calls: (m.calls ?? []).map((c) => ({ ...c, type: "tool_call" })) });
    default: return new ToolMessage({ content: m.result, tool_call_id: m.id, name: m.name });
    }
}

function finishOf(m) {
    const meta = m.response_metadata;
    if (meta.finish_reason) return finishes[meta.finish_reason];
    if (meta.status === "incomplete") return "length";
    return m.tool_calls?.length ? "calls" : "stop";
}

function read(m) {
    const text = m.text ?? "";
    return {
        text, texts: [text], finish: finishOf(m), usage: m.usage_metadata && { input: m.usage_metadata.input_tokens, output: m.usage_metadata.output_tokens },
        calls: (m.tool_calls ?? []).map((c) => ({ id: c.id, name: c.name, args: c.args })),
        logprobs: m.response_metadata.logprobs?.content?.map((t) => ({ token: t.token, logprob: t.logprob, top: t.top_logprobs.length })),
        id: m.id,
    };
}

const connectTo = (useResponsesApi) => ({ url, key = "unused-key", retries = 0 }) => {
    const open = (q) => {
        const model = new ChatOpenAI({
            model: q.model, apiKey: key, configuration: { baseURL: `${url}/v1` }, maxRetries: retries, useResponsesApi,
            maxTokens: q.limit, temperature: q.temperature, stop: q.stop && [q.stop].flat(), n: q.n, streamUsage: true,
            ...(q.logprobs ? { logprobs: true, topLogprobs: q.logprobs } : {}),
            // Its own field for effort goes only to models that it knows by name; over responses it
            // sends no choice that is a word.
            modelKwargs: useResponsesApi
                ? { ...(q.effort === undefined ? {} : { reasoning: { effort: q.effort } }), ...(typeof q.choice === "string" ? { tool_choice: q.choice } : {}) }
                : { seed: q.seed, reasoning_effort: q.effort },
        });
        if (q.tools) {
            const tools = q.tools.map((t) => ({ type: "function", function: t }));
            return model.bindTools(tools, { tool_choice: typeof q.choice === "object" ? q.choice.name : q.choice, parallel_tool_calls: q.parallel });
        }
        if (q.schema) return model.withStructuredOutput(q.schema.zod, { name: q.schema.name, method: "jsonSchema", strict: true, includeRaw: true });
        return model;
    };
    return {
        async ask(q) {
            const m = await open(q).invoke(q.messages.map(toMessage), { signal: q.signal });
            return q.schema ? { ...read(m.raw), object: m.parsed } : read(m);
        },
        async stream(q, onText) {
            let whole, object, pieces = 0;
            for await (const part of await open(q).stream(q.messages.map(toMessage), { signal: q.signal })) {
                const chunk = q.schema ? part.raw : part;
                object = (q.schema && part.parsed) || object;
                if (!chunk) continue;
                whole = whole ? whole.concat(chunk) : chunk;
                if (!chunk.text) continue;
                pieces++;
                onText?.(chunk.text);
            }
            return { ...read(whole), object, pieces };
        },
        embed: (model) => new OpenAIEmbeddings({ model, apiKey: key, configuration: { baseURL: `${url}/v1` }, maxRetries: 0 }).embedQuery("x"),
    };
};

const status = (e) => e.status ?? e.cause?.status;
const aborted = (e) => /abort/i.test(`${e.name} ${e.message}`);
const efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max", null];

export const langchain = {
    name: "@langchain/openai, chat", efforts, can: ["seed", "stop", "logprobs", "parallel"], status, aborted, connect: connectTo(false),
};
export const langchainResponses = {
    name: "@langchain/openai, responses", efforts, can: ["parallel"], status, aborted, connect: connectTo(true),
};

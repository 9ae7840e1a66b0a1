// The official `openai` package in two majors over chat, and the newest over responses.
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import OpenAI4 from "openai4";
import { zodResponseFormat as zodResponseFormat4 } from "openai4/helpers/zod";
import { chatBody, joinChat, readChat } from "./wire.js";

const efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max", null];

function chatWith(Package, { parser, format }) {
    return ({ url, key = "unused-key", retries = 0 }) => {
        const client = new Package({ apiKey: key, baseURL: `${url}/v1`, maxRetries: retries, timeout: 600000 });
        const completions = parser(client);
        return {
            client,
            async ask(q) {
                const body = chatBody(q), options = { signal: q.signal };
                if (!q.schema) return readChat(await client.chat.completions.create(body, options));
                return readChat(await completions.parse({ ...body, response_format: format(q.schema) }, options));
            },
            async stream(q, onText) {
                const body = { ...chatBody(q), stream: true, stream_options: { include_usage: true } }, options = { signal: q.signal };
                if (!q.schema) return joinChat(await client.chat.completions.create(body, options), onText);
                const stream = completions.stream({ ...body, response_format: format(q.schema) }, options);
                let pieces = 0;
                stream.on("content", () => pieces++);
                return { ...readChat(await stream.finalChatCompletion()), pieces };
            },
            embed: (model) => client.embeddings.create({ model, input: "x" }),
        };
    };
}

const status = (e) => e.status;

export const openai7 = {
    name: "openai 7, chat", efforts, can: ["seed", "stop", "n", "logprobs", "parallel"], status,
    aborted: (e) => e instanceof OpenAI.APIUserAbortError,
    connect: chatWith(OpenAI, { parser: (c) => c.chat.completions, format: (s) => zodResponseFormat(s.zod, s.name) }),
};

export const openai4 = {
    name: "openai 4, chat", efforts: ["low", "medium", "high", null], can: ["seed", "stop", "n", "logprobs", "parallel"], status,
    aborted: (e) => e instanceof OpenAI4.APIUserAbortError,
    connect: chatWith(OpenAI4, { parser: (c) => c.beta.chat.completions, format: (s) => zodResponseFormat4(s.zod3, s.name) }),
};

const itemsOf = (m) => {
    switch (m.role) {
    case "assistant": return [
        ...(m.text ? [{ role: "assistant", content: m.text }] : []),
        ...(m.calls ?? []).map((c) => ({ type: "function_call", call_id: c.id, name: c.name, arguments: JSON.stringify(c.args) })),
    ];
    case "tool": return [{ type: "function_call_output", call_id: m.id, output: m.result }];
    default: return [m];
    }
};

function responsesBody(q) {
    return {
        model: q.model, input: q.messages.flatMap(itemsOf), max_output_tokens: q.limit, temperature: q.temperature,
        ...(q.effort === undefined ? {} : { reasoning: { effort: q.effort } }),
        ...(q.tools ? {
            tools: q.tools.map((t) => ({ type: "function", strict: false, ...t })),
            tool_choice: typeof q.choice === "object" ? { type: "function", name: q.choice.name } : q.choice, parallel_tool_calls: q.parallel,
        } : {}),
        ...(q.schema ? { text: { format: zodTextFormat(q.schema.zod, q.schema.name) } } : {}),
        ...(q.logprobs ? { top_logprobs: q.logprobs, include: ["message.output_text.logprobs"] } : {}),
    };
}

function readResponse(r) {
    const calls = r.output.filter((i) => i.type === "function_call").map((c) => ({ id: c.call_id, name: c.name, args: JSON.parse(c.arguments) }));
    const text = r.output_text ?? "";
    const finish = r.status === "incomplete" ? (r.incomplete_details.reason === "max_output_tokens" ? "length" : undefined) : calls.length ? "calls" : "stop";
    return { text, texts: [text], finish, calls, usage: { input: r.usage.input_tokens, output: r.usage.output_tokens }, object: r.output_parsed, id: r.id };
}

export const responses7 = {
    name: "openai 7, responses", efforts, can: ["parallel"], status,
    aborted: (e) => e instanceof OpenAI.APIUserAbortError,
    connect({ url, key = "unused-key", retries = 0 }) {
        const client = new OpenAI({ apiKey: key, baseURL: `${url}/v1`, maxRetries: retries, timeout: 600000 });
        return {
            client,
            async ask(q) {
                return readResponse(await client.responses[q.schema ? "parse" : "create"](responsesBody(q), { signal: q.signal }));
            },
            async stream(q, onText) {
                const stream = client.responses.stream(responsesBody(q), { signal: q.signal });
                let pieces = 0;
                for await (const e of stream) {
                    if (e.type !== "response.output_text.delta") continue;
                    pieces++;
                    onText?.(e.delta);
                }
                return { ...readResponse(await stream.finalResponse()), pieces };
            },
            embed: (model) => client.embeddings.create({ model, input: "x" }),
        };
    },
};

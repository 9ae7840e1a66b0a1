// The official `@anthropic-ai/sdk` over /v1/messages.
import Anthropic from "@anthropic-ai/sdk";
import { zodOutputFormat } from "@anthropic-ai/sdk/helpers/zod";

const finishes = { end_turn: "stop", stop_sequence: "stop", max_tokens: "length", tool_use: "calls" };

function toTurn(m) {
    switch (m.role) {
    case "assistant":
        return {
            role: "assistant",
            content: [
                ...(m.text ? [{ type: "text", text: m.text }] : []),
                ...(m.calls ?? []).map((c) => ({ type: "tool_use", id: c.id, name: c.name, input: c.args })),
            ],
        };
    case "tool": return { role: "user", content: [{ type: "tool_result", tool_use_id: m.id, content: m.result }] };
    default: return m;
    }
}

const choices = { auto: "auto", required: "any", none: "none" };

function choiceOf(q) {
    if (q.choice === undefined && q.parallel === undefined) return {};
    const choice = typeof q.choice === "object" ? { type: "tool", name: q.choice.name } : { type: choices[q.choice ?? "auto"] };
    return { tool_choice: { ...choice, ...(q.parallel === undefined || choice.type === "none" ? {} : { disable_parallel_tool_use: !q.parallel }) } };
}

export function messagesBody(q) {
    const system = q.messages.filter((m) => m.role === "system").map((m) => m.content).join("\n");
    const output = { ...(q.schema ? { format: zodOutputFormat(q.schema.zod) } : {}), ...(q.effort === undefined ? {} : { effort: q.effort }) };
    return {
        model: q.model, max_tokens: q.limit, messages: q.messages.filter((m) => m.role !== "system").map(toTurn), temperature: q.temperature,
        ...(system ? { system } : {}), ...(q.stop ? { stop_sequences: [q.stop].flat() } : {}),
        ...(q.tools ? { tools: q.tools.map((t) => ({ name: t.name, description: t.description, input_schema: t.parameters })), ...choiceOf(q) } : {}),
        ...(Object.keys(output).length ? { output_config: output } : {}),
    };
}

function read(m) {
    const text = m.content.filter((b) => b.type === "text").map((b) => b.text).join("");
    return {
        text, texts: [text], finish: finishes[m.stop_reason], usage: { input: m.usage.input_tokens + (m.usage.cache_read_input_tokens ?? 0), output: m.usage.output_tokens },
        calls: m.content.filter((b) => b.type === "tool_use").map((b) => ({ id: b.id, name: b.name, args: b.input })), object: m.parsed_output, id: m.id,
    };
}

export const anthropic = {
    name: "@anthropic-ai/sdk", efforts: ["low", "medium", "high", "xhigh", "max", null], can: ["stop", "parallel"],
    status: (e) => e.status, aborted: (e) => e instanceof Anthropic.APIUserAbortError,
    connect({ url, key = "unused-key", retries = 0 }) {
        const client = new Anthropic({ apiKey: key, baseURL: url, maxRetries: retries, timeout: 600000 });
        return {
            client,
            async ask(q) {
                return read(await client.messages[q.schema ? "parse" : "create"](messagesBody(q), { signal: q.signal }));
            },
            async stream(q, onText) {
                const stream = client.messages.stream(messagesBody(q), { signal: q.signal });
                let pieces = 0;
                stream.on("text", (delta) => { pieces++; onText?.(delta); });
                return { ...read(await stream.finalMessage()), pieces };
            },
        };
    },
};

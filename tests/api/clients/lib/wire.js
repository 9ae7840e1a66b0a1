// OpenAI's chat on the wire: for the clients whose users write its bodies by hand.
//
// A question, as the tests put it to every client:
//   messages  { role: system|user, content }, { role: assistant, text, calls }, { role: tool, id, name, result }
//   limit, temperature, seed, stop, effort, n, logprobs, model, signal
//   tools     { name, description, parameters }, a list; choice: auto, required, none or { name }; parallel
//   schema    { name, zod, zod3 }
// An answer, as every client gives it back:
//   text, texts (one of each choice), finish (stop, length or calls), calls { id, name, args, raw (as sent) },
//   usage { input, output }, object, logprobs { token, logprob, top }, pieces (deltas of text)
const finishes = { stop: "stop", length: "length", tool_calls: "calls" };

export function toWire(m) {
    switch (m.role) {
    case "assistant":
        return {
            role: "assistant", content: m.text || null,
            ...(m.calls?.length ? { tool_calls: m.calls.map((c) => ({ id: c.id, type: "function", function: { name: c.name, arguments: JSON.stringify(c.args) } })) } : {}),
        };
    case "tool": return { role: "tool", tool_call_id: m.id, content: m.result };
    default: return m;
    }
}

const choiceOf = (c) => (typeof c === "object" ? { type: "function", function: { name: c.name } } : c);

export function chatBody(q) {
    return {
        model: q.model, messages: q.messages.map(toWire), max_completion_tokens: q.limit, temperature: q.temperature, seed: q.seed,
        stop: q.stop, reasoning_effort: q.effort, n: q.n,
        ...(q.logprobs ? { logprobs: true, top_logprobs: q.logprobs } : {}),
        ...(q.tools ? { tools: q.tools.map((t) => ({ type: "function", function: t })), tool_choice: choiceOf(q.choice), parallel_tool_calls: q.parallel } : {}),
    };
}

// A call that was cut has no arguments yet, only their beginning.
function callOf(id, name, raw) {
    try {
        return { id, name, raw, args: JSON.parse(raw) };
    } catch {
        return { id, name, raw, args: undefined };
    }
}

const usageOf = (u) => u && { input: u.prompt_tokens, output: u.completion_tokens };

export function readChat(r) {
    const [first] = r.choices;
    return {
        text: first.message.content ?? "", texts: r.choices.map((c) => c.message.content ?? ""),
        finish: finishes[first.finish_reason],
        calls: (first.message.tool_calls ?? []).map((c) => callOf(c.id, c.function.name, c.function.arguments)),
        usage: usageOf(r.usage), object: first.message.parsed,
        logprobs: first.logprobs?.content?.map((t) => ({ token: t.token, logprob: t.logprob, top: t.top_logprobs.length })),
        id: r.id,
    };
}

// What users do who join chunks by hand.
export async function joinChat(chunks, onText) {
    const texts = [], calls = [], logprobs = [];
    let finish, usage, pieces = 0, id;
    for await (const chunk of chunks) {
        id = chunk.id;
        if (chunk.usage) usage = usageOf(chunk.usage);
        for (const c of chunk.choices) {
            if (c.delta?.content) {
                texts[c.index] = (texts[c.index] ?? "") + c.delta.content;
                pieces++;
                onText?.(c.delta.content);
            }
            for (const t of c.delta?.tool_calls ?? []) {
                const call = (calls[t.index] ??= { id: undefined, name: "", raw: "" });
                call.id ??= t.id;
                call.name += t.function?.name ?? "";
                call.raw += t.function?.arguments ?? "";
            }
            for (const t of c.logprobs?.content ?? []) if (c.index === 0) logprobs.push({ token: t.token, logprob: t.logprob, top: t.top_logprobs.length });
            if (c.finish_reason && c.index === 0) finish = finishes[c.finish_reason];
        }
    }
    return { text: texts[0] ?? "", texts, finish, calls: calls.map((c) => callOf(c.id, c.name, c.raw)), usage, logprobs, pieces, id };
}

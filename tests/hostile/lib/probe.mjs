// Three fixed requests whose answers must be the same to the bit before and after an attack:
// greedy, sampled, and a streamed chat with log-probabilities.
import { chunks } from "../../http/lib/server.mjs";

const requests = [
    ["/v1/completions", { prompt: "And it came to pass", max_tokens: 12, temperature: 0, ignore_eos: true, logprobs: 3, return_token_ids: true }],
    ["/v1/completions", { prompt: "The LORD", max_tokens: 12, temperature: 0.9, top_p: 0.95, seed: 7, ignore_eos: true, n: 2, logprobs: 1, return_token_ids: true }],
    ["/v1/chat/completions", { messages: [{ role: "user", content: "In the beginning" }], max_tokens: 12, temperature: 0.7, seed: 11, ignore_eos: true, logprobs: true, top_logprobs: 2, stream: true }],
];

// What does not hang on the time or the place: one string.
export async function probe(server, headers = {}) {
    const out = [];
    for (const [path, body] of requests) {
        const r = await server.post(path, body, { headers });
        if (r.status !== 200) throw new Error(`the probe at ${path} got ${r.status}: ${r.text.slice(0, 300)}`);
        if (!body.stream) {
            out.push(r.json.choices, r.json.usage.completion_tokens);
        } else {
            const all = chunks(r.text);
            const logprobs = all.flatMap((c) => c.choices[0]?.logprobs?.content ?? []);
            out.push(all.map((c) => c.choices[0]?.delta?.content ?? "").join(""), all.map((c) => c.choices[0]?.finish_reason).filter(Boolean), logprobs);
        }
    }
    return JSON.stringify(out);
}

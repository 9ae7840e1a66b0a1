export const title = "every number at and beyond its edges is answered or refused, and nothing else";

const edges = ["-1", "0", "1", "-0", "2147483647", "2147483648", "-2147483648", "4294967295", "4294967296", "9007199254740993", "9223372036854775807", "-9223372036854775808", "9223372036854775808", "18446744073709551616",
    "1e308", "-1e308", "1e309", "1e-320", "0.1", "1.0", "1e2", "true", "null", "\"1\"", "[]", "{}", "[1]", "\"\"", "\"NaN\""];
const numbers = ["max_tokens", "max_completion_tokens", "min_tokens", "n", "best_of", "seed", "logprobs", "top_logprobs", "prompt_logprobs", "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
    "priority", "stop", "stop_token_ids", "logit_bias", "depth", "stream", "stream_options", "echo", "suffix", "cache_salt", "user", "request_id", "return_depth"];

export async function attack(server, t) {
    const agent = new (await import("node:http")).Agent({ keepAlive: true, maxSockets: 4 });
    const jobs = numbers.flatMap((field) => edges.map((edge) => [field, edge]));
    await t.many(jobs.length, 4, async (i) => {
        const [field, edge] = jobs[i], limit = /max_/.test(field) ? "" : "\"max_tokens\":3,";
        const r = await server.post("/v1/completions", `{"prompt":"And",${limit}"ignore_eos":false,"${field}":${edge}}`, { agent });
        t.answered(r, [200, 400, 422]);
    });
    for (const [path, field, made] of [["/v1/completions", "prompt", (e) => `[[${e}]]`], ["/v1/completions", "prompt", (e) => `[${e},300]`], ["/detokenize", "tokens", (e) => `[${e}]`], ["/v1/completions", "stop_token_ids", (e) => `[${e}]`],
        ["/v1/completions", "logit_bias", (e) => `{${JSON.stringify(e)}:1}`], ["/v1/completions", "logit_bias", (e) => `{"300":${e}}`], ["/v1/completions", "depth", (e) => `{"max_loops":${e}}`], ["/v1/completions", "depth", (e) => `{"exit_threshold":${e}}`],
        ["/v1/responses", "max_output_tokens", (e) => e], ["/v1/responses", "top_logprobs", (e) => e], ["/v1/chat/completions", "top_logprobs", (e) => e]]) {
        for (const edge of edges) {
            const base = path.includes("chat") ? "\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"logprobs\":true,\"max_tokens\":2," : path.includes("responses") ? "\"input\":\"a\"," : field === "prompt" || path === "/detokenize" ? "\"max_tokens\":2," : "\"prompt\":\"a\",\"max_tokens\":2,";
            t.answered(await server.post(path, `{${path === "/detokenize" ? "" : base}"${field}":${made(edge)}}`, { agent }), [200, 400, 422]);
        }
    }
    agent.destroy();
}

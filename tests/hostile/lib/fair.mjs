// How many tokens others got while one request was answered: fairness without a clock.
import { metered } from "../../http/lib/raw.mjs";

// Tokens that were generated, and tokens of prompts that were read, without those of the request itself.
export async function meanwhile(t, body, key) {
    const r = await metered(t.server.port, body, t.line(key));
    t.answered(r, [200]);
    const grown = (name) => r.after[name] - r.before[name];
    return { tokens: grown("vllm:generation_tokens_total") - r.json.usage.completion_tokens, prompts: grown("vllm:prompt_tokens_total") - r.json.usage.prompt_tokens };
}

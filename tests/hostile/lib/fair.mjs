// How many tokens others got while one request was answered: fairness without a clock.
export async function tokens(t, fn) {
    const count = async () => (await t.server.metrics())["vllm:generation_tokens_total"];
    const before = await count(), r = await fn();
    t.answered(r, [200]);
    return await count() - before - (r.json?.usage.completion_tokens ?? 0);
}

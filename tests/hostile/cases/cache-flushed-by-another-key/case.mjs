export const title = "a flood of one key's prompts leaves another key's prefix in the cache";
export const device = "fake";
export const keys = true;
export const args = ["--kv-memory", "6M"];

export async function attack(server, t) {
    const mine = Array.from({ length: 192 }, (_, i) => 300 + i);
    const cached = async () => {
        const r = await t.complete({ prompt: mine, max_tokens: 1 }, t.key("alpha"));
        t.answered(r, [200]);
        return r.json.usage.prompt_tokens_details.cached_tokens;
    };
    await cached();
    const before = await cached();
    t.assert.ok(before > 0);
    await t.many(t.scale(400, 120), 4, async (i) => {
        await t.complete({ prompt: Array.from({ length: 300 }, (_, k) => 260 + ((i * 131 + k * 7) % 1700)), max_tokens: 1 }, t.key("beta"));
    });
    const after = await cached();
    t.record(`cached before the flood ${before} tokens, after ${after}`);
    t.assert.equal(after, before);
}

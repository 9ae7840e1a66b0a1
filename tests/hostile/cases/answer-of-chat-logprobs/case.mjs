export const title = "chat answers with twenty alternatives per token cost the loop nothing at once";
export const health = { computed: 50 };
export const settle = 30;

export async function attack(server, t) {
    await t.many(t.scale(16, 4), 4, async (i) => {
        const r = await server.post("/v1/chat/completions", { messages: [{ role: "user", content: "And" }], n: 16, max_tokens: t.scale(900, 150), logprobs: true, top_logprobs: 20, ignore_eos: true, temperature: 1, seed: i, stream: i % 2 === 1 });
        t.answered(r);
        t.record(`${(r.text.length / 1e6).toFixed(1)} MB`);
    });
}

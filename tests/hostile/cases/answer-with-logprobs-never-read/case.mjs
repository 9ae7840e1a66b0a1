export const title = "whole answers with log-probabilities that nobody reads are bounded by the same ceiling";
export const device = "fake";
export const args = (has) => ["--stall-seconds", "2", ...(has("--request-memory") ? ["--request-memory", "64M"] : [])];
export const rssMB = (has) => (has("--request-memory") ? 64 + 64 : 160);
export const settle = 60;
export const health = { computed: 100 };

export async function attack(server, t) {
    const body = JSON.stringify({ prompt: Array(64).fill(Array.from({ length: 200 }, (_, i) => 300 + i)), n: 4, max_tokens: 60, echo: true, logprobs: 5, prompt_logprobs: 5, ignore_eos: true, temperature: 1, seed: 1 });
    const all = [];
    for (let i = 0; i < t.scale(24, 6); i++) {
        const c = await t.open();
        all.push(c);
        c.socket.pause();
        c.send(t.post("/v1/completions", body));
    }
    await t.sleep(t.scale(16000, 4000));
    all.forEach((c) => c.destroy());
}

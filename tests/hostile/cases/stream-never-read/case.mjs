export const title = "streams that nobody reads are cut, and bounded until then";
export const device = "fake";
export const args = (has) => ["--stall-seconds", "2", ...(has("--request-memory") ? ["--request-memory", "64M"] : [])];
export const rssMB = (has) => (has("--request-memory") ? 64 + 64 : 200);
export const settle = 30;

export async function attack(server, t) {
    const body = JSON.stringify({ prompt: ["And", "The", "In", "Of"], n: 16, max_tokens: 1000, logprobs: 5, ignore_eos: true, temperature: 1, stream: true });
    const all = [];
    for (let i = 0; i < t.scale(60, 12); i++) {
        const c = await t.open();
        all.push(c);
        c.socket.pause();
        c.send(t.post("/v1/completions", body));
    }
    await t.sleep(4000);
    const r = await t.complete({ prompt: "And", max_tokens: 2 });
    t.answered(r, [200, 503]);
    all.forEach((c) => c.destroy());
}

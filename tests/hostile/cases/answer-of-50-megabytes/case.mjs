export const title = "one answer of tens of megabytes holds the loop for no time that others feel";
export const health = { computed: 50 };
export const settle = 30;

export async function attack(server, t) {
    const prompt = Array.from({ length: 64 }, (_, p) => Array.from({ length: t.scale(160, 60) }, (_, i) => 300 + p + i));
    const other = t.stream({ prompt: "And it came", max_tokens: 900, temperature: 0, ignore_eos: true });
    await t.until("the other's stream", () => other.begun || other.ended);
    const r = await t.complete({ prompt, n: 2, max_tokens: t.scale(40, 10), logprobs: 5, prompt_logprobs: 20, echo: true, ignore_eos: true, temperature: 0, return_token_ids: true, return_depth: true });
    other.leave();
    const turn = (await server.metrics())["fathom_loop_turn_max_seconds"] * 1000;
    t.record(`status ${r.status}, ${(r.text.length / 1e6).toFixed(1)} MB; longest turn of the loop ${turn.toFixed(1)} ms; other's longest gap ${other.worst.toFixed(0)} ms computed`);
    t.answered(r, [200, 400, 413, 503]);
    t.assert.ok(r.status !== 200 || turn < 10 * 1000, "the loop stood still");
}

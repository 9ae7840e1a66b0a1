import { meanwhile } from "../../lib/fair.mjs";

export const title = "one key's choices times prompts do not take all places from another key";
export const device = "fake";
export const keys = true;
export const args = ["--max-running", "16", "--fake-us-per-token", "40", "--max-requests-per-key", "8"];

export async function attack(server, t) {
    const greedy = [];
    for (let i = 0; i < 4; i++) greedy.push(t.stream({ prompt: Array(60).fill("And"), n: 4, max_tokens: 150, ignore_eos: true }, { headers: t.line("alpha") }));
    await t.until("the greedy key runs", () => greedy.some((g) => g.begun || g.ended));
    for (let i = 0; i < 3; i++) {
        const others = (await meanwhile(t, { prompt: "The", max_tokens: 10, ignore_eos: true }, i % 2 ? "beta" : "gamma")).tokens;
        t.record(`another key's 10 tokens came after ${others} of the greedy key's`);
        t.assert.ok(others < 16 * 150 * 3, `${others} tokens of the greedy key were computed before another key's 10`);
    }
    greedy.forEach((g) => g.leave());
}

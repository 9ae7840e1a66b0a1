import { meanwhile } from "../../lib/fair.mjs";

export const title = "a priority that a client gives itself does not starve another key";
export const device = "fake";
export const keys = true;
export const args = ["--max-running", "16", "--fake-us-per-token", "40"];

export async function attack(server, t) {
    const greedy = [];
    for (let i = 0; i < 4; i++) greedy.push(t.stream({ prompt: Array(60).fill("And"), n: 4, max_tokens: 200, ignore_eos: true, priority: -2147483648 }, { headers: t.line("alpha") }));
    await t.until("the greedy key runs", () => greedy.some((g) => g.begun || g.ended));
    const others = (await meanwhile(t, { prompt: "The", max_tokens: 20, ignore_eos: true, priority: 1 }, "beta")).tokens;
    greedy.forEach((g) => g.leave());
    t.record(`the other key's 20 tokens came after ${others} of the greedy key's; it wanted ${4 * 240 * 200}`);
    t.assert.ok(others < 16 * 200 * 3, `${others} tokens of the greedy key were computed before the other key's 20 (three rounds of ${16 * 200} allowed)`);
}

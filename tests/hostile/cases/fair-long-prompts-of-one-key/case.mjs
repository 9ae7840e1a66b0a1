import { meanwhile } from "../../lib/fair.mjs";

export const title = "one key's long prompts do not keep another key's short one waiting for all of them";
export const device = "fake";
export const keys = true;
export const args = ["--max-running", "8", "--fake-us-per-token", "20"];

export async function attack(server, t) {
    const long = Array.from({ length: 900 }, (_, i) => 300 + (i % 1000));
    const greedy = [];
    for (let i = 0; i < 12; i++) greedy.push(t.stream({ prompt: Array.from({ length: 20 }, (_, k) => [300 + i, 400 + k, ...long]), max_tokens: 60, ignore_eos: true }, { headers: t.line("alpha") }));
    await t.until("the greedy key runs", () => greedy.some((g) => g.begun || g.ended));
    const { prompts } = await meanwhile(t, { prompt: "The", max_tokens: 10, ignore_eos: true }, "beta");
    greedy.forEach((g) => g.leave());
    t.record(`${prompts} prompt tokens of others were read before the short request's end, of ${12 * 20 * 902}`);
    t.assert.ok(prompts < 4 * 8 * 902, `${prompts} prompt tokens of the greedy key went before the other key's one`);
}

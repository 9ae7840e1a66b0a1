import { jsonModel, nested, wide } from "../../lib/schemas.mjs";

export const title = "a vocabulary that holds pieces of JSON makes no mask dear";
export const model = jsonModel().dir;
export const args = ["--hang-seconds", "3"];

export async function attack(server, t) {
    for (const [i, schema] of [wide(32, 15, 24), { type: "array", items: nested(4, 32) }, nested(8, 16)].entries()) {
        const other = t.stream({ prompt: "And it came", max_tokens: 60, temperature: 0, ignore_eos: true });
        await t.until("the other's stream", () => other.begun || other.ended);
        const r = await t.complete(t.schema(schema, { n: 16, prompt: ["And", "The"], max_tokens: t.scale(100, 24), temperature: 1.4, seed: i }));
        other.leave();
        t.record(`schema ${i}: status ${r.status}; longest gap of the other's stream ${other.worst.toFixed(0)} ms computed`);
        t.answered(r);
        t.assert.ok(other.worst < 250 * t.slow, `the other's stream waited while a thread computed ${other.worst.toFixed(0)} ms`);
    }
}

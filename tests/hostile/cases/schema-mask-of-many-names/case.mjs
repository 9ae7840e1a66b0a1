import { nested, wide } from "../../lib/schemas.mjs";

export const title = "the masks of one client's schemas do not hold up another's stream";
export const args = ["--hang-seconds", "3"];

export async function attack(server, t) {
    const schemas = [wide(32, 15, 24), wide(32, 16, 3), wide(16, 31, 6), nested(3, 16), nested(6, 30), wide(2, 500, 3), { type: "array", items: wide(32, 15, 12) }];
    for (const [i, schema] of schemas.entries()) {
        const other = t.stream({ prompt: "And it came", max_tokens: 60, temperature: 0, ignore_eos: true });
        await t.until("the other's stream", () => other.begun || other.ended);
        const size = JSON.stringify(schema).length;
        const r = await t.complete(t.schema(schema, { n: 16, prompt: Array(t.scale(16, 4)).fill("And"), max_tokens: t.scale(120, 24), temperature: 1, seed: i, logit_bias: { 1: 1 } }));
        other.leave();
        t.record(`schema ${i}, ${size} bytes: status ${r.status}; longest gap of the other's stream ${other.worst.toFixed(0)} ms computed, ${other.worstWall.toFixed(0)} by the clock`);
        t.answered(r);
        t.assert.ok(other.worst < 250 * t.slow, `schema ${i}: the other's stream waited while a thread computed ${other.worst.toFixed(0)} ms`);
    }
}

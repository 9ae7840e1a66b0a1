import { demoWithVocabulary, tokenId } from "../../lib/models.mjs";
import { wide } from "../../lib/schemas.mjs";

export const title = "a schema of 20 KB under a large vocabulary neither silences the engine nor is it taken for dead";
export const args = ["--hang-seconds", "2"];
export const model = demoWithVocabulary(32768);

export async function attack(server, t) {
    const logit_bias = { [tokenId("{")]: 100, [tokenId("\"")]: 50, [tokenId("he")]: 100 };
    for (const schema of [wide(32, 1, 600), wide(16, 2, 600)]) {
        const other = t.stream({ prompt: "And it came", max_tokens: 400, temperature: 0, ignore_eos: true });
        await t.until("the other's stream", () => other.begun || other.ended);
        const r = await t.complete(t.schema(schema, { n: 16, prompt: Array(t.scale(16, 4)).fill("And"), max_tokens: t.scale(24, 6), logit_bias }));
        t.record(`${JSON.stringify(schema).length} bytes: status ${r.status} ${r.text.slice(0, 160)}; longest gap of the other's stream ${other.worst.toFixed(0)} ms computed, ${other.worstWall.toFixed(0)} by the clock`);
        other.leave();
        t.answered(r);
        t.assert.ok(other.worst < 400 * t.slow, `the other's stream waited while a thread computed ${other.worst.toFixed(0)} ms`);
    }
}

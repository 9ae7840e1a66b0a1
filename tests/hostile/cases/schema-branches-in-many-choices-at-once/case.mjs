import { branching, jsonModel } from "../../lib/schemas.mjs";

export const title = "many sequences that run out of readings within a moment are no sick engine";
const { dir, id } = jsonModel();
export const model = dir;

export async function attack(server, t) {
    const all = branching();
    await t.many(t.scale(40, 12), 4, async (i) => {
        const [, schema, pushed] = all[i % all.length];
        const logit_bias = Object.fromEntries(pushed.map((text) => [id(text), 60]));
        t.answered(await t.complete(t.schema(schema, { logit_bias, n: 8, temperature: 1.5, seed: i, prompt: ["And", "The"], stream: i % 3 === 0 })));
    });
}

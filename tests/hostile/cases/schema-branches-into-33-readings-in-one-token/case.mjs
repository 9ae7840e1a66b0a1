import { branching, jsonModel } from "../../lib/schemas.mjs";

export const title = "a schema of more readings than are kept ends its own answer at most, however often it is asked";
const { dir, id } = jsonModel();
export const model = dir;

export async function attack(server, t) {
    const answers = [];
    for (const [name, schema, pushed] of branching()) {
        const logit_bias = Object.fromEntries(pushed.map((text) => [id(text), 100]));
        for (let i = 0; i < 4; i++) answers.push(await t.complete(t.schema(schema, { logit_bias, temperature: i ? 1 : 0, seed: i })));
        t.alive(`at: ${name}`);
    }
    answers.forEach((r) => t.answered(r));
}

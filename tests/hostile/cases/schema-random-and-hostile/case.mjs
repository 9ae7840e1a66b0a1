import { jsonModel } from "../../lib/schemas.mjs";
import { random } from "../../../http/lib/random.mjs";
import { randomSchema } from "../../lib/schemas.mjs";

export const title = "no random schema, nor one that is nearly valid, ends more than its own request";
export const model = jsonModel().dir;

export async function attack(server, t) {
    const pick = random(Number(process.env.HOSTILE_SEED ?? 4711));
    await t.many(t.scale(400, 60), 3, async (i) => {
        const schema = randomSchema(pick, 4);
        if (pick(6) === 0) schema[["minItems", "enum", "$ref", "anyOf", "required", "pattern"][pick(6)]] = [-1, [], "#/nowhere", [{}], null, "(a*)*b"][pick(6)];
        t.answered(await t.complete(t.schema(schema, { n: 1 + pick(4), temperature: pick(2) * 1.5, seed: i, max_tokens: 1 + pick(40) })));
    });
}

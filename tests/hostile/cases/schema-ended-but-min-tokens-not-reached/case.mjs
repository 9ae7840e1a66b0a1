export const title = "a value that is whole before min_tokens is no failure of the engine";

const schemas = [{ enum: [1] }, { const: "a" }, { type: "array", maxItems: 0 }, { type: "boolean" }, { type: "object", properties: {}, additionalProperties: false }];

export async function attack(server, t) {
    for (const schema of schemas) t.answered(await t.complete(t.schema(schema, { min_tokens: 30 })));
    const more = await Promise.all(schemas.map((schema) => t.complete(t.schema(schema, { min_tokens: 12, n: 4, temperature: 1, seed: 3 }))));
    more.forEach((r) => t.answered(r));
}

export const title = "bias and penalties against all that a schema allows leave an answer or an error of that request alone";

export async function attack(server, t) {
    const against = Object.fromEntries(Array.from({ length: 256 }, (_, i) => [i, -100]));
    const only = Object.fromEntries([...Array(290).keys()].map((i) => [i, i === 40 ? 100 : -100]));
    const schemas = [{ enum: [1, 2, 3] }, { type: "array", items: { type: "integer" } }, { type: "object", properties: { a: { type: "string" } }, required: ["a"] }, { type: "null" }];
    const extremes = [{ logit_bias: against }, { logit_bias: only }, { frequency_penalty: 2, presence_penalty: 2, repetition_penalty: 10 }, { frequency_penalty: -2, presence_penalty: -2, repetition_penalty: 1e-6 },
        { top_k: 1, top_p: 1e-9, min_p: 1 }, { temperature: 2, top_p: 1e-30 }, { temperature: 1e-38, seed: -9007199254740991 }];
    for (const schema of schemas) {
        for (const more of extremes) t.answered(await t.complete(t.schema(schema, { temperature: 0, ...more, max_tokens: 24 })));
    }
    for (const more of extremes) t.answered(await t.complete({ prompt: [...Array(60).keys()].map((i) => 300 + i), max_tokens: 40, ignore_eos: true, n: 2, ...more, temperature: 1 }));
}

export const title = "a penalty that no model can bear is refused by its name before anything is computed";

export async function attack(server, t) {
    const before = (await server.metrics())["vllm:prompt_tokens_total"];
    for (const repetition_penalty of [1e-30, 1e-300, 1e-7, 5e-324]) {
        for (const [path, body] of [["/v1/completions", { prompt: "And it came" }], ["/v1/chat/completions", { messages: [{ role: "user", content: "And" }] }]]) {
            const r = await server.post(path, { ...body, max_tokens: 4, repetition_penalty });
            t.assert.equal(r.status, 400, `${repetition_penalty}: ${r.text.slice(0, 200)}`);
            t.assert.equal(r.json.error.param, "repetition_penalty");
            t.assert.match(r.json.error.message, /repetition_penalty.*\d/, "the message says the range");
        }
    }
    t.assert.equal((await server.metrics())["vllm:prompt_tokens_total"], before, "the prompt was computed first");
}

export const title = "no key learns from cached_tokens what another key asked";
export const keys = true;

export async function attack(server, t) {
    const secret = Array.from({ length: 160 }, (_, i) => 260 + ((i * 37) % 1500));
    const cached = async (key, more = {}) => {
        const r = await t.complete({ prompt: secret, max_tokens: 2, temperature: 0, ...more }, t.key(key));
        t.answered(r, [200]);
        return r.json.usage.prompt_tokens_details.cached_tokens;
    };
    t.assert.equal(await cached("alpha"), 0);
    t.assert.ok(await cached("alpha") > 0, "a key's own prefix is cached");
    t.assert.equal(await cached("beta"), 0, "another key's prefix is told of");
    t.assert.ok(await cached("beta") > 0);
    t.assert.equal(await cached("gamma", { cache_salt: "" + "s" }), 0);
    for (const path of ["/v1/chat/completions", "/v1/responses"]) {
        const ask = async (key) => {
            const text = path + " the children of Israel and the tabernacle of the congregation ".repeat(8);
            const r = await server.post(path, path.includes("chat") ? { messages: [{ role: "user", content: text }], max_tokens: 2 } : { input: text, max_output_tokens: 2 }, t.key(key));
            t.answered(r, [200]);
            return (r.json.usage.prompt_tokens_details ?? r.json.usage.input_tokens_details).cached_tokens;
        };
        await ask(path.includes("chat") ? "alpha" : "beta");
        t.assert.equal(await ask("gamma"), 0, `${path}: another key's prefix is told of`);
    }
}

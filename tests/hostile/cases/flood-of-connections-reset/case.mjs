export const title = "thousands of connections that are reset at once, half asked or unasked, leave nothing";
export const device = "fake";
export const settle = 30;
export const health = { blocked: 4000 };

export async function attack(server, t) {
    const request = t.post("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":30,\"stream\":true}");
    await t.many(t.scale(4000, 1000), 40, async (i) => {
        const c = await t.open();
        if (i % 3) c.send(request.slice(0, i % 7 ? request.length : 20 + (i % 100)));
        c.rst();
    });
}

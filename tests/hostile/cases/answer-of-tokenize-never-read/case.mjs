export const title = "answers to tokenize that nobody reads are bounded by the ceiling of requests' memory";
export const device = "fake";
export const args = (has) => ["--stall-seconds", "2", ...(has("--request-memory") ? ["--request-memory", "64M"] : [])];
export const rssMB = (has) => (has("--request-memory") ? 64 + 64 : 160);
export const settle = 30;
export const health = { computed: 100 };

export async function attack(server, t) {
    const texts = ["a b ".repeat(490000), "\n".repeat(1900000), "the lord ".repeat(210000)].map((p) => JSON.stringify({ prompt: p, return_token_strs: true }));
    const all = [];
    await t.many(t.scale(40, 12), 6, async (i) => {
        const c = await t.open();
        all.push(c);
        c.socket.pause();
        c.send(t.post("/tokenize", texts[i % texts.length]));
        await t.sleep(150);
    });
    await t.sleep(1500);
    all.forEach((c) => c.destroy());
}

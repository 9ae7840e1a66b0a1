export const title = "answers to tokenize that nobody reads are bounded by the ceiling of requests' memory";
export const device = "fake";
export const args = (has) => ["--stall-seconds", "20", ...(has("--request-memory") ? ["--request-memory", "64M"] : [])];
export const rssMB = (has) => (has("--request-memory") ? 64 + 64 : 160);
export const settle = 30;
export const health = { computed: 100 };

export async function attack(server, t) {
    const texts = ["é".repeat(900000), "~!@".repeat(630000), "0".repeat(1900000), "a b ".repeat(470000)].map((prompt) => JSON.stringify({ prompt, return_token_strs: true }));
    const all = await t.opens(t.scale(40, 12));
    all.forEach((c, i) => {
        c.socket.pause();
        c.send(t.post("/tokenize", texts[i % texts.length]));
    });
    // Until as much is made of them as ever will be.
    for (let now = t.cpu(), before = -1; now > before + 20; now = t.cpu()) {
        before = now;
        await t.sleep(600);
    }
    all.forEach((c) => c.destroy());
}

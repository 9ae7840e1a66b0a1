export const title = "as many idle connections as are allowed leave /health answered on a new one";
export const device = "fake";
export const args = ["--max-connections", "200"];
export const health = { fresh: true };

export async function attack(server, t) {
    const idle = [];
    for (let i = 0; i < 230; i++) {
        const c = t.open();
        idle.push(c);
        if (i % 20 === 0) await t.sleep(10);
    }
    const all = await Promise.all(idle);
    for (let i = 0; i < 8; i++) {
        const r = await Promise.race([server.get("/health"), t.sleep(20000)]);
        t.assert.equal(r?.status, 200, "a new connection got no answer");
        await t.sleep(200);
    }
    // Some of the idle ones speak after all; others come in their place.
    all.slice(0, 50).forEach((c) => c.send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    const served = await t.complete({ prompt: "And", max_tokens: 2 });
    all.forEach((c) => c.destroy());
    t.answered(served, [200]);
}

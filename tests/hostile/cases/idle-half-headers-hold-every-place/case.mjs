export const title = "connections whose headers never end do not keep /health from being answered";
export const device = "fake";
export const args = ["--max-connections", "200", "--header-seconds", "3"];
export const health = { fresh: true, blocked: 4000 };

export async function attack(server, t) {
    const all = [];
    await t.many(220, 20, async (i) => {
        const c = await t.open();
        all.push(c);
        c.send(i % 3 ? "GET /health HTTP/1.1\r\nHost: lo" : "POST /v1/completions HTTP/1.1\r\nX-A: b\r\n");
    });
    for (let i = 0; i < 5; i++) {
        const r = await Promise.race([server.get("/health"), t.sleep(20000)]);
        t.assert.equal(r?.status, 200, "a new connection got no answer");
        await t.sleep(300);
    }
    all.forEach((c) => c.destroy());
}

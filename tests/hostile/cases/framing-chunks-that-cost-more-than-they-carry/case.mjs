export const title = "chunks of one byte, long extensions and trailers cost what their bytes cost";
export const device = "fake";
export const args = ["--body-seconds", "2"];
export const settle = 20;

export async function attack(server, t) {
    const head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    const kb = t.scale(2000, 300);
    const ms = await t.cost(async () => {
        for (const piece of ["1\r\na\r\n", `1;${"x".repeat(4000)}\r\na\r\n`, `1;${"x".repeat(60000)}`, "0001\r\na\r\n", "1 \r\na\r\n"]) {
            const all = await t.opens(4);
            for (const c of all) {
                c.send(head);
                for (let sent = 0; sent < kb << 10 && !c.closed; sent += 64 << 10) {
                    c.send(piece.repeat(Math.ceil((64 << 10) / piece.length)));
                    if (sent % (256 << 10) === 0) await t.sleep(2);
                }
            }
            await t.sleep(100);
            all.forEach((c) => c.destroy());
        }
        const c = await t.open();
        c.send(`${head}2\r\n{}\r\n0\r\n${"X-T: y\r\n".repeat(8000)}\r\n`);
        await c.until((b) => t.parse(b)?.whole, 5000 * t.slow);
        c.destroy();
    });
    t.record(`${(kb * 20 / 1024).toFixed(1)} MB of chunks: ${ms} ms`);
    t.assert.ok(ms < (1000 + kb * 20 * 0.2) * t.slow, `${ms} ms of processor time for ${kb * 20} KB`);
}

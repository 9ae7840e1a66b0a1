import { broken } from "../../lib/json.mjs";

export const title = "a client that leaves while its body is read does not leave its price behind";
export const device = "fake";

export async function attack(server, t) {
    const bodies = Object.values(broken).map((make) => make(t.scale(1 << 20, 150 << 10)));
    const ms = await t.cost(async () => {
        for (const [i, body] of bodies.entries()) {
            const c = await t.open();
            c.send(t.post("/v1/completions", Buffer.from(body).toString("latin1")));
            await t.sleep(i % 3 ? 5 : 25);
            if (i % 2) c.rst();
            else c.destroy();
        }
        await t.until("an answer to somebody else", async () => (await t.complete({ prompt: "a", max_tokens: 1 })).status === 200);
        await t.sleep(500);
    });
    const kb = bodies.reduce((n, b) => n + Buffer.byteLength(b), 0) / 1024;
    t.record(`${kb.toFixed(0)} KB: ${ms} ms, ${(ms / kb).toFixed(3)} ms per KB`);
    t.assert.ok(ms < (500 + 1.5 * kb) * t.slow, `${kb.toFixed(0)} KB whose clients left cost ${ms} ms`);
}

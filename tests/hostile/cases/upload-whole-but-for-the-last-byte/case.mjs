import { uploads, withoutLastByte } from "../../lib/uploads.mjs";

export const title = "bytes sent at once buy no silence: a body that stops coming is dropped, and others are served meanwhile";
export const device = "fake";
export const args = (has) => ["--body-seconds", "2", ...(has("--request-memory") ? ["--request-memory", "128M"] : [])];
export const rssMB = (has) => (has("--request-memory") ? 128 + 48 : 4096);
export const settle = 30;

export async function attack(server, t) {
    const all = await uploads(t, 140, (c) => c.send(withoutLastByte(1900 << 10)));
    const end = Date.now() + 90000; // no bound for speed: 2 MB once bought half an hour
    let served = 0, refused = 0;
    while (Date.now() < end && all.some((c) => !c.closed)) {
        const r = await t.complete({ prompt: "And", max_tokens: 2 });
        if (r.status === 200) served++;
        else refused++;
        await t.sleep(100);
    }
    const open = all.filter((c) => !c.closed).length;
    t.record(`${served} small requests served, ${refused} refused; ${open} of ${all.length} uploads still open`);
    all.forEach((c) => c.destroy());
    t.assert.equal(open, 0, "uploads that stopped are still waited for");
    t.assert.ok(refused <= served / 10, `${refused} small requests of somebody else were refused, ${served} served`);
}

import { uploads, withoutLastByte } from "../../lib/uploads.mjs";

export const title = "a peer that sends FIN in the middle of its body is noticed at once";
export const device = "fake";
export const args = ["--body-seconds", "60"];

export async function attack(server, t) {
    const all = [];
    await t.many(30, 8, async () => {
        const c = await t.open({ allowHalfOpen: true });
        all.push(c);
        c.send(withoutLastByte(100 << 10));
        c.socket.end();
    });
    const end = Date.now() + 40000; // the body itself has 60 s
    while (Date.now() < end && all.some((c) => !c.closed)) await t.sleep(50);
    const open = all.filter((c) => !c.closed).length;
    all.forEach((c) => c.destroy());
    t.assert.equal(open, 0, "connections whose body can never be whole are still open");
}

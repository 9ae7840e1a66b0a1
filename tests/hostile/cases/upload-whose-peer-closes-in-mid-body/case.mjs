import { announced, uploads, withoutLastByte } from "../../lib/uploads.mjs";

export const title = "a peer that closes in the middle of its body is noticed at once";
export const device = "fake";
export const args = ["--body-seconds", "60"];
export const settle = 40; // the bodies themselves have 60 s

export async function attack(server, t) {
    const all = await uploads(t, t.scale(200, 40), (c, i) => c.send(i % 4 ? withoutLastByte(300 << 10) : `${announced(2000000)}{`));
    await t.sleep(300);
    all.forEach((c, i) => (i % 2 ? c.rst() : c.destroy()));
    // The bench asks for the descriptors back within the seconds of `settle`.
}

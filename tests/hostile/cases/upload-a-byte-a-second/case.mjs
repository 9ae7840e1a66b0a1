import { announced, uploads } from "../../lib/uploads.mjs";

export const title = "bodies that come byte by byte are dropped, and others are served meanwhile";
export const device = "fake";
export const args = ["--body-seconds", "2"];
export const settle = 10;

export async function attack(server, t) {
    const all = await uploads(t, t.scale(400, 100), (c) => c.send(announced(2000000)));
    const end = Date.now() + 90000;
    let refused = 0;
    for (let i = 0; Date.now() < end && all.some((c) => !c.closed); i++) {
        all.forEach((c) => c.send("{"));
        if ((await t.complete({ prompt: "And", max_tokens: 2 })).status !== 200) refused++;
        await t.sleep(400);
    }
    const open = all.filter((c) => !c.closed).length;
    all.forEach((c) => c.destroy());
    t.assert.equal(open, 0, "bodies of a few bytes per second are still waited for");
    t.assert.equal(refused, 0, "small requests of somebody else were refused");
}

import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { copyOfDemo } from "../../lib/models.mjs";
import { fileOf, life } from "../../lib/packed.mjs";

export const title = "a bit flipped anywhere in the packed weights changes no answer";

export async function whole(record) {
    const dir = copyOfDemo(), { answers, kernels } = await life(dir);
    const good = readFileSync(fileOf(dir)), wrong = [];
    assert.equal((await life(dir, { kernels })).answers, answers, "the packed weights answer as the model does");
    for (const [what, change] of [
        ["the exponents of a page's middle", (b) => { for (let at = 4096 * 5 + 2048; at < 4096 * 5 + 2304; at++) b[at] ^= 0x40; }],
        ["one bit of every page, away from its beginning", (b) => { for (let at = 4096 + 1003; at < b.length; at += 4096) b[at] ^= 0x40; }],
        ["the last byte of every page", (b) => { for (let at = 4096 + 4095; at < b.length; at += 4096) b[at] ^= 0x3f; }],
        ["NaN in the file's last tenth", (b) => b.fill(0xff, Math.floor(b.length * 0.9) + 512, Math.floor(b.length * 0.9) + 1024)],
        ["two pages changed for each other", (b) => { const p = Buffer.from(b.subarray(8192 + 64, 12288)); b.copy(b, 8192 + 64, 12288 + 64, 16384); p.copy(b, 12288 + 64); }],
        ["the header", (b) => { b[17] ^= 1; }],
        ["a length cut short", (b) => b.subarray(0, b.length - 4096)],
    ]) {
        const bad = Buffer.from(good);
        writeFileSync(fileOf(dir), change(bad)?.length < good.length ? change(bad) : bad);
        try {
            const again = await life(dir, { kernels });
            record(`${what}: ${again.answers === answers ? "same answers" : "OTHER ANSWERS"}; ${/damaged/.test(again.log) ? "told of" : "not told of"}`);
            if (again.answers !== answers) wrong.push(what);
        } catch (error) {
            wrong.push(`${what}: ${error.message.split("\n")[0]}`);
        }
        writeFileSync(fileOf(dir), good);
    }
    assert.deepEqual(wrong, [], "answers changed by a flipped bit in");
}

import { uploads, withoutLastByte } from "../../lib/uploads.mjs";

export const title = "one key's unfinished bodies leave room for another key's";
export const device = "fake";
export const keys = true;
export const args = (has) => ["--body-seconds", "20", ...(has("--request-memory") ? ["--request-memory", "64M"] : [])];
export const rssMB = (has) => (has("--request-memory") ? 64 + 48 : 4096);
export const settle = 30;

export async function attack(server, t) {
    const all = await uploads(t, 140, (c) => c.send(withoutLastByte(1900 << 10, "/v1/completions", t.line("alpha"))));
    await t.sleep(200);
    const statuses = [];
    for (let i = 0; i < 10; i++) {
        const body = { prompt: i % 2 ? "And" : "a".repeat(300), max_tokens: 2 };
        statuses.push((await t.complete(body, t.key("beta"))).status);
    }
    statuses.push((await t.server.post("/tokenize", { prompt: "And it came" }, t.key("beta"))).status);
    all.forEach((c) => c.destroy());
    t.assert.deepEqual(statuses, statuses.map(() => 200));
}

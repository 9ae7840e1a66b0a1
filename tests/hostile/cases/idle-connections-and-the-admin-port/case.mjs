export const title = "health, readiness and metrics on their own port do not hang on the public port's connections";
export const needs = ["--admin-port"];
export const device = "fake";
export const admin = true;
export const args = ["--max-connections", "100"];
export const health = { fresh: true };

export async function attack(server, t) {
    const all = await t.opens(120);
    for (const path of ["/health", "/ready", "/metrics"]) {
        const r = await t.exchange(server.adminPort, `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
        t.assert.equal(r.status, 200, path);
    }
    const work = await t.exchange(server.adminPort, t.post("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":1}"));
    t.assert.ok(work.status >= 400, `work on the admin port: status ${work.status}`);
    all.forEach((c) => c.destroy());
}

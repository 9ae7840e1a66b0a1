export const title = "a flood of questions for metrics, models and the page leaves the streams of others alone";
export const settle = 30;

export async function attack(server, t) {
    const other = t.stream({ prompt: "And it came", max_tokens: 300, temperature: 0, ignore_eos: true });
    const paths = ["/metrics", "/v1/models", "/openapi.json", "/", "/nowhere", "/health", "/v1/models/nothing"];
    const agent = new (await import("node:http")).Agent({ keepAlive: true, maxSockets: 8 });
    await t.many(t.scale(4000, 800), 8, async (i) => { await server.get(paths[i % paths.length], { agent }); });
    agent.destroy();
    other.leave();
    t.assert.ok(other.worst < 300 * t.slow, `the other's stream waited while a thread computed ${other.worst.toFixed(0)} ms`);
}

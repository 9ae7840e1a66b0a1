export const title = "clients that leave in headers, body, wait, stream or answer take nothing with them";
export const settle = 30;

export async function attack(server, t) {
    const bodies = [{ prompt: "And", max_tokens: 200, stream: true, ignore_eos: true }, { prompt: ["And", "The"], n: 3, max_tokens: 100, ignore_eos: true, logprobs: 3 }, { prompt: Array.from({ length: 800 }, (_, i) => 300 + i), max_tokens: 50, echo: true, logprobs: 5 }];
    await t.many(t.scale(300, 90), 12, async (i) => {
        const c = await t.open({ allowHalfOpen: i % 5 === 4 }), whole = t.post("/v1/completions", JSON.stringify(bodies[i % 3])), head = whole.indexOf("\r\n\r\n") + 4;
        switch (i % 6) {
            case 0: c.send(whole.slice(0, 10 + (i % (head - 10)))); break;
            case 1: c.send(whole.slice(0, head)); break;
            case 2: c.send(whole.slice(0, whole.length - 1)); break;
            case 3: c.send(whole); await t.sleep(i % 9); break;
            default: c.send(whole); await c.until((b) => b.length > i * 7, 400);
        }
        if (i % 5 === 4) c.socket.end();
        else if (i % 2) c.rst();
        if (i % 5 === 4) await t.sleep(20);
        c.destroy();
    });
}

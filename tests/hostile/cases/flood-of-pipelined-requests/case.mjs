export const title = "pipelined requests are answered in order or not at all, and only as fast as they are read";
export const device = "fake";
export const settle = 30;

export async function attack(server, t) {
    const get = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", page = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    const all = await t.opens(12);
    all.forEach((c, i) => {
        if (i % 3 === 0) c.socket.pause();
        c.send((i % 2 ? page : get).repeat(i % 2 ? t.scale(400, 100) : t.scale(8000, 2000)));
    });
    await t.sleep(t.scale(4000, 1200));
    all.forEach((c) => c.destroy());
    t.answered(await t.complete({ prompt: "And", max_tokens: 2 }), [200]);
}

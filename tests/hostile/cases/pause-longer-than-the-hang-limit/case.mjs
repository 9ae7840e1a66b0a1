export const title = "a process that was stopped for longer than --hang-seconds goes on as if nothing had been";
export const args = ["--hang-seconds", "2"];
export const health = false;

export async function attack(server, t) {
    const body = { prompt: "And it came to pass", max_tokens: 500, temperature: 0.8, seed: 5, ignore_eos: true };
    const texts = async (pauses) => {
        const streams = Array.from({ length: 4 }, (_, i) => t.stream({ ...body, seed: i }));
        await t.until("they run", () => streams.every((s) => s.begun || s.ended));
        for (const ms of pauses) {
            server.child.kill("SIGSTOP");
            await t.sleep(ms);
            server.child.kill("SIGCONT");
            await t.sleep(120);
            t.alive(`after ${ms} ms of SIGSTOP`);
        }
        await Promise.all(streams.map((s) => s.done));
        t.alive("after the streams");
        return streams.map((s) => t.chunks(s.answer.body).map((c) => c.choices[0]?.text ?? "").join(""));
    };
    const calm = await texts([]);
    t.assert.ok(calm.every((text) => text.length > 100));
    t.assert.deepEqual(await texts([3500]), calm, "the streams differ after a pause");
    t.assert.deepEqual(await texts([300, 50, 2600, 900]), calm, "the streams differ after four pauses");
}

export const title = "pauses of an idle and of a loaded server, again and again, are forgiven";
export const device = "fake";
export const args = ["--hang-seconds", "2", "--fake-us-per-token", "300"];
export const health = false;

export async function attack(server, t) {
    const pause = async (ms) => {
        server.child.kill("SIGSTOP");
        await t.sleep(ms);
        server.child.kill("SIGCONT");
        await t.sleep(60);
        t.alive(`after ${ms} ms of SIGSTOP`);
    };
    await pause(2500);
    const load = Array.from({ length: 12 }, (_, i) => t.complete({ prompt: Array(3).fill("And"), n: 2, max_tokens: 300, seed: i, ignore_eos: true }));
    for (const ms of [200, 1900, 2600, 50]) await pause(ms);
    (await Promise.all(load)).forEach((r) => t.answered(r, [200]));
    t.assert.equal((await server.get("/ready")).status, 200);
}

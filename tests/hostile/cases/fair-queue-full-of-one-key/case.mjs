export const title = "one key cannot fill the queue so that another key is refused";
export const device = "fake";
export const keys = true;
export const args = ["--max-running", "4", "--max-queue", "64", "--fake-us-per-token", "200"];

export async function attack(server, t) {
    const greedy = [];
    for (let i = 0; i < 80; i++) greedy.push(t.stream({ prompt: "And", max_tokens: 600, ignore_eos: true }, { headers: t.line("alpha") }));
    await t.sleep(500);
    const statuses = [];
    for (let i = 0; i < 5; i++) statuses.push((await t.complete({ prompt: "The", max_tokens: 2 }, t.key("beta"))).status);
    greedy.forEach((g) => g.leave());
    t.assert.deepEqual(statuses, [200, 200, 200, 200, 200]);
}

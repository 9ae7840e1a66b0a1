export const title = "signals that reach any server (SIGHUP of a terminal apart) change nothing";
export const health = { blocked: 3000 };

export async function attack(server, t) {
    const s = t.stream({ prompt: "And it came", max_tokens: 200, temperature: 0, ignore_eos: true });
    for (let i = 0; i < 200; i++) {
        for (const name of ["SIGPIPE", "SIGWINCH", "SIGCHLD", "SIGURG", "SIGCONT"]) server.child.kill(name);
        if (i % 20 === 0) await t.sleep(5);
    }
    await s.done;
    t.assert.ok(s.answer.whole, "the stream was cut");
}

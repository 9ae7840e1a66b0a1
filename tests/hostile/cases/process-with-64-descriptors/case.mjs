import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import "../../lib/binary.mjs";
import { binary, demo, sleep } from "../../../http/lib/server.mjs";
import { Raw, portOf, post } from "../../../http/lib/raw.mjs";

export const title = "a process allowed 64 descriptors answers as far as they go and all again afterwards";

export async function whole() {
    const child = spawn("bash", ["-c", "ulimit -n 64; exec \"$0\" \"$@\"", binary, "serve", "--model", demo, "--device", "fake", "--port", "0"], { stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    child.stderr.on("data", (d) => { log += d; });
    const end = new Promise((done) => child.on("close", (code, signal) => done({ code, signal })));
    let port = null;
    const get = () => Promise.race([sleep(3000), probe()]);
    const probe = async () => {
        const c = await new Promise((done) => { Raw.open(port).then(done); sleep(1000).then(() => done(null)); });
        if (!c) return 0;
        c.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
        await c.until((b) => b.includes("\r\n\r\n"), 2000);
        c.destroy();
        return Number(/HTTP\/1.1 (\d+)/.exec(c.received.toString())?.[1] ?? 0);
    };
    try {
        port = await portOf(child);
        let ready = 0;
        for (let i = 0; i < 60 && ready !== 200 && child.exitCode === null; i++) {
            await sleep(100);
            ready = await get();
        }
        if (child.exitCode !== null) { // to refuse so few is right too, if it says so
            assert.match(log, /descriptor|open files|--max-connections/);
            return;
        }
        assert.equal(ready, 200, log.slice(-500));
        const all = [];
        for (let i = 0; i < 100; i++) {
            const c = new Raw();
            const { connect } = await import("node:net");
            c.socket = connect({ port, host: "127.0.0.1" });
            c.socket.on("error", () => {});
            all.push(c);
        }
        await sleep(300);
        all.forEach((c, i) => { if (i % 2) c.socket.write(post("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":2}")); });
        await sleep(300);
        all.forEach((c) => c.socket.destroy());
        let after = 0;
        for (let i = 0; i < 50 && after !== 200; i++) { after = await get(); await sleep(50); }
        assert.equal(after, 200, log.slice(-500));
        assert.equal(child.exitCode, null, "the server ended");
    } finally {
        child.kill("SIGTERM");
    }
    assert.deepEqual(await end, { code: 0, signal: null });
}

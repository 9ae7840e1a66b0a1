import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { openSync } from "node:fs";
import "../../lib/binary.mjs";
import { binary, demo, sleep } from "../../../http/lib/server.mjs";
import { exchange, freePort, post } from "../../../http/lib/raw.mjs";

export const title = "a log that cannot be written does not end the server, nor an answer";

export async function whole() {
    const full = openSync("/dev/full", "w"), port = await freePort();
    const child = spawn(binary, ["serve", "--model", demo, "--device", "fake", "--port", String(port)], { stdio: ["ignore", full, full] });
    const end = new Promise((done) => child.on("close", (code, signal) => done({ code, signal })));
    try {
        for (let i = 0; i < 200; i++) {
            await sleep(50);
            if (child.exitCode !== null) break;
            const r = await exchange(port, "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").catch(() => null);
            if (r?.status === 200) break;
        }
        for (let i = 0; i < 50; i++) {
            const r = await exchange(port, i % 2 ? post("/v1/completions", "{\"prompt\":\"a\",\"max_tokens\":2}") : "BAD\r\n\r\n");
            if (i % 2) assert.equal(r.status, 200);
        }
        assert.equal(child.exitCode, null, "the server ended");
    } finally {
        child.kill("SIGTERM");
    }
    assert.deepEqual(await end, { code: 0, signal: null });
}

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { openSync } from "node:fs";
import http from "node:http";
import "../../lib/binary.mjs";
import { binary, demo, sleep } from "../../../http/lib/server.mjs";
import { exchange, portOf, post } from "../../../http/lib/raw.mjs";

export const title = "a log that cannot be written does not end the server, nor an answer";

const status = (port) => new Promise((done) => {
    const req = http.get({ port, host: "127.0.0.1", path: "/ready", agent: false }, (res) => { res.resume(); done(res.statusCode); });
    req.on("error", () => done(0));
});

export async function whole() {
    const full = openSync("/dev/full", "w");
    const child = spawn(binary, ["serve", "--model", demo, "--device", "fake", "--port", "0"], { stdio: ["ignore", full, full] });
    const end = new Promise((done) => child.on("close", (code, signal) => done({ code, signal })));
    try {
        const port = await portOf(child);
        for (let ready = 0; ready !== 200 && child.exitCode === null;) {
            await sleep(50);
            ready = await status(port);
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

// What a server says and does for its own safety when it starts.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Server } from "./lib/server.mjs";

const warning = /warn any client that can reach http:\S+ may use this server without a key; --api-key-file FILE makes it ask for one/;

test("an address that others reach, without keys, is warned of once, and no other is", async () => {
    const dir = mkdtempSync(path.join(tmpdir(), "fathom-keys-"));
    const keys = path.join(dir, "keys");
    writeFileSync(keys, "a-key-of-some-length tester\n");
    const six = Object.values(networkInterfaces()).flat().some((a) => a.address === "::1");
    const rows = [["0.0.0.0", [], 1], ["127.0.0.1", [], 0], ["127.1.2.3", [], 0], ["localhost", [], 0],
        ["0.0.0.0", ["--api-key-file", keys], 0], ...(six ? [["::", [], 1], ["::1", [], 0], ["::ffff:127.0.0.1", [], 0]] : [])];
    for (const [host, args, want] of rows) {
        const s = await Server.start(["--host", host, ...args], { ready: false });
        await s.stop();
        assert.equal(s.log.split("\n").filter((line) => warning.test(line)).length, want, `${host} ${args}: ${s.log}`);
    }
    rmSync(dir, { recursive: true });
});

// Filters of system calls, by thread; where this test itself runs under some, they count too.
function filtersOf(pid) {
    return readdirSync(`/proc/${pid}/task`).map((task) => {
        const status = readFileSync(`/proc/${pid}/task/${task}/status`, "utf8");
        return Number(/^Seccomp_filters:\s*(\d+)/m.exec(status)?.[1] ?? NaN);
    });
}

test("every thread of a server that answers is held to the sandbox, unless --no-sandbox", async (t) => {
    const [outside] = filtersOf(process.pid);
    if (Number.isNaN(outside)) return t.skip("the kernel does not say");
    for (const [args, device, filters] of [[[], "cpu", 1], [[], "fake", 1], [[], "auto", 2], [["--no-sandbox"], "cpu", 0]]) {
        const s = await Server.start(args, { device });
        const answer = await s.post("/v1/completions", { model: "demo", prompt: "In the", max_tokens: 4 });
        assert.equal(answer.status, 200);
        assert.deepEqual([...new Set(filtersOf(s.child.pid))], [outside + filters], `${device} ${args}`);
        await s.stop();
        assert.equal(/sandbox: system calls/.test(s.log), filters > 0);
    }
});

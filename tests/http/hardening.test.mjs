// What a server says and does for its own safety when it starts.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Server } from "./lib/server.mjs";

const warning = /warn whoever reaches http:\S+ may use this server without a key; --api-key-file FILE asks for one/;

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

// Work that a client paid for with a body, and then left: it ends soon, whatever it was.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Raw } from "./lib/raw.mjs";
import { Server, sleep, until } from "./lib/server.mjs";

const BODIES = 8;
const body = JSON.stringify({ prompt: "1.".repeat((1 << 20) - 100), max_tokens: 1 }); // dear to tokenize
const head = `POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n`;

// Processor time of the server so far, in ms: fields 14 and 15 of stat, of 10 ms each.
function used(server) {
    const stat = readFileSync(`/proc/${server.child.pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return 10 * (Number(fields[11]) + Number(fields[12]));
}

// The processor time in which the server is done with all bodies.
async function cost(server, each) {
    const start = used(server);
    const clients = await Promise.all(Array.from({ length: BODIES }, () => Raw.open(server.port)));
    for (const c of clients) c.send(head + body);
    await Promise.all(clients.map(each));
    let before = -1;
    await until("an end of the work", async () => {
        const now = used(server);
        if (now === before) return true;
        before = now;
        await sleep(300);
        return false;
    });
    return used(server) - start;
}

test("a body is not parsed to its end when its client has left", async () => {
    const server = await Server.start();
    await cost(server, (c) => c.until((got) => got.length > 0).then(() => c.destroy())); // warm
    const whole = await cost(server, (c) => c.until((got) => got.length > 0).then(() => c.destroy()));
    // A client that is late leaves when its body has been parsed: the least of several times counts.
    let left = Infinity;
    for (let tries = 0; tries < 20 && left >= 0.6 * whole; tries++) {
        left = Math.min(left, await cost(server, async (c) => {
            await until("the body on its way", () => c.socket.bytesWritten >= body.length && c.socket.writableLength === 0);
            await sleep(20);
            c.destroy();
        }));
    }
    assert.ok(left < 0.6 * whole, `${BODIES} bodies took ${whole} ms of processor time, and ${left} ms when their clients left`);
    assert.equal((await server.get("/health")).status, 200);
    await server.stop();
});

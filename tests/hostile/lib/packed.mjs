// Starts of a server on a copy of the demo with --packed-cache, and what it answers.
import "./binary.mjs";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { Server, sleep } from "../../http/lib/server.mjs";
import { probe } from "./probe.mjs";

export const fileOf = (dir) => path.join(dir, "fathom-packed.bin");
export const temporaries = (dir) => readdirSync(dir).filter((f) => /fathom-packed.*tmp/.test(f) || /tmp.*fathom-packed/.test(f));

// Each start measures which kernels are the fastest, and their last digits differ: where answers of
// several starts are compared, all run those that the first one took.
let kernels = [];

// { answers, log }: one start and stop. patience: ms until a server that is not ready is given up.
export async function life(dir, { args = [], patience = 30000, env = {} } = {}) {
    const s = await Server.start(["--packed-cache", ...kernels, ...args], { device: "cpu", model: dir, ready: false, env });
    const end = Date.now() + patience;
    let ready = false;
    while (!ready && !s.exit && Date.now() < end) {
        ready = (await s.get("/ready").catch(() => ({}))).status === 200;
        if (!ready) await sleep(30);
    }
    if (!ready) {
        s.child.kill("SIGKILL");
        throw new Error(`the server never became ready: ${s.log.slice(-800)}`);
    }
    const answers = await probe(s).catch((error) => { s.child.kill("SIGKILL"); throw error; });
    // The file may be written beside the first requests.
    for (let i = 0; i < 40 && !existsSync(fileOf(dir)); i++) await sleep(50);
    await s.stop();
    if (kernels.length === 0) kernels = ["--kernels", /kernels (\w+),/.exec(s.log)[1]];
    return { answers, log: s.log };
}

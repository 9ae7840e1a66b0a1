// Starts of a server on a copy of the demo with --packed-cache, and what it answers.
import "./binary.mjs";
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { PATIENCE, Server, sleep } from "../../http/lib/server.mjs";
import { probe } from "./probe.mjs";

export const fileOf = (dir) => path.join(dir, "fathom-packed.bin");
export const temporaries = (dir) => readdirSync(dir).filter((f) => /fathom-packed.*tmp/.test(f) || /tmp.*fathom-packed/.test(f));

// { answers, log, kernels }: one start and stop. Each start measures which kernels are the fastest, and their last
// digits differ: where answers of several starts are compared, the others are given the kernels of the first.
export async function life(dir, { kernels } = {}) {
    const s = await Server.start(["--packed-cache", ...(kernels ? ["--kernels", kernels] : [])], { device: "cpu", model: dir, ready: false });
    const end = Date.now() + PATIENCE;
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
    return { answers, log: s.log, kernels: /kernels (\w+),/.exec(s.log)[1] };
}

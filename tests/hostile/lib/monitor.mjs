// Asks for /health all the time, from a thread and a connection of its own, and keeps the worst
// answers. No wall time is judged as it is: of every answer's time the monitor knows what the
// server's loop computed meanwhile, how long the loop waited for a processor, and how long this
// thread did. The first is the server's doing, the other two the machine's.
import net from "node:net";
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads";
import { fileURLToPath } from "node:url";
import { rssMB, self, thread } from "./proc.mjs";

export class Monitor {
    // fresh: every question over a connection of its own. every: ms between questions.
    constructor(pid, port, { fresh = false, every = 25 } = {}) {
        this.worker = new Worker(fileURLToPath(import.meta.url), { workerData: { pid, port, fresh, every } });
        this.answer = new Promise((done, failed) => {
            this.worker.on("message", done);
            this.worker.on("error", failed);
        });
    }

    // { asked, worst: {computed, blocked, wall}, failed: [what], peakMB }
    stop() {
        this.worker.postMessage("stop");
        return this.answer;
    }
}

if (!isMainThread) {
    const { pid, port, fresh, every } = workerData;
    const sleep = (t) => new Promise((done) => setTimeout(done, t));
    const report = { asked: 0, worst: { computed: 0, blocked: 0, wall: 0 }, failed: [], peakMB: 0 };
    let stopped = false, socket = null, wake = null, text = "";
    parentPort.on("message", () => { stopped = true; wake?.(); });

    const open = () => new Promise((done, failed) => {
        socket = net.connect({ port, host: "127.0.0.1" }, done);
        socket.on("error", failed);
        socket.on("data", (d) => { text += d; if (/\r\n\r\n[^]*\}/.test(text)) wake?.(); });
        socket.on("close", () => { socket = null; wake?.(); });
    });
    const ask = async () => {
        text = "";
        if (!socket) await open();
        await new Promise((done) => {
            wake = done;
            socket.write("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        });
        wake = null;
        return Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? 0);
    };
    while (!stopped) {
        const start = performance.now(), loop = thread(pid), own = self();
        let status = 0, why = "";
        const kept = socket !== null;
        try { status = await ask(); } catch (error) { why = error.message; }
        if (stopped && status !== 200) break; // the question was cut short by the end
        if (status === 0 && kept) continue; // an idle connection was closed under it: ask again
        const wall = performance.now() - start, now = thread(pid), me = self();
        const computed = now.ran - loop.ran, machine = now.waited - loop.waited + me.waited - own.waited;
        report.asked++;
        report.peakMB = Math.max(report.peakMB, rssMB(pid));
        if (status !== 200 && report.failed.length < 5) report.failed.push(status ? `status ${status}: ${text.slice(0, 200)}` : `no answer ${why}`);
        // A thread that itself waited for a processor cannot say how long the answer lay there.
        if (me.waited - own.waited < 10) report.worst.computed = Math.max(report.worst.computed, computed);
        report.worst.blocked = Math.max(report.worst.blocked, wall - computed - machine);
        report.worst.wall = Math.max(report.worst.wall, wall);
        if (fresh) { socket?.destroy(); socket = null; }
        await sleep(status === 200 ? every : 100);
    }
    socket?.destroy();
    parentPort.postMessage(report);
    parentPort.close();
}

// What Linux says about the server's process and its threads.
import { readFileSync, readdirSync } from "node:fs";

const ms = 1e-6; // from nanoseconds

// Processor time and time spent waiting for a processor, of one thread, in ms.
export function thread(pid, tid = pid) {
    try {
        const [ran, waited] = readFileSync(`/proc/${pid}/task/${tid}/schedstat`, "utf8").split(" ");
        return { ran: ran * ms, waited: waited * ms };
    } catch {
        return { ran: 0, waited: 0 }; // it ended
    }
}

// The same of the thread that calls this.
export function self() {
    const [ran, waited] = readFileSync("/proc/thread-self/schedstat", "utf8").split(" ");
    return { ran: ran * ms, waited: waited * ms };
}

// Processor time of every thread: Map from thread to ms.
export function threads(pid) {
    const out = new Map();
    try {
        for (const tid of readdirSync(`/proc/${pid}/task`)) out.set(tid, thread(pid, tid).ran);
    } catch { /* it ended */ }
    return out;
}

// What the busiest thread did between two of those.
export function busiest(before, after) {
    let most = 0;
    for (const [tid, ran] of after) most = Math.max(most, ran - (before.get(tid) ?? 0));
    return most;
}

// Processor time of the whole process in ms, threads that ended included.
export function cpu(pid) {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return (Number(fields[11]) + Number(fields[12])) * 10;
}

export const descriptors = (pid) => readdirSync(`/proc/${pid}/fd`).length;

export function rssMB(pid) {
    try {
        return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]) / 1024;
    } catch {
        return 0;
    }
}

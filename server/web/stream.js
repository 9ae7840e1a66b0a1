// One streamed request, from the body to the end of its answer.
import { EventSplitter, readChunk } from "./core.js";

async function errorOf(answer) {
    const text = await answer.text();
    try {
        return JSON.parse(text).error.message;
    } catch {
        return `HTTP ${answer.status} ${answer.statusText}`.trim();
    }
}

/** An error whose message is meant for the person at the page. */
export class Refused extends Error {}

/**
 * Sends the body and gives each chunk to onChunk. Returns {finish, stopReason, usage}.
 * Throws Refused with words, or an AbortError.
 */
export async function stream(path, body, { headers, signal, onChunk }) {
    let arrived = 0;
    try {
        const answer = await fetch(path, {
            method: "POST",
            headers: { "Content-Type": "application/json", ...headers },
            body: JSON.stringify(body),
            signal,
        });
        if (!answer.ok) throw new Refused(await errorOf(answer));
        return await readAll(answer, (chunk) => {
            arrived += chunk.depths.length || (chunk.text || chunk.reasoning ? 1 : 0);
            onChunk(chunk);
        });
    } catch (e) {
        if (!(e instanceof TypeError)) throw e;
        const tokens = `${arrived} token${arrived === 1 ? "" : "s"}`;
        throw new Refused(arrived ? `The connection was lost after ${tokens}.` : "The server cannot be reached.");
    }
}

async function readAll(answer, onChunk) {
    const reader = answer.body.getReader();
    const split = new EventSplitter();
    const end = { finish: null, stopReason: null, usage: null, done: false };
    for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        for (const payload of split.push(value)) {
            const chunk = readChunk(payload);
            if (chunk.error) throw new Refused(chunk.error);
            if (chunk.done) end.done = true;
            if (chunk.usage) end.usage = chunk.usage;
            if (!chunk.counted) continue;
            if (chunk.finish) Object.assign(end, { finish: chunk.finish, stopReason: chunk.stopReason });
            onChunk(chunk);
        }
    }
    if (!end.done) throw new Refused("The stream ended before the answer was complete.");
    return end;
}

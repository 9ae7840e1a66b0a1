// What tests of `fathom bench` share: a folder, a scripted server, a stream of tokens, a small load.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after } from "node:test";
import { DONE, startMock, tokenEvent, usageEvent } from "./mock.js";

/** A folder of this test file, removed at its end. */
export const dir = mkdtempSync(join(tmpdir(), "fathom-bench-test-"));
after(() => rmSync(dir, { recursive: true, force: true }));

export async function withMock(script, use, pages) {
    const mock = await startMock(0, script, pages);
    try {
        return await use(mock);
    } finally {
        await mock.close();
    }
}

/** n tokens, `first` ms before the first, `gap` ms between, and `last` ms before the last of several. */
export function* stream(n, first = 0, gap = 0, depth = () => undefined, last = gap) {
    for (let i = 0; i < n; i++) {
        yield i === 0 ? first : i === n - 1 ? last : gap;
        yield tokenEvent(` t${i}`, depth(i));
    }
    yield usageEvent(7, n);
    yield DONE;
}

export const small = ["--input-len", "4", "--output-len", "5"];

// Every folder of cases/ is a test. HOSTILE_CASES=regex picks some, HOSTILE_SCALE=1 makes them
// full size, HOSTILE_VERBOSE=1 prints what was measured.
import "./lib/binary.mjs";
import { readdirSync } from "node:fs";
import path from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { PATIENCE_FACTOR, SCALE, option, run } from "./lib/bench.mjs";

const dir = path.join(path.dirname(fileURLToPath(import.meta.url)), "cases");
const only = new RegExp(process.env.HOSTILE_CASES ?? "");
const names = readdirSync(dir).filter((name) => only.test(name)).sort();
const cases = await Promise.all(names.map(async (name) => [name, await import(path.join(dir, name, "case.mjs"))]));

describe("hostile", { concurrency: Number(process.env.HOSTILE_JOBS ?? 2) }, () => {
    for (const [name, def] of cases) {
        const lacks = (def.needs ?? []).find((o) => !option(o));
        const skip = lacks ? `this server has no ${lacks}` : def.skip?.() ?? false;
        test(`${name}: ${def.title}`, { skip, timeout: 180000 * Math.min(PATIENCE_FACTOR, 5) * Math.max(1, 4 * SCALE) }, async () => {
            const start = Date.now(), said = [];
            try {
                if (def.whole) await def.whole((line) => said.push(line));
                else await run(def, (line) => said.push(line));
            } finally {
                if (process.env.HOSTILE_VERBOSE) console.log(`# ${name} ${((Date.now() - start) / 1000).toFixed(1)} s\n${said.map((l) => `#   ${l}\n`).join("")}`);
            }
        });
    }
});

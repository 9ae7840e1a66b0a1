import assert from "node:assert/strict";
import { existsSync, utimesSync, writeFileSync } from "node:fs";
import { copyOfDemo } from "../../lib/models.mjs";
import { fileOf, life, temporaries } from "../../lib/packed.mjs";

export const title = "temporary files that earlier processes left, of any number, do not stop the packed weights from being kept";

export async function whole(record) {
    const dir = copyOfDemo(), old = Date.now() / 1000 - 3 * 86400;
    for (let pid = 1; pid < process.pid + 3000; pid += pid < process.pid - 50 && pid > 2 ? 4001 : 1) {
        const file = `${fileOf(dir)}.${pid}.tmp`;
        writeFileSync(file, "half");
        utimesSync(file, old, old);
    }
    const { log } = await life(dir);
    record(`${temporaries(dir).length} temporary files left`);
    assert.ok(existsSync(fileOf(dir)), `the packed weights were not kept: ${log.slice(-400)}`);
    assert.deepEqual(temporaries(dir), [], "stale temporary files are left");
}

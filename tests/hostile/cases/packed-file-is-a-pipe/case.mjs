import { execFileSync } from "node:child_process";
import { mkdirSync, symlinkSync } from "node:fs";
import { copyOfDemo } from "../../lib/models.mjs";
import { fileOf, life } from "../../lib/packed.mjs";

export const title = "a pipe, a folder or a dangling link in the place of the packed weights does not hold up the start";

export async function whole() {
    for (const put of [(f) => execFileSync("mkfifo", [f]), (f) => mkdirSync(f), (f) => symlinkSync("/nowhere/at/all", f), (f) => symlinkSync("/dev/zero", f)]) {
        const dir = copyOfDemo();
        put(fileOf(dir));
        await life(dir);
    }
}

// A key file with two keys, for tests of what clients do to each other.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

const dir = mkdtempSync(path.join(tmpdir(), "fathom-http-"));
process.on("exit", () => rmSync(dir, { recursive: true, force: true }));
export const twoKeys = { a: "sk-alpha-000001", b: "sk-beta-0000002", file: path.join(dir, "keys") };
writeFileSync(twoKeys.file, `${twoKeys.a} alpha\n${twoKeys.b} beta\n`);

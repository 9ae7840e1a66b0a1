// Runs build/fathom bench and gives back what it said and wrote.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
export const fathom = process.env.FATHOM ?? join(root, "build/fathom");

export function bench(args, { onStart, env } = {}) {
    return new Promise((done) => {
        const child = spawn(fathom, ["bench", "--disable-tqdm", ...args], {
            env: { ...process.env, OPENAI_API_KEY: "", ...env },
        });
        let out = "";
        let errors = "";
        child.stdout.on("data", (d) => (out += d));
        child.stderr.on("data", (d) => (errors += d));
        child.on("close", (code, signal) => done({ code, signal, out, errors }));
        onStart?.(child);
    });
}

/** Runs with --save-detailed; adds `json`. */
export async function benchJson(args, more) {
    const dir = mkdtempSync(join(tmpdir(), "fathom-bench-"));
    try {
        const r = await bench([...args, "--result-dir", dir, "--result-filename", "r.json", "--save-detailed"], more);
        try {
            r.json = JSON.parse(readFileSync(join(dir, "r.json"), "utf8"));
        } catch (e) {
            throw new Error(`no result (${e.message}): ${r.errors}${r.out}`);
        }
        return r;
    } finally {
        rmSync(dir, { recursive: true, force: true });
    }
}

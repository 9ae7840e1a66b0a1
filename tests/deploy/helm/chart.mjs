// The chart as Helm renders it, and the program whose options it uses.
import { execFileSync, spawnSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parse, parseAllDocuments } from "yaml";
import { binary, root } from "../../http/lib/server.mjs";

export { root };
export const folder = path.join(root, "deploy/helm/fathom");

// Helm's exit status and what it says; values of any depth.
export function helm(args, values = {}) {
    const done = spawnSync(path.join(root, "tools/helm.sh"), args, { input: JSON.stringify(values), encoding: "utf8", maxBuffer: 1 << 26 });
    return { status: done.status, out: done.stdout, err: done.stderr };
}

const there = helm(["version"]);
export const skip = there.status === 77 ? there.err.trim() : false; // why Helm cannot run here

// The objects of a release, with lookups by kind and name.
export function render(values, { name = "fathom", namespace = "models" } = {}) {
    const done = helm(["template", name, folder, "--namespace", namespace, "-f", "-"], values);
    if (done.status !== 0) throw new Error(done.err);
    const objects = parseAllDocuments(done.out).map((d) => d.toJS()).filter(Boolean);
    const all = (kind) => objects.filter((o) => o.kind === kind);
    const one = (kind, called = name) => all(kind).find((o) => o.metadata.name === called);
    return { objects, all, one, name, namespace };
}

// The picker's configuration, which is text inside a ConfigMap.
export const pickerConfig = (release) => parse(release.one("ConfigMap", `${release.name}-picker`).data["picker.yaml"]);

// Arguments as a map: --port=8080 is {port: "8080"}, a flag is true.
export function options(container) {
    return Object.fromEntries(container.args.filter((a) => a.startsWith("--")).map((a) => {
        const at = a.indexOf("=");
        return at < 0 ? [a.slice(2), true] : [a.slice(2, at), a.slice(at + 1)];
    }));
}

export function knownOptions() {
    const help = execFileSync(binary, ["serve", "--help"], { encoding: "utf8" });
    return new Set([...help.matchAll(/^ {2}--([a-z-]+)/gm)].map((m) => m[1]));
}

// Copies of models/demo in a temporary folder, to be changed by a case.
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { demo } from "../../http/lib/server.mjs";

const made = [];
process.on("exit", () => made.forEach((dir) => rmSync(dir, { recursive: true, force: true })));

export function temporary(prefix = "fathom-hostile-") {
    const dir = mkdtempSync(path.join(tmpdir(), prefix));
    made.push(dir);
    return dir;
}

export function copyOfDemo() {
    const dir = path.join(temporary(), "demo");
    cpSync(demo, dir, { recursive: true, filter: (f) => !/fathom-packed/.test(f) });
    return dir;
}

// The demo with other texts for its rarest tokens: vocabularies of large models hold pieces of
// JSON, the demo's holds single brackets, quotes and digits only.
export function demoWithTokens(texts) {
    const dir = copyOfDemo(), file = path.join(dir, "tokenizer.json");
    const all = JSON.parse(readFileSync(file, "utf8")), { vocab, merges } = all.model;
    const used = new Set(merges.flatMap((m) => m.split(" ")));
    const special = new Set(all.added_tokens.map((t) => t.content));
    const rare = Object.keys(vocab).filter((t) => t.length > 1 && !used.has(t) && !special.has(t)).sort((a, b) => vocab[b] - vocab[a]);
    const wanted = texts.filter((t) => !(t in vocab));
    if (wanted.length > rare.length) throw new Error(`only ${rare.length} tokens can be changed`);
    const gone = new Set(rare.slice(0, wanted.length));
    wanted.forEach((text, i) => {
        vocab[text] = vocab[rare[i]];
        delete vocab[rare[i]];
    });
    all.model.merges = merges.filter((m) => !gone.has(m.replace(" ", "")));
    writeFileSync(file, JSON.stringify(all));
    return { dir, id: (text) => vocab[text] };
}

const digits = "0123456789".split("");
// Pieces of JSON such as the vocabularies of large models hold.
export const jsonPieces = [
    ...["{", "[", "[[", "[[[", "[{", ",", ":", "{\"", "[\"", "\":\"", "\",\"", "\"]", "\"}", "\"},{\"", "],[", "}]", "}}", "\":[", "\":{\"", "\":", "\",", ",\""],
    ..."abcdefghijklmnopqrstuvwxyz".split("").flatMap((c) => [`"${c}`, `{"${c}`, `["${c}`]),
    ...digits.flatMap((a) => digits.map((b) => a + b)), ...digits.map((a) => `[${a}`), ...digits.map((a) => `,${a}`),
    "true", "false", "null", "[true", "[null", "true]", "null]", "null}",
];

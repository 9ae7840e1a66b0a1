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

// The demo with so many tokens more: words of letters, as the vocabularies of large models have
// them. The new rows of the embedding are copies of old ones.
export function demoWithVocabulary(n) {
    const dir = copyOfDemo();
    const config = JSON.parse(readFileSync(path.join(dir, "config.json"), "utf8")), old = config.vocab_size;
    writeFileSync(path.join(dir, "config.json"), JSON.stringify({ ...config, vocab_size: n }));

    const all = JSON.parse(readFileSync(path.join(dir, "tokenizer.json"), "utf8")), { vocab } = all.model;
    const letters = "etaoinshrdlucmfwypvbgkjqxz";
    for (let id = old, i = 0; id < n; i++) {
        let text = "";
        for (let k = i + 27; k > 0; k = Math.floor(k / 26)) text = letters[k % 26] + text;
        if (!(text in vocab)) vocab[text] = id++;
    }
    writeFileSync(path.join(dir, "tokenizer.json"), JSON.stringify(all));

    const file = path.join(dir, "model.safetensors"), bytes = readFileSync(file), size = Number(bytes.readBigUInt64LE());
    const header = JSON.parse(bytes.subarray(8, 8 + size).toString()), data = bytes.subarray(8 + size);
    const [from, to] = header["embed.weight"].data_offsets, rows = data.subarray(from, to), more = [];
    for (let left = (n - old) * (to - from) / old; left > 0; left -= rows.length) more.push(rows.subarray(0, Math.min(left, rows.length)));
    const grown = Buffer.concat([rows, ...more]), rest = Object.entries(header).filter(([name]) => name !== "embed.weight" && name !== "__metadata__");
    let at = 0;
    const parts = [], out = { __metadata__: header.__metadata__ };
    for (const [name, t] of rest) {
        const piece = data.subarray(...t.data_offsets);
        out[name] = { ...t, data_offsets: [at, at += piece.length] };
        parts.push(piece);
    }
    out["embed.weight"] = { ...header["embed.weight"], shape: [n, header["embed.weight"].shape[1]], data_offsets: [at, at + grown.length] };
    let text = JSON.stringify(out);
    text += " ".repeat((8 - (text.length % 8)) % 8);
    const head = Buffer.alloc(8);
    head.writeBigUInt64LE(BigInt(text.length));
    writeFileSync(file, Buffer.concat([head, Buffer.from(text), ...parts, grown]));
    return dir;
}

let vocabulary;
export const tokenId = (text) => (vocabulary ??= JSON.parse(readFileSync(path.join(demo, "tokenizer.json"), "utf8")).model.vocab)[text];

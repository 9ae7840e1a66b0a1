// gguf.mjs - writes a dense model of the llama architecture with random weights as a GGUF
// file, whose token reads as many bytes as one of mythos_1b at depth 6. No vocabulary:
// token ids go in and logits come out.
//
//   node bench/tools/llama/gguf.mjs bf16|q8_0 FILE
import { closeSync, openSync, writeSync } from "node:fs";
import { pathToFileURL } from "node:url";

// 22 layers of 46.7 M and a head of 65.5 M parameters: 1.092 G read per token, against 1.090 G.
export const shape = { layers: 22, width: 2048, heads: 16, kvHeads: 4, ffn: 5888, vocab: 32000, context: 4096 };
const headDim = shape.width / shape.heads, kvWidth = shape.kvHeads * headDim;
const F32 = 0, Q8_0 = 8, BF16 = 30; // tensor types of the format
const ALIGN = 32, UINT32 = 4, FLOAT32 = 6, STRING = 8;

// Q8_0: blocks of 32 values, a float16 scale before them.
const bytesOf = (type, n) => (type === F32 ? n * 4 : type === BF16 ? n * 2 : (n / 32) * 34);

function tensors(type) {
    const { width, ffn, vocab } = shape;
    const all = [["token_embd.weight", [width, vocab], type], ["output_norm.weight", [width], F32]];
    for (let i = 0; i < shape.layers; i++) {
        const layer = { attn_norm: [width], attn_q: [width, width], attn_k: [width, kvWidth], attn_v: [width, kvWidth], attn_output: [width, width],
            ffn_norm: [width], ffn_gate: [width, ffn], ffn_up: [width, ffn], ffn_down: [ffn, width] };
        for (const [name, dims] of Object.entries(layer)) all.push([`blk.${i}.${name}.weight`, dims, dims.length === 1 ? F32 : type]);
    }
    return all.map(([name, dims, t]) => ({ name, dims, type: t, n: dims.reduce((a, b) => a * b, 1) }));
}

// What one token reads: every weight once (the embedding is the head too), and the keys and
// values of `position` positions before it in float16.
export function cost(type, position) {
    const all = tensors(type === "q8_0" ? Q8_0 : BF16);
    const bytes = all.reduce((sum, t) => sum + bytesOf(t.type, t.n), 0) + position * shape.layers * 2 * kvWidth * 2;
    const weights = all.filter((t) => t.dims.length === 2).reduce((sum, t) => sum + t.n, 0);
    return { bytes, weights, body: weights - shape.width * shape.vocab };
}
// Of a prompt of n positions: the head once; scores and values of causal attention.
export const promptFlop = (n) => 2 * n * cost("bf16", 0).body + 2 * shape.width * shape.vocab + shape.layers * 4 * shape.width * (n * (n + 1)) / 2;

const u32 = (x) => { const b = Buffer.alloc(4); b.writeUInt32LE(x); return b; };
const u64 = (x) => { const b = Buffer.alloc(8); b.writeBigUInt64LE(BigInt(x)); return b; };
const f32 = (x) => { const b = Buffer.alloc(4); b.writeFloatLE(x); return b; };
const text = (s) => Buffer.concat([u64(Buffer.byteLength(s)), Buffer.from(s)]);
const pair = (key, type, value) => Buffer.concat([text(key), u32(type), value]);

function header(all) {
    const name = "llama", pairs = [
        pair("general.architecture", STRING, text(name)),
        pair("general.name", STRING, text("random weights")),
        pair("tokenizer.ggml.model", STRING, text("none")),
        pair(`${name}.attention.layer_norm_rms_epsilon`, FLOAT32, f32(1e-5)),
        pair(`${name}.rope.freq_base`, FLOAT32, f32(10000)),
    ];
    const numbers = { context_length: shape.context, embedding_length: shape.width, block_count: shape.layers, feed_forward_length: shape.ffn,
        "attention.head_count": shape.heads, "attention.head_count_kv": shape.kvHeads, "rope.dimension_count": headDim, vocab_size: shape.vocab };
    for (const [key, value] of Object.entries(numbers)) pairs.push(pair(`${name}.${key}`, UINT32, u32(value)));
    const infos = [];
    let at = 0;
    for (const t of all) {
        infos.push(text(t.name), u32(t.dims.length), ...t.dims.map(u64), u32(t.type), u64(at));
        at += Math.ceil(bytesOf(t.type, t.n) / ALIGN) * ALIGN;
    }
    const head = Buffer.concat([Buffer.from("GGUF"), u32(3), u64(all.length), u64(pairs.length), ...pairs, ...infos]);
    return Buffer.concat([head, Buffer.alloc((ALIGN - (head.length % ALIGN)) % ALIGN)]);
}

// 34 MiB of values of about +-0.02, never subnormal; tensors take it from changing places.
function noise(type) {
    const b = Buffer.alloc(34 << 20);
    let x = 88172645;
    const next = () => { x ^= x << 13; x ^= x >>> 17; x ^= x << 5; return x >>> 0; };
    if (type === BF16) {
        for (let i = 0; i < b.length; i += 2) {
            const r = next(); // sign, exponent 2^-7 to 2^-5, seven bits
            b.writeUInt16LE(((r & 1) << 15) | ((120 + ((r >>> 1) % 3)) << 7) | ((r >>> 8) & 127), i);
        }
    } else {
        for (let i = 0; i < b.length; i += 34) {
            b.writeUInt16LE(0x0c00 | (next() & 0x3ff), i); // float16, 2^-12 to 2^-11
            for (let k = 2; k < 34; k++) b[i + k] = next() >>> 11;
        }
    }
    return b;
}

function write(type, file) {
    const all = tensors(type), random = noise(type), fd = openSync(file, "w");
    const put = (b) => { for (let at = 0; at < b.length;) at += writeSync(fd, b, at); };
    put(header(all));
    for (const [i, t] of all.entries()) {
        let left = bytesOf(t.type, t.n), at = (i * 34 * 65536) % random.length;
        const pad = (ALIGN - (left % ALIGN)) % ALIGN;
        if (t.type === F32) { put(Buffer.from(new Float32Array(t.n).fill(1).buffer)); left = 0; }
        for (; left > 0; at = 0) {
            const n = Math.min(left, random.length - at);
            put(random.subarray(at, at + n));
            left -= n;
        }
        put(Buffer.alloc(pad));
    }
    closeSync(fd);
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
    const [type, file] = process.argv.slice(2);
    if (!file || !["bf16", "q8_0"].includes(type)) { console.error("usage: gguf.mjs bf16|q8_0 FILE"); process.exit(2); }
    write(type === "bf16" ? BF16 : Q8_0, file);
}

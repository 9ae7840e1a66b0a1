// Values that a JSON schema allows, and values that it does not; all from one seed.

export class Random { // xorshift of 32 bits: a body takes hundreds of draws
    constructor(seed) {
        this.state = (Math.imul(seed, 0x9e3779b1) ^ 0x5bf03635) >>> 0 || 1;
        for (let i = 0; i < 4; i++) this.next();
    }
    next() {
        let x = this.state;
        x ^= x << 13;
        x ^= x >>> 17;
        x ^= x << 5;
        return (this.state = x >>> 0);
    }
    below(n) { return this.next() % n; }
    chance(p) { return this.next() < p * 2 ** 32; }
    pick(list) { return list[this.below(list.length)]; }
}

const words = ["", "a", "In the beginning", " God", "<|end|>", "<|user|>", "\u0000", "\ud83d\ude00", "\u2028", "é€", "{}", "[1]", "null",
    "../../etc", "\\", "\"", "x".repeat(300), "0", "-1", "1e9", "demo", "{\"a\":1}", "\n\n", "data: [DONE]"];
const numbers = [0, 1, -1, 2, 3, 0.5, -0.5, 1.5, 20, 21, 64, 100, -100, 101, 2047, 2048, 1e9, -1e9, 2147483648, 9007199254740993, 1e-40, 1e300];

export function anything(r, depth = 0) {
    switch (r.below(depth > 3 ? 5 : 7)) {
    case 0: return null;
    case 1: return r.chance(0.5);
    case 2: return r.pick(numbers);
    case 3: case 4: return r.pick(words);
    case 5: return Array.from({ length: r.below(4) }, () => anything(r, depth + 1));
    default: return Object.fromEntries(Array.from({ length: r.below(4) },
        () => [r.pick(["type", "name", "a", "0", "2047", "text", "role", "content", "function"]), anything(r, depth + 1)]));
    }
}

function number(r, s) {
    const lo = s.exclusiveMinimum ?? s.minimum ?? -1000, hi = s.maximum ?? 1000;
    const whole = s.type === "integer" || s.type?.includes?.("integer");
    if (r.chance(0.1)) return whole ? Math.trunc(lo) : lo; // the edges, allowed or not
    if (r.chance(0.1)) return hi;
    const x = lo + (r.next() / 2 ** 32) * (Math.min(hi, 50) - lo);
    return whole ? Math.ceil(x) : x;
}

export function value(r, schema, doc, depth = 0) {
    if (schema.$ref) schema = schema.$ref.split("/").slice(1).reduce((at, key) => at[key], doc);
    if (schema.anyOf) return value(r, r.pick(schema.anyOf), doc, depth);
    if (schema.enum) return r.pick(schema.enum);
    const type = Array.isArray(schema.type) ? r.pick(schema.type) : schema.type;
    switch (type) {
    case "null": return null;
    case "boolean": return r.chance(0.5);
    case "integer": case "number": return number(r, { ...schema, type });
    case "string": return r.pick(words).slice(0, schema.maxLength ?? 400);
    case "array": {
        const n = Math.max(schema.minItems ?? 0, r.below(4));
        return Array.from({ length: n }, () => value(r, schema.items ?? {}, doc, depth + 1));
    }
    case "object": return object(r, schema, doc, depth);
    default: return anything(r, depth);
    }
}

function object(r, schema, doc, depth) {
    const out = {};
    for (const [name, s] of Object.entries(schema.properties ?? {})) {
        if (schema.required?.includes(name) || r.chance(depth ? 0.5 : 0.15)) out[name] = value(r, s, doc, depth + 1);
    }
    if (schema.additionalProperties) {
        for (let i = r.below(4); i > 0; i--) out[String(r.below(2100))] = value(r, schema.additionalProperties, doc, depth + 1);
    }
    return out;
}

// One place of a value becomes something else.
export function mistake(r, v) {
    if (v !== null && typeof v === "object" && r.chance(0.85)) {
        const keys = Object.keys(v);
        if (keys.length) {
            const k = r.pick(keys);
            if (r.chance(0.1)) delete v[k];
            else v[k] = mistake(r, v[k]);
            return v;
        }
    }
    return anything(r);
}

export function torn(r, text) { // bytes, not values
    const bytes = Buffer.from(text);
    for (let i = 1 + r.below(4); i > 0 && bytes.length; i--) {
        const at = r.below(bytes.length);
        if (r.chance(0.3)) return bytes.subarray(0, at);
        bytes[at] = r.below(256);
    }
    return bytes;
}

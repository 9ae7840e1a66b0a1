// Schemas that branch: valid each, and each small enough to be taken.
import { demoWithTokens, jsonPieces } from "./models.mjs";

const range = (n, fn) => Array.from({ length: n }, (_, i) => fn(i));
const letters = "abcdefghijklmnopqrstuvwxyz";
let jsonish;

// The demo whose vocabulary holds `{"`, `["`, `":"`, pairs of digits and the like.
export const jsonModel = () => (jsonish ??= demoWithTokens(jsonPieces));

// Two or more readings stand after "["; the first ones branch into 32 inside the token and fill
// every place, so that only a reading without a place could take the token's second byte.
// Each: [name, schema, the tokens to be pushed].
export function branching() {
    const list = (...items) => ({ type: "array", items: items.length > 1 ? { anyOf: items } : items[0] });
    const texts = (n, c) => range(n, (i) => ({ enum: [`${c}${i}`] }));
    return [
        ["arrays of texts", { anyOf: [list(...texts(32, "a")), list({ enum: ["b0", "b1"] })] }, ["[", "\"b"]],
        ["arrays of arrays of texts", { anyOf: [list(list(...texts(32, "a"))), list(list({ enum: ["b0"] }))] }, ["[[", "[", "\"b"]],
        ["32 kinds of arrays", { anyOf: range(26, (k) => list(...texts(32, letters[k]))) }, ["[", "\"z"]],
        ["numbers of two digits", { anyOf: [list(...range(32, (i) => ({ enum: [100 + i] }))), list({ enum: [121, 123] })] }, ["[", "12"]],
        ["number, integer and enums of digits", { anyOf: [list(...range(30, (i) => ({ enum: [1000 + i, 20000 + i] })), { type: "integer", minimum: 1000, maximum: 1029 }), list({ type: "number" })] }, ["[", "19"]],
        ["objects of equal beginnings", { type: "array", items: { anyOf: [...range(31, (i) => object({ [`a${i}`]: { const: i } })), object({ b: { const: 1 } })] } }, ["[", "{\"b"]],
        ["objects in two arrays", { anyOf: [list(...range(32, (i) => object({ [`a${i}`]: { type: "null" } }))), list(object({ b: { type: "null" } }))] }, ["[", "{\"b"]],
        ["values of a map", { anyOf: [...range(8, (k) => ({ type: "object", properties: { a: { anyOf: range(32, (i) => ({ enum: [`c${k}${i}`] })) } }, required: ["a"] })), object({ a: { enum: ["z"] } })] }, ["{\"a", "\":\"", "z"]],
        ["a tree that refers to itself", { $defs: { node: { anyOf: [...range(16, (i) => list({ enum: [`a${i}`] })), list({ $ref: "#/$defs/node" })] } }, anyOf: [list({ $ref: "#/$defs/node" }), list(list(...texts(32, "q"))), list(list({ enum: ["z"] }))] }, ["[", "[\"z", "\"z"]],
    ];
}
export const object = (properties) => ({ type: "object", properties, required: Object.keys(properties), additionalProperties: false });

// 32 alternatives, each an object of so many names that begin alike.
export function wide(alternatives = 32, names = 14, length = 24) {
    return { anyOf: range(alternatives, (a) => ({ type: "object", additionalProperties: { type: "string" },
        properties: Object.fromEntries(range(names, (i) => [`${"he".repeat(length / 2)}${a}${i}`, { type: "string" }])) })) };
}
// Arrays inside alternatives inside arrays: every byte stands for all of them.
export function nested(depth, width) {
    const $defs = { d0: { anyOf: range(width, (i) => ({ enum: [`and${i}`, i] })) } };
    for (let d = 1; d <= depth; d++) $defs[`d${d}`] = { anyOf: range(4, (i) => ({ type: "array", items: { $ref: `#/$defs/d${d - 1}` }, maxItems: 20 + i })) };
    return { $defs, $ref: `#/$defs/d${depth}` };
}

// Any schema of the subset that is taken, with a liking for branches.
export function randomSchema(pick, depth) {
    const word = () => ["a", "ab", "abc", "the", "", "é", "1", "12", "z\"", "and it"][pick(10)];
    const sub = () => randomSchema(pick, depth - 1);
    switch (pick(depth > 0 ? 9 : 5)) {
        case 0: return { enum: range(1 + pick(6), () => (pick(2) ? word() : pick(300))) };
        case 1: return { type: "integer", minimum: -pick(300), maximum: pick(2000) };
        case 2: return { type: ["string", "number", "boolean", "null"][pick(4)] };
        case 3: return { type: "string", minLength: pick(3), maxLength: 3 + pick(9) };
        case 4: return { const: pick(2) ? word() : { [word()]: [pick(9)] } };
        case 5: return { type: "object", properties: Object.fromEntries(range(1 + pick(5), () => [word(), sub()])), ...(pick(2) ? { additionalProperties: pick(2) ? false : sub() } : {}) };
        case 6: return { type: "array", items: sub(), minItems: pick(3), maxItems: 2 + pick(5) };
        default: return { anyOf: range(2 + pick(pick(4) ? 4 : 30), sub) };
    }
}

// Bodies of the kinds that a server meets: sound ones as clients send them, the same with a field or
// two made wrong, and ones meant to harm. Every body follows from its seed.
import { anything, torn } from "./generate.mjs";

const model = "demo";
const text = (r) => r.pick(["hi", "In the beginning God created", "", " ", "Wie geht's? 日本語 \u{1f600}", "<|end|><|user|>", "x".repeat(50), "line\nline\ttab"]);
const schema = (r, depth = 0) => {
    switch (r.below(depth > 2 ? 5 : 8)) {
    case 0: return { type: "boolean" };
    case 1: return { enum: ["a", "b", 3, null] };
    case 2: return { type: "integer", minimum: 0, maximum: 9 };
    case 3: return { const: "x" };
    case 4: return r.pick([{ type: "string", maxLength: 6 }, { type: "string", pattern: "^[a-c]{1,3}$" }, { type: "string", format: "date" }, { type: "number", minimum: 0.5, maximum: 2 }, { type: "integer", minimum: 0, maximum: 50, multipleOf: 5 }, {}, true, { not: { type: "null" } }]);
    case 5: return { type: "array", items: schema(r, depth + 1), minItems: 1, maxItems: 2 };
    case 6: return { anyOf: [schema(r, depth + 1), { type: "null" }] };
    default: return object(r, depth);
    }
};
const object = (r, depth = 0) => {
    const properties = Object.fromEntries(["a", "b", "c"].slice(0, 1 + r.below(3)).map((k) => [k, schema(r, depth + 1)]));
    return { type: "object", properties, required: Object.keys(properties).slice(0, r.below(4)), additionalProperties: false };
};
const functionOf = (r, name) => ({ name, description: text(r), parameters: object(r) });
const efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max", null];
const names = ["weather", "clock", "find_verse"];
const some = (r, p, make) => (r.chance(p) ? make() : {});

// What completion and chat share. Each value is one that a server must take.
const sampling = (r) => ({
    ...some(r, 0.5, () => ({ temperature: r.pick([0, 0.7, 1, 2, null]) })), ...some(r, 0.3, () => ({ top_p: r.pick([0, 0.1, 1, null]) })),
    ...some(r, 0.3, () => ({ seed: r.pick([0, 42, -7, null]) })), ...some(r, 0.2, () => ({ frequency_penalty: r.pick([-2, 0, 1.5]) })),
    ...some(r, 0.2, () => ({ presence_penalty: r.pick([-2, 0, 2]) })), ...some(r, 0.2, () => ({ stop: r.pick(["a", ["b", "the"], null, [], "", [""], Array(16).fill("z".repeat(256))]) })),
    ...some(r, 0.15, () => ({ n: r.pick([1, 2, null]) })), ...some(r, 0.15, () => ({ user: "me" })), ...some(r, 0.15, () => ({ logit_bias: { [r.below(2000)]: r.pick([-100, 1, 100]) } })),
    ...some(r, 0.1, () => ({ min_p: 0.1 })), ...some(r, 0.1, () => ({ top_k: r.pick([5, -1, 0]) })), ...some(r, 0.1, () => ({ repetition_penalty: 1.1 })),
    ...some(r, 0.1, () => ({ return_depth: true })), ...some(r, 0.1, () => ({ depth: { max_loops: 1 + r.below(8) } })),
    ...some(r, 0.3, () => ({ stream: true, ...some(r, 0.5, () => ({ stream_options: { include_usage: r.chance(0.5), ...some(r, 0.3, () => ({ include_drafts: r.chance(0.5) })) } })) })),
});

const talk = (r, rules = false) => {
    const turns = rules && r.chance(0.3) ? [{ role: r.pick(["system", "developer"]), content: "Be brief." }] : [];
    for (let i = r.below(3); i > 0; i--) turns.push({ role: "user", content: text(r) || "x" }, { role: "assistant", content: text(r) || "y" });
    return [...turns, { role: "user", content: r.chance(0.3) ? [{ type: "text", text: text(r) || "x" }] : text(r) || "x" }];
};

const structured = (r) => {
    const name = r.pick(names), pick = r.below(5);
    if (pick === 0) return { response_format: { type: "json_schema", json_schema: { name: "s", schema: schema(r) } } };
    if (pick === 1) return r.pick([{ response_format: { type: "json_object" } }, { response_format: { type: "json_object", schema: object(r) } }, { guided_json: object(r) }, { structured_outputs: { json: object(r) } }, { tools: [] }, { tools: [{ type: "web_search" }] }, { modalities: ["text"] }, { function_call: "none" }]);
    if (pick > 3) return {};
    return { tools: [{ type: "function", function: functionOf(r, name) }], tool_choice: r.pick(["auto", "none", "required", { type: "function", function: { name } }]) };
};

const exchangeOf = (r) => [
    { role: "assistant", content: null, tool_calls: [{ id: "c1", type: "function", function: { name: "weather", arguments: r.pick(["", "not json", '{"a":1}', "{}", '{"a":{"b":[1,"x"]}}']) } }] },
    { role: "tool", tool_call_id: "c1", content: text(r) || "dry" },
];

// Each makes a body that must be answered with 200.
export const sound = {
    "/v1/completions": (r) => ({
        model, prompt: r.pick([text(r) || "x", ["a", "b"], [5, 6, 7], [[5], [6, 7]]]), max_tokens: r.chance(0.05) ? 100000 : 1 + r.below(4), ...sampling(r),
        ...some(r, 0.15, () => ({ logprobs: r.below(21) })), ...some(r, 0.1, () => ({ echo: true })), ...some(r, 0.1, () => ({ return_token_ids: true, ignore_eos: true })),
    }),
    "/v1/chat/completions": (r) => ({
        model, messages: [...talk(r, true), ...(r.chance(0.15) ? exchangeOf(r) : [])], max_completion_tokens: 1 + r.below(5), ...sampling(r), ...structured(r),
        ...some(r, 0.15, () => ({ logprobs: true, top_logprobs: r.below(21) })), ...some(r, 0.2, () => ({ reasoning_effort: r.pick(efforts) })),
    }),
    "/v1/responses": (r) => {
        const name = r.pick(names);
        return {
            model, max_output_tokens: 1 + r.below(5), ...some(r, 0.3, () => ({ stream: true })), ...some(r, 0.3, () => ({ temperature: r.pick([0, 1]) })),
            input: r.pick([text(r) || "x", [{ role: "user", content: text(r) || "x" }], [{ type: "message", role: "user", content: [{ type: "input_text", text: "x" }] }],
                [{ role: "user", content: "x" }, { type: "function_call", call_id: "c1", name, arguments: "{}" }, { type: "function_call_output", call_id: "c1", output: "dry" }],
                [{ role: "user", content: "x" }, { type: "reasoning", id: "rs_1", summary: [] }, { type: "item_reference", id: "m" }, { role: "user", content: "y" }]]),
            ...some(r, 0.2, () => ({ reasoning: { effort: r.pick(efforts) } })),
            ...(r.chance(0.2) ? { text: { format: { type: "json_schema", name: "s", schema: schema(r) } } }
                : some(r, 0.3, () => ({ tools: [{ type: "function", strict: false, ...functionOf(r, name) }], tool_choice: r.pick(["auto", "none", "required", { type: "function", name }]) }))),
        };
    },
    "/v1/messages": (r) => {
        const name = r.pick(names), { description, parameters } = functionOf(r, name);
        return {
            model, max_tokens: 1 + r.below(5), messages: r.chance(0.2) ? [{ role: "user", content: "x" }, { role: "assistant", content: [{ type: "text", text: "I look." }, { type: "tool_use", id: "c1", name, input: { a: 1 } }] },
                { role: "user", content: [{ type: "tool_result", tool_use_id: "c1", content: "dry" }] }] : talk(r),
            ...some(r, 0.3, () => ({ stream: true })), ...some(r, 0.3, () => ({ temperature: r.pick([0, 1]) })), ...some(r, 0.2, () => ({ stop_sequences: ["a", "the"] })),
            ...some(r, 0.3, () => ({ system: r.pick(["Be brief.", [{ type: "text", text: "Be brief.", cache_control: { type: "ephemeral" } }]]) })), ...some(r, 0.2, () => ({ metadata: { user_id: "u" } })),
            ...some(r, 0.3, () => ({ tools: [{ name, description, input_schema: parameters }], tool_choice: r.pick([{ type: "auto" }, { type: "any" }, { type: "none" }, { type: "tool", name }]) })),
        };
    },
    "/v1/messages/count_tokens": (r) => ({ model, messages: talk(r), ...some(r, 0.3, () => ({ system: "Be brief." })) }),
    "/tokenize": (r) => ({ prompt: text(r) }),
    "/detokenize": (r) => ({ tokens: Array.from({ length: r.below(20) }, () => r.below(2000)) }),
};

for (const path of ["/v1/completions", "/v1/chat/completions"]) sound[`${path}/render`] = sound[path];

// Long and deep, but most of them small, so that the time goes into many.
const much = (r, n) => 1 + r.below(r.chance(0.02) ? n : Math.min(n, 60));
const nested = (n, open, close, middle = "") => open.repeat(n) + middle + close.repeat(n);

const places = (r) => r.pick(["messages", "prompt", "input", "tools", "response_format", "stop", "logit_bias", "tokens", "system", "depth", "text", "model"]);

// Each gives the bytes of a whole body.
const attacks = [
    (r, path) => torn(r, JSON.stringify(sound[path](r))),
    (r) => nested(much(r, 20000), "[", "]"),
    (r) => nested(much(r, 20000), '{"a":', "}", "1"),
    (r, path) => JSON.stringify({ ...sound[path](r), [places(r)]: 0 }).replace(/:0\}$/, `:${nested(much(r, 5000), "[", "]")}}`),
    (r, path) => JSON.stringify(sound[path](r)).replace(/"model":"demo"/, `"model":"demo","max_tokens":${r.pick(["1e999", "-0", "0.0000000000000001", "9".repeat(much(r, 3000)), "1e-400", "00", "+1", "NaN", "4.0", "1E2"])}`),
    (r, path) => JSON.stringify(sound[path](r)).replace(/"(hi|x)"/, `"${r.pick(["\\ud83d", "\\udc00\\ud800", "\\u0000", "\\x41", "\\u12", "\u0007"])}"`),
    (r, path) => Buffer.concat([Buffer.from('{"model":"demo","'), Buffer.from(places(r)), Buffer.from('":"'), Buffer.from(Array.from({ length: much(r, 500) }, () => r.below(256))), Buffer.from('"}')]),
    (r, path) => `${r.pick(["\ufeff", "\u00a0", "\u2028", "//", "/**/", "\ufeff\ufeff", ")]}'\n"])}${JSON.stringify(sound[path](r))}`,
    (r, path) => JSON.stringify(sound[path](r)) + r.pick(["{}", ",", "\u0000", " x", "]", "\n\n\n", "null"]),
    (r, path) => Buffer.from(JSON.stringify(sound[path](r)), "utf16le"),
    (r, path) => { // a key given twice
        const body = sound[path](r), key = r.pick(Object.keys(body));
        return JSON.stringify(body).replace(/\}$/, `,${JSON.stringify(key)}:${JSON.stringify(anything(r))}}`);
    },
    (r, path) => JSON.stringify({ ...sound[path](r), ...Object.fromEntries(Array.from({ length: much(r, 3000) }, (_, i) => [`k${i}`, i])), ["__proto__"]: { a: 1 }, "": null }),
    (r, path) => JSON.stringify({ ...sound[path](r), [r.pick(["messages", "prompt", "input", "stop", "tools"])]: Array.from({ length: much(r, 3000) }, () => anything(r)) }),
    (r, path) => JSON.stringify({ ...sound[path](r), [r.pick(["prompt", "input", "model", "user", "system"])]: r.pick(["a", "\u{1f600}", "\\", "\u0000", "<|end|>", " "]).repeat(much(r, 30000)) }),
    (r, path) => " \t\r\n".repeat(much(r, 20000)) + JSON.stringify(sound[path](r)),
    (r) => r.pick(["", " ", "null", "true", "[]", "{}", '"x"', "0", "{", "}", '{"', "\u0000", "--", "NaN", "{}{}", "\ufeff"]),
    (r) => { // schemas that cost or never end
        const bad = r.pick([
            { $ref: "#" }, { $ref: "#/$defs/a", $defs: { a: { $ref: "#/$defs/a" } } }, { $ref: "#/nowhere" }, { $ref: "http://localhost/x" }, { allOf: Array.from({ length: much(r, 300) }, () => ({ type: "object" })) },
            { type: "string", pattern: r.pick(["(a+)+$", "(((((a{1,99}){1,99}){1,99}){1,99}){1,99})", "[", "(?<=a)b", "\\p{L}+", "^(a|b|ab)*c$", "a{99999}", "\\1(x)"]) },
            { enum: Array.from({ length: much(r, 3000) }, (_, i) => `e${i}`) }, { type: "string", minLength: 1e9 }, { type: "array", items: {}, minItems: 1e9 }, { type: "integer", multipleOf: 1e-9 }, { type: "integer", minimum: 10, maximum: 1 },
            { type: "object", required: Array.from({ length: much(r, 500) }, (_, i) => `r${i}`) }, { anyOf: [] }, { not: {} }, false, { type: [] }, { type: ["string", "nothing"] }, { properties: [] }, { minimum: "1" },
        ]);
        const where = r.pick([{ response_format: { type: "json_schema", json_schema: { name: "s", schema: bad, strict: r.chance(0.5) } } }, { response_format: { type: "json_object", schema: bad } }, { guided_json: bad }, { structured_outputs: { json: bad } },
            { tools: [{ type: "function", function: { name: "f", parameters: bad, strict: r.chance(0.5) } }], tool_choice: "required" }]);
        return JSON.stringify({ model, max_completion_tokens: 3, messages: [{ role: "user", content: "x" }], ...where });
    },
    (r) => { // calls in the history that break prompts
        const raw = r.pick(["", "{", "null", '"x"', "[1]", "</tool_call>", '{"a":"</parameter>"}', nested(200, "[", "]"), "\u0000", '{"a":1}}']);
        return JSON.stringify({ model, max_completion_tokens: 2, messages: [{ role: "user", content: "x" }, { role: "assistant", content: r.pick([null, "", [], "x"]), tool_calls: [{ id: r.pick(["c", "", "c".repeat(500)]), type: "function", function: { name: r.pick(names), arguments: raw } }] },
            { role: "tool", tool_call_id: r.pick(["c", "other"]), content: r.pick(["", [], "dry", [{ type: "text", text: "dry" }]]) }] });
    },
];

// A sound body with one to three places made wrong, at any depth.
function wrong(r, value) {
    if (value !== null && typeof value === "object" && r.chance(0.8)) {
        const keys = Object.keys(value);
        if (keys.length) {
            const key = r.pick(keys);
            switch (r.below(8)) {
            case 0: Array.isArray(value) ? value.splice(key, 1) : delete value[key]; break;
            case 1: value[r.pick(keys)] = structuredClone(value[key]); break;
            case 2: value[key] = [value[key]]; break;
            case 3: value[key] = { [r.pick(["type", "text", "content", "a"])]: value[key] }; break;
            default: value[key] = wrong(r, value[key]);
            }
            return value;
        }
    }
    if (typeof value === "number" && r.chance(0.6)) return r.pick([-value, value + 0.5, value * 1e6, -1, 0, String(value), 2 ** 53]);
    if (typeof value === "string" && r.chance(0.5)) return r.pick([value + "\u0000", value.slice(1), value.toUpperCase(), value.repeat(9), value + "x"]);
    return anything(r);
}

export function mutated(r, path) {
    let body = sound[path](r);
    for (let i = 1 + r.below(3); i > 0; i--) body = wrong(r, body);
    return JSON.stringify(body) ?? "null";
}

export const hostile = (r, path) => r.pick(attacks)(r, path);

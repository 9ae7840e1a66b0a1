import { writeFileSync } from "node:fs";
import path from "node:path";
import { temporary } from "../../lib/models.mjs";

export const title = "a chat template that does what its arguments say holds up nobody, and its bounds end it";
const file = path.join(temporary(), "loops.jinja");
writeFileSync(file, "{% macro down(k) %}{% if k > 0 %}{{ down(k - 1) }}{% endif %}{% endmacro %}"
    + "{% set ns = namespace(s='') %}{% for m in messages %}{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}"
    + "{% for i in range(loops | default(0)) %}{% for k in range(again | default(0)) %}{% endfor %}{% endfor %}"
    + "{% for i in range(grows | default(0)) %}{% set ns.s = ns.s + messages[0].content %}{% endfor %}"
    + "{{ down(deep | default(0)) }}{% if tools %}{{ tools | tojson }}{% endif %}{{ 'x' * (wide | default(0)) }}"
    + "{% if whole %}{{ whole | tojson(indent=4) }}{% endif %}");
export const device = "fake";
export const args = ["--chat-template", file];

const nested = (depth) => JSON.parse("[".repeat(depth) + "]".repeat(depth));
const text = "abcdefgh".repeat(400);
const tool = (depth) => {
    let schema = { type: "string" };
    for (let i = 0; i < depth; i++) schema = { type: "object", properties: { a: schema } };
    return { type: "function", function: { name: "f", parameters: schema } };
};
const kwargs = [{ loops: 90000, again: 90000 }, { loops: 3000, again: 3 }, { grows: 90000 }, { deep: 100000 }, { deep: 900 }, { wide: 1e9 }, { wide: -1 }, { loops: "many" },
    { whole: nested(50) }, { whole: Array(1000).fill({ a: [1, null, "<|end|>"] }) }, Object.fromEntries(Array.from({ length: 64 }, (_, i) => [`k${i}`, i]))];

export async function attack(server, t) {
    const say = (body) => server.post("/v1/chat/completions", { messages: [{ role: "user", content: text }], max_tokens: 1, ...body }).catch((error) => ({ status: 0, text: String(error) }));
    const other = t.stream({ prompt: "And it came", max_tokens: 400, ignore_eos: true });
    await t.until("the other's stream", () => other.begun || other.ended);
    await t.many(t.scale(20, 1) * kwargs.length, 4, async (i) => t.answered(await say({ chat_template_kwargs: kwargs[i % kwargs.length] }), [200, 400, 503]));
    for (const depth of [1, 8, 20, 60]) t.answered(await say({ tools: [tool(depth)] }), [200, 400]);
    const calls = Array.from({ length: 64 }, (_, i) => ({ id: `c${i}`, type: "function", function: { name: "f", arguments: JSON.stringify({ a: nested(40) }) } }));
    t.answered(await say({ messages: [{ role: "user", content: "x" }, { role: "assistant", tool_calls: calls }] }), [200, 400]);
    other.leave();
    t.record(`longest gap of the other's stream ${other.worst.toFixed(0)} ms computed`);
    t.assert.ok(other.worst < 250 * t.slow, `the other's stream waited while a thread computed ${other.worst.toFixed(0)} ms`);
}

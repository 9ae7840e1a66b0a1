export const title = "a responses stream that repeats a long request arrives whole at a reader of normal pace";
export const health = { computed: 100 };

export async function attack(server, t) {
    for (const kb of [520, 900, 1800]) {
        const schema = { description: "d".repeat(kb << 10), type: "object", properties: { a: { type: "integer", maximum: 9, minimum: 0 } }, required: ["a"], additionalProperties: false };
        const s = t.stream({ input: "And", max_output_tokens: 60, temperature: 0, text: { format: { type: "json_schema", name: "x", schema } } }, { path: "/v1/responses" });
        await s.done;
        const { status, body, whole } = s.answer;
        t.assert.equal(status, 200, body.slice(0, 300));
        t.assert.ok(whole, `${kb} KB: the stream was cut after ${body.length} bytes`);
        t.assert.match(body, /event: response\.(completed|incomplete)/);
    }
}

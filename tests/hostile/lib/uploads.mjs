// Bodies that are announced and do not come.
export function withoutLastByte(n, path = "/v1/completions", headers = "") {
    const body = `{"prompt":"${"a".repeat(n - 13)}"`;
    return `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length + 1}\r\n${headers}\r\n${body}`;
}
export const announced = (n, headers = "") => `POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${n}\r\n${headers}\r\n`;

// n connections, opened some at a time; begin(connection, index) sends the first bytes.
export async function uploads(t, n, begin) {
    const all = [];
    await t.many(n, 16, async (i) => {
        const c = await t.open();
        all.push(c);
        begin(c, i);
        await t.sleep(2);
    });
    return all;
}

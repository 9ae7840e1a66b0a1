export const title = "a page of another site can neither ask a local server nor read from it";
export const device = "fake";

export async function attack(server, t) {
    const body = "{\"prompt\":\"a\",\"max_tokens\":1}";
    const ask = async (method, path, headers, content = "") => (await t.exchange(server.port, `${method} ${path} HTTP/1.1\r\n${headers.map((h) => `${h}\r\n`).join("")}${content ? `Content-Length: ${content.length}\r\n` : ""}\r\n${content}`)).status;
    const wrong = [], json = "Content-Type: application/json";
    const want = async (what, allowed, ...request) => {
        const status = await ask(...request);
        if (!allowed(status)) wrong.push(`${what}: ${status}`);
    };
    const refused = (s) => s >= 400 && s < 500, fine = (s) => s === 200;
    for (const host of ["evil.example", "evil.example:80", "localhost.evil.example", "127.0.0.1.evil.example", "evil.example:" + server.port, "127.0.0.1@evil.example", "[::1].evil.example", "0x7f.evil", "localhost@evil"]) {
        await want(`GET, Host ${host}`, refused, "GET", "/v1/models", [`Host: ${host}`]);
        await want(`POST, Host ${host}`, refused, "POST", "/v1/completions", [`Host: ${host}`, json], body);
    }
    for (const host of ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", `localhost:${server.port}`, "127.0.0.1:1", "[::1]:65535", "localhost:80"]) {
        await want(`GET, Host ${host}`, fine, "GET", "/v1/models", [`Host: ${host}`]);
        await want(`POST, Host ${host}`, fine, "POST", "/v1/completions", [`Host: ${host}`, json], body);
    }
    for (const origin of ["https://evil.example", "null", "http://evil.example:" + server.port, "http://localhost.evil.example", "file://", "chrome-extension://abc"]) {
        await want(`POST, Origin ${origin}`, (s) => s === 403, "POST", "/v1/completions", ["Host: localhost", json, `Origin: ${origin}`], body);
        await want(`POST of text/plain, Origin ${origin}`, refused, "POST", "/v1/completions", ["Host: localhost", "Content-Type: text/plain", `Origin: ${origin}`], body);
    }
    const own = `http://localhost:${server.port}`;
    await want("POST without a type, own Origin", (s) => s === 415, "POST", "/v1/completions", [`Host: localhost:${server.port}`, `Origin: ${own}`], body);
    await want("POST without a type, foreign Origin", refused, "POST", "/v1/completions", ["Host: localhost", "Origin: https://evil.example"], body);
    await want("POST of the server's own page", fine, "POST", "/v1/completions", [`Host: localhost:${server.port}`, json, `Origin: ${own}`], body);
    await want("POST without Origin", fine, "POST", "/v1/completions", ["Host: localhost", json], body);
    t.assert.deepEqual(wrong, []);
}

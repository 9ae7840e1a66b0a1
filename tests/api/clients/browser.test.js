// The official `openai` package in Chromium, on a page of another origin, as published: its modules
// are served one by one, so no bundler stands between the package and the browser.
import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import http from "node:http";
import { join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { openChromium, skip } from "../../http/lib/chromium.mjs";
import { Server } from "../../http/lib/server.mjs";
import { model } from "./lib/ask.js";

const modules = fileURLToPath(new URL("../../node_modules/openai/", import.meta.url));
const origin = "http://app.localhost";
let browser, pages, page, server;

// The page's own server: an empty page and the package's files.
function servePages() {
    const s = http.createServer((req, res) => {
        if (!req.url.startsWith("/openai/")) {
            res.setHeader("Content-Type", "text/html");
            return res.end("<!doctype html><title>app</title>");
        }
        const file = normalize(join(modules, req.url.slice("/openai/".length)));
        if (!file.startsWith(modules) || !existsSync(file)) {
            res.statusCode = 404;
            return res.end();
        }
        res.setHeader("Content-Type", "text/javascript");
        res.end(readFileSync(file));
    });
    return new Promise((done) => s.listen(0, "127.0.0.1", () => done(s)));
}

before(async () => {
    if (skip) return;
    pages = await servePages();
    const at = `${origin}:${pages.address().port}`;
    server = await Server.start(["--cors-origin", at], { device: "cpu" });
    server.shared = true;
    browser = await openChromium(chromium);
    page = await browser.newPage();
    await page.goto(`${at}/`);
});
after(async () => {
    await browser?.close();
    pages?.close();
    await server?.stop();
});

// Runs the text of a function of (client, OpenAI, model) on the page.
const inPage = (run, options = {}) =>
    page.evaluate(async ({ source, url, model, options }) => {
        const { default: OpenAI } = await import("/openai/index.mjs");
        const client = new OpenAI({ apiKey: "unused-key", baseURL: `${url}/v1`, maxRetries: 0, dangerouslyAllowBrowser: true, ...options });
        return (0, eval)(`(${source})`)(client, OpenAI, model);
    }, { source: run.toString(), url: server.url, model, options });

test("the package on a page of another origin gets a whole chat, with all the headers it sends of itself", { skip }, async () => {
    const r = await inPage((client, _, model) => client.chat.completions.create({ model, messages: [{ role: "user", content: "hi" }], temperature: 0, max_completion_tokens: 8 }));
    assert.equal(r.object, "chat.completion");
    assert.ok(r.choices[0].message.content.length > 0);
    assert.ok(r._request_id === undefined || r._request_id.length > 0);
});

test("it gets a streamed chat and streamed responses, piece by piece", { skip }, async () => {
    const { pieces, text } = await inPage(async (client, _, model) => {
        let pieces = 0, text = "";
        for await (const c of await client.chat.completions.create({ model, messages: [{ role: "user", content: "hi" }], temperature: 0, max_completion_tokens: 8, stream: true })) {
            pieces++;
            text += c.choices[0]?.delta?.content ?? "";
        }
        return { pieces, text };
    });
    assert.ok(pieces > 4 && text.length > 0);
    const response = await inPage(async (client, _, model) => {
        const stream = client.responses.stream({ model, input: "hi", temperature: 0, max_output_tokens: 8 });
        return (await stream.finalResponse()).output_text;
    });
    assert.equal(response, text);
});

test("headers that the page adds pass the preflight, and it may read the request's id", { skip }, async () => {
    const r = await inPage(async (client, _, model) => {
        const { request_id: id, response } = await client.completions.create({ model, prompt: "hi", max_tokens: 1 }).withResponse();
        return { id, header: response.headers.get("x-request-id") };
    }, { defaultHeaders: { "X-Trace-Of-Mine": "1", "OpenAI-Beta": "x" } });
    assert.ok(r.id && r.id === r.header, JSON.stringify(r));
});

test("an error's status and message can be read, and models are listed", { skip }, async () => {
    const r = await inPage(async (client, OpenAI) => {
        const e = await client.chat.completions.create({ model: "gpt-9", messages: [{ role: "user", content: "hi" }] }).catch((e) => e);
        const models = [];
        for await (const m of client.models.list()) models.push(m.id);
        return { status: e.status, known: e instanceof OpenAI.NotFoundError, message: e.message, models };
    });
    assert.deepEqual([r.status, r.known, r.models], [404, true, [model]]);
    assert.match(r.message, /gpt-9/);
});

test("a page of an origin that is not allowed gets a connection error and no answer", { skip }, async () => {
    const before = (await server.metrics())["vllm:generation_tokens_total"];
    const other = await browser.newPage();
    await other.goto(`http://evil.localhost:${pages.address().port}/`);
    const kind = await other.evaluate(async ({ url, model }) => {
        const { default: OpenAI } = await import("/openai/index.mjs");
        const client = new OpenAI({ apiKey: "unused-key", baseURL: `${url}/v1`, maxRetries: 0, dangerouslyAllowBrowser: true });
        return client.completions.create({ model, prompt: "hi" }).then(() => "an answer", (e) => (e instanceof OpenAI.APIConnectionError ? "no connection" : String(e)));
    }, { url: server.url, model });
    assert.equal(kind, "no connection");
    assert.equal((await server.metrics())["vllm:generation_tokens_total"], before);
    await other.close();
});

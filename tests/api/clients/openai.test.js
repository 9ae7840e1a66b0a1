// The official `openai` package, as its users use it, against the real server.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import OpenAI from "openai";
import { Server, until, withServer } from "../../http/lib/server.mjs";

const clientOf = (server, more) =>
    new OpenAI({ apiKey: "unused-key", baseURL: `${server.url}/v1`, maxRetries: 0, timeout: 600000, ...more });
const model = "demo";
const greedy = { model, temperature: 0, max_tokens: 24 };
const prompt = "In the beginning";
const messages = [{ role: "user", content: "Complete the verse: In the beginning" }];

async function all(stream) {
    const chunks = [];
    for await (const c of stream) chunks.push(c);
    return chunks;
}

describe("the demo model", () => {
    let server, client;
    before(async () => {
        server = await Server.start([], { device: "cpu" });
        client = clientOf(server);
    });
    after(() => server.stop());

    test("models are listed and found by name", async () => {
        const list = await all(client.models.list());
        assert.deepEqual(list.map((m) => m.id), [model]);
        const one = await client.models.retrieve(model);
        assert.equal(one.object, "model");
        assert.equal(one.owned_by, "fathom");
        await assert.rejects(client.models.retrieve("gpt-9"), OpenAI.NotFoundError);
    });

    test("a completion, whole and streamed, is the same text", async () => {
        const whole = await client.completions.create({ ...greedy, prompt });
        assert.equal(whole.object, "text_completion");
        assert.equal(whole.choices[0].finish_reason, "length");
        assert.equal(whole.usage.completion_tokens, 24);
        assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + 24);
        const chunks = await all(await client.completions.create({ ...greedy, prompt, stream: true, stream_options: { include_usage: true } }));
        assert.equal(chunks.map((c) => c.choices[0]?.text ?? "").join(""), whole.choices[0].text);
        assert.deepEqual(chunks.at(-1).choices, []);
        assert.equal(chunks.at(-1).usage.completion_tokens, 24);
        assert.equal(new Set(chunks.map((c) => c.id)).size, 1);
    });

    test("prompts in lists, as text and as tokens, and n choices each", async () => {
        const r = await client.completions.create({ model, prompt: [prompt, "And God said"], n: 2, temperature: 0, max_tokens: 4 });
        assert.deepEqual(r.choices.map((c) => c.index), [0, 1, 2, 3]);
        assert.equal(r.choices[0].text, r.choices[1].text, "greedy choices of one prompt agree");
        assert.notEqual(r.choices[0].text, r.choices[2].text);
        const tokens = (await (await fetch(`${server.url}/tokenize`, {
            method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ model, prompt }),
        })).json()).tokens;
        const t = await client.completions.create({ model, prompt: tokens, temperature: 0, max_tokens: 4 });
        assert.equal(t.choices[0].text, r.choices[0].text);
    });

    test("completion logprobs line up with the text; echo gives the prompt's", async () => {
        const r = await client.completions.create({ ...greedy, prompt, logprobs: 2, echo: true, max_tokens: 5 });
        const l = r.choices[0].logprobs;
        const n = r.usage.prompt_tokens + 5;
        assert.equal(l.tokens.length, n);
        assert.equal(l.tokens.join(""), r.choices[0].text);
        assert.equal(l.token_logprobs[0], null);
        assert.ok(l.token_logprobs.slice(1).every((v) => v <= 0));
        l.text_offset.forEach((at, i) => assert.ok(r.choices[0].text.startsWith(l.tokens[i], at)));
        assert.ok(Object.keys(l.top_logprobs[n - 1]).length >= 2);
    });

    test("a chat, whole and streamed, is the same message", async () => {
        const whole = await client.chat.completions.create({ model, messages, temperature: 0, max_completion_tokens: 24 });
        assert.equal(whole.object, "chat.completion");
        assert.equal(whole.choices[0].message.role, "assistant");
        assert.ok(["stop", "length"].includes(whole.choices[0].finish_reason));
        const chunks = await all(await client.chat.completions.create({ model, messages, temperature: 0, max_completion_tokens: 24, stream: true }));
        assert.equal(chunks[0].choices[0].delta.role, "assistant");
        assert.ok(chunks.slice(1).every((c) => c.choices[0].delta.role === undefined));
        assert.equal(chunks.map((c) => c.choices[0].delta.content ?? "").join(""), whole.choices[0].message.content);
        assert.equal(chunks.at(-1).choices[0].finish_reason, whole.choices[0].finish_reason);
        assert.ok(chunks.every((c) => c.usage === undefined || c.usage === null), "usage only when asked");
    });

    test("the stream helper assembles the same message from its events", async () => {
        const runner = client.chat.completions.stream({ model, messages, temperature: 0, max_completion_tokens: 16, logprobs: true });
        let text = "";
        runner.on("content", (delta) => (text += delta));
        const final = await runner.finalChatCompletion();
        assert.equal(final.choices[0].message.content, text);
        assert.equal(final.choices[0].logprobs.content.map((t) => t.token).join(""), text);
    });

    test("chat logprobs have tokens, bytes and alternatives", async () => {
        const r = await client.chat.completions.create({ model, messages, temperature: 0, max_completion_tokens: 12, logprobs: true, top_logprobs: 3 });
        const content = r.choices[0].logprobs.content;
        assert.equal(content.map((t) => t.token).join(""), r.choices[0].message.content);
        for (const t of content) {
            assert.ok(t.logprob <= 0 && t.top_logprobs.length === 3);
            assert.equal(t.top_logprobs[0].token, t.token, "greedy takes the best");
            assert.equal(Buffer.from(t.bytes).toString(), t.token);
        }
    });

    test("n streamed choices come interleaved by index and end each once", async () => {
        const chunks = await all(await client.chat.completions.create({ model, messages, n: 3, temperature: 1, seed: 5, max_completion_tokens: 8, stream: true }));
        for (const i of [0, 1, 2]) {
            const mine = chunks.flatMap((c) => c.choices).filter((c) => c.index === i);
            assert.equal(mine[0].delta.role, "assistant");
            assert.equal(mine.filter((c) => c.finish_reason).length, 1);
            assert.ok(mine.at(-1).finish_reason);
        }
    });

    test("the same seed gives the same text, another one another", async () => {
        const run = async (seed) => (await client.completions.create({ model, prompt, temperature: 1, seed, max_tokens: 24 })).choices[0].text;
        assert.equal(await run(1), await run(1));
        assert.notEqual(await run(1), await run(2));
    });

    test("a stop string ends the text before itself, streamed or not", async () => {
        const full = (await client.completions.create({ ...greedy, prompt })).choices[0].text;
        const stop = full.slice(10, 14);
        const want = full.slice(0, full.indexOf(stop));
        const whole = await client.completions.create({ ...greedy, prompt, stop });
        assert.equal(whole.choices[0].text, want);
        assert.equal(whole.choices[0].finish_reason, "stop");
        const chunks = await all(await client.completions.create({ ...greedy, prompt, stop: ["never there", stop], stream: true }));
        assert.equal(chunks.map((c) => c.choices[0].text).join(""), want);
    });

    test("depth is asked for in extra fields and answered in extra fields", async () => {
        const ask = { ...greedy, prompt, return_depth: true };
        const r = await client.completions.create({ ...ask, depth: { max_loops: 2 } });
        assert.equal(r.choices[0].depths.length, 24);
        assert.ok(r.choices[0].depths.every((d) => d >= 1 && d <= 2));
        const chunks = await all(await client.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }));
        const depths = chunks.flatMap((c) => c.choices[0]?.depths ?? []);
        assert.equal(depths.length, 24);
        assert.ok(new Set(depths).size > 1, "tokens leave at different depths");
        assert.ok(chunks.at(-1).usage.completion_tokens_details.loops > 24);
        const low = await client.chat.completions.create({ model, messages, max_completion_tokens: 8, reasoning_effort: "minimal", return_depth: true });
        assert.ok(low.choices[0].depths.every((d) => d <= 2), "minimal is a quarter of eight loops");
    });

    test("every response carries a request id", async () => {
        const { response, request_id: id } = await client.completions.create({ ...greedy, prompt, max_tokens: 1 }).withResponse();
        assert.ok(id);
        assert.equal(response.headers.get("x-request-id"), id);
    });

    test("what is refused arrives as the exception its status stands for", async () => {
        const chat = (more) => client.chat.completions.create({ model, messages, max_completion_tokens: 2, ...more });
        const text = (more) => client.completions.create({ model, prompt, max_tokens: 2, ...more });
        const rows = [
            [() => chat({ temperature: 3 }), OpenAI.BadRequestError, "temperature", null],
            [() => chat({ temperature: -0.1 }), OpenAI.BadRequestError, "temperature", null],
            [() => chat({ top_p: -1 }), OpenAI.BadRequestError, "top_p", null],
            [() => chat({ n: 0 }), OpenAI.BadRequestError, "n", null],
            [() => chat({ messages: [] }), OpenAI.BadRequestError, "messages", null],
            [() => chat({ messages: "hello" }), OpenAI.BadRequestError, "messages", null],
            [() => chat({ messages: [{ role: "king", content: "x" }] }), OpenAI.BadRequestError, /^messages/, null],
            [() => chat({ top_logprobs: 2 }), OpenAI.BadRequestError, "top_logprobs", null],
            [() => chat({ stream_options: { include_usage: true } }), OpenAI.BadRequestError, "stream_options", null],
            [() => chat({ depth: { max_loops: 0 } }), OpenAI.BadRequestError, "depth.max_loops", null],
            [() => chat({ reasoning_effort: "heroic" }), OpenAI.BadRequestError, "reasoning_effort", null],
            [() => text({ prompt: "" }), OpenAI.BadRequestError, "prompt", null],
            [() => text({ prompt: [-1] }), OpenAI.BadRequestError, "prompt", null],
            [() => text({ logit_bias: { 999999: 1 } }), OpenAI.BadRequestError, "logit_bias", null],
            [() => text({ prompt: Array(1100).fill(300) }), OpenAI.BadRequestError, "prompt", "context_length_exceeded"],
            [() => text({ model: "gpt-9" }), OpenAI.NotFoundError, "model", "model_not_found"],
            [() => chat({ model: "gpt-9", stream: true }), OpenAI.NotFoundError, "model", "model_not_found"],
            [() => client.post("/nothing", { body: {} }), OpenAI.NotFoundError, null, null],
        ];
        for (const [call, kind, param, code] of rows) {
            const e = await call().then(() => assert.fail(`${call} was accepted`), (e) => e);
            assert.ok(e instanceof kind, `${call}: ${e.constructor.name} ${e.message}`);
            assert.equal(e.type, param === null ? "not_found_error" : "invalid_request_error", String(call));
            if (param instanceof RegExp) assert.match(String(e.param), param, String(call));
            else assert.equal(e.param, param, `${call}: ${e.message}`);
            if (param !== null) assert.equal(e.code, code, String(call));
            assert.ok(e.message.length > 8 && e.message.length < 400);
            assert.ok(e.requestID, "and names the request");
        }
    });
});

describe("a server that drafts", () => {
    let server, client;
    before(async () => {
        server = await Server.start(["--speculate", "4", "--draft-loops", "1"], { device: "cpu" });
        client = clientOf(server);
    });
    after(() => server.stop());

    const drafts = { stream_options: { include_drafts: true, include_usage: true } };
    const chat = { model, messages, temperature: 0, max_completion_tokens: 24, logprobs: true };
    const textOf = (chunks) => chunks.map((c) => c.choices[0]?.text ?? c.choices[0]?.delta.content ?? "").join("");
    /** Asks again until drafts are seen: one that is settled before it can be sent is not shown, which a busy machine may do to all of an answer. */
    const untilDrafted = (ask, sees) =>
        until("something is drafted", async () => {
            const answer = await ask();
            return sees(answer) && answer;
        });

    test("drafted text is a member of its own, and the text is that of a stream without it", async () => {
        for (const make of [(more) => client.completions.create({ ...greedy, prompt, ...more }), (more) => client.chat.completions.create({ ...chat, ...more })]) {
            const plain = await all(await make({ stream: true }));
            const drafting = await untilDrafted(async () => all(await make({ stream: true, ...drafts })), (chunks) => chunks.some((c) => c.choices[0]?.draft));
            assert.equal(textOf(drafting), textOf(plain));
            assert.ok(plain.every((c) => !("draft" in c.choices[0])));
            assert.ok(drafting.every((c) => ["string", "undefined"].includes(typeof c.choices[0]?.draft)));
        }
    });

    test("the stream helper assembles the same answer, with events and totals that count no draft", async () => {
        const whole = await client.chat.completions.create(chat);
        const { runner, final, text, scored } = await untilDrafted(async () => {
            let text = "", seen = 0, scored = 0;
            const runner = client.chat.completions.stream({ ...chat, ...drafts });
            runner.on("content", (delta, snapshot) => assert.equal((text += delta), snapshot));
            runner.on("logprobs.content.delta", ({ content }) => (scored += content.length));
            runner.on("chunk", (c) => (seen += c.choices[0]?.draft !== undefined));
            const final = await runner.finalChatCompletion();
            return { runner, final, text, seen, scored };
        }, ({ seen }) => seen > 0);
        assert.equal(text, whole.choices[0].message.content);
        assert.equal(await runner.finalContent(), text);
        assert.equal(scored, whole.choices[0].logprobs.content.length);
        const { choices: [a], usage } = final, { choices: [b] } = whole;
        assert.deepEqual([a.message.content, a.message.role, a.finish_reason], [b.message.content, b.message.role, b.finish_reason]);
        assert.deepEqual(a.logprobs.content, b.logprobs.content);
        assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
    });
});

describe("keys", () => {
    const dir = mkdtempSync(join(tmpdir(), "fathom-keys-"));
    writeFileSync(join(dir, "keys"), "sk-right-key tester\n", { mode: 0o600 });
    after(() => rmSync(dir, { recursive: true, force: true }));

    test("a wrong key is an AuthenticationError, the right one works", async () => {
        await withServer(["--api-key-file", join(dir, "keys")], async (server) => {
            const e = await clientOf(server, { apiKey: "sk-wrong-key" }).models.list().catch((x) => x);
            assert.ok(e instanceof OpenAI.AuthenticationError, String(e));
            assert.equal(e.type, "authentication_error");
            assert.equal(e.code, "invalid_api_key");
            const client = clientOf(server, { apiKey: "sk-right-key" });
            assert.equal((await client.completions.create({ ...greedy, prompt, max_tokens: 2 })).usage.completion_tokens, 2);
        });
    });

    test("a key's own limit is a RateLimitError", async () => {
        await withServer(["--api-key-file", join(dir, "keys"), "--max-requests-per-key", "1", "--fake-us-per-token", "20000"], async (server) => {
            const client = clientOf(server, { apiKey: "sk-right-key" });
            const stream = await client.completions.create({ model, prompt, max_tokens: 500, stream: true });
            await assert.rejects(client.completions.create({ model, prompt, max_tokens: 1 }), OpenAI.RateLimitError);
            stream.controller.abort();
            await server.idle();
        });
    });
});

describe("leaving", () => {
    const slow = ["--fake-us-per-token", "20000"];
    const long = { model, prompt, max_tokens: 800 };

    test("breaking out of a stream cancels the rest of the request", async () => {
        await withServer(slow, async (server) => {
            const client = clientOf(server);
            let n = 0;
            for await (const _ of await client.completions.create({ ...long, stream: true })) {
                if (++n === 3) break;
            }
            await server.cancelled({ clients: 1, below: long.max_tokens });
        });
    });

    test("an abort signal ends streamed, unstreamed and queued requests alike", async () => {
        await withServer([...slow, "--max-running", "2"], async (server) => {
            const client = clientOf(server);
            const stop = new AbortController();
            const ends = [true, false, false, true].map((stream) =>
                client.completions.create({ ...long, stream }, { signal: stop.signal }).then(async (r) => {
                    if (stream) await all(r);
                }).catch((e) => e));
            await until("two running and two waiting", async () => {
                const m = await server.metrics();
                return m["vllm:num_requests_running"] === 2 && m["vllm:num_requests_waiting"] === 2;
            });
            stop.abort();
            for (const e of await Promise.all(ends)) assert.ok(e === undefined || e instanceof OpenAI.APIUserAbortError, String(e));
            await server.cancelled({ clients: 4, below: 2 * long.max_tokens });
        });
    });

    test("a client's timeout is an APIConnectionTimeoutError and frees the server", async () => {
        await withServer(slow, async (server) => {
            const e = await clientOf(server, { timeout: 300 }).completions.create(long).catch((x) => x);
            assert.ok(e instanceof OpenAI.APIConnectionTimeoutError, String(e));
            await server.cancelled({ clients: 1, below: long.max_tokens });
        });
    });

    test("others in the same batch go on undisturbed", async () => {
        await withServer(["--fake-us-per-token", "2000"], async (server) => {
            const client = clientOf(server);
            const alone = (await client.completions.create({ model, prompt, max_tokens: 100 })).choices[0].text;
            const stays = client.completions.create({ model, prompt, max_tokens: 100 });
            for (let i = 0; i < 5; i++) {
                const s = await client.completions.create({ ...long, stream: true });
                setTimeout(() => s.controller.abort(), 20);
                await all(s).catch(() => {});
            }
            assert.equal((await stays).choices[0].text, alone);
            await server.idle();
        });
    });
});

describe("when the server is full or falls ill", () => {
    test("a full queue is a 503 that the package retries until there is room", async () => {
        await withServer(["--fake-us-per-token", "20000", "--max-running", "1", "--max-queue", "1"], async (server) => {
            const impatient = clientOf(server);
            const running = await impatient.completions.create({ model, prompt, max_tokens: 900, stream: true });
            await until("it runs", async () => (await server.metrics())["vllm:num_requests_running"] === 1);
            const waiting = impatient.completions.create({ model, prompt, max_tokens: 1 });
            await until("one waits", async () => (await server.metrics())["vllm:num_requests_waiting"] === 1);
            const e = await impatient.completions.create({ model, prompt, max_tokens: 1 }).catch((x) => x);
            assert.ok(e instanceof OpenAI.InternalServerError, String(e));
            assert.equal(e.status, 503);
            assert.equal(e.code, "overloaded");
            assert.ok(Number(e.headers.get("retry-after")) >= 1);
            const late = clientOf(server, { maxRetries: 100 }).completions.create({ model, prompt, max_tokens: 1 });
            await until("it is refused as well", async () => (await server.metrics())['fathom_http_refused_total{why="busy"}'] >= 2);
            running.controller.abort();
            assert.equal((await late).usage.completion_tokens, 1);
            await waiting;
        });
    });

    test("an error in mid-stream is an APIError, not a short answer", async () => {
        await withServer(["--fake-us-per-token", "1000"], { env: { FATHOM_FAULT: "nan:10" } }, async (server) => {
            server.expected = /./;
            const client = clientOf(server);
            let n = 0;
            const e = await (async () => {
                for await (const _ of await client.completions.create({ model, prompt, max_tokens: 100, stream: true })) n++;
            })().catch((x) => x);
            assert.ok(e instanceof OpenAI.APIError, `${e} after ${n} chunks`);
            assert.ok(n > 0 && n < 100);
            const next = await client.completions.create({ model, prompt, max_tokens: 5 });
            assert.equal(next.usage.completion_tokens, 5, "the next request is served");
        });
    });

    test("a draining server ends running streams and refuses new work", async () => {
        const server = await Server.start(["--fake-us-per-token", "20000"]);
        const client = clientOf(server);
        const stream = await client.completions.create({ model, prompt, max_tokens: 100, ignore_eos: true, stream: true });
        const rest = all(stream);
        server.signal("SIGTERM");
        await until("the drain", () => /draining/.test(server.log));
        const e = await client.completions.create({ model, prompt, max_tokens: 1 }).catch((x) => x);
        assert.ok(e instanceof OpenAI.InternalServerError || e instanceof OpenAI.APIConnectionError, String(e));
        const chunks = await rest;
        assert.equal(chunks.length, 100);
        assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
        await server.stop();
    });
});

// What any client may ask, through every client: one list of cases, one list of clients.
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { Server, until, withServer } from "../../http/lib/server.mjs";
import { greedy, keyFile, misfit, model, schema, tools, verse, weather } from "./lib/ask.js";
import { clients } from "./lib/clients.js";

const can = (client, what) => client.can.includes(what);
const failure = (promise) => promise.then((r) => assert.fail(`accepted: ${JSON.stringify(r)}`), (e) => e);

const cases = [
    ["an answer is the same text whole and streamed, in several pieces, with the same usage", async ({ ask, stream }) => {
        const whole = await ask(greedy);
        assert.ok(whole.text.length > 10, whole.text);
        const parts = [];
        const streamed = await stream(greedy, (text) => parts.push(text));
        assert.equal(streamed.text, whole.text);
        assert.equal(parts.join(""), whole.text);
        assert.ok(streamed.pieces > 3, `${streamed.pieces} pieces`);
        assert.deepEqual(streamed.usage, whole.usage);
        assert.equal(streamed.finish, whole.finish);
    }],
    ["an answer that reaches its limit says so, and its tokens are counted", async ({ ask, stream }) => {
        for (const how of [ask, stream]) {
            const r = await how({ ...greedy, limit: 3 });
            assert.equal(r.finish, "length");
            assert.equal(r.usage.output, 3);
            assert.ok(r.usage.input > 4);
        }
    }],
    ["a stop string ends the text before itself, whole and streamed", async ({ ask, stream }) => {
        const full = (await ask(greedy)).text, stop = full.slice(10, 13), want = full.slice(0, full.indexOf(stop));
        for (const how of [ask, stream]) {
            for (const given of [[stop], ["never there", stop]]) {
                const r = await how({ ...greedy, stop: given });
                assert.deepEqual([r.text, r.finish], [want, "stop"]);
            }
        }
    }, "stop"],
    ["a seed makes an answer repeatable", async ({ ask }) => {
        const say = async (seed) => (await ask({ ...greedy, temperature: 1, seed })).text;
        assert.equal(await say(7), await say(7));
        assert.notEqual(await say(7), await say(8));
    }, "seed"],
    ["n gives so many answers, streamed as well", async ({ ask, stream }) => {
        const q = { ...greedy, temperature: 1, seed: 1, n: 3 };
        const whole = await ask(q), streamed = await stream(q);
        assert.equal(whole.texts.length, 3);
        assert.ok(new Set(whole.texts).size > 1, "choices differ");
        assert.deepEqual(streamed.texts, whole.texts);
        const one = await ask({ ...q, n: 1 });
        assert.equal(whole.usage.input, one.usage.input, "the prompt counts once");
    }, "n"],
    ["log probabilities line up with the text, streamed as well", async ({ ask, stream }) => {
        for (const how of [ask, stream]) {
            const r = await how({ ...greedy, logprobs: 3 });
            assert.equal(r.logprobs.map((t) => t.token).join(""), r.text);
            assert.ok(r.logprobs.every((t) => t.logprob <= 0 && t.top === 3), JSON.stringify(r.logprobs));
        }
    }, "logprobs"],
    ["a system message and a conversation of several turns reach the model", async ({ ask, stream }) => {
        const turns = [...verse, { role: "assistant", text: "God created" }, { role: "user", content: "And then?" }];
        const alone = await ask({ ...greedy, messages: turns });
        for (const how of [ask, stream]) {
            const r = await how({ ...greedy, messages: [{ role: "system", content: "Answer as the King James Bible would." }, ...turns] });
            assert.ok(r.usage.input > alone.usage.input + 5, "the system message is in the prompt");
            assert.ok(r.text.length > 0);
        }
    }],
    ["every reasoning effort of the client's type is taken", async ({ ask, stream }, client) => {
        for (const effort of client.efforts) {
            // Some clients send such a model no temperature, and a drawn answer may end at its first token.
            for (const how of [ask, stream]) {
                const r = await how({ ...greedy, effort, limit: 4 });
                assert.ok(r.text.length > 0 || r.finish === "stop", String(effort));
            }
        }
    }],
    ["tools with choice auto and none leave the model free", async ({ ask, stream }) => {
        for (const choice of ["auto", "none", undefined]) {
            for (const how of [ask, stream]) {
                const r = await how({ ...greedy, tools, choice });
                assert.ok(r.text.length > 0 || r.calls.length > 0);
                if (choice === "none") assert.deepEqual(r.calls, []);
            }
        }
    }],
    ["a required call is a call that fits its function, whole and streamed", async ({ ask, stream }) => {
        for (const how of [ask, stream]) {
            const r = await how({ ...greedy, tools, choice: "required", limit: 400 });
            assert.equal(r.finish, "calls");
            assert.equal(r.text, "");
            assert.ok(r.calls.length >= 1);
            for (const call of r.calls) assert.equal(misfit(call), "");
            assert.equal(new Set(r.calls.map((c) => c.id)).size, r.calls.length);
        }
    }],
    ["a named function is the one that is called", async ({ ask, stream }) => {
        for (const name of ["weather", "clock"]) {
            for (const how of [ask, stream]) {
                const r = await how({ ...greedy, tools, choice: { name }, limit: 400 });
                assert.equal(r.calls[0].name, name);
                assert.equal(misfit(r.calls[0]), "");
            }
        }
    }],
    ["parallel calls may be asked for and forbidden", async ({ ask, stream }) => {
        for (const how of [ask, stream]) {
            assert.ok((await how({ ...greedy, tools, choice: "required", parallel: true, limit: 600 })).calls.every((c) => misfit(c) === ""));
            assert.equal((await how({ ...greedy, tools, choice: "required", parallel: false, limit: 400 })).calls.length, 1);
        }
    }, "parallel"],
    ["an agent's loop of three turns: two calls whose results go back, then an answer", async ({ ask, stream }) => {
        for (const how of [ask, stream]) {
            const messages = [...verse], ids = new Set();
            for (const choice of ["required", { name: "clock" }, "none"]) {
                const r = await how({ ...greedy, messages, tools, choice, limit: choice === "none" ? 16 : 400 });
                if (choice === "none") {
                    assert.ok(r.text.length > 0);
                    assert.deepEqual(r.calls, []);
                    break;
                }
                messages.push({ role: "assistant", text: r.text, calls: r.calls });
                for (const c of r.calls) {
                    assert.ok(!ids.has(c.id), "an id is used once");
                    ids.add(c.id);
                    messages.push({ role: "tool", id: c.id, name: c.name, result: "dry, 20 degrees" });
                }
            }
            assert.ok(ids.size >= 2);
        }
    }],
    ["an answer is an instance of the schema that the client's helper sends, whole and streamed", async ({ ask, stream }) => {
        for (const how of [ask, stream]) {
            const r = await how({ ...greedy, schema, limit: 700 });
            assert.equal(r.finish, "stop", r.text);
            schema.zod.parse(r.object ?? JSON.parse(r.text));
        }
    }],
    ["a model that is not there is a 404", async ({ ask, stream }, client) => {
        for (const how of [ask, stream]) {
            const e = await failure(how({ ...greedy, model: "gpt-9" }));
            assert.equal(client.status(e), 404, String(e));
            assert.match(e.message, /gpt-9/);
        }
    }],
    ["a prompt that is too long is a 400 whose message says both numbers", async ({ ask, stream }, client) => {
        for (const how of [ask, stream]) {
            const e = await failure(how({ ...greedy, messages: [{ role: "user", content: "the word of the LORD ".repeat(600) }] }));
            assert.equal(client.status(e), 400, String(e));
            assert.match(e.message, /1024/);
        }
    }],
    ["a forced call of nobody is a 400", async ({ ask }, client) => {
        const e = await failure(ask({ ...greedy, tools: [weather], choice: { name: "nobody" } }));
        assert.equal(client.status(e), 400, String(e));
        assert.match(e.message, /tool_choice/);
    }],
    ["embeddings, which are not offered, are a 404 that the client understands", async ({ embed }, client) => {
        if (!embed) return; // its package has none
        const e = await failure(embed(model));
        assert.equal(client.status(e), 404, String(e));
    }],
];

describe("on a server without keys", () => {
    let server;
    before(async () => {
        server = await Server.start([], { device: "cpu" });
        server.shared = true;
    });
    after(() => server.stop());

    for (const client of clients) {
        describe(client.name, () => {
            for (const [what, run, needs] of cases) {
                if (needs && !can(client, needs)) continue; // the package cannot say it
                test(what, async () => run(client.connect({ url: server.url }), client));
            }
        });
    }
});

describe("on a server in need", () => {
    const slow = ["--fake-us-per-token", "20000"];
    const long = { ...greedy, limit: 800 };

    for (const client of clients) {
        test(`${client.name}: an abort in mid-stream ends the work`, async () => {
            await withServer(slow, async (server) => {
                const stop = new AbortController();
                let seen = 0;
                // Some packages end the loop quietly, with what they have; the others throw.
                const end = await client.connect({ url: server.url }).stream({ ...long, signal: stop.signal }, () => {
                    if (++seen === 3) stop.abort();
                }).catch((e) => e);
                assert.ok(end instanceof Error ? client.aborted(end) : end.finish === undefined, String(end));
                assert.ok(seen >= 3 && seen < 50, `${seen} pieces`);
                await server.cancelled({ clients: 1, below: long.limit });
            });
        });
    }

    test("a wrong key is a 401 and the right one works, for every client", async () => {
        await withServer(["--api-key-file", keyFile], { device: "cpu" }, async (server) => {
            await each(async (client) => {
                const e = await failure(client.connect({ url: server.url, key: "sk-wrong-key" }).ask(greedy));
                assert.equal(client.status(e), 401, String(e));
                assert.ok((await client.connect({ url: server.url, key: "sk-right-key" }).ask(greedy)).text.length > 0);
            });
        });
    });

    test("a body over the limit is a 413, however much over, for every client", async () => {
        await withServer(["--max-body", "4K"], async (server) => {
            await each(async (client) => {
                for (const size of [5e3, 1e6, 2e7]) {
                    const e = await failure(client.connect({ url: server.url }).ask({ ...greedy, messages: [{ role: "user", content: "x".repeat(size) }] }));
                    assert.equal(client.status(e), 413, `${size} bytes: ${e} ${e.cause ?? ""}`);
                }
            });
        });
    });

    test("a full server is a 503, and a client that retries is served when there is room", async () => {
        await withServer([...slow, "--max-running", "8", "--max-queue", "8"], async (server) => {
            const stop = new AbortController();
            const hold = () => clients[0].connect({ url: server.url }).ask({ ...long, n: 8, signal: stop.signal }).catch(() => {});
            const held = [hold()];
            await until("all run", async () => (await server.metrics())["vllm:num_requests_running"] === 8);
            held.push(hold());
            await until("all wait", async () => (await server.metrics())["vllm:num_requests_waiting"] === 8);
            const short = { ...greedy, limit: 1 };
            await each(async (client) => {
                if (client.name.startsWith("@continuedev")) return; // always retries, as below
                assert.equal(client.status(await failure(client.connect({ url: server.url }).ask(short))), 503);
            });
            const before = (await server.metrics())['fathom_http_refused_total{why="busy"}'];
            const late = each((client) => client.connect({ url: server.url, retries: 8 }).ask(short));
            late.catch(() => {});
            await until("each is refused", async () => (await server.metrics())['fathom_http_refused_total{why="busy"}'] >= before + clients.length);
            stop.abort();
            await late;
            await Promise.all(held);
        });
    });

    test("a key's own limit is a 429 for every client", async () => {
        await withServer(["--api-key-file", keyFile, "--max-requests-per-key", "1", ...slow], async (server) => {
            const key = "sk-right-key", stop = new AbortController();
            const held = clients[0].connect({ url: server.url, key }).ask({ ...long, signal: stop.signal }).catch(() => {});
            await until("it runs", async () => (await server.metrics())["vllm:num_requests_running"] === 1);
            await each(async (client) => {
                const e = await failure(client.connect({ url: server.url, key }).ask(greedy));
                assert.equal(client.status(e), 429, String(e));
            });
            stop.abort();
            await held;
        });
    });
});

// Every client at once; all their failures in one message.
async function each(run) {
    const results = await Promise.allSettled(clients.map(run));
    const bad = results.flatMap((r, i) => (r.status === "rejected" ? [`${clients[i].name}: ${r.reason?.message ?? r.reason}`] : []));
    assert.deepEqual(bad, []);
}

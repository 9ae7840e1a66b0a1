// A router's view of one replica: the blocks that its messages name, by hash and by tokens.
import assert from "node:assert/strict";
import { after } from "node:test";
import { decode } from "@msgpack/msgpack";
import * as zmq from "zeromq";
import { until } from "../../http/lib/server.mjs";

export const BLOCK = 32;

// An open socket would keep the file of a failed test from ending.
const open = new Set();
after(() => open.forEach((socket) => socket.close()));

export class Subscriber {
    blocks = new Map(); // hash -> { parent, tokens, prompt: the key of all tokens up to its end }
    prompts = new Map(); // prompt -> number of blocks with it
    topics = new Set();
    counts = { BlockStored: 0, BlockRemoved: 0, AllBlocksCleared: 0, messages: 0, gaps: 0 };
    stale = true; // until the first cleared list: messages between may name blocks of which it does not know
    next = null; // the number of the next message
    last = null; // the last event
    fault = null;

    // reads: false: it takes nothing from its socket until read() is called.
    constructor(endpoint, { topic = "kv@", reads = true } = {}) {
        this.socket = new zmq.Subscriber({ linger: 0, ...(reads ? {} : { receiveHighWaterMark: 1, receiveBufferSize: 4096 }) });
        open.add(this.socket);
        this.socket.connect(endpoint);
        this.socket.subscribe(topic);
        if (reads) this.reading = this.read();
    }

    async read() {
        try {
            for await (const frames of this.socket) this.take(frames);
        } catch (error) {
            this.fault ??= error;
        }
    }

    take(frames) {
        assert.equal(frames.length, 3, "topic, number, batch");
        const [topic, number, batch] = frames;
        this.topics.add(topic.toString());
        assert.equal(number.length, 8);
        const at = Number(number.readBigUInt64BE());
        if (this.next !== null && at !== this.next) {
            this.counts.gaps++;
            this.stale = true; // what it knows is wrong until the list is cleared
        }
        assert.ok(this.next === null || at >= this.next, "numbers only grow");
        this.next = at + 1;
        this.counts.messages++;
        const [time, events, rank, ...rest] = decode(batch, { useBigInt64: true });
        assert.ok(Math.abs(time - Date.now() / 1000) < 3600, "seconds since 1970");
        assert.deepEqual([rank, rest], [0, []]);
        assert.ok(events.length > 0);
        for (const event of events) this.apply(event);
    }

    apply([kind, ...fields]) {
        this.counts[kind]++;
        this.last = kind;
        this.stale &&= kind !== "AllBlocksCleared";
        if (this.stale) return;
        if (kind === "BlockStored") this.store(...fields);
        else if (kind === "BlockRemoved") this.remove(...fields);
        else {
            assert.deepEqual([kind, fields], ["AllBlocksCleared", []]);
            this.blocks.clear();
            this.prompts.clear();
        }
    }

    store(hashes, parent, tokens, size, lora, medium, loraName, ...rest) {
        assert.deepEqual([size, lora, medium, loraName, rest], [BLOCK, null, "GPU", null, []]);
        assert.equal(tokens.length, hashes.length * BLOCK);
        assert.ok(parent === null || typeof parent === "bigint");
        for (const [i, hash] of hashes.entries()) {
            assert.equal(typeof hash, "bigint", "the type uint 64");
            assert.ok(!this.blocks.has(hash), "a block is stored once");
            const own = tokens.slice(i * BLOCK, (i + 1) * BLOCK), before = this.blocks.get(parent)?.prompt ?? "";
            assert.ok(parent === null || before, "the block before it is known");
            const prompt = `${before}${own.join(",")};`;
            this.blocks.set(hash, { parent, tokens: own, prompt });
            this.prompts.set(prompt, (this.prompts.get(prompt) ?? 0) + 1);
            parent = hash;
        }
    }

    remove(hashes, medium, ...rest) {
        assert.deepEqual([medium, rest], ["GPU", []]);
        for (const hash of hashes) {
            const block = this.blocks.get(hash);
            assert.ok(block, "a block that is removed was stored");
            this.blocks.delete(hash);
            if (this.prompts.get(block.prompt) === 1) this.prompts.delete(block.prompt);
            else this.prompts.set(block.prompt, this.prompts.get(block.prompt) - 1);
        }
    }

    // How many of these tokens the replica need not compute, by what this subscriber knows.
    cached(ids) {
        let prompt = "", n = 0;
        for (; n + BLOCK <= ids.length; n += BLOCK) {
            prompt += `${ids.slice(n, n + BLOCK).join(",")};`;
            if (!this.prompts.has(prompt)) break;
        }
        return n;
    }

    // The hashes and tokens of all blocks, in an order of their own.
    state() {
        return [...this.blocks].map(([hash, { parent, tokens }]) => `${hash} ${parent} ${tokens}`).sort();
    }

    // Waits for the answer to this subscription: a cleared list.
    async begun() {
        await this.until("the first message", () => this.counts.AllBlocksCleared > 0);
    }

    async until(what, test) {
        await until(what, () => {
            if (this.fault) throw this.fault;
            return test();
        });
    }

    // Waits until every message of the requests so far is here. An answer may come before the step that gave it is over; its
    // tokens are counted afterwards.
    async caughtUp(server) {
        await this.until("all messages", async () => {
            const m = await server.metrics();
            return m["vllm:generation_tokens_total"] >= (server.outputTokens ?? 0) && m.fathom_kv_events_late === 0
                && m.fathom_kv_events_messages_total === this.next;
        });
    }

    async close() {
        open.delete(this.socket);
        this.socket.close();
        await this.reading;
        if (this.fault) throw this.fault;
    }
}

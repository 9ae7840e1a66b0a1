// Rows of a table of inputs, each one a test against a running server; the last test of a
// table counts them and lists those whose answer differs from the table, with the reason.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { PATIENCE, Server, until } from "./server.mjs";

export class Table {
    rows = [];

    constructor(letter, args = [], options = {}) {
        this.letter = letter;
        before(async () => {
            this.server = await Server.start(args, options);
            this.server.shared = true;
        });
        after(async () => {
            if (this.server) await this.server.stop();
        });
    }

    // fn(server) asserts. differs: why the answer is not the one the table names.
    // skip: why the row cannot be tried here. args: a server of the row's own, with these options.
    row(id, what, fn, { differs, skip, args } = {}) {
        this.rows.push({ id, differs, skip });
        test(`${id} ${what}`, { skip, timeout: 5 * PATIENCE }, async () => {
            const server = args ? await Server.start(args) : this.server;
            await fn(server);
            if (server.exit) assert.fail(`the server ended: ${server.log.slice(-2000)}`);
            await until("health after the row", async () => (await server.get("/health")).status === 200);
            server.clean();
            if (args) await server.stop();
        });
    }

    // Every row of the table from 1 to n must have been written down.
    done(n) {
        test(`${this.letter}: all ${n} rows are here`, () => {
            const ids = new Set(this.rows.map((r) => r.id.replace(/[a-z]$/, "")));
            for (let i = 1; i <= n; i++) assert.ok(ids.has(`${this.letter}${i}`), `${this.letter}${i} is missing`);
            const differing = this.rows.filter((r) => r.differs);
            const skipped = this.rows.filter((r) => r.skip);
            console.log(`table ${this.letter}: ${n} rows, ${this.rows.length} cases, ${differing.length} differ by argument, ${skipped.length} elsewhere`);
            for (const r of differing) console.log(`  ${r.id}: ${r.differs}`);
            for (const r of skipped) console.log(`  ${r.id} elsewhere: ${r.skip}`);
        });
    }
}

// The one form of an error body.
export function assertError(r, status, { type, param, code } = {}) {
    const statuses = [status].flat();
    assert.ok(statuses.includes(r.status), `status ${r.status}, wanted ${statuses}: ${(r.text ?? r.body ?? "").slice(0, 300)}`);
    assert.match(r.headers["content-type"] ?? "", /^application\/json/);
    const { error } = r.json ?? JSON.parse(r.text ?? r.body);
    for (const key of ["message", "type", "param", "code"]) assert.ok(key in error, `error has no ${key}`);
    assert.equal(typeof error.message, "string");
    if (type) assert.equal(error.type, type);
    if (param !== undefined) assert.equal(error.param, param);
    if (code !== undefined) assert.equal(error.code, code);
    assert.ok(error.message.length <= 600, "messages stay short");
    assert.ok(!/0x[0-9a-f]{6,}/.test(error.message), "no pointers");
}

// A client that spends little: one raw connection, kept alive, one request at a time.
import net from "node:net";

const HEAD_END = Buffer.from("\r\n\r\n");

export class Connection {
    bytes = Buffer.alloc(0);
    waiting = null; // { done, fail } of the request whose answer is awaited

    constructor(port) {
        this.port = port;
    }

    open() {
        this.socket = net.connect({ port: this.port, host: "127.0.0.1", noDelay: true });
        this.bytes = Buffer.alloc(0);
        this.socket.on("data", (d) => {
            this.bytes = this.bytes.length ? Buffer.concat([this.bytes, d]) : d;
            this.advance();
        });
        const lost = (why) => {
            this.socket = null;
            this.settle("fail", new Error(`the connection ended before the answer did: ${why}; so far ${this.bytes.subarray(0, 300)}`));
        };
        this.socket.on("error", (e) => lost(e.message));
        this.socket.on("end", () => lost("closed"));
    }

    settle(how, value) {
        const { waiting } = this;
        this.waiting = null;
        waiting?.[how](value);
    }

    // Gives { status, type, text }.
    call(method, path, body) {
        if (!this.socket) this.open();
        const length = body === undefined ? 0 : Buffer.byteLength(body);
        this.socket.cork();
        this.socket.write(`${method} ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n`);
        if (length) this.socket.write(body);
        this.socket.uncork();
        return new Promise((done, fail) => { this.waiting = { done, fail }; });
    }

    advance() {
        const end = this.bytes.indexOf(HEAD_END);
        if (end < 0 || !this.waiting) return;
        const head = this.bytes.latin1Slice(0, end).toLowerCase();
        const length = /\r\ncontent-length: (\d+)/.exec(head);
        const [text, used] = length ? this.sized(end + 4, Number(length[1])) : this.chunked(end + 4);
        if (text === undefined) return;
        this.bytes = this.bytes.subarray(used);
        if (head.includes("\r\nconnection: close")) {
            this.socket.removeAllListeners("end").destroy();
            this.socket = null;
        }
        this.settle("done", { status: Number(head.slice(9, 12)), type: /\r\ncontent-type: ([^\r]*)/.exec(head)?.[1] ?? "", text });
    }

    sized(from, n) {
        return this.bytes.length < from + n ? [] : [this.bytes.utf8Slice(from, from + n), from + n];
    }

    chunked(at) {
        const parts = [];
        for (;;) {
            const line = this.bytes.indexOf("\r\n", at);
            if (line < 0) return [];
            const n = parseInt(this.bytes.latin1Slice(at, line), 16), next = line + 2 + n + 2;
            if (this.bytes.length < next) return [];
            if (n === 0) return [Buffer.concat(parts).toString(), next];
            parts.push(this.bytes.subarray(line + 2, line + 2 + n));
            at = next;
        }
    }

    close() {
        this.socket?.removeAllListeners("end").destroy();
    }
}

// A client that reads a stream and notes, for every piece, what the server's busiest thread
// computed since the piece before: how long others made it wait, whatever else the machine does.
// A piece may lie here unread while this thread does something else or waits for a processor: as
// long as that, the server's threads computed for whatever came behind the piece.
import net from "node:net";
import { post, parse } from "../../http/lib/raw.mjs";
import { busiest, self, threads } from "./proc.mjs";

export class Stream {
    parts = [];
    gaps = []; // ms of processor time of the busiest thread
    walls = []; // ms by the clock, for records only
    ended = false;

    constructor(server, path, body, headers = "") {
        this.pid = server.child.pid;
        this.socket = net.connect({ port: server.port, host: "127.0.0.1" });
        this.socket.setNoDelay(true);
        this.done = new Promise((done) => {
            const end = () => { this.ended = true; done(this); };
            this.socket.on("close", end);
            this.socket.on("error", end);
            this.socket.on("data", (d) => {
                this.note();
                this.parts.push(d);
                if (d.subarray(-16).includes("0\r\n\r\n")) this.socket.destroy();
            });
        });
        this.socket.write(post(path, JSON.stringify({ stream: true, ...body }), `Connection: close\r\n${headers}`));
    }

    note() {
        const now = threads(this.pid), at = performance.now(), late = performance.eventLoopUtilization().active + self().waited;
        if (this.last) {
            this.gaps.push(Math.max(0, busiest(this.last, now) - (late - this.late)));
            this.walls.push(at - this.at);
        }
        this.last = now;
        this.late = late;
        this.at = at;
    }

    // The answer as far as it came: { status, body, whole }.
    get answer() { return parse(Buffer.concat(this.parts)) ?? { status: 0, body: "", whole: false }; }
    get begun() { return this.gaps.length > 1; }
    get worst() { return Math.max(0, ...this.gaps); }
    get worstWall() { return Math.max(0, ...this.walls); }
    leave() { this.socket.destroy(); }
}

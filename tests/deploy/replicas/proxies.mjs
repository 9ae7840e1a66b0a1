// HAProxy and nginx, started from the files of deploy/ with other addresses.
import { spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { freePort } from "../../http/lib/raw.mjs";
import { root, until } from "../../http/lib/server.mjs";
import { ask } from "./client.mjs";

const running = new Set();
let made = 0;

// Every change must find its text: a test of a file that was not changed would test something else.
function edited(file, changes) {
    let text = readFileSync(path.join(root, file), "utf8");
    for (const [from, to] of changes) {
        if (!text.includes(from)) throw new Error(`${file} has no '${from}'`);
        text = text.replaceAll(from, to);
    }
    return text;
}

// Starts a proxy on a port that was free a moment ago. Another program may have it by now: then on another one. `make` writes the
// proxy's files for some ports and gives what to run.
async function start(name, ports, make) {
    for (let left = 20; ; left--) {
        const chosen = [];
        for (let i = 0; i < ports; i++) chosen.push(await freePort());
        const { program, args, env, at } = make(...chosen);
        const proxy = await run(name, program, args, env, at);
        if (proxy.exit === null) return proxy;
        running.delete(proxy);
        if (!left || !/in use|cannot bind/i.test(proxy.log)) throw new Error(`${name} ended with ${proxy.exit}: ${proxy.log.slice(-2000)}`);
    }
}

async function run(name, program, args, env, at) {
    const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    const proxy = { name, at, child, log: "", exit: null };
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (d) => { proxy.log += d; });
    proxy.ended = new Promise((done) => child.on("close", (code) => { proxy.exit = code ?? "killed"; done(); }));
    running.add(proxy);
    // Whoever has the port instead may never answer.
    await until(`${name} answers`, async () => proxy.exit !== null || (await Promise.race([proxy.ended, ask(at, "GET", "/health")]))?.status === 200);
    return proxy;
}

// With tls: its encrypted port. lacking: lines of the file to leave out.
export function haproxy(tmp, replicas, { tls = false, lacking = [] } = {}) {
    const file = path.join(tmp, `haproxy-${++made}.cfg`);
    const [one, two] = replicas.map((s) => `127.0.0.1:${s.port}`);
    return start(tls ? "HAProxy, TLS" : "HAProxy", 1, (port) => {
        writeFileSync(file, edited("deploy/haproxy/haproxy.cfg", [
            [tls ? "bind :8443" : "bind :8080", `bind 127.0.0.1:${port}`], ["/etc/haproxy/fathom.pem", path.join(tmp, "fathom.pem")],
            ["maxconn 20000", "maxconn 500"], ...lacking.map((line) => [line, ""])]));
        return { program: "haproxy", args: ["-db", "-f", file], env: { SERVER_ONE: one, SERVER_TWO: two, ...(tls ? {} : { PLAIN_HTTP: "1" }) },
            at: { port, ca: tls ? readFileSync(path.join(tmp, "fathom.crt")) : null } };
    });
}

export function nginx(tmp, replicas) {
    const dir = path.join(tmp, `nginx-${++made}`);
    mkdirSync(path.join(dir, "logs"), { recursive: true });
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((k) => `${k}_temp_path ${dir}/${k};`).join(" ");
    writeFileSync(path.join(dir, "nginx.conf"), `daemon off; pid ${dir}/pid; worker_processes 1; ${process.getuid() === 0 ? "user root;" : ""}
error_log ${dir}/err warn; events { worker_connections 1024; } http { access_log off; ${temporary} include ${dir}/site.conf; }`);
    return start("nginx, TLS", 2, (port, plain) => {
        writeFileSync(path.join(dir, "site.conf"), edited("deploy/nginx/fathom.conf", [
            ["127.0.0.1:8080", `127.0.0.1:${replicas[0].port}`], ["127.0.0.1:8081", `127.0.0.1:${replicas[1].port}`],
            ["listen 443 ssl", `listen 127.0.0.1:${port} ssl`], ["listen 80;", `listen 127.0.0.1:${plain};`],
            ["/etc/nginx/fathom", path.join(tmp, "fathom")], ["fathom.example.org", "localhost"]]));
        return { program: "nginx", args: ["-p", dir, "-c", path.join(dir, "nginx.conf"), "-e", path.join(dir, "err")], env: {},
            at: { port, ca: readFileSync(path.join(tmp, "fathom.crt")) } };
    });
}

// SIGTERM: nginx's master then ends its worker.
export async function stop(proxy) {
    proxy.child.kill("SIGTERM");
    await proxy.ended;
    running.delete(proxy);
}
export const stopAll = () => Promise.all([...running].map(stop));

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

async function run(name, program, args, env, at) {
    const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    const proxy = { name, at, child, log: "", exit: null };
    for (const stream of [child.stdout, child.stderr]) stream.on("data", (d) => { proxy.log += d; });
    proxy.ended = new Promise((done) => child.on("close", (code) => { proxy.exit = code ?? "killed"; done(); }));
    running.add(proxy);
    await until(`${name} answers`, async () => {
        if (proxy.exit !== null) throw new Error(`${name} ended with ${proxy.exit}: ${proxy.log.slice(-2000)}`);
        return (await ask(at, "GET", "/health")).status === 200;
    });
    return proxy;
}

// With tls: its encrypted port. lacking: lines of the file to leave out.
export async function haproxy(tmp, replicas, { tls = false, lacking = [] } = {}) {
    const port = await freePort(), file = path.join(tmp, `haproxy-${++made}.cfg`);
    writeFileSync(file, edited("deploy/haproxy/haproxy.cfg", [
        [tls ? "bind :8443" : "bind :8080", `bind 127.0.0.1:${port}`], ["/etc/haproxy/fathom.pem", path.join(tmp, "fathom.pem")],
        ["maxconn 20000", "maxconn 500"], ...lacking.map((line) => [line, ""])]));
    const [one, two] = replicas.map((s) => `127.0.0.1:${s.port}`);
    const at = { port, ca: tls ? readFileSync(path.join(tmp, "fathom.crt")) : null };
    return run(tls ? "HAProxy, TLS" : "HAProxy", "haproxy", ["-db", "-f", file],
        { SERVER_ONE: one, SERVER_TWO: two, ...(tls ? {} : { PLAIN_HTTP: "1" }) }, at);
}

export async function nginx(tmp, replicas) {
    const port = await freePort(), dir = path.join(tmp, `nginx-${++made}`);
    mkdirSync(path.join(dir, "logs"), { recursive: true });
    writeFileSync(path.join(dir, "site.conf"), edited("deploy/nginx/fathom.conf", [
        ["127.0.0.1:8080", `127.0.0.1:${replicas[0].port}`], ["127.0.0.1:8081", `127.0.0.1:${replicas[1].port}`],
        ["listen 443 ssl", `listen 127.0.0.1:${port} ssl`], ["listen 80;", `listen 127.0.0.1:${await freePort()};`],
        ["/etc/nginx/fathom", path.join(tmp, "fathom")], ["fathom.example.org", "localhost"]]));
    const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map((k) => `${k}_temp_path ${dir}/${k};`).join(" ");
    writeFileSync(path.join(dir, "nginx.conf"), `daemon off; pid ${dir}/pid; worker_processes 1; ${process.getuid() === 0 ? "user root;" : ""}
error_log ${dir}/err warn; events { worker_connections 1024; } http { access_log off; ${temporary} include ${dir}/site.conf; }`);
    const at = { port, ca: readFileSync(path.join(tmp, "fathom.crt")) };
    return run("nginx, TLS", "nginx", ["-p", dir, "-c", path.join(dir, "nginx.conf"), "-e", path.join(dir, "err")], {}, at);
}

// SIGTERM: nginx's master then ends its worker.
export async function stop(proxy) {
    proxy.child.kill("SIGTERM");
    await proxy.ended;
    running.delete(proxy);
}
export const stopAll = () => Promise.all([...running].map(stop));

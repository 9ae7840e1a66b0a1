// The program itself takes the arguments of the chart, and has the metrics by which the picker and the autoscalers go.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { demo, Server } from "../../http/lib/server.mjs";
import { pickerConfig, render, skip } from "./chart.mjs";
import { rows } from "./rows.mjs";

const dir = mkdtempSync(path.join(tmpdir(), "fathom-helm-"));
after(() => rmSync(dir, { recursive: true, force: true }));
writeFileSync(path.join(dir, "keys"), "sk-0123456789\n");

// What differs between a container and this machine: ports that are free, the model and the keys of this folder, and no proxies that
// would have to notice an end.
const here = { "--lame-duck-seconds": "0", "--port": "0", "--admin-port": "0", "--device": "fake", "--model": demo, "--api-key-file": path.join(dir, "keys") };
const argumentsHere = (release) => release.one("Deployment").spec.template.spec.containers[0].args.slice(1).map((a) => {
    const [name] = a.split("=");
    return here[name] ? `${name}=${here[name]}` : a;
});

for (const what of ["the defaults", "examples/gpu.yaml", "examples/gateway.yaml", "options of every kind"]) {
    test(`a server starts with the arguments of ${what}, and ends well`, { skip }, async () => {
        const server = await Server.start(argumentsHere(render(rows[what])), { hosts: [] });
        assert.equal(server.exit, null, server.log);
        assert.equal((await server.get("/ready")).status, 200);
        server.child.kill("SIGTERM");
        assert.equal((await server.ended).code, 0, server.log);
    });
}

test("the picker and the autoscalers find every metric that they ask for", { skip }, async () => {
    const release = render({ ...rows["examples/gateway.yaml"] });
    const server = await Server.start(argumentsHere(release), { hosts: [] });
    const { text } = await server.get("/metrics");
    const [engine] = pickerConfig(release).plugins.find((p) => p.type === "core-metrics-extractor").parameters.engineConfigs;
    const { queuedRequestsSpec, runningRequestsSpec, kvUsageSpec, cacheInfoSpec, customMetrics } = engine;
    const asked = [queuedRequestsSpec, runningRequestsSpec, kvUsageSpec, cacheInfoSpec, ...customMetrics.map((m) => m.metricSpec)];
    const query = release.one("ScaledObject").spec.triggers[0].metadata.query;
    for (const name of [...asked, ...[...query.matchAll(/sum\((\S+?)\{/g)].map((m) => m[1])]) {
        const samples = text.split("\n").filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
        assert.equal(samples.length, 1, `${name}: one sample`);
    }
    const [cache] = text.match(/^vllm:cache_config_info\{.*\}/m);
    assert.match(cache, /block_size="\d+"/);
    assert.match(cache, /num_gpu_blocks="\d+"/);
    server.child.kill("SIGTERM");
    await server.ended;
});

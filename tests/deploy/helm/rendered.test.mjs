// What the chart renders: objects that Kubernetes takes, whose parts agree with each other and with the program.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { describe, test } from "node:test";
import { folder, helm, knownOptions, options, pickerConfig, render, root, skip } from "./chart.mjs";
import { rows } from "./rows.mjs";
import { faults } from "./schemas.mjs";

const within = (selector, labels) => Object.entries(selector).every(([name, value]) => labels[name] === value);
const container = (release, name = release.name) => release.one("Deployment", name).spec.template.spec.containers[0];
const podLabels = (release, name = release.name) => release.one("Deployment", name).spec.template.metadata.labels;
const portOf = (c, name) => c.ports.find((p) => p.name === name)?.containerPort;

// The selectors that mean the pods of Fathom, and of nothing else.
function selectors(release) {
    const of = {
        Deployment: (o) => o.spec.selector.matchLabels,
        Service: (o) => o.spec.selector,
        PodDisruptionBudget: (o) => o.spec.selector.matchLabels,
        PodMonitor: (o) => o.spec.selector.matchLabels,
        NetworkPolicy: (o) => o.spec.podSelector.matchLabels,
        InferencePool: (o) => o.spec.selector.matchLabels,
    };
    const found = release.objects.filter((o) => of[o.kind] && o.metadata.name === release.name).map((o) => [o.kind, of[o.kind](o)]);
    const spread = release.one("Deployment").spec.template.spec.topologySpreadConstraints ?? [];
    return [...found, ...spread.map((s) => ["spread", s.labelSelector.matchLabels])];
}

const checks = {
    "every object is one that Kubernetes takes": (release) => {
        for (const o of release.objects) assert.deepEqual(faults(o), [], `${o.kind} ${o.metadata.name}`);
    },
    "every argument is an option of serve": (release) => {
        const known = knownOptions();
        assert.deepEqual(Object.keys(options(container(release))).filter((name) => !known.has(name)), []);
    },
    "the grace period covers lame duck and drain": (release) => {
        const given = options(container(release)), grace = release.one("Deployment").spec.template.spec.terminationGracePeriodSeconds;
        assert.ok(grace >= Number(given["lame-duck-seconds"]) + Number(given["drain-seconds"]) + 5, `grace ${grace}`);
    },
    "ports are the same wherever they stand": (release) => {
        const c = container(release), given = options(c);
        assert.equal(String(portOf(c, "http")), given.port);
        assert.equal(String(portOf(c, "admin")), given["admin-port"]);
        assert.equal(given["kv-events-endpoint"], portOf(c, "kv-events") && `tcp://*:${portOf(c, "kv-events")}`);
        for (const probe of ["startupProbe", "readinessProbe", "livenessProbe"]) assert.ok(portOf(c, c[probe].httpGet.port), probe);
        for (const p of release.one("Service").spec.ports) assert.ok(portOf(c, p.targetPort));
        const scraped = release.one("Deployment").spec.template.metadata.annotations?.["prometheus.io/port"];
        if (scraped) assert.equal(scraped, given["admin-port"]);
        for (const e of release.one("PodMonitor")?.spec.podMetricsEndpoints ?? []) assert.equal(String(portOf(c, e.port)), given["admin-port"]);
        for (const rule of release.one("NetworkPolicy")?.spec.ingress ?? []) for (const p of rule.ports) assert.ok(portOf(c, p.port));
        for (const p of release.one("InferencePool")?.spec.targetPorts ?? []) assert.equal(String(p.number), given.port);
    },
    "only routers may read the events of the cache": (release) => {
        const rules = (release.one("NetworkPolicy")?.spec.ingress ?? []).filter((r) => r.ports.some((p) => p.port === "kv-events"));
        for (const rule of rules) {
            assert.equal(rule.ports.length, 1);
            assert.ok(rule.from.length > 0);
        }
        for (const p of release.one("Service").spec.ports) assert.notEqual(p.targetPort, "kv-events");
    },
    "pods are counted once: by a PodMonitor or by annotations": (release) => {
        const scraped = release.one("Deployment").spec.template.metadata.annotations?.["prometheus.io/scrape"];
        assert.ok(!(scraped && release.one("PodMonitor")));
    },
    "a PodMonitor's job is the one that the alerts go by": (release) => {
        const monitor = release.one("PodMonitor");
        if (!monitor) return;
        const job = podLabels(release)[monitor.spec.jobLabel];
        assert.ok(readFileSync(path.join(root, "deploy/prometheus/rules.yaml"), "utf8").includes(`job="${job}"`), job);
    },
    "every selector finds the pods, and no others": (release) => {
        const picker = release.one("Deployment", `${release.name}-picker`);
        for (const [what, selector] of selectors(release)) {
            assert.ok(Object.keys(selector).length > 0 && within(selector, podLabels(release)), what);
            if (picker) assert.ok(!within(selector, picker.spec.template.metadata.labels), `${what} finds the picker`);
        }
        const other = render({}, { name: "other-fathom" });
        for (const [what, selector] of selectors(release)) assert.ok(!within(selector, podLabels(other, "other-fathom")), `${what} finds another release`);
    },
    "volumes are there, and paths lie in them": (release) => {
        const pod = release.one("Deployment").spec.template.spec, c = container(release), given = options(c);
        const mounts = c.volumeMounts ?? [], volumes = pod.volumes ?? [];
        assert.deepEqual(mounts.map((m) => m.name).sort(), volumes.map((v) => v.name).sort());
        for (const m of mounts) assert.equal(m.readOnly, true);
        const model = mounts.find((m) => m.name === "model"), keys = mounts.find((m) => m.name === "keys");
        assert.equal(Boolean(model), given.model.startsWith("/"));
        if (model) assert.ok(`${given.model}/`.startsWith(`${model.mountPath}/`));
        assert.equal(Boolean(keys), Boolean(given["api-key-file"]));
        if (keys) {
            const secret = volumes.find((v) => v.name === "keys").secret;
            assert.equal(given["api-key-file"], `${keys.mountPath}/${secret.items[0].path}`);
            assert.equal(secret.defaultMode, 0o440);
            assert.equal(pod.securityContext.fsGroup, pod.securityContext.runAsGroup);
        }
    },
    "nothing in a pod is writable, and it has no rights": (release) => {
        const pod = release.one("Deployment").spec.template.spec, c = container(release);
        assert.equal(pod.securityContext.runAsNonRoot, true);
        assert.equal(pod.automountServiceAccountToken, false);
        assert.equal(pod.enableServiceLinks, false);
        assert.deepEqual(c.securityContext, { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: ["ALL"] } });
    },
    "a GPU is asked for where the device is one, and its rollout needs no second": (release) => {
        const c = container(release), roll = release.one("Deployment").spec.strategy.rollingUpdate;
        const gpus = Object.entries(c.resources.limits ?? {}).filter(([name]) => name.startsWith("nvidia.com/"));
        const device = options(c).device;
        assert.deepEqual(gpus.map(([, n]) => n), device === "cuda" ? [1] : []);
        if (device === "cuda") assert.deepEqual(roll, { maxSurge: 0, maxUnavailable: 1 });
        else assert.equal(roll.maxUnavailable, 0);
    },
    "an autoscaler owns the number of pods, and is slower than a drain": (release) => {
        const hpa = release.one("HorizontalPodAutoscaler"), keda = release.one("ScaledObject"), scaler = hpa ?? keda;
        assert.ok(!(hpa && keda));
        assert.equal(release.one("Deployment").spec.replicas === undefined, Boolean(scaler));
        if (!scaler) return;
        assert.equal(scaler.spec.scaleTargetRef.name, release.name);
        const { scaleDown } = (hpa ? hpa.spec : keda.spec.advanced.horizontalPodAutoscalerConfig).behavior, given = options(container(release));
        assert.deepEqual(scaleDown.policies, [{ type: "Pods", value: 1, periodSeconds: 120 }]);
        assert.ok(scaleDown.stabilizationWindowSeconds >= Math.min(3600, Number(given["lame-duck-seconds"]) + Number(given["drain-seconds"])));
        assert.ok(scaleDown.stabilizationWindowSeconds <= 3600);
    },
    "KEDA asks for the load of this release's pods only": (release) => {
        const query = release.one("ScaledObject")?.spec.triggers[0].metadata.query;
        if (!query) return;
        assert.deepEqual([...query.matchAll(/sum\((\S+?)\{/g)].map((m) => m[1]), ["vllm:num_requests_waiting", "vllm:num_requests_running"]);
        for (const [, namespace, pods] of query.matchAll(/\{namespace="([^"]*)",pod=~"([^"]*)"\}/g)) {
            assert.equal(namespace, release.namespace);
            const whole = new RegExp(`^(?:${pods})$`);
            assert.match(`${release.name}-6d4b75cb6d-hwv7c`, whole);
            assert.doesNotMatch(`${release.name}-big-6d4b75cb6d-hwv7c`, whole);
        }
    },
    "a gateway's route leads to the pool, and the pool to a picker": (release) => {
        const route = release.one("HTTPRoute"), pool = release.one("InferencePool");
        assert.equal(Boolean(route), Boolean(pool));
        if (!pool) return;
        const [rule] = route.spec.rules, ref = pool.spec.endpointPickerRef;
        assert.equal(rule.backendRefs[0].name, pool.metadata.name);
        assert.equal(rule.timeouts.request, "0s");
        assert.deepEqual(rule.matches.map((m) => m.path.value), ["/v1"]);
        const own = release.one("Deployment", `${release.name}-picker`);
        if (!own) return;
        const c = own.spec.template.spec.containers[0], service = release.one("Service", ref.name);
        assert.ok(within(service.spec.selector, own.spec.template.metadata.labels));
        assert.equal(service.spec.ports[0].port, ref.port.number);
        assert.equal(portOf(c, service.spec.ports[0].targetPort), Number(options(c)["grpc-port"]));
        assert.equal(options(c)["pool-name"], pool.metadata.name);
        assert.equal(options(c)["pool-namespace"], release.namespace);
        assert.ok(own.spec.template.spec.terminationGracePeriodSeconds >= release.one("Deployment").spec.template.spec.terminationGracePeriodSeconds);
        const [role, binding] = [release.all("Role")[0], release.all("RoleBinding")[0]];
        assert.equal(binding.roleRef.name, role.metadata.name);
        assert.equal(binding.subjects[0].name, own.spec.template.spec.serviceAccountName);
        assert.equal(binding.subjects[0].namespace, release.namespace);
    },
    "the picker's configuration is one, and names what it has": (release) => {
        if (!release.one("ConfigMap", `${release.name}-picker`)) return;
        const config = pickerConfig(release), c = container(release, `${release.name}-picker`);
        assert.deepEqual(faults(config), []);
        const declared = config.plugins.map((p) => p.name ?? p.type);
        const used = [...config.requestHandler.parsers, ...config.schedulingProfiles[0].plugins].map((p) => p.pluginRef);
        assert.deepEqual(used.filter((name) => !declared.includes(name)), []);
        const extractor = config.plugins.find((p) => p.type === "core-metrics-extractor").parameters, [engine] = extractor.engineConfigs;
        assert.equal(engine.name, podLabels(release)["llm-d.ai/engine-type"]);
        assert.equal(extractor.defaultEngine, engine.name);
        assert.equal(engine.loraSpec, undefined);
        // llm-d-router 0.10 refuses a plug-in that it calls experimental, unless it is told to take them.
        const scorer = config.plugins.find((p) => p.type === "endpoint-attribute-scorer");
        assert.equal(Boolean(options(c)["allow-experimental-plugins"]), Boolean(scorer));
        if (scorer) assert.deepEqual(engine.customMetrics.map((m) => m.attributeKey), [scorer.parameters.attributeKey]);
        assert.equal(options(c)["config-file"], `${c.volumeMounts[0].mountPath}/picker.yaml`);
    },
    "a closed network lets the picker in": (release) => {
        const policy = release.one("NetworkPolicy");
        if (!policy) return;
        assert.deepEqual(policy.spec.egress, []);
        assert.deepEqual(policy.spec.policyTypes, ["Ingress", "Egress"]);
        const [requests, metrics] = policy.spec.ingress;
        assert.ok(metrics.from.length > 0);
        if (!release.one("Deployment", `${release.name}-picker`)) return;
        const labels = podLabels(release, `${release.name}-picker`);
        assert.ok(!requests.from || requests.from.some((peer) => peer.podSelector && within(peer.podSelector.matchLabels ?? {}, labels)));
    },
};

for (const [what, values] of Object.entries(rows)) {
    describe(what, { skip }, () => {
        test("Helm finds nothing to complain about", () => {
            const done = helm(["lint", "--strict", folder, "-f", "-"], values);
            assert.equal(done.status, 0, done.out + done.err);
        });
        const release = skip || render(values);
        for (const [name, check] of Object.entries(checks)) test(name, () => check(release));
    });
}

test("values reach the arguments as they are", { skip }, () => {
    const args = (values) => container(render(values)).args;
    assert.deepEqual(args(rows["options of every kind"]).slice(-8), [
        "--allowed-host=a.example.org", "--allowed-host=b.example.org", "--exit-threshold=0.25", "--halted-kv=last", "--kv-memory=2G",
        "--max-queue-tokens=1048576", "--max-running=64", "--share-cache",
    ]);
    assert.ok(args(rows["a claim that is the model"]).includes('--served-name=hops: the "second"'));
    assert.ok(args(rows["a claim"]).includes("--model=/models/org/model"));
    assert.ok(args(rows["an image with the model"]).includes("--model=/models"));
    assert.ok(args(rows["examples/gateway.yaml"]).includes("--max-queue=512"));
});

test("a release of another name says so in every name", { skip }, () => {
    const release = render(rows["everything at once"], { name: "blue" });
    for (const o of release.objects) assert.match(o.metadata.name, /^blue-fathom(-picker)?$/, o.kind);
});

test("a field that its kind does not have is found", { skip }, () => {
    const { objects } = render(rows["everything at once"]), spoil = (kind, change) => {
        const o = structuredClone(objects.find((x) => x.kind === kind));
        change(o);
        return faults(o).join();
    };
    assert.match(spoil("Deployment", (o) => { o.spec.template.spec.containers[0].arguments = []; }), /containers\/0\/arguments is no field/);
    assert.match(spoil("Deployment", (o) => { o.spec.template.spec.terminationGracePeriodSeconds = "60s"; }), /terminationGracePeriodSeconds must be/);
    assert.match(spoil("NetworkPolicy", (o) => { o.spec.policyType = []; }), /\/spec\/policyType is no field/);
    assert.match(spoil("PodMonitor", (o) => { o.spec.podMetricsEndpoints[0].intervall = "1s"; }), /intervall is no field/);
    assert.match(spoil("ScaledObject", (o) => { o.spec.minReplicas = 1; }), /\/spec\/minReplicas is no field/);
    assert.match(spoil("HTTPRoute", (o) => { o.spec.rules[0].timeout = {}; }), /timeout is no field/);
    assert.match(spoil("InferencePool", (o) => { o.spec.targetPort = 1; }), /additional properties: targetPort/);
    assert.match(spoil("InferencePool", (o) => { o.spec.endpointPickerRef.port.number = 0; }), /port\/number must be >= 1/);
});

// Values that have to render: each part of the chart by itself, and all of it at once.
import { readFileSync, readdirSync } from "node:fs";
import path from "node:path";
import { parse } from "yaml";
import { root } from "./chart.mjs";

const examples = path.join(root, "deploy/helm/examples");
const gateway = { enabled: true };

export const rows = {
    "the defaults": {},
    ...Object.fromEntries(readdirSync(examples).map((f) => [`examples/${f}`, parse(readFileSync(path.join(examples, f), "utf8"))])),
    "one pod without a budget": { replicas: 1, disruptionBudget: { enabled: false } },
    "a GPU, with limits and tolerations of one's own": {
        device: "gpu", resources: { limits: { memory: "64Gi" } }, tolerations: [{ key: "team", operator: "Equal", value: "models" }],
        gpu: { resource: "nvidia.com/mig-3g.40gb" }, runtimeClassName: "nvidia", nodeSelector: { "nvidia.com/gpu.product": "H100" },
    },
    "HPA": { autoscaling: { kind: "hpa" } },
    "KEDA": { autoscaling: { kind: "keda", minReplicas: 1, maxReplicas: 1 } },
    "HPA with a drain longer than it can wait": { autoscaling: { kind: "hpa" }, drain: { lameDuckSeconds: 30, seconds: 7200 } },
    "a drain of ten minutes": { autoscaling: { kind: "keda" }, drain: { seconds: 600 } },
    "no drain at all": { drain: { lameDuckSeconds: 0, seconds: 0 } },
    "a PodMonitor": { monitoring: { podMonitor: { enabled: true, labels: { release: "prometheus" } } } },
    "a closed network": {
        networkPolicy: { enabled: true, clients: [{ podSelector: { matchLabels: { app: "web" } } }], monitoring: [{ namespaceSelector: { matchLabels: { name: "monitoring" } } }] },
    },
    "a closed network behind a gateway": { gateway, networkPolicy: { enabled: true, clients: [{ podSelector: {} }] } },
    "events of the cache": { kvEvents: { enabled: true } },
    "events of the cache in a closed network": {
        gateway, networkPolicy: { enabled: true }, apiKeys: { secret: "k" }, options: { "share-cache": true },
        kvEvents: { enabled: true, port: 6000, subscribers: [{ podSelector: { matchLabels: { app: "router" } } }] },
    },
    "keys": { apiKeys: { secret: "fathom-keys", key: "file" } },
    "a claim": { model: { path: "org/model", volume: { claim: "models" } } },
    "a claim that is the model": { model: { path: "", servedName: "hops: the \"second\"", volume: { claim: "model" } } },
    "an image with the model": { model: { path: "", volume: { image: "registry.example/models/hops:1" } } },
    "a folder of the node, and keys": { apiKeys: { secret: "k" }, model: { path: "hops", volume: { hostPath: "/srv/models, old", mountPath: "/m" } } },
    "options of every kind": {
        options: {
            "max-running": 64, "max-queue-tokens": 1048576, "exit-threshold": 0.25, "share-cache": true, "no-prefix-cache": false,
            "halted-kv": "last", "allowed-host": ["a.example.org", "b.example.org"], "kv-memory": "2G",
        },
    },
    "a gateway with names and a picker elsewhere": {
        gateway: { enabled: true, hostnames: ["llm.example.org"], failureMode: "FailClose", picker: { create: false, service: "picker", port: 9999 } },
    },
    "a picker that does not look at depth": { gateway: { enabled: true, picker: { weights: { loops: 0 }, flags: { "secure-serving": false, v: 2 } } } },
    "pods of all nodes and zones, labelled": {
        spread: { nodes: "DoNotSchedule", zones: "" }, podLabels: { team: "models" }, podAnnotations: { note: "yes" }, priorityClassName: "high",
        affinity: { nodeAffinity: {} }, rollingUpdate: { maxSurge: "50%", maxUnavailable: 0 }, image: { pullSecrets: ["registry"], tag: "1" },
        service: { type: "LoadBalancer", port: 8080, annotations: { a: "b" } },
    },
    "no spread": { spread: { nodes: "", zones: "" }, monitoring: { annotations: false } },
    "everything at once": {
        device: "gpu", gateway, apiKeys: { secret: "k" }, autoscaling: { kind: "keda" }, networkPolicy: { enabled: true },
        monitoring: { podMonitor: { enabled: true } }, model: { path: "m", volume: { claim: "c" } },
    },
};

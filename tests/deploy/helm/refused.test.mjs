// Values that would not work are refused before anything is installed, with a sentence that tells what to do.
import assert from "node:assert/strict";
import { test } from "node:test";
import { folder, helm, skip } from "./chart.mjs";

const gateway = { enabled: true };
const rows = [
    [{ replica: 3 }, "additional properties 'replica' not allowed"],
    [{ replicas: "three" }, "at '/replicas': got string, want integer"],
    [{ replicas: -1 }, "at '/replicas': minimum: got -1, want 0"],
    [{ device: "cuda" }, "at '/device': value must be one of 'cpu', 'gpu'"],
    [{ image: { pullPolicy: "always" } }, "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"],
    [{ model: { name: "hops" } }, "at '/model': additional properties 'name' not allowed"],
    [{ model: { path: "../etc" } }, "at '/model/path': '../etc' does not match pattern"],
    [{ model: { path: "/models/hops" } }, "at '/model/path': '/models/hops' does not match pattern"],
    [{ model: { volume: { hostPath: "models" } } }, "at '/model/volume/hostPath': 'models' does not match pattern"],
    [{ model: { volume: { claim: "Models" } } }, "at '/model/volume/claim': 'Models' does not match pattern"],
    [{ model: { volume: { claim: "a", hostPath: "/b" } } }, "model.volume: claim, image and hostPath exclude each other"],
    [{ model: { path: "" } }, "model.path is empty, and there is no model.volume"],
    [{ options: { "--max-running": 3 } }, "'--max-running' does not match pattern"],
    [{ options: { "max-running": { n: 3 } } }, "at '/options/max-running': got object, want"],
    [{ options: { port: 9000 } }, "options.port: the chart sets --port itself, from service"],
    [{ options: { "drain-seconds": 3 } }, "options.drain-seconds: the chart sets --drain-seconds itself, from drain.seconds"],
    [{ options: { "api-key-file": "/k" } }, "options.api-key-file: the chart sets --api-key-file itself, from apiKeys"],
    [{ apiKeys: { secret: "My Keys" } }, "at '/apiKeys/secret': 'My Keys' does not match pattern"],
    [{ apiKeys: { keys: ["sk-1"] } }, "at '/apiKeys': additional properties 'keys' not allowed"],
    [{ drain: { seconds: 1.5 } }, "at '/drain/seconds': got number, want integer"],
    [{ drain: { lameDuckSeconds: -1 } }, "at '/drain/lameDuckSeconds': minimum: got -1, want 0"],
    [{ drain: { marginSeconds: 0 } }, "at '/drain/marginSeconds': minimum: got 0, want 5"],
    [{ resources: { memory: "4Gi" } }, "at '/resources': additional properties 'memory' not allowed"],
    [{ spread: { nodes: "always" } }, "at '/spread/nodes': value must be one of 'ScheduleAnyway', 'DoNotSchedule', ''"],
    [{ service: { port: 0 } }, "at '/service/port': minimum: got 0, want 1"],
    [{ service: { type: "Ingress" } }, "at '/service/type': value must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'"],
    [{ autoscaling: { kind: "vpa" } }, "at '/autoscaling/kind': value must be one of 'none', 'hpa', 'keda'"],
    [{ autoscaling: { minReplicas: 0 } }, "at '/autoscaling/minReplicas': minimum: got 0, want 1"],
    [{ autoscaling: { minReplicas: 5, maxReplicas: 4 } }, "autoscaling.minReplicas is larger than autoscaling.maxReplicas"],
    [{ autoscaling: { prometheus: "prometheus:9090" } }, "at '/autoscaling/prometheus': 'prometheus:9090' does not match pattern"],
    [{ autoscaling: { scaleDownSeconds: 3600 } }, "at '/autoscaling/scaleDownSeconds': maximum: got 3,600, want 1,800"],
    [{ monitoring: { podMonitor: { interval: "often" } } }, "at '/monitoring/podMonitor/interval': 'often' does not match pattern"],
    [{ networkPolicy: { clients: ["10.0.0.0/8"] } }, "at '/networkPolicy/clients/0': got string, want object"],
    [{ kvEvents: { port: 80 } }, "at '/kvEvents/port': minimum: got 80, want 1,024"],
    [{ kvEvents: { enabled: true, port: 8081 } }, "kvEvents.port: 8080 and 8081 are the ports of requests and of monitoring"],
    [{ kvEvents: { enabled: true }, apiKeys: { secret: "k" } }, "kvEvents.enabled: with apiKeys no key may use the cache of another"],
    [{ options: { "kv-events-endpoint": "tcp://*:1" } }, "options.kv-events-endpoint: the chart sets --kv-events-endpoint itself, from kvEvents"],
    [{ gateway: { parentRefs: [] } }, "at '/gateway/parentRefs': minItems: got 0, want 1"],
    [{ gateway: { parentRefs: [{ namespace: "a" }] } }, "at '/gateway/parentRefs/0': missing property 'name'"],
    [{ gateway: { failureMode: "Open" } }, "at '/gateway/failureMode': value must be one of 'FailOpen', 'FailClose'"],
    [{ gateway: { picker: { weights: { depth: 1 } } } }, "at '/gateway/picker/weights': additional properties 'depth' not allowed"],
    [{ gateway, options: { "metrics-key": true } }, "options.metrics-key: the endpoint picker asks for metrics without a key"],
    [{ gateway, options: { "max-queue": 9 } }, "options.max-queue: with gateway.enabled it is gateway.maxQueue"],
    [{ gateway: { enabled: true, picker: { create: false } } }, "gateway.picker.service names the picker's Service when gateway.picker.create is false"],
];

for (const [values, says] of rows) {
    test(`${JSON.stringify(values)} is refused: ${says}`, { skip }, () => {
        const done = helm(["template", "fathom", folder, "-f", "-"], values);
        assert.equal(done.status, 1);
        assert.ok(done.err.includes(says), done.err);
        assert.equal(done.out.trim(), "");
    });
}

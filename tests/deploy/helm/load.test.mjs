// What the autoscalers go by, computed by Prometheus itself: KEDA's query, and the rule for an adapter that docs/operations.md prints.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { parse, stringify } from "yaml";
import { render, root, skip } from "./chart.mjs";

const dir = mkdtempSync(path.join(tmpdir(), "fathom-load-"));
after(() => rmSync(dir, { recursive: true, force: true }));
const noPromtool = skip || (spawnSync("promtool", ["--version"]).error ? "needs promtool (Debian: prometheus)" : false);

// Sequences that run and wait: two pods of this release, and three that have nothing to do with it.
const pods = [
    ["models", "fathom-6d4b75cb6d-hwv7c", 60, 0],
    ["models", "fathom-6d4b75cb6d-x2x9k", 256, 40],
    ["models", "fathom-big-7f9c5d-aaaaa", 1000, 1000],
    ["models", "blue-fathom-7f9c5d-bbbbb", 1000, 1000],
    ["other", "fathom-6d4b75cb6d-hwv7c", 1000, 1000],
];
const series = pods.flatMap(([namespace, pod, running, waiting]) => [
    { series: `vllm:num_requests_running{namespace="${namespace}",pod="${pod}",model_name="demo"}`, values: `${running}` },
    { series: `vllm:num_requests_waiting{namespace="${namespace}",pod="${pod}",model_name="demo"}`, values: `${waiting}` },
]);

function computes(expr, samples) {
    const file = path.join(dir, "test.yaml");
    writeFileSync(file, stringify({ tests: [{ interval: "1m", input_series: series, promql_expr_test: [{ expr, eval_time: "0m", exp_samples: samples }] }] }));
    const done = spawnSync("promtool", ["test", "rules", file], { encoding: "utf8" });
    assert.equal(done.status, 0, done.stdout + done.stderr);
}

test("KEDA's query is the load of all pods of the release, running and waiting", { skip: noPromtool }, () => {
    const keda = render({ autoscaling: { kind: "keda" } }).one("ScaledObject");
    computes(keda.spec.triggers[0].metadata.query, [{ labels: "{}", value: 60 + 256 + 40 }]);
});

test("the adapter's rule is the load of each pod, under the name that the HPA asks for", { skip: noPromtool }, () => {
    const page = readFileSync(path.join(root, "docs/operations.md"), "utf8");
    const [rule] = parse(/```yaml\n(rules:\n[\s\S]*?)```/.exec(page)[1]).rules;
    const [metric] = render({ autoscaling: { kind: "hpa" } }).one("HorizontalPodAutoscaler").spec.metrics;
    assert.equal(rule.name.as, metric.pods.metric.name);
    // The adapter fills in the pods that it is asked about.
    const query = rule.metricsQuery.replaceAll("<<.GroupBy>>", "pod").replaceAll("<<.LabelMatchers>>", 'namespace="models",pod=~"fathom-6d4b75cb6d-hwv7c|fathom-6d4b75cb6d-x2x9k"');
    computes(query, [{ labels: '{pod="fathom-6d4b75cb6d-hwv7c"}', value: 60 }, { labels: '{pod="fathom-6d4b75cb6d-x2x9k"}', value: 296 }]);
});

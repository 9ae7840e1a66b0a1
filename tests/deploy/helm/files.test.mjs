// Files that are made from the chart, or have to agree with it.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, test } from "node:test";
import { parse } from "yaml";
import { folder, helm, pickerConfig, render, root, skip } from "./chart.mjs";
import { faults } from "./schemas.mjs";

const dir = mkdtempSync(path.join(tmpdir(), "fathom-chart-"));
after(() => rmSync(dir, { recursive: true, force: true }));
const read = (...names) => readFileSync(path.join(...names), "utf8");
const version = /^VERSION := (\S+)$/m.exec(read(root, "Makefile"))[1];

test("the plain manifests are what the chart renders: else `make manifests`", { skip }, () => {
    execFileSync(path.join(root, "tools/manifests.sh"), [dir]);
    const committed = path.join(root, "deploy/kubernetes");
    assert.deepEqual(readdirSync(dir).sort(), readdirSync(committed).sort());
    for (const name of readdirSync(dir)) assert.equal(read(committed, name), read(dir, name), name);
});

test("the page's configuration of a picker is one, and asks for what the chart's does", { skip }, () => {
    const page = parse(/```yaml\n(apiVersion: llm-d[\s\S]*?)```/.exec(read(root, "docs/operations.md"))[1]);
    assert.deepEqual(faults(page), []);
    const engine = (config) => {
        const { loraSpec, ...rest } = config.plugins.find((p) => p.type === "core-metrics-extractor").parameters.engineConfigs[0];
        assert.ok(!loraSpec);
        return rest;
    };
    assert.deepEqual(engine(page), engine(pickerConfig(render({ gateway: { enabled: true } }))));
});

test("the chart has the version of the program", () => {
    const chart = parse(read(folder, "Chart.yaml"));
    assert.equal(chart.version, version);
    assert.equal(chart.appVersion, version);
});

test("`make chart` packs the chart as Helm reads it, with the same bytes each time", { skip }, () => {
    const pack = () => {
        execFileSync("make", ["--no-print-directory", "-C", root, "chart", `CHART_DIR=${dir}`], { stdio: "pipe", env: { ...process.env, MAKEFLAGS: "" } });
        return readFileSync(path.join(dir, `fathom-${version}.tgz`));
    };
    const packed = pack();
    assert.ok(packed.equals(pack()));
    const file = path.join(dir, `fathom-${version}.tgz`);
    assert.equal(parse(helm(["show", "chart", file]).out).version, version);
    assert.equal(helm(["template", "fathom", file]).out, helm(["template", "fathom", folder]).out);
});

test("every value has a comment, its own or that of the group it stands in", () => {
    const lines = read(folder, "values.yaml").split("\n"), bare = [];
    let explained = -1, comment = false; // the indentation that a comment explains; whether the line before is one
    for (const line of lines) {
        const indent = line.search(/\S/);
        if (indent < 0) { comment = false; explained = -1; continue; }
        if (line.trim().startsWith("#")) { comment = true; continue; }
        if (comment) explained = indent;
        else if (explained < 0 || indent < explained) bare.push(line);
        comment = false;
    }
    assert.deepEqual(bare, []);
});

test("the schema knows every value, and there is no value that it alone knows", () => {
    const schema = JSON.parse(read(folder, "values.schema.json")), values = parse(read(folder, "values.yaml"));
    const differ = (known, given, place) => {
        if (!known?.properties || typeof given !== "object") return [];
        const names = new Set([...Object.keys(known.properties), ...Object.keys(given)]);
        return [...names].filter((n) => n !== "global" && !["/resources", "/gateway/picker/resources"].includes(place)).flatMap((n) =>
            known.properties[n] && n in given ? differ(known.properties[n], given[n], `${place}/${n}`) : [`${place}/${n}`]);
    };
    assert.deepEqual(differ(schema, values, ""), ["/rollingUpdate/maxSurge", "/rollingUpdate/maxUnavailable"]);
});

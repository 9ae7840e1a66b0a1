// Draws the dashboard's panels from a running Prometheus, without Grafana:
//   node deploy/grafana/preview.mjs http://127.0.0.1:9090 preview.svg [SECONDS=300]
// No dependencies. For looking at the data; Grafana draws it better.
import { readFileSync, writeFileSync } from "node:fs";

const [url, out, seconds = "300"] = process.argv.slice(2);
if (!url || !out) {
    console.error("usage: node preview.mjs PROMETHEUS_URL OUT.svg [SECONDS]");
    process.exit(2);
}
const dashboard = JSON.parse(readFileSync(new URL("dashboards/fathom.json", import.meta.url), "utf8"));
const end = Date.now() / 1000;
const start = end - Number(seconds);
const step = Math.max(1, Math.round(Number(seconds) / 200));
const CELL = 46; // pixels of a grid unit across, of 24
const LINE = 27; // and down

async function ask(expr) {
    const query = expr.replaceAll("$instance", ".*").replaceAll("$__rate_interval", "20s");
    const answer = await fetch(`${url}/api/v1/query_range?${new URLSearchParams({ query, start, end, step })}`);
    const body = await answer.json();
    if (body.status !== "success") throw new Error(`${expr}: ${body.error}`);
    return body.data.result.map((s) => ({
        labels: s.metric,
        at: new Map(s.values.map(([t, v]) => [Math.round((t - start) / step), Number(v)])),
    }));
}

const escape = (s) => String(s).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
function figure(v, unit) {
    if (!Number.isFinite(v)) return "–";
    if (unit === "percentunit") return `${(100 * v).toFixed(1)} %`;
    if (unit === "s") return v < 1 ? `${(1000 * v).toFixed(v < 0.01 ? 1 : 0)} ms` : `${v.toFixed(2)} s`;
    const scale = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([n]) => Math.abs(v) >= n);
    const text = scale ? `${(v / scale[0]).toFixed(1)}${scale[1]}` : v.toFixed(v < 10 ? 2 : 0);
    return unit === "bytes" ? `${text}B` : text;
}

// From shallow to deep water, as on the page, for series that count loops; others by hue.
const colour = (i, n, deep) => (deep ? `hsl(203 62% ${84 - (62 * i) / Math.max(1, n - 1)}%)` : `hsl(${(205 + i * 67) % 360} 55% 45%)`);

function draw(panel, series, x, y, w, h) {
    const unit = panel.fieldConfig.defaults.unit;
    const parts = [
        `<rect x="${x}" y="${y}" width="${w - 8}" height="${h - 8}" rx="6" fill="#fff" stroke="#d9e1e3"/>`,
        `<text x="${x + 10}" y="${y + 18}" font-weight="600">${escape(panel.title)}</text>`,
    ];
    const steps = Math.round((end - start) / step);
    if (panel.type !== "timeseries") {
        const last = series[0] ? [...series[0].at.values()].findLast(Number.isFinite) : NaN;
        parts.push(`<text x="${x + 10}" y="${y + h / 2 + 16}" class="b">${figure(last ?? NaN, unit)}</text>`);
        return parts.join("");
    }
    const stacked = panel.fieldConfig.defaults.custom.stacking.mode === "normal";
    const deep = /depth|loop/i.test(panel.title) && series.length > 3;
    if (deep) series.sort((a, b) => Number(a.labels.depth ?? a.labels.loop) - Number(b.labels.depth ?? b.labels.loop));
    const shown = series.filter((s) => !deep || [...s.at.values()].some((v) => v > 0));
    const [left, right, top, bottom] = [x + 46, x + w - 18, y + 28, y + h - 30];
    const sums = new Float64Array(steps + 1);
    const curves = shown.map((s) =>
        Array.from({ length: steps + 1 }, (_, i) => {
            const v = s.at.get(i);
            if (!Number.isFinite(v)) return stacked ? [sums[i], sums[i]] : null;
            const base = stacked ? sums[i] : 0;
            sums[i] += stacked ? v : 0;
            return [base, base + v];
        }));
    const most = Math.max(1e-12, ...curves.flat().map((p) => (p ? p[1] : 0)));
    const px = (i) => (left + ((right - left) * i) / steps).toFixed(1);
    const py = (v) => (bottom - ((bottom - top) * v) / most).toFixed(1);
    for (const part of [0, 0.5, 1]) {
        parts.push(`<path d="M${left} ${py(part * most)}H${right}" stroke="#e6ecee"/><text x="${left - 5}" y="${Number(py(part * most)) + 4}" text-anchor="end" class="s">${figure(part * most, unit)}</text>`);
    }
    curves.forEach((c, k) => {
        const ink = colour(k, shown.length, deep);
        const points = c.flatMap((p, i) => (p ? [[i, p]] : []));
        if (points.length === 0) return;
        const over = points.map(([i, p]) => `${px(i)} ${py(p[1])}`).join("L");
        const under = points.map(([i, p]) => `${px(i)} ${py(p[0])}`).reverse().join("L");
        parts.push(stacked ? `<path d="M${over}L${under}Z" fill="${ink}" fill-opacity=".85"/>` : `<path d="M${over}" fill="none" stroke="${ink}" stroke-width="1.5"/>`);
    });
    const room = Math.max(4, Math.floor((w - 20) / 62));
    const each = (w - 24) / Math.min(room, shown.length);
    shown.slice(0, room).forEach((s, k) => {
        const at = x + 12 + k * each;
        parts.push(`<rect x="${at}" y="${y + h - 23}" width="9" height="9" rx="2" fill="${colour(k, shown.length, deep)}"/><text x="${at + 12}" y="${y + h - 15}" class="s">${escape(s.name.slice(0, Math.floor((each - 14) / 5.5)))}</text>`);
    });
    if (shown.length === 0) parts.push(`<text x="${x + w / 2}" y="${y + h / 2}" text-anchor="middle" class="s">no data yet</text>`);
    return parts.join("");
}

const parts = [];
let height = 0;
for (const panel of dashboard.panels) {
    const series = [];
    for (const target of panel.targets) {
        for (const s of await ask(target.expr)) {
            s.name = target.legendFormat.replace(/\{\{(\w+)\}\}/g, (_, label) => s.labels[label] ?? "") || "value";
            series.push(s);
        }
    }
    const { x, y, w, h } = panel.gridPos;
    height = Math.max(height, (y + h) * LINE);
    parts.push(draw(panel, series, 8 + x * CELL, 8 + y * LINE, w * CELL, h * LINE));
}
writeFileSync(out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${24 * CELL + 8} ${height + 8}" width="${24 * CELL + 8}" height="${height + 8}"><style>text{font:13px sans-serif;fill:#14262f}.b{font:600 26px sans-serif;fill:#0f5a86}.s{font-size:10.5px;fill:#50646e}</style><rect width="100%" height="100%" fill="#f4f6f6"/>${parts.join("\n")}</svg>\n`);

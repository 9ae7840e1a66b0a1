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
    if (unit === "percentunit") return `${Number((100 * v).toPrecision(3))} %`;
    if (v === 0) return "0";
    if (unit === "s") return v < 1 ? `${(1000 * v).toFixed(v < 0.01 ? 1 : 0)} ms` : `${v.toFixed(2)} s`;
    const scale = [[1e9, "G"], [1e6, "M"], [1e3, "k"]].find(([n]) => Math.abs(v) >= n);
    const text = scale ? `${Number((v / scale[0]).toPrecision(3))} ${scale[1]}` : String(Number(v.toPrecision(v < 10 ? 2 : 3)));
    return unit === "bytes" ? `${text}${scale ? "" : " "}B` : text;
}

// The top of an axis: a round number that holds the values.
function axisTop(most) {
    if (!(most > 0)) return 1;
    const power = 10 ** Math.floor(Math.log10(most));
    return power * [1, 1.5, 2, 3, 4, 6, 8, 10].find((n) => n * power >= most * 0.999);
}
// Seconds between two marks of the time axis, for about five of them.
const timeStep = [10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 86400].find((s) => Number(seconds) / s <= 6) ?? 86400;
const clock = (at) => new Date(at * 1000).toISOString().slice(11, timeStep < 60 ? 19 : 16);

// From shallow to deep water, as on the page, for series that count loops; others by hue.
const HUES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666", "#7f4f9f"]; // told apart by the colour-blind, too
const colour = (i, n, deep) => (deep ? `hsl(${175 + (65 * i) / Math.max(1, n - 1)} 55% ${82 - (62 * i) / Math.max(1, n - 1)}%)` : HUES[i % HUES.length]);

// Names of series below a panel, in as many lines as they need: where each begins.
function legend(names, width) {
    const places = [];
    let [at, line] = [0, 0];
    for (const name of names) {
        const wide = 26 + name.length * 5.6;
        if (at > 0 && at + wide > width) [at, line] = [0, line + 1];
        places.push([at, line]);
        at += wide;
    }
    return { places, lines: names.length ? line + 1 : 0 };
}

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
    const keys = legend(shown.map((s) => s.name), w - 24);
    const [left, right, top, bottom] = [x + 50, x + w - 18, y + 30, y + h - 34 - 14 * Math.max(1, keys.lines)];
    const sums = new Float64Array(steps + 1);
    const curves = shown.map((s) =>
        Array.from({ length: steps + 1 }, (_, i) => {
            const v = s.at.get(i);
            if (!Number.isFinite(v)) return stacked ? [sums[i], sums[i]] : null;
            const base = stacked ? sums[i] : 0;
            sums[i] += stacked ? v : 0;
            return [base, base + v];
        }));
    const most = axisTop(Math.max(0, ...curves.flat().map((p) => (p ? p[1] : 0))) * (unit === "percentunit" ? 100 : 1)) / (unit === "percentunit" ? 100 : 1);
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
    const every = timeStep * (right - left < 400 ? 2 : 1);
    for (let at = Math.ceil(start / every) * every; at <= end; at += every) {
        const mark = px((at - start) / step);
        parts.push(`<path d="M${mark} ${bottom}v4" stroke="#9fb0b6"/><text x="${mark}" y="${bottom + 15}" text-anchor="middle" class="s">${clock(at)}</text>`);
    }
    shown.forEach((s, k) => {
        const [right, line] = keys.places[k];
        const [at, base] = [x + 12 + right, y + h - 15 - 14 * (keys.lines - 1 - line)];
        parts.push(`<rect x="${at}" y="${base - 8}" width="9" height="9" rx="2" fill="${colour(k, shown.length, deep)}"/><text x="${at + 12}" y="${base}" class="s">${escape(s.name)}</text>`);
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

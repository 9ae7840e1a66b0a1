// The gauges of the server, read from /metrics.
import { metricByDepth, metricSum, parseMetrics, short } from "./core.js";
import { backoff, poller } from "./poll.js";
import { drawBars } from "./view.js";

const $ = (id) => document.getElementById(id);
const IDLE_MS = 2000;
const BUSY_MS = 500;
const KEEP_MS = 120000; // longest time span of the rate line
const SPARK_MS = 20000; // shortest
const LATELY_MS = 60000; // time span of the figures of depth and of drafts

function drawSpark(points, now) {
    const [area, line] = $("spark").children;
    if (points.length < 2) return;
    const top = Math.max(1, ...points.map((p) => p.rate));
    const span = Math.max(SPARK_MS, now - points[0].t);
    const at = (p) => {
        const x = 240 - ((now - p.t) / span) * 240;
        return `${x.toFixed(1)} ${(46 - (p.rate / top) * 42).toFixed(1)}`;
    };
    const path = points.map(at).join(" L");
    line.setAttribute("d", `M${path}`);
    const first = at(points[0]).split(" ")[0];
    area.setAttribute("d", `M${first} 48 L${path} L240 48 Z`);
}

function drawExits(values) {
    const end = values.findLastIndex((v) => v > 0) + 1;
    drawBars($("exits"), values.slice(0, end), {
        height: 44,
        name: (n, depth) => `${short(n)} tokens of depth ${depth}`,
        said: (n, depth) => `${short(n)} at ${depth}`,
        label: "Tokens by depth",
    });
}

/** Shown once something is drafted; "–" if nothing was lately. */
function showDrafts({ drafted, right }, from) {
    const lately = drafted - from.drafted;
    if (drafted > 0) $("drafts-box").hidden = false;
    $("p-drafts").textContent = lately > 0 ? `${Math.round((100 * (right - from.right)) / lately)} %` : "–";
}

/** host: headers(): headers to send; busy(): poll faster; up(ok): whether the server answers. */
export function startPool(host) {
    const history = []; // {t, tokens, rate, exits, drafted, right}
    const later = backoff();
    const state = { running: 0 };

    function show(metrics, now) {
        const tokens = metricSum(metrics, "vllm:generation_tokens_total");
        const exits = metricByDepth(metrics, "fathom_exits_total").slice(1); // depths count from 1
        const drafted = metricSum(metrics, "vllm:spec_decode_num_draft_tokens_total") ?? 0;
        const right = metricSum(metrics, "vllm:spec_decode_num_accepted_tokens_total") ?? 0;
        // A counter that went back means that the server was restarted.
        if (history.length && tokens < history.at(-1).tokens) history.length = 0;
        const before = history.at(-1);
        const rate = before ? ((tokens - before.tokens) * 1000) / (now - before.t) : 0;
        history.push({ t: now, tokens, rate, exits, drafted, right });
        while (history[0].t < now - KEEP_MS) history.shift();

        const from = history.find((h) => h.t >= now - LATELY_MS);
        state.running = metricSum(metrics, "vllm:num_requests_running") ?? NaN;
        $("p-running").textContent = short(state.running);
        $("p-waiting").textContent = short(metricSum(metrics, "vllm:num_requests_waiting") ?? NaN);
        $("p-rate").textContent = short(rate);
        showDrafts(history.at(-1), from);
        drawExits(exits.map((v, i) => v - (from.exits[i] ?? 0)));
        const used = metricSum(metrics, "vllm:kv_cache_usage_perc");
        const percent = used === null ? "–" : `${(used * 100).toFixed(1)} %`;
        $("cache").value = used ?? 0;
        $("cache").textContent = percent;
        $("p-cache").textContent = percent;
        drawSpark(history, now);
    }

    /** Figures of a server that does not tell them any more would be lies. */
    function forget() {
        history.length = 0;
        state.running = 0;
        for (const id of ["p-running", "p-waiting", "p-rate", "p-cache", "p-drafts"]) $(id).textContent = "–";
        $("cache").value = 0;
    }

    function say(note) {
        $("pool-note").textContent = note;
        $("pool-note").hidden = note === "";
    }

    async function look() {
        try {
            const answer = await fetch("metrics", { headers: host.headers(), cache: "no-store" });
            host.up(true);
            later.reset();
            if (answer.ok) {
                show(parseMetrics(await answer.text()), performance.now());
                say("");
                return host.busy() || state.running > 0 ? BUSY_MS : IDLE_MS;
            }
            forget();
            if (answer.status === 401) {
                say("The figures of the server need an API key that may read them.");
                return null;
            }
            say("This server shows no figures.");
            return later.next();
        } catch {
            forget();
            host.up(false);
            say("The server cannot be reached.");
            return later.next();
        }
    }

    drawExits([]);
    const poll = poller(look);
    poll.wake();
    return { wake: poll.wake, running: () => state.running > 0 };
}

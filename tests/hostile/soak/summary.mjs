// What a soak says at its end.
const bars = "▁▂▃▄▅▆▇█";

export function spark(values, width = 60) {
    if (values.length === 0) return "";
    const cells = Array.from({ length: Math.min(width, values.length) }, (_, i) => {
        const part = values.slice(Math.floor((i * values.length) / Math.min(width, values.length)), Math.floor(((i + 1) * values.length) / Math.min(width, values.length)));
        return part.reduce((a, b) => a + b, 0) / part.length;
    });
    const low = Math.min(...cells), high = Math.max(...cells);
    return cells.map((v) => bars[high > low ? Math.round(((v - low) / (high - low)) * 7) : 0]).join("");
}

// Slope of the straight line through [x, y] pairs, by least squares.
export function slopePerMinute(points) {
    if (points.length < 3) return 0;
    const mean = (k) => points.reduce((n, p) => n + p[k], 0) / points.length, mx = mean(0), my = mean(1);
    const top = points.reduce((n, [x, y]) => n + (x - mx) * (y - my), 0), bottom = points.reduce((n, [x]) => n + (x - mx) ** 2, 0);
    return bottom > 0 ? top / bottom : 0;
}

const most = (list) => list.reduce((a, b) => Math.max(a, b), 0);

export function markdown({ binary, command, seconds, seed, share, counts, kinds, before, after, slope, level, samples, faults }) {
    const column = (name) => samples.map((s) => s[name]), last = after ?? samples.at(-1);
    const rows = [["resident memory, MB", "rss", 1], ["descriptors", "descriptors", 0], ["pages not in use", "free", 0], ["connections", "connections", 0], ["bytes in the ledger", "ledger", 0], ["bytes buffered", "buffered", 0], ["longest turn of the loop, ms", "turn", 1], ["p99 gap of a watched stream, ms", "gap99", 0]];
    return `# Soak of ${(seconds / 60).toFixed(1)} minutes: ${faults.length ? `${faults.length} faults` : "nothing found"}

\`${command}\` on \`${binary}\`, seed ${seed}.

${counts.honest} honest requests (${counts.answered} answered, ${counts.refused} refused as busy), ${counts.hostile} hostile ones (${((100 * counts.hostile) / Math.max(1, counts.hostile + counts.honest)).toFixed(1)} %, asked for ${(share * 100).toFixed(0)} %),
${last.tokens} tokens, ${last.preemptions} preemptions, ${counts.probes} probes equal to the bit unless listed below; ${((last.cpu - before.cpu) / 1000).toFixed(0)} s of processor time.

| | before | most | after | over time |
|---|---|---|---|---|
${rows.map(([what, name, digits]) => `| ${what} | ${before[name].toFixed(digits)} | ${most(column(name)).toFixed(digits)} | ${last[name].toFixed(digits)} | ${spark(column(name))} |`).join("\n")}

Resident memory in the second half: ${level.toFixed(1)} MB on average, ${slope >= 0 ? "+" : ""}${slope.toFixed(2)} MB per ten minutes (${((100 * slope) / Math.max(1, level)).toFixed(2)} %).

Hostile pieces: ${Object.entries(kinds).map(([name, n]) => `${name} ${n}`).join(", ")}.
${faults.length ? `\nFaults:\n${faults.map((f) => `- ${f}`).join("\n")}\n` : ""}`;
}

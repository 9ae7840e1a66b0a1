// What a body may cost: processor time per KB, some ten times what the slowest honest body takes
// (0.02 to 0.1 ms per KB), and a constant.
export const perKB = 0.6;

// Sends every body of the table to the paths, one after the other, and compares.
export async function prices(t, table, n, paths) {
    const dear = [];
    for (const [name, make] of Object.entries(table)) {
        const body = make(n), kb = Buffer.byteLength(body) / 1024;
        let r;
        const ms = await t.cost(async () => {
            for (const path of paths) {
                r = await t.server.post(path, body).catch((error) => ({ status: 0, text: String(error) }));
                t.alive(`at: ${name}`);
            }
        });
        t.record(`${name}, ${kb.toFixed(0)} KB: status ${r.status}, ${ms} ms, ${(ms / kb / paths.length).toFixed(3)} ms per KB`);
        if (ms > (200 + perKB * kb * paths.length) * t.slow) dear.push(`${name}: ${kb.toFixed(0)} KB cost ${ms} ms of processor time`);
        if (r.status === 500) dear.push(`${name}: status 500 ${r.text.slice(0, 200)}`);
    }
    t.assert.deepEqual(dear, [], "bodies that cost more than their size");
}

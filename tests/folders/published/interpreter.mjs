// The server's interpreter of chat templates, many renders in one process.
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { root } from '../tokenizer/lib.mjs';

const program = process.env.FATHOM_JINJA_RENDER ?? join(root, 'build', 'release', 'jinja-render');

// Takes { template, vars, trusted, roles, now } each; gives { text, runs: [[end, trusted]], us } or { error } each.
export function render(jobs) {
  const input = jobs.map((job) => `${JSON.stringify(job)}\n`).join('');
  const out = execFileSync('sh', ['-c', 'ulimit -t 120; exec "$0"', program], { input, maxBuffer: 1 << 30, stdio: ['pipe', 'pipe', 'inherit'] }).toString().split('\n').slice(0, -1);
  if (out.length !== jobs.length) throw new Error(`${jobs.length} templates were sent and ${out.length} answers came`);
  return out.map((line) => JSON.parse(line));
}

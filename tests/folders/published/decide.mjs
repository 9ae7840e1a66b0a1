// Writes differences.json: where Hugging Face's JavaScript port of Jinja does not do what
// Python's jinja2 does in transformers, which is what published templates were written for.
// Needs Python 3 with jinja2; the tests need only the list. Run it after a package changed:
//   node decide.mjs
import { execFileSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cases, digest, now, renderTheirs } from './renders.mjs';

// Why a pair of outcomes differs: the first that fits.
const reasons = [
  ['Python refuses text + object or list; the port writes "[object Map]" or JSON', (py) => /can only concatenate (str|list) \(not|unsupported operand/.test(py.error)],
  ['Python writes lists and objects with single quotes, None, True', (py, js) => /\[\{'type'|\{'/.test(py.text) && js.text !== undefined],
  ['Python writes None for a content that is null, and trims that', (py, js) => py.text?.includes('None') && (/NullValue/.test(js.error) || js.text !== undefined)],
  ['selectattr(name, "undefined") keeps what lacks the name in Python, so the template sees the turns and refuses; the port keeps nothing', (py) => /must alternate/.test(py.error)],
  ["'' == false is false in Python, true in the port", (py, js, name) => js.text !== undefined && name === 'empty contents'],
  ['Python filters and loops over the characters of a text; the port refuses', (py, js) => /StringValue/.test(js.error)],
  ['the port lacks the filter', (py, js) => /Unknown \w+ filter|Cannot apply filter/.test(js.error)],
  ['"not in" an undefined value holds in Python; the port refuses', (py, js) => /on undefined values/.test(js.error)],
  ['a name that one turn of a loop sets is unknown to the next in Python; the port still has it', (py, js) => /Agent: from nowhere/.test(py.text) && /User: from nowhere/.test(js.text)],
  ["strip(chars) takes only these characters in Python; the port takes every blank", (py, js, name) => name === 'blanks and newlines at the ends'],
];

renderTheirs();
const jobs = cases.flatMap((c) => c.jobs.map((job) => ({ template: c.template.text, vars: job.vars })));
const lines = execFileSync('python3', [join(dirname(fileURLToPath(import.meta.url)), 'decide.py'), String(now)], { input: jobs.map((j) => `${JSON.stringify(j)}\n`).join(''), maxBuffer: 1 << 30 }).toString().split('\n');

const found = {}, unexplained = [];
let at = 0;
for (const { template, conversation, jobs: list } of cases) {
  const python = list.map(() => JSON.parse(lines[at++]));
  const first = list.findIndex((job, i) => job.theirs.text !== python[i].text);
  if (first < 0) continue;
  const [reason] = reasons.find(([, fits]) => fits(python[first], list[first].theirs, conversation)) ?? [];
  if (!reason) unexplained.push([template.name, conversation, list[first].variant, python[first], list[first].theirs]);
  else ((found[reason] ??= {})[template.name] ??= {})[conversation] = digest(python);
}
for (const u of unexplained) console.log(JSON.stringify(u).slice(0, 1200));
if (unexplained.length) process.exit(1);
writeFileSync(join(dirname(fileURLToPath(import.meta.url)), 'differences.json'), `${JSON.stringify(found, null, 1)}\n`);
for (const [reason, list] of Object.entries(found)) console.log(`${Object.values(list).reduce((n, c) => n + Object.keys(c).length, 0)} of ${Object.keys(list).length} templates: ${reason}`);
console.log(`of ${cases.length} pairs of template and conversation, ${jobs.length} renders`);

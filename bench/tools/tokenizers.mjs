// Processor time of 15 texts of 2 MB through each published tokenizer of tests/folders/published, and of
// opening it. Run after `make` and `npm ci` in tests:
//
//   node bench/tools/tokenizers.mjs [NAME...]
//
// The time is that of `fathom tokenize`: it reads each text as JSON and prints its ids, too.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { scripts } from '../../tests/folders/published/corpus.mjs';
import { folderOf, names as all } from '../../tests/folders/published/lib.mjs';
import { code, languages, program, random, randomText } from '../../tests/folders/tokenizer/lib.mjs';

const BYTES = 2 << 20;
const next = random(13);
const filled = (make) => {
  const parts = [];
  for (let n = 0; n < BYTES; ) {
    const part = make();
    parts.push(part);
    n += Buffer.byteLength(part);
  }
  return Buffer.from(parts.join('')).subarray(0, BYTES).toString().replace(/\ufffd$/, '');
};
const everyScript = Object.values(scripts).flat().join(' '), sources = code().join('\n');
const texts = {
  English: filled(() => `${languages[0]} `),
  'every script': filled(() => `${everyScript}\n`),
  code: filled(() => sources),
  'random characters': filled(() => randomText(next)),
  Chinese: filled(() => languages[10]),
  Thai: filled(() => languages[9]),
  'one letter': 'a'.repeat(BYTES),
  spaces: ' '.repeat(BYTES),
  'line feeds': '\n'.repeat(BYTES),
  digits: filled(() => String(next(1e9))),
  'words of one letter': ' a'.repeat(BYTES / 2),
  signs: filled(() => '!?.,;:(){}[]'[next(12)]),
  'upper and lower case': filled(() => (next(2) ? 'Aa' : 'aA')),
  'combining marks': filled(() => 'e\u0301\u0323'),
  emoji: filled(() => '👩‍👩‍👧‍👦🏳️‍🌈🧑🏿‍🚀'),
};

const dir = mkdtempSync(join(tmpdir(), 'fathom-bench-'));
const file = (name, list) => {
  writeFileSync(join(dir, name), list.map((t) => `${JSON.stringify(t)}\n`).join(''));
  return join(dir, name);
};
// Seconds of user and system time.
function seconds(model, input) {
  const { stdout, status } = spawnSync('bash', ['-c', '"$0" tokenize --model "$1" <"$2" >/dev/null 2>&1; s=$?; times; exit $s', program, model, input], { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${model}: status ${status}`);
  const [user, system] = stdout.trim().split('\n')[1].split(' ').map((t) => { const [m, s] = t.split('m'); return 60 * m + parseFloat(s); });
  return user + system;
}

const nothing = file('nothing', ['']), everything = file('all', Object.values(texts));
const each = Object.entries(texts);
const names = process.argv.length > 2 ? process.argv.slice(2) : all;
console.log('| tokenizer | opening it | 15 texts of 2 MB | slowest text |\n|---|---|---|---|');
for (const name of names) {
  const model = folderOf(name), opening = seconds(model, nothing), took = seconds(model, everything) - opening;
  const times = each.map(([what, text]) => [seconds(model, file('one', [text])) - opening, what]).sort((a, b) => b[0] - a[0]);
  console.log(`| ${name} | ${opening.toFixed(2)} s | ${took.toFixed(2)} s | ${times[0][1]} ${times[0][0].toFixed(2)} s |`);
}
rmSync(dir, { recursive: true });

// Ids equal to tiktoken's, for every vocabulary it publishes ranks for, on everything the
// texts in lib.mjs hold. Two references: the Rust library compiled to WebAssembly, and
// js-tiktoken, whose patterns run on JavaScript's regular expressions.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Tiktoken } from 'tiktoken';
import { Tiktoken as JsTiktoken } from 'js-tiktoken/lite';
import cl100k from 'js-tiktoken/ranks/cl100k_base';
import o200k from 'js-tiktoken/ranks/o200k_base';
import * as lib from './lib.mjs';

const equal = (texts, ours, theirs) =>
  texts.forEach((text, i) => assert.deepEqual(ours[i], [...theirs(text)], JSON.stringify(text).slice(0, 200)));

for (const [name, js] of [['gpt2', null], ['cl100k_base', cl100k], ['o200k_base', o200k]]) {
  describe(name, () => {
    let table, folder, reference, ids;
    before(() => {
      table = lib.readRanks(name);
      folder = lib.folderWith(lib.toTokenizerJson(table, { pairs: name === 'o200k_base' }));
      const { bpe_ranks, special_tokens, pat_str } = table.encoding;
      reference = new Tiktoken(bpe_ranks, special_tokens, pat_str);
      ids = (texts, ...flags) => lib.run(folder.dir, texts.map(lib.escapeNul), ...flags);
    });
    after(() => {
      reference.free();
      folder.remove();
    });
    const plain = (text) => reference.encode(text, [], []);

    test('seventeen languages', () => equal(lib.languages, ids(lib.languages), plain));
    test('emoji, marks, spaces, digits, quotes', () => equal(lib.symbols, ids(lib.symbols), plain));
    test('source code', () => equal(lib.code(), ids(lib.code()), plain));
    test('long runs', () => equal(lib.runs, ids(lib.runs), plain));
    test('20,000 random texts', () => {
      const next = lib.random(name.length), texts = [];
      for (let i = 0; i < 20000; i++) texts.push(lib.randomText(next));
      equal(texts, ids(texts), plain);
    });
    test('special tokens when asked for, longest first', () => {
      const names = Object.keys(table.encoding.special_tokens);
      const texts = [names.join(''), 'a' + names.join(' b\n') + 'c', '<|endoftext', names[0].repeat(3) + '|>'];
      equal(texts, ids(texts, '--special'), (t) => reference.encode(t, 'all', []));
    });
    test('every token goes back to its text', () => {
      const texts = [...lib.languages, ...lib.symbols.filter((s) => !s.includes('\0'))];
      assert.deepEqual(lib.run(folder.dir, ids(texts), '--ids-to-text'), texts);
    });
    test('bytes that are not UTF-8 stand alone between what is', () => {
      const next = lib.random(99), broken = [0x80, 0xbf, 0xc0, 0xc1, 0xf5, 0xff, 0xfe];
      const lines = [];
      for (let i = 0; i < 2000; i++) {
        const bytes = [];
        for (let k = 1 + next(4); k > 0; k--) {
          bytes.push(...Buffer.from(lib.randomText(next)));
          for (let j = next(4); j > 0; j--) bytes.push(broken[next(broken.length)]);
          if (next(3) === 0) bytes.push(0xe4, 0xbd); // a character cut short
          if (next(9) === 0) bytes.push(0xed, 0xa0, 0x80); // a surrogate
        }
        lines.push(bytes);
      }
      const ours = lib.run(folder.dir, lines);
      ours.forEach((got, i) => {
        const byte = (b) => table.ranks.get(String.fromCharCode(b));
        const want = lib.splitValid(lines[i]).flatMap((p) => (typeof p === 'string' ? [...plain(p)] : [byte(p)]));
        assert.deepEqual(got, want, JSON.stringify(lines[i]));
      });
    });
    if (js) {
      test('js-tiktoken agrees', () => {
        const other = new JsTiktoken(js);
        // U+0085 and U+FEFF are white space to only one of Unicode and JavaScript.
        const texts = [...lib.languages, ...lib.symbols, ...lib.code(), ...lib.runs.map((r) => r.slice(0, 200))].filter((t) => !/[\u0085\ufeff]/.test(t));
        equal(texts, ids(texts), (t) => other.encode(t, [], []));
      });
    }
    test('two megabytes of one letter, of spaces, of a pair: seconds of work, not hours', () => {
      const n = 2 << 20;
      const texts = ['a'.repeat(n), ' '.repeat(n), 'ab'.repeat(n / 2), ' a'.repeat(n / 2), 'the'.repeat(n / 3), '你'.repeat(n / 3)];
      const got = lib.run(folder.dir, texts); // within lib's limit of processor time
      assert.deepEqual(lib.run(folder.dir, got, '--ids-to-text'), texts);
    });
  });
}

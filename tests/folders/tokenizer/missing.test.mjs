// A vocabulary of 49,152 tokens in which 21 bytes have none, in the form of SmolLM2's and
// Ouro's file: ids equal to those of Hugging Face's own library, the Rust one.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { Tokenizer } from 'tokenizers';
import * as lib from './lib.mjs';

const table = lib.readRanks('gpt2');
const gone = new Set(lib.missing21);
// Characters whose UTF-8 has a byte without a token, beside characters that are whole.
const holes = ['\u07ca', '\u07d0', '\u07ff', '\u{40000}', '\u{90001}', '\u{fffff}', '\u0001', '\u0005', '\u0016', '\u001d'];

function holedText(next) {
  let out = '';
  for (let n = 1 + next(10); n > 0; n--) {
    out += next(3) === 0 ? '' : Array.from(lib.randomText(next)).slice(0, 8).join('');
    for (let k = next(4); k > 0; k--) out += holes[next(holes.length)];
  }
  return out;
}

for (const [name, options] of [['merges as text', {}], ['merges as pairs', { pairs: true }], ['whole words first', { ignoreMerges: true }]]) {
  describe(`21 bytes without a token, ${name}`, () => {
    const json = lib.smolJson(table, options);
    let folder, reference;
    before(() => {
      folder = lib.folderWith(json);
      reference = Tokenizer.fromString(JSON.stringify(json));
    });
    after(() => folder.remove());
    const theirs = async (text) => (await reference.encode(text, null, { addSpecialTokens: false })).getIds();
    async function compare(texts) {
      const ours = lib.run(folder.dir, texts.map(lib.escapeNul), '--special');
      for (const [i, text] of texts.entries()) assert.deepEqual(ours[i], await theirs(text), JSON.stringify(text).slice(0, 200));
    }

    test('the file has 49,152 tokens and lacks 21 bytes', () => {
      assert.equal(Object.keys(json.model.vocab).length, 49152);
      assert.equal(Math.max(...Object.values(json.model.vocab)), 49151);
      assert.equal(gone.size, 21);
    });
    test('languages, symbols, code, long runs', () => compare([...lib.languages, ...lib.symbols, ...lib.code(), ...lib.runs.map((r) => r.slice(0, 300))]));
    test('every code point up to U+0FFF, alone and between letters', () => {
      const texts = [];
      for (let c = 0; c < 0x1000; c++) texts.push(String.fromCodePoint(c), `th${String.fromCodePoint(c)}e ${String.fromCodePoint(c)}${String.fromCodePoint(c)}!`);
      return compare(texts);
    });
    test('5,000 random texts', () => {
      const next = lib.random(21);
      return compare(Array.from({ length: 5000 }, () => lib.randomText(next)));
    });
    test('5,000 random texts with holes: the neighbours of a dropped byte meet and merge', () => {
      const next = lib.random(22);
      return compare(Array.from({ length: 5000 }, () => holedText(next)));
    });
    test('a word of 100,000 characters, every other one dropped', () => compare(['t\u07cah\u07cae'.repeat(20000), '\u07ca'.repeat(50000), '\u0001'.repeat(50000)]));
    test('special tokens inside text', () => compare(['<|im_start|>user\nhi\u0001<|im_end|>\n<think>\n</think><|endoftext|>', '<think', 'a<|im_end|>\u07cab']));
    test('bytes that are not UTF-8 stand alone between what is, and vanish if they have no token', async () => {
      const next = lib.random(23), broken = [0x80, 0xbf, 0xc0, 0xc1, 0xdf, 0xf1, 0xf5, 0xff];
      const lines = Array.from({ length: 2000 }, () => {
        const bytes = [];
        for (let k = 1 + next(4); k > 0; k--) {
          bytes.push(...Buffer.from(holedText(next)));
          for (let j = next(4); j > 0; j--) bytes.push(broken[next(broken.length)]);
        }
        return bytes;
      });
      const ours = lib.run(folder.dir, lines, '--special');
      const alone = Object.fromEntries([...table.ranks].filter(([t]) => t.length === 1).map(([t]) => [t.charCodeAt(0), json.model.vocab[lib.spell(t)]]));
      for (const [i, line] of lines.entries()) {
        const want = [];
        for (const piece of lib.splitValid(line)) {
          if (typeof piece === 'string') want.push(...(await theirs(piece)));
          else if (!gone.has(piece)) want.push(alone[piece]);
        }
        assert.deepEqual(ours[i], want, JSON.stringify(line));
      }
    });
    test('text goes back without what was dropped', () => {
      const ids = lib.run(folder.dir, ['na\u07ca\u00efve \u{40000}42\u0001']);
      assert.deepEqual(lib.run(folder.dir, ids, '--ids-to-text').map((t) => t.replaceAll('\ufffd', '')), ['na\u00efve 42']);
    });
  });
}

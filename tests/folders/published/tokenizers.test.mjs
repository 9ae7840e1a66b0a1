// Published tokenizers, opened from the files that were shipped: the server starts, and ids and
// text are those of Hugging Face's own library, the Rust one.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Tokenizer } from 'tokenizers';
import { Server, until } from '../../http/lib/server.mjs';
import { escapeNul, run, splitValid } from '../tokenizer/lib.mjs';
import { brokenTexts, corpus, longRuns, scripts } from './corpus.mjs';
import * as real from './lib.mjs';

// FATHOM_EVERY_CODE_POINT=1 compares every code point too, a minute per tokenizer.
const everyCodePoint = process.env.FATHOM_EVERY_CODE_POINT;
const texts = corpus(), long = longRuns(), broken = brokenTexts(300);
const short = (text) => JSON.stringify(text).slice(0, 200);

test('there are at least ten tokenizers, thirty scripts and 2,000 texts', () => {
  assert.ok(real.kinds.length >= 10, real.kinds.join());
  assert.ok(Object.keys(scripts).length >= 30);
  assert.ok(texts.length >= 2000, String(texts.length));
  assert.ok(long.length >= 20 && long.every((t) => Array.from(t).length >= 50000));
});

for (const [number, name] of real.kinds.entries()) {
  describe(name, () => {
    const json = real.tokenizerOf(name), rows = real.rowsOf(json);
    const added = json.added_tokens, specials = added.filter((t) => t.special);
    const byteLevel = JSON.stringify(json.pre_tokenizer).includes('ByteLevel');
    const some = added.length < 300 ? added : added.filter((_, i) => i % Math.ceil(added.length / 300) === 0);
    const lists = {
      texts,
      // Where a pattern cuts words out first, a long run is one word more: a third of them will do.
      runs: long.filter((_, i) => !byteLevel || i % 3 === number % 3),
      spelt: some.flatMap(({ content }) => [content, `a${content}b`, ` ${content} `, `${content}${content}`, `Hi ${content}\n${content} there`, content.slice(0, -1)]),
    };
    const all = Object.values(lists).flat(), starts = { texts: 0, runs: texts.length, spelt: texts.length + lists.runs.length };
    const spellsNone = (text) => !specials.some((t) => text.includes(t.content));
    const free = texts.filter((text, i) => i % 4 === 0 && spellsNone(text)), spelt = lists.spelt.filter((text) => !spellsNone(text));
    const oneByte = Array.from({ length: 256 }, (_, b) => [b]);
    let folder, reference, want, special, plain;

    const theirs = async (list) => (await reference.encodeBatch(list, { addSpecialTokens: false })).map((e) => e.getIds());
    const ours = (list, ...flags) => run(folder.dir, list.map((t) => (typeof t === 'string' ? escapeNul(t) : t)), ...flags);
    const same = (list, got, wanted) => list.forEach((text, i) => assert.deepEqual(got[i], wanted[i], short(text)));
    // The program takes a second to read a large file: all that is to be compared goes through it at once.
    const readSpecial = () => (special ??= ours(all, '--special'));
    const readPlain = () => {
      plain ??= ours([...free, ...spelt, ...broken, ...oneByte]);
      return { free: plain.slice(0, free.length), spelt: plain.slice(free.length), broken: plain.slice(-256 - broken.length), oneByte: plain.slice(-256) };
    };
    before(async () => {
      folder = real.realFolder(name, rows);
      reference = Tokenizer.fromString(readFileSync(join(real.folderOf(name), 'tokenizer.json'), 'utf8'));
      want = await theirs(all);
    });
    after(() => folder.remove());

    test('the server starts with both files as shipped, and answers', async () => {
      const server = await Server.start([], { model: folder.dir, device: 'cpu', ready: false });
      server.shared = true;
      assert.equal(server.exit, null, server.log);
      try {
        await until('readiness', async () => server.exit || (await server.get('/ready')).status === 200);
        assert.equal((await server.get('/health')).status, 200);
        const prompt = 'Hello, 世界! na\u00efve 12345\n\n  👍🏽';
        const ids = await server.post('/tokenize', { prompt, add_special_tokens: false });
        assert.equal(ids.status, 200, ids.text);
        assert.deepEqual([ids.json.tokens], await theirs([prompt]));
        const answer = await server.post('/v1/completions', { prompt, max_tokens: 3, temperature: 0, ignore_eos: true });
        assert.equal(answer.status, 200, answer.text);
        assert.equal(typeof answer.json.choices[0].text, 'string');
        assert.equal(answer.json.usage.completion_tokens, 3);
      } finally {
        await server.stop();
      }
    });
    for (const [what, title] of Object.entries({ texts: `${texts.length} texts`, runs: `${lists.runs.length} runs of 100,000 characters`, spelt: 'added tokens inside text' })) {
      test(`${title}: the same ids`, () => same(lists[what], readSpecial().slice(starts[what]), want.slice(starts[what])));
    }
    test('without special tokens the same ids where none is spelt', () => {
      const at = new Map(all.map((text, i) => [text, i]));
      assert.ok(free.length > 500);
      same(free, readPlain().free, free.map((text) => want[at.get(text)]));
    });
    test('special tokens that are spelt are plain text otherwise', () => {
      const ids = new Set(specials.map((t) => t.id));
      spelt.forEach((text, i) => assert.ok(!readPlain().spelt[i].some((id) => ids.has(id)), short(text)));
    });
    test('ids go back to the text wherever the reference gives it back', async () => {
      const theirText = await reference.decodeBatch(want, false), ourText = run(folder.dir, want, '--ids-to-text');
      let judged = 0;
      all.forEach((text, i) => {
        if (theirText[i] !== text) return;
        assert.equal(ourText[i], text, short(text));
        judged++;
      });
      assert.ok(judged > all.length / 2, `the reference gives back ${judged} of ${all.length}`);
    });
    test('bytes that are not UTF-8 stand alone between what is', { skip: !byteLevel && 'they have tokens of their own, and blanks are signs' }, async () => {
      const got = readPlain(), cut = broken.map(splitValid), strings = cut.flat().filter((p) => typeof p === 'string');
      const ids = new Map((await theirs(strings)).map((list, i) => [strings[i], list]));
      same(broken, got.broken, cut.map((parts) => parts.flatMap((p) => (typeof p === 'string' ? ids.get(p) : got.oneByte[p]))));
    });
    test('ids of bytes that are not UTF-8 go back to what the reference makes of them', async () => {
      const ids = readPlain().broken.slice(0, broken.length);
      same(broken, run(folder.dir, ids, '--ids-to-text'), await reference.decodeBatch(ids, false));
    });
    test('every code point', { skip: !everyCodePoint && 'FATHOM_EVERY_CODE_POINT is not set' }, async () => {
      for (let start = 0; start < 0x110000; start += 0x4000) {
        const list = [];
        for (let c = start; c < start + 0x4000; c++) {
          const s = String.fromCodePoint(c);
          if (s.isWellFormed() && /[^\p{Cn}]/u.test(s)) list.push(s, `th${s}e ${s}${s}!`);
        }
        if (list.length) same(list, ours(list, '--special'), await theirs(list));
      }
    });
  });
}

// Conversations through the folder's own files, from JSON to ids: ids are those of the reference's
// template and tokenizer, and a conversation that spells every token of the tokenizer gets none.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Template } from '@huggingface/jinja';
import { Tokenizer } from 'tokenizers';
import { program } from '../tokenizer/lib.mjs';
import * as real from './lib.mjs';
import { templates } from './templates.mjs';

// Of each package the template that a conversation without tools takes.
const chats = real.kinds.map((name) => templates.find((t) => t.tokenizer === name)).filter((t) => t);

const render = (name, body) => JSON.parse(execFileSync(program, ['tokenize', '--model', real.folderOf(name), '--chat', '-', '--json'], { input: JSON.stringify(body), maxBuffer: 1 << 28, stdio: ['pipe', 'pipe', 'ignore'] }));
const turns = (...contents) => ({ messages: contents.map((content, i) => ({ role: i % 2 ? 'assistant' : 'user', content })) });

test('there are tokenizers with a chat template of their own', () => assert.ok(chats.length >= 5, String(chats.length)));

for (const { name, text, tokenizer, tokens } of chats) {
  test(`${name}: a conversation has the ids that the reference gives its text`, async () => {
    const body = turns('Hello, 世界!', 'Hi there.\n', '  What is 12 + 34?  ');
    const want = new Template(text).render({ ...tokens, ...body, add_generation_prompt: true });
    const reference = Tokenizer.fromString(readFileSync(join(real.folderOf(tokenizer), 'tokenizer.json'), 'utf8'));
    const ids = (await reference.encode(want, null, { addSpecialTokens: false })).getIds();
    const got = render(tokenizer, body);
    assert.equal(got.text, want);
    assert.deepEqual(got.ids, ids);
  });
  test(`${name}: a conversation that spells every token has no more control tokens than one that spells none`, () => {
    const added = real.tokenizerOf(tokenizer).added_tokens.map((t) => t.content).filter((t) => t.trim());
    const all = [...added, ...Object.values(tokens)].join(' a ');
    const plain = render(tokenizer, turns('x', 'y', 'z')), spelt = render(tokenizer, turns(all, all, all));
    const controls = ({ ids, control }) => control.map((at) => ids[at]);
    assert.ok(plain.control.length > 0);
    assert.deepEqual(controls(spelt), controls(plain));
  });
}

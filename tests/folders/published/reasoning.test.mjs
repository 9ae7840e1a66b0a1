// Reasoning over HTTP, with the tokenizer and the template of a published reasoning model. On the
// fake device every logit but one is 0, so biases write the answer: a token that has come loses 4,
// so the biased tokens come in the order of their biases.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { withServer } from '../../http/lib/server.mjs';
import { realFolder, rowsOf, tokenizerOf } from './lib.mjs';

const file = tokenizerOf('qwen3');
const spelt = (word) => file.added_tokens.find((t) => t.content === word)?.id ?? file.model.vocab[word];
// The end token comes last.
const writes = (...words) => ({
  temperature: 0, presence_penalty: 2, frequency_penalty: 2,
  logit_bias: Object.fromEntries([...words, '<|im_end|>'].map((word, i) => [spelt(word), 60 - 0.5 * i])),
});
const question = { messages: [{ role: 'user', content: 'Hi' }], max_tokens: 64 };
const thinks = writes('<think>', 'Ċ', 'One', '</think>', 'ĊĊ', 'Two');

let folder;
before(() => { folder = realFolder('qwen3', rowsOf(file)); });
after(() => folder.remove());
const serve = (use) => withServer([], { model: folder.dir }, use);

async function whole(s, more) {
  const { status, text, json } = await s.post('/v1/chat/completions', { ...question, ...more });
  assert.equal(status, 200, text);
  return { ...json.choices[0], usage: json.usage };
}

// The members of all deltas, joined, and the order in which they came.
async function streamed(s, more) {
  const { text } = await s.post('/v1/chat/completions', { ...question, ...more, stream: true });
  const deltas = [...text.matchAll(/^data: (\{.*\})$/gm)].flatMap(([, line]) => JSON.parse(line).choices).map((c) => c.delta);
  const joined = {}, order = [];
  for (const delta of deltas) {
    for (const [key, value] of Object.entries(delta)) {
      if (typeof value !== 'string' || !value || key === 'role') continue;
      joined[key] = (joined[key] ?? '') + value;
      if (order.at(-1) !== key) order.push(key);
    }
  }
  return { joined, order };
}

test('reasoning stands apart from the content, and its tokens are counted', () => serve(async (s) => {
  const { message, finish_reason, usage } = await whole(s, thinks);
  assert.equal(message.reasoning_content, 'One');
  assert.equal(message.content, 'Two');
  assert.equal(finish_reason, 'stop');
  assert.equal(usage.completion_tokens, 6);
  assert.equal(usage.completion_tokens_details.reasoning_tokens, 5, 'with the marks and the blanks');
  assert.deepEqual(await streamed(s, thinks), { joined: { reasoning_content: 'One', content: 'Two' }, order: ['reasoning_content', 'content'] });
}));

test('include_reasoning: false leaves the reasoning out and counts it', () => serve(async (s) => {
  const { message, usage } = await whole(s, { ...thinks, include_reasoning: false });
  assert.equal(message.content, 'Two');
  assert.ok(!message.reasoning_content);
  assert.ok(usage.completion_tokens_details.reasoning_tokens > 0);
  assert.deepEqual((await streamed(s, { ...thinks, include_reasoning: false })).joined, { content: 'Two' });
}));

test('a response has an item of reasoning before the message', () => serve(async (s) => {
  const { json } = await s.post('/v1/responses', { input: 'Hi', max_output_tokens: 64, ...thinks });
  assert.deepEqual(json.output.map((item) => item.type), ['reasoning', 'message']);
  assert.ok(JSON.stringify(json.output[0]).includes('"One"'));
  assert.equal(json.output[1].content[0].text, 'Two');
  assert.ok(json.usage.output_tokens_details.reasoning_tokens > 0);
}));

test('after enable_thinking: false the whole answer is content', () => serve(async (s) => {
  const { message } = await whole(s, { ...writes('One', 'Two'), chat_template_kwargs: { enable_thinking: false } });
  assert.equal(message.content, 'OneTwo');
  assert.ok(!message.reasoning_content);
}));

test('an answer without a mark is content, and one that is cut off in its reasoning has none', () => serve(async (s) => {
  assert.equal((await whole(s, writes('One', '</think>', 'Two'))).message.content, 'One</think>Two');
  const cut = await whole(s, { ...thinks, max_tokens: 3 });
  assert.equal(cut.message.reasoning_content, 'One');
  assert.ok(!cut.message.content);
  assert.equal(cut.finish_reason, 'length');
  assert.equal(cut.usage.completion_tokens_details.reasoning_tokens, 3);
}));

test('a stop string within the reasoning ends the answer there', () => serve(async (s) => {
  const { message, finish_reason } = await whole(s, { ...thinks, stop: 'ne' });
  assert.equal(message.reasoning_content, 'O');
  assert.ok(!message.content);
  assert.equal(finish_reason, 'stop');
}));

const schema = { type: 'object', properties: { a: { enum: ['One', 'Two'] } }, required: ['a'], additionalProperties: false };

test('a schema holds for the content after the reasoning', () => serve(async (s) => {
  const form = { response_format: { type: 'json_schema', json_schema: { name: 'form', schema } } };
  for (const [biases, thought] of [[thinks, 'One'], [writes('Two'), undefined]]) {
    const { message, finish_reason } = await whole(s, { ...biases, ...form });
    assert.equal(message.reasoning_content || undefined, thought);
    assert.ok(['One', 'Two'].includes(JSON.parse(message.content).a), message.content);
    assert.equal(finish_reason, 'stop');
  }
}));

test('a forced call comes after the reasoning', () => serve(async (s) => {
  const tools = [{ type: 'function', function: { name: 'f', parameters: schema } }];
  const { message, finish_reason } = await whole(s, { ...thinks, tools, tool_choice: 'required' });
  assert.equal(message.reasoning_content, 'One');
  assert.ok(!message.content);
  assert.equal(message.tool_calls.length, 1);
  assert.ok(['One', 'Two'].includes(JSON.parse(message.tool_calls[0].function.arguments).a));
  assert.equal(finish_reason, 'tool_calls');
}));

test('the reasoning of an earlier answer goes back to the model', () => serve(async (s) => {
  const said = (name) => ({ messages: [{ role: 'user', content: 'Hi' }, { role: 'assistant', content: 'Two', [name]: 'One' }], add_generation_prompt: false });
  for (const name of ['reasoning', 'reasoning_content']) {
    const { json } = await s.post('/tokenize', said(name));
    const { json: back } = await s.post('/detokenize', { tokens: json.tokens });
    assert.match(back.content, /<think>\nOne\n<\/think>\n\nTwo/, name);
  }
}));

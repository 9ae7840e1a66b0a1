// The text of the looped families, from the files beside the weights to an answer: ids and texts
// equal to the Rust library's, conversations equal to Jinja's, and an answer that stops where the
// family's does. Published tokenizers stand in where npm has them; the others are made here, in the
// published form, from GPT-2's and Llama 2's vocabularies.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, test } from 'node:test';
import { Template } from '@huggingface/jinja';
import { Tokenizer } from 'tokenizers';
import { withServer } from '../../http/lib/server.mjs';
import * as lib from '../tokenizer/lib.mjs';
import { folderOf, tokenizerOf } from './lib.mjs';

const show = (value) => JSON.stringify(value).slice(0, 200);
const special = (content, id, more) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true, ...more });

// ---- folders ----

const parent = mkdtempSync(join(tmpdir(), 'fathom-families-'));
after(() => rmSync(parent, { recursive: true }));

// A model of a golden case's shape with random weights, `rows` tokens and these files. A file is a
// value (written as JSON), a string (written as it is) or { link: PATH }.
function folder(name, golden, rows, files, more = {}) {
  const shape = JSON.parse(readFileSync(join(lib.root, 'tests/golden/families', golden, 'config.json'), 'utf8'));
  const config = join(parent, `${name}.json`), dir = join(parent, name);
  writeFileSync(config, JSON.stringify({ ...shape, block_size: 512, max_position_embeddings: 512, ...more, vocab_size: rows, ...(shape.padded_vocab_size ? { padded_vocab_size: rows } : {}) }));
  execFileSync(lib.program, ['init', '--config', config, '--out', dir], { stdio: 'pipe' });
  for (const [file, value] of Object.entries(files)) {
    if (typeof value.link === 'string') symlinkSync(value.link, join(dir, file));
    else writeFileSync(join(dir, file), typeof value === 'string' ? value : JSON.stringify(value));
  }
  return dir;
}

// ---- the checks ----

const texts = (seed) => {
  const next = lib.random(seed);
  return [...lib.languages, ...lib.symbols, ...lib.code(), ...lib.runs, ...Array.from({ length: 500 }, () => lib.randomText(next))];
};

async function checkTokenizer(dir, json, seed) {
  const reference = Tokenizer.fromString(JSON.stringify(json)), all = texts(seed);
  const ours = lib.run(dir, all.map(lib.escapeNul), '--special');
  const ids = await Promise.all(all.map(async (t) => (await reference.encode(t, null, { addSpecialTokens: false })).getIds()));
  all.forEach((text, i) => assert.deepEqual(ours[i], ids[i], show(text)));
  const back = lib.run(dir, ids, '--ids-to-text');
  for (const [i, list] of ids.entries()) assert.equal(back[i], await reference.decode(list, false), show(all[i]));
}

function chat(dir, body) {
  return JSON.parse(execFileSync(lib.program, ['tokenize', '--model', dir, '--chat', '-', '--json'], { input: JSON.stringify(body), stdio: ['pipe', 'pipe', 'ignore'] }));
}

async function checkChat(dir, json, template, variables, body) {
  const { chat_template_kwargs: kwargs, ...rest } = body;
  const want = new Template(template).render({ ...variables, ...kwargs, add_generation_prompt: true, ...rest });
  const got = chat(dir, body);
  assert.equal(got.text, want);
  assert.deepEqual(got.ids, (await Tokenizer.fromString(JSON.stringify(json)).encode(want, null, { addSpecialTokens: false })).getIds());
  return got;
}

// The answer if every token is `id`.
async function answer(server, id, chatting, more) {
  const ask = { max_tokens: 3, temperature: 0, logit_bias: { [id]: 100 }, ...more };
  const r = chatting ? await server.post('/v1/chat/completions', { messages: [{ role: 'user', content: 'Hi' }], ...ask })
    : await server.post('/v1/completions', { prompt: 'Hi', ...ask });
  assert.equal(r.status, 200, r.text);
  const [choice] = r.json.choices;
  return { finish: choice.finish_reason, text: chatting ? choice.message.content : choice.text, n: r.json.usage.completion_tokens };
}

async function stops(server, ids, chatting) {
  for (const id of ids) assert.deepEqual(await answer(server, id, chatting), { finish: 'stop', text: '', n: 0 }, String(id));
}

// ---- Huginn ----

const huginnTemplate =
  "{% for message in messages %}{% set role = 'Huginn' if message['role'] == 'assistant' else message['role'] %}" +
  "{% set content = '<|begin_header|>' + role + '<|end_header|>\n\n' + message['content'] | trim + '<|end_turn|>' %}" +
  "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}" +
  "{% if add_generation_prompt %}{{ '<|begin_header|>Huginn<|end_header|>\n\n' }}{% endif %}";

describe('Huginn', () => {
  const names = ['<|begin_text|>', '<|end_text|>', '<|begin_header|>', '<|end_header|>', '<|end_turn|>', '<|pad|>'];
  const json = tokenizerOf('gpt2');
  json.added_tokens = names.map((name, i) => special(name, 65504 + i));
  names.forEach((name, i) => { json.model.vocab[name] = 65504 + i; }); // the library numbers others anew
  json.post_processor = {
    type: 'TemplateProcessing', single: [{ SpecialToken: { id: names[0], type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: names[1], type_id: 0 } }],
    pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
    special_tokens: Object.fromEntries(names.slice(0, 2).map((id, i) => [id, { id, ids: [65504 + i], tokens: [id] }])),
  };
  const variables = { bos_token: names[0], eos_token: names[1], pad_token: names[5] };
  const dir = folder('huginn', 'huginn', 65536, {
    'tokenizer.json': json,
    'tokenizer_config.json': { ...variables, tokenizer_class: 'PreTrainedTokenizerFast', model_max_length: 1e30, chat_template: huginnTemplate },
    'generation_config.json': { eos_token_id: [65505, 65508], temperature: 0.7 },
  }, { bos_token_id: 65504, eos_token_id: 65505, pad_token_id: 65509 });

  test('ids and texts', () => checkTokenizer(dir, json, 61));
  test('a conversation begins once, trims its contents and gives the assistant its own name', async () => {
    const talk = [{ role: 'system', content: ' You help. ' }, { role: 'user', content: 'Hi\n' }, { role: 'assistant', content: '\nHello. ' }, { role: 'user', content: 'Bye<|end_turn|>' }];
    const { text, ids } = chat(dir, { messages: talk });
    assert.equal(text, new Template(huginnTemplate).render({ ...variables, messages: talk, add_generation_prompt: true }));
    assert.match(text, /^<\|begin_text\|><\|begin_header\|>system<\|end_header\|>\n\nYou help\.<\|end_turn\|>.*<\|begin_header\|>Huginn<\|end_header\|>\n\nHello\.<\|end_turn\|>.*<\|begin_header\|>Huginn<\|end_header\|>\n\n$/s);
    assert.equal(ids.filter((id) => id === 65504).length, 1);
    assert.equal(ids.filter((id) => id === 65508).length, 4, "the client's own <|end_turn|> is text");
  });
  test('a conversation has the ids that the library gives its text', () => checkChat(dir, json, huginnTemplate, variables, { messages: [{ role: 'user', content: 'What is 12 + 34?' }] }));
  test('a text begins with the first token and has no token after it; each of the three end tokens stops an answer', async () => {
    await withServer([], { device: 'cpu', model: dir }, async (s) => {
      const { json: listed } = await s.post('/tokenize', { prompt: 'Hi' });
      assert.deepEqual([listed.tokens[0], listed.tokens.some((id) => id === 65505)], [65504, false]);
      for (const chatting of [false, true]) {
        await stops(s, [65504, 65505, 65508], chatting);
        assert.equal((await answer(s, 65507, chatting)).finish, 'length', 'a header does not end an answer');
      }
    });
  });
});

// ---- the retrofitted models ----

describe('retrofitted models', () => {
  const wrong = { bos_token_id: 65504, eos_token_id: 65505, pad_token_id: 65509 };
  const linked = (name) => ({ 'tokenizer.json': { link: join(folderOf(name), 'tokenizer.json') }, 'tokenizer_config.json': { link: join(folderOf(name), 'tokenizer_config.json') } });

  test("Llama's: the end token is the tokenizer's, and config.json's ids are the ordinary words that they spell", async () => {
    const json = tokenizerOf('llama3');
    // As Hugging Face has it: a first token before every text.
    json.post_processor = { type: 'Sequence', processors: [json.post_processor, { type: 'TemplateProcessing', single: [{ SpecialToken: { id: '<|begin_of_text|>', type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }],
      pair: [], special_tokens: { '<|begin_of_text|>': { id: '<|begin_of_text|>', ids: [128000], tokens: ['<|begin_of_text|>'] } } }] };
    const dir = folder('retro_llama', 'retro_llama', 128256, { 'tokenizer.json': json, 'tokenizer_config.json': { bos_token: '<|begin_of_text|>', eos_token: '<|end_of_text|>' } }, wrong);
    await checkTokenizer(dir, json, 62);
    await withServer([], { device: 'cpu', model: dir }, async (s) => {
      await stops(s, [128001], false);
      const words = await answer(s, 65505, false);
      assert.deepEqual([words.finish, words.n], ['length', 3]);
      assert.equal(words.text, lib.run(dir, [[65505, 65505, 65505]], '--ids-to-text')[0]);
      assert.equal((await s.post('/tokenize', { prompt: 'Hi' })).json.tokens[0], 128000);
      assert.equal(s.log.match(/eos_token_id 65505/g)?.length, 1, s.log);
      const refused = await s.post('/v1/chat/completions', { messages: [{ role: 'user', content: 'Hi' }] });
      assert.equal(refused.status, 400);
      assert.match(refused.json.error.message, /--chat-template/);
    });
  });
  for (const [name, rows, eos] of [['llama3', 128256, 128001], ['llama2', 32000, 2], ['gpt35turbo', 100277, 100257]]) {
    test(`${name}'s files as npm has them: ids, texts, and the end`, async () => {
      const dir = folder(`retro_${name}`, 'retro_llama', rows, linked(name), wrong);
      await checkTokenizer(dir, tokenizerOf(name), 63);
      await withServer([], { device: 'cpu', model: dir }, async (s) => {
        await stops(s, [eos], false);
        if (rows > 65505) assert.equal((await answer(s, 65505, false)).finish, 'length');
      });
    });
  }
});

// ---- Parcae ----

describe('Parcae', () => {
  const gpt2 = tokenizerOf('gpt2'), names = ['<|bos|>', '<|eos|>', '<|pad|>'], rows = 32768;
  const pairOf = (merge) => (typeof merge === 'string' ? merge.split(' ') : merge);
  const vocab = Object.fromEntries(names.map((name, i) => [name, i])), merges = [];
  let id = names.length;
  for (const [token] of Object.entries(gpt2.model.vocab).sort((a, b) => a[1] - b[1]).slice(0, 256)) vocab[token] = id++;
  for (const merge of gpt2.model.merges) {
    if (id === rows) break;
    vocab[pairOf(merge).join('')] = id++;
    merges.push(merge);
  }
  const json = {
    ...gpt2, added_tokens: names.map((name, i) => special(name, i)), normalizer: null, post_processor: null,
    pre_tokenizer: { type: 'Sequence', pretokenizers: [
      { type: 'Split', pattern: { Regex: "'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,2}| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+" }, behavior: 'Isolated', invert: false },
      { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }] },
    decoder: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: { ...gpt2.model, byte_fallback: true, vocab, merges },
  };
  const dir = folder('parcae', 'parcae', rows, { 'tokenizer.json': json, 'tokenizer_config.json': { bos_token: '<|bos|>', eos_token: '<|eos|>', pad_token: '<|pad|>' } });

  test('byte_fallback beside ByteLevel never fires: ids and texts', () => checkTokenizer(dir, json, 64));
  test('the base model ends at <|eos|>; chat says what is missing, and works with a template', async () => {
    await withServer([], { device: 'cpu', model: dir }, async (s) => {
      await stops(s, [1], false);
      const refused = await s.post('/v1/chat/completions', { messages: [{ role: 'user', content: 'Hi' }] });
      assert.equal(refused.status, 400);
      assert.match(refused.json.error.message, /chat template/);
      assert.match(refused.json.error.message, /--chat-template/);
    });
    await withServer(['--chat-template', 'plain'], { device: 'cpu', model: dir }, (s) => stops(s, [1], true));
  });
});

// ---- Nanbeige ----

// ChatML with thoughts, and calls as tags.
const nanbeigeTemplate = `{%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content }}{%- else %}{{- '<|im_start|>system\\n你是一位有帮助的助手。' }}{%- endif %}
{%- if tools %}{{- '\\n\\n# Tools\\n\\n<tools>' }}{%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}{{- '\\n</tools>\\n\\n<tool_call>\\n<function=example>\\n<parameter=key>\\nvalue\\n</parameter>\\n</function>\\n</tool_call>' }}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for message in messages %}
  {%- if message.role == 'system' %}{%- continue %}{%- endif %}
  {%- if message.role == 'assistant' %}
    {%- set content = message.content or '' %}{%- set thought = message.reasoning_content or '' %}
    {%- if '</think>' in content %}{%- set thought = content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if thought and (preserve_thinking or loop.index0 > ns.last) %}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' }}{%- endif %}
    {{- content }}
    {%- for call in message.tool_calls or [] %}
      {{- ('\\n' if content or not loop.first else '') + '<tool_call>\\n<function=' + call.function.name + '>\\n' }}
      {%- for key, value in call.function.arguments | items %}{{- '<parameter=' + key + '>\\n' + (value if value is string else value | tojson) + '\\n</parameter>\\n' }}{%- endfor %}
      {{- '</function>\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
  {%- elif message.role == 'tool' %}
    {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
  {%- else %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
  {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' + ('<think>\\n\\n</think>\\n\\n' if enable_thinking is defined and enable_thinking is false else '<think>\\n') }}{%- endif %}`;

describe('Nanbeige', () => {
  const json = tokenizerOf('llama2'), first = 32000;
  const names = ['<|im_start|>', '<|im_end|>', '<|endoftext|>', '<think>', '</think>', '<tool_call>', '</tool_call>'];
  json.added_tokens.push(...names.map((name, i) => special(name, first + i, { special: i < 3 })));
  json.post_processor = null;
  const variables = { bos_token: names[0], eos_token: names[1], pad_token: '<unk>' };
  const config = { ...variables, tokenizer_class: 'LlamaTokenizer', add_bos_token: false, chat_template: nanbeigeTemplate };
  const dir = folder('nanbeige', 'nanbeige', first + names.length, { 'tokenizer.json': json, 'tokenizer_config.json': config, 'generation_config.json': { eos_token_id: first + 1, temperature: 0.6, top_p: 0.95, top_k: 20 } }, { bos_token_id: first, eos_token_id: first + 1 });
  const weather = { type: 'function', function: { name: 'weather', description: 'The weather', parameters: { type: 'object', properties: { city: { type: 'string', enum: ['Ur', 'Uruk'] }, days: { type: 'integer', minimum: 1, maximum: 9 }, dry: { type: 'boolean' } }, required: ['city'] } } };
  const talk = [
    { role: 'user', content: 'How is the weather?' },
    { role: 'assistant', content: '', reasoning_content: 'I ask.', tool_calls: [{ id: 'a', type: 'function', function: { name: 'weather', arguments: { city: 'Ur', days: 3, dry: true } } }] },
    { role: 'tool', tool_call_id: 'a', content: 'dry' },
    { role: 'assistant', content: '<think>\nDry.\n</think>\n\nDry.' },
    { role: 'user', content: 'And in Uruk?' },
  ];
  const asSent = talk.map((m) => (m.tool_calls ? { ...m, tool_calls: m.tool_calls.map((c) => ({ ...c, function: { ...c.function, arguments: JSON.stringify(c.function.arguments) } })) } : m));

  test('ids and texts', () => checkTokenizer(dir, json, 65));
  for (const kwargs of [undefined, { enable_thinking: false }, { enable_thinking: true }, { preserve_thinking: true }]) {
    test(`a conversation with thoughts, calls and results, ${show(kwargs ?? {})}`, async () => {
      const want = new Template(nanbeigeTemplate).render({ ...variables, ...kwargs, messages: talk, tools: [weather], add_generation_prompt: true });
      const got = chat(dir, { messages: asSent, tools: [weather], chat_template_kwargs: kwargs });
      assert.equal(got.text, want);
      assert.equal(got.text.endsWith(kwargs?.enable_thinking === false ? '<think>\n\n</think>\n\n' : '<|im_start|>assistant\n<think>\n'), true);
      assert.equal(got.text.includes('I ask.'), Boolean(kwargs?.preserve_thinking));
      assert.equal(got.text.includes('<parameter=days>\n3\n</parameter>'), true);
    });
  }
  test('the default system turn, and the ids of it', () => checkChat(dir, json, nanbeigeTemplate, variables, { messages: [{ role: 'user', content: '你好' }] }));
  test('an answer stops at <|im_end|>; a forced call comes as tool_calls with typed arguments, streamed and not', async () => {
    await withServer([], { device: 'cpu', model: dir }, async (s) => {
      await stops(s, [first + 1], true);
      for (let seed = 0; seed < 6; seed++) {
        const ask = { messages: talk.slice(0, 1), tools: [weather], tool_choice: 'required', max_tokens: 200, temperature: 1, seed, parallel_tool_calls: false, chat_template_kwargs: { enable_thinking: false } };
        const r = await s.post('/v1/chat/completions', ask);
        assert.equal(r.status, 200, r.text);
        const [choice] = r.json.choices, [call] = choice.message.tool_calls;
        const args = JSON.parse(call.function.arguments);
        assert.deepEqual([choice.finish_reason, choice.message.content, call.function.name], ['tool_calls', null, 'weather']);
        assert.ok(['Ur', 'Uruk'].includes(args.city), show(args));
        if ('days' in args) assert.ok(Number.isInteger(args.days) && args.days > 0 && args.days < 10, show(args));
        if ('dry' in args) assert.equal(typeof args.dry, 'boolean');
        const streamed = await s.post('/v1/chat/completions', { ...ask, stream: true });
        const deltas = streamed.text.split('\n\n').filter((e) => e.startsWith('data: {')).map((e) => JSON.parse(e.slice(6)).choices[0].delta);
        const joined = deltas.flatMap((d) => d.tool_calls ?? []).map((c) => c.function.arguments).join('');
        assert.equal(joined, call.function.arguments);
      }
    });
  });
  test('the base model has tokenizer.model alone: text is refused with advice, ids run', async () => {
    const base = folder('nanbeige_base', 'nanbeige', 200, { 'tokenizer.model': 'sentencepiece' });
    await withServer([], { device: 'cpu', model: base }, async (s) => {
      const refused = await s.post('/v1/completions', { prompt: 'Hi', max_tokens: 1 });
      assert.equal(refused.status, 400);
      assert.match(refused.json.error.message, /tokenizer\.model/);
      assert.match(s.log, /tokenizer\.model.*AutoTokenizer/s);
      assert.equal((await s.post('/v1/completions', { prompt: [1, 2], max_tokens: 1 })).status, 200);
    });
  });
});

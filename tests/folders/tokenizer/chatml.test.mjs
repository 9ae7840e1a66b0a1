// Conversations over the server, in the spellings of ChatML that Ouro, SmolLM2 and their kin
// ship: ids equal to those that Hugging Face's Jinja and Rust tokenizers make of them.
import assert from 'node:assert/strict';
import { copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { Template } from '@huggingface/jinja';
import { Tokenizer } from 'tokenizers';
import { Server } from '../../http/lib/server.mjs';
import * as lib from './lib.mjs';

const turn = "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}";
const answer = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
// The first system message before the loop; `otherwise` in its place, `thoughts` behind the answer.
const ouro = (otherwise, thoughts) => `{# Ouro; it won't think unasked. #}
{%- if messages[0]['role'] == 'system' -%}
    {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
${otherwise}{%- endif -%}
{%- for message in messages -%}
    {%- if message.role == 'system' and loop.first -%}
        {# said before #}
    {%- else -%}
        {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' }}
${thoughts}{%- endif -%}
`;
const otherwise = "{%- else -%}\n    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}\n";
const thinks = (when) => `    {%- if ${when} -%}\n        {{- '<think>\\n' }}\n    {%- endif -%}\n`;
const inLoop = (system) => "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
  + `{{ '<|im_start|>system\\n${system}<|im_end|>\\n' }}{% endif %}${turn}{% endfor %}${answer}`;
const plain = `{% for message in messages %}${turn}{% endfor %}${answer}`;

const templates = {
  'Ouro, a default system turn and thoughts': ouro(otherwise, thinks('enable_thinking is defined and enable_thinking is true')),
  'Ouro, a default system turn': ouro(otherwise, ''),
  'Ouro, thoughts': ouro('', thinks('enable_thinking is defined and enable_thinking is true')),
  'Ouro, neither': ouro('', ''),
  'thoughts unless told not to': ouro('', thinks('enable_thinking is defined and enable_thinking is false').replace('<think>\\n', '<think>\\n\\n</think>\\n\\n')),
  'thoughts always': plain.replace('assistant\\n', 'assistant\\n<think>\\n'),
  SmolLM2: inLoop('You are a helpful AI assistant named SmolLM, trained by Hugging Face'),
  'SmolLM2 with newlines as they are': inLoop('You are a helpful assistant.').replaceAll('\\n', '\n'),
  'no default': plain,
  'members by dot, double quotes, no blanks': plain.replaceAll("message['role']", 'message.role').replaceAll("'", '"').replaceAll(' + ', '+'),
};

const say = (role, content) => ({ role, content });
const conversations = [
  [say('user', 'Hello')],
  [say('system', ' Be brief. '), say('user', 'Hello')],
  [say('system', ''), say('user', '')],
  [say('user', 'one\n'), say('assistant', '\ttwo  '), say('user', 'na\u00efve \u6f22\u5b57 12345'), say('assistant', ''), say('user', '\n\n')],
  [say('user', 'a'), say('system', 'late'), say('user', '{{ b }} {% if %}')],
  [say('system', 'x'), say('system', 'y'), say('user', "it's")],
  [say('assistant', 'first'), say('user', 'second')],
  [say('user', 'holes \u07ca\u0001 here')],
];

for (const [name, jinja] of Object.entries(templates)) {
  describe(name, () => {
    const json = lib.smolJson(lib.readRanks('gpt2'), { size: 2048 });
    const demo = join(lib.root, 'models', 'demo');
    let folder, server;
    const template = new Template(jinja), reference = Tokenizer.fromString(JSON.stringify(json));
    before(async () => {
      folder = lib.folderWith(json);
      for (const file of ['config.json', 'model.safetensors']) copyFileSync(join(demo, file), join(folder.dir, file));
      // As transformers writes it: the largest length is int(1e30).
      writeFileSync(join(folder.dir, 'tokenizer_config.json'),
        JSON.stringify({ bos_token: '<|endoftext|>', eos_token: '<|endoftext|>', model_max_length: 0, chat_template: jinja })
          .replace('"model_max_length":0', '"model_max_length":1000000000000000019884624838656'));
      server = await Server.start([], { model: folder.dir });
      server.shared = true;
    });
    after(async () => {
      await server.stop();
      folder.remove();
    });
    for (const thinking of [undefined, false, true]) {
      for (const add_generation_prompt of [true, false]) {
        const kwargs = thinking === undefined ? undefined : { enable_thinking: thinking };
        test(`enable_thinking ${thinking}, add_generation_prompt ${add_generation_prompt}`, async () => {
          for (const messages of conversations) {
            const text = template.render({ messages, add_generation_prompt, ...kwargs });
            const want = (await reference.encode(text, null, { addSpecialTokens: false })).getIds();
            const got = await server.request('POST', '/tokenize', { body: { messages, add_generation_prompt, chat_template_kwargs: kwargs } });
            assert.equal(got.status, 200, got.text);
            assert.deepEqual(got.json.tokens, want, JSON.stringify(text));
          }
        });
      }
    }
  });
}

// Conversations as clients send them, and the other variables that a chat template may read.
const say = (role, content, more) => ({ role, content, ...more });
const user = (content, more) => say('user', content, more), system = (content) => say('system', content);
const assistant = (content, more) => say('assistant', content, more);

const call = (name, args, id) => ({ id, type: 'function', function: { name, arguments: args } });

export const weather = {
  type: 'function',
  function: {
    name: 'get_weather', description: 'The weather of a place, in "words" & <signs>.',
    parameters: {
      type: 'object', required: ['place'],
      properties: { place: { type: 'string', description: 'Ort, z. B. Zürich; 東京' }, unit: { type: 'string', enum: ['°C', '°F'] }, days: { type: 'integer', default: 1 } },
    },
  },
};
export const search = {
  type: 'function',
  function: {
    name: 'search', description: 'Looks things up.\nSecond line.',
    parameters: { type: 'object', properties: { query: { type: ['string', 'null'] }, limit: { type: 'number', minimum: 0.5 }, tags: { type: 'array', items: { type: 'string' } }, exact: { type: 'boolean', default: false } }, required: [] },
    return: { type: 'string', description: 'What was found' },
  },
};
// A function without parameters, as clients may give it.
const clock = { type: 'function', function: { name: 'now', description: 'The time' } };
const tools = [weather, search];

const asked = [user('Weather in Zürich?'), assistant('', { tool_calls: [call('get_weather', { place: 'Zürich', unit: '°C', days: 2 }, 'call_a0001')] })];
const answered = [...asked, say('tool', '{"temp": 21.5}', { tool_call_id: 'call_a0001', name: 'get_weather' })];

// Every one is rendered with and without tools; `variables` go beside the messages.
export const conversations = {
  'one question': [user('Hello')],
  'a system turn': [system('Be brief.'), user('Hello')],
  'several turns': [system('You are kind.'), user('one'), assistant('two'), user('three'), assistant('four'), user('five')],
  'several turns without a system turn': [user('one'), assistant('two'), user('three'), assistant('four'), user('five')],
  'empty contents': [system(''), user(''), assistant(''), user('x')],
  'an answer last': [user('one'), assistant('two')],
  'an answer first': [assistant('Hi, how can I help?'), user('one')],
  'two questions in a row': [user('one'), user('two')],
  'two answers in a row': [user('one'), assistant('two'), assistant('three'), user('four')],
  'a system turn late': [user('one'), assistant('two'), system('Now be rude.'), user('three')],
  'two system turns': [system('one'), system('two'), user('three')],
  'a developer turn': [say('developer', 'Be brief.'), user('Hello')],
  'only a system turn': [system('Be brief.')],
  'blanks and newlines at the ends': [system('\n  Be brief.  \n'), user('  one\n\n'), assistant('\ttwo \n'), user('\r\nthree\n\n\n')],
  'other scripts': [system('Réponds en français, été comme hiver.'), user('你好，世界！ مرحبا नमस्ते 👩‍👩‍👧‍👦 \u{1f6f8}'), assistant('Zażółć gęślą jaźń ſ ß İ'), user('e\u0301 \u200d\u00a0\u2028.')],
  'quotes, braces and controls': [system('"double" \'single\' \\ back {{ not }} {% a %} {# template #}'), user('<b>&amp;</b> \u0001\u007f\t"'), assistant('$&$1 `x`')],
  'a NUL': [system('\0'), user('a\0b')],
  names: [user('one', { name: 'Ada' }), assistant('two', { name: 'Bot' }), user('three', { name: 'Böb' })],
  'a tool is called': [...asked],
  'a tool has answered': [...answered],
  'a tool has answered and so has the model': [system('Use tools.'), ...answered, assistant('21.5 °C.'), user('And tomorrow?')],
  'text beside a call': [user('Weather?'), assistant('Let me look.', { tool_calls: [call('get_weather', { place: 'Bern' }, 'call_b0002')] }), say('tool', 'rain', { tool_call_id: 'call_b0002', name: 'get_weather' })],
  'two calls at once': [user('Two places'), assistant('', { tool_calls: [call('get_weather', { place: 'Bern' }, 'call_c0001'), call('search', { query: null, limit: 1.5, tags: ['a', 'b'], exact: true }, 'call_c0002')] }),
    say('tool', 'rain', { tool_call_id: 'call_c0001', name: 'get_weather' }), say('tool', 'found', { tool_call_id: 'call_c0002', name: 'search' }), assistant('Rain.'), user('Thanks')],
  'a call without content': [user('Weather?'), assistant(null, { tool_calls: [call('get_weather', { place: 'Bern' }, 'call_d0001')] }), say('tool', 'rain', { tool_call_id: 'call_d0001' })],
  'arguments as text': [user('Weather?'), assistant('', { tool_calls: [call('get_weather', '{"place": "Bern"}', 'call_e0001')] }), say('tool', 'rain', { tool_call_id: 'call_e0001' }), assistant('Rain.'), user('ok')],
  'a call without arguments': [user('Time?'), assistant('', { tool_calls: [call('now', {}, 'call_f0001')] }), say('tool', '12:00', { tool_call_id: 'call_f0001' })],
  'a short id': [user('Time?'), assistant('', { tool_calls: [call('now', {}, 'abc')] }), say('tool', '12:00', { tool_call_id: 'abc' })],
  'ids of nine letters': [user('Time?'), assistant('', { tool_calls: [call('search', { query: 'x' }, 'abcdef123')] }), say('tool', '12:00', { tool_call_id: 'abcdef123' }), assistant('noon'), user('ok')],
  'a result without a call': [user('one'), say('tool', 'from nowhere')],
  'thoughts beside an answer': [user('one'), assistant('two', { reasoning_content: 'I think.\n' }), user('three')],
  'thoughts beside a call': [user('one'), assistant('', { reasoning_content: 'Look it up.', tool_calls: [call('search', { query: 'x' }, 'call_h0001')] }), say('tool', 'y', { tool_call_id: 'call_h0001' })],
  'thoughts inside an answer': [user('one'), assistant('<think>\nI think.\n</think>\n\ntwo'), user('three'), assistant('</think>four</think>five'), user('six')],
  'thoughts in the last answer': [user('one'), assistant('<think>a</think>b')],
};
// For templates that look into lists of parts; the others get text.
export const conversationsInParts = {
  'a result that is a list': [user('one'), assistant('', { tool_calls: [call('search', { query: 'x' }, 'call_g0001')] }), say('tool', [{ type: 'text', text: 'found' }], { tool_call_id: 'call_g0001' })],
  'content in parts': [user([{ type: 'text', text: 'one' }, { type: 'text', text: ' two' }])],
  'an image': [user([{ type: 'image' }, { type: 'text', text: 'What is this?' }]), assistant('A cat.'), user('Sure?')],
  'a system turn in parts': [system([{ type: 'text', text: 'Be brief.' }]), user('Hello')],
};
export const takesParts = ({ text }) => /content is (not )?(string|iterable|mapping|sequence)|for \w+ in (message|m)(\.|\[')content/.test(text);

const long = (n) => [system('You are kind.'), ...Array.from({ length: n - 1 }, (_, i) => (i % 2 ? assistant(`Answer ${i}: yes, because it is so.`) : user(`Question ${i}: is it so, and why?`)))];
export const thousand = long(1000);

export const variants = {
  plain: {},
  'without a prompt for an answer': { add_generation_prompt: false },
  tools: { tools },
  'tools, without a prompt for an answer': { tools, add_generation_prompt: false },
  'one tool without parameters': { tools: [clock] },
  'thinking on': { enable_thinking: true, thinking: true },
  'thinking off, tools': { tools, enable_thinking: false, thinking: false },
  documents: { documents: [{ title: 'First', text: 'Once.', doc_id: '1' }, { title: 'Zweites', text: 'Es war…', doc_id: '2' }] },
};
export const conversationsOf = (template) => (takesParts(template) ? { ...conversations, ...conversationsInParts } : conversations);
// What two of the templates cannot do without, and their users give by chat_template_kwargs.
const demanded = { functions: '[{"name": "f"}]', datetime: '2026-11-27', guideline: '"Be kind": no insults.' };
export const variablesOf = (tokens, messages, variant) => ({ ...tokens, ...demanded, add_generation_prompt: true, ...variant, messages });

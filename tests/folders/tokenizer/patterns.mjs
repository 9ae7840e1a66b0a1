// Random patterns in the syntax of Hugging Face's tokenizers, and texts that such patterns may
// split. Everything is drawn from `next` (lib.random).
const pick = (next, list) => list[next(list.length)];
const chars = Array.from('aabbcABsSkKtTfFiInz0129__-- \n\r\t.\'"&[]{}()ßſKéÉ²½٣漢字あア한ǅªﬁﬀﬆẞΩωσςΣ\u0301\u00a0\u2028\u02bc\u0130ı😀');
const properties = ['L', 'Lu', 'Ll', 'Lt', 'M', 'N', 'Nd', 'No', 'P', 'S', 'Z', 'C', 'Cn', 'Han', 'Hiragana', 'latin', 'Greek', 'Alpha', 'alnum', 'WORD', 'Space',
  'upper', 'Lower', 'punct', 'Posix_Punct', 'xdigit', 'White Space', 'uppercase-letter', 'Emoji', 'In_Basic_Latin', 'Any', 'ASCII', 'Alphabetic', 'LC', 'Common'];
const brackets = ['alnum', 'alpha', 'blank', 'cntrl', 'digit', 'graph', 'lower', 'print', 'punct', 'space', 'upper', 'xdigit', 'word', 'ascii'];
const types = ['\\w', '\\W', '\\d', '\\D', '\\s', '\\S', '\\h', '\\H'];
const spelled = ['\\n', '\\r', '\\t', '\\v', '\\f', '\\a', '\\e', '\\x41', '\\x73', '\\x{df}', '\\u00df', '\\101', '\\012', '\\o{163}', '\\cA', '\\C-J', '\\xc3\\x9f', '\\M-i',
  '\\.', '\\-', '\\/', "\\'", '\\[', '\\]', '\\\\', '\\{', '\\&', '\\é', '\\q', '\\ ', '\\#', '\\^'];

export const randomText = (next) => {
  let out = '';
  for (let n = 1 + next(14); n > 0; n--) {
    const c = pick(next, chars);
    out += next(6) === 0 ? c.repeat(1 + next(4)) : c;
  }
  return out;
};

const property = (next) => {
  const p = pick(next, properties);
  return pick(next, [`\\p{${p}}`, `\\p{${p}}`, `\\P{${p}}`, `\\p{^${p}}`]);
};
const literal = (next) => {
  const c = pick(next, chars);
  return /[[\](){}.'&^$|*+?\\-]/.test(c) && next(8) !== 0 ? '\\' + c : c === '[' || c === '(' || c === ')' ? '\\' + c : c;
};

function characterClass(next, depth) {
  let out = next(4) === 0 ? '[^' : '[';
  for (let n = 1 + next(4); n > 0; n--) {
    switch (next(depth > 0 ? 12 : 9)) {
      case 0: case 1: case 2: out += literal(next); break;
      case 3: out += pick(next, ['a-z', 'A-F', '0-9', 'a-c', '\\x{41}-\\x{5a}', '\\u00e0-\\u00ff', 'ß-é', 'あ-ん', ' -~', '\\n-\\r']); break;
      case 4: out += pick(next, types); break;
      case 5: out += property(next); break;
      case 6: out += `[:${next(3) === 0 ? '^' : ''}${pick(next, brackets)}:]`; break;
      case 7: out += pick(next, spelled); break;
      case 8: out += pick(next, ['\\b', '-', '^', '.', '$', '*', '&', ':']); break;
      case 9: case 10: out += characterClass(next, depth - 1); break;
      default: out += '&&' + characterClass(next, depth - 1);
    }
  }
  if (next(6) === 0) out += '&&' + pick(next, ['\\w', '[^a]', 'a-z', '^a', '[:alpha:]', '\\p{L}']);
  return out + ']';
}

const quantifier = (next) => {
  const low = next(3), high = low + next(3);
  return pick(next, ['*', '+', '?', `{${low}}`, `{${low},}`, `{,${high}}`, `{${low},${high}}`, `{${high},${low}}`]) + pick(next, ['', '', '', '?', '+']);
};

function atom(next, depth, state) {
  switch (next(depth > 0 ? 26 : 14)) {
    case 0: case 1: case 2: return literal(next);
    case 3: return pick(next, ['ss', 'st', 'ffi', 'fi', 'ab', 'ʼn', 'i\u0307', "'s", 'ß', 'kK', 'σς']);
    case 4: return pick(next, types);
    case 5: return property(next);
    case 6: return pick(next, ['.', '\\R', '\\N', '\\O', '.']);
    case 7: case 8: case 9: return characterClass(next, 2);
    case 10: return pick(next, spelled);
    case 11: return pick(next, ['^', '$', '\\A', '\\z', '\\Z', '\\b', '\\B', '\\G', '(?=a)', '(?!\\s)', '(?<=[a-z])', '(?<!a|bb)']);
    case 12: return pick(next, ['(?#no)', '{', '{,}', '{a', ']', '}', '\\pL', 'x{ 1}', '(?i)', '(?m)', '(?x) # y\n', '(?-i)', '(?W)', '(?P)', '(?x-i)']);
    case 13: return state.open.length > 0 && state.refs ? pick(next, state.open) : literal(next);
    case 14: case 15: case 16: return `(?:${choice(next, depth - 1, state)})`;
    case 17: case 18: return `(?i:${choice(next, depth - 1, state)})`;
    case 19: {
      state.groups++;
      const mine = state.groups, body = choice(next, depth - 1, state);
      if (state.named) {
        state.open.push(pick(next, [`\\k<n${mine}>`, `\\k'n${mine}'`, `(?(<n${mine}>)a|b)`]));
        return `(?<n${mine}>${body})`;
      }
      state.open.push(pick(next, [`\\${mine}`, `\\k<${mine}>`, `(?(${mine})a|b)`, `(?(${mine}))`]));
      return `(${body})`;
    }
    case 20: return `(?>${choice(next, depth - 1, state)})`;
    case 21: return pick(next, ['(?=', '(?!']) + choice(next, depth - 1, state) + ')';
    case 22: return pick(next, ['(?<=', '(?<!']) + choice(next, 0, state) + ')';
    case 23: return `(?${pick(next, ['m', 'x', 'i-m', 'mi', '-i', 'W', 'D', 'S', 'P', 'WD-S'])}:${choice(next, depth - 1, state)})`;
    case 24: return `(?${pick(next, ['i', 'm', '-i'])})`;
    default: return state.keeps && next(4) === 0 ? '\\K' : literal(next);
  }
}

function sequence(next, depth, state) {
  let out = '';
  for (let n = next(8) === 0 ? 0 : 1 + next(3); n > 0; n--) out += atom(next, depth, state) + (next(3) === 0 ? quantifier(next) : '');
  return out;
}

function choice(next, depth, state) {
  let out = sequence(next, depth, state);
  while (next(3) === 0) out += '|' + sequence(next, depth, state);
  return out;
}

export const randomPattern = (next) => choice(next, 2, { groups: 0, open: [], refs: next(3) === 0, named: next(3) === 0, keeps: next(8) === 0 });

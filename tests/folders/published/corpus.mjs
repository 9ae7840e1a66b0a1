// Texts for comparing tokenizers, the same ones on every run: sentences in more than thirty
// scripts, code, emoji, marks, controls, long runs, and random mixes of them all. Nothing
// assigned after Unicode 14, where tables of different age would differ for a good reason.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { random, randomText, runs, root, symbols } from '../tokenizer/lib.mjs';

// Sentences of everyday prose, so that vocabularies hold words of them.
export const scripts = {
  latin: ["The quick brown foxes weren't jumping; they'd already left. IT'S LATE, WE'LL GO.", 'Zażółć gęślą jaźń, příliš žluťoučký kůň úpěl ďábelské ódy.',
    'Đường Hồ Chí Minh, nghỉ hè ở Đà Nẵng; ɓeenaa, ẹ káàárọ̀, ŋwɛ.', 'Le cœur déçu mais l’âme plutôt naïve. Straße, Äpfel, ÖL! ¿Qué día?'],
  greek: ['Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι.', 'ΚΑΛΗΜΕΡΑ ΣΑΣ, ἐν ἀρχῇ ἦν ὁ λόγος'],
  cyrillic: ['Все люди рождаются свободными и равными в своём достоинстве.', 'Їжак з’їв ґрунт; ЂЋ ђћ, ѣ ѳ Ѵ.'],
  armenian: ['Բոլոր մարդիկ ծնվում են ազատ ու հավասար։'],
  georgian: ['ყველა ადამიანი იბადება თავისუფალი. ᲗᲑᲘᲚᲘᲡᲘ'],
  hebrew: ['כל בני האדם נולדו בני חורין ושווים.', 'בְּרֵאשִׁית בָּרָא אֱלֹהִים'],
  arabic: ['يولد جميع الناس أحراراً متساوين في الكرامة.', 'تمام انسان آزاد پیدا ہوتے ہیں ۱۲۳', 'ﷺ ﻻ ﷽ کتاب‌ها'],
  syriac: ['ܒܪܫܝܬ ܐܝܬܘܗܝ ܗܘܐ ܡܠܬܐ'],
  thaana: ['ހުރިހާ އިންސާނުން ވެސް އުފަންވަނީ މިނިވަންކަމުގައި'],
  nko: ['ߒߞߏ ߞߊ߲ ߞߊ߬ߙߊ߲'],
  ethiopic: ['የሰው ልጅ ሁሉ ሲወለድ ነጻና እኩል ነው። ፩፪፫'],
  devanagari: ['सभी मनुष्यों को गौरव और अधिकारों में समानता प्राप्त है।', 'क्षत्रिय ज्ञान श्रीमती १२३४'],
  bengali: ['সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা নিয়ে জন্মগ্রহণ করে।'],
  gurmukhi: ['ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਜ਼ਾਦ ਪੈਦਾ ਹੋਇਆ ਹੈ।'],
  gujarati: ['પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો સમાન હોય છે.'],
  odia: ['ସମସ୍ତ ମନୁଷ୍ୟ ଜନ୍ମକାଳରୁ ସ୍ୱାଧୀନ।'],
  tamil: ['மனிதர் அனைவரும் சுதந்திரமாகவே பிறக்கின்றனர்.'],
  telugu: ['ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును సమానులు.'],
  kannada: ['ಎಲ್ಲಾ ಮಾನವರೂ ಸ್ವತಂತ್ರರಾಗಿಯೇ ಜನಿಸಿದ್ದಾರೆ.'],
  malayalam: ['മനുഷ്യരെല്ലാവരും തുല്യാവകാശങ്ങളോടെ ജനിച്ചവരാണ്. ന്‍ ൻ'],
  sinhala: ['සියලු මනුෂ්‍යයෝ නිදහස්ව උපත ලබා ඇත. ශ්‍රී'],
  thai: ['มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน ๑๒๓'],
  lao: ['ມະນຸດເກີດມາມີສິດເສລີພາບ ແລະ ສະເໝີໜ້າກັນ'],
  tibetan: ['འགྲོ་བ་མིའི་རིགས་རྒྱུད་ཡོངས་ལ་སྐྱེས་ཙམ་ཉིད་ནས་'],
  burmese: ['လူတိုင်းသည် တူညီ လွတ်လပ်သော ဂုဏ်သိက္ခာဖြင့် မွေးဖွားလာသူများ ဖြစ်သည်။'],
  khmer: ['មនុស្សទាំងអស់ កើតមកមានសេរីភាព និងសមភាព។'],
  mongolian: ['ᠬᠦᠮᠦᠨ ᠪᠦᠷ ᠲᠥᠷᠥᠵᠦ ᠮᠡᠨᠳᠡᠯᠡᠬᠦ'],
  hiragana: ['すべての人間は、生れながらにして自由であり、かつ、平等である。'],
  katakana: ['コンピューターでカタカナを。ｶﾞｷﾞｸﾞ ﾊﾟﾋﾟ ヴァイオリン'],
  han: ['人人生而自由，在尊严和权利上一律平等。今天天气很好！', '人人生而自由﹐在尊嚴及權利上均各平等。龍龜鬱', '𠀀𠮷𪚥 ㊙㍻ ﾡ 〇々〆', '一二三４５６ＡＢＣ　全角'],
  bopomofo: ['ㄅㄆㄇㄈ ㄓㄨˋㄧㄣ ㄈㄨˊ ㄏㄠˋ'],
  hangul: ['모든 인간은 태어날 때부터 자유로우며 평등하다.', '\u1112\u1161\u11ab\u1100\u1173\u11af \u1105\u1169 각각 ㅋㅋㅋ ㅎㅎ'],
  yi: ['ꊿꂷꃅꄿꐨꐥ ꌅꅍꀂꏽ'],
  cherokee: ['ᏂᎦᏓ ᎠᏂᏴᏫ ᏂᎨᎫᏓᎸᎾ ꭰꮒ'],
  aboriginal: ['ᐃᓅᓕᒪᐅᖅᑎᒃᑲᑦ ᐃᓄᓕᒫᑦ'],
  tifinagh: ['ⵉⵎⴷⴰⵏⴻⵏ ⴰⴽⴽ ⵜⵜⵍⴰⵍⴻⵏ ⴷ ⵉⵍⴻⵍⵍⵉⵢⴻⵏ'],
  vai: ['ꕉꕜꕮ ꔔꘋ ꖸ ꔰ'],
  javanese: ['ꦱꦧꦼꦤ꧀ꦲꦸꦮꦺꦴꦁ ꦏꦭꦲꦶꦂ'],
  balinese: ['ᬓ᭄ᬭ᭄ᬢᬯᬶᬫᬸᬓ᭄ᬢᬶ'],
  ogham: ['᚛ᚑᚌᚐᚋ᚜ ᚛ᚁᚂ᚜'],
  runic: ['ᚠᛖᚩᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ᛫ᚠᛁᚱᚪ'],
  gothic: ['𐌼𐌰𐌲 𐌲𐌻𐌴𐍃 𐌹̈𐍄𐌰𐌽'],
  coptic: ['Ϫⲉ ⲡⲉⲛⲓⲱⲧ ⲉⲧϧⲉⲛ ⲛⲓⲫⲏⲟⲩⲓ'],
  glagolitic: ['Ⰲⱐ ⱀⰰⱍⱔⰾⱑ ⰱⱑ ⱄⰾⱁⰲⱁ'],
  deseret: ['𐐔𐐯𐑅𐐨𐑉𐐯𐐻 𐐢𐐯𐐻𐐲𐑉𐑆'],
  adlam: ['𞤀𞤣𞤤𞤢𞤥 𞤆𞤵𞤤𞤢𞤪'],
  cuneiform: ['𒀀𒈾 𒂍 𒃲 𒌋𒌋'],
  hieroglyphs: ['𓂋𓏺 𓈖 𓆎𓅓𓏏𓊖'],
  linearb: ['𐀀𐀁 𐀂𐀃𐀄'],
  braille: ['⠁⠇⠇ ⠓⠥⠍⠁⠝ ⠃⠑⠊⠝⠛⠎'],
};

const code = [
  'def f(x: int) -> str:\n    """Doc."""\n    return f"{x!r:>10}" if x else None  # ok\n\n\nclass A(B):\n\tpass\n',
  '#include <stdio.h>\nint main(void) {\n    printf("%d\\n", 1 << 3 | 0x7f & ~0);\r\n    return 0;\n}\n',
  'const f = async (a, { b = 1, ...c }) => `${a ?? b}` + /[\\w\\s]+/gu.source; // x\n',
  'SELECT "a", count(*) FROM t WHERE b <> \'it\'\'s\' GROUP BY 1 HAVING count(*) >= 2;',
  'fn main() -> Result<(), Box<dyn Error>> {\n    let v: Vec<&\'static str> = vec![];\n    Ok(())\n}',
  '{"a": [1, 2.5e-3, null, true], "b": {"c\\u00e9": "\\n"}}', '<div class="a&amp;b" id=\'c\'>&nbsp;<br/></div><!-- x -->',
  '\\begin{equation} \\int_0^\\infty e^{-x^2} dx = \\frac{\\sqrt{\\pi}}{2} \\end{equation}',
  'main :: IO ()\nmain = mapM_ print $ [x | x <- [1..], x `mod` 2 == 0]', 'git log --oneline | awk \'{print $1}\' && echo "$HOME/${x:-y}" > /dev/null 2>&1',
  '| a | b |\n|---|:-:|\n| 1 | `c` |\n\n- [ ] **todo** _it_ ~~no~~ [l](https://example.org/?q=1&r=%20#f)\n', '0b1010 0o17 0xDEAD_BEEF 1_000_000 3.14e-10 .5 5. 1,234,567.89 $9.99 50%',
];

const emoji = [
  '👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷🇯🇵 ❤️ ☺︎ 🧑🏿‍🚀 ⌚️', '1️⃣2️⃣#️⃣*️⃣ ©️®️™️ ‼️⁉️', '😀😃😄😁😆😅🤣😂', '🏴󠁧󠁢󠁳󠁣󠁴󠁿 🏴‍☠️ 👨🏻‍❤️‍💋‍👨🏿', '🫠🫡🫢 (◕‿◕) ¯\\_(ツ)_/¯ ᕕ( ᐛ )ᕗ', '♠♥♦♣ ♔♕ ☀☁☂ ✓✗ → ⇒ ⟶ ▲△ ■□ ░▒▓',
];

const marks = [
  'e\u0301 é E\u0301\u0323 ạ\u0301 a\u0323\u0301', 'Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334a\u0347\u0316l\u0315g\u0361o\u0338', '\u0301lone \u0301 mark', 'क\u094d\u200dष न\u093c',
  '\u1100\u1161\u11a8 각 \u1100\u1161 \u11a8', 'ﬁ ﬂ ﬃ ſt ß ẞ ŉ ǆ Ǆ', '\u212b \u00c5 A\u030a \u2126 Ω \u212a K', '½ ⅔ ⁵ ₃ Ⅷ ㎏ ㏒ ﹪ ％ ﾊﾟ', 'a\u0315\u0300\u05ae\u0300\u0062', '\u0340\u0341\u0343\u0344\u0374\u037e\u0387',
];

const controls = [
  '\0', 'a\0b', '\0\0\0', 'nul \0 in \0 text', '\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b', 'tab\tvt\vff\fcr\rlf\ncrlf\r\n', '\u000e\u000f\u0010\u0011\u0012\u0013', '\u001b[31mred\u001b[0m', '\u007f\u0080\u0085\u009f', '\u00adsoft\u00adhyphen',
  '\u200b\u200c\u200d\u200e\u200f', '\u2028\u2029\u202a\u202e\u2066\u2069', '\ufeffbom\ufeff', '\ufffe\uffff\ufdd0\u{10ffff}', '\ufffd\ufffc', '\u{e0001}\u{e0041}\u{e007f}', '\ue000\uf8ff\u{f0000}', 'a\u00a0b\u2003c\u3000d\u1680e\u205ff\u2007g',
];

// Words and blanks as SentencePiece spells them, and what looks like tokens for single bytes.
const spellings = ['▁', '▁▁▁', 'a▁b', '▁Hello', 'Hello▁', ' ▁ ', '<0x0A>', '<0xE2><0x96><0x81>', '<0xZZ>', 'Ġ', 'Ġthe', 'Ċ', 'Ã©', 'ĠĠĠ', '##ing', '</w>', '@@ '];

const blanks = [
  '', ' ', '  ', '   ', '\t', '\n', '\n\n', '\r\n', ' \n', '\n ', ' a', 'a ', '  a', 'a  ', ' a ', 'a  b', 'a   b', '\ta', 'a\t', '\n\n\na', 'a\n\n\n', 'a \n b', '    indented\n        more\n', 'x' + ' '.repeat(17) + 'y', ' '.repeat(40), '\n'.repeat(40), ' \n'.repeat(20),
];

const files = ['Makefile', 'text/bpe.c', 'engine/backend.h', 'models/demo/README.md', 'models/demo/config.json', 'tests/api/clients/package.json', 'README.md'];

function pieces(next, text, n) {
  const points = Array.from(text);
  return Array.from({ length: n }, () => {
    const from = next(points.length);
    return points.slice(from, from + 1 + next(120)).join('');
  });
}

// What a line of the corpus becomes: as it is, and the ways that text meets a tokenizer.
const forms = [
  (t) => t, (t) => ' ' + t, (t) => t + ' ', (t) => t + '\n', (t) => t.toUpperCase(), (t) => t.toLowerCase(), (t) => t.normalize('NFD'), (t) => t.normalize('NFKC'),
  (t) => t.replaceAll(' ', '  '), (t) => t.replaceAll(' ', ''), (t) => t.replaceAll(' ', '\n'), (t) => t + t, (t) => Array.from(t).reverse().join(''),
];

// At least 2,000 short texts.
export function corpus() {
  const next = random(20261127), sentences = Object.values(scripts).flat();
  const seeds = [...sentences, ...emoji, ...marks, ...symbols.filter((s) => !s.includes('<|'))];
  const texts = [
    ...seeds.flatMap((t) => forms.map((f) => f(t))), ...code, ...code.map((t) => t.replaceAll('\n', '\r\n')), ...controls, ...controls.map((t) => `x${t}y ${t} z`), ...spellings, ...blanks,
    ...runs.map((r) => r.slice(0, 300)),
  ];
  for (const file of files) texts.push(...pieces(next, readFileSync(join(root, file), 'utf8'), 25));
  // Neighbours of different scripts, with and without blanks between.
  for (let i = 0; i < 400; i++) {
    const of = () => { const s = seeds[next(seeds.length)].split(' '); return s[next(s.length)]; };
    texts.push(Array.from({ length: 2 + next(6) }, of).join(['', ' ', '\n', ', '][next(4)]));
  }
  for (let i = 0; i < 600; i++) texts.push(randomText(next));
  return [...new Set(texts)].filter((t) => t.isWellFormed());
}

// Runs of 100,000 characters: one character, a short cycle, words, and noise without a blank.
export function longRuns() {
  const next = random(100000), n = 100000;
  const letters = Array.from('etaoinshrdlucmfwypvbgkjqxz');
  const of = (unit) => unit.repeat(Math.ceil(n / unit.length)).slice(0, n);
  return [
    of('a'), of(' '), of('\n'), of('0123456789'), of('=-'), of('ab'), of(' the'), of('你'), of('你好世界'), of('é'), of('e\u0301'), of('\u0301'), of('👍'), of('ก'), of('\0'), of('A'), of("'s"), of(' \n'), of('▁'),
    Array.from({ length: n }, () => letters[next(26)]).join(''), Array.from({ length: n / 2 }, () => String.fromCharCode(0x4e00 + next(0x5000))).join(''),
  ];
}

// Lists of bytes: valid text with bytes between that are none.
export function brokenTexts(count) {
  const next = random(7), sentences = Object.values(scripts).flat(), broken = [0x80, 0x81, 0xbf, 0xc0, 0xc1, 0xc3, 0xe2, 0xed, 0xf0, 0xf5, 0xfe, 0xff];
  return Array.from({ length: count }, () => {
    const bytes = [];
    for (let k = 1 + next(4); k > 0; k--) {
      bytes.push(...Buffer.from(next(2) ? randomText(next) : sentences[next(sentences.length)].slice(0, 1 + next(20))));
      for (let j = 1 + next(4); j > 0; j--) bytes.push(broken[next(broken.length)]);
      if (next(6) === 0) bytes.push(0xed, 0xa0, 0x80); // a surrogate
      if (next(6) === 0) bytes.push(0xc0, 0xaf); // an overlong slash
      if (next(6) === 0) bytes.push(0xe2, 0x96); // a character cut short
    }
    return bytes;
  });
}
